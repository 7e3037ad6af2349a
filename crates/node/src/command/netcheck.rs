//! `trellis netcheck`: how others can reach this machine, and what to do where they cannot (NET-46).

use crate::cli::NetcheckArgs;
use crate::command::nodes;
use crate::control::ask;
use crate::role::stun;
use crate::table::print_json;
use eyre::Result;
use rand::SeedableRng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trellis_chain_spec::ChainSpec;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_net_peers::{NetConfig, NetworkHandle, start};
use trellis_net_reach::config::TRIAL_LEASE_SECONDS;
use trellis_net_reach::{
    Carrier, Findings, Inner, MapError, ResolvedServer, Router, ServerFinding, Situation, StunSurvey, Survey, ask_stun,
    double_nat, survey, verdict,
};
use trellis_primitives::{B256, SystemClock};

mod turn;

/// The router may take this long over its three protocols, in milliseconds.
const MAPPING_MS_MAX: u64 = 9_000;
/// The check of the key exchange may take this long, in milliseconds.
const KEY_EXCHANGE_MS_MAX: u64 = 8_000;
/// A node of this machine is asked for its relays within this, in milliseconds.
const NODES_MS_MAX: u64 = 3_000;
/// What is said where there is no relay to show.
const NO_NODE: &str = "none: no node runs in this folder; a running one measures its relays";
const NO_RELAY: &str = "none: the nodes that run here know no relay yet, or need none";

/// Runs every check at once and prints what came out. It ends within 10 s, whatever is silent.
///
/// # Errors
/// No UDP socket can be opened on this machine.
pub async fn run(args: &NetcheckArgs, datadir: Option<&Path>) -> Result<()> {
    let began = Instant::now();
    let servers = stun::servers(&args.stun);
    let turn = turn::settings(args)?;
    let (seen, mapping, exchange, relays, turn) =
        tokio::join!(ask_stun(&servers), mapping(), key_exchange(), relays(datadir), turn::check(turn.as_ref()));
    let mut report = report(&seen?, &mapping, &exchange, began.elapsed());
    report["relays_note"] = json!(note(&relays));
    report["relays"] = json!(relays.unwrap_or_default());
    report["turn"] = turn;
    if args.list.wants_json() {
        print_json(&report);
    } else {
        print!("{}", rendered(&report));
    }
    Ok(())
}

/// The relays that the running nodes of a folder know, nearest first, each once; `None` where no node runs.
async fn relays(datadir: Option<&Path>) -> Option<Vec<Value>> {
    let asked = nodes(datadir).unwrap_or_default().into_iter().map(|(_, folder)| async move {
        let answer = ask(&folder, "admin_status", Value::Null);
        tokio::time::timeout(Duration::from_millis(NODES_MS_MAX), answer).await.ok()?.ok()
    });
    let running: Vec<Value> = futures::future::join_all(asked).await.into_iter().flatten().collect();
    if running.is_empty() {
        return None;
    }
    let known = running.iter().flat_map(|status| status["reach"]["relays"].as_array().into_iter().flatten());
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for relay in known {
        let name = relay["peer_id"].as_str().unwrap_or_default().to_owned();
        let nearer = all.get(&name).is_none_or(|before| latency(relay) < latency(before));
        if nearer {
            all.insert(name, relay.clone());
        }
    }
    let mut all: Vec<Value> = all.into_values().collect();
    all.sort_by(|a, b| latency(a).total_cmp(&latency(b)));
    Some(all)
}

/// A relay's round-trip time in milliseconds; endless where it was not measured.
fn latency(relay: &Value) -> f64 {
    relay["latency_ms"].as_f64().unwrap_or(f64::INFINITY)
}

/// The relays in a line for people.
fn note(relays: &Option<Vec<Value>>) -> String {
    let shown = |relay: &Value| {
        let name: String = relay["peer_id"].as_str().unwrap_or_default().chars().rev().take(8).collect();
        let name: String = name.chars().rev().collect();
        let ms = relay["latency_ms"].as_f64().map_or_else(|| "not measured".to_owned(), |ms| format!("{ms:.1} ms"));
        format!("…{name} {} {ms}", relay["stage"].as_str().unwrap_or_default())
    };
    match relays {
        None => NO_NODE.to_owned(),
        Some(relays) if relays.is_empty() => NO_RELAY.to_owned(),
        Some(relays) => relays.iter().map(shown).collect::<Vec<_>>().join(", "),
    }
}

/// What the router does when it is asked for a port.
struct Mapped {
    survey: Result<Survey, MapError>,
    external: Option<SocketAddr>,
    renewed: Option<Result<(), MapError>>,
    released: Option<Result<(), MapError>>,
}

/// Maps a port, renews it and gives it back, so that what is shown is what works.
async fn mapping() -> Mapped {
    let none = |error| Mapped { survey: Err(error), external: None, renewed: None, released: None };
    let work = async {
        let router = match Router::find().await {
            Ok(router) => router,
            Err(error) => return none(error),
        };
        // Held while it is mapped, so that the trial never opens another program's port.
        let socket = tokio::net::UdpSocket::bind((router.own, 0)).await;
        let port = socket.as_ref().ok().and_then(|socket| socket.local_addr().ok());
        let Some(port) = port.and_then(|address| NonZeroU16::new(address.port())) else {
            return none(MapError::NoGateway);
        };
        let mut survey = survey(router, Inner { carrier: Carrier::Udp, port }, TRIAL_LEASE_SECONDS).await;
        let (mut external, mut renewed, mut released) = (None, None, None);
        if let Some(mut lease) = survey.lease.take() {
            external = Some(lease.external);
            renewed = Some(lease.renew().await);
            released = Some(lease.release().await);
        }
        Mapped { survey: Ok(survey), external, renewed, released }
    };
    tokio::time::timeout(Duration::from_millis(MAPPING_MS_MAX), work).await.unwrap_or_else(|_| none(MapError::Silent))
}

/// Two throw-away nodes connect over this machine's loopback under the policy `require`; gives the group that was negotiated.
async fn key_exchange() -> Result<String, String> {
    let work = async {
        let server = throw_away(Some("/ip4/127.0.0.1/udp/0/quic-v1")).await?;
        let client = throw_away(None).await?;
        let address = server.listen_addresses().into_iter().next().ok_or("the node listens nowhere")?;
        let dialled = client.dial(&address.to_string()).await.map_err(|error| error.to_string());
        let group = client.peers().into_iter().map(|peer| peer.key_exchange).next();
        client.shutdown().await;
        server.shutdown().await;
        dialled?;
        group.ok_or_else(|| "the connection is gone already".to_owned())
    };
    let limit = Duration::from_millis(KEY_EXCHANGE_MS_MAX);
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(format!("not done within {KEY_EXCHANGE_MS_MAX} ms")))
}

async fn throw_away(listen: Option<&str>) -> Result<NetworkHandle, String> {
    let spec = ChainSpec::dev();
    let mut rng = rand_chacha::ChaCha20Rng::from_os_rng();
    let mut config = NetConfig::new(spec.genesis.chain_id, spec.network_magic(), B256::ZERO);
    config.listen = listen.map(str::to_owned).into_iter().collect();
    let keys = HybridKey::generate(&mut rng).map_err(|error| error.to_string())?;
    let account = AccountKey::generate(&mut rng);
    start(config, keys, account, Arc::new(SystemClock)).await.map_err(|error| error.to_string())
}

fn report(stun: &StunSurvey, mapped: &Mapped, exchange: &Result<String, String>, took: Duration) -> Value {
    let kind = stun.kind();
    let router_external = mapped.survey.as_ref().ok().and_then(Survey::router_external);
    let seen = stun.v4.seen().first().map(SocketAddr::ip);
    let doubled = double_nat(stun.v4.local.map(|local| local.ip()), seen, router_external);
    let verdict = verdict(&Situation {
        kind: kind.kind,
        double_nat: doubled,
        maps_ports: mapped.external.is_some() && doubled != Some(true),
    });
    json!({
        "udp": stun.v4.works() || stun.v6.works(),
        "ipv4": family_json(&stun.v4),
        "ipv6": family_json(&stun.v6),
        "nat": {
            "kind": kind.kind,
            "reason": kind.reason,
            "mapping": stun.v4.mapping,
            "filtering": stun.v4.filtering,
            "double_nat": doubled,
        },
        "servers": stun.resolved.iter().map(|server| server_json(server, stun)).collect::<Vec<_>>(),
        "tcp": stun.tcp,
        "port_mapping": mapping_json(mapped),
        "relays": [],
        "relays_note": NO_NODE,
        "key_exchange": {
            "group": exchange.as_ref().ok(),
            "problem": exchange.as_ref().err(),
            "checked_with": "two nodes on this machine's loopback",
        },
        "verdict": verdict,
        "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    })
}

fn family_json(findings: &Findings) -> Value {
    let seen: Vec<IpAddr> = findings.seen().iter().map(SocketAddr::ip).collect();
    json!({
        "works": findings.works(),
        "local": findings.local.map(|local| local.ip()),
        "seen": findings.seen(),
        "translated": findings.translated(),
        "public": seen.first().map(|seen| trellis_net_reach::is_public(*seen)),
    })
}

fn server_json(server: &ResolvedServer, stun: &StunSurvey) -> Value {
    let all = stun.v4.servers.iter().chain(&stun.v6.servers);
    let found: Vec<&ServerFinding> = all.filter(|finding| server.addresses.contains(&finding.address)).collect();
    let answered = found.iter().any(|finding| finding.seen.is_some());
    let problem = match (&server.problem, answered) {
        (Some(problem), _) => Some(problem.clone()),
        (None, true) => None,
        (None, false) => Some("no answer over UDP".to_owned()),
    };
    json!({
        "server": server.name,
        "answered": answered,
        "addresses": found,
        "problem": problem,
    })
}

fn mapping_json(mapped: &Mapped) -> Value {
    let mut protocols = serde_json::Map::new();
    if let Ok(survey) = &mapped.survey {
        for attempt in &survey.attempts {
            let name = serde_json::to_value(attempt.protocol).ok();
            let name = name.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
            let (works, problem) = match &attempt.outcome {
                Ok(_) => (true, None),
                Err(error) => (false, Some(error.to_string())),
            };
            let external = attempt.outcome.as_ref().ok();
            protocols.insert(name, json!({"works": works, "router_address": external, "problem": problem}));
        }
    }
    let done = |outcome: &Option<Result<(), MapError>>| outcome.as_ref().map(Result::is_ok);
    json!({
        "works": mapped.external.is_some(),
        "external": mapped.external,
        "renewed": done(&mapped.renewed),
        "released": done(&mapped.released),
        "protocols": protocols,
        "problem": mapped.survey.as_ref().err().map(ToString::to_string),
    })
}

/// For people: one line for each question, the verdict last.
fn rendered(report: &Value) -> String {
    let word = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let yes = |value: &Value| if value == &Value::Bool(true) { "yes" } else { "no" };
    let family = |family: &Value| {
        format!("{} (own {}, seen {})", yes(&family["works"]), word(&family["local"]), word(&family["seen"]))
    };
    let mapping = &report["port_mapping"];
    let protocols = mapping["protocols"].as_object().into_iter().flatten();
    let by: Vec<String> = protocols.map(|(name, one)| format!("{name} {}", yes(&one["works"]))).collect();
    let double = match report["nat"]["double_nat"].as_bool() {
        Some(true) => "; two NATs in a row",
        _ => "",
    };
    let exchange = &report["key_exchange"];
    let group =
        exchange["group"].as_str().map_or_else(|| format!("failed: {}", word(&exchange["problem"])), str::to_owned);
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<14}{value}\n"));
    line("UDP", yes(&report["udp"]).to_owned());
    line("IPv4", family(&report["ipv4"]));
    line("IPv6", family(&report["ipv6"]));
    line("NAT", format!("{}{double}: {}", word(&report["nat"]["kind"]), word(&report["nat"]["reason"])));
    line(
        "Port mapping",
        format!(
            "{} ({})",
            word(&mapping["external"]),
            if by.is_empty() { word(&mapping["problem"]) } else { by.join(", ") }
        ),
    );
    line("Relays", word(&report["relays_note"]));
    line("Key exchange", group);
    for server in report["servers"].as_array().into_iter().flatten() {
        let problem = server["problem"].as_str().map_or_else(|| "answered".to_owned(), str::to_owned);
        line("STUN server", format!("{}: {problem}", word(&server["server"])));
    }
    for (server, outcome) in turn::lines(report) {
        line("TURN server", format!("{server}: {outcome}"));
    }
    let verdict = &report["verdict"];
    line("Verdict", format!("{}: {}", word(&verdict["level"]), word(&verdict["reason"])));
    line("Remedy", word(&verdict["remedy"]));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-46
    #[tokio::test]
    async fn the_key_exchange_of_this_machine_is_the_hybrid_one() {
        assert_eq!(key_exchange().await, Ok("X25519MLKEM768".to_owned()));
    }

    // row: NET-46
    #[tokio::test]
    async fn without_any_server_the_result_says_so_and_every_line_is_there() {
        let stun = ask_stun(&[]).await.unwrap();
        let mapped = Mapped { survey: Err(MapError::NoGateway), external: None, renewed: None, released: None };
        let report = report(&stun, &mapped, &Err("no".to_owned()), Duration::from_millis(5));
        assert_eq!(report["nat"]["kind"], "unknown");
        assert_eq!(report["verdict"]["level"], "hard");
        let text = rendered(&report);
        for name in ["UDP", "IPv4", "IPv6", "NAT", "Port mapping", "Relays", "Key exchange", "Verdict", "Remedy"] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing in\n{text}");
        }
    }
}
