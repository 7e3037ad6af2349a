//! `eth_fillTransaction`: what a request leaves out is filled in as geth does it, for somebody else to sign.

use super::execute::call_error;
use super::fees::suggested_tip;
use super::state::pending_nonce;
use crate::block_ref::BlockRef;
use crate::context::RpcContext;
use crate::error::RpcError;
use crate::params::{Args, object};
use crate::shape::{Answer, json};
use alloy_primitives::{TxKind, U256, hex};
use alloy_rpc_types::TransactionRequest;
use serde::Serialize;
use serde_json::{Value, json as value};
use trellis_chain_execution::{Overrides, SimulatedTx};
use trellis_primitives::{Header, TxEnvelope};

/// The fee offered beside the tip, in base fees of the head, so that it holds while the base fee rises.
const BASE_FEES_OFFERED: u128 = 2;

#[derive(Serialize)]
struct FilledJson {
    raw: String,
    tx: Value,
}

fn refused(reason: impl Into<String>) -> RpcError {
    RpcError::Execution(reason.into())
}

/// Fills in nonce, fees, gas and chain, and answers the transaction, unsigned, in bytes and in fields.
pub(super) fn fill(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(1)?;
    let mut request = args.required(0, object::<TransactionRequest>)?;
    let (view, header) = context.call_site(BlockRef::Latest)?;
    fill_fees(context, &header, &mut request)?;
    if request.nonce.is_none() {
        request.nonce = Some(pending_nonce(context, request.from.unwrap_or_default()));
    }
    check(&request)?;
    if request.gas.is_none() {
        let asked = TransactionRequest { nonce: None, chain_id: None, ..request.clone() };
        let gas = context.executor.estimate_gas(&view, &header, &asked, &Overrides::default());
        request.gas = Some(gas.map_err(call_error)?);
    }
    let tx =
        context.executor.unsigned(&request, header.base_fee_per_gas).map_err(|error| refused(error.to_string()))?;
    json(&FilledJson { raw: hex::encode_prefixed(tx.encoded()), tx: shown(&tx)? })
}

fn check(request: &TransactionRequest) -> Result<(), RpcError> {
    if let (Some(data), Some(input)) = (&request.input.data, &request.input.input)
        && data != input
    {
        return Err(refused(
            "both \"data\" and \"input\" are set and not equal. Please use \"input\" to pass transaction call data",
        ));
    }
    if request.blob_versioned_hashes.as_ref().is_some_and(Vec::is_empty) {
        return Err(refused("need at least 1 blob for a blob transaction"));
    }
    if matches!(request.to, None | Some(TxKind::Create)) {
        if request.blob_versioned_hashes.is_some() {
            return Err(refused("missing \"to\" in blob transaction"));
        }
        if request.input.input().is_none_or(|input| input.is_empty()) {
            return Err(refused("contract creation without any data provided"));
        }
    }
    Ok(())
}

fn fill_fees(context: &RpcContext, head: &Header, request: &mut TransactionRequest) -> Result<(), RpcError> {
    if request.max_fee_per_blob_gas == Some(0) {
        return Err(refused("maxFeePerBlobGas, if specified, must be non-zero"));
    }
    if request.blob_versioned_hashes.is_some() && request.max_fee_per_blob_gas.is_none() {
        let price = context.executor.blob_base_fee(head).unwrap_or_default();
        request.max_fee_per_blob_gas = Some(price.saturating_mul(BASE_FEES_OFFERED));
    }
    let (fee, tip) = (request.max_fee_per_gas, request.max_priority_fee_per_gas);
    let london = head.base_fee_per_gas;
    if let Some(price) = request.gas_price {
        if fee.is_some() || tip.is_some() {
            return Err(refused("both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified"));
        }
        if price == 0 && london.is_some() {
            return Err(refused("gasPrice must be non-zero after london fork"));
        }
        return Ok(());
    }
    if fee == Some(0) && tip.is_some() {
        return Err(refused("maxFeePerGas must be non-zero"));
    }
    let Some(base_fee) = london else {
        if fee.is_some() || tip.is_some() {
            return Err(refused("maxFeePerGas and maxPriorityFeePerGas are not valid before London is active"));
        }
        request.gas_price = Some(suggested_tip(context)?);
        return Ok(());
    };
    let tip = tip.map_or_else(|| suggested_tip(context), Ok)?;
    let offered = u128::from(base_fee).saturating_mul(BASE_FEES_OFFERED).saturating_add(tip);
    let fee = fee.unwrap_or(offered);
    if fee < tip {
        return Err(refused(format!("maxFeePerGas ({fee}) < maxPriorityFeePerGas ({tip})")));
    }
    (request.max_fee_per_gas, request.max_priority_fee_per_gas) = (Some(fee), Some(tip));
    Ok(())
}

/// The fields as geth names a transaction that is in no block and that nobody has signed.
fn shown(tx: &SimulatedTx) -> Result<Value, RpcError> {
    let mut shown = serde_json::to_value(&tx.tx).map_err(|_| RpcError::Internal("an answer has no JSON"))?;
    let Some(fields) = shown.as_object_mut() else { return Err(RpcError::Internal("a transaction has no fields")) };
    let absent: &[&str] = match &tx.tx {
        TxEnvelope::Legacy(_) => &["maxFeePerGas", "maxPriorityFeePerGas"],
        _ => &["gasPrice"],
    };
    for name in absent {
        fields.insert((*name).to_owned(), Value::Null);
    }
    if matches!(tx.tx, TxEnvelope::Legacy(_)) {
        // Not signed, so it has no v, and no chain in it.
        fields.insert("v".to_owned(), value!(U256::ZERO));
        fields.remove("chainId");
    }
    Ok(shown)
}
