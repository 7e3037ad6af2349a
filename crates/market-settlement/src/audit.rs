//! The auditor: adds up both sides' journals and the chain, and says where they disagree (`trellis audit ledger`, OPS-06).
//!
//! Per channel and side: each job's cost is what vouchers' increments signed for it, the increments add up to the highest
//! voucher, and the chain paid no more than that. Between the sides: the same receipts, and vouchers that differ by no more
//! than what the half-signed jobs can explain. Over all channels: deposits = paid + fees + locked + returned.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use trellis_market_chain::{
    ChainClient, ChainError, ChannelEvent, ChannelStatus, ChannelView, ChannelsContract, WtrlContract,
};
use trellis_market_journal::{Index, JobPhase, JobState, Side};
use trellis_primitives::{ChannelId, JobId, Wei};

use crate::config::Contracts;
use crate::error::SettleError;

/// Times that the chain is read until no payment falls between its first and its last answer.
const PICTURES_MAX: usize = 10;

/// One journal that is added up.
pub struct LedgerSide<'a> {
    /// Its owner's name, for the report.
    pub name: String,
    /// Its tables; made with room for every job ([`trellis_market_journal::JournalConfig::jobs_indexed`]).
    pub index: &'a Index,
}

/// A disagreement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditFault {
    /// A constant name.
    pub what: &'static str,
    /// Whose journal shows it; empty where two or the chain do.
    pub side: String,
    /// The channel, where it is about one.
    pub channel: Option<ChannelId>,
    /// The job, where it is about one.
    pub job: Option<JobId>,
    /// The figure that was expected.
    pub expected: Wei,
    /// The figure that was found.
    pub actual: Wei,
}

/// A job that does not have both signatures everywhere, and the most that the sides' figures may differ for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HalfSigned {
    /// The job.
    pub job: JobId,
    /// Its channel.
    pub channel: ChannelId,
    /// Whose journal shows it.
    pub side: String,
    /// How far it came there.
    pub phase: &'static str,
    /// What vouchers signed for it there.
    pub signed: Wei,
    /// What was metered beyond and given up.
    pub written_off: Wei,
    /// The most by which the other side's figure may differ.
    pub bound: Wei,
}

/// One channel as one side added it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChannelSums {
    /// Whose journal.
    pub side: String,
    /// Which end of the channel they are.
    pub role: &'static str,
    /// Jobs.
    pub jobs: u64,
    /// Sum of the costs.
    pub costs: Wei,
    /// Sum of the increments.
    pub increments: Wei,
    /// The highest voucher.
    pub cumulative: Wei,
    /// Payouts that the journal saw.
    pub payouts_seen: Wei,
}

/// One channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChannelAudit {
    /// The channel.
    pub channel: ChannelId,
    /// Its state on the chain.
    pub status: &'static str,
    /// Its deposit.
    pub deposit: Wei,
    /// What the chain paid from it, fees included.
    pub paid: Wei,
    /// Each side's sums.
    pub sides: Vec<ChannelSums>,
}

/// All channels of the contract, also those of nobody whose journal is here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AuditTotals {
    /// Everything that was deposited.
    pub deposits: Wei,
    /// What reached payout addresses.
    pub paid: Wei,
    /// What reached the fee pool, or waits for it.
    pub fees: Wei,
    /// What open channels still hold.
    pub locked: Wei,
    /// What went back to payers.
    pub returned: Wei,
    /// The contract's tokens.
    pub contract_balance: Wei,
}

/// The auditor's result. It is what `trellis audit ledger --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// True when there is no fault.
    pub agrees: bool,
    /// The block up to which the chain was read.
    pub block: u64,
    /// Jobs with both signatures.
    pub complete_jobs: u64,
    /// Jobs without, each with its bound.
    pub half_signed: Vec<HalfSigned>,
    /// Every channel of the journals.
    pub channels: Vec<ChannelAudit>,
    /// All channels together.
    pub totals: AuditTotals,
    /// Every disagreement.
    pub faults: Vec<AuditFault>,
}

/// Adds up journals and the chain.
///
/// # Errors
/// [`SettleError::Chain`] where the chain cannot be read; disagreements are not errors but [`AuditReport::faults`].
pub async fn audit_ledger(
    sides: &[LedgerSide<'_>],
    client: &dyn ChainClient,
    contracts: &Contracts,
) -> Result<AuditReport, SettleError> {
    let mut audit = Audit::default();
    let mut ids = BTreeSet::new();
    for side in sides {
        ids.extend(side.index.channels().filter(|(_, c)| c.opened.is_some()).map(|(id, _)| *id));
    }
    let picture = Picture::take(client, contracts, &ids).await?;
    for side in sides {
        audit.unopened(side);
    }
    let books: Vec<Book<'_>> = sides.iter().map(Book::of).collect();
    for id in ids {
        if let Some(view) = picture.views.get(&id) {
            audit.channel(id, view, &books);
        }
    }
    let mut totals = AuditTotals { contract_balance: picture.balance, ..AuditTotals::default() };
    for (id, sums) in &picture.sums.0 {
        if let Some(view) = picture.views.get(id) {
            audit.chain(*id, sums, view, &mut totals);
        }
    }
    audit.totals(&totals);
    Ok(AuditReport {
        agrees: audit.faults.is_empty(),
        block: picture.block,
        complete_jobs: audit.complete.len() as u64,
        half_signed: audit.half_signed,
        channels: audit.channels,
        totals,
        faults: audit.faults,
    })
}

/// One channel's events added up.
#[derive(Default)]
struct ChannelEvents {
    deposit: Wei,
    gross: Wei,
    fees: Wei,
    returned: Wei,
}

struct ChainSums(BTreeMap<ChannelId, ChannelEvents>);

impl ChainSums {
    fn of<'a>(events: impl Iterator<Item = &'a ChannelEvent>) -> Self {
        let mut sums: BTreeMap<ChannelId, ChannelEvents> = BTreeMap::new();
        for event in events {
            let known = sums.entry(event.channel()).or_default();
            match event {
                ChannelEvent::Opened { deposit, .. } | ChannelEvent::ToppedUp { deposit, .. } => {
                    known.deposit = *deposit;
                }
                ChannelEvent::Paid { gross, fee, .. } => {
                    known.gross = known.gross.saturating_add(*gross);
                    known.fees = known.fees.saturating_add(*fee);
                }
                ChannelEvent::Closed { returned, .. } => {
                    known.returned = known.returned.saturating_add(*returned);
                }
                ChannelEvent::Closing { .. } | ChannelEvent::Skipped { .. } => {}
            }
        }
        Self(sums)
    }
}

/// The chain at one moment: events and states that belong together.
struct Picture {
    block: u64,
    sums: ChainSums,
    views: BTreeMap<ChannelId, ChannelView>,
    balance: Wei,
}

impl Picture {
    /// Reads the chain until nothing was paid between the first and the last question.
    async fn take(
        client: &dyn ChainClient,
        contracts: &Contracts,
        ids: &BTreeSet<ChannelId>,
    ) -> Result<Self, SettleError> {
        let contract = ChannelsContract::new(contracts.channels);
        let token = WtrlContract::new(contracts.token);
        for _ in 0..PICTURES_MAX {
            let block = client.head().await?.number;
            let events = contract.events(client, &[], 0, block).await?;
            let sums = ChainSums::of(events.iter().map(|(_, event)| event));
            let mut views = BTreeMap::new();
            for id in ids.iter().chain(sums.0.keys()) {
                if !views.contains_key(id) {
                    views.insert(*id, contract.channel(client, *id).await?);
                }
            }
            let balance = token.balance_of(client, contracts.channels).await?;
            let after = client.head().await?.number;
            if after == block || contract.events(client, &[], block + 1, after).await?.is_empty() {
                return Ok(Self { block, sums, views, balance });
            }
        }
        Err(ChainError::Timeout { what: "a moment without payments", waited_ms: 0 }.into())
    }
}

/// One side's jobs by channel.
struct Book<'a> {
    side: &'a LedgerSide<'a>,
    jobs: HashMap<ChannelId, Vec<(JobId, &'a JobState)>>,
}

impl<'a> Book<'a> {
    fn of(side: &'a LedgerSide<'a>) -> Self {
        let mut jobs: HashMap<ChannelId, Vec<(JobId, &JobState)>> = HashMap::new();
        for (id, job) in side.index.jobs() {
            jobs.entry(job.channel).or_default().push((*id, job));
        }
        Self { side, jobs }
    }

    fn jobs(&self, channel: ChannelId) -> &[(JobId, &'a JobState)] {
        self.jobs.get(&channel).map_or(&[], Vec::as_slice)
    }
}

#[derive(Default)]
struct Audit {
    faults: Vec<AuditFault>,
    half_signed: Vec<HalfSigned>,
    channels: Vec<ChannelAudit>,
    complete: BTreeSet<JobId>,
}

/// What a channel's two ends say of it, to be compared.
struct End<'a> {
    book: &'a Book<'a>,
    role: Side,
    cumulative: Wei,
    bounds: Wei,
}

impl Audit {
    fn expect(&mut self, what: &'static str, side: &str, at: (Option<ChannelId>, Option<JobId>), figures: (Wei, Wei)) {
        let (expected, actual) = figures;
        if expected != actual {
            let (channel, job) = at;
            self.faults.push(AuditFault { what, side: side.to_owned(), channel, job, expected, actual });
        }
    }

    fn channel(&mut self, id: ChannelId, view: &ChannelView, books: &[Book<'_>]) {
        let mut ends = Vec::new();
        let mut sums = Vec::new();
        for book in books {
            if let Some((end, sum)) = self.side(id, view, book) {
                ends.push(end);
                sums.push(sum);
            }
        }
        for payer in ends.iter().filter(|end| end.role == Side::Payer) {
            for payee in ends.iter().filter(|end| end.role == Side::Payee) {
                self.compare(id, payer, payee);
            }
        }
        let (status, deposit, paid) = (status_name(view.status), view.deposit, view.paid);
        self.channels.push(ChannelAudit { channel: id, status, deposit, paid, sides: sums });
    }

    /// Vouchers on a channel whose opening the journal never saw cannot be checked against anything.
    fn unopened(&mut self, side: &LedgerSide<'_>) {
        for (id, state) in side.index.channels().filter(|(_, state)| state.opened.is_none()) {
            let cumulative = state.voucher.as_ref().map_or(Wei::ZERO, |voucher| voucher.cumulative);
            let at = (Some(*id), None);
            self.expect("a channel with vouchers was opened", &side.name, at, (Wei::ZERO, cumulative));
        }
    }

    fn side<'a>(&mut self, id: ChannelId, view: &ChannelView, book: &'a Book<'a>) -> Option<(End<'a>, ChannelSums)> {
        let side = book.side;
        let state = side.index.channel(id)?;
        let role = state.opened.as_ref()?.side;
        let at = (Some(id), None);
        let (mut costs, mut bounds) = (Wei::ZERO, Wei::ZERO);
        for (job_id, job) in book.jobs(id) {
            // Between the provider's signature and the gateway's, the last voucher may still be on its way: what counts
            // then is what was signed for the job, and the rest is the half-signed job's bound.
            let settled = job.cost.filter(|_| job.phase != JobPhase::SignedByProvider);
            costs = costs.saturating_add(settled.unwrap_or(job.signed));
            if let Some(cost) = settled {
                self.expect(
                    "a job's cost is what was signed for it",
                    &side.name,
                    (Some(id), Some(*job_id)),
                    (job.signed, cost),
                );
            }
            match half_signed(id, *job_id, job, &side.name) {
                Some(half) => {
                    bounds = bounds.saturating_add(half.bound);
                    self.half_signed.push(half);
                }
                None => {
                    self.complete.insert(*job_id);
                }
            }
        }
        let cumulative = state.voucher.as_ref().map_or(Wei::ZERO, |voucher| voucher.cumulative);
        self.expect("increments add up to the highest voucher", &side.name, at, (cumulative, state.increments));
        self.expect("costs add up to the increments", &side.name, at, (state.increments, costs));
        // A journal may not have seen the newest payout yet; it must never have seen more than there was.
        self.expect("payouts seen happened", &side.name, at, (state.paid.min(view.paid), state.paid));
        self.expect("paid is at most the highest voucher", &side.name, at, (view.paid.min(cumulative), view.paid));
        let role_name = if role == Side::Payer { "payer" } else { "payee" };
        let sum = ChannelSums {
            side: side.name.clone(),
            role: role_name,
            jobs: state.jobs,
            costs,
            increments: state.increments,
            cumulative,
            payouts_seen: state.paid,
        };
        Some((End { book, role, cumulative, bounds }, sum))
    }

    /// The payer may have signed a voucher that never arrived; the half-signed jobs say how much that can be.
    fn compare(&mut self, id: ChannelId, payer: &End<'_>, payee: &End<'_>) {
        let at = (Some(id), None);
        let names = format!("{} and {}", payer.book.side.name, payee.book.side.name);
        let (ours, theirs) = (payer.cumulative, payee.cumulative);
        self.expect("the payee holds nothing that the payer did not sign", &names, at, (theirs.min(ours), theirs));
        let lost = ours.saturating_sub(theirs);
        let bound = payer.bounds.max(payee.bounds);
        self.expect("vouchers under way are within the half-signed jobs' bound", &names, at, (lost.min(bound), lost));
        for (job_id, job) in payer.book.jobs(id) {
            let Some(other) = payee.book.side.index.job(*job_id) else { continue };
            if job.phase == JobPhase::Complete && other.phase == JobPhase::Complete {
                let figures = (job.cost.unwrap_or_default(), other.cost.unwrap_or_default());
                self.expect("both sides have the same cost", &names, (Some(id), Some(*job_id)), figures);
                if job.receipt != other.receipt {
                    self.faults.push(AuditFault {
                        what: "both sides have the same receipt",
                        side: names.clone(),
                        channel: Some(id),
                        job: Some(*job_id),
                        expected: figures.0,
                        actual: figures.1,
                    });
                }
            }
        }
    }

    /// One channel of the contract, from its events and from its state.
    fn chain(&mut self, id: ChannelId, sums: &ChannelEvents, view: &ChannelView, totals: &mut AuditTotals) {
        let at = (Some(id), None);
        self.expect("the events' deposit is the channel's", "", at, (view.deposit, sums.deposit));
        self.expect("the events' payments are the channel's", "", at, (view.paid, sums.gross));
        totals.deposits = totals.deposits.saturating_add(sums.deposit);
        totals.paid = totals.paid.saturating_add(sums.gross.saturating_sub(sums.fees));
        totals.fees = totals.fees.saturating_add(sums.fees);
        totals.returned = totals.returned.saturating_add(sums.returned);
        if view.status != ChannelStatus::Closed {
            totals.locked = totals.locked.saturating_add(view.deposit.saturating_sub(view.paid));
        }
    }

    fn totals(&mut self, totals: &AuditTotals) {
        let out = [totals.paid, totals.fees, totals.locked, totals.returned].into_iter().sum();
        self.expect("deposits = paid + fees + locked + returned", "", (None, None), (totals.deposits, out));
        // Anybody may send tokens to a contract, so it may hold more.
        let held = totals.contract_balance.min(totals.locked);
        self.expect("the contract holds what is locked", "", (None, None), (totals.locked, held));
    }
}

fn half_signed(channel: ChannelId, id: JobId, job: &JobState, side: &str) -> Option<HalfSigned> {
    let (phase, bound) = match job.phase {
        JobPhase::Complete => return None,
        JobPhase::Open => ("open", job.max_cost),
        JobPhase::SignedByProvider => ("signed by provider", job.max_cost.saturating_sub(job.signed)),
        JobPhase::Aborted => ("aborted", job.aborted.as_ref().map_or(Wei::ZERO, |aborted| aborted.bound)),
    };
    let written_off = job.aborted.as_ref().map_or(Wei::ZERO, |aborted| aborted.written_off);
    Some(HalfSigned { job: id, channel, side: side.to_owned(), phase, signed: job.signed, written_off, bound })
}

fn status_name(status: ChannelStatus) -> &'static str {
    match status {
        ChannelStatus::None => "none",
        ChannelStatus::Open => "open",
        ChannelStatus::Closing => "closing",
        ChannelStatus::Closed => "closed",
    }
}
