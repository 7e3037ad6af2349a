//! A finality proof: a header and the certificate over it, verified with nothing but the committee's keys (CHN-42).

use crate::certificate::{CertificateError, verify_certificate};
use crate::validator_set::{CERTIFICATE_BYTES_MAX, ValidatorSet};
use alloy_rlp::{Decodable, RlpDecodable, RlpEncodable};
use thiserror::Error;
use trellis_primitives::{B256, Bytes, CommitCertificate, Header, keccak256};

/// Largest encoded proof that is looked at: a header and the largest certificate.
pub const FINALITY_PROOF_BYTES_MAX: usize = CERTIFICATE_BYTES_MAX + 4_096;

/// What `trellis_getFinalityProof` answers.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct FinalityProof {
    /// RLP of the block's Ethereum header, as received: it is hashed, never re-encoded.
    pub header_rlp: Bytes,
    /// Precommits of more than two thirds of the committee.
    pub certificate: CommitCertificate,
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// Larger than any honest proof.
    #[error("the finality proof has {actual} bytes, at most {FINALITY_PROOF_BYTES_MAX} are allowed")]
    TooLarge {
        /// Bytes given.
        actual: usize,
    },
    /// Not RLP of a proof, or not of a header.
    #[error("the finality proof does not decode: {0}")]
    Encoding(#[from] alloy_rlp::Error),
    /// The certificate is for another block.
    #[error("the certificate is for block {certified}, the header's hash is {actual}")]
    OtherBlock {
        /// Block hash in the certificate.
        certified: B256,
        /// Hash of the header given.
        actual: B256,
    },
    /// The certificate is for another height.
    #[error("the certificate is for height {certified}, the header's number is {actual}")]
    OtherHeight {
        /// Height in the certificate.
        certified: u64,
        /// Number in the header.
        actual: u64,
    },
    /// Who decides that height is not known (any more).
    #[error("the committee that decided block {height} is not known")]
    UnknownCommittee {
        /// The block.
        height: u64,
    },
    /// The certificate itself does not hold.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl FinalityProof {
    /// Decodes a proof from exactly these bytes.
    pub fn decode_exact(bytes: &[u8]) -> Result<Self, ProofError> {
        if bytes.len() > FINALITY_PROOF_BYTES_MAX {
            return Err(ProofError::TooLarge { actual: bytes.len() });
        }
        Ok(alloy_rlp::decode_exact(bytes)?)
    }

    /// Checks the proof against the committee of its height and gives back the header that is final.
    pub fn verify(&self, set: &ValidatorSet, genesis_hash: &B256) -> Result<Header, ProofError> {
        let actual = keccak256(&self.header_rlp);
        if actual != self.certificate.block_hash {
            return Err(ProofError::OtherBlock { certified: self.certificate.block_hash, actual });
        }
        let mut rest: &[u8] = &self.header_rlp;
        let header = Header::decode(&mut rest)?;
        if !rest.is_empty() {
            return Err(ProofError::Encoding(alloy_rlp::Error::UnexpectedLength));
        }
        if header.number != self.certificate.height {
            return Err(ProofError::OtherHeight { certified: self.certificate.height, actual: header.number });
        }
        verify_certificate(&self.certificate, set, genesis_hash)?;
        Ok(header)
    }
}
