//! Addresses as discovery sees them: where, whose, how far they reach, and in which group of neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol as Part;

use crate::table::route::relay_of;
use trellis_net_transport::{PortKind, direct_ip, socket_of};

/// How far an address reaches; the order is from near to far.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AddressClass {
    /// This machine only.
    Loopback,
    /// This site only: RFC 1918, carrier NAT, link-local, unique local.
    Private,
    /// The Internet.
    Public,
}

impl AddressClass {
    /// The class of an address; `None` where no node can be.
    #[must_use]
    pub fn of(ip: IpAddr) -> Option<Self> {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Option<Self> {
        let [a, b, c, _] = ip.octets();
        match (a, b, c) {
            (127, ..) => Some(Self::Loopback),
            (10, ..) | (172, 16..=31, _) | (192, 168, _) | (169, 254, _) | (100, 64..=127, _) => Some(Self::Private),
            // This network, protocol assignments, documentation, benchmarks, multicast, reserved.
            (0 | 224..=255, ..) | (192, 0, 0 | 2) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => None,
            _ => Some(Self::Public),
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Option<Self> {
        let [first, second, ..] = ip.segments();
        match first {
            _ if ip.is_loopback() => Some(Self::Loopback),
            // A link-local address means nothing without the interface, which no record carries.
            0 | 0xfe80..=0xfebf | 0xff00.. => None,
            // What stands for an IPv4 address, which may be one of any network (Teredo, 6to4, NAT64); discarded; documentation.
            0x2001 if matches!(second, 0 | 0x0db8) => None,
            0x2002 | 0x0100 | 0x3fff => None,
            0x0064 if second == 0xff9b => None,
            0xfc00..=0xfdff => Some(Self::Private),
            _ => Some(Self::Public),
        }
    }

    /// Whether a peer that is reached at an address of class `self` may be told, and may tell, an address of class
    /// `other`: nobody hears of networks that are nearer to us than he is.
    #[must_use]
    pub fn may_share(self, other: Self) -> bool {
        other >= self
    }
}

/// Neighbours that one party can own together: a public IPv4 /16 or IPv6 /32, a private /24; on loopback, where everything
/// is one party's anyway, each socket is its own group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AddressGroup(pub [u8; 5]);

impl AddressGroup {
    /// The group of what this node's operator configured.
    pub const OPERATOR: Self = Self([1, 0, 0, 0, 0]);

    /// The group of peers that are connected without an address of their own: over relays and proxies.
    pub const UNPLACED: Self = Self([1, 0, 0, 0, 1]);

    /// The group of a socket address.
    #[must_use]
    pub fn of(socket: SocketAddr) -> Self {
        let ip = socket.ip().to_canonical();
        let [port_high, port_low] = socket.port().to_be_bytes();
        match (AddressClass::of(ip), ip) {
            (Some(AddressClass::Loopback), _) => Self([2, port_high, port_low, 0, 0]),
            (class, IpAddr::V4(ip)) => {
                let [a, b, c, _] = ip.octets();
                Self([4, a, b, if class == Some(AddressClass::Private) { c } else { 0 }, 0])
            }
            (_, IpAddr::V6(ip)) => {
                let [a, b, c, d, ..] = ip.octets();
                Self([a | 0x80, b, c, d, 6])
            }
        }
    }

    /// The group of a source that is known by name only, such as a DNS seed.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        let [a, b, c, ..] = trellis_crypto::sha3_256(&[b"trellis/source/1", name.as_bytes()]);
        Self([3, a, b, c, 0])
    }
}

/// Where a peer may be: the port that its node has for QUIC and for TCP, with the PeerId if it is known. Which of the two is
/// used is found out in the dial.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerAddress {
    /// The port, UDP and TCP.
    pub socket: SocketAddr,
    /// Who should answer there.
    pub peer: Option<PeerId>,
}

impl PeerAddress {
    /// Reads `/ip4|ip6/…/udp/PORT/quic-v1[/p2p/ID]` and `/ip4|ip6/…/tcp/PORT[/p2p/ID]`; `None` for any other form, for port 0 and where no node can be.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let address: Multiaddr = text.parse().ok()?;
        let (socket, kind) = socket_of(&address)?;
        let mut parts = address.iter().skip(2);
        if kind == PortKind::Udp && parts.next()? != Part::QuicV1 {
            return None;
        }
        let peer = match parts.next() {
            None => None,
            Some(Part::P2p(peer)) => Some(peer),
            Some(_) => return None,
        };
        let whole = parts.next().is_none() && socket.port() != 0;
        let socket = SocketAddr::new(socket.ip().to_canonical(), socket.port());
        AddressClass::of(socket.ip()).filter(|_| whole).map(|_| Self { socket, peer })
    }

    /// How far it reaches; every parsed address has a class.
    #[must_use]
    pub fn class(&self) -> Option<AddressClass> {
        AddressClass::of(self.socket.ip())
    }
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = Multiaddr::empty().with(self.socket.ip().into()).with(Part::Udp(self.socket.port()));
        let address = address.with(Part::QuicV1);
        match self.peer {
            Some(peer) => write!(f, "{}", address.with(Part::P2p(peer))),
            None => write!(f, "{address}"),
        }
    }
}

/// How far an address reaches, one over a relay as far as the relay's; `None` where nobody can be.
#[must_use]
pub fn class_of(text: &str) -> Option<AddressClass> {
    if let Some(address) = PeerAddress::parse(text) {
        return address.class();
    }
    let address: Multiaddr = text.parse().ok()?;
    if relay_of(&address).is_none() && !is_tcp(&address) {
        return None;
    }
    direct_ip(&address).and_then(AddressClass::of)
}

/// Whether an address begins at an IP address of the Internet; one over a relay begins at the relay.
pub(crate) fn on_internet(address: &Multiaddr) -> bool {
    direct_ip(address).and_then(AddressClass::of) == Some(AddressClass::Public)
}

/// An address up to the first name of a peer in it.
#[must_use]
pub fn without_name(address: &str) -> &str {
    address.split("/p2p/").next().unwrap_or(address)
}

/// Where an address leads, whoever answers there: up to the name at its end, but over a relay all of it, because many nodes
/// are behind one.
#[must_use]
pub fn place(address: &str) -> &str {
    if address.contains("/p2p-circuit") { address } else { without_name(address) }
}

/// Whether an address is one of TCP, without a relay.
pub(crate) fn is_tcp(address: &Multiaddr) -> bool {
    let mut parts = address.iter().skip(1);
    matches!(parts.next(), Some(Part::Tcp(port)) if port != 0) && parts.all(|part| matches!(part, Part::P2p(_)))
}

/// The addresses that a node puts into its own record: only those of the widest class it has, so that a record that travels
/// far names no near network.
#[must_use]
pub fn worth_telling(addresses: &[String]) -> Vec<String> {
    let class = |text: &String| class_of(text);
    let widest = addresses.iter().filter_map(class).max();
    addresses.iter().filter(|text| class(text) == widest).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(ip: &str) -> Option<AddressClass> {
        AddressClass::of(ip.parse().unwrap())
    }

    // row: NET-34
    #[test]
    fn every_address_has_its_class_or_is_nobodys() {
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(class(ip), Some(AddressClass::Loopback), "{ip}");
        }
        for ip in ["10.1.1.1", "172.31.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1", "fd00::1"] {
            assert_eq!(class(ip), Some(AddressClass::Private), "{ip}");
        }
        for ip in ["11.1.0.2", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2600:11::1"] {
            assert_eq!(class(ip), Some(AddressClass::Public), "{ip}");
        }
        for ip in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "198.18.0.1", "203.0.113.5", "::", "ff02::1", "fe80::1"] {
            assert_eq!(class(ip), None, "{ip}");
        }
    }

    // row: NET-34
    #[test]
    fn near_addresses_are_shared_with_near_peers_only() {
        use AddressClass::{Loopback, Private, Public};
        assert!(Public.may_share(Public) && !Public.may_share(Private) && !Public.may_share(Loopback));
        assert!(Private.may_share(Public) && Private.may_share(Private) && !Private.may_share(Loopback));
        assert!(Loopback.may_share(Public) && Loopback.may_share(Private) && Loopback.may_share(Loopback));
        let all: Vec<String> =
            ["127.0.0.1", "192.168.1.2", "11.2.3.4"].map(|ip| format!("/ip4/{ip}/udp/9700/quic-v1")).to_vec();
        assert_eq!(worth_telling(&all), all[2..]);
        assert_eq!(worth_telling(&all[..2]), all[1..2]);
        assert_eq!(worth_telling(&all[..1]), all[..1]);
        assert_eq!(worth_telling(&[]), Vec::<String>::new());
    }

    #[test]
    fn groups_follow_what_one_party_can_own() {
        let group = |text: &str| AddressGroup::of(text.parse().unwrap());
        assert_eq!(group("11.2.3.4:1"), group("11.2.200.9:2"));
        assert_ne!(group("11.2.3.4:1"), group("11.3.3.4:1"));
        assert_eq!(group("[2600:11::1]:1"), group("[2600:11:ffff::9]:2"));
        assert_ne!(group("[2600:11::1]:1"), group("[2600:12::1]:1"));
        assert_ne!(group("192.168.1.1:1"), group("192.168.2.1:1"));
        assert_ne!(group("127.0.0.1:1"), group("127.0.0.1:2"));
        assert_ne!(AddressGroup::of_name("a"), AddressGroup::of_name("b"));
    }

    #[test]
    fn two_nodes_behind_one_relay_are_at_two_places_and_one_node_under_two_names_at_one() {
        let bare = "/ip4/11.0.0.1/tcp/1";
        assert_eq!((place(bare), place(&format!("{bare}/p2p/A"))), (bare, bare));
        let behind = |name: &str| format!("{bare}/p2p/R/p2p-circuit/p2p/{name}");
        assert_ne!(place(&behind("A")), place(&behind("B")));
        assert_ne!(place(&behind("A")), bare);
    }

    #[test]
    fn only_addresses_that_can_be_dialled_are_read() {
        let id = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf";
        let text = format!("/ip4/11.0.0.1/udp/9700/quic-v1/p2p/{id}");
        assert_eq!(PeerAddress::parse(&text).unwrap().to_string(), text);
        let mapped = PeerAddress::parse("/ip6/::ffff:11.0.0.1/udp/9700/quic-v1").unwrap();
        assert_eq!(mapped.to_string(), "/ip4/11.0.0.1/udp/9700/quic-v1");
        assert_eq!(PeerAddress::parse(&format!("/ip4/11.0.0.1/tcp/9700/p2p/{id}")), PeerAddress::parse(&text));
        for bad in [
            "",
            "/ip4/11.0.0.1/tcp/9700/ws",
            "/ip4/11.0.0.1/udp/0/quic-v1",
            "/ip4/11.0.0.1/udp/9700",
            "/ip4/0.0.0.0/udp/9700/quic-v1",
            "/dns4/a.example/udp/9700/quic-v1",
            "/ip4/11.0.0.1/udp/9700/quic-v1/p2p-circuit",
        ] {
            assert_eq!(PeerAddress::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic_and_what_it_reads_comes_back(text in "(/ip4|/ip6|/udp|/quic-v1|/p2p|/[0-9.:a-f]{1,12}|.){0,9}") {
            if let Some(read) = PeerAddress::parse(&text) {
                prop_assert_eq!(PeerAddress::parse(&read.to_string()), Some(read));
            }
        }
    }
}
