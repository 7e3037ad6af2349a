//! Limits of the server itself, its neighbour the monitor, and how fast it takes transactions.

use crate::harness::*;
use alloy_primitives::TxKind;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use trellis_rpc::{ComponentHealth, MonitorView, Namespace, RpcConfig, start_monitor};

async fn status(chain: &Chain, headers: &[(&str, &str)], body: String) -> (u16, String) {
    let mut request = reqwest::Client::new().post(chain.url()).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn a_body_a_batch_and_a_host_have_their_limits() {
    let config = RpcConfig { batch_requests_max: 3, request_bytes_max: 1_000, ..RpcConfig::default() };
    let chain = Chain::start_with(config).await;
    let ask = || chain.request("eth_chainId", json!([]));
    let batch = chain.post(&json!([ask(), ask(), ask(), ask()])).await;
    assert_eq!(batch["error"]["code"], -32_010);
    assert_eq!(chain.post(&json!([ask(), ask(), ask()])).await.as_array().unwrap().len(), 3);
    let json_type = ("content-type", "application/json");
    assert_eq!(status(&chain, &[json_type], " ".repeat(1_001)).await.0, 413);
    assert_eq!(status(&chain, &[], ask().to_string()).await.0, 415);
    let (code, text) = status(&chain, &[json_type, ("host", "evil.example")], ask().to_string()).await;
    assert_eq!((code, text.as_str()), (403, "invalid host specified\n"));
    assert_eq!(status(&chain, &[json_type, ("host", "localhost:1")], ask().to_string()).await.0, 200);
    assert_eq!(chain.server.metrics().refused_hosts.get(), 1);
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_the_codes_of_json_rpc() {
    let chain = Chain::start().await;
    let json_type = ("content-type", "application/json");
    for (body, code) in [("{", -32_700), ("[]", -32_600), ("{\"id\":1}", -32_600), ("[1]", -32_600)] {
        let (_, text) = status(&chain, &[json_type], body.to_owned()).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        let error = if answer.is_array() { &answer[0]["error"] } else { &answer["error"] };
        assert_eq!(error["code"], code, "{body}: {text}");
    }
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn closed_namespaces_do_not_exist_and_debug_is_closed_by_default() {
    assert!(!RpcConfig::default().namespaces.contains(&Namespace::Debug));
    let only_net = BTreeSet::from([Namespace::Net]);
    let chain = Chain::start_with(RpcConfig { namespaces: only_net, ..RpcConfig::default() }).await;
    chain.ok("net_version", json!([])).await;
    for method in ["eth_chainId", "eth_sendRawTransaction", "debug_getRawHeader"] {
        assert_eq!(chain.refused(method, json!([])).await.0, -32_601);
    }
    let batch = chain.post(&json!([chain.request("eth_sendRawTransaction", json!([raw(&transfer(1, 0))]))])).await;
    assert_eq!(batch[0]["error"]["code"], -32_601);
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_may_ask_only_from_a_listed_origin() {
    let origins = vec!["https://wallet.example".to_owned()];
    let chain = Chain::start_with(RpcConfig { origins, ..RpcConfig::default() }).await;
    let preflight = async |origin: &str| {
        let request = reqwest::Client::new().request(reqwest::Method::OPTIONS, chain.url());
        let request = request.header("origin", origin).header("access-control-request-method", "POST");
        let response = request.send().await.unwrap();
        response.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(preflight("https://wallet.example").await.as_deref(), Some("https://wallet.example"));
    assert_eq!(preflight("https://evil.example").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let chain = Chain::start().await;
    let listen = chain.server.address();
    let parts = trellis_rpc::RpcParts {
        store: chain.store.clone(),
        mempool: chain.mempool.clone(),
        executor: chain.executor.clone(),
        committee: Arc::new(chain.committee.clone()),
        net: Arc::new(trellis_rpc::NoNet),
        market: Arc::new(trellis_rpc::NoMarket),
        clock: chain.clock.clone(),
        client_version: String::new(),
    };
    let failed = trellis_rpc::start(RpcConfig { listen, ..RpcConfig::default() }, parts).await.unwrap_err();
    assert!(failed.to_string().starts_with(&format!("cannot listen on {listen} for JSON-RPC")), "{failed}");
}

#[derive(Default)]
struct View(AtomicBool);

impl MonitorView for View {
    fn refresh(&self) {}
    fn more_metrics(&self) -> String {
        "# TYPE trellis_more counter\ntrellis_more_total 1\n# EOF\n".to_owned()
    }
    fn health(&self) -> Vec<ComponentHealth> {
        vec![ComponentHealth { name: "chain", ready: self.0.load(Ordering::SeqCst), detail: "height 0".to_owned() }]
    }
}

// row: OPS-20, OPS-21
#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_shows_figures_that_move_and_whether_the_node_is_ready() {
    let chain = Chain::start().await;
    let mut registry = Registry::default();
    chain.server.metrics().register(&mut registry);
    chain.mempool.metrics().register(&mut registry);
    let view = Arc::new(View::default());
    let monitor = start_monitor("127.0.0.1:0".parse().unwrap(), registry, view.clone()).await.unwrap();
    let get = async |path: &str| {
        let response = reqwest::get(format!("http://{}{path}", monitor.address())).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(get("/health/live").await, (200, "live\n".to_owned()));
    assert_eq!(get("/health/ready").await.0, 503);
    view.0.store(true, Ordering::SeqCst);
    assert_eq!(
        get("/health/ready").await,
        (200, "[{\"name\":\"chain\",\"ready\":true,\"detail\":\"height 0\"}]".to_owned())
    );
    chain.ok("eth_chainId", json!([])).await;
    chain.refused("eth_getBalance", json!([])).await;
    chain.post(&json!([chain.request("eth_sendRawTransaction", json!([raw(&transfer(1, 0))]))])).await;
    let (code, text) = get("/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "trellis_rpc_requests_total{method=\"eth_chainId\"} 1",
        "trellis_rpc_requests_total{method=\"eth_sendRawTransaction\"} 1",
        "trellis_rpc_errors_total{method=\"eth_getBalance\"} 1",
        "trellis_rpc_raw_transactions_total 1",
        "trellis_rpc_latency_seconds_count 3",
        "trellis_rpc_batch_requests_count 1",
        "trellis_mempool_pending_transactions 1",
        "trellis_more_total 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(text.matches("# EOF").count(), 1);
    let late = Counter::<u64>::default();
    monitor.register(|registry| registry.register("trellis_late", "What begins after the monitor", late.clone()));
    late.inc();
    assert!(get("/metrics").await.1.contains("trellis_late_total 1"));
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_told_to_come_back() {
    let chain = Chain::start_with(RpcConfig { connections_max: 1, ..RpcConfig::default() }).await;
    let mut socket = Socket::connect(&chain).await;
    let json_type = ("content-type", "application/json");
    assert_eq!(status(&chain, &[json_type], chain.request("eth_chainId", json!([])).to_string()).await.0, 429);
    assert_eq!(socket.ask(&chain.request("eth_chainId", json!([]))).await["result"], "0x17ae9");
}

/// CPU milliseconds of this process until now, all threads: the figure that does not depend on what else runs.
fn cpu_ms() -> u64 {
    const TICK_MS: u64 = 10;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
    ticks.sum::<u64>() * TICK_MS
}

/// How many raw transactions go in within a second, in batches of 200 over 8 connections, from HTTP to the pool; the
/// client runs in the same process and is in the figures.
#[tokio::test(flavor = "multi_thread")]
async fn raw_transactions_in_batches_are_taken_fast() {
    let chain = Arc::new(Chain::start().await);
    let transactions: Vec<_> =
        (1..=20u8).flat_map(|account| (0..400).map(move |nonce| transfer(account, nonce))).collect();
    let count = u64::try_from(transactions.len()).unwrap();
    let bodies: Vec<String> = transactions
        .chunks(200)
        .map(|batch| {
            let requests = batch.iter().map(|tx| chain.request("eth_sendRawTransaction", json!([raw(tx)])));
            Value::from_iter(requests).to_string()
        })
        .collect();
    let (start, cpu) = (Instant::now(), cpu_ms());
    let shares = bodies.chunks(bodies.len().div_ceil(8));
    let sending: Vec<_> = shares.map(|share| tokio::spawn(send_all(chain.url(), share.to_vec()))).collect();
    let mut texts = Vec::new();
    for connection in sending {
        texts.extend(connection.await.unwrap());
    }
    let (took, spent) = (start.elapsed(), cpu_ms() - cpu);
    for text in texts {
        let answers: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert!(answers.len() == 200 && answers.iter().all(|answer| answer.get("result").is_some()));
    }
    assert_eq!(chain.mempool.status().pending, transactions.len());
    eprintln!("{count} raw transactions in batches of 200: {took:?}, {} us of CPU each", spent * 1_000 / count);
    let (start, cpu) = (Instant::now(), cpu_ms());
    assert_eq!(chain.produce().block.transactions.len(), transactions.len());
    let (took, spent) = (start.elapsed(), cpu_ms() - cpu);
    eprintln!("their block, built, rooted and committed in memory: {took:?}, {} us of CPU each", spent * 1_000 / count);
}

async fn send_all(url: String, bodies: Vec<String>) -> Vec<String> {
    let client = reqwest::Client::new();
    let mut answers = Vec::new();
    for body in bodies {
        let request = client.post(&url).header("content-type", "application/json").body(body);
        answers.push(request.send().await.unwrap().text().await.unwrap());
    }
    answers
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_with_more_logs_than_an_answer_may_have_tells_them_in_several() {
    let namespaces = BTreeSet::from([Namespace::Eth]);
    let chain = Chain::start_with(RpcConfig { namespaces, log_results_max: 3, ..RpcConfig::default() }).await;
    let filter = chain.ok("eth_newFilter", json!([{ "address": EMITTER }])).await;
    for nonce in 0..4 {
        let tx = dynamic(1, nonce, TxKind::Call(EMITTER), 0, &[1; 32]);
        chain.ok("eth_sendRawTransaction", json!([raw(&tx)])).await;
        chain.produce();
    }
    let mut told = Vec::new();
    for _ in 0..2 {
        let logs = chain.ok("eth_getFilterChanges", json!([filter])).await;
        told.extend(logs.as_array().unwrap().iter().map(|log| log["blockNumber"].clone()));
    }
    assert_eq!(told, [json!("0x1"), json!("0x2"), json!("0x3"), json!("0x4")]);
    assert_eq!(chain.ok("eth_getFilterChanges", json!([filter])).await, json!([]));
}
