//! A local network with nothing else: mDNS alone, in the laboratory. Needs root (tests/lab/README.md).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::Value;
use std::time::{Duration, Instant};
use trellis_scenarios::api::{chat, job};
use trellis_scenarios::lab::Lab;
use trellis_scenarios::lab::public::OPENAI;
use trellis_scenarios::network::Node;

/// How long nodes may take to find each other; a loaded machine is slow.
const FOUND_SECONDS_MAX: u64 = 90;

/// Arguments of a role that is told of nobody and listens everywhere in one family.
fn alone<'a>(role: &'a str, listen: &'a str, account: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let common = ["--chain", "dev", "--listen", listen, "--metrics-listen", "off", "--dev-account", account];
    [&[role], common.as_slice(), more].concat()
}

fn source(node: &Node, name: &str) -> Value {
    let status = node.status();
    let sources = status["discovery"]["sources"].as_array().unwrap();
    sources.iter().find(|source| source["source"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
}

fn connected(node: &Node) -> u64 {
    node.status()["peers_connected"].as_u64().unwrap_or_default()
}

// row: NET-36
#[test]
fn on_a_local_network_with_no_seed_and_no_relay_mdns_alone_brings_a_paid_job_about_and_no_neighbour_notices() {
    let lab = Lab::up_with(&["--hosts", "3"], &["port-restricted", "port-restricted"]);
    let listen = "/ip4/0.0.0.0/udp/9700/quic-v1";
    let chain = ["--rpc-listen", "192.168.1.10:8545"];
    let rpc = ["--rpc", "http://192.168.1.10:8545"];
    let _validator = lab.node("h1", &alone("validator", listen, "10", &chain));
    let provider = lab.node("h1b", &alone("provider", listen, "11", &rpc));
    let gateway = lab.node("h1c", &alone("gateway", listen, "0", &[rpc[0], rpc[1], "--http-listen", "127.0.0.1:8080"]));
    // The neighbour's validator is of the same network and hears nothing of it.
    let neighbour = lab.node("h2", &alone("validator", listen, "12", &["--rpc-listen", "127.0.0.1:8545"]));
    let began = Instant::now();
    let answer = loop {
        let answer = lab.inside("h1c", || job(OPENAI, chat("What is the capital of France?", 8, true)));
        if answer.is_paid_answer() {
            break answer;
        }
        assert!(began.elapsed() < Duration::from_secs(FOUND_SECONDS_MAX), "{answer:?}\n{:#}", gateway.status());
        std::thread::sleep(Duration::from_millis(300));
    };
    assert!(!answer.text.is_empty());
    println!("a paid answer {:.1} s after the last start", began.elapsed().as_secs_f64());
    for node in [&gateway, &provider] {
        assert_eq!(source(node, "mdns")["outcome"], "found", "{:#}", node.status());
        assert!(connected(node) >= 2, "{:#}", node.status());
    }
    assert_eq!((connected(&neighbour), &source(&neighbour, "mdns")["outcome"]), (0, &"unused".into()));
}

// row: NET-36
#[test]
fn two_nodes_that_listen_on_ipv6_alone_find_each_other_by_mdns() {
    let lab = Lab::up_with(&["--hosts", "2", "--v6"], &["port-restricted"]);
    let listen = "/ip6/::/udp/9700/quic-v1";
    let validator = lab.node("h1", &alone("validator", listen, "10", &["--rpc-listen", "192.168.1.10:8545"]));
    let provider = lab.node("h1b", &alone("provider", listen, "11", &["--rpc", "http://192.168.1.10:8545"]));
    let began = Instant::now();
    while connected(&provider) == 0 {
        let status = provider.status();
        assert!(began.elapsed() < Duration::from_secs(FOUND_SECONDS_MAX), "{status:#}\n{:#}", validator.status());
        std::thread::sleep(Duration::from_millis(300));
    }
    let peers = provider.trellis(&["peer", "list", "--filter", "connected", "--json"]).succeeded().json();
    let address = peers["peers"][0]["address"].as_str().unwrap();
    assert!(address.starts_with("/ip6/2600:"), "{peers:#}");
}
