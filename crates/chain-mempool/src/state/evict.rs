//! Who leaves when the pool is full: what pays least, and what waits behind it.

use super::PoolState;
use crate::pooled::PooledTx;
use std::cmp::Reverse;

/// One part in so many leaves at once, so that the scan is paid for by the inserts that follow.
const EVICTED_SHARE: usize = 64;

/// Lower leaves first: (can run, price, shallow in its sender's line, old).
type Rank = (bool, u128, Reverse<usize>, Reverse<u64>);

impl PoolState {
    /// Evicts until both total bounds hold. Gives back how many left.
    pub(super) fn shrink_to_bounds(&mut self) -> usize {
        let over = |state: &Self| state.by_hash.len() > state.config.txs_max || state.bytes > state.config.bytes_max;
        let mut evicted: usize = 0;
        while over(self) && !self.by_hash.is_empty() {
            evicted = evicted.saturating_add(self.evict_cheapest());
        }
        evicted
    }

    fn evict_cheapest(&mut self) -> usize {
        let mut ranked = self.ranked();
        let share = ranked.len().div_ceil(EVICTED_SHARE).clamp(1, ranked.len());
        ranked.select_nth_unstable_by(share.saturating_sub(1), |left, right| left.0.cmp(&right.0));
        ranked.truncate(share);
        // Of those that could run, the best paid that leaves shows what must be offered from now on.
        let paid = ranked.iter().filter(|((runs, ..), _)| *runs).map(|((_, price, ..), _)| *price).max();
        self.tip_floor = paid.map_or(0, |price| price.saturating_add(1));
        ranked.iter().filter(|(_, hash)| self.remove(hash).is_some()).count()
    }

    /// Every transaction's rank. Down a sender's line the rank never rises, so a line is cut from its end
    /// and eviction never makes a gap.
    fn ranked(&self) -> Vec<(Rank, alloy_primitives::B256)> {
        let mut ranked = Vec::with_capacity(self.by_hash.len());
        for queue in self.senders.values() {
            let (mut runs, mut price) = (true, u128::MAX);
            let next = queue.next_nonce();
            for (depth, pooled) in queue.all().enumerate() {
                let (can_run, own) = self.price(pooled);
                runs = runs && can_run && pooled.nonce < next;
                price = price.min(own);
                ranked.push(((runs, price, Reverse(depth), Reverse(pooled.sequence)), pooled.tx.hash));
            }
        }
        ranked
    }

    /// Whether it could be in the next block, and what the maker would get; else only what it offers at most.
    fn price(&self, pooled: &PooledTx) -> (bool, u128) {
        match pooled.effective_tip(self.base_fee) {
            Some(tip) => (true, tip),
            None => (false, pooled.fee),
        }
    }
}
