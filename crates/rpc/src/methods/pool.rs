//! `txpool_*`.

use crate::config::POOL_CONTENT_TXS_MAX;
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::{Args, address};
use crate::shape::{Answer, json, pending_transaction};
use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, U64};
use serde::Serialize;
use serde_json::json as object;
use std::collections::BTreeMap;
use trellis_chain_mempool::PoolContent;
use trellis_primitives::RecoveredTx;

type ByNonce<T> = BTreeMap<u64, T>;

#[derive(Serialize)]
struct ContentJson<T> {
    pending: BTreeMap<Address, ByNonce<T>>,
    queued: BTreeMap<Address, ByNonce<T>>,
}

pub(super) fn status(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    let status = context.mempool.status();
    json(&object!({ "pending": U64::from(status.pending), "queued": U64::from(status.queued) }))
}

fn by_nonce<T>(txs: &[RecoveredTx], show: impl Fn(&RecoveredTx) -> T) -> ByNonce<T> {
    txs.iter().map(|tx| (tx.tx.nonce(), show(tx))).collect()
}

fn by_sender<T>(content: &PoolContent, show: impl Fn(&RecoveredTx) -> T + Copy) -> ContentJson<T> {
    let filled = |pick: fn(&trellis_chain_mempool::SenderContent) -> &Vec<RecoveredTx>| {
        let with_any = content.iter().filter(move |entry| !pick(entry).is_empty());
        with_any.map(|entry| (entry.sender, by_nonce(pick(entry), show))).collect()
    };
    ContentJson { pending: filled(|entry| &entry.pending), queued: filled(|entry| &entry.queued) }
}

pub(super) fn content(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json(&by_sender(&context.mempool.content(None, POOL_CONTENT_TXS_MAX), pending_transaction))
}

pub(super) fn content_from(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let content = context.mempool.content(Some(args.required(0, address)?), POOL_CONTENT_TXS_MAX);
    let (pending, queued) = match content.first() {
        Some(entry) => (by_nonce(&entry.pending, pending_transaction), by_nonce(&entry.queued, pending_transaction)),
        None => (ByNonce::new(), ByNonce::new()),
    };
    json(&object!({ "pending": pending, "queued": queued }))
}

/// One line for each transaction, as geth writes it.
pub(super) fn inspect(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    let line = |tx: &RecoveredTx| {
        let to = tx.tx.to().map_or_else(|| "contract creation".to_owned(), |to| to.to_string());
        let (value, gas, fee) = (tx.tx.value(), tx.tx.gas_limit(), tx.tx.max_fee_per_gas());
        format!("{to}: {value} wei + {gas} gas × {fee} wei")
    };
    json(&by_sender(&context.mempool.content(None, POOL_CONTENT_TXS_MAX), line))
}
