//! `net_*`, `web3_*` and what is known of the chain without looking at it.

use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::{Args, bytes};
use crate::shape::{Answer, json};
use alloy_primitives::{Address, U64, keccak256};
use serde_json::json as object;

pub(super) fn chain_id(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json(&U64::from(context.chain_id()))
}

pub(super) fn syncing(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    match context.net.sync_progress() {
        None => json(&false),
        Some(progress) => json(&object!({
            "startingBlock": U64::from(progress.starting_block),
            "currentBlock": U64::from(progress.current_block),
            "highestBlock": U64::from(progress.highest_block),
        })),
    }
}

/// The node holds no account for others, so it lists none.
pub(super) fn accounts(_: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json::<[Address; 0]>(&[])
}

pub(super) fn version(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json(&context.chain_id().to_string())
}

pub(super) fn listening(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json(&context.net.is_listening())
}

pub(super) fn peer_count(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json(&U64::from(context.net.peer_count()))
}

pub(super) fn client_version(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(0)?;
    json(&context.client_version)
}

pub(super) fn sha3(_: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    json(&keccak256(args.required(0, bytes)?))
}
