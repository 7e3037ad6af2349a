//! Blocks, committees and proofs of finality, as a peer or a stranger may hand them over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_rlp::Decodable;
use bytes::Bytes;
use trellis_chain_finality::{Equivocation, FinalityProof, ValidatorSet};
use trellis_chain_mempool::gossip::{decode_frame, encode_frame};
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
        if let Ok(transactions) = decode_frame(&bytes) {
            assert_eq!(decode_frame(&frame(transactions.clone())).unwrap(), transactions);
        }
        if let Ok(body) = unpack(&bytes, 4_096) {
            assert!(body.len() <= 4_096);
        }
    });
}
