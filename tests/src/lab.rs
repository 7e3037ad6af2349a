//! The laboratory: a small Internet of network namespaces with real NATs, made and unmade by `tests/lab/natlab`.
//!
//! It needs root and the tools that `tests/lab/README.md` lists, and fails with their names where they are missing:
//! a laboratory test that is skipped shows nothing.

use crate::network::Node;
use crate::program::{Ended, clean_command, own, run, run_within};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub mod capture;
pub mod matrix;
pub mod public;
pub mod soak;
pub mod theory;

/// Laboratories of this process so far; each has a name of its own, so that several can stand at once.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A script may take this long: sixteen homes take 5 s on a quiet machine and over a minute while others build on it.
const SCRIPT_SECONDS_MAX: u64 = 240;
/// What `natlab` calls, and the Debian package that has it.
const TOOLS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables-nft", "iptables"),
    ("conntrack", "conntrack"),
    ("sysctl", "procps"),
    ("turnserver", "coturn"),
    ("miniupnpd", "miniupnpd-nftables"),
    ("python3", "python3"),
    ("tor", "tor"),
];

/// A laboratory that stands; dropped, it takes its processes and namespaces with it.
pub struct Lab {
    name: String,
}

impl Lab {
    /// Builds one with these homes (home 1 gets the first NAT mode) and two public hosts, `pub1` and `pub2`.
    ///
    /// # Panics
    /// Where this process is not root, or a tool is missing.
    pub fn up(modes: &[&str]) -> Self {
        Self::up_with(&[], modes)
    }

    /// The same with options of `natlab up`, as `--v6`.
    ///
    /// # Panics
    /// As [`Self::up`].
    pub fn up_with(options: &[&str], modes: &[&str]) -> Self {
        check_machine();
        clear_abandoned();
        let name = format!("tl{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { name };
        lab.natlab(&[&["up"], options, modes].concat());
        lab
    }

    /// Runs a command of `natlab` and gives what it printed.
    ///
    /// # Panics
    /// Where it fails.
    pub fn natlab(&self, arguments: &[&str]) -> String {
        self.script("natlab", arguments)
    }

    /// A file that the services on host `srv` have made, as `ca.pem`.
    pub fn service_file(&self, name: &str) -> PathBuf {
        Path::new("/run/natlab").join(&self.name).join("svc").join(name)
    }

    /// Starts coturn on host `srv`; gives the address that answers STUN.
    pub fn start_stun(&self) -> &'static str {
        self.script("natlab-svc", &["stun"]);
        "11.200.0.2:3478"
    }

    /// Starts a Tor network on `pub1`, a SOCKS5 proxy at port 9050 of loopback on each host of `clients`, and an onion
    /// service on `host` that leads port 80 to the first of these ports of its loopback and each other one to itself; gives
    /// the service's name, with its ending.
    pub fn start_tor(&self, host: &str, ports: &[u16], clients: &[&str]) -> String {
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        self.script("natlab-tor", &[&["up", host, &ports], clients].concat()).trim().to_owned()
    }

    /// Runs something with every socket and child process that it makes on a host of the laboratory.
    ///
    /// # Panics
    /// With the panic of what was run; where the host does not exist.
    pub fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}-{host}", self.name);
        let namespace = File::open(&path).unwrap_or_else(|error| panic!("no host {host}: {path}: {error}"));
        let outcome = std::thread::scope(|scope| {
            // A network namespace belongs to a thread, so this one enters it and ends there.
            let entered = move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)
                    .unwrap_or_else(|error| panic!("cannot enter {path}: {error}"));
                work()
            };
            scope.spawn(entered).join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts `trellis ARGUMENTS…` on a host and waits until it is ready.
    pub fn node(&self, host: &str, arguments: &[&str]) -> Node {
        self.inside(host, || Node::start(arguments))
    }

    /// Runs `trellis ARGUMENTS…` on a host to its end.
    pub fn trellis(&self, host: &str, arguments: &[&str]) -> Ended {
        self.inside(host, || {
            let mut command = clean_command();
            command.args(arguments);
            run(command)
        })
    }

    fn script(&self, name: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(scripts().join(name));
        command.args(arguments).env("NATLAB_NAME", &self.name);
        run_within(command, SCRIPT_SECONDS_MAX).succeeded().stdout
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let status = down(&self.name);
        if !std::thread::panicking() {
            assert!(status, "the laboratory {} could not be taken down", self.name);
        }
    }
}

fn scripts() -> PathBuf {
    own("lab")
}

fn down(name: &str) -> bool {
    let mut command = Command::new(scripts().join("natlab"));
    command.arg("down").env("NATLAB_NAME", name).stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn check_machine() {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    assert!(root, "laboratory tests make network namespaces and NATs: run them as root (`.ci/run lab`)");
    let paths = std::env::var("PATH").unwrap_or_default();
    let found = |tool: &str| {
        std::env::split_paths(&paths)
            .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
            .any(|folder| folder.join(tool).exists())
    };
    let missing: Vec<&str> = TOOLS.iter().filter(|(tool, _)| !found(tool)).map(|(_, package)| *package).collect();
    assert!(missing.is_empty(), "the laboratory needs: apt-get install --no-install-recommends {}", missing.join(" "));
}

/// Takes down what a killed test process has left, known by the process number in the name.
fn clear_abandoned() {
    let Ok(entries) = std::fs::read_dir("/run/natlab") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, _)) = name.strip_prefix("tl").and_then(|rest| rest.split_once('x')) else { continue };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            down(&name);
        }
    }
}
