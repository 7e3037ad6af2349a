use super::*;
use proptest::prelude::*;

type Keeper = RelayKeeper<u8>;

fn with(relays: &[u8]) -> Keeper {
    let mut keeper = Keeper::new(RELAYS_WANTED);
    relays.iter().for_each(|relay| keeper.told(relay, false, 0));
    keeper
}

/// Does at once whatever the keeper wants, as a network without faults would.
fn settle(keeper: &mut Keeper, latency_us: impl Fn(u8) -> u32, now_ms: u64) {
    for _ in 0..16 {
        let actions = keeper.step(true, now_ms);
        if actions.is_empty() {
            return;
        }
        for action in actions {
            match action {
                RelayAction::Connect(relay) => {
                    keeper.event(&relay, RelayEvent::Connected, now_ms);
                    keeper.event(&relay, RelayEvent::Latency { us: latency_us(relay) }, now_ms);
                }
                RelayAction::Reserve(relay) => keeper.event(&relay, RelayEvent::Reserved, now_ms),
                RelayAction::Release(_) => {}
            }
        }
    }
    panic!("it never comes to rest");
}

fn reserved(keeper: &Keeper) -> Vec<u8> {
    keeper.reserved().copied().collect()
}

// row: NET-42
#[test]
fn a_node_that_is_not_reachable_reserves_at_the_nearest_relays() {
    let mut keeper = with(&[1, 2, 3, 4]);
    settle(&mut keeper, |relay| 100_000 - u32::from(relay) * 20_000, 0);
    assert_eq!(reserved(&keeper).len(), RELAYS_WANTED);
    // Whom it met first it keeps for a while; then the nearer ones win.
    for round in 1..6 {
        settle(&mut keeper, |relay| 100_000 - u32::from(relay) * 20_000, round * CHANGE_EVERY_MS);
    }
    assert!(reserved(&keeper).contains(&4), "{:?}", reserved(&keeper));
}

// row: NET-42
#[test]
fn a_node_that_is_reachable_needs_none_and_gives_back_what_it_has() {
    let mut keeper = with(&[1, 2]);
    assert_eq!(keeper.step(false, 0), []);
    settle(&mut keeper, |_| 1_000, 0);
    let mut released = keeper.step(false, 1);
    released.sort_by_key(|action| format!("{action:?}"));
    assert_eq!(released, [RelayAction::Release(1), RelayAction::Release(2)]);
    assert_eq!(reserved(&keeper), [0u8; 0]);
    assert_eq!(keeper.step(false, 2), []);
}

// row: NET-42
#[test]
fn when_a_relay_dies_the_next_one_takes_its_place_at_once() {
    let mut keeper = with(&[1, 2, 3]);
    settle(&mut keeper, |_| 1_000, 0);
    let dead = reserved(&keeper)[0];
    keeper.event(&dead, RelayEvent::Lost, 10);
    assert_eq!(reserved(&keeper).len(), RELAYS_WANTED - 1);
    settle(&mut keeper, |_| 1_000, 10);
    let now = reserved(&keeper);
    assert!(now.len() == RELAYS_WANTED && !now.contains(&dead), "{now:?}");
}

// row: NET-42
#[test]
fn the_only_relay_is_tried_again_with_growing_rests() {
    let mut keeper = with(&[1]);
    let (mut now_ms, mut tries) = (0, Vec::new());
    while now_ms < 4 * REST_MS_MAX {
        for action in keeper.step(true, now_ms) {
            assert_eq!(action, RelayAction::Connect(1));
            tries.push(now_ms);
            keeper.event(&1, RelayEvent::Failed, now_ms);
        }
        now_ms += 100;
    }
    let rests: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(rests[0] <= 2 * REST_MS_FIRST && rests.windows(2).all(|pair| pair[0] <= pair[1] + 100), "{rests:?}");
    assert!(rests.iter().all(|rest| *rest <= REST_MS_MAX + 100) && rests.last() >= Some(&REST_MS_MAX), "{rests:?}");
}

// row: NET-42
#[test]
fn a_relay_of_this_region_is_taken_before_one_that_is_not_measured() {
    let mut keeper = Keeper::new(1);
    keeper.told(&1, false, 0);
    keeper.told(&2, true, 0);
    keeper.event(&1, RelayEvent::Connected, 0);
    keeper.event(&2, RelayEvent::Connected, 0);
    assert_eq!(keeper.step(true, 0), [RelayAction::Reserve(2)]);
}

// row: NET-42
#[test]
fn what_does_not_come_in_time_has_failed() {
    let mut keeper = with(&[1]);
    assert_eq!(keeper.step(true, 0), [RelayAction::Connect(1)]);
    assert_eq!(keeper.step(true, CONNECT_MS_MAX), []);
    let again = CONNECT_MS_MAX + REST_MS_FIRST;
    assert_eq!(keeper.step(true, again), [RelayAction::Connect(1)]);
    keeper.event(&1, RelayEvent::Connected, again);
    assert_eq!(keeper.step(true, again), [RelayAction::Reserve(1)]);
    assert_eq!(keeper.step(true, again + RESERVE_MS_MAX), []);
    assert_eq!(reserved(&keeper), [0u8; 0]);
}

#[derive(Clone, Debug)]
enum Happens {
    Told(u8, bool),
    Event(u8, RelayEvent),
    Step(bool, u64),
}

fn happens() -> impl Strategy<Value = Happens> {
    let event = prop_oneof![
        Just(RelayEvent::Connected),
        (0u32..300_000).prop_map(|us| RelayEvent::Latency { us }),
        Just(RelayEvent::Reserved),
        Just(RelayEvent::Failed),
        Just(RelayEvent::Lost),
    ];
    prop_oneof![
        (any::<u8>(), any::<bool>()).prop_map(|(relay, near)| Happens::Told(relay, near)),
        (0u8..12, event).prop_map(|(relay, event)| Happens::Event(relay, event)),
        (prop::bool::weighted(0.9), 0u64..20_000).prop_map(|(needed, later)| Happens::Step(needed, later)),
    ]
}

// row: NET-42, NET-56
#[test]
fn a_great_many_made_up_relays_push_out_none_that_has_not_failed() {
    let mut keeper = RelayKeeper::new(RELAYS_WANTED);
    for relay in 0..RELAYS_KNOWN_MAX as u32 {
        keeper.told(&relay, false, 0);
    }
    for made_up in 1_000..2_000u32 {
        keeper.told(&made_up, true, 1);
    }
    assert!(keeper.all().all(|(relay, ..)| *relay < RELAYS_KNOWN_MAX as u32));
    // One that is connected is known all the same.
    keeper.met(&9_000, false, 1);
    assert!(keeper.all().any(|(relay, ..)| *relay == 9_000));
    // One that fails makes room.
    let Some(RelayAction::Connect(first)) = keeper.step(true, 2).into_iter().next() else {
        panic!("nobody is dialled")
    };
    keeper.event(&first, RelayEvent::Failed, 3);
    keeper.told(&5_000, false, 4);
    assert!(keeper.all().any(|(relay, ..)| *relay == 5_000) && keeper.all().all(|(relay, ..)| *relay != first));
}

proptest! {
    // row: NET-42, NET-56
    #[test]
    fn whatever_happens_the_relays_stay_within_their_bounds(story in prop::collection::vec(happens(), 1..300)) {
        let mut keeper = Keeper::new(RELAYS_WANTED);
        let mut now_ms = 0;
        for happened in story {
            match happened {
                Happens::Told(relay, near) => keeper.told(&relay, near, now_ms),
                Happens::Event(relay, event) => keeper.event(&relay, event, now_ms),
                Happens::Step(needed, later_ms) => {
                    now_ms += later_ms;
                    let before: BTreeMap<u8, RelayStage> =
                        keeper.all().map(|(relay, stage, _)| (*relay, stage)).collect();
                    let actions = keeper.step(needed, now_ms);
                    let asked = |wanted: &dyn Fn(&RelayAction<u8>) -> bool| actions.iter().filter(|one| wanted(one)).count();
                    prop_assert!(needed || asked(&|one| !matches!(one, RelayAction::Release(_))) == 0);
                    for action in &actions {
                        if let RelayAction::Reserve(relay) = action {
                            // Only a relay that is connected is asked.
                            prop_assert_eq!(before[relay], RelayStage::Connected);
                        }
                    }
                    if !needed {
                        prop_assert_eq!(keeper.reserved().count(), 0);
                    }
                }
            }
            prop_assert!(keeper.relays.len() <= RELAYS_KNOWN_MAX);
            prop_assert!(keeper.count(RelayStage::Reserving) <= RELAYS_WANTED + 1);
        }
    }

    // row: NET-42
    #[test]
    fn after_any_story_a_faultless_network_leads_to_the_wanted_reservations(
        story in prop::collection::vec(happens(), 1..100),
    ) {
        let mut keeper = with(&[200, 201, 202]);
        let mut now_ms = 0;
        for happened in story {
            match happened {
                Happens::Told(relay, near) if relay < 12 => keeper.told(&relay, near, now_ms),
                Happens::Told(..) => {}
                Happens::Event(relay, event) => keeper.event(&relay, event, now_ms),
                Happens::Step(needed, later_ms) => {
                    now_ms += later_ms;
                    keeper.step(needed, now_ms);
                }
            }
        }
        now_ms += REST_MS_MAX + CONNECT_MS_MAX + RESERVE_MS_MAX;
        settle(&mut keeper, |_| 1_000, now_ms);
        now_ms += REST_MS_MAX;
        settle(&mut keeper, |_| 1_000, now_ms);
        prop_assert_eq!(reserved(&keeper).len(), RELAYS_WANTED);
    }
}
