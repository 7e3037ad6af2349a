//! `debug_getRaw*`: what is signed and hashed, in bytes. Closed by default.

use super::transactions::raw;
use crate::block_ref::block_ref;
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::{Args, hash};
use crate::shape::{Answer, json};
use alloy_consensus::BlockBody;
use alloy_primitives::Bytes;
use std::sync::Arc;
use trellis_chain_execution::consensus_receipt;
use trellis_chain_storage::CommittedBlock;

fn block(context: &RpcContext, args: &Args) -> Result<Arc<CommittedBlock>, RpcError> {
    args.at_most(1)?;
    context.block(args.required(0, block_ref)?)?.ok_or(RpcError::UnknownBlock)
}

pub(super) fn raw_header(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    json(&Bytes::from(alloy_rlp::encode(&block(context, args)?.block.header)))
}

/// The block in Ethereum's own form, without the consensus section.
pub(super) fn raw_block(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    let found = block(context, args)?;
    let header = found.block.header.clone();
    let ethereum = found.ethereum.clone().unwrap_or_default();
    let withdrawals = header.withdrawals_root.map(|_| ethereum.withdrawals.into());
    let body = BlockBody { transactions: found.block.transactions.clone(), ommers: ethereum.ommers, withdrawals };
    json(&Bytes::from(alloy_rlp::encode(alloy_consensus::Block { header, body })))
}

pub(super) fn raw_receipts(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    let found = block(context, args)?;
    let roots = found.ethereum.as_ref().map(|body| body.receipt_roots.as_slice()).unwrap_or_default();
    let encoded = found.receipts.iter().enumerate();
    let encoded = encoded.map(|(index, receipt)| Bytes::from(consensus_receipt(receipt, roots.get(index).copied())));
    json(&encoded.collect::<Vec<_>>())
}

pub(super) fn raw_transaction(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    raw(context, args.required(0, hash)?)
}
