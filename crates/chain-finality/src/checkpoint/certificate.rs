//! The two proofs of a checkpoint: the short one in BLS12-381, which stands in a block, and the long one in ML-DSA-44.

use super::CheckpointMessage;
use super::committee::{CheckpointCommittee, CheckpointMember};
use crate::validator_set::VALIDATORS_MAX;
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use thiserror::Error;
use trellis_crypto::{MLDSA44_SIGNATURE_BYTES, verify_bls_sum, verify_mldsa44};
use trellis_primitives::{B256, Bytes};

/// The form of both certificates; another number is another form.
pub const CHECKPOINT_VERSION: u8 = 1;
/// Bytes of a certificate that stands in a block at most: a bit for each of 4,096 members and 200 bytes besides.
pub const CHECKPOINT_CERTIFICATE_BYTES_MAX: usize = VALIDATORS_MAX.div_ceil(8).saturating_add(200);
/// Bytes of a post-quantum certificate at most: a signature of each of 4,096 members, and their bits.
pub const POST_QUANTUM_CERTIFICATE_BYTES_MAX: usize = VALIDATORS_MAX
    .saturating_mul(MLDSA44_SIGNATURE_BYTES.saturating_add(4))
    .saturating_add(CHECKPOINT_CERTIFICATE_BYTES_MAX);

/// Why a checkpoint's certificate or signature proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// Larger than any honest one.
    #[error("the checkpoint's certificate has {actual} bytes, at most {max} are allowed")]
    TooLarge {
        /// Bytes allowed.
        max: usize,
        /// Bytes given.
        actual: usize,
    },
    /// Not RLP of a certificate.
    #[error("the checkpoint's certificate does not decode: {0}")]
    Encoding(#[from] alloy_rlp::Error),
    /// Another form than this build knows.
    #[error("the checkpoint's certificate has form {actual}, expected {CHECKPOINT_VERSION}")]
    Version {
        /// The number given.
        actual: u8,
    },
    /// The bits are not one for each member.
    #[error(
        "the signers of checkpoint {height} are {actual} bytes, this committee has {expected}, or bits beyond its members are set"
    )]
    Signers {
        /// The checkpoint.
        height: u64,
        /// Bytes that hold a bit for each member.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// A signer sits in the committee, but has no keys to check it with; or does not sit in it at all.
    #[error("checkpoint {height}: the signer at place {place:?} has no checkpoint keys in this committee")]
    NoKeys {
        /// The checkpoint.
        height: u64,
        /// Its place, where it sits.
        place: Option<usize>,
    },
    /// The signers do not weigh enough.
    #[error("checkpoint {height}: signed by power {actual}, needs {expected} of {total}")]
    NotEnoughPower {
        /// The checkpoint.
        height: u64,
        /// Least power that makes it.
        expected: u64,
        /// Power that signed.
        actual: u64,
        /// Power of the whole committee.
        total: u64,
    },
    /// There is not one signature for each signer.
    #[error("checkpoint {height}: {actual} signatures of {expected} signers")]
    SignatureCount {
        /// The checkpoint.
        height: u64,
        /// Bits set.
        expected: usize,
        /// Signatures given.
        actual: usize,
    },
    /// A signature does not verify.
    #[error("checkpoint {height}: the {scheme} signature of {} is not valid", who(.place))]
    BadSignature {
        /// The checkpoint.
        height: u64,
        /// The scheme.
        scheme: &'static str,
        /// The signer's place; none for the sum of all.
        place: Option<usize>,
    },
}

fn who(place: &Option<usize>) -> String {
    place.map_or_else(|| "all signers together".to_owned(), |place| format!("the signer at place {place}"))
}

/// The certificate that stands in a block: some 150 bytes for 100 members.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct CheckpointCertificate {
    /// [`CHECKPOINT_VERSION`].
    pub version: u8,
    /// The final block's height.
    pub height: u64,
    /// Its header's hash.
    pub block_hash: B256,
    /// The next committee's hash.
    pub next_committee: B256,
    /// A bit for each member of the committee, in its order: bit i % 8, from the lowest, of byte i / 8.
    pub signers: Bytes,
    /// The sum of the signers' BLS signatures, a compressed point of G1.
    pub signature: Bytes,
}

/// The same said in ML-DSA-44: 2,420 bytes for each signer, so it stands beside the chain and not in it.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct PostQuantumCertificate {
    /// [`CHECKPOINT_VERSION`].
    pub version: u8,
    /// The final block's height.
    pub height: u64,
    /// Its header's hash.
    pub block_hash: B256,
    /// The next committee's hash.
    pub next_committee: B256,
    /// As in [`CheckpointCertificate`].
    pub signers: Bytes,
    /// The signers' signatures in the committee's order.
    pub signatures: Vec<Bytes>,
}

impl CheckpointCertificate {
    /// What its signers signed, on the chain with this genesis.
    #[must_use]
    pub const fn message(&self, genesis_hash: B256) -> CheckpointMessage {
        let Self { height, block_hash, next_committee, .. } = *self;
        CheckpointMessage { genesis_hash, height, block_hash, next_committee }
    }

    /// Decodes exactly these bytes.
    ///
    /// # Errors
    /// [`CheckpointError`] where they are too many, not the one encoding, or of another version.
    pub fn decode_exact(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let certificate: Self = decode(bytes, CHECKPOINT_CERTIFICATE_BYTES_MAX)?;
        version(certificate.version)?;
        Ok(certificate)
    }

    /// Checks that more than two thirds of the committee that decides its block signed it.
    ///
    /// # Errors
    /// [`CheckpointError`]; what is cheap to see is checked first.
    pub fn verify(&self, committee: &CheckpointCommittee, genesis_hash: B256) -> Result<(), CheckpointError> {
        version(self.version)?;
        let signers = weighed(&self.signers, committee, self.height)?;
        let keys: Vec<_> = signers.iter().filter_map(|(_, member)| member.verifying()).map(|(bls, _)| bls).collect();
        let message = self.message(genesis_hash).signing_hash();
        verify_bls_sum(&keys, message.as_slice(), &self.signature).map_err(|_| CheckpointError::BadSignature {
            height: self.height,
            scheme: "BLS12-381",
            place: None,
        })
    }
}

impl PostQuantumCertificate {
    /// What its signers signed, on the chain with this genesis.
    #[must_use]
    pub const fn message(&self, genesis_hash: B256) -> CheckpointMessage {
        let Self { height, block_hash, next_committee, .. } = *self;
        CheckpointMessage { genesis_hash, height, block_hash, next_committee }
    }

    /// Decodes exactly these bytes.
    ///
    /// # Errors
    /// As [`CheckpointCertificate::decode_exact`].
    pub fn decode_exact(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let certificate: Self = decode(bytes, POST_QUANTUM_CERTIFICATE_BYTES_MAX)?;
        version(certificate.version)?;
        Ok(certificate)
    }

    /// Checks that more than two thirds of the committee that decides its block signed it, each signature.
    ///
    /// # Errors
    /// [`CheckpointError`]; what is cheap to see is checked first.
    pub fn verify(&self, committee: &CheckpointCommittee, genesis_hash: B256) -> Result<(), CheckpointError> {
        version(self.version)?;
        let height = self.height;
        let signers = weighed(&self.signers, committee, height)?;
        let (expected, actual) = (signers.len(), self.signatures.len());
        if expected != actual {
            return Err(CheckpointError::SignatureCount { height, expected, actual });
        }
        let message = self.message(genesis_hash).signing_hash();
        for ((place, member), signature) in signers.into_iter().zip(&self.signatures) {
            let good =
                member.verifying().is_some_and(|(_, key)| verify_mldsa44(key, message.as_slice(), signature).is_ok());
            if !good {
                return Err(CheckpointError::BadSignature { height, scheme: "ML-DSA-44", place: Some(place) });
            }
        }
        Ok(())
    }
}

fn version(actual: u8) -> Result<(), CheckpointError> {
    if actual == CHECKPOINT_VERSION { Ok(()) } else { Err(CheckpointError::Version { actual }) }
}

fn decode<T: Decodable + Encodable>(bytes: &[u8], max: usize) -> Result<T, CheckpointError> {
    if bytes.len() > max {
        return Err(CheckpointError::TooLarge { max, actual: bytes.len() });
    }
    let decoded: T = alloy_rlp::decode_exact(bytes)?;
    if alloy_rlp::encode(&decoded) != bytes {
        return Err(CheckpointError::Encoding(alloy_rlp::Error::Custom("another encoding than the canonical one")));
    }
    Ok(decoded)
}

/// The members whose bits are set, if they have keys and weigh more than two thirds.
fn weighed<'a>(
    bits: &[u8],
    committee: &'a CheckpointCommittee,
    height: u64,
) -> Result<Vec<(usize, &'a CheckpointMember)>, CheckpointError> {
    let members = committee.members();
    let (expected, actual) = (members.len().div_ceil(8), bits.len());
    let set = |place: usize| {
        let byte = bits.get(place.div_euclid(8)).copied().unwrap_or_default();
        byte.checked_shr(u32::try_from(place.rem_euclid(8)).unwrap_or_default()).unwrap_or_default() & 1 == 1
    };
    let beyond = members.len()..actual.saturating_mul(8);
    if expected != actual || beyond.into_iter().any(set) {
        return Err(CheckpointError::Signers { height, expected, actual });
    }
    let signers: Vec<_> = members.iter().enumerate().filter(|(place, _)| set(*place)).collect();
    if let Some((place, _)) = signers.iter().find(|(_, member)| member.verifying().is_none()) {
        return Err(CheckpointError::NoKeys { height, place: Some(*place) });
    }
    let (expected, total) = (committee.quorum_power(), committee.total_power());
    let actual = signers.iter().map(|(_, member)| member.power).fold(0u64, u64::saturating_add);
    if actual < expected {
        return Err(CheckpointError::NotEnoughPower { height, expected, actual, total });
    }
    Ok(signers)
}

/// Bits for places among so many members.
pub(super) fn bits(places: impl Iterator<Item = usize>, members: usize) -> Bytes {
    let mut bits = vec![0u8; members.div_ceil(8)];
    for place in places {
        if let Some(byte) = bits.get_mut(place.div_euclid(8)) {
            *byte |= 1u8.checked_shl(u32::try_from(place.rem_euclid(8)).unwrap_or_default()).unwrap_or_default();
        }
    }
    bits.into()
}
