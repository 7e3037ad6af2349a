//! Ethereum's own compatibility suite (tests/data/RPC_COMPAT.md): its chain is imported, block by block and root by root, and
//! every file of the sample is asked of a real server over it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use alloy_rlp::Decodable;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use trellis_chain_execution::{EthereumBlock, Executor, ForkSchedule, ethereum_genesis};
use trellis_chain_finality::ValidatorSet;
use trellis_chain_mempool::{AccountReadError, AccountReader, AccountState, HeadUpdate, Mempool, PoolConfig};
use trellis_chain_storage::Store;
use trellis_primitives::{Address, ManualClock, UnixMs};
use trellis_rpc::{CommitteeView, Namespace, NoMarket, NoNet, RpcConfig, RpcParts, RpcServer};
use trellis_scenarios::compat::{Score, read_folder};

/// The files that are not right, each with its reason. Nothing else may fail, and none of these may be right unnoticed.
const EXCEPTIONS: [(&str, &str); 0] = [];

const SAMPLE: &[u8] = include_bytes!("../../../tests/data/rpc-compat-sample.tar.gz");

/// Nobody votes on an imported chain.
struct NoCommittee;

impl CommitteeView for NoCommittee {
    fn committee(&self, _height: u64) -> Option<ValidatorSet> {
        None
    }
}

/// The pool looks at the newest state.
struct HeadAccounts(Store);

impl AccountReader for HeadAccounts {
    fn account(&self, address: Address) -> Result<AccountState, AccountReadError> {
        let account = self.0.head().account(address).unwrap_or_default();
        Ok(AccountState { nonce: account.nonce, balance: account.balance })
    }
}

fn unpacked() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(SAMPLE)).unpack(folder.path()).unwrap();
    folder
}

fn imported(folder: &Path) -> (Store, Executor) {
    let text = std::fs::read_to_string(folder.join("genesis.json")).unwrap();
    let genesis: alloy_genesis::Genesis = serde_json::from_str(&text).unwrap();
    let store = Store::in_memory(&ethereum_genesis(&genesis).unwrap()).unwrap();
    let executor = Executor::ethereum(ForkSchedule::new(genesis.config));
    let chain = std::fs::read(folder.join("chain.rlp")).unwrap();
    let mut rest = chain.as_slice();
    while !rest.is_empty() {
        let block = EthereumBlock::decode(&mut rest).unwrap();
        store.commit(executor.execute_ethereum_block(&store.head(), block).unwrap(), None).unwrap();
    }
    assert_eq!(store.height(), 54);
    let fcu: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("headfcu.json")).unwrap()).unwrap();
    let head = store.hash_at(54).unwrap().unwrap().to_string();
    assert_eq!(fcu["params"][0]["headBlockHash"].as_str(), Some(head.as_str()));
    (store, executor)
}

async fn serve(store: &Store, executor: &Executor) -> RpcServer {
    let clock = Arc::new(ManualClock::new(UnixMs(1_800_000_000_000)));
    let mut pool = PoolConfig::new(executor.config().chain_id);
    (pool.min_fee_wei, pool.unprotected_allowed) = (0, true);
    let mempool = Mempool::new(pool, Arc::new(HeadAccounts(store.clone())), clock.clone());
    let base_fee = executor.next_base_fee(store.head().header()).unwrap();
    mempool.on_block(&HeadUpdate { base_fee, gas_limit: 200_000_000, included: &[], changed: &[] });
    let parts = RpcParts {
        store: store.clone(),
        mempool,
        executor: executor.clone(),
        committee: Arc::new(NoCommittee),
        net: Arc::new(NoNet),
        market: Arc::new(NoMarket),
        clock,
        client_version: "Trellis/test".to_owned(),
    };
    let listen = "127.0.0.1:0".parse().unwrap();
    let namespaces: BTreeSet<Namespace> = Namespace::ALL.into();
    trellis_rpc::start(RpcConfig { listen, namespaces, ..RpcConfig::default() }, parts).await.unwrap()
}

// row: CHN-41
#[test]
fn every_file_of_the_compatibility_sample_is_right_but_the_known_exceptions() {
    let folder = unpacked();
    let (store, executor) = imported(folder.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = runtime.block_on(serve(&store, &executor));
    let url = format!("http://{}", server.address());
    let client = reqwest::Client::new();
    let mut ask = |request: &Value| -> Result<Value, String> {
        runtime.block_on(async {
            let response = client.post(&url).json(request).send().await.map_err(|error| error.to_string())?;
            response.json().await.map_err(|error| error.to_string())
        })
    };
    let score = Score::of(&read_folder(folder.path()).unwrap(), &mut ask);
    eprintln!("{}", score.table());
    let failed: BTreeSet<&str> = score.failures.keys().map(String::as_str).collect();
    let expected: BTreeSet<&str> = EXCEPTIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(failed, expected);
    assert_eq!(score.total().1, 116);
}
