//! Hash to sender, bounded, so that the transactions of a proposed block are not recovered a second time.
//!
//! The hash covers the signature, so a remembered sender cannot be wrong. Two generations of a map stand in for
//! an exact least-recently-used order: an insert costs one hash insert, and the newest half of the bound is always kept.

use alloy_primitives::{Address, B256, map::HashMap};
use parking_lot::Mutex;

#[derive(Default, Debug)]
struct Generations {
    young: HashMap<B256, Address>,
    old: HashMap<B256, Address>,
}

/// A bounded memory of recovered senders.
#[derive(Debug)]
pub struct RecoveredCache {
    generations: Mutex<Generations>,
    generation_entries_max: usize,
}

impl RecoveredCache {
    /// A cache of at most so many entries.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self { generations: Mutex::default(), generation_entries_max: entries_max.div_euclid(2).max(1) }
    }

    /// Remembers the senders of these transactions.
    pub fn insert_all(&self, entries: impl IntoIterator<Item = (B256, Address)>) {
        let mut generations = self.generations.lock();
        for (hash, sender) in entries {
            if generations.young.len() >= self.generation_entries_max {
                generations.old = std::mem::take(&mut generations.young);
            }
            generations.young.insert(hash, sender);
        }
    }

    /// The sender of a transaction that was recovered not long ago.
    #[must_use]
    pub fn get(&self, hash: &B256) -> Option<Address> {
        let generations = self.generations.lock();
        generations.young.get(hash).or_else(|| generations.old.get(hash)).copied()
    }

    /// How many senders are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        let generations = self.generations.lock();
        generations.young.len().saturating_add(generations.old.len())
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_half_is_always_remembered_and_the_bound_holds() {
        let cache = RecoveredCache::new(100);
        for number in 0..1_000u64 {
            cache.insert_all([(
                B256::from(alloy_primitives::U256::from(number)),
                Address::with_last_byte(number as u8),
            )]);
            assert!(cache.len() <= 100);
            for recent in number.saturating_sub(49)..=number {
                let hash = B256::from(alloy_primitives::U256::from(recent));
                assert_eq!(cache.get(&hash), Some(Address::with_last_byte(recent as u8)));
            }
        }
        assert_eq!(cache.get(&B256::ZERO), None);
    }
}
