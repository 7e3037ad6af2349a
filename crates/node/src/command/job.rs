//! pending
use crate::cli::JobCommand;
use eyre::Result;
use std::path::Path;
pub async fn run(_c: JobCommand, _d: Option<&Path>) -> Result<()> { eyre::bail!("pending") }
