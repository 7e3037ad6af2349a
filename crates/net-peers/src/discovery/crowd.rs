//! What is kept of what anybody may tell, so that no one teller can fill it or turn it back (NET-37). Pure.

use std::collections::BTreeMap;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use trellis_net_reach::relay::keeper::RELAYS_KNOWN_MAX;
use trellis_primitives::{NodeId, NodeRecord, UnixMs};

use super::address::AddressGroup;

/// Nodes whose newest record's number is remembered.
const NUMBERS_MAX: usize = 8_192;

/// Which entry goes where there is one too many: of the group of tellers that told most the one that ends first; but where
/// no group told more than the newcomer's, one of that group.
pub(super) fn crowded_out<K: Clone>(
    entries: impl Iterator<Item = (K, AddressGroup, UnixMs)>,
    newcomer: AddressGroup,
) -> Option<K> {
    let mut groups: BTreeMap<AddressGroup, (usize, Option<(UnixMs, K)>)> = BTreeMap::new();
    for (key, group, ends) in entries {
        let (count, first) = groups.entry(group).or_insert((0, None));
        *count += 1;
        if first.as_ref().is_none_or(|(first, _)| ends < *first) {
            *first = Some((ends, key));
        }
    }
    let most = groups.iter().max_by_key(|(group, (count, _))| (*count, **group == newcomer))?.0;
    groups.get(most)?.1.as_ref().map(|(_, key)| key.clone())
}

#[derive(Clone, Debug)]
struct Relay {
    addresses: Vec<Multiaddr>,
    expires: UnixMs,
    source: AddressGroup,
}

/// The relays that records tell of at one time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RelayList {
    /// Of the list.
    pub(crate) version: u64,
    /// Each with its addresses.
    pub(crate) relays: Vec<(PeerId, Vec<Multiaddr>)>,
}

/// Relays that records tell of, with their addresses.
#[derive(Debug, Default)]
pub(super) struct Relays {
    known: BTreeMap<PeerId, Relay>,
    /// Grows with every change.
    version: u64,
}

impl Relays {
    /// A record says that its node is a relay.
    pub(super) fn tell(
        &mut self,
        relay: PeerId,
        addresses: Vec<Multiaddr>,
        expires: UnixMs,
        source: AddressGroup,
        now: UnixMs,
    ) {
        self.expire(now);
        if let Some(known) = self.known.get_mut(&relay) {
            known.expires = expires;
            if known.addresses != addresses {
                known.addresses = addresses;
                self.version += 1;
            }
            return;
        }
        self.known.insert(relay, Relay { addresses, expires, source });
        self.version += 1;
        if self.known.len() > RELAYS_KNOWN_MAX {
            let entries = self.known.iter().map(|(peer, known)| (*peer, known.source, known.expires));
            crowded_out(entries, source).map(|peer| self.known.remove(&peer));
        }
    }

    /// A record says so no more.
    pub(super) fn forget(&mut self, relay: &PeerId) {
        self.version += u64::from(self.known.remove(relay).is_some());
    }

    fn expire(&mut self, now: UnixMs) {
        let before = self.known.len();
        self.known.retain(|_, known| known.expires > now);
        self.version += u64::from(self.known.len() < before);
    }

    /// Those that are known now; nothing where that is the version that the caller has seen.
    pub(super) fn since(&mut self, seen: u64, now: UnixMs) -> Option<RelayList> {
        self.expire(now);
        let all = || self.known.iter().map(|(peer, known)| (*peer, known.addresses.clone())).collect();
        (self.version != seen).then(|| RelayList { version: self.version, relays: all() })
    }
}

/// The number of each node's newest record, so that an older one, still good by its time, takes nothing back.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    newest: BTreeMap<NodeId, (u64, UnixMs)>,
}

impl Numbers {
    /// Whether a verified record is as new as any that was seen of its node; it is remembered then.
    pub(super) fn take(&mut self, node: NodeId, record: &NodeRecord, now: UnixMs) -> bool {
        let (sequence, expires) = (record.sequence, record.expires());
        let newest = self.newest.entry(node).or_insert((sequence, expires));
        if sequence < newest.0 {
            return false;
        }
        *newest = (sequence, expires);
        if self.newest.len() > NUMBERS_MAX {
            self.newest.retain(|_, (_, expires)| *expires > now);
        }
        if self.newest.len() > NUMBERS_MAX {
            let first = self.newest.iter().min_by_key(|(_, (_, expires))| *expires).map(|(node, _)| *node);
            first.map(|first| self.newest.remove(&first));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trellis_primitives::{Address, RoleSet};

    const HONEST: AddressGroup = AddressGroup([4, 8, 8, 0, 0]);
    const SYBIL: AddressGroup = AddressGroup([4, 9, 9, 0, 0]);

    fn place(n: u8) -> Vec<Multiaddr> {
        vec![format!("/ip4/8.8.8.{n}/udp/9700/quic-v1").parse().unwrap()]
    }

    fn told(relays: &mut Relays) -> Vec<PeerId> {
        let all = relays.since(u64::MAX, UnixMs(0)).unwrap().relays;
        all.into_iter().map(|(peer, _)| peer).collect()
    }

    // row: NET-37, NET-42
    #[test]
    fn whoever_tells_of_a_thousand_relays_displaces_none_that_others_told_of() {
        let mut relays = Relays::default();
        let honest = PeerId::random();
        for _ in 0..500 {
            relays.tell(PeerId::random(), place(1), UnixMs(9_000), SYBIL, UnixMs(0));
        }
        // Full, and yet somebody else's word is taken.
        relays.tell(honest, place(2), UnixMs(1_000), HONEST, UnixMs(0));
        for _ in 0..500 {
            relays.tell(PeerId::random(), place(1), UnixMs(9_000), SYBIL, UnixMs(0));
        }
        let all = told(&mut relays);
        assert_eq!(all.len(), RELAYS_KNOWN_MAX);
        assert!(all.contains(&honest));
    }

    // row: NET-42
    #[test]
    fn a_relay_is_forgotten_with_its_record_and_a_change_is_told_once() {
        let mut relays = Relays::default();
        let (one, two) = (PeerId::random(), PeerId::random());
        relays.tell(one, place(1), UnixMs(1_000), HONEST, UnixMs(0));
        let RelayList { version, relays: all } = relays.since(0, UnixMs(0)).unwrap();
        assert_eq!(all, [(one, place(1))]);
        relays.tell(one, place(1), UnixMs(2_000), HONEST, UnixMs(0));
        assert_eq!(relays.since(version, UnixMs(0)), None, "nothing new");
        relays.tell(one, place(3), UnixMs(2_000), HONEST, UnixMs(0));
        relays.tell(two, place(2), UnixMs(9_000), HONEST, UnixMs(0));
        let RelayList { version, relays: all } = relays.since(version, UnixMs(0)).unwrap();
        assert_eq!(all.len(), 2);
        let RelayList { version, relays: all } = relays.since(version, UnixMs(2_000)).unwrap();
        assert_eq!(all, [(two, place(2))], "expired");
        relays.forget(&two);
        assert_eq!(relays.since(version, UnixMs(2_000)).unwrap().relays, []);
    }

    fn record(sequence: u64, expires_ms: u64) -> NodeRecord {
        NodeRecord {
            ed25519: [0; 32],
            mldsa65: Vec::new().into(),
            chain_address: Address::ZERO,
            network_magic: 1,
            roles: RoleSet(0),
            addresses: Vec::new(),
            models: Vec::new(),
            sequence,
            expires_ms,
        }
    }

    // row: NET-34
    #[test]
    fn a_record_older_than_the_newest_of_its_node_is_not_taken() {
        let mut numbers = Numbers::default();
        let (node, other) = (NodeId([1; 32]), NodeId([2; 32]));
        assert!(numbers.take(node, &record(5, 1_000), UnixMs(0)));
        assert!(numbers.take(node, &record(5, 1_000), UnixMs(0)), "the same again");
        assert!(!numbers.take(node, &record(4, 9_000), UnixMs(0)));
        assert!(numbers.take(other, &record(4, 9_000), UnixMs(0)));
        assert!(numbers.take(node, &record(6, 1_000), UnixMs(0)));
        assert!(!numbers.take(node, &record(5, 1_000), UnixMs(0)));
    }

    // row: NET-56
    #[test]
    fn the_numbers_stay_within_their_bound() {
        let mut numbers = Numbers::default();
        for n in 0..NUMBERS_MAX as u64 + 100 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            assert!(numbers.take(NodeId(id), &record(1, 1_000 + n), UnixMs(0)));
        }
        assert_eq!(numbers.newest.len(), NUMBERS_MAX);
    }
}
