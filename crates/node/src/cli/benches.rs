//! Flags of the measurements.

use clap::Args;
use std::path::PathBuf;
use trellis_chain_spec::LOCAL_VALIDATORS_MAX;

/// Seconds of a sustained load at most: its transfers are signed beforehand.
const SECONDS_MAX: u64 = 3_600;
/// Transfers a second at most.
const RATE_MAX: i64 = 1_000_000;

/// Flags of `trellis bench chain`.
#[derive(Args, Clone, Default)]
pub struct ChainBenchArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Measure a chain of so many validators, a process each: throughput, finality, and what each uses. Without this, one
    /// validator is measured beside anvil and in process.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(LOCAL_VALIDATORS_MAX)))]
    pub validators: Option<u32>,
    /// How long the validators' sustained load lasts.
    #[arg(long, default_value_t = 20, requires = "validators", value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub seconds: u64,
    /// Transfers a second of the sustained load; 70 % of what the burst before it gave otherwise.
    #[arg(long, value_name = "PER-SECOND", requires = "validators", value_parser = clap::value_parser!(u32).range(1..=RATE_MAX))]
    pub rate: Option<u32>,
    /// Transfers to send at once; 20,000 of each kind, or with --validators 80,000 shared by them.
    #[arg(long, value_name = "COUNT")]
    pub transactions: Option<usize>,
    /// Funded accounts; 100,000, or 20,000 with --validators. Those above 100,000 are paid in blocks before the measurement.
    #[arg(long, value_name = "COUNT")]
    pub accounts: Option<usize>,
    /// An anvil binary to measure in the same run, beside one validator.
    #[arg(long, env = "TRELLIS_ANVIL", value_name = "FILE")]
    pub anvil: Option<PathBuf>,
}
