//! The core among honest peers and liars, in virtual time.

mod chain;
mod world;

use super::*;
use crate::config::STRIKES_MAX;
use chain::{CHAIN, TestChain};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use trellis_primitives::B256;
use world::{Kind, LIARS, World, id};

/// A sync of the test chain takes so long at most, whoever lies, in milliseconds of virtual time.
const SYNC_MS_MAX: u64 = 240_000;

fn faults_of(world: &World, number: usize) -> Vec<Fault> {
    world.dropped.iter().filter(|(peer, _)| *peer == id(number)).map(|(_, fault)| *fault).collect()
}

// row: CHN-30
#[test]
fn a_chain_of_many_committees_is_synced_from_honest_peers_in_order_and_nobody_is_dropped() {
    let mut world = World::new(1, 0, &[Kind::Honest; 5]);
    world.run(CHAIN.height(), SYNC_MS_MAX);
    assert_eq!(world.head, CHAIN.head(CHAIN.height()));
    assert_eq!(world.dropped, []);
    assert!(world.now < 30_000, "{} ms", world.now);
}

// row: CHN-30
#[test]
fn one_peer_alone_is_enough_however_slow_it_is() {
    let mut world = World::new(2, 0, &[Kind::Drips]);
    world.run(20, 600_000);
    assert!(world.head.height >= 20, "{}", world.head.height);
}

// row: CHN-30
#[test]
fn a_sync_goes_on_from_any_height_with_the_committees_of_that_height() {
    // Around the first blocks of an epoch, which name the committee of the second block after.
    for head in [1, 49, 50, 51, 52, 53, 54, 100, 101, 102, 103, 250, 699] {
        let mut world = World::new(head, head, &[Kind::Honest; 3]);
        world.run(CHAIN.height(), SYNC_MS_MAX);
        assert_eq!(world.head, CHAIN.head(CHAIN.height()), "from {head}");
        assert_eq!(world.dropped, [], "from {head}");
    }
}

// row: CHN-31
#[test]
fn each_kind_of_liar_is_found_named_and_replaced() {
    for kind in LIARS {
        let mut world = World::new(3, 0, &[Kind::Honest, kind, Kind::Honest, Kind::Honest]);
        world.run(CHAIN.height(), SYNC_MS_MAX);
        assert_eq!(world.head.height, CHAIN.height(), "{kind:?} keeps the sync from its end");
        let expected: &[Fault] = match kind {
            Kind::Honest => &[],
            Kind::OtherHeaders => &[Fault::WrongHeaders],
            Kind::Forges => &[Fault::ForgedCertificate],
            Kind::OtherBodies => &[Fault::WrongBody],
            Kind::Garbage => &[Fault::Undecodable, Fault::WrongBody],
            Kind::Withholds => &[Fault::Withheld, Fault::Slow],
            Kind::Empties | Kind::Trickles | Kind::Boasts => &[Fault::Withheld],
            Kind::Drips => &[Fault::Slow],
        };
        let faults = faults_of(&world, 1);
        assert!(faults.iter().all(|fault| expected.contains(fault)), "{kind:?}: {faults:?}");
        // Whoever boasts serves well up to the end, and only then is asked for what it has not.
        assert!(!faults.is_empty() || kind == Kind::Boasts, "{kind:?} was not found");
        let honest = [0, 2, 3].map(|number| faults_of(&world, number));
        assert_eq!(honest, [vec![], vec![], vec![]], "{kind:?}");
    }
}

// row: CHN-31
#[test]
fn with_a_third_of_the_peers_lying_every_seed_ends_at_the_same_head() {
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut peers = vec![Kind::Honest; 6];
        peers.extend((0..3).map(|_| LIARS[rng.random_range(0..LIARS.len())]));
        let head = rng.random_range(0..400);
        let mut world = World::new(seed, head, &peers);
        world.run(CHAIN.height(), SYNC_MS_MAX);
        assert_eq!(world.head, CHAIN.head(CHAIN.height()), "seed {seed} with {peers:?}, {:?}", world.dropped);
        let lies = |number| faults_of(&world, number).into_iter().any(Fault::is_lie);
        assert!(!(0..6).any(lies), "seed {seed}: an honest peer is called a liar: {:?}", world.dropped);
    }
}

// row: CHN-31
#[test]
fn when_all_others_leave_the_last_one_is_asked_for_everything() {
    let mut world = World::new(5, 0, &[Kind::Honest; 4]);
    world.run(100, SYNC_MS_MAX);
    for number in 0..3 {
        world.later(0, Event::Left(id(number)));
    }
    world.run(CHAIN.height(), SYNC_MS_MAX);
    assert_eq!(world.head.height, CHAIN.height());
}

// row: CHN-30
#[test]
fn a_new_block_is_taken_from_the_status_that_shows_it_without_another_question_for_its_header() {
    let mut follower =
        SyncState::new(SyncConfig::default(), CHAIN.head(699), CHAIN.committees(699), Some(chain::EPOCH_BLOCKS));
    follower.on(0, Event::Joined(id(0)));
    follower.on(0, Event::Status { peer: id(0), status: CHAIN.status(700) });
    let actions = follower.step(0).unwrap();
    let asked = |action: &Action| match action {
        Action::Ask { what, .. } => Some(*what),
        _ => None,
    };
    assert_eq!(actions.iter().filter_map(asked).collect::<Vec<_>>(), [Request::Bodies { first: 700, last: 700 }]);
}

// row: CHN-31
#[test]
fn a_status_that_shows_a_block_which_is_not_final_is_a_lie() {
    let other = TestChain::new(1, B256::repeat_byte(3));
    let forged =
        PeerStatus { tip: Run { certificate: CHAIN.run(1, 1).certificate, ..other.run(1, 1) }, ..other.status(1) };
    let mut state =
        SyncState::new(SyncConfig::default(), CHAIN.head(0), CHAIN.committees(0), Some(chain::EPOCH_BLOCKS));
    state.on(0, Event::Joined(id(0)));
    state.on(0, Event::Status { peer: id(0), status: forged });
    let actions = state.step(0).unwrap();
    assert!(matches!(actions[..], [Action::Dropped { fault: Fault::WrongHeaders, .. }]), "{actions:?}");
}

// row: CHN-31
#[test]
fn who_is_dropped_is_asked_again_after_its_time_and_longer_kept_out_the_next_time() {
    let config = SyncConfig::default();
    let mut peers = Peers::default();
    peers.joined(id(0));
    peers.told(id(0), 0, 9);
    assert!(peers.strike(id(0), Fault::WrongBody, &config, 0));
    assert!(!peers.is_usable(id(0), config.lie_penalty_ms - 1));
    // Leaving and coming again forgives nothing.
    peers.left(id(0));
    peers.joined(id(0));
    peers.told(id(0), 0, 9);
    assert!(!peers.is_usable(id(0), config.lie_penalty_ms - 1));
    assert!(peers.is_usable(id(0), config.lie_penalty_ms));
    assert!(peers.strike(id(0), Fault::WrongBody, &config, config.lie_penalty_ms));
    assert!(!peers.is_usable(id(0), 3 * config.lie_penalty_ms - 1));
    assert!(peers.is_usable(id(0), 3 * config.lie_penalty_ms));
}

// row: CHN-31
#[test]
fn who_is_out_or_silent_or_behind_is_known_to_be_of_no_use() {
    let config = SyncConfig::default();
    let mut peers = Peers::default();
    for (number, tip) in [(0, 9), (1, 10), (2, 10), (3, 11)] {
        peers.joined(id(number));
        peers.told(id(number), 0, tip);
    }
    peers.joined(id(4));
    assert_eq!(peers.useless(0, 26), [id(0)], "one that has said nothing yet may still speak");
    peers.strike(id(1), Fault::WrongBody, &config, 0);
    assert_eq!(peers.useless(0, 26), [id(0), id(1)]);
    // Nobody can be asked, so that nobody is dropped for being silent.
    let mut silent = Peers::default();
    silent.joined(id(0));
    for _ in 0..2 {
        assert!(!silent.strike(id(0), Fault::Withheld, &config, 0));
    }
    assert_eq!(silent.useless(0, 0), [id(0)]);
}

// row: CHN-30, CHN-31
#[test]
fn the_only_peer_that_can_be_asked_is_of_use_however_slow_until_there_is_another() {
    let config = SyncConfig::default();
    let mut peers = Peers::default();
    peers.joined(id(0));
    peers.told(id(0), 0, 9);
    for _ in 0..STRIKES_MAX {
        assert!(!peers.strike(id(0), Fault::Slow, &config, 0));
    }
    // One that has not said where it stands cannot be asked instead.
    peers.joined(id(1));
    assert_eq!(peers.useless(0, 0), []);
    peers.told(id(1), 0, 9);
    assert_eq!(peers.useless(0, 0), [id(0)]);
}

// row: CHN-31
#[test]
fn whoever_sends_one_header_of_many_is_dropped_though_its_bodies_are_good() {
    let mut state =
        SyncState::new(SyncConfig::default(), CHAIN.head(0), CHAIN.committees(0), Some(chain::EPOCH_BLOCKS));
    for (number, height) in [(0, 51), (1, 0)] {
        state.on(0, Event::Joined(id(number)));
        // The other has nothing to be asked for, so that all is asked of the first.
        state.on(0, Event::Status { peer: id(number), status: PeerStatus { height, ..CHAIN.status(51) } });
    }
    let mut dropped = Vec::new();
    for now in 1..20 {
        let mut events = VecDeque::new();
        for action in state.step(now).unwrap() {
            match action {
                Action::Ask { request, what: Request::Headers { first, .. }, .. } => {
                    events.push_back(Event::Run { request, run: CHAIN.run(first, first) });
                }
                // Before the headers: what is good comes between two short runs.
                Action::Ask { request, what: Request::Bodies { first, last }, .. } => {
                    events.push_front(Event::Bodies { request, bodies: CHAIN.bodies(first, last), bytes: 500 });
                }
                Action::Commit(blocks) => {
                    let height = blocks.last().unwrap().block.header.number;
                    events.push_back(Event::Committed(CHAIN.head(height)));
                }
                Action::Dropped { peer, fault } => dropped.push((peer, fault)),
                _ => {}
            }
        }
        events.into_iter().for_each(|event| state.on(now, event));
    }
    assert_eq!(dropped, [(id(0), Fault::Withheld)]);
}

// row: CHN-30
#[test]
fn while_as_much_waits_as_may_only_what_comes_next_is_asked_for() {
    let mut state =
        SyncState::new(SyncConfig::default(), CHAIN.head(0), CHAIN.committees(0), Some(chain::EPOCH_BLOCKS));
    for number in 0..4 {
        state.on(0, Event::Joined(id(number)));
        state.on(0, Event::Status { peer: id(number), status: CHAIN.status(51) });
    }
    state.step(0).unwrap();
    state.stock.bytes = BODIES_AHEAD_BYTES_MAX;
    state.on(1, Event::Run { request: 0, run: CHAIN.run(1, 51) });
    let asked = |actions: Vec<Action>| {
        let bodies = |action: &Action| match action {
            Action::Ask { what: Request::Bodies { first, last }, .. } => Some((*first, *last)),
            _ => None,
        };
        actions.iter().filter_map(bodies).collect::<Vec<_>>()
    };
    assert_eq!(asked(state.step(1).unwrap()), [(1, 16)]);
    state.stock.bytes = 0;
    assert_eq!(asked(state.step(2).unwrap()), [(17, 32), (33, 48), (49, 51)]);
}

// row: CHN-30
#[test]
fn a_final_block_without_its_parents_certificate_ends_the_sync() {
    let mut chain = TestChain::new(2, B256::ZERO);
    let keys = chain::signers(2);
    let (block, hash, certificate) = &mut chain.blocks[1];
    block.section.parent_commit = None;
    block.header.parent_beacon_block_root = Some(block.section.root());
    *hash = block.header.hash_slow();
    *certificate = chain::certify(&CHAIN.genesis_hash, &keys, 2, *hash);
    let mut state =
        SyncState::new(SyncConfig::default(), chain.head(0), chain.committees(0), Some(chain::EPOCH_BLOCKS));
    state.on(0, Event::Joined(id(0)));
    state.on(0, Event::Status { peer: id(0), status: chain.status(2) });
    state.step(0).unwrap();
    state.on(1, Event::Run { request: 0, run: chain.run(1, 2) });
    state.step(1).unwrap();
    state.on(2, Event::Bodies { request: 1, bodies: chain.bodies(1, 2), bytes: 1 });
    assert!(matches!(state.step(2), Err(SyncError::NoParentCertificate { height: 2, .. })));
}
