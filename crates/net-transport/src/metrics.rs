//! What the transport counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A refusal's name.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RefusalLabel {
    /// Why.
    pub reason: &'static str,
}

/// The transport's counters. The documentation of each field is its help text. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct TransportMetrics {
    /// Connections established and authenticated, inbound.
    pub inbound: Counter,
    /// Connections established and authenticated, outbound.
    pub outbound: Counter,
    /// Connections open now.
    pub open: Gauge,
    /// First packets refused or ignored before any cryptography.
    pub admission_refused: Counter,
    /// First packets answered with a Retry.
    pub admission_retried: Counter,
    /// First packets dropped at the socket without an answer.
    pub admission_unanswered: Counter,
    /// Connections refused or failed in the handshake, by reason.
    pub refused: Family<RefusalLabel, Counter>,
    /// Datagrams that cannot be part of any connection of this node and were dropped.
    pub garbage: Counter,
}

impl TransportMetrics {
    /// Registers every counter under the prefix `trellis_transport`.
    pub fn register(&self, registry: &mut Registry) {
        let group = registry.sub_registry_with_prefix("trellis_transport");
        group.register("inbound", "Connections established and authenticated, inbound", self.inbound.clone());
        group.register("outbound", "Connections established and authenticated, outbound", self.outbound.clone());
        group.register("open", "Connections open now", self.open.clone());
        let help = "First packets refused or ignored before any cryptography";
        group.register("admission_refused", help, self.admission_refused.clone());
        group.register("admission_retried", "First packets answered with a Retry", self.admission_retried.clone());
        let help = "First packets dropped at the socket without an answer";
        group.register("admission_unanswered", help, self.admission_unanswered.clone());
        group.register("refused", "Connections refused or failed in the handshake, by reason", self.refused.clone());
        let help = "Datagrams that cannot be part of any connection of this node and were dropped";
        group.register("garbage", help, self.garbage.clone());
    }

    pub(crate) fn count_refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusalLabel { reason }).inc();
    }

    /// How often a reason was counted.
    #[must_use]
    pub fn refused_count(&self, reason: &'static str) -> u64 {
        self.refused.get_or_create(&RefusalLabel { reason }).get()
    }
}
