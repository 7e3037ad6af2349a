//! Which providers come first, and which are kept near though no job is there for them (NET-57). Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use trellis_net_peers::discovery::address::AddressGroup;
use trellis_primitives::{NodeId, UnixMs};

/// Providers whose last job is remembered.
const REMEMBERED_MAX: usize = 1_024;
/// A provider that served nothing for this long is no favourite any more.
pub const FAVOURITE_MS: u64 = 24 * 60 * 60 * 1_000;
/// After so many jobs in a row that went wrong by its fault it is none either.
const FAILURES_MAX: u32 = 3;
/// Round-trip times count in steps of this, in milliseconds: what is less makes no difference to an answer.
const LATENCY_STEP_MS: u32 = 25;
/// Steps of a provider whose round-trip time was not measured.
const LATENCY_STEPS_UNKNOWN: u32 = 4;

/// How a job ended, as far as it says something about its provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// With a receipt that both signed.
    Well,
    /// By the provider's fault.
    Badly,
    /// By nobody's, or by another's.
    Undecided,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    last: UnixMs,
    failures: u32,
    running: u32,
}

/// What this gateway has seen of providers.
#[derive(Debug, Default)]
pub struct Experience {
    used: HashMap<NodeId, Used>,
}

impl Experience {
    /// A provider served in a former life of this gateway.
    pub fn remembered(&mut self, provider: NodeId, now: UnixMs) {
        if self.has_room(provider) {
            self.used.entry(provider).or_default().last = now;
        }
    }

    /// A job begins.
    pub fn begun(&mut self, provider: NodeId) {
        if self.has_room(provider) {
            let used = self.used.entry(provider).or_default();
            used.running = used.running.saturating_add(1);
        }
    }

    /// It ended.
    pub fn ended(&mut self, provider: NodeId, served: Served, now: UnixMs) {
        let Some(used) = self.used.get_mut(&provider) else { return };
        used.running = used.running.saturating_sub(1);
        match served {
            Served::Well => (used.last, used.failures) = (now, 0),
            Served::Badly => used.failures = used.failures.saturating_add(1),
            Served::Undecided => {}
        }
    }

    /// Jobs that this gateway has there now.
    #[must_use]
    pub fn running(&self, provider: NodeId) -> u32 {
        self.used.get(&provider).map_or(0, |used| used.running)
    }

    /// Who served well lately, the latest first.
    #[must_use]
    pub fn lately(&self, now: UnixMs) -> Vec<NodeId> {
        let good = |used: &Used| {
            used.last > UnixMs(0) && used.failures < FAILURES_MAX && now.ms_since(used.last) < FAVOURITE_MS
        };
        let mut lately: Vec<_> = self.used.iter().filter(|(_, used)| good(used)).collect();
        lately.sort_by_key(|(provider, used)| (Reverse(used.last), **provider));
        lately.into_iter().map(|(provider, _)| *provider).collect()
    }

    fn has_room(&mut self, provider: NodeId) -> bool {
        if self.used.len() >= REMEMBERED_MAX && !self.used.contains_key(&provider) {
            let idle = self.used.iter().filter(|(_, used)| used.running == 0);
            match idle.min_by_key(|(_, used)| used.last).map(|(oldest, _)| *oldest) {
                Some(oldest) => drop(self.used.remove(&oldest)),
                None => return false,
            }
        }
        true
    }
}

/// A provider that may be a favourite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Who.
    pub provider: NodeId,
    /// Jobs that it runs at once, as it advertises.
    pub capacity: u32,
    /// The round-trip time, in milliseconds, where it was measured.
    pub latency_ms: Option<u32>,
    /// Its network.
    pub group: Option<AddressGroup>,
}

/// The favourites among those that served well lately, at most so many: twice the capacity makes up for one step of latency,
/// and among equals each network has one before any has two.
#[must_use]
pub fn favourites(candidates: &[Candidate], max: usize) -> Vec<NodeId> {
    let score = |one: &Candidate| {
        i64::from(one.capacity.max(1).ilog2()).saturating_sub(i64::from(latency_steps(one.latency_ms)))
    };
    let ranked = candidates.iter().map(|one| Ranked { key: Reverse(score(one)), group: one.group, item: one.provider });
    let mut chosen = spread(ranked.collect());
    chosen.truncate(max);
    chosen
}

/// A round-trip time in steps that make a difference.
#[must_use]
pub const fn latency_steps(latency_ms: Option<u32>) -> u32 {
    match latency_ms {
        Some(ms) => ms / LATENCY_STEP_MS,
        None => LATENCY_STEPS_UNKNOWN,
    }
}

/// Something with its place in an order and its network.
pub struct Ranked<K, T> {
    /// The place; less comes first.
    pub key: K,
    /// The network; none where it is not known.
    pub group: Option<AddressGroup>,
    /// What it is.
    pub item: T,
}

/// Puts things into their order; among equals the one comes next whose network came least so far.
#[must_use]
pub fn spread<K: Ord, T>(mut ranked: Vec<Ranked<K, T>>) -> Vec<T> {
    ranked.sort_by(|a, b| a.key.cmp(&b.key));
    let mut seen: BTreeMap<AddressGroup, usize> = BTreeMap::new();
    let mut ordered = Vec::with_capacity(ranked.len());
    while let Some(first) = ranked.first() {
        let count = |one: &Ranked<K, T>| one.group.and_then(|group| seen.get(&group)).copied().unwrap_or_default();
        let equals = ranked.iter().take_while(|one| one.key == first.key);
        let next = equals.enumerate().min_by_key(|(place, one)| (count(one), *place)).map_or(0, |(place, _)| place);
        let one = ranked.remove(next);
        if let Some(group) = one.group {
            *seen.entry(group).or_default() += 1;
        }
        ordered.push(one.item);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn candidate(n: u8, capacity: u32, latency_ms: Option<u32>, network: u8) -> Candidate {
        let group = Some(AddressGroup([4, 11, network, 0, 0]));
        Candidate { provider: node(n), capacity, latency_ms, group }
    }

    // row: NET-57
    #[test]
    fn favourites_are_the_near_and_the_large_and_among_equals_each_network_has_one_first() {
        let all = [
            candidate(1, 8, Some(10), 1),
            candidate(2, 8, Some(12), 1),
            candidate(3, 8, Some(14), 2),
            candidate(4, 8, Some(200), 3),
            candidate(5, 64, Some(10), 1),
        ];
        assert_eq!(favourites(&all, 3), [node(5), node(3), node(1)]);
        assert_eq!(favourites(&all, 9), [node(5), node(3), node(1), node(2), node(4)]);
        assert!(favourites(&all, 0).is_empty());
        let unmeasured = [candidate(1, 8, None, 1), candidate(2, 8, Some(120), 2), candidate(3, 8, Some(20), 3)];
        assert_eq!(favourites(&unmeasured, 9), [node(3), node(1), node(2)]);
    }

    // row: NET-57
    #[test]
    fn who_served_well_lately_is_remembered_until_it_is_long_ago_or_it_fails_again_and_again() {
        let mut seen = Experience::default();
        for n in [1, 2] {
            seen.begun(node(n));
            seen.ended(node(n), Served::Well, NOW.plus_ms(u64::from(n)));
        }
        seen.begun(node(3));
        assert_eq!((seen.running(node(3)), seen.running(node(1))), (1, 0));
        let later = NOW.plus_ms(1_000);
        assert_eq!(seen.lately(later), [node(2), node(1)], "nothing has ended at the third");
        for _ in 0..FAILURES_MAX {
            seen.begun(node(2));
            assert!(seen.lately(later).contains(&node(2)));
            seen.ended(node(2), Served::Badly, later);
        }
        assert_eq!(seen.lately(later), [node(1)]);
        seen.ended(node(3), Served::Undecided, later);
        seen.remembered(node(4), later);
        assert_eq!(seen.lately(later), [node(4), node(1)]);
        assert_eq!(seen.lately(NOW.plus_ms(FAVOURITE_MS + 1)), [node(4)]);
    }

    // row: NET-57, NET-56
    #[test]
    fn many_providers_do_not_fill_the_memory_and_those_with_jobs_stay() {
        let id = |n: u32| {
            let mut bytes = [7; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            NodeId(bytes)
        };
        let mut seen = Experience::default();
        seen.begun(id(0));
        for n in 1..5_000 {
            seen.remembered(id(n), NOW.plus_ms(u64::from(n)));
        }
        assert_eq!((seen.used.len(), seen.running(id(0))), (REMEMBERED_MAX, 1));
    }
}
