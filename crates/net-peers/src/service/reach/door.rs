//! The relay of this node: its budget, its gate, and what it carries, for whom and on whose stake (NET-42).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libp2p::core::Multiaddr;
use libp2p::{PeerId, relay};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use trellis_net_reach::relay::budget::{RelayBudget, STAKED_RESERVATIONS_PER_ACCOUNT_MAX};
use trellis_net_reach::relay::gate::{RelayGate, RelayRefusal, Standing};
use trellis_net_reach::relay::places::{Places, PlacesReport};
use trellis_net_transport::direct_ip;
use trellis_primitives::{Address, NodeId, SharedClock};

use super::desk::{Ask, CircuitDesk};
use crate::config::{NetConfig, Policy};
use crate::guard::{Guard, NEUTRAL};
use crate::metrics::ReachMetrics;
use crate::service::defence::public;
use crate::stake::{STAKE_ANSWER_MS_MAX, StakeMemory, StakeSource};

/// A reservation has its place for this much longer than it holds, milliseconds: it begins when its answer has been sent.
const RESERVATION_MARGIN_MS: u64 = 60_000;

/// How the places of this node's relay are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RelayReport {
    /// Peers with a reservation.
    pub reservations: PlacesReport,
    /// Circuits.
    pub circuits: PlacesReport,
}

/// Who a connected peer is.
#[derive(Clone, Copy)]
struct Greeted {
    node: NodeId,
    /// The chain address of its record.
    account: Address,
}

/// The door of the relay: it knows who shook hands, what the guard thinks of them, what stake they have, and what each holds.
pub(crate) struct RelayDoor {
    budget: RelayBudget,
    gate: Mutex<RelayGate<PeerId>>,
    guard: Arc<Guard>,
    clock: SharedClock,
    private_exempt: bool,
    /// Under the policy `prefer` peers of other software, which shake no hands, may use the relay too.
    strangers: bool,
    /// Peers whose handshake stands.
    known: Mutex<HashMap<PeerId, Greeted>>,
    /// Who has a reservation.
    reservations: Mutex<Places<PeerId, Address>>,
    circuits: Arc<CircuitDesk>,
    /// Where stake is known; none where this node does not relay or has no chain.
    stakes: Option<StakeSource>,
    remembered: Mutex<StakeMemory>,
    carried: Mutex<Carried>,
    /// Refusals of the gate that libp2p's relay has yet to report; what it reports beyond them it refused by its counts.
    refused: AtomicU32,
    metrics: ReachMetrics,
}

/// What the relay holds for whom.
#[derive(Default)]
struct Carried {
    reservations: HashMap<PeerId, u32>,
    circuits: HashMap<PeerId, u32>,
    circuits_count: usize,
}

impl RelayDoor {
    pub(crate) fn new(guard: Arc<Guard>, clock: SharedClock, config: &NetConfig, metrics: ReachMetrics) -> Arc<Self> {
        let profile = config.relay.unwrap_or_default();
        let budget = config.relay_budget.unwrap_or_else(|| RelayBudget::of(profile));
        let places = Places::new(budget.reservations_max, STAKED_RESERVATIONS_PER_ACCOUNT_MAX);
        let door = Self {
            budget,
            gate: Mutex::new(RelayGate::new(guard.thresholds().relay)),
            guard,
            clock,
            private_exempt: config.limits.private_exempt,
            strangers: config.policy == Policy::Prefer,
            known: Mutex::default(),
            reservations: Mutex::new(places),
            circuits: CircuitDesk::new(budget, metrics.circuits_cut.clone()),
            stakes: config.stakes.clone().filter(|_| config.relay.is_some()),
            remembered: Mutex::default(),
            carried: Mutex::default(),
            refused: AtomicU32::new(0),
            metrics,
        };
        if config.relay.is_some() {
            door.show();
        }
        Arc::new(door)
    }

    /// libp2p's relay with this node's budget, asking here about everybody. How many reservations and circuits there are is
    /// counted here, where stake is known; libp2p's own bounds stand behind, where the connections and the streams end. What
    /// it tells peers of a circuit's budget is the larger one.
    pub(super) fn behaviour(self: &Arc<Self>, local: PeerId, connections_max: u32) -> relay::Behaviour {
        let budget = self.budget;
        let reserve = {
            let door = Arc::clone(self);
            move |peer: PeerId, address: &Multiaddr, _: Instant| door.lets_reserve(peer, address)
        };
        let connect = {
            let door = Arc::clone(self);
            move |peer: PeerId, address: &Multiaddr, _: Instant| door.lets_connect(peer, address)
        };
        let config = relay::Config {
            max_reservations: usize::try_from(connections_max).unwrap_or(usize::MAX).max(budget.reservations_max),
            max_reservations_per_peer: budget.reservations_per_peer_max,
            reservation_duration: Duration::from_millis(budget.reservation_ms),
            reservation_rate_limiters: vec![Box::new(reserve)],
            max_circuits: budget.circuits_max.saturating_mul(2),
            max_circuits_per_peer: budget.circuits_per_peer_max,
            max_circuit_duration: Duration::from_millis(budget.staked_circuit.ms_max),
            max_circuit_bytes: budget.staked_circuit.bytes_max,
            circuit_src_rate_limiters: vec![Box::new(connect)],
        };
        let mut behaviour = relay::Behaviour::new(local, config);
        behaviour.set_status(Some(relay::Status::Enable));
        behaviour
    }

    /// The clock by which peers are given their allowances.
    pub(super) fn clock(&self) -> SharedClock {
        Arc::clone(&self.clock)
    }

    /// The counter of what passes.
    pub(super) fn bytes(&self) -> Counter {
        self.metrics.relayed_bytes.clone()
    }

    fn lets_reserve(self: &Arc<Self>, peer: PeerId, address: &Multiaddr) -> bool {
        let (now_ms, standing) = (self.clock.now().0, self.standing(&peer, address));
        let passed = self.gate.lock().reserve(&peer, standing, now_ms).and_then(|()| {
            let account = self.account_behind(&peer);
            let until_ms = now_ms.saturating_add(self.budget.reservation_ms).saturating_add(RESERVATION_MARGIN_MS);
            self.reservations.lock().take(&peer, account.as_ref(), now_ms, until_ms)
        });
        self.answer(peer, passed)
    }

    fn lets_connect(&self, peer: PeerId, address: &Multiaddr) -> bool {
        let (now_ms, standing) = (self.clock.now().0, self.standing(&peer, address));
        // The desk's question is answered in any case: it is about the stream that waits.
        let seen = self.circuits.decide(&peer);
        let passed = self.gate.lock().connect(&peer, standing, now_ms).and(seen);
        self.answer(peer, passed)
    }

    fn standing(&self, peer: &PeerId, address: &Multiaddr) -> Standing {
        let node = self.known.lock().get(peer).map(|greeted| greeted.node);
        let exempted = |ip: IpAddr| public(ip, self.private_exempt);
        let score = node.map(|node| self.guard.score(node)).or(self.strangers.then_some(NEUTRAL));
        Standing { score, ip: direct_ip(address).and_then(exempted) }
    }

    fn answer(&self, peer: PeerId, passed: Result<(), RelayRefusal>) -> bool {
        let Err(refusal) = passed else { return true };
        tracing::debug!(%peer, reason = refusal.name(), "the relay refuses");
        self.metrics.count_refusal(refusal);
        self.refused.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// A peer asks on a stream for a circuit to another. It counts as one with stake if either of them has some: whoever is
    /// called over a relay needs its callers to get through.
    pub(super) fn asked(self: &Arc<Self>, from: PeerId, to: PeerId) -> Ask {
        let account = self.account_behind(&from).or_else(|| self.account_behind(&to));
        self.circuits.asked(from, account)
    }

    /// The account whose stake is known to be behind a peer. The chain is asked beside it, where that is due.
    fn account_behind(self: &Arc<Self>, peer: &PeerId) -> Option<Address> {
        let source = self.stakes.as_ref()?;
        let Greeted { node, account } = self.known.lock().get(peer).copied()?;
        let looked = self.remembered.lock().look(node, account, self.clock.now());
        if looked.ask {
            self.ask_chain(source, *peer, Greeted { node, account });
        }
        looked.staked.then_some(account)
    }

    fn ask_chain(self: &Arc<Self>, source: &StakeSource, peer: PeerId, Greeted { node, account }: Greeted) {
        let (door, view) = (Arc::clone(self), Arc::clone(&source.0));
        tokio::spawn(async move {
            let limit = Duration::from_millis(STAKE_ANSWER_MS_MAX);
            let answer = match tokio::time::timeout(limit, view.stake(account, node)).await {
                Ok(Ok(wei)) => Some(wei),
                Ok(Err(error)) => {
                    tracing::debug!(%node, %account, %error, "no stake known");
                    None
                }
                Err(_) => {
                    tracing::debug!(%node, %account, limit_ms = STAKE_ANSWER_MS_MAX, "the chain tells no stake in time");
                    None
                }
            };
            if answer.is_none() {
                door.metrics.stake_unanswered.inc();
            }
            if door.remembered.lock().answered(node, account, answer, door.clock.now()) {
                door.reservations.lock().stake_known(&peer, &account);
                door.show();
            }
        });
    }

    /// A peer's handshake stands. Its stake is asked for at once, so that it is known when the peer needs a place.
    pub(crate) fn greeted(self: &Arc<Self>, peer: PeerId, node: NodeId, account: Address) {
        self.known.lock().insert(peer, Greeted { node, account });
        self.account_behind(&peer);
    }

    /// The last connection to a peer is gone.
    pub(crate) fn parted(&self, node: NodeId) {
        self.known.lock().retain(|_, known| known.node != node);
    }

    /// Whether this relay holds a reservation or carries a circuit of a peer.
    pub(super) fn serves(&self, peer: &PeerId) -> bool {
        let carried = self.carried.lock();
        carried.reservations.contains_key(peer) || carried.circuits.contains_key(peer)
    }

    /// Peers with a reservation or a circuit here.
    pub(super) fn served(&self) -> Vec<PeerId> {
        let carried = self.carried.lock();
        carried.reservations.keys().chain(carried.circuits.keys()).copied().collect()
    }

    /// Reservations and circuits now.
    pub(super) fn carried(&self) -> (usize, usize) {
        let carried = self.carried.lock();
        (carried.reservations.len(), carried.circuits_count)
    }

    /// How the places are used.
    pub(super) fn report(&self) -> RelayReport {
        let mut reservations = self.reservations.lock();
        reservations.expire(self.clock.now().0);
        RelayReport { reservations: reservations.report(), circuits: self.circuits.report() }
    }

    /// Something happened in libp2p's relay; `is_connected` says to whom there is a connection of any kind.
    pub(super) fn event(&self, is_connected: impl Fn(&PeerId) -> bool, event: &relay::Event) {
        let mut carried = self.carried.lock();
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, renewed } => {
                if !renewed {
                    *carried.reservations.entry(*src_peer_id).or_default() += 1;
                }
                self.metrics.reservations_granted.inc();
            }
            relay::Event::ReservationClosed { src_peer_id } => {
                // Said of every connection that ends, also of one without a reservation: the last one settles it.
                let connected = is_connected(src_peer_id);
                less(&mut carried.reservations, src_peer_id, !connected);
                if !connected {
                    self.reservations.lock().free(src_peer_id);
                }
            }
            relay::Event::ReservationTimedOut { src_peer_id } => less(&mut carried.reservations, src_peer_id, false),
            relay::Event::ReservationReqDenied { status, .. } | relay::Event::CircuitReqDenied { status, .. } => {
                if let Some(refusal) = self.refusal_of(status) {
                    self.metrics.count_refusal(refusal);
                }
            }
            relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id } => {
                for peer in [src_peer_id, dst_peer_id] {
                    *carried.circuits.entry(*peer).or_default() += 1;
                }
                carried.circuits_count += 1;
                self.metrics.circuits_opened.inc();
            }
            relay::Event::CircuitClosed { src_peer_id, dst_peer_id, .. } => {
                for peer in [src_peer_id, dst_peer_id] {
                    less(&mut carried.circuits, peer, false);
                }
                carried.circuits_count = carried.circuits_count.saturating_sub(1);
            }
            _ => {}
        }
        self.metrics.reservations.set(gauge(carried.reservations.len()));
        self.metrics.circuits.set(gauge(carried.circuits_count));
        drop(carried);
        self.show();
    }

    /// Shows how the places are used.
    fn show(&self) {
        let report = self.report();
        self.metrics.show_places("reservations", &report.reservations);
        self.metrics.show_places("circuits", &report.circuits);
    }
}

impl RelayDoor {
    /// What libp2p's relay refused by its own counts; `None` for what the gate refused, which is counted there.
    fn refusal_of(&self, status: &relay::StatusCode) -> Option<RelayRefusal> {
        match status {
            relay::StatusCode::NoReservation => Some(RelayRefusal::NoReservation),
            relay::StatusCode::ConnectionFailed => Some(RelayRefusal::Unanswered),
            relay::StatusCode::ResourceLimitExceeded => {
                let one_less = |waiting: u32| waiting.checked_sub(1);
                let by_gate = self.refused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
                by_gate.is_err().then_some(RelayRefusal::Full)
            }
            _ => None,
        }
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn less(counts: &mut HashMap<PeerId, u32>, peer: &PeerId, all: bool) {
    let Some(count) = counts.get_mut(peer) else { return };
    *count = if all { 0 } else { count.saturating_sub(1) };
    if *count == 0 {
        counts.remove(peer);
    }
}
