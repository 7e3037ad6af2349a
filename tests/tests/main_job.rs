//! The main job, end to end: asked, answered, paid, receipted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use trellis_scenarios::api::{chat, job};
use trellis_scenarios::http::exchange;
use trellis_scenarios::network::{Network, ROLES};

/// How long the network may take until it is ready, while other builds use the machine.
const READY_SECONDS_MAX: u64 = 20;

// row: OPS-01, OPS-02, OPS-11, MKT-01, MKT-10, MKT-15
#[test]
fn one_command_gives_a_network_that_streams_an_answer_with_its_receipt() {
    let network = Network::start();
    assert!(network.ready_after.as_secs() < READY_SECONDS_MAX, "ready after {:?}", network.ready_after);
    assert!(network.banner.contains("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"), "{}", network.banner);
    assert!(network.banner.trim_end().lines().last().unwrap().starts_with("Ready"), "{}", network.banner);

    let (_, models) = exchange("GET", &format!("{}/models", network.openai()), &[], b"");
    assert_eq!(models["data"][0]["id"], "trellis-tiny", "{models}");

    let answer = job(&network.openai(), chat("What is the capital of France?", 12, true));
    assert!(answer.is_paid_answer(), "{answer:?}");
    assert!(answer.pieces > 1 && !answer.text.is_empty(), "{answer:?}");
    assert!(answer.usage["completion_tokens"].as_u64().unwrap() <= 12 && answer.cost() > 0, "{answer:?}");
    let whole = job(&network.openai(), chat("What is the capital of France?", 12, false));
    assert_eq!(whole.text, answer.text, "greedy decoding gives the same words in both forms");
    network.stop();
}

// row: OPS-02
#[test]
fn the_curl_line_of_the_banner_works_when_it_is_pasted() {
    let network = Network::start();
    let line = network.banner.lines().find(|line| line.trim().starts_with("curl ")).expect("a curl line").trim();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", line]);
    let ended = trellis_scenarios::program::run(shell).succeeded();
    assert!(ended.stdout.contains("\"content\":") && ended.stdout.contains("data: [DONE]"), "{ended:?}");
}

// row: NET-01, NET-10, NET-70
#[test]
fn every_node_knows_its_peers_and_every_link_is_post_quantum() {
    let network = Network::start();
    for role in ROLES {
        let listed = network.trellis(&["peer", "list", "--filter", "connected", "--role", role, "--json"]).succeeded().json();
        let peers = listed["peers"].as_array().unwrap();
        assert_eq!(peers.len(), 3, "peers of the {role}: {listed}");
        for peer in peers {
            assert_eq!(peer["key_exchange"], "X25519MLKEM768", "{peer}");
            assert_eq!(peer["mldsa_authenticated"], true, "{peer}");
        }
    }
}
