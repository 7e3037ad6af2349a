//! The end of a job's money: the provider's receipt, the gateway's countersignature with the final voucher, both durable.

use crate::job::{Ending, Job};
use crate::link::{Came, Silence, protocol_error};
use crate::service::Shared;
use trellis_market_journal::{JobPhase, JobState, JournalReadError, Position, ReceiptKept, Record};
use trellis_market_receipt::wire::{
    Chunk, Countersign, GatewayFrame, JobError, JobErrorCode, ProviderFrame, ProviderReceipt,
};
use trellis_market_receipt::{
    Parameters, RECEIPT_VERSION, Receipt, ReceiptDetails, SignedReceipt, engine_build_digest, error_digest,
};
use trellis_primitives::{B256, Bytes, ChannelId, JobId, NodeId, UnixMs, Wei};

/// Milliseconds between two times, within 32 bits.
fn millis(from: UnixMs, to: UnixMs) -> u32 {
    u32::try_from(to.ms_since(from)).unwrap_or(u32::MAX)
}

pub(crate) fn kept(signed: &SignedReceipt) -> ReceiptKept {
    ReceiptKept {
        job: signed.receipt.job,
        channel: signed.receipt.channel,
        sequence: signed.receipt.sequence,
        hash: signed.receipt.struct_hash(),
        cost: signed.receipt.cost,
        written_off: signed.receipt.written_off,
        payload: signed.to_bytes().into(),
    }
}

fn receipt(job: &Job<'_>, ending: &Ending, cost: Wei, parameters_hash: B256) -> Receipt {
    let (shared, accept) = (job.shared, &job.accept);
    let (info, now) = (job.model.backend.info(), shared.clock.now());
    Receipt {
        version: RECEIPT_VERSION,
        chain_id: shared.config.chain_id,
        channels: shared.config.channels,
        aggregator: accept.aggregator,
        channel: accept.channel,
        sequence: accept.sequence,
        job: accept.job,
        gateway: job.peer,
        provider: shared.network.local_id(),
        model_digest: info.model_digest,
        tokenizer_digest: info.tokenizer_digest,
        engine_build: engine_build_digest(&info.engine),
        instruction_set: info.instruction_set,
        request_digest: accept.request_digest,
        parameters_hash,
        prompt_commitment: accept.prompt_commitment,
        output_digest: job.output.digest(),
        fingerprint_root: ending.fingerprint_root,
        tokens_in: job.tokens_in,
        tokens_out: job.tokens_out,
        finish_reason: ending.finish,
        started_at: job.started_at,
        time_to_first_token_ms: job.first_token_at.map_or(0, |first| millis(job.started_at, first)),
        duration_ms: millis(job.started_at, now),
        price_in: accept.price_in,
        price_out: accept.price_out,
        cost,
        written_off: Wei::ZERO,
        error_hash: error_digest(&ending.error),
    }
}

/// Signs the receipt, sends it with the last frame, and waits for the gateway's signature and final voucher.
pub(crate) async fn settle(job: &mut Job<'_>, ending: Ending) -> Result<(), JobError> {
    let id = job.accept.job;
    let refuse = |code, message: String| JobError { job: id, code, message };
    job.opened().await;
    let cost = job.entry.sign_job(&id).map_err(|error| refuse(JobErrorCode::Internal, error.to_string()))?;
    let parameters = job.request.as_ref().map_or_else(Parameters::default, |request| request.parameters.clone());
    let details = ReceiptDetails {
        model: job.model.name.clone(),
        engine: job.model.backend.info().engine,
        parameters,
        error: ending.error.clone(),
    };
    let receipt = receipt(job, &ending, cost, details.parameters.hash());
    let mut signed = SignedReceipt::unsigned(receipt, details);
    let domain = job.shared.config.settlement_domain();
    signed.sign_as_provider(&domain, &job.shared.account);
    let stored = job.shared.journal.append(Record::JobReceipt(kept(&signed))).await;
    stored.map_err(|error| refuse(JobErrorCode::Internal, error.to_string()))?;
    let text = std::mem::take(&mut job.pending);
    let last = Chunk { job: id, text, tokens_in: job.tokens_in, tokens_out: job.tokens_out };
    let frame = ProviderReceipt { last, receipt: signed.clone(), token_ids: ending.token_ids };
    let sent = job.link.send(ProviderFrame::Receipt(Box::new(frame))).await;
    sent.map_err(|_| refuse(JobErrorCode::Protocol, "the gateway went away".to_owned()))?;
    let countersign = countersignature(job).await?;
    complete(job, signed, countersign).await
}

async fn countersignature(job: &mut Job<'_>) -> Result<Countersign, JobError> {
    let id = job.accept.job;
    let refuse = |code, message: &str| JobError { job: id, code, message: message.to_owned() };
    loop {
        match job.link.next(job.shared.config.countersign_wait_ms).await {
            Ok(Came::Frame(frame)) => match *frame {
                GatewayFrame::Countersign(countersign) if countersign.job == id => return Ok(countersign),
                // Crossed on the way with the receipt.
                GatewayFrame::Cancel(_) => {}
                _ => return Err(protocol_error("a countersignature was expected".to_owned())),
            },
            Ok(Came::Bad(error)) => return Err(error),
            Err(Silence::Closed) => return Err(refuse(JobErrorCode::Receipt, "the gateway did not countersign")),
            Err(Silence::Late) => {
                return Err(refuse(JobErrorCode::Receipt, "the countersignature did not come in time"));
            }
        }
    }
}

async fn complete(job: &mut Job<'_>, mut signed: SignedReceipt, countersign: Countersign) -> Result<(), JobError> {
    let id = job.accept.job;
    let refuse = |code, message: String| JobError { job: id, code, message };
    signed.gateway_signature = Bytes::copy_from_slice(&countersign.signature);
    let domain = job.shared.config.settlement_domain();
    let checked = signed.verify_gateway(&domain, job.entry.signer());
    checked.map_err(|error| refuse(JobErrorCode::Receipt, error.to_string()))?;
    let mut records = Vec::with_capacity(2);
    let mut held = None;
    if let Some(frame) = &countersign.voucher {
        let (highest, booked) = job.shared.book.book(frame)?;
        held = Some(highest);
        records.extend(booked);
    }
    let ended = job.entry.complete_job(&id, signed.receipt.cost);
    match ended {
        Ok(_) => records.push(Record::JobComplete(kept(&signed))),
        Err(error) => {
            // What the voucher did pay stays paid, and must be durable like any other.
            let _ = job.shared.journal.append_all(records).await;
            return Err(refuse(JobErrorCode::Receipt, error.to_string()));
        }
    }
    let stored = job.shared.journal.append_all(records).await;
    stored.map_err(|error| refuse(JobErrorCode::Internal, error.to_string()))?;
    if let Some(held) = held {
        let _ = job.link.send(ProviderFrame::VoucherAck(held)).await;
    }
    let _ = job.link.send(ProviderFrame::ReceiptAck(id)).await;
    job.shared.pending.add(signed, job.shared.clock.now());
    Ok(())
}

/// The cost in the receipt that this provider signed for a job, if it did.
pub(crate) fn receipt_cost(shared: &Shared, job: JobId) -> Option<Wei> {
    let index = shared.journal.index();
    let state = index.job(job).filter(|state| state.phase == JobPhase::SignedByProvider)?;
    state.cost
}

/// True where the provider's receipt waits for the gateway's signature, also after its job was aborted.
fn is_half_signed(state: &JobState) -> bool {
    state.receipt_at.is_some() && state.phase != JobPhase::Complete
}

/// Receipts on a channel that only this provider has signed.
pub(crate) fn half_signed(
    shared: &Shared,
    channel: ChannelId,
    max: usize,
) -> Result<Vec<SignedReceipt>, JournalReadError> {
    let positions: Vec<Position> = {
        let index = shared.journal.index();
        let half = |state: &&JobState| state.channel == channel && is_half_signed(state);
        index.jobs().rev().map(|(_, state)| state).filter(half).filter_map(|state| state.receipt_at).take(max).collect()
    };
    positions.into_iter().filter_map(|position| read_receipt(shared, position).transpose()).collect()
}

/// A receipt from the journal; `None` where the record is of another kind.
pub(crate) fn read_receipt(shared: &Shared, position: Position) -> Result<Option<SignedReceipt>, JournalReadError> {
    let (_, record) = shared.journal.read(position)?;
    let payload = match record {
        Record::JobReceipt(kept) | Record::JobComplete(kept) => kept.payload,
        _ => return Ok(None),
    };
    Ok(SignedReceipt::from_bytes(&payload).ok())
}

/// A countersignature that comes after its stream broke, or after a restart of either side.
pub(crate) async fn late_countersign(shared: &Shared, peer: NodeId, countersign: &Countersign) -> Result<(), JobError> {
    let refuse = |code, message: String| JobError { job: countersign.job, code, message };
    let unknown = || refuse(JobErrorCode::Receipt, "no receipt of this job waits for a signature".to_owned());
    let state = shared.journal.index().job(countersign.job).cloned().ok_or_else(unknown)?;
    if state.phase == JobPhase::Complete {
        return Ok(());
    }
    let position = state.receipt_at.ok_or_else(unknown)?;
    let read = read_receipt(shared, position).map_err(|error| refuse(JobErrorCode::Internal, error.to_string()))?;
    let mut signed = read.ok_or_else(unknown)?;
    let entry = shared.book.known(state.channel).filter(|entry| entry.peer == peer).ok_or_else(unknown)?;
    signed.gateway_signature = Bytes::copy_from_slice(&countersign.signature);
    let checked = signed.verify_gateway(&shared.config.settlement_domain(), entry.signer());
    checked.map_err(|error| refuse(JobErrorCode::Receipt, error.to_string()))?;
    if let Some(frame) = &countersign.voucher {
        shared.book.voucher(frame).await?;
    }
    let paid = shared.journal.index().job(countersign.job).map_or(Wei::ZERO, |state| state.signed);
    if paid < signed.receipt.cost {
        let cost = signed.receipt.cost;
        return Err(refuse(JobErrorCode::Receipt, format!("the cost is {cost}, vouchers for it reach {paid}")));
    }
    let stored = shared.journal.append(Record::JobComplete(kept(&signed))).await;
    stored.map_err(|error| refuse(JobErrorCode::Internal, error.to_string()))?;
    shared.metrics.jobs_complete.inc();
    shared.pending.add(signed, shared.clock.now());
    Ok(())
}
