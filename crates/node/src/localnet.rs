//! `trellis localnet`: a chain of several validators on one machine, one process each (CHN-02, CHN-10).

use crate::cli::LocalnetArgs;
use crate::dev::accounts;
use crate::failure::Failure;
use crate::keys::dev_account;
use crate::supervisor::{self, Place, Role, port, start, text};
use eyre::Result;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use trellis_chain_spec::{ChainSpec, LOCAL_FIRST_ACCOUNT};

/// Runs the validators until told to end.
///
/// # Errors
/// Where one does not start, with the end of its log.
pub async fn run(args: &LocalnetArgs, datadir: Option<&Path>) -> Result<()> {
    let began = Instant::now();
    let place = Place::new(datadir, "trellis-localnet-")?;
    let (spec, file) = spec(args, &place.base)?;
    let start = async |roles: &mut Vec<Role>| start_all(args, &place.base, &file, roles).await;
    supervisor::run(start, |statuses| banner(&place, &spec, &file, &statuses, began.elapsed())).await
}

/// The chain of this folder, made where there is none.
fn spec(args: &LocalnetArgs, base: &Path) -> Result<(ChainSpec, PathBuf)> {
    let file = base.join("chain_spec.toml");
    if file.exists() {
        let spec = ChainSpec::load(&file.display().to_string())?;
        let (expected, given) = (spec.genesis.validators.len(), args.validators);
        if usize::try_from(given).ok() != Some(expected) {
            return Err(Failure::usage(format!(
                "the chain in this folder began with {expected} validators, not {given}"
            ))
            .hint(format!("give --validators {expected}, or another folder"))
            .into());
        }
        let (expected, given) = (spec.vote_scheme(), args.vote_scheme);
        if expected != given {
            return Err(Failure::usage(format!("the votes of the chain in this folder are {expected}, not {given}"))
                .hint(format!("give --vote-scheme {expected}, or another folder"))
                .into());
        }
        return Ok((spec, file));
    }
    let accounts = (0..args.validators)
        .map(|number| Ok(dev_account(LOCAL_FIRST_ACCOUNT + number)?.address()))
        .collect::<Result<Vec<_>>>()?;
    let mut spec = ChainSpec::local(&accounts).with_dev_votes(args.vote_scheme)?;
    if let Some(block_time_ms) = args.block_time_ms {
        spec.consensus.block_time_ms = block_time_ms;
    }
    if let Some(epoch_blocks) = args.epoch_blocks {
        spec.consensus.epoch_blocks = epoch_blocks;
    }
    if args.checkpoint_blocks.is_some() {
        spec.consensus.checkpoint_blocks = args.checkpoint_blocks;
    }
    spec.check()?;
    let text = spec.to_toml()?;
    std::fs::create_dir_all(base)
        .and_then(|()| std::fs::write(&file, text))
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
    Ok((spec, file))
}

async fn start_all(args: &LocalnetArgs, base: &Path, spec: &Path, roles: &mut Vec<Role>) -> Result<Vec<Value>> {
    let mut statuses = Vec::new();
    let mut peers: Vec<String> = Vec::new();
    for number in 0..args.validators {
        let offset = u16::try_from(number).unwrap_or(u16::MAX);
        let mut flags = vec![
            "--chain".to_owned(),
            spec.display().to_string(),
            "--listen".to_owned(),
            format!("/ip4/127.0.0.1/udp/{}/quic-v1", port(args.p2p_port, offset)),
            "--rpc-listen".to_owned(),
            format!("127.0.0.1:{}", port(args.rpc_port, offset)),
            "--metrics-listen".to_owned(),
            format!("127.0.0.1:{}", port(args.metrics_port, offset)),
            "--dev-account".to_owned(),
            (LOCAL_FIRST_ACCOUNT + number).to_string(),
        ];
        if !peers.is_empty() {
            flags.extend(["--peers".to_owned(), peers.join(",")]);
        }
        let status = start(base, (&format!("validator-{number}"), "validator"), flags, roles).await?;
        peers.push(text(&status, &["endpoints", "p2p"]));
        statuses.push(status);
    }
    Ok(statuses)
}

fn banner(place: &Place, spec: &ChainSpec, file: &Path, statuses: &[Value], took: Duration) {
    let count = statuses.len();
    println!("Trellis {} - a chain of {count} validators on this machine\n", env!("CARGO_PKG_VERSION"));
    accounts(spec);
    println!("Validators");
    for (number, status) in statuses.iter().enumerate() {
        let of = |endpoint| text(status, &["endpoints", endpoint]);
        println!("  {number:<3} http://{:<22} {}", of("rpc"), of("p2p"));
    }
    println!("\nChain      {} (chain id {}), {}", spec.genesis.name, spec.genesis.chain_id, file.display());
    println!("Data       {}\n", place.line());
    println!("Ready in {:.1} s. Ctrl-C ends it.", took.as_secs_f64());
}
