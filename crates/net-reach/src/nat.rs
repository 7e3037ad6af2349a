//! What kind of NAT stands between this machine and the Internet, told from what was observed (RFC 4787, RFC 5780). Pure.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

/// How a NAT chooses the outer address of an inner one (RFC 4787 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// The same for every destination.
    EndpointIndependent,
    /// Another for each destination address.
    AddressDependent,
    /// Another for each destination address and port.
    AddressAndPortDependent,
}

/// Whom a NAT lets in (RFC 4787 §5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// Addresses that were written to.
    AddressDependent,
    /// Addresses and ports that were written to.
    AddressAndPortDependent,
}

/// The kind of network a machine is in, in the words that people know (NET-40).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatKind {
    /// Anybody can reach any port: no NAT, or one that hands everything through.
    Open,
    /// One outer port for all; anybody may use it.
    FullCone,
    /// One outer port for all; for those who were written to, from any port.
    AddressRestricted,
    /// One outer port for all; for those who were written to, from the same port. Most home routers.
    PortRestricted,
    /// A new outer port for each destination.
    Symmetric,
    /// Nothing comes back over UDP while TCP works.
    UdpBlocked,
    /// It could not be found out.
    Unknown,
}

impl NatKind {
    /// As it is written for people and in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::UdpBlocked => "udp-blocked",
            Self::Unknown => "unknown",
        }
    }
}

/// What a TCP connection to the servers showed, where none answered over UDP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TcpCheck {
    /// Not tried: UDP works.
    NotNeeded,
    /// A connection stood: TCP passes.
    Connected,
    /// A server said no: it is there, and nothing listens.
    Refused,
    /// Nothing came back.
    Silent,
    /// This machine has no route to any server.
    NoRoute,
    /// There was no server to ask.
    NoServer,
}

/// What was observed over UDP with one family of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Findings {
    /// What each server told, in the order in which they were given.
    pub servers: Vec<ServerFinding>,
    /// This machine's own address of the socket that asked.
    pub local: Option<SocketAddr>,
    /// How the NAT maps; none where it could not be told.
    pub mapping: Option<Mapping>,
    /// Whom the NAT lets in; none where it could not be told.
    pub filtering: Option<Filtering>,
    /// Whether a packet reached a port that had never sent one; none where it was not tried.
    pub unasked: Option<bool>,
}

/// What one server told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServerFinding {
    /// The server.
    pub address: SocketAddr,
    /// Where it saw this machine; none where it did not answer.
    pub seen: Option<SocketAddr>,
    /// From the request to its answer, in milliseconds.
    pub rtt_ms: Option<u64>,
    /// Whether it can tell the NAT's kind.
    pub rfc5780: bool,
}

impl Findings {
    /// True where any server answered.
    #[must_use]
    pub fn works(&self) -> bool {
        self.servers.iter().any(|server| server.seen.is_some())
    }

    /// Where this machine was seen, each address once.
    #[must_use]
    pub fn seen(&self) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = self.servers.iter().filter_map(|server| server.seen).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether an address is translated on the way out; none before anything answered.
    #[must_use]
    pub fn translated(&self) -> Option<bool> {
        let local = self.local?;
        self.seen().first().map(|seen| *seen != local)
    }
}

/// A kind, and why it is this one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Classified {
    /// The kind.
    pub kind: NatKind,
    /// What was seen, in a sentence for people.
    pub reason: &'static str,
}

const fn classified(kind: NatKind, reason: &'static str) -> Classified {
    Classified { kind, reason }
}

/// Names the kind.
#[must_use]
pub fn classify(findings: &Findings, tcp: TcpCheck) -> Classified {
    if !findings.works() {
        return silent(tcp);
    }
    match (findings.mapping, findings.filtering) {
        (Some(Mapping::AddressDependent | Mapping::AddressAndPortDependent), _) => {
            classified(NatKind::Symmetric, "each destination sees another port")
        }
        (Some(Mapping::EndpointIndependent), Some(Filtering::EndpointIndependent)) => {
            if findings.unasked == Some(true) || findings.translated() == Some(false) {
                classified(NatKind::Open, "a packet from a stranger arrives at a port that never sent one")
            } else {
                classified(NatKind::FullCone, "one port for all, and strangers may use it")
            }
        }
        (Some(Mapping::EndpointIndependent), Some(Filtering::AddressDependent)) => {
            classified(NatKind::AddressRestricted, "one port for all, and only hosts that were written to may use it")
        }
        (Some(Mapping::EndpointIndependent), Some(Filtering::AddressAndPortDependent)) => classified(
            NatKind::PortRestricted,
            "one port for all, and only the very addresses and ports that were written to may use it",
        ),
        (Some(Mapping::EndpointIndependent), None) => classified(
            NatKind::Unknown,
            "one port for all; no server that answered can tell whom it lets in (RFC 5780)",
        ),
        (None, _) => classified(NatKind::Unknown, "only one server answered, and it cannot tell the kind (RFC 5780)"),
    }
}

const fn silent(tcp: TcpCheck) -> Classified {
    match tcp {
        TcpCheck::Connected => classified(NatKind::UdpBlocked, "no STUN server answers over UDP, while TCP passes"),
        TcpCheck::Refused => classified(NatKind::Unknown, "the servers are there, but nothing there answers STUN"),
        TcpCheck::NoRoute => classified(NatKind::Unknown, "this machine has no route to any STUN server"),
        TcpCheck::NoServer => classified(NatKind::Unknown, "no STUN server's name could be resolved"),
        TcpCheck::Silent | TcpCheck::NotNeeded => {
            classified(NatKind::Unknown, "nothing answers, neither over UDP nor over TCP: no network, or dead servers")
        }
    }
}

/// Whether there are two NATs in a row, where it can be told: the home router's own idea of its outer address
/// is not where the Internet sees this machine, or is no public address at all.
#[must_use]
pub fn double_nat(local: Option<IpAddr>, seen: Option<IpAddr>, router_external: Option<IpAddr>) -> Option<bool> {
    match (router_external, seen) {
        (Some(external), _) if !is_public(external) => Some(true),
        (Some(external), Some(seen)) => Some(external != seen),
        // A carrier's own range on this machine: the carrier translates, and nothing else does.
        (None, Some(seen)) if local == Some(seen) => Some(false),
        _ => None,
    }
}

/// True of addresses that the whole Internet can route to.
#[must_use]
pub const fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let carrier = a == 100 && b >= 64 && b < 128;
            let reserved = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_documentation();
            !(carrier || reserved || v4.is_unspecified() || v4.is_multicast() || a == 0 || a >= 240)
        }
        IpAddr::V6(v6) => {
            v6.segments()[0] & 0xe000 == 0x2000 && !(v6.segments()[0] == 0x2001 && v6.segments()[1] == 0xdb8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mapping: Option<Mapping>, filtering: Option<Filtering>, unasked: Option<bool>) -> Findings {
        let seen = Some("11.1.0.2:40000".parse().unwrap());
        let server =
            ServerFinding { address: "11.200.0.2:3478".parse().unwrap(), seen, rtt_ms: Some(1), rfc5780: true };
        let local = Some("192.168.1.10:9".parse().unwrap());
        Findings { servers: vec![server], local, mapping, filtering, unasked }
    }

    // row: NET-40
    #[test]
    fn every_kind_has_its_name() {
        use {Filtering as F, Mapping as M};
        let eim = Some(M::EndpointIndependent);
        let cases = [
            (eim, Some(F::EndpointIndependent), Some(true), NatKind::Open),
            (eim, Some(F::EndpointIndependent), Some(false), NatKind::FullCone),
            (eim, Some(F::EndpointIndependent), None, NatKind::FullCone),
            (eim, Some(F::AddressDependent), Some(false), NatKind::AddressRestricted),
            (eim, Some(F::AddressAndPortDependent), Some(false), NatKind::PortRestricted),
            (Some(M::AddressDependent), Some(F::EndpointIndependent), None, NatKind::Symmetric),
            (Some(M::AddressAndPortDependent), None, None, NatKind::Symmetric),
            (eim, None, None, NatKind::Unknown),
            (None, None, None, NatKind::Unknown),
            (None, Some(F::AddressDependent), None, NatKind::Unknown),
        ];
        for (mapping, filtering, unasked, kind) in cases {
            let findings = found(mapping, filtering, unasked);
            assert_eq!(classify(&findings, TcpCheck::NotNeeded).kind, kind, "{findings:?}");
        }
    }

    // row: NET-40
    #[test]
    fn a_machine_with_its_own_public_address_and_no_firewall_is_open() {
        let mut findings = found(Some(Mapping::EndpointIndependent), Some(Filtering::EndpointIndependent), None);
        findings.local = Some("11.1.0.2:40000".parse().unwrap());
        assert_eq!(findings.translated(), Some(false));
        assert_eq!(classify(&findings, TcpCheck::NotNeeded).kind, NatKind::Open);
        findings.filtering = Some(Filtering::AddressAndPortDependent);
        assert_eq!(classify(&findings, TcpCheck::NotNeeded).kind, NatKind::PortRestricted);
    }

    // row: NET-40
    #[test]
    fn silence_is_blocked_udp_only_where_tcp_passes_and_says_what_it_is_otherwise() {
        let nothing = Findings::default();
        let outcomes =
            [TcpCheck::Connected, TcpCheck::Refused, TcpCheck::Silent, TcpCheck::NoRoute, TcpCheck::NoServer]
                .map(|tcp| classify(&nothing, tcp));
        assert_eq!(outcomes[0].kind, NatKind::UdpBlocked);
        assert!(outcomes[1..].iter().all(|outcome| outcome.kind == NatKind::Unknown));
        let mut reasons: Vec<&str> = outcomes.iter().map(|outcome| outcome.reason).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), 5, "each silence has a reason of its own");
    }

    // row: NET-40
    #[test]
    fn two_nats_are_told_from_the_routers_own_outer_address() {
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let local = ip("192.168.1.10");
        assert_eq!(double_nat(local, ip("11.4.0.2"), ip("100.64.4.2")), Some(true));
        assert_eq!(double_nat(local, ip("11.4.0.2"), ip("11.9.0.1")), Some(true));
        assert_eq!(double_nat(local, ip("11.4.0.2"), ip("11.4.0.2")), Some(false));
        assert_eq!(double_nat(local, None, ip("192.168.0.2")), Some(true));
        assert_eq!(double_nat(ip("11.4.0.2"), ip("11.4.0.2"), None), Some(false));
        assert_eq!(double_nat(local, ip("11.4.0.2"), None), None);
    }

    #[test]
    fn public_addresses_are_those_that_are_routed() {
        for text in ["11.1.0.2", "8.8.8.8", "100.63.0.1", "100.128.0.1", "2600:11::2"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "100.127.9.9",
            "127.0.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }
}
