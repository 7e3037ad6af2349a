//! The peer commands against a running network: who is added, removed, banned, and stays so over a crash.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::Value;
use std::time::Duration;
use trellis_scenarios::api::{chat, job};
use trellis_scenarios::network::Network;
use trellis_scenarios::wait::until;

/// A loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(90);

/// A command to the gateway, as JSON.
fn gateway(network: &Network, arguments: &[&str]) -> Value {
    network.trellis(&[arguments, &["--role", "gateway", "--json"]].concat()).succeeded().json()
}

fn ids(network: &Network, filter: &str) -> Vec<String> {
    let listed = gateway(network, &["peer", "list", "--filter", filter]);
    let peers = listed["peers"].as_array().unwrap();
    peers.iter().filter_map(|peer| Some(peer["id"].as_str()?.to_owned())).collect()
}

// row: NET-70, NET-71, NET-72, NET-73, NET-74
#[test]
fn a_peer_banned_by_command_stays_out_over_a_crash_until_it_is_unbanned() {
    let network = Network::start_on_fixed_ports();
    let provider = network.status("provider")["node_id"].as_str().unwrap().to_owned();
    let address = network.endpoint("provider", "p2p");
    until(PATIENCE, "the gateway knows the provider", || ids(&network, "connected").contains(&provider));

    let listed = gateway(&network, &["peer", "list"]);
    let score = listed["summary"]["average_reputation"].as_f64().unwrap();
    assert!((0.0..=100.0).contains(&score), "{listed}");
    assert!(listed["peers"][0]["last_activity"].is_string(), "{listed}");
    let info = gateway(&network, &["peer", "info", &provider[..12]]);
    for part in ["uptime", "latency", "validity", "consensus", "relay"] {
        assert!(info["reputation"]["parts"][part]["inputs"].is_object(), "{part}: {info}");
    }
    assert!(info["messages_in"].as_u64().unwrap() > 0 && info["bytes_out"].as_u64().unwrap() > 0, "{info}");
    assert!(info["history"].as_array().unwrap().iter().any(|step| step["state"] == "connected"), "{info}");
    assert!(info["known_addresses"][0]["source"].is_string(), "{info}");
    let pinged = gateway(&network, &["ping", &provider, "--count", "2"]);
    assert_eq!(pinged["replies"].as_array().unwrap().len(), 2);
    assert_eq!(pinged["replies"][0]["path"], "direct");
    let again = ["peer", "add", &address, "--role", "gateway"];
    network.trellis(&again).failed_with(1, &["already connected", &provider]);

    let banned = gateway(&network, &["peer", "ban", &provider, "--for", "24h"]);
    assert!(banned["ban"]["until"].is_string(), "{banned}");
    until(PATIENCE, "the provider is gone", || !ids(&network, "connected").contains(&provider));
    network.trellis(&again).failed_with(1, &["ban list", &provider]);

    let before = network.pid("gateway");
    network.kill("gateway");
    until(PATIENCE, "another gateway runs", || network.pid("gateway").is_some_and(|pid| Some(pid) != before));
    network.wait_ready(PATIENCE);
    assert_eq!(ids(&network, "banned"), std::slice::from_ref(&provider));
    until(PATIENCE, "the others are back", || ids(&network, "connected").len() == 2);
    assert!(!ids(&network, "connected").contains(&provider));
    network.trellis(&again).failed_with(1, &["ban list"]);

    gateway(&network, &["peer", "unban", &provider[..12]]);
    // The gateway's own redial may be quicker than the command.
    network.trellis(&again);
    until(PATIENCE, "the provider is back", || ids(&network, "connected").contains(&provider));
    until(PATIENCE, "jobs run again", || job(&network.openai(), chat("Hello", 4, false)).is_paid_answer());
}

// row: NET-71, NET-72
#[test]
fn wrong_peers_and_addresses_are_refused_by_name_and_exports_can_be_imported() {
    let network = Network::start();
    let refused = |arguments: &[&str], words: &[&str]| {
        network.trellis(&[arguments, &["--role", "gateway"]].concat()).failed_with(1, words);
    };
    refused(&["peer", "add", "not an address"], &["form"]);
    refused(&["peer", "add", "/ip4/127.0.0.1/udp/0/quic-v1"], &["port"]);
    refused(&["peer", "add", "no-such-host.invalid:9700"], &["DNS"]);
    let own = network.endpoint("gateway", "p2p");
    refused(&["peer", "add", &own], &["self"]);
    let nobody = "ab".repeat(32);
    refused(&["peer", "info", &nobody], &["no peer", &nobody]);
    refused(&["peer", "info", "zz"], &["no id"]);
    refused(&["peer", "unban", &nobody], &["not banned"]);
    refused(&["peer", "remove", "192.0.2.1:9700"], &["no peer"]);
    refused(&["ping", &nobody], &["not connected"]);
    refused(&["peer", "import", "/no/such/file"], &["/no/such/file"]);

    gateway(&network, &["peer", "ban", &nobody]);
    let exported = network.trellis(&["peer", "export", "--role", "gateway"]).succeeded();
    let file = network.folder().join("exported.json");
    std::fs::write(&file, &exported.stdout).unwrap();
    let imported = network
        .trellis(&["peer", "import", &file.to_string_lossy(), "--role", "provider", "--json"])
        .succeeded()
        .json();
    assert_eq!(imported["bans"], 1, "{imported}");
    let banned = network.trellis(&["peer", "list", "--filter", "banned", "--role", "provider", "--format", "json"]);
    let banned = banned.succeeded().json();
    assert_eq!(banned["peers"][0]["id"], nobody, "{banned}");

    let provider = network.status("provider")["node_id"].as_str().unwrap().to_owned();
    let removed = gateway(&network, &["peer", "remove", &network.endpoint("provider", "p2p"), "--ban", "--for", "1h"]);
    assert_eq!(removed["removed"][0], provider, "{removed}");
    assert!(ids(&network, "banned").contains(&provider));
}
