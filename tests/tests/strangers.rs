//! Peers that do not belong here: refused by name, on both sides where the other one speaks our language, and the network
//! goes on serving.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use libp2p::core::transport::{DialOpts, PortUse};
use libp2p::core::{Endpoint, Transport};
use serde_json::Value;
use std::time::Duration;
use trellis_scenarios::api::{chat, job};
use trellis_scenarios::chain::height;
use trellis_scenarios::network::{Network, Node, ROLES, metric};
use trellis_scenarios::program::trellis_in;
use trellis_scenarios::wait::until;

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The network makes blocks, serves jobs, and its nodes know each other and nobody else.
fn goes_on(network: &Network) {
    let answer = job(&network.openai(), chat("Hello", 4, true));
    assert!(answer.is_paid_answer(), "{answer:?}");
    let rpc = network.rpc();
    let before = height(&rpc);
    until(PATIENCE, "a block", || height(&rpc) > before);
    for role in ROLES {
        assert_eq!(network.status(role)["peers_connected"], 3, "peers of the {role}");
    }
}

/// An unmodified libp2p node dials; gives what it hears.
fn stock_dial(address: &str) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let identity = libp2p::identity::Keypair::generate_ed25519();
        let mut transport = libp2p_quic::tokio::Transport::new(libp2p_quic::Config::new(&identity));
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dialing = transport.dial(address.parse().expect("an address"), options).expect("the dial starts");
        let dialed = tokio::time::timeout(PATIENCE, dialing).await;
        match dialed.expect("the dial ends") {
            Ok((peer, _)) => panic!("a stock libp2p peer was let in by {peer}"),
            Err(error) => format!("{error:?}"),
        }
    })
}

// row: NET-10, NET-19, NET-21
#[test]
fn a_stock_libp2p_peer_is_refused_with_a_reason_and_the_network_goes_on() {
    let network = Network::start();
    for role in ["validator", "gateway", "provider"] {
        let heard = stock_dial(&network.endpoint(role, "p2p"));
        assert!(heard.contains("protocol"), "the peer reads why: {heard}");
        let counted = || network.metric(role, "trellis_transport_refused_total", "policy (classical)");
        until(PATIENCE, "the refusal is counted", || counted() >= 1.0);
        assert_eq!(counted(), 1.0, "one refusal at the {role}");
        until(PATIENCE, "the refusal is counted by its name", || {
            network.metric(role, "trellis_peers_refused_total", "policy (classical)") >= 1.0
        });
        let log = network.log(role);
        let told = |line: &str| line.contains("connection refused") && line.contains("does not speak trellis-pq");
        assert!(log.lines().any(told), "the {role} logs why: {log}");
    }
    goes_on(&network);
}

fn refused_peers(listed: &Value, reason: &str) -> usize {
    listed["peers"].as_array().unwrap().iter().filter(|peer| peer["refusal_reason"] == reason).count()
}

// row: NET-20, NET-21, CHN-01
#[test]
fn a_node_of_another_genesis_is_refused_by_name_on_both_sides() {
    let network = Network::start();
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("other.toml");
    let spec = spec.to_string_lossy();
    trellis_in(folder.path(), &["chain", "init", "--chain", "dev", "--out", &spec]).succeeded();
    let peers = [network.endpoint("validator", "p2p"), network.endpoint("gateway", "p2p")].join(",");
    let flags = [
        "validator",
        "--chain",
        &spec,
        "--listen",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "--rpc-listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
        "--peers",
        &peers,
    ];
    let stranger = Node::start(&flags);
    let own = stranger.endpoint("metrics");
    let by_reason = |by: &str| format!("reason=\"wrong network\",by=\"{by}\"");
    until(PATIENCE, "both sides count the refusal", || {
        let at = |role| network.metric(role, "trellis_peers_refused_total", &by_reason("us"));
        at("validator") >= 1.0
            && at("gateway") >= 1.0
            && metric(&own, "trellis_peers_refused_total", "wrong network") >= 2.0
    });
    for role in ["validator", "gateway"] {
        let listed = network.trellis(&["peer", "list", "--role", role, "--json"]).succeeded().json();
        assert_eq!(refused_peers(&listed, "wrong_network"), 1, "the {role} shows whom it refused: {listed}");
        let told = |line: &str| line.contains("connection refused") && line.contains("wrong network");
        assert!(network.log(role).lines().any(told), "the {role} logs why");
    }
    let listed = stranger.trellis(&["peer", "list", "--json"]).succeeded().json();
    assert_eq!(refused_peers(&listed, "wrong_network"), 2, "the stranger reads why: {listed}");
    assert!(stranger.log().lines().any(|line| line.contains("wrong network")), "the stranger logs why");
    assert_eq!(stranger.status()["peers_connected"], 0);
    goes_on(&network);
}
