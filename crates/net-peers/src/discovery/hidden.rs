//! Names of nodes inside anonymity networks (NET-37, NET-47): they have no socket, so they have no place in the tables of the
//! address book and stand beside them. Pure.
//!
//! Only a node's own signed record or a dial tells of one, so nobody can give another identity a false name. Identities are
//! free to make, so the table is bounded, and who was only heard of never pushes out who was reached.

use std::collections::BTreeMap;

use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use trellis_net_transport::{Proxy, is_hidden};
use trellis_primitives::{NodeId, UnixMs};

use super::book::FORGET_MS;

/// Nodes that are known at once.
pub const HIDDEN_NODES_MAX: usize = 256;
/// Addresses of one node.
pub const HIDDEN_ADDRESSES_MAX: usize = 4;

/// Which networks a node dials into.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Networks {
    /// The clear one: there is no proxy.
    #[default]
    Clear,
    /// The clear one and anonymity networks, all through a proxy.
    All,
    /// Anonymity networks alone.
    Hidden,
}

impl Networks {
    /// As a node's proxy is set.
    #[must_use]
    pub fn of(proxy: Option<&Proxy>) -> Self {
        match proxy {
            None => Self::Clear,
            Some(Proxy { onion_only: false, .. }) => Self::All,
            Some(Proxy { onion_only: true, .. }) => Self::Hidden,
        }
    }

    /// Whether an address is in one of them.
    #[must_use]
    pub fn have(self, address: &Multiaddr) -> bool {
        match self {
            Self::Clear => !is_hidden(address),
            Self::All => true,
            Self::Hidden => is_hidden(address),
        }
    }
}

/// Whether a whole address, with a peer's name at its end or without, is one inside an anonymity network.
#[must_use]
pub fn is_hidden_place(address: &Multiaddr) -> bool {
    let mut parts: Vec<Part<'_>> = address.iter().take(4).collect();
    if matches!(parts.last(), Some(Part::P2p(_))) {
        parts.pop();
    }
    let whole = match parts.as_slice() {
        [Part::Onion3(onion)] => onion.port() != 0,
        [Part::Dns(_) | Part::Dns4(_) | Part::Dns6(_), Part::Tcp(port)] => *port != 0,
        _ => false,
    };
    whole && is_hidden(address)
}

/// What is known of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hidden {
    /// Where it is, the address that was dialled with success first.
    pub addresses: Vec<Multiaddr>,
    /// When its record last said so, or it was last reached.
    pub heard: UnixMs,
    /// When it was last reached there.
    pub reached: Option<UnixMs>,
}

/// The nodes that have names inside anonymity networks.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HiddenBook {
    nodes: BTreeMap<NodeId, Hidden>,
}

impl HiddenBook {
    /// A node's own record names these addresses; others in it are left out.
    pub fn tell(&mut self, node: NodeId, addresses: &[Multiaddr], now: UnixMs) {
        let named = addresses.iter().filter(|address| is_hidden_place(address)).take(HIDDEN_ADDRESSES_MAX);
        let named: Vec<Multiaddr> = named.cloned().collect();
        if named.is_empty() {
            return;
        }
        let reached = self.nodes.get(&node).and_then(|known| known.reached);
        self.nodes.insert(node, Hidden { addresses: named, heard: now, reached });
        self.bound();
    }

    /// A dial to this address ended at the node.
    pub fn reached(&mut self, node: NodeId, address: Multiaddr, now: UnixMs) {
        if !is_hidden_place(&address) {
            return;
        }
        let known = self.nodes.entry(node).or_insert_with(|| Hidden { addresses: vec![], heard: now, reached: None });
        (known.heard, known.reached) = (now, Some(now));
        known.addresses.retain(|other| *other != address);
        known.addresses.insert(0, address);
        known.addresses.truncate(HIDDEN_ADDRESSES_MAX);
        self.bound();
    }

    /// Takes a node back at start; times of the future, which a changed clock leaves behind, become now.
    pub fn restore(&mut self, node: NodeId, mut saved: Hidden, now: UnixMs) {
        saved.addresses.retain(is_hidden_place);
        saved.addresses.truncate(HIDDEN_ADDRESSES_MAX);
        (saved.heard, saved.reached) = (saved.heard.min(now), saved.reached.map(|reached| reached.min(now)));
        if !saved.addresses.is_empty() && Self::ends(&saved) > now {
            self.nodes.insert(node, saved);
            self.bound();
        }
    }

    fn bound(&mut self) {
        while self.nodes.len() > HIDDEN_NODES_MAX {
            let first = self.nodes.iter().min_by_key(|(_, known)| (known.reached, known.heard));
            let Some(first) = first.map(|(node, _)| *node) else { return };
            self.nodes.remove(&first);
        }
    }

    /// When a node of which nobody tells any more is forgotten.
    #[must_use]
    pub fn ends(known: &Hidden) -> UnixMs {
        known.heard.plus_ms(FORGET_MS)
    }

    /// Everything known.
    pub fn all(&self) -> impl Iterator<Item = (NodeId, &Hidden)> {
        self.nodes.iter().map(|(node, known)| (*node, known))
    }

    /// What is known of one node.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<&Hidden> {
        self.nodes.get(&node)
    }

    /// How many nodes are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);
    const ONION: &str = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd";

    fn at(port: u16) -> Multiaddr {
        format!("/onion3/{ONION}:{port}").parse().unwrap()
    }

    fn node(number: u32) -> NodeId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        NodeId(id)
    }

    // row: NET-47
    #[test]
    fn only_whole_addresses_of_anonymity_networks_are_kept() {
        let i2p = format!("/dns/{}.b32.i2p/tcp/1", "a".repeat(52)).parse().unwrap();
        let named: Multiaddr = format!("/onion3/{ONION}:1/p2p/{}", libp2p::PeerId::random()).parse().unwrap();
        let mut book = HiddenBook::default();
        let bad = ["/ip4/11.0.0.1/tcp/1", "/dns/node.example/tcp/1", &format!("/onion3/{ONION}:1/ws")];
        let bad: Vec<Multiaddr> = bad.iter().map(|text| text.parse().unwrap()).collect();
        book.tell(node(1), &bad, NOW);
        book.reached(node(1), bad[0].clone(), NOW);
        assert!(book.is_empty());
        book.tell(node(1), &[bad[0].clone(), i2p, named], NOW);
        assert_eq!(book.get(node(1)).unwrap().addresses.len(), 2);
        let many: Vec<Multiaddr> = (1..50).map(at).collect();
        book.tell(node(1), &many, NOW);
        assert_eq!(book.get(node(1)).unwrap().addresses, many[..HIDDEN_ADDRESSES_MAX]);
        book.reached(node(1), at(3), NOW);
        assert_eq!(book.get(node(1)).unwrap().addresses[..2], [at(3), at(1)]);
    }

    // row: NET-37, NET-56
    #[test]
    fn who_is_only_heard_of_never_pushes_out_who_was_reached() {
        let mut book = HiddenBook::default();
        for number in 0..10 {
            book.reached(node(number), at(1), NOW);
        }
        for number in 10..2_000 {
            book.tell(node(number), &[at(1)], NOW.plus_ms(u64::from(number)));
        }
        assert_eq!(book.len(), HIDDEN_NODES_MAX);
        assert!((0..10).all(|number| book.get(node(number)).is_some()));
        assert!(book.get(node(1_999)).is_some() && book.get(node(10)).is_none());
    }

    // row: NET-37
    #[test]
    fn what_nobody_told_of_for_long_does_not_come_back() {
        let mut book = HiddenBook::default();
        let saved = Hidden { addresses: vec![at(1)], heard: NOW, reached: Some(NOW) };
        book.restore(node(1), saved.clone(), NOW.plus_ms(FORGET_MS + 1));
        assert!(book.is_empty());
        book.restore(node(1), saved, UnixMs(NOW.0 - 5));
        assert_eq!(book.get(node(1)).unwrap().heard, UnixMs(NOW.0 - 5));
    }
}
