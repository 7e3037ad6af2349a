//! The addresses at which peers see this node, as candidates for hole punching and for AutoNAT.
//!
//! libp2p-identify 0.48 replaces the port that a peer saw by the local one where they differ, taking it for that of an
//! outgoing connection. This node dials from the port that it listens on, so behind a NAT that changes ports the replaced
//! one is wrong and the seen one is right; the seen one is told here. AutoNAT's client keeps every candidate for ever, so
//! there is a bound on how many different ones it is told.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::task::{Context, Poll, Waker};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};

use crate::table::route::is_circuit;

/// An observed address, and, where the NAT leaves ports as they are, the same host at every other port that this node
/// listens on: a peer behind a firewall may be able to reach just one of them.
pub(super) fn candidates(observed: &Multiaddr, listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let place = |address: &Multiaddr| -> Multiaddr {
        address.iter().skip(1).filter(|part| !matches!(part, Part::P2p(_))).collect()
    };
    let ports: BTreeSet<Multiaddr> = listening.iter().map(place).collect();
    let (seen, mut found) = (place(observed), vec![observed.clone()]);
    if let Some(host) = observed.iter().next().filter(|_| ports.contains(&seen)) {
        let others = ports.iter().filter(|other| **other != seen).take(LISTENING_MAX);
        found.extend(others.map(|parts| std::iter::once(host.clone()).chain(parts.iter()).collect::<Multiaddr>()));
    }
    found
}

/// Ports that are tried for one observation.
const LISTENING_MAX: usize = 8;
/// Observations that wait to be told; beyond it the oldest are dropped.
const WAITING_MAX: usize = 64;

/// Different candidates that are ever told.
const CANDIDATES_MAX: usize = 1_024;

/// Tells the swarm what peers see.
#[derive(Default)]
pub(crate) struct Observed {
    told: BTreeSet<Multiaddr>,
    waiting: VecDeque<Multiaddr>,
    waker: Option<Waker>,
}

impl Observed {
    /// How many different ones were told.
    pub(super) fn told(&self) -> usize {
        self.told.len()
    }

    /// A peer sees this node at an address; one over a relay is no place to punch at.
    pub(super) fn push(&mut self, address: Multiaddr) {
        if is_circuit(&address) || address.is_empty() {
            return;
        }
        if !self.told.contains(&address) {
            if self.told.len() >= CANDIDATES_MAX {
                return;
            }
            self.told.insert(address.clone());
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(address);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl NetworkBehaviour for Observed {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.waiting.pop_front() {
            Some(address) => Poll::Ready(ToSwarm::NewExternalAddrCandidate(address)),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(observed: &mut Observed) -> Option<Multiaddr> {
        match observed.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ToSwarm::NewExternalAddrCandidate(address)) => Some(address),
            _ => None,
        }
    }

    // row: NET-43
    #[test]
    fn what_peers_see_is_told_unchanged_and_circuits_are_not() {
        let mut observed = Observed::default();
        let seen: Multiaddr = "/ip4/11.3.0.2/udp/64783/quic-v1".parse().unwrap();
        observed.push(seen.clone());
        observed.push(format!("/p2p/{}/p2p-circuit", PeerId::random()).parse().unwrap());
        assert_eq!(next(&mut observed), Some(seen));
        assert_eq!(next(&mut observed), None);
    }

    // row: NET-40, NET-43
    #[test]
    fn where_ports_are_left_as_they_are_every_port_is_a_candidate() {
        let of = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Multiaddr>>();
        let listening = of(&[
            "/ip4/127.0.0.1/udp/9701/quic-v1",
            "/ip4/192.168.1.10/udp/9701/quic-v1",
            "/ip4/192.168.1.10/tcp/9701",
            "/ip4/192.168.1.10/tcp/443",
        ]);
        let mut found = candidates(&"/ip4/11.1.0.2/udp/9701/quic-v1".parse().unwrap(), &listening);
        found.sort();
        let mut all = of(&["/ip4/11.1.0.2/udp/9701/quic-v1", "/ip4/11.1.0.2/tcp/9701", "/ip4/11.1.0.2/tcp/443"]);
        all.sort();
        assert_eq!(found, all);
        let changed: Multiaddr = "/ip4/11.1.0.2/udp/23456/quic-v1".parse().unwrap();
        assert_eq!(candidates(&changed, &listening), [changed]);
    }

    // row: NET-56
    #[test]
    fn observations_that_nobody_takes_do_not_pile_up() {
        let mut observed = Observed::default();
        for port in 1..=2_000 {
            observed.push(format!("/ip4/11.3.0.2/udp/{port}/quic-v1").parse().unwrap());
        }
        let told = std::iter::from_fn(|| next(&mut observed)).count();
        assert_eq!((told, observed.told.len()), (WAITING_MAX, CANDIDATES_MAX));
        observed.push("/ip4/11.3.0.2/udp/2001/quic-v1".parse().unwrap());
        assert_eq!(next(&mut observed), None);
        observed.push("/ip4/11.3.0.2/udp/7/quic-v1".parse().unwrap());
        assert!(next(&mut observed).is_some(), "known ones are told again");
    }
}
