//! What explorers and debuggers ask: traces, simulations, Otterscan's own calls.

use crate::harness::*;
use alloy_primitives::{Address, TxKind, U256};
use serde_json::{Value, json};

/// Deploys a contract that only stops.
const DEPLOYS_STOP: &[u8] = &[0x60, 0x01, 0x60, 0x00, 0xf3];

/// A chain whose first block has a transfer, an event, a contract made and a call that is reverted.
async fn lived() -> (Chain, Vec<Value>) {
    let chain = Chain::start().await;
    let sent = [
        transfer(1, 0),
        dynamic(2, 0, TxKind::Call(EMITTER), 0, &[7; 32]),
        dynamic(3, 0, TxKind::Create, 0, DEPLOYS_STOP),
        dynamic(4, 0, TxKind::Call(REVERTER), 0, &[1]),
    ];
    for tx in &sent {
        chain.ok("eth_sendRawTransaction", json!([raw(tx)])).await;
    }
    let block = chain.produce();
    assert_eq!(block.block.transactions.len(), sent.len());
    (chain, sent.iter().map(|tx| json!(tx.hash())).collect())
}

// row: CHN-40
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_traced_step_by_step_and_call_by_call() {
    let (chain, sent) = lived().await;
    let receipt = chain.ok("eth_getTransactionReceipt", json!([sent[1]])).await;
    let steps = chain.ok("debug_traceTransaction", json!([sent[1]])).await;
    assert_eq!(format!("{:#x}", steps["gas"].as_u64().unwrap()), receipt["gasUsed"].as_str().unwrap());
    assert_eq!((&steps["failed"], &steps["structLogs"][0]["op"]), (&json!(false), &json!("PUSH1")));
    let calls = chain.ok("debug_traceTransaction", json!([sent[1], { "tracer": "callTracer" }])).await;
    assert_eq!((&calls["type"], &calls["to"]), (&json!("CALL"), &json!(EMITTER)));
    assert_eq!(calls["gasUsed"], receipt["gasUsed"]);
    let before = chain.ok("debug_traceTransaction", json!([sent[1], { "tracer": "prestateTracer" }])).await;
    assert!(before.get(format!("{:#x}", key(2).address())).is_some(), "{before}");
    let selectors = chain.ok("debug_traceTransaction", json!([sent[1], { "tracer": "4byteTracer" }])).await;
    assert!(selectors.is_object());
    let reverted = chain.ok("debug_traceTransaction", json!([sent[3], { "tracer": "callTracer" }])).await;
    assert_eq!(reverted["error"], json!("execution reverted"));
    let all = chain.ok("debug_traceBlockByNumber", json!(["latest", { "tracer": "callTracer" }])).await;
    let traced: Vec<&Value> = all.as_array().unwrap().iter().map(|entry| &entry["txHash"]).collect();
    assert_eq!(traced.len(), sent.len());
    assert!(sent.iter().all(|hash| traced.contains(&hash)));
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_would_never_end_is_ended() {
    let chain = Chain::start().await;
    let (_, text) = chain.refused("debug_traceCall", json!([{ "to": SPINNER }, "latest"])).await;
    assert!(text.contains("timed out"), "{text}");
    // Few steps, each of which shows 64 KiB of memory.
    let circling = json!({ SPINNER.to_string(): { "code": "0x600061ffe0525b600656" } });
    let options = json!({ "enableMemory": true, "stateOverrides": circling });
    let (_, text) =
        chain.refused("debug_traceCall", json!([{ "to": SPINNER, "gas": "0x10000" }, "latest", options])).await;
    assert!(text.contains("timed out"), "{text}");
    // Each step that reads another slot shows all that were read before it.
    let reading = json!({ SPINNER.to_string(): { "code": "0x60005b80545060010160025600" } });
    let call = json!({ "to": SPINNER, "gas": "0x632ea0" });
    let options = json!({ "disableStack": true, "stateOverrides": reading });
    let (_, text) = chain.refused("debug_traceCall", json!([call, "latest", options])).await;
    assert!(text.contains("timed out"), "{text}");
    let options = json!({ "disableStack": true, "disableStorage": true, "stateOverrides": reading });
    chain.ok("debug_traceCall", json!([call, "latest", options])).await;
    assert_eq!(chain.refused("debug_traceBlockByNumber", json!(["0x0"])).await.1, "genesis is not traceable");
    let (_, text) = chain.refused("debug_traceCall", json!([{}, "latest", { "tracer": "function() {}" }])).await;
    assert!(!text.is_empty());
}

// row: CHN-40
#[tokio::test(flavor = "multi_thread")]
async fn otterscan_gets_what_it_asks() {
    let (chain, sent) = lived().await;
    assert_eq!(chain.ok("ots_getApiLevel", json!([])).await, json!(8));
    assert_eq!(chain.ok("ots_hasCode", json!([EMITTER, "latest"])).await, json!(true));
    assert_eq!(chain.ok("ots_hasCode", json!([key(1).address(), "latest"])).await, json!(false));
    let details = chain.ok("ots_getBlockDetails", json!([1])).await;
    assert_eq!(details["block"]["transactionCount"], json!("0x4"));
    let page = chain.ok("ots_getBlockTransactions", json!([1, 0, 3])).await;
    assert_eq!(page["receipts"].as_array().unwrap().len(), 3);
    assert_eq!(page["fullblock"]["transactions"].as_array().unwrap().len(), 3);
    let rest = chain.ok("ots_getBlockTransactions", json!([1, 1, 3])).await;
    assert_eq!(rest["receipts"].as_array().unwrap().len(), 1);
    let made = key(3).address().create(0);
    let creator = chain.ok("ots_getContractCreator", json!([made])).await;
    assert_eq!((&creator["hash"], &creator["creator"]), (&sent[2], &json!(key(3).address())));
    assert_eq!(chain.ok("ots_getContractCreator", json!([key(1).address()])).await, Value::Null);
    let found = chain.ok("ots_getTransactionBySenderAndNonce", json!([key(2).address(), 0])).await;
    assert_eq!(found, sent[1]);
    assert_eq!(chain.ok("ots_getTransactionBySenderAndNonce", json!([key(2).address(), 1])).await, Value::Null);
    let error = chain.ok("ots_getTransactionError", json!([sent[3]])).await;
    assert!(error.as_str().unwrap().starts_with("0x08c379a0"), "{error}");
    assert_eq!(chain.ok("ots_getTransactionError", json!([sent[0]])).await, json!("0x"));
    let frames = chain.ok("ots_traceTransaction", json!([sent[1]])).await;
    assert_eq!((&frames[0]["type"], &frames[0]["depth"]), (&json!("CALL"), &json!(0)));
    assert_eq!(chain.ok("ots_getInternalOperations", json!([sent[0]])).await, json!([]));
    for (method, at) in [("ots_searchTransactionsBefore", 0), ("ots_searchTransactionsAfter", 0)] {
        let page = chain.ok(method, json!([key(1).address(), at, 25])).await;
        assert_eq!((&page["txs"][0]["hash"], page["txs"].as_array().unwrap().len()), (&sent[0], 1), "{method}");
        assert_eq!((&page["firstPage"], &page["lastPage"]), (&json!(true), &json!(true)), "{method}");
    }
    assert_eq!(chain.refused("ots_searchTransactionsAfter", json!([Address::ZERO, 0, 1_000])).await.0, -32_602);
}

// row: CHN-40
#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_simulated_on_this_chain_too() {
    let (chain, _) = lived().await;
    let (from, to) = (key(5).address(), Address::repeat_byte(0x77));
    let calls = json!([{ "from": from, "to": to, "value": "0x3e8" }, { "from": to, "to": from, "value": "0x1" }]);
    let asked = json!([{ "blockStateCalls": [{ "calls": calls }, {}], "traceTransfers": true }, "latest"]);
    let blocks = chain.ok("eth_simulateV1", asked).await;
    assert_eq!((&blocks[0]["number"], &blocks[1]["number"]), (&json!("0x2"), &json!("0x3")));
    assert_eq!(blocks[1]["parentHash"], blocks[0]["hash"]);
    let log = &blocks[0]["calls"][0]["logs"][0];
    assert_eq!(log["topics"][2], json!(to.into_word()));
    assert_eq!(log["data"], json!(format!("{:#066x}", U256::from(1_000))));
    assert_eq!(blocks[0]["calls"][1]["status"], json!("0x1"));
    let poor = json!([{ "blockStateCalls": [{ "calls": [{ "from": to, "to": from, "value": "0x1" }] }] }, "latest"]);
    assert_eq!(chain.refused("eth_simulateV1", poor).await.0, -38_014);
    let head = chain.ok("eth_blockNumber", json!([])).await;
    assert_eq!(head, json!("0x1"));
}

// row: CHN-40
#[tokio::test(flavor = "multi_thread")]
async fn the_chain_says_what_it_is_and_what_is_kept() {
    let (chain, _) = lived().await;
    let config = chain.ok("eth_config", json!([])).await;
    assert_eq!(config["next"], Value::Null);
    assert_eq!(config["current"]["precompiles"]["ECREC"], json!(Address::with_last_byte(1)));
    let kept = chain.ok("eth_capabilities", json!([])).await;
    assert_eq!(kept["head"]["number"], json!("0x1"));
    assert_eq!(kept["state"]["oldestBlock"], json!("0x0"));
    let (code, _) = chain
        .refused(
            "testing_buildBlockV1",
            json!([kept["head"]["hash"], { "timestamp": "0xffffffffff",
            "prevRandao": alloy_primitives::B256::ZERO, "suggestedFeeRecipient": Address::ZERO }, [], "0x"]),
        )
        .await;
    assert_eq!(code, -32_000);
}
