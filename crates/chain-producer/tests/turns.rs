//! Who missed its turn as a proposer is known alike by all who have the blocks, however they came to them (CHN-10).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/ground.rs"]
mod support;

use std::path::Path;
use support::{Node, certify, chain_genesis, node_of, vote_key};
use trellis_chain_consensus::{Application, DecidedBlock, ProposedBlock};
use trellis_chain_finality::{Demoted, TERM_HEIGHTS, Validator, ValidatorSet};
use trellis_chain_storage::{CommittedBlock, Importer, StatePart, Store, StoreConfig};
use trellis_chain_sync::snapshot::{self, BLOCKS_MIN, SnapshotError, SnapshotSink};
use trellis_chain_sync::{BlockSink, ChainRules, FinalBlock};
use trellis_crypto::vote::VoteKey;
use trellis_primitives::{Address, Block};

/// Past the first term, and past what the store keeps in memory.
const HEIGHTS: u64 = TERM_HEIGHTS + 80;

/// Four validators, of whom one decides alone: these tests are about turns.
fn four() -> ValidatorSet {
    let own = (vote_key().public(), 10, Address::with_last_byte(1));
    let others = [2u8, 3, 4].map(|n| {
        let public = VoteKey::from_seed(&[100 + n; 32]).public();
        (public, 1, Address::with_last_byte(n))
    });
    let members = [own].into_iter().chain(others);
    ValidatorSet::new(members.map(|(public, power, account)| Validator::new(public, power, account)).collect()).unwrap()
}

/// The round in which a height is decided.
fn round(height: u64) -> u32 {
    match height % 23 {
        3 | 4 => 1,
        17 => 3,
        _ => 0,
    }
}

async fn demoted(node: &Node) -> Demoted {
    let next = node.producer.store().height() + 1;
    node.producer.demoted(next).await.unwrap()
}

async fn decide(node: &Node) -> ProposedBlock {
    let block = node.propose().await;
    let height = Block::from_rlp(&block.block_rlp).unwrap().header.number;
    let certificate = certify(height, round(height), block.block_hash);
    let decided = DecidedBlock { certificate, block_rlp: block.block_rlp.clone() };
    Application::commit(&node.producer, decided).await.unwrap();
    block
}

fn opened(folder: &Path) -> Node {
    let mut store = Store::open(folder, &chain_genesis(), StoreConfig::default());
    // The thread that did the last job holds the folder until it is done.
    for _ in 0..6_000 {
        if store.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        store = Store::open(folder, &chain_genesis(), StoreConfig::default());
    }
    node_of(store.unwrap(), four())
}

struct Importing(Importer);

impl SnapshotSink for Importing {
    fn block(&mut self, block: CommittedBlock) -> Result<(), SnapshotError> {
        Ok(self.0.block(&block)?)
    }

    fn state(&mut self, part: StatePart) -> Result<(), SnapshotError> {
        Ok(self.0.take(&part)?)
    }
}

/// What begins in this folder with a snapshot of the store.
fn restored(from: &Store, folder: &Path) -> Node {
    let rules = ChainRules { genesis_hash: chain_genesis().hash(), genesis: four(), epoch_blocks: None };
    let mut bytes = Vec::new();
    snapshot::export(from, &rules, &mut bytes).unwrap();
    let importer = Importer::begin(folder, &chain_genesis(), &StoreConfig::default()).unwrap();
    let mut importing = Importing(importer);
    snapshot::read(&mut bytes.as_slice(), &rules, &mut importing).unwrap();
    importing.0.finish().unwrap();
    opened(folder)
}

// row: CHN-10
#[tokio::test(flavor = "multi_thread")]
async fn a_validator_a_follower_one_that_restarted_and_one_with_a_snapshot_demote_the_same_at_every_height() {
    const { assert!(TERM_HEIGHTS < BLOCKS_MIN, "a snapshot has the blocks of a term and the one after its last") };
    let folder = tempfile::tempdir().unwrap();
    let leader = opened(&folder.path().join("leader"));
    let follower = node_of(Store::in_memory(&chain_genesis()).unwrap(), four());
    let mut seen = Vec::new();
    for height in 1..=HEIGHTS {
        let block = decide(&leader).await;
        let full = Block::from_rlp(&block.block_rlp).unwrap();
        // It saw every block decided in another round than the blocks say.
        let certificate = certify(height, 7, block.block_hash);
        let given = FinalBlock { block: full, hash: block.block_hash, certificate };
        BlockSink::commit(&follower.producer, vec![given]).await.unwrap();
        seen.push(demoted(&leader).await);
        assert_eq!(&demoted(&follower).await, seen.last().unwrap(), "after block {height}");
        if [30, HEIGHTS].contains(&height) {
            let late = restored(follower.producer.store(), &folder.path().join(format!("late-{height}")));
            assert_eq!(&demoted(&late).await, seen.last().unwrap(), "with a snapshot of block {height}");
        }
    }
    assert!(seen.iter().any(|demoted| !demoted.is_empty()) && seen.iter().any(Demoted::is_empty));
    // Before block 241 nothing of the first term counts any more.
    let first = usize::try_from(TERM_HEIGHTS).unwrap();
    assert!(!seen[first - 2].is_empty() && seen[first - 1].is_empty());
    drop(leader);
    let again = opened(&folder.path().join("leader"));
    assert_eq!(&demoted(&again).await, seen.last().unwrap(), "after a restart");
    let next = again.producer.store().height() + 1;
    assert!(again.producer.demoted(next + 1).await.is_err(), "of a height whose parent is not known nothing is said");
}
