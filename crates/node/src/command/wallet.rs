//! `trellis wallet …` (MKT-32): accounts, and where their money is.

mod pq;

use crate::bridge::connect;
use crate::cli::{ListArgs, WalletCommand};
use crate::command::channel::channels;
use crate::command::{chain_of, node_of, nodes};
use crate::control::ask;
use crate::failure::Failure;
use crate::table::{cell, print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use trellis_market_chain::{ChainClient, SettlementContract, WtrlContract};
use trellis_primitives::{Address, SystemClock, UnixMs, Wei};

/// Runs a wallet command; both ask running nodes and the chain.
pub async fn run(command: WalletCommand, datadir: Option<&Path>) -> Result<()> {
    match command {
        WalletCommand::List(list) => accounts(list, datadir).await,
        WalletCommand::Where(list) => locks(list, datadir).await,
        WalletCommand::Pq(command) => pq::run(*command, datadir).await,
    }
}

/// An amount of wei in text as TRL.
pub fn trl(text: &str) -> String {
    text.parse::<Wei>().map_or_else(|_| text.to_owned(), |wei| wei.to_string())
}

/// The endpoint of the validator below the folder, or the default one.
pub async fn chain_endpoint(datadir: Option<&Path>) -> Result<String> {
    if let Ok(folder) = node_of(datadir, "validator") {
        let status = ask(&folder, "admin_status", Value::Null).await?;
        if let Some(rpc) = status["endpoints"]["rpc"].as_str() {
            return Ok(format!("http://{rpc}"));
        }
    }
    Ok("http://127.0.0.1:8545".into())
}

async fn statuses(datadir: Option<&Path>) -> Result<Vec<(String, Address)>> {
    let mut found = Vec::new();
    for (role, folder) in nodes(datadir)? {
        let status = ask(&folder, "admin_status", Value::Null).await?;
        let account = cell(&status, "account");
        let account = account.parse().map_err(|_| Failure::new(format!("the {role} did not say its account")))?;
        found.push((role, account));
    }
    Ok(found)
}

async fn accounts(list: ListArgs, datadir: Option<&Path>) -> Result<()> {
    let chain = chain_of(datadir)?;
    let client = connect(&chain, &[chain_endpoint(datadir).await?], Arc::new(SystemClock)).await?;
    let token = WtrlContract::new(chain.contracts.wtrl);
    let mut shown = Vec::new();
    for (role, account) in statuses(datadir).await? {
        let coins = client.balance(account).await?;
        let tokens = token.balance_of(client.as_ref(), account).await?;
        shown.push(json!({"role": role, "account": account, "balance_wei": coins, "wtrl_wei": tokens}));
    }
    if list.wants_json() {
        print_json(&json!({"accounts": shown}));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|one| {
            vec![cell(one, "role"), cell(one, "account"), trl(&cell(one, "balance_wei")), trl(&cell(one, "wtrl_wei"))]
        })
        .collect();
    print(&["ROLE", "ACCOUNT", "BALANCE", "WTRL"], &rows);
    Ok(())
}

async fn locks(list: ListArgs, datadir: Option<&Path>) -> Result<()> {
    let chain = chain_of(datadir)?;
    let client = connect(&chain, &[chain_endpoint(datadir).await?], Arc::new(SystemClock)).await?;
    let mut shown = Vec::new();
    for channel in channels(datadir).await? {
        if cell(&channel, "side") != "gateway" {
            continue;
        }
        let amount = |key: &str| cell(&channel, key).parse::<Wei>().unwrap_or_default();
        let expires = channel["expires_s"].as_u64().unwrap_or_default();
        shown.push(json!({
            "where": "payment channel",
            "id": channel["channel"],
            "account": "gateway",
            "locked_wei": amount("deposit_wei").saturating_sub(amount("paid_wei")),
            "reason": "pays a provider's jobs; `trellis channel close` begins to free it",
            "free_at": UnixMs(expires.saturating_mul(1_000)).to_rfc3339(),
        }));
    }
    let settlement = SettlementContract::new(chain.contracts.settlement);
    for (role, account) in statuses(datadir).await? {
        let view = settlement.aggregator(client.as_ref(), account).await?;
        if !view.bond.is_zero() {
            let free = (view.exit_at_s > 0).then(|| UnixMs(view.exit_at_s.saturating_mul(1_000)).to_rfc3339());
            shown.push(json!({
                "where": "aggregator's bond",
                "id": account,
                "account": role,
                "locked_wei": view.bond,
                "reason": "stands for the batches it submits",
                "free_at": free,
            }));
        }
    }
    if list.wants_json() {
        print_json(&json!({"locks": shown}));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|lock| {
            let id: String = cell(lock, "id").chars().take(18).collect();
            vec![
                cell(lock, "where"),
                id,
                cell(lock, "account"),
                trl(&cell(lock, "locked_wei")),
                cell(lock, "free_at"),
                cell(lock, "reason"),
            ]
        })
        .collect();
    print(&["WHERE", "ID", "ACCOUNT", "LOCKED", "FREE AT", "REASON"], &rows);
    Ok(())
}
