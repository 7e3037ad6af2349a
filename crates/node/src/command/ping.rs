//! `trellis ping` (NET-72)

use crate::cli::Asked;
use crate::command::peer::chosen;
use crate::control::ask;
use crate::table::{cell, print_json};
use eyre::Result;
use serde_json::json;
use std::path::Path;

/// Asks a peer for echoes and shows each with its path.
pub async fn run(id: &str, count: u32, asked: &Asked, datadir: Option<&Path>) -> Result<()> {
    let folder = chosen(datadir, asked.role.as_deref())?;
    let result = ask(&folder, "admin_pingPeer", json!({"id": id, "count": count})).await?;
    if asked.list.wants_json() {
        print_json(&result);
        return Ok(());
    }
    let peer: String = cell(&result, "id").chars().take(16).collect();
    for reply in result["replies"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let ms = reply["ms"].as_f64().unwrap_or_default();
        println!("reply from {peer} path {} at {}: {ms:.3} ms", cell(reply, "path"), cell(reply, "address"));
    }
    Ok(())
}
