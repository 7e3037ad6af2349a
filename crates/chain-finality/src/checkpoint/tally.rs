//! Collecting the signatures of one checkpoint until they weigh enough.

use super::CheckpointMessage;
use super::certificate::{CHECKPOINT_VERSION, CheckpointCertificate, CheckpointError, PostQuantumCertificate, bits};
use super::committee::CheckpointCommittee;
use std::collections::BTreeMap;
use std::sync::Arc;
use trellis_crypto::{
    BLS_SIGNATURE_BYTES, CheckpointKey, SignatureError, aggregate_bls, verify_bls_sum, verify_mldsa44,
};
use trellis_primitives::{Address, B256, Bytes};

/// What one member says about a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSignature {
    /// Who says it.
    pub account: Address,
    /// The BLS signature, a compressed point of G1.
    pub bls: [u8; BLS_SIGNATURE_BYTES],
    /// The ML-DSA-44 signature.
    pub mldsa44: Bytes,
}

impl CheckpointSignature {
    /// Signs with both keys. Only for a block that is final.
    ///
    /// # Errors
    /// [`SignatureError`] where the library cannot sign.
    pub fn sign(key: &CheckpointKey, message: &CheckpointMessage, account: Address) -> Result<Self, SignatureError> {
        let hash = message.signing_hash();
        Ok(Self { account, bls: key.sign_bls(hash.as_slice()), mldsa44: key.sign_mldsa44(hash.as_slice())?.into() })
    }
}

/// The signatures over one checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointTally {
    message: CheckpointMessage,
    hash: B256,
    committee: Arc<CheckpointCommittee>,
    /// By the members' places, so that what is assembled is in their order.
    signatures: BTreeMap<usize, ([u8; BLS_SIGNATURE_BYTES], Bytes)>,
    power: u64,
}

impl CheckpointTally {
    /// Nothing yet, about this, from this committee.
    #[must_use]
    pub fn new(message: CheckpointMessage, committee: Arc<CheckpointCommittee>) -> Self {
        Self { message, hash: message.signing_hash(), committee, signatures: BTreeMap::new(), power: 0 }
    }

    /// What is signed.
    #[must_use]
    pub const fn message(&self) -> &CheckpointMessage {
        &self.message
    }

    /// Who may sign.
    #[must_use]
    pub fn committee(&self) -> &CheckpointCommittee {
        &self.committee
    }

    /// Whether an account's signature is there.
    #[must_use]
    pub fn has(&self, account: &Address) -> bool {
        self.committee.of(account).is_some_and(|(place, _)| self.signatures.contains_key(&place))
    }

    /// Whether everybody who can sign has.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.committee.members().iter().filter(|member| member.verifying().is_some()).count() == self.signatures.len()
    }

    /// Power that signed.
    #[must_use]
    pub const fn power(&self) -> u64 {
        self.power
    }

    /// Takes a signature, if both of its parts verify: a member counts in both certificates or in none. `false` where it is
    /// there already; the first one stays.
    ///
    /// # Errors
    /// [`CheckpointError::NoKeys`] for a stranger, [`CheckpointError::BadSignature`].
    pub fn add(&mut self, signature: &CheckpointSignature) -> Result<bool, CheckpointError> {
        let height = self.message.height;
        let found = self.committee.of(&signature.account);
        let (place, member) = found.ok_or(CheckpointError::NoKeys { height, place: None })?;
        if self.signatures.contains_key(&place) {
            return Ok(false);
        }
        let (bls, mldsa44) = member.verifying().ok_or(CheckpointError::NoKeys { height, place: Some(place) })?;
        let bad = |scheme| CheckpointError::BadSignature { height, scheme, place: Some(place) };
        // The cheaper check first: a tenth of the other.
        verify_mldsa44(mldsa44, self.hash.as_slice(), &signature.mldsa44).map_err(|_| bad("ML-DSA-44"))?;
        verify_bls_sum(&[bls], self.hash.as_slice(), &signature.bls).map_err(|_| bad("BLS12-381"))?;
        self.power = self.power.saturating_add(member.power);
        self.signatures.insert(place, (signature.bls, signature.mldsa44.clone()));
        Ok(true)
    }

    /// Both certificates, once those who signed weigh more than two thirds.
    #[must_use]
    pub fn assemble(&self) -> Option<(CheckpointCertificate, PostQuantumCertificate)> {
        if self.power < self.committee.quorum_power() {
            return None;
        }
        let CheckpointMessage { height, block_hash, next_committee, .. } = self.message;
        let signers = bits(self.signatures.keys().copied(), self.committee.members().len());
        let parts: Vec<_> = self.signatures.values().map(|(bls, _)| *bls).collect();
        let signature = Bytes::copy_from_slice(&aggregate_bls(&parts).ok()?);
        let signatures = self.signatures.values().map(|(_, mldsa44)| mldsa44.clone()).collect();
        let version = CHECKPOINT_VERSION;
        Some((
            CheckpointCertificate { version, height, block_hash, next_committee, signers: signers.clone(), signature },
            PostQuantumCertificate { version, height, block_hash, next_committee, signers, signatures },
        ))
    }
}
