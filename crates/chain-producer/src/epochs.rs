//! Epochs: which committee decides a block, and what the first block of an epoch says (CHN-11, CHN-14).
//!
//! The stakes after the last block of an epoch give the next committee; the block after names it in its section, before it
//! is executed, and the chain tells the stake's contract in a system call who signed. Who signed is what the sections say.

mod turns;

use crate::RefusedBlock;
use crate::checkpoints::{CheckpointSetup, Known};
use alloy_primitives::{Address, B256, TxKind};
use alloy_rpc_types::TransactionRequest;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use trellis_chain_execution::{CallError, ExecutionError, Executor, Overrides, SystemCall};
use trellis_chain_finality::{
    COMMITTEE_DELAY_BLOCKS, Candidate, Turns, ValidatorSet, VotePublicKey, VoteScheme, committee_epoch, ended_epoch,
    next_committee,
};
use trellis_chain_storage::{ReadError, StateView, Store};
use trellis_contracts::staking::{EpochReport, StakedCandidate, candidates_call, end_epoch_call, read_candidates};
use trellis_primitives::{Block, CheckpointKeys, CommitCertificate, EpochChange};

/// Committees held in memory.
const COMMITTEES_MAX: usize = 64;
/// Registered validators that one call looks at.
const CANDIDATES_PAGE: u64 = 200;
/// Registered validators that are looked at in all; those who came later wait.
const REGISTERED_MAX: u64 = 20_000;
/// Wei of one TRL.
const TRL_WEI: u64 = 1_000_000_000_000_000_000;

/// What the chain spec says about committees.
#[derive(Clone, Debug)]
pub struct EpochRules {
    /// The first committee.
    pub genesis: ValidatorSet,
    /// The contract that holds the validators' stake; without it the first committee sits for ever.
    pub staking: Option<Address>,
    /// Blocks of an epoch.
    pub epoch_blocks: u64,
    /// Seats of a committee.
    pub seats: usize,
    /// Checkpoints.
    pub checkpoints: CheckpointSetup,
}

impl EpochRules {
    /// How the validators of this chain sign their votes: as those of the genesis do.
    fn vote_scheme(&self) -> VoteScheme {
        let first = self.genesis.validators().first();
        first.map_or_else(VoteScheme::default, |member| member.public_key.scheme())
    }
}

/// The committees of a chain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Committees {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) rules: EpochRules,
    pub(crate) store: Store,
    known: Mutex<LruCache<u64, ValidatorSet>>,
    pub(crate) checkpoints: Known,
    signers: Mutex<Signers>,
    turns: Mutex<Turns>,
}

/// Who signed, as the sections of the running epoch's blocks say.
#[derive(Clone, Debug, Default)]
struct Signers {
    /// The last block whose section is counted.
    counted: u64,
    /// The first height whose certificate counts.
    first: u64,
    blocks: u32,
    signed: BTreeMap<Address, u32>,
}

impl Signers {
    fn count(&mut self, certificate: &CommitCertificate) {
        if certificate.height < self.first {
            return;
        }
        self.blocks = self.blocks.saturating_add(1);
        for signature in &certificate.signatures {
            let signed = self.signed.entry(signature.validator).or_default();
            *signed = signed.saturating_add(1);
        }
    }
}

impl Committees {
    /// The committees of a store's chain.
    #[must_use]
    pub fn new(store: Store, rules: EpochRules) -> Self {
        let known = Mutex::new(LruCache::new(NonZeroUsize::new(COMMITTEES_MAX).unwrap_or(NonZeroUsize::MIN)));
        Self {
            inner: Arc::new(Inner {
                rules,
                store,
                known,
                checkpoints: Known::default(),
                signers: Mutex::default(),
                turns: Mutex::new(Turns::new(1)),
            }),
        }
    }

    /// The committee that decides a block. All that it follows from must be committed.
    ///
    /// # Errors
    /// [`ReadError`] where the block that names it cannot be read.
    pub fn of(&self, height: u64) -> Result<ValidatorSet, ReadError> {
        let rules = &self.inner.rules;
        let epoch = self.epoch(height);
        if epoch == 0 {
            return Ok(rules.genesis.clone());
        }
        if let Some(known) = self.inner.known.lock().get(&epoch) {
            return Ok(known.clone());
        }
        let (_, committee) = self.named(epoch)?;
        self.inner.known.lock().put(epoch, committee.clone());
        Ok(committee)
    }

    /// The last epoch that is over before a block is decided, as far as its committee goes: 0 where that is the genesis's.
    pub(crate) fn epoch(&self, height: u64) -> u64 {
        let rules = &self.inner.rules;
        if rules.staking.is_some() { committee_epoch(height, rules.epoch_blocks) } else { 0 }
    }

    /// What the block after an epoch says, and the committee that it names.
    pub(crate) fn named(&self, epoch: u64) -> Result<(EpochChange, ValidatorSet), ReadError> {
        let named_in = epoch.saturating_mul(self.inner.rules.epoch_blocks).saturating_add(1);
        let damaged = |what: &str| ReadError::Damaged { height: named_in, what: what.to_owned() };
        let block =
            self.inner.store.block(named_in)?.ok_or_else(|| damaged("the first block of an epoch is missing"))?;
        let change = block.block.section.epoch.clone().ok_or_else(|| damaged("it names no committee"))?;
        let committee: ValidatorSet =
            alloy_rlp::decode_exact(&change.next_committee).map_err(|_| damaged("its committee does not decode"))?;
        Ok((change, committee))
    }

    /// Heights of the epoch's blocks that the committee now sitting decides begin here.
    fn first_counted(&self, epoch: u64) -> u64 {
        match epoch.saturating_sub(1) {
            0 => 1,
            before => before
                .saturating_mul(self.inner.rules.epoch_blocks)
                .saturating_add(1)
                .saturating_add(COMMITTEE_DELAY_BLOCKS),
        }
    }

    /// Who signed the blocks of the epoch, by the sections of the blocks up to its last one.
    fn signers(&self, epoch: u64, last: u64) -> Result<Signers, ReadError> {
        let first = self.first_counted(epoch);
        let mut signers = self.inner.signers.lock();
        if signers.first != first || signers.counted > last {
            *signers = Signers { first, counted: first, ..Signers::default() };
        }
        // The certificate of a block is in the section of the next.
        while signers.counted < last {
            let next = signers.counted.saturating_add(1);
            let block = self.inner.store.block(next)?;
            let block =
                block.ok_or(ReadError::Damaged { height: next, what: "a block of the epoch is missing".to_owned() })?;
            if let Some(certificate) = &block.block.section.parent_commit {
                signers.count(certificate);
            }
            signers.counted = next;
        }
        Ok(signers.clone())
    }

    /// Counts ahead, so that the first block of an epoch need not read all of the last one.
    pub(crate) fn committed(&self, height: u64) {
        let Some(epoch) = self.running(height) else { return };
        if let Err(error) = self.signers(epoch, height) {
            tracing::warn!(%error, "who signed is not counted yet");
        }
    }

    fn running(&self, height: u64) -> Option<u64> {
        self.inner.rules.staking?;
        height.checked_sub(1)?.checked_div(self.inner.rules.epoch_blocks)?.checked_add(1)
    }

    /// What the block after `parent` must say about epochs, with the certificate of `parent` that it carries.
    ///
    /// # Errors
    /// [`ReadError`] where this node's own data fails it.
    pub(crate) fn change(
        &self,
        executor: &Executor,
        parent: &StateView,
        parent_commit: Option<&CommitCertificate>,
    ) -> Result<Option<EpochChange>, ReadError> {
        let rules = &self.inner.rules;
        let height = parent.height().saturating_add(1);
        let (Some(staking), Some(epoch)) = (rules.staking, ended_epoch(height, rules.epoch_blocks)) else {
            return Ok(None);
        };
        let sitting = self.of(height)?;
        let mut signers = self.signers(epoch, parent.height())?;
        if let Some(certificate) = parent_commit {
            signers.count(certificate);
        }
        let candidates = candidates(executor, parent, staking, rules.vote_scheme())?;
        let (candidates, keys): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
        let keys = candidates.iter().map(|candidate| candidate.account).zip(keys).collect();
        let next = next_committee(&sitting, candidates, rules.seats).unwrap_or_else(|error| {
            tracing::error!(%error, epoch, "the stakes give no committee; the sitting one stays");
            sitting.clone()
        });
        let signed = |member: &Address| signers.signed.get(member).copied().unwrap_or(0).min(signers.blocks);
        Ok(Some(EpochChange {
            next_committee: alloy_rlp::encode(&next).into(),
            blocks: signers.blocks,
            signed: sitting.validators().iter().map(|member| signed(&member.address)).collect(),
            checkpoint_keys: self.checkpoint_keys(height, &next, keys)?,
        }))
    }

    /// Whether a block's section says about epochs what it must.
    pub(crate) fn check(&self, executor: &Executor, parent: &StateView, block: &Block) -> Result<(), RefusedBlock> {
        let section = &block.section;
        let expected = self.change(executor, parent, section.parent_commit.as_ref()).map_err(RefusedBlock::Read)?;
        if expected == section.epoch {
            return Ok(());
        }
        Err(RefusedBlock::Epoch { expected: expected.is_some(), found: section.epoch.is_some() })
    }

    /// The chain's own call in a final block, for whoever runs it again; most blocks have none.
    #[must_use]
    pub fn system_call(&self, block: &Block) -> Option<SystemCall> {
        self.call(block.header.number, block.section.epoch.as_ref()).unwrap_or_else(|error| {
            tracing::error!(%error, height = block.header.number, "the chain's own call of a block is not known");
            None
        })
    }

    /// The chain's own call in a block.
    pub(crate) fn call(&self, height: u64, change: Option<&EpochChange>) -> Result<Option<SystemCall>, ReadError> {
        let rules = &self.inner.rules;
        let (Some(to), Some(epoch), Some(change)) = (rules.staking, ended_epoch(height, rules.epoch_blocks), change)
        else {
            return Ok(None);
        };
        let sitting = self.of(height)?;
        let next: Option<ValidatorSet> = alloy_rlp::decode_exact(&change.next_committee).ok();
        let members = sitting.validators().iter().zip(&change.signed);
        let report = EpochReport {
            epoch,
            blocks: change.blocks,
            members: members.map(|(member, signed)| (member.account, member.power, *signed)).collect(),
            next_committee_root: next.as_ref().map_or(B256::ZERO, ValidatorSet::hash),
            next_members: next.iter().flat_map(ValidatorSet::validators).map(|member| member.account).collect(),
        };
        Ok(Some(SystemCall { to, input: end_epoch_call(&report) }))
    }
}

/// Everybody who may be chosen and their checkpoint keys, as the contract says on a state; nobody where it cannot say. Where
/// this node alone cannot read its state, that is an error: the others have another answer.
fn candidates(
    executor: &Executor,
    state: &StateView,
    staking: Address,
    scheme: VoteScheme,
) -> Result<Vec<(Candidate, CheckpointKeys)>, ReadError> {
    let mut found = Vec::new();
    let mut start = 0u64;
    while start < REGISTERED_MAX {
        let request = TransactionRequest {
            to: Some(TxKind::Call(staking)),
            input: candidates_call(start, CANDIDATES_PAGE).into(),
            ..TransactionRequest::default()
        };
        let answer = executor.call(state, state.header(), &request, &Overrides::default());
        let page = match answer {
            Ok(answer) => read_candidates(&answer.output),
            Err(CallError::Execution(ExecutionError::State(error))) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "the stake's contract does not answer");
                None
            }
        };
        let Some((page, total)) = page else { return Ok(Vec::new()) };
        found.extend(page.iter().filter_map(|staked| Some((candidate(staked, scheme)?, keys(staked)))));
        start = start.saturating_add(CANDIDATES_PAGE);
        if start >= total {
            break;
        }
    }
    Ok(found)
}

fn keys(staked: &StakedCandidate) -> CheckpointKeys {
    CheckpointKeys { bls: staked.checkpoint.0.clone(), mldsa44: staked.checkpoint.1.clone() }
}

/// Who registered a key of another scheme than the chain's is not chosen: in the post-quantum mode every vote is, and
/// elsewhere nobody makes everybody's certificates longer (CHN-15).
fn candidate(staked: &StakedCandidate, scheme: VoteScheme) -> Option<Candidate> {
    if staked.scheme != scheme.contract_byte() {
        return None;
    }
    let public_key = VotePublicKey::from_bytes(scheme, &staked.vote_key).ok()?;
    let whole = staked.stake_wei.checked_div(alloy_primitives::U256::from(TRL_WEI))?;
    Some(Candidate { account: staked.account, public_key, power: u64::try_from(whole).unwrap_or(u64::MAX) })
}
