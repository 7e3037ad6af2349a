//! Real nodes over TCP on loopback: the same handshake, names and goodbyes as over QUIC.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/socks.rs"]
mod socks;

use std::collections::HashMap;
use std::net::SocketAddr;
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
    DialError, DisconnectReason, DiscoveryConfig, NetConfig, NetworkHandle, Path, PeerState, Policy, Protocol, Proxy,
    RefusalReason, RefusedBy, StartError, start,
};
use trellis_net_reach::relay::budget::RelayProfile;
use trellis_primitives::{B256, SystemClock};

const ECHO: Protocol = Protocol("/trellis/echo/1");
/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(listen: &[&str]) -> NetConfig {
    let mut config = NetConfig::new(97_001, 0x5452_4c53, B256::repeat_byte(7));
    config.listen = listen.iter().map(|address| (*address).to_owned()).collect();
    config
}

async fn started(seed: u64, config: NetConfig) -> NetworkHandle {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (keys, account) = (HybridKey::generate(&mut rng).unwrap(), AccountKey::generate(&mut rng));
    start(config, keys, account, Arc::new(SystemClock)).await.unwrap()
}

async fn tcp_node(seed: u64, policy: Policy) -> NetworkHandle {
    started(seed, NetConfig { policy, ..config(&["/ip4/127.0.0.1/tcp/0"]) }).await
}

fn socket(address: &str) -> SocketAddr {
    let parts: Vec<&str> = address.split('/').collect();
    format!("{}:{}", parts[2], parts[4]).parse().unwrap()
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
    // A relay's transport counts what it carries, and its errors have to come through all the same.
    for (with_noise, relay) in [(false, None), (true, None), (false, Some(RelayProfile::Home))] {
        let bob = started(2, NetConfig { relay, ..config(&["/ip4/127.0.0.1/tcp/0"]) }).await;
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

// row: NET-11
#[tokio::test]
async fn a_dial_takes_quic_where_it_answers_and_tcp_at_the_same_port_where_it_does_not() {
    let alice = tcp_node(1, Policy::Require).await;
    let bob = tcp_node(2, Policy::Require).await;
    let port = socket(&bob.listen_addresses()[0]).port();
    // Nobody answers there over UDP.
    let quic = format!("/ip4/127.0.0.1/udp/{port}/quic-v1");
    assert_eq!(alice.dial(&quic).await, Ok(bob.local_id()));
    let used = |net: &NetworkHandle, peer| net.peers().into_iter().find(|info| info.id == Some(peer)).unwrap();
    assert!(used(&alice, bob.local_id()).addresses[0].contains("/tcp/"));
    assert_eq!(alice.peers().len(), 1, "one attempt leaves no second row: {:?}", alice.peers());

    // A port that is free for both kinds is found by trying.
    let begun = Instant::now();
    let carol = loop {
        let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listen = [format!("/ip4/127.0.0.1/tcp/{probe}"), format!("/ip4/127.0.0.1/udp/{probe}/quic-v1")];
        let both = config(&[listen[0].as_str(), listen[1].as_str()]);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let (keys, account) = (HybridKey::generate(&mut rng).unwrap(), AccountKey::generate(&mut rng));
        match start(both, keys, account, Arc::new(SystemClock)).await {
            Ok(carol) => break carol,
            Err(StartError::Listen { .. }) if begun.elapsed() < PATIENCE => {}
            Err(error) => panic!("{error}"),
        }
    };
    let addresses = carol.listen_addresses();
    assert!(addresses[0].contains("/quic-v1") && addresses[1].contains("/tcp/"), "{addresses:?}");
    assert_eq!(alice.dial(&addresses[0]).await, Ok(carol.local_id()));
    let info = used(&alice, carol.local_id());
    assert!(info.addresses[0].contains("/quic-v1"), "{:?}", info.addresses);
    let record = info.record.unwrap();
    assert_eq!(record.addresses.len(), 2, "the record lists both: {:?}", record.addresses);
}

const ONION: &str = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd";

// row: NET-47
#[tokio::test]
async fn an_onion_only_node_reaches_an_onion_service_and_shows_no_clear_address() {
    let bob = tcp_node(2, Policy::Require).await;
    let service = socket(&bob.listen_addresses()[0]);
    let i2p = format!("{}.b32.i2p", "a".repeat(52));
    let names = HashMap::from([(format!("{ONION}.onion:80"), service), (format!("{i2p}:9700"), service)]);
    let proxy = socks::Socks::start(names).await;
    let own = "/onion3/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:9700";
    let hidden = |listen: &[&str]| {
        let mut config = config(listen);
        config.external_addresses = vec![own.to_owned(), "/ip4/11.0.0.1/tcp/9700".to_owned()];
        config.proxy = Some(Proxy { address: proxy.address, onion_only: true });
        config
    };
    let alice = started(1, hidden(&["/ip4/127.0.0.1/tcp/0"])).await;
    assert_eq!(alice.dial(&format!("/onion3/{ONION}:80")).await, Ok(bob.local_id()));
    let seen = |net: &NetworkHandle, peer| net.peers().into_iter().find(|info| info.id == Some(peer)).unwrap();
    let info = seen(&alice, bob.local_id());
    assert_eq!((info.path, info.key_exchange.as_str()), (Path::Proxied, "X25519MLKEM768"));
    until("bob never accepted", || bob.peers().iter().any(|info| info.record.is_some())).await;
    assert_eq!(seen(&bob, alice.local_id()).record.unwrap().addresses, [own]);
    // By IP address, over QUIC or TCP, it dials nobody, and asks the proxy for nothing clear.
    for clear in [bob.listen_addresses()[0].clone(), format!("/ip4/127.0.0.1/udp/{}/quic-v1", service.port())] {
        let bare = clear.split("/p2p/").next().unwrap();
        assert!(matches!(alice.dial(bare).await, Err(DialError::ClearAddress { .. })), "{bare}");
    }
    let carol = started(3, hidden(&[])).await;
    assert_eq!(carol.dial(&format!("/dns/{i2p}/tcp/9700")).await, Ok(bob.local_id()));
    assert_eq!(*proxy.asked.lock().unwrap(), [format!("{ONION}.onion:80"), format!("{i2p}:9700")]);
    for open in ["/ip4/0.0.0.0/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        let (keys, account) = (HybridKey::generate(&mut rng).unwrap(), AccountKey::generate(&mut rng));
        let refused = start(hidden(&[open]), keys, account, Arc::new(SystemClock)).await;
        let refused = refused.err().expect("no clear socket is opened").to_string();
        assert!(refused.contains("onion-only"), "{refused}");
    }
}

// row: NET-37, NET-47
#[tokio::test]
async fn an_onion_only_node_that_ran_before_is_back_with_an_onion_service_that_nobody_names_to_it() {
    let bob = tcp_node(2, Policy::Require).await;
    let service = socket(&bob.listen_addresses()[0]);
    let proxy = socks::Socks::start(HashMap::from([(format!("{ONION}.onion:80"), service)])).await;
    let folder = std::env::temp_dir().join(format!("trellis-onion-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let with_book = |bootstrap: &[String]| {
        let mut config = config(&[]);
        config.bootstrap = bootstrap.to_vec();
        config.proxy = Some(Proxy { address: proxy.address, onion_only: true });
        let book_file = Some(folder.join("peers.book"));
        let found =
            DiscoveryConfig { book_file, round_ms: 1_000, mdns: false, kad: false, ..DiscoveryConfig::default() };
        config.discovery = Some(found);
        config
    };
    let connected = |net: &NetworkHandle| net.peers().iter().any(|info| info.connected_since.is_some());
    let known = |net: &NetworkHandle| net.discovery().unwrap().book;
    let alice = started(1, with_book(&[format!("/onion3/{ONION}:80")])).await;
    until("alice never knew bob", || connected(&alice) && known(&alice).hidden == 1).await;
    // Bob's record names a clear address, of which an onion-only node has no use.
    assert_eq!((known(&alice).new, known(&alice).tried), (0, 0));
    alice.shutdown().await;
    drop(alice);
    let alice = started(1, with_book(&[])).await;
    until("alice is not back with bob", || connected(&alice)).await;
    let asked = proxy.asked.lock().unwrap().clone();
    assert!(asked.len() >= 2 && asked.iter().all(|name| *name == format!("{ONION}.onion:80")), "{asked:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

// row: NET-47
#[tokio::test]
async fn with_a_proxy_every_dial_goes_through_it_and_a_name_it_does_not_know_is_an_error() {
    let bob = tcp_node(2, Policy::Require).await;
    let service = socket(&bob.listen_addresses()[0]);
    let proxy = socks::Socks::start(HashMap::new()).await;
    let mut through = config(&[]);
    through.proxy = Some(Proxy { address: proxy.address, onion_only: false });
    let alice = started(1, through).await;
    let unknown = alice.dial(&format!("/onion3/{ONION}:80")).await;
    assert!(matches!(&unknown, Err(DialError::Unreachable { .. })), "{unknown:?}");
    // An address for QUIC leads over TCP, because UDP does not pass the proxy.
    let quic = format!("/ip4/127.0.0.1/udp/{}/quic-v1", service.port());
    assert_eq!(alice.dial(&quic).await, Ok(bob.local_id()));
    assert_eq!(*proxy.asked.lock().unwrap(), [format!("{ONION}.onion:80"), service.to_string()]);
}

// row: NET-11
#[tokio::test]
async fn a_tcp_port_that_somebody_has_is_not_shared() {
    let alice = tcp_node(1, Policy::Require).await;
    let port = socket(&alice.listen_addresses()[0]).port();
    let same = config(&[format!("/ip4/127.0.0.1/tcp/{port}").as_str()]);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
    let (keys, account) = (HybridKey::generate(&mut rng).unwrap(), AccountKey::generate(&mut rng));
    let refused = start(same, keys, account, Arc::new(SystemClock)).await.err().expect("the port is taken");
    assert!(matches!(&refused, StartError::Listen { detail, .. } if detail.contains("in use")), "{refused}");
}
