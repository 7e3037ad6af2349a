//! The pool's figures, registered under `trellis_mempool_*`.

use crate::error::PoolError;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The `reason` of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct Refusal {
    /// A constant name ([`PoolError::reason`]).
    pub reason: &'static str,
}

/// What the pool counts.
#[derive(Clone, Default, Debug)]
pub struct PoolMetrics {
    /// Transactions that can run now.
    pub pending: Gauge,
    /// Transactions that wait for an earlier nonce or for funds.
    pub queued: Gauge,
    /// Bytes of the encodings held.
    pub bytes: Gauge,
    /// Transactions taken.
    pub inserted: Counter,
    /// Transactions that replaced another of the same nonce.
    pub replaced: Counter,
    /// Transactions that left because the pool was full.
    pub evicted: Counter,
    /// Transactions that left because they waited too long.
    pub expired: Counter,
    /// Transactions that left because a block had them.
    pub included: Counter,
    /// Transactions refused, by reason.
    pub refused: Family<Refusal, Counter>,
    /// Senders answered from memory instead of a recovery.
    pub recovered_hits: Counter,
    /// From pool to pool.
    pub gossip: GossipMetrics,
}

/// What flows between pools.
#[derive(Clone, Default, Debug)]
pub struct GossipMetrics {
    /// Transactions handed to peers, once for each peer.
    pub sent: Counter,
    /// Transactions that peers handed to this pool.
    pub received: Counter,
    /// Of these, those that it held already.
    pub duplicates: Counter,
    /// Of these, those that it refused.
    pub refused: Counter,
    /// Bytes of what was handed out, before compression.
    pub body_bytes: Counter,
    /// Bytes of the frames that carried it.
    pub frame_bytes: Counter,
    /// Transactions not handed to a peer because they pay less than it takes, once for each peer and try.
    pub withheld: Counter,
    /// Fee filters that peers told.
    pub filters: Counter,
    /// What this pool tells its peers as the least tip, wei per gas.
    pub tip_min_wei: Gauge,
}

impl PoolMetrics {
    /// Adds every figure to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("trellis_mempool");
        registry.register("pending_transactions", "Transactions that can run now", self.pending.clone());
        registry.register(
            "queued_transactions",
            "Transactions that wait for an earlier nonce or for funds",
            self.queued.clone(),
        );
        registry.register("held_bytes", "Bytes of the transactions held", self.bytes.clone());
        registry.register("inserted", "Transactions taken", self.inserted.clone());
        registry.register("replaced", "Transactions that replaced another of the same nonce", self.replaced.clone());
        registry.register("evicted", "Transactions that left because the pool was full", self.evicted.clone());
        registry.register("expired", "Transactions that left because they waited too long", self.expired.clone());
        registry.register("included", "Transactions that left because a block had them", self.included.clone());
        registry.register("refused", "Transactions refused, by reason", self.refused.clone());
        registry.register(
            "recovered_hits",
            "Senders answered from memory instead of a recovery",
            self.recovered_hits.clone(),
        );
        let gossip = &self.gossip;
        registry.register("gossip_sent", "Transactions handed to peers, once for each", gossip.sent.clone());
        registry.register("gossip_received", "Transactions that peers handed to this pool", gossip.received.clone());
        registry.register(
            "gossip_duplicates",
            "Transactions from peers that were held already",
            gossip.duplicates.clone(),
        );
        registry.register("gossip_refused", "Transactions from peers that were refused", gossip.refused.clone());
        registry.register(
            "gossip_body_bytes",
            "Bytes of transactions handed to peers, before compression",
            gossip.body_bytes.clone(),
        );
        registry.register("gossip_frame_bytes", "Bytes of the frames that carried them", gossip.frame_bytes.clone());
        registry.register(
            "gossip_withheld",
            "Transactions not handed to a peer because they pay less than it takes",
            gossip.withheld.clone(),
        );
        registry.register("gossip_filters", "Fee filters that peers told this pool", gossip.filters.clone());
        registry.register(
            "gossip_tip_min_wei",
            "Least tip per gas that this pool tells its peers, in wei; above zero when it is full",
            gossip.tip_min_wei.clone(),
        );
    }

    pub(crate) fn refuse(&self, error: &PoolError) {
        self.refused.get_or_create(&Refusal { reason: error.reason() }).inc();
    }
}
