//! Children that are measured: started in a folder of their own, ended with the measurement, however that ends.

use crate::control::ask;
use crate::failure::Failure;
use crate::supervised;
use eyre::Result;
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// Between two questions whether a child is ready.
const POLL_MS: u64 = 50;
/// How long a child may take to end by itself.
const END_MS_MAX: u64 = 10_000;
/// Bytes of a child's log that are shown when it fails.
const LOG_TAIL_BYTES: usize = 2_000;

/// A running child; killed when it is dropped.
pub struct Node {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Node {
    /// Starts this very program with other arguments.
    pub fn start_own(folder: &Path, arguments: &[OsString]) -> Result<Self> {
        Self::start(&std::env::current_exe()?, folder, arguments)
    }

    /// Starts a program; its output goes to a log in the folder.
    pub fn start(program: &Path, folder: &Path, arguments: &[OsString]) -> Result<Self> {
        let name = program.file_name().map_or_else(|| "child".to_owned(), |name| name.to_string_lossy().into_owned());
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log)?;
        let child = Command::new(program)
            .args(arguments)
            .env(supervised::VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::new(format!("cannot start {}: {error}", program.display())))?;
        Ok(Self { child, name, log })
    }

    /// Its process id; zero once it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// The end of its log, for failures.
    pub fn tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let cut = bytes.len().saturating_sub(LOG_TAIL_BYTES);
        String::from_utf8_lossy(bytes.get(cut..).unwrap_or_default()).into_owned()
    }

    /// Waits until the node of a data folder says that it is ready, and gives its status.
    pub async fn until_ready(&mut self, datadir: &Path, seconds_max: u64) -> Result<Value> {
        let deadline = Instant::now() + Duration::from_secs(seconds_max);
        loop {
            if let Ok(status) = ask(datadir, "admin_status", Value::Null).await
                && status["ready"] == Value::Bool(true)
            {
                return Ok(status);
            }
            self.still_runs(deadline, seconds_max)?;
            tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
        }
    }

    /// Fails where the child has ended or the time is over.
    pub fn still_runs(&mut self, deadline: Instant, seconds_max: u64) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(Failure::new(format!("{} ended ({status}):\n{}", self.name, self.tail())).into());
        }
        if Instant::now() > deadline {
            return Err(
                Failure::new(format!("{} was not ready within {seconds_max} s:\n{}", self.name, self.tail())).into()
            );
        }
        Ok(())
    }

    /// Asks it to end by closing its input, and kills it where it does not.
    pub async fn end(mut self) {
        drop(self.child.stdin.take());
        if tokio::time::timeout(Duration::from_millis(END_MS_MAX), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    /// Kills it, where it does not listen to its input.
    pub async fn kill(mut self) {
        let _ = self.child.kill().await;
    }
}
