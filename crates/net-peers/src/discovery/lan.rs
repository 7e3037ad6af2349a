//! The local network (NET-36): what mDNS tells goes into the address book like any other hint.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use trellis_primitives::UnixMs;

use super::address::{AddressClass, AddressGroup, PeerAddress};
use super::book::Told;
use super::{Discovery, Outcome, Source};

/// Addresses that mDNS may tell at once; more than a house has devices, less than fills the memory.
pub const LAN_ADDRESSES_MAX: usize = 4_096;
/// The name of the source in the book's buckets.
const SOURCE_NAME: &str = "mdns";

/// The addresses of an announcement that another machine can be at. Pure.
#[must_use]
pub fn usable(found: &[(PeerId, Multiaddr)], local: PeerId) -> Vec<PeerAddress> {
    let others = found.iter().filter(|(peer, _)| *peer != local);
    let parsed = others.filter_map(|(peer, address)| {
        let address = PeerAddress::parse(&address.to_string())?;
        let own = address.peer.is_none_or(|named| named == *peer);
        own.then_some(PeerAddress { peer: Some(*peer), ..address })
    });
    let mut seen = HashSet::new();
    let near = parsed.filter(|address| address.class().is_some_and(|class| class != AddressClass::Loopback));
    // Both ways to one port are one place.
    near.filter(|address| seen.insert(*address)).collect()
}

impl Discovery {
    /// Takes what was announced on the local network.
    pub(crate) fn heard_on_lan(&self, found: &[(PeerId, Multiaddr)], local: PeerId, now: UnixMs) {
        let addresses = usable(found, local);
        if addresses.is_empty() {
            return;
        }
        let source = AddressGroup::of_name(SOURCE_NAME);
        let mut book = self.book.lock();
        let told = addresses.iter().map(|address| Told { address: *address, node: None, source });
        let new = told.filter(|told| book.tell(*told, now)).count();
        drop(book);
        let detail = format!("{new} new, {} left out", found.len() - addresses.len());
        self.report(&Source::Mdns, Outcome::Found, addresses.len(), detail, now);
        self.dirty.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-36
    #[test]
    fn announcements_of_other_machines_are_taken_and_loopback_own_and_foreign_ones_are_not() {
        let (peer, local, other) = (PeerId::random(), PeerId::random(), PeerId::random());
        let at = |text: &str| text.parse::<Multiaddr>().unwrap();
        let lan = at("/ip4/192.168.1.10/udp/9700/quic-v1");
        let found = [
            (peer, lan.clone()),
            (peer, at("/ip4/127.0.0.1/udp/9700/quic-v1")),
            (peer, at("/ip6/fe80::1/udp/9700/quic-v1")),
            (peer, at("/ip4/192.168.1.10/tcp/9700")),
            (peer, at(&format!("/ip4/192.168.1.10/udp/9701/quic-v1/p2p/{other}"))),
            (peer, at(&format!("/ip6/fd00::1/udp/9700/quic-v1/p2p/{peer}"))),
            (local, lan),
        ];
        let usable: Vec<String> = usable(&found, local).iter().map(ToString::to_string).collect();
        let expected = ["/ip4/192.168.1.10/udp/9700/quic-v1", "/ip6/fd00::1/udp/9700/quic-v1"];
        assert_eq!(usable, expected.map(|text| format!("{text}/p2p/{peer}")));
    }
}
