//! A chain behind JSON-RPC.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_primitives::{U64, U256};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use trellis_crypto::AccountKey;
use trellis_primitives::{Address, B256, Bytes, SharedClock, UnixMs, Wei};

use crate::client::{ChainClient, Head, Log, LogFilter, TxIntent, TxReceipt};
use crate::config::{Confirmation, RpcConfig};
use crate::error::ChainError;
use crate::fees::Fees;
use crate::json::{JsonBlock, JsonCommittee, JsonLog, JsonProof, JsonReceipt, JsonRpc, JsonTransaction};
use crate::metrics::ChainMetrics;
use crate::state::{Sender, Slot};
use crate::transaction::{self, Envelope};
use crate::wire::{HttpWire, Wire};

/// Blocks in one request for logs.
const LOGS_BLOCKS_MAX: u64 = 5_000;
/// Times that a send is tried again after the node corrected our nonce or our fee.
const SEND_TRIES_MAX: u32 = 4;

type SharedSender = Arc<tokio::sync::Mutex<Sender>>;

/// A [`ChainClient`] over JSON-RPC.
pub struct RpcChainClient {
    rpc: JsonRpc,
    config: RpcConfig,
    clock: SharedClock,
    metrics: ChainMetrics,
    senders: Mutex<HashMap<Address, SharedSender>>,
    /// Milliseconds since 1970 of the newest block seen, 0 before.
    last_view_ms: AtomicU64,
}

/// JSON-RPC's code for parameters that a node does not take.
const INVALID_PARAMS: i64 = -32_602;
/// Gas for four storage slots that were not there when the gas was estimated (22,100 each, EIP-2929).
const NEW_SLOTS_GAS: u64 = 88_400;

impl RpcChainClient {
    /// Connects over HTTP; every URL that answers must serve the configured chain, and one must answer.
    ///
    /// # Errors
    /// [`ChainError`]: no URL, none answers, one serves another chain.
    pub async fn connect(config: RpcConfig, clock: SharedClock) -> Result<Arc<Self>, ChainError> {
        Self::connect_over(Arc::new(HttpWire::default()), config, clock).await
    }

    /// As [`RpcChainClient::connect`], over another wire.
    ///
    /// # Errors
    /// As [`RpcChainClient::connect`].
    pub async fn connect_over(
        wire: Arc<dyn Wire>,
        config: RpcConfig,
        clock: SharedClock,
    ) -> Result<Arc<Self>, ChainError> {
        let metrics = ChainMetrics::default();
        let rpc = JsonRpc::new(wire, config.urls.clone(), config.request_timeout, metrics.clone());
        let mut answers = 0;
        for url in rpc.urls() {
            if let Some(actual) = rpc.chain_id_of(url).await? {
                if actual != config.chain_id {
                    return Err(ChainError::WrongChain { url: url.clone(), expected: config.chain_id, actual });
                }
                answers += 1;
            }
        }
        if config.urls.is_empty() {
            return Err(ChainError::NoUrl);
        }
        if answers == 0 {
            let last = "no answer".to_owned();
            return Err(ChainError::Unreachable { method: "eth_chainId", urls: config.urls.len(), last });
        }
        let senders = Mutex::default();
        Ok(Arc::new(Self { rpc, config, clock, metrics, senders, last_view_ms: AtomicU64::new(0) }))
    }

    /// The client's figures.
    #[must_use]
    pub fn metrics(&self) -> &ChainMetrics {
        &self.metrics
    }

    fn sender(&self, account: Address) -> SharedSender {
        Arc::clone(self.senders.lock().entry(account).or_default())
    }

    async fn block(&self, tag: &str) -> Result<Option<JsonBlock>, ChainError> {
        self.rpc.ask("eth_getBlockByNumber", json!([tag, false])).await
    }

    async fn finalized_number(&self, newest: u64) -> Result<u64, ChainError> {
        let depth = match self.config.confirmation {
            Confirmation::Depth(depth) => return Ok(newest.saturating_sub(depth)),
            Confirmation::Finalized => 0,
        };
        let Some(block) = self.block("finalized").await? else { return Ok(depth) };
        let number: u64 = block.number.to();
        let Some(committee) = self.config.committee.as_ref().filter(|_| number > 0) else { return Ok(number) };
        while let Some(height) = committee.needed(number) {
            let answer = self.proof(height).await?;
            committee.learn(&answer.proof, &answer.section)?;
        }
        let header = committee.check(&self.proof(number).await?.proof)?;
        // The node may have gone on meanwhile; what is proved is what counts.
        Ok(header.number)
    }

    /// Who decides the newest block of our chain, and how much power each has, by account. The node's word, not proved.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn sitting(&self) -> Result<Vec<(Address, u64)>, ChainError> {
        let answer: JsonCommittee = self.rpc.need("trellis_validators", json!(["latest"])).await?;
        Ok(answer.validators.into_iter().map(|member| (member.account, member.power.to())).collect())
    }

    async fn proof(&self, height: u64) -> Result<JsonProof, ChainError> {
        self.rpc.need("trellis_getFinalityProof", json!([format!("0x{height:x}")])).await
    }

    async fn chain_nonce(&self, account: Address, tag: &str) -> Result<u64, ChainError> {
        let nonce: U64 = self.rpc.need("eth_getTransactionCount", json!([account, tag])).await?;
        Ok(nonce.to())
    }

    async fn gas_limit(&self, intent: &TxIntent, from: Address) -> Result<u64, ChainError> {
        let request = json!({"from": from, "to": intent.to, "data": intent.data,
            "value": format!("0x{:x}", intent.value.0)});
        let estimate: U64 = self.rpc.need("eth_estimateGas", json!([request])).await?;
        let estimate: u64 = estimate.to();
        // A quarter more, for state that changes between the estimate and the block, and room for new slots: a token that
        // votes writes its checkpoints anew in another second, which the estimate, made in this one, does not see.
        let wanted = estimate.saturating_add(estimate / 4).saturating_add(NEW_SLOTS_GAS);
        if estimate > intent.gas_limit_max {
            let message = format!("{estimate} gas needed, at most {} allowed", intent.gas_limit_max);
            return Err(ChainError::Refused { method: "eth_estimateGas", code: 0, message });
        }
        Ok(wanted.min(intent.gas_limit_max))
    }

    async fn fees_now(&self) -> Result<Fees, ChainError> {
        let newest: JsonBlock = self.rpc.need("eth_getBlockByNumber", json!(["latest", false])).await?;
        Fees::choose(&self.config.fees, newest.base_fee_per_gas.unwrap_or_default().to())
    }

    /// Hands bytes to a node. `Ok(Err(failure))` is the node's refusal.
    async fn hand_in(&self, hash: B256, raw: &Bytes) -> Result<Result<(), crate::json::Failure>, ChainError> {
        match self.rpc.ask_raw("eth_sendRawTransaction", json!([raw])).await? {
            Ok(Value::String(text)) if text.parse() == Ok(hash) => Ok(Ok(())),
            Ok(other) => {
                Err(ChainError::Malformed { method: "eth_sendRawTransaction", reason: format!("{other}, not {hash}") })
            }
            Err(failure) if failure.says("already known") || failure.says("known transaction") => Ok(Ok(())),
            Err(failure) => Ok(Err(failure)),
        }
    }

    async fn send_locked(&self, sender: &mut Sender, intent: TxIntent, from: &AccountKey) -> Result<B256, ChainError> {
        let gas_limit = self.gas_limit(&intent, from.address()).await?;
        let mut fees = self.fees_now().await?;
        for _ in 0..SEND_TRIES_MAX {
            let nonce = match sender.next_nonce() {
                Some(nonce) => nonce,
                None => self.chain_nonce(from.address(), "pending").await?,
            };
            sender.learn_nonce(nonce);
            let envelope = Envelope { chain_id: self.config.chain_id, nonce, gas_limit, fees };
            let (hash, raw) = transaction::sign(&intent, envelope, from)?;
            // After a lost answer nobody knows whether the nonce is taken, so the chain is asked again next time.
            let answer = self.hand_in(hash, &raw).await.inspect_err(|_| sender.forget_nonce())?;
            match answer {
                Ok(()) => {
                    let slot = Slot { intent, gas_limit, fees, forms: vec![(hash, raw)], sent_at: self.clock.now() };
                    sender.sent(nonce, slot);
                    self.metrics.sent.inc();
                    return Ok(hash);
                }
                Err(failure) if failure.says("nonce too low") => sender.forget_nonce(),
                Err(failure) if failure.says("underpriced") => {
                    let raised = fees.raised(&self.config.fees);
                    fees = raised.ok_or_else(|| failure.into_error("eth_sendRawTransaction"))?;
                }
                Err(failure) => return Err(failure.into_error("eth_sendRawTransaction")),
            }
        }
        let message = "the node kept refusing nonce and fee".to_owned();
        Err(ChainError::Refused { method: "eth_sendRawTransaction", code: 0, message })
    }

    async fn receipt(&self, tx: B256) -> Result<Option<JsonReceipt>, ChainError> {
        self.rpc.ask("eth_getTransactionReceipt", json!([tx])).await
    }

    /// The receipt of whichever form was included.
    async fn any_receipt(&self, forms: &[B256]) -> Result<Option<JsonReceipt>, ChainError> {
        for form in forms {
            if let Some(receipt) = self.receipt(*form).await? {
                return Ok(Some(receipt));
            }
        }
        Ok(None)
    }

    /// A receipt whose block is final, and still the one with that receipt.
    async fn final_receipt(&self, forms: &[B256]) -> Result<Progress, ChainError> {
        let Some(receipt) = self.any_receipt(forms).await? else { return Ok(Progress::InNoBlock) };
        let head = self.head().await?;
        if receipt.block_number.to::<u64>() > head.finalized_number {
            return Ok(Progress::InBlock);
        }
        match self.any_receipt(forms).await? {
            Some(again) if again.block_hash == receipt.block_hash => {
                self.metrics.confirmed.inc();
                Ok(Progress::Final(Box::new(again.into_receipt())))
            }
            _ => {
                self.metrics.reorganised.inc();
                Ok(Progress::InNoBlock)
            }
        }
    }

    /// Looks after a transaction that is in no block: sends it again, dearer if it has waited long enough.
    async fn nudge(&self, sender: &mut Sender, tx: B256, from: &AccountKey) -> Result<(), ChainError> {
        let Some((nonce, slot)) = sender.find(tx) else { return Ok(()) };
        let now = self.clock.now();
        if now.ms_since(slot.sent_at) < self.config.stuck_after.as_millis() as u64 {
            return Ok(());
        }
        if self.chain_nonce(from.address(), "latest").await? > nonce {
            let forms: Vec<B256> = slot.forms.iter().map(|(hash, _)| *hash).collect();
            // Asked after the nonce: if one of ours had taken it, its receipt would be there now.
            return match self.any_receipt(&forms).await? {
                Some(_) => Ok(()),
                None => Err(ChainError::Displaced { tx, nonce }),
            };
        }
        let form = match slot.fees.raised(&self.config.fees) {
            Some(fees) => {
                let envelope = Envelope { chain_id: self.config.chain_id, nonce, gas_limit: slot.gas_limit, fees };
                Some((transaction::sign(&slot.intent, envelope, from)?, fees))
            }
            None => None,
        };
        match form {
            Some(((hash, raw), fees)) => {
                if self.hand_in(hash, &raw).await?.is_ok() {
                    self.metrics.replaced.inc();
                    tracing::info!(%tx, replacement = %hash, nonce, "stuck transaction replaced");
                    sender.replaced(nonce, (hash, raw), fees, now);
                    return Ok(());
                }
            }
            // At the cap: the newest form is handed in again, in case the node forgot it.
            None => {
                if let Some((hash, raw)) = slot.forms.last().cloned() {
                    let _ = self.hand_in(hash, &raw).await?;
                }
            }
        }
        sender.touched(nonce, now);
        Ok(())
    }

    fn saw(&self, block: &JsonBlock) {
        let ms = block.timestamp.to::<u64>().saturating_mul(1_000);
        self.last_view_ms.fetch_max(ms, Ordering::Relaxed);
    }
}

enum Progress {
    InNoBlock,
    InBlock,
    Final(Box<TxReceipt>),
}

#[async_trait]
impl ChainClient for RpcChainClient {
    fn chain_id(&self) -> u64 {
        self.config.chain_id
    }

    async fn head(&self) -> Result<Head, ChainError> {
        let newest: JsonBlock = self.rpc.need("eth_getBlockByNumber", json!(["latest", false])).await?;
        let number = newest.number.to();
        let finalized_number = self.finalized_number(number).await?;
        self.saw(&newest);
        Ok(Head {
            number,
            hash: newest.hash,
            time_s: newest.timestamp.to(),
            finalized_number,
            base_fee_wei: newest.base_fee_per_gas.unwrap_or_default().to(),
        })
    }

    async fn call(&self, to: Address, data: Bytes) -> Result<Bytes, ChainError> {
        self.rpc.need("eth_call", json!([{"to": to, "data": data}, "latest"])).await
    }

    async fn logs(&self, filter: LogFilter) -> Result<Vec<Log>, ChainError> {
        let topics: Vec<Value> =
            filter.topics.iter().map(|any_of| if any_of.is_empty() { Value::Null } else { json!(any_of) }).collect();
        let mut found = Vec::new();
        let mut from = filter.from_block;
        while from <= filter.to_block {
            let to = filter.to_block.min(from.saturating_add(LOGS_BLOCKS_MAX - 1));
            let request = json!({"address": filter.addresses, "topics": topics,
                "fromBlock": format!("0x{from:x}"), "toBlock": format!("0x{to:x}")});
            let part: Vec<JsonLog> = self.rpc.need("eth_getLogs", json!([request])).await?;
            found.extend(part.into_iter().filter_map(JsonLog::into_log));
            from = to.saturating_add(1);
        }
        Ok(found)
    }

    async fn transaction_data(&self, tx: B256) -> Result<Option<Bytes>, ChainError> {
        let found: Option<JsonTransaction> = self.rpc.ask("eth_getTransactionByHash", json!([tx])).await?;
        Ok(found.filter(|found| found.block_number.is_some()).map(|found| found.input))
    }

    async fn balance(&self, account: Address) -> Result<Wei, ChainError> {
        let wei: U256 = self.rpc.need("eth_getBalance", json!([account, "latest"])).await?;
        Wei::try_from(wei).map_err(|e| ChainError::Malformed { method: "eth_getBalance", reason: e.to_string() })
    }

    async fn send(&self, intent: TxIntent, from: &AccountKey) -> Result<B256, ChainError> {
        let sender = self.sender(from.address());
        let mut sender = sender.lock().await;
        if !sender.has_room() {
            let message = "too many transactions of the account are on their way".to_owned();
            return Err(ChainError::Refused { method: "send", code: 0, message });
        }
        self.send_locked(&mut sender, intent, from).await
    }

    async fn wait(&self, tx: B256, from: &AccountKey, within: Duration) -> Result<TxReceipt, ChainError> {
        let sender = self.sender(from.address());
        let deadline = Instant::now() + within;
        loop {
            let forms: Vec<B256> = match sender.lock().await.find(tx) {
                Some((_, slot)) => slot.forms.iter().map(|(hash, _)| *hash).collect(),
                None => vec![tx],
            };
            let progress = match self.final_receipt(&forms).await {
                Ok(progress) => progress,
                // The chain may be away for a while; the deadline decides.
                Err(error) if error.is_passing() => Progress::InBlock,
                Err(error) => return Err(error),
            };
            match progress {
                Progress::Final(receipt) => {
                    let mut sender = sender.lock().await;
                    if let Some(nonce) = sender.find(tx).map(|(nonce, _)| nonce) {
                        sender.finished(nonce);
                    }
                    return Ok(*receipt);
                }
                Progress::InNoBlock => {
                    let nudged = self.nudge(&mut *sender.lock().await, tx, from).await;
                    nudged.or_else(|error| if error.is_passing() { Ok(()) } else { Err(error) })?;
                }
                Progress::InBlock => {}
            }
            if Instant::now() >= deadline {
                let waited_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                return Err(ChainError::Timeout { what: "the transaction's final block", waited_ms });
            }
            tokio::time::sleep(self.config.poll_interval).await;
        }
    }

    async fn failure_reason(&self, failed: &TxReceipt) -> Result<String, ChainError> {
        let tx: JsonTransaction = self.rpc.need("eth_getTransactionByHash", json!([failed.tx])).await?;
        let (number, parent) = (format!("0x{:x}", failed.block), format!("0x{:x}", failed.block.saturating_sub(1)));
        let block: JsonBlock = self.rpc.need("eth_getBlockByNumber", json!([number, false])).await?;
        let call = json!({"from": tx.from, "to": tx.to, "value": tx.value, "gas": tx.gas, "data": tx.input});
        let then = json!([call, parent, {}, {"number": number, "time": block.timestamp}]);
        let answer = match self.rpc.need::<Bytes>("eth_call", then).await {
            // Not every foreign node lets a call say in which block it is.
            Err(ChainError::Refused { code: INVALID_PARAMS, .. }) => {
                self.rpc.need("eth_call", json!([call, parent])).await
            }
            answer => answer,
        };
        match answer {
            Ok(_) => {
                Ok("the same call succeeds on the state before its block, so something in the block itself stood against it".into())
            }
            Err(ChainError::Reverted { reason, .. }) => Ok(reason),
            // Out of gas and the like.
            Err(ChainError::Refused { message, .. }) => Ok(message),
            Err(error) => Err(error),
        }
    }

    fn last_view(&self) -> Option<UnixMs> {
        match self.last_view_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(UnixMs(ms)),
        }
    }
}
