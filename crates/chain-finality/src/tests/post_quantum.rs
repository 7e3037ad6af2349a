//! Committees whose votes are ML-DSA-44 (CHN-15).
#![allow(clippy::print_stdout, reason = "measured figures")]

use super::GENESIS;
use crate::*;
use alloy_rlp::Decodable;
use std::time::Instant;
use trellis_crypto::VoteKey;
use trellis_primitives::{Address, B256, CommitCertificate, CommitSignature};

/// Members of the committees that are measured; the last is the one that the mode is for.
const MEMBERS: [usize; 3] = [4, 20, 100];

fn keys(scheme: VoteScheme, count: usize) -> Vec<VoteKey> {
    let seed = |n: usize| B256::left_padding_from(&n.to_be_bytes()).0;
    (0..count).map(|n| VoteKey::of_seed(scheme, &seed(n)).unwrap()).collect()
}

fn committee(keys: &[VoteKey]) -> ValidatorSet {
    let member =
        |(n, key): (usize, &VoteKey)| Validator::new(key.public(), 10, Address::left_padding_from(&n.to_be_bytes()));
    ValidatorSet::new(keys.iter().enumerate().map(member).collect()).unwrap()
}

fn certified(keys: &[VoteKey]) -> CommitCertificate {
    let (height, round, block_hash) = (9, 1, B256::repeat_byte(3));
    let message = VotePlace { height, round, kind: VoteKind::Precommit }.signing_hash(&GENESIS, Some(&block_hash));
    let sign = |key: &VoteKey| {
        let signature = key.sign(message.as_slice()).unwrap().into();
        CommitSignature { validator: key.address(), signature }
    };
    let mut signatures: Vec<CommitSignature> = keys.iter().map(sign).collect();
    signatures.sort_by_key(|entry| entry.validator);
    CommitCertificate { height, round, block_hash, signatures }
}

// row: CHN-15
#[test]
fn a_certificate_of_either_scheme_decides_with_two_thirds_and_fits_into_every_bound() {
    for scheme in VoteScheme::ALL {
        for members in MEMBERS {
            let keys = keys(scheme, members);
            let set = committee(&keys);
            assert_eq!(ValidatorSet::decode(&mut alloy_rlp::encode(&set).as_slice()).unwrap(), set);
            let quorum = members * 2 / 3 + 1;
            let began = Instant::now();
            let certificate = certified(&keys[..quorum]);
            let signed = began.elapsed();
            let began = Instant::now();
            verify_certificate(&certificate, &set, &GENESIS).unwrap();
            let verified = began.elapsed();
            let bytes = alloy_rlp::encode(&certificate).len();
            let each = |whole: std::time::Duration| whole.as_micros() / quorum as u128;
            println!(
                "{scheme}, {members} members: a certificate of {quorum} has {bytes} bytes, {} µs to sign and {} µs to verify a vote; the committee has {} bytes",
                each(signed),
                each(verified),
                alloy_rlp::encode(&set).len(),
            );
            assert!(bytes < CERTIFICATE_BYTES_MAX && alloy_rlp::encode(&set).len() < COMMITTEE_BYTES_MAX);
            assert!(verify_certificate(&certified(&keys[..quorum - 1]), &set, &GENESIS).is_err());
            let mut forged = certificate.clone();
            forged.signatures[0].signature = certificate.signatures[1].signature.clone();
            let validator = forged.signatures[0].validator;
            assert_eq!(
                verify_certificate(&forged, &set, &GENESIS).unwrap_err(),
                CertificateError::BadSignature { height: 9, validator }
            );
        }
    }
}

// row: CHN-13, CHN-15
#[test]
fn two_post_quantum_votes_for_one_place_convict_their_key() {
    let keys = keys(VoteScheme::MlDsa44, 4);
    let set = committee(&keys);
    let place = VotePlace { height: 9, round: 0, kind: VoteKind::Prevote };
    let vote = |value: Option<B256>| SignedVote {
        place,
        value,
        validator: keys[2].address(),
        signature: keys[2].sign(place.signing_hash(&GENESIS, value.as_ref()).as_slice()).unwrap().into(),
    };
    let one = Some(B256::repeat_byte(1));
    let piece = Equivocation::Votes(vote(one), vote(None));
    piece.verify(&set, &GENESIS).unwrap();
    let (first, second) = piece.testimony(&set).unwrap();
    assert!(first.len() <= EVIDENCE_MESSAGE_BYTES_MAX, "{} bytes", first.len());
    assert_eq!(judge_evidence(&first, &second, &GENESIS), Ok((keys[2].public().contract_hash(), 9)));
    // Two signatures of one vote are different bytes and still the same vote.
    let (first, second) = (vote(one), vote(one));
    assert_ne!(first.signature, second.signature);
    assert_eq!(Equivocation::Votes(first, second).verify(&set, &GENESIS), Err(EvidenceError::SameValue));
}
