//! What a multiaddress says about the way to a peer.

use std::net::IpAddr;

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
    }
}
