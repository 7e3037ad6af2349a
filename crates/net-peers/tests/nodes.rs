//! Real nodes on loopback: connect, refuse by name, open streams, say goodbye.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use rand::SeedableRng;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_net_peers::frame::{FrameError, read_frame, write_frame};
use trellis_net_peers::{
    DialError, Direction, DisconnectReason, NetConfig, NetMetrics, NetworkHandle, OpenError, PeerEvent, PeerState,
    Protocol, RefusalReason, RefusedBy, StartError, start_with_metrics,
};
use trellis_primitives::{B256, ManualClock, NodeId, SharedClock, SystemClock, UnixMs};

const ECHO: Protocol = Protocol("/trellis/echo/1");
const CHAIN: u64 = 97_001;
const MAGIC: u32 = 0x5452_4c53;
/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    net: NetworkHandle,
    metrics: NetMetrics,
}

fn config() -> NetConfig {
    let mut config = NetConfig::new(CHAIN, MAGIC, B256::repeat_byte(7));
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    config
}

fn keys(seed: u64) -> (HybridKey, AccountKey) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (HybridKey::generate(&mut rng).unwrap(), AccountKey::generate(&mut rng))
}

async fn node_with(seed: u64, config: NetConfig, clock: SharedClock) -> Rig {
    let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
    let (node, account) = keys(seed);
    let metrics = NetMetrics::default();
    let net = start_with_metrics(config, node, account, clock, metrics.clone()).await.unwrap();
    Rig { net, metrics }
}

/// Starts a node at a port that a former one has just left: the socket closes when its last connection has drained.
async fn node_again(seed: u64, config: NetConfig) -> Rig {
    let started = std::time::Instant::now();
    loop {
        let (node, account) = keys(seed);
        let metrics = NetMetrics::default();
        let clock = Arc::new(SystemClock);
        match start_with_metrics(config.clone(), node, account, clock, metrics.clone()).await {
            Ok(net) => return Rig { net, metrics },
            Err(StartError::Listen { .. }) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn node(seed: u64) -> Rig {
    node_with(seed, config(), Arc::new(SystemClock)).await
}

fn address(rig: &Rig) -> String {
    rig.net.listen_addresses()[0].clone()
}

async fn next_event(events: &mut tokio::sync::broadcast::Receiver<PeerEvent>) -> PeerEvent {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event in time").unwrap()
}

// row: NET-57, NET-16
#[tokio::test]
async fn a_preferred_peer_is_dialled_again_after_it_is_lost_is_never_idle_and_stays_away_when_a_person_says_so() {
    let mut lets_go = config();
    (lets_go.pool_peers, lets_go.pool_idle_ms) = (0, 200);
    let (gateway, seller) = (node_with(1, lets_go, Arc::new(SystemClock)).await, node(2).await);
    let id = seller.net.local_id();
    assert_eq!(gateway.net.dial(&address(&seller)).await, Ok(id));
    let connected = || shown(&gateway, id).is_some_and(|info| info.state == PeerState::Connected);
    gateway.net.prefer(&[id]);
    for _ in 0..2 {
        let mut events = gateway.net.events();
        seller.net.disconnect(gateway.net.local_id(), DisconnectReason::Inactivity).await;
        while !matches!(next_event(&mut events).await, PeerEvent::Disconnected { peer, .. } if peer == id) {}
        while !matches!(next_event(&mut events).await, PeerEvent::Connected { peer, .. } if peer == id) {}
    }
    // Five idle times pass and nobody lets it go.
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert!(connected());
    gateway.net.disconnect(id, DisconnectReason::UserRequest).await;
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    assert!(!connected(), "dialled again against a person's will");
    assert_eq!(gateway.net.reconnect(id).await, Ok(id), "but who asks for it gets it");
    let stranger = NodeId([9; 32]);
    assert!(matches!(gateway.net.reconnect(stranger).await, Err(DialError::Unreachable { .. })));
}

// row: NET-45
#[tokio::test]
async fn of_a_peers_addresses_of_both_families_ipv6_is_used() {
    let mut both = config();
    both.listen = ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::1/udp/0/quic-v1"].map(str::to_owned).to_vec();
    let (alice, bob) = (node(1).await, node_with(2, both, Arc::new(SystemClock)).await);
    let id = bob.net.local_id();
    let away = async || {
        alice.net.disconnect(id, DisconnectReason::Inactivity).await;
        while shown(&alice, id).is_some_and(|info| info.state == PeerState::Connected) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // The older family is the one that worked last.
    for family in ["/ip6/", "/ip4/"] {
        let address = bob.net.listen_addresses().into_iter().find(|address| address.starts_with(family)).unwrap();
        assert_eq!(alice.net.dial(&address).await, Ok(id), "{address}");
        away().await;
    }
    for _ in 0..3 {
        assert_eq!(alice.net.reconnect(id).await, Ok(id));
        let pong = alice.net.ping(id).await.unwrap();
        assert!(pong.address.starts_with("/ip6/"), "{}", pong.address);
        away().await;
    }
}

fn shown(rig: &Rig, peer: NodeId) -> Option<trellis_net_peers::PeerInfo> {
    rig.net.peers().into_iter().find(|info| info.id == Some(peer))
}

// row: NET-10, NET-16, NET-20, NET-24
#[tokio::test]
async fn two_nodes_connect_and_each_shows_the_other() {
    let (alice, bob) = (node(1).await, node(2).await);
    let mut at_bob = bob.net.events();
    let id = alice.net.dial(&address(&bob)).await.unwrap();
    assert_eq!(id, keys(2).0.node_id());
    let event = next_event(&mut at_bob).await;
    assert_eq!(event, PeerEvent::Connected { peer: alice.net.local_id(), direction: Direction::Inbound });
    for (rig, peer, seed) in [(&alice, &bob, 2), (&bob, &alice, 1)] {
        let infos = rig.net.peers();
        assert_eq!(infos.len(), 1);
        let info = &infos[0];
        assert_eq!(info.id, Some(peer.net.local_id()));
        assert_eq!(info.state, PeerState::Connected);
        assert_eq!(info.key_exchange, "X25519MLKEM768");
        assert!(info.mldsa_authenticated);
        assert_eq!(info.record.as_ref().unwrap().chain_address, keys(seed).1.address());
        assert_eq!(info.protocol_version, Some(1));
        assert!(info.connected_since.is_some());
    }
    // Dialling again, with and without the peer's name in the address, leads to the same peer.
    assert_eq!(alice.net.dial(&address(&bob)).await, Ok(id));
    let bare = address(&bob).split("/p2p/").next().unwrap().to_owned();
    assert_eq!(alice.net.dial(&bare).await, Ok(id));
    assert_eq!(alice.metrics.accepted.get(), 1);
}

#[tokio::test]
async fn streams_run_both_ways_and_are_counted() {
    let (alice, bob) = (node(1).await, node(2).await);
    let mut accept = bob.net.accept(ECHO).unwrap();
    let bob_id = alice.net.dial(&address(&bob)).await.unwrap();
    let mut stream = alice.net.open(bob_id, ECHO).await.unwrap();
    write_frame(&mut stream, b"hello").await.unwrap();
    let (from, mut far) = accept.next().await.unwrap();
    assert_eq!(from, alice.net.local_id());
    let frame = read_frame(&mut far, 100).await.unwrap();
    write_frame(&mut far, &frame).await.unwrap();
    assert_eq!(read_frame(&mut stream, 100).await.unwrap().as_ref(), b"hello");
    let info = &alice.net.peers()[0];
    // The handshake's own messages, two out and two in, are counted too.
    assert_eq!((info.messages_out, info.messages_in, info.streams), (3, 3, 1));
    let unknown = alice.net.open(bob_id, Protocol("/trellis/nobody/1")).await.err().unwrap();
    assert!(matches!(unknown, OpenError::Unsupported { .. }), "{unknown}");
    let nobody = alice.net.open(NodeId([9; 32]), ECHO).await.err().unwrap();
    assert!(matches!(nobody, OpenError::NotConnected(_)), "{nobody}");
}

// row: NET-15, NET-50
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_peers_are_connected_to_one_node_at_once_and_each_has_its_answer() {
    const PEERS: u64 = 100;
    let hub = node(1).await;
    let (at, id) = (address(&hub), hub.net.local_id());
    let mut accept = hub.net.accept(ECHO).unwrap();
    tokio::spawn(async move {
        // All streams are open before the first answer is given.
        let mut open = Vec::new();
        while open.len() < PEERS as usize {
            open.push(accept.next().await.unwrap().1);
        }
        for stream in &mut open {
            let frame = read_frame(stream, 100).await.unwrap();
            write_frame(stream, &frame).await.unwrap();
        }
        // Whoever has not read its answer yet still can.
        std::future::pending::<()>().await;
    });
    let peers = (0..PEERS).map(|n| {
        let at = at.clone();
        async move {
            let peer = node(100 + n).await;
            assert_eq!(peer.net.dial(&at).await, Ok(id));
            peer
        }
    });
    let peers: Vec<Rig> = futures::stream::iter(peers).buffer_unordered(10).collect().await;
    let connected = hub.net.peers().iter().filter(|peer| peer.state == PeerState::Connected).count();
    assert_eq!((connected as u64, hub.metrics.accepted.get()), (PEERS, PEERS));
    let asked = peers.iter().zip(0u64..).map(|(peer, n)| async move {
        let mut stream = peer.net.open(id, ECHO).await.unwrap();
        write_frame(&mut stream, &n.to_be_bytes()).await.unwrap();
        let answer = read_frame(&mut stream, 8).await.unwrap();
        assert_eq!(answer.as_ref(), n.to_be_bytes());
    });
    let all = futures::future::join_all(asked);
    tokio::time::timeout(2 * PATIENCE, all).await.expect("every answer in time");
    assert_eq!(hub.metrics.connected.get(), PEERS as i64);
}

// row: NET-16
#[tokio::test]
async fn a_pool_above_its_size_lets_the_idle_peer_go_and_keeps_the_one_with_a_stream() {
    let (alice, carol) = (node(1).await, node(3).await);
    let mut small = config();
    (small.pool_peers, small.pool_idle_ms) = (1, 200);
    let bob = node_with(2, small, Arc::new(SystemClock)).await;
    let _accept = bob.net.accept(ECHO).unwrap();
    let mut at_alice = alice.net.events();
    let bob_id = carol.net.dial(&address(&bob)).await.unwrap();
    // Nobody is let go before the pool is above its size, so this one gets its stream in peace.
    let _busy = carol.net.open(bob_id, ECHO).await.unwrap();
    alice.net.dial(&address(&bob)).await.unwrap();
    loop {
        let event = tokio::time::timeout(Duration::from_secs(30), at_alice.recv()).await.expect("in time").unwrap();
        if let PeerEvent::Disconnected { reason, .. } = event {
            assert_eq!(reason, DisconnectReason::Inactivity);
            break;
        }
    }
    assert_eq!(carol.net.peers()[0].state, PeerState::Connected);
    let held = bob.net.peers().into_iter().find(|info| info.id == Some(carol.net.local_id())).unwrap();
    assert_eq!((held.state, held.streams), (PeerState::Connected, 1));
}

// row: NET-16
#[tokio::test]
async fn a_protocol_that_the_peer_gave_up_is_named_at_the_first_read_and_then_at_the_opening() {
    let (alice, bob) = (node(1).await, node(2).await);
    let mut accept = bob.net.accept(ECHO).unwrap();
    let bob_id = alice.net.dial(&address(&bob)).await.unwrap();
    drop(alice.net.open(bob_id, ECHO).await.unwrap());
    accept.next().await.unwrap();
    drop(accept);
    // Known from the first stream, so this one opens without asking.
    let mut stream = alice.net.open(bob_id, ECHO).await.unwrap();
    let error = read_frame(&mut stream, 100).await.unwrap_err();
    let FrameError::Io(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains(ECHO.0), "{error}");
    let asked = alice.net.open(bob_id, ECHO).await.err().unwrap();
    assert!(matches!(asked, OpenError::Unsupported { .. }), "{asked}");
}

#[tokio::test]
async fn what_is_written_to_a_stream_that_is_dropped_at_once_is_still_delivered() {
    let (alice, bob) = (node(1).await, node(2).await);
    let mut accept = bob.net.accept(ECHO).unwrap();
    let bob_id = alice.net.dial(&address(&bob)).await.unwrap();
    for n in 0u32..50 {
        let mut stream = alice.net.open(bob_id, ECHO).await.unwrap();
        write_frame(&mut stream, &n.to_be_bytes()).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let next = tokio::time::timeout(Duration::from_secs(30), accept.next()).await.expect("a stream in time");
        let (_, mut far) = next.unwrap();
        seen.push(u32::from_be_bytes(read_frame(&mut far, 4).await.unwrap().as_ref().try_into().unwrap()));
        assert!(matches!(read_frame(&mut far, 4).await, Err(FrameError::End)));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<u32>>());
}

async fn refused(alice: &Rig, bob: &Rig, reason: RefusalReason) {
    let (mut at_alice, mut at_bob) = (alice.net.events(), bob.net.events());
    let error = alice.net.dial(&address(bob)).await.unwrap_err();
    assert_eq!(error, DialError::Refused { by: RefusedBy::Them, reason });
    let PeerEvent::Refused { by, reason: seen, peer, .. } = next_event(&mut at_bob).await else { panic!("refused") };
    assert_eq!((by, seen, peer), (RefusedBy::Us, reason, Some(alice.net.local_id())));
    let PeerEvent::Refused { by, reason: seen, .. } = next_event(&mut at_alice).await else { panic!("refused") };
    assert_eq!((by, seen), (RefusedBy::Them, reason));
    assert_eq!(alice.metrics.refused_count(RefusedBy::Them, reason), 1);
    assert_eq!(bob.metrics.refused_count(RefusedBy::Us, reason), 1);
    let info = &bob.net.peers()[0];
    assert_eq!((info.state, info.refusal_reason), (PeerState::Failed, Some(reason)));
}

// row: NET-21
#[tokio::test]
async fn another_genesis_another_network_and_a_skewed_clock_are_refused_by_name_on_both_sides() {
    let bob = node(2).await;
    let mut other = config();
    other.genesis_hash = B256::repeat_byte(8);
    refused(&node_with(1, other, Arc::new(SystemClock)).await, &bob, RefusalReason::WrongGenesis).await;
    let bob = node(3).await;
    let mut other = config();
    other.network_magic = 1;
    refused(&node_with(1, other, Arc::new(SystemClock)).await, &bob, RefusalReason::WrongNetwork).await;
    let bob = node(4).await;
    let late = ManualClock::new(UnixMs(trellis_primitives::Clock::now(&SystemClock).0 - 31_000));
    refused(&node_with(1, config(), Arc::new(late)).await, &bob, RefusalReason::ClockSkew).await;
}

// row: NET-21
#[tokio::test]
async fn a_banned_peer_is_disconnected_and_stays_out() {
    let (alice, bob) = (node(1).await, node(2).await);
    let mut at_alice = alice.net.events();
    let bob_id = alice.net.dial(&address(&bob)).await.unwrap();
    next_event(&mut at_alice).await;
    bob.net.disconnect(alice.net.local_id(), DisconnectReason::Banned).await;
    let event = next_event(&mut at_alice).await;
    assert_eq!(event, PeerEvent::Disconnected { peer: bob_id, reason: DisconnectReason::Banned });
    let error = alice.net.dial(&address(&bob)).await.unwrap_err();
    assert_eq!(error, DialError::Refused { by: RefusedBy::Them, reason: RefusalReason::Banned });
    assert!(bob.net.peers()[0].banned);
}

// row: NET-21
#[tokio::test]
async fn a_full_node_refuses_the_next_peer() {
    let mut small = config();
    small.peers_max = 1;
    let bob = node_with(2, small, Arc::new(SystemClock)).await;
    let (alice, carol) = (node(1).await, node(3).await);
    alice.net.dial(&address(&bob)).await.unwrap();
    let error = carol.net.dial(&address(&bob)).await.unwrap_err();
    assert_eq!(error, DialError::Refused { by: RefusedBy::Them, reason: RefusalReason::Full });
}

// row: NET-19
#[tokio::test]
async fn a_shutdown_says_goodbye_with_its_reason() {
    let (alice, bob) = (node(1).await, node(2).await);
    let mut accept = bob.net.accept(ECHO).unwrap();
    let bob_id = alice.net.dial(&address(&bob)).await.unwrap();
    let mut events = alice.net.events();
    let mut stream = alice.net.open(bob_id, ECHO).await.unwrap();
    tokio::time::timeout(PATIENCE, bob.net.shutdown()).await.expect("the shutdown ends");
    let event = next_event(&mut events).await;
    assert_eq!(event, PeerEvent::Disconnected { peer: bob_id, reason: DisconnectReason::Shutdown });
    assert!(read_frame(&mut stream, 10).await.is_err());
    assert!(matches!(bob.net.open(alice.net.local_id(), ECHO).await, Err(OpenError::Closed)));
    while accept.next().await.is_some() {}
    assert_eq!(alice.net.peers()[0].disconnect_reason, Some(DisconnectReason::Shutdown));
}

// row: NET-17
#[tokio::test]
async fn a_broadcast_reaches_everyone_in_order() {
    let alice = node(1).await;
    let mut readers = Vec::new();
    let mut peers = Vec::new();
    for seed in 2..5 {
        let rig = node(seed).await;
        let mut accept = rig.net.accept(ECHO).unwrap();
        peers.push(alice.net.dial(&address(&rig)).await.unwrap());
        readers.push(tokio::spawn(async move {
            let _rig = rig;
            let (_, mut stream) = accept.next().await.unwrap();
            for n in 0u32..100 {
                assert_eq!(read_frame(&mut stream, 100).await.unwrap().as_ref(), n.to_be_bytes());
            }
        }));
    }
    for n in 0u32..100 {
        let report = alice.net.broadcast(&peers, ECHO, Bytes::copy_from_slice(&n.to_be_bytes())).await;
        assert_eq!(report.queued, peers);
    }
    for reader in readers {
        tokio::time::timeout(PATIENCE, reader).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_bootstrap_address_is_redialled_until_it_answers_and_again_when_it_is_lost() {
    let bob = node(2).await;
    let at = address(&bob);
    let port_only = at.split("/p2p/").next().unwrap().to_owned();
    bob.net.shutdown().await;
    drop(bob);
    let mut with_bootstrap = config();
    with_bootstrap.bootstrap = vec![port_only.clone()];
    let alice = node_with(1, with_bootstrap, Arc::new(SystemClock)).await;
    let mut events = alice.net.events();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut at_same_port = config();
    at_same_port.listen = vec![port_only.clone()];
    let bob = node_again(2, at_same_port.clone()).await;
    let bob_id = bob.net.local_id();
    loop {
        if let PeerEvent::Connected { peer, .. } = next_event(&mut events).await {
            assert_eq!(peer, bob_id);
            break;
        }
    }
    bob.net.shutdown().await;
    drop(bob);
    let _bob = node_again(2, at_same_port).await;
    loop {
        if let PeerEvent::Connected { peer, .. } = next_event(&mut events).await {
            assert_eq!(peer, bob_id);
            break;
        }
    }
}

#[tokio::test]
async fn bad_addresses_and_ports_in_use_are_named() {
    let alice = node(1).await;
    for bad in ["nonsense", "/ip4/127.0.0.1/sctp/1", "/dns4/x/udp/1/quic-v1", "127.0.0.1"] {
        let error = alice.net.dial(bad).await.unwrap_err();
        assert!(matches!(error, DialError::BadAddress { .. }), "{bad}: {error}");
    }
    let own = alice.net.dial(&address(&alice)).await.unwrap_err();
    assert_eq!(own, DialError::Refused { by: RefusedBy::Us, reason: RefusalReason::SelfConnection });
    let mut taken = config();
    taken.listen = vec![address(&alice).split("/p2p/").next().unwrap().to_owned()];
    let (node, account) = keys(5);
    let error = trellis_net_peers::start(taken, node, account, Arc::new(SystemClock)).await.err().unwrap();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
}

// row: NET-01
#[tokio::test]
async fn a_peer_id_that_shows_a_second_ml_dsa_key_is_refused_and_reported() {
    let bob = node(2).await;
    let alice = node(1).await;
    alice.net.dial(&address(&bob)).await.unwrap();
    alice.net.shutdown().await;
    // The same Ed25519 key, so the same PeerId, beside another ML-DSA key.
    let mut secret = *keys(1).0.to_secret();
    secret[32..].fill(0x5a);
    let forged = HybridKey::from_secret(&secret).unwrap();
    let mut at_bob = bob.net.events();
    let clock = Arc::new(SystemClock);
    let mallory = trellis_net_peers::start(config(), forged, keys(1).1, clock).await.unwrap();
    let error = mallory.dial(&address(&bob)).await.unwrap_err();
    assert_eq!(error, DialError::Refused { by: RefusedBy::Them, reason: RefusalReason::IdentityChanged });
    loop {
        if let PeerEvent::Refused { by, reason, peer, .. } = next_event(&mut at_bob).await {
            assert_eq!((by, reason), (RefusedBy::Us, RefusalReason::IdentityChanged));
            assert_eq!(peer, Some(mallory.local_id()));
            break;
        }
    }
}

/// A connection of the bare transport: authenticated, but nobody shakes hands on it.
async fn bare_connection(to: &Rig) -> (trellis_net_transport::QuicTransport, trellis_net_transport::Connection) {
    use libp2p::core::Transport;
    use libp2p::core::transport::{DialOpts, PortUse};
    let config = trellis_net_transport::TransportConfig::new(Arc::new(keys(50).0), trellis_net_peers::Policy::Require);
    let mut transport = trellis_net_transport::QuicTransport::new(config).unwrap();
    let options = DialOpts { role: libp2p::core::Endpoint::Dialer, port_use: PortUse::New };
    let dialing = transport.dial(address(to).parse().unwrap(), options).unwrap();
    let (_, connection) = dialing.await.unwrap();
    (transport, connection)
}

// row: NET-20, NET-55
#[tokio::test]
async fn a_peer_without_a_handshake_gets_no_other_protocol_and_is_closed_after_the_timeout() {
    use futures::{AsyncReadExt, AsyncWriteExt};
    use libp2p::core::muxing::StreamMuxerExt;
    let bob = node(2).await;
    let mut accept = bob.net.accept(ECHO).unwrap();
    let (_transport, mut connection) = bare_connection(&bob).await;
    let mut stream = std::future::poll_fn(|cx| connection.poll_outbound_unpin(cx)).await.unwrap();
    stream.write_all(b"\x13/multistream/1.0.0\n\x10/trellis/echo/1\n").await.unwrap();
    let mut answer = [0u8; 24];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"\x13/multistream/1.0.0\n\x03na\n");
    let session = connection.session().clone();
    let started = std::time::Instant::now();
    while session.remote_close().is_none() {
        assert!(started.elapsed() < PATIENCE, "never closed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(tokio::time::timeout(Duration::from_millis(10), accept.next()).await.is_err(), "nothing was delivered");
    assert_eq!(bob.net.peers()[0].state, PeerState::Failed);
}

#[derive(libp2p::swarm::NetworkBehaviour)]
struct Smalltalk {
    identify: libp2p::identify::Behaviour,
    ping: libp2p::ping::Behaviour,
}

// row: NET-10
#[tokio::test]
async fn a_stock_libp2p_peer_gets_identify_and_ping_and_nothing_else_under_prefer() {
    use futures::StreamExt;
    use libp2p::core::Transport;
    use libp2p::core::muxing::StreamMuxerBox;
    use libp2p::swarm::{Config, SwarmEvent};
    let mut open = config();
    open.policy = trellis_net_peers::Policy::Prefer;
    let bob = node_with(2, open, Arc::new(SystemClock)).await;
    let _accept = bob.net.accept(ECHO).unwrap();
    let identity = libp2p::identity::Keypair::generate_ed25519();
    let transport = libp2p_quic::tokio::Transport::new(libp2p_quic::Config::new(&identity));
    let transport = transport.map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection))).boxed();
    let identify = libp2p::identify::Config::new("/stock/1".to_owned(), identity.public());
    let identify = libp2p::identify::Behaviour::new(identify.with_agent_version("stock/1".to_owned()));
    let behaviour = Smalltalk { identify, ping: libp2p::ping::Behaviour::default() };
    let peer = identity.public().to_peer_id();
    let mut swarm = libp2p::Swarm::new(transport, behaviour, peer, Config::with_tokio_executor());
    swarm.dial(address(&bob).parse::<libp2p::Multiaddr>().unwrap()).unwrap();
    let (mut protocols, mut pinged) = (None, false);
    let talk = async {
        while protocols.is_none() || !pinged {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(SmalltalkEvent::Identify(libp2p::identify::Event::Received { info, .. })) => {
                    protocols = Some(info.protocols);
                }
                SwarmEvent::Behaviour(SmalltalkEvent::Ping(libp2p::ping::Event { result: Ok(_), .. })) => pinged = true,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, talk).await.unwrap();
    let protocols = protocols.unwrap();
    assert!(protocols.iter().all(|protocol| !protocol.as_ref().starts_with("/trellis/")), "{protocols:?}");
    let started = std::time::Instant::now();
    while bob.net.peers()[0].user_agent != "stock/1" {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::timeout(Duration::from_millis(20), swarm.select_next_some()).await.ok();
    }
    let info = &bob.net.peers()[0];
    assert_eq!((info.id, info.mldsa_authenticated, info.peer_id.as_str()), (None, false, peer.to_string().as_str()));
    assert_ne!(info.state, PeerState::Connected);
    assert_eq!(bob.net.broadcast(&[NodeId([1; 32])], ECHO, Bytes::new()).await.queued, []);
}

// row: NET-16
#[tokio::test]
async fn dialling_one_peer_many_times_at_once_leaves_it_connected() {
    let (alice, bob) = (node(1).await, node(2).await);
    let bare = address(&bob).split("/p2p/").next().unwrap().to_owned();
    let dials = (0..4).map(|_| alice.net.dial(&bare));
    let reached = futures::future::join_all(dials).await;
    assert!(reached.iter().all(|reached| *reached == Ok(bob.net.local_id())), "{reached:?}");
    let mut accept = bob.net.accept(ECHO).unwrap();
    // While the surplus connections close, a stream may still be on one of them.
    let started = std::time::Instant::now();
    loop {
        let talk = async {
            let mut stream = alice.net.open(bob.net.local_id(), ECHO).await.ok()?;
            write_frame(&mut stream, b"x").await.ok()?;
            let (_, mut far) = accept.next().await?;
            read_frame(&mut far, 10).await.ok()
        };
        match tokio::time::timeout(Duration::from_secs(5), talk).await {
            Ok(Some(frame)) => {
                assert_eq!(frame.as_ref(), b"x");
                break;
            }
            _ => assert!(started.elapsed() < PATIENCE, "no stream after many dials at once"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((alice.net.peers().len(), bob.net.peers().len()), (1, 1));
}
