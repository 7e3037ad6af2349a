//! Certificates of checkpoints in blocks: put in when they are due, judged like everything else, kept by everybody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/ground.rs"]
mod support;

use alloy_primitives::{Address, B256, Bytes};
use std::sync::Arc;
use support::{Node, chain_genesis, committee, node_with};
use trellis_chain_consensus::{CheckpointKeeper, Verdict};
use trellis_chain_finality::{CheckpointCertificate, CheckpointSignature, CheckpointTally};
use trellis_chain_producer::CheckpointSetup;
use trellis_chain_storage::{Store, StoreConfig};
use trellis_crypto::CheckpointKey;
use trellis_primitives::{Block, CheckpointKeys};

/// Blocks from one checkpoint to the next.
const INTERVAL: u64 = 8;

fn key() -> CheckpointKey {
    CheckpointKey::from_seed(&[7; 32]).unwrap()
}

/// The account of the one validator.
fn account() -> Address {
    committee().validators()[0].account
}

fn setup() -> CheckpointSetup {
    let keys = CheckpointKeys { bls: key().bls_public().to_vec().into(), mldsa44: key().mldsa44_public().into() };
    CheckpointSetup { interval_blocks: INTERVAL, genesis_keys: [(account(), keys)].into() }
}

fn node() -> Node {
    node_with(Store::in_memory(&chain_genesis()).unwrap(), committee(), setup())
}

/// What the validator makes of a checkpoint.
async fn certify(node: &Node, height: u64) -> (Bytes, Bytes) {
    let duty = node.producer.duty(height).await.unwrap().unwrap();
    let mut tally = CheckpointTally::new(duty.message, Arc::clone(&duty.committee));
    tally.add(&CheckpointSignature::sign(&key(), &duty.message, account()).unwrap()).unwrap();
    let (short, long) = tally.assemble().unwrap();
    (alloy_rlp::encode(short).into(), alloy_rlp::encode(long).into())
}

async fn grown(node: &Node, height: u64) {
    while node.producer.store().height() < height {
        node.step().await;
    }
}

// row: CHN-15
#[tokio::test]
async fn the_next_block_carries_a_certificate_that_is_here_once_and_everybody_keeps_it() {
    let (leader, follower) = (node(), node());
    for height in 1..=20 {
        if height == 11 {
            let (short, long) = certify(&leader, 8).await;
            leader.producer.keep(8, Some(short), Some(long)).await.unwrap();
        }
        let block = leader.propose().await;
        follower.clock.set(leader.now());
        assert!(matches!(follower.verdict(block.block_rlp.clone()).await, Verdict::Valid { .. }), "{height}");
        let section = Block::from_rlp(&block.block_rlp).unwrap().section;
        assert_eq!(section.checkpoint.is_some(), height == 11, "block {height}");
        leader.commit(&block).await.unwrap();
        follower.commit(&block).await.unwrap();
        assert_eq!(follower.producer.stands(8).await.unwrap(), height >= 11);
    }
    let (here, there) = (leader.producer.kept(8).await.unwrap(), follower.producer.kept(8).await.unwrap());
    assert!(here.1.is_some() && there.1.is_none(), "the long one is in no block");
    assert_eq!(here.0, there.0);
    let certificate = CheckpointCertificate::decode_exact(&there.0.unwrap()).unwrap();
    let committee = follower.producer.committees().checkpoint_committee(8).unwrap();
    certificate.verify(&committee, chain_genesis().hash()).unwrap();
    assert_eq!(follower.producer.store().newest_checkpoint(20).unwrap(), Some(8));
    follower.producer.keep(8, Some(vec![1; 150].into()), here.1.clone()).await.unwrap();
    assert_eq!(follower.producer.kept(8).await.unwrap(), here, "what stands in a block is not replaced");
    assert_eq!(follower.producer.committees().shown_checkpoint_committee(8).unwrap(), committee);
}

// row: CHN-15
#[tokio::test]
async fn a_certificate_that_does_not_hold_or_does_not_belong_makes_its_block_invalid() {
    let (leader, follower) = (node(), node());
    for _ in 0..9 {
        let block = leader.step().await;
        follower.clock.set(leader.now());
        follower.commit(&block).await.unwrap();
    }
    let (good, _) = certify(&leader, 8).await;
    let block = Block::from_rlp(&leader.propose().await.block_rlp).unwrap();
    follower.clock.set(leader.now());
    let with = |bytes: Bytes| {
        let mut block = block.clone();
        block.section.checkpoint = Some(bytes);
        block.header.parent_beacon_block_root = Some(block.section.root());
        block
    };
    let bent = |change: &dyn Fn(&mut CheckpointCertificate)| {
        let mut certificate = CheckpointCertificate::decode_exact(&good).unwrap();
        change(&mut certificate);
        with(alloy_rlp::encode(certificate).into())
    };
    let cases = [
        (with(Bytes::new()), "does not decode"),
        (with(vec![0xc0; 2_000].into()), "at most"),
        (bent(&|c| c.height = 7), "may certify [8]"),
        (bent(&|c| c.height = 16), "may certify [8]"),
        (bent(&|c| c.block_hash = B256::ZERO), "is for block"),
        (bent(&|c| c.next_committee = B256::ZERO), "and committee"),
        (bent(&|c| c.signers = vec![0].into()), "signed by power 0"),
        (bent(&|c| c.signature = key().sign_bls(b"another").to_vec().into()), "BLS12-381"),
    ];
    for (block, expected) in cases {
        let reason = follower.refusal(&block).await;
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
    // The right one, for once; executing it with another section would give another state, so it is the leader's to build.
    let (short, long) = certify(&leader, 8).await;
    leader.producer.keep(8, Some(short.clone()), Some(long)).await.unwrap();
    let carried = leader.step().await;
    follower.clock.set(leader.now());
    follower.commit(&carried).await.unwrap();
    let mut again = Block::from_rlp(&leader.propose().await.block_rlp).unwrap();
    follower.clock.set(leader.now());
    again.section.checkpoint = Some(short);
    again.header.parent_beacon_block_root = Some(again.section.root());
    assert!(follower.refusal(&again).await.contains("stands in block 10 already"));
}

// row: CHN-15
#[tokio::test]
async fn after_eight_blocks_a_certificate_stands_in_none_and_is_kept_all_the_same() {
    let node = node();
    grown(&node, 16).await;
    let (short, long) = certify(&node, 8).await;
    node.producer.keep(8, Some(short), Some(long)).await.unwrap();
    let block = Block::from_rlp(&node.step().await.block_rlp).unwrap();
    assert_eq!(block.section.checkpoint, None);
    assert!(!node.producer.stands(8).await.unwrap());
    assert!(node.producer.kept(8).await.unwrap().0.is_some());
    assert!(node.producer.duty(9).await.unwrap().is_none(), "no checkpoint");
    assert!(node.producer.duty(24).await.unwrap().is_none(), "not final");
}

// row: CHN-15
#[tokio::test]
async fn certificates_kept_survive_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Store::open(folder.path(), &chain_genesis(), StoreConfig::default());
    let kept = {
        let node = node_with(open().unwrap(), committee(), setup());
        grown(&node, 8).await;
        let (short, long) = certify(&node, 8).await;
        node.producer.keep(8, Some(short), Some(long)).await.unwrap();
        node.producer.kept(8).await.unwrap()
    };
    let mut again = open();
    for _ in 0..6_000 {
        if again.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        again = open();
    }
    let node = node_with(again.unwrap(), committee(), setup());
    assert_eq!(node.producer.kept(8).await.unwrap(), kept);
    let block = Block::from_rlp(&node.step().await.block_rlp).unwrap();
    assert_eq!(block.section.checkpoint, kept.0, "and it is carried by the next block");
}
