//! What a sync counts, under `trellis_sync_*`.

use crate::error::Fault;
use crate::state::Progress;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// The `reason` of a dropped peer or a refused request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SyncReason {
    /// A constant name.
    pub reason: &'static str,
}

/// Metrics of both sides; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct SyncMetrics {
    /// Part of the way from where this run began to the highest block that peers claim, 0 to 1.
    pub progress: Gauge<f64, AtomicU64>,
    /// The newest header proved to be final.
    pub proved: Gauge<u64, AtomicU64>,
    /// The newest block that a peer claims to have.
    pub highest: Gauge<u64, AtomicU64>,
    /// Peers that can be asked.
    pub peers: Gauge<u64, AtomicU64>,
    /// Bytes of bodies that wait to be committed.
    pub waiting: Gauge<u64, AtomicU64>,
    /// Blocks committed by syncing.
    pub committed: Counter,
    /// Bytes received in answers.
    pub received: Counter,
    /// Requests made.
    pub requests: Counter,
    /// Peers dropped, by what they did.
    pub dropped: Family<SyncReason, Counter>,
    /// Requests of others answered.
    pub served: Counter,
    /// Bytes sent in answers.
    pub sent: Counter,
    /// Requests of others refused, by reason.
    pub refused: Family<SyncReason, Counter>,
}

impl SyncMetrics {
    /// Registers everything under `trellis_sync_`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("trellis_sync");
        r.register("progress", "Part of the way to the highest block known, 0 to 1", self.progress.clone());
        r.register("proved_height", "Height of the newest header proved to be final", self.proved.clone());
        r.register("highest_height", "Height of the newest block that a peer claims", self.highest.clone());
        r.register("peers", "Peers that can be asked for blocks", self.peers.clone());
        r.register("waiting_bytes", "Bytes of bodies that wait to be committed", self.waiting.clone());
        r.register("committed", "Blocks committed by syncing", self.committed.clone());
        r.register("received_bytes", "Bytes received in answers", self.received.clone());
        r.register("requests", "Requests made", self.requests.clone());
        r.register("dropped", "Peers dropped, by what they did", self.dropped.clone());
        r.register("served", "Requests of others answered", self.served.clone());
        r.register("sent_bytes", "Bytes sent in answers", self.sent.clone());
        r.register("refused", "Requests of others refused, by reason", self.refused.clone());
    }

    pub(crate) fn drop_peer(&self, fault: Fault) {
        self.dropped.get_or_create(&SyncReason { reason: fault.name() }).inc();
    }

    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&SyncReason { reason }).inc();
    }

    pub(crate) fn show(&self, progress: &Progress) {
        self.progress.set(progress.share());
        self.proved.set(progress.proved);
        self.highest.set(progress.highest);
        self.peers.set(progress.peers as u64);
        self.waiting.set(progress.waiting_bytes as u64);
    }
}
