//! A world of accounts and contracts, and random transactions in it, right ones and wrong ones.

use crate::precompile;
use crate::program::{forwarder, init_code, program, word};
use alloy_consensus::{SignableTransaction, Signed, TxEip1559, TxEip2930, TxEip7702, TxLegacy};
use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_eips::eip7702::{Authorization, SignedAuthorization};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, address, keccak256};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use trellis_chain_execution::{GenesisAccount, GenesisInput, TX_GAS_MAX};
use trellis_crypto::account::AccountKey;
use trellis_primitives::TxEnvelope;

/// The chain id of every chain here.
pub const CHAIN_ID: u64 = 97_001;
/// The base fee of block zero and the least of any block, in wei.
pub const BASE_FEE_FLOOR_WEI: u64 = 1_000_000_000;
/// The time of block zero, in milliseconds since 1970.
pub const START_MS: u64 = 1_700_000_000_000;
/// Who gets the tips; programs ask for its balance.
pub const BENEFICIARY: Address = address!("00000000000000000000000000000000000000fe");
const FORWARDER: Address = address!("f000000000000000000000000000000000000001");
const ETHER: u128 = 1_000_000_000_000_000_000;

/// Accounts with a key. The last ones are odd, see [`odd_account`].
const SENDERS: usize = 20;
const CONTRACTS: usize = 20;
/// Addresses that nobody has anything at until somebody sends there.
const NOBODY: usize = 6;
/// Contracts made by earlier transactions that later ones call.
const CREATED_MAX: usize = 16;
/// The order of the curve, by which a signature's `s` is turned into its twin.
const CURVE_ORDER: U256 = U256::from_limbs([0xbfd2_5e8c_d036_4141, 0xbaae_dce6_af48_a03b, u64::MAX - 1, u64::MAX]);
/// Gas before the first instruction: of any transaction, of a creation, of each word of init code, of an access list's addresses
/// and keys, and of an authorization.
const BASE_GAS: u64 = 21_000;
const CREATION_GAS: u64 = 32_000;
const INIT_WORD_GAS: u64 = 2;
const LISTED_ADDRESS_GAS: u64 = 2_400;
const LISTED_KEY_GAS: u64 = 1_900;
const AUTHORIZATION_GAS: u64 = 25_000;
/// Init code of a creation at most (EIP-3860).
const INIT_BYTES_MAX: usize = 49_152;

/// What decides everything that happens on one chain.
pub struct World {
    rng: ChaCha8Rng,
    keys: Vec<AccountKey>,
    targets: Vec<Address>,
    created: Vec<Address>,
    nonces: BTreeMap<Address, u64>,
    base_fee: u128,
}

/// A transaction before it is signed.
struct Draft {
    sender: usize,
    /// As EIP-2718 numbers them; 5 stands for a legacy one that names no chain.
    kind: u8,
    chain_id: u64,
    nonce: u64,
    gas_limit: u64,
    max_fee: u128,
    tip: u128,
    to: TxKind,
    value: U256,
    input: Bytes,
    access_list: AccessList,
    authorizations: Vec<SignedAuthorization>,
    high_s: bool,
}

impl World {
    /// The world of a seed, and its block zero.
    pub fn new(seed: u64) -> (Self, GenesisInput) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let keys: Vec<AccountKey> = (0..SENDERS).map(key).collect();
        let contracts: Vec<Address> = (0..CONTRACTS).map(|_| Address::from(rng.random::<[u8; 20]>())).collect();
        let targets = targets(&mut rng, &keys, &contracts);
        let mut alloc: Vec<GenesisAccount> = keys
            .iter()
            .enumerate()
            .map(|(index, key)| odd_account(index, key.address(), contracts[0]))
            .filter(|account| !account.balance.is_zero())
            .collect();
        for (index, address) in contracts.iter().enumerate() {
            alloc.push(contract(&mut rng, &targets, index, *address));
        }
        let bare = GenesisAccount { address: FORWARDER, nonce: 1, ..GenesisAccount::default() };
        alloc.push(GenesisAccount { code: forwarder().into(), ..bare });
        // Small blocks are full soon, so that transactions no longer fit and the base fee moves.
        let gas_limit = [1_500_000, 6_000_000, 30_000_000, 400_000_000][rng.random_range(0..4)];
        let world = Self { rng, keys, targets, created: Vec::new(), nonces: BTreeMap::new(), base_fee: 0 };
        let input = GenesisInput {
            chain_id: CHAIN_ID,
            timestamp_ms: START_MS,
            gas_limit,
            base_fee_wei: BASE_FEE_FLOOR_WEI,
            alloc,
            ..GenesisInput::default()
        };
        (world, input)
    }

    /// Milliseconds from one block to the next: often in the same second, as they may be here.
    pub fn pause_ms(&mut self) -> u64 {
        self.rng.random_range(250..2_500)
    }

    /// Candidates for a block, given the nonces after the one before and the block's base fee.
    pub fn candidates(&mut self, count: usize, nonce: &dyn Fn(Address) -> u64, base_fee: u64) -> Vec<TxEnvelope> {
        self.nonces = self.keys.iter().map(|key| (key.address(), nonce(key.address()))).collect();
        self.base_fee = u128::from(base_fee);
        (0..count).map(|_| self.transaction()).collect()
    }

    fn transaction(&mut self) -> TxEnvelope {
        let mut draft = self.draft();
        let wrong = self.rng.random_ratio(1, 14);
        if wrong {
            self.spoil(&mut draft);
        } else {
            let sender = self.keys[draft.sender].address();
            self.count(sender);
        }
        if draft.to == TxKind::Create && !wrong {
            self.created.push(self.keys[draft.sender].address().create(draft.nonce));
            let excess = self.created.len().saturating_sub(CREATED_MAX);
            self.created.drain(..excess);
        }
        let sender = draft.sender;
        draft.sign(&self.keys[sender])
    }

    fn draft(&mut self) -> Draft {
        let sender = match self.rng.random_range(0..40) {
            0 => self.rng.random_range(0..SENDERS),
            _ => self.rng.random_range(0..SENDERS - ODD_SENDERS),
        };
        let nonce = self.nonce(sender);
        let choice = self.rng.random_range(0..100);
        let (to, input) = self.errand(choice);
        let kind = if (76..90).contains(&choice) { 4 } else { [0, 0, 1, 2, 2, 2, 5][self.rng.random_range(0..7)] };
        let value = match self.rng.random_range(0..10) {
            0..6 => U256::ZERO,
            6 => U256::from(self.rng.random_range(0..2 * ETHER)),
            _ => U256::from(self.rng.random_range(0..5_000_u64)),
        };
        let (max_fee, tip) = self.fees();
        let access_list = if matches!(kind, 0 | 5) { AccessList::default() } else { self.access_list() };
        let mut draft = Draft {
            sender,
            kind,
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 0,
            max_fee,
            tip,
            to,
            value,
            input,
            access_list,
            authorizations: Vec::new(),
            high_s: false,
        };
        if kind == 4 {
            let count = self.rng.random_range(1..4);
            draft.authorizations = (0..count).map(|_| self.authorization(sender)).collect();
        }
        draft.gas_limit = (draft.intrinsic() + self.extra_gas()).min(TX_GAS_MAX);
        draft
    }

    fn count(&mut self, sender: Address) {
        let nonce = self.nonces.entry(sender).or_default();
        *nonce = nonce.saturating_add(1);
    }

    fn nonce(&self, index: usize) -> u64 {
        self.nonces.get(&self.keys[index].address()).copied().unwrap_or_default()
    }

    fn target(&mut self) -> Address {
        if !self.created.is_empty() && self.rng.random_ratio(1, 4) {
            return self.created[self.rng.random_range(0..self.created.len())];
        }
        self.targets[self.rng.random_range(0..self.targets.len())]
    }

    /// Whom a transaction goes to, and with what.
    fn errand(&mut self, choice: u32) -> (TxKind, Bytes) {
        match choice {
            0..10 => (TxKind::Call(self.target()), Bytes::new()),
            10..26 => {
                let steps = self.rng.random_range(0..30);
                (TxKind::Create, init_code(&mut self.rng, &self.targets, steps).into())
            }
            26..34 => {
                let signer = self.rng.random_range(0..SENDERS);
                let (number, input) = precompile::called(&mut self.rng, &self.keys[signer]);
                let to = precompile::address(number);
                if self.rng.random_ratio(1, 4) {
                    return (TxKind::Call(to), input.into());
                }
                let input = [to.into_word().as_slice(), &input].concat();
                (TxKind::Call(FORWARDER), input.into())
            }
            _ => (TxKind::Call(self.target()), self.call_data()),
        }
    }

    fn call_data(&mut self) -> Bytes {
        let bytes = match self.rng.random_range(0..24) {
            0 => self.rng.random_range(0..3_000),
            1..12 => 32,
            _ => self.rng.random_range(0..140),
        };
        let zeros = self.rng.random_range(0..3);
        let byte = |_| if self.rng.random_range(0..3) < zeros { 0 } else { self.rng.random() };
        (0..bytes).map(byte).collect::<Vec<u8>>().into()
    }

    fn fees(&mut self) -> (u128, u128) {
        let max_fee = self.base_fee + self.rng.random_range(0..=2 * self.base_fee);
        let tip = if self.rng.random_ratio(1, 5) { 0 } else { self.rng.random_range(0..=max_fee) };
        (max_fee, tip)
    }

    fn access_list(&mut self) -> AccessList {
        let items = self.rng.random_range(0..6_usize).saturating_sub(2);
        let mut list = Vec::new();
        for _ in 0..items {
            let keys = self.rng.random_range(0..4);
            let storage_keys = (0..keys).map(|_| B256::from(U256::from(self.rng.random_range(0..8_u64)))).collect();
            list.push(AccessListItem { address: self.target(), storage_keys });
        }
        AccessList(list)
    }

    /// What stands in for the code of an account with a key, signed by it: mostly right, and counted if so.
    fn authorization(&mut self, sender: usize) -> SignedAuthorization {
        let authority = self.rng.random_range(0..SENDERS);
        let own = self.keys[authority].address();
        let right = self.nonce(authority).saturating_add(u64::from(authority == sender));
        let chain_id = match self.rng.random_range(0..16) {
            0 => U256::from(CHAIN_ID + 1),
            1 => U256::MAX,
            2..6 => U256::ZERO,
            _ => U256::from(CHAIN_ID),
        };
        let nonce = match self.rng.random_range(0..16) {
            0 => right.saturating_add(1),
            1 => right.saturating_sub(1),
            2 => u64::MAX,
            _ => right,
        };
        let address = match self.rng.random_range(0..12) {
            0 | 1 => Address::ZERO,
            2 => own,
            _ => self.target(),
        };
        let authorization = Authorization { chain_id, address, nonce };
        let signature = signature(&self.keys[authority], authorization.signature_hash());
        let (parity, r, s) = (u8::from(signature.v()), signature.r(), signature.s());
        let broken = match self.rng.random_range(0..40) {
            0 => Some((1 - parity, r, CURVE_ORDER - s)),
            1 => Some((parity + 27, r, s)),
            2 => Some((parity, U256::ZERO, s)),
            3 => Some((parity, r, U256::ZERO)),
            4 => Some((parity, CURVE_ORDER, s)),
            _ => None,
        };
        let valid = chain_id != U256::from(CHAIN_ID + 1) && chain_id != U256::MAX && nonce == right && broken.is_none();
        if valid && nonce != u64::MAX && authority != WITH_CODE {
            self.count(own);
        }
        let (parity, r, s) = broken.unwrap_or((parity, r, s));
        SignedAuthorization::new_unchecked(authorization, parity, r, s)
    }

    /// Gas on top of what a transaction costs before its first instruction.
    fn extra_gas(&mut self) -> u64 {
        match self.rng.random_range(0..200) {
            0 => TX_GAS_MAX,
            1..14 => self.rng.random_range(0..4),
            14..36 => self.rng.random_range(0..8_000),
            36..80 => self.rng.random_range(8_000..90_000),
            80..182 => self.rng.random_range(90_000..400_000),
            _ => self.rng.random_range(400_000..1_500_000),
        }
    }

    /// Breaks a rule, so that the transaction may be in no block; some of the ways are right after all.
    fn spoil(&mut self, draft: &mut Draft) {
        match self.rng.random_range(0..13) {
            0 => draft.nonce = draft.nonce.saturating_sub(1),
            1 => draft.nonce = draft.nonce.saturating_add(self.rng.random_range(1..4)),
            2 => draft.nonce = u64::MAX,
            3 => draft.value = word(&mut self.rng) | (U256::from(1) << 100),
            4 => draft.max_fee = self.base_fee.saturating_sub(1),
            5 => (draft.kind, draft.tip) = (2, draft.max_fee + 1),
            6 => draft.gas_limit = draft.intrinsic() - 1,
            7 => draft.gas_limit = TX_GAS_MAX + 1,
            8 => draft.max_fee = u128::MAX / 2,
            9 => {
                draft.to = TxKind::Create;
                draft.input = vec![0; INIT_BYTES_MAX + self.rng.random_range(0..2)].into();
                draft.gas_limit = 3_000_000;
            }
            10 => draft.high_s = true,
            // Of the other kinds the specification in Python does not look at the chain's id.
            11 => (draft.kind, draft.chain_id) = (0, CHAIN_ID + 1),
            _ => {
                draft.kind = 4;
                draft.authorizations.clear();
            }
        }
        if draft.kind == 4 && draft.to == TxKind::Create {
            draft.to = TxKind::Call(BENEFICIARY);
        }
    }
}

/// How many senders are odd, and which of them has code of its own.
const ODD_SENDERS: usize = 5;
const WITH_CODE: usize = SENDERS - 1;

fn key(index: usize) -> AccountKey {
    let secret = keccak256(format!("sender {index}"));
    AccountKey::from_bytes(&secret.0).expect("a hash is a key")
}

/// Most are rich. The last five: delegated to a contract, out of nonces, poor, without an account, and with code.
fn odd_account(index: usize, address: Address, contract: Address) -> GenesisAccount {
    let rich = GenesisAccount { address, balance: U256::from(1_000 * ETHER), ..GenesisAccount::default() };
    match SENDERS - index {
        5 => {
            let code = [&[0xef, 0x01, 0x00][..], contract.as_slice()].concat().into();
            GenesisAccount { nonce: 1, code, ..rich }
        }
        4 => GenesisAccount { nonce: u64::MAX - 2, ..rich },
        3 => GenesisAccount { balance: U256::from(ETHER / 1_000), ..rich },
        2 => GenesisAccount { balance: U256::ZERO, ..rich },
        1 => GenesisAccount { nonce: 1, code: Bytes::from_static(&[0]), ..rich },
        _ => rich,
    }
}

fn contract(rng: &mut ChaCha8Rng, targets: &[Address], index: usize, address: Address) -> GenesisAccount {
    let steps = rng.random_range(1..40);
    let code = program(rng, targets, steps);
    let slots = rng.random_range(0..6_u64);
    let storage = (0..slots).map(|slot| (U256::from(slot), U256::from(rng.random_range(1..3_u64)))).collect();
    // One that can make no contract any more.
    let nonce = if index == 0 { u64::MAX } else { 1 };
    let balance = U256::from(if rng.random() { rng.random_range(0..100_000_u64) } else { 0 });
    GenesisAccount { address, balance, nonce, code: code.into(), storage }
}

/// Whom programs and transactions call. The chain's own precompiled contracts, which no other implementation has, are not there.
fn targets(rng: &mut ChaCha8Rng, keys: &[AccountKey], contracts: &[Address]) -> Vec<Address> {
    let mut targets = contracts.repeat(3);
    targets.extend(keys.iter().map(AccountKey::address));
    targets.extend((1..=precompile::LAST_IN_ROW + 1).chain([precompile::P256]).map(precompile::address));
    targets.extend([alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS, alloy_eips::eip4788::BEACON_ROOTS_ADDRESS]);
    targets.extend([BENEFICIARY, Address::ZERO, FORWARDER]);
    targets.extend((0..NOBODY).map(|_| Address::from(rng.random::<[u8; 20]>())));
    targets
}

fn signature(key: &AccountKey, digest: B256) -> Signature {
    Signature::from_raw(&key.sign_hash(digest)).expect("a signature of the key's own")
}

impl Draft {
    /// Gas that is due before the first instruction, or for the bytes alone (EIP-7623) where that is more.
    fn intrinsic(&self) -> u64 {
        let count = |bytes: usize| u64::try_from(bytes).expect("few");
        let zeros = count(self.input.iter().filter(|byte| **byte == 0).count());
        let tokens = zeros + 4 * (count(self.input.len()) - zeros);
        let creation = if self.to == TxKind::Create {
            CREATION_GAS + INIT_WORD_GAS * count(self.input.len().div_ceil(32))
        } else {
            0
        };
        let keys: usize = self.access_list.iter().map(|item| item.storage_keys.len()).sum();
        let listed = LISTED_ADDRESS_GAS * count(self.access_list.len()) + LISTED_KEY_GAS * count(keys);
        let authorizations = AUTHORIZATION_GAS * count(self.authorizations.len());
        (BASE_GAS + 4 * tokens + creation + listed + authorizations).max(BASE_GAS + 10 * tokens)
    }

    fn sign(self, key: &AccountKey) -> TxEnvelope {
        let Self { chain_id, nonce, gas_limit, to, value, input, access_list, high_s, .. } = self;
        let (max_fee_per_gas, max_priority_fee_per_gas) = (self.max_fee, self.tip);
        match (self.kind, to) {
            (1, _) => signed(
                key,
                high_s,
                TxEip2930 { chain_id, nonce, gas_price: self.max_fee, gas_limit, to, value, access_list, input },
            ),
            (4, TxKind::Call(to)) => {
                let authorization_list = self.authorizations;
                let fees = TxEip7702 { max_fee_per_gas, max_priority_fee_per_gas, ..TxEip7702::default() };
                let errand = TxEip7702 { chain_id, nonce, gas_limit, to, value, input, ..fees };
                signed(key, high_s, TxEip7702 { access_list, authorization_list, ..errand })
            }
            (2 | 4, to) => {
                let fees = TxEip1559 { max_fee_per_gas, max_priority_fee_per_gas, ..TxEip1559::default() };
                signed(key, high_s, TxEip1559 { chain_id, nonce, gas_limit, to, value, access_list, input, ..fees })
            }
            (kind, to) => {
                let chain_id = (kind == 0).then_some(chain_id);
                signed(key, high_s, TxLegacy { chain_id, nonce, gas_price: self.max_fee, gas_limit, to, value, input })
            }
        }
    }
}

fn signed<T: SignableTransaction<Signature>>(key: &AccountKey, high_s: bool, tx: T) -> TxEnvelope
where
    TxEnvelope: From<Signed<T>>,
{
    let mut signature = signature(key, tx.signature_hash());
    if high_s {
        signature = Signature::new(signature.r(), CURVE_ORDER - signature.s(), !signature.v());
    }
    tx.into_signed(signature).into()
}
