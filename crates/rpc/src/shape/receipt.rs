//! Receipts.

use super::LogPlace;
use crate::context::RpcContext;
use alloy_consensus::{Eip658Value, Receipt, ReceiptEnvelope, ReceiptWithBloom, Transaction};
use alloy_primitives::logs_bloom;
use alloy_rpc_types::{Log, TransactionReceipt};
use trellis_chain_storage::CommittedBlock;

/// What the receipts before this one add up to.
#[derive(Clone, Copy, Default)]
struct Before {
    gas: u64,
    logs: u64,
}

/// Every receipt of a block.
pub(crate) fn block_receipts(
    context: &RpcContext,
    block: &CommittedBlock,
) -> Vec<TransactionReceipt<ReceiptEnvelope<Log>>> {
    let mut before = Before::default();
    (0..block.receipts.len())
        .filter_map(|index| {
            let answer = one(context, block, index, before);
            before = step(block, index, before);
            answer
        })
        .collect()
}

/// One receipt; `None` where the index is past the end.
pub(crate) fn receipt(
    context: &RpcContext,
    block: &CommittedBlock,
    index: usize,
) -> Option<TransactionReceipt<ReceiptEnvelope<Log>>> {
    let before = (0..index).fold(Before::default(), |before, earlier| step(block, earlier, before));
    one(context, block, index, before)
}

fn step(block: &CommittedBlock, index: usize, before: Before) -> Before {
    match block.receipts.get(index) {
        Some(receipt) => Before {
            gas: receipt.cumulative_gas_used,
            logs: before.logs.saturating_add(u64::try_from(receipt.logs.len()).unwrap_or(u64::MAX)),
        },
        None => before,
    }
}

fn one(
    context: &RpcContext,
    block: &CommittedBlock,
    index: usize,
    before: Before,
) -> Option<TransactionReceipt<ReceiptEnvelope<Log>>> {
    let (stored, tx) = (block.receipts.get(index)?, block.block.transactions.get(index)?);
    let from = *block.senders.get(index)?;
    let place = LogPlace::of(block, index, *tx.hash());
    let logs: Vec<Log> =
        stored.logs.iter().zip(before.logs..).map(|(log, log_index)| place.log(log, log_index)).collect();
    let root = block.ethereum.as_ref().and_then(|body| body.receipt_roots.get(index));
    let status = root.map_or(Eip658Value::Eip658(stored.success), |root| Eip658Value::PostState(*root));
    let blob_gas_used = tx.blob_gas_used();
    let blob_gas_price = blob_gas_used.and_then(|_| context.executor.blob_base_fee(&block.block.header));
    let inner = ReceiptWithBloom {
        receipt: Receipt { status, cumulative_gas_used: stored.cumulative_gas_used, logs },
        logs_bloom: logs_bloom(&stored.logs),
    };
    Some(TransactionReceipt {
        inner: ReceiptEnvelope::from_typed(stored.tx_type, inner),
        transaction_hash: place.transaction_hash,
        transaction_index: Some(place.transaction_index),
        block_hash: Some(place.block_hash),
        block_number: Some(place.block_number),
        gas_used: stored.cumulative_gas_used.saturating_sub(before.gas),
        effective_gas_price: tx.effective_gas_price(block.block.header.base_fee_per_gas),
        blob_gas_used,
        blob_gas_price,
        from,
        to: tx.to(),
        contract_address: tx.is_create().then(|| from.create(tx.nonce())),
    })
}
