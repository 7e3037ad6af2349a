//! Who may use a relay: peers whose handshake stands, with a score, at a bounded rate for each peer and address.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Peers and addresses that are counted at once; beyond it those whose allowance is full again are forgotten first.
pub const COUNTED_MAX: usize = 16_384;
/// Reservations that one peer may ask for at once, renewals included.
pub const PEER_RESERVATIONS_BURST: u32 = 16;
/// One more for it after so many milliseconds.
pub const PEER_RESERVATION_EVERY_MS: u64 = 60_000;
/// Reservations that one address may ask for at once: many homes can stand behind one.
pub const IP_RESERVATIONS_BURST: u32 = 128;
/// One more for it after so many milliseconds.
pub const IP_RESERVATION_EVERY_MS: u64 = 5_000;
/// Circuits that one peer may begin at once.
pub const PEER_CIRCUITS_BURST: u32 = 128;
/// One more for it after so many milliseconds.
pub const PEER_CIRCUIT_EVERY_MS: u64 = 1_000;
/// Circuits that may be begun at once from one address.
pub const IP_CIRCUITS_BURST: u32 = 512;
/// One more for it after so many milliseconds.
pub const IP_CIRCUIT_EVERY_MS: u64 = 250;

/// Why a relay refuses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RelayRefusal {
    /// The peer's handshake is not accepted.
    Stranger,
    /// The peer's score is below the threshold for relaying.
    Score,
    /// The peer asks too often.
    PeerRate,
    /// Its address asks too often.
    IpRate,
    /// The relay is full, or the peer has as much as one may have.
    Full,
    /// The places that are left are kept for peers with stake.
    Kept,
    /// A circuit was asked for in a way that this relay did not see, and so cannot bound.
    Unseen,
    /// The peer that is called has no reservation.
    NoReservation,
    /// The peer that is called did not answer.
    Unanswered,
}

impl RelayRefusal {
    /// The name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Score => "score",
            Self::PeerRate => "peer_rate",
            Self::IpRate => "ip_rate",
            Self::Full => "full",
            Self::Kept => "kept_for_stake",
            Self::Unseen => "unseen",
            Self::NoReservation => "no_reservation",
            Self::Unanswered => "unanswered",
        }
    }
}

/// What the relay knows of who asks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Standing {
    /// Its score, if its handshake is accepted.
    pub score: Option<f64>,
    /// Where it asks from; `None` where addresses are exempt from limits.
    pub ip: Option<IpAddr>,
}

/// A refilling allowance for each key: a place in time at which each is full again.
#[derive(Debug)]
struct Allowances<K> {
    burst: u32,
    every_ms: u64,
    full_at_ms: BTreeMap<K, u64>,
}

impl<K: Ord> Allowances<K> {
    const fn new(burst: u32, every_ms: u64) -> Self {
        Self { burst, every_ms, full_at_ms: BTreeMap::new() }
    }

    /// Whether there is one left.
    fn has(&self, key: &K, now_ms: u64) -> bool {
        let ahead = self.full_at_ms.get(key).map_or(0, |full| full.saturating_sub(now_ms));
        ahead <= self.every_ms.saturating_mul(u64::from(self.burst.saturating_sub(1)))
    }

    /// Takes one.
    fn take(&mut self, key: K, now_ms: u64) {
        if self.full_at_ms.len() >= COUNTED_MAX {
            self.full_at_ms.retain(|_, full| *full > now_ms);
        }
        if self.full_at_ms.len() >= COUNTED_MAX && !self.full_at_ms.contains_key(&key) {
            // Whoever will be full first is forgotten: it gains least by it.
            let first = self.full_at_ms.values().min().copied();
            self.full_at_ms.retain(|_, full| Some(*full) != first);
        }
        let full = self.full_at_ms.entry(key).or_insert(now_ms);
        *full = (*full).max(now_ms).saturating_add(self.every_ms);
    }
}

/// The gate of one relay, for peers named by `K`.
#[derive(Debug)]
pub struct RelayGate<K> {
    score_min: f64,
    reservations: (Allowances<K>, Allowances<IpAddr>),
    circuits: (Allowances<K>, Allowances<IpAddr>),
}

impl<K: Ord + Clone> RelayGate<K> {
    /// A gate that refuses whose score is below `score_min` (NET-53).
    #[must_use]
    pub const fn new(score_min: f64) -> Self {
        let reservations = (
            Allowances::new(PEER_RESERVATIONS_BURST, PEER_RESERVATION_EVERY_MS),
            Allowances::new(IP_RESERVATIONS_BURST, IP_RESERVATION_EVERY_MS),
        );
        let circuits = (
            Allowances::new(PEER_CIRCUITS_BURST, PEER_CIRCUIT_EVERY_MS),
            Allowances::new(IP_CIRCUITS_BURST, IP_CIRCUIT_EVERY_MS),
        );
        Self { score_min, reservations, circuits }
    }

    /// A peer asks for a reservation, or for its renewal.
    ///
    /// # Errors
    /// Why it does not get it.
    pub fn reserve(&mut self, peer: &K, standing: Standing, now_ms: u64) -> Result<(), RelayRefusal> {
        Self::pass(&mut self.reservations, self.score_min, peer, standing, now_ms)
    }

    /// A peer asks for a circuit to another.
    ///
    /// # Errors
    /// Why it does not get it.
    pub fn connect(&mut self, peer: &K, standing: Standing, now_ms: u64) -> Result<(), RelayRefusal> {
        Self::pass(&mut self.circuits, self.score_min, peer, standing, now_ms)
    }

    fn pass(
        (peers, ips): &mut (Allowances<K>, Allowances<IpAddr>),
        score_min: f64,
        peer: &K,
        standing: Standing,
        now_ms: u64,
    ) -> Result<(), RelayRefusal> {
        let score = standing.score.ok_or(RelayRefusal::Stranger)?;
        if score < score_min {
            return Err(RelayRefusal::Score);
        }
        if !peers.has(peer, now_ms) {
            return Err(RelayRefusal::PeerRate);
        }
        if standing.ip.is_some_and(|ip| !ips.has(&ip, now_ms)) {
            return Err(RelayRefusal::IpRate);
        }
        peers.take(peer.clone(), now_ms);
        if let Some(ip) = standing.ip {
            ips.take(ip, now_ms);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERE: Standing = Standing { score: Some(50.0), ip: Some(IpAddr::V4(std::net::Ipv4Addr::new(11, 1, 0, 2))) };

    // row: NET-42, NET-53
    #[test]
    fn strangers_and_peers_with_a_low_score_get_nothing() {
        let mut gate = RelayGate::new(30.0);
        let stranger = Standing { score: None, ..HERE };
        let low = Standing { score: Some(29.9), ..HERE };
        assert_eq!(gate.reserve(&1, stranger, 0), Err(RelayRefusal::Stranger));
        assert_eq!(gate.reserve(&1, low, 0), Err(RelayRefusal::Score));
        assert_eq!(gate.connect(&1, low, 0), Err(RelayRefusal::Score));
        assert_eq!(gate.reserve(&1, HERE, 0), Ok(()));
        assert_eq!(gate.connect(&1, HERE, 0), Ok(()));
    }

    // row: NET-42
    #[test]
    fn one_peer_and_one_address_ask_at_a_bounded_rate() {
        let mut gate = RelayGate::new(0.0);
        for _ in 0..PEER_RESERVATIONS_BURST {
            assert_eq!(gate.reserve(&1, HERE, 0), Ok(()));
        }
        assert_eq!(gate.reserve(&1, HERE, 0), Err(RelayRefusal::PeerRate));
        assert_eq!(gate.reserve(&1, HERE, PEER_RESERVATION_EVERY_MS), Ok(()));
        assert_eq!(gate.reserve(&1, HERE, PEER_RESERVATION_EVERY_MS), Err(RelayRefusal::PeerRate));
        let mut gate = RelayGate::new(0.0);
        let taken = (0..1_000).take_while(|peer| gate.reserve(peer, HERE, 0).is_ok()).count();
        assert_eq!(taken, IP_RESERVATIONS_BURST as usize);
        assert_eq!(gate.reserve(&5_000, HERE, 0), Err(RelayRefusal::IpRate));
        let exempt = Standing { ip: None, ..HERE };
        assert_eq!(gate.reserve(&5_000, exempt, 0), Ok(()));
    }

    proptest! {
        // row: NET-42, NET-56
        #[test]
        fn no_order_of_requests_passes_the_rate_or_grows_without_bound(
            asks in prop::collection::vec((0u8..4, 0u64..2_000), 1..400),
        ) {
            let mut gate = RelayGate::new(0.0);
            let (mut now_ms, mut passed) = (0u64, [0u64; 4]);
            for (peer, later_ms) in asks {
                now_ms += later_ms;
                if gate.connect(&peer, Standing { ip: None, ..HERE }, now_ms).is_ok() {
                    passed[usize::from(peer)] += 1;
                }
                let bound = u64::from(PEER_CIRCUITS_BURST) + now_ms / PEER_CIRCUIT_EVERY_MS;
                prop_assert!(passed.iter().all(|passed| *passed <= bound));
            }
            prop_assert!(gate.circuits.0.full_at_ms.len() <= 4);
        }
    }

    #[test]
    fn what_is_counted_stays_within_its_bound() {
        let mut gate = RelayGate::new(0.0);
        for peer in 0..(COUNTED_MAX + 100) {
            let _ = gate.reserve(&peer, Standing { ip: None, ..HERE }, 0);
        }
        assert!(gate.reservations.0.full_at_ms.len() <= COUNTED_MAX);
    }
}
