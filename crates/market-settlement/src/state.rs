//! What an aggregator holds: which receipts it promised into which batch, how far each batch came, which vouchers wait. Pure:
//! receipts, times and the chain's answers in, decisions out.

use std::collections::{BTreeMap, HashMap};

use trellis_market_journal::Position;
use trellis_primitives::{Address, B256, BatchRoot, Bytes, ChannelId, UnixMs, Wei};

/// Receipts that may wait for their batch to reach the chain; more are refused until some have.
pub(crate) const RECEIPTS_WAITING_MAX: usize = 1_000_000;

/// Seconds after its window for which a batch is still served: seven days.
pub(crate) const SERVED_AFTER_WINDOW_S: u64 = 7 * 86_400;

/// A receipt's place in every tree.
pub(crate) type Key = (ChannelId, u64);

/// Sequences of one channel, as ranges: receipts mostly come in order, so there are few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(crate) fn contains(&self, n: u64) -> bool {
        self.0.range(..=n).next_back().is_some_and(|(_, last)| *last >= n)
    }

    /// Adds a number; false where it was there.
    pub(crate) fn insert(&mut self, n: u64) -> bool {
        if self.contains(n) {
            return false;
        }
        let before = n
            .checked_sub(1)
            .and_then(|b| self.0.range(..=b).next_back().filter(|(_, last)| **last == b).map(|(first, _)| *first));
        let first = before.unwrap_or(n);
        let last = n.checked_add(1).and_then(|after| self.0.remove(&after)).unwrap_or(n);
        self.0.insert(first, last);
        true
    }

    /// Takes a number out again.
    pub(crate) fn remove(&mut self, n: u64) {
        let Some((first, last)) = self.0.range(..=n).next_back().map(|(f, l)| (*f, *l)) else { return };
        if last < n {
            return;
        }
        self.0.remove(&first);
        if first < n {
            self.0.insert(first, n - 1);
        }
        if last > n {
            self.0.insert(n + 1, last);
        }
    }
}

/// How far a batch came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It takes receipts.
    Open,
    /// It takes no more; some may still be on their way to the journal.
    Sealed,
    /// Its root is known and stored.
    Formed,
    /// It is on the chain.
    Submitted,
    /// Its window is over, or it fell.
    Done,
}

/// One batch.
#[derive(Debug, Clone)]
pub(crate) struct BatchState {
    pub(crate) phase: Phase,
    pub(crate) receipts: Vec<(Key, Position)>,
    pub(crate) writing: usize,
    pub(crate) first_at: Option<UnixMs>,
    pub(crate) root: BatchRoot,
    pub(crate) sum: Wei,
    /// The contract's number, 0 before.
    pub(crate) id: u64,
    pub(crate) finalisable_at_s: u64,
}

impl BatchState {
    fn new() -> Self {
        Self {
            phase: Phase::Open,
            receipts: Vec::new(),
            writing: 0,
            first_at: None,
            root: BatchRoot(B256::ZERO),
            sum: Wei::ZERO,
            id: 0,
            finalisable_at_s: 0,
        }
    }
}

/// A voucher that may be worth something, and what the chain said of its channel last.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) cumulative: Wei,
    pub(crate) signature: Bytes,
    pub(crate) payout: Address,
    pub(crate) deposit: Wei,
    pub(crate) paid: Wei,
    pub(crate) closed: bool,
    /// Since when it has waited.
    pub(crate) since: UnixMs,
}

impl Held {
    /// What bringing it to the chain would move.
    pub(crate) fn due(&self) -> Wei {
        if self.closed {
            return Wei::ZERO;
        }
        self.cumulative.min(self.deposit).saturating_sub(self.paid)
    }
}

/// What became of an attempt to take a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserved {
    /// It will be in this batch, once it is stored.
    Into(u64),
    /// Its number was taken before.
    Seen,
    /// Too many wait.
    Full,
}

/// An aggregator's state.
#[derive(Debug)]
pub(crate) struct State {
    receipts_max: usize,
    interval_ms: u64,
    open: u64,
    seen: HashMap<ChannelId, Ranges>,
    batches: BTreeMap<u64, BatchState>,
    vouchers: BTreeMap<ChannelId, Held>,
}

impl State {
    /// Nothing yet; the first batch has this number.
    pub(crate) fn new(receipts_max: usize, interval_ms: u64, first_number: u64) -> Self {
        let receipts_max = receipts_max.clamp(1, trellis_market_receipt::RECEIPTS_IN_TREE_MAX);
        Self {
            receipts_max,
            interval_ms,
            open: first_number,
            seen: HashMap::new(),
            batches: BTreeMap::from([(first_number, BatchState::new())]),
            vouchers: BTreeMap::new(),
        }
    }

    /// Takes a receipt into the open batch, if its number is new.
    pub(crate) fn reserve(&mut self, key: Key, now: UnixMs) -> Reserved {
        if self.seen.get(&key.0).is_some_and(|ranges| ranges.contains(key.1)) {
            return Reserved::Seen;
        }
        if self.waiting() >= RECEIPTS_WAITING_MAX {
            return Reserved::Full;
        }
        self.seen.entry(key.0).or_default().insert(key.1);
        let number = self.open;
        let batch = self.batches.entry(number).or_insert_with(BatchState::new);
        batch.writing += 1;
        batch.first_at.get_or_insert(now);
        if batch.writing + batch.receipts.len() >= self.receipts_max {
            self.seal();
        }
        Reserved::Into(number)
    }

    /// The receipt is durable.
    pub(crate) fn stored(&mut self, number: u64, key: Key, position: Position) {
        if let Some(batch) = self.batches.get_mut(&number) {
            batch.writing = batch.writing.saturating_sub(1);
            batch.receipts.push((key, position));
        }
    }

    /// The receipt could not be stored; nothing was promised.
    pub(crate) fn abandoned(&mut self, number: u64, key: Key) {
        if let Some(ranges) = self.seen.get_mut(&key.0) {
            ranges.remove(key.1);
        }
        if let Some(batch) = self.batches.get_mut(&number) {
            batch.writing = batch.writing.saturating_sub(1);
        }
    }

    /// Takes a stored receipt in again after a restart.
    pub(crate) fn recall(&mut self, number: u64, key: Key, position: Position, at: UnixMs) {
        self.seen.entry(key.0).or_default().insert(key.1);
        let batch = self.batches.entry(number).or_insert_with(BatchState::new);
        batch.first_at.get_or_insert(at);
        batch.receipts.push((key, position));
        if number > self.open {
            self.open = number;
        }
    }

    /// After a restart: everything below the highest batch is sealed, and the highest too if it went further.
    pub(crate) fn settle_down(&mut self) {
        let open = self.open;
        for (number, batch) in &mut self.batches {
            if *number < open && batch.phase == Phase::Open {
                batch.phase = Phase::Sealed;
            }
        }
        if self.batches.get(&open).is_some_and(|batch| batch.phase != Phase::Open) {
            self.open = open + 1;
            self.batches.insert(self.open, BatchState::new());
        }
    }

    fn seal(&mut self) {
        if let Some(batch) = self.batches.get_mut(&self.open) {
            batch.phase = Phase::Sealed;
        }
        let highest = self.batches.keys().next_back().copied().unwrap_or(self.open);
        self.open = if self.batches.get(&highest).is_some_and(|batch| batch.phase == Phase::Open) {
            highest
        } else {
            highest + 1
        };
        self.batches.entry(self.open).or_insert_with(BatchState::new);
    }

    /// Closes the open batch where its time has come.
    pub(crate) fn seal_if_due(&mut self, now: UnixMs) {
        let first_at = self.batches.get(&self.open).and_then(|batch| batch.first_at);
        if first_at.is_some_and(|at| now.ms_since(at) >= self.interval_ms) {
            self.seal();
        }
    }

    /// Sealed batches with every receipt stored.
    pub(crate) fn ready_to_form(&self) -> Vec<u64> {
        let ready = |batch: &BatchState| batch.phase == Phase::Sealed && batch.writing == 0;
        self.batches.iter().filter(|(_, batch)| ready(batch)).map(|(number, _)| *number).collect()
    }

    /// The lowest batch that waits for the chain. Numbers have no gaps there, so it must go first.
    pub(crate) fn next_to_submit(&self) -> Option<u64> {
        let waiting = self.batches.iter().find(|(_, batch)| batch.phase < Phase::Submitted);
        waiting.filter(|(_, batch)| batch.phase == Phase::Formed).map(|(number, _)| *number)
    }

    pub(crate) fn batch(&self, number: u64) -> Option<&BatchState> {
        self.batches.get(&number)
    }

    pub(crate) fn batch_mut(&mut self, number: u64) -> Option<&mut BatchState> {
        self.batches.get_mut(&number)
    }

    pub(crate) fn batches(&self) -> impl Iterator<Item = (&u64, &BatchState)> {
        self.batches.iter()
    }

    /// Forgets the receipts of batches that were done so long ago that nobody may ask for them any more.
    pub(crate) fn forget_old(&mut self, now_s: u64) {
        for batch in self.batches.values_mut() {
            if batch.phase == Phase::Done && batch.finalisable_at_s.saturating_add(SERVED_AFTER_WINDOW_S) < now_s {
                batch.receipts = Vec::new();
                batch.root = BatchRoot(B256::ZERO);
            }
        }
    }

    pub(crate) fn number_of_root(&self, root: BatchRoot) -> Option<u64> {
        self.batches.iter().find(|(_, b)| b.root == root && b.phase >= Phase::Formed).map(|(number, _)| *number)
    }

    /// Receipts that are not on the chain yet.
    pub(crate) fn waiting(&self) -> usize {
        let waiting = self.batches.values().rev().take_while(|batch| batch.phase < Phase::Submitted);
        waiting.map(|batch| batch.receipts.len() + batch.writing).sum()
    }

    /// A batch none of whose receipts could be stored takes receipts again, because its number may not be left out.
    pub(crate) fn reopen_if_empty(&mut self, number: u64) -> bool {
        match self.batches.get_mut(&number) {
            Some(batch) if batch.receipts.is_empty() => {
                *batch = BatchState::new();
                self.open = number;
                true
            }
            _ => false,
        }
    }

    /// Keeps a voucher if it is higher than the one that is held. True where it is.
    pub(crate) fn hold(&mut self, channel: ChannelId, held: Held) -> bool {
        match self.vouchers.get_mut(&channel) {
            Some(known) if known.cumulative >= held.cumulative => false,
            Some(known) => {
                // It has waited since the first unpaid voucher came.
                let since = if known.due().is_zero() { held.since } else { known.since };
                *known = Held { since, ..held };
                true
            }
            None => {
                self.vouchers.insert(channel, held);
                true
            }
        }
    }

    pub(crate) fn held(&self, channel: ChannelId) -> Option<&Held> {
        self.vouchers.get(&channel)
    }

    pub(crate) fn held_mut(&mut self, channel: ChannelId) -> Option<&mut Held> {
        self.vouchers.get_mut(&channel)
    }

    /// Channels whose voucher would move something.
    pub(crate) fn channels_due(&self) -> Vec<ChannelId> {
        self.vouchers.iter().filter(|(_, held)| !held.due().is_zero()).map(|(channel, _)| *channel).collect()
    }

    /// Whether a voucher has waited for longer than a batch may.
    pub(crate) fn vouchers_overdue(&self, now: UnixMs) -> bool {
        self.vouchers.values().any(|held| !held.due().is_zero() && now.ms_since(held.since) >= self.interval_ms)
    }
}
