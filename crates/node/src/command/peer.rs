//! `trellis peer …` (NET-70)

use crate::cli::{PeerCommand, PeerFilter};
use crate::command::{node_of, nodes};
use crate::control::ask;
use crate::table::{cell, print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Runs a peer command.
pub async fn run(command: PeerCommand, datadir: Option<&Path>) -> Result<()> {
    let PeerCommand::List { list, filter, role } = command;
    let folder = chosen(datadir, role.as_deref())?;
    let Value::Array(peers) = ask(&folder, "admin_peers", Value::Null).await? else { return Ok(()) };
    let connected = |peer: &Value| peer["status"] == "connected";
    let peers: Vec<Value> = peers
        .into_iter()
        .filter(|peer| match filter {
            PeerFilter::All => true,
            PeerFilter::Connected => connected(peer),
            PeerFilter::Banned => peer["banned"] == Value::Bool(true),
        })
        .collect();
    if list.wants_json() {
        let summary = json!({
            "total_peers": peers.len(),
            "connected": peers.iter().filter(|peer| connected(peer)).count(),
            "connecting": peers.iter().filter(|peer| matches!(peer["status"].as_str(), Some("connecting" | "handshaking"))).count(),
        });
        print_json(&json!({"peers": peers, "summary": summary}));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = peers.iter().map(row).collect();
    print(
        &["ID", "ADDRESS", "STATE", "ROLES", "VERSION", "LATENCY", "MESSAGES", "DIRECTION", "PATH", "KEY EXCHANGE"],
        &rows,
    );
    Ok(())
}

/// The node to ask: the role that was named, the only one, or the gateway, which knows the market best.
fn chosen(datadir: Option<&Path>, role: Option<&str>) -> Result<PathBuf> {
    match role {
        Some(role) => node_of(datadir, role),
        None => {
            let nodes = nodes(datadir)?;
            match nodes.as_slice() {
                [(_, only)] => Ok(only.clone()),
                _ => node_of(datadir, "gateway"),
            }
        }
    }
}

fn row(peer: &Value) -> Vec<String> {
    let id: String = cell(peer, "id").chars().take(16).collect();
    let latency = peer["latency_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
    vec![
        id,
        cell(peer, "address"),
        cell(peer, "status"),
        cell(peer, "capabilities"),
        cell(peer, "version"),
        latency,
        cell(peer, "messages_exchanged"),
        cell(peer, "direction"),
        cell(peer, "path"),
        cell(peer, "key_exchange"),
    ]
}
