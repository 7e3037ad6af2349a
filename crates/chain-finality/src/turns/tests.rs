use super::*;
use crate::validator_set::Validator;
use proptest::prelude::*;
use trellis_crypto::VotePublicKey;

fn committee(powers: &[u64]) -> ValidatorSet {
    let member = |(n, power): (usize, &u64)| {
        let n = u8::try_from(n).unwrap() + 1;
        Validator::new(VotePublicKey::Ed25519([n; 32]), *power, Address::with_last_byte(n))
    };
    ValidatorSet::new(powers.iter().enumerate().map(member).collect()).unwrap()
}

/// A chain of so many heights, from the first of a term: the round in which each is decided when those whom `dead` names at
/// a height do not propose, and the turns that each of them missed.
fn decided(set: &ValidatorSet, heights: u64, dead: impl Fn(u64, &Address) -> bool) -> (Vec<u32>, Vec<Address>) {
    let (mut turns, mut rounds, mut missed) = (Turns::new(1), Vec::new(), Vec::new());
    for height in 1..=heights {
        let demoted = at(&mut turns, set, &rounds, height);
        let order = proposers(set, &demoted, height, u32::try_from(set.count()).unwrap());
        let round = order.iter().position(|member| !dead(height, &member.address)).expect("somebody lives");
        missed.extend(order[..round].iter().map(|member| member.address));
        rounds.push(u32::try_from(round).unwrap());
    }
    (rounds, missed)
}

/// Who is demoted at a height, when the blocks before it are there.
fn at(turns: &mut Turns, set: &ValidatorSet, rounds: &[u32], height: u64) -> Demoted {
    while turns.next() + 1 < height {
        let place = usize::try_from(turns.next() - turns.first()).unwrap();
        turns.count(set, rounds[place]);
    }
    turns.demoted()
}

// row: CHN-10
#[test]
fn a_dead_proposer_of_four_costs_a_few_timeouts_in_a_term_and_not_one_in_four_blocks() {
    let set = committee(&[10, 10, 10, 10]);
    for victim in set.validators() {
        let (_, missed) = decided(&set, TERM_HEIGHTS, |_, member| *member == victim.address);
        assert!((1..=7).contains(&missed.len()), "{} turns missed", missed.len());
    }
    let without = (1..=TERM_HEIGHTS)
        .filter(|height| proposer(&set, &Demoted::default(), *height, 0) == set.validators().first())
        .count();
    assert!(without > 40, "undemoted it would have missed {without}");
}

// row: CHN-10
#[test]
fn a_third_of_a_hundred_dead_proposers_cost_a_few_timeouts_each() {
    let set = committee(&[7; 100]);
    let dead: BTreeSet<Address> = set.validators().iter().step_by(3).map(|member| member.address).collect();
    let (rounds, missed) = decided(&set, TERM_HEIGHTS, |_, member| dead.contains(member));
    assert!(missed.len() < dead.len() * 2, "{} turns missed", missed.len());
    let late = &rounds[rounds.len() / 2..];
    assert!(late.iter().sum::<u32>() * 10 < u32::try_from(late.len()).unwrap(), "{rounds:?}");
}

// row: CHN-10
#[test]
fn who_missed_one_turn_is_like_the_others_again_after_a_while_and_at_once_when_it_proposed() {
    let set = committee(&[10, 10, 10, 10]);
    let mut turns = Turns::new(1);
    let late = proposer(&set, &Demoted::default(), 1, 0).unwrap().address;
    turns.count(&set, 1);
    assert_eq!(turns.demoted().iter().collect::<Vec<_>>(), [&late], "at height 3");
    let mut heights = 0;
    while turns.demoted().contains(&late) {
        assert_ne!(proposer(&set, &turns.demoted(), turns.next() + 1, 0).unwrap().address, late);
        turns.count(&set, 0);
        heights += 1;
    }
    assert_eq!(heights, 4 * DEMOTED_TURNS);

    // It misses again: now twice as long, until all others miss and it proposes.
    while proposer(&set, &turns.demoted(), turns.next(), 0).unwrap().address != late {
        turns.count(&set, 0);
    }
    turns.count(&set, 1);
    for _ in 0..4 * DEMOTED_TURNS + 1 {
        assert!(turns.demoted().contains(&late));
        turns.count(&set, 0);
    }
    let height = turns.next();
    let order = proposers(&set, &turns.demoted(), height, 4);
    assert_eq!(order[3].address, late, "it comes after all others");
    turns.count(&set, 3);
    assert!(!turns.demoted().contains(&late));
    assert_eq!(turns.demoted().iter().count(), 3, "the others missed theirs");
}

#[test]
fn when_all_missed_their_turn_all_are_drawn_by_power_again() {
    let set = committee(&[1, 2, 3, 4]);
    let mut turns = Turns::new(1);
    turns.count(&set, 6);
    assert_eq!(turns.demoted().iter().count(), 3, "the one that proposed in the end is like before");
    turns.count(&set, u32::MAX);
    let all: Demoted = set.validators().iter().map(|member| member.address).collect();
    for height in 3..100 {
        assert_eq!(proposer(&set, &all, height, 0), proposer(&set, &Demoted::default(), height, 0));
    }
}

// row: CHN-10, CHN-14
#[test]
fn a_term_begins_with_every_committee_and_is_no_longer_than_a_snapshot() {
    assert_eq!(first_of_term(1, None), 1);
    assert_eq!(first_of_term(TERM_HEIGHTS, None), 1);
    assert_eq!(first_of_term(TERM_HEIGHTS + 1, None), TERM_HEIGHTS + 1);
    let firsts: BTreeSet<u64> = (1..=70).map(|height| first_of_term(height, Some(20))).collect();
    assert_eq!(firsts.into_iter().collect::<Vec<_>>(), [1, 23, 43, 63]);
    let firsts: BTreeSet<u64> = (1..=1_100).map(|height| first_of_term(height, Some(500))).collect();
    assert_eq!(firsts.into_iter().collect::<Vec<_>>(), [1, 241, 481, 503, 743, 983, 1_003]);
}

proptest! {
    // row: CHN-10
    #[test]
    fn who_is_demoted_follows_from_the_rounds_two_heights_back_and_from_nothing_else(
        powers in proptest::collection::vec(1u64..1_000, 1..12),
        rounds in proptest::collection::vec(prop_oneof![4 => 0u32..1, 2 => 0u32..4, 1 => any::<u32>()], 1..60),
        cut in any::<prop::sample::Index>(),
        other in 0u32..9,
    ) {
        let set = committee(&powers);
        let height = u64::try_from(cut.index(rounds.len())).unwrap() + 3;
        let known = usize::try_from(height - 2).unwrap();
        let demoted = at(&mut Turns::new(1), &set, &rounds, height);
        // A node that restarts counts from the first; one that ran on has asked at every height.
        let mut running = Turns::new(1);
        for before in 1..height {
            at(&mut running, &set, &rounds, before);
        }
        prop_assert_eq!(&at(&mut running, &set, &rounds, height), &demoted);
        let changed: Vec<u32> = rounds[..known].iter().copied().chain([other; 9]).collect();
        prop_assert_eq!(&at(&mut Turns::new(1), &set, &changed, height), &demoted);
    }

    // row: CHN-10
    #[test]
    fn every_member_has_one_turn_in_the_first_rounds_and_the_demoted_have_theirs_last(
        powers in proptest::collection::vec(1u64..1_000, 1..12),
        back in proptest::collection::vec(any::<bool>(), 12),
        height in 0u64..10_000,
    ) {
        let set = committee(&powers);
        let demoted: Demoted =
            set.validators().iter().zip(back).filter(|(_, back)| *back).map(|(member, _)| member.address).collect();
        let count = u32::try_from(set.count()).unwrap();
        let order: Vec<Address> =
            (0..count).map(|round| proposer(&set, &demoted, height, round).unwrap().address).collect();
        prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), set.count());
        let first_behind = order.iter().position(|member| demoted.contains(member)).unwrap_or(order.len());
        prop_assert!(order[first_behind..].iter().all(|member| demoted.contains(member)));
        prop_assert_eq!(proposer(&set, &demoted, height, count), proposer(&set, &demoted, height, 0));
    }
}
