//! The chain over JSON-RPC, without any Ethereum library.

use crate::http::send;
use serde_json::{Value, json};

/// Asks one question; `Err` is the server's error object.
pub fn ask(rpc: &str, method: &str, params: Value) -> Result<Value, Value> {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let answer = send("POST", rpc, &[], request.to_string().as_bytes()).and_then(|response| response.json());
    let answer = answer.map_err(|error| json!(error.to_string()))?;
    match answer.get("error") {
        Some(error) => Err(error.clone()),
        None => Ok(answer["result"].clone()),
    }
}

/// Asks a question that must be answered.
pub fn call(rpc: &str, method: &str, params: Value) -> Value {
    ask(rpc, method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
}

/// A `0x` number.
pub fn number(value: &Value) -> u128 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no number"));
    let digits = text.trim_start_matches("0x").trim_start_matches('0');
    if digits.is_empty() { 0 } else { u128::from_str_radix(digits, 16).expect("hex number of at most 128 bits") }
}

/// Height of the newest block, unless the node does not answer just now.
pub fn height_if_answered(rpc: &str) -> Option<u64> {
    u64::try_from(number(&ask(rpc, "eth_blockNumber", json!([])).ok()?)).ok()
}

/// Height of the newest block.
pub fn height(rpc: &str) -> u64 {
    u64::try_from(number(&call(rpc, "eth_blockNumber", json!([])))).expect("height")
}

/// Hash of the block at a height; `null` where there is none.
pub fn block_hash(rpc: &str, height: u64) -> Value {
    call(rpc, "eth_getBlockByNumber", json!([format!("0x{height:x}"), false]))["hash"].clone()
}

/// Balance of an ERC-20 token.
pub fn token_balance(rpc: &str, token: &str, owner: &str) -> u128 {
    let data = format!("0x70a08231{:0>64}", owner.trim_start_matches("0x"));
    number(&call(rpc, "eth_call", json!([{"to": token, "data": data}, "latest"])))
}
