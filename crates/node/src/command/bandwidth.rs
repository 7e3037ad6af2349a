//! `trellis bandwidth` (NET-18)

use crate::cli::Asked;
use crate::command::peer::chosen;
use crate::control::ask;
use crate::table::{cell, print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use std::path::Path;

/// Shows what flows and what may, after changing what may where that was asked for.
pub async fn run(up: Option<u64>, down: Option<u64>, asked: &Asked, datadir: Option<&Path>) -> Result<()> {
    let folder = chosen(datadir, asked.role.as_deref())?;
    let result = ask(&folder, "admin_bandwidth", json!({"up_mbit": up, "down_mbit": down})).await?;
    if asked.list.wants_json() {
        print_json(&result);
        return Ok(());
    }
    let limit = |key: &str| match result[key].as_u64() {
        Some(0) | None => "no limit".to_owned(),
        Some(mbit) => format!("{mbit} Mbit/s"),
    };
    println!("up: {}, down: {}", limit("limit_up_mbit"), limit("limit_down_mbit"));
    let mut rows = Vec::new();
    if let Value::Object(classes) = &result["classes"] {
        for (class, usage) in classes {
            let mut row = vec![class.clone()];
            row.extend(["up_bytes_per_s", "down_bytes_per_s", "up_bytes", "down_bytes"].map(|key| cell(usage, key)));
            rows.push(row);
        }
    }
    print(&["CLASS", "UP B/S", "DOWN B/S", "UP BYTES", "DOWN BYTES"], &rows);
    Ok(())
}
