//! The forms in which a name server is written.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig};
use thiserror::Error;

/// The port of a name server that is given without one.
pub const DNS_PORT: u16 = 53;
/// The port of a name server behind TLS (RFC 7858).
pub const DOT_PORT: u16 = 853;
/// The port of a name server behind HTTPS (RFC 8484).
pub const DOH_PORT: u16 = 443;
/// Where such a server is asked, if no path is given.
const DOH_PATH: &str = "/dns-query";

/// How a name server is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DnsWay {
    /// Over UDP, and over TCP where that failed or an answer was cut.
    UdpAndTcp,
    /// Over UDP alone.
    Udp,
    /// Over TCP alone.
    Tcp,
    /// Over TLS; the certificate has to be of this name.
    Tls(Arc<str>),
    /// Over HTTPS; the certificate has to be of this name.
    Https {
        /// The name in the certificate.
        name: Arc<str>,
        /// Where on the server, with its slash.
        path: Arc<str>,
    },
}

/// A name server to ask: `IP`, `IP:PORT` or `[IPv6]:PORT`; behind `udp://` or `tcp://` for that way alone; behind
/// `tls://…#NAME` or `https://…/PATH#NAME` for an encrypted one, whose certificate has to be of that name (or of the IP).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsServer {
    /// Where it is.
    pub socket: SocketAddr,
    /// How it is asked.
    pub way: DnsWay,
}

/// A text that names no name server.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "a DNS server is IP[:PORT], udp://IP[:PORT], tcp://IP[:PORT], tls://IP[:PORT][#NAME] or \
     https://IP[:PORT][/PATH][#NAME], got {0:?}"
)]
pub struct DnsServerError(pub String);

impl FromStr for DnsServer {
    type Err = DnsServerError;

    fn from_str(text: &str) -> Result<Self, DnsServerError> {
        let bad = || DnsServerError(text.to_owned());
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (place, name) = match rest.split_once('#') {
            Some((place, name)) if ["tls", "https"].contains(&scheme) && is_name(name) => (place, Some(name)),
            Some(_) => return Err(bad()),
            None => (rest, None),
        };
        let (place, path) = match place.find('/') {
            Some(at) if scheme == "https" => place.split_at(at),
            Some(_) => return Err(bad()),
            None => (place, DOH_PATH),
        };
        let port = match scheme {
            "tls" => DOT_PORT,
            "https" => DOH_PORT,
            _ => DNS_PORT,
        };
        let bare = place.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(place);
        let alone = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
        let socket = alone.or_else(|_| place.parse()).map_err(|_| bad())?;
        let name = || name.map_or_else(|| Arc::from(socket.ip().to_string()), Arc::from);
        let way = match scheme {
            "" => DnsWay::UdpAndTcp,
            "udp" => DnsWay::Udp,
            "tcp" => DnsWay::Tcp,
            "tls" => DnsWay::Tls(name()),
            "https" => DnsWay::Https { name: name(), path: Arc::from(path) },
            _ => return Err(bad()),
        };
        Ok(Self { socket, way })
    }
}

fn is_name(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
    !text.is_empty() && text.len() <= 253 && text.chars().all(word)
}

impl DnsServer {
    /// Whether its answers come encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        matches!(self.way, DnsWay::Tls(_) | DnsWay::Https { .. })
    }

    pub(super) fn config(&self) -> NameServerConfig {
        let protocols = match &self.way {
            DnsWay::UdpAndTcp => vec![ProtocolConfig::Udp, ProtocolConfig::Tcp],
            DnsWay::Udp => vec![ProtocolConfig::Udp],
            DnsWay::Tcp => vec![ProtocolConfig::Tcp],
            DnsWay::Tls(name) => vec![ProtocolConfig::Tls { server_name: Arc::clone(name) }],
            DnsWay::Https { name, path } => {
                vec![ProtocolConfig::Https { server_name: Arc::clone(name), path: Arc::clone(path) }]
            }
        };
        let mut connections: Vec<ConnectionConfig> = protocols.into_iter().map(ConnectionConfig::new).collect();
        connections.iter_mut().for_each(|way| way.port = self.socket.port());
        // Another server may know a name that this one does not.
        NameServerConfig::new(self.socket.ip(), false, connections)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-31
    #[test]
    fn name_servers_are_read_in_every_form() {
        let read = |text: &str| {
            let server: DnsServer = text.parse().unwrap();
            (server.socket.to_string(), server.way)
        };
        assert_eq!(read("9.9.9.9"), ("9.9.9.9:53".to_owned(), DnsWay::UdpAndTcp));
        assert_eq!(read("9.9.9.9:5353"), ("9.9.9.9:5353".to_owned(), DnsWay::UdpAndTcp));
        assert_eq!(read("tcp://[2620:fe::fe]:54"), ("[2620:fe::fe]:54".to_owned(), DnsWay::Tcp));
        assert_eq!(read("udp://2620:fe::fe"), ("[2620:fe::fe]:53".to_owned(), DnsWay::Udp));
        assert_eq!(read("tls://1.1.1.1"), ("1.1.1.1:853".to_owned(), DnsWay::Tls("1.1.1.1".into())));
        assert_eq!(
            read("tls://[2620:fe::fe]#dns.quad9.net"),
            ("[2620:fe::fe]:853".to_owned(), DnsWay::Tls("dns.quad9.net".into()))
        );
        let https = |name: &str, path: &str| DnsWay::Https { name: name.into(), path: path.into() };
        assert_eq!(read("https://1.1.1.1"), ("1.1.1.1:443".to_owned(), https("1.1.1.1", "/dns-query")));
        assert_eq!(read("https://9.9.9.9:8443/q#a.example"), ("9.9.9.9:8443".to_owned(), https("a.example", "/q")));
        let wrong = [
            "",
            "dns.example",
            "9.9.9.9:",
            "tls://dns.example",
            "udp://9.9.9.9#a.example",
            "tls://9.9.9.9/q",
            "tls://9.9.9.9#",
            "https://1.1.1.1#a b",
            "quic://9.9.9.9",
        ];
        for bad in wrong {
            assert_eq!(bad.parse::<DnsServer>(), Err(DnsServerError(bad.to_owned())));
        }
    }
}
