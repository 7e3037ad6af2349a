//! Aggregators that lie, one way each, and the challenger that topples them with the contract's own consent. And the honest
//! one, which nothing topples.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use trellis_market_chain::{BatchStatus, BatchTotals, BatchView, ChainError};
use trellis_market_receipt::{IncludeBy, SignedReceipt};
use trellis_net_peers::sim::SimNet;
use trellis_primitives::{B256, ChannelId, NodeId, Wei};

use super::world::{World, aggregator, challenger, key, provider};
use crate::leaf::LeafData;
use crate::tree::{Node, StatedTree};
use crate::wire::LeafPath;
use crate::{AggregatorLink, AskError, BatchSource, Challenger, Outcome, Verdict};

/// An aggregator that puts whatever it likes on the chain, and serves whatever it likes.
struct Liar {
    leaves: Option<Vec<LeafData>>,
    tree: Option<StatedTree>,
}

#[async_trait]
impl BatchSource for Liar {
    async fn leaves(&self, batch: &BatchView) -> Result<Vec<LeafData>, AskError> {
        self.leaves.clone().ok_or(AskError::NotServed { root: batch.root })
    }
    async fn path(&self, batch: &BatchView, index: u32) -> Result<LeafPath, AskError> {
        let not_served = || AskError::NotServed { root: batch.root };
        let tree = self.tree.as_ref().ok_or_else(not_served)?;
        let (hash, sum) = tree.node(0, index as usize).ok_or_else(not_served)?;
        Ok(LeafPath { hash, sum, steps: tree.path(0, index as usize).ok_or_else(not_served)? })
    }
}

/// A source that changes while it is asked.
struct Shared(Arc<Mutex<Liar>>);

#[async_trait]
impl BatchSource for Shared {
    async fn leaves(&self, batch: &BatchView) -> Result<Vec<LeafData>, AskError> {
        self.0.lock().leaves.clone().ok_or(AskError::NotServed { root: batch.root })
    }
    async fn path(&self, batch: &BatchView, index: u32) -> Result<LeafPath, AskError> {
        let liar = {
            let liar = self.0.lock();
            Liar { leaves: None, tree: liar.tree.clone() }
        };
        liar.path(batch, index).await
    }
}

fn nodes(leaves: &[LeafData]) -> Vec<Node> {
    leaves.iter().map(LeafData::node).collect()
}

fn leaves_of(receipts: &[SignedReceipt]) -> Vec<LeafData> {
    receipts.iter().map(|signed| LeafData::of(signed).unwrap()).collect()
}

/// Bonds, and puts a tree on the chain.
async fn post(world: &World, number: u64, count: usize, tree: &StatedTree) -> u64 {
    let wallet = world.wallet(aggregator());
    let terms = world.terms().await;
    let known = world.settlement.aggregator(world.client(), wallet.address()).await.unwrap();
    if known.bond < terms.bond {
        let token = trellis_market_chain::WtrlContract::new(terms.token);
        token.ensure_balance(&wallet, terms.bond).await.unwrap();
        world.settlement.register(&wallet, terms.token, terms.bond).await.unwrap();
    }
    let epoch = world.settlement.current_epoch(world.client(), terms.fee_pool).await.unwrap();
    let totals = BatchTotals { root: tree.root(), number, epoch, count: count as u32, sum: tree.sum() };
    world.settlement.settle(&wallet, totals, Vec::new()).await.unwrap();
    world.settlement.batch_id_of(world.client(), wallet.address(), number).await.unwrap()
}

/// A challenger with its journal as it is now; the one before it must have been dropped.
async fn watcher(world: &World, source: impl BatchSource) -> Challenger {
    let wallet = world.wallet(challenger());
    let token = trellis_market_chain::WtrlContract::new(world.contracts.token);
    token.ensure_balance(&wallet, Wei::from_trl(1)).await.unwrap();
    let (journal, _) = world.journal("challenger");
    Challenger::new(wallet, &world.contracts, Arc::new(source), journal).await.unwrap()
}

/// Receipts promised into batch 1 by a real aggregator over a real line, which ends with all its processes; the promises are
/// left in the challenger's journal.
async fn promised(world: &World, count: u64) -> Vec<SignedReceipt> {
    let (_, receipts) = receipts(world, count).await;
    let (settling, aggregators) = world.aggregator(|_| {}).await;
    let net = SimNet::new(7, world.clock.clone());
    let (theirs, ours) = (net.node(NodeId([4; 32])), net.node(NodeId([2; 32])));
    let running = settling.run(&theirs).unwrap();
    let node = ours.dial(&theirs.listen_addresses()[0]).await.unwrap();
    let (journal, _) = world.journal("challenger");
    let link = AggregatorLink::new(ours, aggregator().address(), Some(node), world.domain, journal.clone());
    let told = link.hand_in(&receipts, &[]).await.unwrap();
    let into_first = |outcome: &&Outcome| matches!(outcome, Outcome::Promised(promise) if promise.batch == 1);
    assert_eq!(told.receipts.iter().filter(into_first).count(), receipts.len());
    drop((running, link));
    aggregators.close().await;
    journal.close().await;
    receipts
}

async fn status(world: &World, id: u64) -> BatchStatus {
    world.settlement.batch(world.client(), id).await.unwrap().status
}

/// Posts a batch and expects that one look topples it with this charge, and that the bond is gone.
async fn falls(world: &World, leaves: Vec<LeafData>, tree: StatedTree, count: usize, expected: &str) {
    let id = post(world, 1, count, &tree).await;
    let watcher = watcher(world, Liar { leaves: Some(leaves), tree: Some(tree) }).await;
    let verdicts = watcher.tick().await.unwrap();
    let [Verdict::Toppled { charge, .. }] = verdicts.as_slice() else { panic!("{verdicts:?}") };
    assert_eq!(*charge, expected);
    assert_eq!(status(world, id).await, BatchStatus::Toppled);
    let bond = world.settlement.aggregator(world.client(), aggregator().address()).await.unwrap().bond;
    assert_eq!(bond, Wei::ZERO);
    assert!(watcher.tick().await.unwrap().is_empty());
}

async fn receipts(world: &World, count: u64) -> (ChannelId, Vec<SignedReceipt>) {
    let channel = world.open_channel(1, Wei::from_trl(1)).await;
    (channel, (0..count).map(|n| world.receipt(channel, n, u128::from(n) + 1)).collect())
}

// row: MKT-41
#[tokio::test]
async fn a_sum_that_does_not_add_up_is_found_at_any_level() {
    for place in [(1, 0), (1, 2), (2, 1), (3, 0)] {
        let world = World::new();
        let (_, receipts) = receipts(&world, 7).await;
        let leaves = leaves_of(&receipts);
        let tree = StatedTree::with_lies(nodes(&leaves), &[(place, 1_000)]);
        falls(&world, leaves, tree, 7, "wrong sum").await;
    }
}

// row: MKT-41
#[tokio::test]
async fn a_leaf_that_adds_more_than_its_receipt_costs_is_found() {
    let world = World::new();
    let (_, receipts) = receipts(&world, 5).await;
    let mut leaves = leaves_of(&receipts);
    leaves[3].sum += 1;
    let tree = StatedTree::new(nodes(&leaves));
    falls(&world, leaves, tree, 5, "bad receipt").await;
}

// row: MKT-41
#[tokio::test]
async fn a_receipt_that_nobody_signed_is_found_however_it_was_made() {
    for forgery in 0..6 {
        let world = World::new();
        let (channel, mut receipts) = receipts(&world, 6).await;
        let mut signatures = None;
        match forgery {
            0 => receipts[2].sign_as_gateway(&world.domain, &provider()),
            1 => receipts[2].sign_as_provider(&world.domain, &key(8)),
            2 => {
                let mut changed = receipts[2].clone();
                changed.receipt.cost = Wei(900);
                receipts[2] = changed;
            }
            3 => {
                let mut other = world.unsigned(channel, 2, 3);
                other.aggregator = challenger().address();
                receipts[2] = world.signed(other);
            }
            4 => receipts[2] = world.receipt(ChannelId(B256::repeat_byte(0x77)), 2, 3),
            _ => signatures = Some(vec![1, 2, 3]),
        }
        receipts.sort_by_key(|signed| (signed.receipt.channel, signed.receipt.sequence));
        let mut leaves = leaves_of(&receipts);
        if let Some(signatures) = signatures {
            leaves[2].signatures = signatures.into();
        }
        let tree = StatedTree::new(nodes(&leaves));
        falls(&world, leaves, tree, 6, "bad receipt").await;
    }
}

// row: MKT-41
#[tokio::test]
async fn receipts_out_of_order_or_twice_in_one_batch_are_found() {
    let world = World::new();
    let (_, receipts) = receipts(&world, 6).await;
    let mut leaves = leaves_of(&receipts);
    leaves.swap(2, 4);
    let tree = StatedTree::new(nodes(&leaves));
    falls(&world, leaves, tree, 6, "disorder").await;

    let world = World::new();
    let (_, receipts) = self::receipts(&world, 6).await;
    let mut leaves = leaves_of(&receipts);
    leaves.insert(3, leaves[3].clone());
    let tree = StatedTree::new(nodes(&leaves));
    falls(&world, leaves, tree, 7, "disorder").await;
}

// row: MKT-41
#[tokio::test]
async fn a_receipt_in_two_batches_topples_the_later_one_only() {
    let world = World::new();
    let (channel, receipts) = receipts(&world, 4).await;
    let first = leaves_of(&receipts);
    let mut second = leaves_of(&[receipts[1].clone(), world.receipt(channel, 9, 1)]);
    second.sort_by_key(LeafData::key);
    struct Two(Vec<LeafData>, Vec<LeafData>);
    #[async_trait]
    impl BatchSource for Two {
        async fn leaves(&self, batch: &BatchView) -> Result<Vec<LeafData>, AskError> {
            Ok(if batch.number == 1 { self.0.clone() } else { self.1.clone() })
        }
        async fn path(&self, batch: &BatchView, _: u32) -> Result<LeafPath, AskError> {
            Err(AskError::NotServed { root: batch.root })
        }
    }
    let one = post(&world, 1, 4, &StatedTree::new(nodes(&first))).await;
    let two = post(&world, 2, 2, &StatedTree::new(nodes(&second))).await;
    let watcher = watcher(&world, Two(first, second)).await;
    let verdicts = watcher.tick().await.unwrap();
    assert_eq!(verdicts, [Verdict::Clean { id: one }, Verdict::Toppled { id: two, charge: "duplicate" }]);
    assert_eq!((status(&world, one).await, status(&world, two).await), (BatchStatus::Pending, BatchStatus::Toppled));
}

// row: MKT-41
#[tokio::test]
async fn a_promised_receipt_that_is_absent_is_shown_wherever_its_place_would_be() {
    for missing in [0u64, 3, 5] {
        let world = World::new();
        let (_, receipts) = receipts(&world, 6).await;
        let promise = IncludeBy::sign(&world.domain, &receipts[missing as usize], 1, &aggregator());
        let mut kept = receipts.clone();
        kept.remove(missing as usize);
        let leaves = leaves_of(&kept);
        let tree = StatedTree::new(nodes(&leaves));
        let id = post(&world, 1, 5, &tree).await;
        let watcher = watcher(&world, Liar { leaves: Some(leaves), tree: Some(tree) }).await;
        assert!(watcher.remember(aggregator().address(), &promise).await.unwrap());
        assert!(!watcher.remember(provider().address(), &promise).await.unwrap(), "a promise of somebody else");
        assert_eq!(watcher.tick().await.unwrap(), [Verdict::Toppled { id, charge: "omission" }]);
    }
}

#[tokio::test]
async fn another_receipt_in_a_promised_ones_place_is_an_omission_too() {
    let world = World::new();
    let (channel, mut receipts) = receipts(&world, 3).await;
    let promise = IncludeBy::sign(&world.domain, &receipts[1], 1, &aggregator());
    let mut other = world.unsigned(channel, 1, 1);
    other.tokens_out = 1;
    receipts[1] = world.signed(other);
    let leaves = leaves_of(&receipts);
    let tree = StatedTree::new(nodes(&leaves));
    let id = post(&world, 1, 3, &tree).await;
    let watcher = watcher(&world, Liar { leaves: Some(leaves), tree: Some(tree) }).await;
    assert!(watcher.remember(aggregator().address(), &promise).await.unwrap());
    assert_eq!(watcher.tick().await.unwrap(), [Verdict::Toppled { id, charge: "omission" }]);
}

// row: MKT-42
#[tokio::test]
async fn a_promise_from_the_line_to_the_aggregator_is_held_against_its_batch_after_a_restart() {
    let world = World::new();
    let mut receipts = promised(&world, 4).await;
    receipts.remove(1);
    let leaves = leaves_of(&receipts);
    let tree = StatedTree::new(nodes(&leaves));
    let id = post(&world, 1, 3, &tree).await;
    let source = || Liar { leaves: Some(leaves.clone()), tree: Some(tree.clone()) };
    let watching = watcher(&world, source()).await;
    assert_eq!(watching.tick().await.unwrap(), [Verdict::Toppled { id, charge: "omission" }]);
    assert_eq!(status(&world, id).await, BatchStatus::Toppled);
    drop(watching);
    let (journal, _) = world.journal("challenger");
    assert_eq!(journal.index().promised_batches().count(), 0, "what was used is let go of");
}

// row: MKT-42
#[tokio::test]
async fn promised_receipts_that_are_withheld_are_demanded_and_the_demand_runs_out_over_restarts() {
    let world = World::new();
    let receipts = promised(&world, 4).await;
    let leaves = leaves_of(&receipts);
    let id = post(&world, 1, 4, &StatedTree::new(nodes(&leaves))).await;
    let silent = || Liar { leaves: None, tree: None };
    let watching = watcher(&world, silent()).await;
    assert_eq!(watching.tick().await.unwrap(), [Verdict::Demanded { id, index: 0 }]);
    drop(watching);
    let watching = watcher(&world, silent()).await;
    assert_eq!(watching.tick().await.unwrap(), [Verdict::Demanded { id, index: 0 }], "found again, not paid again");
    drop(watching);
    world.advance_s(11);
    let watching = watcher(&world, silent()).await;
    let verdicts = watching.tick().await.unwrap();
    assert_eq!(verdicts, [Verdict::Demanded { id, index: 0 }, Verdict::Expired { id, index: 0 }]);
    assert_eq!(status(&world, id).await, BatchStatus::Toppled);
    assert!(watching.tick().await.unwrap().is_empty());
}

// row: MKT-42
#[tokio::test]
async fn an_answer_that_came_while_the_challenger_was_away_is_looked_at_and_makes_it_ask_for_the_batch_again() {
    // A false leaf that only the answer shows.
    let world = World::new();
    let (_, receipts) = receipts(&world, 4).await;
    let served = leaves_of(&receipts);
    let mut real = served.clone();
    real[2].receipt.outcome.cost = 500;
    real[2].sum = 500;
    let tree = StatedTree::new(nodes(&real));
    let id = post(&world, 1, 4, &tree).await;
    let proof = real[2].proof(2, tree.path(0, 2).unwrap());
    let source = || Liar { leaves: Some(served.clone()), tree: Some(tree.clone()) };
    let watching = watcher(&world, source()).await;
    assert_eq!(watching.tick().await.unwrap(), [Verdict::Demanded { id, index: 2 }]);
    drop(watching);
    world.settlement.reveal(&world.wallet(aggregator()), id, proof).await.unwrap();
    let watching = watcher(&world, source()).await;
    assert_eq!(watching.tick().await.unwrap(), [Verdict::Toppled { id, charge: "bad receipt" }]);

    // A batch without the promised receipt, served only after the demand was answered.
    let world = World::new();
    let mut receipts = promised(&world, 4).await;
    receipts.remove(3);
    let leaves = leaves_of(&receipts);
    let tree = StatedTree::new(nodes(&leaves));
    let id = post(&world, 1, 3, &tree).await;
    let late = Arc::new(Mutex::new(Liar { leaves: None, tree: None }));
    let watching = watcher(&world, Shared(late.clone())).await;
    assert_eq!(watching.tick().await.unwrap(), [Verdict::Demanded { id, index: 0 }]);
    let proof = leaves[0].proof(0, tree.path(0, 0).unwrap());
    world.settlement.reveal(&world.wallet(aggregator()), id, proof).await.unwrap();
    *late.lock() = Liar { leaves: Some(leaves), tree: Some(tree) };
    assert_eq!(watching.tick().await.unwrap(), [Verdict::Toppled { id, charge: "omission" }]);
}

// row: MKT-41
#[tokio::test]
async fn a_promise_that_comes_after_its_batch_was_found_clean_is_held_against_it_all_the_same() {
    let world = World::new();
    let (channel, receipts) = receipts(&world, 3).await;
    let leaves = leaves_of(&receipts);
    let tree = StatedTree::new(nodes(&leaves));
    let id = post(&world, 1, 3, &tree).await;
    let watcher = watcher(&world, Liar { leaves: Some(leaves), tree: Some(tree) }).await;
    assert_eq!(watcher.tick().await.unwrap(), [Verdict::Clean { id }]);
    let good = IncludeBy::sign(&world.domain, &receipts[1], 1, &aggregator());
    assert!(watcher.remember(aggregator().address(), &good).await.unwrap());
    assert!(watcher.tick().await.unwrap().is_empty());
    let broken = IncludeBy::sign(&world.domain, &world.receipt(channel, 9, 1), 1, &aggregator());
    assert!(watcher.remember(aggregator().address(), &broken).await.unwrap());
    assert_eq!(watcher.tick().await.unwrap(), [Verdict::Toppled { id, charge: "omission" }]);
}

// row: MKT-41
#[tokio::test]
async fn a_count_that_hides_a_leaf_or_invents_one_is_found() {
    // Six receipts, five stated: the sixth stands where padding should.
    let world = World::new();
    let (_, receipts) = receipts(&world, 6).await;
    let leaves = leaves_of(&receipts);
    let tree = StatedTree::new(nodes(&leaves));
    falls(&world, leaves[..5].to_vec(), tree, 5, "wrong padding").await;
    // Five receipts, seven stated: the sixth is empty.
    let world = World::new();
    let (_, receipts) = self::receipts(&world, 5).await;
    let mut served = leaves_of(&receipts);
    let tree = StatedTree::new(nodes(&served));
    served.push(served[4].clone());
    served.push(served[4].clone());
    falls(&world, served, tree, 7, "wrong padding").await;
}

// row: MKT-41
#[tokio::test]
async fn a_batch_whose_data_is_withheld_falls_when_a_demand_runs_out() {
    let world = World::new();
    let (_, receipts) = receipts(&world, 4).await;
    let id = post(&world, 1, 4, &StatedTree::new(nodes(&leaves_of(&receipts)))).await;
    let watcher = watcher(&world, Liar { leaves: None, tree: None }).await;
    let before = world.tokens_of(challenger().address()).await;
    assert_eq!(watcher.tick().await.unwrap(), [Verdict::Demanded { id, index: 0 }]);
    assert!(watcher.tick().await.unwrap().is_empty());
    world.advance_s(11);
    assert_eq!(watcher.tick().await.unwrap(), [Verdict::Expired { id, index: 0 }]);
    assert_eq!(status(&world, id).await, BatchStatus::Toppled);
    assert!(world.tokens_of(challenger().address()).await > before, "the bond came back with a reward");
}

// row: MKT-41
#[tokio::test]
async fn a_false_leaf_that_is_hidden_off_the_chain_is_demanded_and_proved_from_the_answer() {
    let world = World::new();
    let (_, receipts) = receipts(&world, 4).await;
    let served = leaves_of(&receipts);
    let mut real = served.clone();
    real[2].receipt.outcome.cost = 500;
    real[2].sum = 500;
    let tree = StatedTree::new(nodes(&real));
    let id = post(&world, 1, 4, &tree).await;
    let proof = real[2].proof(2, tree.path(0, 2).unwrap());
    let watcher = watcher(&world, Liar { leaves: Some(served), tree: Some(tree) }).await;
    assert_eq!(watcher.tick().await.unwrap(), [Verdict::Demanded { id, index: 2 }]);
    // The liar answers, because silence would cost it the bond as well.
    world.settlement.reveal(&world.wallet(aggregator()), id, proof).await.unwrap();
    assert_eq!(watcher.tick().await.unwrap(), [Verdict::Toppled { id, charge: "bad receipt" }]);
}

// row: MKT-41, MKT-42
#[tokio::test]
async fn the_honest_aggregator_answers_every_demand_padding_included() {
    let world = World::new();
    let channel = world.open_channel(1, Wei::from_trl(1)).await;
    let (settling, _journal) = world.aggregator(|_| {}).await;
    let receipts: Vec<_> = (0..3).map(|n| world.receipt(channel, n, 10)).collect();
    settling.submit(&receipts, &[]).await;
    world.advance_s(3);
    settling.tick().await.unwrap();
    let wallet = world.wallet(challenger());
    let token = trellis_market_chain::WtrlContract::new(world.contracts.token);
    token.ensure_balance(&wallet, Wei::from_trl(1)).await.unwrap();
    let terms = world.terms().await;
    for index in 0..4 {
        world.settlement.demand(&wallet, &terms, 1, index).await.unwrap();
    }
    assert_eq!(settling.tick().await.unwrap().revealed, 4);
    world.advance_s(11);
    assert_eq!(settling.tick().await.unwrap().finalised, 1);
    assert_eq!(status(&world, 1).await, BatchStatus::Final);
}

// row: MKT-41
#[tokio::test]
async fn no_proof_topples_an_honest_batch_of_any_size() {
    for count in [1usize, 2, 3, 5, 8, 13] {
        let world = World::new();
        let (channel, receipts) = receipts(&world, count as u64).await;
        let leaves = leaves_of(&receipts);
        let tree = StatedTree::new(nodes(&leaves));
        let id = post(&world, 1, count, &tree).await;
        let watcher = watcher(&world, Liar { leaves: Some(leaves.clone()), tree: Some(tree.clone()) }).await;
        for signed in &receipts {
            let promise = IncludeBy::sign(&world.domain, signed, 1, &aggregator());
            assert!(watcher.remember(aggregator().address(), &promise).await.unwrap());
        }
        // A promise into another batch proves nothing about this one.
        let later = IncludeBy::sign(&world.domain, &world.receipt(channel, 99, 1), 2, &aggregator());
        assert!(watcher.remember(aggregator().address(), &later).await.unwrap());
        assert_eq!(watcher.tick().await.unwrap(), [Verdict::Clean { id }]);

        let wallet = world.wallet(challenger());
        for (index, leaf) in leaves.iter().enumerate() {
            let proof = |at: usize| leaves[at].proof(at as u32, tree.path(0, at).unwrap());
            let refused = world
                .settlement
                .prove_bad_receipt(&wallet, id, leaf.proof(index as u32, tree.path(0, index).unwrap()))
                .await;
            assert!(matches!(refused, Err(ChainError::Reverted { reason, .. }) if reason.contains("NoFault")));
            if index + 1 < leaves.len() {
                let refused = world.settlement.prove_disorder(&wallet, id, proof(index), proof(index + 1)).await;
                assert!(matches!(refused, Err(ChainError::Reverted { reason, .. }) if reason.contains("NoFault")));
            }
        }
        assert_eq!(status(&world, id).await, BatchStatus::Pending);
    }
}
