//! Each role killed in the midst of streaming jobs, as the system's OOM killer would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use trellis_scenarios::api::{Answer, chat, completion, job};
use trellis_scenarios::chain::{ask, block_hash, height, number};
use trellis_scenarios::ledger::{Income, audited, no_job_is_paid_twice, receipts, wei, within_the_risk_limit};
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
const RECOVERY_SECONDS_MAX: u64 = 120;

/// Kills a role while jobs stream, waits until the service works again, and checks what must have survived.
fn survives_the_death_of(role: &str) {
    let network = Network::start_on_fixed_ports();
    let warm = job(&network.openai(), chat("Hello", 4, false));
    assert!(warm.is_paid_answer(), "{warm:?}");
    let rpc = network.rpc();
    let income = Income::of_provider(&network);
    let victim = network.pid(role).expect("the role runs");

    let openai = network.openai();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (openai, stop) = (openai.clone(), Arc::clone(&stop));
            thread::spawn(move || stream_until(&stop, &openai, number))
        })
        .collect();
    let watcher = {
        let (rpc, stop) = (rpc.clone(), Arc::clone(&stop));
        thread::spawn(move || last_final_block(&rpc, &stop))
    };
    thread::sleep(Duration::from_millis(KILL_AFTER_MS));
    network.kill(role);
    let killed = Instant::now();
    thread::sleep(Duration::from_millis(KILL_AFTER_MS));
    stop.store(true, Ordering::Relaxed);
    let (seen, hash) = watcher.join().expect("the watcher's thread");
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
    nothing_is_lost_or_paid_twice(&network, &income, &answers);
}

/// Looks at the newest final block until it is told to stop or nobody answers; gives the last one that was told.
fn last_final_block(rpc: &str, stop: &AtomicBool) -> (u64, Value) {
    let mut last = (0, Value::Null);
    while !stop.load(Ordering::Relaxed) {
        match ask(rpc, "eth_getBlockByNumber", json!(["finalized", false])) {
            Ok(block) => {
                last = (u64::try_from(number(&block["number"])).expect("height"), block["hash"].clone());
                thread::sleep(Duration::from_millis(5));
            }
            // The validator is the one that was killed: what it told last must stand.
            Err(_) => break,
        }
    }
    assert!(last.1.is_string(), "no final block was seen");
    last
}

/// What money.md promises of a crash: nothing beyond the risk limit is written off for a job, nothing is paid twice, what a
/// client was told is kept, and the chain pays exactly what was promised.
fn nothing_is_lost_or_paid_twice(network: &Network, income: &Income, answers: &[Answer]) {
    let report = audited(network, answers.iter().filter(|answer| answer.is_paid_answer()).count() as u64);
    within_the_risk_limit(network, &report);
    let all = receipts(network);
    for answer in answers.iter().filter(|answer| answer.is_paid_answer()) {
        let named = &answer.trellis["receipt"];
        let kept = |journal| all.iter().any(|one| one["journal"] == journal && one["receipt"] == *named);
        assert!(kept("gateway") && kept("provider"), "a receipt that a client was told of is gone: {answer:?}");
    }
    no_job_is_paid_twice(network, &report);
    let paid = income.wait_for_promised(network);
    let report = audited(network, 0);
    assert_eq!(wei(&report["totals"]["paid"]), paid, "the provider's balance is what the chain paid: {report}");
    no_job_is_paid_twice(network, &report);
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

// row: MKT-20, MKT-21, MKT-31
#[test]
fn a_provider_killed_while_it_streams_comes_back_and_the_ledgers_agree() {
    survives_the_death_of("provider");
}

// row: MKT-20, MKT-21, MKT-31
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
