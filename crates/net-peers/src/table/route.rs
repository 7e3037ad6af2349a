//! The way that a connection takes, and which of several connections to one peer is the one to keep (NET-43). Pure.
//!
//! Both sides of a pair see the same connections, though not at the same moment. So that they never close different ones,
//! the choice rests on what both know: whether it is direct, at a TURN server or over a relay, whether it is QUIC, and who
//! dialled. Of two that the same node dialled that node
//! alone decides.

use libp2p::PeerId;
use libp2p::core::{ConnectedPoint, Multiaddr};
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::ConnectionId;
use trellis_primitives::{NodeId, UnixMs};

use crate::peer::Direction;

/// The way of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Whether it goes through a relay.
    pub(crate) relayed: bool,
    /// Whether one of its ends is at a TURN server.
    pub(crate) turned: bool,
    /// Which one, where the address names it.
    pub(crate) relay: Option<PeerId>,
    /// Where the other end was dialled or came from.
    pub(crate) at: Multiaddr,
    /// The address of the other end; for a relayed one that of the circuit.
    pub(crate) address: String,
    /// Since when it stands.
    pub(crate) since: UnixMs,
    /// The peer has restarted since.
    pub(crate) superseded: bool,
}

impl Route {
    /// What the swarm says of a connection.
    pub(crate) fn of(endpoint: &ConnectedPoint, turned: bool, since: UnixMs) -> Self {
        let (way, address) = match endpoint {
            ConnectedPoint::Dialer { address, .. } => (address, address.to_string()),
            ConnectedPoint::Listener { local_addr, send_back_addr } if endpoint.is_relayed() => {
                (local_addr, format!("{local_addr}{send_back_addr}"))
            }
            ConnectedPoint::Listener { local_addr, send_back_addr } => (local_addr, send_back_addr.to_string()),
        };
        let at = endpoint.get_remote_address().clone();
        Self { relayed: endpoint.is_relayed(), turned, relay: relay_of(way), at, address, since, superseded: false }
    }
}

/// The relay of a circuit's address.
pub(crate) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut relay = None;
    for part in address {
        match part {
            Part::P2p(peer) => relay = Some(peer),
            Part::P2pCircuit => return relay,
            _ => {}
        }
    }
    None
}

/// Who answers at an address: behind the relay, if there is one.
pub(crate) fn target_of(address: &Multiaddr) -> Option<PeerId> {
    let mut target = None;
    for part in address {
        match part {
            Part::P2p(peer) => target = Some(peer),
            Part::P2pCircuit => target = None,
            _ => {}
        }
    }
    target
}

/// Whether an address goes through a relay.
pub(crate) fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Part::P2pCircuit)
}

/// One of the connections to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) connection: ConnectionId,
    pub(crate) relayed: bool,
    /// From or to an address at a TURN server.
    pub(crate) turned: bool,
    /// Over TCP, which makes the streams wait for each other where QUIC does not.
    pub(crate) tcp: bool,
    pub(crate) superseded: bool,
    pub(crate) direction: Direction,
}

/// Puts the connections into order, the one to use last.
pub(crate) fn order(local: NodeId, peer: NodeId, choices: &mut [Choice]) {
    choices.sort_by_key(|choice| {
        // Of its own dials a node keeps the older one; of the peer's the newer one is the one that the peer still has.
        let age = match choice.direction {
            Direction::Outbound => (1, std::cmp::Reverse(Some(choice.connection)), None),
            Direction::Inbound => (0, std::cmp::Reverse(None), Some(choice.connection)),
        };
        let by_lower = dialed_by_lower(local, peer, choice.direction);
        (!choice.superseded, !choice.relayed, !choice.turned, !choice.tcp, by_lower, age)
    });
}

fn dialed_by_lower(local: NodeId, peer: NodeId, direction: Direction) -> bool {
    (direction == Direction::Outbound) == (local < peer)
}

/// Whether this node may close `other`, because both sides agree that `kept` is the better one.
pub(crate) fn is_superfluous(kept: &Choice, other: &Choice) -> bool {
    let cost = |choice: &Choice| (choice.relayed, choice.turned, choice.tcp);
    let (better, worse) = (cost(kept), cost(other));
    if kept.connection == other.connection || better > worse {
        return false;
    }
    better < worse || kept.direction != other.direction || other.direction == Direction::Outbound
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    // row: NET-42
    #[test]
    fn a_circuits_address_names_the_relay_and_who_is_behind_it() {
        let (relay, target) = (PeerId::random(), PeerId::random());
        let circuit = at(&format!("/ip4/11.201.0.2/udp/9700/quic-v1/p2p/{relay}/p2p-circuit/p2p/{target}"));
        assert_eq!((relay_of(&circuit), target_of(&circuit)), (Some(relay), Some(target)));
        let open = at(&format!("/ip4/11.201.0.2/udp/9700/quic-v1/p2p/{relay}/p2p-circuit"));
        assert_eq!((relay_of(&open), target_of(&open)), (Some(relay), None));
        let direct = at(&format!("/ip4/11.201.0.2/udp/9700/quic-v1/p2p/{target}"));
        assert_eq!((relay_of(&direct), target_of(&direct)), (None, Some(target)));
        assert!(is_circuit(&circuit) && !is_circuit(&direct));
    }

    prop_compose! {
        /// A connection as the first of two nodes sees it: the way, and whether that node dialled it.
        fn seen()(way in 0u8..4, dialed in any::<bool>()) -> (u8, bool) {
            (way, dialed)
        }
    }

    const DIRECT: u8 = 0;
    const OVER_TCP: u8 = 1;
    const TURNED: u8 = 2;
    const RELAYED: u8 = 3;

    fn choices(seen: &[(u8, bool)], first: bool) -> Vec<Choice> {
        let of = |(place, (way, dialed)): (usize, &(u8, bool))| Choice {
            connection: ConnectionId::new_unchecked(place),
            relayed: *way == RELAYED,
            turned: *way == TURNED,
            tcp: *way == OVER_TCP,
            superseded: false,
            direction: if *dialed == first { Direction::Outbound } else { Direction::Inbound },
        };
        seen.iter().enumerate().map(of).collect()
    }

    proptest! {
        // row: NET-43
        #[test]
        fn both_sides_close_connections_in_any_order_and_one_always_remains(
            seen in prop::collection::vec(seen(), 1..6),
            turns in prop::collection::vec(any::<bool>(), 40),
        ) {
            let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
            let (mut of_a, mut of_b) = (choices(&seen, true), choices(&seen, false));
            for first in turns {
                let (local, peer, own) = if first { (a, b, &mut of_a) } else { (b, a, &mut of_b) };
                order(local, peer, own);
                let kept = *own.last().unwrap();
                let closed = own.iter().find(|other| is_superfluous(&kept, other)).map(|other| other.connection);
                if let Some(closed) = closed {
                    of_a.retain(|choice| choice.connection != closed);
                    of_b.retain(|choice| choice.connection != closed);
                }
            }
            prop_assert_eq!(of_a.len(), 1, "{:?}", of_a);
            // The best of the ways survives: direct before TURN before a relay.
            let best = seen.iter().map(|(way, _)| *way).min().unwrap();
            prop_assert_eq!((of_a[0].relayed, of_a[0].turned, of_a[0].tcp), (best == RELAYED, best == TURNED, best == OVER_TCP));
        }

        // row: NET-43
        #[test]
        fn both_sides_prefer_the_same_of_two_connections_with_different_dialers(way in DIRECT..=RELAYED) {
            let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
            let seen = [(way, true), (way, false)];
            let (mut of_a, mut of_b) = (choices(&seen, true), choices(&seen, false));
            order(a, b, &mut of_a);
            order(b, a, &mut of_b);
            prop_assert_eq!(of_a[1].connection, of_b[1].connection);
        }
    }
}
