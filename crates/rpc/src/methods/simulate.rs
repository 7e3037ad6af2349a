//! `eth_simulateV1`.

use crate::block_ref::{BlockRef, block_ref};
use crate::config::QUESTION_MS_MAX;
use crate::context::RpcContext;
use crate::error::{ArgumentError, RpcError};
use crate::params::{Args, object};
use crate::shape::{Answer, BlockJson, LogPlace, TransactionsJson, block_size, json};
use crate::words::{halt_in_words, revert_reason};
use alloy_consensus::transaction::{Recovered, TransactionInfo};
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Bytes, U64};
use alloy_rlp::Encodable;
use alloy_rpc_types::state::StateOverride;
use alloy_rpc_types::{BlockOverrides, Log, Transaction, TransactionRequest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json as value};
use trellis_chain_execution::{
    BrokenRule, SIMULATED_BLOCKS_MAX, SimulateError, SimulatedBlock, SimulatedBlockRequest, SimulatedCall,
    SimulatedEnd, SimulatedTx, SimulationRequest,
};
use trellis_chain_storage::EthereumBody;
use trellis_primitives::TxEnvelope;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    block_state_calls: Vec<AskedBlock>,
    #[serde(default)]
    trace_transfers: bool,
    #[serde(default)]
    validation: bool,
    #[serde(default)]
    return_full_transactions: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AskedBlock {
    block_overrides: Option<serde_json::Map<String, Value>>,
    state_overrides: Option<StateOverride>,
    calls: Option<Vec<TransactionRequest>>,
}

impl AskedBlock {
    fn read(self) -> Result<SimulatedBlockRequest, ArgumentError> {
        let wrong = |error: serde_json::Error| ArgumentError::Object(error.to_string());
        let mut fields = self.block_overrides.unwrap_or_default();
        let withdrawals = match fields.remove("withdrawals") {
            None | Some(Value::Null) => Vec::new(),
            Some(list) => serde_json::from_value::<Vec<Withdrawal>>(list).map_err(wrong)?,
        };
        let overrides: BlockOverrides = serde_json::from_value(Value::Object(fields)).map_err(wrong)?;
        Ok(SimulatedBlockRequest {
            overrides,
            withdrawals,
            state: self.state_overrides.unwrap_or_default(),
            calls: self.calls.unwrap_or_default(),
        })
    }
}

/// What each block answers besides its header.
#[derive(Serialize)]
struct SimulatedJson<'a> {
    #[serde(flatten)]
    block: BlockJson<'a>,
    calls: Vec<CallJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallJson {
    return_data: Bytes,
    logs: Vec<Log>,
    gas_used: U64,
    max_used_gas: U64,
    status: U64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

/// Error codes of execution-apis for calls that cannot be made.
const fn code_of(rule: BrokenRule) -> i32 {
    match rule {
        BrokenRule::NonceTooLow => -38_010,
        BrokenRule::NonceTooHigh => -38_011,
        BrokenRule::FeeTooLow => -38_012,
        BrokenRule::IntrinsicGas => -38_013,
        BrokenRule::Funds => -38_014,
        BrokenRule::InitCodeSize => -38_025,
        BrokenRule::TipOverFee => -32_602,
        BrokenRule::Other => -32_603,
    }
}

fn refused(error: SimulateError) -> RpcError {
    let code = match &error {
        SimulateError::Number { .. } => -38_020,
        SimulateError::Time { .. } => -38_021,
        SimulateError::Blocks => -38_026,
        SimulateError::GasLimit { .. } => -38_015,
        SimulateError::Call { rule, .. } => code_of(*rule),
        SimulateError::Override(_) | SimulateError::Arguments(_) => crate::error::SERVER_CODE,
        SimulateError::Late => return RpcError::TimedOut(QUESTION_MS_MAX),
        SimulateError::Execution(inside) => {
            tracing::error!(error = %inside, "a simulation failed inside the node");
            return RpcError::Internal("the simulation could not be executed");
        }
    };
    RpcError::Coded { code, message: error.to_string() }
}

pub(super) fn simulate(context: &RpcContext, args: &Args) -> Result<Answer, RpcError> {
    args.at_most(2)?;
    let asked = args.required(0, object::<Asked>)?;
    let named = args.optional(1, block_ref)?.unwrap_or(BlockRef::Latest);
    if asked.block_state_calls.is_empty() {
        return Err(RpcError::InvalidParams("empty input"));
    }
    if u64::try_from(asked.block_state_calls.len()).unwrap_or(u64::MAX) > SIMULATED_BLOCKS_MAX {
        return Err(refused(SimulateError::Blocks));
    }
    let full = asked.return_full_transactions;
    let blocks = asked.block_state_calls.into_iter().map(AskedBlock::read).collect::<Result<_, _>>();
    let blocks = blocks.map_err(|reason| RpcError::InvalidArgument { index: 0, reason })?;
    let request = SimulationRequest { blocks, transfers: asked.trace_transfers, validation: asked.validation };
    let base = context.view(named)?;
    let started = context.clock.now();
    let late = || context.clock.now().ms_since(started) > QUESTION_MS_MAX;
    let done = context.executor.simulate(&base, &request, &late).map_err(refused)?;
    let answers: Result<Vec<Value>, RpcError> = done.iter().map(|block| shown(block, full)).collect();
    json(&answers?)
}

fn shown(block: &SimulatedBlock, full: bool) -> Result<Value, RpcError> {
    let no_json = |_| RpcError::Internal("an answer has no JSON");
    let transactions = if full {
        let all = block.transactions.iter().enumerate().map(|(index, tx)| transaction(block, index, tx));
        TransactionsJson::Values(all.collect::<Result<_, _>>().map_err(no_json)?)
    } else {
        TransactionsJson::Hashes(block.transactions.iter().map(|tx| tx.hash).collect())
    };
    let body = EthereumBody { withdrawals: block.withdrawals.clone(), ..EthereumBody::default() };
    let shown = SimulatedJson {
        block: BlockJson {
            header: &block.header,
            hash: Some(block.hash),
            size: block_size(&block.header, list_bytes(&block.transactions), Some(&body)),
            transactions,
            uncles: Vec::new(),
            withdrawals: block.header.withdrawals_root.map(|_| block.withdrawals.as_slice()),
        },
        calls: block
            .transactions
            .iter()
            .zip(&block.calls)
            .enumerate()
            .map(|(i, (tx, call))| result(block, i, tx, call))
            .collect(),
    };
    serde_json::to_value(shown).map_err(no_json)
}

/// Bytes of the list of transactions: typed ones stand in it as strings.
fn list_bytes(transactions: &[SimulatedTx]) -> usize {
    let one = |tx: &SimulatedTx| match &tx.tx {
        TxEnvelope::Legacy(_) => tx.encoded().len(),
        _ => tx.encoded().length(),
    };
    let payload_length = transactions.iter().map(one).fold(0, usize::saturating_add);
    alloy_rlp::Header { list: true, payload_length }.length().saturating_add(payload_length)
}

fn transaction(block: &SimulatedBlock, index: usize, tx: &SimulatedTx) -> Result<Value, serde_json::Error> {
    let info = TransactionInfo {
        hash: Some(tx.hash),
        index: u64::try_from(index).ok(),
        block_hash: Some(block.hash),
        block_number: Some(block.header.number),
        base_fee: block.header.base_fee_per_gas,
        block_timestamp: Some(block.header.timestamp),
    };
    let shown = Transaction::from_transaction(Recovered::new_unchecked(tx.tx.clone(), tx.sender), info);
    let mut shown = serde_json::to_value(shown)?;
    if let (TxEnvelope::Legacy(_), Some(fields)) = (&tx.tx, shown.as_object_mut()) {
        // It is not signed, so it has no v either.
        fields.insert("v".to_owned(), value!("0x0"));
    }
    Ok(shown)
}

fn result(block: &SimulatedBlock, index: usize, tx: &SimulatedTx, call: &SimulatedCall) -> CallJson {
    let place = LogPlace {
        block_hash: block.hash,
        block_number: block.header.number,
        block_timestamp: block.header.timestamp,
        transaction_hash: tx.hash,
        transaction_index: u64::try_from(index).unwrap_or(u64::MAX),
    };
    const VM_ERROR_CODE: i32 = -32_015;
    let error = match &call.end {
        SimulatedEnd::Success => None,
        SimulatedEnd::Reverted(data) => {
            let reason = revert_reason(data).map(|reason| format!(": {reason}")).unwrap_or_default();
            let message = format!("execution reverted{reason}");
            Some(value!({ "code": crate::error::REVERT_CODE, "message": message, "data": data }))
        }
        SimulatedEnd::Halted(reason) => Some(value!({ "code": VM_ERROR_CODE, "message": halt_in_words(reason) })),
    };
    CallJson {
        return_data: call.output.clone(),
        logs: call.logs.iter().map(|(log_index, log)| place.log(log, *log_index)).collect(),
        gas_used: U64::from(call.gas_used),
        max_used_gas: U64::from(call.max_used_gas),
        status: U64::from(u8::from(call.end == SimulatedEnd::Success)),
        error,
    }
}
