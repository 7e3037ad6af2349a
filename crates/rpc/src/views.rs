//! What the answers need from planes that this crate must not import; the node plugs it in.

use std::sync::Arc;
use trellis_chain_execution::SystemCall;
use trellis_chain_finality::{CheckpointCommittee, ValidatorSet};
use trellis_primitives::Block;

/// The market, as `trellis_*` shows it. Every figure is read when it is asked for.
pub trait MarketView: Send + Sync + 'static {
    /// The market's part of `trellis_status`: any JSON object (jobs, receipts, channels, settlement).
    fn summary(&self) -> serde_json::Value;
}

/// The network, as `net_*`, `eth_syncing` and `trellis_status` show it.
pub trait NetView: Send + Sync + 'static {
    /// How many peers are connected.
    fn peer_count(&self) -> u64;
    /// Whether connections are accepted.
    fn is_listening(&self) -> bool;
    /// Where a running sync stands, `None` when the node is at the head.
    fn sync_progress(&self) -> Option<SyncProgress>;
    /// The network's part of `trellis_status`: any JSON object (node id, roles, peers).
    fn summary(&self) -> serde_json::Value;
}

/// Where a sync stands, in block heights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncProgress {
    /// Where it began.
    pub starting_block: u64,
    /// How far it is.
    pub current_block: u64,
    /// How far the best known peer is.
    pub highest_block: u64,
}

/// The committee of a height, for `trellis_validators` and for who checks a finality proof.
pub trait CommitteeView: Send + Sync + 'static {
    /// The committee that decides this height, `None` when it is not known here.
    fn committee(&self, height: u64) -> Option<ValidatorSet>;

    /// The same with the keys that its members sign checkpoints with.
    fn checkpoint_committee(&self, height: u64) -> Option<Arc<CheckpointCommittee>> {
        let _ = height;
        None
    }

    /// The chain's own call in a block, which it is run again with; most blocks have none.
    fn system_call(&self, block: &Block) -> Option<SystemCall> {
        let _ = block;
        None
    }
}

impl CommitteeView for ValidatorSet {
    fn committee(&self, _height: u64) -> Option<ValidatorSet> {
        Some(self.clone())
    }
}

/// No market on this node.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMarket;

impl MarketView for NoMarket {
    fn summary(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// No network on this node: a chain of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNet;

impl NetView for NoNet {
    fn peer_count(&self) -> u64 {
        0
    }
    fn is_listening(&self) -> bool {
        false
    }
    fn sync_progress(&self) -> Option<SyncProgress> {
        None
    }
    fn summary(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}
