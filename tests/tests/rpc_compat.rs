//! An Ethereum chain through the commands that a person types: imported, served, asked; and refused where it is damaged.

use serde_json::json;
use std::process::Command;
use trellis_scenarios::compat::served::Served;
use trellis_scenarios::program::{own, trellis_in};

fn unpacked() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    let sample = own("data/rpc-compat-sample.tar.gz");
    let done = Command::new("tar").arg("xzf").arg(sample).arg("-C").arg(folder.path()).status().expect("tar");
    assert!(done.success());
    folder
}

// row: CHN-41
#[test]
fn an_imported_chain_is_served_with_the_head_it_was_told() {
    let suite = unpacked();
    let served = Served::start(suite.path()).expect("served");
    assert_eq!(served.head.trim(), "54 0xd226371d0b1551adb03fb52b71f08e3e11247fe9b1af994768af8cdaa8e7dcd7");
    let ask = |method: &str, params: serde_json::Value| {
        served.ask(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})).expect("answer")["result"]
            .clone()
    };
    assert_eq!(ask("eth_blockNumber", json!([])), json!("0x36"));
    assert_eq!(ask("eth_chainId", json!([])), json!("0xc72dd9d5e883e"));
    assert_eq!(ask("eth_getBlockByNumber", json!(["finalized", false]))["number"], json!("0x36"));
    assert_eq!(ask("ots_getApiLevel", json!([])), json!(8));
}

#[test]
fn a_damaged_chain_is_refused_at_the_block_that_is_wrong_and_the_blocks_before_are_kept() {
    let suite = unpacked();
    let path = suite.path().join("chain.rlp");
    let mut chain = std::fs::read(&path).expect("chain");
    let middle = chain.len() / 2;
    chain[middle] ^= 1;
    std::fs::write(&path, chain).expect("write");
    let folder = tempfile::tempdir().expect("temporary folder");
    let (file, genesis) = (path.display().to_string(), suite.path().join("genesis.json").display().to_string());
    trellis_in(folder.path(), &["chain", "import", &file, "--genesis", &genesis]).failed_with(1, &["block"]);
    trellis_in(tempfile::tempdir().expect("folder").path(), &["chain", "serve"]).failed_with(1, &["no imported chain"]);
}
