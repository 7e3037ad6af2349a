//! `trellis channel …` (MKT-32)

use crate::cli::{ChannelCommand, ListArgs};
use crate::command::{node_of, nodes};
use crate::control::ask;
use crate::failure::Failure;
use crate::table::{cell, print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use std::path::Path;

/// Runs a channel command; all ask running nodes.
pub async fn run(command: ChannelCommand, datadir: Option<&Path>) -> Result<()> {
    match command {
        ChannelCommand::List(list) => listing(list, &channels(datadir).await?),
        ChannelCommand::Show { id, list } => {
            let all = channels(datadir).await?;
            let found: Vec<Value> =
                all.into_iter().filter(|channel| cell(channel, "channel").starts_with(&id)).collect();
            if found.is_empty() {
                return Err(Failure::new(format!("no channel {id:?} here"))
                    .hint("`trellis channel list` shows them")
                    .into());
            }
            if list.wants_json() {
                print_json(&json!({"channels": found}));
                return Ok(());
            }
            for channel in &found {
                let Value::Object(fields) = channel else { continue };
                let rows: Vec<Vec<String>> = fields.keys().map(|key| vec![key.clone(), cell(channel, key)]).collect();
                print(&["FIELD", "VALUE"], &rows);
            }
            Ok(())
        }
        ChannelCommand::Close { id } => {
            let all = channels(datadir).await?;
            let full = all.iter().map(|channel| cell(channel, "channel")).find(|known| known.starts_with(&id));
            let full = full.ok_or_else(|| {
                Failure::new(format!("no channel {id:?} here")).hint("`trellis channel list` shows them")
            })?;
            let gateway = node_of(datadir, "gateway")?;
            let closed = ask(&gateway, "admin_closeChannel", json!({"channel": full})).await?;
            print_json(&closed);
            if closed["state"] == "closing" {
                eprintln!("the provider may still redeem; run the same command again after the challenge period");
            }
            Ok(())
        }
    }
}

/// The channels of every running gateway and provider below a folder.
pub async fn channels(datadir: Option<&Path>) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for (role, folder) in nodes(datadir)? {
        if (role == "gateway" || role == "provider")
            && let Value::Array(channels) = ask(&folder, "admin_channels", Value::Null).await?
        {
            all.extend(channels);
        }
    }
    Ok(all)
}

fn listing(list: ListArgs, channels: &[Value]) -> Result<()> {
    if list.wants_json() {
        print_json(&json!({"channels": channels}));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = channels
        .iter()
        .map(|channel| {
            let short = |key: &str| cell(channel, key).chars().take(18).collect::<String>();
            let amount = |key: &str| crate::command::wallet::trl(&cell(channel, key));
            vec![
                short("channel"),
                cell(channel, "side"),
                short("peer"),
                cell(channel, "state"),
                amount("deposit_wei"),
                amount("cumulative_wei"),
                amount("paid_wei"),
            ]
        })
        .collect();
    print(&["CHANNEL", "SIDE", "PEER", "STATE", "DEPOSIT", "PROMISED", "PAID"], &rows);
    Ok(())
}
