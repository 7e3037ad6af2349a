//! Dark addresses (NET-03): `trellis://NODEID@HOST[:PORT]` says who has to answer, whatever stands at the host.
//!
//! A NodeId is the hash of a node's Ed25519 and ML-DSA-65 keys, so it pins both. The keys are shown, and proven over the TLS
//! exporter, before the first byte of any protocol: a host that shows others is refused before the handshake of this layer.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use thiserror::Error;
use trellis_primitives::NodeId;

use crate::discovery::P2P_PORT;
use crate::discovery::hidden::is_hidden_place;

/// What every dark address begins with.
pub const DARK_SCHEME: &str = "trellis://";
/// Bytes of a host's name at most (RFC 1035).
const HOST_BYTES_MAX: usize = 253;
/// A host's name is looked up within this time.
const RESOLVE_TIMEOUT_MS: u64 = 10_000;
/// Addresses of one name that are dialled.
const RESOLVED_MAX: usize = 4;

/// A text that is no dark address.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("a dark address is trellis://NODEID@HOST[:PORT] with 64 hexadecimal digits before the @: {detail}")]
pub struct DarkAddressError {
    /// What is wrong.
    pub detail: &'static str,
}

/// Where a host is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// By its IP address.
    Ip(IpAddr),
    /// By its name.
    Name(String),
}

/// A host and who has to answer there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DarkAddress {
    /// The fingerprint of the keys.
    pub node: NodeId,
    /// Where.
    pub host: Host,
    /// The UDP port.
    pub port: u16,
}

impl FromStr for DarkAddress {
    type Err = DarkAddressError;

    fn from_str(text: &str) -> Result<Self, DarkAddressError> {
        let wrong = |detail| DarkAddressError { detail };
        let rest = text.strip_prefix(DARK_SCHEME).ok_or_else(|| wrong("it begins with another scheme"))?;
        let (node, place) = rest.split_once('@').ok_or_else(|| wrong("there is no @"))?;
        let node = node.parse().map_err(|_| wrong("the fingerprint"))?;
        let bare = place.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(place);
        let (host, port) = if let Ok(socket) = place.parse::<SocketAddr>() {
            (Host::Ip(socket.ip()), socket.port())
        } else if let Ok(ip) = bare.parse::<IpAddr>() {
            (Host::Ip(ip), P2P_PORT)
        } else {
            let (name, port) = match place.rsplit_once(':') {
                Some((name, port)) => (name, port.parse().map_err(|_| wrong("the port"))?),
                None => (place, P2P_PORT),
            };
            let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > HOST_BYTES_MAX || !name.chars().all(word) {
                return Err(wrong("the host"));
            }
            (Host::Name(name.to_owned()), port)
        };
        if port == 0 { Err(wrong("the port")) } else { Ok(Self { node, host, port }) }
    }
}

impl std::fmt::Display for DarkAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{DARK_SCHEME}{}@", self.node)?;
        match &self.host {
            Host::Ip(ip) => write!(f, "{}", SocketAddr::new(*ip, self.port)),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl DarkAddress {
    /// The sockets to dial; a name is looked up.
    ///
    /// # Errors
    /// What the look-up said.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let name = match &self.host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, self.port)]),
            Host::Name(name) => name,
        };
        let lookup = tokio::net::lookup_host((name.as_str(), self.port));
        let found = tokio::time::timeout(Duration::from_millis(RESOLVE_TIMEOUT_MS), lookup).await;
        let found = found.map_err(|_| format!("DNS: no answer within {RESOLVE_TIMEOUT_MS} ms"))?;
        Ok(found.map_err(|error| format!("DNS: {error}"))?.take(RESOLVED_MAX).collect())
    }

    /// A node's dark addresses at these multiaddresses, names inside anonymity networks first, then the widest reaching.
    #[must_use]
    pub fn of(node: NodeId, addresses: &[String]) -> Vec<Self> {
        let hidden = addresses.iter().filter_map(|text| hidden_name(text));
        let hidden = hidden.map(|(name, port)| Self { node, host: Host::Name(name), port });
        let parsed = addresses.iter().filter_map(|text| crate::discovery::address::PeerAddress::parse(text));
        let mut parsed: Vec<_> = parsed.collect();
        parsed.sort_by_key(|address| std::cmp::Reverse(address.class()));
        let sockets = parsed.into_iter().map(|address| address.socket);
        hidden.chain(sockets.map(|socket| Self { node, host: Host::Ip(socket.ip()), port: socket.port() })).collect()
    }
}

/// Name and port of an address inside an anonymity network.
fn hidden_name(text: &str) -> Option<(String, u16)> {
    let address: Multiaddr = text.parse().ok().filter(is_hidden_place)?;
    let mut parts = address.iter();
    match (parts.next()?, parts.next()) {
        (onion @ Part::Onion3(_), _) => {
            // Its text is `/onion3/NAME:PORT`.
            let text = onion.to_string();
            let (name, port) = text.strip_prefix("/onion3/")?.split_once(':')?;
            Some((format!("{name}.onion"), port.parse().ok()?))
        }
        (Part::Dns(name) | Part::Dns4(name) | Part::Dns6(name), Some(Part::Tcp(port))) => {
            Some((name.into_owned(), port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // row: NET-03
    #[test]
    fn every_form_of_a_dark_address_is_read_and_written_back() {
        let id = "ab".repeat(32);
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1:9700"),
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
            ("2001:db8::1", "[2001:db8::1]:9700"),
            ("node.example", "node.example:9700"),
            ("node.example:9701", "node.example:9701"),
        ] {
            let read: DarkAddress = format!("trellis://{id}@{text}").parse().unwrap();
            assert_eq!(read.to_string(), format!("trellis://{id}@{shown}"));
            assert_eq!(read.to_string().parse(), Ok(read));
        }
        for bad in ["a.example", "trellis://", "trellis://ab@a.example", "trellis://a.example"] {
            assert!(bad.parse::<DarkAddress>().is_err(), "{bad}");
        }
        for bad in ["", ":1", "a.example:0", "a.example:x", "a b", "1.2.3.4:0"] {
            assert!(format!("trellis://{id}@{bad}").parse::<DarkAddress>().is_err(), "{bad}");
        }
    }

    // row: NET-03
    #[test]
    fn a_nodes_own_dark_addresses_name_the_widest_network_first() {
        let at = |ip: &str| format!("/ip4/{ip}/udp/9700/quic-v1");
        let own = DarkAddress::of(NodeId([1; 32]), &[at("127.0.0.1"), at("11.0.0.1"), at("192.168.1.1")]);
        let hosts: Vec<String> =
            own.iter().map(|dark| dark.to_string().split_once('@').unwrap().1.to_owned()).collect();
        assert_eq!(hosts, ["11.0.0.1:9700", "192.168.1.1:9700", "127.0.0.1:9700"]);
    }

    // row: NET-03, NET-47
    #[test]
    fn a_node_with_a_hidden_name_gives_a_dark_address_with_it() {
        let onion = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd";
        let i2p = format!("{}.b32.i2p", "a".repeat(52));
        let told = [
            "/ip4/11.0.0.1/tcp/1".to_owned(),
            format!("/onion3/{onion}:80"),
            format!("/dns/{i2p}/tcp/9700"),
            "/dns/node.example/tcp/1".to_owned(),
        ];
        let own = DarkAddress::of(NodeId([1; 32]), &told);
        let own: Vec<String> = own.iter().map(ToString::to_string).collect();
        let id = "01".repeat(32);
        let at = |place: &str| format!("trellis://{id}@{place}");
        assert_eq!(own, [at(&format!("{onion}.onion:80")), at(&format!("{i2p}:9700")), at("11.0.0.1:1")]);
        assert!(own.iter().all(|dark| dark.parse::<DarkAddress>().is_ok()));
    }

    proptest! {
        // row: NET-03, NET-56
        #[test]
        fn no_text_makes_the_reader_panic(text in "(trellis://)?([0-9a-f]{64}@)?.{0,40}") {
            if let Ok(read) = text.parse::<DarkAddress>() {
                prop_assert_eq!(read.to_string().parse::<DarkAddress>(), Ok(read));
            }
        }
    }
}
