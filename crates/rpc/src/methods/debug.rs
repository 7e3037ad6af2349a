//! `debug_getRaw*`: what is signed and hashed, in bytes. Closed by default.

use super::transactions::raw;
use crate::block_ref::block_ref;
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::{Args, hash};
use crate::shape::{Answer, json};
use alloy_consensus::{BlockBody, TxReceipt};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::Bytes;
use std::sync::Arc;
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
    let withdrawals = header.withdrawals_root.map(|_| alloy_eips::eip4895::Withdrawals::default());
    let body = BlockBody { transactions: found.block.transactions.clone(), ommers: Vec::new(), withdrawals };
    json(&Bytes::from(alloy_rlp::encode(alloy_consensus::Block { header, body })))
}

pub(super) fn raw_receipts(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    let found = block(context, args)?;
    let encoded = found.receipts.iter().map(|receipt| Bytes::from(receipt.clone().into_with_bloom().encoded_2718()));
    json(&encoded.collect::<Vec<_>>())
}

pub(super) fn raw_transaction(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    raw(context, args.required(0, hash)?)
}
