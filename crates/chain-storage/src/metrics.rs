//! Numbers about the store, updated by every commit.

use parking_lot::Mutex;
use std::time::Duration;

/// Numbers about the store since it was opened.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct StoreMetrics {
    /// Blocks committed.
    pub blocks_total: u64,
    /// Transactions committed.
    pub transactions_total: u64,
    /// Bytes appended to segment files.
    pub segment_bytes_total: u64,
    /// Time spent appending and syncing segment records, in microseconds.
    pub segment_us_total: u64,
    /// Time spent in database commits, in microseconds.
    pub database_us_total: u64,
    /// How long the last commit took from call to durable, in microseconds.
    pub last_commit_us: u64,
}

#[derive(Default)]
pub(crate) struct MetricsCell(Mutex<StoreMetrics>);

impl MetricsCell {
    pub(crate) fn get(&self) -> StoreMetrics {
        *self.0.lock()
    }

    pub(crate) fn committed(&self, transactions: usize, bytes: u64, segment: Duration, database: Duration) {
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let mut m = self.0.lock();
        m.blocks_total = m.blocks_total.saturating_add(1);
        m.transactions_total = m.transactions_total.saturating_add(u64::try_from(transactions).unwrap_or(u64::MAX));
        m.segment_bytes_total = m.segment_bytes_total.saturating_add(bytes);
        m.segment_us_total = m.segment_us_total.saturating_add(us(segment));
        m.database_us_total = m.database_us_total.saturating_add(us(database));
        m.last_commit_us = us(segment.saturating_add(database));
    }
}
