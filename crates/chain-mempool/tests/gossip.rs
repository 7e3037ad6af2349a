//! Pools that hand transactions to each other over a simulated network, and peers that do it wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, Signature, TxKind, U256};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use trellis_chain_mempool::gossip::{self, FRAME_TXS_MAX, Gossip, TRANSACTIONS_PROTOCOL, encode_filter, encode_frame};
use trellis_chain_mempool::{
    AccountReadError, AccountReader, AccountState, FeeFilter, HeadUpdate, Mempool, PoolConfig,
};
use trellis_crypto::account::AccountKey;
use trellis_net_peers::frame::write_frame;
use trellis_net_peers::pack::Packer;
use trellis_net_peers::sim::{SimNet, SimNode};
use trellis_net_peers::{NetworkHandle, PeerState};
use trellis_primitives::{ManualClock, NodeId, RecoveredTx, Role, RoleSet, TxEnvelope, UnixMs};

const CHAIN: u64 = 97_001;
const GWEI: u64 = 1_000_000_000;
/// A loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rich;

impl AccountReader for Rich {
    fn account(&self, _: Address) -> Result<AccountState, AccountReadError> {
        Ok(AccountState { nonce: 0, balance: U256::from(10).pow(U256::from(20)) })
    }
}

fn transfer(key: &AccountKey, nonce: u64) -> TxEnvelope {
    paying(key, nonce, (100, 1))
}

/// A transfer with these caps of fee and tip, in gwei per gas.
fn paying(key: &AccountKey, nonce: u64, (fee, tip): (u64, u64)) -> TxEnvelope {
    let tx = TxEip1559 {
        chain_id: CHAIN,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: u128::from(fee * GWEI),
        max_priority_fee_per_gas: u128::from(tip * GWEI),
        to: TxKind::Call(Address::ZERO),
        value: U256::from(1),
        ..Default::default()
    };
    let signature = Signature::from_raw_array(&key.sign_hash(tx.signature_hash())).unwrap();
    tx.into_signed(signature).into()
}

fn key(number: u8) -> AccountKey {
    AccountKey::from_bytes(&[number; 32]).unwrap()
}

struct Member {
    network: NetworkHandle,
    pool: Mempool,
    _gossip: Gossip,
}

fn member(net: &SimNet, number: u8) -> Member {
    member_with(net, number, PoolConfig::new(CHAIN))
}

fn member_with(net: &SimNet, number: u8, config: PoolConfig) -> Member {
    let network = validator(net, number);
    let pool = Mempool::new(config, Arc::new(Rich), Arc::new(ManualClock::new(UnixMs(1))));
    pool.on_block(&HeadUpdate { base_fee: GWEI, gas_limit: 400_000_000, included: &[], changed: &[] });
    let gossip = gossip::start(pool.clone(), network.clone()).unwrap();
    Member { network, pool, _gossip: gossip }
}

fn validator(net: &SimNet, number: u8) -> NetworkHandle {
    let roles = RoleSet::of(&[Role::Validator]);
    net.node(SimNode { id: NodeId([number; 32]), roles, record: None, best_height: 0 })
}

fn add(pool: &Mempool, tx: TxEnvelope, from: &AccountKey) -> RecoveredTx {
    let tx = RecoveredTx::new(tx, from.address());
    pool.add(tx.clone()).unwrap();
    tx
}

fn net() -> SimNet {
    SimNet::new(1, Arc::new(ManualClock::new(UnixMs(1))))
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

fn connected(network: &NetworkHandle, peer: NodeId) -> bool {
    network.peers().iter().any(|info| info.id == Some(peer) && info.state == PeerState::Connected)
}

// row: CHN-24, NET-61
#[tokio::test]
async fn what_comes_to_one_pool_is_in_all_and_many_of_a_kind_are_sent_compressed() {
    let net = net();
    let members: Vec<Member> = (1..=3).map(|number| member(&net, number)).collect();
    for (from, to) in [(0, 1), (0, 2), (1, 2)] {
        members[from].network.dial(&SimNet::address(members[to].network.local_id())).await.unwrap();
    }
    let txs = (10..60).map(|number| {
        let key = key(number);
        RecoveredTx::new(transfer(&key, 0), key.address())
    });
    let txs: Vec<RecoveredTx> = txs.collect();
    assert!(members[0].pool.add_batch(txs.clone()).iter().all(Result::is_ok));
    for other in &members[1..] {
        until("every transaction in every pool", || txs.iter().all(|tx| other.pool.get(&tx.hash).is_some())).await;
    }
    let metrics = &members[0].pool.metrics().gossip;
    let (bodies, frames) = (metrics.body_bytes.get(), metrics.frame_bytes.get());
    assert!(bodies > 0 && frames < bodies, "{frames} of {bodies} bytes");
}

// row: CHN-24
#[tokio::test]
async fn a_pool_is_not_sent_what_pays_less_than_it_told_and_the_others_are() {
    let net = net();
    let dear = PoolConfig { min_fee_wei: u128::from(200 * GWEI), ..PoolConfig::new(CHAIN) };
    let (sender, choosy, other) = (member(&net, 1), member_with(&net, 2, dear), member(&net, 3));
    for to in [&choosy, &other] {
        sender.network.dial(&SimNet::address(to.network.local_id())).await.unwrap();
    }
    let metrics = &sender.pool.metrics().gossip;
    until("both have told what they take", || metrics.filters.get() >= 2).await;
    let (poor, rich) = (key(10), key(11));
    let cheap = add(&sender.pool, paying(&poor, 0, (100, 1)), &poor);
    let paid = add(&sender.pool, paying(&rich, 0, (300, 1)), &rich);
    until("each has what it takes", || {
        choosy.pool.get(&paid.hash).is_some() && [&cheap, &paid].iter().all(|tx| other.pool.get(&tx.hash).is_some())
    })
    .await;
    until("the cheap one was kept back", || metrics.withheld.get() > 0).await;
    // Had it been sent, it would have come before the dear one and been refused.
    let figures = &choosy.pool.metrics().gossip;
    until("the dear one is counted", || figures.received.get() > 0).await;
    assert_eq!((figures.received.get(), figures.refused.get()), (1, 0));
}

// row: CHN-24
#[tokio::test]
async fn a_full_pool_asks_for_more_and_for_less_again_when_it_has_room() {
    let net = net();
    let small = PoolConfig { txs_max: 8, ..PoolConfig::new(CHAIN) };
    let (sender, full) = (member(&net, 1), member_with(&net, 2, small));
    let dear: Vec<AccountKey> = (10..18).map(key).collect();
    for from in &dear {
        add(&full.pool, paying(from, 0, (100, 10)), from);
    }
    // One more that pays more drives a cheaper one out, and what that one paid is no longer enough.
    let last = key(18);
    add(&full.pool, paying(&last, 0, (100, 20)), &last);
    assert_eq!(full.pool.fee_filter().tip_min_wei, u128::from(10 * GWEI) + 1);
    sender.network.dial(&SimNet::address(full.network.local_id())).await.unwrap();
    let metrics = &sender.pool.metrics().gossip;
    until("the full pool has told", || metrics.filters.get() >= 1).await;
    let (poor, rich) = (key(30), key(31));
    let cheap = add(&sender.pool, paying(&poor, 0, (100, 10)), &poor);
    let paid = add(&sender.pool, paying(&rich, 0, (100, 30)), &rich);
    until("the dear one comes", || full.pool.get(&paid.hash).is_some()).await;
    until("the cheap one is kept back", || metrics.withheld.get() > 0).await;
    assert!(full.pool.get(&cheap.hash).is_none());
    // A block takes what was there; there is room, and what waits at the sender is repeated.
    for (_, hash) in held(&full.pool) {
        full.pool.remove(&hash);
    }
    until("the cheap one comes after all", || full.pool.get(&cheap.hash).is_some()).await;
    assert_eq!(full.pool.fee_filter().tip_min_wei, 0);
}

fn held(pool: &Mempool) -> Vec<(Address, alloy_primitives::B256)> {
    let senders = pool.content(None, 100).into_iter();
    senders.flat_map(|entry| entry.pending).map(|tx| (tx.sender, tx.hash)).collect()
}

// row: CHN-24, NET-60
#[tokio::test]
async fn whoever_asks_for_all_the_money_gets_nothing_and_keeps_nobody_else_from_it() {
    let net = net();
    let (sender, other) = (member(&net, 1), member(&net, 2));
    let greedy = validator(&net, 9);
    greedy.dial(&SimNet::address(sender.network.local_id())).await.unwrap();
    other.network.dial(&SimNet::address(sender.network.local_id())).await.unwrap();
    let mut stream = greedy.open(sender.network.local_id(), TRANSACTIONS_PROTOCOL).await.unwrap();
    let everything = FeeFilter { fee_min_wei: u128::MAX, tip_min_wei: u128::MAX };
    for _ in 0..100 {
        write_frame(&mut stream, &encode_filter(&Packer::default(), &everything)).await.unwrap();
    }
    let metrics = &sender.pool.metrics().gossip;
    until("all that it said was heard", || metrics.filters.get() >= 100).await;
    let from = key(10);
    let tx = add(&sender.pool, transfer(&from, 0), &from);
    until("the other has it", || other.pool.get(&tx.hash).is_some()).await;
    until("the greedy one does not", || metrics.withheld.get() > 0).await;
    assert!(connected(&sender.network, NodeId([9; 32])), "to ask for much is no offence");
}

// row: NET-56, NET-59, NET-60
#[tokio::test]
async fn a_peer_that_sends_a_forged_signature_is_let_go_and_its_transactions_are_not_taken() {
    let net = net();
    let victim = member(&net, 1);
    let hostile = validator(&net, 9);
    hostile.dial(&SimNet::address(victim.network.local_id())).await.unwrap();
    let mut stream = hostile.open(victim.network.local_id(), TRANSACTIONS_PROTOCOL).await.unwrap();
    let good = transfer(&key(1), 0);
    // No point of the curve has this x.
    let forged: TxEnvelope = match transfer(&key(2), 0) {
        TxEnvelope::Eip1559(signed) => {
            let signature = Signature::new(U256::MAX >> 1, signed.signature().s(), false);
            signed.strip_signature().into_signed(signature).into()
        }
        other => other,
    };
    let raw = [&good, &forged].map(|tx| Bytes::from(tx.encoded_2718())).to_vec();
    let (frame, _) = encode_frame(&Packer::default(), raw);
    write_frame(&mut stream, &frame).await.unwrap();
    until("the forger is let go", || !connected(&victim.network, NodeId([9; 32]))).await;
    assert!(victim.pool.get(forged.tx_hash()).is_none() && victim.pool.get(good.tx_hash()).is_none());
}

// row: NET-56, NET-60
#[tokio::test]
async fn frames_that_are_none_end_the_stream_and_ten_of_them_the_connection() {
    let net = net();
    let victim = member(&net, 1);
    let hostile = validator(&net, 9);
    hostile.dial(&SimNet::address(victim.network.local_id())).await.unwrap();
    let (too_many, _) = encode_frame(&Packer::default(), vec![Bytes::from_static(b"t"); FRAME_TXS_MAX + 1]);
    let no_transactions = encode_frame(&Packer::default(), vec![Bytes::from_static(b"t")]).0;
    let nonsense =
        [too_many, no_transactions, Bytes::from_static(&[7, 7, 7]), Bytes::from_static(&[1, 0xff, 0xff, 0xff, 0xff])];
    for frame in nonsense.iter().cycle().take(20) {
        // Every stream is read until its first bad frame; the connection ends while some are still being written.
        let Ok(mut stream) = hostile.open(victim.network.local_id(), TRANSACTIONS_PROTOCOL).await else { break };
        let _ = write_frame(&mut stream, frame).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("the peer is let go", || !connected(&victim.network, NodeId([9; 32]))).await;
    assert_eq!(victim.pool.metrics().gossip.received.get(), 0);
}
