//! A load for any Ethereum server: transfers signed beforehand, in batches; and the server.

use super::genesis::State;
use super::usage::Usage;
use crate::failure::Failure;
use alloy_consensus::transaction::RlpEcdsaEncodableTx;
use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use eyre::Result;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

/// Transactions in one request at most.
pub const BATCH_MAX: usize = 200;
/// How long one request may take.
const REQUEST_SECONDS_MAX: u64 = 60;
/// Receipts that are looked at: a transfer that fails would make the figures look better.
const RECEIPTS_CHECKED: usize = 25;
/// Gas limit of a native transfer.
const NATIVE_GAS: u64 = 21_000;
/// Gas limit of a token transfer; what it uses is less.
const TOKEN_GAS: u64 = 100_000;
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

/// Signed transfers of one kind, as the requests that carry them.
pub struct Load {
    /// Hash of each transfer, in the order of the requests.
    pub hashes: Vec<B256>,
    /// JSON-RPC batches.
    pub bodies: Vec<bytes::Bytes>,
    /// Transfers in each of them but the last.
    pub batch: usize,
    /// Requests until the first sender's turn comes again.
    pub round: usize,
}

/// Which transfers are signed.
#[derive(Clone, Copy)]
pub struct Order {
    /// What is transferred.
    pub kind: Kind,
    /// How many.
    pub count: usize,
    /// Transfers in a request at most.
    pub batch_max: usize,
    /// Transfers of earlier loads: each sender's nonces begin where those left them.
    pub sent_before: usize,
}

impl Order {
    /// As large requests as there are.
    pub fn of(kind: Kind, count: usize, sent_before: usize) -> Self {
        Self { kind, count, batch_max: BATCH_MAX, sent_before }
    }
}

impl Load {
    /// Signs transfers on all cores.
    pub fn sign(state: &State, order: Order) -> Result<Self> {
        let signed: Vec<(B256, Bytes)> = (0..order.count)
            .into_par_iter()
            .map(|number| transfer(state, order.kind, number, order.sent_before))
            .collect::<Result<_>>()?;
        // Each request is of the same senders in every round, so that a sender's transfers go to one server.
        let senders = state.senders.len();
        let most = order.batch_max.clamp(1, BATCH_MAX.min(senders));
        let batch = (1..=most).rev().find(|batch| senders.is_multiple_of(*batch)).unwrap_or(1);
        let bodies = signed.par_chunks(batch).map(request).collect();
        let hashes = signed.into_iter().map(|(hash, _)| hash).collect();
        Ok(Self { hashes, bodies, batch, round: senders / batch })
    }
}

fn request(batch: &[(B256, Bytes)]) -> bytes::Bytes {
    let calls: Vec<String> = batch
        .iter()
        .enumerate()
        .map(|(id, (_, raw))| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"eth_sendRawTransaction","params":["{raw}"]}}"#)
        })
        .collect();
    format!("[{}]", calls.join(",")).into()
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

    /// The newest block's number.
    pub async fn height(&self) -> Result<u64> {
        number(&self.call("eth_blockNumber", json!([])).await?)
    }

    /// The newest block that can never be taken back.
    pub async fn finalized(&self) -> Result<u64> {
        number(&self.call("eth_getBlockByNumber", json!(["finalized", false])).await?["number"])
    }

    /// Hashes of the transactions of a block, once there is one at this height.
    pub async fn block(&self, height: u64) -> Result<Option<Vec<B256>>> {
        let block = self.call("eth_getBlockByNumber", json!([format!("{height:#x}"), false])).await?;
        let Some(hashes) = block["transactions"].as_array() else { return Ok(None) };
        Ok(Some(hashes.iter().filter_map(Value::as_str).filter_map(|text| text.parse().ok()).collect()))
    }

    /// Sends a batch of transactions; every one must be taken.
    pub async fn send(&self, body: bytes::Bytes) -> Result<()> {
        let request = self.client.post(&self.url).header("content-type", "application/json").body(body);
        let answer = request.send().await?.text().await?;
        if let Some(place) = answer.find("\"error\"") {
            let text: String = answer[place..].chars().take(300).collect();
            return Err(Failure::new(format!("a transfer was refused: {text}")).into());
        }
        Ok(())
    }

    /// What its process has used so far.
    pub fn usage(&self) -> Usage {
        Usage::of(self.pid)
    }

    /// Looks at some of the receipts: a transfer that fails would make the figures look better.
    pub async fn check_receipts(&self, load: &Load) -> Result<()> {
        let step = (load.hashes.len() / RECEIPTS_CHECKED).max(1);
        for hash in load.hashes.iter().step_by(step) {
            let receipt = self.call("eth_getTransactionReceipt", json!([hash])).await?;
            if receipt["status"] != "0x1" {
                return Err(Failure::new(format!("the transfer {hash} failed: {receipt}")).into());
            }
        }
        Ok(())
    }
}

fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().timeout(Duration::from_secs(REQUEST_SECONDS_MAX)).build()?)
}

fn number(value: &Value) -> Result<u64> {
    Ok(u64::from_str_radix(value.as_str().unwrap_or_default().trim_start_matches("0x"), 16)?)
}
