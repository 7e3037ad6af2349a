//! Bad input from every side: a clear error each time, and nothing lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::{Value, json};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use trellis_scenarios::api::{chat, job};
use trellis_scenarios::chain::{block_hash, height};
use trellis_scenarios::http::exchange;
use trellis_scenarios::network::{Network, Node};
use trellis_scenarios::program::trellis_in;

/// Bytes of a prompt that no gateway takes.
const HUGE_PROMPT_BYTES: usize = 2 * 1024 * 1024;
/// Datagrams of nonsense.
const GARBAGE_COUNT: u32 = 2_000;

/// Flags of a role that listens nowhere that matters.
const APART: [&str; 6] = ["--chain", "dev", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--metrics-listen", "off"];

fn validator(folder: &Path, more: &[&str]) -> trellis_scenarios::program::Ended {
    let mut arguments = vec!["validator", "--rpc-listen", "127.0.0.1:0"];
    arguments.extend(APART);
    arguments.retain(|argument| !more.contains(&"--rpc-listen") || !["--rpc-listen", "127.0.0.1:0"].contains(argument));
    arguments.extend(more);
    trellis_in(folder, &arguments)
}

fn refused(url: &str, body: &[u8], status: &[u16], word: &str) {
    let (found, answer) = exchange("POST", url, &[], body);
    assert!(status.contains(&found), "{found}: {answer}");
    let message = answer["error"]["message"].as_str().unwrap_or_else(|| panic!("no error message: {answer}"));
    assert!(message.contains(word), "{word:?} is not in {message:?}");
    assert!(answer["error"]["type"].is_string(), "{answer}");
}

// row: MKT-10, MKT-11
#[test]
fn the_gateway_refuses_bad_requests_by_name_and_serves_the_next_one() {
    let network = Network::start();
    let openai = network.openai();
    let url = format!("{openai}/chat/completions");
    let with = |key: &str, value: Value| {
        let mut body = chat("Hello", 4, false);
        body[key] = value;
        body.to_string().into_bytes()
    };
    refused(&url, b"{\"model\":", &[400], "JSON");
    refused(&url, &with("model", json!("no-such-model")), &[404], "no-such-model");
    refused(&url, &with("max_tokens", json!(-1)), &[400], "max_tokens");
    refused(&url, &with("max_tokens", json!(99_999_999_999u64)), &[400], "max_tokens");
    refused(&url, &with("messages", json!("not a list")), &[400], "messages");
    let huge = chat(&"x".repeat(HUGE_PROMPT_BYTES), 4, false).to_string();
    refused(&url, huge.as_bytes(), &[400, 413], "");
    refused(&format!("{openai}/no/such/path"), b"{}", &[404], "/no/such/path");

    let answer = job(&openai, chat("Hello", 4, false));
    assert!(answer.is_paid_answer(), "{answer:?}");
    let listed = network.trellis(&["receipt", "list", "--json"]).succeeded().json();
    let charged: Vec<&Value> =
        listed["receipts"].as_array().unwrap().iter().filter(|receipt| receipt["journal"] == "gateway").collect();
    assert_eq!(charged.len(), 1, "a refused request is neither run nor charged: {listed}");
}

// row: MKT-10
#[test]
fn a_gateway_with_keys_serves_only_those_who_have_one() {
    let network = Network::start();
    let (rpc, peers) = (network.rpc(), network.endpoint("provider", "p2p"));
    let own = [
        "--http-listen",
        "127.0.0.1:0",
        "--api-keys",
        "good-key",
        "--rpc",
        &rpc,
        "--peers",
        &peers,
        "--dev-account",
        "5",
    ];
    let gateway = Node::start(&[&["gateway"][..], &APART, &own].concat());
    let url = format!("http://{}/v1/models", gateway.status()["endpoints"]["http"].as_str().unwrap());
    for headers in [&[][..], &[("Authorization", "Bearer bad-key")], &[("Authorization", "good-key")]] {
        let (status, answer) = exchange("GET", &url, headers, b"");
        assert_eq!(status, 401, "{headers:?}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|message| message.contains("key")), "{answer}");
    }
    let (status, answer) = exchange("GET", &url, &[("Authorization", "Bearer good-key")], b"");
    assert_eq!((status, answer["object"].as_str()), (200, Some("list")), "{answer}");
}

// row: NET-19
#[test]
fn garbage_on_the_p2p_ports_changes_nothing() {
    let network = Network::start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for role in ["validator", "provider", "gateway"] {
        let address = network.endpoint(role, "p2p");
        let port: u16 = address.split('/').nth(4).unwrap().parse().unwrap();
        for number in 0..GARBAGE_COUNT {
            let datagram: Vec<u8> =
                (0..1_200u32).map(|i| (i.wrapping_mul(number).wrapping_add(number) >> 3) as u8).collect();
            let _ = socket.send_to(&datagram, ("127.0.0.1", port));
        }
    }
    let rpc = network.rpc();
    let before = height(&rpc);
    let answer = job(&network.openai(), chat("Hello", 4, true));
    assert!(answer.is_paid_answer(), "{answer:?}");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while height(&rpc) <= before {
        assert!(std::time::Instant::now() < deadline, "no block after the garbage");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(network.status("gateway")["peers_connected"], 3);
}

// row: OPS-01, OPS-11
#[test]
fn a_taken_port_is_named_with_its_holder() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let holder = format!("process {}", std::process::id());
    validator(folder.path(), &["--rpc-listen", &address]).failed_with(1, &[&address, "is taken", &holder]);
}

// row: OPS-01
#[test]
fn a_data_folder_that_cannot_be_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "a file where the folder should be").unwrap();
    validator(&file, &[]).failed_with(1, &["cannot make the data folder", &file.to_string_lossy()]);
    validator(&file.join("below"), &[]).failed_with(1, &["cannot make the data folder"]);
    // Root may write everywhere but in the kernel's own read-only trees.
    validator(Path::new("/proc/trellis"), &[]).failed_with(1, &["cannot make the data folder"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a file where the folder should be");
}

// row: OPS-01, OPS-05, OPS-10
#[test]
fn wrong_use_is_told_from_failure_by_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(trellis_in(folder.path(), &["no-such-command"]).code, 2);
    trellis_in(folder.path(), &["peer", "list"]).failed_with(1, &[]);
    let open = ["--http-listen", "0.0.0.0:0", "--rpc", "http://127.0.0.1:1"];
    assert_ne!(trellis_in(folder.path(), &[&["gateway"][..], &APART, &open].concat()).code, 0);
    std::fs::write(folder.path().join("config.toml"), "rpc_listne = \"127.0.0.1:0\"\n").unwrap();
    validator(folder.path(), &[]).failed_with(2, &["config.toml", "did you mean `rpc_listen`?"]);
}

// row: NET-02, OPS-01
#[test]
fn a_wrong_passphrase_a_corrupt_keystore_a_second_node_and_a_cut_database_lose_nothing() {
    let network = Network::start();
    let answer = job(&network.openai(), chat("Hello", 4, false));
    assert!(answer.is_paid_answer(), "{answer:?}");
    let folder = network.folder().join("validator");
    validator(&folder, &[]).failed_with(1, &["is in use by process", &network.pid("validator").unwrap().to_string()]);
    let rpc = network.rpc();
    let seen = height(&rpc);
    let hash = block_hash(&rpc, seen);
    let kept = network.stop();

    let wrong = kept.path().join("wrong-passphrase");
    std::fs::write(&wrong, "not this one").unwrap();
    validator(&folder, &["--passphrase-file", &wrong.to_string_lossy()]).failed_with(4, &["passphrase", "node.key"]);

    let key = folder.join("keys/node.key");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, &good[..good.len() / 2]).unwrap();
    validator(&folder, &[]).failed_with(1, &["corrupt", "node.key"]);
    std::fs::write(&key, &good).unwrap();

    let blocks = folder.join("chain/segments/000000.seg");
    let good = std::fs::read(&blocks).unwrap();
    std::fs::write(&blocks, &good[..good.len() - 1]).unwrap();
    validator(&folder, &[]).failed_with(1, &["final", "hint: move the folder away and sync again"]);
    std::fs::write(&blocks, &good).unwrap();

    // The database alone is made again from the blocks. An odd length: what ends with a page may have lost nothing but space that
    // was never used, and is good then.
    let database = folder.join("chain/state.redb");
    let good = std::fs::read(&database).unwrap();
    std::fs::write(&database, &good[..(good.len() / 3) | 1]).unwrap();

    let network = Network::start_in(kept);
    let rpc = network.rpc();
    assert_eq!(block_hash(&rpc, seen), hash, "the block of before is still there");
    assert!(network.folder().join("validator/chain/state.redb.damaged").exists(), "the damaged one is kept");
    let answer = job(&network.openai(), chat("Hello again", 4, false));
    assert!(answer.is_paid_answer(), "{answer:?}");
}
