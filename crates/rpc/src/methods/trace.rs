//! `debug_trace*`: what transactions did, by geth's tracers. Closed by default.

use super::transactions::locate;
use crate::block_ref::{BlockRef, block_number, block_ref};
use crate::config::QUESTION_MS_MAX;
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::{Args, hash, object};
use crate::shape::{Answer, json};
use alloy_primitives::B256;
use alloy_rpc_types::TransactionRequest;
use alloy_rpc_types_trace::geth::{GethDebugTracingCallOptions, GethDebugTracingOptions, GethTrace};
use serde::Serialize;
use serde_json::Value;
use trellis_chain_execution::{Overrides, Replayed, TraceError};
use trellis_chain_storage::CommittedBlock;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TraceJson {
    tx_hash: B256,
    result: Value,
}

pub(super) fn trace_failed(error: TraceError) -> RpcError {
    match error {
        TraceError::TooLong => RpcError::TimedOut(QUESTION_MS_MAX),
        TraceError::Tracer(reason) => RpcError::Execution(reason),
        TraceError::Call(error) => super::execute::call_error(error),
        TraceError::Execution(error) => {
            tracing::error!(%error, "a trace failed inside the node");
            RpcError::Internal("the block could not be run again")
        }
    }
}

/// Runs a block again, with what it takes: the state before it, and the chain's own call in it.
pub(super) fn replay<T>(
    context: &RpcContext,
    block: &CommittedBlock,
    run: impl FnOnce(&Replayed<'_>) -> Result<T, TraceError>,
) -> Result<T, RpcError> {
    let before = block.height().checked_sub(1).ok_or(RpcError::NotTraceable)?;
    let parent = context.store.state_at(before)?;
    let own = context.committee.system_call(&block.block);
    let started = context.clock.now();
    let late = || context.clock.now().ms_since(started) > QUESTION_MS_MAX;
    run(&Replayed { parent: &parent, block, own: own.as_ref(), late: &late }).map_err(trace_failed)
}

/// The trace as it is answered: words of memory and slots with their prefix, as execution-apis has them.
fn shown(trace: &GethTrace) -> Result<Value, RpcError> {
    let mut value = serde_json::to_value(trace).map_err(|_| RpcError::Internal("an answer has no JSON"))?;
    value.get_mut("returnValue").into_iter().for_each(prefix);
    let steps = value.get_mut("structLogs").and_then(Value::as_array_mut);
    for step in steps.into_iter().flatten() {
        if let Some(fields) = step.as_object_mut() {
            // Geth leaves out what is empty.
            let empty = |name: &str, value: &Value| match name {
                "refund" => value.as_u64() == Some(0),
                "memory" => value.as_array().is_some_and(Vec::is_empty),
                "returnData" => value.as_str() == Some("0x"),
                _ => false,
            };
            fields.retain(|name, value| !empty(name, value));
        }
        let words = step.get_mut("memory").and_then(Value::as_array_mut);
        words.into_iter().flatten().for_each(prefix);
        if let Some(slots) = step.get_mut("storage").and_then(Value::as_object_mut) {
            let with_prefix = |key: &str| if key.starts_with("0x") { key.to_owned() } else { format!("0x{key}") };
            let taken = std::mem::take(slots);
            slots.extend(taken.into_iter().map(|(key, mut value)| {
                prefix(&mut value);
                (with_prefix(&key), value)
            }));
        }
    }
    Ok(value)
}

fn prefix(value: &mut Value) {
    if let Value::String(text) = value
        && !text.starts_with("0x")
    {
        text.insert_str(0, "0x");
    }
}

fn options(args: &Args) -> Result<GethDebugTracingOptions, RpcError> {
    Ok(args.optional(1, object::<GethDebugTracingOptions>)?.unwrap_or_default())
}

pub(super) fn transaction(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let named = args.required(0, hash)?;
    let options = options(args)?;
    let (block, index) = locate(context, named)?.ok_or(RpcError::UnknownTransaction)?;
    let traces = replay(context, &block, |again| context.executor.trace_block(again, Some(index), &options))?;
    let (_, trace) = traces.first().ok_or(RpcError::UnknownTransaction)?;
    json(&shown(trace)?)
}

fn block(context: &RpcContext, named: BlockRef, args: &Args) -> Result<Answer, RpcError> {
    let options = options(args)?;
    let block = context.block(named)?.ok_or(RpcError::UnknownBlock)?;
    let traces = replay(context, &block, |again| context.executor.trace_block(again, None, &options))?;
    let all = traces.iter().map(|(tx_hash, trace)| Ok(TraceJson { tx_hash: *tx_hash, result: shown(trace)? }));
    json(&all.collect::<Result<Vec<_>, RpcError>>()?)
}

pub(super) fn block_by_number(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    block(context, args.required(0, block_number)?, args)
}

pub(super) fn block_by_hash(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    block(context, BlockRef::Hash(args.required(0, hash)?), args)
}

pub(super) fn call(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(3)?;
    let request = args.required(0, object::<TransactionRequest>)?;
    let named = args.optional(1, block_ref)?.unwrap_or(BlockRef::Latest);
    let options = args.optional(2, object::<GethDebugTracingCallOptions>)?.unwrap_or_default();
    let (view, header) = context.call_site(named)?;
    let overrides = Overrides { state: options.state_overrides, block: options.block_overrides };
    let started = context.clock.now();
    let late = || context.clock.now().ms_since(started) > QUESTION_MS_MAX;
    let trace = context.executor.trace_call(&view, &header, &request, &overrides, &options.tracing_options, &late);
    json(&shown(&trace.map_err(trace_failed)?)?)
}
