//! What a client counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// A client's figures.
#[derive(Debug, Clone, Default)]
pub struct ChainMetrics {
    /// Requests that a URL answered.
    pub answers: Counter,
    /// Times a URL did not answer and the next one was asked.
    pub failovers: Counter,
    /// Transactions that a node took.
    pub sent: Counter,
    /// Transactions that replaced a stuck one.
    pub replaced: Counter,
    /// Receipts that vanished again with their block.
    pub reorganised: Counter,
    /// Transactions seen in a final block.
    pub confirmed: Counter,
}

impl ChainMetrics {
    /// Shows the figures in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("market_chain_answers", "Requests that a URL answered", self.answers.clone());
        registry.register("market_chain_failovers", "Times the next URL had to be asked", self.failovers.clone());
        registry.register("market_chain_sent", "Transactions that a node took", self.sent.clone());
        registry.register("market_chain_replaced", "Transactions that replaced a stuck one", self.replaced.clone());
        registry.register(
            "market_chain_reorganised",
            "Receipts that vanished with their block",
            self.reorganised.clone(),
        );
        registry.register("market_chain_confirmed", "Transactions seen in a final block", self.confirmed.clone());
    }
}
