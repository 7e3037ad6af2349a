//! A commit certificate: proof that a block is final.

use crate::validator_set::ValidatorSet;
use crate::vote::{VoteKind, VotePlace};
use std::collections::BTreeSet;
use thiserror::Error;
use trellis_primitives::{Address, B256, CommitCertificate};

/// Why a certificate proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// A signer is not in the committee of this height.
    #[error("certificate for height {height}: {validator} is not in the committee")]
    UnknownValidator {
        /// Height the certificate claims.
        height: u64,
        /// The stranger.
        validator: Address,
    },
    /// A signer is listed twice.
    #[error("certificate for height {height}: {validator} signed twice")]
    DuplicateValidator {
        /// Height the certificate claims.
        height: u64,
        /// Who is listed again.
        validator: Address,
    },
    /// The signers are not in ascending order of address, so the certificate is not the one canonical form.
    #[error("certificate for height {height}: {validator} is out of order")]
    NotSorted {
        /// Height the certificate claims.
        height: u64,
        /// The first one out of order.
        validator: Address,
    },
    /// A signature does not verify.
    #[error("certificate for height {height}: the signature of {validator} is not valid")]
    BadSignature {
        /// Height the certificate claims.
        height: u64,
        /// Whose signature it claims to be.
        validator: Address,
    },
    /// The signers do not weigh enough.
    #[error("certificate for height {height}: signed by power {actual}, needs {expected} of {total}")]
    NotEnoughPower {
        /// Height the certificate claims.
        height: u64,
        /// Least power that decides.
        expected: u64,
        /// Power that signed.
        actual: u64,
        /// Power of the whole committee.
        total: u64,
    },
}

/// Checks that more than two thirds of `set` precommitted to the certificate's block, in its round, on the chain with
/// this genesis. Every listed signature must be valid: a certificate with one bad signature is refused as a whole.
/// Cheap checks come first, so that a forged list costs no signature verification.
pub fn verify_certificate(
    certificate: &CommitCertificate,
    set: &ValidatorSet,
    genesis_hash: &B256,
) -> Result<(), CertificateError> {
    let height = certificate.height;
    let mut seen = BTreeSet::new();
    let mut sorted = Ok(());
    let mut actual = 0u64;
    let mut members = Vec::with_capacity(certificate.signatures.len().min(set.count()));
    for entry in &certificate.signatures {
        let validator = entry.validator;
        let Some(member) = set.get(&validator) else {
            return Err(CertificateError::UnknownValidator { height, validator });
        };
        if seen.last().is_some_and(|last| *last > validator) {
            sorted = Err(CertificateError::NotSorted { height, validator });
        }
        if !seen.insert(validator) {
            return Err(CertificateError::DuplicateValidator { height, validator });
        }
        actual = actual.saturating_add(member.power);
        members.push((member, &entry.signature));
    }
    sorted?;
    let expected = set.quorum_power();
    if actual < expected {
        let total = set.total_power();
        return Err(CertificateError::NotEnoughPower { height, expected, actual, total });
    }
    let place = VotePlace { height, round: certificate.round, kind: VoteKind::Precommit };
    let message = place.signing_hash(genesis_hash, Some(&certificate.block_hash));
    for (member, signature) in members {
        if !member.public_key.verifies(message.as_slice(), signature) {
            return Err(CertificateError::BadSignature { height, validator: member.address });
        }
    }
    Ok(())
}
