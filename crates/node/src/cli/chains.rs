//! Flags of the commands for imported chains.

use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Flags of `trellis chain import`.
#[derive(Args, Clone)]
pub struct ImportArgs {
    /// The blocks, as Ethereum's clients export them: the RLP of one after another.
    #[arg(value_name = "CHAIN.RLP")]
    pub file: PathBuf,
    /// The chain's genesis.json, with its forks.
    #[arg(long, value_name = "FILE")]
    pub genesis: PathBuf,
    /// Which block is the head, which are safe and finalized: an engine_forkchoiceUpdated request. The last block otherwise.
    #[arg(long, value_name = "FILE")]
    pub head: Option<PathBuf>,
}

/// Flags of `trellis chain serve`.
#[derive(Args, Clone)]
pub struct ServeArgs {
    /// Where to listen; every namespace is open, so keep it on this machine. Port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:8545", value_name = "IP:PORT")]
    pub listen: SocketAddr,
}
