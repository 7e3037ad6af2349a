//! A node whose network changes under it, and a STUN server of its own (RFC 5780) on loopback.

use std::time::Instant;

use rand::SeedableRng;
use tokio::net::UdpSocket;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_net_reach::{Findings, ServerFinding, TcpCheck};
use trellis_primitives::{B256, SystemClock};

use super::*;
use crate::config::NetConfig;
use crate::metrics::NetMetrics;
use crate::network::NetworkHandle;
use crate::service::handle::NetHandle;
use crate::service::start_node;

fn of(texts: &[&str]) -> Vec<Multiaddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

// row: NET-40
#[test]
fn a_node_that_listens_at_loopback_alone_asks_nobody_elsewhere() {
    let servers = ["127.0.0.1:3478", "stun.example:3478"].map(str::to_owned);
    assert_eq!(asked(&servers, &of(&["/ip4/127.0.0.1/udp/1/quic-v1"])), servers[..1]);
    assert_eq!(asked(&servers, &[]), servers[..1]);
    let both = of(&["/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/192.168.1.10/udp/1/quic-v1"]);
    assert_eq!(asked(&servers, &both), servers);
}

// row: NET-40
#[test]
fn where_stun_sees_the_port_unchanged_every_port_listened_at_is_a_candidate_and_nowhere_else() {
    let server = ServerFinding {
        address: "11.200.0.2:3478".parse().unwrap(),
        seen: Some("11.1.0.2:40000".parse().unwrap()),
        rtt_ms: Some(1),
        rfc5780: true,
    };
    let local = Some("192.168.1.10:40000".parse().unwrap());
    let v4 = Findings { servers: vec![server], local, ..Findings::default() };
    let mut survey = StunSurvey { resolved: Vec::new(), v4, v6: Findings::default(), tcp: TcpCheck::NotNeeded };
    let listening = of(&["/ip4/127.0.0.1/tcp/7", "/ip4/192.168.1.10/udp/9700/quic-v1", "/ip4/192.168.1.10/tcp/9700"]);
    let mut found = places(&survey, &listening);
    found.sort();
    let mut all = of(&["/ip4/11.1.0.2/udp/9700/quic-v1", "/ip4/11.1.0.2/tcp/9700", "/ip4/11.1.0.2/tcp/7"]);
    all.sort();
    assert_eq!(found, all);
    survey.v4.servers[0].seen = Some("11.1.0.2:23456".parse().unwrap());
    assert!(places(&survey, &listening).is_empty(), "another port says nothing about the others");
}

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

async fn node(seed: u64, change: impl FnOnce(&mut NetConfig)) -> (Arc<NodeShared>, NetworkHandle) {
    let mut config = NetConfig::new(97_001, 0x5452_4c53, B256::repeat_byte(7));
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    change(&mut config);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (keys, account) = (HybridKey::generate(&mut rng).unwrap(), AccountKey::generate(&mut rng));
    let shared = start_node(config, keys, account, Arc::new(SystemClock), NetMetrics::default()).await.unwrap();
    (Arc::clone(&shared), Arc::new(NetHandle::new(shared)))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// row: NET-40, NET-45
#[tokio::test(flavor = "multi_thread")]
async fn in_another_network_nothing_that_was_confirmed_counts_and_the_same_peers_are_asked_again() {
    // A peer in the open tries others' addresses.
    let open = |config: &mut NetConfig| config.external_addresses = vec!["/ip4/8.8.8.8/udp/1/quic-v1".to_owned()];
    let (peer, peer_net) = node(1, open).await;
    let (shared, net) = node(2, |_| {}).await;
    net.dial(&peer_net.listen_addresses()[0]).await.unwrap();
    let confirmed = || shared.reach_report().confirmed;
    until("no address is confirmed", || !confirmed().is_empty()).await;
    let before = confirmed();
    shared.reach.way.lock().judged(NatKind::PortRestricted);
    // Held, so that what comes after cannot be told from what was before by luck.
    shared.network_changed().await;
    let at_once = (shared.reach.way.lock().nat(), shared.reach.metrics.network_changed.get());
    assert_eq!(at_once, (None, 1));
    until("the addresses are not tried again", || confirmed() == before).await;
    assert!(peer.reach_report().confirmed.is_empty(), "nobody in the open was there for the other");
}

/// The attribute of a STUN message, and its value's length in front of it.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    [&kind.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
}

/// An IPv4 address as STUN writes it, disguised with the magic cookie or not.
fn written(address: SocketAddr, mask: [u8; 4]) -> Vec<u8> {
    let IpAddr::V4(ip) = address.ip() else { panic!("IPv4 only") };
    let port = address.port() ^ u16::from_be_bytes([mask[0], mask[1]]);
    let octets: Vec<u8> = ip.octets().iter().zip(mask).map(|(octet, mask)| octet ^ mask).collect();
    [&[0, 1][..], &port.to_be_bytes(), &octets].concat()
}

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// What a request asks to be changed in its answer: the address, the port, and where the answer goes.
fn wishes(request: &[u8]) -> (bool, bool, Option<u16>) {
    let (mut rest, mut found) = (&request[20..], (false, false, None));
    while rest.len() >= 4 {
        let kind = u16::from_be_bytes([rest[0], rest[1]]);
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let value = &rest[4..4 + length];
        match kind {
            0x0003 => (found.0, found.1) = (value[3] & 4 != 0, value[3] & 2 != 0),
            0x0027 => found.2 = Some(u16::from_be_bytes([value[0], value[1]])),
            _ => {}
        }
        rest = &rest[(4 + length.next_multiple_of(4)).min(rest.len())..];
    }
    found
}

/// A STUN server with two addresses and two ports, which answers from where it is asked to.
async fn stun_server() -> SocketAddr {
    let bind = async |host: &str| Arc::new(UdpSocket::bind(format!("{host}:0")).await.unwrap());
    let first = bind("127.0.0.1").await;
    let second = bind("127.0.0.2").await;
    let (own, other) = (first.local_addr().unwrap(), second.local_addr().unwrap());
    let third = Arc::new(UdpSocket::bind(SocketAddr::new(own.ip(), other.port())).await.unwrap());
    let fourth = Arc::new(UdpSocket::bind(SocketAddr::new(other.ip(), own.port())).await.unwrap());
    let all = [first, second, third, fourth];
    for socket in all.clone() {
        let all = all.clone();
        tokio::spawn(async move {
            let mut buffer = [0u8; 1_500];
            while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                let (asked, (change_ip, change_port, response_port)) =
                    (socket.local_addr().unwrap(), wishes(&buffer[..count]));
                let ip = if change_ip == (asked.ip() == own.ip()) { other.ip() } else { own.ip() };
                let port = if change_port == (asked.port() == own.port()) { other.port() } else { own.port() };
                let body =
                    [attribute(0x0020, &written(from, COOKIE)), attribute(0x802c, &written(other, [0; 4]))].concat();
                let length = u16::try_from(body.len()).unwrap();
                let answer = [&[1, 1][..], &length.to_be_bytes(), &buffer[4..20], &body].concat();
                let speaks = all.iter().find(|one| one.local_addr().unwrap() == SocketAddr::new(ip, port)).unwrap();
                let to = SocketAddr::new(from.ip(), response_port.unwrap_or(from.port()));
                let _ = speaks.send_to(&answer, to).await;
            }
        });
    }
    own
}

// row: NET-40
#[tokio::test(flavor = "multi_thread")]
async fn a_node_asks_its_stun_servers_at_the_start_and_after_a_change_and_goes_on_with_one_that_answers() {
    let (dead, alive) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), stun_server().await);
    let servers = vec![dead.local_addr().unwrap().to_string(), alive.to_string()];
    let (shared, _net) = node(3, |config| config.stun_servers = servers).await;
    let judged = || shared.reach_report().nat == Some(NatKind::Open);
    until("STUN tells nothing", judged).await;
    shared.network_changed().await;
    assert_eq!(shared.reach_report().nat, None, "what was asked before the change counts");
    until("STUN is not asked again", judged).await;
}
