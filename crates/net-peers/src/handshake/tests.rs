use proptest::prelude::*;
use rand::SeedableRng;
use trellis_crypto::record::sign_record;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_primitives::{B256, NodeId, NodeRecord, RoleSet, UnixMs};

use super::*;
use crate::config::{CLOCK_SKEW_MS_MAX, OWN_RECORD_MS_MAX};
use crate::error::RefusedBy;

const NOW: UnixMs = UnixMs(1_800_000_000_000);
const MAGIC: u32 = 0x0102_0304;

fn checker() -> Checker {
    Checker { network_magic: MAGIC, genesis_hash: B256::repeat_byte(7), chain_id: 5 }
}

fn hello_of(seed: u64) -> (Hello, NodeId) {
    hello_until(seed, NOW.plus_ms(1_000))
}

fn hello_until(seed: u64, expires: UnixMs) -> (Hello, NodeId) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let node = HybridKey::generate(&mut rng).unwrap();
    let account = AccountKey::generate(&mut rng);
    let record = NodeRecord {
        ed25519: node.public().ed25519,
        mldsa65: node.public().mldsa65.clone().into(),
        chain_address: account.address(),
        network_magic: MAGIC,
        roles: RoleSet(8),
        addresses: vec!["/ip4/127.0.0.1/udp/9700/quic-v1".to_owned()],
        models: vec![],
        sequence: 1,
        expires_ms: expires.0,
    };
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        network_magic: MAGIC,
        genesis_hash: vec![7; 32],
        record: sign_record(&record, &node, &account, 5).unwrap().to_rlp().to_vec(),
        roles: 8,
        user_agent: "trellis/test".to_owned(),
        time_ms: NOW.0,
        nonce: vec![seed as u8; 32],
        best_height: 42,
        instance: 1,
        region: String::new(),
        turned: false,
    };
    (hello, node.node_id())
}

fn check(hello: &Hello, id: NodeId, nonces: &mut NonceCache) -> Result<Accepted, Refusal> {
    checker().check(hello, Circumstances { session_id: id, now: NOW, banned: false, full: false, nonces })
}

fn refused(change: impl FnOnce(&mut Hello)) -> RefusalReason {
    let (mut hello, id) = hello_of(1);
    change(&mut hello);
    check(&hello, id, &mut NonceCache::default()).unwrap_err().reason
}

// row: NET-20
#[test]
fn a_good_hello_is_accepted_with_what_it_tells() {
    let (hello, id) = hello_of(1);
    let accepted = check(&hello, id, &mut NonceCache::default()).unwrap();
    assert_eq!((accepted.id, accepted.protocol_version, accepted.best_height), (id, 1, 42));
    assert_eq!(accepted.roles, RoleSet(8));
}

// row: NET-21
#[test]
fn every_wrong_field_is_refused_by_its_own_name() {
    assert_eq!(refused(|hello| hello.network_magic = 9), RefusalReason::WrongNetwork);
    assert_eq!(refused(|hello| hello.genesis_hash = vec![8; 32]), RefusalReason::WrongGenesis);
    assert_eq!(refused(|hello| (hello.version_min, hello.version_max) = (2, 9)), RefusalReason::Version);
    assert_eq!(refused(|hello| hello.version_max = 0), RefusalReason::Version);
    assert_eq!(refused(|hello| hello.time_ms += CLOCK_SKEW_MS_MAX + 1), RefusalReason::ClockSkew);
    assert_eq!(refused(|hello| hello.time_ms -= CLOCK_SKEW_MS_MAX + 1), RefusalReason::ClockSkew);
    assert_eq!(refused(|hello| hello.time_ms = u64::MAX), RefusalReason::ClockSkew);
    assert_eq!(refused(|hello| hello.genesis_hash = vec![7; 31]), RefusalReason::Malformed);
    assert_eq!(refused(|hello| hello.nonce = vec![]), RefusalReason::Malformed);
    assert_eq!(refused(|hello| hello.user_agent = "x".repeat(129)), RefusalReason::Malformed);
    assert_eq!(refused(|hello| hello.region = "x".repeat(33)), RefusalReason::Malformed);
    assert_eq!(refused(|hello| hello.user_agent = "trellis\u{1b}[2J".to_owned()), RefusalReason::Malformed);
    assert_eq!(refused(|hello| hello.region = "a\nb".to_owned()), RefusalReason::Malformed);
    assert_eq!(refused(|hello| hello.record.truncate(50)), RefusalReason::Malformed);
    assert_eq!(refused(|hello| *hello.record.last_mut().unwrap() ^= 1), RefusalReason::BadSignature);
    assert_eq!(refused(|hello| hello.roles = 1), RefusalReason::BadSignature);
    assert_eq!(refused(|hello| hello.record = hello_of(2).0.record), RefusalReason::BadSignature);
}

// row: NET-20, NET-34
#[test]
fn a_record_that_claims_to_outlive_every_other_is_refused_so_that_nobody_passes_it_on() {
    let (long, id) = hello_until(1, NOW.plus_ms(OWN_RECORD_MS_MAX));
    check(&long, id, &mut NonceCache::default()).unwrap();
    for expires in [NOW.plus_ms(OWN_RECORD_MS_MAX + 1), UnixMs(u64::MAX)] {
        let (eternal, id) = hello_until(1, expires);
        assert_eq!(check(&eternal, id, &mut NonceCache::default()).unwrap_err().reason, RefusalReason::Malformed);
    }
}

// row: NET-21
#[test]
fn a_nonce_works_once_and_a_skew_at_the_bound_passes() {
    let (mut hello, id) = hello_of(1);
    hello.time_ms += CLOCK_SKEW_MS_MAX;
    let mut nonces = NonceCache::default();
    check(&hello, id, &mut nonces).unwrap();
    assert_eq!(check(&hello, id, &mut nonces).unwrap_err().reason, RefusalReason::Replay);
}

// row: NET-21
#[test]
fn the_banned_and_those_without_room_are_refused_by_name() {
    let (hello, id) = hello_of(1);
    for (banned, full, reason) in [(true, true, RefusalReason::Banned), (false, true, RefusalReason::Full)] {
        let nonces = &mut NonceCache::default();
        let around = Circumstances { session_id: id, now: NOW, banned, full, nonces };
        assert_eq!(checker().check(&hello, around).unwrap_err().reason, reason);
    }
}

// row: NET-56
#[test]
fn nonces_are_forgotten_after_their_time_and_beyond_their_number() {
    let mut nonces = NonceCache::default();
    let nonce = |n: u32| {
        let mut nonce = [0u8; NONCE_BYTES];
        nonce[..4].copy_from_slice(&n.to_be_bytes());
        nonce
    };
    assert!(nonces.insert(nonce(1), NOW));
    assert!(!nonces.insert(nonce(1), NOW.plus_ms(60_000)));
    assert!(nonces.insert(nonce(1), NOW.plus_ms(60_001)));
    for n in 0..70_000 {
        nonces.insert(nonce(n + 10), NOW.plus_ms(60_002));
    }
    assert!(nonces.insert(nonce(1), NOW.plus_ms(60_003)), "the oldest go first");
}

#[test]
fn the_wire_form_of_every_message_is_pinned() {
    let hello = Hello {
        version_min: 1,
        version_max: 2,
        network_magic: MAGIC,
        genesis_hash: vec![7; 4],
        record: vec![9; 3],
        roles: 8,
        user_agent: "t".to_owned(),
        time_ms: 1_000,
        nonce: vec![5; 2],
        best_height: 300,
        instance: 0x0102,
        region: "eu".to_owned(),
        turned: true,
    };
    let bytes = "080110021d040302012204070707072a0309090930083a017440e8074a02050550ac02590201000000000000620265756801";
    assert_eq!(hex::encode(hello.encode_to_vec()), bytes);
    let refusal = WireRefusal { code: 4, detail: "x".to_owned() };
    let answer = Answer { hello: None, refusal: Some(refusal.clone()) };
    assert_eq!(hex::encode(answer.encode_to_vec()), "12050804120178");
    assert_eq!(hex::encode(Verdict { refusal: Some(refusal) }.encode_to_vec()), "0a050804120178");
    assert_eq!(hex::encode(Verdict { refusal: None }.encode_to_vec()), "");
    assert_eq!(hex::encode(Goodbye { reason: 5 }.encode_to_vec()), "0805");
}

type Outcome = Result<Accepted, HandshakeFailure>;

async fn exchange(dialer: Hello, listener: Hello, ids: (NodeId, NodeId)) -> (Outcome, Outcome) {
    let (mut near, mut far) = tokio::io::duplex(65_536);
    let dialing = async move {
        let outcome = as_dialer(&mut near, dialer, |hello| check(hello, ids.1, &mut NonceCache::default())).await;
        drop(near);
        outcome
    };
    let listening = async move {
        let outcome = as_listener(&mut far, listener, |hello| check(hello, ids.0, &mut NonceCache::default())).await;
        if outcome.is_ok() {
            confirm(&mut far).await.unwrap();
        }
        drop(far);
        outcome
    };
    tokio::join!(dialing, listening)
}

fn named(outcome: &Outcome) -> (RefusedBy, RefusalReason) {
    match outcome {
        Err(HandshakeFailure::Refused { by, refusal }) => (*by, refusal.reason),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

// row: NET-20, NET-21
#[tokio::test]
async fn both_sides_learn_the_same_outcome_whoever_refuses() {
    let ((a, a_id), (b, b_id)) = (hello_of(1), hello_of(2));
    let (at_dialer, at_listener) = exchange(a.clone(), b.clone(), (a_id, b_id)).await;
    assert_eq!((at_dialer.unwrap().id, at_listener.unwrap().id), (b_id, a_id));

    let mut bad = a.clone();
    bad.genesis_hash = vec![1; 32];
    let (at_dialer, at_listener) = exchange(bad, b.clone(), (a_id, b_id)).await;
    assert_eq!(named(&at_dialer), (RefusedBy::Them, RefusalReason::WrongGenesis));
    assert_eq!(named(&at_listener), (RefusedBy::Us, RefusalReason::WrongGenesis));

    let mut bad = b;
    bad.version_min = 7;
    bad.version_max = 7;
    let (at_dialer, at_listener) = exchange(a, bad, (a_id, b_id)).await;
    assert_eq!(named(&at_dialer), (RefusedBy::Us, RefusalReason::Version));
    assert_eq!(named(&at_listener), (RefusedBy::Them, RefusalReason::Version));
}

// row: NET-21
#[tokio::test]
async fn a_replayed_nonce_is_refused_by_name_on_both_sides() {
    let ((a, a_id), (b, _)) = (hello_of(1), hello_of(2));
    let mut nonces = NonceCache::default();
    check(&a, a_id, &mut nonces).unwrap();
    let (mut near, mut far) = tokio::io::duplex(65_536);
    let listening = tokio::spawn(async move {
        let outcome = as_listener(&mut far, b, |hello| check(hello, a_id, &mut nonces)).await;
        drop(far);
        outcome
    });
    let at_dialer = as_dialer(&mut near, a, |_| panic!("refused before")).await;
    drop(near);
    assert_eq!(named(&at_dialer), (RefusedBy::Them, RefusalReason::Replay));
    assert_eq!(named(&listening.await.unwrap()), (RefusedBy::Us, RefusalReason::Replay));
}

// row: NET-21
#[tokio::test]
async fn a_first_message_that_is_no_hello_is_refused_as_malformed() {
    let (mut near, mut far) = tokio::io::duplex(65_536);
    let (hello, _) = hello_of(1);
    let listening = tokio::spawn(async move { as_listener(&mut far, hello, |_| panic!("nothing to check")).await });
    crate::frame::write_frame(&mut near, &[0xff; 40]).await.unwrap();
    let answer: Answer = crate::frame::read_message(&mut near, 1_000).await.unwrap();
    assert_eq!(answer.refusal.unwrap().code, RefusalReason::Malformed.code());
    drop(near);
    assert_eq!(named(&listening.await.unwrap()), (RefusedBy::Us, RefusalReason::Malformed));
}

proptest! {
    // row: NET-56
    #[test]
    fn garbage_and_bent_hellos_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..6_000, bit in 0u8..8) {
        let _ = Answer::decode(bytes.as_slice());
        let _ = Verdict::decode(bytes.as_slice());
        let _ = Goodbye::decode(bytes.as_slice());
        let _ = Hello::decode(bytes.as_slice());
        let (hello, id) = hello_of(1);
        let mut wire = hello.encode_to_vec();
        let at = at % wire.len();
        wire[at] ^= 1 << bit;
        if let Ok(bent) = Hello::decode(wire.as_slice()) {
            let accepted = check(&bent, id, &mut NonceCache::default());
            // What is not signed may differ within its bounds; everything that is signed may not.
            if let Ok(accepted) = accepted {
                prop_assert_eq!(&bent.record, &hello.record);
                prop_assert_eq!(accepted.id, id);
            }
        }
    }
}
