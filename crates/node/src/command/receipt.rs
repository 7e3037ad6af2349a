//! pending
use crate::cli::ReceiptCommand;
use eyre::Result;
use std::path::Path;
pub async fn run(_c: ReceiptCommand, _d: Option<&Path>) -> Result<()> { eyre::bail!("pending") }
