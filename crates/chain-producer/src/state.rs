//! The pure core: the time rule, and the executed blocks that wait for a decision.

use crate::RefusedBlock;
use crate::config::CANDIDATES_MAX;
use alloy_primitives::B256;
use lru::LruCache;
use std::num::NonZeroUsize;
use trellis_chain_storage::ExecutedBlock;

/// The time of a block built now: the clock, but always after the parent.
pub(crate) fn next_time_ms(parent_ms: u64, local_ms: u64) -> u64 {
    local_ms.max(parent_ms.saturating_add(1))
}

/// parent < block ≤ local + `ahead_max`.
pub(crate) fn check_time(parent_ms: u64, time_ms: u64, local_ms: u64, ahead_max: u64) -> Result<(), RefusedBlock> {
    if time_ms <= parent_ms {
        return Err(RefusedBlock::TimeNotAfterParent { parent: parent_ms, found: time_ms });
    }
    if time_ms > local_ms.saturating_add(ahead_max) {
        return Err(RefusedBlock::TimeAhead { local: local_ms, ahead_max, found: time_ms });
    }
    Ok(())
}

/// Executed blocks by hash, the oldest dropped first.
#[derive(Debug)]
pub(crate) struct Candidates(LruCache<B256, ExecutedBlock>);

impl Candidates {
    pub(crate) fn new() -> Self {
        Self(LruCache::new(NonZeroUsize::new(CANDIDATES_MAX).unwrap_or(NonZeroUsize::MIN)))
    }

    pub(crate) fn put(&mut self, block: ExecutedBlock) {
        self.0.put(block.hash, block);
    }

    pub(crate) fn get(&mut self, hash: &B256) -> Option<ExecutedBlock> {
        self.0.get(hash).cloned()
    }

    /// A height is decided: nothing here can be committed any more.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocks_time_is_after_its_parents_and_not_far_ahead_of_the_clock() {
        for (parent, time, local, fits) in [
            (1_000, 1_001, 900, true),
            (1_000, 1_000, 2_000, false),
            (1_000, 999, 2_000, false),
            (1_000, 1_500, 1_000, true),
            (1_000, 1_501, 1_000, false),
            (1_000, 1_001, u64::MAX, true),
        ] {
            assert_eq!(check_time(parent, time, local, 500).is_ok(), fits, "{parent} {time} {local}");
        }
    }

    #[test]
    fn a_block_built_by_a_slow_clock_is_still_after_its_parent() {
        assert_eq!(next_time_ms(1_000, 400), 1_001);
        assert_eq!(next_time_ms(1_000, 1_400), 1_400);
        assert!(check_time(1_000, next_time_ms(1_000, 999), 999, 500).is_ok());
    }
}
