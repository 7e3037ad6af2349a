//! A validator is killed at every point of a height, in a process of its own, and started again: it never signs a second
//! value for a place, and no committed block is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, clippy::print_stderr)]

#[path = "support/chain.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use support::{Step, TestApp, committee, fast, join, key, reach, run};
use trellis_chain_consensus::{Application, SignerError, SigningRequest, VoteSigner};
use trellis_chain_finality::VotePublicKey;
use trellis_crypto::VoteKey;
use trellis_net_peers::sim::SimNet;
use trellis_primitives::{B256, SystemClock};

const DIR: &str = "TRELLIS_TEST_CRASH_DIR";
const POINT: &str = "TRELLIS_TEST_CRASH_POINT";
const GOAL: u64 = 6;

/// Writes down every vote and proposal it signs, and dies when it is asked for the signature of its number.
struct RecordingSigner {
    key: VoteKey,
    record: PathBuf,
    dies_before: u64,
    asked: AtomicU64,
}

#[async_trait]
impl VoteSigner for RecordingSigner {
    fn public_key(&self) -> VotePublicKey {
        self.key.public()
    }

    async fn sign(&self, request: &SigningRequest, message: &B256) -> Result<bytes::Bytes, SignerError> {
        let place = match request {
            SigningRequest::Vote { place, .. } => {
                format!("{}/{}/{:?}", place.height, place.round, place.kind)
            }
            SigningRequest::Proposal { place, .. } => {
                format!("{}/{}/Proposal", place.height, place.round)
            }
            SigningRequest::Parts { .. } | SigningRequest::Extension { .. } => {
                return VoteSigner::sign(&self.key, request, message).await;
            }
        };
        if self.asked.fetch_add(1, Ordering::SeqCst) + 1 == self.dies_before {
            std::process::abort();
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&self.record).unwrap();
        writeln!(file, "{place} {message}").unwrap();
        VoteSigner::sign(&self.key, request, message).await
    }
}

fn dies_at(point: &str, step: Step, height: u64) -> bool {
    point == format!("{step:?}@{height}")
}

/// The validator that is killed. Not a test by itself: the tests below run it as a process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the tests of this file as a child process"]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let point = std::env::var(POINT).unwrap_or_default();
    let dir = PathBuf::from(dir);
    let hook_point = point.clone();
    let hook = Box::new(move |step, height| {
        if dies_at(&hook_point, step, height) {
            std::process::abort();
        }
    });
    let app = Arc::new(TestApp::open(committee(&[1]), dir.join("chain.txt"), hook));
    let signer = RecordingSigner {
        key: key(1),
        record: dir.join("signed.txt"),
        dies_before: point.strip_prefix("Sign@").map_or(0, |n| n.parse().unwrap()),
        asked: AtomicU64::new(0),
    };
    let net = join(&SimNet::new(1, Arc::new(SystemClock)), 1, &[]).await;
    let engine = run(fast(), Arc::new(signer), net, app.clone(), dir.join("engine")).await;
    reach(&app, GOAL, 20, "the child").await;
    engine.stop().await;
    assert!(app.tip().await.unwrap().height >= GOAL);
}

fn run_child(dir: &Path, point: &str) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(POINT, point)
        .output()
        .unwrap();
    if !output.status.success() && point.is_empty() {
        eprintln!("{}", String::from_utf8_lossy(&output.stdout));
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// Places for which more than one value was signed.
fn signed_twice(dir: &Path) -> Vec<String> {
    let mut signed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in fs::read_to_string(dir.join("signed.txt")).unwrap().lines() {
        let (place, message) = line.split_once(' ').unwrap();
        let values = signed.entry(place.to_owned()).or_default();
        if !values.contains(&message.to_owned()) {
            values.push(message.to_owned());
        }
    }
    signed.into_iter().filter(|(_, values)| values.len() > 1).map(|(place, _)| place).collect()
}

fn committed(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("chain.txt")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn kill_and_restart(point: &str) {
    let dir = tempfile::tempdir().unwrap();
    assert!(!run_child(dir.path(), point), "{point}: the child was to die");
    let before = committed(dir.path());
    assert!(run_child(dir.path(), ""), "{point}: the child did not come up again");
    let after = committed(dir.path());
    assert!(after.len() as u64 >= GOAL, "{point}: {} blocks", after.len());
    assert_eq!(&after[..before.len()], &before[..], "{point}: committed blocks changed");
    assert_eq!(signed_twice(dir.path()), Vec::<String>::new(), "{point}");
}

// row: CHN-16
#[test]
fn killed_in_the_application_it_signs_nothing_twice_and_loses_no_block() {
    for step in [Step::BeforePropose, Step::AfterPropose, Step::BeforeCommit, Step::AfterCommit] {
        kill_and_restart(&format!("{step:?}@3"));
    }
}

// row: CHN-16
#[test]
fn killed_before_any_signature_of_a_height_it_signs_nothing_twice() {
    // Three signatures a height: proposal, prevote, precommit. 7 to 9 are those of height 3.
    for signature in 7..=9 {
        kill_and_restart(&format!("Sign@{signature}"));
    }
}

/// The control: the tests above do see a second signature when there is one.
#[test]
fn without_its_log_it_would_sign_twice() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!run_child(dir.path(), "Sign@9"));
    fs::remove_dir_all(dir.path().join("engine")).unwrap();
    assert!(run_child(dir.path(), ""));
    assert!(!signed_twice(dir.path()).is_empty());
}

/// Bytes cut off the log's end are those of an entry that was never synced, and thus never left the node.
// row: CHN-16
#[test]
fn a_cut_tail_of_the_log_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!run_child(dir.path(), "Sign@9"));
    let log = dir.path().join("engine/votes.wal");
    let torn = OpenOptions::new().append(true).open(&log).unwrap();
    (&torn).write_all(&[0, 0, 0, 0, 0, 0, 0, 0, 90, 1, 2, 3, 4, 5]).unwrap();
    drop(torn);
    assert!(run_child(dir.path(), ""));
    assert_eq!(signed_twice(dir.path()), Vec::<String>::new());
}
