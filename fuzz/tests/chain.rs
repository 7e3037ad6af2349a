//! Blocks, committees and proofs of finality, as a peer or a stranger may hand them over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_rlp::Decodable;
use bytes::Bytes;
use trellis_chain_finality::{
    CHECKPOINT_VERSION, CheckpointCertificate, CheckpointCommittee, Equivocation, FinalityProof,
    PostQuantumCertificate, Validator, ValidatorSet, VotePublicKey,
};
use trellis_chain_mempool::gossip::{decode_frame, encode_frame};
use trellis_chain_sync::wire::{Bodies, Body, PeerStatus, Request, Run};
use trellis_fuzz::fuzz;
use trellis_net_peers::pack::{Packer, unpack};
use trellis_primitives::{Block, ConsensusSection, Header};

fn block() -> Vec<u8> {
    let section = ConsensusSection { time_ms: 5, parent_commit: None, checkpoint: Some(vec![1].into()), epoch: None };
    Block { header: Header::default(), transactions: Vec::new(), section }.to_rlp().to_vec()
}

#[test]
fn a_block_has_one_encoding() {
    assert!(Block::from_rlp(&block()).is_ok());
    fuzz!(vec![block()], |bytes: &[u8]| {
        if let Ok(block) = Block::from_rlp(bytes) {
            assert_eq!(*block.to_rlp(), *bytes);
        }
    });
}

#[test]
fn committees_proofs_and_evidence_are_read_or_refused() {
    fuzz!(vec![block(), vec![0xf8, 0x40], vec![0xc0]], |bytes: &[u8]| {
        let _ = FinalityProof::decode_exact(bytes);
        if let Ok(set) = ValidatorSet::decode(&mut &*bytes) {
            assert_eq!(ValidatorSet::decode(&mut alloy_rlp::encode(&set).as_slice()).unwrap(), set);
        }
        if let Ok(evidence) = Equivocation::decode(&mut &*bytes) {
            assert_eq!(Equivocation::decode(&mut alloy_rlp::encode(&evidence).as_slice()).unwrap(), evidence);
        }
    });
}

// row: NET-56, NET-61
#[test]
fn frames_of_transactions_are_unpacked_within_their_bound_or_refused() {
    let frame = |transactions: Vec<Bytes>| encode_frame(&Packer::default(), transactions).0;
    let seeds = [frame(vec![vec![2; 100].into()]), frame(vec![vec![2; 100].into(); 50])];
    fuzz!(seeds.map(|seed| seed.to_vec()).to_vec(), |bytes: &[u8]| {
        let bytes = Bytes::copy_from_slice(bytes);
        if let Ok(read) = decode_frame(&bytes) {
            assert_eq!(decode_frame(&frame(read.transactions.clone())).unwrap().transactions, read.transactions);
        }
        if let Ok(body) = unpack(&bytes, 4_096) {
            assert!(body.len() <= 4_096);
        }
    });
}

// row: NET-60
#[test]
fn messages_of_a_sync_are_read_or_refused_and_what_is_read_is_written_alike() {
    let run = Run {
        headers: vec![alloy_rlp::encode(Header { number: 7, ..Header::default() }).into(); 2],
        certificate: None,
        section: Some(alloy_rlp::encode(ConsensusSection { time_ms: 5, ..ConsensusSection::default() }).into()),
    };
    let status =
        PeerStatus { first_height: 0, height: 7, tip: Run { headers: run.headers[..1].to_vec(), ..run.clone() } };
    let body = Body::rlp_of(&Block::from_rlp(&block()).unwrap());
    let seeds = vec![
        Request::Status { above: 300, wait_ms: 10_000 }.to_bytes(),
        Request::Headers { first: 1, last: 256 }.to_bytes(),
        Request::Bodies { first: 5, last: 6 }.to_bytes(),
        run.to_bytes(),
        status.to_bytes(),
        Bodies { first: 5, bodies: vec![body.clone(); 3] }.to_bytes(),
        body.to_vec(),
    ];
    fuzz!(seeds, |bytes: &[u8]| {
        if let Ok(request) = Request::from_bytes(bytes) {
            assert_eq!(Request::from_bytes(&request.to_bytes()).unwrap(), request);
        }
        if let Ok(run) = Run::from_bytes(bytes.to_vec().into()) {
            assert_eq!(Run::from_bytes(run.to_bytes().into()).unwrap(), run);
        }
        if let Ok(status) = PeerStatus::from_bytes(bytes.to_vec().into()) {
            assert_eq!(PeerStatus::from_bytes(status.to_bytes().into()).unwrap(), status);
        }
        if let Ok(bodies) = Bodies::from_bytes(bytes.to_vec().into()) {
            assert_eq!(Bodies::from_bytes(bodies.to_bytes().into()).unwrap(), bodies);
        }
        let _ = Body::from_rlp(bytes);
    });
}

// row: CHN-15
#[test]
fn certificates_of_checkpoints_and_committees_with_keys_have_one_encoding_or_are_refused() {
    let short = CheckpointCertificate {
        version: CHECKPOINT_VERSION,
        height: 64,
        block_hash: Default::default(),
        next_committee: Default::default(),
        signers: vec![7].into(),
        signature: vec![9; 48].into(),
    };
    let long = PostQuantumCertificate {
        version: CHECKPOINT_VERSION,
        height: 64,
        block_hash: short.block_hash,
        next_committee: short.next_committee,
        signers: short.signers.clone(),
        signatures: vec![vec![9; 2_420].into(); 3],
    };
    let one = Validator::new(VotePublicKey::Ed25519([1; 32]), 1, Default::default());
    let committee = CheckpointCommittee::new(&ValidatorSet::new(vec![one]).unwrap(), &[]);
    let seeds = vec![alloy_rlp::encode(&short), alloy_rlp::encode(&long), committee.to_rlp().to_vec()];
    fuzz!(seeds, |bytes: &[u8]| {
        if let Ok(certificate) = CheckpointCertificate::decode_exact(bytes) {
            assert_eq!(alloy_rlp::encode(&certificate), bytes);
            assert!(certificate.verify(&committee, Default::default()).is_err());
        }
        if let Ok(certificate) = PostQuantumCertificate::decode_exact(bytes) {
            assert_eq!(alloy_rlp::encode(&certificate), bytes);
            assert!(certificate.verify(&committee, Default::default()).is_err());
        }
        if let Ok(committee) = CheckpointCommittee::decode_exact(bytes) {
            assert_eq!(CheckpointCommittee::decode_exact(&committee.to_rlp()).unwrap(), committee);
        }
    });
}
