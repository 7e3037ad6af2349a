use super::*;
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use trellis_primitives::RoleSet;

const NOW: UnixMs = UnixMs(1_000_000);
const AGENT: &str = "trellis/1";

fn id(number: u32) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    NodeId(bytes)
}

fn account(number: u32) -> Address {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Address::from(bytes)
}

/// The record of a node with keys and account of its own, made in its own second.
fn record(number: u32) -> NodeRecord {
    NodeRecord {
        ed25519: id(number).0,
        mldsa65: number.to_be_bytes().to_vec().into(),
        chain_address: account(number),
        network_magic: 1,
        roles: RoleSet(0),
        addresses: Vec::new(),
        models: Vec::new(),
        sequence: 1,
        expires_ms: u64::from(number) * 1_000,
    }
}

fn here(ip: [u8; 4]) -> Seen<'static> {
    Seen::Here { ip: Some(IpAddr::from(ip)), agent: AGENT }
}

const NOWHERE: Seen<'static> = Seen::Here { ip: None, agent: AGENT };

/// Lets a node in as the real door does, where it finds a place: the bound of clusters and nothing else.
fn enter(clusters: &mut Clusters, node: NodeId, record: &NodeRecord, seen: Seen<'_>) -> bool {
    clusters.seen(node, record, seen, NOW);
    let places = clusters.connected_others(node).iter().map(Vec::len).max().unwrap_or_default();
    let welcome = places < CLUSTER_PLACES_MAX;
    if welcome {
        clusters.connected(node, true);
    }
    welcome
}

// row: NET-37
#[test]
fn nodes_that_share_an_account_or_one_of_their_keys_are_one_cluster_and_clusters_grow_together() {
    let mut clusters = Clusters::default();
    let (same_account, same_key) =
        (NodeRecord { chain_address: account(1), ..record(2) }, NodeRecord { mldsa65: record(2).mldsa65, ..record(3) });
    let same_name = NodeRecord { ed25519: id(3).0, ..record(4) };
    for (number, record) in [(1, record(1)), (3, same_key), (9, record(9)), (4, same_name), (2, same_account)] {
        clusters.seen(id(number), &record, NOWHERE, NOW);
    }
    assert_eq!(clusters.others(id(1)), [vec![id(2), id(3), id(4)]]);
    assert_eq!(clusters.others(id(9)), [Vec::<NodeId>::new()], "whoever shares nothing is alone");
    assert_eq!(clusters.company(id(2)), [id(1).0, id(3).0].into());
    assert_eq!((clusters.report().largest, clusters.report().found), (4, 0));
}

// row: NET-37
#[test]
fn a_cluster_is_found_once_when_it_is_larger_than_an_honest_one_and_its_places_are_bounded() {
    let mut clusters = Clusters::default();
    let of_one = |number| NodeRecord { chain_address: account(1), ..record(number) };
    let found: Vec<usize> =
        (1..100).filter_map(|number| clusters.seen(id(number), &of_one(number), NOWHERE, NOW)).collect();
    assert_eq!(found, [CLUSTER_PLACES_MAX + 1]);
    assert_eq!(
        clusters.report(),
        ClusterReport { nodes: 99, by_keys: 1, batches: 0, largest: 99, found: 1, refused: 0 }
    );
    let let_in = (1..100).filter(|number| enter(&mut clusters, id(*number), &of_one(*number), NOWHERE)).count();
    assert_eq!(let_in, CLUSTER_PLACES_MAX);
    clusters.connected(id(1), false);
    assert!(enter(&mut clusters, id(90), &of_one(90), NOWHERE), "a place that is left is free");
}

// row: NET-37, NET-50
#[test]
fn users_behind_one_carriers_nat_keep_their_places_also_when_they_all_come_back_within_a_minute() {
    let mut clusters = Clusters::default();
    for number in 0..200 {
        // As after a power cut: neighbours with the same software, over a minute.
        let back = NodeRecord { expires_ms: u64::from(number % 60) * 1_000, ..record(number) };
        assert!(enter(&mut clusters, id(number), &back, here([100, 0, 0, 7])), "{number}");
    }
    assert_eq!(clusters.report().found, 0);
}

// row: NET-37
#[test]
fn neighbours_whose_records_are_of_one_second_get_a_bounded_number_of_places_and_draw_nobody_else_in() {
    let mut clusters = Clusters::default();
    let at_once = |number| NodeRecord { expires_ms: 5_500, ..record(number) };
    let let_in =
        (0..200).filter(|number| enter(&mut clusters, id(*number), &at_once(*number), here([11, 0, 0, 7]))).count();
    assert_eq!((let_in, clusters.report().batches), (CLUSTER_PLACES_MAX, 1));
    // The same second elsewhere, another second there, and other software: each alone says nothing.
    assert!(enter(&mut clusters, id(500), &at_once(500), here([11, 0, 1, 7])));
    assert!(enter(&mut clusters, id(501), &record(501), here([11, 0, 0, 7])));
    let other = Seen::Here { ip: Some(IpAddr::from([11, 0, 0, 7])), agent: "other/2" };
    assert!(enter(&mut clusters, id(502), &at_once(502), other));
    // Whoever times a record to somebody else's shares nothing with his account's other nodes.
    let victim = NodeRecord { chain_address: account(700), ..at_once(600) };
    clusters.seen(id(600), &victim, here([11, 0, 0, 7]), NOW);
    let second = NodeRecord { chain_address: account(700), ..record(601) };
    assert!(enter(&mut clusters, id(601), &second, here([11, 0, 9, 7])));
}

// row: NET-37
#[test]
fn records_of_one_second_that_one_source_tells_of_are_a_batch_and_dialled_and_told_of_sparingly() {
    let mut clusters = Clusters::default();
    let source = Some(AddressGroup::of("11.0.0.1:1".parse().unwrap()));
    for number in 0..40 {
        let made = NodeRecord { expires_ms: 5_000, ..record(number) };
        clusters.seen(id(number), &made, Seen::Told { source }, NOW);
        clusters.seen(id(1_000 + number), &record(1_000 + number), Seen::Told { source }, NOW);
    }
    let dialled = [id(0), id(1), id(1_000), id(1_001)].into();
    let crowded = clusters.crowded(&dialled, CLUSTER_OUTBOUND_MAX);
    assert_eq!(crowded.len(), 40);
    assert!(!crowded.contains(&id(1_002)));
    let mut told: Vec<NodeId> = (0..40).map(id).chain((1_000..1_040).map(id)).collect();
    clusters.thin(&mut told, |node| *node, CLUSTER_TOLD_MAX);
    assert_eq!(told.len(), CLUSTER_TOLD_MAX + 40);
}

// row: NET-37
#[test]
fn two_hundred_sybils_from_a_few_subnets_get_their_part_and_every_honest_peer_its_place() {
    for seed in 0..20 {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut clusters = Clusters::default();
        // Five accounts and seven ML-DSA keys, in turns, so that none of them stands alone; from four subnets.
        let sybil = |number: u32| NodeRecord {
            chain_address: account(9_000 + number % 5),
            mldsa65: (9_000 + number % 7).to_be_bytes().to_vec().into(),
            ..record(number)
        };
        let place = |number: u32| here([11, 0, u8::try_from(number % 4).unwrap(), u8::try_from(number % 200).unwrap()]);
        // The address book has heard of them before they come.
        for number in 0..200 {
            clusters.seen(id(number), &sybil(number), Seen::Told { source: None }, NOW);
        }
        let mut arrivals: Vec<(bool, u32)> =
            (0..200).map(|number| (true, number)).chain((1_000..1_080).map(|number| (false, number))).collect();
        // Each comes several times: whoever is refused tries again, and some leave.
        arrivals = [arrivals.clone(), arrivals.clone(), arrivals].concat();
        arrivals.shuffle(&mut rng);
        let (mut sybils, mut honest) = (BTreeSet::new(), BTreeSet::new());
        for (is_sybil, number) in arrivals {
            if is_sybil {
                if rng.random_bool(0.1) && sybils.remove(&number) {
                    clusters.connected(id(number), false);
                } else if enter(&mut clusters, id(number), &sybil(number), place(number)) {
                    sybils.insert(number);
                }
            } else {
                // Half of them are neighbours of the Sybils.
                let from = if number % 2 == 0 { place(number) } else { here([12, 0, 0, 1]) };
                assert!(enter(&mut clusters, id(number), &record(number), from), "seed {seed}, honest {number}");
                honest.insert(number);
            }
            assert!(sybils.len() <= CLUSTER_PLACES_MAX, "seed {seed}: {} Sybils", sybils.len());
        }
        assert!(honest.len() == 80 && !sybils.is_empty(), "seed {seed}");
        assert_eq!((clusters.report().by_keys, clusters.report().largest), (1, 200), "seed {seed}");
    }
}

// row: NET-37, NET-56
#[test]
fn memory_is_bounded_and_whoever_is_connected_is_not_forgotten_for_strangers_that_somebody_made_up() {
    let mut clusters = Clusters::default();
    let of_one = |number| NodeRecord { chain_address: account(1), ..record(number) };
    for number in 0..8 {
        assert!(enter(&mut clusters, id(number), &of_one(number), here([11, 0, 0, 1])));
    }
    let many = u32::try_from(CLUSTERED_NODES_MAX).unwrap() * 3;
    for number in 100..many {
        clusters.seen(id(number), &record(number), Seen::Told { source: None }, NOW.plus_ms(u64::from(number)));
    }
    assert!(clusters.nodes.len() <= CLUSTERED_NODES_MAX && clusters.clusters.len() <= CLUSTERED_NODES_MAX);
    assert!(clusters.by_key.len() <= 3 * CLUSTERED_NODES_MAX);
    assert!(!enter(&mut clusters, id(50), &of_one(50), here([11, 0, 0, 1])), "the cluster is remembered");
    // One that changes its account over and over.
    for number in 0..1_000 {
        clusters.seen(id(50), &NodeRecord { chain_address: account(50_000 + number), ..of_one(50) }, NOWHERE, NOW);
    }
    let cluster = &clusters.clusters[&clusters.nodes[&id(50)].cluster];
    assert!(cluster.keys.len() <= cluster.members.len() * KEYS_PER_NODE_MAX);
}

/// Nodes, and the keys that they have shown.
type Part = (BTreeSet<NodeId>, BTreeSet<(u8, u8)>);

/// Which of the nodes hang together by keys, the slow way.
fn components(records: &[(u8, [u8; 3])]) -> Vec<BTreeSet<NodeId>> {
    let mut parts: Vec<Part> = Vec::new();
    for (node, keys) in records {
        let keys: BTreeSet<(u8, u8)> = (0..).zip(*keys).collect();
        let node: BTreeSet<NodeId> = [id(u32::from(*node))].into();
        let touches = |(nodes, held): &Part| !nodes.is_disjoint(&node) || !held.is_disjoint(&keys);
        let (near, far): (Vec<_>, Vec<_>) = parts.into_iter().partition(touches);
        let mut whole = (node, keys);
        for (nodes, keys) in near {
            whole.0.extend(nodes);
            whole.1.extend(keys);
        }
        parts = far;
        parts.push(whole);
    }
    parts.into_iter().map(|(nodes, _)| nodes).collect()
}

proptest! {
    // row: NET-37, NET-56
    #[test]
    fn clusters_are_what_hangs_together_by_keys_and_no_order_of_arrivals_passes_the_bound(
        // A node's number and its account, Ed25519 key and ML-DSA key.
        steps in prop::collection::vec((0u8..60, [0u8..40, 0u8..60, 0u8..60], prop::bool::weighted(0.2)), 1..120),
    ) {
        let mut clusters = Clusters::default();
        let mut seen = Vec::new();
        for (number, keys, leaves) in steps {
            let node = id(u32::from(number));
            if leaves {
                clusters.connected(node, false);
                continue;
            }
            let shown = NodeRecord {
                chain_address: account(u32::from(keys[0])),
                ed25519: [keys[1]; 32],
                mldsa65: vec![keys[2]].into(),
                ..record(u32::from(number))
            };
            seen.push((number, keys));
            let before = clusters.nodes.get(&node).is_some_and(|known| known.connected);
            let let_in = enter(&mut clusters, node, &shown, NOWHERE);
            let mut others = clusters.others(node).remove(0);
            others.push(node);
            let members: BTreeSet<NodeId> = others.into_iter().collect();
            if let_in && !before {
                let here = members.iter().filter(|it| clusters.nodes[*it].connected).count();
                prop_assert!(here <= CLUSTER_PLACES_MAX, "{here}");
            }
        }
        // What is together hangs together. The reverse holds where no node has shown more keys than are remembered for it.
        let shown = |number: u8| seen.iter().filter(|(other, _)| *other == number).count();
        let few = seen.iter().all(|(number, _)| 3 * shown(*number) < KEYS_PER_NODE_MAX);
        for part in components(&seen) {
            for node in &part {
                let own = clusters.nodes[node].cluster;
                let members = &clusters.clusters[&own].members;
                prop_assert!(members.contains(node) && members.is_subset(&part), "{members:?} {part:?}");
                if few {
                    prop_assert_eq!(members, &part);
                }
            }
        }
        let counted: usize = clusters.clusters.values().map(|cluster| cluster.members.len()).sum();
        prop_assert_eq!(counted, clusters.nodes.len());
    }
}
