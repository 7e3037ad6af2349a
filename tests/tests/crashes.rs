//! Each role killed in the midst of streaming jobs, as the system's OOM killer would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::thread;
use std::time::{Duration, Instant};
use trellis_scenarios::api::{Answer, chat, job};
use trellis_scenarios::chain::{block_hash, height};
use trellis_scenarios::network::Network;

/// Jobs that stream while the role is killed.
const JOBS: usize = 4;
/// Tokens of each: enough that it still streams when the kill comes.
const JOB_TOKENS: u64 = 200;
/// How long after the jobs' start the role is killed.
const KILL_AFTER_MS: u64 = 400;
/// How long it may take until the service works again, and until the ledgers agree.
const RECOVERY_SECONDS_MAX: u64 = 45;

/// Kills a role while jobs stream, waits until the service works again, and checks what must have survived.
fn survives_the_death_of(role: &str) {
    let network = Network::start_on_fixed_ports();
    let warm = job(&network.openai(), chat("Hello", 4, false));
    assert!(warm.is_paid_answer(), "{warm:?}");
    let rpc = network.rpc();
    let seen = height(&rpc);
    let hash = block_hash(&rpc, seen);
    let victim = network.pid(role).expect("the role runs");

    let openai = network.openai();
    let jobs: Vec<_> = (0..JOBS)
        .map(|number| {
            let openai = openai.clone();
            thread::spawn(move || job(&openai, chat(&format!("Tell story {number}"), JOB_TOKENS, true)))
        })
        .collect();
    thread::sleep(Duration::from_millis(KILL_AFTER_MS));
    network.kill(role);
    let killed = Instant::now();
    let answers: Vec<Answer> = jobs.into_iter().map(|job| job.join().expect("the client's thread")).collect();
    for answer in &answers {
        let ended_properly = answer.is_paid_answer() || !answer.error.is_null() || answer.broken;
        assert!(ended_properly, "neither an answer nor an error nor a broken connection: {answer:?}");
    }

    works_again(&network, role, victim, killed);
    assert!(height(&rpc) >= seen, "the chain is shorter than before the crash");
    assert_eq!(block_hash(&rpc, seen), hash, "a final block was lost");
    agrees(&network, &rpc);
    network.trellis(&["receipt", "verify", "all", "--json"]).succeeded();
}

fn works_again(network: &Network, role: &str, victim: u32, killed: Instant) {
    let limit = Duration::from_secs(RECOVERY_SECONDS_MAX);
    while network.pid(role).is_none_or(|pid| pid == victim) {
        assert!(killed.elapsed() < limit, "the {role} was not started again");
        thread::sleep(Duration::from_millis(50));
    }
    network.wait_ready(limit);
    let mut last = Answer::default();
    while killed.elapsed() < limit {
        last = job(&network.openai(), chat("Hello again", 4, true));
        if last.is_paid_answer() {
            return;
        }
        thread::sleep(Duration::from_millis(300));
    }
    panic!("no job succeeded within {limit:?} after the {role} was killed: {last:?}");
}

/// Waits until the auditor finds nothing: what was in flight when a side died is settled by the next words between them.
fn agrees(network: &Network, rpc: &str) {
    let deadline = Instant::now() + Duration::from_secs(RECOVERY_SECONDS_MAX);
    loop {
        let audit = network.trellis(&["audit", "ledger", "--rpc", rpc, "--json"]);
        if audit.code == 0 {
            assert_eq!(audit.json()["agrees"], true, "{audit:?}");
            return;
        }
        assert!(Instant::now() < deadline, "the ledgers do not agree: {audit:?}");
        thread::sleep(Duration::from_millis(500));
    }
}

// row: MKT-20, MKT-31
#[test]
fn a_provider_killed_while_it_streams_comes_back_and_the_ledgers_agree() {
    survives_the_death_of("provider");
}

// row: MKT-20, MKT-31
#[test]
fn a_gateway_killed_while_it_streams_comes_back_and_the_ledgers_agree() {
    survives_the_death_of("gateway");
}

// row: MKT-40
#[test]
fn an_aggregator_killed_while_jobs_stream_comes_back_and_the_ledgers_agree() {
    survives_the_death_of("aggregator");
}

// row: CHN-16
#[test]
fn a_validator_killed_while_jobs_stream_comes_back_with_every_final_block() {
    survives_the_death_of("validator");
}
