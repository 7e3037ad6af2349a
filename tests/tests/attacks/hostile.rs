//! Attackers and honest peers of real nodes, each at an address of its own in the laboratory.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::Transport;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse};
use libp2p::core::{Endpoint, Multiaddr};
use rand::SeedableRng;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_net_peers::{NetConfig, NetMetrics, NetworkHandle, start_with_metrics};
use trellis_net_transport::{Policy, QuicTransport, TransportConfig};
use trellis_primitives::{B256, NodeId, SystemClock};

/// What a peer has to know of a network to be let in.
#[derive(Clone, Copy)]
pub struct World {
    pub chain_id: u64,
    pub magic: u32,
    pub genesis: B256,
}

impl World {
    pub fn config(&self, ip: Ipv4Addr) -> NetConfig {
        let mut config = NetConfig::new(self.chain_id, self.magic, self.genesis);
        config.listen = vec![format!("/ip4/{ip}/udp/0/quic-v1")];
        config
    }
}

/// A runtime that stays on the calling thread, and with it in the laboratory's host.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(work)
}

fn keys(seed: u64) -> (HybridKey, AccountKey) {
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    (HybridKey::generate(&mut rng).expect("keys"), AccountKey::generate(&mut rng))
}

pub fn id(seed: u64) -> NodeId {
    keys(seed).0.node_id()
}

/// A whole node that speaks every protocol of the network.
pub async fn node(seed: u64, config: NetConfig) -> (NetworkHandle, NetMetrics) {
    let (node, account) = keys(seed);
    let metrics = NetMetrics::default();
    let started = start_with_metrics(config, node, account, Arc::new(SystemClock), metrics.clone()).await;
    (started.expect("the node starts"), metrics)
}

/// Only a transport: it makes encrypted connections and never shakes hands.
pub fn transport(seed: u64, ip: Ipv4Addr) -> QuicTransport {
    let config = TransportConfig::new(Arc::new(keys(seed).0), Policy::Require);
    let mut transport = QuicTransport::new(config).expect("transport");
    let address = format!("/ip4/{ip}/udp/0/quic-v1").parse().expect("address");
    transport.listen_on(ListenerId::next(), address).expect("an address of this host");
    transport
}

pub fn dial(transport: &mut QuicTransport, to: SocketAddr) -> impl Future<Output = bool> + Send + 'static + use<> {
    let address: Multiaddr = format!("/ip4/{}/udp/{}/quic-v1", to.ip(), to.port()).parse().expect("address");
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
    let dialing = transport.dial(address, options).expect("the dial begins");
    async move {
        match dialing.await {
            // Held for a while, as somebody would who wants the places.
            Ok((_, connection)) => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                drop(connection);
                true
            }
            Err(_) => false,
        }
    }
}

/// Connection ids of an Initial packet: what tells one attempt from another.
fn attempt(datagram: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*datagram.get(5)?);
    datagram.get(6..6 + length)
}

/// Records the first flights of so many handshakes: all datagrams of each.
pub fn record_first_flights(seed: u64, ip: Ipv4Addr, count: usize) -> Vec<Vec<Vec<u8>>> {
    let trap = UdpSocket::bind((ip, 0)).expect("a socket");
    trap.set_nonblocking(true).expect("non-blocking");
    let to = trap.local_addr().expect("address");
    let mut flights: std::collections::BTreeMap<Vec<u8>, Vec<Vec<u8>>> = std::collections::BTreeMap::new();
    block_on(async {
        let mut transport = transport(seed, ip);
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..count {
            running.spawn(dial(&mut transport, to));
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let whole =
            |flights: &std::collections::BTreeMap<_, Vec<Vec<u8>>>| flights.values().filter(|f| f.len() >= 2).count();
        while whole(&flights) < count && Instant::now() < deadline {
            let mut buffer = [0; 2_048];
            while let Ok((read, _)) = trap.recv_from(&mut buffer) {
                let Some(datagram) = buffer.get(..read) else { continue };
                let Some(name) = attempt(datagram) else { continue };
                let flight = flights.entry(name.to_vec()).or_default();
                if flight.len() < 2 && !flight.iter().any(|known| known == datagram) {
                    flight.push(datagram.to_vec());
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        running.abort_all();
    });
    flights.into_values().filter(|flight| flight.len() >= 2).take(count).collect()
}

/// Sends datagrams from an address, each time from a new port.
pub fn send_from(ip: Ipv4Addr, to: SocketAddr, datagrams: &[Vec<u8>]) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a socket");
    for datagram in datagrams {
        let _ = socket.send_to(datagram, to);
    }
    socket
}
