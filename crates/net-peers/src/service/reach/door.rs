//! The relay of this node: its budget, its gate, and what it carries (NET-42).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libp2p::core::Multiaddr;
use libp2p::{PeerId, relay};
use parking_lot::Mutex;
use trellis_net_reach::relay::budget::{RelayBudget, RelayProfile};
use trellis_net_reach::relay::gate::{RelayGate, RelayRefusal, Standing};
use trellis_net_transport::direct_ip;
use trellis_primitives::{NodeId, SharedClock};

use crate::config::{NetConfig, Policy};
use crate::guard::{Guard, NEUTRAL};
use crate::metrics::ReachMetrics;
use crate::service::NodeShared;
use crate::service::defence::public;

/// The door of the relay: it knows who shook hands, what the guard thinks of them, and what each holds.
pub(crate) struct RelayDoor {
    gate: Mutex<RelayGate<PeerId>>,
    guard: Arc<Guard>,
    clock: SharedClock,
    private_exempt: bool,
    /// Under the policy `prefer` peers of other software, which shake no hands, may use the relay too.
    strangers: bool,
    /// Peers whose handshake stands.
    known: Mutex<HashMap<PeerId, NodeId>>,
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
        let (private_exempt, strangers) = (config.limits.private_exempt, config.policy == Policy::Prefer);
        let gate = Mutex::new(RelayGate::new(guard.thresholds().relay));
        let (known, carried) = (Mutex::default(), Mutex::default());
        let refused = AtomicU32::new(0);
        Arc::new(Self { gate, guard, clock, private_exempt, strangers, known, carried, refused, metrics })
    }

    /// libp2p's relay with this node's budget, asking here about everybody.
    pub(super) fn behaviour(self: &Arc<Self>, local: PeerId, profile: RelayProfile) -> relay::Behaviour {
        let budget = RelayBudget::of(profile);
        let reserve = {
            let door = Arc::clone(self);
            move |peer: PeerId, address: &Multiaddr, _: Instant| door.lets(peer, address, RelayGate::reserve)
        };
        let connect = {
            let door = Arc::clone(self);
            move |peer: PeerId, address: &Multiaddr, _: Instant| door.lets(peer, address, RelayGate::connect)
        };
        let config = relay::Config {
            max_reservations: budget.reservations_max,
            max_reservations_per_peer: budget.reservations_per_peer_max,
            reservation_duration: Duration::from_millis(budget.reservation_ms),
            reservation_rate_limiters: vec![Box::new(reserve)],
            max_circuits: budget.circuits_max,
            max_circuits_per_peer: budget.circuits_per_peer_max,
            max_circuit_duration: Duration::from_millis(budget.circuit_ms_max),
            max_circuit_bytes: budget.circuit_bytes_max,
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

    fn lets(
        &self,
        peer: PeerId,
        address: &Multiaddr,
        ask: fn(&mut RelayGate<PeerId>, &PeerId, Standing, u64) -> Result<(), RelayRefusal>,
    ) -> bool {
        let node = self.known.lock().get(&peer).copied();
        let exempted = |ip: IpAddr| public(ip, self.private_exempt);
        let score = node.map(|node| self.guard.score(node)).or(self.strangers.then_some(NEUTRAL));
        let standing = Standing { score, ip: direct_ip(address).and_then(exempted) };
        match ask(&mut self.gate.lock(), &peer, standing, self.clock.now().0) {
            Ok(()) => true,
            Err(refusal) => {
                tracing::debug!(%peer, reason = refusal.name(), "the relay refuses");
                self.metrics.count_refusal(refusal);
                self.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// A peer's handshake stands.
    pub(crate) fn greeted(&self, peer: PeerId, node: NodeId) {
        self.known.lock().insert(peer, node);
    }

    /// The last connection to a peer is gone.
    pub(crate) fn parted(&self, node: NodeId) {
        self.known.lock().retain(|_, known| *known != node);
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

    /// Something happened in libp2p's relay.
    pub(super) fn event(&self, shared: &NodeShared, event: &relay::Event) {
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
                let connected = shared.table.lock().connected_by_peer_id(src_peer_id).is_some();
                less(&mut carried.reservations, src_peer_id, !connected);
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
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.reservations.set(gauge(carried.reservations.len()));
        self.metrics.circuits.set(gauge(carried.circuits_count));
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

fn less(counts: &mut HashMap<PeerId, u32>, peer: &PeerId, all: bool) {
    let Some(count) = counts.get_mut(peer) else { return };
    *count = if all { 0 } else { count.saturating_sub(1) };
    if *count == 0 {
        counts.remove(peer);
    }
}
