//! The places of a relay, a share of which only peers with stake get (NET-42).
//!
//! ```text
//!  0                                    max - kept              max
//!  |------ anybody, first come first ------|-- stake only ------|
//! ```
//! Peers without stake never hold more than `max - kept` places, whatever order they ask in; a peer with stake gets any free
//! one. One account counts for a bounded number of places: what it asks for beyond them is asked without stake, so that one
//! stake does not take the whole share.

use std::collections::BTreeMap;

use serde::Serialize;

use super::gate::RelayRefusal;

/// One place in so many is kept for peers with stake.
pub const KEPT_SHARE: usize = 4;

/// How many of so many places are kept for peers with stake.
#[must_use]
pub const fn kept_of(places_max: usize) -> usize {
    places_max / KEPT_SHARE
}

/// How the places of a relay are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PlacesReport {
    /// Places in all.
    pub max: usize,
    /// Of them those that only peers with stake get.
    pub kept: usize,
    /// Places that are held now.
    pub used: usize,
    /// Of them those that peers with stake hold.
    pub staked: usize,
}

#[derive(Clone, Debug)]
struct Held<A> {
    /// The account with the stake on which the place was given; none where it was given to anybody.
    account: Option<A>,
    until_ms: u64,
}

/// Who holds the places of one kind, named by `K`; accounts are named by `A`. Times are milliseconds of any clock.
#[derive(Clone, Debug)]
pub struct Places<K, A> {
    max: usize,
    kept: usize,
    per_account_max: usize,
    held: BTreeMap<K, Held<A>>,
    by_account: BTreeMap<A, usize>,
}

impl<K: Ord + Clone, A: Ord + Clone> Places<K, A> {
    /// So many places, [`kept_of`] them for peers with stake, at most `per_account_max` on one account's stake.
    #[must_use]
    pub const fn new(max: usize, per_account_max: usize) -> Self {
        Self { max, kept: kept_of(max), per_account_max, held: BTreeMap::new(), by_account: BTreeMap::new() }
    }

    /// Gives a place, or renews it, until a time. `account` is the one whose stake is behind who asks.
    ///
    /// # Errors
    /// [`RelayRefusal::Full`] where no place is free, [`RelayRefusal::Kept`] where only those for peers with stake are. A
    /// place that is not renewed is held until its time is over.
    pub fn take(&mut self, key: &K, account: Option<&A>, now_ms: u64, until_ms: u64) -> Result<(), RelayRefusal> {
        let given = self.try_take(key, account, until_ms);
        if given.is_ok() {
            return given;
        }
        self.expire(now_ms);
        self.try_take(key, account, until_ms)
    }

    fn try_take(&mut self, key: &K, account: Option<&A>, until_ms: u64) -> Result<(), RelayRefusal> {
        let former = self.remove(key);
        let counts = |account: &&A| self.by_account.get(*account).is_none_or(|held| *held < self.per_account_max);
        let account = account.filter(counts).cloned();
        let refusal = if self.held.len() >= self.max {
            Some(RelayRefusal::Full)
        } else if account.is_none() && self.unstaked() >= self.max.saturating_sub(self.kept) {
            Some(RelayRefusal::Kept)
        } else {
            None
        };
        match (refusal, former) {
            (None, _) => self.insert(key.clone(), Held { account, until_ms }),
            (Some(_), Some(former)) => self.insert(key.clone(), former),
            (Some(_), None) => {}
        }
        refusal.map_or(Ok(()), Err)
    }

    /// It has become known that there is stake behind who holds a place: the place counts for the account, if it may.
    pub fn stake_known(&mut self, key: &K, account: &A) {
        let Some(held) = self.held.get_mut(key).filter(|held| held.account.is_none()) else { return };
        let count = self.by_account.entry(account.clone()).or_default();
        if *count < self.per_account_max {
            *count += 1;
            held.account = Some(account.clone());
        }
        self.by_account.retain(|_, count| *count > 0);
    }

    /// A place is free again.
    pub fn free(&mut self, key: &K) {
        self.remove(key);
    }

    /// Whether a place is held under this name.
    #[must_use]
    pub fn holds(&self, key: &K) -> bool {
        self.held.contains_key(key)
    }

    /// Frees the places whose time is over.
    pub fn expire(&mut self, now_ms: u64) {
        let over: Vec<K> =
            self.held.iter().filter(|(_, held)| held.until_ms <= now_ms).map(|(key, _)| key.clone()).collect();
        for key in over {
            self.remove(&key);
        }
    }

    /// How they are used.
    #[must_use]
    pub fn report(&self) -> PlacesReport {
        PlacesReport { max: self.max, kept: self.kept, used: self.held.len(), staked: self.staked() }
    }

    fn staked(&self) -> usize {
        self.by_account.values().sum()
    }

    fn unstaked(&self) -> usize {
        self.held.len().saturating_sub(self.staked())
    }

    fn insert(&mut self, key: K, held: Held<A>) {
        if let Some(account) = &held.account {
            *self.by_account.entry(account.clone()).or_default() += 1;
        }
        self.held.insert(key, held);
    }

    fn remove(&mut self, key: &K) -> Option<Held<A>> {
        let held = self.held.remove(key)?;
        if let Some(account) = &held.account
            && let Some(count) = self.by_account.get_mut(account)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_account.remove(account);
            }
        }
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FOREVER: u64 = u64::MAX;

    fn full_of_unstaked(max: usize) -> Places<u32, u8> {
        let mut places = Places::new(max, 4);
        for key in 0..1_000 {
            let _ = places.take(&key, None, 0, FOREVER);
        }
        places
    }

    // row: NET-42
    #[test]
    fn a_relay_full_of_peers_without_stake_still_takes_those_with_stake() {
        let mut places = full_of_unstaked(16);
        assert_eq!(places.report(), PlacesReport { max: 16, kept: 4, used: 12, staked: 0 });
        assert_eq!(places.take(&5_000, None, 0, FOREVER), Err(RelayRefusal::Kept));
        for (key, account) in [(2_000, 1), (2_001, 1), (2_002, 2), (2_003, 3)] {
            assert_eq!(places.take(&key, Some(&account), 0, FOREVER), Ok(()));
        }
        assert_eq!(places.take(&2_004, Some(&4), 0, FOREVER), Err(RelayRefusal::Full));
        assert_eq!(places.report(), PlacesReport { max: 16, kept: 4, used: 16, staked: 4 });
    }

    // row: NET-42
    #[test]
    fn a_place_is_renewed_when_all_are_taken_and_free_when_its_time_is_over() {
        let mut places: Places<u32, u8> = Places::new(4, 4);
        for key in 0..3 {
            assert_eq!(places.take(&key, None, 0, 100), Ok(()));
        }
        assert_eq!(places.take(&9, None, 99, 200), Err(RelayRefusal::Kept));
        assert_eq!(places.take(&0, None, 99, 200), Ok(()), "a renewal takes no further place");
        assert_eq!(places.take(&9, None, 100, 200), Ok(()), "two places have run out");
        assert_eq!(places.report().used, 2);
        places.free(&0);
        assert!(!places.holds(&0) && places.holds(&9));
    }

    // row: NET-42
    #[test]
    fn one_stake_takes_a_bounded_number_of_places_and_stake_that_becomes_known_counts() {
        let mut places = full_of_unstaked(32);
        let taken = (100_000..100_100).filter(|key| places.take(key, Some(&7), 0, FOREVER).is_ok()).count();
        assert_eq!(taken, 4, "what one account asks for beyond its bound is asked without stake");
        assert_eq!(places.take(&200_000, Some(&8), 0, FOREVER), Ok(()));
        places.stake_known(&0, &9);
        assert_eq!(places.report().staked, 6);
        assert_eq!(places.take(&300_000, None, 0, FOREVER), Ok(()), "a place of the common ones became free");
    }

    // row: NET-42
    #[test]
    fn a_renewal_without_the_stake_it_was_given_on_is_refused_while_the_common_places_are_taken() {
        let mut places = full_of_unstaked(16);
        places.take(&2_000, Some(&1), 0, 100).unwrap();
        assert_eq!(places.take(&2_000, None, 50, FOREVER), Err(RelayRefusal::Kept));
        assert!(places.holds(&2_000), "it is held until its time is over");
        places.expire(100);
        assert!(!places.holds(&2_000));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Take { key: u8, account: Option<u8>, for_ms: u64 },
        Known { key: u8, account: u8 },
        Free { key: u8 },
        Wait { ms: u64 },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (any::<u8>(), prop::option::weighted(0.3, 0u8..6), 1u64..1_000)
                .prop_map(|(key, account, for_ms)| Op::Take { key, account, for_ms }),
            1 => (any::<u8>(), 0u8..6).prop_map(|(key, account)| Op::Known { key, account }),
            1 => any::<u8>().prop_map(|key| Op::Free { key }),
            1 => (0u64..500).prop_map(|ms| Op::Wait { ms }),
        ]
    }

    proptest! {
        // row: NET-42, NET-56
        #[test]
        fn peers_without_stake_never_fill_the_kept_share_in_any_order(
            max in 1usize..40,
            per_account_max in 1usize..5,
            ops in prop::collection::vec(op(), 1..300),
        ) {
            let mut places: Places<u8, u8> = Places::new(max, per_account_max);
            let mut now_ms = 0;
            // Who was given a place without a word about stake, as seen from outside.
            let mut plain = std::collections::BTreeSet::new();
            for op in ops {
                match op {
                    Op::Take { key, account, for_ms } => {
                        let before = places.report();
                        let given = places.take(&key, account.as_ref(), now_ms, now_ms + for_ms);
                        match (given, account) {
                            (Ok(()), None) => drop(plain.insert(key)),
                            (Ok(()), Some(_)) => drop(plain.remove(&key)),
                            (Err(_), _) => {}
                        }
                        // Whoever has stake is refused only where all is taken, or its account has its part.
                        if let (Err(refusal), Some(account)) = (given, account) {
                            let part = places.by_account.get(&account).copied().unwrap_or_default();
                            prop_assert!(refusal == RelayRefusal::Full || part >= per_account_max, "{before:?}");
                        }
                    }
                    Op::Known { key, account } => {
                        places.stake_known(&key, &account);
                        if places.held.get(&key).is_some_and(|held| held.account.is_some()) {
                            plain.remove(&key);
                        }
                    }
                    Op::Free { key } => {
                        places.free(&key);
                        plain.remove(&key);
                    }
                    Op::Wait { ms } => {
                        now_ms += ms;
                        places.expire(now_ms);
                    }
                }
                plain.retain(|key| places.holds(key));
                let report = places.report();
                prop_assert!(plain.len() <= max - kept_of(max), "{report:?}");
                prop_assert!(report.used <= max && report.used - report.staked <= max - kept_of(max), "{report:?}");
                prop_assert!(places.by_account.values().all(|held| (1..=per_account_max).contains(held)));
                let counted = places.held.values().filter(|held| held.account.is_some()).count();
                prop_assert_eq!(counted, report.staked);
            }
        }
    }
}
