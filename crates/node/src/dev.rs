//! `trellis dev`: the whole network on one machine, one process per role, as in separate terminals (OPS-02).

use crate::cli::DevArgs;
use crate::failure::Failure;
use crate::keys::dev_account;
use crate::supervisor::{self, Place, Role, start, text};
use eyre::Result;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use trellis_chain_spec::{ChainSpec, DEV_ACCOUNT_COUNT, DEV_MNEMONIC};
use trellis_crypto::VoteScheme;

/// Runs the network until it is told to end.
///
/// # Errors
/// Where a role does not start, with the end of its log.
pub async fn run(args: &DevArgs, datadir: Option<&Path>) -> Result<()> {
    let began = Instant::now();
    let place = Place::new(datadir, "trellis-dev-")?;
    let start = async |roles: &mut Vec<Role>| start_all(args, &place.base, roles).await;
    supervisor::run(start, |statuses| banner(&place, &statuses, began.elapsed())).await
}

/// The chain's name; its file, made in the data folder, where votes are of another scheme than the built-in chain's.
fn chain(args: &DevArgs, base: &Path) -> Result<String> {
    if args.vote_scheme == VoteScheme::default() {
        return Ok("dev".into());
    }
    let file = base.join("chain_spec.toml");
    let text = ChainSpec::dev().with_dev_votes(args.vote_scheme)?.to_toml()?;
    std::fs::create_dir_all(base)
        .and_then(|()| std::fs::write(&file, text))
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
    Ok(file.display().to_string())
}

async fn start_all(args: &DevArgs, base: &Path, roles: &mut Vec<Role>) -> Result<Vec<(&'static str, Value)>> {
    let mut statuses = Vec::new();
    let chain = chain(args, base)?;
    let validator = start(base, ("validator", "validator"), validator_flags(args, &chain), roles).await?;
    let rpc = format!("http://{}", text(&validator, &["endpoints", "rpc"]));
    let mut peers = vec![text(&validator, &["endpoints", "p2p"])];
    statuses.push(("validator", validator));
    for (offset, name) in [(1u16, "provider"), (3, "aggregator"), (2, "gateway")] {
        let mut flags = role_flags((args, &chain), offset, &rpc, &peers);
        match name {
            "provider" => flags.extend(backend_flags(args)),
            "gateway" => flags.extend(["--http-listen".into(), format!("127.0.0.1:{}", args.http_port)]),
            _ => {}
        }
        let status = start(base, (name, name), flags, roles).await?;
        peers.push(text(&status, &["endpoints", "p2p"]));
        statuses.push((name, status));
    }
    Ok(statuses)
}

fn validator_flags(args: &DevArgs, chain: &str) -> Vec<String> {
    let mut flags = place_flags((args, chain), 0, 10);
    flags.extend(["--rpc-listen".into(), format!("127.0.0.1:{}", args.rpc_port)]);
    flags
}

fn role_flags(of: (&DevArgs, &str), offset: u16, rpc: &str, peers: &[String]) -> Vec<String> {
    let mut flags = place_flags(of, offset, 10 + u32::from(offset));
    flags.extend(["--rpc".into(), rpc.to_owned(), "--peers".into(), peers.join(",")]);
    flags
}

fn place_flags((args, chain): (&DevArgs, &str), offset: u16, account: u32) -> Vec<String> {
    vec![
        "--chain".into(),
        chain.into(),
        "--listen".into(),
        format!("/ip4/127.0.0.1/udp/{}/quic-v1", supervisor::port(args.p2p_port, offset)),
        "--metrics-listen".into(),
        format!("127.0.0.1:{}", supervisor::port(args.metrics_port, offset)),
        "--dev-account".into(),
        account.to_string(),
    ]
}

fn backend_flags(args: &DevArgs) -> Vec<String> {
    let mut flags = Vec::new();
    if let Some(model) = &args.model {
        flags.extend(["--model".into(), model.display().to_string()]);
    }
    if let Some(upstream) = &args.upstream {
        flags.extend(["--upstream".into(), upstream.clone()]);
    }
    flags
}

fn banner(place: &Place, statuses: &[(&'static str, Value)], took: Duration) {
    let of = |role: &str, path: &[&str]| {
        statuses.iter().find(|(name, _)| *name == role).map(|(_, status)| text(status, path)).unwrap_or_default()
    };
    let spec = ChainSpec::dev();
    println!("Trellis {} - the whole network on this machine\n", env!("CARGO_PKG_VERSION"));
    accounts(&spec);
    println!("Nodes");
    for (name, status) in statuses {
        println!("  {name:<11}{}  {}", text(status, &["node_id"]), text(status, &["endpoints", "p2p"]));
    }
    let gateway = of("gateway", &["endpoints", "http"]);
    println!("\nChain      {} (chain id {})", spec.genesis.name, spec.genesis.chain_id);
    println!("JSON-RPC   http://{0}  ws://{0}", of("validator", &["endpoints", "rpc"]));
    println!("OpenAI API http://{gateway}/v1");
    println!("Metrics    http://{}/metrics", of("validator", &["endpoints", "metrics"]));
    println!("Data       {}\n", place.line());
    println!("Try it:");
    println!(
        "  curl -sN http://{gateway}/v1/chat/completions -H 'Content-Type: application/json' -d '{{\"model\":\"{}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"What is the capital of France?\"}}]}}'\n",
        of("provider", &["model"])
    );
    println!("Ready in {:.1} s. Ctrl-C ends it.", took.as_secs_f64());
}

/// Shows the funded accounts.
pub fn accounts(spec: &ChainSpec) {
    println!("Accounts (standard test mnemonic, public: never send anything of value to them)");
    for index in 0..DEV_ACCOUNT_COUNT {
        let Ok(key) = dev_account(u32::try_from(index).unwrap_or(0)) else { continue };
        let balance = spec.genesis.alloc.get(&key.address()).map(|account| account.balance).unwrap_or_default();
        println!("  ({index}) {}  0x{}  {balance}", key.address(), hex::encode(key.to_bytes().as_slice()));
    }
    println!("  mnemonic: {DEV_MNEMONIC}\n");
}
