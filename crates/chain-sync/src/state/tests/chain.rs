//! A chain for tests: real certificates, committees that change, bodies that fit; nothing is executed.

use crate::sink::Head;
use crate::wire::{Bodies, Body, PeerStatus, Run};
use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, Bytes, Signature, TxKind};
use std::sync::{Arc, LazyLock};
use trellis_chain_finality::{
    CommitteeChain, Validator, ValidatorSet, VoteKind, VotePlace, committee_epoch, ended_epoch,
};
use trellis_crypto::VoteKey;
use trellis_primitives::{
    B256, Block, CommitCertificate, CommitSignature, ConsensusSection, EpochChange, Header, TxEnvelope, keccak256,
};

/// Blocks of an epoch.
pub(super) const EPOCH_BLOCKS: u64 = 50;
/// Members of each committee.
const SEATS: u8 = 4;

/// The committee of each epoch has one key that the one before has not.
fn keys(epoch: u64) -> Vec<VoteKey> {
    (0..SEATS).map(|seat| VoteKey::from_seed(&[epoch as u8 + seat + 1; 32])).collect()
}

fn committee(epoch: u64) -> ValidatorSet {
    let member =
        |(seat, key): (usize, &VoteKey)| Validator::new(key.public(), 10, Address::with_last_byte(seat as u8 + 1));
    ValidatorSet::new(keys(epoch).iter().enumerate().map(member).collect()).unwrap()
}

/// Who signs a block.
pub(super) fn signers(height: u64) -> Vec<VoteKey> {
    keys(committee_epoch(height, EPOCH_BLOCKS))
}

pub(super) struct TestChain {
    pub(super) genesis_hash: B256,
    pub(super) blocks: Vec<(Block, B256, CommitCertificate)>,
}

/// One chain for all tests: signing is what takes time.
pub(super) static CHAIN: LazyLock<Arc<TestChain>> = LazyLock::new(|| Arc::new(TestChain::new(700, B256::ZERO)));

fn transaction(nonce: u64, bytes: usize) -> TxEnvelope {
    let tx = TxEip1559 {
        chain_id: 1,
        nonce,
        to: TxKind::Call(Address::repeat_byte(7)),
        input: Bytes::from(vec![nonce as u8; bytes]),
        ..TxEip1559::default()
    };
    tx.into_signed(Signature::test_signature()).into()
}

pub(super) fn certify(genesis: &B256, keys: &[VoteKey], height: u64, block_hash: B256) -> CommitCertificate {
    let place = VotePlace { height, round: 0, kind: VoteKind::Precommit };
    let message = place.signing_hash(genesis, Some(&block_hash));
    let sign = |key: &VoteKey| CommitSignature {
        validator: key.address(),
        signature: Bytes::copy_from_slice(&key.sign(message.as_slice()).unwrap()),
    };
    let mut signatures: Vec<_> = keys.iter().map(sign).collect();
    signatures.sort_by_key(|signature| signature.validator);
    CommitCertificate { height, round: 0, block_hash, signatures }
}

impl TestChain {
    /// A chain of so many blocks; another salt is another chain of the same committees.
    pub(super) fn new(length: u64, salt: B256) -> Self {
        let genesis_hash = keccak256(b"test chain");
        let mut blocks: Vec<(Block, B256, CommitCertificate)> = Vec::new();
        for height in 1..=length {
            let parent = blocks.last();
            let change = ended_epoch(height, EPOCH_BLOCKS).map(|epoch| EpochChange {
                next_committee: alloy_rlp::encode(committee(epoch)).into(),
                blocks: 1,
                checkpoint_keys: None,
                signed: vec![1; usize::from(SEATS)],
            });
            let section = ConsensusSection {
                time_ms: height,
                parent_commit: parent.map(|(_, _, certificate)| certificate.clone()),
                checkpoint: None,
                epoch: change,
            };
            let transactions: Vec<_> = (0..height % 4).map(|n| transaction(height * 4 + n, 200)).collect();
            let header = Header {
                number: height,
                parent_hash: parent.map_or(genesis_hash, |(_, hash, _)| *hash),
                transactions_root: alloy_consensus::proofs::calculate_transaction_root(&transactions),
                parent_beacon_block_root: Some(section.root()),
                gas_used: 21_000 * (height % 4),
                mix_hash: salt,
                base_fee_per_gas: Some(1),
                withdrawals_root: Some(B256::ZERO),
                blob_gas_used: Some(0),
                excess_blob_gas: Some(0),
                ..Header::default()
            };
            let hash = header.hash_slow();
            let signers = signers(height);
            let certificate = certify(&genesis_hash, &signers[..3], height, hash);
            blocks.push((Block { header, transactions, section }, hash, certificate));
        }
        Self { genesis_hash, blocks }
    }

    pub(super) fn height(&self) -> u64 {
        self.blocks.len() as u64
    }

    pub(super) fn at(&self, height: u64) -> &(Block, B256, CommitCertificate) {
        &self.blocks[height as usize - 1]
    }

    pub(super) fn head(&self, height: u64) -> Head {
        let hash = if height == 0 { self.genesis_hash } else { self.at(height).1 };
        Head { height, hash }
    }

    /// The committees as a node knows them that has committed up to a height.
    pub(super) fn committees(&self, height: u64) -> CommitteeChain {
        let mut committees = CommitteeChain::new(committee(0), self.genesis_hash, Some(EPOCH_BLOCKS));
        for next in [height + 1, height + 2] {
            committees.believe(next, committee(committee_epoch(next, EPOCH_BLOCKS)));
        }
        committees
    }

    pub(super) fn run(&self, first: u64, last: u64) -> Run {
        let last = last.min(self.height());
        let (block, _, certificate) = self.at(last);
        Run {
            headers: (first..=last).map(|height| alloy_rlp::encode(&self.at(height).0.header).into()).collect(),
            certificate: Some(certificate.clone()),
            section: block.section.epoch.is_some().then(|| alloy_rlp::encode(&block.section).into()),
        }
    }

    pub(super) fn bodies(&self, first: u64, last: u64) -> Bodies {
        let heights = first..=last.min(self.height());
        Bodies { first, bodies: heights.map(|height| Body::rlp_of(&self.at(height).0)).collect() }
    }

    pub(super) fn status(&self, height: u64) -> PeerStatus {
        PeerStatus { first_height: 0, height, tip: self.run(height, height) }
    }
}
