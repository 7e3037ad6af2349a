//! What is answered when the question makes sense.

use crate::harness::*;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, hex, keccak256};
use serde_json::{Value, json};
use trellis_chain_finality::FinalityProof;

fn number(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

// row: CHN-40
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_from_raw_bytes_to_a_final_receipt() {
    let chain = Chain::start().await;
    let tx = transfer(1, 0);
    let sender = json!(key(1).address());
    let hash = chain.ok("eth_sendRawTransaction", json!([raw(&tx)])).await;
    assert_eq!(hash, json!(tx.hash()));
    assert_eq!(chain.ok("eth_getTransactionReceipt", json!([hash])).await, Value::Null);
    let waiting = chain.ok("eth_getTransactionByHash", json!([hash])).await;
    assert_eq!((&waiting["blockHash"], &waiting["from"]), (&Value::Null, &sender));
    assert_eq!(chain.ok("eth_getTransactionCount", json!([sender, "latest"])).await, "0x0");
    assert_eq!(chain.ok("eth_getTransactionCount", json!([sender, "pending"])).await, "0x1");
    assert_eq!(chain.ok("txpool_status", json!([])).await, json!({"pending": "0x1", "queued": "0x0"}));
    let pending = chain.ok("eth_getBlockByNumber", json!(["pending", false])).await;
    assert_eq!(pending["transactions"], json!([hash]));
    assert_eq!((number(&pending["number"]), &pending["hash"]), (1, &Value::Null));

    let block = chain.produce();
    let receipt = chain.ok("eth_getTransactionReceipt", json!([hash])).await;
    assert_eq!((&receipt["status"], &receipt["gasUsed"]), (&json!("0x1"), &json!("0x5208")));
    assert_eq!(receipt["blockHash"], json!(block.hash));
    assert_eq!(receipt["effectiveGasPrice"], json!(format!("{:#x}", 2_000_000_000u64)));
    assert_eq!(chain.ok("eth_blockNumber", json!([])).await, "0x1");
    assert_eq!(chain.ok("eth_getTransactionCount", json!([sender])).await, "0x1");
    assert_eq!(chain.ok("eth_getBalance", json!([Address::repeat_byte(0x99), "latest"])).await, "0x1");
    assert_eq!(chain.ok("eth_getBalance", json!([Address::repeat_byte(0x99), "earliest"])).await, "0x0");
    let by_place = chain.ok("eth_getTransactionByBlockNumberAndIndex", json!(["0x1", "0x0"])).await;
    let by_hash = chain.ok("eth_getTransactionByBlockHashAndIndex", json!([block.hash, "0x0"])).await;
    assert_eq!(by_place, by_hash);
    assert_eq!(by_place["hash"], hash);
    assert_eq!(chain.ok("eth_getTransactionByBlockNumberAndIndex", json!(["0x1", "0x1"])).await, Value::Null);
    assert_eq!(chain.ok("eth_getRawTransactionByHash", json!([hash])).await, raw(&tx));
    assert_eq!(chain.ok("eth_getBlockTransactionCountByNumber", json!(["latest"])).await, "0x1");
    assert_eq!(chain.ok("eth_getBlockTransactionCountByHash", json!([block.hash])).await, "0x1");
    assert_eq!(chain.ok("eth_getUncleCountByBlockNumber", json!(["latest"])).await, "0x0");
}

// row: CHN-42
#[tokio::test(flavor = "multi_thread")]
async fn latest_safe_and_finalized_are_one_block_and_a_proof_shows_that_it_is_final() {
    let chain = Chain::start().await;
    chain.ok("eth_sendRawTransaction", json!([raw(&transfer(1, 0))])).await;
    let block = chain.produce();
    for tag in ["latest", "safe", "finalized"] {
        let named = chain.ok("eth_getBlockByNumber", json!([tag, false])).await;
        assert_eq!(named["hash"], json!(block.hash), "{tag}");
    }
    let genesis = chain.ok("eth_getBlockByNumber", json!(["earliest", false])).await;
    assert_eq!(genesis["hash"], json!(chain.store.genesis_hash().unwrap()));
    let full = chain.ok("eth_getBlockByNumber", json!(["latest", true])).await;
    let header: alloy_consensus::Header = serde_json::from_value(full.clone()).unwrap();
    assert_eq!(header.hash_slow(), block.hash);
    assert_eq!(full["transactions"][0]["from"], json!(key(1).address()));

    let proof = chain.ok("trellis_getFinalityProof", json!(["latest"])).await;
    let bytes: Bytes = serde_json::from_value(proof["proof"].clone()).unwrap();
    let genesis_hash: B256 = serde_json::from_value(proof["genesisHash"].clone()).unwrap();
    let checked = FinalityProof::decode_exact(&bytes).unwrap();
    assert_eq!(checked.verify(&chain.committee, &genesis_hash).unwrap().hash_slow(), block.hash);
    assert!(checked.verify(&chain.committee, &B256::ZERO).is_err());
    let header: Bytes = serde_json::from_value(proof["header"].clone()).unwrap();
    assert_eq!(json!(keccak256(header)), proof["hash"]);
    let committee = chain.ok("trellis_validators", json!([])).await;
    assert_eq!(committee["validators"][0]["address"], proof["signatures"][0]["validator"]);
    assert_eq!(chain.ok("trellis_getFinalityProof", json!(["0x99"])).await, Value::Null);
    let (code, message) = chain.refused("trellis_getFinalityProof", json!(["earliest"])).await;
    assert_eq!(
        (code, message.as_str()),
        (-32_000, "no finality certificate for block 0: the genesis is final by definition")
    );
    let status = chain.ok("trellis_status", json!([])).await;
    assert_eq!(
        (&status["head"]["number"], &status["market"]["jobs"], &status["net"]["peers"]),
        (&json!(1), &json!(7), &json!(3))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_the_node_is_and_where_it_stands() {
    let chain = Chain::start().await;
    assert_eq!(chain.ok("eth_chainId", json!([])).await, "0x17ae9");
    assert_eq!(chain.ok("net_version", json!([])).await, "97001");
    assert_eq!(chain.ok("net_listening", json!([])).await, true);
    assert_eq!(chain.ok("net_peerCount", json!([])).await, "0x3");
    assert_eq!(chain.ok("eth_syncing", json!([])).await, false);
    assert_eq!(chain.ok("eth_accounts", json!([])).await, json!([]));
    assert_eq!(chain.ok("web3_clientVersion", json!([])).await, "Trellis/test");
    assert_eq!(chain.ok("web3_sha3", json!(["0x"])).await, json!(keccak256([])));
    let without_params = chain.post(&json!({"jsonrpc": "2.0", "id": "a", "method": "eth_chainId"})).await;
    assert_eq!(without_params, json!({"jsonrpc": "2.0", "id": "a", "result": "0x17ae9"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_estimates_and_state_see_the_block_they_name() {
    let chain = Chain::start().await;
    let word = B256::repeat_byte(0x42);
    chain.ok("eth_sendRawTransaction", json!([raw(&dynamic(1, 0, TxKind::Call(EMITTER), 0, word.as_slice()))])).await;
    chain.produce();
    assert_eq!(chain.ok("eth_getStorageAt", json!([EMITTER, "0x0", "latest"])).await, json!(word));
    assert_eq!(chain.ok("eth_getStorageAt", json!([EMITTER, "0x0", "0x0"])).await, json!(B256::ZERO));
    assert!(chain.ok("eth_getCode", json!([EMITTER])).await.as_str().unwrap().starts_with("0x600035"));
    assert_eq!(chain.ok("eth_getCode", json!([Address::ZERO, "latest"])).await, "0x");
    let values =
        chain.ok("eth_getStorageValues", json!([{ (EMITTER.to_string().to_lowercase()): ["0x0", "0x1"] }])).await;
    assert_eq!(values[EMITTER.to_string().to_lowercase()], json!([word, B256::ZERO]));
    let call = json!({ "to": EMITTER, "input": B256::repeat_byte(5) });
    assert_eq!(chain.ok("eth_call", json!([call, "latest"])).await, json!(B256::repeat_byte(5)));
    assert_eq!(chain.ok("eth_call", json!([call])).await, json!(B256::repeat_byte(5)));
    let override_code = json!({ (Address::repeat_byte(0x77).to_string()): { "code": hex::encode_prefixed([0x60, 7, 0x60, 0, 0x52, 0x60, 32, 0x60, 0, 0xf3]) } });
    let seven = chain.ok("eth_call", json!([{ "to": Address::repeat_byte(0x77) }, "latest", override_code])).await;
    assert_eq!(seven, json!(B256::from(U256::from(7))));
    let plain = json!({ "from": key(2).address(), "to": Address::repeat_byte(0x88), "value": "0x1" });
    assert_eq!(chain.ok("eth_estimateGas", json!([plain])).await, "0x5208");
    let gas = number(&chain.ok("eth_estimateGas", json!([call])).await);
    assert!((25_000..60_000).contains(&gas), "{gas}");
}

// row: CHN-40
#[tokio::test(flavor = "multi_thread")]
async fn an_access_list_names_the_touched_slots_and_a_failing_call_has_one_with_its_error() {
    let chain = Chain::start().await;
    let call = json!({ "from": key(1).address(), "to": EMITTER, "input": B256::repeat_byte(5) });
    let found = chain.ok("eth_createAccessList", json!([call])).await;
    assert_eq!(found["accessList"], json!([{ "address": EMITTER, "storageKeys": [B256::ZERO] }]));
    assert!(found.get("error").is_none(), "{found}");
    let mut listed = call.clone();
    listed["accessList"] = found["accessList"].clone();
    assert_eq!(chain.ok("eth_createAccessList", json!([listed, "latest"])).await, found);
    // What the list says it costs is what it costs in a block.
    let tx = with_access_list(1, 0);
    chain.ok("eth_sendRawTransaction", json!([raw(&tx)])).await;
    chain.produce();
    let receipt = chain.ok("eth_getTransactionReceipt", json!([tx.hash()])).await;
    let same = json!({ "from": key(1).address(), "to": EMITTER, "input": B256::repeat_byte(1) });
    let before = chain.ok("eth_createAccessList", json!([same, "0x0"])).await;
    assert_eq!(before["gasUsed"], receipt["gasUsed"]);
    let reverted = chain.ok("eth_createAccessList", json!([{ "to": REVERTER }, "latest"])).await;
    assert_eq!((&reverted["error"], &reverted["accessList"]), (&json!("execution reverted"), &json!([])));
    let spun = chain.ok("eth_createAccessList", json!([{ "to": SPINNER, "gas": "0x186a0" }, "latest"])).await;
    assert_eq!((&spun["error"], &spun["gasUsed"]), (&json!("out of gas"), &json!("0x186a0")));
    let starved = json!({ "to": EMITTER, "input": B256::ZERO, "gas": "0x5400" });
    let (code, message) = chain.refused("eth_createAccessList", json!([starved])).await;
    assert!(code == -32_000 && message.starts_with("intrinsic gas too low"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_begins_at_the_state_root_and_names_keys_as_asked() {
    let chain = Chain::start().await;
    chain.ok("eth_sendRawTransaction", json!([raw(&dynamic(1, 0, TxKind::Call(EMITTER), 0, &[9; 32]))])).await;
    let block = chain.produce();
    let proof = chain.ok("eth_getProof", json!([EMITTER, ["0x00", B256::ZERO], "latest"])).await;
    let first: Bytes = serde_json::from_value(proof["accountProof"][0].clone()).unwrap();
    assert_eq!(keccak256(first), block.block.header.state_root);
    let first: Bytes = serde_json::from_value(proof["storageProof"][0]["proof"][0].clone()).unwrap();
    assert_eq!(json!(keccak256(first)), proof["storageHash"]);
    assert_eq!(proof["storageProof"][0]["key"], "0x0");
    assert_eq!(proof["storageProof"][1]["key"], json!(B256::ZERO));
    assert_eq!(proof["storageProof"][0]["value"], json!(U256::from_be_bytes([9; 32])));
    let nobody = chain.ok("eth_getProof", json!([Address::repeat_byte(0xaa), [], "latest"])).await;
    assert_eq!((&nobody["balance"], &nobody["nonce"]), (&json!("0x0"), &json!("0x0")));
    assert_eq!(nobody["codeHash"], json!(keccak256([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_found_by_address_topic_range_and_hash() {
    let chain = Chain::start().await;
    for nonce in 0..3u8 {
        let tx = dynamic(1, u64::from(nonce), TxKind::Call(EMITTER), 0, &[nonce; 32]);
        chain.ok("eth_sendRawTransaction", json!([raw(&tx)])).await;
        chain
            .ok(
                "eth_sendRawTransaction",
                json!([raw(&dynamic(2, u64::from(nonce), TxKind::Call(EMITTER), 0, &[0xff; 32]))]),
            )
            .await;
        chain.produce();
        chain.produce();
    }
    let all = chain.ok("eth_getLogs", json!([{ "fromBlock": "0x0", "toBlock": "latest", "address": EMITTER }])).await;
    assert_eq!(all.as_array().unwrap().len(), 6);
    assert_eq!(
        (&all[1]["logIndex"], &all[1]["transactionIndex"], &all[1]["removed"]),
        (&json!("0x1"), &json!("0x1"), &json!(false))
    );
    let topic =
        chain.ok("eth_getLogs", json!([{ "fromBlock": "0x3", "toBlock": "0x4", "topics": [[EMIT_TOPIC]] }])).await;
    assert_eq!(topic.as_array().unwrap().len(), 2);
    let hash = &topic[0]["blockHash"];
    assert_eq!(chain.ok("eth_getLogs", json!([{ "blockHash": hash }])).await, topic);
    let receipts = chain.ok("eth_getBlockReceipts", json!(["0x3"])).await;
    assert_eq!(receipts[1]["logs"][0], topic[1]);
    let receipt = chain.ok("eth_getTransactionReceipt", json!([topic[1]["transactionHash"]])).await;
    assert_eq!(receipt, receipts[1]);
    for nothing in [
        json!({ "fromBlock": "0x0", "topics": [B256::ZERO] }),
        json!({ "fromBlock": "0x0", "address": REVERTER }),
        json!({ "fromBlock": "0x0", "topics": [null, null] }),
    ] {
        assert_eq!(chain.ok("eth_getLogs", json!([nothing])).await, json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fees_follow_the_blocks() {
    let chain = Chain::start().await;
    assert_eq!(chain.ok("eth_maxPriorityFeePerGas", json!([])).await, "0xf4240");
    for account in 1..=4 {
        chain.ok("eth_sendRawTransaction", json!([raw(&transfer(account, 0))])).await;
    }
    chain.produce();
    assert_eq!(number(&chain.ok("eth_maxPriorityFeePerGas", json!([])).await), 1_000_000_000);
    let base_fee = number(&chain.ok("eth_baseFee", json!([])).await);
    assert_eq!(base_fee, 1_000_000_000, "the floor holds on an idle chain");
    assert_eq!(number(&chain.ok("eth_gasPrice", json!([])).await), base_fee + 1_000_000_000);
    let history = chain.ok("eth_feeHistory", json!(["0x5", "latest", [10, 50, 90]])).await;
    assert_eq!(history["oldestBlock"], "0x0");
    assert_eq!(history["baseFeePerGas"].as_array().unwrap().len(), 3);
    assert_eq!(history["gasUsedRatio"][1], json!(84_000.0 / 400_000_000.0));
    assert_eq!(history["reward"][1], json!(["0x3b9aca00", "0x3b9aca00", "0x3b9aca00"]));
    assert_eq!(history["reward"][0], json!(["0x0", "0x0", "0x0"]));
    let bare = chain.ok("eth_feeHistory", json!(["0x1", "latest"])).await;
    assert!(bare.get("reward").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_raw_transactions_is_answered_in_its_order() {
    let chain = Chain::start().await;
    let mut batch: Vec<Value> =
        (0..50).map(|nonce| chain.request("eth_sendRawTransaction", json!([raw(&transfer(1, nonce))]))).collect();
    batch.push(chain.request("eth_getTransactionCount", json!([key(1).address(), "pending"])));
    batch.push(chain.request("eth_sendRawTransaction", json!(["0x1234"])));
    batch.push(chain.request("eth_sendRawTransaction", json!([raw(&transfer(1, 0))])));
    batch.push(json!({ "jsonrpc": "2.0", "id": 9_999 }));
    let answers = chain.post(&json!(batch)).await;
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 54);
    for (nonce, (asked, answer)) in (0u64..50).zip(batch.iter().zip(answers)) {
        assert_eq!((&asked["id"], &answer["result"]), (&answer["id"], &json!(transfer(1, nonce).hash())));
    }
    assert_eq!(answers[50]["result"], "0x32", "what comes after sees what came before");
    assert_eq!(answers[51]["error"]["code"], -32_000);
    assert_eq!(answers[52]["error"]["message"], "already known");
    assert_eq!(answers[53]["error"]["code"], -32_600);
    assert_eq!(chain.produce().block.transactions.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_shows_what_waits_and_for_what() {
    let chain = Chain::start().await;
    chain.ok("eth_sendRawTransaction", json!([raw(&transfer(1, 0))])).await;
    chain.ok("eth_sendRawTransaction", json!([raw(&transfer(1, 2))])).await;
    let sender = key(1).address().to_string().to_lowercase();
    let content = chain.ok("txpool_content", json!([])).await;
    assert_eq!(content["pending"][&sender]["0"]["hash"], json!(transfer(1, 0).hash()));
    assert_eq!(content["queued"][&sender]["2"]["hash"], json!(transfer(1, 2).hash()));
    let from = chain.ok("txpool_contentFrom", json!([sender])).await;
    assert_eq!(from["pending"], content["pending"][&sender]);
    let lines = chain.ok("txpool_inspect", json!([])).await;
    assert!(lines["queued"][&sender]["2"].as_str().unwrap().ends_with("1 wei + 21000 gas × 10000000000 wei"));
}

#[tokio::test(flavor = "multi_thread")]
async fn installed_filters_tell_each_thing_once() {
    let chain = Chain::start().await;
    let logs = chain.ok("eth_newFilter", json!([{ "address": EMITTER }])).await;
    let blocks = chain.ok("eth_newBlockFilter", json!([])).await;
    let pending = chain.ok("eth_newPendingTransactionFilter", json!([])).await;
    let tx = dynamic(1, 0, TxKind::Call(EMITTER), 0, &[1; 32]);
    chain.ok("eth_sendRawTransaction", json!([raw(&tx)])).await;
    let block = chain.produce();
    assert_eq!(chain.ok("eth_getFilterChanges", json!([blocks])).await, json!([block.hash]));
    assert_eq!(chain.ok("eth_getFilterChanges", json!([pending])).await, json!([tx.hash()]));
    let told = chain.ok("eth_getFilterChanges", json!([logs])).await;
    assert_eq!(told[0]["transactionHash"], json!(tx.hash()));
    for filter in [&logs, &blocks, &pending] {
        assert_eq!(chain.ok("eth_getFilterChanges", json!([filter])).await, json!([]));
    }
    assert_eq!(chain.ok("eth_getFilterLogs", json!([logs])).await, told);
    assert_eq!(chain.ok("eth_uninstallFilter", json!([logs])).await, true);
    assert_eq!(chain.ok("eth_uninstallFilter", json!([logs])).await, false);
    assert_eq!(chain.refused("eth_getFilterChanges", json!([logs])).await, (-32_000, "filter not found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sent_transaction_can_be_waited_for() {
    let chain = std::sync::Arc::new(Chain::start().await);
    let producer = chain.clone();
    let producing = tokio::spawn(async move {
        while producer.mempool.status().pending == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        producer.produce()
    });
    let receipt = chain.ok("eth_sendRawTransactionSync", json!([raw(&transfer(1, 0)), "0x7530"])).await;
    assert_eq!(receipt["blockHash"], json!(producing.await.unwrap().hash));
    let late = chain.post(&chain.request("eth_sendRawTransactionSync", json!([raw(&transfer(1, 1)), 20]))).await;
    assert_eq!((&late["error"]["code"], &late["error"]["data"]), (&json!(4), &json!(transfer(1, 1).hash())));
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_bytes_hash_to_what_the_header_says() {
    let chain = Chain::start().await;
    chain.ok("eth_sendRawTransaction", json!([raw(&transfer(1, 0))])).await;
    let block = chain.produce();
    let header: Bytes = serde_json::from_value(chain.ok("debug_getRawHeader", json!(["latest"])).await).unwrap();
    assert_eq!(keccak256(&header), block.hash);
    let whole: Bytes = serde_json::from_value(chain.ok("debug_getRawBlock", json!(["latest"])).await).unwrap();
    let size = number(&chain.ok("eth_getBlockByNumber", json!(["latest", false])).await["size"]);
    assert_eq!(whole.len() as u64, size);
    let receipts = chain.ok("debug_getRawReceipts", json!(["latest"])).await;
    assert!(receipts[0].as_str().unwrap().starts_with("0x02f9"));
    assert_eq!(chain.ok("debug_getRawTransaction", json!([transfer(1, 0).hash()])).await, raw(&transfer(1, 0)));
}
