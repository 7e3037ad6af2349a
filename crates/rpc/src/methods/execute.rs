//! Calls, estimates, and raw transactions.

use super::transactions::locate;
use crate::block_ref::{BlockRef, block_ref};
use crate::config::{SEND_SYNC_MS_DEFAULT, SEND_SYNC_MS_MAX};
use crate::context::RpcContext;
use crate::error::{DecodeError, RpcError};
use crate::params::{Args, bytes, object, quantity_u64};
use crate::shape::{Answer, json, receipt};
use crate::words::{halt_in_words, invalid_in_words, revert_reason};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{B256, Bytes, U64, U256};
use alloy_rpc_types::{AccessListResult, BlockOverrides, TransactionRequest, state::StateOverride};
use rayon::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use trellis_chain_execution::{CallError, Overrides, recover_sender};
use trellis_primitives::{RecoveredTx, TxEnvelope};

/// Raw transactions above which decoding and recovery are spread over all cores.
const PARALLEL_RAW_MIN: usize = 4;

/// A legacy transaction is an RLP list, so it begins with at least this; what is below is a type (EIP-2718).
const LEGACY_FIRST_BYTE_MIN: u8 = 0xc0;
/// The types that decode: access list, dynamic fee, blobs (refused by the pool), set code.
const TX_TYPES: std::ops::RangeInclusive<u8> = 1..=4;

/// The encodings of some transactions, as they came.
pub(crate) type RawTransactions = Vec<Bytes>;

pub(super) fn call_error(error: CallError) -> RpcError {
    match error {
        CallError::Reverted { output, .. } => RpcError::Reverted { reason: revert_reason(&output), data: output },
        CallError::Halted { reason, .. } => RpcError::Execution(halt_in_words(&reason)),
        CallError::Invalid(reason) => RpcError::Execution(invalid_in_words(&reason)),
        CallError::Allowance { allowance } => RpcError::GasRequired(allowance),
        error @ CallError::Override { .. } => RpcError::Execution(error.to_string()),
        CallError::Execution(error) => {
            tracing::error!(%error, "call failed inside the node");
            RpcError::Internal("the call could not be executed")
        }
    }
}

fn overrides(args: &Args, first: usize) -> Result<Overrides, RpcError> {
    Ok(Overrides {
        state: args.optional(first, object::<StateOverride>)?,
        block: args.optional(first.saturating_add(1), object::<BlockOverrides>)?,
    })
}

pub(super) fn call(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(4)?;
    let request = args.required(0, object::<TransactionRequest>)?;
    let named = args.optional(1, block_ref)?.unwrap_or(BlockRef::Latest);
    let (view, header) = context.call_site(named)?;
    let answer = context.executor.call(&view, &header, &request, &overrides(args, 2)?);
    json(&answer.map_err(call_error)?.output)
}

pub(super) fn estimate_gas(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(4)?;
    let request = args.required(0, object::<TransactionRequest>)?;
    let named = args.optional(1, block_ref)?.unwrap_or(BlockRef::Latest);
    let (view, header) = context.call_site(named)?;
    let gas = context.executor.estimate_gas(&view, &header, &request, &overrides(args, 2)?);
    json(&U64::from(gas.map_err(call_error)?))
}

pub(super) fn access_list(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(3)?;
    let request = args.required(0, object::<TransactionRequest>)?;
    let named = args.optional(1, block_ref)?.unwrap_or(BlockRef::Latest);
    let (view, header) = context.call_site(named)?;
    let found = context.executor.access_list(&view, &header, &request, &overrides(args, 2)?).map_err(call_error)?;
    // Geth gives the bare words here, without the contract's reason.
    let error = found.failure.map(|failure| match failure {
        CallError::Halted { reason, .. } => halt_in_words(&reason),
        failure => failure.to_string(),
    });
    json(&AccessListResult { access_list: found.list, gas_used: U256::from(found.gas_used), error })
}

fn decode(raw: &[u8]) -> Result<TxEnvelope, DecodeError> {
    match raw.first() {
        None => return Err(DecodeError::Empty),
        Some(first) if *first < LEGACY_FIRST_BYTE_MIN && !TX_TYPES.contains(first) => return Err(DecodeError::Type),
        Some(_) => {}
    }
    let mut rest = raw;
    let tx = TxEnvelope::decode_2718(&mut rest).map_err(|error| DecodeError::Rlp(error.to_string()))?;
    if rest.is_empty() { Ok(tx) } else { Err(DecodeError::Trailing) }
}

pub(super) fn decode_and_recover(raw: &Bytes) -> Result<RecoveredTx, DecodeError> {
    let tx = decode(raw)?;
    let sender = recover_sender(&tx).map_err(|_| DecodeError::Sender)?;
    Ok(RecoveredTx::new(tx, sender))
}

/// Takes raw transactions: decode, hash and recover on all cores, then into the pool in their order, with one lock.
/// Blocks its thread.
pub(crate) fn send_raw(context: &RpcContext, raw: &RawTransactions) -> Vec<Result<B256, RpcError>> {
    context.metrics.raw_transactions.inc_by(u64::try_from(raw.len()).unwrap_or(u64::MAX));
    let decoded: Vec<Result<RecoveredTx, DecodeError>> = if raw.len() < PARALLEL_RAW_MIN {
        raw.iter().map(decode_and_recover).collect()
    } else {
        raw.par_iter().map(decode_and_recover).collect()
    };
    let good: Vec<RecoveredTx> = decoded.iter().flatten().cloned().collect();
    let mut taken = context.mempool.add_batch(good).into_iter();
    decoded
        .into_iter()
        .map(|decoded| match decoded {
            Err(error) => Err(RpcError::Undecodable(error)),
            Ok(_) => match taken.next() {
                Some(answer) => Ok(answer?),
                None => Err(RpcError::Internal("the pool answered too little")),
            },
        })
        .collect()
}

/// `eth_sendRawTransactionSync` (EIP-7966): send, wait until the transaction is in a final block, answer its receipt.
pub(crate) async fn send_raw_sync(context: Arc<RpcContext>, args: Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let raw = args.required(0, bytes)?;
    let waited_ms = args.optional(1, quantity_u64)?.unwrap_or(SEND_SYNC_MS_DEFAULT).min(SEND_SYNC_MS_MAX);
    let deadline = Instant::now().checked_add(Duration::from_millis(waited_ms));
    let mut blocks = context.store.subscribe();
    let sending = context.clone();
    let mut answers = tokio::task::spawn_blocking(move || send_raw(&sending, &vec![raw]))
        .await
        .map_err(|_| RpcError::Internal("a task was cancelled"))?;
    let hash = answers.pop().ok_or(RpcError::Internal("the pool answered too little"))??;
    loop {
        let timed_out = || RpcError::SyncTimeout { hash, waited_ms };
        let next = tokio::time::timeout_at(deadline.unwrap_or_else(Instant::now), blocks.recv());
        // A lagging or closed receiver is no reason to stop: the store is asked below in any case.
        let _ = next.await.map_err(|_| timed_out())?;
        let asking = context.clone();
        let found = tokio::task::spawn_blocking(move || locate(&asking, hash))
            .await
            .map_err(|_| RpcError::Internal("a task was cancelled"))??;
        if let Some((block, index)) = found {
            return json(&receipt(&context, &block, index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn damaged_bytes_are_refused_in_words() {
        let refused = |raw: &[u8]| decode(raw).unwrap_err().to_string();
        assert_eq!(refused(&[]), "typed transaction too short");
        assert_eq!(refused(&[0x7f, 1, 2]), "transaction type not supported");
        assert!(refused(&[0x02, 0xc0]).starts_with("rlp: "));
        assert!(refused(&[0xf8]).starts_with("rlp: "));
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_client_make_the_decoder_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_and_recover(&raw.into());
        }
    }
}
