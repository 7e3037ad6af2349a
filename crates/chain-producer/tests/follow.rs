//! A chain that is followed over a simulated network, by a node that executes it: from honest peers, and from some that are not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "support/ground.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{GENESIS_MS, Node, RICH, chain_genesis, committee, node, node_in, transfer};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use trellis_chain_sync::wire::{Bodies, Request};
use trellis_chain_sync::{
    BlockSink, ChainRules, SYNC_PROTOCOL, SyncConfig, SyncHandle, SyncMetrics, SyncReason, SyncServer,
};
use trellis_net_peers::NetworkHandle;
use trellis_net_peers::frame::{read_frame, write_frame};
use trellis_net_peers::sim::{SimNet, SimNode};
use trellis_primitives::{ManualClock, NodeId, Role, RoleSet, UnixMs};

/// A loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);
const BLOCKS: u64 = 300;

fn id(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn joins(net: &SimNet, number: u8) -> NetworkHandle {
    net.node(SimNode { roles: RoleSet::of(&[Role::Full]), ..SimNode::from(id(number)) })
}

async fn leader() -> Node {
    let leader = node();
    for height in 1..=BLOCKS {
        for n in 1..=(height % 5) as u8 {
            // Each account's transfers come in the order of its nonces.
            let nonce = leader.nonce(n);
            leader.mempool.add(transfer(n, nonce)).unwrap();
        }
        leader.step().await;
    }
    leader
}

async fn follow(network: &NetworkHandle, node: &Node, metrics: &SyncMetrics, config: SyncConfig) -> SyncHandle {
    let sink: Arc<dyn BlockSink> = Arc::new(node.producer.clone());
    trellis_chain_sync::start(config, rules(), network.clone(), sink, metrics.clone()).await.unwrap()
}

async fn reaches(sync: &SyncHandle, height: u64) {
    let mut progress = sync.progress();
    // What it takes grows with the length; what is not allowed is to stand still.
    while progress.borrow().head < height {
        let before = progress.borrow().head;
        timeout(PATIENCE, progress.wait_for(|now| now.head > before)).await.expect("it moves").unwrap();
    }
}

fn dropped(metrics: &SyncMetrics, reason: &'static str) -> u64 {
    metrics.dropped.get_or_create(&SyncReason { reason }).get()
}

/// A server that answers everything but bodies as it should: the bodies' place is taken by what `lie` makes.
fn liar(network: NetworkHandle, honest: NodeId, lie: Option<fn(Bodies) -> Bodies>) -> JoinHandle<()> {
    let mut acceptor = network.accept(SYNC_PROTOCOL).unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some((_, mut stream)) = acceptor.next().await {
            let Ok(frame) = read_frame(&mut stream, 64).await else { continue };
            let bodies = matches!(Request::from_bytes(&frame), Ok(Request::Bodies { .. }));
            let Some(lie) = lie.or((!bodies).then_some(|same| same)) else {
                held.push(stream);
                continue;
            };
            let network = network.clone();
            tokio::spawn(async move {
                let Ok(mut source) = network.open(honest, SYNC_PROTOCOL).await else { return };
                let _ = write_frame(&mut source, &frame).await;
                while let Ok(answer) = read_frame(&mut source, 1 << 24).await {
                    let answer = match Bodies::from_bytes(answer.clone()) {
                        Ok(given) if bodies => lie(given).to_bytes(),
                        _ => answer.to_vec(),
                    };
                    let _ = write_frame(&mut stream, &answer).await;
                }
            });
        }
    })
}

// row: CHN-30
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_executes_the_same_chain_and_goes_on_where_it_stopped() {
    let leader = leader().await;
    let net = SimNet::new(1, Arc::new(ManualClock::new(UnixMs(GENESIS_MS))));
    let (one, two, own) = (joins(&net, 1), joins(&net, 2), joins(&net, 9));
    let metrics = SyncMetrics::default();
    let serve = |network: &NetworkHandle| -> SyncServer {
        trellis_chain_sync::serve(network.clone(), leader.producer.store().clone(), metrics.clone()).unwrap()
    };
    let _servers = (serve(&one), serve(&two));
    for peer in [1, 2] {
        own.dial(&SimNet::address(id(peer))).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    {
        let follower = node_in(folder.path());
        let sync = follow(&own, &follower, &metrics, SyncConfig::default()).await;
        reaches(&sync, 20).await;
        sync.stop().await;
    }
    let follower = support::reopened(folder.path());
    let stood = follower.producer.store().height();
    assert!((20..=BLOCKS).contains(&stood));
    let sync = follow(&own, &follower, &metrics, SyncConfig::default()).await;
    assert_eq!(sync.progress().borrow().start, stood);
    reaches(&sync, BLOCKS).await;
    let (theirs, ours) = (leader.producer.store().head(), follower.producer.store().head());
    assert_eq!((ours.block_hash(), ours.state_root()), (theirs.block_hash(), theirs.state_root()));
    // Every block has a certificate here, so that this node can serve others.
    assert!((1..=BLOCKS).all(|height| follower.producer.store().certificate(height).unwrap().is_some()));
    // What is decided from now on comes by itself.
    for _ in 0..5 {
        leader.step().await;
    }
    reaches(&sync, BLOCKS + 5).await;
    assert_eq!(follower.producer.store().head().block_hash(), leader.producer.store().head().block_hash());
    sync.stop().await;
}

/// Stops after so many quarters of the way.
const STOPS: u64 = 3;

/// A chain as long as is wanted, ten transfers in each block.
async fn long_leader(blocks: u64) -> Node {
    let leader = node();
    for height in 0..blocks {
        for n in RICH {
            leader.mempool.add(transfer(n, height)).unwrap();
        }
        leader.step().await;
    }
    leader
}

/// Writes what was measured where a proof wants it.
fn record(result: &serde_json::Value) {
    println!("{result}");
    if let Some(folder) = std::env::var_os("TRELLIS_PROOF_OUT") {
        std::fs::write(Path::new(&folder).join("sync.json"), result.to_string()).unwrap();
    }
}

// row: CHN-30, CHN-31
#[tokio::test(flavor = "multi_thread")]
async fn with_a_third_of_the_peers_lying_and_three_stops_on_the_way_the_state_is_the_same() {
    let blocks = std::env::var("TRELLIS_PROOF_BLOCKS").map_or(BLOCKS, |text| text.parse().unwrap());
    let began = Instant::now();
    let leader = long_leader(blocks).await;
    let made = began.elapsed();
    let net = SimNet::new(2, Arc::new(ManualClock::new(UnixMs(GENESIS_MS))));
    let metrics = SyncMetrics::default();
    let mut servers = Vec::new();
    for number in 1..=4 {
        let (network, store) = (joins(&net, number), leader.producer.store().clone());
        servers.push(trellis_chain_sync::serve(network, store, SyncMetrics::default()).unwrap());
    }
    let swapped: fn(Bodies) -> Bodies = |mut given| {
        given.bodies.reverse();
        given
    };
    for (number, lie) in [(5, Some(swapped)), (6, None)] {
        let network = joins(&net, number);
        network.dial(&SimNet::address(id(1))).await.unwrap();
        drop(liar(network, id(1), lie));
    }
    let own = joins(&net, 9);
    // Also a liar that is banned meanwhile may be dialled again after the stop.
    let config = SyncConfig { hold_up_ms: 500, ..SyncConfig::default() };
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut follower = node_in(folder.path());
    for stop in 1..=STOPS + 1 {
        for number in [5, 6, 1, 2, 3, 4] {
            let _ = own.dial(&SimNet::address(id(number))).await;
        }
        let sync = follow(&own, &follower, &metrics, config).await;
        reaches(&sync, blocks * stop / (STOPS + 1)).await;
        sync.stop().await;
        if stop <= STOPS {
            drop(follower);
            follower = support::reopened(folder.path());
        }
    }
    let took = began.elapsed();
    let (theirs, ours) = (leader.producer.store().head(), follower.producer.store().head());
    assert_eq!((ours.block_hash(), ours.state_root()), (theirs.block_hash(), theirs.state_root()));
    assert!(dropped(&metrics, "wrong_body") >= 1, "{metrics:?}");
    assert_eq!(dropped(&metrics, "forged_certificate") + dropped(&metrics, "wrong_headers"), 0, "{metrics:?}");
    assert!(own.guard().standing(id(5)).unwrap().inputs.invalid >= 1);
    record(&serde_json::json!({
        "blocks": blocks,
        "transactions": blocks * 10,
        "peers": 6,
        "lying": 2,
        "stops": STOPS,
        "seconds": took.as_secs_f64(),
        "blocks_per_s": blocks as f64 / took.as_secs_f64(),
        "transactions_per_s": blocks as f64 * 10.0 / took.as_secs_f64(),
        "seconds_to_make_the_chain": made.as_secs_f64(),
        "received_bytes": metrics.received.get(),
        "dropped_wrong_body": dropped(&metrics, "wrong_body"),
        "dropped_slow": dropped(&metrics, "slow") + dropped(&metrics, "withheld"),
    }));
}

fn rules() -> ChainRules {
    ChainRules { genesis_hash: chain_genesis().hash(), genesis: committee(), epoch_blocks: None }
}
