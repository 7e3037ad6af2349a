use proptest::prelude::*;
use rand::SeedableRng;
use trellis_crypto::record::sign_record;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_primitives::{B256, RoleSet};

use super::*;

const NOW: UnixMs = UnixMs(1_800_000_000_000);
const MAGIC: u32 = 0x0102_0304;

fn checker() -> Checker {
    Checker { network_magic: MAGIC, genesis_hash: B256::repeat_byte(7), chain_id: 5 }
}

fn record_with(addresses: &[&str], change: impl FnOnce(&mut NodeRecord)) -> (NodeRecord, Bytes, NodeId) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let node = HybridKey::generate(&mut rng).unwrap();
    let account = AccountKey::generate(&mut rng);
    let mut record = NodeRecord {
        ed25519: node.public().ed25519,
        mldsa65: node.public().mldsa65.clone().into(),
        chain_address: account.address(),
        network_magic: MAGIC,
        roles: RoleSet(1),
        addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
        models: vec![],
        sequence: 1,
        expires_ms: NOW.0 + 1_000,
    };
    change(&mut record);
    let signed = sign_record(&record, &node, &account, 5).unwrap().to_rlp();
    (record, signed, node.node_id())
}

// row: NET-34, NET-60
#[test]
fn the_frames_are_pinned_byte_for_byte() {
    assert_eq!(hex::encode(GetAddresses { records_max: 32 }.encode_to_vec()), "0820");
    let answer = Addresses { records: vec![vec![1, 2, 3], vec![]], retry_after_ms: 30_000 };
    assert_eq!(hex::encode(answer.encode_to_vec()), "0a030102030a0010b0ea01");
    assert_eq!(Addresses::decode(answer.encode_to_vec().as_slice()).unwrap(), answer);
    assert_eq!(PEX.0, "/trellis/pex/1");
}

// row: NET-34
#[test]
fn a_record_enters_only_with_good_signatures_of_this_network_and_within_its_time() {
    let here = "/ip4/11.0.0.1/udp/9700/quic-v1";
    let (record, signed, id) = record_with(&[here], |_| {});
    assert_eq!(verify(&signed, &checker(), NOW).unwrap(), Verified { id, record });
    let expired = verify(&signed, &checker(), NOW.plus_ms(1_001)).unwrap_err();
    assert!(!expired.is_violation(), "{expired}");
    let (_, other, _) = record_with(&[here], |record| record.network_magic = 9);
    assert!(matches!(verify(&other, &checker(), NOW), Err(PexError::OtherNetwork { actual: 9, .. })));
    let (_, eternal, _) = record_with(&[here], |record| record.expires_ms = u64::MAX);
    assert!(matches!(verify(&eternal, &checker(), NOW), Err(PexError::TooLongLived { .. })));
    let mut forged = signed.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert!(verify(&forged, &checker(), NOW).unwrap_err().is_violation());
}

// row: NET-34
#[test]
fn private_addresses_reach_no_public_peer_in_either_direction() {
    use AddressClass::{Loopback, Private, Public};
    let (public, private) = ("/ip4/11.0.0.1/udp/9700/quic-v1", "/ip4/192.168.0.5/udp/9700/quic-v1");
    let (record, signed, id) = record_with(&[public, private], |_| {});
    let mut records = Records::default();
    records.keep(id, &record, signed.clone());
    assert!(records.tellable(Public, NOW).is_empty(), "a record is signed whole, so it stays whole or at home");
    assert_eq!(records.tellable(Private, NOW), [(id, signed.clone())]);
    assert_eq!(records.tellable(Loopback, NOW).len(), 1);
    assert!(records.tellable(Private, NOW.plus_ms(1_001)).is_empty());
    // What a public peer tells of private networks is not believed.
    assert_eq!(usable_addresses(&record, Public).len(), 1);
    assert_eq!(usable_addresses(&record, Private).len(), 2);
    let (odd, signed, id) = record_with(&["/dns4/a.example/udp/1/quic-v1", public], |_| {});
    records.keep(id, &odd, signed);
    assert!(records.tellable(Loopback, NOW).is_empty(), "an address that cannot be classed goes to nobody");
    records.expire(NOW.plus_ms(1_001));
    assert!(records.kept.is_empty());
}

#[test]
fn an_address_under_another_nodes_name_is_not_used() {
    let foreign = format!("/ip4/11.0.0.1/udp/9700/quic-v1/p2p/{}", libp2p::PeerId::random());
    let (record, _, _) = record_with(&[&foreign, "/ip4/11.0.0.2/udp/9700/quic-v1"], |_| {});
    let usable = usable_addresses(&record, AddressClass::Public);
    assert_eq!(usable.len(), 1);
    assert_eq!(usable[0].socket.to_string(), "11.0.0.2:9700");
    assert!(usable[0].peer.is_some());
}

// row: NET-34, NET-51
#[test]
fn a_peer_that_asks_too_often_is_told_how_long_to_wait() {
    let mut limiter = AnswerLimiter::default();
    let peer = NodeId([1; 32]);
    for _ in 0..ANSWERS_BURST {
        assert_eq!(limiter.allow(peer, NOW), Ok(()));
    }
    assert_eq!(limiter.allow(peer, NOW), Err(ANSWER_INTERVAL_MS));
    assert_eq!(limiter.allow(NodeId([2; 32]), NOW), Ok(()));
    assert_eq!(limiter.allow(peer, NOW.plus_ms(ANSWER_INTERVAL_MS - 1)), Err(1));
    assert_eq!(limiter.allow(peer, NOW.plus_ms(ANSWER_INTERVAL_MS)), Ok(()));
}

// row: NET-56
#[test]
fn the_limiter_and_the_records_are_bounded() {
    let mut limiter = AnswerLimiter::default();
    let id = |n: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        NodeId(id)
    };
    for n in 0..3 * PEERS_REMEMBERED_MAX {
        let _ = limiter.allow(id(n), NOW);
    }
    assert_eq!(limiter.full_at.len(), PEERS_REMEMBERED_MAX);
    assert_eq!(limiter.allow(id(9_999), NOW.plus_ms(ANSWER_INTERVAL_MS)), Ok(()));
    let (record, signed, _) = record_with(&[], |_| {});
    let mut records = Records::default();
    (0..2 * RECORDS_KEPT_MAX).for_each(|n| records.keep(id(n), &record, signed.clone()));
    assert_eq!(records.kept.len(), RECORDS_KEPT_MAX);
}

proptest! {
    // row: NET-34, NET-56
    #[test]
    fn an_answer_keeps_its_bounds_whatever_is_known(
        sizes in prop::collection::vec(0usize..20_000, 0..60),
        wanted in 0u32..100,
    ) {
        let answer = answer(sizes.iter().map(|size| vec![7; *size].into()), wanted);
        prop_assert!(answer.records.len() <= RECORDS_PER_ANSWER_MAX.min(wanted as usize));
        prop_assert!(answer.encoded_len() <= ADDRESSES_BYTES_MAX);
        prop_assert!(check_count(&answer).is_ok());
    }

    // row: NET-34, NET-56
    #[test]
    fn no_bytes_of_a_peer_make_the_readers_panic_or_pass_as_a_record(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        flip in any::<prop::sample::Index>(),
    ) {
        let _ = GetAddresses::decode(bytes.as_slice());
        if let Ok(answer) = Addresses::decode(bytes.as_slice()) {
            for record in &answer.records {
                prop_assert!(verify(record, &checker(), NOW).is_err());
            }
        }
        prop_assert!(verify(&bytes, &checker(), NOW).is_err());
        let (_, signed, _) = record_with(&["/ip4/11.0.0.1/udp/9700/quic-v1"], |_| {});
        let mut damaged = signed.to_vec();
        let at = flip.index(damaged.len());
        damaged[at] ^= 1;
        prop_assert!(verify(&damaged, &checker(), NOW).is_err());
    }
}

// row: NET-34, NET-47
#[test]
fn hidden_names_are_told_to_everybody_and_taken_by_those_who_dial_there() {
    let onion = "/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:80";
    let (record, signed, id) = record_with(&[onion, "/ip4/11.0.0.1/tcp/9700"], |_| {});
    let peer = peer_of(&record).unwrap();
    let ways = |networks| other_ways(&record, AddressClass::Public, networks);
    let (hidden, clear) = (format!("{onion}/p2p/{peer}"), format!("/ip4/11.0.0.1/tcp/9700/p2p/{peer}"));
    let shown = |networks| ways(networks).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(Networks::Clear), std::slice::from_ref(&clear));
    assert_eq!(shown(Networks::All), [hidden.clone(), clear]);
    assert_eq!(shown(Networks::Hidden), [hidden]);
    let mut records = Records::default();
    records.keep(id, &record, signed.clone());
    assert_eq!(records.tellable(AddressClass::Public, NOW).len(), 1);
    let (hidden_alone, signed, id) = record_with(&[onion], |_| {});
    let mut records = Records::default();
    records.keep(id, &hidden_alone, signed);
    assert_eq!(records.tellable(AddressClass::Public, NOW).len(), 1);
    let strange = [format!("{onion}/p2p/{}", PeerId::random()), format!("{onion}/ws")];
    let (strange, ..) = record_with(&[&strange[0], &strange[1]], |_| {});
    assert_eq!(other_ways(&strange, AddressClass::Public, Networks::All), Vec::<Multiaddr>::new());
}
