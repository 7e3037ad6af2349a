//! Changes of state: by address as execution makes them, by hashed key as the trie takes them.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use rayon::prelude::*;

/// Changes above which hashing is spread over all cores.
const PARALLEL_HASHES_MIN: usize = 256;

/// The basic fields of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, RlpEncodable, RlpDecodable)]
pub struct Account {
    /// Transactions sent, or for a contract, contracts made.
    pub nonce: u64,
    /// Balance in wei.
    pub balance: U256,
    /// keccak of the code; of nothing for an account without code.
    pub code_hash: B256,
}

impl Default for Account {
    fn default() -> Self {
        Self { nonce: 0, balance: U256::ZERO, code_hash: alloy_primitives::KECCAK256_EMPTY }
    }
}

/// What a block did to one account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountDiff {
    /// Whose.
    pub address: Address,
    /// The account after the block; none where it is gone.
    pub account: Option<Account>,
    /// The storage was emptied before `storage` was written.
    pub wiped: bool,
    /// Slots with their values after the block; zero empties a slot. Sorted, no slot twice.
    pub storage: Vec<(U256, U256)>,
}

/// What a block did to the state. Sorted by address, no address twice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateDiff {
    /// The accounts that changed.
    pub accounts: Vec<AccountDiff>,
    /// Codes that are new, by their keccak.
    pub codes: Vec<(B256, Bytes)>,
}

impl StateDiff {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.codes.is_empty()
    }

    /// The same changes by hashed key, sorted for the trie.
    pub(crate) fn hashed(&self) -> HashedDiff {
        let hash = |diff: &AccountDiff| {
            let mut storage: Vec<(B256, U256)> =
                diff.storage.iter().map(|(slot, value)| (keccak256(slot.to_be_bytes::<32>()), *value)).collect();
            storage.sort_unstable_by_key(|(key, _)| *key);
            HashedAccount { key: keccak256(diff.address), account: diff.account, wiped: diff.wiped, storage }
        };
        let mut accounts: Vec<HashedAccount> = if self.accounts.len() >= PARALLEL_HASHES_MIN {
            self.accounts.par_iter().map(hash).collect()
        } else {
            self.accounts.iter().map(hash).collect()
        };
        accounts.sort_unstable_by_key(|account| account.key);
        HashedDiff { accounts }
    }
}

/// [`AccountDiff`] by hashed keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HashedAccount {
    pub(crate) key: B256,
    pub(crate) account: Option<Account>,
    pub(crate) wiped: bool,
    pub(crate) storage: Vec<(B256, U256)>,
}

/// [`StateDiff`] by hashed keys, sorted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct HashedDiff {
    pub(crate) accounts: Vec<HashedAccount>,
}
