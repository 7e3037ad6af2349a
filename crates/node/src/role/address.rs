//! The forms in which a person writes a peer's address (NET-71), and the names in them looked up.

use crate::failure::Failure;
use eyre::Result;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use trellis_net_peers::DarkAddress;
use trellis_primitives::NodeId;

/// The port of a node where none is written.
const PORT_DEFAULT: u16 = 9_700;
/// Bytes of an address at most.
const ADDRESS_BYTES_MAX: usize = 256;
/// A name is looked up within this time, in seconds.
const DNS_SECONDS_MAX: u64 = 10;
/// Addresses of one name that are tried.
const ADDRESSES_TRIED_MAX: usize = 4;
/// Characters of a v3 onion name.
const ONION_CHARACTERS: usize = 56;
/// What every complaint about the form ends with.
const FORMS: &str = "write IP:PORT, NAME:PORT, /ip4/IP/udp/PORT/quic-v1[/p2p/ID], /ip4/IP/tcp/PORT[/p2p/ID], one of these with /p2p/RELAY/p2p-circuit/p2p/ID after it, NAME.onion:PORT, or trellis://ID@HOST:PORT (port 9700 may be left out)";

/// An address whose form is good.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    host: Host,
    port: u16,
    link: Link,
    /// The relay that stands there, where the address leads through it.
    relay: Option<String>,
    /// `/p2p/…` of a multiaddr: who is to answer in the end.
    peer: Option<String>,
    /// Who has to answer there.
    pub pinned: Option<NodeId>,
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
    /// A v3 onion name without its ending.
    Onion(String),
}

/// What is asked for at the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// QUIC; where it does not answer, the network tries TCP at the same port.
    Quic,
    /// TCP and nothing else.
    Tcp,
}

/// The ending of names that only an I2P proxy can look up.
const I2P_ENDING: &str = ".b32.i2p";

fn bad_form(text: &str, why: &str) -> Failure {
    let shown: String = text.chars().take(80).collect();
    Failure::new(format!("the form of {shown:?} is wrong: {why}")).hint(FORMS)
}

/// Reads an address.
///
/// # Errors
/// A [`Failure`] that says what is wrong with its form or port.
pub fn parse(text: &str) -> Result<Named, Failure> {
    if text.is_empty() || text.len() > ADDRESS_BYTES_MAX {
        return Err(bad_form(text, &format!("{} bytes, 1 to {ADDRESS_BYTES_MAX} are allowed", text.len())));
    }
    if let Some(dark) = text.strip_prefix("trellis://") {
        let (id, place) = dark.split_once('@').ok_or_else(|| bad_form(text, "there is no @ after the id"))?;
        let pinned = id.parse().map_err(|_| bad_form(text, "the id is not 64 hexadecimal digits"))?;
        return Ok(Named { pinned: Some(pinned), ..place_of(text, place)? });
    }
    if text.starts_with('/') { multiaddr(text) } else { place_of(text, text) }
}

/// `HOST[:PORT]`.
fn place_of(text: &str, place: &str) -> Result<Named, Failure> {
    if let Ok(socket) = place.parse::<SocketAddr>() {
        return named(text, Host::Ip(socket.ip()), socket.port(), Link::Quic, None);
    }
    if let Ok(ip) = place.trim_matches(['[', ']']).parse::<IpAddr>() {
        return named(text, Host::Ip(ip), PORT_DEFAULT, Link::Quic, None);
    }
    let (name, port) = match place.rsplit_once(':') {
        Some((name, port)) => {
            let port = port.parse().map_err(|_| bad_port(text, port))?;
            (name, port)
        }
        None => (place, PORT_DEFAULT),
    };
    if let Some(onion) = name.strip_suffix(".onion") {
        return named(text, onion_host(text, onion)?, port, Link::Tcp, None);
    }
    let label = |label: &str| {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty() && label.len() <= 63 && label.chars().all(word) && !label.starts_with('-')
    };
    let numeric = name.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    if numeric || !name.trim_end_matches('.').split('.').all(label) {
        return Err(bad_form(text, "neither an IP address nor a name"));
    }
    named(text, Host::Name(name.to_owned()), port, Link::Quic, None)
}

fn bad_port(text: &str, port: &str) -> Failure {
    let shown: String = text.chars().take(80).collect();
    Failure::new(format!("the port of {shown:?} is wrong: {port:?}")).hint("a port is a number from 1 to 65535")
}

fn onion_host(text: &str, onion: &str) -> Result<Host, Failure> {
    let base32 = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
    if onion.len() != ONION_CHARACTERS || !onion.chars().all(base32) {
        return Err(bad_form(text, "a v3 onion name has 56 characters of a-z and 2-7"));
    }
    Ok(Host::Onion(onion.to_owned()))
}

fn named(text: &str, host: Host, port: u16, link: Link, peer: Option<String>) -> Result<Named, Failure> {
    if port == 0 {
        return Err(bad_port(text, "0"));
    }
    Ok(Named { host, port, link, relay: None, peer, pinned: None })
}

fn multiaddr(text: &str) -> Result<Named, Failure> {
    let address: Multiaddr =
        text.parse().map_err(|error: libp2p::multiaddr::Error| bad_form(text, &error.to_string()))?;
    let mut parts: Vec<Part<'_>> = address.iter().collect();
    let peer = match parts.last() {
        Some(Part::P2p(peer)) => Some(peer.to_string()),
        _ => None,
    };
    if peer.is_some() {
        parts.pop();
    }
    if let [place @ .., Part::P2p(relay), Part::P2pCircuit] = parts.as_slice() {
        let peer = peer.ok_or_else(|| bad_form(text, "it does not say who is behind the relay: /p2p/ID at the end"))?;
        let place: Multiaddr = place.iter().cloned().collect();
        let named = multiaddr(&place.to_string())?;
        if named.relay.is_some() {
            return Err(bad_form(text, "it leads through more than one relay"));
        }
        return Ok(Named { relay: Some(relay.to_string()), peer: Some(peer), ..named });
    }
    if let [onion @ Part::Onion3(_)] = parts.as_slice() {
        // Its text is `/onion3/NAME:PORT`.
        let (name, port) =
            onion.to_string().rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap_or_default();
        let port = port.parse().map_err(|_| bad_port(text, &port))?;
        return named(text, onion_host(text, name.trim_start_matches("/onion3/"))?, port, Link::Tcp, peer);
    }
    let host = match parts.first() {
        Some(Part::Ip4(ip)) => Host::Ip((*ip).into()),
        Some(Part::Ip6(ip)) => Host::Ip((*ip).into()),
        Some(Part::Dns(name) | Part::Dns4(name) | Part::Dns6(name)) => Host::Name(name.to_string()),
        _ => return Err(bad_form(text, "it begins with neither an IP address nor a name")),
    };
    match parts.get(1..) {
        Some([Part::Udp(port), Part::QuicV1]) => named(text, host, *port, Link::Quic, peer),
        Some([Part::Tcp(port)]) => named(text, host, *port, Link::Tcp, peer),
        _ => Err(bad_form(text, "expected /udp/PORT/quic-v1 or /tcp/PORT after the host")),
    }
}

impl Named {
    /// The addresses to dial, as multiaddr text. Names are looked up, unless every dial goes through a proxy, which then
    /// gets the name as it is.
    ///
    /// # Errors
    /// A [`Failure`] where a name is not found.
    pub async fn resolve(&self, proxied: bool) -> Result<Vec<String>, Failure> {
        let peer = self.names();
        let ips = match &self.host {
            Host::Onion(name) => return Ok(vec![format!("/onion3/{name}:{}{peer}", self.port)]),
            Host::Name(name) if proxied || name.to_ascii_lowercase().ends_with(I2P_ENDING) => {
                return Ok(vec![format!("/dns/{name}/tcp/{}{peer}", self.port)]);
            }
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) => {
                let failed = |why: String| {
                    Failure::new(format!("DNS: {name} is not found: {why}"))
                        .hint("check the spelling of the name, or add the peer by its IP address")
                };
                let lookup = tokio::net::lookup_host((name.as_str(), self.port));
                let found = tokio::time::timeout(Duration::from_secs(DNS_SECONDS_MAX), lookup)
                    .await
                    .map_err(|_| failed(format!("no answer within {DNS_SECONDS_MAX} s")))?
                    .map_err(|error| failed(error.to_string()))?;
                found.map(|socket| socket.ip()).take(ADDRESSES_TRIED_MAX).collect()
            }
        };
        Ok(ips.into_iter().map(|ip| self.at(ip)).collect())
    }

    /// The same as a dark address, where it names who has to answer.
    pub fn dark(&self) -> Option<String> {
        let host = match &self.host {
            Host::Ip(ip) => trellis_net_peers::dark::Host::Ip(*ip),
            Host::Name(name) => trellis_net_peers::dark::Host::Name(name.clone()),
            Host::Onion(name) => trellis_net_peers::dark::Host::Name(format!("{name}.onion")),
        };
        self.pinned.map(|node| DarkAddress { node, host, port: self.port }.to_string())
    }

    /// Who answers there, through whom: what follows the place in a multiaddr.
    fn names(&self) -> String {
        let relay = self.relay.as_ref().map(|relay| format!("/p2p/{relay}/p2p-circuit")).unwrap_or_default();
        let peer = self.peer.as_ref().map(|peer| format!("/p2p/{peer}")).unwrap_or_default();
        relay + &peer
    }

    fn at(&self, ip: IpAddr) -> String {
        let family = if ip.is_ipv4() { "ip4" } else { "ip6" };
        let peer = self.names();
        match self.link {
            Link::Quic => format!("/{family}/{ip}/udp/{}/quic-v1{peer}", self.port),
            Link::Tcp => format!("/{family}/{ip}/tcp/{}{peer}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolved(text: &str) -> Vec<String> {
        parse(text).unwrap().resolve(false).await.unwrap()
    }

    // row: NET-71
    #[tokio::test]
    async fn every_form_of_an_address_leads_to_one_that_can_be_dialled() {
        assert_eq!(resolved("192.0.2.1:9701").await, ["/ip4/192.0.2.1/udp/9701/quic-v1"]);
        assert_eq!(resolved("192.0.2.1").await, ["/ip4/192.0.2.1/udp/9700/quic-v1"]);
        assert_eq!(resolved("[2001:db8::1]:9701").await, ["/ip6/2001:db8::1/udp/9701/quic-v1"]);
        assert_eq!(resolved("2001:db8::1").await, ["/ip6/2001:db8::1/udp/9700/quic-v1"]);
        assert_eq!(resolved("/ip4/192.0.2.1/udp/1/quic-v1").await, ["/ip4/192.0.2.1/udp/1/quic-v1"]);
        assert!(resolved("localhost:9701").await.iter().any(|found| found == "/ip4/127.0.0.1/udp/9701/quic-v1"));
        assert!(resolved("/dns4/localhost/udp/9701/quic-v1").await[0].ends_with("/udp/9701/quic-v1"));
        let id = "ab".repeat(32);
        let dark = parse(&format!("trellis://{id}@192.0.2.1:9701")).unwrap();
        assert_eq!(dark.pinned.unwrap().to_string(), id);
        assert_eq!(dark.resolve(false).await.unwrap(), ["/ip4/192.0.2.1/udp/9701/quic-v1"]);
        assert_eq!(dark.dark(), Some(format!("trellis://{id}@192.0.2.1:9701")));
    }

    // row: NET-71, NET-42
    #[tokio::test]
    async fn an_address_over_a_relay_is_taken_as_it_is_told() {
        let (relay, peer) = (libp2p::PeerId::random(), libp2p::PeerId::random());
        for place in ["/ip4/192.0.2.1/udp/9700/quic-v1", "/ip6/2001:db8::1/tcp/9701"] {
            let circuit = format!("{place}/p2p/{relay}/p2p-circuit/p2p/{peer}");
            assert_eq!(resolved(&circuit).await, [circuit]);
        }
        let named = format!("/dns4/localhost/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}");
        let found = format!("/ip4/127.0.0.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{peer}");
        assert!(resolved(&named).await.contains(&found));
        let nobody = format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit");
        assert!(parse(&nobody).unwrap_err().to_string().contains("who is behind the relay"));
        let twice = format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit/p2p/{relay}/p2p-circuit/p2p/{peer}");
        assert!(parse(&twice).is_err());
        assert!(parse(&format!("/p2p/{relay}/p2p-circuit/p2p/{peer}")).is_err());
    }

    // row: NET-71
    #[test]
    fn what_is_wrong_with_an_address_is_named_with_a_hint() {
        let long = "x".repeat(300);
        for (text, word) in [
            ("", "form"),
            (long.as_str(), "form"),
            ("not an address", "form"),
            ("1.2.3.4.5:1", "form"),
            ("256.1.1.1:9700", "form"),
            ("192.0.2.1:0", "port"),
            ("name.example:65536", "port"),
            ("name.example:http", "port"),
            ("/ip4/192.0.2.1/udp/0/quic-v1", "port"),
            ("/ip4/192.0.2.1/tcp/1/ws", "form"),
            ("/ip4/192.0.2.1/tcp/0", "port"),
            ("/sip/1", "form"),
            ("short.onion:1", "onion"),
            ("trellis://nobody@192.0.2.1", "id"),
            ("trellis://192.0.2.1", "@"),
        ] {
            let failure = parse(text).unwrap_err().to_string();
            assert!(failure.contains(word) && failure.contains("hint: "), "{text}: {failure}");
        }
    }

    // row: NET-47
    #[tokio::test]
    async fn a_hidden_name_and_with_a_proxy_every_name_is_left_to_the_proxy() {
        let onion = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd";
        assert_eq!(resolved(&format!("{onion}.onion")).await, [format!("/onion3/{onion}:9700")]);
        assert_eq!(resolved(&format!("/onion3/{onion}:80")).await, [format!("/onion3/{onion}:80")]);
        let i2p = format!("{}.b32.i2p", "a".repeat(52));
        assert_eq!(resolved(&format!("{i2p}:9701")).await, [format!("/dns/{i2p}/tcp/9701")]);
        let name = parse("node.example:9701").unwrap();
        assert_eq!(name.resolve(true).await.unwrap(), ["/dns/node.example/tcp/9701"]);
        assert_eq!(resolved("/ip4/192.0.2.1/tcp/1").await, ["/ip4/192.0.2.1/tcp/1"]);
    }
}
