//! Whole engines over the simulated network: agreement, catching up, evidence, refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, clippy::print_stderr)]

#[path = "support/chain.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{GENESIS, TestApp, assert_no_fork, committee, fast, join, key, node_id, reach, run};
use trellis_chain_consensus::{CONSENSUS_PROTOCOL, EngineHandle, RefusedLabel, StartError, StopReason, start};
use trellis_chain_finality::verify_certificate;
use trellis_net_peers::sim::{SimNet, SimNode};
use trellis_primitives::{NodeId, RoleSet, SystemClock};

fn sim() -> SimNet {
    SimNet::new(7, Arc::new(SystemClock))
}

fn refused(engine: &EngineHandle, reason: &'static str) -> u64 {
    engine.metrics().refused.get_or_create(&RefusedLabel { reason }).get()
}

// row: CHN-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_validator_without_peers_runs_at_full_speed() {
    let dir = tempfile::tempdir().unwrap();
    let set = committee(&[5]);
    let app = Arc::new(TestApp::new(set.clone()));
    let net = join(&sim(), 1, &[]).await;
    let began = Instant::now();
    let engine = run(fast(), Arc::new(key(1)), net, app.clone(), dir.path().into()).await;
    reach(&app, 50, 20, "one validator").await;
    let took = began.elapsed();
    assert_eq!(engine.stop().await, StopReason::Requested);
    let mut first_rounds = 0;
    for height in 1..=50 {
        let certificate = app.certificate_at(height).unwrap();
        verify_certificate(&certificate, &set, &GENESIS).unwrap();
        first_rounds += u32::from(certificate.round == 0);
    }
    // Full speed means that no timeout is waited for; a machine that stalls may still cause one now and then.
    assert!(first_rounds >= 40, "only {first_rounds} of 50 heights were decided in their first round");
    eprintln!("50 heights in {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_keep_their_time_when_one_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let app = Arc::new(TestApp::new(committee(&[1])));
    let net = join(&sim(), 1, &[]).await;
    let config = trellis_chain_consensus::EngineConfig { block_time_ms: 100, ..fast() };
    let engine = run(config, Arc::new(key(1)), net, app.clone(), dir.path().into()).await;
    reach(&app, 1, 10, "the first block").await;
    let began = Instant::now();
    reach(&app, 11, 10, "ten more").await;
    let took = began.elapsed();
    engine.stop().await;
    assert!(took > Duration::from_millis(850), "ten blocks in {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_engine_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let app = Arc::new(TestApp::new(committee(&[1])));
    let net = join(&sim(), 1, &[]).await;
    for target in [5, 10, 15] {
        let engine = run(fast(), Arc::new(key(1)), net.clone(), app.clone(), dir.path().into()).await;
        reach(&app, target, 10, "after a restart").await;
        engine.stop().await;
    }
}

struct Node {
    app: Arc<TestApp>,
    engine: Option<EngineHandle>,
    home: tempfile::TempDir,
}

async fn four(net: &SimNet, powers: &[u64], ballast: usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    for n in 1..=4u8 {
        let mut app = TestApp::new(committee(powers));
        app.ballast = ballast;
        nodes.push(Node { app: Arc::new(app), engine: None, home: tempfile::tempdir().unwrap() });
        up(net, &mut nodes, n).await;
    }
    nodes
}

async fn up(net: &SimNet, nodes: &mut [Node], n: u8) {
    let others: Vec<u8> = (1..=4).filter(|other| *other != n).collect();
    let handle = join(net, n, &others).await;
    let node = &mut nodes[usize::from(n) - 1];
    let home = node.home.path().to_owned();
    node.engine = Some(run(fast(), Arc::new(key(n)), handle, node.app.clone(), home).await);
}

async fn down(net: &SimNet, nodes: &mut [Node], n: u8) {
    let engine = nodes[usize::from(n) - 1].engine.take().unwrap();
    assert_eq!(engine.stop().await, StopReason::Requested);
    net.kill(node_id(n));
}

// row: CHN-10, CHN-11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_weighted_validators_agree_and_one_that_was_away_catches_up() {
    let net = sim();
    let mut nodes = four(&net, &[2, 3, 4, 4], 0).await;
    for node in &nodes {
        reach(&node.app, 10, 20, "four validators").await;
    }
    // 2 of 13 away: the others weigh 11, more than two thirds. Its turns cost a round each.
    down(&net, &mut nodes, 1).await;
    let left_at = nodes[0].app.height();
    let goal = nodes[3].app.height() + 15;
    reach(&nodes[3].app, goal, 30, "three of four").await;
    assert_eq!(nodes[0].app.height(), left_at);

    up(&net, &mut nodes, 1).await;
    reach(&nodes[0].app, goal, 30, "catching up").await;
    let together = nodes[3].app.height() + 5;
    for node in &nodes {
        reach(&node.app, together, 30, "four again").await;
    }
    let common = assert_no_fork(&nodes.iter().map(|n| n.app.clone()).collect::<Vec<_>>());
    assert!(common >= together);
    // A certificate is made as soon as more than two thirds have signed, so one vote of four is in some of them only.
    let own = key(1).address();
    let counted =
        |height| nodes[3].app.certificate_at(height).is_some_and(|c| c.signatures.iter().any(|s| s.validator == own));
    let deadline = Instant::now() + Duration::from_secs(120);
    while !(goal..=nodes[3].app.height()).any(counted) {
        assert!(Instant::now() < deadline, "the returned validator's precommits never count again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for n in 1..=4 {
        down(&net, &mut nodes, n).await;
    }
}

// row: CHN-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_more_than_two_thirds_nothing_is_decided_and_nothing_is_lost() {
    let net = sim();
    let mut nodes = four(&net, &[1, 1, 1, 6], 0).await;
    reach(&nodes[0].app, 3, 20, "four validators").await;
    down(&net, &mut nodes, 4).await;
    // Votes that were under way may still decide the height that the heavy one worked on, and none above it.
    let last = nodes[3].app.height() + 1;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(
        nodes[0].app.height() <= last,
        "3 of 9 decided up to {}, at most {last} was possible",
        nodes[0].app.height()
    );
    up(&net, &mut nodes, 4).await;
    reach(&nodes[0].app, last + 3, 30, "with the heavy one back").await;
    assert_no_fork(&nodes.iter().map(|n| n.app.clone()).collect::<Vec<_>>());
    for n in 1..=4 {
        down(&net, &mut nodes, n).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_blocks_travel_in_parts() {
    let net = sim();
    let mut nodes = four(&net, &[1, 1, 1, 1], 3 * 1024 * 1024).await;
    for node in &nodes {
        reach(&node.app, 4, 40, "large blocks").await;
    }
    assert_no_fork(&nodes.iter().map(|n| n.app.clone()).collect::<Vec<_>>());
    for n in 1..=4 {
        down(&net, &mut nodes, n).await;
    }
}

// row: CHN-13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_of_a_validator_that_runs_twice_reaches_the_application() {
    let net = sim();
    let set = committee(&[2, 2, 2, 2]);
    let mut engines = Vec::new();
    let mut apps = Vec::new();
    let mut homes = Vec::new();
    // Node 5 is the twin of node 4: the same vote key, its own blocks and its own log.
    for (node, vote_key) in [(1u8, 1u8), (2, 2), (3, 3), (4, 4), (5, 4)] {
        let others: Vec<u8> = (1..node).collect();
        let handle = join(&net, node, &others).await;
        let (app, home) = (Arc::new(TestApp::new(set.clone())), tempfile::tempdir().unwrap());
        let path = home.path().to_owned();
        engines.push(run(fast(), Arc::new(key(vote_key)), handle, app.clone(), path).await);
        apps.push(app);
        homes.push(home);
    }
    let honest = &apps[..3];
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while !honest.iter().any(|app| !app.evidence.lock().is_empty()) {
        assert!(tokio::time::Instant::now() < deadline, "no evidence at {}", honest[0].height());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for engine in engines {
        engine.stop().await;
    }
    for piece in honest.iter().flat_map(|app| app.evidence.lock().clone()) {
        assert_eq!(piece.validator(), key(4).address());
        piece.verify(&set, &GENESIS).unwrap();
    }
    assert_no_fork(honest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_garbage_are_refused_and_counted() {
    let net = sim();
    let home = tempfile::tempdir().unwrap();
    let app = Arc::new(TestApp::new(committee(&[1])));
    let handle = join(&net, 1, &[]).await;
    let engine = run(fast(), Arc::new(key(1)), handle, app.clone(), home.path().into()).await;

    let stranger = net.node(SimNode::from(NodeId([9; 32])));
    let address = SimNet::address(node_id(1));
    stranger.dial(&address).await.unwrap();
    let _ = stranger.open(node_id(1), CONSENSUS_PROTOCOL).await.unwrap();
    let liar = join(&net, 8, &[1]).await;
    for garbage in [&b"\xff\xff\xff"[..], &b"\x0a\x02\x08\x09"[..]] {
        let _ = liar.broadcast(&[node_id(1)], CONSENSUS_PROTOCOL, garbage.to_vec().into()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let huge = vec![0u8; 2 * 1024 * 1024];
    let _ = liar.broadcast(&[node_id(1)], CONSENSUS_PROTOCOL, huge.into()).await;

    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while refused(&engine, "not_a_validator") < 1
        || refused(&engine, "undecodable") < 1
        || refused(&engine, "frame") < 1
    {
        let seen = ["not_a_validator", "undecodable", "frame"].map(|r| refused(&engine, r));
        assert!(tokio::time::Instant::now() < deadline, "counted {seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = app.height();
    reach(&app, before + 3, 10, "undisturbed").await;
    engine.stop().await;
    assert_eq!(stranger.peers().iter().filter(|p| p.roles == RoleSet::default()).count(), 0);
}

// row: CHN-16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validator_whose_chain_was_set_back_does_not_vote_again() {
    let home = tempfile::tempdir().unwrap();
    let app = Arc::new(TestApp::new(committee(&[1])));
    let net = join(&sim(), 1, &[]).await;
    let engine = run(fast(), Arc::new(key(1)), net.clone(), app.clone(), home.path().into()).await;
    reach(&app, 5, 10, "before").await;
    engine.stop().await;

    let empty = Arc::new(TestApp::new(committee(&[1])));
    let clock = Arc::new(SystemClock);
    let path = home.path().to_owned();
    let refusal = start(fast(), Arc::new(key(1)), GENESIS, net, empty, clock, path).await.unwrap_err();
    assert!(
        matches!(refusal, StartError::ChainBehindLog { tip_height: 0, log_height } if log_height >= 5),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_engine_on_the_same_network_or_log_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let app = Arc::new(TestApp::new(committee(&[1])));
    let net = sim();
    let handle = join(&net, 1, &[]).await;
    let engine = run(fast(), Arc::new(key(1)), handle.clone(), app.clone(), home.path().into()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let path = elsewhere.path().to_owned();
    let same_network = start(fast(), Arc::new(key(1)), GENESIS, handle, app.clone(), clock.clone(), path).await;
    assert!(matches!(same_network.unwrap_err(), StartError::Network(_)));
    let other = join(&net, 2, &[]).await;
    let path = home.path().to_owned();
    let same_log = start(fast(), Arc::new(key(1)), GENESIS, other, app.clone(), clock, path).await;
    assert!(matches!(same_log.unwrap_err(), StartError::LogBusy { .. }));
    engine.stop().await;
}
