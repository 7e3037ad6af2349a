//! `trellis status`

use crate::cli::ListArgs;
use crate::command::nodes;
use crate::control::ask;
use crate::table::{cell, print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// A node that takes longer to say how it is counts as not running.
const ANSWER_MS_MAX: u64 = 10_000;

/// Shows every node below the folder; one that does not answer is shown as stopped.
pub async fn run(list: ListArgs, datadir: Option<&Path>) -> Result<()> {
    let mut shown = Vec::new();
    for (role, folder) in nodes(datadir)? {
        // A process that stands still takes the question and never answers.
        let asked = ask(&folder, "admin_status", Value::Null);
        let status = match tokio::time::timeout(Duration::from_millis(ANSWER_MS_MAX), asked).await {
            Ok(Ok(mut status)) => {
                status["running"] = json!(true);
                status
            }
            _ => json!({"role": role, "running": false}),
        };
        shown.push(status);
    }
    if list.wants_json() {
        print_json(&json!({"nodes": shown}));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|status| {
            let state = match (status["running"].as_bool(), status["ready"].as_bool()) {
                (Some(true), Some(true)) => "ready",
                (Some(true), _) => "starting",
                _ => "stopped",
            };
            let id: String = cell(status, "node_id").chars().take(16).collect();
            let mut endpoints: Vec<String> = Vec::new();
            if let Value::Object(map) = &status["endpoints"] {
                endpoints
                    .extend(map.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())));
            }
            vec![
                cell(status, "role"),
                state.into(),
                id,
                cell(status, "peers_connected"),
                height(status),
                endpoints.join(" "),
            ]
        })
        .collect();
    print(&["ROLE", "STATE", "NODE", "PEERS", "HEIGHT", "ENDPOINTS"], &rows);
    let places: Vec<Vec<String>> = shown.iter().flat_map(place_rows).collect();
    if !places.is_empty() {
        println!();
        print(&["ROLE", "PLACES", "USED", "OF", "STAKED", "KEPT FOR STAKE"], &places);
    }
    let clusters: Vec<Vec<String>> = shown.iter().filter_map(cluster_row).collect();
    if !clusters.is_empty() {
        println!();
        print(&["ROLE", "NODES OF ONE PARTY", "BATCHES", "LARGEST", "REFUSED"], &clusters);
    }
    let sources: Vec<Vec<String>> = shown.iter().flat_map(source_rows).collect();
    if !sources.is_empty() {
        println!();
        print(&["ROLE", "SOURCE", "RESULT", "ADDRESSES", "AT", "DETAIL"], &sources);
    }
    Ok(())
}

/// The newest block here, and while the node syncs also the newest that its peers have.
fn height(status: &Value) -> String {
    let sync = &status["sync"];
    if sync["syncing"] == true {
        return format!("{} of {}", cell(sync, "head"), cell(sync, "highest"));
    }
    cell(status, "height")
}

/// How the places of a relay are used, and how many are kept for peers with stake (NET-42).
fn place_rows(status: &Value) -> Vec<Vec<String>> {
    let relay = &status["reach"]["relay"];
    let kinds = ["reservations", "circuits"].into_iter().filter(|kind| relay[kind].is_object());
    let row = |kind: &str| {
        let mut row = vec![cell(status, "role"), kind.to_owned()];
        row.extend(["used", "max", "staked", "kept"].map(|key| cell(&relay[kind], key)));
        row
    };
    kinds.map(row).collect()
}

/// Clusters of more nodes than an honest party has, where there are any (NET-37).
fn cluster_row(status: &Value) -> Option<Vec<String>> {
    let clusters = &status["clusters"];
    clusters["found"].as_u64().filter(|found| *found > 0)?;
    let mut row = vec![cell(status, "role")];
    row.extend(["by_keys", "batches", "largest", "refused"].map(|key| cell(clusters, key)));
    Some(row)
}

/// Where a node's peers come from: each source's last result (NET-30 to 38).
fn source_rows(status: &Value) -> Vec<Vec<String>> {
    let sources = status["discovery"]["sources"].as_array().cloned().unwrap_or_default();
    let row = |source: &Value| {
        let mut row = vec![cell(status, "role")];
        row.extend(["source", "outcome", "addresses", "at", "detail"].map(|key| cell(source, key)));
        row
    };
    sources.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-42
    #[test]
    fn a_relay_shows_how_many_places_are_used_and_kept_and_others_show_nothing() {
        let places = json!({"max": 16, "kept": 4, "used": 13, "staked": 1});
        let relay = json!({"role": "relay", "reach": {"relay": {"reservations": places, "circuits": places}}});
        let expected = |kind: &str| ["relay", kind, "13", "16", "1", "4"].map(str::to_owned).to_vec();
        assert_eq!(place_rows(&relay), [expected("reservations"), expected("circuits")]);
        assert!(place_rows(&json!({"role": "full", "reach": {"relay": null}})).is_empty());
    }

    // row: NET-37
    #[test]
    fn clusters_are_shown_where_some_were_found() {
        let mut clusters = json!({"nodes": 9, "by_keys": 0, "batches": 0, "largest": 1, "found": 0, "refused": 0});
        let status = |clusters: &Value| json!({"role": "full", "clusters": clusters});
        assert_eq!(cluster_row(&status(&clusters)), None);
        clusters["found"] = json!(1);
        (clusters["by_keys"], clusters["largest"], clusters["refused"]) = (json!(1), json!(12), json!(4));
        let row = cluster_row(&status(&clusters)).expect("found");
        assert_eq!(row, ["full", "1", "0", "12", "4"]);
    }
}
