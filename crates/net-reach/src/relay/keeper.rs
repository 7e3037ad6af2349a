//! The relays of a node that others cannot reach: found, reserved, kept, changed for nearer ones, and replaced when they die.
//!
//! ```text
//!  told ──▶ Known ──Connect──▶ Connecting ──▶ Connected ──Reserve──▶ Reserving ──▶ Reserved
//!             ▲                    │              │                      │            │
//!             └──── backoff ◀── Resting ◀─────────┴──────────────────────┴────────────┘ failed or lost
//! ```
//! Times are milliseconds of any clock that does not go back. Keys of relays are the caller's.

use std::collections::BTreeMap;

use serde::Serialize;

/// Relays with a reservation, unless the caller wants another number.
pub const RELAYS_WANTED: usize = 2;
/// Relays that are known at once; beyond it the idle one that failed most is forgotten, if any did.
pub const RELAYS_KNOWN_MAX: usize = 64;
/// Connections to relays at once, those with a reservation included: so many are compared by their latency.
pub const RELAYS_CONNECTED_MAX: usize = 4;
/// A connection that does not stand after this long has failed.
pub const CONNECT_MS_MAX: u64 = 12_000;
/// A reservation that is not granted after this long has failed.
pub const RESERVE_MS_MAX: u64 = 8_000;
/// After the first failure a relay rests this long; it doubles with each further one.
pub const REST_MS_FIRST: u64 = 1_000;
/// The longest rest.
pub const REST_MS_MAX: u64 = 5 * 60 * 1_000;
/// A relay is changed for another only if that one is nearer by this much, microseconds, and by half.
pub const NEARER_BY_US: u32 = 10_000;
/// Between two changes for a nearer one.
pub const CHANGE_EVERY_MS: u64 = 60_000;

/// What happened to a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelayEvent {
    /// A direct connection to it stands.
    Connected,
    /// Its round-trip time was measured.
    Latency {
        /// Microseconds.
        us: u32,
    },
    /// It granted or renewed the reservation.
    Reserved,
    /// It could not be reached, refused, or took the reservation back.
    Failed,
    /// The connection to it is gone.
    Lost,
}

/// What the caller is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RelayAction<K> {
    /// Connect to it.
    Connect(K),
    /// Ask it for a reservation.
    Reserve(K),
    /// Give the reservation back; the connection may stay.
    Release(K),
}

/// How far it is with a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayStage {
    /// Its addresses are known.
    Known,
    /// It is being dialled.
    Connecting,
    /// It is connected.
    Connected,
    /// It was asked for a reservation.
    Reserving,
    /// It relays for this node.
    Reserved,
    /// It failed and is left alone for a while.
    Resting,
}

#[derive(Clone, Debug)]
struct Relay {
    stage: RelayStage,
    since_ms: u64,
    /// The end of the rest.
    until_ms: u64,
    failures: u32,
    latency_us: Option<u32>,
    /// It says that it is where this node is.
    near: bool,
}

/// The relays of one node.
#[derive(Clone, Debug)]
pub struct RelayKeeper<K> {
    relays: BTreeMap<K, Relay>,
    wanted: usize,
    changed_ms: Option<u64>,
}

impl<K: Ord + Clone> RelayKeeper<K> {
    /// A keeper that holds `wanted` reservations for as long as they are needed.
    #[must_use]
    pub const fn new(wanted: usize) -> Self {
        Self { relays: BTreeMap::new(), wanted, changed_ms: None }
    }

    /// Somebody told of a relay; `near` if it says that it is in this node's region. Where all places are taken, only one
    /// that failed makes room: whoever makes up a great many relays pushes no good one out.
    pub fn told(&mut self, relay: &K, near: bool, now_ms: u64) {
        self.know(relay, near, |idle| idle.failures > 0, now_ms);
    }

    /// A relay is connected: it gets a place before those that were only told of.
    pub fn met(&mut self, relay: &K, near: bool, now_ms: u64) {
        self.know(relay, near, |_| true, now_ms);
    }

    fn know(&mut self, relay: &K, near: bool, gives_way: impl Fn(&Relay) -> bool, now_ms: u64) {
        if let Some(known) = self.relays.get_mut(relay) {
            known.near = near;
            return;
        }
        if self.relays.len() >= RELAYS_KNOWN_MAX && !self.forget_worst(gives_way) {
            return;
        }
        let (stage, since_ms) = (RelayStage::Known, now_ms);
        self.relays.insert(relay.clone(), Relay { stage, since_ms, until_ms: 0, failures: 0, latency_us: None, near });
    }

    /// Makes room by forgetting, of the idle relays that give way, the one that failed most.
    fn forget_worst(&mut self, gives_way: impl Fn(&Relay) -> bool) -> bool {
        let idle = |relay: &Relay| matches!(relay.stage, RelayStage::Known | RelayStage::Resting) && gives_way(relay);
        let worst = self.relays.iter().filter(|(_, relay)| idle(relay)).max_by_key(|(_, relay)| relay.failures);
        let worst = worst.map(|(key, _)| key.clone());
        worst.is_some_and(|worst| self.relays.remove(&worst).is_some())
    }

    /// Something happened to a relay; one that nobody told of is ignored.
    pub fn event(&mut self, relay: &K, event: RelayEvent, now_ms: u64) {
        use RelayStage::{Connected, Connecting, Known, Reserved, Reserving, Resting};
        let Some(known) = self.relays.get_mut(relay) else { return };
        let stage = match (event, known.stage) {
            (RelayEvent::Latency { us }, _) => {
                known.latency_us = Some(us);
                return;
            }
            (RelayEvent::Connected, Known | Connecting) => Connected,
            // A relay that rests because it refused is connected all the same; the rest goes on.
            (RelayEvent::Connected, Resting | Connected | Reserving | Reserved) => return,
            (RelayEvent::Reserved, Reserving) => {
                known.failures = 0;
                Reserved
            }
            // Granted after it was given back or given up.
            (RelayEvent::Reserved, _) => return,
            (RelayEvent::Lost, Resting) => return,
            (RelayEvent::Lost, Known | Connected) => Known,
            (RelayEvent::Failed, Known | Resting) => return,
            (RelayEvent::Failed | RelayEvent::Lost, Connecting | Reserving | Reserved)
            | (RelayEvent::Failed, Connected) => {
                known.rest(now_ms);
                return;
            }
        };
        if known.stage != stage {
            (known.stage, known.since_ms) = (stage, now_ms);
        }
    }

    /// Lets time pass. `needed`: this node cannot be reached without relays.
    pub fn step(&mut self, needed: bool, now_ms: u64) -> Vec<RelayAction<K>> {
        for relay in self.relays.values_mut() {
            relay.pass(now_ms);
        }
        if !needed {
            return self.release_all(now_ms);
        }
        let mut actions = Vec::new();
        self.reserve(now_ms, &mut actions);
        self.connect(now_ms, &mut actions);
        self.change(now_ms, &mut actions);
        actions
    }

    /// Asks the best connected relays for as many reservations as are missing.
    fn reserve(&mut self, now_ms: u64, actions: &mut Vec<RelayAction<K>>) {
        while self.held() < self.wanted {
            let Some(best) = self.best(RelayStage::Connected) else { return };
            self.set(&best, RelayStage::Reserving, now_ms);
            actions.push(RelayAction::Reserve(best));
        }
    }

    /// Connects to relays for as long as more could be compared.
    fn connect(&mut self, now_ms: u64, actions: &mut Vec<RelayAction<K>>) {
        let standing = |relay: &&Relay| !matches!(relay.stage, RelayStage::Known | RelayStage::Resting);
        while self.relays.values().filter(standing).count() < RELAYS_CONNECTED_MAX.max(self.wanted) {
            let Some(best) = self.best(RelayStage::Known) else { return };
            self.set(&best, RelayStage::Connecting, now_ms);
            actions.push(RelayAction::Connect(best));
        }
    }

    /// Changes the farthest relay for one that is much nearer: the new one first, the old one once that stands.
    fn change(&mut self, now_ms: u64, actions: &mut Vec<RelayAction<K>>) {
        let reserved = self.count(RelayStage::Reserved);
        if reserved > self.wanted {
            for _ in self.wanted..reserved {
                let Some(worst) = self.worst_reserved() else { return };
                self.set(&worst, RelayStage::Connected, now_ms);
                actions.push(RelayAction::Release(worst));
            }
            return;
        }
        let lately = self.changed_ms.is_some_and(|at| now_ms.saturating_sub(at) < CHANGE_EVERY_MS);
        if lately || reserved < self.wanted || self.held() > self.wanted {
            return;
        }
        let latency = |keeper: &Self, key: &K| keeper.relays.get(key).and_then(|relay| relay.latency_us);
        let (Some(worst), Some(best)) = (self.worst_reserved(), self.best(RelayStage::Connected)) else { return };
        let (Some(far), Some(near)) = (latency(self, &worst), latency(self, &best)) else { return };
        if near <= far / 2 && far - near >= NEARER_BY_US {
            self.changed_ms = Some(now_ms);
            self.set(&best, RelayStage::Reserving, now_ms);
            actions.push(RelayAction::Reserve(best));
        }
    }

    fn release_all(&mut self, now_ms: u64) -> Vec<RelayAction<K>> {
        // One that is being asked for is given back once it is granted.
        let held: Vec<K> = self.reserved().cloned().collect();
        for key in &held {
            self.set(key, RelayStage::Connected, now_ms);
        }
        held.into_iter().map(RelayAction::Release).collect()
    }

    fn set(&mut self, key: &K, stage: RelayStage, now_ms: u64) {
        if let Some(relay) = self.relays.get_mut(key) {
            (relay.stage, relay.since_ms) = (stage, now_ms);
        }
    }

    fn count(&self, stage: RelayStage) -> usize {
        self.relays.values().filter(|relay| relay.stage == stage).count()
    }

    /// Reservations that stand or are being asked for.
    fn held(&self) -> usize {
        self.count(RelayStage::Reserved) + self.count(RelayStage::Reserving)
    }

    /// The relay of a stage that is to be taken first.
    fn best(&self, stage: RelayStage) -> Option<K> {
        let of_stage = self.relays.iter().filter(|(_, relay)| relay.stage == stage);
        of_stage.min_by_key(|(_, relay)| relay.rank()).map(|(key, _)| key.clone())
    }

    fn worst_reserved(&self) -> Option<K> {
        let reserved = self.relays.iter().filter(|(_, relay)| relay.stage == RelayStage::Reserved);
        reserved.max_by_key(|(_, relay)| relay.rank()).map(|(key, _)| key.clone())
    }

    /// The relays that hold a reservation for this node.
    pub fn reserved(&self) -> impl Iterator<Item = &K> {
        self.relays.iter().filter(|(_, relay)| relay.stage == RelayStage::Reserved).map(|(key, _)| key)
    }

    /// Every relay with its stage and its latency in microseconds, where it was measured.
    pub fn all(&self) -> impl Iterator<Item = (&K, RelayStage, Option<u32>)> {
        self.relays.iter().map(|(key, relay)| (key, relay.stage, relay.latency_us))
    }
}

impl Relay {
    /// Measured ones before those of this region, those before the rest, then by failures.
    fn rank(&self) -> (u32, u32, bool) {
        // Who is not measured counts as far as a relay on another continent, or as a near one if it says so.
        let assumed_us = if self.near { 50_000 } else { 150_000 };
        (self.failures, self.latency_us.unwrap_or(assumed_us), !self.near)
    }

    fn rest(&mut self, now_ms: u64) {
        let rest_ms = REST_MS_FIRST.checked_shl(self.failures).unwrap_or(REST_MS_MAX).min(REST_MS_MAX);
        self.failures = self.failures.saturating_add(1).min(32);
        (self.stage, self.since_ms) = (RelayStage::Resting, now_ms);
        self.until_ms = now_ms.saturating_add(rest_ms);
    }

    fn pass(&mut self, now_ms: u64) {
        let waited_ms = now_ms.saturating_sub(self.since_ms);
        match self.stage {
            RelayStage::Connecting if waited_ms >= CONNECT_MS_MAX => self.rest(now_ms),
            RelayStage::Reserving if waited_ms >= RESERVE_MS_MAX => self.rest(now_ms),
            RelayStage::Resting if now_ms >= self.until_ms => {
                (self.stage, self.since_ms) = (RelayStage::Known, now_ms);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
