//! A node that began with a snapshot has no blocks before it, and says so.

use crate::harness::{Chain, EMITTER, dynamic, key, raw};
use alloy_primitives::TxKind;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use trellis_chain_storage::{Genesis, Importer, StateDiff, Store, StoreConfig};
use trellis_rpc::{Namespace, NoMarket, NoNet, RpcConfig, RpcParts, RpcServer};

/// The store of a chain as a snapshot of its head gives it, with blocks from a height on.
fn begun_at(chain: &Chain, first: u64, folder: &Path) -> Store {
    let zero = chain.store.block(0).unwrap().unwrap();
    let genesis = Genesis { block: (*zero.block).clone(), state: StateDiff::default() };
    let folder = folder.join("chain");
    let mut importer = Importer::begin(&folder, &genesis, &StoreConfig::default()).unwrap();
    chain.store.state_parts::<Box<dyn std::error::Error>>(&mut |part| Ok(importer.take(&part)?)).unwrap();
    for height in first..=chain.store.height() {
        importer.block(&chain.store.block(height).unwrap().unwrap()).unwrap();
    }
    importer.finish().unwrap();
    Store::open(&folder, &genesis, StoreConfig::default()).unwrap()
}

async fn serve(chain: &Chain, store: Store) -> RpcServer {
    let parts = RpcParts {
        store,
        mempool: chain.mempool.clone(),
        executor: chain.executor.clone(),
        committee: Arc::new(chain.committee.clone()),
        net: Arc::new(NoNet),
        market: Arc::new(NoMarket),
        clock: chain.clock.clone(),
        client_version: "Trellis/test".to_owned(),
    };
    let config =
        RpcConfig { listen: "127.0.0.1:0".parse().unwrap(), namespaces: Namespace::ALL.into(), ..RpcConfig::default() };
    trellis_rpc::start(config, parts).await.unwrap()
}

async fn ask(server: &RpcServer, method: &str, params: Value) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let response =
        reqwest::Client::new().post(format!("http://{}", server.address())).json(&body).send().await.unwrap();
    response.json().await.unwrap()
}

// row: CHN-23, CHN-40
#[tokio::test(flavor = "multi_thread")]
async fn logs_of_blocks_that_are_not_kept_are_an_error_and_not_an_empty_list() {
    let chain = Chain::start().await;
    for nonce in 0..4 {
        let tx = dynamic(1, nonce, TxKind::Call(EMITTER), 0, &[1; 32]);
        chain.ok("eth_sendRawTransaction", json!([raw(&tx)])).await;
        chain.produce();
    }
    let folder = tempfile::tempdir().unwrap();
    let server = serve(&chain, begun_at(&chain, 3, folder.path())).await;
    let logs = |from: &'static str| ask(&server, "eth_getLogs", json!([{ "fromBlock": from, "address": EMITTER }]));
    assert_eq!(logs("0x3").await["result"].as_array().unwrap().len(), 2);
    for from in ["earliest", "0x1"] {
        let refused = logs(from).await;
        assert_eq!(refused["error"]["code"], 4_444, "{refused}");
        let words = refused["error"]["message"].as_str().unwrap();
        assert!(words.starts_with("pruned history unavailable") && words.contains("from 3 on"), "{words}");
    }
    let kept = ask(&server, "eth_capabilities", json!([])).await;
    for what in ["tx", "logs", "receipts", "blocks"] {
        assert_eq!(kept["result"][what]["oldestBlock"], "0x3", "{what}: {kept}");
    }
    let found = ask(&server, "ots_searchTransactionsAfter", json!([key(1).address(), 0, 10])).await;
    assert_eq!(found["result"]["txs"].as_array().unwrap().len(), 2, "{found}");
}
