//! Several nodes on one machine as child processes: started one after the other, watched, restarted, ended together.

use crate::control::ask;
use crate::datadir::check_writable;
use crate::failure::Failure;
use crate::supervised;
use eyre::Result;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
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

/// One child process.
pub struct Role {
    name: String,
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
            let (name, tail) = (&self.name, tail(&self.folder));
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

/// A folder for all of them, and what to call it.
pub struct Place {
    /// Where each has a folder of its own.
    pub base: PathBuf,
    throw_away: Option<tempfile::TempDir>,
}

impl Place {
    /// The folder that was named, or one that is thrown away at the end.
    ///
    /// # Errors
    /// Where no folder can be made.
    pub fn new(datadir: Option<&Path>, prefix: &str) -> Result<Self> {
        if let Some(folder) = datadir {
            return Ok(Self { base: folder.to_path_buf(), throw_away: None });
        }
        let folder = tempfile::Builder::new().prefix(prefix).tempdir()?;
        Ok(Self { base: folder.path().to_path_buf(), throw_away: Some(folder) })
    }

    /// The folder, and what becomes of it, for people.
    pub fn line(&self) -> String {
        let fate = if self.throw_away.is_some() { " (thrown away at the end; keep it with --datadir DIR)" } else { "" };
        format!("{}{fate}", self.base.display())
    }
}

/// Starts nodes, shows that they are ready, and keeps them running until told to end; then ends them all.
///
/// # Errors
/// Where one does not start, with the end of its log, or dies too often.
pub async fn run<T>(start_all: impl AsyncFnOnce(&mut Vec<Role>) -> Result<T>, ready: impl FnOnce(T)) -> Result<()> {
    let mut roles: Vec<Role> = Vec::new();
    let outcome = tokio::select! {
        started = start_all(&mut roles) => started,
        cause = supervised::until_told_to_end() => Err(Failure::new(format!("ended while starting ({cause})")).into()),
    };
    let outcome = match outcome {
        Ok(started) => {
            ready(started);
            watch(&mut roles).await
        }
        Err(error) => Err(error),
    };
    end_all(roles).await;
    outcome
}

/// Starts `trellis ROLE` with its data in `BASE/NAME` and waits until it says that it is ready. Gives its status.
///
/// # Errors
/// Where it ends or is not ready in time, with the end of its log.
pub async fn start(
    base: &Path,
    (name, role): (&str, &str),
    flags: Vec<String>,
    roles: &mut Vec<Role>,
) -> Result<Value> {
    let folder = base.join(name);
    std::fs::create_dir_all(&folder)
        .map_err(|error| Failure::new(format!("cannot make the data folder {}: {error}", folder.display())))?;
    let mut arguments = vec![role.to_owned(), "--datadir".into(), folder.display().to_string()];
    arguments.extend(flags);
    let child = spawn(&folder, &arguments)?;
    let name = name.to_owned();
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

/// A text within a status, empty where there is none.
pub fn text(status: &Value, path: &[&str]) -> String {
    path.iter().fold(status, |value, key| &value[*key]).as_str().unwrap_or_default().to_owned()
}

/// A node's port: so many after the first, or the system's choice where that is 0.
pub fn port(first: u16, offset: u16) -> u16 {
    if first == 0 { 0 } else { first.saturating_add(offset) }
}
