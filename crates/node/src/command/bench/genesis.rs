//! The state that both servers begin with: many funded accounts, some of which also hold WTRL.

use crate::chain::Chain;
use crate::failure::Failure;
use alloy_primitives::{Address, B256, U256, keccak256};
use eyre::Result;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use trellis_chain_spec::{AllocAccount, ChainSpec};
use trellis_crypto::AccountKey;
use trellis_primitives::Wei;

/// Accounts that send, at most: the spec file is bounded, and a holder of WTRL takes two lines of it.
const SENDERS_MAX: usize = 20_000;
/// What every account has, in TRL.
const BALANCE_TRL: u64 = 1_000;
/// What every sender has in WTRL.
pub const HOLDING_TRL: u64 = 10;
/// Storage of OpenZeppelin's ERC20: the mapping of balances.
const SLOT_BALANCES: u8 = 0;
/// Storage of OpenZeppelin's ERC20: the total supply.
const SLOT_SUPPLY: u8 = 2;

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
}

/// Makes so many accounts on a copy of the `dev` chain. The WTRL of the senders is put into the token's storage, with
/// its backing in coin and its supply, because twenty thousand deposits would only lengthen the run.
///
/// # Errors
/// A deployment that fails, or too few accounts.
pub fn state(accounts: usize) -> Result<State> {
    if accounts < 2 {
        return Err(Failure::usage("a transfer needs at least two accounts").into());
    }
    let chain = Chain::of(ChainSpec::dev())?;
    let mut spec = chain.pinned()?;
    let senders: Vec<AccountKey> = (0..accounts.min(SENDERS_MAX)).into_par_iter().map(key).collect::<Result<_>>()?;
    let mut all: Vec<Address> = senders.iter().map(AccountKey::address).collect();
    all.extend((senders.len()..accounts).map(|index| Address::from_word(name(index))));
    for address in &all {
        let funded = AllocAccount { balance: Wei::from_trl(BALANCE_TRL), ..AllocAccount::default() };
        spec.genesis.alloc.insert(*address, funded);
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
    Ok(State { spec, token, senders, accounts: all })
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
pub fn for_anvil(spec: &ChainSpec) -> Value {
    let mut alloc = Map::new();
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
