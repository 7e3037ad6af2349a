use proptest::prelude::*;

use super::*;

const RATE: u64 = 1_000_000;

/// What a class moves in so many milliseconds if it asks again each time it may.
fn moved(pool: &mut Pool, classes: &[MessageClass], from_ms: u64, ms: u64) -> Vec<u64> {
    let mut next = vec![from_ms * 1_000; classes.len()];
    let mut moved = vec![0; classes.len()];
    for now_us in (from_ms * 1_000..(from_ms + ms) * 1_000).step_by(500) {
        for (n, class) in classes.iter().enumerate() {
            while next[n] <= now_us {
                match pool.take(*class, 16 * 1_024, RATE, now_us) {
                    Ok(granted) => moved[n] += granted,
                    Err(wait) => next[n] = now_us + wait.as_micros() as u64,
                }
                if *class == MessageClass::Consensus {
                    // It sends what it has, not what it could.
                    next[n] = now_us + 100_000;
                }
            }
        }
    }
    moved
}

// row: NET-18
#[test]
fn sync_comes_before_jobs_and_jobs_keep_their_tenth() {
    let mut pool = Pool::full(RATE, 0);
    let both = moved(&mut pool, &[MessageClass::Work, MessageClass::Sync], 0, 10_000);
    let (work, sync) = (both[0] as f64, both[1] as f64);
    assert!(sync > 6.0 * work, "{both:?}");
    assert!(work > 0.08 * RATE as f64 * 10.0, "{both:?}");
    assert!(work + sync <= (RATE * 10 + RATE / 2) as f64, "{both:?}");
}

// row: NET-18
#[test]
fn jobs_alone_have_the_whole_line() {
    let mut pool = Pool::full(RATE, 0);
    let alone = moved(&mut pool, &[MessageClass::Work], 0, 10_000)[0];
    assert!(alone > RATE * 10 * 9 / 10 && alone < RATE * 11, "{alone}");
}

// row: NET-18
#[test]
fn consensus_never_waits_and_the_others_wait_for_what_it_took() {
    let mut pool = Pool::full(RATE, 0);
    assert!((0..1_000).all(|_| pool.take(MessageClass::Consensus, 64 * 1_024, RATE, 0).is_ok()));
    assert!(pool.take(MessageClass::Sync, 1_000, RATE, 0).is_err());
    let before = moved(&mut pool, &[MessageClass::Sync], 0, 900)[0];
    assert_eq!(before, 0, "the overdraft is paid back first");
    assert!(moved(&mut pool, &[MessageClass::Sync], 900, 2_000)[0] > RATE, "and it is bounded");
}

proptest! {
    // row: NET-18
    #[test]
    fn no_more_passes_than_the_bucket_and_its_refill(
        rate in 1_000u64..50_000_000,
        asks in prop::collection::vec((0u64..50_000, 1u64..200_000, 0usize..3), 1..300),
    ) {
        let mut pool = Pool::full(rate, 0);
        let (mut now_us, mut passed) = (0, 0u64);
        for (wait_us, wanted, class) in asks {
            now_us += wait_us;
            let class = [MessageClass::Sync, MessageClass::Work, MessageClass::Gossip][class];
            passed += pool.take(class, wanted, rate, now_us).unwrap_or_default();
            let flowed = u128::from(rate) * u128::from(now_us) / u128::from(MICROS);
            let most = flowed + u128::from(capacity(rate).unsigned_abs()) * 11 / 10 + 300;
            prop_assert!(u128::from(passed) <= most, "{} of {}", passed, most);
        }
    }

    // row: NET-18
    #[test]
    fn whoever_has_to_wait_is_served_in_the_end(rate in 1_000u64..50_000_000, class in 0usize..3) {
        let class = [MessageClass::Sync, MessageClass::Work, MessageClass::Gossip][class];
        let mut pool = Pool::full(rate, 0);
        let mut now_us = 0;
        for _ in 0..200 {
            let mut waits = 0;
            while let Err(wait) = pool.take(class, 64 * 1_024, rate, now_us) {
                now_us += wait.as_micros() as u64;
                waits += 1;
                prop_assert!(waits < 100, "at {}", rate);
            }
        }
    }
}

// row: NET-18
#[test]
fn a_peer_has_its_share_and_the_rate_can_be_changed_and_switched_off() {
    let bandwidth = Bandwidth::new(RATE, 0);
    let peer = PeerBudget::default();
    let drain = |bandwidth: &Bandwidth, peer: &PeerBudget| {
        let mut got = 0;
        while let Ok(granted) = bandwidth.take(Way::Up, MessageClass::Sync, 16 * 1_024, peer) {
            got += granted;
            assert!(got < 100 * RATE, "no limit");
        }
        got
    };
    let (first, other) = (drain(&bandwidth, &peer), drain(&bandwidth, &PeerBudget::default()));
    assert!(first >= RATE / 8 && other > 0, "another peer finds something left: {first}, {other}");
    bandwidth.set_rate(Way::Up, 0);
    assert!((0..10_000).all(|_| bandwidth.take(Way::Up, MessageClass::Work, 64 * 1_024, &peer).is_ok()));
    bandwidth.set_rate(Way::Up, 2 * RATE);
    assert!(drain(&bandwidth, &PeerBudget::default()) > first, "twice the rate, twice the bucket");
    assert_eq!((bandwidth.rate(Way::Up), bandwidth.rate(Way::Down)), (2 * RATE, 0));
}

// row: NET-18
#[test]
fn what_flows_is_shown_by_class() {
    let bandwidth = Bandwidth::new(0, 0);
    bandwidth.count(Way::Up, MessageClass::Work, 5_000);
    bandwidth.count(Way::Down, MessageClass::Consensus, 700);
    bandwidth.sample();
    let of = |wanted| bandwidth.usage().into_iter().find(|(class, _)| *class == wanted).unwrap().1;
    assert_eq!((of(MessageClass::Work).up_bytes, of(MessageClass::Work).down_bytes), (5_000, 0));
    assert_eq!(of(MessageClass::Consensus).down_bytes, 700);
    assert!(of(MessageClass::Work).up_bytes_per_s > 0);
    std::thread::sleep(Duration::from_millis(5));
    bandwidth.sample();
    assert_eq!(of(MessageClass::Work).up_bytes_per_s, 0);
}
