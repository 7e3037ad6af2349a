//! A bounded memory of hashes: the newest half of the bound is always remembered.

use alloy_primitives::{B256, map::B256HashSet};

/// Two generations stand in for an exact order: an insert costs one hash insert.
#[derive(Debug)]
pub(super) struct Recent {
    young: B256HashSet,
    old: B256HashSet,
    generation_max: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self::new(super::KNOWN_PER_PEER_MAX)
    }
}

impl Recent {
    pub(super) fn new(entries_max: usize) -> Self {
        Self {
            young: B256HashSet::default(),
            old: B256HashSet::default(),
            generation_max: entries_max.div_euclid(2).max(1),
        }
    }

    pub(super) fn insert(&mut self, hash: B256) {
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash);
    }

    pub(super) fn contains(&self, hash: &B256) -> bool {
        self.young.contains(hash) || self.old.contains(hash)
    }
}
