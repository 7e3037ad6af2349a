//! A chain of tests behind [`Wire`]: it keeps the rules of nonces, fees and blocks, and does harm on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use alloy_consensus::transaction::SignerRecoverable;
use alloy_consensus::{Transaction, TxEnvelope};
use alloy_eips::eip2718::Decodable2718;
use alloy_sol_types::{Revert, SolError};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use trellis_primitives::{Address, B256, ManualClock, UnixMs, keccak256};

use crate::{RpcChainClient, RpcConfig, Wire, WireError};

pub(super) const CHAIN_ID: u64 = 97_001;
/// The contract of tests: whoever comes first with one coin, while it is open, empties it; the others are told why not.
pub(super) const TILL: Address = Address::repeat_byte(0x71);
/// Seconds since 1970 of block zero; each block is one second later.
const START_S: u64 = 1_795_257_000;

#[derive(Default)]
pub(super) struct State {
    pub(super) blocks: Vec<Vec<(B256, u64)>>,
    pub(super) fork: u64,
    pub(super) pool: BTreeMap<(Address, u64), TxEnvelope>,
    pub(super) taken: Vec<TxEnvelope>,
    pub(super) nonces: BTreeMap<Address, u64>,
    pub(super) finalized: u64,
    pub(super) base_fee: u128,
    pub(super) dead_urls: BTreeSet<String>,
    pub(super) asked: Vec<(String, String)>,
    /// The lowest tip that the producer includes.
    pub(super) least_tip: u128,
    /// Answers that are lost after the node acted on the request.
    pub(super) lose_answers: u32,
    pub(super) revert_with: Option<Vec<u8>>,
    /// What is answered for a finality proof.
    pub(super) proof: Option<Vec<u8>>,
    pub(super) other_chain_id: Option<(String, u64)>,
    /// Senders whose transactions the producer leaves in the pool.
    pub(super) held: BTreeSet<Address>,
    /// The block in which the till was emptied.
    pub(super) till_emptied_in: Option<u64>,
    /// The block at whose time the till closes.
    pub(super) till_closes_at: Option<u64>,
    /// Gas that the till needs; an estimate does not know it.
    pub(super) till_gas: u64,
    /// Transactions in blocks that failed.
    failed: BTreeSet<B256>,
    /// True for a node that lets a call say no block of its own.
    pub(super) plain_calls: bool,
}

/// A call as the till sees it: on the state after one block, at the time of another.
struct TillCall {
    from: Address,
    value: u128,
    gas: u64,
    state_of: u64,
    time_of: u64,
}

/// The node.
#[derive(Clone, Default)]
pub(super) struct Node(pub(super) Arc<Mutex<State>>);

impl Node {
    pub(super) async fn client(&self, clock: &Arc<ManualClock>) -> Arc<RpcChainClient> {
        let mut config = RpcConfig::new(CHAIN_ID, vec!["http://a".into(), "http://b".into()]);
        config.poll_interval = Duration::from_millis(1);
        self.client_with(config, clock).await.unwrap()
    }

    pub(super) async fn client_with(
        &self,
        config: RpcConfig,
        clock: &Arc<ManualClock>,
    ) -> Result<Arc<RpcChainClient>, crate::ChainError> {
        {
            let mut state = self.0.lock();
            if state.blocks.is_empty() {
                state.blocks.push(Vec::new());
                state.base_fee = 1_000_000_000;
            }
        }
        RpcChainClient::connect_over(Arc::new(self.clone()), config, clock.clone()).await
    }

    /// Makes a block of everything in the pool that may go in.
    pub(super) fn mine(&self) {
        let mut state = self.0.lock();
        let mut block = Vec::new();
        while let Some(key) = state.pool.iter().find_map(|(key, tx)| {
            let next = state.nonces.get(&key.0).copied().unwrap_or(0);
            let pays = tx.max_priority_fee_per_gas().unwrap_or(0) >= state.least_tip;
            (key.1 == next && pays && !state.held.contains(&key.0)).then_some(*key)
        }) {
            let tx = state.pool.remove(&key).unwrap();
            state.nonces.insert(key.0, key.1 + 1);
            block.push((*tx.tx_hash(), key.1));
            if tx.to() == Some(TILL) {
                state.use_till(key.0, &tx);
            }
        }
        state.blocks.push(block);
    }

    pub(super) fn finalise(&self) {
        let mut state = self.0.lock();
        state.finalized = state.blocks.len() as u64 - 1;
    }

    /// Takes the newest block back; its transactions return to the pool.
    pub(super) fn reorganise(&self) {
        let mut state = self.0.lock();
        let block = state.blocks.pop().unwrap();
        state.fork += 1;
        for (hash, nonce) in block {
            let tx = state.taken.iter().find(|tx| *tx.tx_hash() == hash).unwrap().clone();
            let from = tx.recover_signer().unwrap();
            state.nonces.insert(from, nonce);
            state.pool.insert((from, nonce), tx);
        }
    }
}

fn quantity(n: u128) -> Value {
    json!(format!("0x{n:x}"))
}

fn number(value: &Value) -> u128 {
    u128::from_str_radix(value.as_str().unwrap_or("0x0").trim_start_matches("0x"), 16).unwrap()
}

impl State {
    fn use_till(&mut self, from: Address, tx: &TxEnvelope) {
        let now = self.blocks.len() as u64;
        let (value, gas) = (tx.value().to(), tx.gas_limit());
        match self.till(&TillCall { from, value, gas, state_of: now, time_of: now }) {
            Ok(_) => self.till_emptied_in = Some(now),
            Err(_) => drop(self.failed.insert(*tx.tx_hash())),
        }
    }

    fn till(&self, call: &TillCall) -> Result<Value, Value> {
        let reverts = |reason: &str| {
            let data = Revert::from(reason.to_owned()).abi_encode();
            Err(json!({"code": 3, "message": "execution reverted", "data": format!("0x{}", hex::encode(data))}))
        };
        if call.gas < self.till_gas {
            return Err(json!({"code": -32000, "message": "out of gas"}));
        }
        if call.from.is_zero() || call.value != 1 {
            return reverts("somebody must bring one coin");
        }
        if self.till_closes_at.is_some_and(|block| block <= call.time_of) {
            return reverts("the till is closed");
        }
        if self.till_emptied_in.is_some_and(|block| block <= call.state_of) {
            return reverts("the till is empty");
        }
        Ok(json!("0x"))
    }

    fn call_till(&self, params: &Value) -> Result<Value, Value> {
        if self.plain_calls && !params[3].is_null() {
            return Err(json!({"code": -32602, "message": "too many arguments, want at most 2"}));
        }
        let newest = self.blocks.len() as u64 - 1;
        let state_of = if params[1] == "latest" { newest } else { number(&params[1]) as u64 };
        let time_of = match &params[3]["time"] {
            Value::Null => state_of,
            time => number(time) as u64 - START_S,
        };
        self.till(&TillCall {
            from: params[0]["from"].as_str().map(|from| from.parse().unwrap()).unwrap_or_default(),
            value: number(&params[0]["value"]),
            gas: params[0]["gas"].as_str().map_or(u64::MAX, |_| number(&params[0]["gas"]) as u64),
            state_of,
            time_of,
        })
    }

    /// A transaction that is in a block.
    fn transaction(&self, hash: B256) -> Value {
        let block = self.blocks.iter().position(|block| block.iter().any(|(tx, _)| *tx == hash));
        let (Some(block), Some(tx)) = (block, self.taken.iter().find(|tx| *tx.tx_hash() == hash)) else {
            return Value::Null;
        };
        json!({"hash": hash, "from": tx.recover_signer().unwrap(), "to": tx.to(), "input": tx.input(),
            "value": quantity(tx.value().to()), "gas": quantity(tx.gas_limit().into()),
            "blockNumber": quantity(block as u128)})
    }

    fn block_hash(&self, number: u64) -> B256 {
        keccak256([number.to_be_bytes(), self.fork.to_be_bytes()].concat())
    }

    fn block(&self, number: u64) -> Value {
        json!({"number": quantity(number.into()), "hash": self.block_hash(number),
            "timestamp": quantity(u128::from(START_S + number)), "baseFeePerGas": quantity(self.base_fee)})
    }

    fn receipt(&self, hash: B256) -> Value {
        for (number, block) in self.blocks.iter().enumerate() {
            if block.iter().any(|(tx, _)| *tx == hash) {
                return json!({"transactionHash": hash, "blockNumber": quantity(number as u128),
                    "blockHash": self.block_hash(number as u64), "gasUsed": "0x5208",
                    "status": if self.failed.contains(&hash) { "0x0" } else { "0x1" },
                    "effectiveGasPrice": "0x1", "logs": []});
            }
        }
        Value::Null
    }

    fn take(&mut self, raw: &str) -> Result<Value, Value> {
        let bytes = hex::decode(&raw[2..]).unwrap();
        let tx = TxEnvelope::decode_2718(&mut bytes.as_slice()).unwrap();
        let from = tx.recover_signer().unwrap();
        let next = self.nonces.get(&from).copied().unwrap_or(0);
        if tx.nonce() < next {
            return Err(json!({"code": -32000, "message": "nonce too low: next nonce 1, tx nonce 0"}));
        }
        if let Some(old) = self.pool.get(&(from, tx.nonce())) {
            if old.tx_hash() == tx.tx_hash() {
                return Err(json!({"code": -32000, "message": "already known"}));
            }
            let least = |wei: u128| wei * 110 / 100;
            let too_low = tx.max_fee_per_gas() < least(old.max_fee_per_gas())
                || tx.max_priority_fee_per_gas() < old.max_priority_fee_per_gas().map(least);
            if too_low {
                return Err(json!({"code": -32000, "message": "replacement transaction underpriced"}));
            }
        }
        let hash = *tx.tx_hash();
        self.taken.push(tx.clone());
        self.pool.insert((from, tx.nonce()), tx);
        Ok(json!(hash))
    }

    fn answer(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        let newest = self.blocks.len() as u64 - 1;
        Ok(match method {
            "eth_chainId" => quantity(CHAIN_ID.into()),
            "eth_getBlockByNumber" if params[0] == "finalized" => self.block(self.finalized),
            "eth_getBlockByNumber" if params[0] == "latest" => self.block(newest),
            "eth_getBlockByNumber" => self.block(number(&params[0]) as u64),
            "eth_getTransactionByHash" => self.transaction(params[0].as_str().unwrap().parse().unwrap()),
            "eth_call" if params[0]["to"] == json!(TILL) => self.call_till(params)?,
            "eth_getTransactionCount" => {
                let account: Address = params[0].as_str().unwrap().parse().unwrap();
                let mut next = self.nonces.get(&account).copied().unwrap_or(0);
                while params[1] == "pending" && self.pool.contains_key(&(account, next)) {
                    next += 1;
                }
                quantity(next.into())
            }
            "eth_estimateGas" | "eth_call" => match &self.revert_with {
                Some(data) => {
                    let data = format!("0x{}", hex::encode(data));
                    return Err(json!({"code": 3, "message": "execution reverted", "data": data}));
                }
                None => quantity(21_000),
            },
            "eth_getTransactionReceipt" => self.receipt(params[0].as_str().unwrap().parse().unwrap()),
            "eth_sendRawTransaction" => self.take(params[0].as_str().unwrap())?,
            "eth_getLogs" => json!([]),
            "trellis_getFinalityProof" => {
                json!({"number": params[0], "proof": format!("0x{}", hex::encode(self.proof.clone().unwrap()))})
            }
            _ => return Err(json!({"code": -32601, "message": "no such method"})),
        })
    }
}

#[async_trait]
impl Wire for Node {
    async fn post(&self, url: &str, body: Vec<u8>, _within: Duration) -> Result<Bytes, WireError> {
        let request: Value = serde_json::from_slice(&body).unwrap();
        let method = request["method"].as_str().unwrap();
        let mut state = self.0.lock();
        state.asked.push((url.to_owned(), method.to_owned()));
        if state.dead_urls.contains(url) {
            return Err(WireError::Transport("no connection".into()));
        }
        let answer = match state.other_chain_id.clone() {
            Some((at, id)) if at == url && method == "eth_chainId" => Ok(quantity(id.into())),
            _ => state.answer(method, &request["params"]),
        };
        if method == "eth_sendRawTransaction" && state.lose_answers > 0 {
            state.lose_answers -= 1;
            return Err(WireError::Transport("broken exchange".into()));
        }
        let answer = match answer {
            Ok(result) => json!({"jsonrpc": "2.0", "id": request["id"], "result": result}),
            Err(error) => json!({"jsonrpc": "2.0", "id": request["id"], "error": error}),
        };
        Ok(answer.to_string().into())
    }
}

pub(super) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(UnixMs(1_795_257_000_000)))
}
