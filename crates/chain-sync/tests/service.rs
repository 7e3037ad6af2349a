//! Both sides over a simulated network, with real stores and a sink that applies what each block is known to do: following,
//! going on after a stop, liars, bounds, snapshots. What executing adds is tested with the producer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/followed.rs"]
mod followed;
#[path = "support/ground.rs"]
mod ground;

use alloy_primitives::{Address, B256};
use bytes::Bytes;
use followed::{BLOCKS, Follower, PATIENCE, goes_on_where_it_stopped, id, joins, withstands_liars};
use ground::{GENESIS_MS, Node, chain_genesis, committee, node, node_in};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use trellis_chain_finality::{Validator, ValidatorSet};
use trellis_chain_storage::{CommittedBlock, StateCheck, StatePart};
use trellis_chain_sync::config::{PEERS_MAX, SERVED_MAX, SERVED_PER_PEER_MAX, WRITE_TIMEOUT_MS};
use trellis_chain_sync::snapshot::{self, SnapshotError, SnapshotSink, SnapshotSummary};
use trellis_chain_sync::wire::{Bodies, PeerStatus, Request, Run};
use trellis_chain_sync::{ChainRules, SYNC_PROTOCOL, SyncMetrics, SyncReason};
use trellis_crypto::VoteKey;
use trellis_net_peers::NetworkHandle;
use trellis_net_peers::frame::{read_frame, write_frame};
use trellis_net_peers::sim::SimNet;
use trellis_primitives::{ManualClock, UnixMs};

fn leader() -> Node {
    let leader = node();
    leader.grow(BLOCKS);
    leader
}

fn open(folder: &Path) -> Follower {
    let node = node_in(folder);
    Follower { sink: Arc::new(node.clone()), store: node.store, rules }
}

// row: CHN-30
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_commits_the_same_chain_and_goes_on_where_it_stopped() {
    let leader = leader();
    goes_on_where_it_stopped(leader.store.clone(), async || leader.grow(1), open).await;
}

// row: CHN-30, CHN-31
#[tokio::test(flavor = "multi_thread")]
async fn with_a_third_of_the_peers_lying_and_three_stops_on_the_way_the_state_is_the_same() {
    withstands_liars(&leader().store, BLOCKS, open).await;
}

async fn ask(network: &NetworkHandle, frame: &[u8]) -> Vec<Bytes> {
    let mut stream = network.open(id(1), SYNC_PROTOCOL).await.unwrap();
    write_frame(&mut stream, frame).await.unwrap();
    let mut frames = Vec::new();
    while let Ok(Ok(frame)) = timeout(PATIENCE, read_frame(&mut stream, 1 << 24)).await {
        frames.push(frame);
    }
    frames
}

/// Waits until something was counted.
async fn counted(mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("counted in time");
}

fn refused(metrics: &SyncMetrics, reason: &'static str) -> u64 {
    metrics.refused.get_or_create(&SyncReason { reason }).get()
}

// row: CHN-30, NET-60
#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_within_its_bounds_and_counts_what_it_does_not_answer() {
    let leader = leader();
    let net = SimNet::new(3, Arc::new(ManualClock::new(UnixMs(GENESIS_MS))));
    let (server, asker) = (joins(&net, 1), joins(&net, 2));
    asker.dial(&SimNet::address(id(1))).await.unwrap();
    let metrics = SyncMetrics::default();
    let _server = trellis_chain_sync::serve(server.clone(), leader.store.clone(), metrics.clone()).unwrap();
    let status = ask(&asker, &Request::Status { above: 0, wait_ms: 10_000 }.to_bytes()).await;
    let status = PeerStatus::from_bytes(status[0].clone()).unwrap();
    assert_eq!((status.height, status.first_height), (BLOCKS, 0));
    let run = ask(&asker, &Request::Headers { first: 290, last: 500 }.to_bytes()).await;
    let run = Run::from_bytes(run[0].clone()).unwrap();
    assert_eq!((run.headers.len(), run.certificate.unwrap().height), (11, BLOCKS));
    let bodies = ask(&asker, &Request::Bodies { first: 100, last: 355 }.to_bytes()).await;
    let bodies: usize = bodies.into_iter().map(|frame| Bodies::from_bytes(frame).unwrap().bodies.len()).sum();
    assert_eq!(bodies, 201);
    // An answer is counted when it has been written.
    counted(|| metrics.served.get() == 3).await;
    // What is not there, what is too much, what is no request, and what is too long.
    for (frame, reason) in [
        (Request::Headers { first: 301, last: 302 }.to_bytes(), "nothing"),
        (Request::Bodies { first: 301, last: 302 }.to_bytes(), "nothing"),
        (Request::Bodies { first: 1, last: 257 }.to_bytes(), "undecodable"),
        (vec![0xff; 9], "undecodable"),
        (vec![0; 65], "frame"),
    ] {
        let before = refused(&metrics, reason);
        assert_eq!(ask(&asker, &frame).await, Vec::<Bytes>::new(), "{reason}");
        counted(|| refused(&metrics, reason) == before + 1).await;
    }
    // Whoever waits for the next block in too many streams is refused in the others.
    let wait = Request::Status { above: BLOCKS, wait_ms: 10_000 }.to_bytes();
    let mut streams = Vec::new();
    for _ in 0..SERVED_PER_PEER_MAX + 3 {
        let mut stream = asker.open(id(1), SYNC_PROTOCOL).await.unwrap();
        write_frame(&mut stream, &wait).await.unwrap();
        streams.push(stream);
    }
    counted(|| refused(&metrics, "too_many") >= 3).await;
    leader.grow(1);
    let mut told = 0;
    for stream in &mut streams {
        told += u64::from(timeout(PATIENCE, read_frame(stream, 1 << 24)).await.is_ok_and(|frame| frame.is_ok()));
    }
    // A question before may still have had its place.
    assert!(told <= SERVED_PER_PEER_MAX as u64, "{told}");
    assert_eq!(told + refused(&metrics, "too_many"), SERVED_PER_PEER_MAX as u64 + 3);
}

// row: CHN-30, NET-60
#[tokio::test(flavor = "multi_thread")]
async fn askers_that_do_not_read_keep_nobody_else_from_being_answered() {
    let leader = leader();
    let net = SimNet::new(4, Arc::new(ManualClock::new(UnixMs(GENESIS_MS))));
    let server = joins(&net, 1);
    let metrics = SyncMetrics::default();
    let _server = trellis_chain_sync::serve(server, leader.store.clone(), metrics.clone()).unwrap();
    // Four times as many as there are places; each leaves its answers where they are.
    let (mut unread, mut networks) = (Vec::new(), Vec::new());
    for number in 10..10 + (4 * SERVED_MAX).div_ceil(SERVED_PER_PEER_MAX) as u8 {
        let network = joins(&net, number);
        network.dial(&SimNet::address(id(1))).await.unwrap();
        for _ in 0..SERVED_PER_PEER_MAX {
            let mut stream = network.open(id(1), SYNC_PROTOCOL).await.unwrap();
            write_frame(&mut stream, &Request::Bodies { first: 1, last: 256 }.to_bytes()).await.unwrap();
            unread.push(stream);
        }
        networks.push(network);
    }
    let asker = joins(&net, 2);
    asker.dial(&SimNet::address(id(1))).await.unwrap();
    let request = Request::Headers { first: 1, last: 20 }.to_bytes();
    let headers = ask(&asker, &request);
    // Sooner than all who do not read are given up, a placeful after the other.
    let headers = timeout(Duration::from_millis(2 * WRITE_TIMEOUT_MS), headers).await.expect("answered in time");
    assert_eq!(headers.len(), 1);
}

// row: CHN-31
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_are_of_no_use_do_not_keep_those_who_are_from_being_asked() {
    let leader = leader();
    let net = SimNet::new(5, Arc::new(ManualClock::new(UnixMs(GENESIS_MS))));
    let own = joins(&net, 1);
    // They take every place, and none of them speaks the protocol.
    let mut useless = Vec::new();
    for number in 10..10 + PEERS_MAX as u8 {
        useless.push(joins(&net, number));
        own.dial(&SimNet::address(id(number))).await.unwrap();
    }
    let follower = node();
    let config = trellis_chain_sync::SyncConfig::default();
    let sync = trellis_chain_sync::start(config, rules(), own.clone(), Arc::new(follower), SyncMetrics::default());
    let sync = sync.await.unwrap();
    let mut progress = sync.progress();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let honest = joins(&net, 2);
    let _server = trellis_chain_sync::serve(honest, leader.store.clone(), SyncMetrics::default()).unwrap();
    own.dial(&SimNet::address(id(2))).await.unwrap();
    timeout(PATIENCE, progress.wait_for(|now| now.head == BLOCKS)).await.expect("it is synced").unwrap();
    sync.stop().await;
}

// row: CHN-31
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_only_repeat_what_is_known_do_not_keep_out_one_that_knows_more() {
    let leader = leader();
    let net = SimNet::new(7, Arc::new(ManualClock::new(UnixMs(GENESIS_MS))));
    let own = joins(&net, 1);
    // They take every place, and have what the follower has: block zero.
    let (behind, mut servers) = (node(), Vec::new());
    for number in 10..10 + PEERS_MAX as u8 {
        let network = joins(&net, number);
        servers.push(trellis_chain_sync::serve(network, behind.store.clone(), SyncMetrics::default()).unwrap());
        own.dial(&SimNet::address(id(number))).await.unwrap();
    }
    let config = trellis_chain_sync::SyncConfig { still_ms: 3_000, ..trellis_chain_sync::SyncConfig::default() };
    let sync = trellis_chain_sync::start(config, rules(), own.clone(), Arc::new(node()), SyncMetrics::default());
    let sync = sync.await.unwrap();
    let mut progress = sync.progress();
    timeout(PATIENCE, progress.wait_for(|now| now.peers == PEERS_MAX)).await.expect("all are asked").unwrap();
    let honest = joins(&net, 200);
    let _server = trellis_chain_sync::serve(honest, leader.store.clone(), SyncMetrics::default()).unwrap();
    own.dial(&SimNet::address(id(200))).await.unwrap();
    timeout(PATIENCE, progress.wait_for(|now| now.head == BLOCKS)).await.expect("it is synced").unwrap();
    sync.stop().await;
}

struct Whole {
    check: StateCheck,
    blocks: u64,
}

impl SnapshotSink for Whole {
    fn block(&mut self, block: CommittedBlock) -> Result<(), SnapshotError> {
        assert_eq!(block.certificate.unwrap().block_hash, block.hash);
        self.blocks += 1;
        Ok(())
    }

    fn state(&mut self, part: StatePart) -> Result<(), SnapshotError> {
        self.check.take(&part);
        Ok(())
    }
}

fn rules() -> ChainRules {
    ChainRules { genesis_hash: chain_genesis().hash(), genesis: committee(), epoch_blocks: None }
}

/// Reads a snapshot and compares its state with its head.
fn proved(bytes: &[u8], rules: &ChainRules) -> Result<SnapshotSummary, SnapshotError> {
    let mut whole = Whole { check: StateCheck::default(), blocks: 0 };
    let summary = snapshot::read(&mut &*bytes, rules, &mut whole)?;
    assert_eq!(whole.blocks, summary.blocks);
    whole.check.check(summary.head.height, summary.state_root)?;
    Ok(summary)
}

// row: CHN-23
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_proved_by_the_first_committee_and_every_changed_byte_is_noticed() {
    let leader = leader();
    let mut bytes = Vec::new();
    let written = snapshot::export(&leader.store, &rules(), &mut bytes).unwrap();
    assert_eq!((written.head.height, written.blocks, written.bytes), (BLOCKS, 256, bytes.len() as u64));
    assert_eq!(written.state_root, leader.store.head().state_root());
    assert_eq!(proved(&bytes, &rules()).unwrap(), written);
    for step in 0..40 {
        let mut bent = bytes.clone();
        let at = step * (bytes.len() - 1) / 39;
        bent[at] ^= 1;
        assert!(proved(&bent, &rules()).is_err(), "byte {at}");
        assert!(proved(&bytes[..at], &rules()).is_err(), "cut at {at}");
    }
    let other = ChainRules { genesis_hash: B256::ZERO, ..rules() };
    assert!(matches!(proved(&bytes, &other), Err(SnapshotError::OtherChain { .. })));
    let public = VoteKey::from_seed(&[8; 32]).public();
    let stranger = ValidatorSet::new(vec![Validator::new(public, 1, Address::with_last_byte(1))]).unwrap();
    assert!(matches!(proved(&bytes, &ChainRules { genesis: stranger, ..rules() }), Err(SnapshotError::Proof(_))));
}
