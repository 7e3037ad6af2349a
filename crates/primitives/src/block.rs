//! Blocks: an Ethereum header, its transactions, and the section that consensus needs (decisions: "Block").

use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use std::sync::Arc;

/// An Ethereum header of the newest fork.
pub type Header = alloy_consensus::Header;
/// A signed Ethereum transaction of any type.
pub type TxEnvelope = alloy_consensus::TxEnvelope;

/// Bytes of one encoded block at most.
pub const BLOCK_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Signatures in one certificate at most; a committee is never larger.
pub const COMMIT_SIGNATURES_MAX: usize = 4_096;

/// One validator's precommit for a block.
#[derive(Clone, PartialEq, Eq, Debug, RlpEncodable, RlpDecodable, serde::Serialize, serde::Deserialize)]
pub struct CommitSignature {
    /// The validator's address: the last 20 bytes of the keccak of its vote key.
    pub validator: Address,
    /// The signature over the vote's bytes in the committee's scheme.
    pub signature: Bytes,
}

/// Proof that more than 2/3 of the voting power precommitted a block.
#[derive(Clone, PartialEq, Eq, Debug, RlpEncodable, RlpDecodable, serde::Serialize, serde::Deserialize)]
pub struct CommitCertificate {
    /// The block's height.
    pub height: u64,
    /// The round in which it was decided; no part of the block itself, because a block can be proposed again.
    pub round: u32,
    /// The header's hash, which is also the engine's value id.
    pub block_hash: B256,
    /// The precommits, sorted by validator.
    pub signatures: Vec<CommitSignature>,
}

/// What a member of a committee signs checkpoints with (CHN-15). Empty where it has no such key.
#[derive(Clone, PartialEq, Eq, Debug, Default, RlpEncodable, RlpDecodable)]
pub struct CheckpointKeys {
    /// BLS12-381: a compressed point of G2, 96 bytes.
    pub bls: Bytes,
    /// ML-DSA-44: 1,312 bytes.
    pub mldsa44: Bytes,
}

/// The change of epochs, in the first block of each: who sits next, and who signed in the epoch that ended.
///
/// Everything in it follows from the blocks before, so that it can be judged before the block is executed; the committee it
/// names decides from the second block after this one on (decisions: "Committee").
#[derive(Clone, PartialEq, Eq, Debug, RlpEncodable, RlpDecodable)]
#[rlp(trailing)]
pub struct EpochChange {
    /// RLP of the next committee.
    pub next_committee: Bytes,
    /// Blocks of the ended epoch that the committee now sitting decided and whose certificates were counted.
    pub blocks: u32,
    /// How many of these each of its members signed, in the committee's order.
    pub signed: Vec<u32>,
    /// What the members of the next committee sign checkpoints with, in that committee's order; none where the chain has no
    /// checkpoints.
    pub checkpoint_keys: Option<Vec<CheckpointKeys>>,
}

/// What consensus needs in a block beside Ethereum's header; `header.parent_beacon_block_root` is its hash.
#[derive(Clone, PartialEq, Eq, Debug, Default, RlpEncodable, RlpDecodable)]
#[rlp(trailing)]
pub struct ConsensusSection {
    /// The block's time in milliseconds; `header.timestamp` is this divided by 1,000.
    pub time_ms: u64,
    /// The certificate of the parent; none in the first block after genesis.
    pub parent_commit: Option<CommitCertificate>,
    /// The assembled checkpoint certificate, when this block carries one (CHN-15).
    pub checkpoint: Option<Bytes>,
    /// The change of epochs, in the first block of each but the first.
    pub epoch: Option<EpochChange>,
}

impl ConsensusSection {
    /// keccak(RLP(section)), bound into the header.
    #[must_use]
    pub fn root(&self) -> B256 {
        let mut out = Vec::with_capacity(self.length());
        self.encode(&mut out);
        keccak256(&out)
    }
}

/// A whole block as it is proposed, stored and synced.
#[derive(Clone, PartialEq, Eq, Debug, RlpEncodable, RlpDecodable)]
pub struct Block {
    /// The Ethereum header.
    pub header: Header,
    /// The transactions in order.
    pub transactions: Vec<TxEnvelope>,
    /// What consensus needs.
    pub section: ConsensusSection,
}

impl Block {
    /// The header's hash: the block's name for wallets and for the engine.
    #[must_use]
    pub fn hash(&self) -> B256 {
        self.header.hash_slow()
    }

    /// The canonical bytes.
    #[must_use]
    pub fn to_rlp(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.length());
        self.encode(&mut out);
        out.into()
    }

    /// Decodes canonical bytes, all of them.
    ///
    /// # Errors
    /// The RLP error; also where bytes are left over or the block is over [`BLOCK_BYTES_MAX`].
    pub fn from_rlp(bytes: &[u8]) -> Result<Self, alloy_rlp::Error> {
        if bytes.len() > BLOCK_BYTES_MAX {
            return Err(alloy_rlp::Error::Custom("the block is over 16 MiB"));
        }
        let mut rest = bytes;
        let block = Self::decode(&mut rest)?;
        if !rest.is_empty() {
            return Err(alloy_rlp::Error::Custom("bytes after the block"));
        }
        // The decoder of trailing optional fields also takes an empty string for a field that is not there.
        if *block.to_rlp() != *bytes {
            return Err(alloy_rlp::Error::Custom("the block has another canonical encoding"));
        }
        Ok(block)
    }
}

/// A transaction whose sender is known, so that nobody recovers it twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredTx {
    /// The signed transaction.
    pub tx: Arc<TxEnvelope>,
    /// Its hash.
    pub hash: B256,
    /// Who signed it.
    pub sender: Address,
    /// Length of its EIP-2718 form in bytes.
    pub encoded_bytes: usize,
}

impl RecoveredTx {
    /// Pairs a transaction with a sender that was recovered from its signature.
    #[must_use]
    pub fn new(tx: TxEnvelope, sender: Address) -> Self {
        use alloy_eips::eip2718::Encodable2718;
        let hash = *tx.tx_hash();
        let encoded_bytes = tx.encode_2718_len();
        Self { tx: Arc::new(tx), hash, sender, encoded_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block_with(section: ConsensusSection) -> Block {
        Block { header: Header::default(), transactions: Vec::new(), section }
    }

    #[test]
    fn a_block_survives_its_own_bytes_with_and_without_a_certificate() {
        let certificate = CommitCertificate {
            height: 7,
            round: 1,
            block_hash: B256::repeat_byte(7),
            signatures: vec![CommitSignature { validator: Address::repeat_byte(1), signature: vec![9; 64].into() }],
        };
        for parent_commit in [None, Some(certificate)] {
            let block = block_with(ConsensusSection { time_ms: 5, parent_commit, checkpoint: None, epoch: None });
            assert_eq!(Block::from_rlp(&block.to_rlp()).unwrap(), block);
        }
    }

    #[test]
    fn the_section_root_changes_with_every_field() {
        let bare = ConsensusSection { time_ms: 5, parent_commit: None, checkpoint: None, epoch: None };
        let later = ConsensusSection { time_ms: 6, ..bare.clone() };
        let checkpointed = ConsensusSection { checkpoint: Some(vec![1].into()), ..bare.clone() };
        assert_ne!(bare.root(), later.root());
        assert_ne!(bare.root(), checkpointed.root());
    }

    #[test]
    fn an_absent_field_that_is_written_as_empty_is_refused() {
        let section = ConsensusSection { time_ms: 5, parent_commit: None, checkpoint: None, epoch: None };
        let block = Block { header: Header::default(), transactions: Vec::new(), section };
        let canonical = block.to_rlp();
        assert_eq!(Block::from_rlp(&canonical).unwrap(), block);
        let mut longer = canonical.to_vec();
        let section_at = longer.len() - 2;
        assert_eq!(longer[section_at..], [0xc1, 5]);
        longer[section_at] = 0xc3;
        longer.extend([0x80, 0x80]);
        longer[2] += 2;
        assert!(Block::from_rlp(&longer).unwrap_err().to_string().contains("canonical"));
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_make_the_block_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Block::from_rlp(&bytes);
        }
    }
}
