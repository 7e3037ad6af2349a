//! The shell: the engine's `Application` on one worker thread.

use crate::config::ProducerConfig;
use crate::epochs::Committees;
use crate::error::RefusedBlock;
use crate::metrics::{MetricsCell, ProducerMetrics, micros};
use crate::state::{Candidates, next_time_ms};
use crate::worker::Worker;
use alloy_primitives::{B256, Bytes};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Instant;
use trellis_chain_consensus::{AppError, Application, DecidedBlock, ProposedBlock, Tip, Verdict};
use trellis_chain_execution::{BlockAttributes, BlockError, Executor, Skipped, next_base_fee};
use trellis_chain_finality::{Demoted, Equivocation, ValidatorSet};
use trellis_chain_mempool::{BestTransactions, HeadUpdate, Mempool};
use trellis_chain_storage::{CommitError, ExecutedBlock, ReadError, StateView, Store};
use trellis_primitives::{Block, CommitCertificate, ConsensusSection, RecoveredTx, SharedClock, UnixMs};

/// Why a producer did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No thread could be started.
    #[error("worker thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The one writer of a chain. Cloning it is cheap; clones are the same producer.
#[derive(Clone)]
pub struct Producer {
    pub(crate) inner: Arc<Inner>,
    pub(crate) worker: Worker,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) executor: Executor,
    pub(crate) mempool: Mempool,
    pub(crate) config: ProducerConfig,
    pub(crate) clock: SharedClock,
    pub(crate) genesis_hash: B256,
    genesis_time_ms: u64,
    pub(crate) candidates: Mutex<Candidates>,
    pub(crate) committees: Committees,
    metrics: MetricsCell,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("height", &self.inner.store.height()).finish_non_exhaustive()
    }
}

/// The mempool's best, until half of the time to the deadline is over: the other half is for roots and the network.
struct Picker<'a> {
    best: BestTransactions,
    clock: &'a SharedClock,
    until: UnixMs,
}

impl trellis_chain_execution::Candidates for Picker<'_> {
    fn next(&mut self) -> Option<RecoveredTx> {
        if self.clock.now() >= self.until { None } else { self.best.next() }
    }

    fn left_out(&mut self) {
        self.best.skip_sender();
    }
}

fn storage(operation: &'static str, error: &dyn std::fmt::Display) -> AppError {
    AppError::Storage { operation, detail: error.to_string() }
}

impl Producer {
    /// Starts the producer's thread and tells the mempool the head.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(
        store: Store,
        executor: Executor,
        mempool: Mempool,
        config: ProducerConfig,
        clock: SharedClock,
    ) -> Result<Self, StartError> {
        let genesis = store.block(0)?;
        let (genesis_hash, genesis_time_ms) =
            genesis.map(|genesis| (genesis.hash, genesis.block.section.time_ms)).unwrap_or_default();
        let worker = Worker::start()?;
        let committees = Committees::new(store.clone(), config.epochs.clone());
        committees.committed(store.height());
        let inner = Arc::new(Inner {
            committees,
            store,
            executor,
            mempool,
            config,
            clock,
            genesis_hash,
            genesis_time_ms,
            candidates: Mutex::new(Candidates::new()),
            metrics: MetricsCell::default(),
        });
        inner.tell_mempool(&[], &[]);
        Ok(Self { inner, worker })
    }

    /// The store that this producer writes.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The committees of the chain.
    #[must_use]
    pub fn committees(&self) -> &Committees {
        &self.inner.committees
    }

    /// Numbers since the start.
    #[must_use]
    pub fn metrics(&self) -> ProducerMetrics {
        self.inner.metrics.get()
    }
}

impl Inner {
    /// The parent's time in milliseconds. The newest blocks are in memory, so this reads no disk.
    pub(crate) fn parent_time_ms(&self, parent: &StateView) -> u64 {
        match self.store.block(parent.height()) {
            Ok(Some(block)) if block.hash == parent.block_hash() => block.block.section.time_ms,
            // Only seconds are known then, which is never later than the real time.
            _ => parent.header().timestamp.saturating_mul(1_000).max(self.genesis_time_ms),
        }
    }

    fn head_for(&self, operation: &'static str, height: u64) -> Result<StateView, AppError> {
        let head = self.store.head();
        let expected = head.height().saturating_add(1);
        if height == expected { Ok(head) } else { Err(AppError::WrongHeight { operation, expected, actual: height }) }
    }

    fn propose(
        &self,
        height: u64,
        parent_commit: Option<CommitCertificate>,
        deadline: UnixMs,
    ) -> Result<ProposedBlock, AppError> {
        let started = Instant::now();
        let parent = self.head_for("propose", height)?;
        let now = self.clock.now();
        let failed = |error: ReadError| storage("propose", &error);
        let parent_commit = parent_commit.filter(|_| parent.height() > 0);
        let epoch = self.committees.change(&self.executor, &parent, parent_commit.as_ref()).map_err(failed)?;
        let own = self.committees.call(height, epoch.as_ref()).map_err(failed)?;
        let section = ConsensusSection {
            time_ms: next_time_ms(self.parent_time_ms(&parent), now.0),
            parent_commit,
            checkpoint: self.committees.due_checkpoint(height).map_err(failed)?,
            epoch,
        };
        let rules = self.executor.config();
        let base_fee = next_base_fee(parent.header(), rules.base_fee_floor_wei);
        let mut picker = Picker {
            best: self.mempool.best(base_fee, rules.gas_limit),
            clock: &self.clock,
            until: UnixMs(now.0.saturating_add(deadline.0.saturating_sub(now.0).div_euclid(2))),
        };
        let attributes = BlockAttributes {
            beneficiary: self.config.beneficiary,
            section,
            extra_data: self.config.extra_data.clone(),
        };
        let built = self
            .executor
            .build_block(&parent, attributes, own.as_ref(), &mut picker)
            .map_err(|error| AppError::Internal { operation: "propose", detail: error.to_string() })?;
        self.drop_invalid(&built.skipped);
        let executed = built.executed;
        let proposed = ProposedBlock { block_hash: executed.hash, block_rlp: executed.block.to_rlp() };
        self.candidates.lock().put(executed);
        self.metrics.update(|m| {
            m.proposed_total = m.proposed_total.saturating_add(1);
            m.propose_us_total = m.propose_us_total.saturating_add(micros(started.elapsed()));
        });
        Ok(proposed)
    }

    fn drop_invalid(&self, skipped: &[Skipped]) {
        let mut count = 0_u64;
        for Skipped { hash, invalid } in skipped {
            if let Some(reason) = invalid {
                tracing::debug!(%hash, reason, "a pooled transaction cannot run and is dropped");
                self.mempool.remove(hash);
                count = count.saturating_add(1);
            }
        }
        self.metrics.update(|m| m.candidates_invalid_total = m.candidates_invalid_total.saturating_add(count));
    }

    fn verify(&self, height: u64, block_rlp: &[u8]) -> Result<Verdict, AppError> {
        let started = Instant::now();
        let parent = self.head_for("verify", height)?;
        let judged = self.judge(&parent, block_rlp);
        self.metrics.update(|m| m.verify_us_total = m.verify_us_total.saturating_add(micros(started.elapsed())));
        match judged {
            Ok(executed) => {
                let block_hash = executed.hash;
                self.candidates.lock().put(executed);
                self.metrics.update(|m| m.verified_total = m.verified_total.saturating_add(1));
                Ok(Verdict::Valid { block_hash })
            }
            Err(RefusedBlock::Block(BlockError::Execution(error))) => Err(storage("verify", &error)),
            Err(RefusedBlock::Read(error)) => Err(storage("verify", &error)),
            Err(refused) => {
                self.metrics.update(|m| m.refused_total = m.refused_total.saturating_add(1));
                Ok(Verdict::Invalid { reason: refused.to_string() })
            }
        }
    }

    fn commit(&self, decided: DecidedBlock) -> Result<(), AppError> {
        let started = Instant::now();
        let DecidedBlock { certificate, block_rlp } = decided;
        let head = self.store.head();
        if certificate.height <= head.height() {
            return self.already_committed(&certificate);
        }
        let head = self.head_for("commit", certificate.height)?;
        let executed = self.executed(&head, &certificate, &block_rlp)?;
        self.keep(executed, certificate, (started, true))
    }

    /// Makes an executed block the head, durably where that is wanted, and tells who has to know.
    pub(crate) fn keep(
        &self,
        executed: ExecutedBlock,
        certificate: CommitCertificate,
        (started, sync): (Instant, bool),
    ) -> Result<(), AppError> {
        let included: Vec<_> = executed
            .senders
            .iter()
            .zip(&executed.block.transactions)
            .map(|(sender, tx)| (*sender, *tx.tx_hash()))
            .collect();
        let changed: Vec<_> = executed.transition.diff().accounts.iter().map(|diff| diff.address).collect();
        let gas_used = executed.block.header.gas_used;
        let certificate = Some(certificate);
        // Durable with the block that it stands in.
        self.committees.keep_checkpoint(&executed.block).map_err(|error| storage("commit", &error))?;
        let done = if sync {
            self.store.commit(executed, certificate)
        } else {
            self.store.commit_unsynced(executed, certificate)
        };
        done.map_err(|error: CommitError| {
            tracing::error!(%error, hint = error.hint(), "a decided block could not be committed");
            storage("commit", &error)
        })?;
        self.candidates.lock().clear();
        self.committees.committed(self.store.height());
        self.tell_mempool(&included, &changed);
        self.metrics.update(|m| {
            m.committed_total = m.committed_total.saturating_add(1);
            m.commit_us_total = m.commit_us_total.saturating_add(micros(started.elapsed()));
            m.transactions_total =
                m.transactions_total.saturating_add(u64::try_from(included.len()).unwrap_or(u64::MAX));
            m.gas_total = m.gas_total.saturating_add(gas_used);
        });
        Ok(())
    }

    /// The decided block, executed: from the cache, or again after a restart.
    fn executed(
        &self,
        head: &StateView,
        certificate: &CommitCertificate,
        block_rlp: &[u8],
    ) -> Result<ExecutedBlock, AppError> {
        if let Some(executed) = self.candidates.lock().get(&certificate.block_hash) {
            return Ok(executed);
        }
        let failed = |error: &dyn std::fmt::Display| AppError::Internal {
            operation: "commit",
            detail: format!("the decided block {}: {error}", certificate.block_hash),
        };
        let block = Block::from_rlp(block_rlp).map_err(|error| failed(&error))?;
        let executed = self.execute(head, block).map_err(|error| failed(&error))?;
        if executed.hash != certificate.block_hash {
            return Err(failed(&format!("its bytes are of block {}", executed.hash)));
        }
        Ok(executed)
    }

    fn already_committed(&self, certificate: &CommitCertificate) -> Result<(), AppError> {
        let known = self.store.hash_at(certificate.height).map_err(|error| storage("commit", &error))?;
        if known == Some(certificate.block_hash) {
            return Ok(());
        }
        let detail = format!("another block is final at height {}: {known:?}", certificate.height);
        Err(AppError::Internal { operation: "commit", detail })
    }

    fn tell_mempool(&self, included: &[(alloy_primitives::Address, B256)], changed: &[alloy_primitives::Address]) {
        let rules = self.executor.config();
        let base_fee = next_base_fee(self.store.head().header(), rules.base_fee_floor_wei);
        self.mempool.on_block(&HeadUpdate { base_fee, gas_limit: rules.gas_limit, included, changed });
    }

    fn finalized(&self, certificate: &CommitCertificate, evidence: &[Equivocation]) -> Result<(), AppError> {
        let evidence: Vec<Bytes> = evidence.iter().map(|item| alloy_rlp::encode(item).into()).collect();
        self.store.amend(certificate, &evidence).map_err(|error| storage("finalized", &error))
    }

    fn decided(&self, height: u64) -> Result<Option<DecidedBlock>, AppError> {
        let failed = |error: ReadError| storage("decided", &error);
        let (Some(block), Some(certificate)) =
            (self.store.block(height).map_err(failed)?, self.store.certificate(height).map_err(failed)?)
        else {
            return Ok(None);
        };
        Ok(Some(DecidedBlock { certificate, block_rlp: block.block.to_rlp() }))
    }

    fn tip(&self) -> Result<Tip, AppError> {
        let head = self.store.head();
        let certificate = self.store.certificate(head.height()).map_err(|error| storage("tip", &error))?;
        Ok(Tip { height: head.height(), hash: head.block_hash(), certificate })
    }
}

#[async_trait]
impl Application for Producer {
    async fn tip(&self) -> Result<Tip, AppError> {
        let inner = self.inner.clone();
        // Not behind the queue: the engine may ask at any time.
        tokio::task::spawn_blocking(move || inner.tip()).await.map_err(|error| storage("tip", &error))?
    }

    async fn validators(&self, height: u64) -> Result<ValidatorSet, AppError> {
        let expected = self.inner.store.height().saturating_add(1);
        if height > expected {
            return Err(AppError::WrongHeight { operation: "validators", expected, actual: height });
        }
        self.inner.committees.of(height).map_err(|error| storage("validators", &error))
    }

    async fn demoted(&self, height: u64) -> Result<Demoted, AppError> {
        let expected = self.inner.store.height().saturating_add(1);
        if height != expected {
            return Err(AppError::WrongHeight { operation: "demoted", expected, actual: height });
        }
        let inner = self.inner.clone();
        // After a restart it reads the blocks of a term.
        let counted = tokio::task::spawn_blocking(move || inner.committees.demoted(height)).await;
        counted.map_err(|error| storage("demoted", &error))?.map_err(|error| storage("demoted", &error))
    }

    async fn propose(
        &self,
        height: u64,
        _round: u32,
        parent_commit: Option<CommitCertificate>,
        deadline: UnixMs,
    ) -> Result<ProposedBlock, AppError> {
        let inner = self.inner.clone();
        self.worker.run("propose", move || inner.propose(height, parent_commit, deadline)).await
    }

    async fn verify(&self, height: u64, block_rlp: Bytes) -> Result<Verdict, AppError> {
        let inner = self.inner.clone();
        self.worker.run("verify", move || inner.verify(height, &block_rlp)).await
    }

    async fn commit(&self, decided: DecidedBlock) -> Result<(), AppError> {
        let inner = self.inner.clone();
        self.worker.run("commit", move || inner.commit(decided)).await
    }

    async fn finalized(&self, certificate: CommitCertificate, evidence: Vec<Equivocation>) -> Result<(), AppError> {
        let inner = self.inner.clone();
        self.worker.run("finalized", move || inner.finalized(&certificate, &evidence)).await
    }

    async fn decided(&self, height: u64) -> Result<Option<DecidedBlock>, AppError> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || inner.decided(height)).await.map_err(|error| storage("decided", &error))?
    }
}
