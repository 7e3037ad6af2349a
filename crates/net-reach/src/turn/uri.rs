//! TURN servers as people write them (RFC 7065): `turn:HOST[:PORT][?transport=udp|tcp]`, `turns:HOST[:PORT][?transport=tcp]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Serialize;

/// The port of `turn:` where none is named (RFC 8656).
const PORT: u16 = 3478;
/// The port of `turns:` where none is named.
const TLS_PORT: u16 = 5349;
/// Bytes of a host name.
const HOST_BYTES_MAX: usize = 253;

/// What carries the frames to the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Carriage {
    /// One frame for each datagram.
    Udp,
    /// Frames in a stream.
    Tcp,
    /// Frames in a stream that nobody on the way can read.
    Tls,
}

impl fmt::Display for Carriage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        })
    }
}

/// A TURN server and the way to it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TurnServer {
    /// A name or an address, the latter without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    pub carriage: Carriage,
}

/// Text that names no TURN server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Another scheme.
    #[error("expected turn: or turns: at the beginning of {actual:?}")]
    Scheme {
        /// What was written.
        actual: String,
    },
    /// A host that is none.
    #[error("expected a name, an IPv4 address or an IPv6 address in brackets, got {actual:?}")]
    Host {
        /// What stands in its place.
        actual: String,
    },
    /// A port that is none.
    #[error("expected a port from 1 to 65535, got {actual:?}")]
    Port {
        /// What stands in its place.
        actual: String,
    },
    /// A query that is not understood.
    #[error("expected ?transport=udp or ?transport=tcp, got {actual:?}")]
    Transport {
        /// What stands in its place.
        actual: String,
    },
    /// DTLS is not spoken.
    #[error("turns: goes over TCP only: write ?transport=tcp")]
    Dtls,
}

impl FromStr for TurnServer {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let shown = |part: &str| part.chars().take(HOST_BYTES_MAX).collect::<String>();
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "turn" => false,
            "turns" => true,
            _ => return Err(UriError::Scheme { actual: shown(text) }),
        };
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let carriage = match (query.map(str::to_ascii_lowercase).as_deref(), tls) {
            (None | Some("transport=tcp"), true) => Carriage::Tls,
            (Some("transport=udp"), true) => return Err(UriError::Dtls),
            (None | Some("transport=udp"), false) => Carriage::Udp,
            (Some("transport=tcp"), false) => Carriage::Tcp,
            (Some(other), _) => return Err(UriError::Transport { actual: shown(other) }),
        };
        let (host, port) = split(place).ok_or_else(|| UriError::Host { actual: shown(place) })?;
        let port = match port {
            None => {
                if tls {
                    TLS_PORT
                } else {
                    PORT
                }
            }
            Some(text) => match text.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err(UriError::Port { actual: shown(text) }),
            },
        };
        if !is_host(host) {
            return Err(UriError::Host { actual: shown(place) });
        }
        Ok(Self { host: host.to_owned(), port, carriage })
    }
}

/// Host and port of `host`, `host:1`, `[::1]` and `[::1]:1`; the host without brackets.
fn split(place: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    match place.split_once(':') {
        None => Some((place, None)),
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

fn is_host(host: &str) -> bool {
    let label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host.len() <= HOST_BYTES_MAX && host.chars().all(label))
}

impl fmt::Display for TurnServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, carriage } = self;
        let (scheme, transport) = match carriage {
            Carriage::Udp => ("turn", "udp"),
            Carriage::Tcp => ("turn", "tcp"),
            Carriage::Tls => ("turns", "tcp"),
        };
        if host.contains(':') {
            write!(f, "{scheme}:[{host}]:{port}?transport={transport}")
        } else {
            write!(f, "{scheme}:{host}:{port}?transport={transport}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<(String, u16, Carriage), UriError> {
        text.parse::<TurnServer>().map(|server| (server.host, server.port, server.carriage))
    }

    // row: NET-44
    #[test]
    fn a_server_is_read_as_rfc_7065_writes_it() {
        let of = |host: &str, port, carriage| Ok((host.to_owned(), port, carriage));
        assert_eq!(read("turn:turn.example"), of("turn.example", 3478, Carriage::Udp));
        assert_eq!(read("turn:turn.example:80?transport=udp"), of("turn.example", 80, Carriage::Udp));
        assert_eq!(read("turn:11.200.0.2:3478?transport=tcp"), of("11.200.0.2", 3478, Carriage::Tcp));
        assert_eq!(read("turns:turn.example"), of("turn.example", 5349, Carriage::Tls));
        assert_eq!(read("turns:[2600:11::2]:443?transport=tcp"), of("2600:11::2", 443, Carriage::Tls));
        assert_eq!(read("TURN:[::1]?transport=TCP"), of("::1", 3478, Carriage::Tcp));
    }

    // row: NET-44
    #[test]
    fn what_is_wrong_in_a_server_is_named() {
        use UriError::{Dtls, Host, Port, Scheme, Transport};
        assert!(matches!(read("stun:a"), Err(Scheme { .. })) && matches!(read("turn.example:80"), Err(Scheme { .. })));
        assert!(matches!(read("turn:"), Err(Host { .. })) && matches!(read("turn:::1"), Err(Host { .. })));
        assert!(matches!(read("turn://a"), Err(Host { .. })) && matches!(read("turn:[a]:1"), Err(Host { .. })));
        assert!(matches!(read("turn:user@a"), Err(Host { .. })));
        assert!(matches!(read("turn:a:0"), Err(Port { .. })) && matches!(read("turn:a:70000"), Err(Port { .. })));
        assert!(matches!(read("turn:a?transport=sctp"), Err(Transport { .. })));
        assert_eq!(read("turns:a?transport=udp"), Err(Dtls));
    }

    proptest! {
        #[test]
        fn a_server_that_is_read_is_written_so_that_it_is_read_again(text in "(turn|turns):[a-z0-9.:\\[\\]-]{0,12}(\\?transport=(udp|tcp))?") {
            if let Ok(server) = text.parse::<TurnServer>() {
                prop_assert_eq!(server.to_string().parse(), Ok(server));
            }
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,80}") {
            let _ = text.parse::<TurnServer>();
        }
    }
}
