//! The handle of a real node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::ConnectionId;
use tokio::sync::{broadcast, oneshot};
use trellis_primitives::NodeId;

use super::shake::say_goodbye;
use super::{Command, NodeShared};
use crate::config::{CONNECT_TIMEOUT_MS, GOODBYE_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, OPEN_TIMEOUT_MS};
use crate::discovery::DiscoveryReport;
use crate::error::{AcceptError, BroadcastError, DialError, OpenError};
use crate::guard::{Ban, Conduct, Guard, Priority};
use crate::network::{Acceptor, BroadcastReport, NetStream, Network, Pong, Protocol};
use crate::peer::{PeerEvent, PeerInfo};
use crate::reason::DisconnectReason;
use crate::service::reach::ReachReport;
use crate::streams::{ConnectionHandle, StreamError};
use crate::table::route::{relay_of, target_of};

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

/// Reads multiaddr text, or `IP:PORT` as a short form of it.
fn parse_address(text: &str) -> Result<Multiaddr, DialError> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(Multiaddr::empty().with(socket.ip().into()).with(Part::Udp(socket.port())).with(Part::QuicV1));
    }
    text.parse().map_err(|error: libp2p::multiaddr::Error| DialError::BadAddress {
        address: text.to_owned(),
        detail: error.to_string(),
    })
}

impl NodeShared {
    /// Dials and waits for the handshake.
    pub(crate) async fn dial(&self, text: &str) -> Result<NodeId, DialError> {
        if self.closing.is_cancelled() {
            return Err(DialError::Closed);
        }
        let address = parse_address(text)?;
        self.dial_each(target_of(&address), vec![address], text).await
    }

    /// Dials several addresses of one peer at once; the first that answers counts.
    pub(crate) async fn dial_any(&self, peer: Option<PeerId>, addresses: Vec<Multiaddr>) -> Result<NodeId, DialError> {
        let text = addresses.first().map(ToString::to_string).unwrap_or_default();
        self.dial_each(peer, addresses, &text).await
    }

    async fn dial_each(
        &self,
        peer: Option<PeerId>,
        mut addresses: Vec<Multiaddr>,
        text: &str,
    ) -> Result<NodeId, DialError> {
        self.connect_relays(&addresses).await;
        // Whichever address a relay was reached at, the circuit is the same; several would be several connections.
        let mut relays = BTreeSet::new();
        addresses.retain(|address| relay_of(address).is_none_or(|relay| relays.insert(relay)));
        let (reply, answer) = oneshot::channel();
        let command = Command::Dial { peer, addresses, text: text.to_owned(), reply };
        self.commands.send(command).await.map_err(|_| DialError::Closed)?;
        // The transport takes up to CONNECT + HANDSHAKE for TLS and its proofs, the handshake of this layer follows.
        let timeout_ms = CONNECT_TIMEOUT_MS + 2 * HANDSHAKE_TIMEOUT_MS;
        match tokio::time::timeout(Duration::from_millis(timeout_ms), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(DialError::Closed),
            Err(_) => Err(DialError::Timeout { address: text.to_owned(), timeout_ms }),
        }
    }

    /// Connects to the relays of circuits that are to be dialled: a relay carries only whose handshake it has accepted.
    fn connect_relays<'a>(&'a self, addresses: &'a [Multiaddr]) -> BoxFuture<'a, ()> {
        let mut places: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for address in addresses {
            if let Some(relay) = relay_of(address) {
                let place = address.iter().take_while(|part| !matches!(part, Part::P2p(_))).collect();
                places.entry(relay).or_default().push(place);
            }
        }
        places.retain(|relay, _| self.table.lock().connected_by_peer_id(relay).is_none());
        Box::pin(async move {
            let dials = places.into_iter().map(|(relay, places)| self.dial_any(Some(relay), places));
            // Where one is not reached, the circuit's own dial says so.
            futures::future::join_all(dials).await;
        })
    }

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
        let listening = self.shared.listening.lock();
        listening.iter().map(|address| address.clone().with(Part::P2p(peer)).to_string()).collect()
    }

    async fn dial(&self, address: &str) -> Result<NodeId, DialError> {
        self.shared.dial(address).await
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

    fn events(&self) -> broadcast::Receiver<PeerEvent> {
        self.shared.events.subscribe()
    }

    async fn disconnect(&self, peer: NodeId, reason: DisconnectReason) {
        if reason == DisconnectReason::Banned {
            self.shared.guard.ban(peer, None);
        }
        self.shared.disconnect(peer, reason).await;
    }

    fn report(&self, peer: NodeId, conduct: Conduct) {
        self.shared.report(peer, conduct);
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

    fn forget_added(&self, address: Option<&str>, peer: Option<NodeId>) -> Vec<String> {
        self.shared.forget_added(address, peer)
    }

    async fn ping(&self, peer: NodeId) -> Result<Pong, OpenError> {
        Arc::clone(&self.shared).ping(peer).await
    }

    async fn shutdown(&self) {
        self.shared.closing.cancel();
        self.shared.save_book().await;
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
        self.shared.guard.saved().await;
    }
}
