//! What the network counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use trellis_net_transport::TransportMetrics;

use crate::error::RefusedBy;
use crate::reason::{DisconnectReason, RefusalReason};

/// A refusal's name and author.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RefusedLabels {
    /// Why.
    pub reason: &'static str,
    /// Who refused: `us` or `the peer`.
    pub by: &'static str,
}

/// A disconnect's name.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct DisconnectedLabels {
    /// Why.
    pub reason: &'static str,
}

/// The counters of one node's network. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct NetMetrics {
    /// The transport's counters.
    pub transport: TransportMetrics,
    /// Handshakes that both sides accepted.
    pub accepted: Counter,
    /// Handshakes refused, by reason and author.
    pub refused: Family<RefusedLabels, Counter>,
    /// Connections ended after the handshake, by reason.
    pub disconnected: Family<DisconnectedLabels, Counter>,
    /// Peers connected now.
    pub connected: Gauge,
    /// Inbound streams dropped because their acceptor was full or gone.
    pub streams_dropped: Counter,
    /// Discovery's counters.
    pub discovery: crate::discovery::DiscoveryMetrics,
}

impl NetMetrics {
    /// Registers every counter, under the prefixes `trellis_transport` and `trellis_peers`.
    pub fn register(&self, registry: &mut Registry) {
        self.transport.register(registry);
        self.discovery.register(registry);
        let group = registry.sub_registry_with_prefix("trellis_peers");
        group.register("accepted", "Handshakes that both sides accepted", self.accepted.clone());
        group.register("refused", "Handshakes refused, by reason and author", self.refused.clone());
        let help = "Connections ended after the handshake, by reason";
        group.register("disconnected", help, self.disconnected.clone());
        group.register("connected", "Peers connected now", self.connected.clone());
        let help = "Inbound streams dropped because their acceptor was full or gone";
        group.register("streams_dropped", help, self.streams_dropped.clone());
    }

    pub(crate) fn count_refused(&self, by: RefusedBy, reason: RefusalReason) {
        self.refused.get_or_create(&Self::refused_labels(by, reason)).inc();
    }

    pub(crate) fn count_disconnected(&self, reason: DisconnectReason) {
        self.disconnected.get_or_create(&DisconnectedLabels { reason: reason.name() }).inc();
    }

    /// How often a refusal was counted.
    #[must_use]
    pub fn refused_count(&self, by: RefusedBy, reason: RefusalReason) -> u64 {
        self.refused.get_or_create(&Self::refused_labels(by, reason)).get()
    }

    fn refused_labels(by: RefusedBy, reason: RefusalReason) -> RefusedLabels {
        let by = match by {
            RefusedBy::Us => "us",
            RefusedBy::Them => "the peer",
        };
        RefusedLabels { reason: reason.name(), by }
    }
}
