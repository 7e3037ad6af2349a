//! Hash to sender, bounded, so that the transactions of a proposed block are not recovered a second time.
//!
//! The hash covers the signature, so a remembered sender cannot be wrong.

use crate::recent::Recent;
use alloy_primitives::{Address, B256};
use parking_lot::Mutex;

/// A bounded memory of recovered senders.
#[derive(Debug)]
pub struct RecoveredCache {
    senders: Mutex<Recent<Address>>,
}

impl RecoveredCache {
    /// A cache of at most so many entries.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self { senders: Mutex::new(Recent::new(entries_max)) }
    }

    /// Remembers the senders of these transactions.
    pub fn insert_all(&self, entries: impl IntoIterator<Item = (B256, Address)>) {
        let mut senders = self.senders.lock();
        entries.into_iter().for_each(|(hash, sender)| senders.insert(hash, sender));
    }

    /// The sender of a transaction that was recovered not long ago.
    #[must_use]
    pub fn get(&self, hash: &B256) -> Option<Address> {
        self.senders.lock().get(hash).copied()
    }

    /// How many senders are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.senders.lock().len()
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
