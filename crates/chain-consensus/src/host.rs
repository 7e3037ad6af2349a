//! Between the engine and the application: keeps undecided blocks, cuts and joins their parts, and hands decisions over.
//!
//! Order that makes it safe: a block is durable in our folder before the engine hears of it (so no vote outlives its
//! block); a decision is durable in the application before the engine learns it may go on; evidence likewise.

mod proposals;
mod serving;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_malachitebft_app_channel::AppMsg;
use arc_malachitebft_core_consensus::{ProposedValue, SignedConsensusMsg};
use arc_malachitebft_core_types::{
    CommitCertificate as EngineCertificate, HeightParams, NilOrVal, Round, Validity, VoteType,
};
use arc_malachitebft_engine::host::{Next, SyncedValueOutcome};
use arc_malachitebft_engine::network::NetworkMsg;
use arc_malachitebft_peer::PeerId;
use arc_malachitebft_signing::Signer;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use trellis_primitives::{Address, B256, CommitCertificate, CommitSignature, SharedClock};

use crate::application::{Application, DecidedBlock, Tip, Verdict};
use crate::certificate::{certificate_from_engine, evidence_from_engine};
use crate::config::EngineConfig;
use crate::context::{BlockHeight, BlockId, Committee, PartsInit, Trellis, Vote, VoterAddress};
use crate::error::StopReason;
use crate::metrics::EngineMetrics;
use crate::network::{NetRef, Shared};
use crate::parts::Assembler;
use crate::service::EngineStatus;
use crate::signing::{EngineSigner, engine_round};
use crate::undecided::{Undecided, UndecidedStore};

/// Everything the host holds. One task owns it.
pub(crate) struct Host {
    pub(crate) app: Arc<dyn Application>,
    pub(crate) signer: EngineSigner,
    pub(crate) address: Address,
    pub(crate) genesis_hash: B256,
    pub(crate) store: UndecidedStore,
    pub(crate) clock: SharedClock,
    pub(crate) config: EngineConfig,
    pub(crate) metrics: EngineMetrics,
    pub(crate) net: NetRef,
    pub(crate) shared: Arc<Shared>,
    pub(crate) status: watch::Sender<EngineStatus>,
    pub(crate) tip: Tip,
    /// The height that this run began with.
    pub(crate) first_height: u64,
    pub(crate) work: Work,
}

/// What belongs to the height being decided.
#[derive(Default)]
pub(crate) struct Work {
    height: u64,
    round: u32,
    committee: Option<Committee>,
    /// Valid undecided blocks, by hash.
    blocks: HashMap<B256, Undecided>,
    assembler: Assembler<PeerId>,
    /// Whole blocks for heights we have not reached, not judged yet.
    early: BTreeMap<u64, Vec<(PartsInit, Bytes)>>,
    /// The decision of this height, until the engine finalises it.
    decided: Option<CommitCertificate>,
    /// What this node cast after it, for the same block.
    late: Option<CommitSignature>,
    /// Whether the folder of undecided blocks was read for this height.
    loaded: bool,
    streams: u64,
}

impl Host {
    /// Serves the engine until it ends or is asked to stop.
    pub(crate) async fn run(
        mut self,
        mut messages: mpsc::Receiver<AppMsg<Trellis>>,
        mut stop: watch::Receiver<bool>,
    ) -> StopReason {
        loop {
            let message = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return StopReason::Requested,
                message = messages.recv() => message,
            };
            let Some(message) = message else {
                return StopReason::EngineHalted;
            };
            if let Err(reason) = self.handle(message).await {
                tracing::error!(%reason, height = self.work.height, "consensus stops");
                return reason;
            }
        }
    }

    async fn handle(&mut self, message: AppMsg<Trellis>) -> Result<(), StopReason> {
        match message {
            AppMsg::ConsensusReady { reply } => {
                let _ = reply.send(self.next_height().await?);
            }
            AppMsg::StartedRound { height, round, reply_value, .. } => {
                let known = self.started_round(height.0, round.as_u32().unwrap_or_default()).await;
                let _ = reply_value.send(known?);
            }
            AppMsg::GetValue { height, round, timeout, reply } => {
                let round = round.as_u32().unwrap_or_default();
                if let Some(value) = self.propose(height.0, round, timeout).await? {
                    let hash = value.value.0;
                    let _ = reply.send(value);
                    self.stream(hash, round, None).await;
                }
            }
            AppMsg::RestreamProposal { round, valid_round, value_id, .. } => {
                let round = round.as_u32().unwrap_or_default();
                self.stream(value_id, round, valid_round.as_u32()).await;
            }
            AppMsg::ReceivedProposalPart { from, part, reply, .. } => {
                let _ = reply.send(self.received_part(from, part).await?);
            }
            AppMsg::Decided { certificate, reply, .. } => {
                self.decided(&certificate).await?;
                let _ = reply.send(());
            }
            AppMsg::Finalized { certificate, evidence, reply, .. } => {
                self.finalized(&certificate, evidence_from_engine(&evidence)).await?;
                let (height, params) = self.next_height().await?;
                let _ = reply.send(Next::Start(height, params));
            }
            AppMsg::GetHistoryMinHeight { reply } => {
                let _ = reply.send(BlockHeight(1));
            }
            AppMsg::GetDecidedValues { range, reply } => {
                let blocks = serving::decided_blocks(&*self.app, range.start().0, range.end().0).await;
                let _ = reply.send(blocks);
            }
            AppMsg::ProcessSyncedValue { height, round, proposer, value_bytes, reply } => {
                let place = (height.0, round, proposer.0);
                let _ = reply.send(self.synced(place, value_bytes).await?);
            }
            AppMsg::ExtendVote { reply, .. } => {
                let _ = reply.send(None);
            }
            AppMsg::VerifyVoteExtensions { extensions, reply, .. } => {
                let verdicts = extensions.into_iter().map(|(address, _)| (address, Ok(()))).collect();
                let _ = reply.send(verdicts);
            }
        }
        Ok(())
    }

    /// Prepares the height after the tip and names its committee and timeouts.
    async fn next_height(&mut self) -> Result<(BlockHeight, HeightParams<Trellis>), StopReason> {
        let height = self.tip.height.saturating_add(1);
        let set = self.app.validators(height).await.map_err(StopReason::Application)?;
        let demoted = self.app.demoted(height).await.map_err(StopReason::Application)?;
        self.metrics.demoted.set(demoted.iter().count() as u64);
        let committee = Committee::new(set, demoted).ok_or(StopReason::NoCommittee { height })?;
        self.work.height = height;
        self.work.round = 0;
        self.work.committee = Some(committee.clone());
        self.work.blocks.clear();
        self.work.decided = None;
        self.work.late = None;
        self.work.assembler.prune(self.tip.height);
        self.work.early = self.work.early.split_off(&height);
        self.metrics.height.set(height);
        self.report();
        let params = HeightParams::new(committee, self.config.timeouts(), self.config.target_time());
        Ok((BlockHeight(height), params))
    }

    /// A round begins: tells the engine which blocks of this height are here already.
    async fn started_round(&mut self, height: u64, round: u32) -> Result<Vec<ProposedValue<Trellis>>, StopReason> {
        if round > 0 {
            self.metrics.failed_rounds.inc();
        }
        self.work.round = round;
        self.metrics.round.set(round.into());
        self.report();
        let mut values = Vec::new();
        if !self.work.loaded {
            self.work.loaded = true;
            values.extend(self.reload(height).await?);
        }
        for (init, block_rlp) in self.work.early.remove(&height).unwrap_or_default() {
            values.extend(self.judge(init, block_rlp).await?);
        }
        Ok(values)
    }

    /// After a restart: judges again what was on the table when the node went down.
    async fn reload(&mut self, height: u64) -> Result<Vec<ProposedValue<Trellis>>, StopReason> {
        let found = self.store.load(height).map_err(files)?;
        let mut values = Vec::new();
        for block in found {
            // It was judged by the clock before it was stored, and voted on since.
            match self.app.verify_again(height, block.block_rlp.clone()).await {
                Ok(Verdict::Valid { block_hash }) if block_hash == block.block_hash => {
                    values.push(value_of(&block, Validity::Valid));
                    self.work.blocks.insert(block_hash, block);
                }
                Ok(verdict) => {
                    tracing::warn!(height, ?verdict, "stored proposal is not valid any more");
                }
                Err(error) => tracing::warn!(height, %error, "stored proposal not judged"),
            }
        }
        Ok(values)
    }

    async fn decided(&mut self, certificate: &EngineCertificate<Trellis>) -> Result<(), StopReason> {
        let certificate = certificate_from_engine(certificate);
        let (height, hash) = (certificate.height, certificate.block_hash);
        let Some(block) = self.work.blocks.get(&hash) else {
            return Err(StopReason::DecidedBlockMissing { height, hash: hash.to_string() });
        };
        let block_rlp = block.block_rlp.clone();
        let decided = DecidedBlock { certificate: certificate.clone(), block_rlp };
        self.app.commit(decided).await.map_err(StopReason::Application)?;
        self.metrics.decided.inc();
        tracing::debug!(height, round = certificate.round, block = %hash, "block decided");
        self.tip = Tip { height, hash, certificate: Some(certificate.clone()) };
        self.work.late = self.vote_late(&certificate).await;
        self.work.decided = Some(certificate);
        self.report();
        Ok(())
    }

    /// Others' precommits can decide before this node's own is due, and then the engine casts none: the slowest of a committee
    /// would look absent. It agrees afterwards, in time for the certificate that the next block carries.
    async fn vote_late(&self, certificate: &CommitCertificate) -> Option<CommitSignature> {
        let signed = certificate.signatures.iter().any(|signature| signature.validator == self.address);
        let member = self.work.committee.as_ref().is_some_and(|committee| committee.set().get(&self.address).is_some());
        // In the first height of a run the log may hold a vote for another value that the guard has not seen.
        if signed || !member || self.work.height <= self.first_height {
            return None;
        }
        let vote = Vote {
            kind: VoteType::Precommit,
            height: BlockHeight(certificate.height),
            round: engine_round(Some(certificate.round)),
            value: NilOrVal::Val(certificate.block_hash),
            voter: VoterAddress(self.address),
            extension: None,
        };
        match self.signer.sign_vote(vote).await {
            Ok(vote) => {
                let signature = vote.signature.0.clone().into();
                // An engine that ends hears nothing.
                drop(self.net.cast(NetworkMsg::PublishConsensusMsg(SignedConsensusMsg::Vote(vote))));
                Some(CommitSignature { validator: self.address, signature })
            }
            Err(error) => {
                tracing::debug!(height = certificate.height, %error, "no late vote");
                None
            }
        }
    }

    async fn finalized(
        &mut self,
        certificate: &EngineCertificate<Trellis>,
        evidence: Vec<trellis_chain_finality::Equivocation>,
    ) -> Result<(), StopReason> {
        let mut certificate = certificate_from_engine(certificate);
        // Its own engine does not hear it.
        let place =
            |late: &CommitSignature| certificate.signatures.binary_search_by_key(&late.validator, |s| s.validator);
        if let Some((late, Err(place))) = self.work.late.take().map(|late| (late.clone(), place(&late))) {
            certificate.signatures.insert(place, late);
        }
        let evidence = self.sound_evidence(evidence);
        let before = self.work.decided.as_ref().map_or(0, |c| c.signatures.len());
        let fuller = certificate.signatures.len() > before;
        if fuller || !evidence.is_empty() {
            self.metrics.evidence.inc_by(evidence.len() as u64);
            self.app.finalized(certificate.clone(), evidence).await.map_err(StopReason::Application)?;
        }
        if fuller {
            self.tip.certificate = Some(certificate);
        }
        self.store.prune(self.tip.height).map_err(files)
    }

    fn sound_evidence(
        &self,
        mut evidence: Vec<trellis_chain_finality::Equivocation>,
    ) -> Vec<trellis_chain_finality::Equivocation> {
        let Some(committee) = &self.work.committee else {
            return Vec::new();
        };
        evidence.retain(|piece| match piece.verify(committee.set(), &self.genesis_hash) {
            Ok(()) => {
                tracing::warn!(validator = %piece.validator(), height = piece.height(), "equivocation");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "evidence that proves nothing");
                false
            }
        });
        evidence
    }

    /// A block that others decided; the engine has checked its certificate.
    async fn synced(
        &mut self,
        (height, round, proposer): (u64, Round, Address),
        block_rlp: Bytes,
    ) -> Result<SyncedValueOutcome<Trellis>, StopReason> {
        let verdict = self.app.verify_again(height, block_rlp.clone().into()).await;
        let block_hash = match verdict {
            Ok(Verdict::Valid { block_hash }) => block_hash,
            Ok(Verdict::Invalid { reason }) => {
                self.metrics.invalid_blocks.inc();
                tracing::error!(height, reason, "a decided block is not valid here");
                return Ok(SyncedValueOutcome::PeerFault);
            }
            Err(error) => {
                tracing::warn!(height, %error, "synced block not judged");
                return Ok(SyncedValueOutcome::LocalTransientError);
            }
        };
        let block = Undecided {
            height,
            round: round.as_u32().unwrap_or_default(),
            pol_round: None,
            proposer,
            own: false,
            block_hash,
            block_rlp: block_rlp.into(),
        };
        let value = value_of(&block, Validity::Valid);
        self.keep(block).await?;
        Ok(SyncedValueOutcome::Verdict(value))
    }

    /// Makes a block durable and remembers it.
    async fn keep(&mut self, block: Undecided) -> Result<(), StopReason> {
        if !self.work.blocks.contains_key(&block.block_hash) {
            let (store, copy) = (self.store.clone(), block.clone());
            tokio::task::spawn_blocking(move || store.put(&copy))
                .await
                .map_err(|error| StopReason::Files { detail: error.to_string() })?
                .map_err(files)?;
            self.work.blocks.insert(block.block_hash, block);
        }
        Ok(())
    }

    fn report(&self) {
        self.status.send_replace(EngineStatus {
            height: self.work.height,
            round: self.work.round,
            decided_height: self.tip.height,
            decided_hash: self.tip.hash,
        });
    }
}

fn files(error: std::io::Error) -> StopReason {
    StopReason::Files { detail: error.to_string() }
}

/// The engine's view of a block.
fn value_of(block: &Undecided, validity: Validity) -> ProposedValue<Trellis> {
    ProposedValue {
        height: BlockHeight(block.height),
        round: engine_round(Some(block.round)),
        valid_round: engine_round(block.pol_round),
        proposer: VoterAddress(block.proposer),
        value: BlockId(block.block_hash),
        validity,
    }
}
