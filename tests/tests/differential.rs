//! Random transactions in blocks of ours, and the same in Ethereum's execution specification in Python (EELS): the same are let in,
//! with the same status, gas and logs, and every block has the same roots and the same hash.
//!
//! A seed is a chain: random accounts, contracts and transactions of every type, right ones and wrong ones. The gate runs a few
//! hundred transactions; `cargo xtask prove differential` runs a hundred thousand. `TRELLIS_DIFFERENTIAL_SEED` begins at another seed.
//! What is not compared, because Trellis decides it otherwise than Ethereum, is in docs/design/differential.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "differential/oracle.rs"]
mod oracle;
#[path = "differential/ours.rs"]
mod ours;
#[path = "differential/precompile.rs"]
mod precompile;
#[path = "differential/program.rs"]
mod program;
#[path = "differential/transactions.rs"]
mod transactions;

use alloy_consensus::{Transaction, Typed2718};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{B256, Bytes};
use oracle::{About, Answer, Oracle, Outcome, Seen};
use ours::{Ours, Surroundings, genesis_asked};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use transactions::{START_MS, World};
use trellis_primitives::TxEnvelope;
use trellis_scenarios::program::tool;
use trellis_scenarios::proof;

/// Transactions in the blocks of one seed's chain, at least.
const EACH: u64 = 250;
/// Candidates for one block.
const CANDIDATES: usize = 32;
/// Transactions of a run in the gate.
const SMALL: u64 = 500;
/// From so many on a run must have seen all there is to see, and goes on all cores.
const LARGE: u64 = 50_000;

fn python() -> PathBuf {
    tool("TRELLIS_EELS_PYTHON", "eels/bin/python", "a python with ethereum-execution")
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What a run has seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Totals {
    transactions: u64,
    blocks: u64,
    creations: u64,
    authorizations: u64,
    gas: u64,
    types: BTreeMap<u8, u64>,
    refused: BTreeMap<String, u64>,
    seen: Seen,
    /// Time on the clock, of all threads together.
    seconds: f64,
}

impl Totals {
    /// Counts a block that came to the same on both sides.
    fn count(&mut self, candidates: &[TxEnvelope], answer: Answer) {
        self.blocks += 1;
        self.gas += answer.verdict.gas_used;
        for (tx, outcome) in candidates.iter().zip(answer.verdict.outcomes) {
            match outcome {
                Outcome::Refused(reason) => *self.refused.entry(reason).or_default() += 1,
                Outcome::Receipt(_) => {
                    self.transactions += 1;
                    self.creations += u64::from(tx.is_create());
                    self.authorizations += tx.authorization_count().unwrap_or_default();
                    *self.types.entry(tx.ty()).or_default() += 1;
                }
            }
        }
        self.seen.add(answer.seen);
    }

    fn add(&mut self, other: Self) {
        self.transactions += other.transactions;
        self.blocks += other.blocks;
        self.creations += other.creations;
        self.authorizations += other.authorizations;
        self.gas += other.gas;
        self.seconds += other.seconds;
        for (ty, count) in other.types {
            *self.types.entry(ty).or_default() += count;
        }
        for (reason, count) in other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
        self.seen.add(other.seen);
    }

    fn json(&self, about: &About) -> Value {
        let named = |ty: u8| ["legacy", "eip2930", "eip1559", "eip4844", "eip7702"][usize::from(ty)];
        json!({
            "differences": 0,
            "transactions": self.transactions,
            "refused_by_both": self.refused,
            "blocks": self.blocks,
            "types": self.types.iter().map(|(ty, count)| (named(*ty), *count)).collect::<BTreeMap<_, _>>(),
            "creations": self.creations,
            "authorizations": self.authorizations,
            "gas": self.gas,
            "ends": self.seen.ends,
            "instructions": self.seen.ops.values().sum::<u64>(),
            "instructions_distinct": self.seen.ops.len(),
            "precompiles": self.seen.precompiles,
            "other_implementation": format!("ethereum-execution {}, fork {}", about.version, about.fork),
        })
    }
}

#[derive(Deserialize)]
struct Zero {
    state_root: B256,
    hash: B256,
}

/// The chains that are done, a line of JSON each in the file of `TRELLIS_DIFFERENTIAL_PROGRESS`: a long run that was stopped goes
/// on behind them.
struct Progress {
    done: BTreeMap<u64, Totals>,
    file: Option<File>,
}

impl Progress {
    fn open() -> Self {
        let Some(path) = std::env::var_os("TRELLIS_DIFFERENTIAL_PROGRESS") else {
            return Self { done: BTreeMap::new(), file: None };
        };
        let file = File::options().create(true).append(true).read(true).open(&path).expect("the file of the progress");
        // A line that was cut off in the midst is a chain to be run again.
        let lines = BufReader::new(&file).lines().map_while(Result::ok);
        let done = lines.filter_map(|line| serde_json::from_str::<(u64, Totals)>(&line).ok()).collect();
        Self { done, file: Some(file) }
    }

    fn add(&mut self, seed: u64, totals: Totals) {
        if let Some(file) = &mut self.file {
            writeln!(file, "{}", json!([seed, totals])).expect("the progress is written");
        }
        self.done.insert(seed, totals);
    }
}

/// One chain: its blocks come to the same on both sides, or this says what does not.
fn chain(seed: u64, oracle: &mut Oracle) -> Result<Totals, String> {
    let (mut world, input) = World::new(seed);
    let ours = Ours::new(&input);
    let zero: Zero = oracle.ask(&genesis_asked(&input));
    if (zero.state_root, zero.hash) != ours.head() {
        return Err(format!("block zero of seed {seed} is another"));
    }
    let (mut totals, began) = (Totals::default(), Instant::now());
    let mut time_ms = START_MS;
    while totals.transactions < EACH {
        time_ms += world.pause_ms();
        let around = ours.next(time_ms);
        let candidates = world.candidates(CANDIDATES, &|address| ours.nonce(address), ours.next_base_fee());
        let (built, verdict) = ours.build(&around, &candidates);
        let place = format!("seed {seed}, block {}", totals.blocks + 1);
        let answer: Answer = oracle.ask(&around.asked(&candidates));
        if let Some(difference) = verdict.difference(&answer.verdict) {
            return Err(format!("{place}: {difference}\n{}", told(&ours, oracle, &around, candidates)));
        }
        let _: Value = oracle.ask(&json!({"keep": null}));
        ours.keep(built).map_err(|error| format!("{place}: {error}"))?;
        totals.count(&candidates, answer);
    }
    totals.seconds = began.elapsed().as_secs_f64();
    Ok(totals)
}

fn differs(ours: &Ours, oracle: &mut Oracle, around: &Surroundings, candidates: &[TxEnvelope]) -> Option<String> {
    let answer: Answer = oracle.ask(&around.asked(candidates));
    ours.build(around, candidates).1.difference(&answer.verdict)
}

/// As few of the transactions as still make a difference: the shortest beginning, without those that it does not need.
fn smallest(ours: &Ours, oracle: &mut Oracle, around: &Surroundings, all: Vec<TxEnvelope>) -> Vec<TxEnvelope> {
    let mut needed = all;
    let shortest = (1..=needed.len()).find(|count| differs(ours, oracle, around, &needed[..*count]).is_some());
    needed.truncate(shortest.unwrap_or(needed.len()));
    for index in (0..needed.len().saturating_sub(1)).rev() {
        let mut fewer = needed.clone();
        fewer.remove(index);
        if differs(ours, oracle, around, &fewer).is_some() {
            needed = fewer;
        }
    }
    needed
}

fn told(ours: &Ours, oracle: &mut Oracle, around: &Surroundings, candidates: Vec<TxEnvelope>) -> String {
    let smallest = smallest(ours, oracle, around, candidates);
    let still = differs(ours, oracle, around, &smallest).unwrap_or_default();
    let raw: Vec<Bytes> = smallest.iter().map(|tx| tx.encoded_2718().into()).collect();
    format!("with {} of its transactions: {still}\n{smallest:#?}\n{raw:?}", smallest.len())
}

/// Chains of seeds from the first on, each thread with a process of the other implementation.
fn run(first: u64, chains: u64, threads: usize) -> (Totals, About) {
    let (next, failure) = (AtomicU64::new(first), Mutex::new(None));
    let (progress, about) = (Mutex::new(Progress::open()), Mutex::new(None));
    let (python, seeds) = (python(), first..first + chains);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut oracle = Oracle::start(&python);
                *about.lock().unwrap() = Some(oracle.ask::<About>(&json!({"about": null})));
                while failure.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        break;
                    }
                    if progress.lock().unwrap().done.contains_key(&seed) {
                        continue;
                    }
                    match chain(seed, &mut oracle) {
                        Ok(totals) => progress.lock().unwrap().add(seed, totals),
                        Err(difference) => *failure.lock().unwrap() = Some(difference),
                    }
                }
            });
        }
    });
    if let Some(difference) = failure.into_inner().unwrap() {
        panic!("{difference}");
    }
    let mut sum = Totals::default();
    for (_, totals) in progress.into_inner().unwrap().done.into_iter().filter(|(seed, _)| seeds.contains(seed)) {
        sum.add(totals);
    }
    (sum, about.into_inner().unwrap().expect("somebody asked"))
}

// row: CHN-20, CHN-21, CHN-22
#[test]
fn random_transactions_come_to_the_same_as_in_ethereums_specification_in_python() {
    let wanted = setting("TRELLIS_PROOF_TRANSACTIONS").unwrap_or(SMALL);
    let first = setting("TRELLIS_DIFFERENTIAL_SEED").unwrap_or(1);
    let threads =
        if wanted < LARGE { 1 } else { std::thread::available_parallelism().map_or(1, std::num::NonZero::get) };
    let chains = wanted.div_ceil(EACH);
    let (totals, about) = run(first, chains, threads);
    let mut result = totals.json(&about);
    result["seeds"] = json!([first, first + chains - 1]);
    result["milliseconds_each"] = json!((totals.seconds / totals.transactions as f64 * 10_000.0).round() / 10.0);
    println!("{result:#}");
    assert!(totals.transactions >= wanted, "{} transactions of {wanted}", totals.transactions);
    assert!(!totals.refused.is_empty(), "nothing was refused");
    for ty in [0, 1, 2, 4] {
        assert!(totals.types.contains_key(&ty), "none of type {ty}");
    }
    if wanted >= LARGE {
        let unseen: Vec<&String> = about.ops.iter().filter(|op| !totals.seen.ops.contains_key(*op)).collect();
        assert!(unseen.is_empty(), "instructions that were never executed: {unseen:?}");
        let answered = |name: &&String| !totals.seen.precompiles.contains_key(&format!("answered {name}"));
        let silent: Vec<&String> = about.precompiles.iter().filter(answered).collect();
        assert!(silent.is_empty(), "precompiled contracts that never answered: {silent:?}");
    }
    proof::write("differential", &result);
}
