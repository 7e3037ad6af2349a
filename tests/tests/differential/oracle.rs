//! The other implementation: a process of Python that answers lines of JSON (tests/clients/eels.py).

use alloy_primitives::{B256, Bloom, Bytes};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use trellis_scenarios::program::own;

/// How long a block may take there; a pairing alone takes seconds on a loaded machine.
const BLOCK_SECONDS_MAX: u64 = 600;

/// What became of a transaction.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It may not be in the block. Why is each implementation's own word, and of several reasons each names another.
    Refused(String),
    /// It is: its receipt's bytes, with status, gas and logs.
    Receipt(Bytes),
}

/// What a block comes to.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    pub outcomes: Vec<Outcome>,
    pub state_root: B256,
    pub transactions_root: B256,
    pub receipts_root: B256,
    pub logs_bloom: Bloom,
    pub gas_used: u64,
    pub base_fee: u64,
    pub hash: B256,
}

/// How often the machine did what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    pub ops: BTreeMap<String, u64>,
    pub precompiles: BTreeMap<String, u64>,
    pub ends: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
pub struct Answer {
    #[serde(flatten)]
    pub verdict: Verdict,
    pub seen: Seen,
}

/// What there is to see: the fork's instructions and precompiled contracts, and the implementation's version.
#[derive(Debug, Deserialize)]
pub struct About {
    pub version: String,
    pub fork: String,
    pub ops: Vec<String>,
    pub precompiles: Vec<String>,
}

pub struct Oracle {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Outcome {
    fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Refused(_), Self::Refused(_)) => true,
            (Self::Receipt(one), Self::Receipt(other)) => one == other,
            _ => false,
        }
    }
}

impl Verdict {
    /// The first thing in which two verdicts differ.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let outcomes = self.outcomes.iter().zip(&other.outcomes).enumerate();
        for (index, (ours, theirs)) in outcomes {
            if !ours.is_as(theirs) {
                return Some(format!("transaction {index}: ours {ours:?}, theirs {theirs:?}"));
            }
        }
        let fields = [
            ("number of outcomes", self.outcomes.len().to_string(), other.outcomes.len().to_string()),
            ("gas used", self.gas_used.to_string(), other.gas_used.to_string()),
            ("base fee", self.base_fee.to_string(), other.base_fee.to_string()),
            ("state root", self.state_root.to_string(), other.state_root.to_string()),
            ("receipts root", self.receipts_root.to_string(), other.receipts_root.to_string()),
            ("logs bloom", self.logs_bloom.to_string(), other.logs_bloom.to_string()),
            ("transactions root", self.transactions_root.to_string(), other.transactions_root.to_string()),
            ("block hash", self.hash.to_string(), other.hash.to_string()),
        ];
        let different = fields.into_iter().find(|(_, ours, theirs)| ours != theirs);
        different.map(|(name, ours, theirs)| format!("{name}: ours {ours}, theirs {theirs}"))
    }
}

impl Seen {
    pub fn add(&mut self, other: Self) {
        for (sum, more) in
            [(&mut self.ops, other.ops), (&mut self.precompiles, other.precompiles), (&mut self.ends, other.ends)]
        {
            for (name, count) in more {
                *sum.entry(name).or_default() += count;
            }
        }
    }
}

impl Oracle {
    pub fn start(python: &Path) -> Self {
        let mut command = Command::new(python);
        command.arg(own("clients/eels.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python starts");
        let (stdin, stdout) = (child.stdin.take().expect("stdin"), child.stdout.take().expect("stdout"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, stdin, lines }
    }

    /// Asks, and waits for the answer.
    pub fn ask<T: serde::de::DeserializeOwned>(&mut self, question: &Value) -> T {
        writeln!(self.stdin, "{question}").expect("the other implementation listens");
        let line = self.lines.recv_timeout(Duration::from_secs(BLOCK_SECONDS_MAX));
        let line = line.unwrap_or_else(|error| panic!("no answer ({error}) to {question:.2000}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:.2000}"))
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
