//! The honest aggregator: promises, batches, pays through either door once, survives crashes, serves.

use std::time::Duration;

use trellis_market_chain::BatchStatus;
use trellis_net_peers::sim::SimNet;
use trellis_primitives::{NodeId, Wei};

use super::world::{World, aggregator, payout, provider, signer};
use crate::leaf::LeafData;
use crate::tree::{StatedTree, root_of};
use crate::{AggregatorLink, AskError, Outcome, Refusal, TickReport, fetch_leaves, fetch_path, submit};

const TRL: u128 = 1_000_000_000_000_000_000;

fn promised(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Promised(_))).count()
}

// row: MKT-40, MKT-41, MKT-42
#[tokio::test]
async fn receipts_and_vouchers_that_come_over_the_network_become_a_final_batch_and_money() {
    let world = World::new();
    let (one, two) = (world.open_channel(1, Wei(TRL)).await, world.open_channel(2, Wei(TRL)).await);
    let (settling, _journal) = world.aggregator(|_| {}).await;
    let net = SimNet::new(7, world.clock.clone());
    let (theirs, ours) = (net.node(NodeId([4; 32])), net.node(NodeId([2; 32])));
    let _running = settling.run(&theirs).unwrap();
    let node = ours.dial(&theirs.listen_addresses()[0]).await.unwrap();

    let receipts = [world.receipt(one, 0, 30), world.receipt(one, 1, 12), world.receipt(two, 0, 7)];
    let vouchers = [world.voucher(one, 42), world.voucher(two, 7)];
    let told = submit(&*ours, node, &receipts, &vouchers).await.unwrap();
    assert_eq!(told.vouchers, [None, None]);
    for (outcome, signed) in told.receipts.iter().zip(&receipts) {
        let Outcome::Promised(promise) = outcome else { panic!("{outcome:?}") };
        promise.verify(&world.domain, aggregator().address()).unwrap();
        assert_eq!((promise.receipt, promise.batch), (signed.receipt.struct_hash(), 1));
    }
    // The running aggregator looks at the chain on its own.
    world.advance_s(3);
    for _ in 0..6_000 {
        if settling.metrics().batches_submitted.get() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((world.tokens_of(payout(1)).await, world.tokens_of(payout(2)).await), (Wei(42), Wei(7)));

    let batch = world.settlement.batch(world.client(), 1).await.unwrap();
    assert_eq!((batch.count, batch.sum, batch.status), (3, Wei(49), BatchStatus::Pending));
    let leaves = fetch_leaves(&*ours, node, batch.root, batch.count).await.unwrap();
    let tree = StatedTree::new(leaves.iter().map(LeafData::node).collect());
    assert_eq!((tree.root(), tree.sum()), (batch.root, batch.sum));
    for index in 0..4 {
        let path = fetch_path(&*ours, node, batch.root, index).await.unwrap();
        assert_eq!(root_of((path.hash, path.sum), index, &path.steps), Some((batch.root.0, 49)));
    }
    world.advance_s(11);
    for _ in 0..6_000 {
        settling.tick().await.unwrap();
        if settling.metrics().batches_final.get() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let batch = world.settlement.batch(world.client(), 1).await.unwrap();
    assert_eq!(batch.status, BatchStatus::Final);
}

// row: MKT-40
#[tokio::test]
async fn a_receipt_handed_in_twice_gets_the_same_promise_and_another_with_its_number_none() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(TRL)).await;
    let (settling, _journal) = world.aggregator(|_| {}).await;
    let receipt = world.receipt(channel, 0, 30);
    let (first, _) = settling.submit(std::slice::from_ref(&receipt), &[]).await;
    world.advance_s(3);
    settling.tick().await.unwrap();
    let (second, _) = settling.submit(&[receipt], &[]).await;
    assert_eq!(first, second);
    let (other, _) = settling.submit(&[world.receipt(channel, 0, 31)], &[]).await;
    assert_eq!(other, [Outcome::Refused(Refusal::Conflict)]);
    let (twice, _) = settling.submit(&[world.receipt(channel, 5, 1), world.receipt(channel, 5, 1)], &[]).await;
    assert_eq!(promised(&twice), 1, "the second of one message comes before the first is stored");
}

#[tokio::test]
async fn what_would_topple_a_batch_is_refused_with_its_reason() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(TRL)).await;
    let (settling, _journal) = world.aggregator(|_| {}).await;
    let mut half = world.receipt(channel, 0, 1);
    half.gateway_signature = Default::default();
    let mut forged = world.receipt(channel, 1, 1);
    forged.sign_as_gateway(&world.domain, &provider());
    let mut changed = world.receipt(channel, 2, 1);
    changed.receipt.cost = Wei(2);
    let mut other = world.unsigned(channel, 3, 1);
    other.aggregator = signer().address();
    let mut foreign = world.unsigned(channel, 4, 1);
    foreign.chain_id = 137;
    let nowhere = world.receipt(trellis_primitives::ChannelId::default(), 5, 1);
    let receipts = [half, forged, changed, world.signed(other), world.signed(foreign), nowhere];
    let (outcomes, _) = settling.submit(&receipts, &[]).await;
    use Refusal::{BadSignature, OtherAggregator, OtherChain, UnknownChannel};
    let expected = [BadSignature, BadSignature, BadSignature, OtherAggregator, OtherChain, UnknownChannel];
    assert_eq!(outcomes, expected.map(Outcome::Refused));

    let mut forged = world.voucher(channel, 10);
    forged.cumulative = Wei(11);
    let (_, vouchers) = settling.submit(&[], &[forged]).await;
    assert_eq!(vouchers, [Some(BadSignature)]);
}

// row: MKT-40
#[tokio::test]
async fn a_crash_between_the_transaction_and_its_record_does_not_settle_twice() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(TRL)).await;
    let (settling, journal) = world.aggregator(|_| {}).await;
    settling.submit(&[world.receipt(channel, 0, 30)], &[world.voucher(channel, 30)]).await;
    world.advance_s(3);
    world.chain.lose_receipts(true);
    settling.tick().await.unwrap_err();
    world.chain.lose_receipts(false);
    journal.close().await;
    drop(settling);

    let before = world.chain.transactions();
    let (settling, journal) = world.aggregator(|_| {}).await;
    let report = settling.tick().await.unwrap();
    assert_eq!((report.submitted, report.vouchers_paid), (1, 0));
    assert_eq!(world.chain.transactions(), before, "nothing was sent again");
    assert_eq!(world.tokens_of(payout(1)).await, Wei(30));
    let known = journal.index().batches().next().map(|(_, batch)| batch.phase);
    assert_eq!(known, Some(trellis_market_journal::BatchPhase::Submitted));
    assert_eq!(settling.tick().await.unwrap().submitted, 0);
}

// row: MKT-40
#[tokio::test]
async fn a_promise_made_before_a_crash_is_kept_after_it() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(TRL)).await;
    let (settling, journal) = world.aggregator(|config| config.batch_receipts_max = 2).await;
    let receipts: Vec<_> = (0..3).map(|n| world.receipt(channel, n, 10)).collect();
    let (outcomes, _) = settling.submit(&receipts, &[world.voucher(channel, 30)]).await;
    let numbers: Vec<u64> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Promised(promise) => promise.batch,
            Outcome::Refused(refusal) => panic!("{refusal}"),
        })
        .collect();
    assert_eq!(numbers, [1, 1, 2], "a batch is closed by size");
    journal.close().await;
    drop(settling);

    let (settling, _journal) = world.aggregator(|config| config.batch_receipts_max = 2).await;
    let (again, _) = settling.submit(&[world.receipt(channel, 2, 10)], &[]).await;
    assert_eq!(again[0], outcomes[2]);
    world.advance_s(3);
    let report = settling.tick().await.unwrap();
    assert_eq!((report.formed, report.submitted, report.vouchers_paid), (2, 2, 1));
    let second = world.settlement.batch(world.client(), 2).await.unwrap();
    assert_eq!((second.count, second.sum), (1, Wei(10)));
}

// row: MKT-41
#[tokio::test]
async fn both_doors_in_any_order_pay_once() {
    for door_one_first in [true, false] {
        let world = World::new();
        let channel = world.open_channel(1, Wei(100)).await;
        let (settling, _journal) = world.aggregator(|_| {}).await;
        let voucher = world.voucher(channel, 60);
        settling.submit(&[world.receipt(channel, 0, 60)], std::slice::from_ref(&voucher)).await;
        world.advance_s(3);
        let wallet = world.wallet(provider());
        if door_one_first {
            world.channels.redeem(&wallet, channel, voucher.cumulative, voucher.signature.clone()).await.unwrap();
            assert_eq!(settling.tick().await.unwrap().vouchers_paid, 0);
        } else {
            assert_eq!(settling.tick().await.unwrap().vouchers_paid, 1);
            world.channels.redeem(&wallet, channel, voucher.cumulative, voucher.signature.clone()).await.unwrap();
        }
        assert_eq!(world.tokens_of(payout(1)).await, Wei(60));
        // A voucher above the deposit pays what is there, once.
        settling.submit(&[], &[world.voucher(channel, 500)]).await;
        world.advance_s(3);
        assert_eq!(settling.tick().await.unwrap().vouchers_paid, 1);
        let before = world.chain.transactions();
        world.advance_s(3);
        assert_eq!(settling.tick().await.unwrap(), TickReport::default());
        assert_eq!(world.chain.transactions(), before, "an exhausted channel is not asked again");
        assert_eq!(world.tokens_of(payout(1)).await, Wei(100));
    }
}

// row: MKT-40
#[tokio::test]
async fn more_vouchers_than_one_transaction_takes_are_split() {
    let world = World::new();
    let (settling, _journal) = world.aggregator(|config| config.vouchers_per_tx_max = 2).await;
    let mut vouchers = Vec::new();
    let mut receipts = Vec::new();
    for n in 1..=5 {
        let channel = world.open_channel(n, Wei(TRL)).await;
        vouchers.push(world.voucher(channel, u128::from(n)));
        receipts.push(world.receipt(channel, 0, u128::from(n)));
    }
    let before = world.chain.transactions();
    settling.submit(&receipts, &vouchers).await;
    world.advance_s(3);
    assert_eq!(settling.tick().await.unwrap().vouchers_paid, 5);
    assert_eq!(world.chain.transactions() - before, 3);
    for n in 1..=5 {
        assert_eq!(world.tokens_of(payout(n)).await, Wei(u128::from(n)));
    }
}

// row: MKT-33
#[tokio::test]
async fn a_chain_that_is_away_stops_nothing_but_settling() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(TRL)).await;
    let (settling, _journal) = world.aggregator(|_| {}).await;
    settling.submit(&[world.receipt(channel, 0, 5)], &[world.voucher(channel, 5)]).await;
    world.chain.set_down(true);
    let (outcomes, _) = settling.submit(&[world.receipt(channel, 1, 6)], &[]).await;
    assert_eq!(promised(&outcomes), 1, "a known channel's receipts are still taken");
    world.advance_s(600);
    settling.tick().await.unwrap_err();
    world.chain.set_down(false);
    let report = settling.tick().await.unwrap();
    assert_eq!((report.submitted, report.vouchers_paid), (1, 1));
}

#[tokio::test]
async fn a_voucher_without_receipts_is_paid_when_it_has_waited_long_enough() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(TRL)).await;
    let (settling, _journal) = world.aggregator(|_| {}).await;
    settling.submit(&[], &[world.voucher(channel, 5)]).await;
    assert_eq!(settling.tick().await.unwrap(), TickReport::default());
    world.advance_s(3);
    assert_eq!(settling.tick().await.unwrap().vouchers_paid, 1);
    assert_eq!(world.tokens_of(payout(1)).await, Wei(5));
}

#[tokio::test]
async fn a_line_to_the_aggregator_survives_its_restart_and_believes_no_other_account() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(TRL)).await;
    let (settling, journal) = world.aggregator(|_| {}).await;
    let net = SimNet::new(7, world.clock.clone());
    let (theirs, ours) = (net.node(NodeId([4; 32])), net.node(NodeId([2; 32])));
    let running = settling.run(&theirs).unwrap();
    let node = ours.dial(&theirs.listen_addresses()[0]).await.unwrap();
    let (promises, _) = world.journal("provider");
    let link = AggregatorLink::new(ours.clone(), aggregator().address(), Some(node), world.domain, promises.clone());
    let receipt = world.receipt(channel, 0, 1);
    let first = link.hand_in(std::slice::from_ref(&receipt), &[world.voucher(channel, 1)]).await.unwrap();
    assert_eq!(promised(&first.receipts), 1);

    drop(running);
    net.kill(NodeId([4; 32]));
    drop(settling);
    journal.close().await;
    link.hand_in(std::slice::from_ref(&receipt), &[]).await.unwrap_err();
    let theirs = net.node(NodeId([4; 32]));
    let (settling, _journal) = world.aggregator(|_| {}).await;
    let _running = settling.run(&theirs).unwrap();
    ours.dial(&theirs.listen_addresses()[0]).await.unwrap();
    let second = link.hand_in(std::slice::from_ref(&receipt), &[]).await.unwrap();
    assert_eq!(first.receipts, second.receipts);
    let kept = |account| promises.index().promises(account, 1).count();
    assert_eq!(kept(aggregator().address()), 1, "the same promise is kept once");

    let misled = AggregatorLink::new(ours.clone(), provider().address(), Some(node), world.domain, promises.clone());
    let told = misled.hand_in(&[receipt], &[]).await.unwrap();
    assert_eq!(told.receipts, [Outcome::Refused(Refusal::BadSignature)]);
    assert_eq!(kept(provider().address()), 0, "what is not signed by the account is no promise of it");
    let nobody = AggregatorLink::new(ours, provider().address(), None, world.domain, promises.clone());
    assert!(matches!(nobody.hand_in(&[], &[]).await, Err(AskError::NoAggregator { .. })));
}

#[tokio::test]
async fn an_aggregator_that_cannot_bond_says_so() {
    let world = World::new();
    let poor = super::world::key(9);
    let (journal, journal_config) = world.journal("poor");
    let config = crate::AggregatorConfig::dev(world.contracts);
    let wallet = world.wallet(poor);
    let opened = crate::Aggregator::open(config, wallet, journal, &journal_config, world.clock.clone()).await;
    assert!(matches!(opened.err(), Some(crate::SettleError::CannotBond { .. })));
}
