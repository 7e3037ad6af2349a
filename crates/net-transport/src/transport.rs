//! The libp2p `Transport`: multiaddresses, sockets, listeners and dials over quinn.
//!
//! A listener never starts cryptography: it asks the admission, and hands the swarm an un-accepted first packet whose
//! upgrade future does the rest. Dials reuse the listener's port where there is one.

mod address;
mod fresh;
mod listener;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use aws_lc_rs::hmac;
use futures::future::BoxFuture;
use futures::stream::{SelectAll, StreamExt};
use libp2p::PeerId;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError as CoreError, TransportEvent};
use libp2p::core::{Endpoint, Multiaddr, Transport};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AsyncUdpSocket, Runtime};
use quinn_proto::HashedConnectionIdGenerator;

use self::address::parse;
pub(crate) use self::address::{format as format_address, parse as parse_address};
use self::fresh::{FreshPorts, Made};
use self::listener::{Listener, ListenerParts};
use crate::config::{PUNCH_TIMEOUT_MS, TransportConfig, quinn_transport};
use crate::connection::Connection;
use crate::error::{TransportError, TransportSetupError};
use crate::far::Far;
use crate::kex::{RecordingClient, RecordingServer};
use crate::prefilter::{Prefilter, PrefilterParts};
use crate::session::Sessions;
use crate::socket::{FilteringSocket, bind};
use crate::tls::{TlsConfigs, tls_configs};
use crate::upgrade::{UpgradeContext, within};

/// rustls wants a name; SNI is off, so it never leaves this process.
const SERVER_NAME: &str = "l";
const RESET_DOMAIN: &[u8] = b"trellis/quic-reset/1";
const CID_DOMAIN: &[u8] = b"trellis/quic-cid/1";

/// Datagrams joined to one that an endpoint for trials takes: a whole handshake, and a quarter of the memory that quinn
/// otherwise takes for each endpoint (3 MiB). What is longer is cut off and sent again.
const TRIAL_JOINED_MAX: usize = 16;

/// What an endpoint is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// It takes connections, and dials.
    Listens,
    /// It dials, at a node that does not listen.
    Dials,
    /// It tries addresses for others.
    Tries,
}

/// QUIC with libp2p certificates, the hybrid key exchange and ML-DSA-65 identities.
pub struct QuicTransport {
    parts: Arc<EndpointParts>,
    listeners: SelectAll<Listener>,
    /// One dialling endpoint per address family, for nodes that do not listen.
    dialers: HashMap<bool, Made>,
    /// Per address family, ports from which nobody was dialled long ago.
    fresh: HashMap<bool, FreshPorts>,
    waker: Option<Waker>,
}

/// What every endpoint of one node is made of.
struct EndpointParts {
    config: TransportConfig,
    client: quinn::ClientConfig,
    server: quinn::ServerConfig,
    reset_key: Arc<ResetKey>,
    cid_key: u64,
    upgrade: Arc<UpgradeContext>,
}

/// The key of stateless resets, through aws-lc like everything else (quinn's own choice depends on who else is built).
struct ResetKey(hmac::Key);

impl quinn::crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        for (to, from) in signature_out.iter_mut().zip(hmac::sign(&self.0, data).as_ref()) {
            *to = *from;
        }
    }

    fn signature_len(&self) -> usize {
        hmac::HMAC_SHA256.digest_algorithm().output_len()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn::crypto::CryptoError> {
        hmac::verify(&self.0, data, signature).map_err(|_| quinn::crypto::CryptoError)
    }
}

impl QuicTransport {
    /// A transport that listens nowhere yet.
    ///
    /// # Errors
    /// [`TransportSetupError`] if the identity or TLS cannot be set up.
    pub fn new(config: TransportConfig) -> Result<Self, TransportSetupError> {
        let upgrade = Arc::new(UpgradeContext::new(&config)?);
        let tls = tls_configs(&upgrade.identity, upgrade.policy)?;
        Self::with(config, upgrade, tls)
    }

    /// A transport that shares identity, certificate and registry with others of the same node.
    pub(crate) fn with(
        config: TransportConfig,
        upgrade: Arc<UpgradeContext>,
        tls: TlsConfigs,
    ) -> Result<Self, TransportSetupError> {
        let transport = Arc::new(quinn_transport(config.congestion));
        let client = Arc::new(QuicClientConfig::try_from(tls.client)?);
        let mut client = quinn::ClientConfig::new(Arc::new(RecordingClient(client)));
        client.transport_config(Arc::clone(&transport));
        let server = Arc::new(QuicServerConfig::try_from(tls.server)?);
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(RecordingServer(server)));
        server.transport_config(transport);
        // A home that gets a new public address keeps its connections: the peer checks the new path and goes on (NET-45,
        // RFC 9000 section 9). The swarm goes on showing the address where the connection began.
        server.migration(true);

        // Both keys come from the identity: a node that restarts resets the connections of its former life at once.
        let seed = config.keys.libp2p_seed();
        let reset_secret = trellis_crypto::sha3_256(&[RESET_DOMAIN, seed.as_slice()]);
        let cid_secret = trellis_crypto::sha3_256(&[CID_DOMAIN, seed.as_slice()]);
        let cid_key = cid_secret.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let parts = EndpointParts {
            reset_key: Arc::new(ResetKey(hmac::Key::new(hmac::HMAC_SHA256, &reset_secret))),
            cid_key,
            client,
            server,
            upgrade,
            config,
        };
        Ok(Self {
            parts: Arc::new(parts),
            listeners: SelectAll::new(),
            dialers: HashMap::new(),
            fresh: HashMap::new(),
            waker: None,
        })
    }

    /// The registry in which each established connection's session waits to be taken.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        self.parts.upgrade.sessions.clone()
    }

    /// This node's PeerId.
    #[must_use]
    pub fn local_peer_id(&self) -> PeerId {
        self.parts.upgrade.local
    }

    fn dialing_endpoint(&mut self, remote: SocketAddr, reuse: PortUse) -> Result<quinn::Endpoint, TransportError> {
        let any_port = match remote {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        if reuse == PortUse::New {
            let parts = &self.parts;
            let fresh = self.fresh.entry(remote.is_ipv6()).or_default();
            return fresh.endpoint(|| parts.made(any_port, Purpose::Tries), |endpoint| parts.renew(endpoint, any_port));
        }
        if let Some(listener) = self.listeners.iter().find(|listener| listener.can_dial(remote)) {
            return Ok(listener.endpoint());
        }
        if let Some(dialer) = self.dialers.get(&remote.is_ipv6()).filter(|dialer| !dialer.has_stopped()) {
            return Ok(dialer.endpoint.clone());
        }
        let dialer = self.parts.made(any_port, Purpose::Dials)?;
        let endpoint = dialer.endpoint.clone();
        self.dialers.insert(remote.is_ipv6(), dialer);
        Ok(endpoint)
    }
}

impl EndpointParts {
    fn made(&self, address: SocketAddr, purpose: Purpose) -> Result<Made, TransportError> {
        let socket = quinn::TokioRuntime.wrap_udp_socket(bind(address)?)?;
        Ok(self.made_over(socket, purpose)?)
    }

    /// Moves an endpoint to another port; the socket there.
    fn renew(&self, endpoint: &quinn::Endpoint, address: SocketAddr) -> Result<Arc<FilteringSocket>, TransportError> {
        let socket = quinn::TokioRuntime.wrap_udp_socket(bind(address)?)?;
        let socket = self.filtered(socket, Purpose::Tries);
        endpoint.rebind_abstract(Arc::<FilteringSocket>::clone(&socket))?;
        Ok(socket)
    }

    /// The endpoint over the far socket; it takes connections too, from whom the far side lets in.
    async fn far_endpoint(&self, far: &Far) -> Result<quinn::Endpoint, TransportError> {
        far.endpoint(|socket| self.endpoint_over(socket, Purpose::Listens)).await.map_err(TransportError::Far)
    }

    fn endpoint_over(&self, socket: Arc<dyn AsyncUdpSocket>, purpose: Purpose) -> std::io::Result<quinn::Endpoint> {
        self.made_over(socket, purpose).map(|made| made.endpoint)
    }

    fn made_over(&self, socket: Arc<dyn AsyncUdpSocket>, purpose: Purpose) -> std::io::Result<Made> {
        let cid_key = self.cid_key;
        let server = (purpose == Purpose::Listens).then(|| self.server.clone());
        let socket = self.filtered(socket, purpose);
        let mut config = quinn::EndpointConfig::new(Arc::clone(&self.reset_key) as _);
        config.supported_versions(vec![1]);
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
        let runtime = Arc::new(quinn::TokioRuntime);
        let abstracted = Arc::<FilteringSocket>::clone(&socket);
        let mut endpoint = quinn::Endpoint::new_with_abstract_socket(config, server, abstracted, runtime)?;
        endpoint.set_default_client_config(self.client.clone());
        Ok(Made { endpoint, socket })
    }

    /// A socket that keeps what no endpoint should see from it; where connections are taken, also who may not come.
    fn filtered(&self, socket: Arc<dyn AsyncUdpSocket>, purpose: Purpose) -> Arc<FilteringSocket> {
        let metrics = &self.config.metrics;
        let filter = (purpose == Purpose::Listens).then(|| {
            Prefilter::new(PrefilterParts {
                admission: self.config.admission.clone(),
                gate: self.config.gate.clone(),
                flooded: self.config.flooded.clone(),
                crypto: Arc::clone(&self.server.crypto),
                turned_away: metrics.admission_refused.clone(),
                unanswered: metrics.admission_unanswered.clone(),
            })
        });
        let joined_max = if purpose == Purpose::Tries { TRIAL_JOINED_MAX } else { usize::MAX };
        FilteringSocket::wrap(socket, self.cid_key, metrics.garbage.clone(), filter, joined_max)
    }
}

impl Transport for QuicTransport {
    type Output = (PeerId, Connection);
    type Error = TransportError;
    type ListenerUpgrade = BoxFuture<'static, Result<Self::Output, Self::Error>>;
    type Dial = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), CoreError<Self::Error>> {
        let Some((socket_address, _)) = parse(&address) else {
            return Err(CoreError::MultiaddrNotSupported(address));
        };
        if self.parts.config.proxy.as_ref().is_some_and(|proxy| proxy.onion_only) {
            return Err(CoreError::Other(TransportError::ClearAddress(address)));
        }
        let far = self.parts.config.far.as_ref();
        let far = far.and_then(|far| {
            far.endpoint_at(socket_address, |socket| self.parts.endpoint_over(socket, Purpose::Listens))
        });
        let turned = far.is_some();
        let endpoint = match far {
            Some(endpoint) => endpoint.map_err(|error| CoreError::Other(TransportError::Far(error)))?,
            None => self.parts.made(socket_address, Purpose::Listens).map_err(CoreError::Other)?.endpoint,
        };
        let parts = ListenerParts {
            admission: self.parts.config.admission.clone(),
            admit: self.parts.config.admit.clone(),
            metrics: self.parts.config.metrics.clone(),
            upgrade: Arc::clone(&self.parts.upgrade),
            turned,
        };
        self.listeners.push(Listener::new(id, endpoint, parts).map_err(|error| CoreError::Other(error.into()))?);
        if !turned {
            self.dialers.remove(&socket_address.is_ipv6());
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        match self.listeners.iter_mut().find(|listener| listener.id() == id) {
            Some(listener) => {
                listener.close();
                true
            }
            None => false,
        }
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, CoreError<Self::Error>> {
        let parsed = parse(&address).filter(|(socket, _)| socket.port() != 0 && !socket.ip().is_unspecified());
        // UDP does not pass a SOCKS5 proxy here, and beside the proxy nothing is dialled.
        let Some((remote, expected)) = parsed.filter(|_| self.parts.config.proxy.is_none()) else {
            return Err(CoreError::MultiaddrNotSupported(address));
        };
        self.parts.config.tell_dialled(remote.ip());
        if let Some(far) = self.parts.config.far.as_ref().filter(|far| far.is_switched()) {
            let (far, parts) = (far.clone(), Arc::clone(&self.parts));
            return Ok(Box::pin(async move {
                let endpoint = parts.far_endpoint(&far).await?;
                far.admit(remote).await.map_err(TransportError::Far)?;
                let connecting = endpoint.connect_with(parts.client.clone(), remote, SERVER_NAME)?;
                parts.upgrade.outbound(connecting, expected, true).await
            }));
        }
        let endpoint = self.dialing_endpoint(remote, options.port_use).map_err(CoreError::Other)?;
        let upgrade = Arc::clone(&self.parts.upgrade);
        let client = self.parts.client.clone();
        let punches = options.role == Endpoint::Listener;
        Ok(Box::pin(async move {
            let connecting = endpoint.connect_with(client, remote, SERVER_NAME)?;
            let dialled = upgrade.outbound(connecting, expected, false);
            if punches { within(PUNCH_TIMEOUT_MS, dialled).await } else { dialled.await }
        }))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        if let Poll::Ready(Some(event)) = self.listeners.poll_next_unpin(cx) {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use futures::task::AtomicWaker;
    use rand::SeedableRng;
    use std::sync::atomic::{AtomicBool, Ordering};

    // row: NET-40, NET-56
    #[tokio::test]
    async fn trials_in_a_row_leave_from_one_port_that_is_not_the_listeners() {
        let keys = trellis_crypto::HybridKey::generate(&mut rand::rngs::StdRng::seed_from_u64(7)).unwrap();
        let mut transport = QuicTransport::new(TransportConfig::new(Arc::new(keys), Policy::Require)).unwrap();
        transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()).unwrap();
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let mut port = |reuse| transport.dialing_endpoint(remote, reuse).unwrap().local_addr().unwrap().port();
        let (listener, trial) = (port(PortUse::Reuse), port(PortUse::New));
        assert_ne!(trial, listener);
        assert_eq!((port(PortUse::New), port(PortUse::Reuse)), (trial, listener));
    }

    // row: NET-40, NET-56
    #[tokio::test]
    async fn later_trials_leave_from_another_port_of_the_same_endpoint() {
        let keys = trellis_crypto::HybridKey::generate(&mut rand::rngs::StdRng::seed_from_u64(8)).unwrap();
        let mut transport = QuicTransport::new(TransportConfig::new(Arc::new(keys), Policy::Require)).unwrap();
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let first = transport.dialing_endpoint(remote, PortUse::New).unwrap();
        let port = first.local_addr().unwrap().port();
        transport.fresh.get_mut(&false).unwrap().expire();
        let second = transport.dialing_endpoint(remote, PortUse::New).unwrap();
        assert_ne!(second.local_addr().unwrap().port(), port);
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap(), "one endpoint, with one set of buffers");
        // A trial that is under way keeps its port; the next has another endpoint.
        let _trial = first.connect(remote, SERVER_NAME).unwrap();
        transport.fresh.get_mut(&false).unwrap().expire();
        let third = transport.dialing_endpoint(remote, PortUse::New).unwrap();
        assert_ne!(third.local_addr().unwrap(), first.local_addr().unwrap());
    }
    /// A socket that fails when it is told to.
    #[derive(Debug)]
    struct Breaking {
        inner: Arc<dyn AsyncUdpSocket>,
        broken: Arc<(AtomicBool, AtomicWaker)>,
    }

    impl AsyncUdpSocket for Breaking {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn quinn::UdpPoller>> {
            Arc::clone(&self.inner).create_io_poller()
        }

        fn try_send(&self, transmit: &quinn::udp::Transmit<'_>) -> std::io::Result<()> {
            self.inner.try_send(transmit)
        }

        fn poll_recv(
            &self,
            cx: &mut Context<'_>,
            bufs: &mut [std::io::IoSliceMut<'_>],
            meta: &mut [quinn::udp::RecvMeta],
        ) -> Poll<std::io::Result<usize>> {
            self.broken.1.register(cx.waker());
            if self.broken.0.load(Ordering::SeqCst) {
                return Poll::Ready(Err(std::io::Error::other("the network device is gone")));
            }
            self.inner.poll_recv(cx, bufs, meta)
        }

        fn local_addr(&self) -> std::io::Result<SocketAddr> {
            self.inner.local_addr()
        }
    }

    // row: NET-40
    #[tokio::test]
    async fn an_endpoint_whose_socket_failed_is_let_go_and_the_next_dial_has_another() {
        let keys = trellis_crypto::HybridKey::generate(&mut rand::rngs::StdRng::seed_from_u64(9)).unwrap();
        let mut transport = QuicTransport::new(TransportConfig::new(Arc::new(keys), Policy::Require)).unwrap();
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let broken = Arc::new((AtomicBool::new(false), AtomicWaker::new()));
        let parts = Arc::clone(&transport.parts);
        let breaking = |purpose| {
            let inner = quinn::TokioRuntime.wrap_udp_socket(bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?)?;
            parts.made_over(Arc::new(Breaking { inner, broken: Arc::clone(&broken) }), purpose)
        };
        // Each has its own waker: the dialler's is made after the other has failed.
        let make = || breaking(Purpose::Tries);
        let failing = transport.fresh.entry(false).or_default();
        let first = failing.endpoint(make, |_| Err(std::io::Error::other("not moved"))).unwrap();
        assert_eq!(
            transport.dialing_endpoint(remote, PortUse::New).unwrap().local_addr().unwrap(),
            first.local_addr().unwrap()
        );
        broken.0.store(true, Ordering::SeqCst);
        broken.1.wake();
        let begun = std::time::Instant::now();
        while first.connect(remote, SERVER_NAME).is_ok() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(30), "the endpoint never stops");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let second = transport.dialing_endpoint(remote, PortUse::New).unwrap();
        assert!(second.connect(remote, SERVER_NAME).is_ok(), "the next trial is refused too");
        assert_eq!(transport.fresh.get(&false).unwrap().len(), 1);
        // The same for dials of a node that does not listen.
        let dialer = breaking(Purpose::Dials).unwrap();
        let failed = dialer.endpoint.clone();
        transport.dialers.insert(false, dialer);
        while failed.connect(remote, SERVER_NAME).is_ok() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "the dialler never stops");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(transport.dialing_endpoint(remote, PortUse::Reuse).unwrap().connect(remote, SERVER_NAME).is_ok());
    }
}
