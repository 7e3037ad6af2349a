//! Numbers about the producer.

use parking_lot::Mutex;
use std::time::Duration;

/// Numbers about the producer since it was started. Times are in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProducerMetrics {
    /// Blocks built here.
    pub proposed_total: u64,
    /// Time spent building and executing them.
    pub propose_us_total: u64,
    /// Blocks verified and found valid.
    pub verified_total: u64,
    /// Time spent verifying, valid or not.
    pub verify_us_total: u64,
    /// Blocks refused.
    pub refused_total: u64,
    /// Blocks committed.
    pub committed_total: u64,
    /// Time spent committing.
    pub commit_us_total: u64,
    /// Transactions in blocks committed.
    pub transactions_total: u64,
    /// Gas used in blocks committed.
    pub gas_total: u64,
    /// Candidates left out of blocks built here because they were invalid.
    pub candidates_invalid_total: u64,
}

#[derive(Debug, Default)]
pub(crate) struct MetricsCell(Mutex<ProducerMetrics>);

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl MetricsCell {
    pub(crate) fn get(&self) -> ProducerMetrics {
        *self.0.lock()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut ProducerMetrics)) {
        change(&mut self.0.lock());
    }
}
