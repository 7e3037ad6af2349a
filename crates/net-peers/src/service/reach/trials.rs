//! AutoNAT v2 under this node's rules (NET-40): what this node dials because a peer asks it to, and which addresses it has
//! tried because a peer says that it sees it there.
//!
//! libp2p's server dials whatever a client names, a service on this node's own machine or site included, and tells what
//! came of it; and its client remembers every address that anybody ever told, for good. [`Trials`] and [`Tester`] stand
//! around them.

use std::collections::{HashMap, HashSet};
use std::task::{Context, Poll};

use either::Either;
use libp2p::PeerId;
use libp2p::autonat::v2::{client, server};
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr};
use libp2p::swarm::behaviour::ConnectionEstablished;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use thiserror::Error;
use trellis_net_transport::direct_ip;
use trellis_primitives::{SharedClock, UnixMs};

use crate::discovery::address::AddressClass;
use crate::guard::TokenBucket;
use crate::streams::socket_address;
use crate::table::route::is_circuit;

/// Addresses of one peer that are tried in a minute; a client tries ten every five seconds while it has new ones.
const TRIALS_PER_MINUTE: u64 = 60;
/// Addresses of one peer that are tried at once.
const TRIALS_AT_ONCE: u64 = 30;
/// Addresses of this node's own that are had tried in one run.
const CANDIDATES_MAX: usize = 4_096;
/// New ones of them in a minute.
const CANDIDATES_PER_MINUTE: u64 = 4;
/// New ones of them at once.
const CANDIDATES_AT_ONCE: u64 = 64;

/// Why an address is not tried for a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
enum TrialRefused {
    #[error("the peer asks for too many trials")]
    Rate,
    #[error("not an address that a peer from there may have dialled")]
    Address,
}

/// Whether an address may be dialled for a peer that is reached at an address of class `asker`: nobody has this node look
/// into a network that is nearer to it than he is.
fn may_try(address: &Multiaddr, asker: AddressClass) -> bool {
    let socket = socket_address(address).filter(|socket| socket.port() != 0 && !is_circuit(address));
    socket.and_then(|socket| AddressClass::of(socket.ip())).is_some_and(|class| asker.may_share(class))
}

/// A peer that is connected and may ask.
struct Asker {
    connections: HashSet<ConnectionId>,
    /// How near it is: over several connections the farthest counts.
    class: AddressClass,
    bucket: TokenBucket,
}

/// Tries addresses for peers.
pub(crate) struct Trials {
    inner: server::Behaviour,
    clock: SharedClock,
    askers: HashMap<PeerId, Asker>,
    /// Dials that were asked for, and for whom.
    dials: HashMap<ConnectionId, Result<AddressClass, TrialRefused>>,
}

impl Trials {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { inner: server::Behaviour::default(), clock, askers: HashMap::new(), dials: HashMap::new() }
    }

    fn arrived(&mut self, connection: ConnectionId, peer: PeerId, remote: &Multiaddr) {
        // Over a relay or a proxy anybody can come.
        let class = direct_ip(remote).filter(|_| !is_circuit(remote)).and_then(AddressClass::of);
        let class = class.unwrap_or(AddressClass::Public);
        let now = self.clock.now();
        let asker = self.askers.entry(peer).or_insert_with(|| Asker {
            connections: HashSet::new(),
            class,
            bucket: TokenBucket::full(TRIALS_PER_MINUTE, TRIALS_AT_ONCE, now),
        });
        asker.class = asker.class.max(class);
        asker.connections.insert(connection);
    }

    fn left(&mut self, connection: ConnectionId, peer: PeerId) {
        if let Some(asker) = self.askers.get_mut(&peer) {
            asker.connections.remove(&connection);
            if asker.connections.is_empty() {
                self.askers.remove(&peer);
            }
        }
    }

    /// What becomes of a dial that a peer asks for.
    fn judge(&mut self, peer: Option<PeerId>) -> Result<AddressClass, TrialRefused> {
        let now = self.clock.now();
        let asker = peer.and_then(|peer| self.askers.get_mut(&peer)).ok_or(TrialRefused::Rate)?;
        if asker.bucket.take(1, now) { Ok(asker.class) } else { Err(TrialRefused::Rate) }
    }
}

impl NetworkBehaviour for Trials {
    type ConnectionHandler = THandler<server::Behaviour>;
    type ToSwarm = server::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let handler = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        self.arrived(connection, peer, remote);
        Ok(handler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match self.dials.get(&connection) {
            Some(Err(refused)) => Err(ConnectionDenied::new(*refused)),
            Some(Ok(class)) if !addresses.iter().all(|address| may_try(address, *class)) => {
                Err(ConnectionDenied::new(TrialRefused::Address))
            }
            _ => self.inner.handle_pending_outbound_connection(connection, peer, addresses, role),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.dials.remove(&connection);
        self.inner.handle_established_outbound_connection(connection, peer, remote, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionClosed(closed) => self.left(closed.connection_id, closed.peer_id),
            FromSwarm::DialFailure(failure) => drop(self.dials.remove(&failure.connection_id)),
            // Denied by another behaviour after this one had let it in.
            FromSwarm::ListenFailure(failure) => {
                if let Some(peer) = failure.peer_id {
                    self.left(failure.connection_id, peer);
                }
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let polled = self.inner.poll(cx);
        if let Poll::Ready(ToSwarm::Dial { opts }) = &polled {
            let verdict = self.judge(opts.get_peer_id());
            self.dials.insert(opts.connection_id(), verdict);
        }
        polled
    }
}

/// Which of the addresses that peers say they see this node at are had tried. Pure.
struct Candidates {
    known: HashSet<Multiaddr>,
    bucket: TokenBucket,
}

impl Candidates {
    fn new(now: UnixMs) -> Self {
        let bucket = TokenBucket::full(CANDIDATES_PER_MINUTE, CANDIDATES_AT_ONCE, now);
        Self { known: HashSet::new(), bucket }
    }

    fn takes(&mut self, address: &Multiaddr, now: UnixMs) -> bool {
        if self.known.contains(address) {
            return true;
        }
        let possible = direct_ip(address).and_then(AddressClass::of).is_some();
        if !possible || self.known.len() >= CANDIDATES_MAX || !self.bucket.take(1, now) {
            return false;
        }
        self.known.insert(address.clone())
    }
}

/// What libp2p's client hears from the connections that this node dialled. It keeps the type's name to itself.
trait Dialled {
    type Event;
}

impl<Event, Other> Dialled for Either<Event, Other> {
    type Event = Event;
}

type ClientEvent = <THandlerOutEvent<client::Behaviour> as Dialled>::Event;

/// Has this node's own addresses tried by peers.
pub(crate) struct Tester {
    inner: client::Behaviour,
    clock: SharedClock,
    candidates: Candidates,
    /// Connections that stand, and whether the peer tries addresses for others.
    live: HashMap<ConnectionId, (PeerId, bool)>,
}

impl Tester {
    pub(super) fn new(clock: SharedClock) -> Self {
        let candidates = Candidates::new(clock.now());
        Self { inner: client::Behaviour::default(), clock, candidates, live: HashMap::new() }
    }

    /// Forgets what came of every address, so that each is tried again when it is told again. libp2p's client tries an
    /// address once and has no way to forget one, so another takes its place and learns who is connected.
    pub(super) fn begin_anew(&mut self) {
        self.inner = client::Behaviour::default();
        let nowhere = ConnectedPoint::Listener { local_addr: Multiaddr::empty(), send_back_addr: Multiaddr::empty() };
        for (connection_id, (peer_id, serves)) in &self.live {
            self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id: *peer_id,
                connection_id: *connection_id,
                endpoint: &nowhere,
                failed_addresses: &[],
                other_established: 0,
            }));
            if *serves {
                let event = Either::Left(ClientEvent::PeerHasServerSupport);
                self.inner.on_connection_handler_event(*peer_id, *connection_id, event);
            }
        }
    }
}

impl NetworkBehaviour for Tester {
    type ConnectionHandler = THandler<client::Behaviour>;
    type ToSwarm = client::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection, peer, remote, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::NewExternalAddrCandidate(new) if !self.candidates.takes(new.addr, self.clock.now()) => return,
            FromSwarm::ConnectionEstablished(made) => {
                self.live.insert(made.connection_id, (made.peer_id, false));
            }
            FromSwarm::ConnectionClosed(closed) => drop(self.live.remove(&closed.connection_id)),
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        if let Either::Left(ClientEvent::PeerHasServerSupport) = &event
            && let Some((_, serves)) = self.live.get_mut(&connection)
        {
            *serves = true;
        }
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use trellis_primitives::ManualClock;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn trials() -> Trials {
        Trials::new(Arc::new(ManualClock::new(NOW)))
    }

    // row: NET-40, NET-56
    #[test]
    fn nobody_has_this_node_dial_into_a_network_that_is_nearer_to_it_than_he_is() {
        use AddressClass::{Loopback, Private, Public};
        let (far, near, own) = ("/ip4/8.8.8.8/udp/9700/quic-v1", "/ip4/192.168.1.1/tcp/80", "/ip4/127.0.0.1/tcp/22");
        let may = |asker| [far, near, own].map(|text| may_try(&at(text), asker));
        assert_eq!(may(Public), [true, false, false]);
        assert_eq!(may(Private), [true, true, false]);
        assert_eq!(may(Loopback), [true, true, true]);
        let relay = PeerId::random();
        for odd in [
            &format!("/ip4/8.8.8.8/udp/9700/quic-v1/p2p/{relay}/p2p-circuit"),
            "/ip4/8.8.8.8/tcp/0",
            "/dns4/intranet.example/tcp/80",
            "/ip4/224.0.0.1/udp/1/quic-v1",
            "/memory/1",
        ] {
            assert!(!may_try(&at(odd), Public), "{odd}");
        }
    }

    // row: NET-40, NET-51
    #[test]
    fn a_peer_has_its_own_ration_of_trials_and_a_connection_from_afar_makes_it_far() {
        let mut trials = trials();
        let (peer, other) = (PeerId::random(), PeerId::random());
        let connection = ConnectionId::new_unchecked;
        assert_eq!(trials.judge(Some(peer)), Err(TrialRefused::Rate), "not connected");
        trials.arrived(connection(1), peer, &at("/ip4/192.168.1.9/udp/1/quic-v1"));
        assert_eq!(trials.judge(Some(peer)), Ok(AddressClass::Private));
        trials.arrived(connection(2), peer, &at("/p2p-circuit"));
        let granted = (0..1_000).filter(|_| trials.judge(Some(peer)) == Ok(AddressClass::Public)).count();
        assert_eq!(granted as u64, TRIALS_AT_ONCE - 1);
        trials.arrived(connection(3), other, &at("/ip4/8.8.8.8/udp/1/quic-v1"));
        assert!(trials.judge(Some(other)).is_ok());
        for (id, peer) in [(1, peer), (2, peer), (3, other)] {
            trials.left(connection(id), peer);
        }
        assert!(trials.askers.is_empty());
    }

    // row: NET-40, NET-56
    #[test]
    fn a_peer_that_sees_this_node_everywhere_does_not_fill_its_memory() {
        let mut candidates = Candidates::new(NOW);
        let address = |n: u32| at(&format!("/ip4/{}/udp/1/quic-v1", std::net::Ipv4Addr::from(0x0800_0000 + n)));
        let taken = (0..10_000).filter(|n| candidates.takes(&address(*n), NOW)).count();
        assert_eq!(taken as u64, CANDIDATES_AT_ONCE);
        assert!(candidates.takes(&address(0), NOW), "what is known is told on");
        assert!(candidates.takes(&address(20_000), NOW.plus_ms(60_000)), "a new network is found again");
        assert!(!candidates.takes(&at("/ip4/0.0.0.0/udp/1/quic-v1"), NOW.plus_ms(600_000)));
        for n in 0..CANDIDATES_MAX as u32 {
            candidates.takes(&address(30_000 + n), NOW.plus_ms(u64::from(n) * 60_000));
        }
        assert_eq!(candidates.known.len(), CANDIDATES_MAX);
    }
}
