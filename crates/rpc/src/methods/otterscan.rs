//! `ots_*`: what the explorer Otterscan asks beside `eth_*`. Closed by default.
//!
//! There is no index of accounts: a search looks through blocks, newest first or oldest first, for as long as one question may
//! take, and says whether it came to the end.

use super::trace::replay;
use super::transactions::locate;
use crate::block_ref::{BlockRef, block_number, block_ref};
use crate::config::QUESTION_MS_MAX;
use crate::context::RpcContext;
use crate::error::{ArgumentError, RpcError};
use crate::params::{Args, address, hash, quantity_u64};
use crate::shape::{
    Answer, BlockJson, TransactionsJson, block_receipts, block_size, block_transaction, json, null, receipt,
    transactions_bytes,
};
use alloy_consensus::Transaction;
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_rpc_types_trace::geth::{
    CallFrame, GethDebugBuiltInTracerType, GethDebugTracerType, GethDebugTracingOptions, GethTrace,
};
use serde_json::{Value, json as value};
use std::sync::Arc;
use trellis_chain_storage::CommittedBlock;
use trellis_primitives::Header;

/// The version of Otterscan's interface that these methods have.
const API_LEVEL: u64 = 8;
/// Transactions of one page at most.
const PAGE_MAX: u64 = 100;
/// Digits of a transaction's input in a block's list: a selector with its prefix.
const INPUT_DIGITS: usize = 10;

pub(super) fn api_level(_: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json(&API_LEVEL)
}

fn has_code_at(context: &RpcContext, who: Address, named: BlockRef) -> Result<bool, RpcError> {
    let account = context.view(named)?.account(who);
    Ok(account.is_some_and(|account| account.code_hash != alloy_primitives::KECCAK256_EMPTY))
}

pub(super) fn has_code(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let named = args.optional(1, block_ref)?.unwrap_or(BlockRef::Latest);
    json(&has_code_at(context, args.required(0, address)?, named)?)
}

fn named_transaction(context: &RpcContext, args: &Args) -> Result<(Arc<CommittedBlock>, usize), RpcError> {
    args.at_most(1)?;
    locate(context, args.required(0, hash)?)?.ok_or(RpcError::UnknownTransaction)
}

pub(super) fn internal_operations(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    let (block, index) = named_transaction(context, args)?;
    json(&replay(context, &block, |again| context.executor.internal_operations(again, index))?)
}

/// What a failed transaction returned; nothing of one that went well.
pub(super) fn transaction_error(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    let (block, index) = named_transaction(context, args)?;
    if block.receipts.get(index).is_some_and(|receipt| receipt.success) {
        return json(&Bytes::new());
    }
    json(&replay(context, &block, |again| context.executor.output_again(again, index))?.unwrap_or_default())
}

pub(super) fn trace_transaction(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    let (block, index) = named_transaction(context, args)?;
    let tracer = GethDebugTracerType::BuiltInTracer(GethDebugBuiltInTracerType::CallTracer);
    let options = GethDebugTracingOptions { tracer: Some(tracer), ..GethDebugTracingOptions::default() };
    let traces = replay(context, &block, |again| context.executor.trace_block(again, Some(index), &options))?;
    let mut entries = Vec::new();
    if let Some((_, GethTrace::CallTracer(frame))) = traces.first() {
        frames(frame, 0, &mut entries);
    }
    json(&entries)
}

fn frames(frame: &CallFrame, depth: u64, entries: &mut Vec<Value>) {
    entries.push(value!({
        "type": frame.typ,
        "depth": depth,
        "from": frame.from,
        "to": frame.to,
        "value": frame.value,
        "input": frame.input,
        "output": frame.output.clone().unwrap_or_default(),
    }));
    frame.calls.iter().for_each(|inner| frames(inner, depth.saturating_add(1), entries));
}

fn header_json(block: &CommittedBlock) -> Result<Value, RpcError> {
    let header: &Header = &block.block.header;
    let ethereum = block.ethereum.as_ref();
    let shown = BlockJson {
        header,
        hash: Some(block.hash),
        size: block_size(header, transactions_bytes(&block.block.transactions), ethereum),
        transactions: TransactionsJson::Hashes(Vec::new()),
        uncles: ethereum.iter().flat_map(|body| &body.ommers).map(Header::hash_slow).collect(),
        withdrawals: None,
    };
    let mut shown = serde_json::to_value(shown).map_err(|_| RpcError::Internal("an answer has no JSON"))?;
    if let Some(fields) = shown.as_object_mut() {
        fields.remove("transactions");
        // Otterscan never shows it, and it is the largest field.
        fields.insert("logsBloom".to_owned(), Value::Null);
        fields.insert("transactionCount".to_owned(), value!(U64::from(block.block.transactions.len())));
    }
    Ok(shown)
}

fn details(context: &RpcContext, named: BlockRef) -> Result<Answer, RpcError> {
    let Some(block) = context.block(named)? else { return Ok(null()) };
    let fees = block_receipts(context, &block).iter().fold(U256::ZERO, |sum, receipt| {
        let price = U256::from(receipt.effective_gas_price);
        sum.saturating_add(price.saturating_mul(U256::from(receipt.gas_used)))
    });
    let ommers = block.ethereum.as_ref().map(|body| body.ommers.as_slice()).unwrap_or_default();
    let (reward, uncles) = context.executor.issuance(&block.block.header, ommers);
    json(&value!({
        "block": header_json(&block)?,
        "issuance": { "blockReward": reward, "uncleReward": uncles, "issuance": reward.saturating_add(uncles) },
        "totalFees": fees,
    }))
}

pub(super) fn block_details(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    details(context, args.required(0, block_number)?)
}

pub(super) fn block_details_by_hash(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    details(context, BlockRef::Hash(args.required(0, hash)?))
}

fn page_size(value: &Value) -> Result<u64, ArgumentError> {
    let size = quantity_u64(value)?;
    if (1..=PAGE_MAX).contains(&size) { Ok(size) } else { Err(ArgumentError::Want("page size from 1 to 100")) }
}

/// A page of a block's transactions, newest first, with inputs cut to their selectors.
pub(super) fn block_transactions(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(3)?;
    let Some(block) = context.block(args.required(0, block_number)?)? else { return Ok(null()) };
    let (page, size) = (args.required(1, quantity_u64)?, args.required(2, page_size)?);
    let all = u64::try_from(block.block.transactions.len()).unwrap_or(u64::MAX);
    let end = all.saturating_sub(page.saturating_mul(size));
    let places = end.saturating_sub(size)..end;
    let (mut transactions, mut receipts) = (Vec::new(), Vec::new());
    for index in places {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let mut tx = to_value(&block_transaction(&block, index))?;
        if let Some(Value::String(input)) = tx.get_mut("input") {
            input.truncate(INPUT_DIGITS);
        }
        transactions.push(tx);
        receipts.push(bare_receipt(context, &block, index)?);
    }
    let mut full = header_json(&block)?;
    if let Some(fields) = full.as_object_mut() {
        fields.insert("transactions".to_owned(), Value::Array(transactions));
    }
    json(&value!({ "fullblock": full, "receipts": receipts }))
}

fn to_value<T: serde::Serialize>(value: &T) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(|_| RpcError::Internal("an answer has no JSON"))
}

/// A receipt without its logs, with its block's time.
fn bare_receipt(context: &RpcContext, block: &CommittedBlock, index: usize) -> Result<Value, RpcError> {
    let mut shown = to_value(&receipt(context, block, index))?;
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("logs".to_owned(), Value::Null);
        fields.insert("logsBloom".to_owned(), Value::Null);
        fields.insert("timestamp".to_owned(), value!(block.block.header.timestamp));
    }
    Ok(shown)
}

/// Whether a transaction has to do with an account: sent by it, to it, made it, or its logs name it.
fn concerns(block: &CommittedBlock, index: usize, who: Address) -> bool {
    let (Some(tx), Some(sender)) = (block.block.transactions.get(index), block.senders.get(index)) else {
        return false;
    };
    let word: B256 = who.into_word();
    let logs = block.receipts.get(index).map(|receipt| receipt.logs.as_slice()).unwrap_or_default();
    *sender == who
        || tx.to() == Some(who)
        || (tx.is_create() && sender.create(tx.nonce()) == who)
        || logs.iter().any(|log| log.address == who || log.topics().contains(&word))
}

/// Goes through blocks as long as a question may take; says whether it came to the end.
fn walk(
    context: &RpcContext,
    heights: impl Iterator<Item = u64>,
    mut visit: impl FnMut(&CommittedBlock) -> Result<bool, RpcError>,
) -> Result<bool, RpcError> {
    let started = context.clock.now();
    for height in heights {
        if context.clock.now().ms_since(started) > QUESTION_MS_MAX / 2 {
            return Ok(false);
        }
        let Some(block) = context.store.block(height)? else { break };
        if visit(&block)? {
            return Ok(false);
        }
    }
    Ok(true)
}

type Page = Vec<(Value, Value)>;

fn gather(
    context: &RpcContext,
    heights: impl Iterator<Item = u64>,
    who: Address,
    size: u64,
    newest_first: bool,
) -> Result<(Page, bool), RpcError> {
    let mut page: Page = Vec::new();
    let full = usize::try_from(size).unwrap_or(usize::MAX);
    let ended = walk(context, heights, |block| {
        let count = block.block.transactions.len();
        let places: Vec<usize> = if newest_first { (0..count).rev().collect() } else { (0..count).collect() };
        for index in places.into_iter().filter(|index| concerns(block, *index, who)) {
            page.push((to_value(&block_transaction(block, index))?, bare_receipt(context, block, index)?));
        }
        // A block is never cut in two, or the next page would miss the rest of it.
        Ok(page.len() >= full)
    })?;
    Ok((page, ended))
}

fn answer(page: Page, first: bool, last: bool) -> Result<Answer, RpcError> {
    let (transactions, receipts): (Vec<Value>, Vec<Value>) = page.into_iter().unzip();
    json(&value!({ "txs": transactions, "receipts": receipts, "firstPage": first, "lastPage": last }))
}

/// Older transactions of an account than a height; zero means from the head on.
pub(super) fn search_before(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(3)?;
    let who = args.required(0, address)?;
    let (before, size) = (args.required(1, quantity_u64)?, args.required(2, page_size)?);
    let head = context.store.height();
    let newest = if before == 0 { head } else { head.min(before.saturating_sub(1)) };
    let (page, ended) = gather(context, (0..=newest).rev(), who, size, true)?;
    answer(page, before == 0, ended)
}

/// Newer transactions of an account than a height; zero means from the beginning on. The page is newest first all the same.
pub(super) fn search_after(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(3)?;
    let who = args.required(0, address)?;
    let (after, size) = (args.required(1, quantity_u64)?, args.required(2, page_size)?);
    let oldest = if after == 0 { 0 } else { after.saturating_add(1) };
    // Between block zero, which has no transactions, and the first one kept there may be a gap.
    let oldest = oldest.max(context.store.first_height()?);
    let (mut page, ended) = gather(context, oldest..=context.store.height(), who, size, false)?;
    page.reverse();
    answer(page, ended, after == 0)
}

fn sent_in(block: &CommittedBlock, who: Address, nonce: u64) -> Option<B256> {
    let pairs = block.block.transactions.iter().zip(&block.senders);
    pairs.filter(|&(tx, sender)| *sender == who && tx.nonce() == nonce).map(|(tx, _)| *tx.tx_hash()).next()
}

pub(super) fn by_sender_and_nonce(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let (who, nonce) = (args.required(0, address)?, args.required(1, quantity_u64)?);
    let sent = context.store.head().account(who).map(|account| account.nonce).unwrap_or_default();
    let mut found: Option<B256> = None;
    if nonce < sent {
        walk(context, (0..=context.store.height()).rev(), |block| {
            found = sent_in(block, who, nonce);
            Ok(found.is_some())
        })?;
    }
    json(&found)
}

/// Who made a contract, and with which transaction: by its own address where a transaction made it, else by running again the
/// block that first has its code, where the states around it are kept.
pub(super) fn contract_creator(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let who = args.required(0, address)?;
    if !has_code_at(context, who, BlockRef::Latest)? {
        return Ok(null());
    }
    let mut found = None;
    walk(context, (0..=context.store.height()).rev(), |block| {
        let made = (0..block.block.transactions.len()).find(|index| made_by(block, *index, who));
        found = made.and_then(|index| creation(block, index));
        Ok(found.is_some())
    })?;
    if let Some(found) = found {
        return json(&found);
    }
    let (mut without, _) = context.store.oldest_state();
    if has_code_at(context, who, BlockRef::Number(without))? {
        // It was there before the oldest state that is kept, or from block zero on.
        return Ok(null());
    }
    let mut with = context.store.height();
    while without.saturating_add(1) < with {
        let middle = without.saturating_add(with.saturating_sub(without) / 2);
        if has_code_at(context, who, BlockRef::Number(middle))? { with = middle } else { without = middle }
    }
    let Some(block) = context.store.block(with)? else { return Ok(null()) };
    let made = replay(context, &block, |again| context.executor.creating_transaction(again, who))?;
    json(&made.and_then(|index| creation(&block, index)))
}

fn made_by(block: &CommittedBlock, index: usize, who: Address) -> bool {
    let place = block.block.transactions.get(index).zip(block.senders.get(index));
    place.is_some_and(|(tx, sender)| tx.is_create() && sender.create(tx.nonce()) == who)
}

fn creation(block: &CommittedBlock, index: usize) -> Option<Value> {
    let (tx, sender) = block.block.transactions.get(index).zip(block.senders.get(index))?;
    Some(value!({ "hash": tx.hash(), "creator": sender }))
}
