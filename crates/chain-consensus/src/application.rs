//! The trait through which consensus reaches the chain: the producer implements it, the node plugs it in.

use async_trait::async_trait;
use thiserror::Error;
use trellis_chain_finality::{Demoted, Equivocation, ValidatorSet};
use trellis_primitives::{B256, Bytes, CommitCertificate, UnixMs};

/// The last block that is committed and durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its height; 0 is genesis.
    pub height: u64,
    /// Its header hash.
    pub hash: B256,
    /// The certificate it was committed with; None for genesis.
    pub certificate: Option<CommitCertificate>,
}

/// A block that the application built, executed and kept ready for `commit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposedBlock {
    /// keccak-256 of its header: the value that is voted for.
    pub block_hash: B256,
    /// RLP of the block.
    pub block_rlp: Bytes,
}

/// What the application says about a proposed block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It decodes, executes on the tip, and its header says what came out.
    Valid {
        /// keccak-256 of its header: the value that is voted for.
        block_hash: B256,
    },
    /// It must not be voted for.
    Invalid {
        /// Why, for the log.
        reason: String,
    },
}

/// Why the application could not answer. A verdict about a block is not an error.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppError {
    /// Storage failed (full disk, corruption). The engine stops rather than goes on without a durable decision.
    #[error("storage failed in {operation}: {detail}")]
    Storage {
        /// What was being done.
        operation: &'static str,
        /// The storage's own account.
        detail: String,
    },
    /// Not possible now, may be in a moment (for example still executing the parent).
    #[error("{operation} is not possible yet: {detail}")]
    NotReady {
        /// What was asked for.
        operation: &'static str,
        /// What is missing.
        detail: String,
    },
    /// The application and the engine disagree on what is being built; a bug on one side.
    #[error("{operation} was asked for height {actual}, the tip allows {expected}")]
    WrongHeight {
        /// What was asked for.
        operation: &'static str,
        /// Height after the tip.
        expected: u64,
        /// Height asked for.
        actual: u64,
    },
    /// Execution or assembly of a block failed for a reason that lies in this node.
    #[error("{operation} failed: {detail}")]
    Internal {
        /// What was being done.
        operation: &'static str,
        /// What happened.
        detail: String,
    },
}

/// A block on which the committee agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecidedBlock {
    /// The proof of the decision; `certificate.block_hash` is the block's hash.
    pub certificate: CommitCertificate,
    /// RLP of the block. Given again because after a restart the executed block is no longer cached.
    pub block_rlp: Bytes,
}

/// What consensus asks of the chain.
///
/// The engine calls one method at a time, except `decided` and `tip`, which may be called at any time.
/// Calls come in this order for every height: `validators(h)` and `demoted(h)`, then `propose`, `verify` and `verify_again` any number of times,
/// then `commit` once, then `finalized` at most once.
#[async_trait]
pub trait Application: Send + Sync + 'static {
    /// The last committed block.
    async fn tip(&self) -> Result<Tip, AppError>;

    /// The committee that decides block `height`; asked for `tip + 1` only.
    async fn validators(&self, height: u64) -> Result<ValidatorSet, AppError>;

    /// Who of that committee is drawn as proposer only after the others; asked for `tip + 1` only. It must follow from the
    /// committed blocks alone, as [`trellis_chain_finality::Turns`] does: all who decide the height must say the same, or
    /// they refuse each other's proposals. An application that keeps no account of turns demotes nobody.
    async fn demoted(&self, _height: u64) -> Result<Demoted, AppError> {
        Ok(Demoted::default())
    }

    /// Builds and executes a block on the tip and keeps it under its hash for `commit`; `verify` is not called for it
    /// in this run. `parent_commit` is the fullest certificate known for the tip (None on genesis) and belongs into the
    /// block's section. The answer is useless after `deadline`. It may be asked again in a later round of the same
    /// height. It should not wait for the block time: the engine does that between two heights, where waiting blocks nobody.
    async fn propose(
        &self,
        height: u64,
        round: u32,
        parent_commit: Option<CommitCertificate>,
        deadline: UnixMs,
    ) -> Result<ProposedBlock, AppError>;

    /// Judges a block proposed for `height` = tip + 1: decodes and executes it before anyone votes, and keeps the
    /// executed block under its hash for `commit`.
    async fn verify(&self, height: u64, block_rlp: Bytes) -> Result<Verdict, AppError>;

    /// Judges a block on which the local clock has no say any more: one that the committee decided, or one that was judged
    /// before and kept. A clock that was set back must not keep a validator from what all others agree on, nor from a block
    /// it voted for itself. An application without a rule about time judges it as any other.
    async fn verify_again(&self, height: u64, block_rlp: Bytes) -> Result<Verdict, AppError> {
        self.verify(height, block_rlp).await
    }

    /// Commits the decided block. When it returns Ok the block survives any kill and is the new tip.
    /// The same block may be decided again after a crash between the commit and the engine's note of it.
    async fn commit(&self, decided: DecidedBlock) -> Result<(), AppError>;

    /// Hands over what was learnt about the height after the commit: the certificate with precommits that came late
    /// (rewards and jailing count it) and evidence of equivocation, checked already. Both must be durable when it
    /// returns Ok; the next height starts after that. Not called when there is nothing new.
    async fn finalized(&self, certificate: CommitCertificate, evidence: Vec<Equivocation>) -> Result<(), AppError>;

    /// The committed block at `height`, for validators that fell behind; None where it is unknown or pruned.
    async fn decided(&self, height: u64) -> Result<Option<DecidedBlock>, AppError>;
}
