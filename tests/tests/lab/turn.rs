//! Homes that reach the world only from an address at a TURN server (NET-44): coturn on `srv`, no relay anywhere.

use crate::{connected, in_every_home};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use trellis_scenarios::api::chat;
use trellis_scenarios::lab::Lab;
use trellis_scenarios::lab::public::{Public, RPC, Relay, Validator, finds_a_provider, flags_at, job_at};
use trellis_scenarios::network::Node;

/// The laboratory's TURN server over UDP, TCP and TLS, the latter at the web's port.
const OVER_UDP: &str = "turn:11.200.0.2:3478?transport=udp";
const OVER_TCP: &str = "turn:11.200.0.2:3478?transport=tcp";
const OVER_TLS: &str = "turns:11.200.0.3:443?transport=tcp";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// The flags of a user of the TURN server, with the file of the password.
struct User {
    _folder: TempDir,
    password: PathBuf,
    authorities: PathBuf,
}

impl User {
    fn alice(lab: &Lab, password: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, format!("{password}\n")).unwrap();
        Self { _folder: folder, password: file, authorities: lab.service_file("ca.pem") }
    }

    fn flags<'a>(&'a self, server: &'a str) -> Vec<&'a str> {
        let text = |path: &'a Path| path.to_str().unwrap();
        vec![
            "--turn",
            server,
            "--turn-user",
            "alice",
            "--turn-password-file",
            text(&self.password),
            "--turn-ca",
            text(&self.authorities),
        ]
    }
}

fn paths(gateway: &Node) -> Vec<(String, String)> {
    let peers = gateway.trellis(&["peer", "list", "--filter", "connected", "--json"]).succeeded().json();
    let of = |peer: &Value, key: &str| peer[key].as_str().unwrap_or_default().to_owned();
    peers["peers"].as_array().unwrap().iter().map(|peer| (of(peer, "path"), of(peer, "key_exchange"))).collect()
}

/// What a node's status says of its first TURN server.
fn server(node: &Node) -> Value {
    node.status()["reach"]["turn"][0].clone()
}

// row: NET-44
#[test]
fn homes_that_let_out_no_udp_or_one_port_buy_over_turn_without_a_relay() {
    let homes = [("udp-blocked", OVER_TCP), ("web-only", OVER_TLS), ("port-restricted", OVER_UDP)];
    let modes = homes.map(|(mode, _)| mode);
    let lab = Lab::up(&modes);
    lab.start_stun();
    // The third home's router lets UDP out, but not to where nodes listen.
    let blocked = ["exec", "r3", "nft", "insert", "rule", "ip", "natlab", "out", "udp", "dport", "9700-9799", "drop"];
    lab.natlab(&blocked);
    let user = User::alice(&lab, "secret");
    let public = Public::start_over_quic(&lab);
    let outcomes = in_every_home(&modes, |number, host| {
        let began = Instant::now();
        let flags = user.flags(homes[number - 1].1);
        let gateway = public.gateway_with(&lab, host, u32::try_from(number).unwrap(), &flags);
        let found = finds_a_provider(&lab, host, connected() * 2);
        let after = began.elapsed();
        let answer = job_at(&lab, host, chat("What is the capital of France?", 12, true));
        let provider = answer.trellis["provider"].as_str().unwrap_or_default().to_owned();
        let ping = gateway.trellis(&["ping", &provider, "--count", "1", "--json"]);
        (found, after, answer, paths(&gateway), server(&gateway), ping)
    });
    for ((home, carriage), (found, after, answer, paths, server, ping)) in homes.iter().zip(outcomes) {
        assert!(found && answer.is_paid_answer() && answer.pieces > 1, "{home}: {answer:?}, {server}");
        assert!(!paths.is_empty(), "{home}");
        for (path, key_exchange) in &paths {
            assert_eq!((path.as_str(), key_exchange.as_str()), ("turn", "X25519MLKEM768"), "{home}: {paths:?}");
        }
        assert_eq!((&server["works"], &server["server"]), (&true.into(), &(*carriage).into()), "{home}: {server}");
        assert!(server["relayed"].as_str().unwrap().starts_with("11.200.0.2:"), "{home}: {server}");
        assert_eq!(ping.succeeded().json()["replies"][0]["path"], "turn", "{home}");
        println!(
            "{home} over {carriage}: a provider after {:.1} s, an address in {} ms, first text after {:?} ms",
            after.as_secs_f64(),
            server["took_ms"],
            answer.first_piece_ms
        );
    }
    // The other end knows it too: both have to agree on the connection that stays.
    let turned = paths(&public.provider).iter().filter(|(path, _)| path == "turn").count();
    assert_eq!(turned, homes.len(), "{:?}", paths(&public.provider));
}

// row: NET-44, NET-46
#[test]
fn netcheck_tries_turn_servers_and_a_wrong_password_has_its_name_and_a_hint_everywhere() {
    let lab = Lab::up(&["web-only", "port-restricted"]);
    lab.start_stun();
    let (right, wrong) = (User::alice(&lab, "secret"), User::alice(&lab, "wrong"));
    let netcheck = |host: &str, user: &User, servers: &str, more: &[&str]| {
        let arguments = [&["netcheck", "--stun", "11.200.0.2:3478"], &user.flags(servers)[..], more].concat();
        lab.trellis(host, &arguments).succeeded()
    };
    let all = format!("{OVER_UDP},{OVER_TCP},{OVER_TLS},turns:11.200.0.2:5349");
    let report = netcheck("h2", &right, &all, &["--json"]).json();
    for server in report["turn"].as_array().unwrap() {
        assert!(server["works"] == true && server["took_ms"].is_u64(), "{server:#}");
        println!("{}: an address in {} ms", server["server"], server["took_ms"]);
    }
    assert_eq!(report["turn"].as_array().unwrap().len(), 4, "{report:#}");
    let report = netcheck("h1", &right, &all, &["--json"]).json();
    let works: Vec<bool> = report["turn"].as_array().unwrap().iter().map(|server| server["works"] == true).collect();
    assert_eq!(works, [false, false, true, false], "only the web's port is open: {report:#}");

    let refused = netcheck("h2", &wrong, OVER_TLS, &["--json"]).json();
    let server = &refused["turn"][0];
    assert_eq!((&server["works"], &server["reason"]), (&false.into(), &"credentials".into()), "{server:#}");
    assert!(server["hint"].as_str().unwrap().contains("--turn-password-file"), "{server:#}");
    let shown = netcheck("h2", &wrong, OVER_TLS, &[]).stdout;
    assert!(shown.contains("TURN server") && shown.contains("hint: check --turn-user"), "{shown}");

    let public = Public::start_over_quic(&lab);
    let gateway = public.gateway_with(&lab, "h1", 1, &wrong.flags(OVER_TLS));
    let deadline = Instant::now() + connected() * 2;
    while self::server(&gateway)["reason"] != "credentials" {
        assert!(Instant::now() < deadline, "{}", self::server(&gateway));
        std::thread::sleep(LOOK);
    }
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("no address at the TURN server")).unwrap_or_default();
    assert!(line.contains("credentials") && line.contains("--turn-password-file"), "{line}");
    for secret in ["wrong", "secret"] {
        assert!(!line.contains(secret), "a password is in the log: {line}");
    }
    let one = |flags: &[&str]| lab.trellis("h2", &[&["netcheck"], flags].concat());
    one(&["--turn", "stun:11.200.0.2"]).failed_with(2, &["turn", "turns:"]);
    one(&["--turn", OVER_TLS]).failed_with(2, &["turn_user"]);
}

// row: NET-43, NET-44
#[test]
fn two_homes_that_no_hole_joins_meet_at_the_turn_server_of_one_of_them_instead_of_at_the_relay() {
    let lab = Lab::up(&["udp-blocked", "symmetric"]);
    lab.start_stun();
    let user = User::alice(&lab, "secret");
    let relay = Relay::start(&lab, "11.202.0.2", 12);
    let _validator = Validator::start(&lab);
    let flags = |role: &'static str, port, account, more: &[&str]| {
        let all = ["--rpc", RPC, "--peers", &relay.peers, "--outbound-min", "32"];
        flags_at(role, "0.0.0.0", port, account, &[&all[..], more].concat())
    };
    let provider = lab.node("h1", &flags("provider", 9701, 0, &user.flags(OVER_TCP)).words());
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + connected() * 2;
        while !done() {
            assert!(Instant::now() < deadline, "{what}: {}", provider.status()["reach"]);
            std::thread::sleep(LOOK);
        }
    };
    wait("an address at the TURN server", &|| server(&provider)["works"] == true);
    wait("a place at the relay", &|| provider.status()["reach"]["circuits"][0].is_string());
    let gateway = lab.node("h2", &flags("gateway", 9702, 1, &["--http-listen", "127.0.0.1:8080"]).words());
    assert!(finds_a_provider(&lab, "h2", connected() * 2), "no provider");
    let began = Instant::now();
    let path_to = |node: &Node, peer: &Node| {
        let id = peer.status()["node_id"].clone();
        let peers = node.trellis(&["peer", "list", "--filter", "connected", "--json"]).succeeded().json();
        let entry = peers["peers"].as_array().unwrap().iter().find(|entry| entry["id"] == id).cloned();
        entry.unwrap_or_default()["path"].as_str().unwrap_or_default().to_owned()
    };
    wait("the way over the TURN server", &|| path_to(&gateway, &provider) == "turn");
    println!("over the TURN server {:.1} s after the relay", began.elapsed().as_secs_f64());
    assert_eq!(path_to(&provider, &gateway), "turn");
    let answer = job_at(&lab, "h2", chat("What is the capital of France?", 12, true));
    assert!(answer.is_paid_answer(), "{answer:?}");
    // What nobody can get into uncalled is told to nobody.
    let told = provider.trellis(&["peer", "info", "self", "--json"]).succeeded().stdout;
    assert!(!told.contains("11.200.0.2"), "{told}");
}
