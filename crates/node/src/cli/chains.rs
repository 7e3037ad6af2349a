//! Flags of the commands for imported chains.

use crate::fees::TRL_PRICE_USD_DEFAULT;
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

/// Flags of `trellis chain fees`.
#[derive(Args, Clone)]
pub struct FeesArgs {
    /// JSON-RPC endpoint of a node, which is asked what gas costs now; what it costs on the idle chain otherwise.
    #[arg(long, value_name = "URL")]
    pub rpc: Option<String>,
    /// The chain whose idle price is shown, `dev` or a chain spec's file.
    #[arg(long, default_value = "dev", value_name = "NAME|FILE", conflicts_with = "rpc")]
    pub chain: String,
    /// What a TRL is assumed to be worth in US dollars; no market's price.
    #[arg(long, env = "TRELLIS_TRL_PRICE_USD", default_value = TRL_PRICE_USD_DEFAULT, value_name = "USD")]
    pub trl_price_usd: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `trellis chain checkpoint`.
#[derive(Args, Clone)]
pub struct CheckpointArgs {
    /// The checkpoint's height; the newest one where none is given.
    #[arg(value_name = "HEIGHT")]
    pub height: Option<u64>,
    /// JSON-RPC endpoint of any node of the chain; it is not believed.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8545")]
    pub rpc: String,
    /// The chain, `dev` or a chain spec's file: what is believed is its first committee, and those that follow from it.
    #[arg(long, default_value = "dev", value_name = "NAME|FILE")]
    pub chain: String,
    /// Believe the committee in this file and no other: what `trellis_getCheckpointCommittee` says as `committee`, hex.
    #[arg(long, value_name = "FILE")]
    pub committee: Option<PathBuf>,
    /// Check the ML-DSA-44 signatures too, and fail where the node does not have them.
    #[arg(long)]
    pub post_quantum: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `trellis chain serve`.
#[derive(Args, Clone)]
pub struct ServeArgs {
    /// Where to listen; every namespace is open, so keep it on this machine. Port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:8545", value_name = "IP:PORT")]
    pub listen: SocketAddr,
}
