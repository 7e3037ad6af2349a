//! Installed filters of a server that is slow: what did not reach its asker in time is told the next time.

use crate::harness::{Chain, EMITTER, dynamic, raw};
use alloy_primitives::TxKind;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use trellis_primitives::{Clock, UnixMs};
use trellis_rpc::{NoMarket, NoNet, RpcConfig, RpcParts, RpcServer};

/// A clock that moves on whenever somebody looks at it, as if the work between two looks took so long.
#[derive(Default)]
struct LookedAt {
    now_ms: AtomicU64,
    step_ms: AtomicU64,
}

impl LookedAt {
    fn moves_on_by(&self, step_ms: u64) {
        self.step_ms.store(step_ms, Ordering::SeqCst);
    }
}

impl Clock for LookedAt {
    fn now(&self) -> UnixMs {
        UnixMs(self.now_ms.fetch_add(self.step_ms.load(Ordering::SeqCst), Ordering::SeqCst))
    }
}

/// The same chain behind a second server with that clock.
async fn slow(chain: &Chain) -> (RpcServer, Arc<LookedAt>) {
    let clock = Arc::new(LookedAt::default());
    let parts = RpcParts {
        store: chain.store.clone(),
        mempool: chain.mempool.clone(),
        executor: chain.executor.clone(),
        committee: Arc::new(chain.committee.clone()),
        net: Arc::new(NoNet),
        market: Arc::new(NoMarket),
        clock: clock.clone(),
        client_version: "Trellis/test".to_owned(),
    };
    let config = RpcConfig { listen: "127.0.0.1:0".parse().unwrap(), ..RpcConfig::default() };
    (trellis_rpc::start(config, parts).await.unwrap(), clock)
}

async fn ask(server: &RpcServer, method: &str, params: Value) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let response =
        reqwest::Client::new().post(format!("http://{}", server.address())).json(&body).send().await.unwrap();
    response.json().await.unwrap()
}

/// So many blocks with one log each.
async fn emit(chain: &Chain, blocks: u64) {
    for nonce in 0..blocks {
        let tx = dynamic(1, nonce, TxKind::Call(EMITTER), 0, &[1; 32]);
        chain.ok("eth_sendRawTransaction", json!([raw(&tx)])).await;
        chain.produce();
    }
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_answers_too_late_it_tells_the_next_time() {
    let chain = Chain::start().await;
    let (server, clock) = slow(&chain).await;
    let logs = ask(&server, "eth_newFilter", json!([{ "address": EMITTER }])).await["result"].clone();
    let blocks = ask(&server, "eth_newBlockFilter", json!([])).await["result"].clone();
    emit(&chain, 1).await;
    for filter in [logs, blocks] {
        clock.moves_on_by(9_500);
        let late = ask(&server, "eth_getFilterChanges", json!([filter])).await;
        assert!(late["error"].is_object(), "nobody waits for it any more: {late}");
        clock.moves_on_by(0);
        for told in [1, 0] {
            let changes = ask(&server, "eth_getFilterChanges", json!([filter])).await;
            assert_eq!(changes["result"].as_array().unwrap().len(), told, "{changes}");
        }
    }
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_with_more_blocks_than_there_is_time_for_tells_them_in_several_answers() {
    let chain = Chain::start().await;
    let (server, clock) = slow(&chain).await;
    let filter = ask(&server, "eth_newFilter", json!([{ "address": EMITTER }])).await["result"].clone();
    emit(&chain, 8).await;
    clock.moves_on_by(1_500);
    let (mut told, mut answers) = (Vec::new(), 0);
    while told.len() < 8 {
        let changes = ask(&server, "eth_getFilterChanges", json!([filter])).await;
        let logs = changes["result"].as_array().unwrap_or_else(|| panic!("{changes}"));
        assert!(!logs.is_empty(), "each answer brings some");
        told.extend(logs.iter().map(|log| log["blockNumber"].clone()));
        answers += 1;
    }
    assert!(answers > 1);
    assert_eq!(told, (1..=8).map(|number| json!(format!("{number:#x}"))).collect::<Vec<_>>());
}
