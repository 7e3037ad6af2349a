use proptest::prelude::*;
use trellis_primitives::UnixMs;

use super::*;
use crate::guard::Pattern;

const DAY: u64 = 86_400_000;
const INVALID: Conduct = Conduct::Invalid { pattern: Pattern::Malformed };

fn conducts() -> impl Strategy<Value = Conduct> {
    prop_oneof![
        (1u32..1_000).prop_map(|messages| Conduct::Valid { messages }),
        Just(INVALID),
        Just(Conduct::Forged),
        Just(Conduct::Equivocated),
        any::<u32>().prop_map(|us| Conduct::RoundTrip { us }),
        any::<u64>().prop_map(|ms| Conduct::Online { ms }),
        Just(Conduct::Dropped),
        Just(Conduct::Unreachable),
        Just(Conduct::Participated),
        Just(Conduct::Violated),
        Just(Conduct::Relayed),
        Just(Conduct::RelayFailed),
    ]
}

fn of(fed: &[(u64, Conduct)]) -> (Reputation, UnixMs) {
    let mut reputation = Reputation::new(UnixMs(0));
    let mut now = 0u64;
    for (wait, conduct) in fed {
        now += wait;
        reputation.feed(*conduct, UnixMs(now));
    }
    (reputation, UnixMs(now))
}

// row: NET-52
#[test]
fn a_new_peer_has_fifty_in_every_part_and_the_weights_make_one() {
    let reputation = Reputation::new(UnixMs(7));
    assert!((reputation.score(UnixMs(7)) - 50.0).abs() < 1e-9);
    assert_eq!(reputation.parts(UnixMs(7)), Parts::default());
    let Parts { uptime, latency, validity, consensus, relay } = WEIGHTS;
    assert!((uptime + latency + validity + consensus + relay - 1.0).abs() < 1e-12);
    assert_eq!([uptime, latency, validity, consensus, relay], [0.2, 0.2, 0.3, 0.2, 0.1]);
}

// row: NET-52
#[test]
fn good_inputs_raise_the_part_they_belong_to_and_no_other() {
    let up = |conduct| of(&[(0, conduct); 50]).0.parts(UnixMs(0));
    let neutral = Parts::default();
    let uptime = up(Conduct::Online { ms: 600_000 });
    assert!(uptime.uptime > 60.0 && Parts { uptime: 50.0, ..uptime } == neutral);
    let latency = up(Conduct::RoundTrip { us: 1_000 });
    assert!(latency.latency > 90.0 && Parts { latency: 50.0, ..latency } == neutral);
    let validity = up(Conduct::Valid { messages: 20 });
    assert!(validity.validity > 80.0 && Parts { validity: 50.0, ..validity } == neutral);
    let consensus = up(Conduct::Participated);
    assert!(consensus.consensus > 60.0 && Parts { consensus: 50.0, ..consensus } == neutral);
    let relay = up(Conduct::Relayed);
    assert!(relay.relay > 70.0 && Parts { relay: 50.0, ..relay } == neutral);
}

// row: NET-52
#[test]
fn a_slow_or_uneven_peer_is_worth_less_than_a_quick_and_even_one() {
    let after = |us: &[u32]| {
        let fed: Vec<_> = us.iter().cycle().take(40).map(|us| (0, Conduct::RoundTrip { us: *us })).collect();
        of(&fed).0.parts(UnixMs(0)).latency
    };
    let (even, uneven, slow) = (after(&[20_000]), after(&[2_000, 38_000]), after(&[400_000]));
    assert!(even > uneven && uneven > slow, "{even} {uneven} {slow}");
    assert!(slow < 50.0);
}

// row: NET-59
#[test]
fn ten_invalid_messages_within_a_minute_cap_the_score_at_fifteen() {
    let mut good = vec![(0, Conduct::Valid { messages: 100_000 })];
    good.extend([(1_000, Conduct::Participated); 500]);
    let mut slowly = good.clone();
    good.extend([(1_000, INVALID); 10]);
    let (reputation, now) = of(&good);
    assert!((reputation.score(now) - CAP_INVALID).abs() < 1e-6, "{}", reputation.score(now));
    slowly.extend([(6_700, INVALID); 40]);
    let (reputation, now) = of(&slowly);
    assert!(reputation.score(now) > CAP_INVALID, "never ten within a minute");
    assert_eq!(reputation.cap(now), SCORE_MAX);
}

// row: NET-59
#[test]
fn a_forged_signature_and_an_equivocation_cap_the_score_at_five_and_the_cap_decays() {
    for proven in [Conduct::Forged, Conduct::Equivocated] {
        let (reputation, now) = of(&[(0, Conduct::Valid { messages: 100_000 }), (0, proven)]);
        assert!((reputation.score(now) - CAP_PROVEN).abs() < 1e-9);
        let next_day = now.plus_ms(DAY);
        assert!((reputation.score(next_day) - (100.0 - 95.0 * 0.9)).abs() < 1e-9);
        assert!(reputation.cap(now.plus_ms(60 * DAY)) > 99.0);
    }
}

proptest! {
    // row: NET-52
    #[test]
    fn a_score_stays_between_0_and_100_and_its_figures_sound(fed in prop::collection::vec((0u64..DAY, conducts()), 0..80)) {
        let (reputation, now) = of(&fed);
        for later in [0, 1, DAY, 400 * DAY, u64::MAX] {
            let score = reputation.score(now.plus_ms(later));
            prop_assert!((0.0..=100.0).contains(&score), "{score}");
        }
        prop_assert!(reputation.is_sound());
        prop_assert!(reputation.invalid_at.len() <= INVALID_BURST);
    }

    // row: NET-52
    #[test]
    fn a_day_takes_a_tenth_of_the_distance_to_neutral(fed in prop::collection::vec((0u64..10_000, conducts()), 0..40), days in 0u32..30) {
        let (reputation, now) = of(&fed);
        let (before, after) = (reputation.parts(now), reputation.parts(now.plus_ms(u64::from(days) * DAY)));
        let kept = 0.9f64.powi(days as i32);
        prop_assert!(((after.weighted() - 50.0) - (before.weighted() - 50.0) * kept).abs() < 1e-6);
    }

    // row: NET-59
    #[test]
    fn no_amount_of_good_behaviour_lifts_a_score_above_its_cap(fed in prop::collection::vec(conducts(), 0..60)) {
        let mut reputation = Reputation::new(UnixMs(0));
        reputation.feed(Conduct::Forged, UnixMs(0));
        for conduct in fed {
            reputation.feed(conduct, UnixMs(0));
            prop_assert!(reputation.score(UnixMs(0)) <= CAP_PROVEN);
        }
    }
}
