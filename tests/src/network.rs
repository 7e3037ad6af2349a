//! One `trellis dev` or `trellis localnet`: started, asked, hurt and, however the test ends, cleared away.

use crate::http::send;
use crate::program::{Ended, clean_command, trellis_in};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The roles that `trellis dev` runs, one process each.
pub const ROLES: [&str; 4] = ["validator", "provider", "gateway", "aggregator"];
/// How long the network may take until it says that it is ready; a loaded machine is slow.
const READY_SECONDS_MAX: u64 = 60;
/// How long it may take to end when it is asked to.
const END_SECONDS_MAX: u64 = 20;
/// How long a node may take to answer on its control socket.
const ANSWER_SECONDS_MAX: u64 = 30;
/// Ports of one network: four of p2p, JSON-RPC, the OpenAI API, four of metrics.
const PORTS: u16 = 16;
/// Lines of each log that are shown when a test fails.
const LOG_TAIL_LINES: usize = 40;

/// A running network.
pub struct Network {
    folder: TempDir,
    child: Child,
    /// The folders of its nodes.
    roles: Vec<String>,
    /// What it printed until it was ready.
    pub banner: String,
    /// How long it took until it said so.
    pub ready_after: Duration,
}

impl Network {
    /// Starts one in a new folder.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("temporary folder"))
    }

    /// Starts one in a folder that may hold state already, on ports that the system chooses.
    pub fn start_in(folder: TempDir) -> Self {
        Self::dev(folder, [0; 4])
    }

    /// Starts one in a new folder, on ports that stay the same when a role is restarted.
    pub fn start_on_fixed_ports() -> Self {
        let base = free_ports();
        Self::dev(tempfile::tempdir().expect("temporary folder"), [base, base + 4, base + 5, base + 6])
    }

    /// Starts a chain of several validators, in folders `validator-0` and so on.
    pub fn validators(count: u32) -> Self {
        Self::validators_with(count, &[])
    }

    /// The same with more flags.
    pub fn validators_with(count: u32, more: &[&str]) -> Self {
        let count_text = count.to_string();
        let flags = ["--validators", &count_text, "--p2p-port", "0", "--rpc-port", "0", "--metrics-port", "0"];
        let flags = flags.iter().chain(more).map(|flag| (*flag).to_owned()).collect();
        let roles = (0..count).map(|number| format!("validator-{number}")).collect();
        Self::start_on(tempfile::tempdir().expect("temporary folder"), "localnet", flags, roles)
    }

    fn dev(folder: TempDir, ports: [u16; 4]) -> Self {
        let flags = ["--p2p-port", "--rpc-port", "--http-port", "--metrics-port"];
        let flags = flags.iter().zip(ports).flat_map(|(flag, port)| [(*flag).to_owned(), port.to_string()]);
        Self::start_on(folder, "dev", flags.collect(), ROLES.map(str::to_owned).to_vec())
    }

    fn start_on(folder: TempDir, command: &str, flags: Vec<String>, roles: Vec<String>) -> Self {
        let began = Instant::now();
        let mut child = clean_command()
            .arg(command)
            .args(flags)
            .arg("--datadir")
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.path().join("dev.log")).expect("file"))
            .spawn()
            .expect("the network starts");
        let stdout = child.stdout.take().expect("stdout");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut network = Self { folder, child, roles, banner: String::new(), ready_after: Duration::ZERO };
        loop {
            let left = Duration::from_secs(READY_SECONDS_MAX).saturating_sub(began.elapsed());
            let line =
                lines.recv_timeout(left).unwrap_or_else(|error| panic!("trellis {command} is not ready: {error}"));
            network.banner.push_str(&line);
            network.banner.push('\n');
            if line.starts_with("Ready") {
                network.ready_after = began.elapsed();
                return network;
            }
        }
    }

    /// The folder that holds one folder per role.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command against this network.
    pub fn trellis(&self, arguments: &[&str]) -> Ended {
        trellis_in(self.folder.path(), arguments)
    }

    /// What `status` says of one role; nothing while it does not answer. The others are not asked: one may stand still.
    pub fn status(&self, role: &str) -> Value {
        let ended = trellis_in(&self.folder.path().join(role), &["status", "--json"]);
        if ended.code == 0 { ended.json()["nodes"][0].clone() } else { Value::Null }
    }

    /// An endpoint of a role, as `address:port`.
    pub fn endpoint(&self, role: &str, name: &str) -> String {
        let status = self.status(role);
        let text = status["endpoints"][name].as_str().unwrap_or_else(|| panic!("no {name} of the {role} in {status}"));
        text.to_owned()
    }

    /// URL of the chain's JSON-RPC.
    pub fn rpc(&self) -> String {
        format!("http://{}", self.endpoint("validator", "rpc"))
    }

    /// URL of the OpenAI API, up to and with `/v1`.
    pub fn openai(&self) -> String {
        format!("http://{}/v1", self.endpoint("gateway", "http"))
    }

    /// Stops one role's process from running, without ending it.
    pub fn freeze(&self, role: &str) {
        self.signal(role, "-STOP");
    }

    /// Lets a frozen role go on.
    pub fn thaw(&self, role: &str) {
        self.signal(role, "-CONT");
    }

    fn signal(&self, role: &str, signal: &str) {
        let pid = self.pid(role).unwrap_or_else(|| panic!("the {role} does not run"));
        let sent = Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill");
        assert!(sent.success(), "{signal} to the {role}");
    }

    /// What a role has logged; `dev` is the supervisor itself.
    pub fn log(&self, role: &str) -> String {
        let place = if role == "dev" { "dev.log".to_owned() } else { format!("{role}/node.log") };
        String::from_utf8_lossy(&std::fs::read(self.folder.path().join(place)).unwrap_or_default()).into_owned()
    }

    /// The sum of a metric's samples whose labels contain a text.
    pub fn metric(&self, role: &str, name: &str, labels: &str) -> f64 {
        metric(&self.endpoint(role, "metrics"), name, labels)
    }

    /// Kills one role's process as the system's OOM killer would.
    pub fn kill(&self, role: &str) {
        let pid = self.pid(role).unwrap_or_else(|| panic!("the {role} does not run"));
        kill_9(pid);
    }

    /// The process of a role: what holds its folder's lock and has the folder on its command line.
    pub fn pid(&self, role: &str) -> Option<u32> {
        let folder = self.folder.path().join(role);
        let pid = std::fs::read_to_string(folder.join("lock")).ok()?.trim().parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&command).contains(&*folder.to_string_lossy()).then_some(pid)
    }

    /// Waits until every role says that it is ready.
    pub fn wait_ready(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let waiting: Vec<&String> = self.roles.iter().filter(|role| self.status(role)["ready"] != true).collect();
            if waiting.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "not ready within {limit:?}: {waiting:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends the network as Ctrl-C does and gives back its folder; fails where it does not end cleanly.
    pub fn stop(mut self) -> TempDir {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("kill");
        assert!(sent.success());
        let deadline = Instant::now() + Duration::from_secs(END_SECONDS_MAX);
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                assert!(status.success(), "the network ended with {status}");
                break;
            }
            assert!(Instant::now() < deadline, "the network did not end within {END_SECONDS_MAX} s");
            std::thread::sleep(Duration::from_millis(20));
        }
        let left: Vec<&String> = self.roles.iter().filter(|role| self.pid(role).is_some()).collect();
        assert!(left.is_empty(), "processes are left over: {left:?}");
        let empty = tempfile::tempdir().expect("temporary folder");
        std::mem::replace(&mut self.folder, empty)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let pids: Vec<u32> = self.roles.iter().filter_map(|role| self.pid(role)).collect();
        let _ = self.child.kill();
        let _ = self.child.wait();
        pids.into_iter().for_each(kill_9);
        if std::thread::panicking() {
            let mut logs = vec![self.folder.path().join("dev.log")];
            logs.extend(self.roles.iter().map(|role| self.folder.path().join(role).join("node.log")));
            logs.iter().for_each(|log| show_tail(log));
        }
        for role in &self.roles {
            keep(&self.folder.path().join(role).join("node.log"), role, self.child.id());
        }
    }
}

/// The first of [`PORTS`] ports in a row that nobody listens on.
fn free_ports() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 600).expect("small") * 16;
    (0..100)
        .map(|step| first + step * PORTS)
        .find(|base| {
            (*base..base + PORTS).all(|port| {
                std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
                    && std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok()
            })
        })
        .expect("ports in a row")
}

/// The sum of a metric's samples whose labels contain a text, as an address of `/metrics` shows it.
pub fn metric(address: &str, name: &str, labels: &str) -> f64 {
    let response = send("GET", &format!("http://{address}/metrics"), &[], b"").expect("metrics");
    let text = String::from_utf8_lossy(&response.body().expect("metrics")).into_owned();
    let samples = text.lines().filter(|line| {
        let (found, rest) = line.split_at(line.find(['{', ' ']).unwrap_or(line.len()));
        found == name && rest.contains(labels)
    });
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// One role that runs alone, as in a terminal of its own.
pub struct Node {
    folder: PathBuf,
    /// The folder, where it goes with the node.
    _own: Option<TempDir>,
    child: Child,
    role: String,
}

impl Node {
    /// Starts `trellis ARGUMENTS… --datadir NEW-FOLDER` and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        let own = tempfile::tempdir().expect("temporary folder");
        Self::start_on(own.path().to_path_buf(), Some(own), arguments)
    }

    /// The same in a folder that stays.
    pub fn start_in(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_on(folder.to_path_buf(), None, arguments)
    }

    fn start_on(folder: PathBuf, own: Option<TempDir>, arguments: &[&str]) -> Self {
        let log = std::fs::File::create(folder.join("node.log")).expect("file");
        let mut command = clean_command();
        command.args(arguments).arg("--datadir").arg(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let role = arguments.first().copied().unwrap_or("node").to_owned();
        let mut node = Self { folder, _own: own, child: command.spawn().expect("the role starts"), role };
        let deadline = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        while node.status()["ready"] != true {
            let ended = node.child.try_wait().expect("wait");
            assert!(ended.is_none(), "{arguments:?} ended while starting: {ended:?}");
            assert!(Instant::now() < deadline, "{arguments:?} is not ready within {READY_SECONDS_MAX} s");
            std::thread::sleep(Duration::from_millis(100));
        }
        node
    }

    /// Stops the process where it is, as a closed laptop does, until [`Self::resume`].
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Ends it at once, without a goodbye.
    pub fn kill(&self) {
        self.signal("-KILL");
    }

    /// Ends it as Ctrl-C does, with its goodbyes; fails where it does not end.
    pub fn stop(mut self) {
        self.signal("-INT");
        let deadline = Instant::now() + Duration::from_secs(END_SECONDS_MAX);
        while self.child.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < deadline, "the role did not end within {END_SECONDS_MAX} s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill");
        assert!(sent.success(), "kill {signal}");
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it says of itself; nothing before it answers.
    pub fn status(&self) -> Value {
        let ended = trellis_in(&self.folder, &["status", "--json"]);
        if ended.code == 0 { ended.json()["nodes"][0].clone() } else { Value::Null }
    }

    /// What it answers on its control socket, asked without a process of its own; nothing where it does not answer.
    pub fn asked(&self, method: &str) -> Value {
        let ask = || -> std::io::Result<Value> {
            let mut stream = UnixStream::connect(self.folder.join("control.sock"))?;
            stream.set_read_timeout(Some(Duration::from_secs(ANSWER_SECONDS_MAX)))?;
            writeln!(stream, r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#)?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            Ok(serde_json::from_str::<Value>(&line)?["result"].clone())
        };
        ask().unwrap_or_default()
    }

    /// Its memory that is resident, KiB.
    ///
    /// # Panics
    /// Where the process has ended.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let figure = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
        figure.unwrap_or_else(|| panic!("the {} has ended", self.role))
    }

    /// CPU time that it has used so far, in user and kernel mode, milliseconds to the clock's ten.
    ///
    /// # Panics
    /// Where the process has ended.
    pub fn cpu_ms(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The name in brackets may hold spaces; times are the 12th and 13th field after it, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<u64>().ok());
        let all = ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) * 10);
        all.unwrap_or_else(|| panic!("the {} has ended", self.role))
    }

    /// Its open descriptors.
    ///
    /// # Panics
    /// Where the process has ended.
    pub fn descriptors(&self) -> u64 {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        open.unwrap_or_else(|error| panic!("the {} has ended: {error}", self.role)).count() as u64
    }

    /// Runs a command against this node.
    pub fn trellis(&self, arguments: &[&str]) -> Ended {
        trellis_in(&self.folder, arguments)
    }

    /// An endpoint, as `address:port`.
    pub fn endpoint(&self, name: &str) -> String {
        let status = self.status();
        status["endpoints"][name].as_str().unwrap_or_else(|| panic!("no {name} in {status}")).to_owned()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("node.log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.folder.join("node.log");
        keep(&log, &self.role, self.child.id());
        if std::thread::panicking() {
            show_tail(&log);
        }
    }
}

/// Kills a process without giving it a chance to tidy up.
pub fn kill_9(pid: u32) {
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Copies a node's log to the folder that `TRELLIS_TEST_LOGS` names, as `ROLE-PID.log`.
fn keep(log: &Path, role: &str, pid: u32) {
    if let Some(folder) = std::env::var_os("TRELLIS_TEST_LOGS") {
        let to = Path::new(&folder).join(format!("{role}-{pid}.log"));
        if let Err(error) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::copy(log, &to)) {
            eprintln!("{} is not kept: {error}", log.display());
        }
    }
}

fn show_tail(log: &Path) {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("--- end of {} ({} lines)", log.display(), lines.len());
    for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
        eprintln!("{line}");
    }
}
