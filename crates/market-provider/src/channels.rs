//! The provider's book: every channel that pays it, with what the chain last said of it.

use crate::config::ProviderConfig;
use crate::metrics::ProviderMetrics;
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use trellis_market_channel::{
    Applied, ChannelPhase, ChannelView, JobOutcome, PayeeChannel, PayeeError, Permit, Prices, ServeFault, VoucherFault,
};
use trellis_market_journal::{ChannelOpened, Increment, JobAborted, Journal, JournalError, Record, Side, Voucher};
use trellis_market_receipt::wire::{HeldVoucher, JobError, JobErrorCode, VoucherFrame};
use trellis_primitives::{Address, Bytes, ChannelId, JobId, NodeId, SharedClock, Wei};

/// Channels in memory at most.
pub(crate) const CHANNELS_MAX: usize = 65_536;
/// Sequences remembered per channel, besides those in the journal.
const SEQUENCES_MAX: usize = 65_536;
/// Aborted jobs remembered per channel, besides those in the journal.
const ABORTED_MAX: usize = 1_024;

/// Why the chain did not tell of a channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelSourceError {
    /// No answer.
    #[error("the chain cannot be asked: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
}

/// What the chain says of a channel; the node implements it over `market-chain`.
#[async_trait]
pub trait ChannelSource: Send + Sync + 'static {
    /// The channel's newest state, `None` where there is no such channel.
    ///
    /// # Errors
    /// [`ChannelSourceError`] where the chain cannot be asked.
    async fn channel(&self, id: ChannelId) -> Result<Option<ChannelView>, ChannelSourceError>;
}

/// What changes together under one lock.
struct Page {
    money: PayeeChannel,
    view: ChannelView,
    sequences: BTreeSet<u64>,
    aborted: BTreeMap<JobId, JobAborted>,
}

impl Page {
    fn remember(&mut self, aborted: JobAborted) {
        self.aborted.insert(aborted.job, aborted);
        while self.aborted.len() > ABORTED_MAX {
            self.aborted.pop_first();
        }
    }
}

/// One channel.
pub(crate) struct Entry {
    pub(crate) id: ChannelId,
    pub(crate) peer: NodeId,
    page: Mutex<Page>,
    changed: watch::Sender<u64>,
}

impl Entry {
    pub(crate) fn new(id: ChannelId, peer: NodeId, view: ChannelView, money: PayeeChannel) -> Self {
        let page = Mutex::new(Page { money, view, sequences: BTreeSet::new(), aborted: BTreeMap::new() });
        Self { id, peer, page, changed: watch::Sender::new(0) }
    }

    /// Wakes when a voucher came.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn view(&self) -> ChannelView {
        self.page.lock().view
    }

    pub(crate) fn set_view(&self, view: ChannelView) {
        let mut page = self.page.lock();
        page.view = view;
        page.money.set_deposit(view.deposit);
    }

    pub(crate) fn held(&self) -> Option<HeldVoucher> {
        self.page.lock().money.held().copied()
    }

    pub(crate) fn has_credit(&self) -> bool {
        !self.page.lock().money.credit().is_zero()
    }

    pub(crate) fn signer(&self) -> Address {
        self.page.lock().money.signer()
    }

    pub(crate) fn signed_for(&self, job: &JobId) -> Wei {
        self.page.lock().money.job(job).map_or(Wei::ZERO, |money| money.signed())
    }

    /// Everything promised, open jobs, and what was never paid: for summaries.
    pub(crate) fn figures(&self) -> (Wei, usize, Wei) {
        let page = self.page.lock();
        (page.money.cumulative(), page.money.open_jobs(), page.money.arrears())
    }

    pub(crate) fn open_job(&self, job: JobId, sequence: u64, prices: Prices, max_cost: Wei) -> Result<(), JobError> {
        let refuse = |message: String| JobError { job, code: JobErrorCode::Channel, message };
        let mut page = self.page.lock();
        if page.sequences.contains(&sequence) {
            return Err(refuse(format!("sequence {sequence} was used on this channel")));
        }
        page.money.open_job(job, prices, max_cost).map_err(|error| refuse(error.to_string()))?;
        page.sequences.insert(sequence);
        while page.sequences.len() > SEQUENCES_MAX {
            page.sequences.pop_first();
        }
        Ok(())
    }

    /// Asks whether a step may be taken and, where it may, moves the meter to it.
    pub(crate) fn step(&self, job: &JobId, tokens_in: u64, tokens_out: u64) -> Result<Permit, PayeeError> {
        let mut page = self.page.lock();
        let permit = page.money.permit(job, tokens_in, tokens_out)?;
        if permit == Permit::Go {
            page.money.meter(job, tokens_in, tokens_out)?;
        }
        Ok(permit)
    }

    pub(crate) fn sign_job(&self, job: &JobId) -> Result<Wei, PayeeError> {
        self.page.lock().money.sign_job(job)
    }

    pub(crate) fn complete_job(&self, job: &JobId, cost: Wei) -> Result<JobOutcome, PayeeError> {
        self.page.lock().money.complete_job(job, cost)
    }

    /// Ends a job without both signatures: its cost is what was signed for it.
    pub(crate) fn abort_job(&self, job: &JobId, bound: Wei, reason: String) -> Option<JobAborted> {
        let mut page = self.page.lock();
        let JobOutcome { metered, cost, written_off, .. } = page.money.abort_job(job).ok()?;
        let aborted = JobAborted { job: *job, channel: self.id, metered, signed: cost, written_off, bound, reason };
        page.remember(aborted.clone());
        Some(aborted)
    }

    /// The newest figures of an aborted job.
    pub(crate) fn aborted(&self, job: &JobId) -> Option<JobAborted> {
        self.page.lock().aborted.get(job).cloned()
    }

    /// Books a voucher. Money for jobs that were aborted is late: their figures change, and their records with them.
    fn apply(
        &self,
        frame: &VoucherFrame,
        known: impl Fn(&JobId) -> Option<JobAborted>,
    ) -> Result<(Applied, Vec<JobAborted>), VoucherFault> {
        let mut page = self.page.lock();
        let applied = page.money.apply(frame)?;
        let mut late = Vec::new();
        for (job, amount) in &applied.increments {
            if page.money.job(job).is_some() {
                continue;
            }
            let Some(mut aborted) = page.aborted.get(job).cloned().or_else(|| known(job)) else { continue };
            aborted.signed = aborted.signed.saturating_add(*amount);
            aborted.metered = aborted.metered.max(aborted.signed);
            aborted.written_off = aborted.metered.saturating_sub(aborted.signed);
            page.remember(aborted.clone());
            late.push(aborted);
        }
        drop(page);
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
        Ok((applied, late))
    }
}

/// All channels.
pub(crate) struct Book {
    config: ProviderConfig,
    payee: Address,
    source: Arc<dyn ChannelSource>,
    journal: Journal,
    clock: SharedClock,
    metrics: ProviderMetrics,
    entries: Mutex<HashMap<ChannelId, Arc<Entry>>>,
}

impl Book {
    pub(crate) fn new(
        config: ProviderConfig,
        payee: Address,
        source: Arc<dyn ChannelSource>,
        journal: Journal,
        clock: SharedClock,
        metrics: ProviderMetrics,
    ) -> Self {
        Self { config, payee, source, journal, clock, metrics, entries: Mutex::default() }
    }

    pub(crate) fn insert(&self, entry: Entry) {
        self.entries.lock().insert(entry.id, Arc::new(entry));
    }

    pub(crate) fn known(&self, id: ChannelId) -> Option<Arc<Entry>> {
        self.entries.lock().get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<Arc<Entry>> = self.entries.lock().values().cloned().collect();
        all.sort_by_key(|entry| entry.id);
        all
    }

    /// A channel that may be served on now; asks the chain about one that is new.
    pub(crate) async fn serving(&self, id: ChannelId, peer: NodeId) -> Result<Arc<Entry>, JobError> {
        let refuse = |code, message: String| JobError { job: JobId::default(), code, message };
        let entry = match self.known(id) {
            Some(entry) => entry,
            None => self.learn(id, peer).await?,
        };
        if entry.peer != peer {
            return Err(refuse(JobErrorCode::Channel, "the channel belongs to another node".to_owned()));
        }
        let view = entry.view();
        view.may_serve(self.payee, self.config.token, self.clock.now()).map_err(|fault| {
            let unseen = matches!(fault, ServeFault::ChainUnseen { .. });
            refuse(if unseen { JobErrorCode::ChainUnseen } else { JobErrorCode::Channel }, fault.to_string())
        })?;
        Ok(entry)
    }

    async fn learn(&self, id: ChannelId, peer: NodeId) -> Result<Arc<Entry>, JobError> {
        let refuse = |code, message: String| JobError { job: JobId::default(), code, message };
        if self.entries.lock().len() >= CHANNELS_MAX {
            return Err(refuse(JobErrorCode::Busy, "too many channels".to_owned()));
        }
        let view = self.ask(id).await.map_err(|error| refuse(JobErrorCode::ChainUnseen, error.to_string()))?;
        let view = view.ok_or_else(|| refuse(JobErrorCode::Channel, "no such channel on the chain".to_owned()))?;
        self.check_terms(&view).map_err(|fault| refuse(JobErrorCode::Channel, fault.to_string()))?;
        let opened = self.opened_record(&view, peer);
        self.store(vec![Record::ChannelOpened(opened)]).await?;
        let entry = Arc::new(Entry::new(id, peer, view, self.money(&view)));
        // Two streams may have learned of it at the same time: the first one stays.
        Ok(Arc::clone(self.entries.lock().entry(id).or_insert(entry)))
    }

    fn check_terms(&self, view: &ChannelView) -> Result<(), ServeFault> {
        let (min, actual) = (self.config.challenge_seconds_min, view.terms.challenge_seconds);
        if actual < min {
            return Err(ServeFault::Challenge { min, actual });
        }
        let (min, actual) = (self.config.deposit_min, view.deposit);
        if actual < min {
            return Err(ServeFault::Deposit { min, actual });
        }
        view.may_serve(self.payee, self.config.token, self.clock.now())
    }

    /// A page without a voucher for a channel as the chain shows it.
    pub(crate) fn money(&self, view: &ChannelView) -> PayeeChannel {
        let domain = self.config.channels_domain();
        PayeeChannel::new(domain, view.id, view.terms.signer, view.deposit, self.config.risk_limit)
    }

    fn opened_record(&self, view: &ChannelView, peer: NodeId) -> ChannelOpened {
        ChannelOpened {
            channel: view.id,
            side: Side::Payee,
            peer: peer.to_b256(),
            payer: view.terms.payer,
            payee: view.terms.payee,
            contract: self.config.channels,
            chain_id: self.config.chain_id,
            deposit: view.deposit,
            expires_s: view.terms.expiry_seconds,
            payload: serde_json::to_vec(view).unwrap_or_default().into(),
        }
    }

    /// Asks the chain, with a deadline, and checks that the answer is about this channel.
    pub(crate) async fn ask(&self, id: ChannelId) -> Result<Option<ChannelView>, ChannelSourceError> {
        let wait_ms = self.config.chain_wait_ms;
        let answer = tokio::time::timeout(Duration::from_millis(wait_ms), self.source.channel(id)).await;
        let late = |_| ChannelSourceError::Unreachable { reason: format!("no answer within {wait_ms} ms") };
        let view = answer.map_err(late)??;
        Ok(view.filter(|view| view.id == id))
    }

    /// Checks a voucher and books it. The records of what is new must be durable before anything is acknowledged.
    pub(crate) fn book(&self, frame: &VoucherFrame) -> Result<(HeldVoucher, Vec<Record>), JobError> {
        let refuse = |message: String| JobError { job: JobId::default(), code: JobErrorCode::Voucher, message };
        let entry = self.known(frame.voucher.channel);
        let entry = entry.ok_or_else(|| refuse("a voucher on a channel that has no job here".to_owned()))?;
        let known = |job: &JobId| self.journal.index().job(*job).and_then(|state| state.aborted.clone());
        let (applied, late) = entry.apply(frame, known).map_err(|fault| {
            self.metrics.vouchers_refused.inc();
            tracing::warn!(channel = %entry.id, peer = %entry.peer.short(), fault = %fault, "voucher refused");
            refuse(fault.to_string())
        })?;
        if applied.increments.is_empty() {
            return Ok((applied.held, Vec::new()));
        }
        self.metrics.vouchers.inc();
        let mut records = vec![Record::VoucherReceived(voucher_record(&applied))];
        records.extend(late.into_iter().map(Record::JobAborted));
        Ok((applied.held, records))
    }

    /// Checks a voucher, books it, makes it durable, and gives what is to be acknowledged.
    pub(crate) async fn voucher(&self, frame: &VoucherFrame) -> Result<HeldVoucher, JobError> {
        let (held, records) = self.book(frame)?;
        if !records.is_empty() {
            self.store(records).await?;
        }
        Ok(held)
    }

    async fn store(&self, records: Vec<Record>) -> Result<(), JobError> {
        let refuse = |message: String| JobError { job: JobId::default(), code: JobErrorCode::Internal, message };
        let stored = self.journal.append_all(records).await;
        stored.map(|_| ()).map_err(|error: JournalError| refuse(error.to_string()))
    }

    /// True where the chain's phase lets a voucher still be paid.
    pub(crate) fn is_payable(view: &ChannelView) -> bool {
        view.phase != ChannelPhase::Closed
    }
}

fn voucher_record(applied: &Applied) -> Voucher {
    let increments = applied.increments.iter();
    Voucher {
        channel: applied.held.channel,
        cumulative: applied.held.cumulative,
        signature: Bytes::copy_from_slice(&applied.held.signature),
        increments: increments.map(|(job, amount)| Increment { job: *job, amount: *amount }).collect(),
    }
}
