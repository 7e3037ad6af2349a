//! Each role killed in the midst of streaming jobs, as the system's OOM killer would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use trellis_scenarios::api::{Answer, chat, completion, job};
use trellis_scenarios::chain::{block_hash, height};
use trellis_scenarios::network::Network;

/// Clients that stream while the role is killed.
const CLIENTS: usize = 4;
/// Tokens of each job.
const JOB_TOKENS: u64 = 200;
/// A client's pause between two jobs, so that a dead gateway is not asked in a tight loop.
const PAUSE_MS: u64 = 20;
/// How long the clients stream before the kill, and after it.
const KILL_AFTER_MS: u64 = 1_000;
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
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (openai, stop) = (openai.clone(), Arc::clone(&stop));
            thread::spawn(move || stream_until(&stop, &openai, number))
        })
        .collect();
    thread::sleep(Duration::from_millis(KILL_AFTER_MS));
    network.kill(role);
    let killed = Instant::now();
    thread::sleep(Duration::from_millis(KILL_AFTER_MS));
    stop.store(true, Ordering::Relaxed);
    let answers: Vec<Answer> =
        clients.into_iter().flat_map(|client| client.join().expect("the client's thread")).collect();
    for answer in &answers {
        let ended_properly = answer.is_paid_answer() || !answer.error.is_null() || answer.broken;
        assert!(ended_properly, "neither an answer nor an error nor a broken connection: {answer:?}");
    }

    if ["provider", "gateway"].contains(&role) {
        assert!(answers.iter().any(|answer| !answer.is_paid_answer()), "the kill came when no job ran: {answers:?}");
    }

    works_again(&network, role, victim, killed);
    assert!(height(&rpc) >= seen, "the chain is shorter than before the crash");
    assert_eq!(block_hash(&rpc, seen), hash, "a final block was lost");
    agrees(&network, &rpc);
    network.trellis(&["receipt", "verify", "all", "--json"]).succeeded();
}

/// One client: streams job after job, so that some are under way whenever the kill comes.
fn stream_until(stop: &AtomicBool, openai: &str, number: usize) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let prompt = format!("And it came to pass, {number}.{},", answers.len());
        answers.push(job(openai, completion(&prompt, JOB_TOKENS, true)));
        thread::sleep(Duration::from_millis(PAUSE_MS));
    }
    answers
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
