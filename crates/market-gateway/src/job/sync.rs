//! After a restart or a broken stream: what does the provider hold, and what does it lack?

use crate::job::client::Shared;
use crate::job::error::{JobFault, WaitedFor};
use crate::job::link::{Link, name};
use crate::job::money::Entry;
use std::sync::Arc;
use trellis_market_journal::{JobPhase, Record};
use trellis_market_receipt::SignedReceipt;
use trellis_market_receipt::wire::{ChannelState, Countersign, GatewayFrame, ProviderFrame};

/// Adopts the highest voucher that the provider shows, sends it what it lacks, and countersigns what this side has signed already.
pub(crate) async fn sync(shared: &Shared, entry: &Arc<Entry>) -> Result<(), JobFault> {
    let _one_at_a_time = entry.syncing.lock().await;
    if !entry.wants_sync() {
        return Ok(());
    }
    if let Ok(Some(view)) = shared.opener.view(entry.id).await {
        entry.set_view(view);
    }
    let mut link = Link::open(&shared.network, entry.provider).await?;
    link.send(&GatewayFrame::ChannelSync(entry.id)).await?;
    let frame = link.next(WaitedFor::Accepted, shared.config.accept_wait_ms).await?;
    let ProviderFrame::ChannelState(state) = frame else { return Err(JobFault::Order { frame: name(&frame) }) };
    let adopted = entry.with_money(|money| money.adopt(state.held.as_ref()))?;
    if !adopted.is_zero() {
        tracing::warn!(channel = %entry.id, amount = %adopted, "a voucher that this journal does not know was adopted");
    }
    resend(shared, entry, &mut link).await?;
    finish_receipts(shared, entry, &mut link, &state).await?;
    link.finish().await;
    entry.synced();
    Ok(())
}

/// The highest voucher, where the provider does not have it.
async fn resend(shared: &Shared, entry: &Entry, link: &mut Link) -> Result<(), JobFault> {
    let Some(frame) = entry.resend(shared) else { return Ok(()) };
    link.send(&GatewayFrame::Voucher(frame)).await?;
    let answer = link.next(WaitedFor::Acknowledgement, shared.config.ack_wait_ms).await?;
    let ProviderFrame::VoucherAck(held) = answer else { return Err(JobFault::Order { frame: name(&answer) }) };
    Ok(entry.with_money(|money| money.acknowledged(&held))?)
}

/// Receipts that this side had countersigned, durably, when the stream broke.
async fn finish_receipts(
    shared: &Shared,
    entry: &Entry,
    link: &mut Link,
    state: &ChannelState,
) -> Result<(), JobFault> {
    for half in &state.half_signed {
        let Some(ours) = complete(shared, half) else {
            tracing::info!(job = %half.receipt.job, channel = %entry.id, "a receipt stays half-signed: its answer was not seen whole");
            continue;
        };
        let job = half.receipt.job;
        let Ok(signature) = ours.gateway_signature.as_ref().try_into() else { continue };
        link.send(&GatewayFrame::Countersign(Countersign { job, signature, voucher: None })).await?;
        let answer = link.next(WaitedFor::Acknowledgement, shared.config.ack_wait_ms).await?;
        if !matches!(answer, ProviderFrame::ReceiptAck(acknowledged) if acknowledged == job) {
            return Err(JobFault::Order { frame: name(&answer) });
        }
    }
    Ok(())
}

/// This side's copy of a receipt, if it has signed exactly this one.
fn complete(shared: &Shared, half: &SignedReceipt) -> Option<SignedReceipt> {
    let position = {
        let index = shared.journal.index();
        let state = index.job(half.receipt.job).filter(|state| state.phase == JobPhase::Complete)?;
        state.receipt_at?
    };
    let (_, record) = shared.journal.read(position).ok()?;
    let Record::JobComplete(kept) = record else { return None };
    let ours = SignedReceipt::from_bytes(&kept.payload).ok()?;
    (ours.receipt == half.receipt).then_some(ours)
}
