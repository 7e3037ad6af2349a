//! Our answers beside those that Ethereum's clients agree on (ethereum/execution-apis, see tests/data): the same members
//! of the same kinds, and the same error codes.

use crate::harness::*;
use alloy_primitives::{B256, TxKind};
use serde_json::{Value, json};

fn data(name: &str) -> (Value, Value) {
    // Asked at run time: a clone of the repository may share its target folder with another.
    let path = format!("{}/tests/data/{name}.io", std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let text = std::fs::read_to_string(path).unwrap();
    let line = |mark: &str| {
        let line = text.lines().find(|line| line.starts_with(mark)).unwrap();
        serde_json::from_str(line.trim_start_matches(mark)).unwrap()
    };
    (line(">> "), line("<< "))
}

/// The kind of a value: for text also whether it is a number, a word or an address in hex.
fn kind(value: &Value) -> String {
    match value {
        Value::String(text) if text.starts_with("0x") => match text.len() {
            42 => "address".to_owned(),
            66 => "word".to_owned(),
            514 => "bloom".to_owned(),
            _ => "hex".to_owned(),
        },
        Value::String(_) => "text".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::Bool(_) => "boolean".to_owned(),
        Value::Null => "null".to_owned(),
        Value::Array(_) => "list".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// Members of the expected value that are missing or of another kind in ours, and members of ours that it has not.
fn differences(path: &str, expected: &Value, ours: &Value, found: &mut Vec<String>) {
    match (expected, ours) {
        (Value::Object(expected), Value::Object(ours)) => {
            for (name, value) in expected {
                match ours.get(name) {
                    None => found.push(format!("{path}.{name} is missing")),
                    Some(our) => differences(&format!("{path}.{name}"), value, our, found),
                }
            }
            found.extend(
                ours.keys().filter(|name| !expected.contains_key(*name)).map(|name| format!("{path}.{name} is new")),
            );
        }
        (Value::Array(expected), Value::Array(ours)) => {
            if let (Some(expected), Some(our)) = (expected.first(), ours.first()) {
                differences(&format!("{path}[0]"), expected, our, found);
            }
        }
        _ if kind(expected) == kind(ours) => {}
        // A word of 32 bytes and a shorter number are both hex; addresses are told apart strictly.
        (Value::String(_), Value::String(_)) if kind(expected) != "address" && kind(ours) != "address" => {}
        _ => found.push(format!("{path} is {} instead of {}", kind(ours), kind(expected))),
    }
}

fn assert_same_shape(name: &str, ours: &Value, allowed: &[&str]) {
    let (_, expected) = data(name);
    let mut found = Vec::new();
    differences("result", &expected["result"], ours, &mut found);
    found.retain(|line| !allowed.contains(&line.as_str()));
    assert!(found.is_empty(), "{name}: {found:#?}\nours: {ours:#}");
}

// row: CHN-41
#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_members_that_ethereums_clients_agree_on() {
    let chain = Chain::start().await;
    let creation = dynamic(4, 0, TxKind::Create, 0, &[0x60, 0, 0x60, 0, 0xf3]);
    let sent = [transfer(1, 0), legacy(2, 0, 10 * GWEI, Some(CHAIN)), with_access_list(3, 0), creation.clone()];
    for tx in &sent {
        assert_eq!(chain.ok("eth_sendRawTransaction", json!([raw(tx)])).await, json!(tx.hash()));
    }
    chain.produce();
    let block = chain.ok("eth_getBlockByNumber", json!(["0x1", false])).await;
    assert_same_shape("eth_getBlockByNumber.get-block-prague-fork", &block, &[]);
    let by_hash =
        async |tx: &trellis_primitives::TxEnvelope| chain.ok("eth_getTransactionByHash", json!([tx.hash()])).await;
    let dynamic_fee = by_hash(&sent[0]).await;
    assert_same_shape("eth_getTransactionByHash.get-dynamic-fee", &dynamic_fee, &[]);
    // This sample is from before EIP-155 and therefore names no chain.
    let chain_id = ["result.chainId is new"];
    assert_same_shape("eth_getTransactionByHash.get-legacy-tx", &by_hash(&sent[1]).await, &chain_id);
    assert_same_shape("eth_getTransactionByHash.get-access-list", &by_hash(&sent[2]).await, &[]);
    let receipt = chain.ok("eth_getTransactionReceipt", json!([creation.hash()])).await;
    // This sample is from before Byzantium, which replaced the root by the status.
    let byzantium = ["result.root is missing", "result.status is new"];
    assert_same_shape("eth_getTransactionReceipt.get-legacy-contract", &receipt, &byzantium);
    assert_eq!(receipt["contractAddress"], json!(key(4).address().create(0)));
    let logs = chain.ok("eth_getLogs", json!([{ "fromBlock": "0x1", "topics": [[], []] }])).await;
    assert_eq!(logs, json!([]));
    let logs = chain.ok("eth_getLogs", json!([{ "fromBlock": "0x1", "topics": [[EMIT_TOPIC]] }])).await;
    assert_same_shape("eth_getLogs.topic-wildcard", &logs, &[]);
    let proof = chain.ok("eth_getProof", json!([EMITTER, ["0x00"], "latest"])).await;
    assert_same_shape("eth_getProof.get-account-proof-with-storage", &proof, &[]);
    let history = chain.ok("eth_feeHistory", json!(["0x1", "0x1", [95, 99]])).await;
    assert_same_shape("eth_feeHistory.fee-history", &history, &[]);
}

// row: CHN-41
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_the_suite_that_need_no_chain_of_its_own_get_its_answers() {
    let chain = Chain::start().await;
    for name in [
        "eth_getBlockByNumber.get-block-notfound",
        "eth_getTransactionReceipt.get-notfound-tx",
        "eth_getBlockReceipts.get-block-receipts-0",
        "txpool_contentFrom.get-content-from-address",
    ] {
        let (request, expected) = data(name);
        assert_eq!(chain.post(&request).await, expected, "{name}");
    }
    for name in [
        "eth_getLogs.filter-error-future-block-range",
        "eth_getLogs.filter-error-invalid-blockHash-and-range",
        "eth_getStorageAt.get-storage-invalid-key",
        "eth_getStorageAt.get-storage-invalid-key-too-large",
        "eth_getStorageValues.get-storage-values-empty-request",
        "debug_getRawReceipts.get-invalid-number",
    ] {
        let (request, expected) = data(name);
        let ours = chain.post(&request).await;
        assert_eq!(
            (&ours["error"]["code"], &ours["error"]["message"]),
            (&expected["error"]["code"], &expected["error"]["message"]),
            "{name}"
        );
    }
    let (request, expected) = data("debug_getRawTransaction.get-invalid-hash");
    assert_eq!(chain.post(&request).await["error"]["code"], expected["error"]["code"]);
    // The same question at our own panicking contract: the same code, words and data.
    let (_, expected) = data("eth_call.call-revert-abi-panic");
    let ours = chain.post(&chain.request("eth_call", json!([{ "to": PANICKER, "gas": "0x186a0" }, "latest"]))).await;
    assert_eq!(ours["error"], expected["error"]);
    // A transfer of an account that has coins here touches nothing that has to be named.
    let (request, expected) = data("eth_createAccessList.create-al-value-transfer");
    let mut transfer = request["params"][0].clone();
    transfer["from"] = json!(key(1).address());
    assert_eq!(chain.ok("eth_createAccessList", json!([transfer, "latest"])).await, expected["result"]);
    // Signed for another chain, so it is refused here, and the refusal says for which.
    let (request, _) = data("eth_sendRawTransaction.send-legacy-transaction");
    let ours = chain.post(&request).await;
    assert!(ours["error"]["message"].as_str().unwrap().starts_with("invalid chain id for signer"), "{ours}");
    assert_eq!(chain.ok("eth_getTransactionByHash", json!([B256::ZERO])).await, Value::Null);
}
