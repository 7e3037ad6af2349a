use std::net::Ipv4Addr;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;

const NOW: UnixMs = UnixMs(1_800_000_000_000);

fn socket(a: u8, b: u8, c: u8, d: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), 9_700)
}

fn address(socket: SocketAddr) -> PeerAddress {
    PeerAddress { socket, peer: None }
}

fn told(of: SocketAddr, by: SocketAddr) -> Told {
    Told { address: address(of), node: None, source: AddressGroup::of(by) }
}

fn id(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn book() -> Book {
    Book::new([7; 32])
}

/// What must hold of every book at any time.
fn check(book: &Book) {
    let (new, tried) = (book.new.all(), book.tried.all());
    for (socket, entry) in book.entries() {
        match &entry.place {
            Place::New(places) => {
                assert!(!places.is_empty() && places.len() <= NEW_PLACES_MAX, "{socket}: {places:?}");
                assert!(places.iter().all(|slot| new.contains(&(*slot, socket))));
            }
            Place::Tried(slot) => assert!(tried.contains(&(*slot, socket))),
        }
        if let Some(node) = entry.node {
            assert!(book.by_node[&node].contains(&socket));
        }
    }
    for (slot, socket) in new {
        assert!(matches!(&book.entries[&socket].place, Place::New(places) if places.contains(&slot)));
    }
    for (slot, socket) in &tried {
        assert_eq!(book.entries[socket].place, Place::Tried(*slot));
    }
    assert_eq!(tried.len(), book.counts().tried);
    for (node, held) in &book.by_node {
        assert!(!held.is_empty() && held.len() <= NODE_ADDRESSES_MAX);
        assert!(held.iter().all(|socket| book.entries[socket].node == Some(*node)));
    }
    assert!(book.contests.len() <= CONTESTS_MAX);
    assert!(book.contests.iter().all(|(a, b)| book.entries.contains_key(a) && book.entries.contains_key(b)));
}

#[derive(Clone, Debug)]
enum Step {
    Tell(Told),
    Record(u8, Vec<SocketAddr>),
    Dialled(SocketAddr),
    Failed(SocketAddr),
    Reached(SocketAddr, u8),
    Forget(SocketAddr),
}

fn some_socket() -> impl Strategy<Value = SocketAddr> {
    (11u8..14, 0u8..3, 0u8..3, 0u8..40).prop_map(|(a, b, c, d)| socket(a, b, c, d))
}

fn step() -> impl Strategy<Value = Step> {
    let node = prop::option::of((0u8..6).prop_map(id));
    let tell =
        (some_socket(), some_socket(), node).prop_map(|(of, by, node)| Step::Tell(Told { node, ..told(of, by) }));
    prop_oneof![
        6 => tell,
        2 => (0u8..6, prop::collection::vec(some_socket(), 0..6)).prop_map(|(n, all)| Step::Record(n, all)),
        1 => some_socket().prop_map(Step::Dialled),
        2 => some_socket().prop_map(Step::Failed),
        4 => (some_socket(), 0u8..6).prop_map(|(socket, n)| Step::Reached(socket, n)),
        1 => some_socket().prop_map(Step::Forget),
    ]
}

fn apply(book: &mut Book, step: &Step, now: UnixMs) {
    let source = AddressGroup::OPERATOR;
    match step {
        Step::Tell(told) => drop(book.tell(*told, now)),
        Step::Record(node, all) => {
            let all: Vec<PeerAddress> = all.iter().copied().map(address).collect();
            book.tell_record(id(*node), &all, source, now);
        }
        Step::Dialled(socket) => book.dialled(*socket, now),
        Step::Failed(socket) => book.failed(*socket, now),
        Step::Reached(socket, node) => book.reached(address(*socket), id(*node), source, now),
        Step::Forget(socket) => book.forget(*socket),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // row: NET-37, NET-56
    #[test]
    fn whatever_happens_the_tables_agree_with_the_entries_and_every_bound_holds(
        secret in any::<[u8; 32]>(),
        steps in prop::collection::vec((step(), 0u64..FORGET_MS / 50), 1..200),
    ) {
        let mut book = Book::new(secret);
        let mut now = NOW;
        for (step, passed) in steps {
            now = now.plus_ms(passed);
            apply(&mut book, &step, now);
            check(&book);
        }
    }

    // row: NET-37
    #[test]
    fn a_choice_is_always_due_and_wanted_and_is_found_where_there_is_one(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..80),
        unwanted in 0u8..3,
    ) {
        let mut book = book();
        steps.iter().for_each(|step| apply(&mut book, step, NOW));
        let wanted = |socket: SocketAddr, _: &Entry| !matches!(socket.ip(), std::net::IpAddr::V4(ip) if ip.octets()[1] == unwanted);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let there_is_one = book.entries().any(|(socket, entry)| entry.is_due(NOW) && wanted(socket, entry));
        let chosen = book.choose(&mut rng, NOW, wanted);
        prop_assert_eq!(chosen.is_some(), there_is_one);
        if let Some(socket) = chosen {
            let entry = book.get(socket).unwrap();
            prop_assert!(entry.is_due(NOW) && wanted(socket, entry));
        }
    }
}

// row: NET-37
#[test]
fn a_source_group_that_tells_of_the_whole_internet_holds_a_sixteenth_of_the_new_table_at_most() {
    let mut book = book();
    let honest: Vec<SocketAddr> = (0..60).map(|n| socket(20 + n, n, 1, 1)).collect();
    for (n, socket) in honest.iter().enumerate() {
        book.tell(told(*socket, honest[(n + 7) % honest.len()]), NOW);
    }
    let before = book.counts().new;
    assert!(before > 50, "{before}");
    for n in 0..20_000u32 {
        let [_, b, c, d] = n.to_be_bytes();
        book.tell(told(socket(100 + (n % 50) as u8, b + c, c, d), socket(66, 6, c, d)), NOW);
    }
    check(&book);
    let most = NEW_BUCKETS_PER_SOURCE as usize * usize::from(BUCKET_ADDRESSES_MAX);
    let spam = book.entries().filter(|(_, entry)| entry.source == AddressGroup::of(socket(66, 6, 0, 0))).count();
    assert!(spam <= most, "{spam} of at most {most}");
    let kept = honest.iter().filter(|socket| book.get(**socket).is_some()).count();
    assert!(kept >= before - 2, "{kept} of {before} honest addresses are left");
    // And a draw lands on an honest one far more often than their share of the addresses.
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let drawn = (0..1_000).filter_map(|_| book.choose(&mut rng, NOW, |_, _| true));
    let hits = drawn.filter(|socket| honest.contains(socket)).count();
    assert!(hits > 500, "{hits} of 1000 draws with {spam} hostile and {kept} honest addresses");
}

// row: NET-30, NET-37
#[test]
fn a_node_that_refuses_because_it_is_full_keeps_its_place_and_its_name_however_often() {
    let mut book = book();
    let (full, heard) = (socket(20, 1, 1, 1), socket(20, 2, 1, 1));
    book.reached(address(full), id(1), AddressGroup::OPERATOR, NOW);
    book.tell(Told { node: Some(id(2)), ..told(heard, full) }, NOW);
    for n in 0..100 {
        let now = NOW.plus_ms(n * RETRY_MS_MAX);
        book.refused(full, now);
        book.refused(heard, now);
        assert!(book.choose(&mut ChaCha8Rng::seed_from_u64(1), now, |_, _| true).is_none(), "it is left alone");
    }
    let (full, heard) = (book.get(full).unwrap(), book.get(heard).unwrap());
    assert!(full.is_tried() && !full.is_stale(NOW) && !heard.is_stale(NOW));
    assert_eq!((full.node, heard.node), (Some(id(1)), Some(id(2))));
    check(&book);
}

// row: NET-37
#[test]
fn nodes_of_one_group_never_push_others_out_of_the_tried_table() {
    let mut book = book();
    let honest: Vec<SocketAddr> = (0..40).map(|n| socket(20 + n, n, 1, 1)).collect();
    for (n, socket) in honest.iter().enumerate() {
        book.reached(address(*socket), id(n as u8), AddressGroup::OPERATOR, NOW);
    }
    let before: Vec<SocketAddr> =
        honest.iter().copied().filter(|socket| book.get(*socket).is_some_and(Entry::is_tried)).collect();
    assert!(before.len() >= 35, "{}", before.len());
    for n in 0..4_000u32 {
        let [_, _, c, d] = n.to_be_bytes();
        let mut node = [0xee; 32];
        node[..4].copy_from_slice(&n.to_be_bytes());
        book.reached(address(socket(66, 6, c, d)), NodeId(node), AddressGroup::OPERATOR, NOW);
    }
    check(&book);
    assert!(before.iter().all(|socket| book.get(*socket).is_some_and(Entry::is_tried)));
    let most = TRIED_BUCKETS_PER_GROUP as usize * usize::from(BUCKET_ADDRESSES_MAX);
    assert!(book.counts().tried <= before.len() + most, "{:?}", book.counts());
}

/// Two addresses that want the same place in *tried*.
fn rivals(book: &Book) -> (SocketAddr, SocketAddr) {
    let all: Vec<SocketAddr> = (0..=255).flat_map(|c| (0..4).map(move |d| socket(30, 1, c, d))).collect();
    let slot = |socket: &SocketAddr| {
        let Slot { bucket, place } = book.tried_slot(*socket);
        (bucket, place)
    };
    let mut seen = BTreeMap::new();
    for socket in all {
        if let Some(first) = seen.insert(slot(&socket), socket) {
            return (first, socket);
        }
    }
    panic!("no two addresses share a place");
}

// row: NET-37
#[test]
fn the_holder_of_a_tried_place_gives_way_only_when_its_test_finds_it_dead() {
    let mut book = book();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (holder, newcomer) = rivals(&book);
    book.reached(address(holder), id(1), AddressGroup::OPERATOR, NOW);
    book.reached(address(newcomer), id(2), AddressGroup::OPERATOR, NOW);
    assert!(book.get(holder).unwrap().is_tried() && !book.get(newcomer).unwrap().is_tried());
    let later = NOW.plus_ms(RETRY_MS_MIN);
    assert_eq!(book.choose_feeler(&mut rng, later, |_, _| true), Some(holder));
    // It answers, and stays.
    book.reached(address(holder), id(1), AddressGroup::OPERATOR, later);
    assert!(book.get(holder).unwrap().is_tried());
    // Contested again, and dead this time.
    book.reached(address(newcomer), id(2), AddressGroup::OPERATOR, later);
    book.failed(holder, later);
    assert!(book.get(holder).is_none() && book.get(newcomer).unwrap().is_tried());
    check(&book);
}

#[test]
fn a_false_claim_to_an_address_costs_one_dial() {
    let mut book = book();
    let (here, liar) = (socket(20, 1, 1, 1), PeerId::random());
    let claim = PeerAddress { socket: here, peer: Some(liar) };
    book.tell_record(id(66), &[claim], AddressGroup::OPERATOR, NOW);
    assert_eq!((book.get(here).unwrap().peer, book.get(here).unwrap().node), (Some(liar), Some(id(66))));
    book.failed(here, NOW);
    assert_eq!((book.get(here).unwrap().peer, book.get(here).unwrap().node), (None, None));
    let honest = PeerAddress { socket: here, peer: Some(PeerId::random()) };
    book.reached(honest, id(1), AddressGroup::OPERATOR, NOW);
    // A proven name is not taken over by a claim.
    book.tell_record(id(66), &[claim], AddressGroup::OPERATOR, NOW);
    assert_eq!((book.get(here).unwrap().peer, book.get(here).unwrap().node), (honest.peer, Some(id(1))));
    check(&book);
}

#[test]
fn a_newer_record_takes_back_the_addresses_that_were_never_reached() {
    let mut book = book();
    let [old, kept, reached, fresh] = [1, 2, 3, 4].map(|d| address(socket(20, d, 1, 1)));
    book.reached(reached, id(1), AddressGroup::OPERATOR, NOW);
    book.tell_record(id(1), &[old, kept], AddressGroup::OPERATOR, NOW);
    assert_eq!(book.tell_record(id(1), &[kept, fresh], AddressGroup::OPERATOR, NOW), 1);
    assert!(book.get(old.socket).is_none());
    assert!([kept, reached, fresh].iter().all(|address| book.get(address.socket).is_some()));
    assert!(book.was_reached(id(1)) && !book.was_reached(id(2)));
}

#[test]
fn the_wait_between_dials_grows_with_failures_up_to_its_bound() {
    let mut book = book();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let here = socket(20, 1, 1, 1);
    book.reached(address(here), id(1), AddressGroup::OPERATOR, NOW);
    let mut now = NOW;
    for failures in 0..9u32 {
        let wait = (RETRY_MS_MIN * 4u64.pow(failures)).min(RETRY_MS_MAX);
        assert_eq!(book.choose(&mut rng, now.plus_ms(wait - 1), |_, _| true), None, "{failures}");
        now = now.plus_ms(wait);
        assert_eq!(book.choose(&mut rng, now, |_, _| true), Some(here), "{failures}");
        book.failed(here, now);
    }
}
