//! A chain of Ethereum's from Frontier to Osaka (tests/data/RPC_COMPAT.md), and simulations on it: every root and every hash
//! is the one that Ethereum's clients agree on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use alloy_primitives::{B256, U256};
use alloy_rlp::Decodable;
use alloy_rpc_types::state::StateOverride;
use alloy_rpc_types::{BlockOverrides, TransactionRequest};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use trellis_chain_execution::{
    BlockError, EthereumBlock, Executor, ForkSchedule, SimulatedBlockRequest, SimulationRequest, ethereum_genesis,
};
use trellis_chain_storage::Store;

const SAMPLE: &[u8] = include_bytes!("../../../tests/data/rpc-compat-sample.tar.gz");

fn files() -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(SAMPLE));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (path.trim_start_matches("./").to_owned(), bytes)
    });
    entries.collect()
}

fn blocks(files: &BTreeMap<String, Vec<u8>>) -> Vec<EthereumBlock> {
    let mut rest = files["chain.rlp"].as_slice();
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        blocks.push(EthereumBlock::decode(&mut rest).unwrap());
    }
    blocks
}

fn begun(files: &BTreeMap<String, Vec<u8>>) -> (Store, Executor) {
    let genesis: alloy_genesis::Genesis = serde_json::from_slice(&files["genesis.json"]).unwrap();
    let store = Store::in_memory(&ethereum_genesis(&genesis).unwrap()).unwrap();
    (store, Executor::ethereum(ForkSchedule::new(genesis.config)))
}

fn imported(files: &BTreeMap<String, Vec<u8>>) -> (Store, Executor) {
    let (store, executor) = begun(files);
    for block in blocks(files) {
        store.commit(executor.execute_ethereum_block(&store.head(), block).unwrap(), None).unwrap();
    }
    (store, executor)
}

// row: CHN-20
#[test]
fn every_block_from_frontier_to_osaka_has_the_roots_that_its_header_says() {
    let files = files();
    let (store, executor) = imported(&files);
    assert_eq!(store.height(), 54);
    let head = "0xd226371d0b1551adb03fb52b71f08e3e11247fe9b1af994768af8cdaa8e7dcd7";
    assert_eq!(store.head().block_hash().to_string(), head);
    assert_eq!(executor.next_base_fee(store.head().header()), Some(0x16d_fe9b));
    let before_byzantium = store.block(1).unwrap().unwrap();
    let roots = before_byzantium.ethereum.as_ref().unwrap().receipt_roots.clone();
    assert_eq!(roots.len(), 4);
    assert_eq!(roots[0].to_string(), "0x9d6eec3457f11763a235d68c58367a740f429f01fd310692736b54e0019df44b");
}

// row: CHN-20
#[test]
fn a_block_that_breaks_a_rule_is_refused_and_the_rule_is_named() {
    let files = files();
    let all = blocks(&files);
    let (store, executor) = begun(&files);
    let refused = |block: EthereumBlock| match executor.execute_ethereum_block(&store.head(), block).unwrap_err() {
        BlockError::Field { field, .. } => field.to_owned(),
        other => other.to_string(),
    };
    let changed = |change: &dyn Fn(&mut EthereumBlock)| {
        let mut block = all[0].clone();
        change(&mut block);
        refused(block)
    };
    assert_eq!(changed(&|block| block.header.parent_hash = B256::ZERO), "parentHash");
    assert_eq!(changed(&|block| block.header.timestamp = 0), "timestamp");
    assert_eq!(changed(&|block| block.header.gas_limit *= 2), "gasLimit");
    assert_eq!(changed(&|block| block.header.gas_used += 1), "gasUsed");
    assert_eq!(changed(&|block| block.header.state_root = B256::ZERO), "stateRoot");
    assert_eq!(changed(&|block| block.header.receipts_root = B256::ZERO), "receiptsRoot");
    assert_eq!(changed(&|block| block.header.base_fee_per_gas = Some(7)), "baseFeePerGas");
    assert_eq!(changed(&|block| block.header.requests_hash = Some(B256::ZERO)), "requestsHash is there");
    assert_eq!(changed(&|block| drop(block.body.transactions.pop())), "transactionsRoot");
    assert_eq!(refused(all[1].clone()), "parentHash");
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    block_state_calls: Vec<AskedBlock>,
    #[serde(default)]
    trace_transfers: bool,
    #[serde(default)]
    validation: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AskedBlock {
    block_overrides: Option<BlockOverrides>,
    state_overrides: Option<StateOverride>,
    calls: Option<Vec<TransactionRequest>>,
}

fn simulate(store: &Store, executor: &Executor, request: &Value) -> Result<Vec<Value>, String> {
    let asked: Asked = serde_json::from_value(request["params"][0].clone()).map_err(|error| error.to_string())?;
    let base = match request["params"][1].as_str() {
        Some(number) if number.starts_with("0x") => {
            let number: U256 = number.parse().unwrap();
            store.state_at(number.to()).map_err(|error| error.to_string())?
        }
        _ => store.head(),
    };
    let blocks = asked.block_state_calls.into_iter().map(|block| SimulatedBlockRequest {
        overrides: block.block_overrides.unwrap_or_default(),
        withdrawals: Vec::new(),
        state: block.state_overrides.unwrap_or_default(),
        calls: block.calls.unwrap_or_default(),
    });
    let request =
        SimulationRequest { blocks: blocks.collect(), transfers: asked.trace_transfers, validation: asked.validation };
    let done = executor.simulate(&base, &request, &|| false).map_err(|error| error.to_string())?;
    Ok(done.iter().map(|block| serde_json::to_value(&block.header).unwrap()).collect())
}

// row: CHN-41
#[test]
fn simulated_blocks_have_the_headers_that_ethereums_clients_agree_on() {
    let files = files();
    let (store, executor) = imported(&files);
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("eth_simulateV1/") && name.ends_with(".io")) {
        let text = String::from_utf8_lossy(bytes);
        let line = |mark: &str| -> Value {
            serde_json::from_str(text.lines().find_map(|line| line.strip_prefix(mark)).unwrap()).unwrap()
        };
        let (request, expected) = (line(">>"), line("<<"));
        match (expected.get("result").and_then(Value::as_array), simulate(&store, &executor, &request)) {
            (None, Err(_)) => compared += 1,
            (Some(expected), Ok(ours)) if expected.len() == ours.len() => {
                compared += 1;
                for (expected, ours) in expected.iter().zip(&ours) {
                    let fields = ours.as_object().unwrap().iter().filter(|(field, value)| expected[*field] != **value);
                    wrong.extend(
                        fields.map(|(field, value)| format!("{name}: {field} {value} not {}", expected[field])),
                    );
                }
            }
            (expected, ours) => {
                wrong.push(format!("{name}: {ours:?} instead of {expected:?}").chars().take(600).collect())
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences: {wrong:#?}", wrong.len());
    assert_eq!(compared, 47);
}
