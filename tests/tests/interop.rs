//! libp2p of other languages, unchanged: under `prefer` they connect, identify, ping and use our relay, and are shown as
//! classical; under `require` they are refused, and both sides say why (docs/design/interop.md).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use trellis_scenarios::network::{Node, metric};
use trellis_scenarios::program::{own, tool};
use trellis_scenarios::wait::until;

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What js-libp2p's TLS and py-libp2p's QUIC offer; Node from version 24 on also has the hybrid one.
const KEY_EXCHANGES: [&str; 3] = ["X25519 (classical)", "secp256r1 (classical)", "X25519MLKEM768"];

fn script(name: &str) -> PathBuf {
    own("clients").join(name)
}

/// js-libp2p over TCP.
fn js(security: &str, arguments: &[&str]) -> Client {
    let modules = tool("TRELLIS_LIBP2P_MODULES", "npm/node_modules", "js-libp2p");
    assert!(modules.join("libp2p").exists(), "js-libp2p is missing: `.ci/run tools` installs it");
    let mut command = Command::new("node");
    command.arg(script("libp2p_client.mjs")).arg(modules).arg(security).args(arguments);
    Client::start(command)
}

/// py-libp2p over QUIC.
fn py(address: &str) -> Client {
    let mut command = Command::new(tool("TRELLIS_LIBP2P_PYTHON", "libp2p/bin/python", "a python with py-libp2p"));
    command.arg(script("libp2p_client.py")).arg(address);
    Client::start(command)
}

/// A client that runs until it is told to end.
struct Client {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Client {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the client starts");
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// The next thing that it saw.
    fn saw(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("the client says something");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Tells it to end; it fails where its connection has not lasted until now.
    fn ends(mut self) {
        drop(self.child.stdin.take());
        let mut ended = None;
        until(PATIENCE, "the client ends", || {
            ended = self.child.try_wait().expect("wait");
            ended.is_some()
        });
        assert!(ended.unwrap().success(), "{ended:?}");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node that listens at one address and knows nobody.
fn node(role: &str, listen: &str, post_quantum: &str, more: &[&str]) -> Node {
    let common = ["--chain", "dev", "--listen", listen, "--post-quantum", post_quantum, "--discovery", "off"];
    let metrics = ["--metrics-listen", "127.0.0.1:0"];
    Node::start(&[&[role], &common[..], &metrics, more].concat())
}

fn relay(post_quantum: &str) -> Node {
    node("relay", "/ip4/127.0.0.1/tcp/0", post_quantum, &["--region", "lab"])
}

fn validator(post_quantum: &str) -> Node {
    node("validator", "/ip4/127.0.0.1/udp/0/quic-v1", post_quantum, &["--rpc-listen", "127.0.0.1:0"])
}

/// What the node lists of a peer.
fn listed(node: &Node, peer_id: &Value) -> Option<Value> {
    let listed = node.trellis(&["peer", "list", "--filter", "all", "--json"]).succeeded().json();
    listed["peers"].as_array().unwrap().iter().find(|peer| peer["peer_id"] == *peer_id).cloned()
}

/// The client has identified and pinged the node, and the node has done the same and shows a classical peer.
fn has_met(node: &Node, saw: &Value, agent: &str, transport: &str) {
    let own = node.endpoint("p2p");
    assert!(own.ends_with(saw["peer"].as_str().unwrap()), "{saw} is not {own}");
    assert!(saw["agent"].as_str().unwrap().starts_with("trellis/"), "{saw}");
    assert!(saw["ping_ms"].as_f64().is_some(), "{saw}");
    assert!(saw["observed"].as_str().unwrap().contains(transport), "{saw}");
    let protocols = saw["protocols"].as_array().unwrap();
    assert!(protocols.contains(&"/ipfs/ping/1.0.0".into()), "{saw}");
    let ours = |protocol: &&Value| protocol.as_str().unwrap().starts_with("/trellis/");
    assert!(!protocols.iter().any(|protocol| ours(&protocol)), "a classical peer is offered {saw}");
    let shown = || listed(node, &saw["own"]).unwrap_or_default();
    let known = |peer: &Value| {
        peer["latency_ms"].is_number() && peer["version"].as_str().is_some_and(|name| name.contains(agent))
    };
    until(PATIENCE, "the node has identified and pinged the client", || known(&shown()));
    let shown = shown();
    assert!(KEY_EXCHANGES.iter().any(|name| shown["key_exchange"] == *name), "{shown}");
    assert_eq!((&shown["mldsa_authenticated"], &shown["id"]), (&false.into(), &Value::Null), "{shown}");
    assert_eq!(node.status()["peers_connected"], 0, "a classical peer is no peer of the market");
}

// row: NET-10, NET-11
#[test]
fn js_libp2p_connects_over_tcp_with_noise_and_tls_both_ways_and_is_shown_as_classical() {
    let node = relay("prefer");
    for security in ["noise", "tls"] {
        let client = js(security, &["greet", &node.endpoint("p2p")]);
        let saw = client.saw();
        let wanted = if security == "tls" { "/tls/1.0.0" } else { "/noise" };
        assert_eq!((&saw["encryption"], &saw["multiplexer"]), (&wanted.into(), &"/yamux/1.0.0".into()), "{saw}");
        has_met(&node, &saw, "js-libp2p", "/tcp/");
        client.ends();

        let client = js(security, &["dialled"]);
        let address = client.saw()["address"].as_str().unwrap().to_owned();
        // The connection stands for libp2p's own protocols; a peer of this network it does not become.
        node.trellis(&["peer", "add", &address]).failed_with(1, &["policy (classical)"]);
        has_met(&node, &client.saw(), "js-libp2p", "/tcp/");
        client.ends();
    }
}

// row: NET-10, NET-42
#[test]
fn js_libp2p_reserves_a_place_at_our_relay_and_is_reached_there() {
    let node = relay("prefer");
    let address = node.endpoint("p2p");
    for security in ["noise", "tls"] {
        let client = js(security, &["relayed", &address]);
        let saw = client.saw();
        let way = format!("{address}/p2p-circuit/p2p/");
        assert!(saw["address"].as_str().unwrap().starts_with(&way), "{saw}");
        assert_eq!(saw["echoed"], 512 * 1024, "{saw}");
        assert!(saw["ping_ms"].is_number() && saw["bytes_max"].as_u64().unwrap() > 1 << 30, "{saw}");
        let reach = node.status()["reach"].clone();
        assert_eq!((&reach["reservations_given"], &reach["circuits_carried"]), (&1.into(), &1.into()), "{reach}");
        client.ends();
        until(PATIENCE, "the relay lets the client go", || {
            let reach = node.status()["reach"].clone();
            reach["reservations_given"] == 0 && reach["circuits_carried"] == 0
        });
    }
}

// row: NET-10
#[test]
fn py_libp2p_connects_over_quic_and_is_shown_as_classical() {
    let node = validator("prefer");
    let client = py(&node.endpoint("p2p"));
    let saw = client.saw();
    has_met(&node, &saw, "py-libp2p", "/quic-v1");
    println!("identify was answered at attempt {}", saw["attempts"]);
    client.ends();
}

/// What the client read, and what the node says of it.
fn is_refused(node: &Node, client: impl FnOnce() -> Client, read: &str, logged: &[&str]) {
    let refusals = |name| metric(&node.endpoint("metrics"), name, "policy (classical)");
    let before = refusals("trellis_peers_refused_total");
    let lines_before = node.log().lines().count();
    let saw = client().saw();
    assert!(saw["refused"].as_str().unwrap_or_default().contains(read), "{read:?} is not in {saw}");
    until(PATIENCE, "the refusal is counted by its name", || refusals("trellis_peers_refused_total") > before);
    assert!(refusals("trellis_transport_refused_total") >= 1.0);
    let log = node.log();
    let told = |line: &&str| {
        line.contains("connection refused")
            && line.contains("policy (classical)")
            && logged.iter().any(|why| line.contains(why))
    };
    assert!(log.lines().skip(lines_before).any(|line| told(&line)), "the node logs why: {log}");
    assert_eq!(node.status()["peers_connected"], 0);
}

// row: NET-10, NET-11, NET-21
#[test]
fn under_require_js_and_py_libp2p_are_refused_and_both_sides_say_why() {
    let (over_tcp, over_quic) = (relay("require"), validator("require"));
    let address = over_tcp.endpoint("p2p");
    let (no_tls, no_kex, no_proof) = ("offers no /tls/1.0.0", "offers no X25519MLKEM768", "does not speak trellis-pq");
    is_refused(&over_tcp, || js("noise", &["greet", &address]), "could not negotiate /noise", &[no_tls]);
    is_refused(&over_tcp, || js("tls", &["greet", &address]), "alert", &[no_kex, no_proof]);
    is_refused(&over_quic, || py(&over_quic.endpoint("p2p")), "NoKxGroupsInCommon", &[no_kex]);
}
