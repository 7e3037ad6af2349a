//! The state that a measured chain begins with: many funded accounts, some of which also hold WTRL.

use super::payments;
use crate::chain::Chain;
use crate::failure::Failure;
use alloy_primitives::{Address, B256, U256, address, hex, keccak256};
use eyre::Result;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use trellis_chain_spec::{AllocAccount, ChainSpec};
use trellis_crypto::AccountKey;
use trellis_primitives::Wei;

/// Accounts that send, at most: the spec file is bounded, and a holder of WTRL takes two lines of it.
const SENDERS_MAX: usize = 20_000;
/// Accounts that block zero has, at most, as the spec file is bounded; a contract pays the others afterwards.
const IN_BLOCK_ZERO_MAX: usize = 100_000;
/// What every account has, in TRL.
const BALANCE_TRL: u64 = 1_000;
/// What every sender has in WTRL.
pub const HOLDING_TRL: u64 = 10;
/// Storage of OpenZeppelin's ERC20: the mapping of balances.
const SLOT_BALANCES: u8 = 0;
/// Storage of OpenZeppelin's ERC20: the total supply.
const SLOT_SUPPLY: u8 = 2;
/// Where the contract is that pays accounts.
pub const PAYER: Address = address!("00000000000000000000000000000000000BE4C4");
/// Takes three words: numbers from one up to below another, and an amount; and sends the amount to the account of each
/// number, which is the end of its word's hash. Reverts where one is not paid.
const PAYER_CODE: [u8; 44] = hex!(
    "5f355b602035811015602657805f525f5f5f5f60403560205f205ff115602857600101600256" // from 0x02 the loop
    "5b00" // from 0x26 the end
    "5b5f5ffd" // from 0x28 the failure
);

/// Accounts, spec and token of a measurement.
pub struct State {
    /// The chain, with its state written out.
    pub spec: ChainSpec,
    /// The token's address.
    pub token: Address,
    /// The accounts that send.
    pub senders: Vec<AccountKey>,
    /// Every account; the senders come first.
    pub accounts: Vec<Address>,
    /// So many of them, the last ones, are not in block zero: [`PAYER`] pays them.
    pub unpaid: usize,
}

/// Makes so many accounts on a copy of a chain. The WTRL of the senders is put into the token's storage, with its
/// backing in coin and its supply, because twenty thousand deposits would only lengthen the run.
///
/// # Errors
/// A deployment that fails, or too few accounts.
pub fn state(chain: ChainSpec, accounts: usize) -> Result<State> {
    if accounts < 2 {
        return Err(Failure::usage("a transfer needs at least two accounts").into());
    }
    let chain = Chain::of(chain)?;
    let mut spec = chain.pinned()?;
    let senders: Vec<AccountKey> = (0..accounts.min(SENDERS_MAX)).into_par_iter().map(key).collect::<Result<_>>()?;
    let mut all: Vec<Address> = senders.iter().map(AccountKey::address).collect();
    all.extend((senders.len()..accounts).map(paid_address));
    let unpaid = accounts.saturating_sub(IN_BLOCK_ZERO_MAX);
    let funded = AllocAccount { balance: Wei::from_trl(BALANCE_TRL), ..AllocAccount::default() };
    let payers = (0..unpaid.div_ceil(payments::ACCOUNTS_PER_PAYMENT)).map(payments::key);
    let payers: Vec<Address> = payers.map(|key| Ok(key?.address())).collect::<Result<_>>()?;
    spec.genesis.alloc.extend(all.iter().take(accounts - unpaid).chain(&payers).map(|one| (*one, funded.clone())));
    if unpaid > 0 {
        let balance = balance().checked_mul_u64(unpaid as u64).ok_or_else(|| Failure::new("too many accounts"))?;
        let contract = AllocAccount { balance, nonce: 1, code: PAYER_CODE.into(), ..AllocAccount::default() };
        spec.genesis.alloc.insert(PAYER, contract);
    }
    let token = chain.contracts.wtrl;
    let Some(contract) = spec.genesis.alloc.get_mut(&token) else {
        return Err(Failure::new("the chain has no WTRL").into());
    };
    let holding = Wei::from_trl(HOLDING_TRL);
    let supply = holding.checked_mul_u64(senders.len() as u64).ok_or_else(|| Failure::new("too much WTRL"))?;
    contract.balance = contract.balance.saturating_add(supply);
    contract.storage.insert(slot(SLOT_SUPPLY), supply.to_u256().into());
    for address in all.iter().take(senders.len()) {
        contract.storage.insert(balance_slot(*address), holding.to_u256().into());
    }
    Ok(State { spec, token, senders, accounts: all, unpaid })
}

/// What every account has.
pub fn balance() -> Wei {
    Wei::from_trl(BALANCE_TRL)
}

/// The address of an account that never sends: [`PAYER`] finds it by its number.
fn paid_address(number: usize) -> Address {
    Address::from_word(keccak256(U256::from(number).to_be_bytes::<32>()))
}

fn name(index: usize) -> B256 {
    keccak256(format!("trellis bench account {index}"))
}

fn key(index: usize) -> Result<AccountKey> {
    Ok(AccountKey::from_bytes(&name(index).0)?)
}

fn slot(number: u8) -> B256 {
    U256::from(number).into()
}

fn balance_slot(holder: Address) -> B256 {
    keccak256([holder.into_word(), slot(SLOT_BALANCES)].concat())
}

/// The same state as anvil reads it: a genesis.json of geth's form.
pub fn for_anvil(state: &State) -> Value {
    let spec = &state.spec;
    let mut alloc = Map::new();
    let paid = format!("{:#x}", balance().to_u256());
    for address in state.accounts.iter().skip(state.accounts.len() - state.unpaid) {
        alloc.insert(format!("{address:#x}"), json!({ "balance": paid }));
    }
    for (address, account) in &spec.genesis.alloc {
        let storage: Map<String, Value> =
            account.storage.iter().map(|(key, word)| (key.to_string(), word.to_string().into())).collect();
        let mut entry = json!({"balance": format!("{:#x}", account.balance.to_u256())});
        if account.nonce > 0 {
            entry["nonce"] = format!("{:#x}", account.nonce).into();
        }
        if !account.code.is_empty() {
            entry["code"] = account.code.to_string().into();
        }
        if !storage.is_empty() {
            entry["storage"] = storage.into();
        }
        alloc.insert(format!("{address:#x}"), entry);
    }
    json!({
        "config": {"chainId": spec.genesis.chain_id},
        "nonce": "0x0",
        "timestamp": "0x0",
        "extraData": "0x",
        "gasLimit": format!("{:#x}", spec.gas.block_gas_limit),
        "difficulty": "0x0",
        "mixHash": B256::ZERO,
        "coinbase": Address::ZERO,
        "alloc": alloc,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use trellis_chain_execution::{GenesisAccount, GenesisInput, GenesisStep, genesis, pinned_alloc};

    #[test]
    fn the_payer_pays_each_account_of_a_range_once_and_no_other() {
        let (amount, sender) = (balance().to_u256(), Address::repeat_byte(7));
        let words = [U256::from(5), U256::from(8), amount].map(|word| word.to_be_bytes::<32>()).concat();
        let contract = GenesisAccount {
            address: PAYER,
            balance: amount * U256::from(4),
            nonce: 1,
            code: PAYER_CODE.into(),
            ..GenesisAccount::default()
        };
        let step = GenesisStep { from: sender, to: Some(PAYER), input: words.into(), ..GenesisStep::default() };
        let mut input = GenesisInput {
            chain_id: 97_001,
            gas_limit: 30_000_000,
            base_fee_wei: 1,
            alloc: vec![contract],
            steps: vec![step],
            ..GenesisInput::default()
        };
        let made = genesis(&input).expect("a genesis");
        let all = pinned_alloc(&made.state);
        let balance_of = |address: Address| all.iter().find(|one| one.address == address).map(|one| one.balance);
        for number in 5..8 {
            assert_eq!(balance_of(paid_address(number)), Some(amount), "{number}");
        }
        assert_eq!((balance_of(paid_address(4)), balance_of(paid_address(8))), (None, None));
        assert_eq!(balance_of(PAYER), Some(amount));
        // Where the coins do not last, nobody is paid.
        input.alloc[0].balance = amount * U256::from(2);
        assert!(genesis(&input).is_err());
    }

    #[test]
    fn more_accounts_than_a_spec_can_hold_are_left_to_the_payer() {
        let some = state(ChainSpec::dev(), 50).expect("a state");
        assert_eq!((some.accounts.len(), some.senders.len(), some.unpaid), (50, 50, 0));
        assert!(!some.spec.genesis.alloc.contains_key(&PAYER));
        let many = state(ChainSpec::dev(), IN_BLOCK_ZERO_MAX + 1_000).expect("a state");
        assert_eq!((many.accounts.len(), many.unpaid), (IN_BLOCK_ZERO_MAX + 1_000, 1_000));
        let (first, last) = (many.accounts[IN_BLOCK_ZERO_MAX], many.accounts[IN_BLOCK_ZERO_MAX - 1]);
        assert!(!many.spec.genesis.alloc.contains_key(&first) && many.spec.genesis.alloc.contains_key(&last));
        assert!(many.spec.to_toml().expect("a file").len() < trellis_chain_spec::SPEC_BYTES_MAX);
    }
}
