//! Over WebSocket: calls, and what is told without being asked again.

use crate::harness::*;
use alloy_primitives::{B256, TxKind};
use serde_json::{Value, json};
use trellis_rpc::RpcConfig;

async fn subscribe(socket: &mut Socket, chain: &Chain, params: Value) -> Value {
    let answer = socket.ask(&chain.request("eth_subscribe", params)).await;
    let id = answer["result"].clone();
    assert!(id.as_str().is_some_and(|id| id.starts_with("0x") && id.len() == 34), "{answer}");
    id
}

fn told<'a>(message: &'a Value, id: &Value) -> &'a Value {
    assert_eq!(message["method"], "eth_subscription");
    assert_eq!(&message["params"]["subscription"], id);
    &message["params"]["result"]
}

// row: CHN-40
#[tokio::test(flavor = "multi_thread")]
async fn new_heads_come_in_order_until_unsubscribed() {
    let chain = Chain::start().await;
    let mut socket = Socket::connect(&chain).await;
    assert_eq!(socket.ask(&chain.request("eth_chainId", json!([]))).await["result"], "0x17ae9");
    let id = subscribe(&mut socket, &chain, json!(["newHeads"])).await;
    for height in 1..=3u64 {
        let block = chain.produce();
        let message = socket.next().await;
        let head = told(&message, &id);
        assert_eq!((&head["hash"], &head["number"]), (&json!(block.hash), &json!(format!("{height:#x}"))));
        let header: alloy_consensus::Header = serde_json::from_value(head.clone()).unwrap();
        assert_eq!(header.hash_slow(), block.hash);
    }
    assert_eq!(socket.ask(&chain.request("eth_unsubscribe", json!([id]))).await["result"], true);
    chain.produce();
    assert_eq!(socket.ask(&chain.request("eth_blockNumber", json!([]))).await["result"], "0x4");
    assert_eq!(socket.ask(&chain.request("eth_unsubscribe", json!([id]))).await["result"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_told_to_whom_they_match() {
    let chain = Chain::start().await;
    let mut socket = Socket::connect(&chain).await;
    let id = subscribe(&mut socket, &chain, json!(["logs", { "address": EMITTER, "topics": [EMIT_TOPIC] }])).await;
    let mut other = Socket::connect(&chain).await;
    subscribe(&mut other, &chain, json!(["logs", { "topics": [B256::ZERO] }])).await;
    let tx = dynamic(1, 0, TxKind::Call(EMITTER), 0, &[3; 32]);
    chain.ok("eth_sendRawTransaction", json!([raw(&tx)])).await;
    let block = chain.produce();
    let message = socket.next().await;
    let log = told(&message, &id);
    assert_eq!((&log["transactionHash"], &log["blockHash"]), (&json!(tx.hash()), &json!(block.hash)));
    assert_eq!(log["data"], json!(B256::repeat_byte(3)));
    // The other hears nothing: the next thing it gets is the answer to its own question.
    assert_eq!(other.ask(&chain.request("eth_blockNumber", json!([]))).await["result"], "0x1");
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_transactions_are_told_when_they_can_run() {
    let chain = Chain::start().await;
    let mut socket = Socket::connect(&chain).await;
    let id = subscribe(&mut socket, &chain, json!(["newPendingTransactions"])).await;
    let mut whole = Socket::connect(&chain).await;
    let whole_id = subscribe(&mut whole, &chain, json!(["newPendingTransactions", true])).await;
    chain.ok("eth_sendRawTransaction", json!([raw(&transfer(1, 1))])).await;
    chain.ok("eth_sendRawTransaction", json!([raw(&transfer(1, 0))])).await;
    for nonce in 0..2 {
        assert_eq!(told(&socket.next().await, &id), &json!(transfer(1, nonce).hash()));
        assert_eq!(told(&whole.next().await, &whole_id)["nonce"], json!(format!("{nonce:#x}")));
    }
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_has_only_so_many_subscriptions() {
    let chain = Chain::start_with(RpcConfig { subscriptions_per_connection_max: 2, ..RpcConfig::default() }).await;
    let mut socket = Socket::connect(&chain).await;
    subscribe(&mut socket, &chain, json!(["newHeads"])).await;
    subscribe(&mut socket, &chain, json!(["newHeads"])).await;
    let refused = socket.ask(&chain.request("eth_subscribe", json!(["newHeads"]))).await;
    assert_eq!(refused["error"]["code"], -32_006);
    let unknown = Socket::connect(&chain).await.ask(&chain.request("eth_subscribe", json!(["weather"]))).await;
    assert_eq!(unknown["error"]["code"], -32_602);
    let over_http = chain.post(&chain.request("eth_subscribe", json!(["newHeads"]))).await;
    assert_eq!(over_http["error"]["code"], -32_601);
    assert_eq!(over_http["error"]["message"], "notifications not supported: subscribe over WebSocket");
}
