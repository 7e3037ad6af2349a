//! Batches on their way to the chain and through their window, vouchers on their way to money, demands to answer.

use std::sync::Arc;

use trellis_contracts::typed::compact_signature;
use trellis_market_chain::{BatchStatus, BatchTotals, ChannelEvent, SettlementEvent, SignedVoucher, TxReceipt};
use trellis_market_journal::{ChainSeen, Payout, Record};
use trellis_market_receipt::Batch;
use trellis_primitives::{B256, ChannelId};

use super::Inner;
use crate::error::SettleError;
use crate::state::Phase;
use crate::store::{self, BatchNote};

/// Blocks after which the place in the chain is written down, even if nothing happened.
const QUIET_BLOCKS_MAX: u64 = 1_000;

/// What one look at the chain did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TickReport {
    /// Batches whose root was made.
    pub formed: usize,
    /// Batches that are now on the chain.
    pub submitted: usize,
    /// Batches whose window is over.
    pub finalised: usize,
    /// Vouchers that the chain paid.
    pub vouchers_paid: usize,
    /// Demands answered.
    pub revealed: usize,
}

impl Inner {
    pub(super) async fn tick(self: &Arc<Self>) -> Result<TickReport, SettleError> {
        let mut report = TickReport::default();
        self.state.lock().seal_if_due(self.clock.now());
        for number in self.ready_to_form() {
            self.form(number).await?;
            report.formed += 1;
        }
        while let Some(number) = self.next_to_submit() {
            report.vouchers_paid += self.submit_batch(number).await?;
            report.submitted += 1;
        }
        if self.vouchers_overdue() {
            report.vouchers_paid += self.pay_vouchers(Vec::new()).await?;
        }
        report.revealed = self.answer_demands().await?;
        report.finalised = self.finalise().await?;
        self.metrics.receipts_waiting.set(self.state.lock().waiting() as i64);
        Ok(report)
    }

    // Each of these holds the lock for its own expression only, never across an await.
    fn ready_to_form(&self) -> Vec<u64> {
        let mut state = self.state.lock();
        let ready = state.ready_to_form();
        ready.into_iter().filter(|number| !state.reopen_if_empty(*number)).collect()
    }

    fn next_to_submit(&self) -> Option<u64> {
        self.state.lock().next_to_submit()
    }

    fn vouchers_overdue(&self) -> bool {
        self.state.lock().vouchers_overdue(self.clock.now())
    }

    /// Makes a batch's root and stores it, so that the same root is submitted after a restart.
    async fn form(self: &Arc<Self>, number: u64) -> Result<(), SettleError> {
        let receipts = self.load_receipts(number).await?;
        let made = Batch::new(number, 0, self.wallet.address(), receipts);
        let batch = made.map_err(|error| {
            // Receipts were checked one by one, and numbers are unique: only a sum beyond 128 bits is left.
            tracing::error!(%error, number, "a batch cannot be made");
            SettleError::Record { what: "a batch", source: crate::error::DataError::Field("receipts") }
        })?;
        let note = BatchNote { number, id: 0, finalisable_at_s: 0, toppled: false };
        let record = note.record(batch.root, batch.receipts.len(), batch.totals.cost, B256::ZERO);
        self.journal.append(Record::BatchFormed(record)).await?;
        if let Some(state) = self.state.lock().batch_mut(number) {
            state.phase = Phase::Formed;
            state.root = batch.root;
            state.sum = batch.totals.cost;
        }
        tracing::info!(number, root = %batch.root, receipts = batch.receipts.len(), "batch formed");
        Ok(())
    }

    /// Puts a formed batch on the chain, unless it is there: a crash may have come between the transaction and its record.
    async fn submit_batch(&self, number: u64) -> Result<usize, SettleError> {
        let Some(batch) = self.state.lock().batch(number).cloned() else { return Ok(0) };
        let client = self.wallet.client();
        let ours = self.wallet.address();
        let taken = self.settlement.batch_id_of(client, ours, number).await?;
        let (mut paid, mut tx) = (0, B256::ZERO);
        if taken == 0 {
            let epoch = self.settlement.current_epoch(client, self.terms.fee_pool).await?;
            let count = u32::try_from(batch.receipts.len()).unwrap_or(u32::MAX);
            let totals = BatchTotals { root: batch.root, number, epoch, count, sum: batch.sum };
            let (beside, rest) = self.vouchers_to_bring().await?;
            let receipt = self.settlement.settle(&self.wallet, totals, beside).await?;
            tx = receipt.tx;
            paid = self.book_payouts(&receipt).await?;
            paid += self.pay_vouchers(rest).await?;
        }
        let id = self.settlement.batch_id_of(client, ours, number).await?;
        let view = self.settlement.batch(client, id).await?;
        if view.root != batch.root {
            return Err(SettleError::NumberTaken { number, ours: batch.root, on_chain: view.root });
        }
        let note = BatchNote { number, id, finalisable_at_s: view.finalisable_at_s, toppled: false };
        let record = note.record(batch.root, batch.receipts.len(), batch.sum, tx);
        self.journal.append(Record::BatchSubmitted(record)).await?;
        if let Some(state) = self.state.lock().batch_mut(number) {
            state.phase = Phase::Submitted;
            state.id = id;
            state.finalisable_at_s = view.finalisable_at_s;
        }
        self.metrics.batches_submitted.inc();
        tracing::info!(number, id, root = %batch.root, "batch on the chain");
        Ok(paid)
    }

    /// Asks the chain about every channel whose voucher may be worth something; what fits beside a root, and the rest.
    async fn vouchers_to_bring(&self) -> Result<(Vec<SignedVoucher>, Vec<SignedVoucher>), SettleError> {
        let due = self.state.lock().channels_due();
        for channel in due {
            let view = self.channels.channel(self.wallet.client(), channel).await?;
            if let Some(held) = self.state.lock().held_mut(channel) {
                held.deposit = view.deposit;
                held.paid = view.paid;
                held.closed = view.status == trellis_market_chain::ChannelStatus::Closed;
            }
        }
        let state = self.state.lock();
        let mut vouchers = Vec::new();
        for channel in state.channels_due() {
            let Some(held) = state.held(channel) else { continue };
            let signature: Option<[u8; 65]> = held.signature.as_ref().try_into().ok();
            let Some((r, vs)) = signature.as_ref().and_then(compact_signature) else { continue };
            let amount = held.cumulative.0;
            vouchers.push((held.payout, SignedVoucher { channelId: channel.0, cumulativeAmount: amount, r, vs }));
        }
        // Neighbours with one payout address are paid by one transfer.
        vouchers.sort_by_key(|(payout, voucher)| (*payout, voucher.channelId));
        let mut all: Vec<SignedVoucher> = vouchers.into_iter().map(|(_, voucher)| voucher).collect();
        let rest = all.split_off(all.len().min(self.config.vouchers_per_tx_max));
        Ok((all, rest))
    }

    /// Pays vouchers without a root; an empty list stands for all that are due.
    async fn pay_vouchers(&self, given: Vec<SignedVoucher>) -> Result<usize, SettleError> {
        let vouchers = if given.is_empty() {
            let (mut first, rest) = self.vouchers_to_bring().await?;
            first.extend(rest);
            first
        } else {
            given
        };
        let mut paid = 0;
        for part in vouchers.chunks(self.config.vouchers_per_tx_max.max(1)) {
            let receipt = self.settlement.settle_vouchers(&self.wallet, part.to_vec()).await?;
            paid += self.book_payouts(&receipt).await?;
        }
        Ok(paid)
    }

    /// Writes down what a transaction paid.
    async fn book_payouts(&self, receipt: &TxReceipt) -> Result<usize, SettleError> {
        let mut records = Vec::new();
        for event in self.channels.events_in(receipt) {
            match event {
                ChannelEvent::Paid { channel, paid, gross, .. } => {
                    if let Some(held) = self.state.lock().held_mut(channel) {
                        held.paid = paid;
                    }
                    let (tx, block) = (receipt.tx, receipt.block);
                    records.push(Record::Settled(Payout { channel, cumulative: paid, paid: gross, tx, block }));
                }
                ChannelEvent::Skipped { channel, reason, .. } => {
                    tracing::warn!(%channel, reason, "voucher skipped by the contract");
                    self.forget_voucher_worth(channel);
                }
                _ => {}
            }
        }
        let count = records.len();
        if count > 0 {
            self.journal.append_all(records).await?;
            self.metrics.vouchers_paid.inc_by(count as u64);
        }
        Ok(count)
    }

    /// A voucher that the contract skipped is not brought again before a higher one comes.
    fn forget_voucher_worth(&self, channel: ChannelId) {
        if let Some(held) = self.state.lock().held_mut(channel) {
            held.paid = held.paid.max(held.cumulative.min(held.deposit));
        }
    }

    /// Finalises what outlived its window, and notices what fell.
    async fn finalise(&self) -> Result<usize, SettleError> {
        let waiting: Vec<(u64, u64)> = {
            let state = self.state.lock();
            let submitted = state.batches().filter(|(_, batch)| batch.phase == Phase::Submitted);
            submitted.map(|(number, batch)| (*number, batch.finalisable_at_s)).collect()
        };
        if waiting.is_empty() {
            return Ok(0);
        }
        let head = self.wallet.client().head().await?;
        self.state.lock().forget_old(head.time_s);
        let mut done = 0;
        for (number, _) in waiting.into_iter().filter(|(_, at)| *at <= head.time_s) {
            done += usize::from(self.finalise_one(number, head.time_s).await?);
        }
        Ok(done)
    }

    async fn finalise_one(&self, number: u64, now_s: u64) -> Result<bool, SettleError> {
        let Some(batch) = self.state.lock().batch(number).cloned() else { return Ok(false) };
        let view = self.settlement.batch(self.wallet.client(), batch.id).await?;
        let mut tx = B256::ZERO;
        match view.status {
            // An answer to a demand moves the end of the window.
            BatchStatus::Pending if view.finalisable_at_s > now_s || view.open_demands > 0 => {
                if let Some(state) = self.state.lock().batch_mut(number) {
                    state.finalisable_at_s = view.finalisable_at_s;
                }
                return Ok(false);
            }
            BatchStatus::Pending => tx = self.settlement.finalise(&self.wallet, batch.id).await?.tx,
            BatchStatus::Toppled => tracing::error!(number, id = batch.id, "our batch was toppled"),
            BatchStatus::Final | BatchStatus::None => {}
        }
        let toppled = view.status == BatchStatus::Toppled;
        let note = BatchNote { number, id: batch.id, finalisable_at_s: view.finalisable_at_s, toppled };
        let record = note.record(batch.root, batch.receipts.len(), batch.sum, tx);
        self.journal.append(Record::BatchFinal(record)).await?;
        if let Some(state) = self.state.lock().batch_mut(number) {
            state.phase = Phase::Done;
        }
        if !toppled {
            self.metrics.batches_final.inc();
        }
        Ok(!toppled)
    }

    /// Shows every leaf of ours that somebody demands.
    async fn answer_demands(self: &Arc<Self>) -> Result<usize, SettleError> {
        let mut cursor = self.event_cursor.lock().await;
        let head = self.wallet.client().head().await?;
        if *cursor > head.number {
            return Ok(0);
        }
        let events = self.settlement.events(self.wallet.client(), *cursor, head.number).await?;
        let mut answered = 0;
        for (_, event) in events {
            if let SettlementEvent::Demanded { id, index, .. } = event {
                answered += usize::from(self.reveal(id, index).await?);
            }
        }
        // Written down now and then, so that a restart does not read the whole chain again.
        if answered > 0 || head.number - *cursor >= QUIET_BLOCKS_MAX {
            let seen = ChainSeen { contract: self.settlement.address, block: head.number };
            self.journal.append(Record::ChainSeen(seen)).await?;
        }
        *cursor = head.number + 1;
        Ok(answered)
    }

    async fn reveal(self: &Arc<Self>, id: u64, index: u32) -> Result<bool, SettleError> {
        let number = {
            let state = self.state.lock();
            state.batches().find(|(_, b)| b.id == id && b.phase >= Phase::Submitted).map(|(number, _)| *number)
        };
        let client = self.wallet.client();
        let (Some(number), true) = (number, self.is_open_demand(id, index).await?) else { return Ok(false) };
        let published = self.publish(number).await?;
        let Some(path) = published.tree.path(0, index as usize) else { return Ok(false) };
        match published.leaves.get(index as usize) {
            Some(leaf) => self.settlement.reveal(&self.wallet, id, leaf.proof(index, path)).await?,
            None => self.settlement.reveal_padding(&self.wallet, id, index, path).await?,
        };
        let view = self.settlement.batch(client, id).await?;
        if let Some(state) = self.state.lock().batch_mut(number) {
            state.finalisable_at_s = view.finalisable_at_s;
        }
        self.metrics.demands_answered.inc();
        tracing::info!(id, index, "demanded leaf shown");
        Ok(true)
    }

    async fn is_open_demand(&self, id: u64, index: u32) -> Result<bool, SettleError> {
        let demand = self.settlement.demand_of(self.wallet.client(), id, index).await?;
        Ok(demand.status == trellis_market_chain::DemandStatus::Open)
    }

    /// Reads a batch's receipts back from the journal, in the order in which they were taken.
    pub(super) async fn load_receipts(
        self: &Arc<Self>,
        number: u64,
    ) -> Result<Vec<trellis_market_receipt::SignedReceipt>, SettleError> {
        let positions: Vec<_> = {
            let state = self.state.lock();
            state.batch(number).map(|batch| batch.receipts.iter().map(|(_, p)| *p).collect()).unwrap_or_default()
        };
        let inner = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || {
            let mut receipts = Vec::with_capacity(positions.len());
            for position in positions {
                if let (_, Record::ReceiptAccepted(kept)) = inner.journal.read(position)? {
                    receipts.push(store::read_accepted(&kept.payload)?.1);
                }
            }
            Ok(receipts)
        });
        reading.await.unwrap_or_else(|_| {
            let source = crate::error::DataError::Field("receipts");
            Err(SettleError::Record { what: "a batch", source })
        })
    }
}
