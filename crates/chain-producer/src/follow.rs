//! The sync's `BlockSink`: final blocks are executed and committed on the same thread as those of the engine.

use crate::RefusedBlock;
use crate::service::{Inner, Producer};
use async_trait::async_trait;
use std::time::Instant;
use trellis_chain_consensus::AppError;
use trellis_chain_execution::BlockError;
use trellis_chain_finality::ValidatorSet;
use trellis_chain_sync::{BlockSink, FinalBlock, Head, SinkError};

fn storage(operation: &'static str, error: &dyn std::fmt::Display) -> SinkError {
    SinkError::Storage { operation, detail: error.to_string() }
}

impl Inner {
    fn stand(&self) -> Head {
        let head = self.store.head();
        Head { height: head.height(), hash: head.block_hash() }
    }

    fn follow(&self, blocks: Vec<FinalBlock>) -> Result<Head, SinkError> {
        let followed = blocks.into_iter().try_for_each(|block| self.follow_one(block));
        // One sync for all of them: until then a stop costs blocks that others have.
        let synced = self.store.sync().map_err(|error| storage("sync", &error));
        followed.and(synced).map(|()| self.stand())
    }

    /// Executes a final block, compares every field of its header, and commits it.
    fn follow_one(&self, given: FinalBlock) -> Result<(), SinkError> {
        let started = Instant::now();
        let FinalBlock { block, hash, certificate } = given;
        let height = block.header.number;
        let parent = self.store.head();
        let disagrees = |detail: String| SinkError::Disagrees { height, detail };
        let expected = parent.height().saturating_add(1);
        if height != expected || block.header.parent_hash != parent.block_hash() {
            return Err(disagrees(format!("it does not follow the head {} {}", parent.height(), parent.block_hash())));
        }
        let executed = self.execute(&parent, block).map_err(|refused| match refused {
            RefusedBlock::Read(error) => storage("execute", &error),
            RefusedBlock::Block(BlockError::Execution(error)) => storage("execute", &error),
            other => disagrees(other.to_string()),
        })?;
        if executed.hash != hash {
            return Err(disagrees(format!("its header's hash is {}, not {hash}", executed.hash)));
        }
        self.keep(executed, certificate, (started, false)).map_err(|error| storage("commit", &error))
    }
}

#[async_trait]
impl BlockSink for Producer {
    async fn head(&self) -> Result<Head, SinkError> {
        Ok(self.inner.stand())
    }

    async fn committee(&self, height: u64) -> Result<ValidatorSet, SinkError> {
        self.inner.committees.of(height).map_err(|error| storage("committee", &error))
    }

    async fn commit(&self, blocks: Vec<FinalBlock>) -> Result<Head, SinkError> {
        let inner = self.inner.clone();
        let done = self.worker.run("follow", move || Ok::<_, AppError>(inner.follow(blocks))).await;
        done.map_err(|error| storage("follow", &error))?
    }
}
