//! The provider's side of a channel: the highest voucher, what it pays for, and what may be delivered on credit.
//!
//! Credit rules, all in one place ([`PayeeChannel::permit`]):
//! * A gateway's *credit* is what it has promised on this channel, less ten times what it left unpaid, and one risk limit at most.
//! * All open jobs of the channel together may be so far ahead of their vouchers. A new identity has none and pays before
//!   anything is computed; nobody ever gets more free than it paid, and one that walked away at most a tenth of it.
//! * A prompt, or anything else, that costs more than the limit is paid in steps of one limit.
//! * Nothing is computed that the deposit or the accepted maximum cannot pay.

use crate::cost::{CostError, JobMoney, JobOutcome, JobState, Prices, job_cost};
use crate::voucher::{VoucherFault, verify_voucher};
use std::collections::BTreeMap;
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::wire::{HeldVoucher, VoucherFrame};
use trellis_primitives::{Address, ChannelId, JobId, Wei};

/// Open jobs of one channel at most.
pub const JOBS_OPEN_MAX: usize = 1_024;
/// A gateway that left work unpaid has credit again once it has promised so many times that amount.
const ARREARS_FACTOR: u64 = 10;

/// Why a provider's book cannot be changed as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayeeError {
    /// No such open job.
    #[error("no open job {job} on this channel")]
    UnknownJob {
        /// Which.
        job: JobId,
    },
    /// The job's id is in use.
    #[error("job {job} is open already")]
    Duplicate {
        /// Which.
        job: JobId,
    },
    /// Too many at once.
    #[error("the channel has {JOBS_OPEN_MAX} open jobs, which is the most")]
    TooMany,
    /// The receipt's cost is not paid.
    #[error("the receipt's cost is {cost}, vouchers for it reach {signed}")]
    Unpaid {
        /// The receipt's cost.
        cost: Wei,
        /// What was signed for.
        signed: Wei,
    },
    /// A cost that cannot be computed, or a meter that runs backwards.
    #[error(transparent)]
    Cost(#[from] CostError),
}

/// Why a provider goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The deposit cannot pay it.
    Deposit,
    /// More than the gateway accepted.
    MaxCost,
}

/// Whether the next step may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Go on.
    Go,
    /// Wait until vouchers for this job reach this amount, then ask again.
    Pay {
        /// In wei, for the job in all.
        due: Wei,
    },
    /// End the job.
    Stop(StopReason),
}

/// What a voucher changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What is new, per job; empty for a voucher that was known or stale. The journal's record.
    pub increments: Vec<(JobId, Wei)>,
    /// The highest voucher now held: what is acknowledged once it is durable.
    pub held: HeldVoucher,
}

/// The provider's side of a channel.
#[derive(Debug, Clone)]
pub struct PayeeChannel {
    id: ChannelId,
    domain: Domain,
    signer: Address,
    risk_limit: Wei,
    deposit: Wei,
    held: Option<HeldVoucher>,
    jobs: BTreeMap<JobId, JobMoney>,
    closed_signed: Wei,
    arrears: Wei,
}

impl PayeeChannel {
    /// A channel on which no voucher is held.
    #[must_use]
    pub const fn new(domain: Domain, id: ChannelId, signer: Address, deposit: Wei, risk_limit: Wei) -> Self {
        Self {
            id,
            domain,
            signer,
            risk_limit,
            deposit,
            held: None,
            jobs: BTreeMap::new(),
            closed_signed: Wei::ZERO,
            arrears: Wei::ZERO,
        }
    }

    /// A channel from the journal: its highest voucher, and what was written off on it. Jobs that were open are aborted by then.
    #[must_use]
    pub fn restore(self, held: Option<HeldVoucher>, written_off: Wei) -> Self {
        let closed_signed = held.map_or(Wei::ZERO, |voucher| voucher.cumulative);
        Self { held, closed_signed, arrears: written_off, ..self }
    }

    /// Takes a job.
    ///
    /// # Errors
    /// [`PayeeError::Duplicate`] or [`PayeeError::TooMany`].
    pub fn open_job(&mut self, job: JobId, prices: Prices, max_cost: Wei) -> Result<(), PayeeError> {
        if self.jobs.len() >= JOBS_OPEN_MAX {
            return Err(PayeeError::TooMany);
        }
        if self.jobs.contains_key(&job) {
            return Err(PayeeError::Duplicate { job });
        }
        self.jobs.insert(job, JobMoney::new(prices, max_cost));
        Ok(())
    }

    /// Checks a voucher and books what is new in it. A stale or repeated one changes nothing and is acknowledged again.
    ///
    /// # Errors
    /// [`VoucherFault`]; nothing changes then.
    pub fn apply(&mut self, frame: &VoucherFrame) -> Result<Applied, VoucherFault> {
        let voucher = frame.voucher;
        if voucher.channel != self.id {
            return Err(VoucherFault::Channel { expected: self.id, actual: voucher.channel });
        }
        if let Some(held) = self.held
            && voucher.cumulative <= held.cumulative
        {
            return Ok(Applied { increments: Vec::new(), held });
        }
        if voucher.cumulative > self.deposit {
            return Err(VoucherFault::AboveDeposit { deposit: self.deposit, actual: voucher.cumulative });
        }
        let increments = self.new_increments(frame)?;
        verify_voucher(&self.domain, &voucher, self.signer)?;
        for (job, amount) in &increments {
            match self.jobs.get_mut(job) {
                Some(money) => money.credit(*amount),
                // A job that ended here before its payment came: late, and welcome.
                None => {
                    self.closed_signed = self.closed_signed.saturating_add(*amount);
                    self.arrears = self.arrears.saturating_sub(*amount);
                }
            }
        }
        self.held = Some(voucher);
        Ok(Applied { increments, held: voucher })
    }

    /// The part of a frame's list that lies above what is held.
    fn new_increments(&self, frame: &VoucherFrame) -> Result<Vec<(JobId, Wei)>, VoucherFault> {
        let cumulative = frame.voucher.cumulative;
        let misfit = VoucherFault::Increments { actual: cumulative };
        let mut sum = Wei::ZERO;
        for (_, amount) in &frame.increments {
            if amount.is_zero() {
                return Err(misfit);
            }
            sum = sum.checked_add(*amount).ok_or(misfit.clone())?;
        }
        let base = cumulative.checked_sub(sum).ok_or(misfit)?;
        let held = self.cumulative();
        let mut known = held.checked_sub(base).ok_or(VoucherFault::Gap { base, held })?;
        let mut fresh = Vec::with_capacity(frame.increments.len());
        for (job, amount) in &frame.increments {
            let new = amount.saturating_sub(known);
            known = known.saturating_sub(*amount);
            if !new.is_zero() {
                fresh.push((*job, new));
            }
        }
        Ok(fresh)
    }

    /// Whether a job's meter may move to these tokens: the step is computed and delivered only after [`Permit::Go`].
    ///
    /// # Errors
    /// [`PayeeError`] for an unknown job or a cost that overflows.
    pub fn permit(&self, job: &JobId, tokens_in: u64, tokens_out: u64) -> Result<Permit, PayeeError> {
        let money = self.jobs.get(job).ok_or(PayeeError::UnknownJob { job: *job })?;
        let next = job_cost(money.prices(), tokens_in, tokens_out)?;
        if next > money.max_cost() {
            return Ok(Permit::Stop(StopReason::MaxCost));
        }
        let mine = next.saturating_sub(money.signed());
        let others = self.unpaid_of_others(job);
        if mine.saturating_add(others) > self.deposit.saturating_sub(self.cumulative()) {
            return Ok(Permit::Stop(StopReason::Deposit));
        }
        if mine.is_zero() || mine.saturating_add(others) <= self.credit() {
            return Ok(Permit::Go);
        }
        let step = money.signed().saturating_add(self.risk_limit.max(Wei(1)));
        Ok(Permit::Pay { due: next.min(step) })
    }

    fn unpaid_of_others(&self, job: &JobId) -> Wei {
        self.jobs.iter().filter(|(other, _)| *other != job).map(|(_, money)| money.unpaid()).sum()
    }

    /// How far this gateway's open jobs may be ahead of their vouchers together.
    #[must_use]
    pub fn credit(&self) -> Wei {
        let owed = self.arrears.checked_mul_u64(ARREARS_FACTOR).unwrap_or(Wei::MAX);
        self.cumulative().saturating_sub(owed).min(self.risk_limit)
    }

    /// The step was computed and delivered: moves the meter.
    ///
    /// # Errors
    /// [`PayeeError`].
    pub fn meter(&mut self, job: &JobId, tokens_in: u64, tokens_out: u64) -> Result<Wei, PayeeError> {
        let money = self.jobs.get_mut(job).ok_or(PayeeError::UnknownJob { job: *job })?;
        Ok(money.meter(tokens_in, tokens_out)?)
    }

    /// The receipt is about to go out: its cost, which is what the final voucher must reach.
    ///
    /// # Errors
    /// [`PayeeError::UnknownJob`].
    pub fn sign_job(&mut self, job: &JobId) -> Result<Wei, PayeeError> {
        let money = self.jobs.get_mut(job).ok_or(PayeeError::UnknownJob { job: *job })?;
        money.sign();
        Ok(money.metered().max(money.signed()))
    }

    /// Both have signed: ends the job if its cost is paid.
    ///
    /// # Errors
    /// [`PayeeError::Unpaid`]; the job stays as it is then.
    pub fn complete_job(&mut self, job: &JobId, cost: Wei) -> Result<JobOutcome, PayeeError> {
        let money = self.jobs.get(job).ok_or(PayeeError::UnknownJob { job: *job })?;
        if money.signed() < cost {
            return Err(PayeeError::Unpaid { cost, signed: money.signed() });
        }
        self.end(job, JobState::Complete)
    }

    /// Ends a job without both signatures. Its cost is what was signed for it; the rest is written off.
    ///
    /// # Errors
    /// [`PayeeError::UnknownJob`].
    pub fn abort_job(&mut self, job: &JobId) -> Result<JobOutcome, PayeeError> {
        self.end(job, JobState::Aborted)
    }

    fn end(&mut self, job: &JobId, state: JobState) -> Result<JobOutcome, PayeeError> {
        let money = self.jobs.remove(job).ok_or(PayeeError::UnknownJob { job: *job })?;
        let outcome = money.end(state);
        self.closed_signed = self.closed_signed.saturating_add(outcome.cost);
        self.arrears = self.arrears.saturating_add(outcome.written_off);
        Ok(outcome)
    }

    /// The chain's newest figure.
    pub const fn set_deposit(&mut self, deposit: Wei) {
        self.deposit = deposit;
    }

    /// The channel.
    #[must_use]
    pub const fn id(&self) -> ChannelId {
        self.id
    }

    /// The key whose vouchers count.
    #[must_use]
    pub const fn signer(&self) -> Address {
        self.signer
    }

    /// The highest voucher.
    #[must_use]
    pub const fn held(&self) -> Option<&HeldVoucher> {
        self.held.as_ref()
    }

    /// What the highest voucher is worth.
    #[must_use]
    pub fn cumulative(&self) -> Wei {
        self.held.map_or(Wei::ZERO, |voucher| voucher.cumulative)
    }

    /// The sum over all jobs, open or ended: always equal to [`Self::cumulative`].
    #[must_use]
    pub fn total(&self) -> Wei {
        self.jobs.values().map(JobMoney::signed).sum::<Wei>().saturating_add(self.closed_signed)
    }

    /// The money of an open job.
    #[must_use]
    pub fn job(&self, job: &JobId) -> Option<&JobMoney> {
        self.jobs.get(job)
    }

    /// How many jobs are open.
    #[must_use]
    pub fn open_jobs(&self) -> usize {
        self.jobs.len()
    }

    /// What was delivered on this channel and never paid.
    #[must_use]
    pub const fn arrears(&self) -> Wei {
        self.arrears
    }
}
