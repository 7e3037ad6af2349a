//! What the engine counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why something a peer sent was thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabel {
    /// The named reason.
    pub reason: &'static str,
}

/// Metrics of the engine; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct EngineMetrics {
    /// Height being decided.
    pub height: Gauge<u64, AtomicU64>,
    /// Round of that height.
    pub round: Gauge<u64, AtomicU64>,
    /// Blocks decided in this run.
    pub decided: Counter,
    /// Rounds that ended without a decision in this run.
    pub failed_rounds: Counter,
    /// Validators that are drawn as proposers only after the others, because they missed their turns.
    pub demoted: Gauge<u64, AtomicU64>,
    /// Blocks proposed by this validator.
    pub proposed: Counter,
    /// Blocks that this validator would not vote for.
    pub invalid_blocks: Counter,
    /// Pieces of equivocation evidence handed to the application.
    pub evidence: Counter,
    /// Validators connected.
    pub peers: Gauge<u64, AtomicU64>,
    /// Messages of peers that were thrown away.
    pub refused: Family<RefusedLabel, Counter>,
    /// Times a peer sent faster than allowed and was made to wait.
    pub throttled: Counter,
    /// Messages that did not fit into a slow peer's queue.
    pub unsent: Counter,
}

impl EngineMetrics {
    /// Registers everything under `trellis_consensus_`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("trellis_consensus");
        r.register("height", "Height being decided", self.height.clone());
        r.register("round", "Round of the height being decided", self.round.clone());
        r.register("decided", "Blocks decided in this run", self.decided.clone());
        r.register("failed_rounds", "Rounds without a decision", self.failed_rounds.clone());
        r.register("demoted", "Validators that propose only after the others, for missed turns", self.demoted.clone());
        r.register("proposed", "Blocks proposed by this validator", self.proposed.clone());
        r.register("invalid_blocks", "Proposed blocks found invalid", self.invalid_blocks.clone());
        r.register("evidence", "Pieces of evidence of equivocation", self.evidence.clone());
        r.register("peers", "Validators connected", self.peers.clone());
        r.register("refused", "Messages of peers thrown away", self.refused.clone());
        r.register("throttled", "Times a peer was made to wait", self.throttled.clone());
        r.register("unsent", "Messages dropped for slow peers", self.unsent.clone());
    }

    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabel { reason }).inc();
    }
}
