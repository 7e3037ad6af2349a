//! After a start: the book from the journal, and an end for every job that a crash cut short.

use crate::channels::Entry;
use crate::error::ProviderError;
use crate::service::Shared;
use crate::{settle, watch};
use trellis_market_channel::ChannelView;
use trellis_market_journal::{ChannelState, Index, JobAborted, JobPhase, JobState, Position, Record, Side};
use trellis_market_receipt::wire::HeldVoucher;
use trellis_primitives::{ChannelId, NodeId, Wei};

/// What a restart found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Restored {
    pub(crate) channels: usize,
    pub(crate) aborted: usize,
    pub(crate) half_signed: usize,
}

/// Rebuilds the book and writes the end of unfinished jobs.
pub(crate) async fn restore(shared: &Shared) -> Result<Restored, ProviderError> {
    let aborted = unfinished(shared);
    let mut restored = Restored { aborted: aborted.len(), ..Restored::default() };
    if !aborted.is_empty() {
        shared.journal.append_all(aborted).await?;
    }
    for entry in entries(shared) {
        restored.channels = restored.channels.saturating_add(1);
        shared.book.insert(entry);
    }
    let (half_signed, complete) = receipts(&shared.journal.index());
    restored.half_signed = half_signed;
    for position in complete {
        if let Some(receipt) = settle::read_receipt(shared, position)? {
            shared.pending.add(receipt, shared.clock.now());
        }
    }
    Ok(restored)
}

/// Jobs without an end. What was metered beyond their vouchers died with the process, unless a receipt says it: at most one risk limit.
fn unfinished(shared: &Shared) -> Vec<Record> {
    let index = shared.journal.index();
    let open = |state: &JobState| matches!(state.phase, JobPhase::Open | JobPhase::SignedByProvider);
    let jobs = index.jobs().filter(|(_, state)| open(state));
    jobs.map(|(job, state)| {
        let receipt = state.cost.filter(|_| state.phase == JobPhase::SignedByProvider);
        let metered = receipt.unwrap_or(state.signed).max(state.signed);
        let written_off = metered.saturating_sub(state.signed);
        Record::JobAborted(JobAborted {
            job: *job,
            channel: state.channel,
            metered,
            signed: state.signed,
            written_off,
            bound: receipt.map_or(shared.config.risk_limit, |_| written_off),
            reason: "restart".to_owned(),
        })
    })
    .collect()
}

fn entries(shared: &Shared) -> Vec<Entry> {
    let index = shared.journal.index();
    let entry = |(id, state): (&ChannelId, &ChannelState)| {
        let opened = state.opened.as_ref().filter(|opened| opened.side == Side::Payee)?;
        // The view in the journal is old: nothing is served on it before the chain was seen again.
        let view: ChannelView = serde_json::from_slice(&opened.payload).ok()?;
        let held = state.voucher.as_ref().and_then(|voucher| {
            let signature = voucher.signature.as_ref().try_into().ok()?;
            Some(HeldVoucher { channel: *id, cumulative: voucher.cumulative, signature })
        });
        let money = shared.book.money(&view).restore(held, arrears(&index, *id));
        Some(Entry::new(*id, NodeId::from(opened.peer), view, money))
    };
    index.channels().filter_map(entry).collect()
}

/// What was delivered on a channel and never paid.
fn arrears(index: &Index, channel: ChannelId) -> Wei {
    let of_channel = index.jobs().map(|(_, state)| state);
    let aborted = of_channel.filter(|state| state.channel == channel && state.phase == JobPhase::Aborted);
    aborted.filter_map(|state| state.aborted.as_ref()).map(|aborted| aborted.written_off).sum()
}

/// How many receipts are half-signed, and where those are that no aggregator took yet.
fn receipts(index: &Index) -> (usize, Vec<Position>) {
    let half =
        index.jobs().filter(|(_, state)| state.phase != JobPhase::Complete && state.receipt_at.is_some()).count();
    let complete = index.jobs().filter(|(_, state)| state.phase == JobPhase::Complete);
    let untaken = complete.filter_map(|(_, state)| {
        let (_, hash) = state.receipt?;
        if index.marker(watch::handed_over(hash)).is_some() { None } else { state.receipt_at }
    });
    (half, untaken.collect())
}
