//! `trellis bench chain --validators N`: a chain of real validator processes on this machine (CHN-51, CHN-55).
//!
//! First a burst shows what all of them together can do, then a sustained load at a part of that shows how soon a client
//! sees a transfer final. What each validator used is measured apart from the generator, so that what a validator with
//! cores of its own could do can be reckoned; that figure is an extrapolation and is called one.

mod report;

use super::flow::{self, Outcome};
use super::genesis::{State, state};
use super::load::{BATCH_MAX, Kind, Load, Order, Server};
use super::node::Node;
use super::usage::Usage;
use super::{payments, rounded};
use crate::cli::ChainBenchArgs;
use crate::failure::Failure;
use crate::keys::dev_account;
use crate::supervisor::text;
use crate::table::print_json;
use eyre::Result;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trellis_chain_spec::{ChainSpec, LOCAL_FIRST_ACCOUNT};

/// Accounts where none are asked for: each process reads them all when it starts.
const ACCOUNTS: usize = 20_000;
/// Transfers of the burst by one validator; several, which do the same work on the same cores, share them.
const BURST_TRANSACTIONS: usize = 80_000;
/// Transfers of the burst at least: some blocks of many validators.
const BURST_TRANSACTIONS_MIN: usize = 4_000;
/// Transfers of both loads together at most: they are signed beforehand and held in memory.
const TRANSACTIONS_MAX: usize = 4_000_000;
/// The part of the burst's throughput that is sustained where no rate is given.
const SUSTAINED_PART: f64 = 0.7;
/// The sustained load comes in so many requests a second, if there are enough transfers.
const REQUESTS_PER_S: f64 = 50.0;
/// How long the processes are watched before any load.
const IDLE_SECONDS: u64 = 5;
/// How long a process may take until it is ready, in seconds.
const READY_SECONDS_MAX: u64 = 300;

/// Measures and prints.
pub async fn run(args: &ChainBenchArgs, validators: u32) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("trellis-bench-validators-").tempdir()?;
    let accounts = args.accounts.unwrap_or(ACCOUNTS);
    eprintln!("making {accounts} accounts");
    let state = Arc::new(tokio::task::spawn_blocking(move || state(local(validators)?, accounts)).await??);
    let mut nodes = Vec::new();
    let began = Instant::now();
    let outcome = async {
        let servers = start(folder.path(), &state, &mut nodes).await?;
        let started = began.elapsed();
        if let Some(first) = servers.first() {
            payments::pay(first, &state).await?;
        }
        let mut result = measure(args, &state, &servers).await?;
        result["start_seconds"] = rounded(started.as_secs_f64());
        Ok::<_, eyre::Report>(result)
    }
    .await;
    let tail = nodes.first().map(Node::tail).unwrap_or_default();
    futures::future::join_all(nodes.into_iter().map(Node::end)).await;
    let result = outcome.map_err(|error| error.wrap_err(format!("the log of the first validator ends:\n{tail}")))?;
    if args.json {
        print_json(&result);
    } else {
        report::print(&result);
    }
    Ok(())
}

/// The chain of `trellis localnet`.
fn local(validators: u32) -> Result<ChainSpec> {
    let accounts = (0..validators).map(|number| Ok(dev_account(LOCAL_FIRST_ACCOUNT + number)?.address()));
    Ok(ChainSpec::local(&accounts.collect::<Result<Vec<_>>>()?))
}

/// Starts the validators one after the other, each with those before it as its peers.
async fn start(folder: &Path, state: &State, nodes: &mut Vec<Node>) -> Result<Arc<[Server]>> {
    let spec = folder.join("chain_spec.toml");
    std::fs::write(&spec, state.spec.to_toml()?)?;
    let count = state.spec.genesis.validators.len();
    eprintln!("starting {count} validator{}", if count == 1 { "" } else { "s" });
    let (mut servers, mut peers) = (Vec::new(), Vec::new());
    for number in 0..count {
        let data = folder.join(format!("validator-{number}"));
        std::fs::create_dir_all(&data)?;
        let account = (LOCAL_FIRST_ACCOUNT as usize + number).to_string();
        let mut arguments: Vec<OsString> = vec!["validator".into(), "--datadir".into(), data.clone().into()];
        arguments.extend(["--chain".into(), spec.clone().into()]);
        for (flag, value) in [
            ("--listen", "/ip4/127.0.0.1/udp/0/quic-v1"),
            ("--metrics-listen", "off"),
            ("--rpc-listen", "127.0.0.1:0"),
            ("--dev-account", &account),
        ] {
            arguments.extend([flag.into(), value.into()]);
        }
        if !peers.is_empty() {
            arguments.extend(["--peers".into(), peers.join(",").into()]);
        }
        let mut node = Node::start_own(&data, &arguments)?;
        let status = node.until_ready(&data, READY_SECONDS_MAX).await;
        let pid = node.pid();
        nodes.push(node);
        let status = status?;
        servers.push(Server::new(&text(&status, &["endpoints", "rpc"]), pid)?);
        peers.push(text(&status, &["endpoints", "p2p"]));
    }
    Ok(servers.into())
}

async fn measure(args: &ChainBenchArgs, state: &Arc<State>, servers: &Arc<[Server]>) -> Result<Value> {
    let idle_cores = idle(servers).await?;
    let shared = (BURST_TRANSACTIONS / servers.len()).max(BURST_TRANSACTIONS_MIN);
    let count = args.transactions.unwrap_or(shared).max(1);
    within_bounds(count)?;
    let load = sign(state, Order::of(Kind::Native, count, 0)).await?;
    eprintln!("sending {count} transfers at once");
    let burst = flow::run(servers, &load, None).await?;
    drop(load);
    let rate = args.rate.map_or_else(|| (burst.tps() * SUSTAINED_PART).max(1.0), f64::from);
    let sustained = sustained(state, servers, (rate, args.seconds), count).await?;
    all_final(servers, sustained.last_block).await?;
    Ok(json!({
        "validators": servers.len(),
        "block_time_ms": state.spec.consensus.block_time_ms,
        "accounts": state.accounts.len(),
        "senders": state.senders.len(),
        "machine_cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "idle_cores_per_validator": rounded(idle_cores),
        "burst": report::figures(&burst, None),
        "sustained": report::figures(&sustained, Some(rate)),
        "extrapolation": report::extrapolation(&sustained, idle_cores),
    }))
}

fn within_bounds(transactions: usize) -> Result<()> {
    if transactions <= TRANSACTIONS_MAX {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "that is a load of {transactions} transfers, which are signed beforehand; at most {TRANSACTIONS_MAX} can be measured"
    ))
    .hint("choose a lower rate, fewer seconds or fewer transactions")
    .into())
}

/// What the client counted as final is so by the chain's own word.
async fn all_final(servers: &[Server], last_block: u64) -> Result<()> {
    for server in servers {
        let finalized = server.finalized().await?;
        if finalized < last_block {
            return Err(Failure::new(format!("block {finalized} is final, expected {last_block} at least")).into());
        }
    }
    Ok(())
}

/// A load that is handed over at a steady pace.
async fn sustained(
    state: &Arc<State>,
    servers: &Arc<[Server]>,
    (rate, seconds): (f64, u64),
    sent_before: usize,
) -> Result<Outcome> {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
    let (count, batch_max) = ((rate * seconds as f64).ceil() as usize, (rate / REQUESTS_PER_S) as usize);
    within_bounds(count)?;
    eprintln!("signing {count} transfers");
    let order = Order { kind: Kind::Native, count, batch_max: batch_max.clamp(1, BATCH_MAX), sent_before };
    let load = sign(state, order).await?;
    eprintln!("sending {rate:.0} transfers a second for {seconds} s");
    flow::run(servers, &load, Some(rate)).await
}

async fn sign(state: &Arc<State>, order: Order) -> Result<Arc<Load>> {
    let state = Arc::clone(state);
    Ok(Arc::new(tokio::task::spawn_blocking(move || Load::sign(&state, order)).await??))
}

/// Cores that a validator uses on average where there is nothing to do but to agree on empty blocks.
async fn idle(servers: &[Server]) -> Result<f64> {
    eprintln!("watching the validators idle for {IDLE_SECONDS} s");
    let before: Vec<Usage> = servers.iter().map(Server::usage).collect();
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(IDLE_SECONDS)).await;
    let used: f64 = servers.iter().zip(&before).map(|(one, before)| one.usage().since(before).cpu_seconds).sum();
    #[allow(clippy::cast_precision_loss, reason = "at most a hundred")]
    let count = servers.len().max(1) as f64;
    Ok(used / began.elapsed().as_secs_f64() / count)
}
