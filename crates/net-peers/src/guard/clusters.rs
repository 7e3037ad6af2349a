//! Sybil clusters: identities that one party made (NET-37). Pure: records, places and times in, counts out.
//!
//! Making a node costs nothing, so what counts is not how many nodes there are but how many parties. Two signs tell that nodes
//! belong together:
//!
//! * A **key** that stands in several nodes' records: the account, the Ed25519 key or the ML-DSA-65 key. All keys of a record
//!   sign it, so whoever has one key of two nodes runs both, and nobody is pulled into a cluster without his key. Clusters by
//!   keys therefore grow together: two nodes of one account, one of which shares a key with a third, are one cluster of three.
//! * A **batch**: records that were signed within the same second, of peers with the same software who come from one /24 (/48
//!   for IPv6), or which one source tells of. Neighbours alone are what the users behind one carrier's NAT are, and a second
//!   alone is what nodes all over the world share by chance; so a batch takes all of it. Because a neighbour could time its
//!   record to somebody else's, batches do not grow together with anything.
//!
//! A cluster is never punished for being one: its members get a bounded number of places, addresses and mentions together, and
//! whoever was connected for long before, whoever is exempt, and whoever this node wants to reach itself is not counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use serde::Serialize;
use trellis_crypto::sha3_256;
use trellis_primitives::{Address, NodeId, NodeRecord, UnixMs};

use crate::discovery::address::AddressGroup;

/// Strangers of one cluster that are connected to this node by their own dials.
pub const CLUSTER_PLACES_MAX: usize = 8;
/// Nodes of one cluster with an address in *tried*.
pub const CLUSTER_TRIED_MAX: usize = 16;
/// Nodes of one cluster that this node dials of its own accord.
pub const CLUSTER_OUTBOUND_MAX: usize = 2;
/// Nodes of one cluster in one answer to a question for addresses.
pub const CLUSTER_TOLD_MAX: usize = 2;
/// Nodes of one cluster in Kademlia's routing table, and as providers of one model.
pub const CLUSTER_TABLED_MAX: usize = 8;
/// Nodes that are remembered; beyond it those go first that are not connected and share nothing, then the longest unseen.
pub const CLUSTERED_NODES_MAX: usize = 8_192;
/// Keys that a cluster is remembered by, for each of its nodes: whoever changes its account over and over fills no memory.
const KEYS_PER_NODE_MAX: usize = 16;

/// Where a record was seen.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// Its node is connected, or about to be.
    Here {
        /// From where; none where it has no address of its own, or one that is exempt.
        ip: Option<IpAddr>,
        /// What it calls its software.
        agent: &'a str,
    },
    /// Somebody told of it.
    Told {
        /// The group of who told; none where that is no public one.
        source: Option<AddressGroup>,
    },
}

/// A key as it stands in a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Key {
    Account(Address),
    Ed25519([u8; 32]),
    /// By its hash.
    MlDsa65([u8; 32]),
}

/// What the records of a batch have in common; `second` is when they run out, which is a fixed time after they were signed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Batch {
    Neighbours { subnet: IpAddr, agent: [u8; 32], second: u64 },
    Told { source: AddressGroup, second: u64 },
}

#[derive(Clone, Debug)]
struct Node {
    cluster: u64,
    neighbours: Option<Batch>,
    told: Option<Batch>,
    ed25519: [u8; 32],
    seen: UnixMs,
    connected: bool,
}

#[derive(Clone, Debug, Default)]
struct Cluster {
    members: BTreeSet<NodeId>,
    keys: BTreeSet<Key>,
    /// It was larger than an honest party is, and said so.
    found: bool,
}

#[derive(Clone, Debug, Default)]
struct Members {
    members: BTreeSet<NodeId>,
    found: bool,
}

/// The clusters as commands show them. One is found when it has more nodes than [`CLUSTER_PLACES_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ClusterReport {
    /// Nodes that are remembered.
    pub nodes: usize,
    /// Clusters by keys that are found now.
    pub by_keys: usize,
    /// Batches that are found now.
    pub batches: usize,
    /// Nodes of the largest cluster or batch.
    pub largest: usize,
    /// Clusters and batches that were found since the start.
    pub found: u64,
    /// Peers that were refused because their cluster has its places.
    pub refused: u64,
}

/// The clusters that one node knows of.
#[derive(Clone, Debug, Default)]
pub struct Clusters {
    nodes: HashMap<NodeId, Node>,
    clusters: HashMap<u64, Cluster>,
    by_key: HashMap<Key, u64>,
    batches: HashMap<Batch, Members>,
    next: u64,
    found: u64,
    refused: u64,
}

/// The /24 or /48 around an address.
fn subnet_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

impl Clusters {
    /// Takes the verified record of a node. The size of a cluster or batch that is found by it, and was not before.
    pub fn seen(&mut self, node: NodeId, record: &NodeRecord, seen: Seen<'_>, now: UnixMs) -> Option<usize> {
        if !self.nodes.contains_key(&node) {
            self.make_room();
            self.begin(node, record, now);
        }
        for key in [
            Key::Account(record.chain_address),
            Key::Ed25519(record.ed25519),
            Key::MlDsa65(sha3_256(&[record.mldsa65.as_ref()])),
        ] {
            self.join(node, key);
        }
        let second = record.expires_ms / 1_000;
        let batch = match seen {
            Seen::Here { ip, agent } => ip.map(|ip| {
                let agent = sha3_256(&[agent.as_bytes()]);
                Batch::Neighbours { subnet: subnet_of(ip), agent, second }
            }),
            Seen::Told { source } => source.map(|source| Batch::Told { source, second }),
        };
        if let Some(known) = self.nodes.get_mut(&node) {
            known.seen = known.seen.max(now);
        }
        if let Some(batch) = batch {
            self.put_into(node, batch);
        }
        self.find(node)
    }

    /// A node is connected from now on, or no more.
    pub fn connected(&mut self, node: NodeId, connected: bool) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.connected = connected;
        }
    }

    /// A peer was refused because its cluster has its places.
    pub const fn count_refused(&mut self) {
        self.refused += 1;
    }

    /// The other nodes of a node's cluster and of each of its batches.
    #[must_use]
    pub fn others(&self, node: NodeId) -> Vec<Vec<NodeId>> {
        let others = |members: &BTreeSet<NodeId>| members.iter().filter(|other| **other != node).copied().collect();
        self.groups_of(node).map(others).collect()
    }

    /// The other connected nodes of a node's cluster and of each of its batches.
    #[must_use]
    pub fn connected_others(&self, node: NodeId) -> Vec<Vec<NodeId>> {
        let here = |other: &&NodeId| **other != node && self.nodes.get(*other).is_some_and(|other| other.connected);
        self.groups_of(node).map(|members| members.iter().filter(here).copied().collect()).collect()
    }

    /// The Ed25519 keys of the others in a node's cluster and batches; none for most nodes.
    #[must_use]
    pub fn company(&self, node: NodeId) -> BTreeSet<[u8; 32]> {
        let others = self.groups_of(node).flatten().filter(|other| **other != node);
        others.filter_map(|other| self.nodes.get(other)).map(|other| other.ed25519).collect()
    }

    /// Everybody in whose cluster or batch so many of the given nodes are.
    #[must_use]
    pub fn crowded(&self, given: &BTreeSet<NodeId>, max: usize) -> BTreeSet<NodeId> {
        let groups = given.iter().flat_map(|node| self.groups_of(*node));
        let full = groups.filter(|members| members.iter().filter(|node| given.contains(*node)).count() >= max);
        full.flatten().copied().collect()
    }

    /// Takes out of a list, from its front to its end, whoever is one too many of a cluster or batch.
    pub fn thin<T>(&self, list: &mut Vec<T>, node_of: impl Fn(&T) -> NodeId, max: usize) {
        let mut clusters: BTreeMap<u64, usize> = BTreeMap::new();
        let mut batches: BTreeMap<Batch, usize> = BTreeMap::new();
        list.retain(|item| {
            let Some(node) = self.nodes.get(&node_of(item)) else { return true };
            let of_batches = || node.neighbours.into_iter().chain(node.told);
            let full = |count: Option<&usize>| count.is_some_and(|count| *count >= max);
            if full(clusters.get(&node.cluster)) || of_batches().any(|batch| full(batches.get(&batch))) {
                return false;
            }
            *clusters.entry(node.cluster).or_default() += 1;
            of_batches().for_each(|batch| *batches.entry(batch).or_default() += 1);
            true
        });
    }

    /// What is known.
    #[must_use]
    pub fn report(&self) -> ClusterReport {
        let (clusters, batches) = (self.clusters.values(), self.batches.values());
        let sizes = clusters.clone().map(|it| it.members.len()).chain(batches.clone().map(|it| it.members.len()));
        ClusterReport {
            nodes: self.nodes.len(),
            by_keys: clusters.filter(|it| it.members.len() > CLUSTER_PLACES_MAX).count(),
            batches: batches.filter(|it| it.members.len() > CLUSTER_PLACES_MAX).count(),
            largest: sizes.max().unwrap_or_default(),
            found: self.found,
            refused: self.refused,
        }
    }

    fn groups_of(&self, node: NodeId) -> impl Iterator<Item = &BTreeSet<NodeId>> {
        let known = self.nodes.get(&node);
        let cluster = known.and_then(|known| self.clusters.get(&known.cluster)).map(|cluster| &cluster.members);
        let batches = known.into_iter().flat_map(|known| known.neighbours.into_iter().chain(known.told));
        cluster.into_iter().chain(batches.filter_map(|batch| self.batches.get(&batch)).map(|batch| &batch.members))
    }

    fn begin(&mut self, node: NodeId, record: &NodeRecord, now: UnixMs) {
        let cluster = self.next;
        self.next += 1;
        let alone =
            Node { cluster, neighbours: None, told: None, ed25519: record.ed25519, seen: now, connected: false };
        self.nodes.insert(node, alone);
        self.clusters.insert(cluster, Cluster { members: [node].into(), ..Cluster::default() });
    }

    /// A node's record names a key.
    fn join(&mut self, node: NodeId, key: Key) {
        let Some(own) = self.nodes.get(&node).map(|known| known.cluster) else { return };
        match self.by_key.get(&key).copied() {
            Some(other) if other != own => self.merge(own, other),
            Some(_) => {}
            None => {
                let Some(cluster) = self.clusters.get_mut(&own) else { return };
                if cluster.keys.len() < cluster.members.len() * KEYS_PER_NODE_MAX {
                    cluster.keys.insert(key);
                    self.by_key.insert(key, own);
                }
            }
        }
    }

    /// Two clusters are one: the smaller goes over to the larger.
    fn merge(&mut self, one: u64, other: u64) {
        let size = |id: &u64| self.clusters.get(id).map_or(0, |cluster| cluster.members.len() + cluster.keys.len());
        let (small, large) = if size(&one) < size(&other) { (one, other) } else { (other, one) };
        let Some(gone) = self.clusters.remove(&small) else { return };
        for member in &gone.members {
            if let Some(known) = self.nodes.get_mut(member) {
                known.cluster = large;
            }
        }
        for key in &gone.keys {
            self.by_key.insert(*key, large);
        }
        let into = self.clusters.entry(large).or_default();
        into.members.extend(gone.members);
        into.keys.extend(gone.keys);
        into.found |= gone.found;
    }

    fn put_into(&mut self, node: NodeId, batch: Batch) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        let place = match batch {
            Batch::Neighbours { .. } => &mut known.neighbours,
            Batch::Told { .. } => &mut known.told,
        };
        let former = place.replace(batch).filter(|former| *former != batch);
        if let Some(former) = former {
            self.leave_batch(node, former);
        }
        self.batches.entry(batch).or_default().members.insert(node);
    }

    fn leave_batch(&mut self, node: NodeId, batch: Batch) {
        let Some(held) = self.batches.get_mut(&batch) else { return };
        held.members.remove(&node);
        if held.members.is_empty() {
            self.batches.remove(&batch);
        }
    }

    /// Whether a node's cluster or one of its batches is too large for an honest party's, and was not before.
    fn find(&mut self, node: NodeId) -> Option<usize> {
        let known = self.nodes.get(&node)?;
        let batches = known.neighbours.into_iter().chain(known.told).collect::<Vec<_>>();
        let mut news = None;
        let mut look = |size: usize, found: &mut bool| {
            if size > CLUSTER_PLACES_MAX && !*found {
                *found = true;
                news = news.max(Some(size));
            }
        };
        if let Some(cluster) = self.clusters.get_mut(&known.cluster) {
            look(cluster.members.len(), &mut cluster.found);
        }
        for batch in batches {
            if let Some(held) = self.batches.get_mut(&batch) {
                look(held.members.len(), &mut held.found);
            }
        }
        self.found += u64::from(news.is_some());
        news
    }

    /// Forgets an eighth at once where there are too many, so that each newcomer costs little.
    fn make_room(&mut self) {
        if self.nodes.len() < CLUSTERED_NODES_MAX {
            return;
        }
        let in_company = |node: &NodeId| self.groups_of(*node).any(|members| members.len() > 1);
        let absent = self.nodes.iter().filter(|(_, known)| !known.connected);
        let mut order: Vec<_> = absent.map(|(node, known)| (in_company(node), known.seen, *node)).collect();
        order.sort_unstable();
        for (_, _, node) in order.into_iter().take(CLUSTERED_NODES_MAX / 8) {
            self.forget(node);
        }
    }

    fn forget(&mut self, node: NodeId) {
        let Some(known) = self.nodes.remove(&node) else { return };
        for batch in known.neighbours.into_iter().chain(known.told) {
            self.leave_batch(node, batch);
        }
        let Some(cluster) = self.clusters.get_mut(&known.cluster) else { return };
        cluster.members.remove(&node);
        if cluster.members.is_empty()
            && let Some(gone) = self.clusters.remove(&known.cluster)
        {
            for key in &gone.keys {
                self.by_key.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
