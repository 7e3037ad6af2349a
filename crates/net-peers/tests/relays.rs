//! Real nodes on loopback around a relay: reservations, circuits, the way to a direct connection, records that change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rand::SeedableRng;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_net_peers::frame::{read_frame, write_frame};
use trellis_net_peers::guard::{Conduct, Priority};
use trellis_net_peers::{
    DiscoveryConfig, NetConfig, NetMetrics, NetworkHandle, Path, PeerInfo, Protocol, STAKE_MIN, StakeError,
    StakeSource, StakeView, start_with_metrics,
};
use trellis_net_reach::relay::budget::{RelayBudget, RelayProfile};
use trellis_net_reach::relay::gate::RelayRefusal;
use trellis_net_reach::relay::places::PlacesReport;
use trellis_primitives::{Address, B256, NodeId, Role, RoleSet, SystemClock, Wei};

const ECHO: Protocol = Protocol("/trellis/echo/1");
/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

struct Rig {
    net: NetworkHandle,
    metrics: NetMetrics,
}

async fn node(seed: u64, change: impl FnOnce(&mut NetConfig)) -> Rig {
    let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
    let mut config = NetConfig::new(97_001, 0x5452_4c53, B256::repeat_byte(7));
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    change(&mut config);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (keys, account) = (HybridKey::generate(&mut rng).unwrap(), AccountKey::generate(&mut rng));
    let metrics = NetMetrics::default();
    let net = start_with_metrics(config, keys, account, Arc::new(SystemClock), metrics.clone()).await.unwrap();
    Rig { net, metrics }
}

async fn relay(seed: u64) -> Rig {
    node(seed, |config| {
        config.relay = Some(RelayProfile::Infra);
        config.roles = RoleSet::of(&[Role::Relay]);
        config.region = "here".to_owned();
    })
    .await
}

/// A chain that knows the stake of one account, and fails for all others.
struct OneStake(Address);

#[async_trait]
impl StakeView for OneStake {
    async fn stake(&self, account: Address, _: NodeId) -> Result<Wei, StakeError> {
        if account == self.0 { Ok(STAKE_MIN) } else { Err(StakeError { reason: "no answer".to_owned() }) }
    }
}

/// The account of the node that is made from a seed.
fn account(seed: u64) -> Address {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let _ = HybridKey::generate(&mut rng).unwrap();
    AccountKey::generate(&mut rng).address()
}

/// A relay for four peers that knows the stake of the node made from seed `staked`.
async fn small_relay(seed: u64, staked: u64, change: impl FnOnce(&mut RelayBudget)) -> Rig {
    let mut budget = RelayBudget::sized(4);
    change(&mut budget);
    node(seed, |config| {
        config.relay = Some(RelayProfile::Home);
        config.relay_budget = Some(budget);
        config.stakes = Some(StakeSource(Arc::new(OneStake(account(staked)))));
        config.roles = RoleSet::of(&[Role::Relay]);
    })
    .await
}

fn address(rig: &Rig) -> String {
    rig.net.listen_addresses()[0].clone()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn circuits(rig: &Rig) -> Vec<String> {
    rig.net.reach().unwrap().circuits
}

fn shown(rig: &Rig, peer: NodeId) -> PeerInfo {
    rig.net.peers().into_iter().find(|info| info.id == Some(peer)).unwrap()
}

async fn echo(net: &NetworkHandle) {
    let mut acceptor = net.accept(ECHO).unwrap();
    tokio::spawn(async move {
        while let Some((_, mut stream)) = acceptor.next().await {
            tokio::spawn(async move {
                while let Ok(frame) = read_frame(&mut stream, 1_024).await {
                    if write_frame(&mut stream, &frame).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

// row: NET-40, NET-42, NET-43
#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_relay_is_reached_and_the_connection_becomes_direct_under_its_streams() {
    let relay = relay(1).await;
    let (home, far) = (node(2, |_| {}).await, node(3, |_| {}).await);
    home.net.dial(&address(&relay)).await.unwrap();
    until("no reservation", || !circuits(&home).is_empty()).await;
    assert_eq!(home.net.reach().unwrap().reachability.word(), "private");
    assert_eq!(relay.net.reach().unwrap().reservations_given, 1);
    echo(&home.net).await;
    let way = format!("{}/p2p/{}", circuits(&home)[0], shown_peer_id(&relay, home.net.local_id()));
    assert_eq!(far.net.dial(&way).await, Ok(home.net.local_id()));
    let mut stream = far.net.open(home.net.local_id(), ECHO).await.unwrap();
    // The stream that began on the first way goes on while the better one takes over, however long that lasts.
    let begun = Instant::now();
    let mut echoes = 0u32;
    while shown(&far, home.net.local_id()).path != Path::Direct || begun.elapsed() < Duration::from_secs(5) {
        assert!(begun.elapsed() < PATIENCE, "never direct");
        write_frame(&mut stream, b"on and on").await.unwrap();
        assert_eq!(read_frame(&mut stream, 64).await.unwrap().as_ref(), b"on and on");
        echoes += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(echoes > 10 && far.metrics.reach.circuits_used.get() == 1);
    drop(stream);
    until("the circuit is never closed", || relay.net.reach().unwrap().circuits_carried == 0).await;
    assert_eq!(shown(&far, home.net.local_id()).path, Path::Direct);
    let pong = far.net.ping(home.net.local_id()).await.unwrap();
    assert_eq!(pong.path, Path::Direct);
    assert_eq!(far.metrics.accepted.get().min(2), 2, "the direct connection was never made");
}

fn shown_peer_id(rig: &Rig, peer: NodeId) -> String {
    shown(rig, peer).peer_id
}

// row: NET-42
#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_record_reaches_connected_peers_and_through_them_others_who_then_connect() {
    let relay = node(1, |config| {
        config.relay = Some(RelayProfile::Infra);
        config.roles = RoleSet::of(&[Role::Relay]);
        config.discovery = Some(DiscoveryConfig::default());
    })
    .await;
    let finds = |config: &mut NetConfig| config.discovery = Some(DiscoveryConfig::default());
    let home = node(2, finds).await;
    home.net.dial(&address(&relay)).await.unwrap();
    until("no reservation", || !circuits(&home).is_empty()).await;
    let told = || {
        shown(&relay, home.net.local_id())
            .record
            .is_some_and(|record| circuits(&home).iter().all(|circuit| record.addresses.contains(circuit)))
    };
    until("the relay never hears of the circuits", told).await;
    let far = node(3, finds).await;
    far.net.dial(&address(&relay)).await.unwrap();
    until("the two never meet", || far.net.peers().iter().any(|info| info.id == Some(home.net.local_id()))).await;
}

// row: NET-35, NET-42
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_only_a_relay_leads_to_is_found_by_its_model_in_the_table() {
    let table = |config: &mut NetConfig| {
        let alone = DiscoveryConfig { pex: false, mdns: false, outbound_min: 0, ..DiscoveryConfig::default() };
        config.discovery = Some(alone);
    };
    let relay = node(1, |config| {
        config.relay = Some(RelayProfile::Infra);
        config.roles = RoleSet::of(&[Role::Relay]);
        table(config);
    })
    .await;
    let home = node(2, |config| {
        // It listens nowhere, so its relay is the only way to it.
        config.listen.clear();
        config.roles = RoleSet::of(&[Role::Provider]);
        config.models = vec!["small-model".to_owned()];
        table(config);
    })
    .await;
    home.net.dial(&address(&relay)).await.unwrap();
    until("no reservation", || !circuits(&home).is_empty()).await;
    let told = || shown(&relay, home.net.local_id()).record.is_some_and(|record| !record.addresses.is_empty());
    until("the relay never hears of the circuits", told).await;
    let buyer = node(3, table).await;
    buyer.net.dial(&address(&relay)).await.unwrap();
    let begun = Instant::now();
    while buyer.net.find_providers("small-model").await != [home.net.local_id()] {
        assert!(begun.elapsed() < PATIENCE, "never found: {:?}", buyer.net.discovery());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Over the relay first; a hole may have been punched since.
    let known = shown(&buyer, home.net.local_id());
    assert!(known.path == Path::Relayed || known.direct_after_ms.is_some(), "{known:?}");
}

// row: NET-42, NET-71
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_behind_a_relay_is_added_by_the_address_that_leads_through_it_and_forgotten_by_it() {
    let relay = relay(1).await;
    let (home, far) = (node(2, |config| config.listen.clear()).await, node(3, |_| {}).await);
    home.net.dial(&address(&relay)).await.unwrap();
    until("no reservation", || !circuits(&home).is_empty()).await;
    let circuit = circuits(&home).remove(0);
    let way = format!("{circuit}/p2p/{}", shown_peer_id(&relay, home.net.local_id()));
    assert_eq!(far.net.add_peer(&way, Priority::High).await, Ok(home.net.local_id()));
    // Another node behind the same relay is another place.
    let other = format!("{circuit}/p2p/{}", shown_peer_id(&far, relay.net.local_id()));
    assert!(far.net.forget_added(Some(&other), None).is_empty());
    assert_eq!(far.net.forget_added(Some(&way), None), [way]);
}

// row: NET-42
#[tokio::test(flavor = "multi_thread")]
async fn when_a_relay_dies_the_node_moves_to_another() {
    let (first, second) = (relay(1).await, relay(4).await);
    let home = node(2, |config| config.relays_wanted = 1).await;
    home.net.dial(&address(&first)).await.unwrap();
    until("no reservation", || !circuits(&home).is_empty()).await;
    home.net.dial(&address(&second)).await.unwrap();
    let before = circuits(&home);
    first.net.shutdown().await;
    until("it never moves", || !circuits(&home).is_empty() && circuits(&home) != before).await;
    assert_eq!(second.net.reach().unwrap().reservations_given, 1);
}

// row: NET-42, NET-53
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_with_a_low_score_gets_no_reservation() {
    let relay = relay(1).await;
    let home = node(2, |_| {}).await;
    home.net.dial(&address(&relay)).await.unwrap();
    let threshold = relay.net.guard().thresholds().relay;
    for _ in 0..1_000 {
        if relay.net.guard().score(home.net.local_id()) < threshold {
            break;
        }
        relay.net.report(home.net.local_id(), Conduct::Dropped);
        relay.net.report(home.net.local_id(), Conduct::Unreachable);
        relay.net.report(home.net.local_id(), Conduct::RelayFailed);
        relay.net.report(home.net.local_id(), Conduct::RoundTrip { us: 4_000_000 });
        relay.net.report(home.net.local_id(), Conduct::Violated);
    }
    assert!(relay.net.guard().score(home.net.local_id()) < threshold, "the score does not fall");
    until("it is never refused", || relay.metrics.reach.refused_count(RelayRefusal::Score) > 0).await;
    assert!(circuits(&home).is_empty() && relay.net.reach().unwrap().reservations_given == 0);
}

// row: NET-42
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_full_of_peers_without_stake_still_takes_one_with_stake() {
    const STAKED: u64 = 20;
    let relay = small_relay(1, STAKED, |_| {}).await;
    let places = || relay.net.reach().unwrap().relay.unwrap().reservations;
    let mut homes = Vec::new();
    for seed in 2..5 {
        let home = node(seed, |_| {}).await;
        home.net.dial(&address(&relay)).await.unwrap();
        until("no reservation", || !circuits(&home).is_empty()).await;
        homes.push(home);
    }
    assert_eq!(places(), PlacesReport { max: 4, kept: 1, used: 3, staked: 0 });
    let late = node(5, |_| {}).await;
    late.net.dial(&address(&relay)).await.unwrap();
    until("it is never refused", || relay.metrics.reach.refused_count(RelayRefusal::Kept) > 0).await;
    let staked = node(STAKED, |_| {}).await;
    staked.net.dial(&address(&relay)).await.unwrap();
    until("the staked one gets no reservation", || !circuits(&staked).is_empty()).await;
    assert_eq!(places(), PlacesReport { max: 4, kept: 1, used: 4, staked: 1 });
    assert!(circuits(&late).is_empty() && homes.iter().all(|home| !circuits(home).is_empty()));
    assert!(relay.metrics.reach.stake_unanswered.get() > 0, "the chain never failed");
    // A place that is left is anybody's again.
    homes.remove(0).net.shutdown().await;
    until("the place is never free", || !circuits(&late).is_empty()).await;
}

// row: NET-42
#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_of_a_peer_with_stake_carries_more_than_one_between_peers_without() {
    const STAKED: u64 = 20;
    // Less than a handshake takes, so that whoever has this budget never gets to know the other.
    let relay = small_relay(1, STAKED, |budget| budget.circuit.bytes_max = 4_096).await;
    let relay_at = |rig: &Rig| shown_peer_id(&relay, rig.net.local_id());
    let (plain, staked) = (node(2, |_| {}).await, node(STAKED, |_| {}).await);
    for home in [&plain, &staked] {
        home.net.dial(&address(&relay)).await.unwrap();
        until("no reservation", || !circuits(home).is_empty()).await;
    }
    until("its stake is never known", || relay.net.reach().unwrap().relay.unwrap().reservations.staked == 1).await;
    let far = node(3, |_| {}).await;
    let to_plain = format!("{}/p2p/{}", circuits(&plain)[0], relay_at(&plain));
    far.net.dial(&to_plain).await.unwrap_err();
    until("no circuit is cut", || relay.metrics.reach.circuits_cut.get() > 0).await;
    let to_staked = format!("{}/p2p/{}", circuits(&staked)[0], relay_at(&staked));
    assert_eq!(far.net.dial(&to_staked).await, Ok(staked.net.local_id()));
    until("a place stays taken", || relay.net.reach().unwrap().relay.unwrap().circuits.used <= 1).await;
}
