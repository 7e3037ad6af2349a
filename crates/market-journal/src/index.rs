//! Where everything is: rebuilt from the records on open, and kept current as records become durable.
//!
//! This is the pure state of the crate: a record and its position in, tables out.

use std::collections::{BTreeMap, HashMap, VecDeque};

use trellis_primitives::{Address, B256, ChannelId, JobId, UnixMs, Wei};

use crate::config::PROMISES_INDEXED_MAX;
use crate::record::{
    Batch, ChannelOpened, ChannelUpdated, JobAborted, JobOpened, Payout, Promise, ReceiptKept, Record, Voucher,
};

/// Where a record stands; valid for as long as the journal exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment's number, from 1.
    pub segment: u32,
    /// The record's offset in the segment, in bytes.
    pub offset: u32,
}

/// What is known of a channel.
#[derive(Debug, Clone, Default)]
pub struct ChannelState {
    /// How it began, if the journal saw it.
    pub opened: Option<ChannelOpened>,
    /// When it began.
    pub opened_at: UnixMs,
    /// Its newest state on the chain.
    pub updated: Option<ChannelUpdated>,
    /// The highest voucher, sent or received. Its increments are those of that voucher alone.
    pub voucher: Option<Voucher>,
    /// Everything that vouchers' increments added up to.
    pub increments: Wei,
    /// What payouts moved, through both doors.
    pub paid: Wei,
    /// Every payout.
    pub payouts: Vec<Payout>,
    /// Jobs that named the channel.
    pub jobs: u64,
    /// The sequence after the highest receipt's.
    pub next_sequence: u64,
}

/// How far a job came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobPhase {
    /// Accepted, and no receipt yet.
    Open,
    /// The provider signed the receipt.
    SignedByProvider,
    /// Both signed.
    Complete,
    /// It ended without both signatures.
    Aborted,
}

/// What is known of a job.
#[derive(Debug, Clone)]
pub struct JobState {
    /// Its channel.
    pub channel: ChannelId,
    /// When it was first seen.
    pub at: UnixMs,
    /// How far it came.
    pub phase: JobPhase,
    /// The most the buyer accepted to pay, zero if the journal did not see the acceptance.
    pub max_cost: Wei,
    /// Sum of the increments that vouchers named for it.
    pub signed: Wei,
    /// The receipt's number in the channel and its struct hash.
    pub receipt: Option<(u64, B256)>,
    /// The receipt's cost, or what was signed for an aborted job.
    pub cost: Option<Wei>,
    /// How it ended, if without both signatures.
    pub aborted: Option<JobAborted>,
    /// Where the acceptance is.
    pub opened: Option<Position>,
    /// Where the newest form of the receipt is.
    pub receipt_at: Option<Position>,
}

/// How far a batch came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BatchPhase {
    /// Closed to further receipts.
    Formed,
    /// On its way to the chain, or there.
    Submitted,
    /// Its window is over.
    Final,
}

/// What is known of a batch.
#[derive(Debug, Clone)]
pub struct BatchState {
    /// How far it came.
    pub phase: BatchPhase,
    /// Its newest record.
    pub batch: Batch,
    /// When it was formed.
    pub formed_at: UnixMs,
    /// When its newest record was written.
    pub at: UnixMs,
}

/// The tables.
#[derive(Debug, Default)]
pub struct Index {
    jobs_max: usize,
    channels: BTreeMap<ChannelId, ChannelState>,
    jobs: HashMap<JobId, JobState>,
    jobs_in_order: VecDeque<JobId>,
    jobs_evicted: u64,
    by_sequence: HashMap<(ChannelId, u64), JobId>,
    by_hash: HashMap<B256, JobId>,
    batches: BTreeMap<B256, BatchState>,
    markers: HashMap<B256, Position>,
    pair_roots: HashMap<B256, Vec<Position>>,
    chain_seen: BTreeMap<Address, u64>,
    /// By aggregator and number of the batch, then by the receipt's struct hash.
    promises: BTreeMap<(Address, u64), BTreeMap<B256, Promise>>,
    promises_indexed: usize,
    records: u64,
}

impl Index {
    /// Empty tables that keep at most so many jobs.
    #[must_use]
    pub fn new(jobs_max: usize) -> Self {
        Self { jobs_max: jobs_max.max(1), ..Self::default() }
    }

    /// Takes a record that is durable at a position.
    pub fn apply(&mut self, position: Position, at: UnixMs, record: &Record) {
        self.records += 1;
        match record {
            Record::ChannelOpened(opened) => {
                let channel = self.channels.entry(opened.channel).or_default();
                channel.opened = Some(opened.clone());
                channel.opened_at = at;
            }
            Record::ChannelUpdated(updated) => {
                self.channels.entry(updated.channel).or_default().updated = Some(updated.clone());
            }
            Record::VoucherSent(voucher) | Record::VoucherReceived(voucher) => self.apply_voucher(at, voucher),
            Record::JobOpened(opened) => self.apply_job_opened(position, at, opened),
            Record::JobReceipt(kept) => self.apply_receipt(position, at, kept, JobPhase::SignedByProvider),
            Record::JobComplete(kept) | Record::ReceiptAccepted(kept) => {
                self.apply_receipt(position, at, kept, JobPhase::Complete);
            }
            Record::JobAborted(aborted) => self.apply_aborted(at, aborted),
            Record::PairRoot(pair) => self.pair_roots.entry(pair.peer).or_default().push(position),
            Record::Redeemed(payout) | Record::Settled(payout) => self.apply_payout(payout),
            Record::BatchFormed(batch) => self.apply_batch(at, batch, BatchPhase::Formed),
            Record::BatchSubmitted(batch) => self.apply_batch(at, batch, BatchPhase::Submitted),
            Record::BatchFinal(batch) => self.apply_batch(at, batch, BatchPhase::Final),
            Record::Marker(marker) => {
                self.markers.entry(marker.key).or_insert(position);
            }
            Record::ChainSeen(seen) => {
                let block = self.chain_seen.entry(seen.contract).or_default();
                *block = seen.block.max(*block);
            }
            Record::PromiseKept(promise) => self.apply_promise(promise),
            Record::PromisesChecked(checked) => {
                let batch = (checked.aggregator, checked.batch);
                let known = self.promises.get(&batch).map_or(0, BTreeMap::len);
                if known as u64 == checked.count {
                    self.promises.remove(&batch);
                    self.promises_indexed -= known;
                }
            }
        }
    }

    fn apply_promise(&mut self, promise: &Promise) {
        if self.has_room_for_promises() {
            let of_batch = self.promises.entry((promise.aggregator, promise.batch)).or_default();
            if of_batch.insert(promise.receipt, promise.clone()).is_none() {
                self.promises_indexed += 1;
            }
        }
    }

    fn apply_voucher(&mut self, at: UnixMs, voucher: &Voucher) {
        let channel = self.channels.entry(voucher.channel).or_default();
        for increment in &voucher.increments {
            channel.increments = channel.increments.saturating_add(increment.amount);
        }
        if channel.voucher.as_ref().is_none_or(|known| known.cumulative < voucher.cumulative) {
            channel.voucher = Some(voucher.clone());
        }
        for increment in &voucher.increments {
            let job = self.job_entry(increment.job, voucher.channel, at);
            job.signed = job.signed.saturating_add(increment.amount);
        }
    }

    fn apply_job_opened(&mut self, position: Position, at: UnixMs, opened: &JobOpened) {
        let job = self.job_entry(opened.job, opened.channel, at);
        job.max_cost = opened.max_cost;
        job.opened = Some(position);
    }

    fn apply_receipt(&mut self, position: Position, at: UnixMs, kept: &ReceiptKept, phase: JobPhase) {
        let job = self.job_entry(kept.job, kept.channel, at);
        // A receipt with both signatures is never replaced by one with fewer.
        if job.phase != JobPhase::Complete || phase == JobPhase::Complete {
            job.phase = phase;
            job.receipt = Some((kept.sequence, kept.hash));
            job.cost = Some(kept.cost);
            job.receipt_at = Some(position);
        }
        self.by_sequence.insert((kept.channel, kept.sequence), kept.job);
        self.by_hash.insert(kept.hash, kept.job);
        let channel = self.channels.entry(kept.channel).or_default();
        channel.next_sequence = channel.next_sequence.max(kept.sequence.saturating_add(1));
    }

    fn apply_aborted(&mut self, at: UnixMs, aborted: &JobAborted) {
        let job = self.job_entry(aborted.job, aborted.channel, at);
        if job.phase != JobPhase::Complete {
            job.phase = JobPhase::Aborted;
            job.cost = Some(aborted.signed);
        }
        job.aborted = Some(aborted.clone());
    }

    fn apply_payout(&mut self, payout: &Payout) {
        let channel = self.channels.entry(payout.channel).or_default();
        // The same transaction may be seen twice: by whoever sent it and by whoever follows the chain's events.
        if channel.payouts.iter().any(|known| known.tx == payout.tx && known.cumulative == payout.cumulative) {
            return;
        }
        channel.paid = channel.paid.saturating_add(payout.paid);
        channel.payouts.push(payout.clone());
    }

    fn apply_batch(&mut self, at: UnixMs, batch: &Batch, phase: BatchPhase) {
        let known = self.batches.entry(batch.root).or_insert_with(|| BatchState {
            phase,
            batch: batch.clone(),
            formed_at: at,
            at,
        });
        if phase >= known.phase {
            known.phase = phase;
            known.batch = batch.clone();
            known.at = at;
        }
    }

    fn job_entry(&mut self, id: JobId, channel: ChannelId, at: UnixMs) -> &mut JobState {
        if !self.jobs.contains_key(&id) {
            self.evict_jobs();
            self.jobs_in_order.push_back(id);
            let of_channel = self.channels.entry(channel).or_default();
            of_channel.jobs = of_channel.jobs.saturating_add(1);
        }
        self.jobs.entry(id).or_insert_with(|| JobState {
            channel,
            at,
            phase: JobPhase::Open,
            max_cost: Wei::ZERO,
            signed: Wei::ZERO,
            receipt: None,
            cost: None,
            aborted: None,
            opened: None,
            receipt_at: None,
        })
    }

    /// Makes room for one job by forgetting the oldest finished one; unfinished jobs stay, they are bounded by admission.
    fn evict_jobs(&mut self) {
        let mut looked_at = 0;
        while self.jobs.len() >= self.jobs_max && looked_at < self.jobs_max {
            let Some(oldest) = self.jobs_in_order.pop_front() else { return };
            looked_at += 1;
            let finished =
                self.jobs.get(&oldest).is_none_or(|job| matches!(job.phase, JobPhase::Complete | JobPhase::Aborted));
            if !finished {
                self.jobs_in_order.push_back(oldest);
                continue;
            }
            if let Some(job) = self.jobs.remove(&oldest) {
                self.jobs_evicted += 1;
                if let Some((sequence, hash)) = job.receipt {
                    self.by_sequence.remove(&(job.channel, sequence));
                    self.by_hash.remove(&hash);
                }
            }
        }
    }

    /// Records taken so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Finished jobs that only a scan finds any more.
    #[must_use]
    pub fn jobs_evicted(&self) -> u64 {
        self.jobs_evicted
    }

    /// Every channel, by id.
    pub fn channels(&self) -> impl Iterator<Item = (&ChannelId, &ChannelState)> {
        self.channels.iter()
    }

    /// One channel.
    #[must_use]
    pub fn channel(&self, id: ChannelId) -> Option<&ChannelState> {
        self.channels.get(&id)
    }

    /// Jobs, oldest first.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = (&JobId, &JobState)> {
        self.jobs_in_order.iter().filter_map(|id| self.jobs.get_key_value(id))
    }

    /// One job.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&JobState> {
        self.jobs.get(&id)
    }

    /// The job whose receipt has this number in its channel.
    #[must_use]
    pub fn job_by_sequence(&self, channel: ChannelId, sequence: u64) -> Option<JobId> {
        self.by_sequence.get(&(channel, sequence)).copied()
    }

    /// The job whose receipt has this struct hash.
    #[must_use]
    pub fn job_by_receipt_hash(&self, hash: B256) -> Option<JobId> {
        self.by_hash.get(&hash).copied()
    }

    /// Every batch, by root.
    pub fn batches(&self) -> impl Iterator<Item = (&B256, &BatchState)> {
        self.batches.iter()
    }

    /// One batch.
    #[must_use]
    pub fn batch(&self, root: B256) -> Option<&BatchState> {
        self.batches.get(&root)
    }

    /// Where a marker stands, if the thing was done.
    #[must_use]
    pub fn marker(&self, key: B256) -> Option<Position> {
        self.markers.get(&key).copied()
    }

    /// The last block of a contract whose events were looked at.
    #[must_use]
    pub fn chain_seen(&self, contract: Address) -> Option<u64> {
        self.chain_seen.get(&contract).copied()
    }

    /// True where one more promise is kept in memory.
    #[must_use]
    pub fn has_room_for_promises(&self) -> bool {
        self.promises_indexed < PROMISES_INDEXED_MAX
    }

    /// The batches into which receipts were promised and that were not checked yet: the aggregator and its number.
    pub fn promised_batches(&self) -> impl Iterator<Item = (Address, u64)> {
        self.promises.keys().copied()
    }

    /// The promises into a batch.
    pub fn promises(&self, aggregator: Address, batch: u64) -> impl Iterator<Item = &Promise> {
        self.promises.get(&(aggregator, batch)).into_iter().flat_map(BTreeMap::values)
    }

    /// The promise of a receipt into a batch.
    #[must_use]
    pub fn promise(&self, aggregator: Address, batch: u64, receipt: B256) -> Option<&Promise> {
        self.promises.get(&(aggregator, batch))?.get(&receipt)
    }

    /// Where the post-quantum signatures with a peer stand, oldest first.
    #[must_use]
    pub fn pair_roots(&self, peer: B256) -> &[Position] {
        self.pair_roots.get(&peer).map_or(&[], Vec::as_slice)
    }
}
