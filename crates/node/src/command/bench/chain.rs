//! `trellis bench chain`: transfers through JSON-RPC of a real validator, the same load on anvil, and the stages of a
//! block in process.
//!
//! The generator runs on the same machine and takes its share of the cores from every server alike.

use super::flow::{self, Outcome};
use super::genesis::{HOLDING_TRL, State, for_anvil, state};
use super::load::{Kind, Load, Order, Server};
use super::node::Node;
use super::{payments, rounded, shown, validators};
use crate::cli::ChainBenchArgs;
use crate::failure::Failure;
use crate::table::{print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trellis_chain_producer::bench::{BenchConfig, Transfers, run as measure_in_process};
use trellis_chain_spec::ChainSpec;
use trellis_primitives::Wei;

/// Transfers of each kind where none are asked for.
const TRANSACTIONS: usize = 20_000;
/// Accounts where none are asked for.
const ACCOUNTS: usize = 100_000;
/// How long a server may take to load the accounts, in seconds.
const READY_SECONDS_MAX: u64 = 300;
/// Transfers of one block in process.
const BLOCK_TXS: usize = 5_000;
/// Blocks in process at most.
const BLOCKS_MAX: usize = 8;

/// Transfers of the coin and of WTRL.
type Loads = (Arc<Load>, Arc<Load>);

/// Measures and prints.
pub async fn run(args: &ChainBenchArgs) -> Result<()> {
    if let Some(count) = args.validators {
        return validators::run(args, count).await;
    }
    let transactions = args.transactions.unwrap_or(TRANSACTIONS).max(1);
    let accounts = args.accounts.unwrap_or(ACCOUNTS);
    let folder = tempfile::Builder::new().prefix("trellis-bench-chain-").tempdir()?;
    eprintln!("making {accounts} accounts and signing 2 x {transactions} transfers");
    let (state, native, token) = tokio::task::spawn_blocking(move || {
        let state = state(ChainSpec::dev(), accounts)?;
        let native = Load::sign(&state, Order::of(Kind::Native, transactions, 0))?;
        let token = Load::sign(&state, Order::of(Kind::Token, transactions, transactions))?;
        Ok::<_, eyre::Report>((state, native, token))
    })
    .await??;
    let loads = (Arc::new(native), Arc::new(token));
    let rpc = own(folder.path(), &state, &loads).await?;
    let anvil = match &args.anvil {
        Some(program) => other(program, folder.path(), &state, &loads).await?,
        None => Value::Null,
    };
    drop(loads);
    eprintln!("measuring the stages of a block in process");
    let in_process = tokio::task::spawn_blocking(move || in_process(transactions, accounts)).await??;
    let result = json!({
        "rpc": rpc,
        "in_process": in_process,
        "anvil": anvil,
        "accounts": accounts,
        "senders": state.senders.len(),
        "transactions": transactions,
    });
    if args.json {
        print_json(&result);
    } else {
        print_table(&result);
    }
    Ok(())
}

/// A validator of this binary with a fresh data folder.
async fn own(folder: &Path, state: &State, loads: &Loads) -> Result<Value> {
    let (spec, data) = (folder.join("chain_spec.toml"), folder.join("validator"));
    std::fs::write(&spec, state.spec.to_toml()?)?;
    std::fs::create_dir_all(&data)?;
    let mut arguments: Vec<OsString> = vec!["validator".into(), "--datadir".into(), data.clone().into()];
    arguments.extend(["--chain".into(), spec.into()]);
    for (flag, value) in [
        ("--listen", "/ip4/127.0.0.1/udp/0/quic-v1"),
        ("--metrics-listen", "127.0.0.1:0"),
        ("--rpc-listen", "127.0.0.1:0"),
        ("--dev-account", "10"),
    ] {
        arguments.extend([flag.into(), value.into()]);
    }
    eprintln!("starting a validator");
    let mut node = Node::start_own(folder, &arguments)?;
    let outcome = async {
        let status = node.until_ready(&data, READY_SECONDS_MAX).await?;
        let address = status["endpoints"]["rpc"].as_str().unwrap_or_default().to_owned();
        let server = Server::new(&address, node.pid())?;
        payments::pay(&server, state).await?;
        both(server, state, loads).await
    }
    .await;
    let explained = outcome.map_err(|error| error.wrap_err(node.tail()));
    node.end().await;
    explained
}

/// Anvil with the same accounts.
async fn other(program: &Path, folder: &Path, state: &State, loads: &Loads) -> Result<Value> {
    let genesis = folder.join("genesis.json");
    std::fs::write(&genesis, serde_json::to_vec(&for_anvil(state))?)?;
    // Anvil does not say in a file which port it took; a port that was free a moment ago is near enough.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut arguments: Vec<OsString> = vec!["--init".into(), genesis.into(), "--port".into(), port.to_string().into()];
    for (flag, value) in
        [("--block-time", "1"), ("--gas-limit", "2000000000"), ("--order", "fifo"), ("--accounts", "1")]
    {
        arguments.extend([flag.into(), value.into()]);
    }
    eprintln!("starting {}", program.display());
    let mut node = Node::start(program, folder, &arguments)?;
    let outcome = async {
        let server = Server::new(&format!("127.0.0.1:{port}"), node.pid())?;
        let deadline = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        while server.call("eth_chainId", json!([])).await.is_err() {
            node.still_runs(deadline, READY_SECONDS_MAX)?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        both(server, state, loads).await
    }
    .await;
    node.kill().await;
    outcome
}

async fn both(server: Server, state: &State, (native, token): &Loads) -> Result<Value> {
    let holder = state.accounts.first().copied().unwrap_or_default();
    let held = server.balance_of(state.token, holder).await?;
    if held != Wei::from_trl(HOLDING_TRL).to_u256() {
        return Err(
            Failure::new(format!("the first sender holds {held} wei of WTRL, expected {HOLDING_TRL} TRL")).into()
        );
    }
    let server: Arc<[Server]> = [server].into();
    eprintln!("sending native transfers");
    let native = figures(&flow::run(&server, native, None).await?);
    eprintln!("sending WTRL transfers");
    let token = figures(&flow::run(&server, token, None).await?);
    Ok(json!({"native": native, "erc20": token}))
}

fn figures(outcome: &Outcome) -> Value {
    let server = outcome.servers.first().cloned().unwrap_or_default();
    json!({
        "tps": rounded(outcome.tps()),
        "cpu_us_per_tx": rounded(outcome.us_per_tx(server.cpu_seconds)),
        "inclusion_ms_p50": rounded(outcome.wait_ms(0.5)),
        "inclusion_ms_p99": rounded(outcome.wait_ms(0.99)),
        "transactions": outcome.transactions,
        "blocks": outcome.blocks,
        "generator_cpu_us_per_tx": rounded(outcome.us_per_tx(outcome.generator.cpu_seconds)),
    })
}

fn in_process(transactions: usize, accounts: usize) -> Result<Value> {
    let count = |number: usize| u32::try_from(number).map_err(|_| Failure::usage("that is more than this can measure"));
    let mut result = json!({});
    for (name, transfers) in [("native", Transfers::Native), ("erc20", Transfers::Erc20)] {
        let config = BenchConfig {
            transfers,
            accounts: count(accounts)?,
            senders: count((accounts / 2).clamp(1, 10_000))?,
            blocks: count((transactions / BLOCK_TXS).clamp(1, BLOCKS_MAX))?,
            txs_per_block: count(transactions.min(BLOCK_TXS))?,
            folder: None,
        };
        let report = measure_in_process(&config)?;
        let stages: serde_json::Map<String, Value> = report
            .stages
            .iter()
            .map(|stage| {
                let figures = json!({"wall_us_per_tx": rounded(stage.wall_us_per_tx), "cpu_us_per_tx": rounded(stage.cpu_us_per_tx)});
                (stage.name.to_owned(), figures)
            })
            .collect();
        result[name] = json!({
            "tps": rounded(report.transactions_per_s),
            "cpu_us_per_tx": rounded(report.cpu_us_per_tx),
            "wall_us_per_tx": rounded(report.wall_us_per_tx),
            "transactions": report.transactions,
            "stages": stages,
        });
    }
    Ok(result)
}

fn print_table(result: &Value) {
    let mut rows = Vec::new();
    for (place, name) in
        [("rpc", "trellis, JSON-RPC"), ("anvil", "anvil, JSON-RPC"), ("in_process", "trellis, in process")]
    {
        for kind in ["native", "erc20"] {
            let Some(figures) = result[place].get(kind) else { continue };
            let mut cells = vec![name.to_owned(), kind.to_owned()];
            cells.extend(
                ["tps", "cpu_us_per_tx", "inclusion_ms_p50", "inclusion_ms_p99"].map(|key| shown(&figures[key])),
            );
            rows.push(cells);
        }
    }
    print(&["PATH", "TRANSFERS", "TX/s", "CPU us/tx", "INCLUSION p50 ms", "p99 ms"], &rows);
    println!();
    let mut stages = Vec::new();
    for kind in ["native", "erc20"] {
        let Some(of_kind) = result["in_process"][kind]["stages"].as_object() else { continue };
        for (stage, figures) in of_kind {
            let (wall, cpu) = (shown(&figures["wall_us_per_tx"]), shown(&figures["cpu_us_per_tx"]));
            stages.push(vec![kind.to_owned(), stage.clone(), wall, cpu]);
        }
    }
    print(&["TRANSFERS", "STAGE", "WALL us/tx", "CPU us/tx"], &stages);
}
