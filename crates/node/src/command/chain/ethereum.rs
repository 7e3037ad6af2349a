//! `trellis chain import` and `trellis chain serve`: a chain of Ethereum's in a folder of its own, for its compatibility suite
//! (CHN-41). Nothing agrees on further blocks there; it can only be asked.

use crate::cli::{ImportArgs, ServeArgs};
use crate::command::place;
use crate::failure::Failure;
use crate::role::port_failure;
use crate::supervised::until_told_to_end;
use alloy_genesis::Genesis;
use alloy_primitives::B256;
use eyre::Result;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use trellis_chain_execution::{Executor, ForkSchedule, ethereum_genesis};
use trellis_chain_finality::ValidatorSet;
use trellis_chain_mempool::{HeadUpdate, Mempool, PoolConfig};
use trellis_chain_producer::{HeadAccounts, import_ethereum};
use trellis_chain_storage::{Store, StoreConfig};
use trellis_primitives::SystemClock;
use trellis_rpc::{CommitteeView, Namespace, NoMarket, NoNet, RpcConfig, RpcParts, RpcStartError};

/// The chain's `genesis.json`, beside its blocks.
const GENESIS_FILE: &str = "genesis.json";
/// Which blocks are head, safe and finalized, beside them.
const FORK_CHOICE_FILE: &str = "forkchoice.json";
/// Heights between two lines of progress.
const PROGRESS_EVERY: u64 = 1_000;

/// What the engine API calls a fork choice.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ForkChoice {
    head_block_hash: B256,
    safe_block_hash: B256,
    finalized_block_hash: B256,
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::new(format!("cannot read {}: {error}", path.display())).hint("name a file that is there").into()
    })
}

fn parse_genesis(text: &str, path: &Path) -> Result<Genesis> {
    serde_json::from_str(text).map_err(|error| {
        let hint = "Ethereum's clients take the same file: geth init, reth init";
        Failure::usage(format!("{} is no genesis.json: {error}", path.display())).hint(hint).into()
    })
}

/// The first parameter of an `engine_forkchoiceUpdated` request, or that object itself.
fn parse_fork_choice(text: &str, path: &Path) -> Result<ForkChoice> {
    let wrong = |error: serde_json::Error| Failure::usage(format!("{} is no fork choice: {error}", path.display()));
    let value: serde_json::Value = serde_json::from_str(text).map_err(wrong)?;
    let inner = value.pointer("/params/0").cloned().unwrap_or(value);
    Ok(serde_json::from_value(inner).map_err(wrong)?)
}

fn open(folder: &Path, genesis: &Genesis) -> Result<(Store, Executor)> {
    let zero = ethereum_genesis(genesis)?;
    let store = Store::open(&folder.join("chain"), &zero, StoreConfig::default()).map_err(|error| {
        let hint = error.hint();
        Failure::new(error.to_string()).hint(hint)
    })?;
    Ok((store, Executor::ethereum(ForkSchedule::new(genesis.config.clone()))))
}

/// Executes and keeps the blocks of a file; prints the head.
pub fn import(args: &ImportArgs, datadir: Option<&Path>) -> Result<()> {
    let folder = place(datadir)?;
    let text = read(&args.genesis)?;
    let genesis = parse_genesis(&text, &args.genesis)?;
    let choice = args.head.as_deref().map(|path| parse_fork_choice(&read(path)?, path)).transpose()?;
    let (store, executor) = open(&folder, &genesis)?;
    std::fs::write(folder.join(GENESIS_FILE), &text)?;
    let file = File::open(&args.file)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", args.file.display())))?;
    let mut told = |height: u64| {
        if height.is_multiple_of(PROGRESS_EVERY) {
            eprintln!("block {height}");
        }
    };
    let last = choice.map(|choice| choice.head_block_hash);
    let done = import_ethereum(&store, &executor, &mut BufReader::new(file), last, &mut told).map_err(|error| {
        Failure::new(error.to_string())
            .hint("blocks before it are kept; import a file of the chain that --genesis begins")
    })?;
    let head = store.head();
    if let Some(choice) = choice {
        if choice.head_block_hash != head.block_hash() {
            let (expected, found) = (choice.head_block_hash, head.block_hash());
            return Err(Failure::new(format!("the file ends at {found}, not at {expected}")).into());
        }
        std::fs::write(folder.join(FORK_CHOICE_FILE), serde_json::to_string(&choice)?)?;
    }
    eprintln!("{} blocks imported, {} were there", done.blocks, done.known);
    println!("{} {}", head.height(), head.block_hash());
    Ok(())
}

/// Nobody votes on an imported chain.
struct NoCommittee;

impl CommitteeView for NoCommittee {
    fn committee(&self, _height: u64) -> Option<ValidatorSet> {
        None
    }
}

/// Serves an imported chain until told to end.
pub async fn serve(args: &ServeArgs, datadir: Option<&Path>) -> Result<()> {
    let folder = place(datadir)?;
    let path = folder.join(GENESIS_FILE);
    if !path.is_file() {
        return Err(Failure::new(format!("no imported chain is in {}", folder.display()))
            .hint("import one: trellis chain import CHAIN.RLP --genesis GENESIS.JSON --datadir DIR")
            .into());
    }
    let (store, executor) = open(&folder, &parse_genesis(&read(&path)?, &path)?)?;
    let choice_path = folder.join(FORK_CHOICE_FILE);
    let choice = match choice_path.is_file() {
        true => Some(parse_fork_choice(&read(&choice_path)?, &choice_path)?),
        false => None,
    };
    let height = |hash: Option<B256>| -> Result<Option<u64>> {
        hash.map(|hash| store.height_of(hash)).transpose().map(Option::flatten).map_err(Into::into)
    };
    let config = RpcConfig {
        listen: args.listen,
        namespaces: Namespace::ALL.into(),
        safe_height: height(choice.map(|choice| choice.safe_block_hash))?,
        finalized_height: height(choice.map(|choice| choice.finalized_block_hash))?,
        ..RpcConfig::default()
    };
    let server = trellis_rpc::start(config, parts(&store, executor)).await.map_err(|error| match error {
        RpcStartError::Listen { listen, source } => eyre::Report::new(port_failure("JSON-RPC", listen, &source)),
        other => eyre::Report::new(other),
    })?;
    println!("http://{}", server.address());
    let cause = until_told_to_end().await;
    tracing::info!(cause, "the server ends");
    server.stop().await;
    Ok(())
}

fn parts(store: &Store, executor: Executor) -> RpcParts {
    let clock = Arc::new(SystemClock);
    let mut pool = PoolConfig::new(executor.config().chain_id);
    (pool.min_fee_wei, pool.unprotected_allowed) = (0, true);
    let mempool = Mempool::new(pool, Arc::new(HeadAccounts(store.clone())), clock.clone());
    let head = store.head();
    let base_fee = executor.next_base_fee(head.header()).unwrap_or_default();
    mempool.on_block(&HeadUpdate { base_fee, gas_limit: head.header().gas_limit, included: &[], changed: &[] });
    RpcParts {
        store: store.clone(),
        mempool,
        executor,
        committee: Arc::new(NoCommittee),
        net: Arc::new(NoNet),
        market: Arc::new(NoMarket),
        clock,
        client_version: format!("Trellis/v{}/import", env!("CARGO_PKG_VERSION")),
    }
}
