//! A chain without consensus: propose, verify, certify, commit, on one node and on a second one that follows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/ground.rs"]
mod support;

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, B256, Signature, TxKind, U256, bytes};
use support::{CHAIN_ID, GWEI, MINER, certify, key, node, node_in, reopened, transfer};
use trellis_chain_consensus::{AppError, Application, DecidedBlock, Verdict};
use trellis_chain_producer::CLOCK_AHEAD_MS_MAX;
use trellis_primitives::{Block, CommitCertificate, RecoveredTx, TxEnvelope};

#[tokio::test]
async fn blocks_are_produced_verified_by_another_node_and_committed_by_both() {
    let (leader, follower) = (node(), node());
    let mut heads = leader.producer.store().subscribe();
    for height in 1..=20_u64 {
        for n in 1..=10 {
            leader.mempool.add(transfer(n, height - 1)).unwrap();
        }
        let block = leader.propose().await;
        follower.clock.set(leader.now());
        assert_eq!(follower.verdict(block.block_rlp.clone()).await, Verdict::Valid { block_hash: block.block_hash });
        leader.commit(&block).await.unwrap();
        follower.commit(&block).await.unwrap();
        assert_eq!(heads.recv().await.unwrap().hash, block.block_hash);
        assert_eq!(leader.mempool.status().pending, 0);
    }
    for node in [&leader, &follower] {
        let tip = node.producer.tip().await.unwrap();
        assert_eq!((tip.height, tip.certificate.unwrap().height), (20, 20));
        let head = node.producer.store().head();
        assert_eq!(head.account(Address::repeat_byte(0x77)).unwrap().balance, U256::from(20 * 10 * 5));
    }
    assert_eq!(leader.producer.metrics().transactions_total, 200);
    let decided = leader.producer.decided(7).await.unwrap().unwrap();
    assert_eq!(Block::from_rlp(&decided.block_rlp).unwrap().hash(), decided.certificate.block_hash);
    assert_eq!(leader.producer.decided(21).await.unwrap(), None);
}

// row: CHN-16
#[tokio::test]
async fn a_restarted_producer_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let hash = {
        let node = node_in(folder.path());
        for _ in 0..5 {
            node.step().await;
        }
        node.step().await.block_hash
    };
    let node = reopened(folder.path());
    let tip = node.producer.tip().await.unwrap();
    assert_eq!((tip.height, tip.hash), (6, hash));
    node.clock.advance_ms(10_000);
    node.step().await;
    assert_eq!(node.producer.tip().await.unwrap().height, 7);
}

#[tokio::test]
async fn a_decision_is_taken_twice_and_without_the_executed_block() {
    let (leader, other) = (node(), node());
    let block = leader.propose().await;
    // Never proposed to the other one: it executes on commit.
    other.commit(&block).await.unwrap();
    other.commit(&block).await.unwrap();
    assert_eq!(other.producer.tip().await.unwrap().hash, block.block_hash);
    let certificate = certify(1, 3, block.block_hash);
    other.producer.finalized(certificate.clone(), Vec::new()).await.unwrap();
    assert_eq!(other.producer.tip().await.unwrap().certificate, Some(certificate));
    let wrong = certify(1, 0, B256::repeat_byte(1));
    let decided = DecidedBlock { certificate: wrong, block_rlp: block.block_rlp.clone() };
    assert!(matches!(other.producer.commit(decided).await, Err(AppError::Internal { .. })));
    let gap = certify(5, 0, block.block_hash);
    let decided = DecidedBlock { certificate: gap, block_rlp: block.block_rlp };
    assert!(matches!(other.producer.commit(decided).await, Err(AppError::WrongHeight { expected: 2, actual: 5, .. })));
}

#[tokio::test]
async fn two_proposals_of_one_height_are_both_kept_and_either_can_be_decided() {
    let node = node();
    let first = node.propose().await;
    node.mempool.add(transfer(1, 0)).unwrap();
    let second = node.propose().await;
    assert_ne!(first.block_hash, second.block_hash);
    node.commit(&first).await.unwrap();
    assert_eq!(node.producer.tip().await.unwrap().hash, first.block_hash);
    // The transaction was not in the decided block, so it is still to be had.
    assert_eq!(Block::from_rlp(&node.step().await.block_rlp).unwrap().transactions.len(), 1);
}

#[tokio::test]
async fn blocks_that_break_a_rule_of_the_chain_are_refused_with_the_reason() {
    let (leader, follower) = (node(), node());
    for _ in 0..2 {
        let block = leader.step().await;
        follower.clock.set(leader.now());
        follower.commit(&block).await.unwrap();
    }
    leader.mempool.add(transfer(1, 0)).unwrap();
    let good = Block::from_rlp(&leader.propose().await.block_rlp).unwrap();
    follower.clock.set(leader.now());
    let refused = async |change: &dyn Fn(&mut Block)| {
        let mut block = good.clone();
        change(&mut block);
        block.header.parent_beacon_block_root = Some(block.section.root());
        block.header.timestamp = block.section.time_ms / 1_000;
        follower.refusal(&block).await
    };
    let parent_ms = good.section.time_ms - 250;
    let forged = |change: &dyn Fn(&mut CommitCertificate)| {
        let mut certificate = good.section.parent_commit.clone().unwrap();
        change(&mut certificate);
        certificate
    };
    let cases: Vec<(&str, String)> = vec![
        ("is not after its parent's", refused(&|b| b.section.time_ms = parent_ms).await),
        ("ahead of the local clock", refused(&|b| b.section.time_ms += CLOCK_AHEAD_MS_MAX + 1).await),
        ("lacks a certificate", refused(&|b| b.section.parent_commit = None).await),
        ("section certifies block", refused(&|b| b.section.parent_commit = Some(forged(&|c| c.height = 1))).await),
        (
            "section certifies block",
            refused(&|b| b.section.parent_commit = Some(forged(&|c| c.block_hash.0[0] ^= 1))).await,
        ),
        ("certificate of the parent", refused(&|b| b.section.parent_commit = Some(forged(&|c| c.round += 1))).await),
        (
            "certificate of the parent",
            refused(&|b| b.section.parent_commit = Some(forged(&|c| c.signatures.clear()))).await,
        ),
        ("checkpoint", refused(&|b| b.section.checkpoint = Some(bytes!("01"))).await),
        ("height 9, expected 3", refused(&|b| b.header.number = 9).await),
        ("gasLimit", refused(&|b| b.header.gas_limit += 1).await),
        ("baseFeePerGas", refused(&|b| b.header.base_fee_per_gas = Some(1)).await),
        ("stateRoot", refused(&|b| b.header.state_root = B256::ZERO).await),
    ];
    for (word, reason) in cases {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    assert!(matches!(follower.verdict(bytes!("c0")).await, Verdict::Invalid { .. }));
    assert!(matches!(follower.verdict(good.to_rlp()).await, Verdict::Valid { .. }));
    // The leader knows this header; with another body it is refused without being executed.
    let mut other_body = good.clone();
    other_body.transactions.clear();
    assert!(leader.refusal(&other_body).await.contains("body"));
    assert_eq!(follower.producer.metrics().refused_total, 13);
    assert!(matches!(follower.producer.verify(9, good.to_rlp()).await, Err(AppError::WrongHeight { expected: 3, .. })));
}

#[tokio::test]
async fn a_transaction_that_can_no_longer_run_leaves_the_pool_when_a_block_is_built() {
    let node = node();
    // Two transfers of nearly everything: after the first, the second has no funds.
    let all = |nonce| {
        let tx = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 10 * GWEI,
            max_priority_fee_per_gas: GWEI,
            to: TxKind::Call(MINER),
            value: U256::from(900_000_000 * GWEI),
            ..TxEip1559::default()
        };
        let signature = Signature::from_raw(&key(3).sign_hash(tx.signature_hash())).unwrap();
        let tx: TxEnvelope = tx.into_signed(signature).into();
        RecoveredTx::new(tx, key(3).address())
    };
    node.mempool.add(all(0)).unwrap();
    if node.mempool.add(all(1)).is_ok() {
        let block = Block::from_rlp(&node.step().await.block_rlp).unwrap();
        assert_eq!(block.transactions.len(), 1);
    } else {
        node.step().await;
    }
    let status = node.mempool.status();
    assert_eq!(status.pending + status.queued, 0);
}

#[tokio::test]
async fn building_stops_when_half_of_the_time_to_the_deadline_is_over() {
    let node = node();
    for n in 1..=10 {
        node.mempool.add(transfer(n, 0)).unwrap();
    }
    node.clock.advance_ms(250);
    let late = node.producer.propose(1, 0, None, node.now()).await.unwrap();
    assert_eq!(Block::from_rlp(&late.block_rlp).unwrap().transactions.len(), 0);
    let in_time = node.propose().await;
    assert_eq!(Block::from_rlp(&in_time.block_rlp).unwrap().transactions.len(), 10);
}
