//! Checkpoints: what two thirds of a committee say about a final block in BLS12-381, for other chains, and in ML-DSA-44,
//! against quantum computers (CHN-15). Pure.
//!
//! A member that has committed a checkpoint's block signs, with both of its checkpoint keys, the 32 bytes
//! `keccak-256(len(domain) ‖ domain ‖ genesis hash ‖ height u64 BE ‖ block hash ‖ next committee's hash)`
//! with the domain `trellis/checkpoint/1`. It signs what is final and nothing else, so the message needs no round.
//! Keccak, because a contract on another chain makes the same bytes with `abi.encodePacked`; what it then checks with
//! EIP-2537 is in `trellis_crypto::verify_bls_sum`.
//!
//! Every member of the committee that decides the block may sign. The next committee is the one that decides the second
//! block after it: whoever follows nothing but checkpoints goes from committee to committee by these hashes.

mod certificate;
mod committee;
mod follow;
mod tally;

#[cfg(test)]
mod tests;

pub use certificate::{
    CHECKPOINT_CERTIFICATE_BYTES_MAX, CHECKPOINT_VERSION, CheckpointCertificate, CheckpointError,
    POST_QUANTUM_CERTIFICATE_BYTES_MAX, PostQuantumCertificate,
};
pub use committee::{
    CHECKPOINT_COMMITTEE_BYTES_MAX, CHECKPOINT_COMMITTEE_DOMAIN, CheckpointCommittee, CheckpointMember,
};
pub use follow::{CheckpointFollower, FollowError};
pub use tally::{CheckpointSignature, CheckpointTally};

use crate::committee::{COMMITTEE_DELAY_BLOCKS, ended_epoch};
use trellis_primitives::{B256, keccak256};

/// Keeps checkpoints apart from everything else that is signed.
pub const CHECKPOINT_DOMAIN: &str = "trellis/checkpoint/1";
/// Blocks after a checkpoint's block in which its certificate may stand.
pub const CHECKPOINT_INCLUSION_BLOCKS: u64 = 8;

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointMessage {
    /// Hash of block zero.
    pub genesis_hash: B256,
    /// The final block's height.
    pub height: u64,
    /// Its header's hash.
    pub block_hash: B256,
    /// [`CheckpointCommittee::hash`] of the committee that decides the second block after it.
    pub next_committee: B256,
}

impl CheckpointMessage {
    /// The 32 bytes that both keys sign.
    #[must_use]
    pub fn signing_hash(&self) -> B256 {
        let mut bytes = prefixed(CHECKPOINT_DOMAIN);
        bytes.extend_from_slice(self.genesis_hash.as_slice());
        bytes.extend_from_slice(&self.height.to_be_bytes());
        bytes.extend_from_slice(self.block_hash.as_slice());
        bytes.extend_from_slice(self.next_committee.as_slice());
        keccak256(bytes)
    }
}

/// A domain behind its length in one byte.
fn prefixed(domain: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(domain.len()).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(domain.as_bytes());
    bytes
}

/// Which blocks have checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRules {
    /// Blocks from one to the next; 0 where the chain has none.
    pub interval_blocks: u64,
    /// Blocks of an epoch; none where the first committee sits for ever.
    pub epoch_blocks: Option<u64>,
}

impl CheckpointRules {
    /// Whether a block has one: each of the interval, and each that names a committee, so that its hash is signed by the one before.
    #[must_use]
    pub fn has(&self, height: u64) -> bool {
        if height == 0 || self.interval_blocks == 0 {
            return false;
        }
        let names_committee = || self.epoch_blocks.is_some_and(|blocks| ended_epoch(height, blocks).is_some());
        height.checked_rem(self.interval_blocks) == Some(0) || names_committee()
    }

    /// Checkpoints whose certificate may stand in a block, oldest first.
    #[must_use]
    pub fn open_in(&self, number: u64) -> Vec<u64> {
        let first = number.saturating_sub(CHECKPOINT_INCLUSION_BLOCKS);
        (first..number).filter(|height| self.has(*height)).collect()
    }

    /// The first block in which a checkpoint's certificate may no longer stand.
    #[must_use]
    pub const fn closed_after(height: u64) -> u64 {
        height.saturating_add(CHECKPOINT_INCLUSION_BLOCKS).saturating_add(1)
    }

    /// The block whose committee a checkpoint names.
    #[must_use]
    pub const fn next_decides(height: u64) -> u64 {
        height.saturating_add(COMMITTEE_DELAY_BLOCKS)
    }
}
