//! The nodes of a soak, what is bought of them, and who visits.

use crate::api::chat;
use crate::lab::Lab;
use crate::lab::public::{PUBLIC, RPC, Relay, flags_at, job_at, listens_everywhere, without_listen};
use crate::network::Node;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The kinds of homes, those that most people have first.
const HOMES: [&str; 8] =
    ["port-restricted", "symmetric", "cgnat", "udp-blocked", "full-cone", "web-only", "addr-restricted", "open"];
/// From so many nodes on there are two relays.
const TWO_RELAYS_FROM: usize = 20;
/// One public provider for so many nodes.
const NODES_PER_PUBLIC_PROVIDER: usize = 12;
/// Nodes that start at once: each works for a second or two, and a loaded machine is slow.
const STARTS_AT_ONCE: usize = 3;
/// Funded test accounts of gateways, which pay; those of the public nodes are apart. Further gateways only look on.
const BUYERS: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 15, 16, 17, 18, 19];
/// Test accounts of validator, provider and aggregator.
const VALIDATOR_ACCOUNT: u32 = 10;
const PROVIDER_ACCOUNT: u32 = 11;
const AGGREGATOR_ACCOUNT: u32 = 13;
/// Port of public nodes; each has an address of its own.
const PORT: u16 = 9700;
/// Between two jobs.
const JOB_EVERY: Duration = Duration::from_secs(3);
/// Tokens of a job.
const JOB_TOKENS: u64 = 8;
/// Nodes that come and go.
const VISITORS: usize = 4;
/// A visitor stays for so long.
const VISIT: Duration = Duration::from_secs(8);
/// Between two visitors.
const VISIT_EVERY: Duration = Duration::from_secs(12);
/// Between two looks whether it is over.
const LOOK: Duration = Duration::from_millis(200);

/// One node.
pub struct Member {
    /// Role and place.
    pub kind: String,
    /// The laboratory's host.
    pub host: String,
    /// The process.
    pub node: Node,
    buys: bool,
}

/// What was bought.
#[derive(Default)]
pub struct Jobs {
    /// Answered, paid and receipted.
    pub done: u64,
    /// Others, by the code of the error.
    pub failed: BTreeMap<String, u64>,
}

/// All nodes.
pub struct Town<'a> {
    lab: &'a Lab,
    relays: String,
    members: Vec<Member>,
}

/// A node that is still to be started.
struct Start {
    kind: String,
    host: String,
    words: Vec<String>,
    buys: bool,
}

/// How many public nodes of each role there are: relays and providers, beside a validator and an aggregator.
const fn public(nodes: usize) -> (usize, usize) {
    let relays = if nodes >= TWO_RELAYS_FROM { 2 } else { 1 };
    let providers = nodes / NODES_PER_PUBLIC_PROVIDER;
    (relays, if providers == 0 { 1 } else { providers })
}

impl<'a> Town<'a> {
    /// The homes of so many nodes, as the laboratory is told.
    pub fn homes(nodes: usize) -> Vec<&'static str> {
        let (relays, providers) = public(nodes);
        HOMES.into_iter().cycle().take(nodes.saturating_sub(2 + relays + providers)).collect()
    }

    /// Starts all of them, the public ones first.
    pub fn start(lab: &'a Lab, nodes: usize) -> Self {
        let (relays, providers) = public(nodes);
        let rpc_listen = RPC.trim_start_matches("http://");
        // A cache of the usual size would still be filling when the soak ends, and look like a leak.
        let more = ["--rpc-listen", rpc_listen, "--database-cache-mib", "8"];
        let validator = flags_at("validator", PUBLIC, PORT, VALIDATOR_ACCOUNT, &more);
        let validator = lab.node("pub1", &validator.words());
        let mut members = vec![member("validator", "pub1", validator)];
        let mut known = Vec::new();
        for n in 0..relays {
            let relay = Relay::start(lab, &format!("11.202.{n}.2"), 20 + u32::try_from(n).unwrap_or_default());
            known.push(relay.peers);
            members.push(member("relay", "pub2", relay.node));
        }
        let mut town = Self { lab, relays: known.join(","), members };
        let mut starts = vec![town.public("aggregator", 1, Some(AGGREGATOR_ACCOUNT))];
        starts.extend((0..providers).map(|n| {
            let account = (n == 0).then_some(PROVIDER_ACCOUNT);
            town.public("provider", 2 + n, account)
        }));
        starts.extend(Self::homes(nodes).iter().enumerate().map(|(n, home)| town.home(n, home)));
        town.run(&starts);
        town
    }

    /// Every node.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A node on `pub1` at an address in a /24 of its own.
    fn public(&self, role: &str, net: usize, account: Option<u32>) -> Start {
        let at = format!("11.201.{net}.2");
        let kind = if role == "provider" { "provider, public" } else { role };
        Start {
            kind: kind.to_owned(),
            host: "pub1".to_owned(),
            words: self.words(role, &at, &[PORT], account, &[]),
            buys: false,
        }
    }

    /// The node of the n-th home. Over the kinds of homes, roles take turns.
    fn home(&self, n: usize, home: &str) -> Start {
        let sells = (n + n / HOMES.len()) % 2 == 1;
        let role = if sells { "provider" } else { "gateway" };
        let account = BUYERS.get(n / 2).copied().filter(|_| !sells);
        let ports = if home == "open" { vec![PORT, 443] } else { vec![PORT] };
        let more: &[&str] = if sells { &[] } else { &["--http-listen", "127.0.0.1:8080"] };
        Start {
            kind: format!("{role}, {home}"),
            host: format!("h{}", n + 1),
            words: self.words(role, "0.0.0.0", &ports, account, more),
            buys: account.is_some(),
        }
    }

    fn words(&self, role: &str, at: &str, ports: &[u16], account: Option<u32>, more: &[&str]) -> Vec<String> {
        let everywhere = listens_everywhere(at, ports);
        let all = ["--rpc", RPC, "--peers", &self.relays, "--listen", &everywhere];
        let flags = flags_at(role, at, PORT, account.unwrap_or_default(), &[&all[..], more].concat());
        let mut words: Vec<String> = without_listen(flags).words().into_iter().map(str::to_owned).collect();
        if account.is_none()
            && let Some(flag) = words.iter().position(|word| word == "--dev-account")
        {
            // A key of its own, without funds.
            words.drain(flag..=flag + 1);
        }
        words
    }

    fn run(&mut self, starts: &[Start]) {
        let lab = self.lab;
        for some in starts.chunks(STARTS_AT_ONCE) {
            let nodes: Vec<Node> = std::thread::scope(|scope| {
                let start = |start: &'_ Start| {
                    let words: Vec<&str> = start.words.iter().map(String::as_str).collect();
                    lab.node(&start.host, &words)
                };
                let running: Vec<_> = some.iter().map(|one| scope.spawn(move || start(one))).collect();
                running
                    .into_iter()
                    .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                    .collect()
            });
            let started = some.iter().zip(nodes);
            self.members.extend(started.map(|(start, node)| Member {
                kind: start.kind.clone(),
                host: start.host.clone(),
                node,
                buys: start.buys,
            }));
        }
    }

    /// Has one gateway after another buy, until it is over.
    pub fn buy(&self, over: &AtomicBool) -> Jobs {
        let mut jobs = Jobs::default();
        for buyer in self.members.iter().filter(|member| member.buys).cycle() {
            if !rest(JOB_EVERY, over) {
                break;
            }
            let answer = job_at(self.lab, &buyer.host, chat("What is the capital of France?", JOB_TOKENS, true));
            if answer.is_paid_answer() {
                jobs.done += 1;
            } else {
                let code = answer.error["code"].as_str().unwrap_or("broken").to_owned();
                *jobs.failed.entry(code).or_default() += 1;
            }
        }
        jobs
    }

    /// Has nodes come, stay for a while and go, until it is over; gives how often one came. They are always the same few:
    /// what is remembered of each (records, addresses, scores) has bounds of its own and is no leak, and after the warm-up
    /// all of them are known.
    pub fn receive(&self, over: &AtomicBool) -> u64 {
        let folders: Vec<TempDir> = (0..VISITORS).map(|_| tempfile::tempdir().expect("temporary folder")).collect();
        let mut visits = 0;
        for (n, folder) in folders.iter().enumerate().cycle() {
            if !rest(VISIT_EVERY, over) {
                break;
            }
            let at = format!("11.202.{}.2", 100 + n);
            let words = self.words("gateway", &at, &[PORT], None, &["--http-listen", "127.0.0.1:0"]);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let node = self.lab.inside("pub2", || Node::start_in(folder.path(), &words));
            rest(VISIT, over);
            node.stop();
            visits += 1;
        }
        visits
    }
}

fn member(kind: &str, host: &str, node: Node) -> Member {
    Member { kind: kind.to_owned(), host: host.to_owned(), node, buys: false }
}

/// Waits; `false` once it is over.
fn rest(time: Duration, over: &AtomicBool) -> bool {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if over.load(Ordering::SeqCst) {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    !over.load(Ordering::SeqCst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_a_town_are_as_many_as_were_asked_for_and_every_kind_of_home_has_both_roles() {
        for nodes in [5, 10, 50, 100] {
            let (relays, providers) = public(nodes);
            assert_eq!(2 + relays + providers + Town::homes(nodes).len(), nodes);
        }
        let lab_less = |n: usize| (HOMES[n % 8], (n + n / HOMES.len()) % 2);
        let kinds: std::collections::BTreeSet<_> = (0..16).map(lab_less).collect();
        assert_eq!(kinds.len(), 16);
    }
}
