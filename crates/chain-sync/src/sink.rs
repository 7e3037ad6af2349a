//! The trait through which a sync reaches the chain: the producer implements it, the node plugs it in.

use crate::error::SinkError;
use async_trait::async_trait;
use trellis_chain_finality::ValidatorSet;
use trellis_primitives::{B256, Block, CommitCertificate};

/// The newest block that is committed and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its height; 0 is the genesis.
    pub height: u64,
    /// Its header's hash.
    pub hash: B256,
}

/// A block that is proved to be final: by its certificate, or by the certificate of a later block whose chain of parents
/// leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalBlock {
    /// The block; its body is the one that its header commits to.
    pub block: Block,
    /// Its header's hash.
    pub hash: B256,
    /// The certificate that is kept with it.
    pub certificate: CommitCertificate,
}

/// Who executes and commits. One writer: nobody else commits while a sync runs.
#[async_trait]
pub trait BlockSink: Send + Sync + 'static {
    /// The newest block committed.
    ///
    /// # Errors
    /// [`SinkError::Storage`].
    async fn head(&self) -> Result<Head, SinkError>;

    /// The committee that decides a block, at most two above the head.
    ///
    /// # Errors
    /// [`SinkError::Storage`].
    async fn committee(&self, height: u64) -> Result<ValidatorSet, SinkError>;

    /// Executes and commits blocks in their order, the first on the head. When it returns, they survive any kill; where
    /// it fails, those before the one that failed may have been committed.
    ///
    /// # Errors
    /// [`SinkError`]; the sync ends then.
    async fn commit(&self, blocks: Vec<FinalBlock>) -> Result<Head, SinkError>;
}
