//! Nodes that are told of nobody and find the network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../crates/net-peers/tests/support/bind.rs"]
mod bind;

use std::time::{Duration, Instant};

use bind::{Bind, Extras};
use trellis_scenarios::api::{chat, job};
use trellis_scenarios::chain::{block_hash, height};
use trellis_scenarios::network::{Network, Node};
use trellis_scenarios::wait::until;

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

// row: NET-32, CHN-30
#[test]
fn a_fresh_node_with_one_dns_name_and_nothing_else_syncs_the_whole_chain_from_zero() {
    let network = Network::start();
    assert!(job(&network.openai(), chat("Hello", 4, false)).is_paid_answer(), "a chain with something in it");
    let port = network.endpoint("validator", "p2p").split('/').nth(4).unwrap().to_owned();
    let bind = Bind::start(&format!("host 60 IN A 127.0.0.1\n_trellis._udp.net 60 IN SRV 0 0 {port} host\n"));
    let server = bind.server("udp");
    let at = ["--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--rpc-listen", "127.0.0.1:0", "--metrics-listen", "off"];
    let seeded =
        ["full", "--chain", "dev", "--dns-seed", "net.seed.test", "--dns-server", &server, "--dev-account", "5"];
    let full = Node::start(&[seeded.as_slice(), &at].concat());
    let (theirs, own) = (network.rpc(), format!("http://{}", full.endpoint("rpc")));
    let newest = height(&theirs);
    until(Duration::from_secs(FOUND_SECONDS_MAX), "it has the chain", || height(&own) >= newest);
    for height in 0..=newest {
        assert_eq!(block_hash(&own, height), block_hash(&theirs, height), "block {height}");
    }
    let sources = full.status()["discovery"]["sources"].clone();
    let listed: Vec<_> = sources.as_array().unwrap().iter().filter_map(|source| source["source"].as_str()).collect();
    assert!(listed.contains(&"dns:net.seed.test") && !listed.contains(&"config"), "{sources:#}");
}

// row: NET-32, NET-33
#[test]
fn a_newcomer_that_knows_only_the_zone_that_the_seeder_publishes_joins_through_it() {
    let network = Network::start();
    let validator = network.endpoint("validator", "p2p");
    let bind = Bind::start_with("", Extras { updates: true, ..Extras::default() });
    let (socket, key) = (bind.socket(), bind.update_key());
    let loopback = ["--chain", "dev", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--metrics-listen", "off"];
    let crawl = ["dnsseed", "--zone", "seed.test", "--private", "--interval-s", "1", "--update", &socket];
    let told = ["--key", key.to_str().unwrap(), "--peers", &validator];
    let seeder = Node::start(&[crawl.as_slice(), &told, &loopback].concat());
    let started = Instant::now();
    let seed = loop {
        let status = seeder.status();
        // The validator, the provider, the gateway and the aggregator.
        if status["nodes_named"].as_u64() >= Some(3) && status["zone_published"].is_string() {
            break status["seed"].as_str().unwrap().to_owned();
        }
        assert!(started.elapsed().as_secs() < FOUND_SECONDS_MAX, "{status:#}\n{}", seeder.log());
        std::thread::sleep(Duration::from_millis(200));
    };
    // Over UDP and TCP: the texts of a tree are longer than a UDP answer.
    let server = bind.socket();
    let rpc = network.rpc();
    // Plain records, and the tree that the seeder's own keys sign.
    for (name, account) in [("seed.test", "5"), (seed.as_str(), "6")] {
        let seeded = ["--dns-seed", name, "--dns-server", &server, "--discovery", "dns", "--dev-account", account];
        let own = ["gateway", "--http-listen", "127.0.0.1:0", "--rpc", &rpc];
        let gateway = Node::start(&[own.as_slice(), &loopback, &seeded].concat());
        let openai = format!("http://{}/v1", gateway.endpoint("http"));
        let started = Instant::now();
        while !job(&openai, chat("What is the capital of France?", 8, false)).is_paid_answer() {
            assert!(started.elapsed().as_secs() < FOUND_SECONDS_MAX, "{name}: {:#}", gateway.status());
            std::thread::sleep(Duration::from_millis(200));
        }
        let status = gateway.status();
        let sources = status["discovery"]["sources"].as_array().unwrap();
        let found = sources.iter().find(|source| source["source"] == format!("dns:{name}")).unwrap();
        assert_eq!(found["outcome"], "found", "{status:#}");
    }
}
