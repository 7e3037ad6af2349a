//! Nodes that can be reached over relays, over TCP or inside anonymity networks, as their signed records say (NET-42). Pure.
//!
//! They are apart from the address book, whose places are sockets: many nodes share the socket of one relay. Nothing is
//! kept over a restart, because a reservation ends with its relay or its node.

use std::collections::{BTreeMap, BTreeSet};

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use trellis_primitives::{NodeId, UnixMs};

use super::address::AddressGroup;
use super::crowd::crowded_out;
use crate::table::route::relay_of;

/// Nodes that are known at once; beyond it one of those that the busiest tellers told of is forgotten.
pub(crate) const NODES_MAX: usize = 1_024;
/// Addresses of one node.
pub(crate) const CIRCUITS_MAX: usize = 12;
/// The wait between two dials of one node; it doubles with each failure.
const RETRY_MS_MIN: u64 = 1_000;
/// The longest such wait.
const RETRY_MS_MAX: u64 = 60_000;

#[derive(Clone, Debug)]
struct Behind {
    circuits: Vec<Multiaddr>,
    expires: UnixMs,
    /// The group of who told of it first.
    source: AddressGroup,
    failures: u32,
    not_before: UnixMs,
}

/// The book of nodes behind relays.
#[derive(Debug, Default)]
pub(crate) struct RelayedBook {
    nodes: BTreeMap<NodeId, Behind>,
}

impl RelayedBook {
    /// A record says how a node is reached; a new one is not dialled for `wait_ms`. `true` if there is a new way.
    pub(crate) fn tell(
        &mut self,
        node: NodeId,
        mut circuits: Vec<Multiaddr>,
        expires: UnixMs,
        source: AddressGroup,
        now: UnixMs,
        wait_ms: u64,
    ) -> bool {
        circuits.truncate(CIRCUITS_MAX);
        if let Some(known) = self.nodes.get_mut(&node) {
            known.expires = expires;
            if known.circuits == circuits {
                return false;
            }
            (known.circuits, known.failures, known.not_before) = (circuits, 0, now.plus_ms(wait_ms));
            return true;
        }
        let not_before = now.plus_ms(wait_ms);
        self.nodes.insert(node, Behind { circuits, expires, source, failures: 0, not_before });
        if self.nodes.len() > NODES_MAX {
            let entries = self.nodes.iter().map(|(node, known)| (*node, known.source, known.expires));
            crowded_out(entries, source).map(|node| self.nodes.remove(&node));
        }
        true
    }

    /// Whether there is a way to a node.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// A record names no relay any more.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// The nodes that may be dialled now, those that failed least first.
    pub(crate) fn due(&mut self, now: UnixMs) -> Vec<NodeId> {
        self.nodes.retain(|_, known| known.expires > now);
        let due = self.nodes.iter().filter(|(_, known)| known.not_before <= now);
        let mut due: Vec<(u32, NodeId)> = due.map(|(node, known)| (known.failures, *node)).collect();
        due.sort_unstable();
        due.into_iter().map(|(_, node)| node).collect()
    }

    /// A dial of a node begins: its addresses, those over TCP and over relays that are connected first, then the rest.
    /// `None` for a node that is not known, or has to wait after it was not reached.
    pub(crate) fn dialled(
        &mut self,
        node: NodeId,
        connected: &BTreeSet<PeerId>,
        now: UnixMs,
    ) -> Option<[Vec<Multiaddr>; 2]> {
        let known = self.nodes.get_mut(&node).filter(|known| known.not_before <= now)?;
        // Until it is told otherwise it has failed, so that nobody dials it a second time meanwhile.
        known.not_before = now.plus_ms(RETRY_MS_MIN.saturating_mul(1 << known.failures.min(16)).min(RETRY_MS_MAX));
        known.failures = known.failures.saturating_add(1);
        let near = |address: &&Multiaddr| relay_of(address).is_none_or(|relay| connected.contains(&relay));
        let first = known.circuits.iter().filter(near).cloned().collect();
        Some([first, known.circuits.iter().filter(|address| !near(address)).cloned().collect()])
    }

    /// A node was reached.
    pub(crate) fn reached(&mut self, node: NodeId, now: UnixMs) {
        if let Some(known) = self.nodes.get_mut(&node) {
            (known.failures, known.not_before) = (0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: AddressGroup = AddressGroup::OPERATOR;

    fn circuit(relay: PeerId) -> Multiaddr {
        format!("/ip4/11.201.0.2/udp/9700/quic-v1/p2p/{relay}/p2p-circuit").parse().unwrap()
    }

    // row: NET-42
    #[test]
    fn the_relays_that_are_connected_are_tried_first() {
        let (far, near) = (PeerId::random(), PeerId::random());
        let node = NodeId([7; 32]);
        let mut book = RelayedBook::default();
        assert!(book.tell(node, vec![circuit(far), circuit(near)], UnixMs(100_000), SOURCE, UnixMs(0), 0));
        assert!(!book.tell(node, vec![circuit(far), circuit(near)], UnixMs(100_000), SOURCE, UnixMs(0), 0));
        let [first, rest] = book.dialled(node, &BTreeSet::from([near]), UnixMs(0)).unwrap();
        assert_eq!((first, rest), (vec![circuit(near)], vec![circuit(far)]));
    }

    // row: NET-42
    #[test]
    fn a_node_that_is_not_reached_waits_longer_each_time_and_a_new_record_ends_the_wait() {
        let node = NodeId([7; 32]);
        let (mut book, relay) = (RelayedBook::default(), PeerId::random());
        book.tell(node, vec![circuit(relay)], UnixMs(10_000_000), SOURCE, UnixMs(0), 0);
        let mut now = UnixMs(0);
        for failures in 0..8 {
            assert_eq!(book.due(now), [node]);
            book.dialled(node, &BTreeSet::new(), now);
            let wait = (RETRY_MS_MIN << failures).min(RETRY_MS_MAX);
            assert!(book.due(now.plus_ms(wait - 1)).is_empty());
            now = now.plus_ms(wait);
        }
        assert!(book.dialled(node, &BTreeSet::new(), now).is_some());
        assert!(book.due(now).is_empty());
        assert_eq!(book.dialled(node, &BTreeSet::new(), now), None, "however often its connection breaks");
        book.tell(node, vec![circuit(PeerId::random())], UnixMs(10_000_000), SOURCE, now, 0);
        assert_eq!(book.due(now), [node]);
        assert!(book.due(UnixMs(10_000_000)).is_empty(), "an expired record leads nowhere");
    }

    // row: NET-56
    #[test]
    fn the_book_stays_within_its_bounds() {
        let mut book = RelayedBook::default();
        for n in 0..NODES_MAX as u64 + 50 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            let many = (0..100).map(|_| circuit(PeerId::random())).take(CIRCUITS_MAX + 4).collect();
            book.tell(NodeId(id), many, UnixMs(1_000 + n), SOURCE, UnixMs(0), 0);
        }
        assert!(book.nodes.len() <= NODES_MAX);
        assert!(book.nodes.values().all(|known| known.circuits.len() <= CIRCUITS_MAX));
    }
}
