//! The pure core: one version of the world's state as tries, the version after a diff, and the diff that undoes it.

use crate::diff::{HashedAccount, HashedDiff};
use crate::trie::{Trie, Value};
use crate::{Account, AccountProof, StorageProof};
use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_rlp::Encodable;
use alloy_trie::TrieAccount;
use rayon::prelude::*;

/// Changed accounts above which their storage tries are updated on all cores.
const PARALLEL_ACCOUNTS_MIN: usize = 128;

impl Value for U256 {
    fn encode_value(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

/// An account with its storage.
#[derive(Clone, Debug)]
pub(crate) struct AccountLeaf {
    pub(crate) account: Account,
    pub(crate) storage: Trie<U256>,
}

impl Value for AccountLeaf {
    fn encode_value(&self, out: &mut Vec<u8>) {
        let Account { nonce, balance, code_hash } = self.account;
        TrieAccount { nonce, balance, storage_root: self.storage.root(), code_hash }.encode(out);
    }
}

/// One version of the world's state. Cloning it is cheap.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorldState {
    pub(crate) accounts: Trie<AccountLeaf>,
}

impl WorldState {
    pub(crate) fn root(&self) -> B256 {
        self.accounts.root()
    }

    pub(crate) fn account(&self, address: Address) -> Option<Account> {
        self.accounts.get(&keccak256(address)).map(|leaf| leaf.account)
    }

    pub(crate) fn storage(&self, address: Address, slot: U256) -> U256 {
        self.accounts
            .get(&keccak256(address))
            .and_then(|leaf| leaf.storage.get(&keccak256(slot.to_be_bytes::<32>())))
            .copied()
            .unwrap_or_default()
    }

    /// The state after a diff.
    pub(crate) fn apply(&self, diff: &HashedDiff) -> Self {
        let change = |change: &HashedAccount| (change.key, self.leaf_after(change));
        let changes: Vec<(B256, Option<AccountLeaf>)> = if diff.accounts.len() >= PARALLEL_ACCOUNTS_MIN {
            diff.accounts.par_iter().map(change).collect()
        } else {
            diff.accounts.iter().map(change).collect()
        };
        Self { accounts: self.accounts.update(&changes) }
    }

    fn leaf_after(&self, change: &HashedAccount) -> Option<AccountLeaf> {
        let account = change.account?;
        let before = match self.accounts.get(&change.key) {
            Some(leaf) if !change.wiped => leaf.storage.clone(),
            _ => Trie::default(),
        };
        let storage = if change.storage.is_empty() {
            before
        } else {
            let slots: Vec<(B256, Option<U256>)> =
                change.storage.iter().map(|(key, value)| (*key, (!value.is_zero()).then_some(*value))).collect();
            before.update(&slots)
        };
        Some(AccountLeaf { account, storage })
    }

    /// The diff that leads from `self.apply(diff)` back to `self`.
    pub(crate) fn undo(&self, diff: &HashedDiff) -> HashedDiff {
        let back = |change: &HashedAccount| {
            let Some(leaf) = self.accounts.get(&change.key) else {
                return HashedAccount { key: change.key, account: None, wiped: false, storage: Vec::new() };
            };
            let lost = change.wiped || change.account.is_none();
            let mut storage = Vec::new();
            if lost {
                leaf.storage.for_each(&mut |key, value| storage.push((*key, *value)));
            } else {
                storage.extend(
                    change.storage.iter().map(|(key, _)| (*key, leaf.storage.get(key).copied().unwrap_or_default())),
                );
            }
            HashedAccount { key: change.key, account: Some(leaf.account), wiped: lost, storage }
        };
        let accounts = if diff.accounts.len() >= PARALLEL_ACCOUNTS_MIN {
            diff.accounts.par_iter().map(back).collect()
        } else {
            diff.accounts.iter().map(back).collect()
        };
        HashedDiff { accounts }
    }

    pub(crate) fn proof(&self, address: Address, slots: &[U256]) -> AccountProof {
        let key = keccak256(address);
        let leaf = self.accounts.get(&key);
        let empty = Trie::default();
        let trie = leaf.map_or(&empty, |leaf| &leaf.storage);
        let storage = slots
            .iter()
            .map(|slot| {
                let key = keccak256(slot.to_be_bytes::<32>());
                StorageProof {
                    slot: *slot,
                    value: trie.get(&key).copied().unwrap_or_default(),
                    nodes: trie.proof(&key),
                }
            })
            .collect();
        AccountProof {
            address,
            account: leaf.map(|leaf| leaf.account),
            storage_root: trie.root(),
            nodes: self.accounts.proof(&key),
            storage,
        }
    }
}

/// The root of the state that a diff makes from nothing: the genesis root.
#[must_use]
pub fn state_root_of(state: &crate::StateDiff) -> B256 {
    WorldState::default().apply(&state.hashed()).root()
}
