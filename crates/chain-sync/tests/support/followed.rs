//! What a node that follows a chain has to stand, whatever its blocks do to the state: stops, and a third of its peers lying.
//! The tests of this crate and of the producer call it, each with a sink of its own.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use trellis_chain_storage::Store;
use trellis_chain_sync::wire::{Bodies, Request};
use trellis_chain_sync::{
    BlockSink, ChainRules, SYNC_PROTOCOL, SyncConfig, SyncHandle, SyncMetrics, SyncReason, SyncServer,
};
use trellis_net_peers::NetworkHandle;
use trellis_net_peers::frame::{read_frame, write_frame};
use trellis_net_peers::sim::{SimNet, SimNode};
use trellis_primitives::{ManualClock, NodeId, Role, RoleSet, UnixMs};

/// What the clock of the simulated network shows; the blocks have times of their own.
const START_MS: u64 = 1_700_000_000_000;
/// A loaded machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const BLOCKS: u64 = 300;

pub fn id(number: u8) -> NodeId {
    NodeId([number; 32])
}

pub fn joins(net: &SimNet, number: u8) -> NetworkHandle {
    net.node(SimNode { roles: RoleSet::of(&[Role::Full]), ..SimNode::from(id(number)) })
}

async fn follow(network: &NetworkHandle, to: &Follower, metrics: &SyncMetrics, config: SyncConfig) -> SyncHandle {
    trellis_chain_sync::start(config, (to.rules)(), network.clone(), Arc::clone(&to.sink), metrics.clone())
        .await
        .unwrap()
}

pub async fn reaches(sync: &SyncHandle, height: u64) {
    let mut progress = sync.progress();
    // What it takes grows with the length; what is not allowed is to stand still.
    while progress.borrow().head < height {
        let before = progress.borrow().head;
        timeout(PATIENCE, progress.wait_for(|now| now.head > before)).await.expect("it moves").unwrap();
    }
}

pub fn dropped(metrics: &SyncMetrics, reason: &'static str) -> u64 {
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

/// A node that follows: what its blocks go into, and where they lie then.
pub struct Follower {
    pub sink: Arc<dyn BlockSink>,
    pub store: Store,
    pub rules: fn() -> ChainRules,
}

/// A node follows a chain of [`BLOCKS`], is stopped, goes on where it stood, and follows what `grow` adds a block at a time.
/// `open` opens the node in a folder, as soon as whoever had it lets go of it.
pub async fn goes_on_where_it_stopped(leader: Store, grow: impl AsyncFn(), open: impl Fn(&Path) -> Follower) {
    let net = SimNet::new(1, Arc::new(ManualClock::new(UnixMs(START_MS))));
    let (one, two, own) = (joins(&net, 1), joins(&net, 2), joins(&net, 9));
    let metrics = SyncMetrics::default();
    let serve = |network: &NetworkHandle| -> SyncServer {
        trellis_chain_sync::serve(network.clone(), leader.clone(), metrics.clone()).unwrap()
    };
    let _servers = (serve(&one), serve(&two));
    for peer in [1, 2] {
        own.dial(&SimNet::address(id(peer))).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    {
        let follower = open(folder.path());
        let sync = follow(&own, &follower, &metrics, SyncConfig::default()).await;
        reaches(&sync, 20).await;
        sync.stop().await;
    }
    let follower = open(folder.path());
    let stood = follower.store.height();
    assert!((20..=BLOCKS).contains(&stood));
    let sync = follow(&own, &follower, &metrics, SyncConfig::default()).await;
    assert_eq!(sync.progress().borrow().start, stood);
    reaches(&sync, BLOCKS).await;
    let (theirs, ours) = (leader.head(), follower.store.head());
    assert_eq!((ours.block_hash(), ours.state_root()), (theirs.block_hash(), theirs.state_root()));
    // Every block has a certificate here, so that this node can serve others.
    assert!((1..=BLOCKS).all(|height| follower.store.certificate(height).unwrap().is_some()));
    // What is decided from now on comes by itself.
    for _ in 0..5 {
        grow().await;
    }
    reaches(&sync, BLOCKS + 5).await;
    assert_eq!(follower.store.head().block_hash(), leader.head().block_hash());
    sync.stop().await;
}

/// How a node fared among liars.
pub struct Withstood {
    pub took: Duration,
    pub metrics: SyncMetrics,
}

/// Stops after so many quarters of the way.
pub const STOPS: u64 = 3;

/// A node follows a chain of so many blocks from six peers, two of which lie about bodies or withhold them, and is stopped
/// [`STOPS`] times.
pub async fn withstands_liars(leader: &Store, blocks: u64, open: impl Fn(&Path) -> Follower) -> Withstood {
    let net = SimNet::new(2, Arc::new(ManualClock::new(UnixMs(START_MS))));
    let metrics = SyncMetrics::default();
    let mut servers = Vec::new();
    for number in 1..=4 {
        let (network, store) = (joins(&net, number), leader.clone());
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
    let mut follower = open(folder.path());
    for stop in 1..=STOPS + 1 {
        for number in [5, 6, 1, 2, 3, 4] {
            let _ = own.dial(&SimNet::address(id(number))).await;
        }
        let sync = follow(&own, &follower, &metrics, config).await;
        reaches(&sync, blocks * stop / (STOPS + 1)).await;
        sync.stop().await;
        if stop <= STOPS {
            drop(follower);
            follower = open(folder.path());
        }
    }
    let took = began.elapsed();
    let (theirs, ours) = (leader.head(), follower.store.head());
    assert_eq!((ours.block_hash(), ours.state_root()), (theirs.block_hash(), theirs.state_root()));
    assert!(dropped(&metrics, "wrong_body") >= 1, "{metrics:?}");
    assert_eq!(dropped(&metrics, "forged_certificate") + dropped(&metrics, "wrong_headers"), 0, "{metrics:?}");
    assert!(own.guard().standing(id(5)).unwrap().inputs.invalid >= 1);
    Withstood { took, metrics }
}
