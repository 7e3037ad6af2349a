//! Checkpoints of a running node (CHN-15): each member signs what is final, everybody collects, the producer puts the
//! certificate into a block.
//!
//! The engine has no part in it: a member signs a block that it has committed, so that its signature needs no round and no
//! guard, and whoever is silent or lies keeps no vote and no block from anybody (ADR 0007). A signature is one frame on
//! [`CHECKPOINT_PROTOCOL`], from its signer to every validator that it is connected to, again at each block until a
//! certificate stands in one. A frame is bounded, and from one peer only so many wrong signatures are looked at.

mod fetch;
mod service;
pub(crate) mod state;
pub(crate) mod wire;

use async_trait::async_trait;
use std::sync::Arc;
use trellis_chain_finality::{CheckpointCommittee, CheckpointMessage, CheckpointRules};
use trellis_primitives::Bytes;

use crate::application::AppError;

pub use fetch::CHECKPOINT_PROOF_PROTOCOL;
pub use service::{CHECKPOINT_PROTOCOL, CheckpointMetrics, CheckpointSigner, Checkpoints, start};

/// A checkpoint to be signed.
#[derive(Clone, Debug)]
pub struct CheckpointDuty {
    /// What is signed.
    pub message: CheckpointMessage,
    /// Who may.
    pub committee: Arc<CheckpointCommittee>,
}

/// What checkpoints need of the chain: the producer implements it, the node plugs it in.
#[async_trait]
pub trait CheckpointKeeper: Send + Sync + 'static {
    /// Which blocks have checkpoints.
    fn rules(&self) -> CheckpointRules;

    /// The newest final block's height.
    fn height(&self) -> u64;

    /// Waits for a final block above this height, and gives the newest one's. May be dropped and asked again at any time.
    async fn above(&self, height: u64) -> u64;

    /// What is to be signed of a block; none where it has no checkpoint or is not final here.
    async fn duty(&self, height: u64) -> Result<Option<CheckpointDuty>, AppError>;

    /// Whether a certificate of this checkpoint stands in a final block.
    async fn stands(&self, height: u64) -> Result<bool, AppError>;

    /// The certificates that are here, as RLP: the one in BLS12-381 and the one in ML-DSA-44.
    async fn kept(&self, height: u64) -> Result<(Option<Bytes>, Option<Bytes>), AppError>;

    /// Keeps the certificates given, which hold. Durable when it returns.
    async fn keep(&self, height: u64, certificate: Option<Bytes>, post_quantum: Option<Bytes>) -> Result<(), AppError>;
}
