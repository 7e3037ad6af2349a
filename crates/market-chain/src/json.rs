//! JSON-RPC 2.0 over several URLs of one chain: the first that answers wins, and is asked first from then on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use alloy_primitives::{LogData, U64, U128, U256};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use trellis_primitives::{Address, B256, Bytes};

use crate::client::{Log, LogPlace, TxReceipt};
use crate::contracts::describe_revert;
use crate::error::ChainError;
use crate::metrics::ChainMetrics;
use crate::wire::Wire;

/// JSON-RPC codes that say something about the node and not about the request.
const CODES_OF_A_TIRED_NODE: [i64; 3] = [-32_005, -32_097, -32_603];

/// The chain's URLs.
pub(crate) struct JsonRpc {
    wire: Arc<dyn Wire>,
    urls: Vec<String>,
    preferred: AtomicUsize,
    next_id: AtomicU64,
    within: Duration,
    metrics: ChainMetrics,
}

#[derive(Deserialize)]
struct Answer {
    id: Value,
    result: Option<Value>,
    error: Option<Failure>,
}

/// A JSON-RPC error.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: i64,
    pub(crate) message: String,
    pub(crate) data: Option<Value>,
}

/// What one URL said.
enum Said {
    Result(Value),
    Failure(Failure),
    Nothing(String),
}

impl JsonRpc {
    pub(crate) fn new(wire: Arc<dyn Wire>, urls: Vec<String>, within: Duration, metrics: ChainMetrics) -> Self {
        Self { wire, urls, preferred: AtomicUsize::new(0), next_id: AtomicU64::new(1), within, metrics }
    }

    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Asks for a result of a type; `null` is `None`.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Option<T>, ChainError> {
        match self.ask_raw(method, params).await? {
            Ok(Value::Null) => Ok(None),
            Ok(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| ChainError::Malformed { method, reason: error.to_string() }),
            Err(failure) => Err(failure.into_error(method)),
        }
    }

    /// As [`JsonRpc::ask`], where `null` is no answer.
    pub(crate) async fn need<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T, ChainError> {
        let answer = self.ask(method, params).await?;
        answer.ok_or_else(|| ChainError::Malformed { method, reason: "null".to_owned() })
    }

    /// Asks the URLs in turn until one answers, with a result or with an error that the others would give too.
    pub(crate) async fn ask_raw(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Result<Value, Failure>, ChainError> {
        let urls = self.urls.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = None;
        for step in 0..urls {
            let at = (first + step) % urls;
            let Some(url) = self.urls.get(at) else { continue };
            let trouble = match self.ask_one(url, method, &params).await {
                Said::Result(value) => {
                    self.answered(at);
                    return Ok(Ok(value));
                }
                Said::Failure(failure) if !CODES_OF_A_TIRED_NODE.contains(&failure.code) => {
                    self.answered(at);
                    return Ok(Err(failure));
                }
                Said::Failure(failure) => format!("{} (code {})", failure.message, failure.code),
                Said::Nothing(trouble) => trouble,
            };
            self.metrics.failovers.inc();
            tracing::debug!(method, url_index = at, trouble, "rpc url did not answer");
            last = Some(trouble);
        }
        let last = last.ok_or(ChainError::NoUrl)?;
        Err(ChainError::Unreachable { method, urls, last })
    }

    fn answered(&self, at: usize) {
        self.metrics.answers.inc();
        self.preferred.store(at, Ordering::Relaxed);
    }

    /// Asks one URL, for the check of chain ids.
    pub(crate) async fn chain_id_of(&self, url: &str) -> Result<Option<u64>, ChainError> {
        match self.ask_one(url, "eth_chainId", &json!([])).await {
            Said::Result(value) => {
                let malformed =
                    |e: serde_json::Error| ChainError::Malformed { method: "eth_chainId", reason: e.to_string() };
                Ok(Some(serde_json::from_value::<U64>(value).map_err(malformed)?.to::<u64>()))
            }
            Said::Failure(_) | Said::Nothing(_) => Ok(None),
        }
    }

    async fn ask_one(&self, url: &str, method: &'static str, params: &Value) -> Said {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let answer = match self.wire.post(url, request.to_string().into_bytes(), self.within).await {
            Ok(answer) => answer,
            Err(error) => return Said::Nothing(error.to_string()),
        };
        let answer: Answer = match serde_json::from_slice(&answer) {
            Ok(answer) => answer,
            Err(error) => return Said::Nothing(format!("not a JSON-RPC answer: {error}")),
        };
        match answer {
            Answer { error: Some(failure), .. } => Said::Failure(failure),
            Answer { id: Value::Number(given), .. } if given.as_u64() != Some(id) => {
                Said::Nothing("an answer to another request".to_owned())
            }
            Answer { result, .. } => Said::Result(result.unwrap_or(Value::Null)),
        }
    }
}

impl Failure {
    /// The revert data, where the node gives it.
    fn revert_data(&self) -> Option<Bytes> {
        match &self.data {
            Some(Value::String(text)) => text.parse().ok(),
            Some(Value::Object(fields)) => fields.get("data")?.as_str()?.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn says(&self, words: &str) -> bool {
        self.message.to_lowercase().contains(words)
    }

    /// The error that a caller sees.
    pub(crate) fn into_error(self, method: &'static str) -> ChainError {
        let data = self.revert_data();
        if self.code == 3 || self.says("execution reverted") {
            let data = data.unwrap_or_default();
            let reason = if data.is_empty() { self.message } else { describe_revert(&data) };
            return ChainError::Reverted { reason, data };
        }
        if self.says("insufficient funds") {
            return ChainError::InsufficientFunds { message: self.message };
        }
        ChainError::Refused { method, code: self.code, message: self.message }
    }
}

/// A block, as far as it is needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JsonBlock {
    pub(crate) number: U64,
    pub(crate) hash: B256,
    pub(crate) timestamp: U64,
    pub(crate) base_fee_per_gas: Option<U128>,
}

/// A finality proof, as far as it is needed.
#[derive(Debug, Deserialize)]
pub(crate) struct JsonProof {
    /// RLP of header and certificate in one.
    pub(crate) proof: Bytes,
    /// RLP of the block's consensus section.
    #[serde(default)]
    pub(crate) section: Bytes,
}

/// A committee, as far as it is needed.
#[derive(Debug, Deserialize)]
pub(crate) struct JsonCommittee {
    pub(crate) validators: Vec<JsonMember>,
}

/// One of its members.
#[derive(Debug, Deserialize)]
pub(crate) struct JsonMember {
    pub(crate) account: Address,
    pub(crate) power: U64,
}

/// A transaction, as far as it is needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JsonTransaction {
    pub(crate) block_number: Option<U64>,
    pub(crate) from: Address,
    pub(crate) to: Option<Address>,
    pub(crate) value: U256,
    pub(crate) gas: U64,
    pub(crate) input: Bytes,
}

/// A log.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JsonLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    block_number: Option<U64>,
    log_index: Option<U64>,
    transaction_hash: Option<B256>,
    #[serde(default)]
    removed: bool,
}

/// A receipt.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JsonReceipt {
    transaction_hash: B256,
    pub(crate) block_number: U64,
    pub(crate) block_hash: B256,
    status: U64,
    gas_used: U64,
    #[serde(default)]
    effective_gas_price: U128,
    logs: Vec<JsonLog>,
}

impl JsonLog {
    /// `None` for a log that is in no block, or was taken back.
    pub(crate) fn into_log(self) -> Option<Log> {
        if self.removed {
            return None;
        }
        let place =
            LogPlace { block: self.block_number?.to(), index: self.log_index?.to(), tx: self.transaction_hash? };
        Some(Log { address: self.address, data: LogData::new(self.topics, self.data)?, place })
    }
}

impl JsonReceipt {
    pub(crate) fn into_receipt(self) -> TxReceipt {
        TxReceipt {
            tx: self.transaction_hash,
            block: self.block_number.to(),
            block_hash: self.block_hash,
            success: self.status == U64::from(1),
            gas_used: self.gas_used.to(),
            gas_price_wei: self.effective_gas_price.to(),
            logs: self.logs.into_iter().filter_map(JsonLog::into_log).collect(),
        }
    }
}
