//! Every kind of home against every other: a provider at one, a gateway at the other, and a paid, streamed job between them.

use super::Lab;
use super::public::{PUBLIC, RPC, Relay, finds_a_provider, flags_at, job_at, listens_everywhere, p2p, without_listen};
use super::theory::{self, HOMES};
use crate::api::chat;
use crate::network::Node;
use serde::Serialize;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A pair counts as not reached after this, in seconds: relays have to be found, and a loaded machine is slow.
const UNREACHED_SECONDS: u64 = 40;
/// A direct path that theory allows is waited for so long after the job, in seconds.
const DIRECT_SECONDS: u64 = 30;
/// Between two looks at a path, in milliseconds.
const LOOK_MS: u64 = 250;
/// The relay's address and test account.
pub const RELAY_IP: &str = "11.202.0.2";
/// The account of the relay.
pub const RELAY_ACCOUNT: u32 = 12;
/// Ports of the two sides at home.
const PROVIDER_PORT: u16 = 9701;
const GATEWAY_PORT: u16 = 9702;
/// Test accounts of the homes; those between are the public side's.
const PROVIDER_ACCOUNTS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
const GATEWAY_ACCOUNTS: [u32; 8] = [8, 9, 14, 15, 16, 17, 18, 19];

/// How one pair fared (OPS-06).
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Outcome {
    /// The provider's home.
    pub a: String,
    /// The gateway's home.
    pub b: String,
    /// A paid, streamed job was done.
    pub reached: bool,
    /// Over which path: `direct`, `relay` or `turn`.
    pub path: Option<String>,
    /// From the HTTP request to the first text, in milliseconds.
    pub first_byte_ms: Option<u64>,
    /// From the first path to the direct one, in milliseconds; 0 where the first is direct.
    pub direct_ms: Option<u64>,
}

impl Outcome {
    fn unreached(a: &str, b: &str) -> Self {
        Self { a: a.into(), b: b.into(), reached: false, path: None, first_byte_ms: None, direct_ms: None }
    }
}

/// Every ordered pair of homes, the open provider first.
pub fn all_pairs() -> Vec<(String, String)> {
    HOMES.iter().flat_map(|a| HOMES.iter().map(|b| ((*a).to_owned(), (*b).to_owned()))).collect()
}

/// Runs the pairs in one laboratory.
///
/// # Panics
/// Where the laboratory or a node does not start, or a pair names an unknown home.
pub fn measure(pairs: &[(String, String)]) -> Vec<Outcome> {
    let sellers: Vec<&str> = HOMES.into_iter().filter(|home| pairs.iter().any(|(a, _)| a == home)).collect();
    let buyers: Vec<&str> = HOMES.into_iter().filter(|home| pairs.iter().any(|(_, b)| b == home)).collect();
    for (a, b) in pairs {
        assert!(sellers.contains(&a.as_str()) && buyers.contains(&b.as_str()), "no such homes: {a}, {b}");
    }
    let lab = Lab::up(&[sellers.clone(), buyers.clone()].concat());
    let world = World::start(&lab, sellers.len(), &buyers);
    let mut outcomes = Vec::new();
    let mut gateways = Vec::new();
    for (seller, home) in sellers.iter().enumerate() {
        let provider = world.provider(seller, home);
        if gateways.is_empty() {
            // After the first provider, so that what dials it finds it at once instead of after its backoff.
            gateways = (0..buyers.len()).map(|buyer| world.gateway(buyer)).collect::<Vec<Node>>();
        }
        let wanted: Vec<usize> =
            (0..buyers.len()).filter(|buyer| pairs.iter().any(|(a, b)| a == home && b == buyers[*buyer])).collect();
        outcomes.extend(world.round(home, &provider, &gateways, &wanted));
        provider.stop();
    }
    outcomes
}

struct World<'a> {
    lab: &'a Lab,
    sellers: usize,
    buyers: &'a [&'a str],
    public_peers: String,
    _public: [Node; 3],
}

impl<'a> World<'a> {
    fn start(lab: &'a Lab, sellers: usize, buyers: &'a [&'a str]) -> Self {
        let rpc_listen = RPC.trim_start_matches("http://");
        let flags = flags_at("validator", PUBLIC, 9700, 10, &["--rpc-listen", rpc_listen]);
        let validator = lab.node("pub1", &flags.words());
        let peers = p2p(&validator);
        let flags = flags_at("aggregator", PUBLIC, 9703, 13, &["--rpc", RPC, "--peers", &peers]);
        let aggregator = lab.node("pub1", &flags.words());
        let relay = Relay::start(lab, RELAY_IP, RELAY_ACCOUNT);
        let public_peers = format!("{peers},{},{}", p2p(&aggregator), relay.peers);
        Self { lab, sellers, buyers, public_peers, _public: [validator, aggregator, relay.node] }
    }

    /// The provider of a home. Nobody tells it of any other home.
    fn provider(&self, seller: usize, home: &str) -> Node {
        let flags = self.flags("provider", home, PROVIDER_PORT, PROVIDER_ACCOUNTS[seller], &[]);
        self.lab.node(&format!("h{}", seller + 1), &flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn gateway(&self, buyer: usize) -> Node {
        let more = ["--http-listen", "127.0.0.1:8080"];
        let flags = self.flags("gateway", self.buyers[buyer], GATEWAY_PORT, GATEWAY_ACCOUNTS[buyer], &more);
        self.lab.node(&self.host(buyer), &flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn flags(&self, role: &str, home: &str, port: u16, account: u32, more: &[&str]) -> Vec<String> {
        // An open home listens at the web's port too, as the theory's premises say.
        let ports = if home == "open" { vec![port, 443] } else { vec![port] };
        let everywhere = listens_everywhere("0.0.0.0", &ports);
        // Every node of the laboratory is somebody to know.
        let all = ["--rpc", RPC, "--peers", &self.public_peers, "--outbound-min", "32", "--listen", &everywhere];
        let flags = without_listen(flags_at(role, "0.0.0.0", port, account, &[&all[..], more].concat()));
        flags.words().into_iter().map(str::to_owned).collect()
    }

    fn host(&self, buyer: usize) -> String {
        format!("h{}", self.sellers + buyer + 1)
    }

    /// One provider against all gateways at once.
    fn round(&self, home: &str, provider: &Node, gateways: &[Node], wanted: &[usize]) -> Vec<Outcome> {
        let provider_id = provider.status()["node_id"].clone();
        std::thread::scope(|scope| {
            let running: Vec<_> = wanted
                .iter()
                .map(|buyer| {
                    let (id, gateway) = (&provider_id, &gateways[*buyer]);
                    scope.spawn(move || self.pair(home, *buyer, gateway, id))
                })
                .collect();
            running.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn pair(&self, home: &str, buyer: usize, gateway: &Node, provider: &Value) -> Outcome {
        let host = self.host(buyer);
        let unreached = Outcome::unreached(home, self.buyers[buyer]);
        let deadline = Instant::now() + Duration::from_secs(UNREACHED_SECONDS);
        let answer = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !finds_a_provider(self.lab, &host, left) {
                return unreached;
            }
            // The provider of the round before may still be listed until its connection is seen to be dead.
            let answer = job_at(self.lab, &host, chat("What is the capital of France?", 8, true));
            if answer.is_paid_answer() && answer.trellis["provider"] == *provider {
                break answer;
            }
            if Instant::now() > deadline {
                eprintln!("{home} - {}: the last job failed: {}", self.buyers[buyer], answer.error);
                return unreached;
            }
        };
        let (path, direct_ms) = settled_path(gateway, provider, is_direct_owed(home, self.buyers[buyer]));
        Outcome { reached: true, first_byte_ms: answer.first_piece_ms, path, direct_ms, ..unreached }
    }
}

/// Whether theory allows a direct path.
pub fn is_direct_owed(a: &str, b: &str) -> bool {
    theory::pairs().iter().any(|pair| pair.a == a && pair.b == b && (pair.udp || pair.tcp))
}

/// The path when it has come to rest: direct, or after the wait whatever it is; and how long the way to it took.
fn settled_path(gateway: &Node, peer: &Value, direct: bool) -> (Option<String>, Option<u64>) {
    let deadline = Instant::now() + Duration::from_secs(if direct { DIRECT_SECONDS } else { 0 });
    loop {
        let (path, after_ms) = path(gateway, peer);
        if path.as_deref() == Some("direct") || Instant::now() > deadline {
            return (path, after_ms);
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
}

/// The path that the gateway says it has to a peer, and how long after the first one it became direct, in milliseconds.
fn path(gateway: &Node, peer: &Value) -> (Option<String>, Option<u64>) {
    let listed = gateway.trellis(&["peer", "list", "--filter", "connected", "--json"]).succeeded().json();
    let entry = listed["peers"].as_array().and_then(|peers| peers.iter().find(|entry| entry["id"] == *peer).cloned());
    let entry = entry.unwrap_or_default();
    (entry["path"].as_str().map(str::to_owned), entry["direct_after_ms"].as_u64())
}
