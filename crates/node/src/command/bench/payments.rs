//! Accounts beyond those of block zero: paid by a contract, some hundreds in a transaction, before anything is measured.

use super::genesis::{PAYER, State, balance};
use super::load::Server;
use crate::failure::Failure;
use alloy_consensus::transaction::RlpEcdsaEncodableTx;
use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{B256, Bytes, Signature, TxKind, U256, keccak256};
use eyre::Result;
use rayon::prelude::*;
use serde_json::json;
use std::time::{Duration, Instant};
use trellis_crypto::AccountKey;

/// Accounts paid by one transaction: a new account costs some 34,400 gas, a transaction has 16,777,216 at most.
pub const ACCOUNTS_PER_PAYMENT: usize = 450;
/// Gas of a payment at most.
const GAS: u64 = 16_777_216;
/// The most that a payment offers for gas, in wei: as blocks fill up the base fee rises above it, and the payments wait for
/// it to fall again. So it is low when the measurement begins.
const FEE_WEI_MAX: u128 = 2_000_000_000;
/// Payments in one request.
const BATCH: usize = 100;
/// Between two looks whether all are paid.
const POLL_MS: u64 = 250;
/// How long no further account may be paid before the run fails.
const STALL_SECONDS_MAX: u64 = 60;

/// The account that sends a payment; each sends one.
pub fn key(payment: usize) -> Result<AccountKey> {
    Ok(AccountKey::from_bytes(&keccak256(format!("trellis bench payer {payment}")).0)?)
}

/// Pays the accounts that block zero does not have, and waits until the last has its coins.
///
/// # Errors
/// A payment that is refused or fails.
pub async fn pay(server: &Server, state: &State) -> Result<()> {
    let first = state.accounts.len() - state.unpaid;
    let starts: Vec<usize> = (first..state.accounts.len()).step_by(ACCOUNTS_PER_PAYMENT).collect();
    if starts.is_empty() {
        return Ok(());
    }
    eprintln!("paying {} more accounts in {} transactions", state.unpaid, starts.len());
    let began = Instant::now();
    let signed = starts.par_iter().enumerate().map(|(payment, start)| sign(state, payment, *start));
    let signed: Vec<(B256, Bytes)> = signed.collect::<Result<_>>()?;
    for batch in signed.chunks(BATCH) {
        let calls: Vec<_> = (0u64..)
            .zip(batch)
            .map(|(id, (_, raw))| json!({"jsonrpc": "2.0", "id": id, "method": "eth_sendRawTransaction", "params": [raw]}))
            .collect();
        server.send(serde_json::to_vec(&calls)?.into()).await?;
    }
    for (hash, _) in &signed {
        until_paid(server, hash).await?;
    }
    let last = state.accounts.last().copied().unwrap_or_default();
    let paid: U256 =
        server.call("eth_getBalance", json!([last, "latest"])).await?.as_str().unwrap_or_default().parse()?;
    if paid != balance().to_u256() {
        return Err(
            Failure::new(format!("the last account has {paid} wei, expected {} wei", balance().to_u256())).into()
        );
    }
    eprintln!("paid after {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Waits for one payment's receipt.
async fn until_paid(server: &Server, hash: &B256) -> Result<()> {
    let began = Instant::now();
    loop {
        let receipt = server.call("eth_getTransactionReceipt", json!([hash])).await?;
        match receipt["status"].as_str() {
            Some("0x1") => return Ok(()),
            Some(_) => return Err(Failure::new(format!("the payment {hash} failed: {receipt}")).into()),
            None if began.elapsed() > Duration::from_secs(STALL_SECONDS_MAX) => {
                return Err(Failure::new(format!("the payment {hash} got into no block")).into());
            }
            None => tokio::time::sleep(Duration::from_millis(POLL_MS)).await,
        }
    }
}

fn sign(state: &State, payment: usize, start: usize) -> Result<(B256, Bytes)> {
    let end = (start + ACCOUNTS_PER_PAYMENT).min(state.accounts.len());
    let words = [U256::from(start), U256::from(end), balance().to_u256()];
    let tx = TxEip1559 {
        chain_id: state.spec.genesis.chain_id,
        gas_limit: GAS,
        max_fee_per_gas: FEE_WEI_MAX,
        max_priority_fee_per_gas: 1,
        to: TxKind::Call(PAYER),
        input: words.map(|word| word.to_be_bytes::<32>()).concat().into(),
        ..TxEip1559::default()
    };
    let signature = Signature::from_raw_array(&key(payment)?.sign_hash(tx.signature_hash()))?;
    let mut raw = Vec::with_capacity(256);
    tx.eip2718_encode(&signature, &mut raw);
    Ok((tx.into_signed(signature).hash().to_owned(), raw.into()))
}
