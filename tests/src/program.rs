//! The `trellis` binary as a person runs it: arguments in; exit code, result and complaints out.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a command that should end by itself may take.
pub const COMMAND_SECONDS_MAX: u64 = 60;

/// Where the binary is: `TRELLIS_BIN`, or beside the folder of this test's own binary.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TRELLIS_BIN") {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().expect("the path of this program");
    // target/<profile>/deps/<test>, or target/<profile>/xtask.
    let folder = own.ancestors().skip(1).take(2).find(|folder| folder.join("trellis").is_file());
    folder
        .unwrap_or_else(|| panic!("no `trellis` beside {}; build it: cargo build --package trellis", own.display()))
        .join("trellis")
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ended {
    /// The result as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Panics where the command failed.
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Panics where the command did not fail with this code, these words and a hint.
    pub fn failed_with(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        for word in words.iter().chain(&["error: ", "hint: "]) {
            assert!(self.stderr.contains(word), "{word:?} is missing in {self:?}");
        }
        self
    }
}

/// Runs `trellis` to its end; the environment's own `TRELLIS_*` settings do not reach it.
pub fn trellis(arguments: &[&str]) -> Ended {
    let mut command = clean_command();
    command.args(arguments);
    run(command)
}

/// Runs `trellis … --datadir FOLDER`.
pub fn trellis_in(folder: &Path, arguments: &[&str]) -> Ended {
    let mut command = clean_command();
    command.args(arguments).arg("--datadir").arg(folder);
    run(command)
}

/// The command without settings from outside.
pub fn clean_command() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TRELLIS_") {
            command.env_remove(name);
        }
    }
    // The kernel's huge pages make a validator's memory jump by what it never asked for, and a soak judges what it asked for.
    command.env("MIMALLOC_ALLOW_THP", "0");
    command
}

/// Runs any command to its end; one that takes longer than [`COMMAND_SECONDS_MAX`] is killed and fails.
pub fn run(command: Command) -> Ended {
    run_within(command, COMMAND_SECONDS_MAX)
}

/// The same with a limit of its own, in seconds.
pub fn run_within(mut command: Command, seconds_max: u64) -> Ended {
    let folder = tempfile::tempdir().expect("temporary folder");
    // Files, not pipes: a full pipe would stop a talkative command for ever.
    let (out, err) = (folder.path().join("stdout"), folder.path().join("stderr"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).expect("file"))
        .stderr(std::fs::File::create(&err).expect("file"))
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let deadline = Instant::now() + Duration::from_secs(seconds_max);
    let status = loop {
        match child.try_wait().expect("wait") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let ended = Ended { code: status.and_then(|s| s.code()).unwrap_or(-1), stdout: read(&out), stderr: read(&err) };
    assert!(status.is_some(), "{command:?} did not end within {seconds_max} s: {ended:?}");
    ended
}

/// A file or folder of this package. The runner says where that is: what was compiled in is the place of a checkout that may
/// be gone while the build folder stays.
pub fn own(path: &str) -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR");
    package.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from).join(path)
}

/// A client's tool: where the variable says, or where the gate installs it.
///
/// # Panics
/// Where it is missing; the message says how to get it.
pub fn tool(variable: &str, installed: &str, what: &str) -> PathBuf {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let path =
        std::env::var_os(variable).map_or_else(|| home.join(".cache/trellis-tools").join(installed), PathBuf::from);
    assert!(path.exists(), "{} is missing: `.ci/run setup tools` installs {what}, or set {variable}", path.display());
    path
}
