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
