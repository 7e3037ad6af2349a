//! Clients that other people made, unchanged, against a network of real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use trellis_scenarios::chain::ask;
use trellis_scenarios::network::Network;
use trellis_scenarios::program::{Ended, own, run, tool};

/// Account 1 of the standard test mnemonic, whose key everybody knows.
const KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
/// An address that nobody has used yet.
const FRESH: &str = "0x00000000000000000000000000000000c0ffee01";

fn python() -> PathBuf {
    tool("TRELLIS_PYTHON", "clients/bin/python", "a python with openai and web3")
}

fn modules() -> PathBuf {
    tool("TRELLIS_NODE_MODULES", "npm/node_modules", "openai, ethers and cast for node")
}

fn script(name: &str) -> PathBuf {
    own("clients").join(name)
}

fn artifact() -> PathBuf {
    own("../contracts/artifacts/WTRL.json")
}

fn node(name: &str, arguments: &[&str]) -> Ended {
    let mut command = Command::new("node");
    command.arg(script(name)).arg(modules()).args(arguments);
    run(command)
}

fn cast(rpc: &str, arguments: &[&str]) -> Ended {
    let mut command = Command::new(modules().join("@foundry-rs/cast-linux-amd64/bin/cast"));
    command.args(arguments).args(["--rpc-url", rpc]);
    run(command)
}

// row: MKT-10
#[test]
fn the_openai_clients_of_python_and_javascript_list_chat_and_stream() {
    let (python, _) = (python(), modules());
    let network = Network::start();
    let mut command = Command::new(python);
    command.arg(script("openai_client.py")).arg(network.openai());
    assert!(run(command).succeeded().stdout.starts_with("ok:"));
    assert!(node("openai_client.mjs", &[&network.openai()]).succeeded().stdout.starts_with("ok:"));
}

// row: CHN-20
#[test]
fn web3_py_and_ethers_transfer_deploy_and_read_logs() {
    let (python, _) = (python(), modules());
    let network = Network::start();
    let artifact = artifact();
    let mut command = Command::new(python);
    command.arg(script("web3_client.py")).args([&network.rpc(), KEY]).arg(&artifact);
    assert!(run(command).succeeded().stdout.starts_with("ok:"));
    let ended = node("ethers_client.mjs", &[&network.rpc(), KEY, &artifact.to_string_lossy()]);
    assert!(ended.succeeded().stdout.starts_with("ok:"));
}

// row: CHN-20
#[test]
fn cast_transfers_deploys_and_reads_logs() {
    let _ = modules();
    let network = Network::start();
    let rpc = network.rpc();
    cast(&rpc, &["send", FRESH, "--value", "5", "--private-key", KEY]).succeeded();
    assert_eq!(cast(&rpc, &["balance", FRESH]).succeeded().stdout.trim(), "5");

    let text = std::fs::read_to_string(artifact()).unwrap();
    let artifact: serde_json::Value = serde_json::from_str(&text).unwrap();
    let code = artifact["bytecode"]["object"].as_str().or(artifact["bytecode"].as_str()).unwrap();
    // `--create` ends cast's own options, so the endpoint goes before it.
    let mut deploy = Command::new(modules().join("@foundry-rs/cast-linux-amd64/bin/cast"));
    deploy.args(["send", "--json", "--rpc-url", &rpc, "--private-key", KEY, "--create", code]);
    let contract = run(deploy).succeeded().json()["contractAddress"].as_str().unwrap().to_owned();
    cast(&rpc, &["send", &contract, "deposit()", "--value", "777", "--private-key", KEY]).succeeded();
    let logs = cast(&rpc, &["logs", "--json", "--from-block", "1", "--address", &contract]).succeeded().json();
    assert!(!logs.as_array().unwrap().is_empty(), "no log of the deposit");
}

// row: CHN-20, CHN-22
#[test]
fn transactions_for_another_chain_underpriced_or_with_a_used_nonce_are_refused_in_ethereums_words() {
    let _ = modules();
    let network = Network::start();
    let rpc = network.rpc();
    let raw = |more: &[&str]| {
        let fixed = ["mktx", FRESH, "--value", "5", "--private-key", KEY, "--gas-limit", "30000"];
        cast(&rpc, &[&fixed[..], more].concat()).succeeded().stdout.trim().to_owned()
    };
    let fees = ["--gas-price", "5000000000", "--priority-gas-price", "1000000000"];
    let refused = |transaction: String, words: &str| {
        let error = ask(&rpc, "eth_sendRawTransaction", json!([transaction])).expect_err("it was taken");
        let message = error["message"].as_str().unwrap_or_default().to_lowercase();
        assert!(error["code"].is_i64() && message.contains(words), "{words:?} is not in {error}");
    };
    refused(other_chain(), "chain");
    refused(raw(&["--nonce", "0", "--gas-price", "1", "--priority-gas-price", "1"]), "underpriced");
    let good = raw(&[&["--nonce", "0"][..], &fees].concat());
    ask(&rpc, "eth_sendRawTransaction", json!([good])).expect("a good transaction is taken");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while cast(&rpc, &["balance", FRESH]).succeeded().stdout.trim() != "5" {
        assert!(std::time::Instant::now() < deadline, "the good transaction is in no block");
    }
    refused(raw(&[&["--nonce", "0"][..], &fees].concat()), "nonce too low");
    assert_eq!(cast(&rpc, &["balance", FRESH]).succeeded().stdout.trim(), "5");
}

/// A transfer signed for chain 1, made without asking any node.
fn other_chain() -> String {
    let mut command = Command::new(modules().join("@foundry-rs/cast-linux-amd64/bin/cast"));
    command.args([
        "mktx",
        FRESH,
        "--value",
        "5",
        "--private-key",
        KEY,
        "--gas-limit",
        "30000",
        "--nonce",
        "0",
        "--chain",
        "1",
    ]);
    command.args([
        "--gas-price",
        "5000000000",
        "--priority-gas-price",
        "1000000000",
        "--rpc-url",
        "http://127.0.0.1:1",
    ]);
    run(command).succeeded().stdout.trim().to_owned()
}
