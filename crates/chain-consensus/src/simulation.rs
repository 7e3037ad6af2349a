//! A deterministic simulation of the committee on the engine's core, without sockets, disks or clocks: one seed is one
//! history. Messages are late and lost, validators crash and replay their logs; the seed is printed when something breaks.
//!
//! Everything but the voting protocol itself is ours and the same as in a running node: context, vote bytes, signer,
//! verifier, and the encoding of log entries.

mod world;

use world::{Faults, World};

fn assert_histories(seeds: std::ops::Range<u64>, powers: &[u64], faults: Faults, heights: u64) {
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
        let mut world = World::new(seed, &[1, 2, 3, 4], faults.clone());
        world.run(10).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        assert_eq!(world.rounds_failed(), 0, "seed {seed}");
        assert!(world.now_ms() < 10 * 3 * 80 + 500, "seed {seed}: ten heights took {} ms", world.now_ms());
    }
}

// row: CHN-16, CHN-53
#[test]
fn with_late_and_lost_messages_and_crashes_nobody_forks_or_signs_twice_and_all_go_on() {
    let faults = Faults { latency_ms: 5..120, lost_percent: 5, crashes_per_height_percent: 60 };
    assert_histories(0..24, &[1, 2, 2, 2], faults, 8);
}

// row: CHN-53
#[test]
fn one_seed_is_one_history() {
    let faults = Faults { latency_ms: 5..120, lost_percent: 5, crashes_per_height_percent: 60 };
    let history = |seed| {
        let mut world = World::new(seed, &[1, 2, 2, 2], faults.clone());
        world.run(5).unwrap();
        (world.account(), world.now_ms())
    };
    assert_eq!(history(3), history(3));
    assert_ne!(history(3), history(4));
}
