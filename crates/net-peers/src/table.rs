//! Everything known about peers in this run. No I/O: the service tells it what happened and when.

mod entry;
pub(crate) mod route;
mod rows;
mod ways;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use trellis_primitives::{NodeId, UnixMs};

use self::entry::Entry;
use self::route::Route;
pub(crate) use self::rows::Crowd;
use self::rows::{RowMut, Rows};
pub(crate) use self::ways::RelayPeer;
use crate::error::printable;
use crate::handshake::Accepted;
use crate::peer::{Direction, PeerInfo};
use crate::reason::{DisconnectReason, RefusalReason};
use crate::state::PeerInput;
use crate::streams::{ConnectionHandle, socket_address};

/// Peers remembered in this run; beyond it those that went longest ago are forgotten.
pub const PEERS_REMEMBERED_MAX: usize = 1_024;
/// PeerIds whose NodeId is pinned; beyond it those whose peers are not remembered are forgotten.
pub const PINS_MAX: usize = 65_536;

/// How a peer is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum PeerKey {
    /// By its identity.
    Node(NodeId),
    /// A classical libp2p peer, which has no NodeId.
    Classical(PeerId),
    /// By an address only, while it is being dialled.
    Address(String),
}

/// The table.
pub(crate) struct Table {
    local: NodeId,
    entries: Rows,
    connections: HashMap<ConnectionId, (PeerKey, Arc<ConnectionHandle>)>,
    /// The way of each connection.
    routes: HashMap<ConnectionId, Route>,
    /// Connections that are being closed because there is a better one.
    parting: HashSet<ConnectionId>,
    pins: HashMap<PeerId, NodeId>,
}

/// What an acceptance changed.
#[derive(Default)]
pub(crate) struct Acceptance {
    /// The peer was not connected before.
    pub(crate) newly_connected: bool,
    /// Connections to a former life of a peer that has restarted; they are to be closed.
    pub(crate) superseded: Vec<ConnectionId>,
    /// This node has dialled the same peer twice; the new connection is to be closed. Only the dialer decides this, so
    /// that the two sides never close different ones.
    pub(crate) redundant: bool,
    /// Streams to the peer go another way from now on.
    pub(crate) moved: bool,
}

impl Table {
    /// The table of a node that knows nobody yet.
    pub(crate) fn of(local: NodeId) -> Self {
        let (connections, routes) = (HashMap::new(), HashMap::new());
        Self { local, entries: Rows::default(), connections, routes, parting: HashSet::new(), pins: HashMap::new() }
    }

    fn entry(&mut self, key: PeerKey, now: UnixMs) -> RowMut<'_> {
        if self.entries.len() >= PEERS_REMEMBERED_MAX && !self.entries.contains_key(&key) {
            let oldest =
                self.entries.iter().filter(|(_, entry)| entry.is_gone()).min_by_key(|(_, entry)| entry.since());
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&oldest);
            }
        }
        self.entries.get_or_make(key, || Entry::new(now))
    }

    /// A dial starts.
    pub(crate) fn dialing(&mut self, address: &str, now: UnixMs) {
        self.entry(PeerKey::Address(address.to_owned()), now).apply(PeerInput::Dial, now);
    }

    /// A dial ended before a session stood.
    pub(crate) fn dial_failed(&mut self, address: &str, refusal: Option<RefusalReason>, now: UnixMs) {
        let mut entry = self.entry(PeerKey::Address(address.to_owned()), now);
        entry.apply(refusal.map_or(PeerInput::NoAnswer, PeerInput::Refused), now);
        entry.refusal = refusal.or(entry.refusal);
        entry.address = address.to_owned();
    }

    /// The NodeId that a PeerId is bound to. The first one seen stays; another is returned as an error.
    pub(crate) fn pin(&mut self, peer: PeerId, node: NodeId) -> Result<(), NodeId> {
        match self.pins.get(&peer) {
            Some(pinned) if *pinned != node => return Err(*pinned),
            Some(_) => {}
            None => {
                if self.pins.len() >= PINS_MAX {
                    // Somebody made up a great many names; those that nobody speaks of any more make room.
                    let entries = &self.entries;
                    self.pins.retain(|_, node| entries.contains_key(&PeerKey::Node(*node)));
                }
                self.pins.insert(peer, node);
            }
        }
        Ok(())
    }

    /// An encrypted session stands; `dialed` is the address if this node dialled.
    pub(crate) fn session_up(
        &mut self,
        connection: ConnectionId,
        handle: &Arc<ConnectionHandle>,
        dialed: Option<&str>,
        address: String,
        now: UnixMs,
    ) {
        let session = &handle.session;
        let key = session.node_id().map_or_else(|| PeerKey::Classical(session.peer_id()), PeerKey::Node);
        let by_address = dialed.and_then(|address| self.entries.remove(&PeerKey::Address(address.to_owned())));
        if let Some(by_address) = by_address
            && !self.entries.contains_key(&key)
        {
            self.entries.insert(key.clone(), by_address);
        }
        let mut entry = self.entry(key.clone(), now);
        if entry.connections.is_empty() {
            entry.apply(PeerInput::TransportUp, now);
            entry.adopt(handle, address);
        }
        drop(entry);
        self.connections.insert(connection, (key, Arc::clone(handle)));
    }

    /// Both sides accepted.
    pub(crate) fn accepted(&mut self, connection: ConnectionId, accepted: Accepted, now: UnixMs) -> Acceptance {
        let mut acceptance = Acceptance::default();
        let Some((key, handle)) = self.connections.get(&connection).cloned() else { return acceptance };
        if let Some(route) = self.routes.get_mut(&connection) {
            route.turned |= accepted.turned;
        }
        let connections = &self.connections;
        let kind = handle.session.kind();
        // Another kind of way is not the same connection twice; which of both stays is decided when it is quiet.
        let as_good = |id: &ConnectionId| connections.get(id).is_some_and(|(_, other)| other.session.kind() == kind);
        let outbound = |id: &ConnectionId| {
            let dialed = connections.get(id).is_some_and(|(_, other)| other.session.direction() == Direction::Outbound);
            dialed && as_good(id)
        };
        let dialed_twice = outbound(&connection);
        let Some(mut entry) = self.entries.get_mut(&key) else { return acceptance };
        let restarted = entry.accepted.as_ref().is_some_and(|before| before.instance != accepted.instance);
        if restarted {
            acceptance.superseded.clone_from(&entry.connections);
        } else {
            acceptance.redundant = dialed_twice && entry.connections.iter().any(outbound);
        }
        acceptance.newly_connected = entry.connections.is_empty();
        if acceptance.redundant {
            // Streams go on using the older one.
            entry.connections.insert(0, connection);
            drop(entry);
            self.settle(&key, now);
            return acceptance;
        }
        entry.connections.push(connection);
        if acceptance.newly_connected {
            entry.apply(PeerInput::HandshakeAccepted, now);
        }
        let anew = acceptance.newly_connected || restarted;
        entry.connected(accepted, &handle, anew, now);
        drop(entry);
        self.supersede(&acceptance.superseded);
        acceptance.moved = self.settle(&key, now);
        acceptance
    }

    /// A handshake with a peer ended in a refusal or in nothing; its connection may be gone already.
    pub(crate) fn handshake_failed(&mut self, peer: NodeId, refusal: Option<RefusalReason>, now: UnixMs) {
        let Some(mut entry) = self.entries.get_mut(&PeerKey::Node(peer)) else { return };
        entry.refusal = refusal.or(entry.refusal);
        if entry.connections.is_empty() {
            entry.apply(refusal.map_or(PeerInput::NoAnswer, PeerInput::Refused), now);
        }
    }

    /// A connection is gone. Returns the peer if it was connected and this was its last connection.
    pub(crate) fn closed(&mut self, connection: ConnectionId, reason: DisconnectReason, now: UnixMs) -> Option<NodeId> {
        let (key, _) = self.connections.remove(&connection)?;
        self.routes.remove(&connection);
        self.parting.remove(&connection);
        let mut entry = self.entries.get_mut(&key)?;
        let before = entry.connections.len();
        entry.connections.retain(|id| *id != connection);
        let handshaken = entry.connections.len() < before;
        if !entry.connections.is_empty() {
            drop(entry);
            self.settle(&key, now);
            return None;
        }
        (entry.in_use, entry.direct_after_ms) = (None, None);
        if !handshaken {
            // The handshake's own end, which comes in any case, says why; a classical peer has none.
            if matches!(key, PeerKey::Classical(_)) {
                entry.apply(PeerInput::NoAnswer, now);
            }
            return None;
        }
        entry.disconnect_reason = Some(reason);
        entry.apply(PeerInput::Closed(reason), now);
        match key {
            PeerKey::Node(id) => Some(id),
            PeerKey::Classical(_) | PeerKey::Address(_) => None,
        }
    }

    fn entry_of(&mut self, connection: ConnectionId) -> Option<RowMut<'_>> {
        let (key, _) = self.connections.get(&connection)?;
        self.entries.get_mut(key)
    }

    /// A ping came back.
    pub(crate) fn round_trip(&mut self, connection: ConnectionId, ms: f64, now: UnixMs) {
        if let Some(mut entry) = self.entry_of(connection) {
            entry.round_trip.add(ms);
            entry.counters.touch(now);
        }
    }

    /// identify told what software a peer runs; only used where no handshake did.
    pub(crate) fn identified(&mut self, connection: ConnectionId, agent: &str) {
        if let Some(mut entry) = self.entry_of(connection)
            && entry.accepted.is_none()
        {
            entry.agent = printable(agent).chars().take(crate::handshake::USER_AGENT_BYTES_MAX).collect();
        }
    }

    /// The connection on which streams to a peer are opened: a direct one if there is one.
    pub(crate) fn connection_to(&self, peer: NodeId) -> Option<Arc<ConnectionHandle>> {
        let newest = self.entries.get(&PeerKey::Node(peer))?.connections.last()?;
        self.connections.get(newest).map(|(_, handle)| Arc::clone(handle))
    }

    /// The same, and whether one of its ends is at a TURN server.
    pub(crate) fn way_to(&self, peer: NodeId) -> (Option<Arc<ConnectionHandle>>, bool) {
        let used = self.entries.get(&PeerKey::Node(peer)).and_then(|entry| entry.connections.last().copied());
        (self.connection_to(peer), used.is_some_and(|connection| self.is_turned(connection)))
    }

    /// A connected peer's record as it was signed.
    pub(crate) fn signed_record_of(&self, peer: NodeId) -> Option<trellis_primitives::Bytes> {
        let entry = self.entries.get(&PeerKey::Node(peer))?;
        entry.accepted.as_ref().filter(|_| !entry.connections.is_empty()).map(|accepted| accepted.signed_record.clone())
    }

    /// A connected peer's verified record.
    pub(crate) fn record_of(&self, peer: NodeId) -> Option<trellis_primitives::NodeRecord> {
        let entry = self.entries.get(&PeerKey::Node(peer))?;
        entry.accepted.as_ref().filter(|_| !entry.connections.is_empty()).map(|accepted| accepted.record.clone())
    }

    /// Every handshaken connection to a peer.
    pub(crate) fn connections_to(&self, peer: NodeId) -> Vec<(ConnectionId, Arc<ConnectionHandle>)> {
        let ids = self.entries.get(&PeerKey::Node(peer)).map(|entry| entry.connections.clone()).unwrap_or_default();
        ids.into_iter().filter_map(|id| Some((id, Arc::clone(&self.connections.get(&id)?.1)))).collect()
    }

    /// Every connection there is.
    pub(crate) fn all_connections(&self) -> Vec<(ConnectionId, Arc<ConnectionHandle>)> {
        self.connections.iter().map(|(id, (_, handle))| (*id, Arc::clone(handle))).collect()
    }

    /// Every direct connection that has finished its handshake: who and from where.
    pub(crate) fn handshaken(&self) -> Vec<(NodeId, std::net::SocketAddr)> {
        let remote = |id: &ConnectionId| {
            let (_, handle) = self.connections.get(id)?;
            socket_address(handle.session.remote()).filter(|_| handle.session.ip().is_some())
        };
        let of = |(key, entry): (&PeerKey, &Entry)| match key {
            PeerKey::Node(id) => entry.connections.iter().filter_map(remote).map(|at| (*id, at)).collect(),
            PeerKey::Classical(_) | PeerKey::Address(_) => Vec::new(),
        };
        self.entries.iter().flat_map(of).collect()
    }

    /// Whether a connection has finished its handshake.
    pub(crate) fn is_handshaken(&self, connection: ConnectionId) -> bool {
        let key = self.connections.get(&connection).map(|(key, _)| key);
        key.and_then(|key| self.entries.get(key)).is_some_and(|entry| entry.connections.contains(&connection))
    }

    /// Whether streams can be opened to a peer.
    pub(crate) fn is_connected(&self, peer: NodeId) -> bool {
        self.entries.get(&PeerKey::Node(peer)).is_some_and(|entry| !entry.connections.is_empty())
    }

    /// Whether a peer is connected by a dial of its own.
    pub(crate) fn has_dialled_here(&self, peer: NodeId) -> bool {
        let entry = self.entries.get(&PeerKey::Node(peer));
        entry.is_some_and(|entry| entry.counted.connected == Some(Direction::Inbound))
    }

    /// The connected NodeId of a PeerId.
    pub(crate) fn connected_by_peer_id(&self, peer: &PeerId) -> Option<NodeId> {
        self.pins.get(peer).copied().filter(|id| self.is_connected(*id))
    }

    /// Peers connected now.
    pub(crate) fn connected_count(&self) -> usize {
        self.crowd().linked()
    }

    /// How many are connected, by who dialled and from where; nobody is walked through for it.
    pub(crate) const fn crowd(&self) -> &Crowd {
        self.entries.crowd()
    }

    /// The peers to let go because more than `size` are connected: the longest idle first, only such as have had no
    /// stream for `idle_ms`, none of `kept`.
    pub(crate) fn idle_beyond(&self, size: usize, idle_ms: u64, now: UnixMs, kept: &HashSet<NodeId>) -> Vec<NodeId> {
        let mut idle: Vec<(UnixMs, NodeId)> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.connections.is_empty())
            .filter_map(|(key, entry)| match key {
                PeerKey::Node(id) if !kept.contains(id) => Some((entry.idle_since()?, *id)),
                _ => None,
            })
            .filter(|(since, _)| now.ms_since(*since) >= idle_ms)
            .collect();
        idle.sort_unstable();
        idle.truncate(self.connected_count().saturating_sub(size));
        idle.into_iter().map(|(_, id)| id).collect()
    }

    /// The identity at the other end of a connection.
    pub(crate) fn node_of(&self, connection: ConnectionId) -> Option<NodeId> {
        self.connections.get(&connection)?.1.session.node_id()
    }

    /// The address of the peer at the other end of a connection, as it was dialled or came.
    pub(crate) fn address_of(&self, connection: ConnectionId) -> Option<String> {
        let (key, _) = self.connections.get(&connection)?;
        Some(self.entries.get(key)?.address.clone())
    }

    /// The IP address at the other end of a connection; `None` behind a relay.
    pub(crate) fn remote_ip(&self, connection: ConnectionId) -> Option<std::net::IpAddr> {
        self.connections.get(&connection)?.1.session.ip()
    }

    /// The identity that a PeerId was seen with.
    pub(crate) fn pinned(&self, peer: &PeerId) -> Option<NodeId> {
        self.pins.get(peer).copied()
    }

    /// What is known of one peer.
    pub(crate) fn info(&self, peer: NodeId) -> Option<PeerInfo> {
        let key = PeerKey::Node(peer);
        self.entries.get(&key).map(|entry| entry.info(&key))
    }

    /// Everything known, newest state first.
    pub(crate) fn infos(&self) -> Vec<PeerInfo> {
        let mut infos: Vec<PeerInfo> = self.entries.iter().map(|(key, entry)| entry.info(key)).collect();
        infos.sort_by(|a, b| b.state_since.cmp(&a.state_since).then_with(|| a.peer_id.cmp(&b.peer_id)));
        infos
    }

    /// Who dialled a peer's first live connection.
    pub(crate) fn direction(&self, connection: ConnectionId) -> Option<Direction> {
        self.connections.get(&connection).map(|(_, handle)| handle.session.direction())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-56
    #[test]
    fn a_full_list_of_pins_makes_room_for_newcomers_and_keeps_those_of_remembered_peers() {
        let mut table = Table::of(NodeId([0; 32]));
        let (kept, other) = (NodeId([1; 32]), NodeId([2; 32]));
        table.entry(PeerKey::Node(kept), UnixMs(0));
        let peer = PeerId::random();
        table.pin(peer, kept).unwrap();
        for _ in 0..PINS_MAX + 10 {
            table.pin(PeerId::random(), other).unwrap();
        }
        assert!(table.pins.len() <= PINS_MAX);
        assert_eq!(table.pin(peer, other), Err(kept), "another key is still noticed");
        let newcomer = PeerId::random();
        table.pin(newcomer, other).unwrap();
        assert_eq!(table.pinned(&newcomer), Some(other));
    }
}
