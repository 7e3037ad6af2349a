//! Reaching everybody (NET-40, 42, 43): libp2p's relay, hole punching and AutoNAT under this node's rules.
//!
//! [`Reach`] is the part of the behaviour, [`Reaching`] what the service's task holds of it, [`ReachShared`] what everybody
//! shares. The decisions are pure: who may use this relay in `trellis_net_reach::relay::gate`, which relays this node keeps
//! in `keeper`, whether it needs any in `reachability`, and which connection to a peer stays in `table::route`.

mod again;
mod desk;
mod door;
mod hop;
mod keep;
mod mapping;
mod observed;
pub(super) mod quiet;
mod records;
pub(super) mod strangers;
mod surroundings;
mod tally;
mod tidy;
mod trials;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libp2p::core::Multiaddr;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, NetworkBehaviour};
use libp2p::{PeerId, Swarm, dcutr, identify, relay};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use trellis_net_reach::NatKind;
use trellis_net_reach::contacted::Contacted;
use trellis_net_reach::reachability::{Reachability, WayIn};
use trellis_net_reach::relay::keeper::{RelayEvent, RelayKeeper, RelayStage};
use trellis_net_reach::turn::ServerReport;
use trellis_net_transport::direct_ip;
use trellis_primitives::{NodeId, UnixMs};

pub(crate) use self::door::RelayDoor;
pub use self::door::RelayReport;
use self::observed::{Observed, candidates};
pub(super) use self::tally::Tallied;
use self::trials::{Tester, Trials};
use super::NodeShared;
use super::swarm::Behaviour;
use super::turn::TurnWay;
use crate::config::NetConfig;
use crate::discovery::address::{on_internet, without_name, worth_telling};
use crate::guard::Conduct;
use crate::metrics::ReachMetrics;
use crate::table::route::is_circuit;

/// Addresses of one relay that this node's record names.
const ADDRESSES_PER_RELAY_MAX: usize = 4;

/// The behaviours with which everybody is reached.
#[derive(NetworkBehaviour)]
pub(crate) struct Reach {
    relay: Toggle<relay::Behaviour>,
    relay_client: relay::client::Behaviour,
    dcutr: Toggle<dcutr::Behaviour>,
    observed: Observed,
    tester: Toggle<Tester>,
    /// Tries others' addresses; only where this node is in the open itself.
    tries: Toggle<Trials>,
}

impl Reach {
    pub(super) fn new(
        local: PeerId,
        client: relay::client::Behaviour,
        config: &NetConfig,
        door: &Arc<RelayDoor>,
    ) -> Self {
        // Behind a proxy nobody is told an address of this node.
        let in_the_clear = config.proxy.is_none();
        let in_the_open = config.listen.iter().chain(&config.external_addresses).any(|text| is_public(text));
        Self {
            relay: Toggle::from(config.relay.map(|_| door.behaviour(local, config.peers_max.saturating_mul(2)))),
            relay_client: client,
            dcutr: Toggle::from(in_the_clear.then(|| dcutr::Behaviour::new(local))),
            observed: Observed::default(),
            tester: Toggle::from(in_the_clear.then(|| Tester::new(door.clock()))),
            tries: Toggle::from((in_the_open && in_the_clear).then(|| Trials::new(door.clock()))),
        }
    }
}

/// Whether an address is one of the Internet.
fn is_public(text: &str) -> bool {
    text.parse().is_ok_and(|address| on_internet(&address))
}

/// Starts what keeps this node reachable.
pub(super) fn begin(shared: &Arc<NodeShared>) {
    match shared.streams.accept(records::RECORD) {
        Ok(acceptor) => drop(tokio::spawn(records::take_records(Arc::clone(shared), acceptor))),
        Err(error) => tracing::warn!(%error, "renewed records are not taken"),
    }
    tokio::spawn(keep::keep_reachable(Arc::clone(shared)));
    tokio::spawn(mapping::keep_mapped(Arc::clone(shared)));
    tokio::spawn(surroundings::watch(Arc::clone(shared)));
    tokio::spawn(surroundings::judge(Arc::clone(shared)));
}

/// What the handle, the tasks and the service share.
pub(crate) struct ReachShared {
    keeper: Mutex<RelayKeeper<PeerId>>,
    way: Mutex<WayIn<Multiaddr, PeerId>>,
    /// Whom this node has written to.
    contacted: Arc<Mutex<Contacted>>,
    /// Ports of the router that lead here.
    leases: tokio::sync::Mutex<mapping::Leases>,
    /// Their addresses.
    mapped: Mutex<BTreeSet<Multiaddr>>,
    /// Where relays that are not connected can be found.
    known: Mutex<BTreeMap<PeerId, Vec<Multiaddr>>>,
    /// The addresses of this node over its relays, as its record tells them.
    circuits: Mutex<Vec<String>>,
    pub(crate) door: Arc<RelayDoor>,
    metrics: ReachMetrics,
    wake: Notify,
    /// An address listened at came or went.
    moved: Notify,
    /// How often the network under this node has changed.
    changes: watch::Sender<u64>,
    /// How many addresses of this node peers have told it of.
    candidates: AtomicUsize,
}

impl ReachShared {
    pub(super) fn new(
        config: &NetConfig,
        door: Arc<RelayDoor>,
        contacted: Arc<Mutex<Contacted>>,
        metrics: ReachMetrics,
    ) -> Self {
        let named = config.external_addresses.iter().any(|text| is_public(text)) || config.relay.is_some();
        Self {
            keeper: Mutex::new(RelayKeeper::new(if config.proxy.is_none() { config.relays_wanted } else { 0 })),
            way: Mutex::new(WayIn::new(named)),
            contacted,
            leases: tokio::sync::Mutex::default(),
            mapped: Mutex::default(),
            known: Mutex::default(),
            circuits: Mutex::default(),
            door,
            metrics,
            wake: Notify::new(),
            moved: Notify::new(),
            changes: watch::Sender::new(0),
            candidates: AtomicUsize::new(0),
        }
    }

    /// This node's addresses over its relays.
    pub(crate) fn circuits(&self) -> Vec<String> {
        self.circuits.lock().clone()
    }

    /// The addresses that this node's record tells, of the widest class that there is: those it listens at, those that
    /// peers have connected to, and those over its relays.
    pub(crate) fn worth_telling(&self, mut listening: Vec<String>, now: UnixMs) -> Vec<String> {
        for confirmed in self.way.lock().confirmed(now.0) {
            let confirmed = without_name(&confirmed.to_string()).to_owned();
            if !listening.contains(&confirmed) {
                listening.push(confirmed);
            }
        }
        listening.extend(self.circuits());
        worth_telling(&listening)
    }

    fn event(&self, relay: &PeerId, event: RelayEvent, now_ms: u64) {
        self.event_quietly(relay, event, now_ms);
        self.wake.notify_one();
    }

    /// The same for what is no reason to look at once.
    fn event_quietly(&self, relay: &PeerId, event: RelayEvent, now_ms: u64) {
        self.keeper.lock().event(relay, event, now_ms);
    }

    /// Whether the connection to a peer carries circuits or a reservation, for either of the two.
    pub(crate) fn relays_with(&self, peer: &PeerId) -> bool {
        self.door.serves(peer) || self.keeper.lock().reserved().any(|relay| relay == peer)
    }
}

/// The way in to this node, as commands show it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReachReport {
    /// Whether others can connect to it.
    pub reachability: Reachability,
    /// The kind of NAT that STUN found; none where it was not asked or could not tell.
    pub nat: Option<NatKind>,
    /// Its addresses that a peer has connected to from outside.
    pub confirmed: Vec<String>,
    /// Its addresses at ports that the router maps to it.
    pub mapped: Vec<String>,
    /// The relays that it knows: PeerId, stage, and round-trip time in milliseconds where it was measured.
    pub relays: Vec<(String, RelayStage, Option<f64>)>,
    /// Its addresses over relays.
    pub circuits: Vec<String>,
    /// Reservations that it gives to others now.
    pub reservations_given: usize,
    /// Circuits that it carries for others now.
    pub circuits_carried: usize,
    /// How the places of its relay are used; none where it does not relay.
    pub relay: Option<RelayReport>,
    /// The TURN servers that are set.
    pub turn: Vec<ServerReport>,
}

impl NodeShared {
    /// The way in to this node.
    pub(crate) fn reach_report(&self) -> ReachReport {
        let now_ms = self.clock.now().0;
        let way = self.reach.way.lock();
        let of = |(peer, stage, us): (&PeerId, RelayStage, Option<u32>)| {
            (peer.to_string(), stage, us.map(|us| f64::from(us) / 1_000.0))
        };
        let (reservations_given, circuits_carried) = self.reach.door.carried();
        ReachReport {
            reachability: way.verdict(now_ms),
            nat: way.nat(),
            confirmed: way.confirmed(now_ms).iter().map(ToString::to_string).collect(),
            mapped: self.reach.mapped.lock().iter().map(ToString::to_string).collect(),
            relays: self.reach.keeper.lock().all().map(of).collect(),
            circuits: self.reach.circuits(),
            reservations_given,
            circuits_carried,
            relay: self.config.relay.map(|_| self.reach.door.report()),
            turn: self.turn.as_ref().map(TurnWay::report).unwrap_or_default(),
        }
    }
}

/// What the service's task holds.
#[derive(Default)]
pub(super) struct Reaching {
    reservations: HashMap<ListenerId, PeerId>,
}

impl Reaching {
    /// Asks a relay for a reservation.
    pub(super) fn reserve(&mut self, swarm: &mut Swarm<Behaviour>, shared: &NodeShared, relay: PeerId, at: Multiaddr) {
        // Its name has to stand in the address, whether or not it was dialled by it.
        let place: Multiaddr = at.iter().take_while(|part| !matches!(part, Part::P2p(_))).collect();
        match swarm.listen_on(place.with(Part::P2p(relay)).with(Part::P2pCircuit)) {
            Ok(listener) => drop(self.reservations.insert(listener, relay)),
            Err(error) => {
                tracing::debug!(%relay, %error, "no reservation asked for");
                shared.reach.event(&relay, RelayEvent::Failed, shared.clock.now().0);
            }
        }
    }

    /// Connects to a peer another way beside the one that there is.
    pub(super) fn look(swarm: &mut Swarm<Behaviour>, peer: PeerId, at: Multiaddr) {
        let options = DialOpts::peer_id(peer).addresses(vec![at]).condition(PeerCondition::Always).build();
        if let Err(error) = swarm.dial(options) {
            tracing::debug!(%peer, %error, "no second way is tried");
        }
    }

    /// Gives a relay its reservation back.
    pub(super) fn release(&mut self, swarm: &mut Swarm<Behaviour>, relay: PeerId) {
        let gone: Vec<ListenerId> =
            self.reservations.iter().filter(|(_, of)| **of == relay).map(|(listener, _)| *listener).collect();
        for listener in gone {
            self.reservations.remove(&listener);
            swarm.remove_listener(listener);
        }
    }

    /// A listener has a new address. `true` if it is one of a reservation or at a TURN server, which is none of this node's own:
    /// it is told as a circuit, or to nobody, because nobody gets in there uncalled.
    pub(super) fn listens(
        &self,
        swarm: &mut Swarm<Behaviour>,
        shared: &NodeShared,
        listener: ListenerId,
        address: &Multiaddr,
    ) -> bool {
        let at_turn = shared.turn.as_ref().is_some_and(|turn| turn.is_at(address));
        if self.reservations.contains_key(&listener) || is_circuit(address) || at_turn {
            return true;
        }
        if on_internet(address) {
            Self::candidate(swarm, address);
        }
        shared.reach.moved.notify_one();
        if shared.config.relay.is_some() {
            // A relay names its addresses in every reservation, and must have one.
            swarm.add_external_address(address.clone());
        }
        false
    }

    /// An address listened at is gone: nobody gets in there, and a relay had told it to everybody.
    pub(super) fn unlistens(swarm: &mut Swarm<Behaviour>, shared: &NodeShared, address: &Multiaddr) {
        swarm.remove_external_address(address);
        let ip = direct_ip(address);
        shared.reach.way.lock().gone(|known| ip.is_some() && direct_ip(known) == ip);
        shared.reach.moved.notify_one();
        shared.reach.wake.notify_one();
    }

    /// The network under this node is another one: what may be a way in is tried again, whatever came of it before.
    pub(super) fn probe(swarm: &mut Swarm<Behaviour>, shared: &NodeShared, places: &[Multiaddr]) {
        if let Some(tester) = swarm.behaviour_mut().reach.tester.as_mut() {
            tester.begin_anew();
        }
        for place in places {
            // The swarm tells of no candidate that it holds for confirmed. A relay names its addresses whatever is tried.
            if shared.config.relay.is_none() {
                swarm.remove_external_address(place);
            }
            Self::candidate(swarm, place);
        }
    }

    /// This node may be reachable at an address: peers are asked to try it.
    pub(super) fn candidate(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) {
        swarm.behaviour_mut().reach.observed.push(address.clone());
    }

    /// A listener ended. A reservation that ends before it was given back is lost.
    pub(super) fn listener_closed(
        &mut self,
        shared: &NodeShared,
        listener: ListenerId,
        reason: &Result<(), std::io::Error>,
    ) {
        let Some(relay) = self.reservations.remove(&listener) else { return };
        tracing::info!(%relay, ?reason, "the reservation at a relay is gone");
        shared.relay_conduct(&relay, Conduct::RelayFailed);
        shared.reach.event(&relay, RelayEvent::Failed, shared.clock.now().0);
    }

    /// A peer said at which address it sees this node.
    pub(super) fn observed(
        swarm: &mut Swarm<Behaviour>,
        shared: &NodeShared,
        connection: ConnectionId,
        info: &identify::Info,
    ) {
        // Whoever connects to this node is not believed: it could tell anything at no cost. What a peer sees of a turned
        // connection is the server's address.
        if !shared.table.lock().is_dialled_direct(connection) {
            return;
        }
        shared.reach.way.lock().seen(&info.observed_addr, shared.clock.now().0);
        let listening = shared.listening.lock().clone();
        for candidate in candidates(&info.observed_addr, &listening) {
            Self::candidate(swarm, &candidate);
        }
        shared.reach.candidates.store(swarm.behaviour().reach.observed.told(), Ordering::Relaxed);
    }

    /// Something happened in the behaviours.
    pub(super) fn event(&mut self, swarm: &mut Swarm<Behaviour>, shared: &NodeShared, event: ReachEvent) {
        match event {
            ReachEvent::Relay(event) => shared.reach.door.event(|peer| swarm.is_connected(peer), &event),
            ReachEvent::RelayClient(event) => self.client_event(swarm, shared, &event),
            ReachEvent::Dcutr(dcutr::Event { remote_peer_id, result }) => {
                let metrics = &shared.reach.metrics;
                match result {
                    Ok(_) => metrics.punched.inc(),
                    Err(error) => {
                        tracing::debug!(peer = %remote_peer_id, %error, "no hole punched");
                        metrics.punch_failed.inc()
                    }
                };
            }
            // Over a relay others get in anywhere; that says nothing about this node.
            ReachEvent::Tester(event) if is_circuit(&event.tested_addr) => {}
            // And at a TURN server only who is called.
            ReachEvent::Tester(event) if shared.turn.as_ref().is_some_and(|turn| turn.is_at(&event.tested_addr)) => {}
            ReachEvent::Tester(event) => {
                let reached = event.result.is_ok();
                tracing::debug!(address = %event.tested_addr, reached, "a peer tried an address of this node");
                let ip = direct_ip(&event.tested_addr);
                let own = shared.listening.lock().iter().any(|at| ip.is_some() && direct_ip(at) == ip)
                    || shared.reach.mapped.lock().contains(&event.tested_addr);
                let now_ms = shared.clock.now().0;
                shared.reach.way.lock().tried(event.tested_addr, event.server, own, reached, now_ms);
                shared.reach.wake.notify_one();
            }
            ReachEvent::Observed(never) => match never {},
            ReachEvent::Tries(_) => {}
        }
    }

    fn client_event(&mut self, swarm: &mut Swarm<Behaviour>, shared: &NodeShared, event: &relay::client::Event) {
        match event {
            relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. } => {
                tracing::info!(relay = %relay_peer_id, renewal, "a relay holds a reservation for this node");
                shared.reach.event(relay_peer_id, RelayEvent::Reserved, shared.clock.now().0);
                let wanted = shared.reach.keeper.lock().reserved().any(|relay| relay == relay_peer_id);
                if !wanted {
                    // It came after this node had given up or found that it needs none.
                    self.release(swarm, *relay_peer_id);
                }
            }
            relay::client::Event::OutboundCircuitEstablished { relay_peer_id, .. } => {
                shared.reach.metrics.circuits_used.inc();
                shared.relay_conduct(relay_peer_id, Conduct::Relayed);
            }
            relay::client::Event::InboundCircuitEstablished { .. } => drop(shared.reach.metrics.circuits_used.inc()),
        }
    }
}

impl NodeShared {
    /// Peers that stay connected however idle, because circuits or reservations hang on them.
    pub(super) fn relays_kept(&self) -> Vec<NodeId> {
        let mut peers = self.reach.door.served();
        peers.extend(self.reach.keeper.lock().reserved());
        let table = self.table.lock();
        peers.extend(table.relays_in_use());
        peers.iter().filter_map(|peer| table.pinned(peer)).collect()
    }

    /// A relay did what it is there for, or not.
    fn relay_conduct(&self, relay: &PeerId, conduct: Conduct) {
        let node = self.table.lock().pinned(relay);
        if let Some(node) = node {
            self.report(node, conduct);
        }
    }
}
