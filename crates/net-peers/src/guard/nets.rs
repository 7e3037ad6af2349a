//! What is held against an address before any identity is shown: banned keys behind it (NET-54) and threats (NET-58).
//!
//! Neither ever ends in a permanent block. Banned keys behind an address only make its unknown newcomers wait for a place
//! in a small bucket; whoever is known from before, and whoever finds a place, is served, so that the honest peers behind
//! one carrier's NAT go on (CGNAT). Threats, which cost no key, lead from an address proof over waiting to a short block.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use trellis_primitives::UnixMs;

use super::rates::TokenBucket;

/// Networks that are remembered; beyond it the one with the least against it is forgotten.
pub const NETS_MAX: usize = 4_096;
/// Banned keys behind one address from which its unknown newcomers have to wait.
pub const BANNED_KEYS_PER_IP: f64 = 3.0;
/// Banned keys behind one subnet (/24, /48) from which its unknown newcomers have to wait.
pub const BANNED_KEYS_PER_SUBNET: f64 = 8.0;
/// Half of the banned keys behind an address are forgotten after this long.
pub const BANNED_KEYS_HALF_LIFE_MS: u64 = 6 * 3_600_000;
/// Unknown newcomers of a strained network that are let in per minute.
pub const NEWCOMERS_PER_MINUTE: u64 = 12;
/// Unknown newcomers of a strained network that are let in at once.
pub const NEWCOMERS_AT_ONCE: u64 = 4;
/// Half of a threat is forgotten after this long.
pub const THREAT_HALF_LIFE_MS: u64 = 60_000;
/// A threat from which the address has to be proven.
pub const THREAT_RETRY: f64 = 8.0;
/// A threat from which only some attempts are let through.
pub const THREAT_THROTTLE: f64 = 24.0;
/// A threat from which nothing is let through for [`BLOCK_MS_FIRST`] and longer each time.
pub const THREAT_BLOCK: f64 = 64.0;
/// A subnet takes so many times the threat of one address.
pub const SUBNET_TOLERANCE: f64 = 4.0;
/// The first block of an address, milliseconds.
pub const BLOCK_MS_FIRST: u64 = 60_000;
/// The longest block of an address, milliseconds.
pub const BLOCK_MS_MAX: u64 = 3_600_000;

/// One address, or the subnet around it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Net(IpAddr, u8);

/// The address itself (for IPv6 its /64, which one home has whole) and its subnet.
fn nets(ip: IpAddr) -> [Net; 2] {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            [Net(ip.into(), 32), Net([a, b, c, 0].into(), 24)]
        }
        IpAddr::V6(ip) => {
            let prefix = |bits: u8| {
                let rest = 128 - u32::from(bits);
                Net(Ipv6Addr::from_bits(ip.to_bits() >> rest << rest).into(), bits)
            };
            [prefix(64), prefix(48)]
        }
    }
}

/// A figure that halves with time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Fading {
    amount: f64,
    at: UnixMs,
}

impl Fading {
    fn now(self, half_life_ms: u64, now: UnixMs) -> f64 {
        self.amount * 0.5f64.powf(now.ms_since(self.at) as f64 / half_life_ms as f64)
    }

    fn add(&mut self, amount: f64, half_life_ms: u64, now: UnixMs) {
        *self = Self { amount: self.now(half_life_ms, now) + amount, at: self.at.max(now) };
    }
}

/// What an address did before it showed an identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Threat {
    /// Began a handshake and did not finish it.
    HalfOpen,
    /// Came again too soon.
    Flood,
    /// Failed a handshake: a refusal, a key that does not fit.
    FailedHandshake,
    /// Sent something that is not the protocol.
    Malformed,
    /// Showed what somebody had shown before.
    Replay,
}

impl Threat {
    const fn weight(self) -> f64 {
        match self {
            Self::Flood => 1.0,
            Self::HalfOpen => 2.0,
            Self::FailedHandshake | Self::Replay => 4.0,
            Self::Malformed => 8.0,
        }
    }
}

/// What an address has to put up with before any cryptography.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Door {
    /// Nothing.
    Open,
    /// It has to prove that it receives there.
    Retry,
    /// Not now; some of its attempts are let through.
    Wait,
    /// Nothing is let through for a while.
    Blocked,
}

#[derive(Clone, Debug)]
struct Entry {
    banned_keys: Fading,
    threat: Fading,
    newcomers: TokenBucket,
    blocks: u32,
    blocked_until: UnixMs,
}

impl Entry {
    fn new(now: UnixMs) -> Self {
        Self {
            banned_keys: Fading::default(),
            threat: Fading::default(),
            newcomers: TokenBucket::full(NEWCOMERS_PER_MINUTE, NEWCOMERS_AT_ONCE, now),
            blocks: 0,
            blocked_until: UnixMs(0),
        }
    }

    /// How much is held against it, for choosing what to forget.
    fn burden(&self, now: UnixMs) -> f64 {
        let blocked = if self.blocked_until > now { THREAT_BLOCK } else { 0.0 };
        self.banned_keys.now(BANNED_KEYS_HALF_LIFE_MS, now) + self.threat.now(THREAT_HALF_LIFE_MS, now) + blocked
    }
}

/// Every network that something is held against.
#[derive(Clone, Debug, Default)]
pub struct Nets {
    entries: HashMap<Net, Entry>,
    /// Known peers behind an address.
    known: HashMap<IpAddr, u32>,
}

impl Nets {
    /// An identity that came from `ip` was banned; the caller counts each identity once.
    pub fn key_banned(&mut self, ip: IpAddr, now: UnixMs) {
        for net in nets(ip) {
            self.entry(net, now).banned_keys.add(1.0, BANNED_KEYS_HALF_LIFE_MS, now);
        }
    }

    /// Whether unknown newcomers from there have to wait.
    #[must_use]
    pub fn is_strained(&self, ip: IpAddr, now: UnixMs) -> bool {
        let limits = [BANNED_KEYS_PER_IP, BANNED_KEYS_PER_SUBNET];
        nets(ip).iter().zip(limits).any(|(net, limit)| {
            let held = self.entries.get(net).map(|entry| entry.banned_keys.now(BANNED_KEYS_HALF_LIFE_MS, now));
            // A hair below the limit, so that the keys counted just now are not worn away by the time between them.
            held.unwrap_or_default() > limit - 0.5
        })
    }

    /// Whether an unknown newcomer from there is let in now.
    pub fn admit_newcomer(&mut self, ip: IpAddr, now: UnixMs) -> bool {
        !self.is_strained(ip, now) || self.take_place(ip, now)
    }

    fn take_place(&mut self, ip: IpAddr, now: UnixMs) -> bool {
        let [own, _] = nets(ip);
        self.entry(own, now).newcomers.take(1, now)
    }

    /// Something happened that nobody shows an identity for. Says whether it has become a pattern: whether the address now
    /// has to put up with something.
    pub fn threat(&mut self, ip: IpAddr, threat: Threat, now: UnixMs) -> bool {
        let mut pattern = false;
        for (net, tolerance) in nets(ip).into_iter().zip([1.0, SUBNET_TOLERANCE]) {
            let entry = self.entry(net, now);
            // One banned key that hammers must not get its neighbours behind the same NAT blocked: they wait at most.
            if threat == Threat::Flood && entry.threat.now(THREAT_HALF_LIFE_MS, now) >= THREAT_THROTTLE {
                pattern = true;
                continue;
            }
            entry.threat.add(threat.weight() / tolerance, THREAT_HALF_LIFE_MS, now);
            let level = entry.threat.now(THREAT_HALF_LIFE_MS, now);
            pattern |= level >= THREAT_RETRY;
            if level >= THREAT_BLOCK && entry.blocked_until <= now {
                let length = BLOCK_MS_FIRST.saturating_mul(1u64 << entry.blocks.min(16)).min(BLOCK_MS_MAX);
                entry.blocks = entry.blocks.saturating_add(1);
                entry.blocked_until = now.plus_ms(length);
            }
        }
        pattern
    }

    /// What first packets from there have to put up with; nothing is counted.
    #[must_use]
    pub fn level(&self, ip: IpAddr, now: UnixMs) -> Door {
        let level = nets(ip).into_iter().filter_map(|net| self.entries.get(&net)).map(|entry| {
            let threat = entry.threat.now(THREAT_HALF_LIFE_MS, now);
            match () {
                () if entry.blocked_until > now => Door::Blocked,
                () if threat >= THREAT_THROTTLE => Door::Wait,
                () if threat >= THREAT_RETRY => Door::Retry,
                () => Door::Open,
            }
        });
        let level = level.max().unwrap_or(Door::Open);
        // Where known peers live, a neighbour's misdeeds make them wait at most.
        if self.known.contains_key(&ip.to_canonical()) { level.min(Door::Wait) } else { level }
    }

    /// Known peers are behind these addresses, in canonical form, and behind no others.
    pub fn replace_known(&mut self, known: &HashMap<IpAddr, u32>) {
        self.known = known.iter().take(NETS_MAX).map(|(ip, peers)| (*ip, *peers)).collect();
    }

    /// What a first packet from there meets. A place among those that are let through is taken only once the address is
    /// proven, so that forged sources cannot take the places of who lives there.
    pub fn door(&mut self, ip: IpAddr, validated: bool, now: UnixMs) -> Door {
        match self.level(ip, now) {
            Door::Wait if !validated || self.take_place(ip, now) => Door::Retry,
            other => other,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&mut self, net: Net, now: UnixMs) -> &mut Entry {
        if self.entries.len() >= NETS_MAX && !self.entries.contains_key(&net) {
            let burdens = self.entries.iter().map(|(net, entry)| (*net, entry.burden(now)));
            let least = burdens.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(net, _)| net);
            if let Some(least) = least {
                self.entries.remove(&least);
            }
        }
        self.entries.entry(net).or_insert_with(|| Entry::new(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    // row: NET-54
    #[test]
    fn banned_keys_behind_an_address_only_slow_its_unknown_newcomers_and_are_forgotten() {
        let mut nets = Nets::default();
        let home = ip("203.0.113.9");
        for _ in 0..3 {
            assert!(nets.admit_newcomer(home, UnixMs(0)));
            nets.key_banned(home, UnixMs(0));
        }
        assert!(nets.is_strained(home, UnixMs(0)));
        let at_once = (0..20).filter(|_| nets.admit_newcomer(home, UnixMs(0))).count() as u64;
        assert_eq!(at_once, NEWCOMERS_AT_ONCE);
        let minute = (1..=60u64).filter(|s| nets.admit_newcomer(home, UnixMs(s * 1_000))).count() as u64;
        assert_eq!(minute, NEWCOMERS_PER_MINUTE, "everybody gets in, a few at a time");
        assert!(!nets.is_strained(ip("203.0.113.10"), UnixMs(0)), "a neighbour has nothing to do with it");
        assert!(!nets.is_strained(home, UnixMs(BANNED_KEYS_HALF_LIFE_MS)));
    }

    // row: NET-58
    #[test]
    fn threats_lead_from_a_proof_over_waiting_to_a_block_that_ends() {
        let mut nets = Nets::default();
        let (bad, good) = (ip("198.51.100.1"), ip("198.51.101.1"));
        let mut seen = Vec::new();
        for _ in 0..40 {
            let door = nets.door(bad, true, UnixMs(0));
            if seen.last() != Some(&door) {
                seen.push(door);
            }
            nets.threat(bad, Threat::FailedHandshake, UnixMs(0));
        }
        assert_eq!(seen, [Door::Open, Door::Retry, Door::Wait, Door::Blocked]);
        assert_eq!(nets.door(good, true, UnixMs(0)), Door::Open);
        assert_ne!(nets.door(bad, true, UnixMs(BLOCK_MS_FIRST)), Door::Blocked);
        assert_eq!(nets.door(bad, true, UnixMs(20 * THREAT_HALF_LIFE_MS)), Door::Open);
    }

    // row: NET-54, NET-58
    #[test]
    fn a_banned_key_that_hammers_makes_its_neighbours_wait_and_never_blocks_them() {
        let mut nets = Nets::default();
        let cgnat = ip("198.51.100.1");
        let mut through = 0u64;
        for second in 0..600u64 {
            for _ in 0..20 {
                nets.threat(cgnat, Threat::Flood, UnixMs(second * 1_000));
            }
            let door = nets.door(cgnat, true, UnixMs(second * 1_000));
            assert_ne!(door, Door::Blocked);
            through += u64::from(door != Door::Wait);
        }
        assert!(through >= 9 * NEWCOMERS_PER_MINUTE, "{through} of 600");
    }

    // row: NET-50, NET-58
    #[test]
    fn an_address_with_known_peers_is_never_blocked_and_forged_sources_take_none_of_its_places() {
        let mut nets = Nets::default();
        let (home, other) = (ip("198.51.100.1"), ip("203.0.113.9"));
        nets.replace_known(&HashMap::from([(home, 1)]));
        for _ in 0..100 {
            nets.threat(home, Threat::HalfOpen, UnixMs(0));
            nets.threat(other, Threat::HalfOpen, UnixMs(0));
        }
        assert_eq!(nets.level(other, UnixMs(0)), Door::Blocked);
        assert_eq!(nets.level(home, UnixMs(0)), Door::Wait);
        assert!((0..100).all(|_| nets.door(home, false, UnixMs(0)) == Door::Retry));
        let let_in = (0..100).filter(|_| nets.door(home, true, UnixMs(0)) == Door::Retry).count() as u64;
        assert_eq!(let_in, NEWCOMERS_AT_ONCE);
    }

    // row: NET-58
    #[test]
    fn a_home_has_its_ipv6_64_and_changing_the_last_bits_does_not_help() {
        let mut nets = Nets::default();
        for n in 0..20u128 {
            let spread = Ipv6Addr::from_bits(0x2001_0db8_0001_0002_0000_0000_0000_0000 + n);
            nets.threat(spread.into(), Threat::Malformed, UnixMs(0));
        }
        assert_eq!(nets.door(ip("2001:db8:1:2::ffff"), true, UnixMs(0)), Door::Blocked);
    }

    proptest! {
        // row: NET-56, NET-58
        #[test]
        fn the_table_is_bounded_and_no_block_is_for_ever(events in prop::collection::vec((any::<u32>(), 0u64..5_000, 0u8..5), 0..300)) {
            let mut nets = Nets::default();
            let mut now = 0;
            for (address, wait, what) in events {
                now += wait;
                let from = IpAddr::from((address % 64).to_be_bytes());
                match what {
                    0 => drop(nets.threat(from, Threat::HalfOpen, UnixMs(now))),
                    1 => drop(nets.threat(from, Threat::Malformed, UnixMs(now))),
                    2 => nets.key_banned(from, UnixMs(now)),
                    3 => drop(nets.door(from, true, UnixMs(now))),
                    _ => drop(nets.admit_newcomer(from, UnixMs(now))),
                }
                prop_assert!(nets.len() <= NETS_MAX);
            }
            let later = UnixMs(now + BLOCK_MS_MAX + 60 * THREAT_HALF_LIFE_MS);
            for address in 0..64u32 {
                prop_assert_eq!(nets.door(IpAddr::from(address.to_be_bytes()), true, later), Door::Open);
            }
        }
    }

    // row: NET-56
    #[test]
    fn a_flood_of_addresses_forgets_the_least_burdened_first() {
        let mut nets = Nets::default();
        let worst = ip("192.0.2.1");
        for _ in 0..40 {
            nets.threat(worst, Threat::Malformed, UnixMs(0));
        }
        for n in 0..(NETS_MAX as u32 * 2) {
            nets.threat(IpAddr::from((0x0a00_0000 + n * 256).to_be_bytes()), Threat::Flood, UnixMs(0));
            assert!(nets.len() <= NETS_MAX);
        }
        assert_eq!(nets.door(worst, true, UnixMs(0)), Door::Blocked);
    }
}
