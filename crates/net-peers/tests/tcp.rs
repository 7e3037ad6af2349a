//! Real nodes over TCP on loopback: the same handshake, names and goodbyes as over QUIC.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::Transport;
use libp2p::core::upgrade::Version;
use libp2p::swarm::{Config, SwarmEvent};
use libp2p::{Swarm, identify, noise, ping, tcp, tls, yamux};
use rand::SeedableRng;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_net_peers::frame::{read_frame, write_frame};
use trellis_net_peers::{
    DialError, DisconnectReason, NetConfig, NetworkHandle, Path, PeerState, Policy, Protocol, RefusalReason, RefusedBy,
    start,
};
use trellis_primitives::{B256, SystemClock};

const ECHO: Protocol = Protocol("/trellis/echo/1");
/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn node(seed: u64, policy: Policy, listen: &[&str]) -> NetworkHandle {
    let mut config = NetConfig::new(97_001, 0x5452_4c53, B256::repeat_byte(7));
    config.listen = listen.iter().map(|address| (*address).to_owned()).collect();
    config.policy = policy;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (keys, account) = (HybridKey::generate(&mut rng).unwrap(), AccountKey::generate(&mut rng));
    start(config, keys, account, Arc::new(SystemClock)).await.unwrap()
}

async fn tcp_node(seed: u64, policy: Policy) -> NetworkHandle {
    node(seed, policy, &["/ip4/127.0.0.1/tcp/0"]).await
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// row: NET-11, NET-12, NET-16
#[tokio::test]
async fn two_nodes_connect_over_tcp_and_each_shows_the_other() {
    let (alice, bob) = (tcp_node(1, Policy::Require).await, tcp_node(2, Policy::Require).await);
    let address = bob.listen_addresses()[0].clone();
    assert!(address.contains("/tcp/"), "{address}");
    let mut accept = bob.accept(ECHO).unwrap();
    assert_eq!(alice.dial(&address).await, Ok(bob.local_id()));
    let mut stream = alice.open(bob.local_id(), ECHO).await.unwrap();
    write_frame(&mut stream, b"hello").await.unwrap();
    let (from, mut far) = accept.next().await.unwrap();
    assert_eq!(from, alice.local_id());
    assert_eq!(read_frame(&mut far, 100).await.unwrap().as_ref(), b"hello");
    for (net, peer) in [(&alice, bob.local_id()), (&bob, alice.local_id())] {
        let info = net.peers().into_iter().find(|info| info.id == Some(peer)).unwrap();
        assert_eq!((info.state, info.path), (PeerState::Connected, Path::Direct));
        assert_eq!((info.key_exchange.as_str(), info.mldsa_authenticated), ("X25519MLKEM768", true));
        assert!(info.addresses[0].contains("/tcp/"), "{:?}", info.addresses);
    }
    let pong = alice.ping(bob.local_id()).await.unwrap();
    assert!(pong.address.starts_with("/ip4/127.0.0.1/tcp/"), "{}", pong.address);
}

// row: NET-19
#[tokio::test]
async fn a_disconnect_over_tcp_has_the_same_reason_on_both_sides() {
    for reason in [DisconnectReason::Banned, DisconnectReason::Shutdown] {
        let (alice, bob) = (tcp_node(1, Policy::Require).await, tcp_node(2, Policy::Require).await);
        let bob_id = alice.dial(&bob.listen_addresses()[0]).await.unwrap();
        let seen = |net: &NetworkHandle| net.peers().first().and_then(|info| info.disconnect_reason);
        match reason {
            DisconnectReason::Shutdown => alice.shutdown().await,
            reason => alice.disconnect(bob_id, reason).await,
        }
        until("bob never saw the end", || seen(&bob).is_some()).await;
        assert_eq!(seen(&bob), Some(reason));
    }
}

#[derive(libp2p::swarm::NetworkBehaviour)]
struct Smalltalk {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// Unmodified libp2p over TCP, with TLS or Noise.
fn stock(with_noise: bool) -> Swarm<Smalltalk> {
    let identity = libp2p::identity::Keypair::generate_ed25519();
    let tcp = tcp::tokio::Transport::new(tcp::Config::new()).upgrade(Version::V1);
    let transport = if with_noise {
        tcp.authenticate(noise::Config::new(&identity).unwrap()).multiplex(yamux::Config::default()).boxed()
    } else {
        tcp.authenticate(tls::Config::new(&identity).unwrap()).multiplex(yamux::Config::default()).boxed()
    };
    let identify = identify::Config::new("/stock/1".to_owned(), identity.public());
    let identify = identify::Behaviour::new(identify.with_agent_version("stock/1".to_owned()));
    let behaviour = Smalltalk { identify, ping: ping::Behaviour::default() };
    Swarm::new(transport, behaviour, identity.public().to_peer_id(), Config::with_tokio_executor())
}

// row: NET-10, NET-11
#[tokio::test]
async fn a_stock_tcp_peer_gets_identify_and_ping_under_prefer_and_is_shown_as_classical() {
    for (with_noise, shown) in [(false, "X25519MLKEM768"), (true, "X25519 (classical)")] {
        let bob = tcp_node(2, Policy::Prefer).await;
        let mut swarm = stock(with_noise);
        swarm.dial(bob.listen_addresses()[0].parse::<libp2p::Multiaddr>().unwrap()).unwrap();
        let (mut protocols, mut pinged) = (None, false);
        let talk = async {
            while protocols.is_none() || !pinged {
                match swarm.select_next_some().await {
                    SwarmEvent::Behaviour(SmalltalkEvent::Identify(identify::Event::Received { info, .. })) => {
                        protocols = Some(info.protocols);
                    }
                    SwarmEvent::Behaviour(SmalltalkEvent::Ping(ping::Event { result: Ok(_), .. })) => pinged = true,
                    SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, talk).await.unwrap();
        let protocols = protocols.unwrap();
        assert!(protocols.iter().all(|protocol| !protocol.as_ref().starts_with("/trellis/")), "{protocols:?}");
        let info = &bob.peers()[0];
        assert_eq!((info.id, info.mldsa_authenticated, info.key_exchange.as_str()), (None, false, shown));
        assert_ne!(info.state, PeerState::Connected);
    }
}

// row: NET-10, NET-11
#[tokio::test]
async fn a_stock_tcp_peer_is_refused_by_name_under_require() {
    for with_noise in [false, true] {
        let bob = tcp_node(2, Policy::Require).await;
        let mut events = bob.events();
        let mut swarm = stock(with_noise);
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let listening = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        swarm.dial(bob.listen_addresses()[0].parse::<libp2p::Multiaddr>().unwrap()).unwrap();
        tokio::spawn(async move { while swarm.next().await.is_some() {} });
        let refused = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        let named = matches!(
            refused,
            trellis_net_peers::PeerEvent::Refused {
                by: RefusedBy::Us,
                reason: RefusalReason::PolicyClassical,
                peer: None,
                ..
            }
        );
        assert!(named, "{refused:?}");
        let refused = bob.dial(&listening.to_string()).await;
        assert_eq!(
            refused,
            Err(DialError::Refused { by: RefusedBy::Us, reason: RefusalReason::PolicyClassical }),
            "noise: {with_noise}"
        );
    }
}
