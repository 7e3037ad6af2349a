//! `trellis dev`: the whole network on one machine, one process per role, as in separate terminals (OPS-02).

use crate::cli::DevArgs;
use crate::control::ask;
use crate::datadir::check_writable;
use crate::failure::Failure;
use crate::keys::dev_account;
use crate::supervised;
use eyre::Result;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use trellis_chain_spec::{ChainSpec, DEV_ACCOUNT_COUNT, DEV_MNEMONIC};
use trellis_market_inference::THREADS_ENV;

/// How long a role may take until it says that it is ready.
const READY_MS_MAX: u64 = 60_000;
/// Between two questions whether a role is ready.
const READY_POLL_MS: u64 = 25;
/// How long the roles may take to end by themselves.
const END_MS_MAX: u64 = 8_000;
/// Between two looks whether all roles live.
const WATCH_MS: u64 = 500;
/// The pause before the second restart of a role in a row; each further one is twice as long.
const RESTART_MS_MIN: u64 = 500;
/// The longest pause before a restart.
const RESTART_MS_MAX: u64 = 8_000;
/// Restarts of one role in a row before the network gives up: two minutes.
const RESTARTS_MAX: u32 = 20;
/// A role that ran so long is well again, and its restarts are counted anew.
const WELL_AGAIN_MS: u64 = 30_000;
/// Inference threads of the provider, where the caller names none: its workers spin, and the other roles need the cores.
const INFERENCE_THREADS: &str = "1";
/// Lines of a role's log that are shown when it does not start.
const LOG_TAIL_LINES: usize = 15;

struct Role {
    name: &'static str,
    folder: PathBuf,
    arguments: Vec<String>,
    child: Child,
    since: Instant,
    restarts: u32,
    again_at: Option<Instant>,
}

impl Role {
    /// Looks whether the role lives, and starts it again where it does not and its time has come.
    fn look(&mut self) -> Result<()> {
        if let Some(at) = self.again_at {
            return self.start_again_at(at);
        }
        let ran = self.since.elapsed();
        if ran > Duration::from_millis(WELL_AGAIN_MS) {
            self.restarts = 0;
        }
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        // Its own log may be on the disk that is full.
        let disk = check_writable(&self.folder).err().map(|full| format!("; {full}")).unwrap_or_default();
        if self.restarts >= RESTARTS_MAX {
            let (name, tail) = (self.name, tail(&self.folder));
            return Err(Failure::new(format!("the {name} died {RESTARTS_MAX} times{disk}:\n{tail}")).into());
        }
        let pause = pause_ms(self.restarts);
        eprintln!("the {} ended ({status}); starting it again in {pause} ms{disk}", self.name);
        self.restarts += 1;
        self.start_again_at(Instant::now() + Duration::from_millis(pause))
    }

    fn start_again_at(&mut self, at: Instant) -> Result<()> {
        self.again_at = Some(at);
        if Instant::now() >= at {
            self.child = spawn(&self.folder, &self.arguments)?;
            (self.since, self.again_at) = (Instant::now(), None);
        }
        Ok(())
    }
}

/// None before the first restart, then doubling.
const fn pause_ms(restarts: u32) -> u64 {
    if restarts == 0 {
        return 0;
    }
    let pause = RESTART_MS_MIN << if restarts > 8 { 8 } else { restarts - 1 };
    if pause < RESTART_MS_MAX { pause } else { RESTART_MS_MAX }
}

/// Runs the network until it is told to end.
///
/// # Errors
/// Where a role does not start, with the end of its log.
pub async fn run(args: &DevArgs, datadir: Option<&Path>) -> Result<()> {
    let began = Instant::now();
    let throw_away = match datadir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("trellis-dev-").tempdir()?),
    };
    let base = match (datadir, &throw_away) {
        (Some(folder), _) => folder.to_path_buf(),
        (None, Some(folder)) => folder.path().to_path_buf(),
        (None, None) => return Err(Failure::new("no data folder").into()),
    };
    let mut roles: Vec<Role> = Vec::new();
    let outcome = tokio::select! {
        started = start_all(args, &base, &mut roles) => started,
        cause = supervised::until_told_to_end() => Err(Failure::new(format!("ended while starting ({cause})")).into()),
    };
    let outcome = match outcome {
        Ok(statuses) => {
            banner(&base, throw_away.is_some(), &statuses, began.elapsed());
            watch(&mut roles).await
        }
        Err(error) => Err(error),
    };
    end_all(roles).await;
    outcome
}

async fn start_all(args: &DevArgs, base: &Path, roles: &mut Vec<Role>) -> Result<Vec<(&'static str, Value)>> {
    let mut statuses = Vec::new();
    let validator = start(base, "validator", validator_flags(args), roles).await?;
    let rpc = format!("http://{}", text(&validator, &["endpoints", "rpc"]));
    let mut peers = vec![text(&validator, &["endpoints", "p2p"])];
    statuses.push(("validator", validator));
    for (offset, name) in [(1u16, "provider"), (3, "aggregator"), (2, "gateway")] {
        let mut flags = role_flags(args, offset, &rpc, &peers);
        match name {
            "provider" => flags.extend(backend_flags(args)),
            "gateway" => flags.extend(["--http-listen".into(), format!("127.0.0.1:{}", args.http_port)]),
            _ => {}
        }
        let status = start(base, name, flags, roles).await?;
        peers.push(text(&status, &["endpoints", "p2p"]));
        statuses.push((name, status));
    }
    Ok(statuses)
}

fn port(first: u16, offset: u16) -> u16 {
    if first == 0 { 0 } else { first.saturating_add(offset) }
}

fn validator_flags(args: &DevArgs) -> Vec<String> {
    let mut flags = place_flags(args, 0, 10);
    flags.extend(["--rpc-listen".into(), format!("127.0.0.1:{}", args.rpc_port)]);
    flags
}

fn role_flags(args: &DevArgs, offset: u16, rpc: &str, peers: &[String]) -> Vec<String> {
    let mut flags = place_flags(args, offset, 10 + u32::from(offset));
    flags.extend(["--rpc".into(), rpc.to_owned(), "--peers".into(), peers.join(",")]);
    flags
}

fn place_flags(args: &DevArgs, offset: u16, account: u32) -> Vec<String> {
    vec![
        "--chain".into(),
        "dev".into(),
        "--listen".into(),
        format!("/ip4/127.0.0.1/udp/{}/quic-v1", port(args.p2p_port, offset)),
        "--metrics-listen".into(),
        format!("127.0.0.1:{}", port(args.metrics_port, offset)),
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

async fn start(base: &Path, name: &'static str, flags: Vec<String>, roles: &mut Vec<Role>) -> Result<Value> {
    let folder = base.join(name);
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::new(format!("cannot make the data folder {}: {error}", folder.display())))?;
    let mut arguments = vec![name.to_owned(), "--datadir".into(), folder.display().to_string()];
    arguments.extend(flags);
    let child = spawn(&folder, &arguments)?;
    roles.push(Role { name, folder, arguments, child, since: Instant::now(), restarts: 0, again_at: None });
    let Some(role) = roles.last_mut() else { return Err(Failure::new("no role was started").into()) };
    let status = until_ready(role).await?;
    keep_ports(&mut role.arguments, &status);
    Ok(status)
}

/// Writes the ports that a role really got into its arguments, so that it has the same ones after a restart.
fn keep_ports(arguments: &mut [String], status: &Value) {
    let flags =
        [("--listen", "p2p"), ("--rpc-listen", "rpc"), ("--http-listen", "http"), ("--metrics-listen", "metrics")];
    for (flag, endpoint) in flags {
        let address = text(status, &["endpoints", endpoint]);
        let Some(at) = arguments.iter().position(|argument| argument == flag) else { continue };
        if let (false, Some(value)) = (address.is_empty(), arguments.get_mut(at + 1)) {
            *value = address.split("/p2p/").next().unwrap_or_default().to_owned();
        }
    }
}

fn spawn(folder: &Path, arguments: &[String]) -> Result<Child> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("node.log"))
        .map_err(|error| Failure::new(format!("cannot write a log in {}: {error}", folder.display())))?;
    let child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .env(supervised::VARIABLE, "1")
        .env(THREADS_ENV, std::env::var(THREADS_ENV).unwrap_or_else(|_| INFERENCE_THREADS.into()))
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

async fn until_ready(role: &mut Role) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_millis(READY_MS_MAX);
    loop {
        if let Some(status) = role.child.try_wait()? {
            return Err(Failure::new(format!(
                "the {} ended while starting ({status}):\n{}",
                role.name,
                tail(&role.folder)
            ))
            .into());
        }
        if let Ok(status) = ask(&role.folder, "admin_status", Value::Null).await
            && status["ready"] == Value::Bool(true)
        {
            return Ok(status);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!(
                "the {} was not ready within {} s:\n{}",
                role.name,
                READY_MS_MAX / 1_000,
                tail(&role.folder)
            ))
            .into());
        }
        tokio::time::sleep(Duration::from_millis(READY_POLL_MS)).await;
    }
}

fn tail(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("node.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// Restarts roles that die, until the network is told to end.
async fn watch(roles: &mut [Role]) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(WATCH_MS));
    let end = supervised::until_told_to_end();
    tokio::pin!(end);
    loop {
        tokio::select! {
            _ = &mut end => return Ok(()),
            _ = tick.tick() => {}
        }
        for role in roles.iter_mut() {
            role.look()?;
        }
    }
}

/// Asks every role to end, the buyers before the chain, and kills what does not.
async fn end_all(mut roles: Vec<Role>) {
    let deadline = Instant::now() + Duration::from_millis(END_MS_MAX);
    for role in roles.iter_mut().rev() {
        drop(role.child.stdin.take());
    }
    for mut role in roles.into_iter().rev() {
        let left = deadline.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, role.child.wait()).await.is_err() {
            eprintln!("the {} did not end by itself and was killed", role.name);
            let _ = role.child.kill().await;
        }
    }
}

fn text(status: &Value, path: &[&str]) -> String {
    path.iter().fold(status, |value, key| &value[*key]).as_str().unwrap_or_default().to_owned()
}

fn banner(base: &Path, throw_away: bool, statuses: &[(&'static str, Value)], took: Duration) {
    let of = |role: &str, path: &[&str]| {
        statuses.iter().find(|(name, _)| *name == role).map(|(_, status)| text(status, path)).unwrap_or_default()
    };
    let spec = ChainSpec::dev();
    println!("Trellis {} - the whole network on this machine\n", env!("CARGO_PKG_VERSION"));
    println!("Accounts (standard test mnemonic, public: never send anything of value to them)");
    for index in 0..DEV_ACCOUNT_COUNT {
        let Ok(key) = dev_account(u32::try_from(index).unwrap_or(0)) else { continue };
        let balance = spec.genesis.alloc.get(&key.address()).map(|account| account.balance).unwrap_or_default();
        println!("  ({index}) {}  0x{}  {balance}", key.address(), hex::encode(key.to_bytes().as_slice()));
    }
    println!("  mnemonic: {DEV_MNEMONIC}\n");
    println!("Nodes");
    for (name, status) in statuses {
        println!("  {name:<11}{}  {}", text(status, &["node_id"]), text(status, &["endpoints", "p2p"]));
    }
    let gateway = of("gateway", &["endpoints", "http"]);
    println!("\nChain      {} (chain id {})", spec.genesis.name, spec.genesis.chain_id);
    println!("JSON-RPC   http://{0}  ws://{0}", of("validator", &["endpoints", "rpc"]));
    println!("OpenAI API http://{gateway}/v1");
    println!("Metrics    http://{}/metrics", of("validator", &["endpoints", "metrics"]));
    println!(
        "Data       {}{}\n",
        base.display(),
        if throw_away { " (thrown away at the end; keep it with --datadir DIR)" } else { "" }
    );
    println!("Try it:");
    println!(
        "  curl -sN http://{gateway}/v1/chat/completions -H 'Content-Type: application/json' -d '{{\"model\":\"{}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"What is the capital of France?\"}}]}}'\n",
        of("provider", &["model"])
    );
    println!("Ready in {:.1} s. Ctrl-C ends it.", took.as_secs_f64());
}
