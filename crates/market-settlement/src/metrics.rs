//! What an aggregator counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// An aggregator's figures.
#[derive(Debug, Clone, Default)]
pub struct SettlementMetrics {
    /// Receipts promised into a batch.
    pub receipts_promised: Counter,
    /// Receipts refused.
    pub receipts_refused: Counter,
    /// Batches on the chain.
    pub batches_submitted: Counter,
    /// Batches whose window is over.
    pub batches_final: Counter,
    /// Vouchers that the chain paid.
    pub vouchers_paid: Counter,
    /// Demands answered.
    pub demands_answered: Counter,
    /// Receipts that wait for their batch to reach the chain.
    pub receipts_waiting: Gauge,
}

impl SettlementMetrics {
    /// Shows the figures in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "settlement_receipts_promised",
            "Receipts promised into a batch",
            self.receipts_promised.clone(),
        );
        registry.register("settlement_receipts_refused", "Receipts refused", self.receipts_refused.clone());
        registry.register("settlement_batches_submitted", "Batches on the chain", self.batches_submitted.clone());
        registry.register("settlement_batches_final", "Batches whose window is over", self.batches_final.clone());
        registry.register("settlement_vouchers_paid", "Vouchers that the chain paid", self.vouchers_paid.clone());
        registry.register("settlement_demands_answered", "Demands answered", self.demands_answered.clone());
        registry.register(
            "settlement_receipts_waiting",
            "Receipts that wait for their batch to reach the chain",
            self.receipts_waiting.clone(),
        );
    }
}
