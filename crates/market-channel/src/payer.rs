//! The gateway's side of a channel: one counter that only grows, shared by all jobs of the channel.
//!
//! The order is always: [`PayerChannel::allot`], sign, journal, send, [`PayerChannel::acknowledged`]. What was allotted is never taken
//! back, not even when the connection breaks before it was sent: the next frame's list of increments reaches back to the last
//! acknowledged voucher, so nothing is lost, and the counter never shows one amount for two meanings.

use crate::voucher::{VoucherFault, verify_voucher};
use std::collections::{BTreeMap, VecDeque};
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::wire::{HeldVoucher, VOUCHER_INCREMENTS_MAX, VoucherFrame};
use trellis_primitives::{Address, ChannelId, JobId, Wei};

/// Why a gateway cannot promise more, or does not believe its peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayerError {
    /// The deposit is used up.
    #[error("the channel has {available} left of {deposit}, {needed} is needed")]
    Short {
        /// The deposit.
        deposit: Wei,
        /// What is not promised yet.
        available: Wei,
        /// What was asked for.
        needed: Wei,
    },
    /// The provider has not yet shown what it holds since this side started.
    #[error("the provider has not shown its highest voucher yet")]
    NotSynced,
    /// Too many vouchers are not acknowledged.
    #[error("{actual} increments are not acknowledged, at most {VOUCHER_INCREMENTS_MAX} may be")]
    Unacknowledged {
        /// How many.
        actual: usize,
    },
    /// The provider shows a voucher that this gateway has not signed.
    #[error(transparent)]
    Voucher(#[from] VoucherFault),
}

/// What to sign, journal and send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoucherDraft {
    /// The channel.
    pub channel: ChannelId,
    /// The amount to sign for.
    pub cumulative: Wei,
    /// Since the last acknowledged voucher, in the counter's order.
    pub increments: Vec<(JobId, Wei)>,
    /// What this draft itself adds: the journal's record.
    pub added: (JobId, Wei),
}

impl VoucherDraft {
    /// The frame, once signed.
    #[must_use]
    pub fn into_frame(self, voucher: HeldVoucher) -> VoucherFrame {
        VoucherFrame { voucher, increments: self.increments }
    }
}

/// The gateway's side of a channel.
#[derive(Debug, Clone)]
pub struct PayerChannel {
    id: ChannelId,
    domain: Domain,
    signer: Address,
    deposit: Wei,
    cumulative: Wei,
    acknowledged: Wei,
    unacknowledged: VecDeque<(JobId, Wei)>,
    jobs: BTreeMap<JobId, Wei>,
    settled: Wei,
    synced: bool,
}

impl PayerChannel {
    /// A channel that was just opened: nobody holds a voucher on it.
    #[must_use]
    pub const fn new(domain: Domain, id: ChannelId, signer: Address, deposit: Wei) -> Self {
        Self {
            id,
            domain,
            signer,
            deposit,
            cumulative: Wei::ZERO,
            acknowledged: Wei::ZERO,
            unacknowledged: VecDeque::new(),
            jobs: BTreeMap::new(),
            settled: Wei::ZERO,
            synced: true,
        }
    }

    /// A channel from the journal: what each signed voucher added, in order. Not usable before [`Self::adopt`].
    #[must_use]
    pub fn restore(
        domain: Domain,
        id: ChannelId,
        signer: Address,
        deposit: Wei,
        signed: impl IntoIterator<Item = (JobId, Wei)>,
    ) -> Self {
        let mut channel = Self::new(domain, id, signer, deposit);
        channel.synced = false;
        for (job, amount) in signed {
            channel.note(job, amount);
            // What is older than one frame can hold was acknowledged, or the gateway would have stopped there.
            while channel.unacknowledged.len() > VOUCHER_INCREMENTS_MAX {
                if let Some((_, oldest)) = channel.unacknowledged.pop_front() {
                    channel.acknowledged = channel.acknowledged.saturating_add(oldest);
                }
            }
        }
        channel
    }

    fn note(&mut self, job: JobId, amount: Wei) {
        self.cumulative = self.cumulative.saturating_add(amount);
        let total = self.jobs.entry(job).or_default();
        *total = total.saturating_add(amount);
        match self.unacknowledged.back_mut() {
            Some((last, sum)) if *last == job => *sum = sum.saturating_add(amount),
            _ => self.unacknowledged.push_back((job, amount)),
        }
    }

    /// Promises more for a job. The draft must be signed and journalled before it is sent.
    ///
    /// # Errors
    /// [`PayerError`]; nothing changes then.
    pub fn allot(&mut self, job: JobId, amount: Wei) -> Result<VoucherDraft, PayerError> {
        if !self.synced {
            return Err(PayerError::NotSynced);
        }
        let actual = self.unacknowledged.len();
        let joins_last = self.unacknowledged.back().is_some_and(|(last, _)| *last == job);
        if actual >= VOUCHER_INCREMENTS_MAX && !joins_last {
            return Err(PayerError::Unacknowledged { actual });
        }
        let available = self.available();
        if amount > available {
            return Err(PayerError::Short { deposit: self.deposit, available, needed: amount });
        }
        self.note(job, amount);
        Ok(VoucherDraft { added: (job, amount), ..self.draft() })
    }

    fn draft(&self) -> VoucherDraft {
        VoucherDraft {
            channel: self.id,
            cumulative: self.cumulative,
            increments: self.unacknowledged.iter().copied().collect(),
            added: (JobId::default(), Wei::ZERO),
        }
    }

    /// The highest voucher again, where the provider has not acknowledged it; the same amount has the same signature.
    #[must_use]
    pub fn resend(&self) -> Option<VoucherDraft> {
        (self.cumulative > self.acknowledged).then(|| self.draft())
    }

    /// The provider says that a voucher is durable on its side.
    ///
    /// # Errors
    /// [`PayerError::Voucher`] where it is not this gateway's own signature.
    pub fn acknowledged(&mut self, held: &HeldVoucher) -> Result<(), PayerError> {
        if held.channel != self.id {
            return Err(VoucherFault::Channel { expected: self.id, actual: held.channel }.into());
        }
        if held.cumulative <= self.acknowledged {
            return Ok(());
        }
        verify_voucher(&self.domain, held, self.signer)?;
        self.advance(held.cumulative);
        Ok(())
    }

    /// The provider shows the highest voucher it holds, or that it holds none: the channel is usable from now on.
    ///
    /// A higher one than this side remembers, with its own signature, is adopted: the counter goes on from there, and the
    /// difference counts for no known job.
    ///
    /// # Errors
    /// [`PayerError::Voucher`] where it is not this gateway's own signature.
    pub fn adopt(&mut self, held: Option<&HeldVoucher>) -> Result<Wei, PayerError> {
        let before = self.cumulative;
        if let Some(held) = held {
            self.acknowledged(held)?;
        }
        self.synced = true;
        Ok(self.cumulative.saturating_sub(before))
    }

    fn advance(&mut self, to: Wei) {
        let mut passed = to.saturating_sub(self.acknowledged);
        while let Some((_, amount)) = self.unacknowledged.front_mut() {
            if *amount > passed {
                *amount = amount.saturating_sub(passed);
                break;
            }
            passed = passed.saturating_sub(*amount);
            self.unacknowledged.pop_front();
        }
        self.acknowledged = to;
        if to > self.cumulative {
            // Signed by this gateway and lost from its journal: it stays promised, for no job that is still known.
            let unknown = to.saturating_sub(self.cumulative);
            self.settled = self.settled.saturating_add(unknown);
            self.cumulative = to;
        }
    }

    /// Forgets a job that ended; what was promised for it stays promised.
    pub fn close_job(&mut self, job: &JobId) -> Wei {
        let amount = self.jobs.remove(job).unwrap_or_default();
        self.settled = self.settled.saturating_add(amount);
        amount
    }

    /// A top-up was seen on the chain.
    pub const fn set_deposit(&mut self, deposit: Wei) {
        self.deposit = deposit;
    }

    /// The channel.
    #[must_use]
    pub const fn id(&self) -> ChannelId {
        self.id
    }

    /// Everything promised so far.
    #[must_use]
    pub const fn cumulative(&self) -> Wei {
        self.cumulative
    }

    /// What the provider has acknowledged.
    #[must_use]
    pub const fn acknowledged_amount(&self) -> Wei {
        self.acknowledged
    }

    /// What can still be promised.
    #[must_use]
    pub const fn available(&self) -> Wei {
        self.deposit.saturating_sub(self.cumulative)
    }

    /// What was promised for a job that is still known.
    #[must_use]
    pub fn signed_for(&self, job: &JobId) -> Wei {
        self.jobs.get(job).copied().unwrap_or_default()
    }

    /// The sum over all jobs, known or ended: always equal to [`Self::cumulative`].
    #[must_use]
    pub fn total(&self) -> Wei {
        self.jobs.values().copied().sum::<Wei>().saturating_add(self.settled)
    }

    /// False after a restart, until the provider has shown what it holds.
    #[must_use]
    pub const fn is_synced(&self) -> bool {
        self.synced
    }
}
