//! From committee to committee by checkpoints alone: what another chain does, and anyone who has the first committee's keys.

use super::CheckpointRules;
use super::certificate::{CheckpointCertificate, CheckpointError, PostQuantumCertificate};
use super::committee::CheckpointCommittee;
use crate::committee::committee_epoch;
use std::sync::Arc;
use thiserror::Error;
use trellis_primitives::B256;

/// Why a checkpoint leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FollowError {
    /// Another checkpoint than the one that names the committee that is missing.
    #[error("checkpoint {actual} was given, checkpoint {expected} comes next")]
    OtherCheckpoint {
        /// The checkpoint that is needed.
        expected: u64,
        /// The one that came.
        actual: u64,
    },
    /// The committee is not the one that the checkpoint names.
    #[error("the committee's hash is {actual}, the checkpoint names {expected}")]
    OtherCommittee {
        /// In the checkpoint.
        expected: B256,
        /// Of the committee given.
        actual: B256,
    },
    /// The checkpoint is signed by a committee that is not known yet, or no longer.
    #[error("the committee that signs checkpoint {height} is that of epoch {expected}, epoch {known} is known")]
    UnknownCommittee {
        /// The checkpoint.
        height: u64,
        /// The epoch whose committee signs it.
        expected: u64,
        /// The epoch whose committee is known.
        known: u64,
    },
    /// The checkpoint itself does not hold.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Knows one committee, and the next by what it signed.
#[derive(Clone, Debug)]
pub struct CheckpointFollower {
    genesis_hash: B256,
    rules: CheckpointRules,
    epoch: u64,
    committee: Arc<CheckpointCommittee>,
}

impl CheckpointFollower {
    /// Trusts the committee that decides `height` on the chain with this genesis.
    #[must_use]
    pub fn new(genesis_hash: B256, rules: CheckpointRules, height: u64, committee: CheckpointCommittee) -> Self {
        let mut follower = Self { genesis_hash, rules, epoch: 0, committee: Arc::new(committee) };
        follower.epoch = follower.epoch_of(height);
        follower
    }

    /// The same with another committee that is trusted: that which decides `height`.
    #[must_use]
    pub fn trusting(&self, height: u64, committee: CheckpointCommittee) -> Self {
        Self::new(self.genesis_hash, self.rules, height, committee)
    }

    /// A block that the committee named by a checkpoint decides.
    #[must_use]
    pub const fn named_by(height: u64) -> u64 {
        CheckpointRules::next_decides(height)
    }

    fn epoch_of(&self, height: u64) -> u64 {
        self.rules.epoch_blocks.map_or(0, |blocks| committee_epoch(height, blocks))
    }

    /// The checkpoint that must be learnt from next in order to check the one at `height`; none where that can be checked,
    /// or never will be.
    #[must_use]
    pub fn needed(&self, height: u64) -> Option<u64> {
        let next = self.epoch.checked_add(1).filter(|next| *next <= self.epoch_of(height))?;
        next.checked_mul(self.rules.epoch_blocks?)?.checked_add(1)
    }

    /// Goes on to the next committee, by the checkpoint that [`Self::needed`] asks for.
    ///
    /// # Errors
    /// [`FollowError`]; nothing has changed then.
    pub fn learn(&mut self, certificate: &CheckpointCertificate, next: CheckpointCommittee) -> Result<(), FollowError> {
        let actual = certificate.height;
        if let Some(expected) = self.needed(u64::MAX).filter(|expected| *expected != actual) {
            return Err(FollowError::OtherCheckpoint { expected, actual });
        }
        self.check(certificate)?;
        let (expected, actual) = (certificate.next_committee, next.hash());
        if expected != actual {
            return Err(FollowError::OtherCommittee { expected, actual });
        }
        self.epoch = self.epoch_of(CheckpointRules::next_decides(certificate.height));
        self.committee = Arc::new(next);
        Ok(())
    }

    fn signers_of(&self, height: u64) -> Result<&CheckpointCommittee, FollowError> {
        let (expected, known) = (self.epoch_of(height), self.epoch);
        if expected == known {
            Ok(&self.committee)
        } else {
            Err(FollowError::UnknownCommittee { height, expected, known })
        }
    }

    /// Checks a checkpoint's certificate.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn check(&self, certificate: &CheckpointCertificate) -> Result<(), FollowError> {
        Ok(certificate.verify(self.signers_of(certificate.height)?, self.genesis_hash)?)
    }

    /// Checks a checkpoint's post-quantum certificate.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn check_post_quantum(&self, certificate: &PostQuantumCertificate) -> Result<(), FollowError> {
        Ok(certificate.verify(self.signers_of(certificate.height)?, self.genesis_hash)?)
    }
}
