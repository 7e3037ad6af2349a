//! What can be set. The chain's own parameters come from the chain spec; the rest are bounds of this node.

use std::time::Duration;

use arc_malachitebft_core_types::LinearTimeouts;

/// Settings of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Time from the start of one height to the start of the next, milliseconds; 0 = as fast as it goes.
    pub block_time_ms: u64,
    /// How long a proposer may take in round 0, milliseconds.
    pub propose_timeout_ms: u64,
    /// What every timeout grows by per round, milliseconds.
    pub timeout_delta_ms: u64,
    /// How long to wait for more votes once two thirds voted without agreeing, milliseconds.
    pub vote_timeout_ms: u64,
    /// How often peers are told our height, milliseconds; a validator that fell behind learns of it within this time.
    pub status_interval_ms: u64,
    /// How long a peer may take to answer a request for a decided block, milliseconds.
    pub sync_timeout_ms: u64,
}

/// No timeout grows beyond this, milliseconds.
pub const TIMEOUT_MS_MAX: u64 = 30_000;

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            block_time_ms: 1_000,
            propose_timeout_ms: 700,
            timeout_delta_ms: 200,
            vote_timeout_ms: 300,
            status_interval_ms: 1_000,
            sync_timeout_ms: 5_000,
        }
    }
}

impl EngineConfig {
    pub(crate) fn timeouts(&self) -> LinearTimeouts {
        let propose = Duration::from_millis(self.propose_timeout_ms);
        let vote = Duration::from_millis(self.vote_timeout_ms);
        let delta = Duration::from_millis(self.timeout_delta_ms);
        LinearTimeouts {
            propose,
            propose_delta: delta,
            prevote: vote,
            prevote_delta: delta,
            precommit: vote,
            precommit_delta: delta,
            rebroadcast: propose.saturating_add(vote).saturating_add(vote),
            max_timeout: Duration::from_millis(TIMEOUT_MS_MAX),
        }
    }

    pub(crate) fn target_time(&self) -> Option<Duration> {
        (self.block_time_ms > 0).then(|| Duration::from_millis(self.block_time_ms))
    }
}
