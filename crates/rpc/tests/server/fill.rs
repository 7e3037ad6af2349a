//! `eth_fillTransaction`: what geth fills in, and what it refuses.

use crate::harness::{CHAIN, Chain, EMITTER, GWEI, key, raw, transfer};
use alloy_primitives::{Bytes, U64, keccak256};
use serde_json::{Value, json};

fn quantity(value: &Value) -> u128 {
    u128::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

// row: CHN-41
#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_leaves_out_is_filled_in_as_geth_does_it() {
    let chain = Chain::start().await;
    chain.produce();
    let from = key(1).address();
    let filled =
        chain.ok("eth_fillTransaction", json!([{ "from": from, "to": key(2).address(), "value": "0x5" }])).await;
    let tx = &filled["tx"];
    let base_fee = u128::from(chain.store.head().header().base_fee_per_gas.unwrap());
    let tip = quantity(&chain.ok("eth_maxPriorityFeePerGas", json!([])).await);
    assert_eq!(tx["type"], "0x2");
    assert_eq!(tx["nonce"], "0x0");
    assert_eq!(tx["gas"], "0x5208");
    assert_eq!(tx["value"], "0x5");
    assert_eq!(tx["input"], "0x");
    assert_eq!(tx["chainId"], json!(U64::from(CHAIN)));
    assert_eq!(quantity(&tx["maxPriorityFeePerGas"]), tip);
    assert_eq!(quantity(&tx["maxFeePerGas"]), 2 * base_fee + tip);
    assert_eq!(tx["gasPrice"], Value::Null);
    for name in ["v", "r", "s", "yParity"] {
        assert_eq!(tx[name], "0x0", "{name} of {filled}");
    }
    let bytes: Bytes = serde_json::from_value(filled["raw"].clone()).unwrap();
    assert_eq!(tx["hash"], json!(keccak256(&bytes)), "the bytes are those of the fields");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_follow_the_pool_and_gas_is_estimated_with_the_callers_own_fields() {
    let chain = Chain::start().await;
    chain.ok("eth_sendRawTransaction", json!([raw(&transfer(1, 0))])).await;
    let mut call = json!({
        "from": key(1).address(), "to": EMITTER, "input": format!("0x{}", "01".repeat(32)), "chainId": U64::from(CHAIN),
    });
    let gas = chain.ok("eth_estimateGas", json!([call])).await;
    call["maxPriorityFeePerGas"] = json!("0x7");
    let filled = chain.ok("eth_fillTransaction", json!([call])).await;
    assert_eq!(filled["tx"]["nonce"], "0x1", "one of its transactions waits");
    assert_eq!(filled["tx"]["maxPriorityFeePerGas"], "0x7");
    assert_eq!(filled["tx"]["gas"], gas);
    let price = json!({ "from": key(3).address(), "to": EMITTER, "gas": "0x10000", "nonce": "0x9", "gasPrice": U64::from(GWEI) });
    let legacy = chain.ok("eth_fillTransaction", json!([price])).await;
    let tx = &legacy["tx"];
    assert_eq!((&tx["type"], &tx["nonce"], &tx["gas"]), (&json!("0x0"), &json!("0x9"), &json!("0x10000")));
    assert_eq!((&tx["v"], &tx["maxFeePerGas"]), (&json!("0x0"), &Value::Null));
    assert!(tx.get("chainId").is_none(), "{legacy}");
    let bytes: Bytes = serde_json::from_value(legacy["raw"].clone()).unwrap();
    assert_eq!(tx["hash"], json!(keccak256(&bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_transaction_is_refused_in_geths_words() {
    let chain = Chain::start().await;
    let to = key(2).address();
    for (request, words) in [
        (json!({}), "contract creation without any data provided"),
        (
            json!({ "to": to, "gasPrice": "0x1", "maxFeePerGas": "0x1" }),
            "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified",
        ),
        (json!({ "to": to, "gasPrice": "0x0" }), "gasPrice must be non-zero after london fork"),
        (json!({ "to": to, "maxFeePerGas": "0x0", "maxPriorityFeePerGas": "0x0" }), "maxFeePerGas must be non-zero"),
        (
            json!({ "to": to, "maxFeePerGas": "0x1", "maxPriorityFeePerGas": "0x2" }),
            "maxFeePerGas (1) < maxPriorityFeePerGas (2)",
        ),
        (
            json!({ "to": to, "data": "0x01", "input": "0x02" }),
            "both \"data\" and \"input\" are set and not equal. Please use \"input\" to pass transaction call data",
        ),
        (json!({ "to": to, "gas": "0x5208", "chainId": "0x1" }), "chainId does not match node's (have=1, want=97001)"),
    ] {
        let (code, message) = chain.refused("eth_fillTransaction", json!([request])).await;
        assert_eq!((code, message.as_str()), (-32_000, words), "{request}");
    }
}
