//! Nodes that follow the chain: a full node that is killed on its way, a validator that comes late.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use trellis_scenarios::chain::{block_hash, call, height, height_if_answered, number};
use trellis_scenarios::network::{Network, Node, metric};
use trellis_scenarios::program::{trellis, trellis_in};
use trellis_scenarios::wait::until;

/// A loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// Blocks of the chain before somebody comes who has none.
const BLOCKS: u64 = 150;
/// Account 0 of the test mnemonic.
const RICH: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

fn url(node: &Node) -> String {
    format!("http://{}", node.endpoint("rpc"))
}

/// A chain of four with short epochs, as high as is wanted.
fn chain_of_four() -> (Network, String) {
    let network = Network::validators_with(4, &["--block-time-ms", "100", "--epoch-blocks", "16"]);
    let rpc = format!("http://{}", network.endpoint("validator-0", "rpc"));
    let all = network.trellis(&["validator", "list", "--rpc", &rpc, "--json"]).succeeded().json();
    let validator = all["validators"][0]["account"].as_str().expect("an account").to_owned();
    for from in ["0", "1", "2"] {
        let delegate = ["validator", "delegate", &validator, "5", "--dev-account", from, "--rpc", &rpc];
        network.trellis(&delegate).succeeded();
    }
    until(PATIENCE, "the chain has grown", || height(&rpc) >= BLOCKS);
    (network, rpc)
}

/// The flags of a node beside these validators that knows the first of them only.
fn flags(network: &Network, role: &str) -> Vec<String> {
    let spec = network.folder().join("chain_spec.toml").display().to_string();
    let peer = network.endpoint("validator-0", "p2p");
    let listen = "/ip4/127.0.0.1/udp/0/quic-v1";
    let all = [
        role,
        "--chain",
        &spec,
        "--listen",
        listen,
        "--rpc-listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
        "--peers",
        &peer,
        "--dev-account",
        "5",
    ];
    all.map(str::to_owned).to_vec()
}

fn root(rpc: &str, height: u64) -> Value {
    call(rpc, "eth_getBlockByNumber", json!([format!("0x{height:x}"), false]))["stateRoot"].clone()
}

// row: CHN-30, CHN-31, CHN-40
#[test]
fn a_fresh_full_node_that_is_killed_three_times_has_the_same_chain_and_follows_it() {
    let (network, first) = chain_of_four();
    let flags = flags(&network, "full");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut reached = Vec::new();
    for _ in 0..3 {
        let node = Node::start_in(folder.path(), &flags);
        let before = reached.last().copied().unwrap_or(0);
        let mut seen = before;
        until(PATIENCE, "it has taken blocks", || {
            seen = node.asked("admin_status")["height"].as_u64().unwrap_or(0);
            seen > before
        });
        node.kill();
        reached.push(seen);
    }
    println!("killed after these heights were seen: {reached:?}");
    let node = Node::start_in(folder.path(), &flags);
    let own = url(&node);
    let goal = height(&first);
    until(PATIENCE, "it has caught up", || height(&own) >= goal);
    for at in [1, 16, 17, 18, 19, goal / 2, goal] {
        assert_eq!(block_hash(&own, at), block_hash(&first, at), "block {at}");
        assert_eq!(root(&own, at), root(&first, at), "state of block {at}");
    }
    until(PATIENCE, "it says that it is synced", || call(&own, "eth_syncing", json!([])) == false);
    assert_eq!(node.status()["sync"]["syncing"], false, "{}", node.status());
    let metrics = node.endpoint("metrics");
    until(PATIENCE, "its metric says so", || metric(&metrics, "trellis_sync_progress", "") > 0.9);
    // The certificates that it keeps prove its blocks to others.
    let proof = call(&own, "trellis_getFinalityProof", json!([format!("0x{:x}", goal / 2)]));
    assert!(proof["signatures"].as_array().is_some_and(|all| all.len() >= 3), "{proof}");
    follows(&first, &own);
    takes_transactions(&network, &first, &own);
    node.stop();
    snapshots(&network, &first, folder.path());
    network.stop();
}

/// The state of a node that has stopped is proved, and another one begins with it.
fn snapshots(network: &Network, first: &str, folder: &Path) {
    let spec = network.folder().join("chain_spec.toml").display().to_string();
    let file = folder.join("state.snapshot");
    let name = file.to_str().expect("text");
    let written = trellis_in(folder, &["snapshot", "export", name, "--json"]).succeeded().json();
    let proved = trellis(&["snapshot", "verify", name, "--chain", &spec, "--json"]).succeeded().json();
    assert_eq!((&proved["height"], &proved["state_root"]), (&written["height"], &written["state_root"]));
    let height_of = written["height"].as_u64().expect("a height");
    assert_eq!(written["hash"], block_hash(first, height_of));
    let other = tempfile::tempdir().expect("temporary folder");
    trellis_in(other.path(), &["snapshot", "import", name, "--chain", &spec]).succeeded();
    trellis_in(other.path(), &["snapshot", "import", name, "--chain", &spec])
        .failed_with(1, &["holds a chain already"]);
    let flags = flags(network, "full");
    let node = Node::start_in(other.path(), &flags.iter().map(String::as_str).collect::<Vec<_>>());
    let own = url(&node);
    assert!(height(&own) >= height_of, "it begins where the snapshot was taken");
    let goal = height(first);
    until(PATIENCE, "it follows from there", || height(&own) >= goal);
    assert_eq!(root(&own, goal), root(first, goal));
    node.stop();
    let mut bent = std::fs::read(&file).expect("a snapshot");
    let middle = bent.len() / 2;
    bent[middle] ^= 1;
    std::fs::write(&file, bent).expect("written");
    let refused = trellis(&["snapshot", "verify", name, "--chain", &spec]);
    assert!(refused.code == 1 && refused.stderr.contains("of the snapshot"), "{refused:?}");
}

/// New blocks come as they are final.
fn follows(first: &str, own: &str) {
    let mut waits = Vec::new();
    for _ in 0..20 {
        let goal = height(first);
        let began = Instant::now();
        while height_if_answered(own).is_none_or(|own| own < goal) {
            assert!(began.elapsed() < PATIENCE, "it does not follow");
            std::thread::sleep(Duration::from_millis(5));
        }
        waits.push(began.elapsed());
        std::thread::sleep(Duration::from_millis(130));
    }
    waits.sort();
    println!(
        "a block that a validator has, the full node has after {:?} in the median, {:?} at most",
        waits[10], waits[19]
    );
}

/// A transaction that is given to the full node is in a block, and the full node shows it.
fn takes_transactions(network: &Network, first: &str, own: &str) {
    let balance = |rpc: &str| number(&call(rpc, "eth_getBalance", json!([RICH, "latest"])));
    let before = balance(own);
    let all = network.trellis(&["validator", "list", "--rpc", own, "--json"]).succeeded().json();
    let validator = all["validators"][1]["account"].as_str().expect("an account").to_owned();
    network.trellis(&["validator", "delegate", &validator, "7", "--dev-account", "0", "--rpc", own]).succeeded();
    until(PATIENCE, "the full node shows it", || balance(own) < before);
    until(PATIENCE, "so do the others", || balance(first) == balance(own));
}

// row: CHN-30
#[test]
fn a_validator_that_is_far_behind_catches_up_before_its_engine_starts() {
    let (network, first) = chain_of_four();
    let flags = flags(&network, "validator");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let node = Node::start(&flags);
    // It is ready when its engine runs, and by then it is near.
    let (own, goal) = (url(&node), height(&first));
    let synced = metric(&node.endpoint("metrics"), "trellis_sync_committed_total", "");
    assert!(synced > 0.0, "no block came by sync");
    until(PATIENCE, "it follows", || height(&own) >= goal + 5);
    assert_eq!(block_hash(&own, goal), block_hash(&first, goal));
    node.stop();
    network.stop();
}
