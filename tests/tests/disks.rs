//! Disks that are full or read-only: a clear error, nothing that was acknowledged is lost, and all works again afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;
use trellis_scenarios::api::{Answer, chat, job};
use trellis_scenarios::chain::{block_hash, height, height_if_answered};
use trellis_scenarios::ledger::{Income, audited, no_job_is_paid_twice, receipts};
use trellis_scenarios::mount::SmallDisk;
use trellis_scenarios::network::{Network, Node};
use trellis_scenarios::program::trellis_in;
use trellis_scenarios::wait::until;

/// Size of a role's disk, in MiB: enough for a few minutes of a small network.
const DISK_MIB: u32 = 64;
/// How long anything may take here: a role is started again after pauses that double up to 8 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// Jobs before and after.
const JOBS: usize = 3;
/// What a disk that is full is called.
const FULL: &str = "No space left on device";

/// A validator that runs alone.
const VALIDATOR: [&str; 9] = [
    "validator",
    "--rpc-listen",
    "127.0.0.1:0",
    "--chain",
    "dev",
    "--listen",
    "/ip4/127.0.0.1/udp/0/quic-v1",
    "--metrics-listen",
    "off",
];

fn paid_jobs(network: &Network) -> Vec<Answer> {
    let answers: Vec<Answer> = (0..JOBS).map(|_| job(&network.openai(), chat("Hello", 8, true))).collect();
    assert!(answers.iter().all(Answer::is_paid_answer), "{answers:?}");
    answers
}

/// The supervisor has said which role's disk is full, and what to do.
fn named_as_full(network: &Network, role: &str) -> bool {
    let log = network.log("dev");
    let ended = log.lines().any(|line| line.contains(&format!("the {role} ended")) && line.contains(FULL));
    ended && log.contains("hint: free some space")
}

/// The journal of a role fills its disk: the jobs of that time end with an error, and the ledgers agree afterwards.
fn a_full_journal_loses_nothing(role: &str) {
    let disk = SmallDisk::new(DISK_MIB);
    let network = Network::start_in(disk.folder_with(role));
    let income = Income::of_provider(&network);
    let before = paid_jobs(&network);
    disk.fill();
    let mut told = before;
    until(PATIENCE, "a job that fails because of the full disk", || {
        let answer = job(&network.openai(), chat("Hello", 8, true));
        let paid = answer.is_paid_answer();
        assert!(paid || !answer.error.is_null() || answer.broken, "neither an answer nor an error: {answer:?}");
        told.extend(paid.then_some(answer));
        !paid
    });
    until(PATIENCE, "the role's end with its reason", || named_as_full(&network, role));
    disk.free();
    network.wait_ready(PATIENCE);
    until(PATIENCE, "a job after there is space", || {
        let answer = job(&network.openai(), chat("Hello again", 8, true));
        let paid = answer.is_paid_answer();
        told.extend(paid.then_some(answer));
        paid
    });
    told.extend(paid_jobs(&network));
    let report = audited(&network, told.len() as u64);
    no_job_is_paid_twice(&network, &report);
    let all = receipts(&network);
    for answer in &told {
        let named = &answer.trellis["receipt"];
        let kept = |journal| all.iter().any(|one| one["journal"] == journal && one["receipt"] == *named);
        assert!(kept("gateway") && kept("provider"), "a receipt that a client was told of is gone: {answer:?}");
    }
    income.wait_for_promised(&network);
    network.trellis(&["receipt", "verify", "all", "--json"]).succeeded();
}

// row: MKT-20, MKT-31, OPS-01
#[test]
fn a_provider_whose_disk_is_full_says_so_and_loses_nothing() {
    a_full_journal_loses_nothing("provider");
}

// row: MKT-20, MKT-31, OPS-01
#[test]
fn a_gateway_whose_disk_is_full_says_so_and_loses_nothing() {
    a_full_journal_loses_nothing("gateway");
}

// row: CHN-16, OPS-01
#[test]
fn a_validator_whose_disk_is_full_says_so_and_goes_on_from_its_last_final_block() {
    let disk = SmallDisk::new(DISK_MIB);
    let network = Network::start_in(disk.folder_with("validator"));
    paid_jobs(&network);
    let (rpc, before) = (network.rpc(), network.pid("validator"));
    disk.fill();
    let mut seen = (0, serde_json::Value::Null);
    until(PATIENCE, "the validator's end with its reason", || {
        // Blocks that still fit are final like all others.
        if let Ok(block) =
            trellis_scenarios::chain::ask(&rpc, "eth_getBlockByNumber", serde_json::json!(["finalized", false]))
        {
            seen = (trellis_scenarios::chain::number(&block["number"]), block["hash"].clone());
        }
        named_as_full(&network, "validator")
    });
    disk.free();
    until(PATIENCE, "another validator runs", || network.pid("validator").is_some_and(|pid| Some(pid) != before));
    network.wait_ready(PATIENCE);
    let (height_seen, hash) = (u64::try_from(seen.0).unwrap(), seen.1);
    assert!(height_seen > 0);
    // A validator that began on the full disk may say that it is ready and end once more.
    until(PATIENCE, "a block above", || height_if_answered(&rpc).is_some_and(|height| height > height_seen));
    assert_eq!(block_hash(&rpc, height_seen), hash, "a final block was lost");
    until(PATIENCE, "a job after there is space", || {
        job(&network.openai(), chat("Hello again", 8, true)).is_paid_answer()
    });
    paid_jobs(&network);
}

// row: CHN-16, OPS-01
#[test]
fn a_node_does_not_start_on_a_full_or_read_only_disk_and_does_afterwards() {
    let disk = SmallDisk::new(DISK_MIB);
    let node = Node::start_in(disk.path(), &VALIDATOR);
    let rpc = format!("http://{}", node.endpoint("rpc"));
    until(PATIENCE, "a few blocks", || height(&rpc) > 3);
    let seen = height(&rpc);
    let hash = block_hash(&rpc, seen);
    drop(node);

    disk.fill();
    trellis_in(disk.path(), &VALIDATOR).failed_with(1, &["o space left", "free some space"]);
    disk.free();
    disk.make_read_only();
    trellis_in(disk.path(), &VALIDATOR).failed_with(1, &["Read-only file system", "writable", "--datadir"]);
    let below = disk.path().join("new");
    trellis_in(&below, &VALIDATOR).failed_with(1, &["cannot make the data folder", "Read-only file system"]);
    disk.make_writable();

    let node = Node::start_in(disk.path(), &VALIDATOR);
    let rpc = format!("http://{}", node.endpoint("rpc"));
    assert_eq!(block_hash(&rpc, seen), hash, "a final block was lost");
    until(PATIENCE, "a block above", || height(&rpc) > seen);
}
