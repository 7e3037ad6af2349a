//! What is said when the question makes no sense or the answer is no.

use crate::harness::*;
use alloy_primitives::{Address, B256, TxKind};
use serde_json::{Value, json};
use trellis_rpc::RpcConfig;

// row: CHN-40
#[tokio::test(flavor = "multi_thread")]
async fn refused_transactions_are_refused_in_ethereums_words() {
    let chain = Chain::start().await;
    chain.ok("eth_sendRawTransaction", json!([raw(&transfer(1, 0))])).await;
    let damaged = {
        let mut bytes = raw(&transfer(3, 0)).as_str().unwrap().to_owned();
        bytes.truncate(60);
        json!(bytes)
    };
    let poor = sign_by_stranger();
    for (tx, begins) in [
        (raw(&transfer(1, 0)), "already known"),
        (raw(&dynamic(1, 0, TxKind::Call(Address::ZERO), 5, &[])), "replacement transaction underpriced"),
        (raw(&transfer(1, 5_000)), "nonce too high"),
        (raw(&legacy(2, 0, 10 * GWEI, Some(1))), "invalid chain id for signer: have 1 want 97001"),
        (raw(&legacy(2, 0, 10 * GWEI, None)), "only replay-protected (EIP-155) transactions allowed over RPC"),
        (raw(&legacy(2, 0, 1, Some(CHAIN))), "transaction underpriced"),
        (poor, "insufficient funds for gas * price + value"),
        (damaged, "rlp: "),
        (json!("0x"), "typed transaction too short"),
        (json!("0x7f01"), "transaction type not supported"),
    ] {
        let (code, message) = chain.refused("eth_sendRawTransaction", json!([tx])).await;
        assert!(code == -32_000 && message.starts_with(begins), "{begins}: {code} {message}");
    }
    chain.produce();
    let (_, message) = chain.refused("eth_sendRawTransaction", json!([raw(&transfer(1, 0))])).await;
    assert_eq!(message, "nonce too low: next nonce 1, tx nonce 0");
}

fn sign_by_stranger() -> Value {
    raw(&dynamic(200, 0, TxKind::Call(Address::ZERO), 5, &[]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_has_code_3_its_data_and_its_reason() {
    let chain = Chain::start().await;
    for method in ["eth_call", "eth_estimateGas"] {
        let answer = chain.post(&chain.request(method, json!([{ "to": REVERTER }, "latest"]))).await;
        assert_eq!(
            (&answer["error"]["code"], &answer["error"]["message"]),
            (&json!(3), &json!("execution reverted: not yours"))
        );
        assert!(answer["error"]["data"].as_str().unwrap().starts_with("0x08c379a0"));
    }
    let answer = chain.post(&chain.request("eth_call", json!([{ "to": PANICKER }]))).await;
    assert_eq!(answer["error"]["message"], "execution reverted: assert(false)");
    let (code, message) = chain.refused("eth_call", json!([{ "to": SPINNER, "gas": "0x30d40" }, "latest"])).await;
    assert_eq!((code, message.as_str()), (-32_000, "out of gas"));
    let (code, message) = chain.refused("eth_estimateGas", json!([{ "to": SPINNER }])).await;
    assert_eq!(code, -32_000);
    assert!(message.starts_with("gas required exceeds allowance"), "{message}");
    let broke = json!([{ "from": Address::repeat_byte(0x31), "to": EMITTER, "value": "0x1", "gasPrice": "0x77359400" }, "latest"]);
    let (code, message) = chain.refused("eth_call", broke).await;
    assert!(code == -32_000 && message.starts_with("insufficient funds for gas * price + value"), "{message}");
}

// row: CHN-40
#[tokio::test(flavor = "multi_thread")]
async fn bad_arguments_are_minus_32602_and_name_the_argument() {
    let chain = Chain::start().await;
    let who = json!(Address::ZERO);
    for (method, params, says) in [
        ("eth_getBalance", json!([]), "missing value for required argument 0"),
        (
            "eth_getBalance",
            json!(["0x12", "latest"]),
            "invalid argument 0: hex string has length 2, want 40 for common.Address",
        ),
        ("eth_getBalance", json!([who, "newest"]), "invalid argument 1: unknown block tag \"newest\""),
        ("eth_getBalance", json!([who, "latest", 1]), "too many arguments, want at most 2"),
        ("eth_getBalance", json!({ "address": who }), "non-array args"),
        ("eth_getBlockByNumber", json!(["2", false]), "invalid argument 0: hex string without 0x prefix"),
        ("eth_getBlockByNumber", json!(["0x1", "yes"]), "invalid argument 1: json: want boolean"),
        (
            "eth_getBlockByHash",
            json!(["0x1", false]),
            "invalid argument 0: hex string has length 1, want 64 for common.Hash",
        ),
        ("eth_getTransactionByHash", json!([7]), "invalid argument 0: json: want hex string"),
        ("eth_sendRawTransaction", json!(["0x123"]), "invalid argument 0: hex string of odd length"),
        ("eth_sendRawTransaction", json!(["hello"]), "invalid argument 0: hex string without 0x prefix"),
        ("eth_call", json!(["0x1"]), "invalid argument 0: json: want object"),
        ("eth_getStorageAt", json!([who, "0xasdf"]), "invalid hex in storage key: \"0xasdf\""),
        ("eth_feeHistory", json!(["0x1", "0x99"]), "request beyond head block"),
        ("eth_feeHistory", json!(["0x1", "latest", [50, 10]]), "invalid argument 2: invalid reward percentile: 10"),
        (
            "eth_getLogs",
            json!([{ "fromBlock": "0x0", "toBlock": "0x5" }]),
            "block range extends beyond current head block",
        ),
        ("eth_getStorageValues", json!([{}]), "empty request"),
    ] {
        assert_eq!(chain.refused(method, params).await, (-32_602, says.to_owned()), "{method}");
    }
    let (code, message) = chain.refused("eth_call", json!([{ "to": "0x12" }])).await;
    assert!(code == -32_602 && message.starts_with("invalid argument 0: "), "{message}");
    chain.produce();
    let backwards = json!([{ "fromBlock": "0x1", "toBlock": "0x0" }]);
    assert_eq!(chain.refused("eth_getLogs", backwards).await, (-32_602, "invalid block range params".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_null_or_header_not_found_as_in_ethereum() {
    let chain = Chain::start().await;
    let nothing = B256::repeat_byte(0xde);
    for (method, params) in [
        ("eth_getBlockByNumber", json!(["0x3e8", true])),
        ("eth_getBlockByHash", json!([nothing, true])),
        ("eth_getTransactionByHash", json!([nothing])),
        ("eth_getTransactionReceipt", json!([nothing])),
        ("eth_getBlockReceipts", json!(["0x3e8"])),
        ("eth_getBlockTransactionCountByHash", json!([nothing])),
        ("eth_getTransactionByBlockNumberAndIndex", json!(["0x3e8", "0x0"])),
        ("eth_getUncleByBlockNumberAndIndex", json!(["0x0", "0x0"])),
    ] {
        assert_eq!(chain.ok(method, params).await, Value::Null, "{method}");
    }
    for (method, params) in [
        ("eth_getBalance", json!([Address::ZERO, "0x3e8"])),
        ("eth_call", json!([{ "to": EMITTER }, nothing])),
        ("eth_getProof", json!([EMITTER, [], "0x3e8"])),
    ] {
        assert_eq!(chain.refused(method, params).await, (-32_000, "header not found".to_owned()), "{method}");
    }
    assert_eq!(
        chain.refused("eth_getLogs", json!([{ "blockHash": nothing }])).await,
        (-32_000, "unknown block".to_owned())
    );
    let (code, message) = chain.refused("eth_mine", json!([])).await;
    assert_eq!((code, message.as_str()), (-32_601, "Method not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_is_no_longer_kept_is_said_to_be_so() {
    let chain = Chain::start().await;
    for _ in 0..130 {
        chain.produce();
    }
    let (code, message) = chain.refused("eth_getBalance", json!([key(1).address(), "0x0"])).await;
    assert_eq!(code, -32_000);
    assert!(
        message.starts_with("required historical state unavailable: block 0, states of blocks 2 to 130"),
        "{message}"
    );
    chain.ok("eth_getBalance", json!([key(1).address(), "0x2"])).await;
    assert_eq!(chain.ok("eth_getBlockByNumber", json!(["0x0", false])).await["number"], "0x0");
}

// row: CHN-43
#[tokio::test(flavor = "multi_thread")]
async fn logs_are_bounded_in_range_and_number() {
    let chain =
        Chain::start_with(RpcConfig { log_range_blocks_max: 3, log_results_max: 2, ..RpcConfig::default() }).await;
    for nonce in 0..3 {
        chain.ok("eth_sendRawTransaction", json!([raw(&dynamic(1, nonce, TxKind::Call(EMITTER), 0, &[1; 32]))])).await;
        chain.produce();
    }
    let range = json!([{ "fromBlock": "0x0", "toBlock": "0x3" }]);
    assert_eq!(
        chain.refused("eth_getLogs", range).await,
        (-32_005, "blocks of a log range: 4 asked for, at most 3 allowed".to_owned())
    );
    let many = json!([{ "fromBlock": "0x1", "toBlock": "0x3" }]);
    assert_eq!(
        chain.refused("eth_getLogs", many).await,
        (-32_005, "logs of one answer: 3 asked for, at most 2 allowed".to_owned())
    );
    assert_eq!(
        chain.ok("eth_getLogs", json!([{ "fromBlock": "0x2", "toBlock": "0x3" }])).await.as_array().unwrap().len(),
        2
    );
}

/// Every method, asked all kinds of nonsense, refuses or answers; it never fails inside.
#[tokio::test(flavor = "multi_thread")]
async fn no_nonsense_makes_any_method_fail_inside() {
    let chain = Chain::start().await;
    chain.ok("eth_sendRawTransaction", json!([raw(&transfer(1, 0))])).await;
    chain.produce();
    let word = B256::repeat_byte(0xff);
    let nonsense = [
        json!([]),
        json!(null),
        json!({}),
        json!("0x"),
        json!([null, null, null, null]),
        json!(["0x", "0x", "0x"]),
        json!([word, word, word]),
        json!([Address::ZERO, [word, "0x0"], "latest"]),
        json!(["0xffffffffffffffff", "0xffffffffffffffff", [1e308, -1]]),
        json!(["latest", "latest", [0, 100]]),
        json!(["latest", true]),
        json!([{ "to": Address::repeat_byte(1), "gas": "0xffffffffffffffff", "value": word }, "pending"]),
        json!([{ "from": key(1).address(), "data": "0xfe", "nonce": "0x0" }, "latest", {}, {}]),
        json!([{ "fromBlock": "pending", "toBlock": "pending", "topics": [[]], "address": [] }]),
        json!([{ "fromBlock": "0x0", "toBlock": "0xffffffffffffffff" }]),
        json!(["\u{0}", "☃", { "a": [[[[[]]]]] }]),
        json!([1, -1, 1.5, true]),
    ];
    for (method, _) in trellis_rpc::method_names().filter(|(name, _)| !name.ends_with("subscribe")) {
        for params in &nonsense {
            let answer = chain.post(&chain.request(method, params.clone())).await;
            let inside = answer["error"]["code"] == -32_603;
            assert!(
                !inside && (answer.get("result").is_some() || answer["error"]["message"].is_string()),
                "{method} {params}: {answer}"
            );
        }
    }
}
