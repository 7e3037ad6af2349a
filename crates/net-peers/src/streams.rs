//! Streams over libp2p connections: a behaviour that opens and accepts them, keyed by connection.
//!
//! Every connection has a [`ConnectionHandle`]. Its gate is closed until this node accepted the peer's handshake; until
//! then the only protocol offered to the peer is the handshake itself, so a stream of any other protocol is refused in the
//! negotiation, before any code of that protocol runs.

mod handler;
mod lazy;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
use trellis_net_transport::{Direction, Session, Sessions};
use trellis_primitives::{NodeId, SharedClock};

use self::handler::Handler;
use self::lazy::SelectedStream;
use crate::bandwidth::PeerBudget;
use crate::config::ACCEPT_QUEUE_STREAMS_MAX;
use crate::error::AcceptError;
use crate::guard::{MessageClass, Pattern};
use crate::meter::{Counters, LiveStreams, Metered};
use crate::network::{Acceptor, NetStream, NetStreamSlot, Protocol};
use crate::table::PEERS_REMEMBERED_MAX;
use crate::table::route::is_circuit;
use crate::watch::{ControlPlace, Sentry, Watch};

/// The protocol of the handshake (NET-20).
pub(crate) const HANDSHAKE: Protocol = Protocol("/trellis/handshake/1");
/// The protocol of goodbyes (NET-19).
pub(crate) const GOODBYE: Protocol = Protocol("/trellis/goodbye/1");
/// Streams that wait to be opened on one connection.
const OPENS_WAITING_MAX: usize = 256;
/// Inbound handshake or goodbye streams that wait on one connection; a second one is a violation and is dropped.
const INTERNAL_WAITING_MAX: usize = 1;

pub(crate) type RawStream = Compat<SelectedStream>;
pub(crate) type MeteredStream = Metered<RawStream>;

/// Why a stream was not opened on a connection.
#[derive(Debug, Error)]
pub(crate) enum StreamError {
    #[error("protocol not supported")]
    Unsupported,
    #[error("too many streams wait to be opened")]
    Busy,
    #[error("connection lost: {0}")]
    Lost(String),
}

pub(crate) struct OpenRequest {
    protocol: Protocol,
    reply: oneshot::Sender<Result<SelectedStream, StreamError>>,
}

/// What one connection is, shared between its handler, the service and the handles.
pub(crate) struct ConnectionHandle {
    pub(crate) session: Session,
    pub(crate) counters: Arc<Counters>,
    /// The streams of this connection alone.
    pub(crate) live: Arc<LiveStreams>,
    /// Dialled from a port of its own only to see whether the peer can be reached there; nobody shakes hands on it.
    pub(crate) is_trial: bool,
    /// Open once this node accepted the peer.
    gate: AtomicBool,
    opens: mpsc::Sender<OpenRequest>,
    clock: SharedClock,
    handshakes: mpsc::Sender<MeteredStream>,
    goodbyes: mpsc::Sender<MeteredStream>,
    sentry: Arc<Sentry>,
    /// `None` where the line is not the Internet's.
    budget: Option<Arc<PeerBudget>>,
}

impl ConnectionHandle {
    /// From now on the peer may open streams of every protocol.
    pub(crate) fn open_gate(&self) {
        self.gate.store(true, Ordering::Release);
    }

    fn gate_is_open(&self) -> bool {
        self.gate.load(Ordering::Acquire)
    }

    /// Opens a stream on this connection.
    pub(crate) async fn open(&self, protocol: Protocol) -> Result<MeteredStream, StreamError> {
        let (reply, answer) = oneshot::channel();
        self.opens.try_send(OpenRequest { protocol, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StreamError::Busy,
            mpsc::error::TrySendError::Closed(_) => StreamError::Lost("connection closed".to_owned()),
        })?;
        let stream = answer.await.map_err(|_| StreamError::Lost("connection closed".to_owned()))??;
        Ok(self.metered(stream, protocol, false, None))
    }

    /// A stream that the peer opened, unless it opens too many.
    fn inbound(&self, peer: NodeId, stream: SelectedStream, protocol: Protocol) -> Option<MeteredStream> {
        if !self.sentry.takes_stream(peer) {
            return None;
        }
        if MessageClass::of(protocol) != MessageClass::Control {
            return Some(self.metered(stream, protocol, true, None));
        }
        let place = ControlPlace::take(&self.counters);
        if place.is_none() {
            self.sentry.tell(peer, Pattern::StreamFlood, false);
        }
        place.map(|place| self.metered(stream, protocol, true, Some(place)))
    }

    fn metered(
        &self,
        stream: SelectedStream,
        protocol: Protocol,
        inbound: bool,
        place: Option<ControlPlace>,
    ) -> MeteredStream {
        // The handshake and the goodbye are one stream each, bounded by themselves.
        let watched = self.session.node_id().filter(|_| protocol != HANDSHAKE && protocol != GOODBYE);
        let watch = watched.map(|peer| {
            let watch = Watch::new(Arc::clone(&self.sentry), peer, protocol, inbound, self.budget.clone());
            Box::new(watch.holding(place))
        });
        Metered::watched(stream.compat(), Arc::clone(&self.clock), Arc::clone(&self.counters), watch).on(&self.live)
    }
}

/// What the handlers and the handles share.
pub(crate) struct StreamsShared {
    acceptors: Mutex<HashMap<Protocol, mpsc::Sender<(NodeId, NetStreamSlot)>>>,
    /// Streams dropped because their acceptor was full.
    dropped: Counter,
}

impl StreamsShared {
    pub(crate) fn accept(&self, protocol: Protocol) -> Result<Acceptor, AcceptError> {
        if protocol == HANDSHAKE || protocol == GOODBYE || !protocol.0.starts_with('/') {
            return Err(AcceptError::Reserved(protocol));
        }
        let mut acceptors = self.acceptors.lock();
        if acceptors.get(&protocol).is_some_and(|acceptor| !acceptor.is_closed()) {
            return Err(AcceptError::AlreadyRegistered(protocol));
        }
        let (sender, receiver) = mpsc::channel(ACCEPT_QUEUE_STREAMS_MAX);
        acceptors.insert(protocol, sender);
        Ok(Acceptor::new(receiver))
    }

    pub(crate) fn close(&self) {
        self.acceptors.lock().clear();
    }

    fn protocols(&self) -> Vec<Protocol> {
        let mut acceptors = self.acceptors.lock();
        acceptors.retain(|_, acceptor| !acceptor.is_closed());
        acceptors.keys().copied().collect()
    }

    fn deliver(&self, peer: NodeId, protocol: Protocol, stream: NetStream) {
        let acceptor = self.acceptors.lock().get(&protocol).cloned();
        let delivered = acceptor.is_some_and(|acceptor| acceptor.try_send((peer, NetStreamSlot(stream))).is_ok());
        if !delivered {
            self.dropped.inc();
            tracing::warn!(%peer, %protocol, "inbound stream dropped: acceptor full or gone");
        }
    }
}

/// Streams that came in on a connection for the network itself.
pub(crate) struct InternalStreams {
    pub(crate) handshakes: mpsc::Receiver<MeteredStream>,
    pub(crate) goodbyes: mpsc::Receiver<MeteredStream>,
}

/// A connection that the transport let through and that the service has to take over.
pub(crate) struct FreshConnection {
    pub(crate) handle: Arc<ConnectionHandle>,
    pub(crate) internal: InternalStreams,
}

/// The behaviour.
pub(crate) struct Streams {
    shared: Arc<StreamsShared>,
    sessions: Sessions,
    clock: SharedClock,
    fresh: HashMap<ConnectionId, FreshConnection>,
    /// Counters and budgets by peer, so that they go on over several connections.
    counters: HashMap<PeerId, (Arc<Counters>, Arc<PeerBudget>)>,
    sentry: Arc<Sentry>,
    /// Whether a way to an address is exempt from the bandwidth budget.
    exempt: Exempt,
}

/// Whether an address is exempt from what is counted for the Internet.
pub(crate) type Exempt = Box<dyn Fn(std::net::IpAddr) -> bool + Send>;

#[derive(Debug, Error)]
#[error("the transport left no session for this connection")]
struct NoSession;

impl Streams {
    pub(crate) fn new(
        sessions: Sessions,
        clock: SharedClock,
        dropped: Counter,
        sentry: Arc<Sentry>,
        exempt: Exempt,
    ) -> Self {
        let shared = Arc::new(StreamsShared { acceptors: Mutex::default(), dropped });
        Self { shared, sessions, clock, fresh: HashMap::new(), counters: HashMap::new(), sentry, exempt }
    }

    pub(crate) fn shared(&self) -> Arc<StreamsShared> {
        Arc::clone(&self.shared)
    }

    /// Takes over a connection that the swarm reported as established.
    pub(crate) fn take_fresh(&mut self, connection: ConnectionId) -> Option<FreshConnection> {
        self.fresh.remove(&connection)
    }

    fn counters_of(&mut self, peer: PeerId) -> (Arc<Counters>, Arc<PeerBudget>) {
        if self.counters.len() >= PEERS_REMEMBERED_MAX {
            // Those that neither a row of the table nor a stream holds any more.
            self.counters.retain(|_, (counters, _)| Arc::strong_count(counters) > 1);
        }
        self.counters.entry(peer).or_default().clone()
    }

    fn established(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        reported: &Multiaddr,
        direction: Direction,
        is_trial: bool,
    ) -> Result<Handler, ConnectionDenied> {
        // Where both sides dial to pass their NATs, one of them takes the listener's part in the handshakes.
        let session = self.sessions.take(peer, reported, direction);
        let session = session.or_else(|| self.sessions.take(peer, reported, direction.reversed()));
        let session = session.ok_or_else(|| ConnectionDenied::new(NoSession))?;
        let (opens, open_requests) = mpsc::channel(OPENS_WAITING_MAX);
        let (handshake_sender, handshakes) = mpsc::channel(INTERNAL_WAITING_MAX);
        let (goodbye_sender, goodbyes) = mpsc::channel(INTERNAL_WAITING_MAX);
        let (counters, budget) = self.counters_of(peer);
        let is_exempt = session.ip().is_some_and(|ip| (self.exempt)(ip));
        let budget = (!is_exempt).then_some(budget);
        let handle = Arc::new(ConnectionHandle {
            session,
            counters,
            live: Arc::default(),
            is_trial,
            sentry: Arc::clone(&self.sentry),
            budget,
            gate: AtomicBool::new(false),
            opens,
            clock: Arc::clone(&self.clock),
            handshakes: handshake_sender,
            goodbyes: goodbye_sender,
        });
        let internal = InternalStreams { handshakes, goodbyes };
        self.fresh.insert(connection, FreshConnection { handle: Arc::clone(&handle), internal });
        Ok(Handler::new(handle, Arc::clone(&self.shared), open_requests))
    }
}

/// The socket address at the front of a multiaddress.
pub(crate) fn socket_address(address: &Multiaddr) -> Option<std::net::SocketAddr> {
    trellis_net_transport::socket_of(address).map(|(socket, _)| socket)
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let reported = if is_circuit(local) { local } else { remote };
        self.established(connection, peer, reported, Direction::Inbound, false)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.established(connection, peer, remote, Direction::Outbound, port == PortUse::New)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => drop(self.fresh.remove(&closed.connection_id)),
            // A behaviour after this one denied the connection.
            FromSwarm::ListenFailure(failure) => drop(self.fresh.remove(&failure.connection_id)),
            FromSwarm::DialFailure(failure) => drop(self.fresh.remove(&failure.connection_id)),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
