//! Nodes and stock libp2p peers over TCP.

use std::net::SocketAddr;

use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt};
use libp2p::core::transport::{Boxed, ListenerId, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::core::{Multiaddr, Transport};
use libp2p::{noise, tcp, tls, yamux};
use trellis_net_transport::{
    Admission, AdmissionLimits, Direction, NodeTransport, Policy, Session, Sessions, TransportConfig, TransportError,
    TransportMetrics, node_transport,
};

use super::{DIAL, both, keys, next_event};

type BoxedTransport = Boxed<(PeerId, StreamMuxerBox)>;

/// A node of ours that listens on TCP.
pub struct LinkNode {
    pub transport: BoxedTransport,
    pub sessions: Sessions,
    pub metrics: TransportMetrics,
    pub admission: Admission,
    pub address: Multiaddr,
    pub local: PeerId,
}

/// One end of a connection.
pub struct LinkEnd {
    pub muxer: StreamMuxerBox,
    pub session: Session,
}

/// The transport's own error inside the boxed one's.
pub fn named(error: &std::io::Error) -> &TransportError {
    error.get_ref().and_then(|error| error.downcast_ref()).expect("an error of our transport")
}

impl LinkNode {
    pub async fn new(seed: u8, policy: Policy) -> Self {
        Self::with_limits(seed, policy, AdmissionLimits::default()).await
    }

    pub async fn with_limits(seed: u8, policy: Policy, limits: AdmissionLimits) -> Self {
        let mut config = TransportConfig::new(keys(seed), policy);
        config.admission = Admission::new(limits);
        let (metrics, admission) = (config.metrics.clone(), config.admission.clone());
        let NodeTransport { mut transport, sessions, local } = node_transport(config, None).unwrap();
        let address = listen(&mut transport).await;
        Self { transport, sessions, metrics, admission, address, local }
    }

    pub fn socket(&self) -> SocketAddr {
        super::socket(&self.address)
    }

    /// The next inbound connection, upgraded.
    pub async fn inbound(&mut self) -> std::io::Result<LinkEnd> {
        let (upgrade, from) = next_incoming(&mut self.transport).await;
        let (peer, muxer) = upgrade.await?;
        let session = self.sessions.take(peer, &from, Direction::Inbound).expect("a session in the registry");
        Ok(LinkEnd { muxer, session })
    }

    pub fn dial(&mut self, address: Multiaddr) -> impl Future<Output = std::io::Result<LinkEnd>> + use<> {
        let dialing = self.transport.dial(address.clone(), DIAL).unwrap();
        let sessions = self.sessions.clone();
        async move {
            let (peer, muxer) = dialing.await?;
            let session = sessions.take(peer, &address, Direction::Outbound).expect("a session in the registry");
            Ok(LinkEnd { muxer, session })
        }
    }
}

pub async fn next_incoming(
    transport: &mut BoxedTransport,
) -> (<BoxedTransport as Transport>::ListenerUpgrade, Multiaddr) {
    loop {
        if let TransportEvent::Incoming { upgrade, send_back_addr, .. } = next_event(transport).await {
            return (upgrade, send_back_addr);
        }
    }
}

async fn listen(transport: &mut BoxedTransport) -> Multiaddr {
    transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let TransportEvent::NewAddress { listen_addr, .. } = next_event(transport).await else {
        panic!("a listen address comes first")
    };
    listen_addr
}

/// Both ends of a dial between two nodes of ours.
pub async fn connect_over_tcp(
    dialer: &mut LinkNode,
    listener: &mut LinkNode,
) -> (std::io::Result<LinkEnd>, std::io::Result<LinkEnd>) {
    let dialing = dialer.dial(listener.address.clone());
    let (at_dialer, at_listener) = both(dialing, listener.inbound()).await;
    (at_dialer.expect("the dialer hears something"), at_listener.expect("the listener hears something"))
}

/// Drives a connection until it ends; its streams are nobody's business.
pub fn drive(mut muxer: StreamMuxerBox) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(stream) = std::future::poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await {
            tokio::spawn(async move {
                let mut stream = stream;
                let mut first = [0u8; 1];
                let _ = futures::AsyncReadExt::read(&mut stream, &mut first).await;
            });
        }
    })
}

/// What a stock peer secures its TCP connections with.
#[derive(Clone, Copy, Debug)]
pub enum Secured {
    Tls,
    Noise,
}

/// Unmodified libp2p over TCP.
pub struct StockTcp {
    transport: BoxedTransport,
    address: Multiaddr,
}

pub type StockTcpEnd = std::io::Result<(PeerId, StreamMuxerBox)>;

impl StockTcp {
    pub async fn new(secured: Secured) -> Self {
        let identity = libp2p::identity::Keypair::generate_ed25519();
        let tcp = tcp::tokio::Transport::new(tcp::Config::new()).upgrade(Version::V1);
        let mut transport = match secured {
            Secured::Tls => {
                tcp.authenticate(tls::Config::new(&identity).unwrap()).multiplex(yamux::Config::default()).boxed()
            }
            Secured::Noise => {
                tcp.authenticate(noise::Config::new(&identity).unwrap()).multiplex(yamux::Config::default()).boxed()
            }
        };
        let address = listen(&mut transport).await;
        Self { transport, address }
    }

    /// Stock dials a node of ours.
    pub async fn dial(&mut self, ours: &mut LinkNode) -> (std::io::Result<LinkEnd>, StockTcpEnd) {
        let dialing = self.transport.dial(ours.address.clone(), DIAL).unwrap();
        let (at_us, at_stock) = both(ours.inbound(), dialing).await;
        (at_us.unwrap(), at_stock.unwrap())
    }

    /// A node of ours dials stock.
    pub async fn dialed_by(&mut self, ours: &mut LinkNode) -> (std::io::Result<LinkEnd>, StockTcpEnd) {
        let dialing = ours.dial(self.address.clone());
        let inbound = async { next_incoming(&mut self.transport).await.0.await };
        let (at_us, at_stock) = both(dialing, inbound).await;
        (at_us.unwrap(), at_stock.unwrap())
    }
}
