//! `testing_*`: what the compatibility suite asks of a client's builder. Closed by default, and kept nowhere.

use super::execute::decode_and_recover;
use crate::block_ref::BlockRef;
use crate::context::RpcContext;
use crate::error::{ArgumentError, RpcError};
use crate::params::{Args, bytes, hash, object};
use crate::shape::{Answer, json};
use alloy_eips::eip2718::Encodable2718;
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Address, B256, Bytes, U64};
use serde::Deserialize;
use serde_json::{Value, json as value};
use trellis_chain_execution::{BuildError, BuiltPayload, PayloadAttributes};
use trellis_primitives::RecoveredTx;

/// Transactions of one block that is asked for at most.
const TRANSACTIONS_MAX: usize = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttributesJson {
    timestamp: U64,
    prev_randao: B256,
    suggested_fee_recipient: Address,
    #[serde(default)]
    withdrawals: Vec<Withdrawal>,
    parent_beacon_block_root: Option<B256>,
    target_gas_limit: Option<U64>,
}

fn list(value: &Value) -> Result<Vec<Bytes>, ArgumentError> {
    let list = value.as_array().ok_or(ArgumentError::Want("list of transactions"))?;
    if list.len() > TRANSACTIONS_MAX {
        return Err(ArgumentError::Want("fewer transactions"));
    }
    list.iter().map(bytes).collect()
}

pub(super) fn build_block(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(4)?;
    let parent = context.view(BlockRef::Hash(args.required(0, hash)?))?;
    let asked = args.required(1, object::<AttributesJson>)?;
    let attributes = PayloadAttributes {
        time_s: asked.timestamp.to(),
        prev_randao: asked.prev_randao,
        fee_recipient: asked.suggested_fee_recipient,
        withdrawals: asked.withdrawals,
        beacon_root: asked.parent_beacon_block_root,
        gas_limit: asked.target_gas_limit.map(|limit| limit.to()),
        extra_data: args.optional(3, bytes)?.unwrap_or_default(),
    };
    let built = match args.optional(2, list)? {
        Some(raw) => {
            let decoded = raw.iter().map(decode_and_recover).collect::<Result<Vec<RecoveredTx>, _>>();
            let decoded = decoded.map_err(RpcError::Undecodable)?;
            context.executor.build_ethereum_block(&parent, &attributes, decoded, true)
        }
        None => {
            let best = context.mempool.best(context.next_base_fee(), parent.header().gas_limit);
            context.executor.build_ethereum_block(&parent, &attributes, best.take(TRANSACTIONS_MAX), false)
        }
    };
    let built = built.map_err(|error| match error {
        BuildError::Execution(inside) => {
            tracing::error!(error = %inside, "a block could not be built");
            RpcError::Internal("the block could not be built")
        }
        BuildError::Attributes(reason) => RpcError::InvalidParams(reason),
        other => RpcError::Execution(other.to_string()),
    })?;
    json(&shown(&built, &attributes))
}

fn shown(built: &BuiltPayload, attributes: &PayloadAttributes) -> Value {
    let header = &built.header;
    let transactions: Vec<Bytes> = built.transactions.iter().map(|tx| tx.encoded_2718().into()).collect();
    let requests: Vec<&Bytes> = built.requests.iter().collect();
    value!({
        "executionPayload": {
            "parentHash": header.parent_hash,
            "feeRecipient": header.beneficiary,
            "stateRoot": header.state_root,
            "receiptsRoot": header.receipts_root,
            "logsBloom": header.logs_bloom,
            "prevRandao": header.mix_hash,
            "blockNumber": U64::from(header.number),
            "gasLimit": U64::from(header.gas_limit),
            "gasUsed": U64::from(header.gas_used),
            "timestamp": U64::from(header.timestamp),
            "extraData": header.extra_data,
            "baseFeePerGas": U64::from(header.base_fee_per_gas.unwrap_or_default()),
            "blockHash": built.hash,
            "transactions": transactions,
            "withdrawals": attributes.withdrawals,
            "blobGasUsed": U64::from(header.blob_gas_used.unwrap_or_default()),
            "excessBlobGas": U64::from(header.excess_blob_gas.unwrap_or_default()),
        },
        "blockValue": built.value,
        "blobsBundle": { "commitments": [], "proofs": [], "blobs": [] },
        "executionRequests": requests,
        "shouldOverrideBuilder": false,
    })
}
