//! TCP under [`crate::link`]: the admission before TLS, port reuse for hole punching, and sockets that notice a dead peer.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use libp2p::PeerId;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError as CoreError, TransportEvent};
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr, Transport};
use libp2p::tcp;
use socket2::{SockRef, TcpKeepalive};

use crate::address::{PortKind, socket_of};
use crate::admission::{Admit, Permit};
use crate::config::{CONNECT_TIMEOUT_MS, IDLE_TIMEOUT_MS, KEEP_ALIVE_MS, PUNCH_TIMEOUT_MS, TransportConfig};
use crate::error::TransportError;
use crate::link::{Securer, StreamConnection, upgrade};
use crate::session::{Direction, LinkKind};
use crate::upgrade::within;

/// Unanswered probes after which the system gives a connection up: with [`KEEP_ALIVE_MS`] between them about
/// [`IDLE_TIMEOUT_MS`] in all, as over QUIC.
const KEEP_ALIVE_PROBES: u32 = 3;

/// What a hole puncher that will act as the listener leaves the other side as a start, in milliseconds. Its own first packet
/// must not get there before the other's has left: the other's listening socket would take it for a connection of its own,
/// and then both sides would wait for the other to begin.
const PUNCH_HEAD_START_MS: u64 = 50;

/// TCP with libp2p certificates, the hybrid key exchange and ML-DSA-65 identities.
pub(crate) struct TcpTransport {
    inner: tcp::tokio::Transport,
    config: TransportConfig,
    securer: Arc<Securer>,
}

type Upgrade = BoxFuture<'static, Result<(PeerId, StreamConnection), TransportError>>;

impl TcpTransport {
    pub(crate) fn new(config: TransportConfig, securer: Arc<Securer>) -> Self {
        Self { inner: tcp::tokio::Transport::new(tcp::Config::new()), config, securer }
    }

    /// Decides about a connection that the system has accepted; nothing here computes more than table look-ups.
    fn admit(&self, remote: &Multiaddr) -> Option<Permit> {
        let remote = socket_address(remote)?;
        // The three-way handshake has proven the address.
        let asked = self.config.admit.as_ref().map_or(Admit::Accept, |admit| admit(remote, true));
        let decision = match asked {
            Admit::Accept | Admit::Retry => self.config.admission.decide(remote, true),
            other => other,
        };
        match decision {
            Admit::Accept | Admit::Retry => Some(self.config.admission.enter(remote)),
            Admit::Refuse | Admit::Ignore => {
                self.config.metrics.admission_refused.inc();
                tracing::debug!(%remote, ?decision, "tcp connection not accepted");
                None
            }
        }
    }
}

/// The socket address of `/ip4|ip6/…/tcp/PORT`.
fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    socket_of(address).filter(|(_, kind)| *kind == PortKind::Tcp).map(|(socket, _)| socket)
}

/// Whether nobody listens at an address yet. The port reuse that hole punching needs lets a second process take the same
/// port without an error, and connections would come to either of the two.
fn check_free(address: SocketAddr) -> std::io::Result<()> {
    if address.port() == 0 { Ok(()) } else { std::net::TcpListener::bind(address).map(drop) }
}

/// Makes the system probe a quiet peer and give up one that does not acknowledge.
pub(crate) fn watch(socket: &tcp::tokio::TcpStream) {
    let socket = SockRef::from(&socket.0);
    let interval = Duration::from_millis(KEEP_ALIVE_MS);
    let keepalive = TcpKeepalive::new().with_time(interval).with_interval(interval).with_retries(KEEP_ALIVE_PROBES);
    let set = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let set = set.and_then(|()| socket.set_tcp_user_timeout(Some(Duration::from_millis(IDLE_TIMEOUT_MS.into()))));
    if let Err(error) = set {
        tracing::debug!(%error, "tcp keep-alive not set");
    }
}

/// Connects, then secures.
async fn dialled(
    securer: Arc<Securer>,
    dialing: impl Future<Output = std::io::Result<tcp::tokio::TcpStream>>,
    address: Multiaddr,
    options: DialOpts,
) -> Result<(PeerId, StreamConnection), TransportError> {
    let connecting = async { dialing.await.map_err(TransportError::Io) };
    let socket = within(CONNECT_TIMEOUT_MS, connecting)
        .await
        .map_err(|error| securer.context().refused(error, Direction::Outbound, &address))?;
    watch(&socket);
    let point = ConnectedPoint::Dialer { address, role_override: options.role, port_use: options.port_use };
    upgrade(securer, socket, &point, LinkKind::Tcp, None).await
}

impl Transport for TcpTransport {
    type Output = (PeerId, StreamConnection);
    type Error = TransportError;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), CoreError<TransportError>> {
        let clear = socket_address(&address).is_none_or(|socket| !socket.ip().is_loopback());
        if clear && self.config.proxy.as_ref().is_some_and(|proxy| proxy.onion_only) {
            return Err(CoreError::Other(TransportError::ClearAddress(address)));
        }
        if let Some(socket) = socket_address(&address) {
            check_free(socket).map_err(|error| CoreError::Other(TransportError::Io(error)))?;
        }
        self.inner.listen_on(id, address).map_err(|error| error.map(TransportError::Io))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Upgrade, CoreError<TransportError>> {
        if self.config.proxy.is_some() {
            return Err(CoreError::MultiaddrNotSupported(address));
        }
        if let Some(remote) = socket_address(&address) {
            self.config.tell_dialled(remote.ip());
        }
        let dialing = self.inner.dial(address.clone(), options).map_err(|error| error.map(TransportError::Io))?;
        let securer = Arc::clone(&self.securer);
        let listens = options.role == Endpoint::Listener;
        Ok(Box::pin(async move {
            if !listens {
                return dialled(securer, dialing, address, options).await;
            }
            tokio::time::sleep(Duration::from_millis(PUNCH_HEAD_START_MS)).await;
            within(PUNCH_TIMEOUT_MS, dialled(securer, dialing, address, options)).await
        }))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, TransportError>> {
        loop {
            let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
            let TransportEvent::Incoming { listener_id, upgrade: accepted, local_addr, send_back_addr } = event else {
                return Poll::Ready(event.map_upgrade(|_| never()).map_err(TransportError::Io));
            };
            let Some(permit) = self.admit(&send_back_addr) else { continue };
            let securer = Arc::clone(&self.securer);
            let point =
                ConnectedPoint::Listener { local_addr: local_addr.clone(), send_back_addr: send_back_addr.clone() };
            let upgrade = Box::pin(async move {
                let socket = accepted.await?;
                watch(&socket);
                securer.context().pace.turn().await;
                upgrade(securer, socket, &point, LinkKind::Tcp, Some(permit)).await
            });
            return Poll::Ready(TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr });
        }
    }
}

/// What is never made: the events that carry an upgrade are taken apart before.
fn never() -> Upgrade {
    Box::pin(std::future::pending())
}
