//! What enters and leaves a host of the laboratory, packet by packet (`tests/lab/natlab-capture`).

use super::{Lab, scripts};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The capture begins and ends within this time on a loaded machine, in seconds.
const TURN_SECONDS_MAX: u64 = 30;

/// Packets of one protocol from one end to another through one interface.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// `lo` is inside of the machine.
    pub interface: String,
    /// `tcp`, `udp`, the number of another protocol of IP, or that of a frame that is not IP's.
    pub protocol: String,
    /// The sender: `IP:PORT`, or `IP` where the protocol has no ports.
    pub from: String,
    /// The receiver, the same way.
    pub to: String,
}

impl Flow {
    /// Whether it was on a cable and carries what a program sends, not what the system does to keep the cable working.
    pub fn is_outside(&self) -> bool {
        self.interface != "lo" && matches!(self.protocol.as_str(), "tcp" | "udp")
    }
}

/// Everything that a capture saw.
#[derive(Debug, Default)]
pub struct Captured {
    /// Each flow once.
    pub flows: BTreeSet<Flow>,
    /// Where the SOCKS5 proxy of the host was asked to go.
    pub asked: BTreeSet<String>,
    /// Packets that were seen.
    pub packets: u64,
    /// Packets that passed unseen.
    pub missed: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Flow(Flow),
    Asked { asked: String },
    End { packets: u64, missed: u64 },
    Listening {},
}

/// A capture that runs.
pub struct Capture {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Capture {
    /// Begins on a host; every packet from now on is seen.
    ///
    /// # Panics
    /// Where it does not begin.
    pub fn start(lab: &Lab, host: &str) -> Self {
        let mut command = Command::new(scripts().join("natlab-capture"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = lab.inside(host, || command.spawn()).expect("the capture starts");
        let stdout = child.stdout.take().expect("stdout");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let capture = Self { child, lines };
        capture.line().expect("the capture listens");
        capture
    }

    fn line(&self) -> Option<Line> {
        let line = self.lines.recv_timeout(Duration::from_secs(TURN_SECONDS_MAX)).ok()?;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}")))
    }

    /// Ends it and gives what it saw.
    ///
    /// # Panics
    /// Where it does not end.
    pub fn end(self) -> Captured {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill");
        assert!(told.success(), "the capture has ended before");
        let mut captured = Captured::default();
        loop {
            match self.line().expect("the capture ends") {
                Line::Flow(flow) => drop(captured.flows.insert(flow)),
                Line::Asked { asked } => drop(captured.asked.insert(asked)),
                Line::End { packets, missed } => {
                    (captured.packets, captured.missed) = (packets, missed);
                    return captured;
                }
                Line::Listening {} => {}
            }
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
