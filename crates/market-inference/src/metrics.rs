//! Counters of one engine.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of an engine's counters. Totals count from the engine's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Requests waiting now.
    pub queue_depth: u64,
    /// Sequences running now (paused ones included).
    pub sequences: u64,
    /// Bytes of keys and values reserved now.
    pub kv_bytes: u64,
    /// Requests accepted.
    pub submitted_total: u64,
    /// Requests refused because the queue was full.
    pub refused_total: u64,
    /// Generations that ended by a stop token, a stop string or their length.
    pub finished_total: u64,
    /// Generations that their reader cancelled or dropped.
    pub cancelled_total: u64,
    /// Generations that failed inside the engine.
    pub failed_total: u64,
    /// Prompt tokens computed.
    pub tokens_in_total: u64,
    /// Output tokens computed, end tokens included.
    pub tokens_out_total: u64,
    /// Steps done; `tokens_out_total` divided by this is the mean batch while decoding.
    pub steps_total: u64,
    /// Times a sequence sat out a step because its reader was behind.
    pub paused_total: u64,
}

macro_rules! cells {
    ($($field:ident),*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Metrics { $(pub(crate) $field: AtomicU64),* }

        impl Metrics {
            pub(crate) fn snapshot(&self) -> EngineStats {
                EngineStats { $($field: self.$field.load(Ordering::Relaxed)),* }
            }
        }
    };
}

cells!(
    queue_depth,
    sequences,
    kv_bytes,
    submitted_total,
    refused_total,
    finished_total,
    cancelled_total,
    failed_total,
    tokens_in_total,
    tokens_out_total,
    steps_total,
    paused_total
);

pub(crate) fn add(cell: &AtomicU64, n: u64) {
    cell.fetch_add(n, Ordering::Relaxed);
}

pub(crate) fn set(cell: &AtomicU64, n: u64) {
    cell.store(n, Ordering::Relaxed);
}
