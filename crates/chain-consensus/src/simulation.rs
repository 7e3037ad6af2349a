//! A deterministic simulation of the committee on the engine's core, without sockets, disks or clocks: one seed is one
//! history. Messages are late and lost, the network falls apart and heals, validators crash and replay their logs, some are
//! evil, committees change; the seed is printed when something breaks.
//!
//! Everything but the voting protocol itself is ours and the same as in a running node: context, vote bytes, signer,
//! verifier, evidence, and the encoding of log entries.

mod world;

use std::collections::BTreeMap;

use serde_json::json;
use trellis_chain_finality::VoteScheme;
use trellis_scenarios::proof;
use world::{Broken, Evil, Faults, World};

/// How many seeds; the proof sets a thousand.
const SEEDS_VARIABLE: &str = "TRELLIS_PROOF_SEEDS";
const SEEDS: u64 = 24;
/// Validators of the largest committee; the proof sets a thousand.
const VALIDATORS_VARIABLE: &str = "TRELLIS_PROOF_VALIDATORS";
const VALIDATORS: usize = 40;
/// Heights of a measurement.
const HEIGHTS: u64 = 10;

fn set<T: std::str::FromStr>(variable: &str, default: T) -> T {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn assert_histories(seeds: std::ops::Range<u64>, powers: &[&[u64]], faults: Faults, heights: u64) {
    for seed in seeds {
        let mut world = World::new(seed, powers, faults.clone());
        if let Err(broken) = world.run(heights) {
            panic!("seed {seed}: {broken}\n{}", world.account());
        }
    }
}

// row: CHN-10, CHN-53
#[test]
fn without_faults_every_seed_decides_in_the_first_round() {
    let faults = Faults { latency_ms: 20..80, ..Faults::default() };
    for seed in 0..5 {
        let mut world = World::new(seed, &[&[1, 2, 3, 4]], faults.clone());
        world.run(10).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        assert_eq!(world.rounds_failed(), 0, "seed {seed}");
        assert!(world.now_ms() < 10 * 3 * 80 + 500, "seed {seed}: ten heights took {} ms", world.now_ms());
    }
}

// row: CHN-16, CHN-53
#[test]
fn with_late_and_lost_messages_and_crashes_nobody_forks_or_signs_twice_and_all_go_on() {
    let faults = Faults { latency_ms: 5..120, lost_percent: 5, crashes_per_height_percent: 60, ..Faults::default() };
    assert_histories(0..24, &[&[1, 2, 2, 2]], faults, 8);
}

// row: CHN-53
#[test]
fn one_seed_is_one_history() {
    let faults = Faults { latency_ms: 5..120, lost_percent: 5, crashes_per_height_percent: 60, ..Faults::default() };
    let history = |seed| {
        let mut world = World::new(seed, &[&[1, 2, 2, 2]], faults.clone());
        world.run(5).unwrap();
        (world.account(), world.now_ms())
    };
    assert_eq!(history(3), history(3));
    assert_ne!(history(3), history(4));
}

/// Ten seats and twelve validators of different weight, in three committees that follow each other.
const COMMITTEES: [&[u64]; 3] = [
    &[3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 0, 0],
    &[3, 3, 0, 3, 2, 2, 2, 2, 1, 0, 3, 1],
    &[2, 4, 3, 3, 2, 2, 0, 2, 1, 0, 3, 1],
];

/// Validators that are evil in a seed's history: always less than a third of each committee's power.
fn evil(seed: u64) -> BTreeMap<usize, Evil> {
    use Evil::{Equivocates, Lies, Silent};
    match seed % 8 {
        0 => BTreeMap::new(),
        1 => BTreeMap::from([(0, Equivocates), (4, Equivocates)]),
        2 => BTreeMap::from([(1, Silent), (5, Silent)]),
        3 => BTreeMap::from([(3, Lies), (7, Lies)]),
        4 => BTreeMap::from([(0, Equivocates), (8, Silent), (5, Lies)]),
        5 => BTreeMap::from([(10, Equivocates), (3, Silent)]),
        6 => BTreeMap::from([(1, Lies), (4, Equivocates)]),
        _ => BTreeMap::from([(4, Equivocates), (5, Equivocates), (7, Equivocates)]),
    }
}

struct History {
    convicted: usize,
    equivocators: usize,
    crashes_and_cuts: (usize, usize),
}

/// Everything at once: an epoch every four heights, crashes, cuts, lost messages, and the evil.
fn all_at_once(seed: u64) -> History {
    let faults = Faults {
        latency_ms: 5..150,
        lost_percent: u32::try_from(seed % 4).unwrap() * 3,
        crashes_per_height_percent: 40,
        partitions_per_height_percent: 30,
        evil: evil(seed),
        epoch_heights: 4,
        ..Faults::default()
    };
    let third = |powers: &&[u64]| {
        let bad: u64 = faults.evil.keys().map(|node| powers[*node]).sum();
        3 * bad < powers.iter().sum()
    };
    assert!(COMMITTEES.iter().all(third), "seed {seed}: too many evil ones");
    let equivocators = faults.evil.values().filter(|evil| **evil == Evil::Equivocates).count();
    let mut world = World::new(seed, &COMMITTEES, faults);
    if let Err(broken) = world.run(12) {
        panic!("seed {seed}: {broken}\n{}", world.account());
    }
    History { convicted: world.convicted().len(), equivocators, crashes_and_cuts: world.mishaps() }
}

// row: CHN-10, CHN-13, CHN-14, CHN-53
#[test]
fn with_evil_validators_cut_networks_and_changing_committees_nobody_forks_and_equivocators_are_convicted() {
    let seeds: u64 = set(SEEDS_VARIABLE, SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let histories: Vec<History> = std::thread::scope(|scope| {
        let share = |first: usize| {
            move || (u64::try_from(first).unwrap()..seeds).step_by(threads).map(all_at_once).collect::<Vec<_>>()
        };
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(share(first))).collect();
        running
            .into_iter()
            .flat_map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let sum = |of: &dyn Fn(&History) -> usize| histories.iter().map(of).sum::<usize>();
    let (convicted, equivocators) = (sum(&|one| one.convicted), sum(&|one| one.equivocators));
    assert!(convicted * 2 > equivocators, "{convicted} of {equivocators} equivocators convicted");
    let result = json!({
        "seeds": seeds,
        "heights_each": 12,
        "crashes": sum(&|one| one.crashes_and_cuts.0),
        "cuts": sum(&|one| one.crashes_and_cuts.1),
        "equivocators": equivocators,
        "equivocators_convicted": convicted,
        "forks": 0,
        "second_signatures": 0,
        "final_blocks_lost": 0,
    });
    proof::write("histories", &result);
}

// row: CHN-15, CHN-53
#[test]
fn checkpoints_are_signed_and_stand_in_a_block_with_a_silent_or_lying_third_lost_messages_and_crashes() {
    use Evil::{Equivocates, Lies, Silent};
    // 33 of 100, alone or together.
    let powers: [&[u64]; 2] = [&[17, 16, 12, 12, 12, 11, 10, 10], &[17, 16, 10, 10, 11, 12, 12, 12]];
    for (seed, (one, other)) in (0..).zip([(Silent, Silent), (Lies, Lies), (Equivocates, Silent), (Lies, Equivocates)])
    {
        let faults = Faults {
            latency_ms: 5..120,
            lost_percent: 5,
            crashes_per_height_percent: 20,
            evil: BTreeMap::from([(0, one), (1, other)]),
            epoch_heights: 16,
            ..Faults::default()
        };
        let mut world = World::new(seed, &powers, faults).with_checkpoints(8);
        world.run(42).unwrap_or_else(|broken| panic!("seed {seed}: {broken}\n{}", world.account()));
        let delays = world.checkpoint_delays(32);
        assert_eq!(delays.len(), 4);
        assert!(delays.iter().all(Option::is_some), "seed {seed}, {one:?} and {other:?}: {delays:?}");
        let keepers: Vec<usize> = [8, 16, 24, 32].iter().map(|height| world.checkpoint_keepers(*height)).collect();
        assert!(keepers.iter().all(|keepers| *keepers > 0), "seed {seed}: {keepers:?}");
    }
}

// row: CHN-15, CHN-53
#[test]
fn without_faults_everybody_has_every_checkpoint_and_the_block_after_the_next_carries_it() {
    let powers: [&[u64]; 1] = [&[3, 2, 2, 1]];
    let mut world = World::new(1, &powers, Faults::default()).with_checkpoints(8);
    world.run(30).unwrap_or_else(|broken| panic!("{broken}"));
    let delays = world.checkpoint_delays(24);
    assert!(delays.len() == 3 && delays.iter().all(|delay| delay.is_some_and(|blocks| blocks <= 2)), "{delays:?}");
    assert!([8, 16, 24].iter().all(|height| world.checkpoint_keepers(*height) == 4));
    // More than a third says nothing: blocks come to an end, so there is nothing to certify and nothing certified.
    let evil = BTreeMap::from([(0, Evil::Silent), (3, Evil::Silent)]);
    let faults = Faults { evil, stuck_after_ms: 30_000, ..Faults::default() };
    let mut world = World::new(1, &powers, faults).with_checkpoints(1);
    assert!(matches!(world.run(3), Err(Broken::Stuck(_))));
    assert!((1..=3).all(|height| world.checkpoint_keepers(height) == 0));
}

// row: CHN-10, CHN-53
#[test]
fn beyond_a_third_the_chain_halts_and_does_not_fork() {
    for (seed, kind) in (0..6).zip([Evil::Silent, Evil::Lies].into_iter().cycle()) {
        let evil = BTreeMap::from([(0, kind), (1, kind)]);
        let faults = Faults { evil, stuck_after_ms: 60_000, ..Faults::default() };
        let outcome = World::new(seed, &[&[2, 2, 2, 2, 2]], faults).run(3);
        assert!(matches!(outcome, Err(Broken::Stuck(_))), "seed {seed}, {kind:?}: {outcome:?}");
    }
}

// row: CHN-10
#[test]
fn a_dead_proposer_of_four_costs_a_few_rounds_in_many_heights_and_no_height_more_than_one() {
    for seed in 0..4 {
        let evil = BTreeMap::from([(usize::try_from(seed).unwrap(), Evil::Silent)]);
        let faults = Faults { latency_ms: 20..80, evil, ..Faults::default() };
        let mut world = World::new(seed, &[&[10, 10, 10, 10]], faults);
        world.run(120).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        let failed = world.rounds_failed();
        assert!((1..=6).contains(&failed), "seed {seed}: {failed} rounds failed in 120 heights\n{}", world.account());
    }
}

// row: CHN-10, CHN-16
#[test]
fn who_is_demoted_is_the_same_for_all_through_crashes_cuts_and_changing_committees() {
    // Validators that disagreed would refuse each other's proposals, and nobody could go on.
    let evil = BTreeMap::from([(0, Evil::Silent)]);
    let faults = Faults {
        latency_ms: 5..120,
        lost_percent: 3,
        crashes_per_height_percent: 40,
        partitions_per_height_percent: 20,
        evil,
        epoch_heights: 14,
        ..Faults::default()
    };
    assert_histories(0..6, &[&[3, 3, 3, 3, 2], &[2, 3, 3, 3, 3]], faults, 40);
}

// row: CHN-13, CHN-15, CHN-53
#[test]
fn with_post_quantum_votes_nobody_forks_or_signs_twice_and_an_equivocator_is_convicted() {
    let mut convicted = 0;
    for seed in 0..4 {
        let faults = Faults {
            votes: VoteScheme::MlDsa44,
            latency_ms: 5..120,
            lost_percent: 5,
            crashes_per_height_percent: 60,
            evil: BTreeMap::from([(0, Evil::Equivocates)]),
            ..Faults::default()
        };
        let mut world = World::new(seed, &[&[1, 2, 2, 2]], faults);
        world.run(6).unwrap_or_else(|broken| panic!("seed {seed}: {broken}\n{}", world.account()));
        convicted += world.convicted().len();
    }
    assert!(convicted > 0, "nobody was convicted");
}

/// CPU time of this thread so far, in milliseconds.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next().and_then(|text| text.parse::<f64>().ok());
    nanoseconds.unwrap_or_default() / 1e6
}

/// A committee at 50 ms one way: virtual time to finality, what went over the network, CPU; where it is wanted, with one
/// validator that says nothing when it is its turn to propose.
fn measured((votes, validators): (VoteScheme, usize), silent: bool, heights: u64) -> serde_json::Value {
    let powers: Vec<u64> = (0..validators).map(|n| 1_000 + u64::try_from(n * 37 % 500).unwrap()).collect();
    let evil = if silent { BTreeMap::from([(0, Evil::Silent)]) } else { BTreeMap::new() };
    let faults = Faults { votes, latency_ms: 50..51, evil, ..Faults::default() };
    let before = cpu_ms();
    let mut world = World::new(1, &[&powers], faults);
    world.run(heights).unwrap_or_else(|broken| panic!("{validators} validators: {broken}"));
    let figures = world.figures();
    let shares = u64::try_from(validators).unwrap() * heights;
    let each = |whole: u64| whole / shares;
    let cpu = (cpu_ms() - before) / f64::from(u32::try_from(shares).unwrap());
    let (p50, p99) = (figures.finality_ms(50), figures.finality_ms(99));
    json!({
        "votes": votes.word(),
        "validators": validators,
        "a_proposer_is_silent": silent,
        "heights": heights,
        "latency_ms": 50,
        "finality_virtual_ms": { "p50": p50, "p99": p99 },
        "finality_with_cpu_ms": { "p50": f64::from(u32::try_from(p50).unwrap()) + cpu, "p99": f64::from(u32::try_from(p99).unwrap()) + cpu },
        "per_block_and_node": { "messages_sent": each(figures.messages), "bytes_sent": each(figures.bytes), "cpu_ms": cpu },
    })
}

// row: CHN-10, CHN-12, CHN-15
#[test]
fn a_large_weighted_committee_is_final_within_two_seconds_of_virtual_time() {
    let largest: usize = set(VALIDATORS_VARIABLE, VALIDATORS);
    let sizes = [4, 20, 100, 1_000].into_iter().filter(|size| *size < largest).chain([largest]);
    let mut rows = Vec::new();
    for size in sizes {
        rows.push(measured((VoteScheme::Ed25519, size), false, HEIGHTS));
        if size <= 100 {
            // Everybody's turn to propose comes once, also that of the silent one.
            rows.push(measured((VoteScheme::Ed25519, size), true, u64::try_from(size).unwrap() + 2));
            rows.push(measured((VoteScheme::MlDsa44, size), false, HEIGHTS));
        }
    }
    for row in &rows {
        let p99 = row["finality_with_cpu_ms"]["p99"].as_f64().unwrap();
        assert!(p99 < 2_000.0, "{row:#}");
    }
    proof::write("committees", &json!(rows));
}
