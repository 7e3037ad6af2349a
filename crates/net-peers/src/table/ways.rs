//! The table's answers about ways: which connection to a peer is used, which relays there are, which connections may go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::swarm::ConnectionId;
use trellis_net_transport::{Direction, LinkKind};
use trellis_primitives::{Bytes, NodeId, NodeRecord, Role, UnixMs};

use super::route::{Choice, Route, is_superfluous, order};
use super::{PeerKey, Table};
use crate::streams::ConnectionHandle;

/// A relay that is connected without another relay between.
#[derive(Clone, Debug)]
pub(crate) struct RelayPeer {
    pub(crate) peer: PeerId,
    pub(crate) node: NodeId,
    pub(crate) latency_us: Option<u32>,
    pub(crate) region: String,
    /// The address that this node dialled.
    pub(crate) at: Option<Multiaddr>,
    /// Those of its record.
    pub(crate) addresses: Vec<String>,
    /// There is a connection over TCP.
    pub(crate) over_tcp: bool,
}

impl Table {
    /// The way that a connection takes.
    pub(crate) fn routed(&mut self, connection: ConnectionId, route: Route) {
        self.routes.insert(connection, route);
    }

    /// Whether a connection goes through a relay.
    pub(crate) fn is_relayed(&self, connection: ConnectionId) -> bool {
        self.routes.get(&connection).is_some_and(|route| route.relayed)
    }

    /// Whether this node has dialled a connection, with neither a relay nor a TURN server between.
    pub(crate) fn is_dialled_direct(&self, connection: ConnectionId) -> bool {
        let handle = self.connections.get(&connection).map(|(_, handle)| handle);
        let dialled = handle.is_some_and(|handle| handle.session.direction() == Direction::Outbound);
        dialled && !self.is_relayed(connection) && !self.is_turned(connection)
    }

    /// Whether one end of a connection is at a TURN server.
    pub(crate) fn is_turned(&self, connection: ConnectionId) -> bool {
        self.routes.get(&connection).is_some_and(|route| route.turned)
    }

    /// Whether any connection goes through this node's own address at a TURN server.
    pub(crate) fn has_turned(&self) -> bool {
        self.connections.values().any(|(_, handle)| handle.session.kind() == LinkKind::Turned)
    }

    /// Whether somebody is connected from or at an address, without a relay between.
    pub(crate) fn has_connection_from(&self, ip: IpAddr) -> bool {
        let direct = self.connections.iter().filter(|(connection, _)| !self.is_relayed(**connection));
        direct.filter_map(|(_, (_, handle))| handle.session.ip()).any(|known| known.to_canonical() == ip.to_canonical())
    }

    /// The libp2p name of who is at the other end of a connection.
    pub(crate) fn peer_id_of(&self, connection: ConnectionId) -> Option<PeerId> {
        Some(self.connections.get(&connection)?.1.session.peer_id())
    }

    fn choice(&self, connection: ConnectionId) -> Option<Choice> {
        let (_, handle) = self.connections.get(&connection)?;
        let route = self.routes.get(&connection);
        Some(Choice {
            connection,
            relayed: route.is_some_and(|route| route.relayed),
            turned: route.is_some_and(|route| route.turned),
            tcp: handle.session.kind() == LinkKind::Tcp,
            superseded: route.is_some_and(|route| route.superseded),
            direction: handle.session.direction(),
        })
    }

    fn choices(&self, peer: NodeId) -> Vec<Choice> {
        let connections = self.entries.get(&PeerKey::Node(peer)).map(|entry| entry.connections.clone());
        let mut choices: Vec<Choice> =
            connections.unwrap_or_default().into_iter().filter_map(|connection| self.choice(connection)).collect();
        order(self.local, peer, &mut choices);
        choices
    }

    /// Puts the connections to a peer into order after they have changed; what is shown of it follows. `true` if streams go
    /// another way from now on.
    pub(super) fn settle(&mut self, key: &PeerKey, now: UnixMs) -> bool {
        let PeerKey::Node(peer) = key else { return false };
        let choices = self.choices(*peer);
        let Some(Choice { connection: kept, relayed, turned, .. }) = choices.last().copied() else { return false };
        let handle = self.connections.get(&kept).map(|(_, handle)| Arc::clone(handle));
        let address = self.routes.get(&kept).map(|route| route.address.clone());
        let Some(mut entry) = self.entries.get_mut(key) else { return false };
        entry.connections = choices.into_iter().map(|choice| choice.connection).collect();
        let moved = entry.in_use.replace(kept).is_some_and(|before| before != kept);
        if let (Some(handle), Some(address)) = (handle, address) {
            entry.adopt(&handle, address);
            entry.took_way(relayed, turned, now);
        }
        moved
    }

    /// The connections of a peer's former life are used no more.
    pub(super) fn supersede(&mut self, connections: &[ConnectionId]) {
        for connection in connections {
            if let Some(route) = self.routes.get_mut(connection) {
                route.superseded = true;
            }
        }
    }

    /// Whether a new connection to a peer, relayed or turned or neither, would be no better than those there are.
    pub(crate) fn has_as_good(&self, peer: NodeId, relayed: bool, turned: bool) -> bool {
        let as_good = |choice: &Choice| (choice.relayed, choice.turned) <= (relayed, turned);
        self.choices(peer).iter().any(|choice| !choice.superseded && as_good(choice))
    }

    /// Connections that a better one has made superfluous and that have had no stream for so long.
    pub(crate) fn superfluous(&self, linger_ms: u64, now: UnixMs) -> Vec<(ConnectionId, Arc<ConnectionHandle>)> {
        let several = self.entries.iter().filter(|(_, entry)| entry.connections.len() > 1);
        let peers = several.filter_map(|(key, _)| match key {
            PeerKey::Node(peer) => Some(*peer),
            PeerKey::Classical(_) | PeerKey::Address(_) => None,
        });
        let quiet = |connection: ConnectionId, since: UnixMs| {
            let (_, handle) = self.connections.get(&connection)?;
            let stands = self.routes.get(&connection)?.since;
            let idle = handle.live.idle_since()?.max(stands).max(since);
            (now.ms_since(idle) >= linger_ms).then(|| (connection, Arc::clone(handle)))
        };
        let mut superfluous = Vec::new();
        for peer in peers {
            let choices = self.choices(peer);
            let Some(kept) = choices.last() else { continue };
            let since = self.routes.get(&kept.connection).map_or(now, |route| route.since);
            let others = choices.iter().filter(|other| is_superfluous(kept, other));
            superfluous.extend(others.filter_map(|other| quiet(other.connection, since)));
        }
        superfluous
    }

    /// Marks a connection as being closed; `false` if it was already.
    pub(crate) fn begin_closing(&mut self, connection: ConnectionId) -> bool {
        self.connections.contains_key(&connection) && self.parting.insert(connection)
    }

    /// Relays that are connected directly.
    pub(crate) fn relays(&self) -> Vec<RelayPeer> {
        let relay = |(key, entry): (&PeerKey, &super::Entry)| {
            let PeerKey::Node(node) = key else { return None };
            let accepted = entry.accepted.as_ref().filter(|accepted| accepted.roles.contains(Role::Relay))?;
            let direct = entry.connections.iter().rev().find(|connection| !self.is_relayed(**connection))?;
            let (_, handle) = self.connections.get(direct)?;
            Some(RelayPeer {
                peer: handle.session.peer_id(),
                node: *node,
                latency_us: entry.round_trip.latest_us(),
                region: accepted.region.clone(),
                at: self.routes.get(direct).map(|route| route.at.clone()),
                addresses: accepted.record.addresses.clone(),
                over_tcp: self.choices(*node).iter().any(|choice| choice.tcp),
            })
        };
        self.entries.iter().filter_map(relay).collect()
    }

    /// The relays over which connections of this node's own dials go.
    pub(crate) fn relays_in_use(&self) -> BTreeSet<PeerId> {
        self.routes.values().filter_map(|route| route.relay).collect()
    }

    /// Peers that this node has dialled over a relay and has no other way to, each with the address of the circuit.
    pub(crate) fn dialled_over_relays(&self) -> Vec<(NodeId, PeerId, Multiaddr)> {
        let way = |(key, entry): (&PeerKey, &super::Entry)| {
            let PeerKey::Node(node) = key else { return None };
            let (_, handle) = self.connections.get(&entry.in_use?)?;
            let route = self.routes.get(&entry.in_use?).filter(|route| route.relayed)?;
            let dialled = handle.session.direction() == Direction::Outbound;
            dialled.then(|| (*node, handle.session.peer_id(), route.at.clone()))
        };
        self.entries.iter().filter_map(way).collect()
    }

    /// Peers that streams can be opened to.
    pub(crate) fn connected(&self) -> Vec<NodeId> {
        let node = |(key, entry): (&PeerKey, &super::Entry)| match key {
            PeerKey::Node(node) if !entry.connections.is_empty() => Some(*node),
            _ => None,
        };
        self.entries.iter().filter_map(node).collect()
    }

    /// A peer told a newer record of itself. `false` if it is not newer, or the peer is gone.
    pub(crate) fn renew_record(&mut self, peer: NodeId, record: NodeRecord, signed: Bytes) -> bool {
        let row = self.entries.get_mut(&PeerKey::Node(peer)).filter(|entry| !entry.connections.is_empty());
        let Some(mut row) = row else { return false };
        let Some(accepted) = row.accepted.as_mut() else { return false };
        if record.sequence <= accepted.record.sequence || record.roles != accepted.roles {
            return false;
        }
        (accepted.record, accepted.signed_record) = (record, signed);
        true
    }
}
