//! Checkpoints as blocks have them (CHN-15): who signs which, where a certificate may stand, and what is kept of it.

use crate::RefusedBlock;
use crate::epochs::Committees;
use crate::service::Producer;
use alloy_primitives::{Address, Bytes};
use async_trait::async_trait;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use trellis_chain_consensus::{AppError, CheckpointDuty, CheckpointKeeper};
use trellis_chain_finality::{
    CheckpointCertificate, CheckpointCommittee, CheckpointMessage, CheckpointRules, ValidatorSet,
};
use trellis_chain_storage::{ReadError, StoredCheckpoint};
use trellis_primitives::{Block, CheckpointKeys};

/// Committees held in memory with their keys checked.
const COMMITTEES_MAX: usize = 8;

/// What the chain spec says about checkpoints.
#[derive(Clone, Debug, Default)]
pub struct CheckpointSetup {
    /// Blocks from one to the next; 0 where the chain has none.
    pub interval_blocks: u64,
    /// Keys of the first committee's members.
    pub genesis_keys: BTreeMap<Address, CheckpointKeys>,
}

/// Committees whose keys were checked, by epoch.
#[derive(Debug)]
pub(crate) struct Known(Mutex<LruCache<u64, Arc<CheckpointCommittee>>>);

impl Default for Known {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(COMMITTEES_MAX).unwrap_or(NonZeroUsize::MIN))))
    }
}

impl Committees {
    /// Which blocks have checkpoints.
    #[must_use]
    pub fn checkpoint_rules(&self) -> CheckpointRules {
        let rules = &self.inner.rules;
        let epoch_blocks = rules.staking.map(|_| rules.epoch_blocks);
        CheckpointRules { interval_blocks: rules.checkpoints.interval_blocks, epoch_blocks }
    }

    /// The committee that decides a block, with its checkpoint keys. All that it follows from must be committed.
    ///
    /// # Errors
    /// [`ReadError`] where the block that names it cannot be read.
    pub fn checkpoint_committee(&self, height: u64) -> Result<Arc<CheckpointCommittee>, ReadError> {
        let epoch = self.epoch(height);
        if let Some(known) = self.inner.checkpoints.0.lock().get(&epoch) {
            return Ok(Arc::clone(known));
        }
        let committee = Arc::new(self.read_checkpoint_committee(epoch)?);
        self.inner.checkpoints.0.lock().put(epoch, Arc::clone(&committee));
        Ok(committee)
    }

    /// The same for whoever may ask for any block: what is read for them drives none out of memory that blocks are judged by.
    ///
    /// # Errors
    /// [`ReadError`] where the block that names it cannot be read.
    pub fn shown_checkpoint_committee(&self, height: u64) -> Result<Arc<CheckpointCommittee>, ReadError> {
        let epoch = self.epoch(height);
        let known = self.inner.checkpoints.0.lock().peek(&epoch).cloned();
        known.map_or_else(|| self.read_checkpoint_committee(epoch).map(Arc::new), Ok)
    }

    fn read_checkpoint_committee(&self, epoch: u64) -> Result<CheckpointCommittee, ReadError> {
        Ok(if epoch == 0 {
            let rules = &self.inner.rules;
            let of = |account| rules.checkpoints.genesis_keys.get(account).cloned().unwrap_or_default();
            let keys: Vec<_> = rules.genesis.validators().iter().map(|member| of(&member.account)).collect();
            CheckpointCommittee::new(&rules.genesis, &keys)
        } else {
            let (change, set) = self.named(epoch)?;
            CheckpointCommittee::new(&set, &change.checkpoint_keys.unwrap_or_default())
        })
    }

    /// The keys of the next committee's members: those that the stake's contract says, and for who is on the way out those
    /// of the sitting committee, which is that of `height`.
    pub(crate) fn checkpoint_keys(
        &self,
        height: u64,
        next: &ValidatorSet,
        said: BTreeMap<Address, CheckpointKeys>,
    ) -> Result<Option<Vec<CheckpointKeys>>, ReadError> {
        if self.inner.rules.checkpoints.interval_blocks == 0 {
            return Ok(None);
        }
        let sitting = self.checkpoint_committee(height)?;
        let before = |account| sitting.of(account).map(|(_, member)| member.keys.clone());
        let of = |account| said.get(account).cloned().or_else(|| before(account)).unwrap_or_default();
        Ok(Some(next.validators().iter().map(|member| of(&member.account)).collect()))
    }

    /// What is signed of a final block; none where it has no checkpoint or is not final here.
    ///
    /// # Errors
    /// [`ReadError`] where the store fails.
    pub fn checkpoint_message(&self, height: u64) -> Result<Option<CheckpointMessage>, ReadError> {
        let store = &self.inner.store;
        if !self.checkpoint_rules().has(height) || height > store.height() {
            return Ok(None);
        }
        let (Some(block_hash), Some(genesis_hash)) = (store.hash_at(height)?, store.genesis_hash()?) else {
            return Ok(None);
        };
        let next_committee = self.checkpoint_committee(CheckpointRules::next_decides(height))?.hash();
        Ok(Some(CheckpointMessage { genesis_hash, height, block_hash, next_committee }))
    }

    /// The block below `number` in which a checkpoint's certificate stands.
    fn stands_in(&self, height: u64, number: u64) -> Result<Option<u64>, ReadError> {
        for candidate in height.saturating_add(1)..number {
            let block = self.inner.store.block(candidate)?;
            let certificate = block.as_ref().and_then(|block| certificate_in(&block.block));
            if certificate.is_some_and(|certificate| certificate.height == height) {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    /// The certificate that a block with this number should carry: the oldest that is here and stands nowhere yet.
    pub(crate) fn due_checkpoint(&self, number: u64) -> Result<Option<Bytes>, ReadError> {
        for height in self.checkpoint_rules().open_in(number) {
            let kept = self.inner.store.checkpoint(height)?.certificate;
            if kept.is_some() && self.stands_in(height, number)?.is_none() {
                return Ok(kept);
            }
        }
        Ok(None)
    }

    /// Whether the certificate in a block's section, if there is one, is one that may stand there, and proves something.
    pub(crate) fn check_checkpoint(&self, block: &Block) -> Result<(), RefusedBlock> {
        let Some(bytes) = &block.section.checkpoint else { return Ok(()) };
        let number = block.header.number;
        let certificate = CheckpointCertificate::decode_exact(bytes)?;
        let height = certificate.height;
        let open = self.checkpoint_rules().open_in(number);
        let message = if open.contains(&height) { self.checkpoint_message(height)? } else { None };
        let Some(expected) = message else { return Err(RefusedBlock::CheckpointNotOpen { height, number, open }) };
        let found = certificate.message(expected.genesis_hash);
        if found != expected {
            return Err(RefusedBlock::OtherCheckpoint { expected: Box::new(expected), found: Box::new(found) });
        }
        if let Some(number) = self.stands_in(height, number)? {
            return Err(RefusedBlock::CheckpointAgain { height, number });
        }
        let committee = self.checkpoint_committee(height)?;
        Ok(certificate.verify(&committee, expected.genesis_hash)?)
    }

    /// Keeps the certificate in a final block: it is the one that everybody has.
    pub(crate) fn keep_checkpoint(&self, block: &Block) -> Result<(), ReadError> {
        let Some(certificate) = certificate_in(block) else { return Ok(()) };
        let parts = StoredCheckpoint { certificate: block.section.checkpoint.clone(), post_quantum: None };
        self.inner.store.put_checkpoint(certificate.height, &parts)
    }
}

fn certificate_in(block: &Block) -> Option<CheckpointCertificate> {
    CheckpointCertificate::decode_exact(block.section.checkpoint.as_ref()?).ok()
}

fn storage(operation: &'static str, error: &dyn std::fmt::Display) -> AppError {
    AppError::Storage { operation, detail: error.to_string() }
}

/// Runs something that reads the disk where it blocks nobody.
async fn apart<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, AppError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| storage(operation, &error))?;
    done.map_err(|error| storage(operation, &error))
}

#[async_trait]
impl CheckpointKeeper for Producer {
    fn rules(&self) -> CheckpointRules {
        self.committees().checkpoint_rules()
    }

    fn height(&self) -> u64 {
        self.store().height()
    }

    async fn above(&self, height: u64) -> u64 {
        let mut blocks = self.store().subscribe();
        loop {
            let now = self.store().height();
            if now > height {
                return now;
            }
            if matches!(blocks.recv().await, Err(RecvError::Closed)) {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn duty(&self, height: u64) -> Result<Option<CheckpointDuty>, AppError> {
        let committees = self.committees().clone();
        apart("duty", move || {
            let Some(message) = committees.checkpoint_message(height)? else { return Ok(None) };
            Ok(Some(CheckpointDuty { message, committee: committees.checkpoint_committee(height)? }))
        })
        .await
    }

    async fn stands(&self, height: u64) -> Result<bool, AppError> {
        let committees = self.committees().clone();
        apart("stands", move || Ok(committees.stands_in(height, CheckpointRules::closed_after(height))?.is_some()))
            .await
    }

    async fn kept(&self, height: u64) -> Result<(Option<Bytes>, Option<Bytes>), AppError> {
        let store = self.store().clone();
        let kept = apart("kept", move || store.checkpoint(height)).await?;
        Ok((kept.certificate, kept.post_quantum))
    }

    async fn keep(&self, height: u64, certificate: Option<Bytes>, post_quantum: Option<Bytes>) -> Result<(), AppError> {
        if certificate.is_none() && post_quantum.is_none() {
            return Ok(());
        }
        let store = self.store().clone();
        apart("keep", move || {
            // The one in a block stays: everybody has that one.
            store.add_checkpoint(height, &StoredCheckpoint { certificate, post_quantum })?;
            store.sync().map_err(|error| ReadError::Database(error.to_string()))
        })
        .await
    }
}
