//! `trellis peer …` (NET-70 to 72, NET-74)

use crate::cli::{Asked, PeerCommand, PeerFilter};
use crate::command::{node_of, nodes};
use crate::control::ask;
use crate::failure::Failure;
use crate::table::{cell, print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of a file of peers at most; the control socket takes no more.
const IMPORT_BYTES_MAX: u64 = 15 * 1024 * 1024;

/// Runs a peer command.
pub async fn run(command: PeerCommand, datadir: Option<&Path>) -> Result<()> {
    match command {
        PeerCommand::List { filter, asked } => list(filter, &asked, datadir).await,
        PeerCommand::Add { address, priority, asked } => {
            let params = json!({"address": address, "priority": priority.word()});
            let added = told(&asked, datadir, "admin_addPeer", params).await?;
            done(&asked, &added, &format!("connected to {} at {}", cell(&added, "id"), cell(&added, "address")));
            Ok(())
        }
        PeerCommand::Remove { peer, ban, length, asked } => {
            let params = json!({"peer": peer, "ban": ban, "for_ms": millis(length)});
            let removed = told(&asked, datadir, "admin_removePeer", params).await?;
            let what = if ban { "disconnected and banned" } else { "disconnected" };
            let (ids, addresses) = (cell(&removed, "removed"), cell(&removed, "forgotten"));
            done(&asked, &removed, &format!("{what}: {}; forgotten: {}", or_none(&ids), or_none(&addresses)));
            Ok(())
        }
        PeerCommand::Ban { id, length, asked } => {
            let params = json!({"id": id, "for_ms": millis(length)});
            let banned = told(&asked, datadir, "admin_banPeer", params).await?;
            let until = banned["ban"]["until"].as_str().unwrap_or("it is lifted").to_owned();
            done(&asked, &banned, &format!("{} is kept out until {until}", cell(&banned, "id")));
            Ok(())
        }
        PeerCommand::Unban { id, asked } => {
            let unbanned = told(&asked, datadir, "admin_unbanPeer", json!({"id": id})).await?;
            done(&asked, &unbanned, &format!("{} may come in again", cell(&unbanned, "id")));
            Ok(())
        }
        PeerCommand::Info { id, asked } => info(&id, &asked, datadir).await,
        PeerCommand::Export { role } => {
            print_json(&ask(&chosen(datadir, role.as_deref())?, "admin_exportPeers", Value::Null).await?);
            Ok(())
        }
        PeerCommand::Import { file, asked } => {
            let changed = told(&asked, datadir, "admin_importPeers", json!({"book": read(&file)?})).await?;
            let count = |key| cell(&changed, key);
            let text =
                format!("{} new peers, {} new bans, {} addresses", count("peers"), count("bans"), count("addresses"));
            done(&asked, &changed, &text);
            Ok(())
        }
    }
}

async fn told(asked: &Asked, datadir: Option<&Path>, method: &str, params: Value) -> Result<Value> {
    ask(&chosen(datadir, asked.role.as_deref())?, method, params).await
}

fn done(asked: &Asked, result: &Value, text: &str) {
    if asked.list.wants_json() {
        print_json(result);
    } else {
        println!("{text}");
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn millis(length: Option<Duration>) -> Option<u64> {
    length.map(|length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
}

fn read(file: &Path) -> Result<Value> {
    let cannot = |why: String| {
        Failure::new(format!("cannot take over {}: {why}", file.display()))
            .hint("`trellis peer export > FILE` makes one")
    };
    let size = std::fs::metadata(file).map_err(|error| cannot(error.to_string()))?.len();
    if size > IMPORT_BYTES_MAX {
        return Err(cannot(format!("{size} bytes, at most {IMPORT_BYTES_MAX} are read")).into());
    }
    let text = std::fs::read(file).map_err(|error| cannot(error.to_string()))?;
    Ok(serde_json::from_slice(&text).map_err(|error| cannot(format!("not JSON: {error}")))?)
}

async fn list(filter: PeerFilter, asked: &Asked, datadir: Option<&Path>) -> Result<()> {
    let folder = chosen(datadir, asked.role.as_deref())?;
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
    if asked.list.wants_json() {
        let summary = json!({
            "total_peers": peers.len(),
            "connected": peers.iter().filter(|peer| connected(peer)).count(),
            "connecting": peers.iter().filter(|peer| matches!(peer["status"].as_str(), Some("connecting" | "handshaking"))).count(),
            "average_reputation": average(&peers),
        });
        print_json(&json!({"peers": peers, "summary": summary}));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = peers.iter().map(row).collect();
    let heads = [
        "ID",
        "ADDRESS",
        "STATE",
        "ROLES",
        "VERSION",
        "LATENCY",
        "MESSAGES",
        "REPUTATION",
        "DIRECTION",
        "PATH",
        "KEY EXCHANGE",
        "LAST ACTIVITY",
    ];
    print(&heads, &rows);
    Ok(())
}

/// The mean score, with one digit after the point; null where there is nobody.
fn average(peers: &[Value]) -> Option<f64> {
    let scores: Vec<f64> = peers.iter().filter_map(|peer| peer["reputation_score"].as_f64()).collect();
    (!scores.is_empty()).then(|| (scores.iter().sum::<f64>() / scores.len() as f64 * 10.0).round() / 10.0)
}

/// The node to ask: the role that was named, the only one, or the gateway, which knows the market best.
pub fn chosen(datadir: Option<&Path>, role: Option<&str>) -> Result<PathBuf> {
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
    let state = cell(peer, "status");
    let banned = peer["banned"] == Value::Bool(true);
    vec![
        id,
        cell(peer, "address"),
        if banned { format!("{state}, banned") } else { state },
        cell(peer, "capabilities"),
        cell(peer, "version"),
        latency,
        cell(peer, "messages_exchanged"),
        reputation(&peer["reputation_score"]),
        cell(peer, "direction"),
        cell(peer, "path"),
        cell(peer, "key_exchange"),
        cell(peer, "last_activity"),
    ]
}

/// `NN/100`.
fn reputation(score: &Value) -> String {
    score.as_f64().map_or_else(|| "-".to_owned(), |score| format!("{score:.0}/100"))
}

async fn info(id: &str, asked: &Asked, datadir: Option<&Path>) -> Result<()> {
    let peer = told(asked, datadir, "admin_peerInfo", json!({"id": id})).await?;
    if asked.list.wants_json() {
        print_json(&peer);
        return Ok(());
    }
    let plain = [
        "id",
        "peer_id",
        "address",
        "status",
        "status_since",
        "banned",
        "version",
        "capabilities",
        "direction",
        "path",
        "direct_after_ms",
        "key_exchange",
        "latency_ms",
        "messages_in",
        "messages_out",
        "bytes_in",
        "bytes_out",
        "connected_since",
        "last_activity",
        "best_height",
        "disconnect_reason",
        "refusal_reason",
    ];
    let mut fields: Vec<Vec<String>> = plain.iter().map(|key| vec![(*key).to_owned(), cell(&peer, key)]).collect();
    if let Some(dark) = peer["dark_addresses"].as_array() {
        fields.retain(|field| !field[1].is_empty());
        fields.extend(
            dark.iter().map(|dark| vec!["dark address".to_owned(), dark.as_str().unwrap_or_default().to_owned()]),
        );
        print(&["FIELD", "VALUE"], &fields);
        return Ok(());
    }
    let score = &peer["reputation"];
    fields.push(vec!["reputation".to_owned(), reputation(&score["total"])]);
    fields.push(vec!["cap".to_owned(), cell(score, "cap")]);
    if let Some(until) = peer["ban"].as_object().map(|ban| ban["until"].as_str().unwrap_or("it is lifted")) {
        fields.push(vec!["banned until".to_owned(), until.to_owned()]);
    }
    print(&["FIELD", "VALUE"], &fields);
    let parts: Vec<Vec<String>> = score["parts"].as_object().into_iter().flatten().map(part_row).collect();
    print(&["PART", "SCORE", "WEIGHT", "INPUTS"], &parts);
    let table = |key: &str, columns: [&str; 3]| -> Vec<Vec<String>> {
        let rows = peer[key].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect()
    };
    print(&["STATE", "SINCE", "REASON"], &table("history", ["state", "since", "reason"]));
    print(&["ADDRESS", "SOURCE", "SEEN"], &table("known_addresses", ["address", "source", "seen"]));
    Ok(())
}

fn part_row((name, part): (&String, &Value)) -> Vec<String> {
    let inputs = part["inputs"].as_object().into_iter().flatten();
    let inputs: Vec<String> = inputs.map(|(key, value)| format!("{key}={value}")).collect();
    vec![name.clone(), cell(part, "score"), cell(part, "weight"), inputs.join(" ")]
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-70
    #[test]
    fn a_row_shows_the_reputation_out_of_a_hundred_and_the_average_is_of_those_listed() {
        let peer = |score: f64| json!({"id": "ab", "status": "connected", "reputation_score": score});
        assert_eq!(row(&peer(51.6))[7], "52/100");
        assert_eq!(average(&[peer(40.0), peer(51.5)]), Some(45.8));
        assert_eq!(average(&[]), None);
    }
}
