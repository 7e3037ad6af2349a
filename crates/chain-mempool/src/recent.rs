//! A bounded memory by hash. Two generations of a map stand in for an exact least-recently-used order: an insert costs one
//! hash insert, and the newest half of the bound is always kept.

use alloy_primitives::{B256, map::HashMap};

/// What was told last, by hash.
#[derive(Debug)]
pub(crate) struct Recent<V> {
    young: HashMap<B256, V>,
    old: HashMap<B256, V>,
    generation_max: usize,
}

impl<V> Recent<V> {
    /// A memory of at most so many entries.
    pub(crate) fn new(entries_max: usize) -> Self {
        let (young, old) = (HashMap::default(), HashMap::default());
        Self { young, old, generation_max: entries_max.div_euclid(2).max(1) }
    }

    pub(crate) fn insert(&mut self, hash: B256, value: V) {
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, value);
    }

    pub(crate) fn get(&self, hash: &B256) -> Option<&V> {
        self.young.get(hash).or_else(|| self.old.get(hash))
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len().saturating_add(self.old.len())
    }
}
