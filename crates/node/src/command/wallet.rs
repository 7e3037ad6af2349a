//! pending
use crate::cli::WalletCommand;
use eyre::Result;
use std::path::Path;
pub async fn run(_c: WalletCommand, _d: Option<&Path>) -> Result<()> { eyre::bail!("pending") }
