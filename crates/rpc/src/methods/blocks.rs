//! Blocks, their headers, counts and receipts.

use crate::block_ref::{BlockRef, block_number as number_or_tag, block_ref};
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::{Args, boolean, hash, quantity_u64};
use crate::shape::{
    Answer, BlockJson, HeadJson, TransactionsJson, block_receipts, block_size, block_transaction, json, null,
    pending_transaction, transactions_bytes,
};
use alloy_primitives::U64;
use trellis_chain_storage::CommittedBlock;
use trellis_primitives::{Header, RecoveredTx, TxEnvelope};

/// Transactions that the pending block shows at most.
const PENDING_BLOCK_TXS_MAX: usize = 1_000;

pub(super) fn block_number(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json(&U64::from(context.store.height()))
}

pub(super) fn by_number(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let named = args.required(0, number_or_tag)?;
    let full = args.optional(1, boolean)?.unwrap_or(false);
    if named == BlockRef::Pending { pending(context, full) } else { block(context, named, full) }
}

pub(super) fn by_hash(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let named = BlockRef::Hash(args.required(0, hash)?);
    block(context, named, args.optional(1, boolean)?.unwrap_or(false))
}

fn block(context: &RpcContext, named: BlockRef, full: bool) -> Result<Answer, RpcError> {
    let Some(found) = context.block(named)? else { return Ok(null()) };
    let body = &found.block;
    let transactions = if full {
        let all = (0..body.transactions.len()).filter_map(|index| block_transaction(&found, index));
        TransactionsJson::Full(all.collect())
    } else {
        TransactionsJson::Hashes(body.transactions.iter().map(|tx| *tx.hash()).collect())
    };
    let ethereum = found.ethereum.as_ref();
    let withdrawals = ethereum.map(|body| body.withdrawals.as_slice()).unwrap_or_default();
    json(&BlockJson {
        header: &body.header,
        hash: Some(found.hash),
        size: block_size(&body.header, transactions_bytes(&body.transactions), ethereum),
        transactions,
        uncles: ethereum.iter().flat_map(|body| &body.ommers).map(Header::hash_slow).collect(),
        withdrawals: body.header.withdrawals_root.map(|_| withdrawals),
    })
}

/// The block that would come next, with what the pool would put into it first.
fn pending(context: &RpcContext, full: bool) -> Result<Answer, RpcError> {
    let header = context.pending_header(&context.store.head());
    let best = context.mempool.best(header.base_fee_per_gas.unwrap_or_default(), header.gas_limit);
    let chosen: Vec<RecoveredTx> = best.take(PENDING_BLOCK_TXS_MAX).collect();
    let envelopes: Vec<TxEnvelope> = chosen.iter().map(|tx| tx.tx.as_ref().clone()).collect();
    let transactions = if full {
        TransactionsJson::Full(chosen.iter().map(pending_transaction).collect())
    } else {
        TransactionsJson::Hashes(chosen.iter().map(|tx| tx.hash).collect())
    };
    json(&BlockJson {
        header: &header,
        hash: None,
        size: block_size(&header, transactions_bytes(&envelopes), None),
        transactions,
        uncles: Vec::new(),
        withdrawals: header.withdrawals_root.map(|_| [].as_slice()),
    })
}

pub(super) fn header_by_number(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    header(context, args.required(0, number_or_tag)?)
}

pub(super) fn header_by_hash(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    header(context, BlockRef::Hash(args.required(0, hash)?))
}

fn header(context: &RpcContext, named: BlockRef) -> Result<Answer, RpcError> {
    match context.block(named)? {
        Some(found) => json(&HeadJson { header: &found.block.header, hash: found.hash }),
        None => Ok(null()),
    }
}

pub(super) fn count_by_number(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let named = args.required(0, number_or_tag)?;
    if named == BlockRef::Pending {
        return json(&U64::from(context.mempool.status().pending));
    }
    of_block(context, named, |found| json(&U64::from(found.block.transactions.len())))
}

pub(super) fn count_by_hash(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let named = BlockRef::Hash(args.required(0, hash)?);
    of_block(context, named, |found| json(&U64::from(found.block.transactions.len())))
}

fn ommers(block: &CommittedBlock) -> &[Header] {
    block.ethereum.as_ref().map(|body| body.ommers.as_slice()).unwrap_or_default()
}

pub(super) fn uncles_by_number(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    of_block(context, args.required(0, number_or_tag)?, |found| json(&U64::from(ommers(found).len())))
}

pub(super) fn uncles_by_hash(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    of_block(context, BlockRef::Hash(args.required(0, hash)?), |found| json(&U64::from(ommers(found).len())))
}

pub(super) fn uncle_by_number(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    uncle(context, args.required(0, number_or_tag)?, args.required(1, quantity_u64)?)
}

pub(super) fn uncle_by_hash(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    uncle(context, BlockRef::Hash(args.required(0, hash)?), args.required(1, quantity_u64)?)
}

/// An uncle is shown as a block whose transactions nobody has. Only imported blocks of before the merge have any.
fn uncle(context: &RpcContext, named: BlockRef, index: u64) -> Result<Answer, RpcError> {
    of_block(context, named, |found| {
        let Some(header) = ommers(found).get(usize::try_from(index).unwrap_or(usize::MAX)) else { return Ok(null()) };
        json(&BlockJson {
            header,
            hash: Some(header.hash_slow()),
            size: block_size(header, transactions_bytes(&[]), None),
            transactions: TransactionsJson::Hashes(Vec::new()),
            uncles: Vec::new(),
            withdrawals: None,
        })
    })
}

pub(super) fn receipts(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    of_block(context, args.required(0, block_ref)?, |found| json(&block_receipts(context, found)))
}

fn of_block(
    context: &RpcContext,
    named: BlockRef,
    answer: impl Fn(&CommittedBlock) -> Result<Answer, RpcError>,
) -> Result<Answer, RpcError> {
    match context.block(named)? {
        Some(found) => answer(&found),
        None => Ok(null()),
    }
}
