use proptest::prelude::*;
use trellis_primitives::{NodeId, UnixMs};

use super::*;
use crate::guard::Pattern;

const INVALID: Conduct = Conduct::Invalid { pattern: Pattern::Malformed };
const NOW: UnixMs = UnixMs(1_000_000);

fn id(n: u16) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    NodeId(bytes)
}

fn arrive(state: &mut GuardState, peer: NodeId, ip: &str, now: UnixMs) {
    let arrival = Arrival { address: "/ip4/203.0.113.9/udp/1/quic-v1", ip: ip.parse().ok(), ..Arrival::default() };
    state.arrived(peer, &arrival, now);
}

// row: NET-54, NET-73
#[test]
fn invalid_messages_lead_up_the_ladder_and_the_tenth_ends_the_connection() {
    let mut state = GuardState::default();
    let steps: Vec<&str> = (0..10).map(|n| state.report(id(1), INVALID, NOW.plus_ms(n)).unwrap().name()).collect();
    assert_eq!(steps[..4], ["warn"; 4]);
    assert_eq!(steps[4..9], ["throttle"; 5]);
    assert_eq!(steps[9], "disconnect");
    assert!(matches!(state.enter(id(1), None, NOW.plus_ms(10)), Entry::Banned(_)));
    assert_eq!(state.enter(id(1), None, NOW.plus_ms(10 + EXCLUSION_MS_FIRST)), Entry::Welcome);
}

// row: NET-54
#[test]
fn an_offender_that_comes_back_is_out_for_longer_each_time() {
    let mut state = GuardState::default();
    let mut now = NOW;
    let mut lengths = Vec::new();
    for _ in 0..4 {
        let until = loop {
            now = now.plus_ms(1);
            if let Some(Response::Disconnected { until }) = state.report(id(1), INVALID, now) {
                break until;
            }
        };
        lengths.push(until.ms_since(now));
        now = until;
    }
    assert_eq!(lengths, [60_000, 120_000, 240_000, 480_000]);
}

// row: NET-53, NET-54, NET-59
#[test]
fn a_forger_is_banned_at_once_for_longer_each_time_and_at_last_for_good() {
    let mut state = GuardState::default();
    state.report(id(1), Conduct::Valid { messages: 1_000_000 }, NOW);
    let mut now = NOW;
    let mut lengths = Vec::new();
    loop {
        let Some(Response::Banned { until }) = state.report(id(1), Conduct::Forged, now) else { panic!("banned") };
        assert_eq!(state.ban_of(id(1), now).unwrap().cause, BanCause::Forgery);
        let Some(until) = until else { break };
        lengths.push(until.ms_since(now) / BAN_MS_FIRST);
        now = until;
        assert_eq!(state.ban_of(id(1), now), None);
    }
    assert_eq!(lengths, [1, 4, 16, 64]);
    assert!(state.ban_of(id(1), UnixMs(u64::MAX)).is_some());
}

// row: NET-53
#[test]
fn the_thresholds_are_what_the_configuration_says() {
    let mild = Thresholds { disconnect: 1.0, ban: 0.5, ..Thresholds::default() };
    let mut state = GuardState::new(mild);
    let last = (0..30).filter_map(|_| state.report(id(1), INVALID, NOW)).last();
    assert!(matches!(last, Some(Response::Throttled { .. })), "{last:?}");
}

// row: NET-54
#[test]
fn honest_peers_behind_a_banned_address_keep_their_service() {
    let mut state = GuardState::default();
    let cgnat = "198.51.100.7";
    for honest in 0..10 {
        arrive(&mut state, id(honest), cgnat, NOW);
    }
    for bad in 100..110 {
        arrive(&mut state, id(bad), cgnat, NOW);
        state.report(id(bad), Conduct::Forged, NOW);
    }
    let ip = cgnat.parse().ok();
    for honest in 0..10 {
        state.left(id(honest), false, NOW);
        assert_eq!(state.enter(id(honest), ip, NOW), Entry::Welcome);
    }
    let strangers = (200..300).filter(|n| state.enter(id(*n), ip, NOW) == Entry::Welcome).count();
    assert_eq!(strangers as u64, crate::guard::NEWCOMERS_AT_ONCE, "strangers wait their turn");
    assert_eq!(state.enter(id(300), ip, NOW.plus_ms(5_000)), Entry::Welcome);
    assert_eq!(state.enter(id(301), "198.51.101.7".parse().ok(), NOW), Entry::Welcome);
}

// row: NET-54
#[test]
fn a_member_of_the_committee_is_counted_and_never_throttled_or_closed() {
    let mut state = GuardState::default();
    state.arrived(id(1), &Arrival { exempt: true, ..Arrival::default() }, NOW);
    for _ in 0..50 {
        assert_eq!(state.report(id(1), INVALID, NOW), Some(Response::Warned));
    }
    assert_eq!(state.report(id(1), Conduct::Equivocated, NOW), Some(Response::Warned));
    assert_eq!(state.enter(id(1), None, NOW), Entry::Welcome);
    assert!(state.score(id(1), NOW) <= 5.0);
}

// row: NET-54
#[test]
fn a_ban_by_hand_holds_until_its_end_or_until_it_is_lifted() {
    let mut state = GuardState::default();
    state.ban(id(1), Some(NOW.plus_ms(10)), NOW);
    state.ban(id(2), None, NOW);
    assert!(matches!(state.enter(id(1), None, NOW), Entry::Banned(_)));
    assert_eq!(state.enter(id(1), None, NOW.plus_ms(10)), Entry::Welcome);
    assert!(matches!(state.enter(id(2), None, UnixMs(u64::MAX)), Entry::Banned(_)));
    assert!(state.unban(id(2), NOW));
    assert!(!state.unban(id(2), NOW) && !state.unban(id(3), NOW));
    assert_eq!(state.enter(id(2), None, NOW), Entry::Welcome);
}

// row: NET-54
#[test]
fn old_offences_are_forgiven() {
    let mut state = GuardState::default();
    state.report(id(1), Conduct::Forged, NOW);
    let later = NOW.plus_ms(60 * FORGIVEN_MS);
    arrive(&mut state, id(1), "203.0.113.9", later);
    assert_eq!(state.standing(id(1), later).unwrap().bans, 0);
    assert!(state.score(id(1), later) > 49.0);
}

// row: NET-51
#[test]
fn a_throttled_peer_has_a_quarter_of_its_rates() {
    let mut state = GuardState::default();
    for _ in 0..THROTTLE_AT {
        state.report(id(1), INVALID, NOW);
    }
    let passed =
        |state: &mut GuardState, peer| (0..200).filter(|_| state.allow(peer, MessageClass::Control, 1, 1, NOW)).count();
    assert_eq!((passed(&mut state, id(1)), passed(&mut state, id(2))), (25, 100));
    assert!(state.allow(id(1), MessageClass::Work, 1, u64::MAX, NOW));
}

// row: NET-56
#[test]
fn a_flood_of_identities_forgets_the_oldest_and_keeps_bans_and_the_connected() {
    let mut state = GuardState::default();
    arrive(&mut state, id(1), "203.0.113.9", NOW);
    state.ban(id(2), None, NOW);
    for n in 0..(RECORDS_MAX as u16 + 500) {
        state.report(id(1_000 + n), Conduct::Valid { messages: 1 }, NOW.plus_ms(1 + u64::from(n)));
        assert!(state.records.len() <= RECORDS_MAX);
    }
    assert!(state.ban_of(id(2), NOW).is_some() && state.standing(id(1), NOW).is_some());
    assert!(state.standing(id(1_000), NOW).is_none());
}

// row: NET-56
#[test]
fn strings_and_addresses_of_a_peer_are_bounded() {
    let mut state = GuardState::default();
    let long = "é".repeat(1_000);
    for n in 0..100 {
        let address = format!("/ip4/203.0.113.9/udp/{n}/quic-v1");
        let arrival = Arrival {
            address: &address,
            record_addresses: std::slice::from_ref(&long),
            agent: &long,
            ..Arrival::default()
        };
        state.arrived(id(1), &arrival, NOW.plus_ms(n));
    }
    let standing = state.standing(id(1), NOW).unwrap();
    assert_eq!(standing.addresses.len(), ADDRESSES_MAX);
    assert!(standing.addresses.iter().all(|known| known.address.len() <= ADDRESS_BYTES_MAX));
    assert_eq!(standing.addresses.last().unwrap().address, "/ip4/203.0.113.9/udp/99/quic-v1");
    assert!(standing.user_agent.len() <= AGENT_BYTES_MAX);
}

#[derive(Clone, Debug)]
enum Step {
    Report(Conduct),
    Arrive,
    Leave(bool),
    Ban(Option<u64>),
    Unban,
    Tick,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Report(INVALID)),
        1 => Just(Step::Report(Conduct::Forged)),
        2 => (0u32..100).prop_map(|messages| Step::Report(Conduct::Valid { messages })),
        1 => Just(Step::Arrive),
        1 => any::<bool>().prop_map(Step::Leave),
        1 => prop::option::of(0u64..100_000).prop_map(Step::Ban),
        1 => Just(Step::Unban),
        1 => Just(Step::Tick),
    ]
}

proptest! {
    // row: NET-53, NET-54, NET-56
    #[test]
    fn whatever_peers_do_the_table_is_bounded_and_a_response_that_ends_a_connection_keeps_the_peer_out(
        run in prop::collection::vec((0u16..20, 0u64..100_000, steps()), 0..200),
    ) {
        let mut state = GuardState::default();
        let mut now = NOW;
        for (who, wait, step) in run {
            now = now.plus_ms(wait);
            let peer = id(who);
            match step {
                Step::Report(conduct) => {
                    let response = state.report(peer, conduct, now);
                    prop_assert_eq!(response.is_some(), conduct.is_offence());
                    if response.is_some_and(Response::ends_connection) {
                        prop_assert!(state.ban_of(peer, now).is_some());
                        prop_assert!(state.score(peer, now) < state.thresholds().disconnect);
                    }
                }
                Step::Arrive => arrive(&mut state, peer, "203.0.113.9", now),
                Step::Leave(dropped) => state.left(peer, dropped, now),
                Step::Ban(ms) => {
                    let until = ms.map(|ms| now.plus_ms(ms));
                    prop_assert_eq!(state.ban(peer, until, now).until, until);
                }
                Step::Unban => { state.unban(peer, now); prop_assert_eq!(state.ban_of(peer, now), None); }
                Step::Tick => state.tick(now),
            }
            prop_assert!(state.records.len() <= RECORDS_MAX);
            prop_assert!(state.records.values().all(|record| record.reputation.is_sound()));
        }
    }
}

// row: NET-53
#[test]
fn below_the_threshold_nothing_is_relayed() {
    let mut state = GuardState::default();
    assert!(state.may_relay(id(1), NOW), "a new peer is neutral");
    for n in 0..10 {
        state.report(id(1), INVALID, NOW.plus_ms(n));
    }
    assert!(!state.may_relay(id(1), NOW.plus_ms(10)));
    state.report(id(2), Conduct::Forged, NOW);
    assert!(state.unban(id(2), NOW));
    assert!(!state.may_relay(id(2), NOW), "the ban is lifted, the score is not");
}

// row: NET-50
#[test]
fn a_peer_is_known_after_it_was_connected_for_long_and_never_kept_out() {
    let mut state = GuardState::default();
    let later = NOW.plus_ms(PROVEN_ONLINE_MS);
    for peer in [id(1), id(2)] {
        arrive(&mut state, peer, "198.51.100.7", NOW);
        assert!(!state.is_proven(peer, NOW));
    }
    for n in 0..10 {
        state.report(id(2), INVALID, NOW.plus_ms(n));
    }
    state.tick(later);
    assert!(state.is_proven(id(1), later) && !state.is_proven(id(2), later) && !state.is_proven(id(3), later));
    assert_eq!(state.count_known(later), HashMap::from([("198.51.100.7".parse().unwrap(), 1)]));
    state.report(id(1), Conduct::Forged, later);
    assert!(!state.is_proven(id(1), later));
}

// row: NET-51
#[test]
fn under_attack_everything_costs_a_peer_of_no_standing_more_and_then_no_longer() {
    let passed = |state: &mut GuardState, peer, now| {
        (0..500).filter(|_| state.allow(peer, MessageClass::Control, 1, 1, now)).count() as u64
    };
    let mut state = GuardState::default();
    state.report(id(1), INVALID, NOW);
    state.report(id(2), Conduct::Valid { messages: 1_000 }, NOW);
    for n in 0..ALARM_AT {
        state.threat(std::net::Ipv4Addr::from(0x0808_0000 + n * 256).into(), Threat::HalfOpen, NOW);
    }
    assert!(state.under_attack(NOW));
    assert_eq!(passed(&mut state, id(1), NOW), super::super::rates::CONTROL_MESSAGES_PER_MINUTE / STRAINED_COST);
    assert_eq!(passed(&mut state, id(2), NOW), super::super::rates::CONTROL_MESSAGES_PER_MINUTE);
    assert!(!state.under_attack(NOW.plus_ms(2 * ALARM_WINDOW_MS)));
}

// row: NET-50, NET-52
#[test]
fn made_up_names_push_no_known_peer_out_of_the_memory() {
    let mut state = GuardState::new(Thresholds::default());
    let known = NodeId([0xee; 32]);
    state.arrived(known, &Arrival::default(), UnixMs(1));
    state.tick(UnixMs(1).plus_ms(PROVEN_ONLINE_MS));
    state.left(known, false, UnixMs(1).plus_ms(PROVEN_ONLINE_MS));
    let later = UnixMs(1).plus_ms(2 * PROVEN_ONLINE_MS);
    for n in 0..2 * RECORDS_MAX as u64 {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        state.report(NodeId(id), Conduct::Valid { messages: 1 }, later);
    }
    assert!(state.records.len() <= RECORDS_MAX);
    assert!(state.is_proven(known, later));
}
