//! The ground of these tests: a chain of one validator whose blocks do to the state what their height says.

use alloy_consensus::{Signed, TxLegacy, TxReceipt};
use alloy_primitives::{Address, B256, Bytes, Signature, U256, keccak256};
use async_trait::async_trait;
use std::path::Path;
use std::sync::Arc;
use trellis_chain_finality::{Validator, ValidatorSet, VoteKind, VotePlace};
use trellis_chain_storage::{
    Account, AccountDiff, ExecutedBlock, Genesis, Receipt, StateDiff, StateView, Store, StoreConfig, state_root_of,
};
use trellis_chain_sync::{BlockSink, FinalBlock, Head, SinkError};
use trellis_crypto::VoteKey;
use trellis_primitives::{Block, CommitCertificate, CommitSignature, ConsensusSection, Header, TxEnvelope};

pub const GENESIS_MS: u64 = 1_700_000_000_000;

fn vote_key() -> VoteKey {
    VoteKey::from_seed(&[7; 32])
}

/// The one validator.
pub fn committee() -> ValidatorSet {
    let public = vote_key().public();
    ValidatorSet::new(vec![Validator::new(public, 1, Address::with_last_byte(1))]).unwrap()
}

fn diff(height: u64) -> StateDiff {
    let account = Account { balance: U256::from(height + 1), ..Account::default() };
    let address = Address::from_word(keccak256((height % 40).to_be_bytes()));
    let storage = vec![(U256::from(height % 7), U256::from(height + 1))];
    StateDiff { accounts: vec![AccountDiff { address, account: Some(account), wiped: false, storage }], codes: vec![] }
}

pub fn chain_genesis() -> Genesis {
    let state = diff(0);
    let header = Header { state_root: state_root_of(&state), ..Header::default() };
    Genesis { block: Block { header, transactions: vec![], section: ConsensusSection::default() }, state }
}

fn transactions(height: u64) -> Vec<TxEnvelope> {
    let one = |n| {
        // So long that the bodies of one answer are more than a stream holds.
        let input = vec![1; 2_000].into();
        let tx = TxLegacy { nonce: 10 * height + n, gas_limit: 21_000, input, ..TxLegacy::default() };
        Signed::new_unhashed(tx, Signature::test_signature()).into()
    };
    (0..height % 4).map(one).collect()
}

fn receipts(height: u64) -> Vec<Receipt> {
    (0..height % 4).map(|_| Receipt::default()).collect()
}

/// What a block with a header does to the state.
fn executed(parent: &StateView, block: Block) -> ExecutedBlock {
    let height = block.header.number;
    let hash = block.hash();
    let transition = parent.apply(diff(height)).finish(block.header.clone(), hash);
    let senders = vec![Address::ZERO; block.transactions.len()];
    ExecutedBlock { block: Arc::new(block), hash, senders, receipts: receipts(height), transition, ethereum: None }
}

fn certify(height: u64, block_hash: B256) -> CommitCertificate {
    let place = VotePlace { height, round: 0, kind: VoteKind::Precommit };
    let message = place.signing_hash(&chain_genesis().hash(), Some(&block_hash));
    let signature = Bytes::copy_from_slice(&vote_key().sign(message.as_slice()).unwrap());
    let signatures = vec![CommitSignature { validator: vote_key().address(), signature }];
    CommitCertificate { height, round: 0, block_hash, signatures }
}

/// A chain, and a sink for its blocks.
#[derive(Clone)]
pub struct Node {
    pub store: Store,
}

pub fn node() -> Node {
    Node { store: Store::in_memory(&chain_genesis()).unwrap() }
}

/// The chain of a folder, as soon as whoever had it lets go of it.
pub fn node_in(folder: &Path) -> Node {
    let mut store = Store::open(folder, &chain_genesis(), StoreConfig::default());
    for _ in 0..6_000 {
        if store.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        store = Store::open(folder, &chain_genesis(), StoreConfig::default());
    }
    Node { store: store.unwrap() }
}

impl Node {
    /// Makes and commits so many more blocks.
    pub fn grow(&self, blocks: u64) {
        for _ in 0..blocks {
            let parent = self.store.head();
            let number = parent.height() + 1;
            let section = ConsensusSection {
                time_ms: GENESIS_MS + number,
                parent_commit: self.store.certificate(number - 1).unwrap(),
                checkpoint: None,
                epoch: None,
            };
            let (transactions, receipts) = (transactions(number), receipts(number));
            let with_bloom: Vec<_> = receipts.iter().map(TxReceipt::with_bloom_ref).collect();
            let header = Header {
                parent_hash: parent.block_hash(),
                number,
                state_root: parent.apply(diff(number)).state_root(),
                transactions_root: alloy_consensus::proofs::calculate_transaction_root(&transactions),
                receipts_root: alloy_consensus::proofs::calculate_receipt_root(&with_bloom),
                parent_beacon_block_root: Some(section.root()),
                base_fee_per_gas: Some(1),
                withdrawals_root: Some(B256::ZERO),
                blob_gas_used: Some(0),
                excess_blob_gas: Some(0),
                ..Header::default()
            };
            let executed = executed(&parent, Block { header, transactions, section });
            let certificate = certify(number, executed.hash);
            self.store.commit_unsynced(executed, Some(certificate)).unwrap();
        }
    }
}

#[async_trait]
impl BlockSink for Node {
    async fn head(&self) -> Result<Head, SinkError> {
        let head = self.store.head();
        Ok(Head { height: head.height(), hash: head.block_hash() })
    }

    async fn committee(&self, _height: u64) -> Result<ValidatorSet, SinkError> {
        Ok(committee())
    }

    async fn commit(&self, blocks: Vec<FinalBlock>) -> Result<Head, SinkError> {
        let storage =
            |error: &dyn std::fmt::Display| SinkError::Storage { operation: "commit", detail: error.to_string() };
        for FinalBlock { block, hash, certificate } in blocks {
            let executed = executed(&self.store.head(), block);
            assert_eq!(executed.hash, hash);
            self.store.commit_unsynced(executed, Some(certificate)).map_err(|error| storage(&error))?;
        }
        self.store.sync().map_err(|error| storage(&error))?;
        self.head().await
    }
}
