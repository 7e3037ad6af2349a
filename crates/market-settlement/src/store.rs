//! What an aggregator's journal holds, and how its state comes back from it after a restart.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use trellis_market_journal::{Batch, JournalConfig, JournalReader, Position, ReceiptKept, Record};
use trellis_market_receipt::SignedReceipt;
use trellis_primitives::{B256, BatchRoot, Bytes, ChannelId, UnixMs, Wei};

use crate::error::{DataError, SettleError};
use crate::state::{Held, Phase, State};
use crate::wire::LatestVoucher;

/// The record of a receipt that is promised into a batch: the batch's number, then the receipt.
pub(crate) fn accepted(number: u64, signed: &SignedReceipt) -> Record {
    let mut payload = number.to_be_bytes().to_vec();
    payload.extend_from_slice(&signed.to_bytes());
    Record::ReceiptAccepted(ReceiptKept {
        job: signed.receipt.job,
        channel: signed.receipt.channel,
        sequence: signed.receipt.sequence,
        hash: signed.receipt.struct_hash(),
        cost: signed.receipt.cost,
        written_off: signed.receipt.written_off,
        payload: payload.into(),
    })
}

/// The batch number of such a record, without reading the receipt.
fn batch_of(payload: &[u8]) -> Result<u64, SettleError> {
    let fault = || SettleError::Record { what: "an accepted receipt", source: DataError::Field("payload") };
    let number = payload.get(..8).and_then(|bytes| bytes.try_into().ok()).ok_or_else(fault)?;
    Ok(u64::from_be_bytes(number))
}

/// Reads such a record's payload.
pub(crate) fn read_accepted(payload: &[u8]) -> Result<(u64, SignedReceipt), SettleError> {
    let fault = || SettleError::Record { what: "an accepted receipt", source: DataError::Field("payload") };
    let number = batch_of(payload)?;
    let signed = SignedReceipt::from_bytes(payload.get(8..).unwrap_or_default()).map_err(|_| fault())?;
    Ok((number, signed))
}

/// A batch's record: our number, the contract's, the second from which it can be finalised, and whether it fell.
pub(crate) struct BatchNote {
    pub(crate) number: u64,
    pub(crate) id: u64,
    pub(crate) finalisable_at_s: u64,
    pub(crate) toppled: bool,
}

impl BatchNote {
    pub(crate) fn record(&self, root: BatchRoot, count: usize, sum: Wei, tx: B256) -> Batch {
        let mut payload = Vec::with_capacity(25);
        payload.extend_from_slice(&self.number.to_be_bytes());
        payload.extend_from_slice(&self.id.to_be_bytes());
        payload.extend_from_slice(&self.finalisable_at_s.to_be_bytes());
        payload.push(u8::from(self.toppled));
        Batch { root: root.0, count: count as u64, sum, tx, payload: payload.into() }
    }

    fn read(payload: &[u8]) -> Result<Self, SettleError> {
        let fault = || SettleError::Record { what: "a batch", source: DataError::Field("payload") };
        let word = |at: usize| -> Option<u64> { payload.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes) };
        Ok(Self {
            number: word(0).ok_or_else(fault)?,
            id: word(8).ok_or_else(fault)?,
            finalisable_at_s: word(16).ok_or_else(fault)?,
            toppled: *payload.get(24).ok_or_else(fault)? != 0,
        })
    }
}

/// What a restart finds.
pub(crate) struct Recalled {
    /// The highest voucher of each channel, and since when it has been here.
    pub(crate) vouchers: BTreeMap<ChannelId, (LatestVoucher, UnixMs)>,
}

/// Brings the state back from the journal's records.
pub(crate) fn recall(config: &JournalConfig, state: &mut State) -> Result<Recalled, SettleError> {
    let reader = JournalReader::open(config)?;
    let mut failed = None;
    let mut vouchers = BTreeMap::new();
    reader.scan(|position, at, record| match recall_one(state, &mut vouchers, position, at, record) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    state.settle_down();
    Ok(Recalled { vouchers })
}

fn recall_one(
    state: &mut State,
    vouchers: &mut BTreeMap<ChannelId, (LatestVoucher, UnixMs)>,
    position: Position,
    at: UnixMs,
    record: Record,
) -> Result<(), SettleError> {
    match record {
        Record::ReceiptAccepted(kept) => {
            let number = batch_of(&kept.payload)?;
            state.recall(number, (kept.channel, kept.sequence), position, at);
        }
        Record::VoucherReceived(voucher) => {
            let latest = LatestVoucher {
                channel: voucher.channel,
                cumulative: voucher.cumulative,
                signature: voucher.signature,
            };
            let known = vouchers.get(&latest.channel);
            if known.is_none_or(|(known, _)| known.cumulative < latest.cumulative) {
                vouchers.insert(latest.channel, (latest, at));
            }
        }
        Record::BatchFormed(batch) => recall_batch(state, &batch, Phase::Formed)?,
        Record::BatchSubmitted(batch) => recall_batch(state, &batch, Phase::Submitted)?,
        Record::BatchFinal(batch) => recall_batch(state, &batch, Phase::Done)?,
        _ => {}
    }
    Ok(())
}

fn recall_batch(state: &mut State, batch: &Batch, phase: Phase) -> Result<(), SettleError> {
    let note = BatchNote::read(&batch.payload)?;
    if let Some(known) = state.batch_mut(note.number) {
        known.phase = known.phase.max(phase);
        known.root = BatchRoot(batch.root);
        known.sum = batch.sum;
        known.id = known.id.max(note.id);
        known.finalisable_at_s = known.finalisable_at_s.max(note.finalisable_at_s);
    }
    Ok(())
}

/// A voucher as it is kept in memory, before the chain has been asked about its channel.
pub(crate) fn held(voucher: &LatestVoucher, view: &trellis_market_chain::ChannelView, since: UnixMs) -> Held {
    Held {
        cumulative: voucher.cumulative,
        signature: voucher.signature.clone(),
        payout: view.payout,
        deposit: view.deposit,
        paid: view.paid,
        closed: view.status == trellis_market_chain::ChannelStatus::Closed,
        since,
    }
}

/// The journal's record of a voucher that an aggregator holds.
pub(crate) fn voucher_record(voucher: &LatestVoucher) -> Record {
    Record::VoucherReceived(trellis_market_journal::Voucher {
        channel: voucher.channel,
        cumulative: voucher.cumulative,
        signature: Bytes::clone(&voucher.signature),
        increments: Vec::new(),
    })
}
