//! Nodes that are told of nobody and find the network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../crates/net-peers/tests/support/bind.rs"]
mod bind;

use std::time::{Duration, Instant};

use bind::Bind;
use trellis_scenarios::api::{chat, job};
use trellis_scenarios::network::{Network, Node};

/// How long a newcomer may take from its start to its first answer; a loaded machine is slow.
const FOUND_SECONDS_MAX: u64 = 60;

// row: NET-31, NET-32, NET-34
#[test]
fn a_gateway_that_knows_one_dns_name_finds_the_provider_and_answers_a_job() {
    let network = Network::start();
    // The seed names the validator alone: the provider is found by asking the validator.
    let validator = network.endpoint("validator", "p2p");
    let port = validator.split('/').nth(4).unwrap();
    let bind = Bind::start(&format!("host 60 IN A 127.0.0.1\n_trellis._udp.net 60 IN SRV 0 0 {port} host\n"));
    let (rpc, server) = (network.rpc(), bind.server("udp"));
    let gateway = Node::start(&[
        "gateway",
        "--chain",
        "dev",
        "--listen",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "--metrics-listen",
        "off",
        "--http-listen",
        "127.0.0.1:0",
        "--rpc",
        &rpc,
        "--dev-account",
        "5",
        "--dns-seed",
        "net.seed.test",
        "--dns-server",
        &server,
    ]);
    let openai = format!("http://{}/v1", gateway.status()["endpoints"]["http"].as_str().unwrap());
    let started = Instant::now();
    let answer = loop {
        let answer = job(&openai, chat("What is the capital of France?", 8, false));
        if answer.is_paid_answer() {
            break answer;
        }
        assert!(started.elapsed().as_secs() < FOUND_SECONDS_MAX, "{answer:?}\n{}", gateway.status());
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(!answer.text.is_empty());
    let status = gateway.status();
    let sources = status["discovery"]["sources"].as_array().unwrap();
    let outcome = |name: &str| sources.iter().find(|source| source["source"] == name).map(|source| &source["outcome"]);
    assert_eq!(outcome("dns:net.seed.test").unwrap(), "found", "{status}");
    assert!(outcome("pex").is_some() && outcome("book").is_some(), "{status}");
    assert!(outcome("config").is_none(), "nothing but the seed was configured: {status}");
    // And a person sees the same.
    let table = network.trellis(&["status"]).succeeded().stdout;
    assert!(table.contains("SOURCE") && table.contains("pex") && table.contains("config"), "{table}");
}
