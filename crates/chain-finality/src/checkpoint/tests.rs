//! Checkpoints: bytes that are pinned, sums that hold, and everything that does not.

use super::*;
use crate::validator_set::{Validator, ValidatorSet};
use proptest::prelude::*;
use std::sync::Arc;
use trellis_crypto::{BLS_CHECKPOINT_DST, CheckpointKey, VoteKey};
use trellis_primitives::{Address, Bytes, CheckpointKeys};

const GENESIS: B256 = B256::repeat_byte(0x47);

fn account(n: u8) -> Address {
    Address::repeat_byte(n)
}

fn key(n: u8) -> CheckpointKey {
    CheckpointKey::from_seed(&[n; 32]).unwrap()
}

fn keys_of(n: u8) -> CheckpointKeys {
    let key = key(n);
    CheckpointKeys { bls: key.bls_public().to_vec().into(), mldsa44: key.mldsa44_public().into() }
}

/// Members 1, 2, 3 … with these powers; those listed have no keys.
fn committee(powers: &[u64], keyless: &[u8]) -> Arc<CheckpointCommittee> {
    let one = |(n, power): (u8, &u64)| Validator::new(VoteKey::from_seed(&[n; 32]).public(), *power, account(n));
    let set = ValidatorSet::new((1..).zip(powers).map(one).collect()).unwrap();
    let of = |member: &Validator| {
        let n = member.account.0[0];
        if keyless.contains(&n) { CheckpointKeys::default() } else { keys_of(n) }
    };
    let keys: Vec<_> = set.validators().iter().map(of).collect();
    Arc::new(CheckpointCommittee::new(&set, &keys))
}

fn message() -> CheckpointMessage {
    CheckpointMessage {
        genesis_hash: GENESIS,
        height: 64,
        block_hash: B256::repeat_byte(7),
        next_committee: B256::repeat_byte(9),
    }
}

fn tally(committee: &Arc<CheckpointCommittee>, signers: &[u8]) -> CheckpointTally {
    let mut tally = CheckpointTally::new(message(), Arc::clone(committee));
    for n in signers {
        let signature = CheckpointSignature::sign(&key(*n), &message(), account(*n)).unwrap();
        assert!(tally.add(&signature).unwrap());
    }
    tally
}

// row: CHN-15
#[test]
fn more_than_two_thirds_of_the_weight_make_both_certificates_and_anyone_with_the_keys_checks_them() {
    let committee = committee(&[40, 30, 20, 10], &[]);
    assert!(tally(&committee, &[1, 3]).assemble().is_none(), "60 of 100");
    let full = tally(&committee, &[1, 2]);
    assert!(!full.is_full());
    let (short, long) = full.assemble().unwrap();
    short.verify(&committee, GENESIS).unwrap();
    long.verify(&committee, GENESIS).unwrap();
    assert_eq!(long.signatures.len(), 2);
    let bytes = alloy_rlp::encode(&short);
    assert_eq!(CheckpointCertificate::decode_exact(&bytes).unwrap(), short);
    assert_eq!(PostQuantumCertificate::decode_exact(&alloy_rlp::encode(&long)).unwrap(), long);
    assert_eq!(bytes.len(), 120);
}

// row: CHN-15
#[test]
fn a_certificate_of_a_hundred_members_has_less_than_two_hundred_bytes_and_a_thousands_less_than_three_hundred() {
    for (members, at_most) in [(100usize, 150), (1_000, 270)] {
        let certificate = CheckpointCertificate {
            version: CHECKPOINT_VERSION,
            height: u64::from(u32::MAX),
            block_hash: B256::repeat_byte(1),
            next_committee: B256::repeat_byte(2),
            signers: certificate::bits(0..members, members),
            signature: vec![3; 48].into(),
        };
        assert!(alloy_rlp::encode(certificate).len() <= at_most, "{members} members");
    }
    let largest = certificate::bits(0..4_096, 4_096).len() + 200;
    assert_eq!(CHECKPOINT_CERTIFICATE_BYTES_MAX, largest);
}

// row: CHN-15
#[test]
fn what_is_signed_and_how_it_is_hashed_to_the_curve_is_pinned() {
    assert_eq!(BLS_CHECKPOINT_DST, b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_");
    let hash = message().signing_hash();
    let committee = committee(&[40, 30, 20, 10], &[4]);
    let bls = key(1).sign_bls(hash.as_slice());
    let shown = format!("{hash} {} {}", committee.hash(), Bytes::copy_from_slice(&bls));
    assert_eq!(shown, PINNED);
}

const PINNED: &str = "0xfc71a00e2ec0a27d703524921133062eb86fdaec89505a07d229f28c4763e700 \
    0x44eaececfb712a73703e61fa49a5e3682bc4c504bf897e37caa07c42c8711cfe \
    0x886b6d117ba334bda96f361a07bf336e70959641f8a793fe9d27f7459926e0f93d0b0eeb5e348b56ef6d11af54ac7cd8";

// row: CHN-15
#[test]
fn each_fault_of_a_certificate_has_its_name() {
    let committee = committee(&[40, 30, 20, 10], &[4]);
    let (short, long) = tally(&committee, &[1, 2]).assemble().unwrap();
    type Fault = fn(&mut CheckpointCertificate);
    let faults: [(Fault, &str); 8] = [
        (|c| c.version = 2, "form 2"),
        (|c| c.height = 65, "BLS12-381 signature of all"),
        (|c| c.block_hash.0[0] ^= 1, "BLS12-381 signature of all"),
        (|c| c.next_committee.0[0] ^= 1, "BLS12-381 signature of all"),
        (|c| c.signers = vec![0b0001_0011].into(), "bits beyond"),
        (|c| c.signers = vec![0b0011, 0].into(), "2 bytes"),
        (|c| c.signers = vec![0b1011].into(), "place Some(3) has no checkpoint keys"),
        (|c| c.signers = vec![0b0001].into(), "signed by power 40, needs 67 of 100"),
    ];
    for (fault, expected) in faults {
        let mut wrong = short.clone();
        fault(&mut wrong);
        let error = wrong.verify(&committee, GENESIS).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(short.verify(&committee, B256::ZERO).is_err(), "another chain");
    let mut wrong = long.clone();
    wrong.signatures.pop();
    assert!(wrong.verify(&committee, GENESIS).unwrap_err().to_string().contains("1 signatures of 2"));
    let mut wrong = long.clone();
    wrong.signatures.swap(0, 1);
    assert!(wrong.verify(&committee, GENESIS).unwrap_err().to_string().contains("ML-DSA-44 signature of"));
    assert!(long.verify(&committee, B256::ZERO).is_err(), "another chain");
}

// row: CHN-15
#[test]
fn a_liar_is_not_counted_and_does_not_keep_the_honest_from_being() {
    let committee = committee(&[40, 30, 20, 10], &[4]);
    let mut tally = tally(&committee, &[1]);
    let honest = CheckpointSignature::sign(&key(2), &message(), account(2)).unwrap();
    let other = CheckpointMessage { block_hash: B256::repeat_byte(8), ..message() };
    let forked = CheckpointSignature::sign(&key(2), &other, account(2)).unwrap();
    let lies = [
        forked.clone(),
        CheckpointSignature { bls: forked.bls, ..honest.clone() },
        CheckpointSignature { mldsa44: forked.mldsa44, ..honest.clone() },
        CheckpointSignature { mldsa44: Bytes::new(), ..honest.clone() },
        CheckpointSignature { account: account(3), ..honest.clone() },
        CheckpointSignature { account: account(4), ..honest.clone() },
        CheckpointSignature { account: account(99), ..honest.clone() },
    ];
    for lie in lies {
        tally.add(&lie).unwrap_err();
        assert_eq!(tally.power(), 40);
    }
    assert!(tally.add(&honest).unwrap());
    assert!(!tally.add(&honest).unwrap(), "once is enough");
    assert_eq!(tally.power(), 70);
    assert!(tally.assemble().is_some());
}

// row: CHN-15
#[test]
fn who_has_no_keys_counts_against_the_two_thirds() {
    let other = committee;
    let committee = committee(&[40, 30, 20, 10], &[1]);
    assert!(tally(&committee, &[2, 3, 4]).assemble().is_none());
    assert!(tally(&committee, &[2, 3, 4]).is_full());
    assert_ne!(committee.hash(), other(&[40, 30, 20, 10], &[]).hash());
}

// row: CHN-15
#[test]
fn checkpoints_are_every_interval_and_where_a_committee_is_named() {
    let rules = CheckpointRules { interval_blocks: 64, epoch_blocks: Some(60) };
    let all: Vec<u64> = (0..=200).filter(|height| rules.has(*height)).collect();
    assert_eq!(all, [61, 64, 121, 128, 181, 192]);
    for height in 0..=200 {
        let open: Vec<u64> = all.iter().copied().filter(|found| *found < height && height <= found + 8).collect();
        assert_eq!(rules.open_in(height), open, "in {height}");
    }
    let for_ever = CheckpointRules { interval_blocks: 8, epoch_blocks: None };
    assert_eq!((0..=20).filter(|height| for_ever.has(*height)).collect::<Vec<_>>(), [8, 16]);
    let none = CheckpointRules { interval_blocks: 0, epoch_blocks: Some(60) };
    assert!((0..=200).all(|height| !none.has(height)));
}

/// A certificate of the checkpoint at `height` that names `next`, signed by members of `signers`.
fn certified(
    height: u64,
    next: &CheckpointCommittee,
    signers: &Arc<CheckpointCommittee>,
    who: &[u8],
) -> CheckpointCertificate {
    let message = CheckpointMessage { height, next_committee: next.hash(), ..message() };
    let mut tally = CheckpointTally::new(message, Arc::clone(signers));
    for n in who {
        tally.add(&CheckpointSignature::sign(&key(*n), &message, account(*n)).unwrap()).unwrap();
    }
    tally.assemble().unwrap().0
}

// row: CHN-15
#[test]
fn who_has_the_first_committees_keys_follows_the_committees_by_checkpoints_alone() {
    let rules = CheckpointRules { interval_blocks: 64, epoch_blocks: Some(60) };
    let (first, second) = (committee(&[40, 30, 20, 10], &[]), committee(&[10, 10, 40, 40], &[]));
    let third = committee(&[1, 1, 1, 97], &[]);
    let mut follower = CheckpointFollower::new(GENESIS, rules, 1, (*first).clone());
    let last = certified(128, &third, &third, &[4]);
    assert_eq!(follower.needed(128), Some(61));
    assert!(matches!(follower.check(&last), Err(FollowError::UnknownCommittee { expected: 2, known: 0, .. })));
    let (over, again) = (certified(61, &second, &first, &[1, 2]), certified(121, &third, &second, &[3, 4]));
    assert!(matches!(follower.learn(&again, (*third).clone()), Err(FollowError::OtherCheckpoint { expected: 61, .. })));
    assert!(matches!(follower.learn(&over, (*third).clone()), Err(FollowError::OtherCommittee { .. })));
    let forged = certified(61, &second, &second, &[3, 4]);
    assert!(matches!(follower.learn(&forged, (*second).clone()), Err(FollowError::Checkpoint(_))));
    follower.learn(&over, CheckpointCommittee::decode_exact(&second.to_rlp()).unwrap()).unwrap();
    assert_eq!(follower.needed(128), Some(121));
    follower.learn(&again, (*third).clone()).unwrap();
    assert_eq!(follower.needed(128), None);
    follower.check(&last).unwrap();
    let mut late = CheckpointFollower::new(GENESIS, rules, 128, (*third).clone());
    late.check(&last).unwrap();
    assert!(late.learn(&over, (*second).clone()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    // row: CHN-15
    #[test]
    fn a_certificate_holds_exactly_when_its_signers_weigh_more_than_two_thirds(
        powers in proptest::collection::vec(1u64..100, 1..8),
        chosen in any::<u8>(),
        order in any::<u64>(),
    ) {
        let committee = committee(&powers, &[]);
        let mut signers: Vec<u8> = (1..).zip(&powers).map(|(n, _)| n).filter(|n| chosen & (1 << (n - 1)) != 0).collect();
        let turn = usize::try_from(order % 8).unwrap() % signers.len().max(1);
        signers.rotate_left(turn);
        let power: u64 = signers.iter().map(|n| powers[usize::from(n - 1)]).sum();
        let assembled = tally(&committee, &signers).assemble();
        prop_assert_eq!(assembled.is_some(), 3 * power > 2 * powers.iter().sum::<u64>());
        if let Some((short, long)) = assembled {
            prop_assert!(short.verify(&committee, GENESIS).is_ok());
            prop_assert!(long.verify(&committee, GENESIS).is_ok());
            signers.sort_unstable();
            // ML-DSA signatures have randomness in them, BLS signatures have none.
            let (again, _) = tally(&committee, &signers).assemble().unwrap();
            prop_assert_eq!(short, again, "the order in which they came does not show");
        }
    }

    #[test]
    fn a_bent_certificate_proves_nothing(at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let committee = committee(&[40, 30, 20, 10], &[]);
        let (short, _) = tally(&committee, &[1, 2]).assemble().unwrap();
        let mut bytes = alloy_rlp::encode(&short);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let held = CheckpointCertificate::decode_exact(&bytes).and_then(|bent| bent.verify(&committee, GENESIS));
        prop_assert!(held.is_err());
    }

    #[test]
    fn bytes_of_strangers_make_no_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let committee = committee(&[1], &[]);
        if let Ok(certificate) = CheckpointCertificate::decode_exact(&bytes) {
            prop_assert!(certificate.verify(&committee, GENESIS).is_err());
        }
        let _ = PostQuantumCertificate::decode_exact(&bytes);
    }
}
