//! Merkle proofs of accounts and slots (EIP-1186).

use crate::Account;
use alloy_primitives::{Address, B256, Bytes, U256};

/// Proof of one storage slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StorageProof {
    /// The slot.
    pub slot: U256,
    /// Its value; zero where the slot is empty, and then the proof shows that it is.
    pub value: U256,
    /// RLP of the trie nodes from the account's storage root down.
    pub nodes: Vec<Bytes>,
}

/// Proof of one account and some of its slots, all against one state root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountProof {
    /// The account's address.
    pub address: Address,
    /// The account; none where it does not exist, and then the proof shows that it does not.
    pub account: Option<Account>,
    /// The root of its storage trie; the empty root where there is none.
    pub storage_root: B256,
    /// RLP of the trie nodes from the state root down.
    pub nodes: Vec<Bytes>,
    /// The slots asked for, in the order asked.
    pub storage: Vec<StorageProof>,
}
