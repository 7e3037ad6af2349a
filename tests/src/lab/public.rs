//! The public side of the laboratory: validator, provider and aggregator on `pub1`; and the homes that buy from them.

use super::Lab;
use crate::api::{Answer, job};
use crate::http::exchange;
use crate::network::Node;
use serde_json::Value;
use std::time::{Duration, Instant};

/// The public host's address.
pub const PUBLIC: &str = "11.201.0.2";
/// The chain's JSON-RPC: on a port that even a network that only lets the web through can reach.
pub const RPC: &str = "http://11.201.0.2:443";
/// Where a gateway at home serves its own people.
pub const OPENAI: &str = "http://127.0.0.1:8080/v1";
/// How long a gateway may take until it has a provider; a loaded machine is slow.
pub const CONNECT_SECONDS_MAX: u64 = 30;
/// Between two looks.
const POLL_MS: u64 = 50;

/// Everything but the buyer.
pub struct Public {
    /// Sells the small model.
    pub provider: Node,
    _aggregator: Node,
    _validator: Node,
    peers: String,
}

impl Public {
    /// Starts all three.
    pub fn start(lab: &Lab) -> Self {
        Self::start_as(lab, flags)
    }

    /// The same where nodes are reached over QUIC alone.
    pub fn start_over_quic(lab: &Lab) -> Self {
        Self::start_as(lab, |role, port, account, more| flags_at(role, PUBLIC, port, account, more))
    }

    fn start_as(lab: &Lab, flags: impl Fn(&str, u16, u32, &[&str]) -> Flags) -> Self {
        let rpc_listen = RPC.trim_start_matches("http://");
        let validator = lab.node("pub1", &flags("validator", 9700, 10, &["--rpc-listen", rpc_listen]).words());
        let mut peers = p2p(&validator);
        let joined = ["--rpc", RPC, "--peers", &peers];
        let provider = lab.node("pub1", &flags("provider", 9701, 11, &joined).words());
        let aggregator = lab.node("pub1", &flags("aggregator", 9703, 13, &joined).words());
        for node in [&provider, &aggregator] {
            peers = format!("{peers},{}", p2p(node));
        }
        Self { provider, _aggregator: aggregator, _validator: validator, peers }
    }

    /// Starts a provider at home that listens on QUIC and TCP.
    pub fn provider_at(&self, lab: &Lab, host: &str, account: u32) -> Node {
        let everywhere = listens_everywhere("0.0.0.0", &[9701]);
        let more = ["--rpc", RPC, "--peers", &self.peers, "--listen", &everywhere];
        lab.node(host, &without_listen(flags_at("provider", "0.0.0.0", 9701, account, &more)).words())
    }

    /// Starts a gateway on a host; the test accounts of homes are apart from those of the public side.
    pub fn gateway(&self, lab: &Lab, host: &str, account: u32) -> Node {
        self.gateway_with(lab, host, account, &[])
    }

    /// The same with more flags.
    pub fn gateway_with(&self, lab: &Lab, host: &str, account: u32, more: &[&str]) -> Node {
        let own = ["--rpc", RPC, "--peers", &self.peers, "--http-listen", "127.0.0.1:8080"];
        let listen = flags_at("gateway", "0.0.0.0", 9702, account, &[&own[..], more].concat());
        lab.node(host, &listen.words())
    }
}

/// The p2p address that a node tells others.
pub fn p2p(node: &Node) -> String {
    let status = node.status();
    status["endpoints"]["p2p"].as_str().unwrap_or_else(|| panic!("no p2p address in {status}")).to_owned()
}

/// True once the gateway on this host knows a provider; false where it does not within the time.
pub fn finds_a_provider(lab: &Lab, host: &str, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let (_, models) = lab.inside(host, || exchange("GET", &format!("{OPENAI}/models"), &[], b""));
        if models["data"].as_array().is_some_and(|models| !models.is_empty()) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(POLL_MS));
    }
}

/// Runs a job on the gateway of this host.
pub fn job_at(lab: &Lab, host: &str, body: Value) -> Answer {
    lab.inside(host, || job(OPENAI, body))
}

/// Arguments of one role.
pub struct Flags(Vec<String>);

impl Flags {
    /// As a command takes them.
    pub fn words(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

/// Public nodes are reached over QUIC and over TCP, as by default.
fn flags(role: &str, port: u16, account: u32, more: &[&str]) -> Flags {
    let Flags(mut words) = flags_at(role, PUBLIC, port, account, more);
    if let Some(listen) = words.iter_mut().find(|word| word.ends_with("/quic-v1")) {
        *listen = format!("{listen},/ip4/{PUBLIC}/tcp/{port}");
    }
    Flags(words)
}

/// QUIC at one port.
fn listens_at(address: &str, port: u16) -> String {
    format!("/ip4/{address}/udp/{port}/quic-v1")
}

/// Both transports at these ports.
pub fn listens_everywhere(address: &str, ports: &[u16]) -> String {
    let both = |port: &u16| format!("{},/ip4/{address}/tcp/{port}", listens_at(address, *port));
    ports.iter().map(both).collect::<Vec<_>>().join(",")
}

/// The chain alone, on `pub1`.
pub struct Validator {
    _node: Node,
}

impl Validator {
    /// Starts it.
    pub fn start(lab: &Lab) -> Self {
        let rpc_listen = RPC.trim_start_matches("http://");
        Self { _node: lab.node("pub1", &flags("validator", 9700, 10, &["--rpc-listen", rpc_listen]).words()) }
    }
}

/// A relay on a public host, also at the web's port.
pub struct Relay {
    /// The process.
    pub node: Node,
    /// Its address on the public host.
    pub ip: String,
    /// How homes reach it: over UDP, and over TCP at the web's port.
    pub peers: String,
}

impl Relay {
    /// Starts one at an address of `pub2`, which owns a whole /16, as a node of a test account of its own.
    pub fn start(lab: &Lab, ip: &str, account: u32) -> Self {
        let everywhere = listens_everywhere(ip, &[9700, 443]);
        let more = ["--region", "lab", "--listen", &everywhere];
        let node = lab.node("pub2", &without_listen(flags_at("relay", ip, 9700, account, &more)).words());
        let peers = format!("{},/ip4/{ip}/tcp/443", listens_at(ip, 9700));
        Self { node, ip: ip.to_owned(), peers }
    }
}

/// Leaves out the first `--listen`, which a later one replaces.
pub fn without_listen(flags: Flags) -> Flags {
    let Flags(mut words) = flags;
    if let Some(at) = words.iter().position(|word| word == "--listen") {
        words.drain(at..=at + 1);
    }
    Flags(words)
}

/// Arguments of a role that listens at an address.
pub fn flags_at(role: &str, address: &str, port: u16, account: u32, more: &[&str]) -> Flags {
    let mut words = vec![
        role.to_owned(),
        "--chain".into(),
        "dev".into(),
        "--listen".into(),
        listens_at(address, port),
        "--metrics-listen".into(),
        "off".into(),
        "--dev-account".into(),
        account.to_string(),
    ];
    words.extend(more.iter().map(|word| (*word).to_owned()));
    Flags(words)
}
