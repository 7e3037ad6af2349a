//! Following the committees from the genesis with nothing but headers, certificates and sections (CHN-42): each committee's
//! signatures make the block final that names the next.

use crate::committee::committee_epoch;
use crate::proof::{FinalityProof, ProofError};
use crate::validator_set::ValidatorSet;
use std::collections::BTreeMap;
use thiserror::Error;
use trellis_primitives::{B256, ConsensusSection, Header, keccak256};

/// Committees remembered; older blocks can no longer be checked.
const COMMITTEES_MAX: usize = 256;

/// Why a block hands nothing over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandoverError {
    /// The block is not proved, or the committee that decided it is not known.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// Another block than the one that names the committee that is missing.
    #[error("block {actual} was given, block {expected} names the next committee")]
    OtherBlock {
        /// The block that is needed.
        expected: u64,
        /// The block that came.
        actual: u64,
    },
    /// The section is not the one that the header commits to.
    #[error("the section's hash is {actual}, the header says {expected}")]
    OtherSection {
        /// In the header.
        expected: B256,
        /// Of the bytes.
        actual: B256,
    },
    /// The section names no committee.
    #[error("the section of block {height} names no committee")]
    NoCommittee {
        /// The block.
        height: u64,
    },
}

/// The committees of a chain, as far as they are proved.
#[derive(Clone, Debug)]
pub struct CommitteeChain {
    genesis: ValidatorSet,
    genesis_hash: B256,
    /// Blocks of an epoch; none where the first committee sits for ever.
    epoch_blocks: Option<u64>,
    known: BTreeMap<u64, ValidatorSet>,
}

impl CommitteeChain {
    /// Knows the first committee.
    #[must_use]
    pub fn new(genesis: ValidatorSet, genesis_hash: B256, epoch_blocks: Option<u64>) -> Self {
        Self { genesis, genesis_hash, epoch_blocks, known: BTreeMap::new() }
    }

    fn epoch(&self, height: u64) -> u64 {
        self.epoch_blocks.map_or(0, |blocks| committee_epoch(height, blocks))
    }

    /// The committee that decides a block, where it is known.
    #[must_use]
    pub fn of(&self, height: u64) -> Option<&ValidatorSet> {
        match self.epoch(height) {
            0 => Some(&self.genesis),
            epoch => self.known.get(&epoch),
        }
    }

    /// Blocks of an epoch; none where the first committee sits for ever.
    #[must_use]
    pub const fn epoch_blocks(&self) -> Option<u64> {
        self.epoch_blocks
    }

    /// Takes the committee that decides a block from what this node has itself: it proved that one when it committed the
    /// block that names it. Committees of epochs before are then not asked for any more.
    pub fn believe(&mut self, height: u64, committee: ValidatorSet) {
        let epoch = self.epoch(height);
        if epoch > 0 {
            self.known.insert(epoch, committee);
        }
    }

    /// The block that must be learnt next in order to check one at `height`; none where that can be checked.
    #[must_use]
    pub fn needed(&self, height: u64) -> Option<u64> {
        let newest = self.known.last_key_value().map_or(0, |(epoch, _)| *epoch);
        let epoch = newest.checked_add(1).filter(|next| *next <= self.epoch(height))?;
        epoch.checked_mul(self.epoch_blocks?)?.checked_add(1)
    }

    /// Learns the next committee from the block that [`Self::needed`] asks for.
    ///
    /// # Errors
    /// [`HandoverError`]; nothing is learnt then.
    pub fn learn(&mut self, proof: &FinalityProof, section_rlp: &[u8]) -> Result<(), HandoverError> {
        let actual = proof.certificate.height;
        let Some(expected) = self.needed(u64::MAX) else { return Ok(()) };
        if expected != actual {
            return Err(HandoverError::OtherBlock { expected, actual });
        }
        let header = self.check(proof)?;
        let (expected, actual) = (header.parent_beacon_block_root.unwrap_or_default(), keccak256(section_rlp));
        if expected != actual {
            return Err(HandoverError::OtherSection { expected, actual });
        }
        let height = header.number;
        let section: ConsensusSection = alloy_rlp::decode_exact(section_rlp).map_err(ProofError::Encoding)?;
        let change = section.epoch.ok_or(HandoverError::NoCommittee { height })?;
        let committee = alloy_rlp::decode_exact(&change.next_committee).map_err(ProofError::Encoding)?;
        let newest = self.known.last_key_value().map_or(0, |(epoch, _)| *epoch);
        self.known.insert(newest.saturating_add(1), committee);
        while self.known.len() > COMMITTEES_MAX {
            self.known.pop_first();
        }
        Ok(())
    }

    /// Checks a proof against the committee of its height.
    ///
    /// # Errors
    /// [`ProofError`], also where that committee is not known.
    pub fn check(&self, proof: &FinalityProof) -> Result<Header, ProofError> {
        let height = proof.certificate.height;
        let set = self.of(height).ok_or(ProofError::UnknownCommittee { height })?;
        proof.verify(set, &self.genesis_hash)
    }
}
