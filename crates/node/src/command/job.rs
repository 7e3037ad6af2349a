//! `trellis job run`: one prompt through a running gateway.

use crate::cli::JobCommand;
use crate::command::node_of;
use crate::control::ask;
use crate::table::{cell, print_json};
use eyre::Result;
use serde_json::json;
use std::path::Path;

/// Runs a job command.
pub async fn run(command: JobCommand, datadir: Option<&Path>) -> Result<()> {
    let JobCommand::Run { model, max_tokens, prompt, json: as_json } = command;
    let gateway = node_of(datadir, "gateway")?;
    let params = json!({"model": model, "prompt": prompt, "max_tokens": max_tokens});
    let result = ask(&gateway, "admin_runJob", params).await?;
    if as_json {
        print_json(&result);
        return Ok(());
    }
    println!("{}", cell(&result, "text"));
    eprintln!(
        "\n{} tokens in, {} out, {}; receipt {}",
        cell(&result, "tokens_in"),
        cell(&result, "tokens_out"),
        crate::command::wallet::trl(&cell(&result, "cost_wei")),
        cell(&result, "receipt")
    );
    Ok(())
}
