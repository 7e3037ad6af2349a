//! Tests of the whole crate: certificates, proofs, evidence, committees.

mod post_quantum;

use crate::*;
use alloy_rlp::Decodable;
use proptest::prelude::*;
use trellis_crypto::VoteKey;
use trellis_primitives::{Address, B256, Bytes, CommitCertificate, CommitSignature, Header};

const GENESIS: B256 = B256::repeat_byte(0x47);

fn key(n: u8) -> VoteKey {
    VoteKey::from_seed(&[n; 32])
}

fn committee(powers: &[u64]) -> ValidatorSet {
    let members = powers
        .iter()
        .enumerate()
        .map(|(n, power)| Validator::new(key(n as u8 + 1).public(), *power, Address::with_last_byte(n as u8)));
    ValidatorSet::new(members.collect()).unwrap()
}

fn certificate(height: u64, round: u32, block_hash: B256, signers: &[u8]) -> CommitCertificate {
    let place = VotePlace { height, round, kind: VoteKind::Precommit };
    let message = place.signing_hash(&GENESIS, Some(&block_hash));
    let mut signatures: Vec<CommitSignature> = signers
        .iter()
        .map(|n| CommitSignature {
            validator: key(*n).address(),
            signature: Bytes::copy_from_slice(&key(*n).sign(message.as_slice()).unwrap()),
        })
        .collect();
    signatures.sort_by_key(|s| s.validator);
    CommitCertificate { height, round, block_hash, signatures }
}

// row: CHN-10, CHN-11
#[test]
fn more_than_two_thirds_of_the_weight_decide_not_of_the_heads() {
    let set = committee(&[1, 1, 1, 7]);
    assert_eq!(set.quorum_power(), 7);
    let hash = B256::repeat_byte(1);
    verify_certificate(&certificate(5, 0, hash, &[4]), &set, &GENESIS).unwrap();
    let error = verify_certificate(&certificate(5, 0, hash, &[1, 2, 3]), &set, &GENESIS).unwrap_err();
    assert_eq!(error, CertificateError::NotEnoughPower { height: 5, expected: 7, actual: 3, total: 10 });
    let exactly_two_thirds = committee(&[1, 1, 1]);
    assert!(verify_certificate(&certificate(5, 0, hash, &[1, 2]), &exactly_two_thirds, &GENESIS).is_err());
    assert!(verify_certificate(&certificate(5, 0, hash, &[1, 2, 3]), &exactly_two_thirds, &GENESIS).is_ok());
}

#[test]
fn each_fault_of_a_certificate_has_its_name() {
    let set = committee(&[1, 1, 1, 1]);
    let good = certificate(5, 0, B256::repeat_byte(1), &[1, 2, 3]);
    verify_certificate(&good, &set, &GENESIS).unwrap();

    let stranger = certificate(5, 0, B256::repeat_byte(1), &[1, 2, 3, 9]);
    let validator = key(9).address();
    assert_eq!(
        verify_certificate(&stranger, &set, &GENESIS).unwrap_err(),
        CertificateError::UnknownValidator { height: 5, validator }
    );

    let mut twice = good.clone();
    twice.signatures.insert(1, twice.signatures[0].clone());
    let validator = twice.signatures[0].validator;
    assert_eq!(
        verify_certificate(&twice, &set, &GENESIS).unwrap_err(),
        CertificateError::DuplicateValidator { height: 5, validator }
    );

    let mut unsorted = good.clone();
    unsorted.signatures.swap(0, 1);
    let validator = unsorted.signatures[1].validator;
    assert_eq!(
        verify_certificate(&unsorted, &set, &GENESIS).unwrap_err(),
        CertificateError::NotSorted { height: 5, validator }
    );

    let mut forged = good.clone();
    forged.signatures[2].signature = vec![0; 64].into();
    let validator = forged.signatures[2].validator;
    assert_eq!(
        verify_certificate(&forged, &set, &GENESIS).unwrap_err(),
        CertificateError::BadSignature { height: 5, validator }
    );
}

#[test]
fn a_certificate_is_good_for_one_block_round_height_and_chain_only() {
    let set = committee(&[1]);
    let good = certificate(5, 0, B256::repeat_byte(1), &[1]);
    verify_certificate(&good, &set, &GENESIS).unwrap();
    let others = [
        CommitCertificate { height: 6, ..good.clone() },
        CommitCertificate { round: 1, ..good.clone() },
        CommitCertificate { block_hash: B256::repeat_byte(2), ..good.clone() },
    ];
    for other in &others {
        assert!(verify_certificate(other, &set, &GENESIS).is_err());
    }
    assert!(verify_certificate(&good, &set, &B256::repeat_byte(0x48)).is_err());
}

#[test]
fn prevotes_do_not_make_a_certificate() {
    let set = committee(&[1]);
    let block_hash = B256::repeat_byte(1);
    let place = VotePlace { height: 5, round: 0, kind: VoteKind::Prevote };
    let message = place.signing_hash(&GENESIS, Some(&block_hash));
    let mut certificate = certificate(5, 0, block_hash, &[1]);
    certificate.signatures[0].signature = Bytes::copy_from_slice(&key(1).sign(message.as_slice()).unwrap());
    assert!(verify_certificate(&certificate, &set, &GENESIS).is_err());
}

// row: CHN-42
#[test]
fn a_finality_proof_is_checked_with_nothing_but_the_committees_keys() {
    let set = committee(&[1, 2, 3]);
    let header = Header { number: 5, gas_limit: 7, ..Header::default() };
    let proof = FinalityProof {
        header_rlp: alloy_rlp::encode(&header).into(),
        certificate: certificate(5, 0, header.hash_slow(), &[2, 3]),
    };
    let bytes = alloy_rlp::encode(&proof);
    let again = FinalityProof::decode_exact(&bytes).unwrap();
    assert_eq!(again.verify(&set, &GENESIS).unwrap(), header);

    let mut other_header = again.clone();
    other_header.header_rlp = alloy_rlp::encode(Header { number: 5, ..Header::default() }).into();
    assert!(matches!(other_header.verify(&set, &GENESIS), Err(ProofError::OtherBlock { .. })));

    let misplaced = Header { number: 6, ..Header::default() };
    let wrong_height = FinalityProof {
        header_rlp: alloy_rlp::encode(&misplaced).into(),
        certificate: certificate(5, 0, misplaced.hash_slow(), &[2, 3]),
    };
    assert_eq!(wrong_height.verify(&set, &GENESIS).unwrap_err(), ProofError::OtherHeight { certified: 5, actual: 6 });
    assert!(matches!(
        again.verify(&committee(&[1]), &GENESIS),
        Err(ProofError::Certificate(CertificateError::UnknownValidator { .. }))
    ));
    assert!(FinalityProof::decode_exact(&bytes[..bytes.len() - 1]).is_err());
}

fn signed_vote(n: u8, place: VotePlace, value: Option<B256>, genesis: &B256) -> SignedVote {
    let message = place.signing_hash(genesis, value.as_ref());
    SignedVote {
        place,
        value,
        validator: key(n).address(),
        signature: Bytes::copy_from_slice(&key(n).sign(message.as_slice()).unwrap()),
    }
}

// row: CHN-13
#[test]
fn two_votes_for_one_place_convict_and_nothing_less_does() {
    let set = committee(&[1, 1]);
    let place = VotePlace { height: 5, round: 0, kind: VoteKind::Prevote };
    let (a, b) = (Some(B256::repeat_byte(1)), Some(B256::repeat_byte(2)));
    let vote = |n, place, value| signed_vote(n, place, value, &GENESIS);
    let verdict = |x, y| Equivocation::Votes(x, y).verify(&set, &GENESIS);

    verdict(vote(1, place, a), vote(1, place, b)).unwrap();
    verdict(vote(1, place, a), vote(1, place, None)).unwrap();
    assert_eq!(verdict(vote(1, place, a), vote(1, place, a)).unwrap_err(), EvidenceError::SameValue);
    let later = VotePlace { round: 1, ..place };
    assert_eq!(verdict(vote(1, place, a), vote(1, later, b)).unwrap_err(), EvidenceError::TwoPlaces);
    assert!(matches!(verdict(vote(1, place, a), vote(2, place, b)).unwrap_err(), EvidenceError::TwoValidators { .. }));
    let elsewhere = signed_vote(1, place, b, &B256::repeat_byte(9));
    assert!(matches!(verdict(vote(1, place, a), elsewhere).unwrap_err(), EvidenceError::BadSignature { .. }));
    assert!(matches!(
        verdict(vote(9, place, a), vote(9, place, b)).unwrap_err(),
        EvidenceError::UnknownValidator { .. }
    ));
}

#[test]
fn two_proposals_in_one_round_convict() {
    let set = committee(&[1, 1]);
    let place = ProposalPlace { height: 5, round: 0 };
    let proposal = |value, pol_round| {
        let message = place.signing_hash(&GENESIS, pol_round, &value);
        let signature = Bytes::copy_from_slice(&key(1).sign(message.as_slice()).unwrap());
        SignedProposal { place, pol_round, value, validator: key(1).address(), signature }
    };
    let (a, b) = (B256::repeat_byte(1), B256::repeat_byte(2));
    let pair = Equivocation::Proposals(proposal(a, None), proposal(b, None));
    pair.verify(&set, &GENESIS).unwrap();
    let bytes = alloy_rlp::encode(&pair);
    assert_eq!(Equivocation::decode(&mut bytes.as_slice()).unwrap(), pair);
    let same = Equivocation::Proposals(proposal(a, Some(0)), proposal(a, Some(0)));
    assert_eq!(same.verify(&set, &GENESIS).unwrap_err(), EvidenceError::SameValue);
}

#[test]
fn a_committee_is_refused_with_the_reason() {
    let member = |n: u8, power| Validator::new(key(n).public(), power, Address::with_last_byte(n));
    assert_eq!(ValidatorSet::new(vec![]).unwrap_err(), ValidatorSetError::Empty);
    let address = key(1).address();
    assert_eq!(
        ValidatorSet::new(vec![member(1, 1), member(1, 2)]).unwrap_err(),
        ValidatorSetError::Duplicate { address }
    );
    assert_eq!(ValidatorSet::new(vec![member(1, 0)]).unwrap_err(), ValidatorSetError::ZeroPower { address });
    assert_eq!(
        ValidatorSet::new(vec![member(1, POWER_TOTAL_MAX), member(2, 1)]).unwrap_err(),
        ValidatorSetError::PowerOverflow
    );
    let post_quantum = |n: usize| {
        let mut raw = [0; 1_312];
        raw[..8].copy_from_slice(&n.to_be_bytes());
        let public = VotePublicKey::from_bytes(VoteScheme::MlDsa44, &raw).unwrap();
        Validator::new(public, 1, Address::left_padding_from(&n.to_be_bytes()))
    };
    assert!(ValidatorSet::new((0..POST_QUANTUM_VALIDATORS_MAX).map(post_quantum).collect()).is_ok());
    assert_eq!(
        ValidatorSet::new((0..=POST_QUANTUM_VALIDATORS_MAX).map(post_quantum).collect()).unwrap_err(),
        ValidatorSetError::TooManyPostQuantum { actual: POST_QUANTUM_VALIDATORS_MAX + 1 }
    );
}

// Pinned: identities that other programs and the chain's own history depend on.
#[test]
fn committee_and_certificate_bytes_are_pinned() {
    let set = committee(&[1, 2, 3]);
    assert_eq!(set.hash().to_string(), "0x25e2e3fbd4405bfb422cf42a86e0e45cd658530ece1bce1ba0c3ab3682195326");
    let certificate = certificate(42, 3, B256::repeat_byte(9), &[1, 3]);
    let hash = trellis_primitives::keccak256(alloy_rlp::encode(&certificate));
    assert_eq!(hash.to_string(), "0xb9a2f86d55e5bc37af365a52dd3bc05571c437252e963bb89c77152123e6e350");
    let order: Vec<Address> =
        (0..8).map(|height| proposer(&set, &Demoted::default(), height, 0).unwrap().address).collect();
    let expected = "22132113";
    let members: String =
        order.iter().map(|address| (1..=3u8).find(|n| key(*n).address() == *address).unwrap().to_string()).collect();
    assert_eq!(members, expected);
}

#[test]
fn every_member_proposes_once_in_the_first_rounds_of_a_height_and_by_weight_over_heights() {
    let set = committee(&[1, 2, 3, 4]);
    for height in 0..50 {
        let mut drawn: Vec<Address> =
            (0..4).map(|round| proposer(&set, &Demoted::default(), height, round).unwrap().address).collect();
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn.len(), 4, "height {height}");
        assert_eq!(
            proposer(&set, &Demoted::default(), height, 4),
            proposer(&set, &Demoted::default(), height, 0),
            "then the draw repeats"
        );
    }
    let heaviest = set.validators()[0].address;
    let turns = (0..2_000).filter(|h| proposer(&set, &Demoted::default(), *h, 0).unwrap().address == heaviest).count();
    assert!((700..900).contains(&turns), "40 % of the weight had {turns} of 2,000 turns");
}

proptest! {
    #[test]
    fn a_committee_survives_its_bytes(powers in proptest::collection::vec(1u64..1_000_000, 1..20)) {
        let set = committee(&powers);
        let bytes = alloy_rlp::encode(&set);
        prop_assert_eq!(ValidatorSet::decode(&mut bytes.as_slice()).unwrap(), set);
    }

    #[test]
    fn evidence_survives_its_bytes(height: u64, round: u32, a in any::<[u8; 32]>(), nil: bool) {
        let place = VotePlace { height, round, kind: VoteKind::Precommit };
        let first = signed_vote(1, place, Some(B256::from(a)), &GENESIS);
        let second = signed_vote(1, place, if nil { None } else { Some(B256::ZERO) }, &GENESIS);
        let pair = Equivocation::Votes(first, second);
        let bytes = alloy_rlp::encode(&pair);
        prop_assert_eq!(Equivocation::decode(&mut bytes.as_slice()).unwrap(), pair);
    }

    #[test]
    fn the_quorum_is_the_least_power_above_two_thirds(powers in proptest::collection::vec(1u64..1_000, 1..10)) {
        let set = committee(&powers);
        let (quorum, total) = (u128::from(set.quorum_power()), u128::from(set.total_power()));
        prop_assert!(quorum * 3 > total * 2);
        prop_assert!((quorum - 1) * 3 <= total * 2);
    }

    #[test]
    fn bytes_of_strangers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = FinalityProof::decode_exact(&bytes);
        let _ = Equivocation::decode(&mut bytes.as_slice());
        let _ = ValidatorSet::decode(&mut bytes.as_slice());
    }
}
