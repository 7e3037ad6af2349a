//! Checkpoints of a chain of several processes, checked from outside with the committee's keys.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_primitives::Bytes;
use serde_json::{Value, json};
use std::time::Duration;
use trellis_chain_finality::{CheckpointCertificate, CheckpointCommittee, PostQuantumCertificate};
use trellis_scenarios::chain::{block_hash, call, height};
use trellis_scenarios::network::Network;
use trellis_scenarios::wait::until;

/// A loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);

fn rpc(network: &Network, validator: u32) -> String {
    format!("http://{}", network.endpoint(&format!("validator-{validator}"), "rpc"))
}

fn checkpoint(rpc: &str, height: u64) -> Value {
    call(rpc, "trellis_getCheckpoint", json!([format!("0x{height:x}")]))
}

fn bytes(value: &Value) -> Bytes {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// Whether a checkpoint is there with both certificates.
fn is_whole(rpc: &str, height: u64) -> bool {
    let found = checkpoint(rpc, height);
    found["certificate"].is_string() && found["postQuantum"].is_string()
}

// row: CHN-15
#[test]
fn checkpoints_of_four_validators_hold_for_anyone_with_their_keys_and_survive_the_kill_of_one() {
    let flags = ["--block-time-ms", "250", "--epoch-blocks", "20", "--checkpoint-blocks", "8"];
    let network = Network::validators_with(4, &flags);
    let rpcs: Vec<String> = (0..4).map(|n| rpc(&network, n)).collect();
    until(PATIENCE, "all have the first checkpoint", || rpcs.iter().all(|rpc| is_whole(rpc, 8)));
    // The committee's keys are public here: nothing of what a node says about itself is believed.
    let committee = call(&rpcs[1], "trellis_getCheckpointCommittee", json!(["0x8"]));
    let committee = CheckpointCommittee::decode_exact(&bytes(&committee["committee"])).unwrap();
    let first = checkpoint(&rpcs[0], 8);
    let short = CheckpointCertificate::decode_exact(&bytes(&first["certificate"])).unwrap();
    let genesis = serde_json::from_value(block_hash(&rpcs[0], 0)).unwrap();
    short.verify(&committee, genesis).unwrap();
    assert_eq!(json!(short.block_hash), block_hash(&rpcs[3], 8));
    let long = PostQuantumCertificate::decode_exact(&bytes(&first["postQuantum"])).unwrap();
    long.verify(&committee, genesis).unwrap();
    assert!(short.verify(&committee, Default::default()).is_err());
    println!(
        "certificate {} bytes, post-quantum {} bytes",
        bytes(&first["certificate"]).len(),
        bytes(&first["postQuantum"]).len()
    );
    // One dies; the other three, of four, make the next ones. What it had it has again, and takes part again.
    network.kill("validator-2");
    let dead_at = height(&rpcs[0]);
    let next = (dead_at / 8 + 1) * 8;
    until(PATIENCE, "the next checkpoint", || is_whole(&rpcs[0], next));
    until(PATIENCE, "it comes back", || network.status("validator-2")["ready"] == true);
    let back = rpc(&network, 2);
    assert!(is_whole(&back, 8), "what was kept is there again");
    until(PATIENCE, "it has what was signed without it", || checkpoint(&back, next)["certificate"].is_string());
    assert_eq!(checkpoint(&back, next)["blockHash"], checkpoint(&rpcs[0], next)["blockHash"]);
    let later = (height(&rpcs[0]) / 8 + 2) * 8;
    until(PATIENCE, "it collects again", || is_whole(&back, later));
    // From the first committee's keys on, over the hand-overs at 21, 41, …, with a node that is not believed.
    let spec = network.folder().join("chain_spec.toml");
    let spec = spec.to_str().expect("text");
    let at = later.to_string();
    let told =
        network.trellis(&["chain", "checkpoint", &at, "--chain", spec, "--rpc", &back, "--post-quantum", "--json"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let told = told.json();
    assert_eq!((&told["height"], &told["block_hash"]), (&json!(later), &block_hash(&rpcs[1], later)), "{told}");
    assert!(told["bls"]["bytes"].as_u64() < Some(200) && told["ml_dsa_44"]["signers"].as_u64() >= Some(3), "{told}");
    // With one committee's keys alone; another's are refused.
    let file = network.folder().join("committee.hex");
    let keys = call(&rpcs[0], "trellis_getCheckpointCommittee", json!([format!("0x{later:x}")]));
    std::fs::write(&file, keys["committee"].as_str().expect("hex")).unwrap();
    let file = file.to_str().expect("text");
    let with_keys =
        |rpc: &str| network.trellis(&["chain", "checkpoint", &at, "--chain", spec, "--rpc", rpc, "--committee", file]);
    let told = with_keys(&rpcs[0]);
    assert!(told.code == 0 && told.stdout.contains("holds"), "{}", told.stderr);
    let wrong = network.trellis(&["chain", "checkpoint", &at, "--chain", "dev", "--rpc", &rpcs[0]]);
    assert_ne!(wrong.code, 0, "another chain's keys: {}", wrong.stdout);
    let none = network.trellis(&["chain", "checkpoint", "9", "--chain", spec, "--rpc", &rpcs[0]]);
    assert!(none.code != 0 && none.stderr.contains("hint: "), "{}", none.stderr);
    network.stop();
}
