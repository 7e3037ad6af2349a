//! The pure core: transactions and head changes in, decisions out. No lock, no clock, no state access.

mod admit;
mod evict;
mod sender;
#[cfg(test)]
mod tests;

use crate::best::BestTransactions;
use crate::config::PoolConfig;
use crate::error::PoolError;
use crate::filter::{FeeFilter, is_choosy};
use crate::pooled::PooledTx;
use alloy_primitives::{Address, B256, U256, map::HashMap};
use sender::SenderQueue;
use std::collections::VecDeque;
use std::sync::Arc;
use trellis_primitives::{RecoveredTx, UnixMs};

pub(crate) use admit::check_stateless;

/// An arrival line is compacted when it is this much longer than the pool.
const ARRIVALS_SLACK_ENTRIES: usize = 4_096;

/// An account as the newest block left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AccountState {
    /// The next nonce.
    pub nonce: u64,
    /// The balance, wei.
    pub balance: U256,
}

/// What became of the pool when a transaction was taken.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inserted {
    /// Hashes that can run now and could not before, in nonce order; the new one among them if it can.
    pub promoted: Vec<B256>,
    /// The transaction that had this nonce before.
    pub replaced: Option<B256>,
    /// How many left to make room.
    pub evicted: usize,
}

/// Counts of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolStatus {
    /// Transactions that can run now.
    pub pending: usize,
    /// Transactions that wait for an earlier nonce or for funds.
    pub queued: usize,
    /// Bytes of their encodings.
    pub bytes: usize,
}

/// One sender's transactions, split as `txpool_content` shows them.
#[derive(Clone, Debug)]
pub struct SenderContent {
    /// Whose they are.
    pub sender: Address,
    /// Those that can run now, by nonce.
    pub pending: Vec<RecoveredTx>,
    /// Those that wait, by nonce.
    pub queued: Vec<RecoveredTx>,
}

/// All of the pool, sender by sender.
pub type PoolContent = Vec<SenderContent>;

/// The pool's state. Every bound of [`PoolConfig`] holds after every call.
#[derive(Debug)]
pub struct PoolState {
    config: PoolConfig,
    base_fee: u64,
    gas_limit: u64,
    by_hash: HashMap<B256, Arc<PooledTx>>,
    senders: HashMap<Address, SenderQueue>,
    arrivals: VecDeque<(UnixMs, B256)>,
    pending: usize,
    bytes: usize,
    sequence: u64,
    /// What a transaction must bring the maker to outlive the last eviction, wei per gas; zero where there was none.
    tip_floor: u128,
}

impl PoolState {
    /// An empty pool. Until the first head is told, any gas limit up to the cap fits.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self {
            config,
            base_fee: 0,
            gas_limit: u64::MAX,
            by_hash: HashMap::default(),
            senders: HashMap::default(),
            arrivals: VecDeque::new(),
            pending: 0,
            bytes: 0,
            sequence: 0,
            tip_floor: 0,
        }
    }

    /// The limits.
    #[must_use]
    pub const fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Gas of the next block at most.
    #[must_use]
    pub const fn gas_limit(&self) -> u64 {
        self.gas_limit
    }

    /// Base fee of the next block, wei.
    #[must_use]
    pub const fn base_fee(&self) -> u64 {
        self.base_fee
    }

    /// What peers need not send, because it would be refused or leave at once.
    #[must_use]
    pub fn fee_filter(&self) -> FeeFilter {
        let tip_min_wei = if self.is_choosy() { self.tip_floor } else { 0 };
        FeeFilter { fee_min_wei: self.config.min_fee_wei, tip_min_wei }
    }

    fn is_choosy(&self) -> bool {
        is_choosy(self.by_hash.len(), self.config.txs_max) || is_choosy(self.bytes, self.config.bytes_max)
    }

    /// A transaction by its hash.
    #[must_use]
    pub fn get(&self, hash: &B256) -> Option<&RecoveredTx> {
        self.by_hash.get(hash).map(|pooled| &pooled.tx)
    }

    /// The account as the pool remembers it, for a sender with transactions here.
    #[must_use]
    pub fn known_account(&self, sender: &Address) -> Option<AccountState> {
        self.senders.get(sender).map(|queue| queue.account)
    }

    /// The nonce after the sender's last pending transaction, if it has one here.
    #[must_use]
    pub fn pending_nonce(&self, sender: &Address) -> Option<u64> {
        self.senders.get(sender).map(SenderQueue::next_nonce)
    }

    /// Counts.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let total = self.by_hash.len();
        PoolStatus { pending: self.pending, queued: total.saturating_sub(self.pending), bytes: self.bytes }
    }

    /// Takes a transaction that has passed [`check_stateless`], or says why not.
    ///
    /// # Errors
    /// Every [`PoolError`] that needs the pool or the account; then nothing of the pool has changed, except that it
    /// has learnt the account, and that a full pool may have dropped what pays least ([`PoolError::PoolFull`]).
    pub fn insert(&mut self, tx: RecoveredTx, account: AccountState, now: UnixMs) -> Result<Inserted, PoolError> {
        let hash = tx.hash;
        if self.by_hash.contains_key(&hash) {
            return Err(PoolError::AlreadyKnown);
        }
        let pooled = PooledTx::new(tx, now, self.sequence).ok_or(PoolError::CostOverflow)?;
        let sender = pooled.tx.sender;
        if self.senders.get(&sender).is_some_and(|queue| queue.account != account) {
            self.set_account(sender, account);
        }
        admit::check_against_account(&self.config, self.gas_limit, self.senders.get(&sender), &pooled, account)?;

        if !self.is_choosy() {
            self.tip_floor = 0;
        }
        let pooled = Arc::new(pooled);
        self.sequence = self.sequence.saturating_add(1);
        self.senders.entry(sender).or_insert_with(|| SenderQueue::new(account));
        let mut inserted = self.link(pooled.clone());
        self.arrivals.push_back((now, hash));
        inserted.evicted = self.shrink_to_bounds();
        if !self.by_hash.contains_key(&hash) {
            return Err(PoolError::PoolFull { fee: pooled.fee });
        }
        self.compact_arrivals();
        Ok(inserted)
    }

    fn link(&mut self, pooled: Arc<PooledTx>) -> Inserted {
        let mut inserted = Inserted::default();
        let Some(queue) = self.senders.get_mut(&pooled.tx.sender) else { return inserted };
        let run_before = queue.run_length();
        let next_before = queue.next_nonce();
        self.bytes = self.bytes.saturating_add(pooled.tx.encoded_bytes);
        self.by_hash.insert(pooled.tx.hash, pooled.clone());
        let replaced = queue.insert(pooled.clone());
        self.pending = change_by(self.pending, run_before, queue.run_length());
        inserted.promoted = queue
            .run_from(next_before.min(pooled.nonce))
            .filter(|tx| tx.nonce >= next_before || tx.nonce == pooled.nonce)
            .map(|tx| tx.tx.hash)
            .collect();
        if let Some(old) = replaced {
            self.forget(&old);
            inserted.replaced = Some(old.tx.hash);
        }
        inserted
    }

    /// The builder's view: see [`BestTransactions`].
    #[must_use]
    pub fn best(&self, base_fee: u64, gas_limit: u64) -> BestTransactions {
        let runs = self.senders.values().filter(|queue| queue.run_length() > 0);
        BestTransactions::new(runs.map(|queue| queue.run().cloned().collect()).collect(), base_fee, gas_limit)
    }

    /// The head moved: what the next block costs and holds.
    pub fn set_head(&mut self, base_fee: u64, gas_limit: u64) {
        self.base_fee = base_fee;
        self.gas_limit = gas_limit;
    }

    /// An account is now so. Gives back what can run now and could not before, and how many left.
    pub fn set_account(&mut self, sender: Address, account: AccountState) -> (Vec<B256>, usize) {
        let Some(queue) = self.senders.get(&sender) else { return (Vec::new(), 0) };
        let next_before = queue.next_nonce();
        let gone = self.refresh(sender, account);
        for tx in &gone {
            self.forget(tx);
        }
        let promoted = self
            .senders
            .get(&sender)
            .map_or_else(Vec::new, |queue| queue.run_from(next_before).map(|tx| tx.tx.hash).collect());
        self.drop_if_empty(sender);
        (promoted, gone.len())
    }

    /// Takes out one transaction, for instance because the builder found that it cannot run.
    pub fn remove(&mut self, hash: &B256) -> Option<RecoveredTx> {
        let pooled = self.by_hash.get(hash)?.clone();
        let queue = self.senders.get_mut(&pooled.tx.sender)?;
        let before = queue.run_length();
        queue.remove(pooled.nonce);
        self.pending = change_by(self.pending, before, queue.run_length());
        self.forget(&pooled);
        self.drop_if_empty(pooled.tx.sender);
        Some(pooled.tx.clone())
    }

    /// Drops what has waited longer than its lifetime. Gives back how many.
    pub fn expire(&mut self, now: UnixMs) -> usize {
        let mut dropped: usize = 0;
        while let Some((arrived, hash)) = self.arrivals.front().copied() {
            if now.ms_since(arrived) < self.config.lifetime_ms {
                break;
            }
            self.arrivals.pop_front();
            let same = self.by_hash.get(&hash).is_some_and(|pooled| pooled.arrived == arrived);
            if same && self.remove(&hash).is_some() {
                dropped = dropped.saturating_add(1);
            }
        }
        dropped
    }

    /// Everything, or one sender's, in the shape of `txpool_content`, of at most so many transactions.
    #[must_use]
    pub fn content(&self, only: Option<Address>, txs_max: usize) -> PoolContent {
        let mut left = txs_max;
        let mut content = PoolContent::new();
        for (sender, queue) in self.senders.iter().filter(|(sender, _)| only.is_none_or(|wanted| wanted == **sender)) {
            let mut entry = SenderContent { sender: *sender, pending: Vec::new(), queued: Vec::new() };
            for pooled in queue.all().take(left) {
                let half = if pooled.nonce < queue.next_nonce() { &mut entry.pending } else { &mut entry.queued };
                half.push(pooled.tx.clone());
            }
            left = left.saturating_sub(entry.pending.len().saturating_add(entry.queued.len()));
            content.push(entry);
            if left == 0 {
                break;
            }
        }
        content
    }

    fn refresh(&mut self, sender: Address, account: AccountState) -> Vec<Arc<PooledTx>> {
        let Some(queue) = self.senders.get_mut(&sender) else { return Vec::new() };
        let before = queue.run_length();
        let gone = queue.update_account(account);
        self.pending = change_by(self.pending, before, queue.run_length());
        gone
    }

    fn forget(&mut self, pooled: &PooledTx) {
        if self.by_hash.remove(&pooled.tx.hash).is_some() {
            self.bytes = self.bytes.saturating_sub(pooled.tx.encoded_bytes);
        }
    }

    fn drop_if_empty(&mut self, sender: Address) {
        if self.senders.get(&sender).is_some_and(SenderQueue::is_empty) {
            self.senders.remove(&sender);
        }
    }

    /// Transactions leave in blocks, not by age, so the line of arrivals would grow without this.
    fn compact_arrivals(&mut self) {
        if self.arrivals.len() <= self.by_hash.len().saturating_mul(2).saturating_add(ARRIVALS_SLACK_ENTRIES) {
            return;
        }
        let by_hash = &self.by_hash;
        self.arrivals.retain(|(arrived, hash)| by_hash.get(hash).is_some_and(|pooled| pooled.arrived == *arrived));
    }
}

fn change_by(total: usize, before: u64, after: u64) -> usize {
    let before = usize::try_from(before).unwrap_or(usize::MAX);
    let after = usize::try_from(after).unwrap_or(usize::MAX);
    total.saturating_add(after).saturating_sub(before)
}
