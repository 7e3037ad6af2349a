//! How well nodes answer: bounded, decaying, pure.

use std::collections::BTreeMap;

use trellis_primitives::{Bytes, NodeId, UnixMs};

use crate::discovery::address::{AddressClass, AddressGroup, PeerAddress};

/// Nodes remembered; beyond it the worst one is forgotten.
pub const NODES_MAX: usize = 4_096;
/// A node is named while it answers at least this share of its probes, the latest counting most.
pub const RELIABILITY_MIN: f64 = 0.5;
/// What the latest probe counts in the share.
pub const PROBE_WEIGHT: f64 = 0.25;
/// Nodes of one group of neighbours in a zone.
pub const PER_GROUP_MAX: usize = 2;
/// Probes without an answer after which a node is forgotten.
pub const FAILURES_MAX: u32 = 16;

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it answered last.
    pub address: PeerAddress,
    /// Its own record as it signed it.
    pub record: Bytes,
    /// The share of probes it answered, the latest counting most: 0 to 1.
    pub reliability: f64,
    /// When it last answered.
    pub answered: UnixMs,
    /// Probes without an answer since.
    pub failures: u32,
}

/// Every node that ever answered.
#[derive(Debug, Default)]
pub struct Health {
    nodes: BTreeMap<NodeId, Node>,
}

impl Health {
    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node answered at an address.
    pub fn answered(&mut self, id: NodeId, address: PeerAddress, record: Bytes, now: UnixMs) {
        // A newcomer is named, after those that have answered for longer; so a crowd of new names pushes no old one out.
        let before = self.nodes.get(&id).map_or(RELIABILITY_MIN, |node| node.reliability);
        let reliability = before + (1.0 - before) * PROBE_WEIGHT;
        self.nodes.insert(id, Node { address, record, reliability, answered: now, failures: 0 });
        if self.nodes.len() > NODES_MAX {
            let worst = self
                .nodes
                .iter()
                .min_by(|(_, a), (_, b)| a.reliability.total_cmp(&b.reliability).then(a.answered.cmp(&b.answered)));
            if let Some(worst) = worst.map(|(id, _)| *id) {
                self.nodes.remove(&worst);
            }
        }
    }

    /// Nobody answered at an address; counts against whoever answered there last.
    pub fn silent(&mut self, address: PeerAddress) {
        let there = |node: &&mut Node| node.address.socket == address.socket;
        for node in self.nodes.values_mut().filter(there) {
            node.reliability *= 1.0 - PROBE_WEIGHT;
            node.failures = node.failures.saturating_add(1);
        }
        self.nodes.retain(|_, node| node.failures < FAILURES_MAX);
    }

    /// The addresses of every remembered node, those probed first that answered longest ago.
    #[must_use]
    pub fn addresses(&self) -> Vec<PeerAddress> {
        let mut all: Vec<&Node> = self.nodes.values().collect();
        all.sort_by_key(|node| node.answered);
        all.into_iter().map(|node| node.address).collect()
    }

    /// The best nodes that answered since `fresh`, reach at least as far as `nearest`, and are not too many of one group.
    #[must_use]
    pub fn healthy(&self, nearest: AddressClass, fresh: UnixMs, max: usize) -> Vec<(NodeId, &Node)> {
        let good = self.nodes.iter().filter(|(_, node)| {
            node.reliability >= RELIABILITY_MIN
                && node.answered >= fresh
                && node.address.class().is_some_and(|class| nearest.may_share(class))
        });
        let mut good: Vec<(NodeId, &Node)> = good.map(|(id, node)| (*id, node)).collect();
        good.sort_by(|(_, a), (_, b)| b.reliability.total_cmp(&a.reliability).then(b.answered.cmp(&a.answered)));
        let mut groups: BTreeMap<AddressGroup, usize> = BTreeMap::new();
        good.retain(|(_, node)| {
            // Neighbours on a private network are the whole network of a zone for it.
            let in_group = groups.entry(AddressGroup::of(node.address.socket)).or_default();
            *in_group += 1;
            *in_group <= PER_GROUP_MAX || node.address.class() != Some(AddressClass::Public)
        });
        good.truncate(max);
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_000);

    fn at(text: &str) -> PeerAddress {
        PeerAddress::parse(&format!("/ip4/{text}/udp/9700/quic-v1")).unwrap()
    }

    fn id(n: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        NodeId(bytes)
    }

    // row: NET-33
    #[test]
    fn a_node_that_stops_answering_leaves_the_zone_and_is_forgotten_in_the_end() {
        let mut health = Health::default();
        (0..30).for_each(|_| health.answered(id(1), at("11.0.0.1"), Bytes::new(), NOW));
        let named = |health: &Health| health.healthy(AddressClass::Public, UnixMs(0), 9).len();
        assert_eq!(named(&health), 1);
        (0..2).for_each(|_| health.silent(at("11.0.0.1")));
        assert_eq!(named(&health), 1);
        health.silent(at("11.0.0.1"));
        assert_eq!((named(&health), health.len()), (0, 1));
        (0..4).for_each(|_| health.answered(id(1), at("11.0.0.1"), Bytes::new(), NOW));
        assert_eq!(named(&health), 1);
        (0..FAILURES_MAX).for_each(|_| health.silent(at("11.0.0.1")));
        assert!(health.is_empty());
    }

    // row: NET-33, NET-37
    #[test]
    fn neighbours_near_networks_and_old_answers_are_left_out_and_memory_is_bounded() {
        let mut health = Health::default();
        for n in 0..9u32 {
            health.answered(id(n), at(&format!("11.0.0.{n}")), Bytes::new(), NOW);
        }
        health.answered(id(10), at("192.168.1.1"), Bytes::new(), NOW);
        health.answered(id(11), at("12.0.0.1"), Bytes::new(), UnixMs(1));
        assert_eq!(health.healthy(AddressClass::Public, NOW, 99).len(), PER_GROUP_MAX);
        assert_eq!(health.healthy(AddressClass::Private, UnixMs(0), 99).len(), PER_GROUP_MAX + 2);
        assert_eq!(health.healthy(AddressClass::Private, UnixMs(0), 1).len(), 1);
        for n in 0..NODES_MAX + 99 {
            health.answered(id(n as u32), at("11.0.0.1"), Bytes::new(), NOW);
        }
        assert_eq!(health.len(), NODES_MAX);
    }

    // row: NET-33, NET-37
    #[test]
    fn a_crowd_of_new_names_pushes_no_old_one_out_of_memory_or_zone() {
        let mut health = Health::default();
        (0..3).for_each(|_| health.answered(id(u32::MAX), at("11.0.0.1"), Bytes::new(), NOW));
        for n in 0..2 * NODES_MAX as u32 {
            health.answered(id(n), at(&format!("12.{}.0.1", n % 250)), Bytes::new(), UnixMs(2_000));
        }
        assert_eq!(health.healthy(AddressClass::Public, UnixMs(0), 9)[0].0, id(u32::MAX));
    }
}
