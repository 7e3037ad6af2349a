//! A rig without a swarm: nodes whose transport is polled by hand, stock libp2p, and raw QUIC peers that misbehave.

pub mod link;
mod raw;
mod relay;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use libp2p::PeerId;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Endpoint, Multiaddr, Transport};
use rand::SeedableRng;
use trellis_crypto::HybridKey;
use trellis_net_transport::{
    AdmitFn, Connection, Policy, QuicTransport, TransportConfig, TransportError, TransportMetrics,
};

pub use raw::{RawPeer, raw_dial, raw_tcp_dial};
pub use relay::Relay;

pub const DIAL: DialOpts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the other side may stay silent after one side has finished, where it is to hear something.
const GRACE: Duration = Duration::from_secs(60);
/// The same where it may be that it never hears anything.
const SILENCE: Duration = Duration::from_secs(2);

pub async fn next_event<T: Transport + Unpin>(transport: &mut T) -> TransportEvent<T::ListenerUpgrade, T::Error> {
    std::future::poll_fn(|cx| Pin::new(&mut *transport).poll(cx)).await
}

pub fn keys(seed: u8) -> Arc<HybridKey> {
    let mut rng = rand::rngs::StdRng::seed_from_u64(u64::from(seed));
    Arc::new(HybridKey::generate(&mut rng).unwrap())
}

pub struct End {
    pub connection: Connection,
}

pub struct Node {
    pub transport: QuicTransport,
    pub metrics: TransportMetrics,
    pub address: Multiaddr,
}

impl Node {
    pub async fn new(seed: u8, policy: Policy) -> Self {
        Self::build(seed, policy, None).await
    }

    pub async fn with_admit(seed: u8, admit: AdmitFn) -> Self {
        Self::build(seed, Policy::Require, Some(admit)).await
    }

    async fn build(seed: u8, policy: Policy, admit: Option<AdmitFn>) -> Self {
        let mut config = TransportConfig::new(keys(seed), policy);
        config.admit = admit;
        let metrics = config.metrics.clone();
        let mut transport = QuicTransport::new(config).unwrap();
        transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).unwrap();
        let TransportEvent::NewAddress { listen_addr, .. } = next_event(&mut transport).await else {
            panic!("a listen address comes first")
        };
        Self { transport, metrics, address: listen_addr }
    }

    pub fn socket(&self) -> SocketAddr {
        socket(&self.address)
    }

    /// The next inbound connection, upgraded.
    pub async fn inbound(&mut self) -> Result<End, TransportError> {
        loop {
            if let TransportEvent::Incoming { upgrade, .. } = next_event(&mut self.transport).await {
                // The endpoint is driven by its own task, so the transport need not be polled meanwhile.
                return upgrade.await.map(|(_, connection)| End { connection });
            }
        }
    }

    pub fn dial(&mut self, address: Multiaddr) -> impl Future<Output = Result<End, TransportError>> + use<> {
        let dialing = self.transport.dial(address, DIAL).unwrap();
        async move { dialing.await.map(|(_, connection)| End { connection }) }
    }
}

pub fn socket(address: &Multiaddr) -> SocketAddr {
    use libp2p::multiaddr::Protocol;
    let mut parts = address.iter();
    match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Udp(port) | Protocol::Tcp(port))) => (ip, port).into(),
        other => panic!("{other:?}"),
    }
}

/// Both ends of one attempt. `None` if one side heard nothing although the other has finished.
pub async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (Option<A>, Option<B>) {
    both_within(a, b, GRACE).await
}

async fn both_within<A, B>(
    a: impl Future<Output = A>,
    b: impl Future<Output = B>,
    grace: Duration,
) -> (Option<A>, Option<B>) {
    futures::pin_mut!(a, b);
    let first = tokio::time::timeout(PATIENCE, futures::future::select(a, b)).await.expect("one side finishes in time");
    match first {
        Either::Left((a, b)) => (Some(a), tokio::time::timeout(grace, b).await.ok()),
        Either::Right((b, a)) => (tokio::time::timeout(grace, a).await.ok(), Some(b)),
    }
}

type Ends = (Result<End, TransportError>, Option<Result<End, TransportError>>);

pub async fn dial_address(dialer: &mut Node, listener: &mut Node, address: Multiaddr) -> Ends {
    let dialing = dialer.dial(address);
    // A listener that refuses before the handshake never reports anything.
    let (at_dialer, at_listener) = both_within(dialing, listener.inbound(), SILENCE).await;
    (at_dialer.expect("the dialer hears something"), at_listener)
}

pub async fn connect(
    dialer: &mut Node,
    listener: &mut Node,
) -> (Result<End, TransportError>, Result<End, TransportError>) {
    let dialing = dialer.dial(listener.address.clone());
    let (at_dialer, at_listener) = both(dialing, listener.inbound()).await;
    (at_dialer.expect("the dialer hears something"), at_listener.expect("the listener hears something"))
}

/// Unmodified libp2p-quic.
pub struct Stock {
    transport: libp2p_quic::tokio::Transport,
    address: Multiaddr,
}

pub type StockEnd = Result<(PeerId, libp2p_quic::Connection), libp2p_quic::Error>;

impl Stock {
    pub async fn new() -> Self {
        let identity = libp2p::identity::Keypair::generate_ed25519();
        let mut transport = libp2p_quic::tokio::Transport::new(libp2p_quic::Config::new(&identity));
        transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).unwrap();
        let TransportEvent::NewAddress { listen_addr, .. } = next_event(&mut transport).await else {
            panic!("a listen address comes first")
        };
        Self { transport, address: listen_addr }
    }

    /// Stock dials a node of ours.
    pub async fn dial(&mut self, ours: &mut Node) -> (Result<End, TransportError>, StockEnd) {
        let dialing = self.transport.dial(ours.address.clone(), DIAL).unwrap();
        let (at_us, at_stock) = both(ours.inbound(), dialing).await;
        (at_us.unwrap(), at_stock.unwrap())
    }

    /// A node of ours dials stock.
    pub async fn dialed_by(&mut self, ours: &mut Node) -> (Result<End, TransportError>, StockEnd) {
        let dialing = ours.dial(self.address.clone());
        let inbound = async {
            loop {
                if let TransportEvent::Incoming { upgrade, .. } = next_event(&mut self.transport).await {
                    return upgrade.await;
                }
            }
        };
        let (at_us, at_stock) = both(dialing, inbound).await;
        (at_us.unwrap(), at_stock.unwrap())
    }
}
