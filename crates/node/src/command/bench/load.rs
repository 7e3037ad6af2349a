//! A load for any Ethereum server: transfers signed beforehand, sent in batches, watched until they are in blocks.

use super::genesis::State;
use super::{percentile, rounded};
use crate::failure::Failure;
use alloy_consensus::transaction::RlpEcdsaEncodableTx;
use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use eyre::Result;
use parking_lot::Mutex;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Transactions in one request.
const BATCH: usize = 200;
/// Connections that send at the same time.
const CONNECTIONS: usize = 4;
/// Between two questions for a new block.
const POLL_MS: u64 = 20;
/// How long no block may bring a transfer before the run fails.
const STALL_SECONDS_MAX: u64 = 60;
/// How long one request may take.
const REQUEST_SECONDS_MAX: u64 = 60;
/// Receipts that are looked at: a transfer that fails would make the figures look better.
const RECEIPTS_CHECKED: usize = 25;
/// Gas limit of a native transfer.
const NATIVE_GAS: u64 = 21_000;
/// Gas limit of a token transfer; what it uses is less.
const TOKEN_GAS: u64 = 100_000;
/// Clock ticks in a second in /proc/PID/stat, on every Linux.
const TICKS_PER_S: f64 = 100.0;
/// `transfer(address,uint256)`.
const TRANSFER: [u8; 4] = [0xa9, 0x05, 0x9c, 0xbb];
/// `balanceOf(address)`.
const BALANCE_OF: [u8; 4] = [0x70, 0xa0, 0x82, 0x31];

/// What is transferred.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The coin.
    Native,
    /// WTRL.
    Token,
}

/// Signed transfers of one kind.
pub struct Load {
    hashes: Vec<B256>,
    bodies: Vec<String>,
}

impl Load {
    /// Signs transfers on all cores; each sender's nonces begin where the rounds before left them.
    pub fn sign(state: &State, kind: Kind, count: usize, sent_before: usize) -> Result<Self> {
        let signed: Vec<(B256, Bytes)> = (0..count)
            .into_par_iter()
            .map(|number| transfer(state, kind, number, sent_before))
            .collect::<Result<_>>()?;
        let bodies = signed
            .chunks(BATCH)
            .map(|batch| {
                let calls: Vec<String> = batch
                    .iter()
                    .enumerate()
                    .map(|(id, (_, raw))| {
                        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_sendRawTransaction","params":["{raw}"]}}"#)
                    })
                    .collect();
                format!("[{}]", calls.join(","))
            })
            .collect();
        Ok(Self { hashes: signed.into_iter().map(|(hash, _)| hash).collect(), bodies })
    }
}

/// Transfers that a sender has sent in rounds over all senders.
fn sent_by(sender: usize, total: usize, senders: usize) -> usize {
    total / senders + usize::from(sender < total % senders)
}

fn transfer(state: &State, kind: Kind, number: usize, sent_before: usize) -> Result<(B256, Bytes)> {
    let senders = state.senders.len();
    let from = number % senders;
    let nonce = sent_by(from, sent_before, senders) + number / senders;
    let pick = U256::from_be_bytes(keccak256(number.to_be_bytes()).0) % U256::from(state.accounts.len());
    let to = state.accounts.get(pick.to::<usize>()).copied().unwrap_or_default();
    let key = state.senders.get(from).ok_or_else(|| Failure::new("no sender"))?;
    let tx = TxEip1559 {
        chain_id: state.spec.genesis.chain_id,
        nonce: nonce as u64,
        max_fee_per_gas: 1_000_000_000_000,
        max_priority_fee_per_gas: 1,
        ..TxEip1559::default()
    };
    let tx = match kind {
        Kind::Native => TxEip1559 { gas_limit: NATIVE_GAS, to: TxKind::Call(to), value: U256::from(1), ..tx },
        Kind::Token => {
            let amount = U256::from(1).to_be_bytes::<32>();
            let input = [TRANSFER.as_slice(), to.into_word().as_slice(), &amount].concat().into();
            TxEip1559 { gas_limit: TOKEN_GAS, to: TxKind::Call(state.token), input, ..tx }
        }
    };
    let signature = Signature::from_raw_array(&key.sign_hash(tx.signature_hash()))?;
    let mut raw = Vec::with_capacity(256);
    tx.eip2718_encode(&signature, &mut raw);
    Ok((tx.into_signed(signature).hash().to_owned(), raw.into()))
}

/// A JSON-RPC server under load.
pub struct Server {
    url: String,
    pid: u32,
    client: reqwest::Client,
}

impl Server {
    /// A server by its address and process.
    pub fn new(address: &str, pid: u32) -> Result<Self> {
        Ok(Self { url: format!("http://{address}"), pid, client: client()? })
    }

    /// Calls one method.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer: Value = self.client.post(&self.url).json(&body).send().await?.json().await?;
        match answer.get("error") {
            Some(error) => Err(Failure::new(format!("{method}: {error}")).into()),
            None => Ok(answer["result"].clone()),
        }
    }

    /// What an account holds of a token.
    pub async fn balance_of(&self, token: Address, holder: Address) -> Result<U256> {
        let input = Bytes::from([BALANCE_OF.as_slice(), holder.into_word().as_slice()].concat());
        let word = self.call("eth_call", json!([{"to": token, "input": input}, "latest"])).await?;
        Ok(word.as_str().unwrap_or_default().parse()?)
    }

    /// Sends a load, waits until all of it is in blocks, and says how fast and at what cost that was.
    pub async fn measure(&self, load: &Load) -> Result<Value> {
        let head = number(&self.call("eth_blockNumber", json!([])).await?)?;
        let cpu_before = self.cpu_seconds();
        let began = Instant::now();
        let sending = Arc::new(Sending {
            next: AtomicUsize::new(0),
            bodies: load.bodies.clone(),
            sent: Mutex::new(vec![began; load.bodies.len()]),
        });
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            senders.spawn(send(Arc::clone(&sending), client()?, self.url.clone()));
        }
        let included = tokio::select! {
            included = self.watch(load, head) => included?,
            Err(error) = all(&mut senders) => return Err(error),
        };
        let cpu = self.cpu_seconds() - cpu_before;
        self.check_receipts(load).await?;
        let sent = sending.sent.lock().clone();
        Ok(figures(began, cpu, &sent, &included))
    }

    /// Looks at every new block until it has seen every transfer; when it saw each.
    async fn watch(&self, load: &Load, head: u64) -> Result<Included> {
        let places: HashMap<B256, usize> = load.hashes.iter().enumerate().map(|(place, hash)| (*hash, place)).collect();
        let mut seen: Vec<Option<Instant>> = vec![None; load.hashes.len()];
        let (mut missing, mut next, mut blocks, mut progress) = (seen.len(), head + 1, 0u64, Instant::now());
        while missing > 0 {
            let block = self.call("eth_getBlockByNumber", json!([format!("{next:#x}"), false])).await?;
            let now = Instant::now();
            if now.duration_since(progress) > Duration::from_secs(STALL_SECONDS_MAX) {
                return Err(Failure::new(format!("{missing} of {} transfers got into no block", seen.len())).into());
            }
            let Some(hashes) = block["transactions"].as_array() else {
                tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
                continue;
            };
            next += 1;
            let mut found = 0;
            for hash in hashes.iter().filter_map(Value::as_str).filter_map(|text| text.parse::<B256>().ok()) {
                let Some(entry) = places.get(&hash).and_then(|place| seen.get_mut(*place)) else { continue };
                found += usize::from(entry.replace(now).is_none());
            }
            missing -= found;
            if found > 0 {
                blocks += 1;
                progress = now;
            }
        }
        Ok(Included { seen: seen.into_iter().flatten().collect(), blocks })
    }

    async fn check_receipts(&self, load: &Load) -> Result<()> {
        let step = (load.hashes.len() / RECEIPTS_CHECKED).max(1);
        for hash in load.hashes.iter().step_by(step) {
            let receipt = self.call("eth_getTransactionReceipt", json!([hash])).await?;
            if receipt["status"] != "0x1" {
                return Err(Failure::new(format!("the transfer {hash} failed: {receipt}")).into());
            }
        }
        Ok(())
    }

    /// Time of the server's process on all cores so far.
    fn cpu_seconds(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name in brackets may hold anything; what follows it is counted from the state, field 3.
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / TICKS_PER_S
    }
}

struct Included {
    seen: Vec<Instant>,
    blocks: u64,
}

struct Sending {
    next: AtomicUsize,
    bodies: Vec<String>,
    sent: Mutex<Vec<Instant>>,
}

fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().timeout(Duration::from_secs(REQUEST_SECONDS_MAX)).build()?)
}

/// One connection: takes batch after batch until there are no more.
async fn send(sending: Arc<Sending>, client: reqwest::Client, url: String) -> Result<()> {
    loop {
        let index = sending.next.fetch_add(1, Ordering::Relaxed);
        let Some(body) = sending.bodies.get(index).cloned() else { return Ok(()) };
        if let Some(entry) = sending.sent.lock().get_mut(index) {
            *entry = Instant::now();
        }
        let answer =
            client.post(&url).header("content-type", "application/json").body(body).send().await?.text().await?;
        if let Some(place) = answer.find("\"error\"") {
            let text: String = answer[place..].chars().take(300).collect();
            return Err(Failure::new(format!("a transfer was refused: {text}")).into());
        }
    }
}

/// Ends with the first failure; never where there is none.
async fn all(senders: &mut tokio::task::JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    std::future::pending().await
}

fn number(value: &Value) -> Result<u64> {
    Ok(u64::from_str_radix(value.as_str().unwrap_or_default().trim_start_matches("0x"), 16)?)
}

#[allow(clippy::cast_precision_loss, reason = "counts of at most millions")]
fn figures(began: Instant, cpu_seconds: f64, sent: &[Instant], included: &Included) -> Value {
    let count = included.seen.len() as f64;
    let last = included.seen.iter().max().copied().unwrap_or(began);
    let mut waits: Vec<f64> = included
        .seen
        .iter()
        .enumerate()
        .filter_map(|(place, seen)| Some(seen.duration_since(*sent.get(place / BATCH)?).as_secs_f64() * 1e3))
        .collect();
    json!({
        "tps": rounded(count / last.duration_since(began).as_secs_f64()),
        "cpu_us_per_tx": rounded(cpu_seconds * 1e6 / count),
        "inclusion_ms_p50": rounded(percentile(&mut waits, 0.5)),
        "inclusion_ms_p99": rounded(percentile(&mut waits, 0.99)),
        "transactions": included.seen.len(),
        "blocks": included.blocks,
    })
}
