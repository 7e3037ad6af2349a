//! Transactions and receipts by hash and by place.

use crate::block_ref::{BlockRef, block_number};
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::{Args, hash, quantity_u64};
use crate::shape::{Answer, block_transaction, json, null, pending_transaction, receipt as receipt_of};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{B256, Bytes};
use std::sync::Arc;
use trellis_chain_storage::CommittedBlock;

/// A transaction's block and its place in it.
pub(crate) fn locate(context: &RpcContext, named: B256) -> Result<Option<(Arc<CommittedBlock>, usize)>, RpcError> {
    let Some(location) = context.store.tx_location(named)? else { return Ok(None) };
    let block = context.store.block(location.block)?;
    let index = usize::try_from(location.index).unwrap_or(usize::MAX);
    Ok(block.map(|block| (block, index)))
}

pub(super) fn by_hash(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let named = args.required(0, hash)?;
    // The pool is asked first and believed last: a transaction leaves it only after its block is stored, so it is
    // never in neither.
    let waiting = context.mempool.get(&named);
    match (locate(context, named)?, waiting) {
        (Some((block, index)), _) => json(&block_transaction(&block, index)),
        (None, Some(waiting)) => json(&pending_transaction(&waiting)),
        (None, None) => Ok(null()),
    }
}

pub(super) fn raw_by_hash(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    raw(context, args.required(0, hash)?)
}

/// The signed bytes, EIP-2718.
pub(super) fn raw(context: &RpcContext, named: B256) -> Result<Answer, RpcError> {
    if let Some(waiting) = context.mempool.get(&named) {
        return json(&Bytes::from(waiting.tx.encoded_2718()));
    }
    let located = locate(context, named)?;
    let found = located.as_ref().and_then(|(block, index)| block.block.transactions.get(*index));
    found.map_or_else(|| Ok(null()), |tx| json(&Bytes::from(tx.encoded_2718())))
}

pub(super) fn by_number_and_index(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    by_place(context, args.required(0, block_number)?, args.required(1, quantity_u64)?)
}

pub(super) fn by_hash_and_index(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    by_place(context, BlockRef::Hash(args.required(0, hash)?), args.required(1, quantity_u64)?)
}

fn by_place(context: &RpcContext, named: BlockRef, index: u64) -> Result<Answer, RpcError> {
    let Some(block) = context.block(named)? else { return Ok(null()) };
    json(&block_transaction(&block, usize::try_from(index).unwrap_or(usize::MAX)))
}

pub(super) fn receipt(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    match locate(context, args.required(0, hash)?)? {
        Some((block, index)) => json(&receipt_of(context, &block, index)),
        None => Ok(null()),
    }
}
