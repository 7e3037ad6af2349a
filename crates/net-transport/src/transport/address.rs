//! Multiaddresses of QUIC v1: `/ip4|ip6/…/udp/PORT/quic-v1[/p2p/ID]`.

use std::net::SocketAddr;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::address::{PortKind, socket_of};

/// The socket address and the PeerId of a QUIC v1 multiaddress; `None` for any other form.
pub(crate) fn parse(address: &Multiaddr) -> Option<(SocketAddr, Option<PeerId>)> {
    let (socket, _) = socket_of(address).filter(|(_, kind)| *kind == PortKind::Udp)?;
    let mut parts = address.iter().skip(2);
    let Protocol::QuicV1 = parts.next()? else { return None };
    let peer = match parts.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return None,
    };
    parts.next().is_none().then_some((socket, peer))
}

/// The multiaddress of a socket address.
pub(crate) fn format(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(address.ip().into()).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quic_v1_addresses_are_read_and_others_are_not() {
        let text = "/ip4/127.0.0.1/udp/9700/quic-v1";
        let (socket, peer) = parse(&text.parse().unwrap()).unwrap();
        assert_eq!((socket.to_string().as_str(), peer), ("127.0.0.1:9700", None));
        assert_eq!(format(socket).to_string(), text);
        let id = PeerId::random();
        let (socket, peer) = parse(&format!("/ip6/::1/udp/1/quic-v1/p2p/{id}").parse().unwrap()).unwrap();
        assert_eq!((socket.to_string().as_str(), peer), ("[::1]:1", Some(id)));
        for other in ["/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/udp/1", "/ip4/1.2.3.4/udp/1/quic", "/dns4/a/udp/1/quic-v1"] {
            assert!(parse(&other.parse().unwrap()).is_none(), "{other}");
        }
        assert!(parse(&format!("{text}/p2p/{id}/p2p-circuit").parse().unwrap()).is_none());
    }
}
