//! What a journal counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the synchronisation histogram's buckets, in seconds.
const SYNC_SECONDS_BUCKETS: [f64; 10] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0];

/// A journal's figures.
#[derive(Debug, Clone)]
pub struct JournalMetrics {
    /// Records made durable.
    pub records: Counter,
    /// Groups written; each is one synchronisation with the disk.
    pub groups: Counter,
    /// Bytes made durable, headers included.
    pub bytes: Counter,
    /// Groups that could not be written.
    pub failures: Counter,
    /// Seconds that writing and synchronising one group took.
    pub sync_seconds: Histogram,
}

impl Default for JournalMetrics {
    fn default() -> Self {
        Self {
            records: Counter::default(),
            groups: Counter::default(),
            bytes: Counter::default(),
            failures: Counter::default(),
            sync_seconds: Histogram::new(SYNC_SECONDS_BUCKETS),
        }
    }
}

impl JournalMetrics {
    /// Shows the figures in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("market_journal_records", "Records made durable", self.records.clone());
        registry.register(
            "market_journal_groups",
            "Groups written, one disk synchronisation each",
            self.groups.clone(),
        );
        registry.register("market_journal_bytes", "Bytes made durable, headers included", self.bytes.clone());
        registry.register("market_journal_failures", "Groups that could not be written", self.failures.clone());
        registry.register(
            "market_journal_sync_seconds",
            "Seconds that writing and synchronising one group took",
            self.sync_seconds.clone(),
        );
    }
}
