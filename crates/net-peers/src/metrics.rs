//! What the network counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use trellis_net_reach::relay::gate::RelayRefusal;
use trellis_net_reach::relay::places::PlacesReport;
use trellis_net_transport::TransportMetrics;

use crate::bandwidth::ClassUsage;
use crate::error::RefusedBy;
use crate::guard::{ClusterReport, MessageClass, Pattern, Response};
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

/// A step of the ladder against misbehaviour.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ResponseLabels {
    /// Which.
    pub response: &'static str,
}

/// A pattern of attack.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct PatternLabels {
    /// Which.
    pub pattern: &'static str,
}

/// Why this node's relay refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RelayRefusalLabels {
    /// Which.
    pub reason: &'static str,
}

/// What the places of this node's relay are for.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RelayPlacesLabels {
    /// `reservations` or `circuits`.
    pub kind: &'static str,
}

/// The counters of relays, in both roles, and of hole punching.
#[derive(Clone, Debug, Default)]
pub struct ReachMetrics {
    /// Peers that hold a reservation at this node's relay now.
    pub reservations: Gauge,
    /// Reservations that this node's relay granted or renewed.
    pub reservations_granted: Counter,
    /// Circuits through this node's relay now.
    pub circuits: Gauge,
    /// Circuits that were opened through this node's relay.
    pub circuits_opened: Counter,
    /// Bytes that passed through this node's relay.
    pub relayed_bytes: Counter,
    /// Circuits through this node's relay that were cut because their bytes or their time were used up.
    pub circuits_cut: Counter,
    /// Places of this node's relay.
    pub places: Family<RelayPlacesLabels, Gauge>,
    /// Of them those that are kept for peers with stake.
    pub places_kept: Family<RelayPlacesLabels, Gauge>,
    /// Places that are held now.
    pub places_used: Family<RelayPlacesLabels, Gauge>,
    /// Of them those that peers with stake hold.
    pub places_staked: Family<RelayPlacesLabels, Gauge>,
    /// Questions for a peer's stake that the chain did not answer.
    pub stake_unanswered: Counter,
    /// What this node's relay refused, by reason.
    pub relay_refused: Family<RelayRefusalLabels, Counter>,
    /// Reservations that this node holds at relays now.
    pub reserved: Gauge,
    /// Circuits that this node used, dialled or accepted.
    pub circuits_used: Counter,
    /// Direct connections that hole punching made.
    pub punched: Counter,
    /// Attempts to punch a hole that were given up.
    pub punch_failed: Counter,
    /// Times that the network under this node changed.
    pub network_changed: Counter,
}

impl ReachMetrics {
    fn register(&self, registry: &mut Registry) {
        let relay = registry.sub_registry_with_prefix("trellis_relay");
        let help = "Peers that hold a reservation at this node's relay now";
        relay.register("reservations", help, self.reservations.clone());
        let help = "Reservations that this node's relay granted or renewed";
        relay.register("reservations_granted", help, self.reservations_granted.clone());
        relay.register("circuits", "Circuits through this node's relay now", self.circuits.clone());
        let help = "Circuits that were opened through this node's relay";
        relay.register("circuits_opened", help, self.circuits_opened.clone());
        let help = "Bytes that passed through this node's relay";
        relay.register("relayed_bytes", help, self.relayed_bytes.clone());
        let help = "Circuits through this node's relay that were cut because their bytes or their time were used up";
        relay.register("circuits_cut", help, self.circuits_cut.clone());
        relay.register("places", "Places of this node's relay, by kind", self.places.clone());
        let help = "Places of this node's relay that are kept for peers with stake, by kind";
        relay.register("places_kept", help, self.places_kept.clone());
        let help = "Places of this node's relay that are held now, by kind";
        relay.register("places_used", help, self.places_used.clone());
        let help = "Places of this node's relay that peers with stake hold now, by kind";
        relay.register("places_staked", help, self.places_staked.clone());
        let help = "Questions for a peer's stake that the chain did not answer";
        relay.register("stake_unanswered", help, self.stake_unanswered.clone());
        relay.register("refused", "What this node's relay refused, by reason", self.relay_refused.clone());
        let reach = registry.sub_registry_with_prefix("trellis_reach");
        reach.register("reserved", "Reservations that this node holds at relays now", self.reserved.clone());
        let help = "Circuits that this node used, dialled or accepted";
        reach.register("circuits_used", help, self.circuits_used.clone());
        reach.register("punched", "Direct connections that hole punching made", self.punched.clone());
        let help = "Attempts to punch a hole that were given up";
        reach.register("punch_failed", help, self.punch_failed.clone());
        let help = "Times that the network under this node changed";
        reach.register("network_changed", help, self.network_changed.clone());
    }

    pub(crate) fn show_places(&self, kind: &'static str, report: &PlacesReport) {
        let shown = [
            (&self.places, report.max),
            (&self.places_kept, report.kept),
            (&self.places_used, report.used),
            (&self.places_staked, report.staked),
        ];
        for (gauges, count) in shown {
            gauges.get_or_create(&RelayPlacesLabels { kind }).set(gauge(count as u64));
        }
    }

    pub(crate) fn count_refusal(&self, refusal: RelayRefusal) {
        self.relay_refused.get_or_create(&RelayRefusalLabels { reason: refusal.name() }).inc();
    }

    /// How often the relay refused for this reason.
    #[must_use]
    pub fn refused_count(&self, refusal: RelayRefusal) -> u64 {
        self.relay_refused.get_or_create(&RelayRefusalLabels { reason: refusal.name() }).get()
    }
}

/// A way of the line and a class of messages.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct BandwidthLabels {
    /// `up` or `down`.
    pub direction: &'static str,
    /// Which class.
    pub class: &'static str,
}

/// A count as a gauge takes it.
pub(crate) fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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
    /// What was done about peers that misbehaved.
    pub responses: Family<ResponseLabels, Counter>,
    /// Patterns of attack that were recognised.
    pub patterns: Family<PatternLabels, Counter>,
    /// The counters of relays and hole punching.
    pub reach: ReachMetrics,
    /// Bytes per second in streams, by direction and class of messages.
    pub bandwidth: Family<BandwidthLabels, Gauge>,
    /// Handshakes of the transport that run now.
    pub half_open: Gauge,
    /// 1 while so much goes wrong that this node is under attack.
    pub under_attack: Gauge,
    /// Clusters of more nodes of one party than an honest one has, as far as they are known now.
    pub sybil_clusters: Gauge,
    /// Nodes of the largest cluster.
    pub sybil_nodes: Gauge,
    /// Peers that were refused because their cluster has its places.
    pub sybils_refused: Counter,
    /// Discovery's counters.
    pub discovery: crate::discovery::DiscoveryMetrics,
}

impl NetMetrics {
    /// Registers every counter, under the prefixes `trellis_transport` and `trellis_peers`.
    pub fn register(&self, registry: &mut Registry) {
        self.transport.register(registry);
        self.discovery.register(registry);
        self.reach.register(registry);
        let group = registry.sub_registry_with_prefix("trellis_peers");
        group.register("accepted", "Handshakes that both sides accepted", self.accepted.clone());
        group.register("refused", "Handshakes refused, by reason and author", self.refused.clone());
        let help = "Connections ended after the handshake, by reason";
        group.register("disconnected", help, self.disconnected.clone());
        group.register("connected", "Peers connected now", self.connected.clone());
        let help = "Inbound streams dropped because their acceptor was full or gone";
        group.register("streams_dropped", help, self.streams_dropped.clone());
        group.register("responses", "Responses to peers that misbehaved, by kind", self.responses.clone());
        group.register("patterns", "Patterns of attack that were recognised, by name", self.patterns.clone());
        let help = "Bytes per second in streams, by direction and class of messages";
        group.register("bandwidth", help, self.bandwidth.clone());
        group.register("half_open", "Handshakes of the transport that run now", self.half_open.clone());
        let help = "1 while so much goes wrong that this node is under attack";
        group.register("under_attack", help, self.under_attack.clone());
        let help = "Clusters of more nodes of one party than an honest one has, as far as they are known now";
        group.register("sybil_clusters", help, self.sybil_clusters.clone());
        group.register("sybil_nodes", "Nodes of the largest cluster", self.sybil_nodes.clone());
        let help = "Peers that were refused because their cluster has its places";
        group.register("sybils_refused", help, self.sybils_refused.clone());
    }

    pub(crate) fn show_clusters(&self, report: &ClusterReport) {
        self.sybil_clusters.set(gauge((report.by_keys + report.batches) as u64));
        self.sybil_nodes.set(gauge(report.largest as u64));
    }

    pub(crate) fn show_usage(&self, usage: &[(MessageClass, ClassUsage)]) {
        for (class, usage) in usage {
            for (direction, bytes) in [("up", usage.up_bytes_per_s), ("down", usage.down_bytes_per_s)] {
                let labels = BandwidthLabels { direction, class: class.name() };
                self.bandwidth.get_or_create(&labels).set(gauge(bytes));
            }
        }
    }

    /// How often a pattern of attack was counted.
    #[must_use]
    pub fn pattern_count(&self, pattern: Pattern) -> u64 {
        self.patterns.get_or_create(&PatternLabels { pattern: pattern.name() }).get()
    }

    pub(crate) fn count_refused(&self, by: RefusedBy, reason: RefusalReason) {
        self.refused.get_or_create(&Self::refused_labels(by, reason)).inc();
    }

    pub(crate) fn count_disconnected(&self, reason: DisconnectReason) {
        self.disconnected.get_or_create(&DisconnectedLabels { reason: reason.name() }).inc();
    }

    pub(crate) fn count_response(&self, response: Response) {
        self.responses.get_or_create(&ResponseLabels { response: response.name() }).inc();
    }

    pub(crate) fn count_pattern(&self, pattern: Pattern) {
        self.patterns.get_or_create(&PatternLabels { pattern: pattern.name() }).inc();
    }

    /// How often a response of this name was counted.
    #[must_use]
    pub fn response_count(&self, response: &'static str) -> u64 {
        self.responses.get_or_create(&ResponseLabels { response }).get()
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
