//! What a multiaddress says about the way to a peer.

use std::net::{IpAddr, SocketAddr};

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol;

/// An address without the peer's name at its end.
pub(crate) fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if last_peer(&address).is_some() {
        address.pop();
    }
    address
}

/// The peer that an address names at its end.
pub(crate) fn last_peer(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// The IP address at the front; `None` where the address begins with a name or a relay's name.
#[must_use]
pub fn direct_ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// What the port of a socket is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PortKind {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// The socket at the front of an address, `/ip4|ip6/IP/udp|tcp/PORT`, and what its port is of; what follows does not matter.
#[must_use]
pub fn socket_of(address: &Multiaddr) -> Option<(SocketAddr, PortKind)> {
    let ip = direct_ip(address)?;
    match address.iter().nth(1)? {
        Protocol::Udp(port) => Some((SocketAddr::new(ip, port), PortKind::Udp)),
        Protocol::Tcp(port) => Some((SocketAddr::new(ip, port), PortKind::Tcp)),
        _ => None,
    }
}

/// Whether an address leads over a relay.
pub(crate) fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_at_the_end_of_an_address_is_its_peer() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let circuit: Multiaddr = format!("/ip4/9.9.9.9/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}").parse().unwrap();
        assert_eq!(last_peer(&circuit), Some(peer));
        let cut = without_peer(&circuit);
        assert_eq!(cut.to_string(), format!("/ip4/9.9.9.9/tcp/1/p2p/{relay}/p2p-circuit"));
        assert_eq!((last_peer(&cut), without_peer(&cut)), (None, cut.clone()));
        assert_eq!(direct_ip(&cut).unwrap().to_string(), "9.9.9.9");
        assert_eq!(direct_ip(&"/dns4/a.example/tcp/1".parse().unwrap()), None);
        assert!(is_circuit(&circuit) && !is_circuit(&"/ip4/9.9.9.9/tcp/1".parse().unwrap()));
    }

    #[test]
    fn the_socket_at_the_front_of_an_address_is_read_whatever_follows() {
        let read = |text: &str| socket_of(&text.parse().unwrap()).map(|(socket, kind)| (socket.to_string(), kind));
        assert_eq!(read("/ip4/9.9.9.9/tcp/1"), Some(("9.9.9.9:1".to_owned(), PortKind::Tcp)));
        assert_eq!(read("/ip6/::1/udp/2/quic-v1/p2p-circuit"), Some(("[::1]:2".to_owned(), PortKind::Udp)));
        for none in ["/ip4/9.9.9.9", "/ip4/9.9.9.9/sctp/1", "/dns4/a.example/tcp/1", "/p2p-circuit"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
