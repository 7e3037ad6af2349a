//! pending
use crate::cli::ChannelCommand;
use eyre::Result;
use std::path::Path;
pub async fn run(_c: ChannelCommand, _d: Option<&Path>) -> Result<()> { eyre::bail!("pending") }
