//! `trellis snapshot …`.

use super::ListArgs;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum SnapshotCommand {
    /// Write the newest state of a folder's chain, and what proves it, into a file (offline).
    Export {
        /// The file to write.
        file: PathBuf,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Prove a snapshot from the genesis's committee on, and write nothing.
    Verify {
        /// The file.
        file: PathBuf,
        /// Built-in chain or the path of a chain_spec.toml.
        #[arg(long, env = "TRELLIS_CHAIN", value_name = "NAME|FILE", default_value = "dev")]
        chain: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Prove a snapshot and begin a folder's chain with it, where that has none (offline).
    Import {
        /// The file.
        file: PathBuf,
        /// Built-in chain or the path of a chain_spec.toml.
        #[arg(long, env = "TRELLIS_CHAIN", value_name = "NAME|FILE", default_value = "dev")]
        chain: String,
        #[command(flatten)]
        list: ListArgs,
    },
}
