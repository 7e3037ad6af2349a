//! Real nodes in real homes: jobs, `netcheck` and a handful of pairs, in the laboratory. Needs root (tests/lab/README.md).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "lab/finality.rs"]
mod finality;
#[path = "lab/mishaps.rs"]
mod mishaps;
#[path = "lab/surroundings.rs"]
mod surroundings;
#[path = "lab/turn.rs"]
mod turn;

use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use trellis_scenarios::api::{Answer, chat};
use trellis_scenarios::lab::Lab;
use trellis_scenarios::lab::matrix::{is_direct_owed, measure};
use trellis_scenarios::lab::public::{CONNECT_SECONDS_MAX, Public, finds_a_provider, job_at};

/// The laboratory's STUN servers: one with RFC 5780, and one at the web's port.
const STUN: [&str; 2] = ["11.200.0.2:3478", "11.200.0.3:443"];
/// What `netcheck` may take at most (NET-46), with the start of a process on a loaded machine on top.
const NETCHECK_SECONDS_MAX: u64 = 10;
/// How long a broken connection may stay unnoticed and unrepaired; a loaded machine is slow.
const RECOVERY_SECONDS_MAX: u64 = 45;
/// Checks that run at once where there are many homes.
const AT_ONCE: usize = 4;

fn connected() -> Duration {
    Duration::from_secs(CONNECT_SECONDS_MAX)
}

/// Runs something for each home at once; the results come in the homes' order.
fn in_every_home<T: Send>(homes: &[&str], work: impl Fn(usize, &str) -> T + Sync) -> Vec<T> {
    let hosts: Vec<String> = (1..=homes.len()).map(|number| format!("h{number}")).collect();
    at_once(&hosts.iter().map(String::as_str).collect::<Vec<_>>(), work)
}

/// Runs something on each host at once, with its place in the list from 1.
fn at_once<T: Send>(hosts: &[&str], work: impl Fn(usize, &str) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (1..).zip(hosts).map(|(place, host)| scope.spawn(move || work(place, host))).collect();
        running.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

fn netcheck(lab: &Lab, host: &str, servers: &[&str]) -> Value {
    let mut arguments = vec!["netcheck", "--json"];
    for server in servers {
        arguments.extend(["--stun", server]);
    }
    lab.trellis(host, &arguments).succeeded().json()
}

// row: NET-43
#[test]
fn a_gateway_at_home_behind_every_nat_that_passes_udp_completes_a_paid_streamed_job() {
    let homes = ["full-cone", "addr-restricted", "port-restricted", "symmetric", "cgnat"];
    let lab = Lab::up(&homes);
    let public = Public::start(&lab);
    let answers = in_every_home(&homes, |number, host| {
        let gateway = public.gateway(&lab, host, u32::try_from(number).unwrap());
        assert!(finds_a_provider(&lab, host, connected()), "{host}: no provider");
        let answer = job_at(&lab, host, chat("What is the capital of France?", 12, true));
        let peers = gateway.trellis(&["peer", "list", "--filter", "connected", "--json"]).succeeded().json();
        (answer, peers)
    });
    for (home, (answer, peers)) in homes.iter().zip(answers) {
        assert!(answer.is_paid_answer() && answer.pieces > 1, "{home}: {answer:?}");
        assert_eq!(peers["peers"].as_array().unwrap().len(), 3, "{home}: {peers}");
        for peer in peers["peers"].as_array().unwrap() {
            assert_eq!(
                (&peer["path"], &peer["key_exchange"]),
                (&"direct".into(), &"X25519MLKEM768".into()),
                "{home}: {peer}"
            );
        }
        println!("{home}: first text after {:?} ms, {} pieces", answer.first_piece_ms, answer.pieces);
    }
}

// A network that lets only the web through needs TURN (`lab/turn.rs`) or a node at port 443.
// row: NET-11, NET-46
#[test]
fn a_home_without_udp_completes_a_job_over_tcp_and_one_with_only_the_web_gets_a_named_refusal() {
    let homes = ["udp-blocked", "web-only"];
    let lab = Lab::up(&homes);
    lab.start_stun();
    let public = Public::start(&lab);
    let outcomes = in_every_home(&homes, |number, host| {
        let gateway = public.gateway(&lab, host, u32::try_from(number).unwrap());
        let patience = if number == 1 { connected() } else { Duration::from_secs(3) };
        let found = finds_a_provider(&lab, host, patience);
        let answer = job_at(&lab, host, chat("Hello", 4, true));
        let peers = gateway.trellis(&["peer", "list", "--filter", "connected", "--json"]).succeeded().json();
        (found, answer, peers, netcheck(&lab, host, &STUN))
    });
    for (home, (found, answer, peers, report)) in homes.iter().zip(outcomes) {
        if *home == "udp-blocked" {
            assert!(found && answer.is_paid_answer(), "{home}: {answer:?}");
            for peer in peers["peers"].as_array().unwrap() {
                assert!(peer["address"].as_str().unwrap().contains("/tcp/"), "{home}: {peer}");
                assert_eq!(
                    (&peer["path"], &peer["key_exchange"]),
                    (&"direct".into(), &"X25519MLKEM768".into()),
                    "{home}: {peer}"
                );
            }
        } else {
            assert!(!found, "{home}: a provider was found");
            assert_eq!(
                (answer.status, answer.error["code"].as_str()),
                (503, Some("provider_unavailable")),
                "{home}: {answer:?}"
            );
            let message = answer.error["message"].as_str().unwrap();
            assert!(message.contains("no provider is connected"), "{home}: {answer:?}");
        }
        assert_eq!(
            (&report["nat"]["kind"], &report["udp"]),
            (&"udp-blocked".into(), &false.into()),
            "{home}: {report:#}"
        );
        assert_eq!(report["verdict"]["level"], "hard", "{home}: {report:#}");
        assert!(report["verdict"]["remedy"].as_str().unwrap().contains("UDP"), "{home}: {report:#}");
    }
}

/// Asks again until a job is done.
fn retried(lab: &Lab, host: &str, since: Instant) -> Answer {
    loop {
        let answer = job_at(lab, host, chat("Hello", 4, true));
        if answer.is_paid_answer() {
            return answer;
        }
        assert!(answer.error["code"].is_string(), "a failure without a cause: {answer:?}");
        assert!(since.elapsed() < Duration::from_secs(RECOVERY_SECONDS_MAX), "no service again: {answer:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

// row: NET-40, NET-46
#[test]
fn netcheck_names_the_nat_of_every_kind_of_home() {
    let kinds = [
        ("open", "open", "easy"),
        ("full-cone", "full-cone", "easy"),
        ("addr-restricted", "address-restricted", "medium"),
        ("port-restricted", "port-restricted", "medium"),
        ("linux", "port-restricted", "medium"),
        ("symmetric", "symmetric", "hard"),
        ("cgnat", "port-restricted", "medium"),
        ("port-restricted+symmetric", "symmetric", "hard"),
        ("udp-blocked", "udp-blocked", "hard"),
        ("web-only", "udp-blocked", "hard"),
    ];
    let homes: Vec<&str> = kinds.iter().map(|(home, ..)| *home).collect();
    let lab = Lab::up(&homes);
    lab.start_stun();
    let hosts: Vec<String> = (1..=homes.len()).map(|number| format!("h{number}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let reports: Vec<Value> =
        hosts.chunks(AT_ONCE).flat_map(|some| at_once(some, |_, host| netcheck(&lab, host, &STUN))).collect();
    for ((home, kind, level), (number, report)) in kinds.iter().zip((1..).zip(reports)) {
        assert_eq!(
            (report["nat"]["kind"].as_str(), report["verdict"]["level"].as_str()),
            (Some(*kind), Some(*level)),
            "{home}: {report:#}"
        );
        assert_eq!(report["port_mapping"]["works"], false, "{home}: {report:#}");
        if report["udp"] == true {
            let wan = lab.natlab(&["wan", &number.to_string()]);
            let seen = report["ipv4"]["seen"][0].as_str().unwrap();
            assert!(seen.starts_with(&format!("{}:", wan.trim())), "{home}: {report:#}");
        }
    }
}

// row: NET-41, NET-46
#[test]
fn netcheck_maps_a_port_in_a_router_that_can_and_leaves_nothing_behind() {
    let lab = Lab::up(&["symmetric", "cgnat", "port-restricted"]);
    lab.start_stun();
    for home in ["h1", "h2"] {
        lab.natlab(&["upnp", home]);
    }
    let rules = || lab.natlab(&["exec", "r1", "nft", "list", "table", "inet", "filter"]);
    let before = rules();
    // miniupnpd needs a moment until it listens, and a loaded machine another; asking again is what a person would do.
    let complete = |report: &Value| {
        let mapping = &report["port_mapping"];
        let protocols = ["pcp", "nat-pmp", "upnp"].iter().all(|name| mapping["protocols"][name]["works"] == true);
        protocols && mapping["renewed"] == true && mapping["released"] == true
    };
    let mapped = until(|| netcheck(&lab, "h1", &STUN), complete);
    assert!(mapped["port_mapping"]["external"].as_str().unwrap().starts_with("11.1.0.2:"), "{mapped:#}");
    assert_eq!(mapped["key_exchange"]["group"], "X25519MLKEM768", "{mapped:#}");
    assert_eq!(
        (&mapped["nat"]["kind"], &mapped["nat"]["double_nat"]),
        (&"symmetric".into(), &false.into()),
        "{mapped:#}"
    );
    assert_eq!(mapped["verdict"]["level"], "easy", "{mapped:#}");
    // A check on a machine that is too busy to release its mapping leaves it to end by itself, after a minute.
    until(|| Value::from(rules()), |now| now.as_str() == Some(before.as_str()));

    let carrier = netcheck(&lab, "h2", &STUN);
    assert_eq!(carrier["port_mapping"]["works"], false, "{carrier:#}");
    let none = netcheck(&lab, "h3", &STUN);
    assert_eq!(none["port_mapping"]["works"], false, "{none:#}");
}

// row: NET-41
#[test]
fn a_provider_keeps_a_port_of_its_router_and_a_home_that_no_hole_can_be_punched_to_reaches_it() {
    let lab = Lab::up(&["symmetric", "symmetric"]);
    lab.natlab(&["upnp", "h1"]);
    let rules = || Value::from(lab.natlab(&["exec", "r1", "nft", "list", "table", "inet", "filter"]));
    let before = rules();
    let public = Public::start(&lab);
    public.provider.kill();
    let provider = public.provider_at(&lab, "h1", 1);
    let reach = until(|| provider.status()["reach"].clone(), |reach| reach["reachability"] == "public");
    let mapped: Vec<&str> = reach["mapped"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(mapped.iter().all(|address| address.starts_with("/ip4/11.1.0.2/")) && mapped.len() == 2, "{reach:#}");
    assert!(!reach["confirmed"].as_array().unwrap().is_empty(), "{reach:#}");

    let gateway = public.gateway(&lab, "h2", 2);
    assert!(finds_a_provider(&lab, "h2", connected()), "no provider");
    let answer = retried(&lab, "h2", Instant::now());
    assert_eq!(answer.trellis["provider"], provider.status()["node_id"], "{answer:?}");
    let peers = gateway.trellis(&["peer", "list", "--filter", "connected", "--json"]).succeeded().json();
    let entry = peers["peers"].as_array().unwrap().iter().find(|peer| peer["id"] == answer.trellis["provider"]);
    assert_eq!(entry.map(|peer| peer["path"].clone()), Some("direct".into()), "{peers:#}");

    assert_ne!(rules(), before, "nothing is mapped");
    provider.stop();
    until(rules, |now| *now == before);
}

/// Repeats a question until its answer is as wanted; fails with the last one.
fn until(ask: impl Fn() -> Value, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(RECOVERY_SECONDS_MAX * 2);
    loop {
        let answer = ask();
        if wanted(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{answer:#}");
    }
}

// row: NET-46
#[test]
fn netcheck_with_bad_servers_or_no_network_says_so_in_time() {
    let lab = Lab::up(&["full-cone", "port-restricted"]);
    lab.start_stun();
    let fine = netcheck(&lab, "h2", &["11.201.0.2:9", "11.99.0.1:3478", "no.such.name:3478", STUN[0]]);
    assert_eq!(fine["nat"]["kind"], "port-restricted", "one good server among bad ones is enough: {fine:#}");
    let answered: Vec<bool> =
        fine["servers"].as_array().unwrap().iter().map(|server| server["answered"] == true).collect();
    assert_eq!(answered, [false, false, false, true], "{fine:#}");
    let bad = netcheck(&lab, "h1", &["11.201.0.2:9", "no.such.name:3478"]);
    lab.natlab(&["partition", "h1"]);
    let cut = netcheck(&lab, "h1", &STUN);
    lab.natlab(&["exec", "h2", "ip", "route", "flush", "table", "main"]);
    let offline = netcheck(&lab, "h2", &STUN);
    for report in [&bad, &cut, &offline] {
        assert_eq!((&report["udp"], &report["nat"]["kind"]), (&false.into(), &"unknown".into()), "{report:#}");
        assert_eq!(report["verdict"]["level"], "hard", "{report:#}");
    }
    for report in [&fine, &bad, &cut, &offline] {
        assert!(report["took_ms"].as_u64().unwrap() <= NETCHECK_SECONDS_MAX * 1_000, "{report:#}");
    }
    let mut reasons: Vec<&str> =
        [&bad, &cut, &offline].iter().map(|report| report["nat"]["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), 3, "three causes, three reasons: {reasons:?}");
}

// row: NET-11, NET-42, NET-43
#[test]
fn pairs_of_homes_do_a_paid_job_directly_where_theory_allows_it_and_over_a_relay_elsewhere() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let pairs = [
        pair("port-restricted", "port-restricted"),
        pair("symmetric", "symmetric"),
        pair("cgnat", "symmetric"),
        pair("udp-blocked", "port-restricted"),
    ];
    let outcomes = measure(&pairs);
    assert_eq!(outcomes.len(), pairs.len(), "{outcomes:?}");
    for outcome in outcomes {
        println!("{outcome:?}");
        let path = if is_direct_owed(&outcome.a, &outcome.b) { "direct" } else { "relay" };
        assert!(outcome.reached && outcome.first_byte_ms.is_some(), "{outcome:?}");
        assert_eq!(outcome.path.as_deref(), Some(path), "{outcome:?}");
    }
}

#[test]
fn a_laboratory_leaves_nothing_behind_and_two_stand_side_by_side() {
    let namespaces = || {
        let own = format!("tl{}x", std::process::id());
        let entries = std::fs::read_dir("/run/netns").unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).count()
    };
    let (one, other) = (Lab::up(&["port-restricted"]), Lab::up(&["symmetric"]));
    let both = namespaces();
    assert!(one.inside("h1", || std::net::UdpSocket::bind("192.168.1.10:9").is_ok()));
    assert!(!Path::new("/run/netns/h1").exists());
    drop(one);
    assert_eq!(namespaces() * 2, both);
    assert!(other.inside("h1", || std::net::UdpSocket::bind("192.168.1.10:9").is_ok()));
    drop(other);
    assert_eq!(namespaces(), 0);
}
