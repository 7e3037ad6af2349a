//! How hard it will be to reach this machine, why, and what its owner can do (NET-46). Pure.

use serde::Serialize;

use crate::nat::NatKind;

/// How hard it is for others to reach this machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Anybody can.
    Easy,
    /// Most can, with help to begin with.
    Medium,
    /// Only over a third host.
    Hard,
}

/// What the verdict is given on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Situation {
    /// The NAT over IPv4.
    pub kind: NatKind,
    /// Whether there are two of them, where it is known.
    pub double_nat: Option<bool>,
    /// Whether the router maps a port on demand.
    pub maps_ports: bool,
}

/// The verdict.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verdict {
    /// How hard.
    pub level: Level,
    /// Why.
    pub reason: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

const MAP_A_PORT: &str =
    "switch on UPnP, PCP or NAT-PMP in the router, or forward the node's UDP port (9700) to this machine";

/// Judges.
#[must_use]
pub const fn verdict(situation: &Situation) -> Verdict {
    let (level, reason, remedy) = match (situation.kind, situation.maps_ports) {
        (NatKind::UdpBlocked, _) => (
            Level::Hard,
            "this network blocks UDP: links go over TCP, and others reach this node over a relay only",
            "let UDP out (port 9700 is enough), or run the node in another network",
        ),
        (NatKind::Unknown, false) => (
            Level::Hard,
            "the kind of NAT could not be told",
            "check the network and name a STUN server that answers: --stun HOST:PORT",
        ),
        (_, true) => (Level::Easy, "the router maps a port on demand", "nothing to do"),
        (NatKind::Open, _) => (Level::Easy, "no NAT is in the way", "nothing to do"),
        (NatKind::FullCone, _) => (Level::Easy, "the NAT lets strangers in at a port that is in use", "nothing to do"),
        (NatKind::AddressRestricted | NatKind::PortRestricted, _) => match situation.double_nat {
            Some(true) => (
                Level::Medium,
                "two NATs in a row let in only those that were written to; a port can be mapped in the inner one alone",
                "ask the provider for a public address or use IPv6; dialling out works as it is",
            ),
            _ => (Level::Medium, "the NAT lets in only those that were written to", MAP_A_PORT),
        },
        (NatKind::Symmetric, _) => {
            (Level::Hard, "the NAT uses another port for each peer, so that no peer can know it beforehand", MAP_A_PORT)
        }
    };
    Verdict { level, reason, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(kind: NatKind, maps_ports: bool) -> Level {
        verdict(&Situation { kind, double_nat: None, maps_ports }).level
    }

    // row: NET-46
    #[test]
    fn each_kind_has_its_verdict_and_a_mapped_port_makes_it_easy_where_udp_passes() {
        let cases = [
            (NatKind::Open, Level::Easy, Level::Easy),
            (NatKind::FullCone, Level::Easy, Level::Easy),
            (NatKind::AddressRestricted, Level::Medium, Level::Easy),
            (NatKind::PortRestricted, Level::Medium, Level::Easy),
            (NatKind::Symmetric, Level::Hard, Level::Easy),
            (NatKind::UdpBlocked, Level::Hard, Level::Hard),
            (NatKind::Unknown, Level::Hard, Level::Easy),
        ];
        for (kind, without, with) in cases {
            assert_eq!((level(kind, false), level(kind, true)), (without, with), "{kind:?}");
        }
    }

    // row: NET-46
    #[test]
    fn behind_two_nats_nobody_is_told_to_map_a_port_in_the_inner_one() {
        let of = |double_nat| verdict(&Situation { kind: NatKind::PortRestricted, double_nat, maps_ports: false });
        assert_eq!(of(None).remedy, MAP_A_PORT);
        assert_ne!(of(Some(true)).remedy, MAP_A_PORT);
        assert_eq!(of(Some(true)).level, Level::Medium);
    }
}
