//! The watch-tower: a payer that closes with too low a figure, door one, and what a journal learns from the chain.

use trellis_market_chain::ChannelStatus;
use trellis_market_journal::{ChannelOpened, ChannelPhase, Journal, Record, Side, Voucher};
use trellis_primitives::{B256, Bytes, ChannelId, Wei};

use super::evm::CHAIN_ID;
use super::world::{World, gateway, payout, provider};
use crate::{LatestVoucher, WatchTower};

pub(super) async fn note_channel(world: &World, journal: &Journal, channel: ChannelId, side: Side, deposit: Wei) {
    let opened = ChannelOpened {
        channel,
        side,
        peer: B256::repeat_byte(1),
        payer: gateway().address(),
        payee: provider().address(),
        contract: world.contracts.channels,
        chain_id: CHAIN_ID,
        deposit,
        expires_s: 0,
        payload: Bytes::new(),
    };
    journal.append(Record::ChannelOpened(opened)).await.unwrap();
}

pub(super) fn received(voucher: &LatestVoucher, increments: Vec<trellis_market_journal::Increment>) -> Voucher {
    Voucher {
        channel: voucher.channel,
        cumulative: voucher.cumulative,
        signature: voucher.signature.clone(),
        increments,
    }
}

// row: MKT-30
#[tokio::test]
async fn a_payer_that_closes_below_our_voucher_is_answered_in_time() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(1_000)).await;
    let (journal, _) = world.journal("provider");
    note_channel(&world, &journal, channel, Side::Payee, Wei(1_000)).await;
    let voucher = received(&world.voucher(channel, 700), Vec::new());
    journal.append(Record::VoucherReceived(voucher)).await.unwrap();
    let tower = WatchTower::new(world.wallet(provider()), &world.contracts, journal.clone());
    assert!(tower.tick().await.unwrap().defended.is_empty());

    let payer = world.wallet(gateway());
    world.channels.start_close(&payer, channel).await.unwrap();
    assert_eq!(tower.tick().await.unwrap().defended, [channel]);
    assert_eq!(world.tokens_of(payout(1)).await, Wei(700));
    world.advance_s(11);
    world.channels.finish_close(&payer, channel).await.unwrap();
    tower.tick().await.unwrap();
    let index = journal.index();
    let state = index.channel(channel).unwrap();
    assert_eq!((state.paid, state.payouts.len()), (Wei(700), 1), "a payout of our own is not counted twice");
    assert_eq!(state.updated.as_ref().unwrap().phase, ChannelPhase::Closed);
}

// row: MKT-30
#[tokio::test]
async fn a_payee_redeems_what_is_due_at_any_time_and_nothing_twice() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(1_000)).await;
    let (journal, _) = world.journal("provider");
    note_channel(&world, &journal, channel, Side::Payee, Wei(1_000)).await;
    let tower = WatchTower::new(world.wallet(provider()), &world.contracts, journal.clone());
    assert_eq!(tower.redeem_all(Wei(1)).await.unwrap(), Wei::ZERO, "no voucher yet");
    let voucher = received(&world.voucher(channel, 300), Vec::new());
    journal.append(Record::VoucherReceived(voucher)).await.unwrap();
    assert_eq!(tower.redeem_all(Wei(301)).await.unwrap(), Wei::ZERO, "less than asked for");
    assert_eq!(tower.redeem_all(Wei(300)).await.unwrap(), Wei(300));
    let before = world.chain.transactions();
    assert_eq!(tower.redeem_all(Wei(1)).await.unwrap(), Wei::ZERO);
    assert_eq!(world.chain.transactions(), before);
    let view = world.channels.channel(world.client(), channel).await.unwrap();
    assert_eq!((view.status, view.paid), (ChannelStatus::Open, Wei(300)));
}

#[tokio::test]
async fn the_payers_tower_watches_and_never_redeems() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(1_000)).await;
    let (journal, _) = world.journal("gateway");
    note_channel(&world, &journal, channel, Side::Payer, Wei(1_000)).await;
    journal.append(Record::VoucherSent(received(&world.voucher(channel, 300), Vec::new()))).await.unwrap();
    let tower = WatchTower::new(world.wallet(gateway()), &world.contracts, journal.clone());
    assert_eq!(tower.redeem_all(Wei(1)).await.unwrap(), Wei::ZERO);
    world.channels.start_close(&world.wallet(gateway()), channel).await.unwrap();
    assert!(tower.tick().await.unwrap().defended.is_empty());
    assert_eq!(journal.index().channel(channel).unwrap().updated.as_ref().unwrap().phase, ChannelPhase::Closing);
}

#[tokio::test]
async fn after_a_restart_the_tower_goes_on_where_it_stopped() {
    let world = World::new();
    let channel = world.open_channel(1, Wei(1_000)).await;
    let (journal, _) = world.journal("provider");
    note_channel(&world, &journal, channel, Side::Payee, Wei(1_000)).await;
    let tower = WatchTower::new(world.wallet(provider()), &world.contracts, journal.clone());
    assert_eq!(tower.tick().await.unwrap().events, 1);
    journal.close().await;
    drop((tower, journal));
    let (journal, _) = world.journal("provider");
    let tower = WatchTower::new(world.wallet(provider()), &world.contracts, journal);
    assert_eq!(tower.tick().await.unwrap().events, 0);
}
