//! The handle of a real node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::ConnectionId;
use tokio::sync::{broadcast, oneshot};
use trellis_primitives::NodeId;

use super::shake::say_goodbye;
use super::{Command, NodeShared};
use crate::bandwidth::Bandwidth;
use crate::config::{GOODBYE_TIMEOUT_MS, OPEN_TIMEOUT_MS};
use crate::discovery::DiscoveryReport;
use crate::error::{AcceptError, BroadcastError, DialError, OpenError};
use crate::guard::{Ban, Conduct, Guard, Priority};
use crate::network::{Acceptor, BroadcastReport, NetStream, Network, Pong, Protocol};
use crate::peer::{PeerEvent, PeerInfo};
use crate::reason::DisconnectReason;
use crate::service::reach::ReachReport;
use crate::streams::{ConnectionHandle, StreamError};

/// Stops the service when the last handle is dropped.
pub(super) struct NetHandle {
    shared: Arc<NodeShared>,
}

impl NetHandle {
    pub(super) const fn new(shared: Arc<NodeShared>) -> Self {
        Self { shared }
    }
}

impl Drop for NetHandle {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.stop.cancel();
    }
}

pub(super) fn at_socket(socket: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(socket.ip().into()).with(Part::Udp(socket.port())).with(Part::QuicV1)
}

/// Reads multiaddr text, or `IP:PORT` as a short form of it.
pub(super) fn parse_address(text: &str) -> Result<Multiaddr, DialError> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(at_socket(socket));
    }
    text.parse().map_err(|error: libp2p::multiaddr::Error| DialError::BadAddress {
        address: text.to_owned(),
        detail: error.to_string(),
    })
}

impl NodeShared {
    pub(super) async fn open(self: Arc<Self>, peer: NodeId, protocol: Protocol) -> Result<NetStream, OpenError> {
        if self.closing.is_cancelled() {
            return Err(OpenError::Closed);
        }
        let handle = self.table.lock().connection_to(peer).ok_or(OpenError::NotConnected(peer))?;
        let timeout = Duration::from_millis(OPEN_TIMEOUT_MS);
        match tokio::time::timeout(timeout, handle.open(protocol)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(StreamError::Unsupported)) => Err(OpenError::Unsupported { peer, protocol }),
            Ok(Err(StreamError::Busy)) => Err(OpenError::Busy(peer)),
            Ok(Err(StreamError::Lost(detail))) => Err(OpenError::Lost { peer, detail }),
            Err(_) => Err(OpenError::Timeout { peer, timeout_ms: OPEN_TIMEOUT_MS }),
        }
    }

    /// Says goodbye on every connection to a peer and closes them.
    pub(crate) async fn disconnect(&self, peer: NodeId, reason: DisconnectReason) {
        let connections = self.table.lock().connections_to(peer);
        let parting = connections.into_iter().map(|(id, handle)| self.part(id, handle, reason));
        futures::future::join_all(parting).await;
    }

    /// Goodbye, then close, then wait until the connection is gone.
    pub(super) async fn part(&self, connection: ConnectionId, handle: Arc<ConnectionHandle>, reason: DisconnectReason) {
        say_goodbye(&handle, reason).await;
        drop(handle);
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close { connection, reason, done }).await.is_ok() {
            let _ = tokio::time::timeout(Duration::from_millis(GOODBYE_TIMEOUT_MS), closed).await;
        }
    }
}

#[async_trait]
impl Network for NetHandle {
    fn local_id(&self) -> NodeId {
        self.shared.local_id
    }

    fn listen_addresses(&self) -> Vec<String> {
        let peer = self.shared.local_peer;
        let mut listening = self.shared.listening.lock().clone();
        // QUIC first: it is what a dialer tries first.
        listening.sort_by_key(|address| !address.iter().any(|part| part == Part::QuicV1));
        listening.into_iter().map(|address| address.with(Part::P2p(peer)).to_string()).collect()
    }

    async fn dial(&self, address: &str) -> Result<NodeId, DialError> {
        self.shared.dial(address).await
    }

    fn proxied(&self) -> bool {
        self.shared.config.proxy.is_some()
    }

    async fn open(&self, peer: NodeId, protocol: Protocol) -> Result<NetStream, OpenError> {
        Arc::clone(&self.shared).open(peer, protocol).await
    }

    fn accept(&self, protocol: Protocol) -> Result<Acceptor, AcceptError> {
        if self.shared.closing.is_cancelled() {
            return Err(AcceptError::Closed);
        }
        self.shared.streams.accept(protocol)
    }

    async fn broadcast(&self, peers: &[NodeId], protocol: Protocol, message: Bytes) -> BroadcastReport {
        let mut report = BroadcastReport::default();
        for peer in peers.iter().copied() {
            let sent = if self.shared.is_connected(peer) {
                let shared = Arc::clone(&self.shared);
                let stream = || Box::pin(shared.open(peer, protocol)) as _;
                self.shared.broadcaster.send(peer, protocol, message.clone(), stream)
            } else {
                Err(BroadcastError::NotConnected)
            };
            match sent {
                Ok(()) => report.queued.push(peer),
                Err(error) => report.failed.push((peer, error)),
            }
        }
        report
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let mut infos = self.shared.table.lock().infos();
        self.shared.guard.mark(&mut infos);
        infos
    }

    fn discovery(&self) -> Option<DiscoveryReport> {
        self.shared.discovery_report()
    }

    fn reach(&self) -> Option<ReachReport> {
        Some(self.shared.reach_report())
    }

    async fn find_providers(&self, model: &str) -> Vec<NodeId> {
        self.shared.find_providers(model).await
    }

    fn known_addresses(&self) -> Vec<String> {
        self.shared.discovery.as_ref().map(|discovery| discovery.known_addresses()).unwrap_or_default()
    }

    fn signed_record(&self, peer: NodeId) -> Option<trellis_primitives::Bytes> {
        self.shared.table.lock().signed_record_of(peer)
    }

    fn events(&self) -> broadcast::Receiver<PeerEvent> {
        self.shared.events.subscribe()
    }

    async fn disconnect(&self, peer: NodeId, reason: DisconnectReason) {
        match reason {
            DisconnectReason::Banned => drop(self.shared.guard.ban(peer, None)),
            DisconnectReason::UserRequest => self.shared.leave_alone(peer),
            _ => {}
        }
        self.shared.disconnect(peer, reason).await;
    }

    fn report(&self, peer: NodeId, conduct: Conduct) {
        self.shared.report(peer, conduct);
    }

    fn bandwidth(&self) -> Option<Arc<Bandwidth>> {
        Some(Arc::clone(&self.shared.bandwidth))
    }

    fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.shared.guard)
    }

    async fn ban(&self, peer: NodeId, for_ms: Option<u64>) -> Ban {
        let ban = self.shared.guard.ban(peer, for_ms);
        self.shared.guard.saved().await;
        self.shared.disconnect(peer, DisconnectReason::Banned).await;
        ban
    }

    async fn add_peer(&self, address: &str, priority: Priority) -> Result<NodeId, DialError> {
        self.shared.add_peer(address, priority).await
    }

    fn prefer(&self, peers: &[NodeId]) {
        self.shared.prefer(peers);
    }

    async fn reconnect(&self, peer: NodeId) -> Result<NodeId, DialError> {
        self.shared.reconnect(peer).await
    }

    fn forget_added(&self, address: Option<&str>, peer: Option<NodeId>) -> Vec<String> {
        self.shared.forget_added(address, peer)
    }

    async fn ping(&self, peer: NodeId) -> Result<Pong, OpenError> {
        Arc::clone(&self.shared).ping(peer).await
    }

    async fn shutdown(&self) {
        self.shared.closing.cancel();
        tokio::join!(self.shared.save_book(), self.shared.give_ports_back());
        let handshaken: Vec<_> = {
            let table = self.shared.table.lock();
            let all = table.all_connections();
            all.into_iter().filter(|(id, _)| table.is_handshaken(*id)).collect()
        };
        let reason = DisconnectReason::Shutdown;
        let parting = handshaken.into_iter().map(|(id, handle)| self.shared.part(id, handle, reason));
        futures::future::join_all(parting).await;
        self.shared.stop.cancel();
        self.shared.ended.cancelled().await;
        // What was said last has gone through it.
        let given_back = async {
            if let Some(turn) = &self.shared.turn {
                turn.give_back().await;
            }
        };
        tokio::join!(given_back, self.shared.guard.saved());
    }
}
