//! pending
use crate::cli::BenchCommand;
use eyre::Result;

pub async fn run(_c: BenchCommand) -> Result<()> { eyre::bail!("pending") }
