//! The server's figures, registered under `trellis_rpc_*`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The method of a request; only names that exist, so that a client cannot make labels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct MethodLabel {
    /// The method's name.
    pub method: &'static str,
}

/// The kind of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct KindLabel {
    /// `newHeads`, `logs` or `newPendingTransactions`.
    pub kind: &'static str,
}

/// What the server counts.
#[derive(Clone, Debug)]
pub struct RpcMetrics {
    /// Requests answered, by method.
    pub requests: Family<MethodLabel, Counter>,
    /// Requests answered with an error, by method.
    pub errors: Family<MethodLabel, Counter>,
    /// Seconds from a request to its answer, all methods together.
    pub latency: Histogram,
    /// Requests per batch.
    pub batch: Histogram,
    /// Transactions that came in raw.
    pub raw_transactions: Counter,
    /// Subscriptions open now, by kind.
    pub subscriptions: Family<KindLabel, Gauge>,
    /// Subscriptions closed because their client was too slow.
    pub slow_subscribers: Counter,
    /// Connections refused because of their `Host` or `Origin`.
    pub refused_hosts: Counter,
}

impl Default for RpcMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            errors: Family::default(),
            latency: Histogram::new(exponential_buckets(0.000_1, 4.0, 9)),
            batch: Histogram::new(exponential_buckets(1.0, 4.0, 6)),
            raw_transactions: Counter::default(),
            subscriptions: Family::default(),
            slow_subscribers: Counter::default(),
            refused_hosts: Counter::default(),
        }
    }
}

impl RpcMetrics {
    /// Adds every figure to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("trellis_rpc");
        registry.register("requests", "Requests answered, by method", self.requests.clone());
        registry.register("errors", "Requests answered with an error, by method", self.errors.clone());
        registry.register("latency_seconds", "From a request to its answer", self.latency.clone());
        registry.register("batch_requests", "Requests per batch", self.batch.clone());
        registry.register("raw_transactions", "Transactions that came in raw", self.raw_transactions.clone());
        registry.register("subscriptions", "Subscriptions open now, by kind", self.subscriptions.clone());
        registry.register(
            "slow_subscribers",
            "Subscriptions closed because their client was too slow",
            self.slow_subscribers.clone(),
        );
        registry.register(
            "refused_hosts",
            "Connections refused because of their Host or Origin",
            self.refused_hosts.clone(),
        );
    }
}
