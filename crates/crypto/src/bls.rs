//! BLS12-381 signatures over checkpoints (CHN-15): one message, many signers, one signature of 48 bytes.
//!
//! Keys are points of G2, signatures of G1, so that the part that travels is the small one. A foreign chain checks one with
//! EIP-2537: the message is hashed to G1 with [`BLS_CHECKPOINT_DST`] (RFC 9380), the keys are added up in G2, one pairing
//! check follows. Adding keys up is safe only where each was proved to be possessed.

use crate::SignatureError;
use crate::checkpoint::{BLS_PUBLIC_BYTES, BLS_SIGNATURE_BYTES, SCHEME};
use blst::BLST_ERROR;
use blst::min_sig::{AggregateSignature, PublicKey, Signature};

/// What messages are hashed to the curve with: the suite of minimal signatures with proofs of possession
/// (draft-irtf-cfrg-bls-signature, 4.2.3; RFC 9380, 8.8.1). Never that of the proofs of possession themselves.
pub const BLS_CHECKPOINT_DST: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_";

/// A public key that was checked to be in its group and not its neutral element.
#[derive(Clone, Copy, Debug)]
pub struct BlsPublicKey {
    point: PublicKey,
    compressed: [u8; BLS_PUBLIC_BYTES],
}

impl PartialEq for BlsPublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.compressed == other.compressed
    }
}

impl Eq for BlsPublicKey {}

impl BlsPublicKey {
    /// Reads a compressed key.
    ///
    /// # Errors
    /// [`SignatureError::Key`] where it is no key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SignatureError> {
        let wrong = SignatureError::Key { scheme: SCHEME };
        let compressed: [u8; BLS_PUBLIC_BYTES] = bytes.try_into().map_err(|_| wrong.clone())?;
        let point = PublicKey::key_validate(&compressed).map_err(|_| wrong)?;
        Ok(Self { point, compressed })
    }

    /// The compressed key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; BLS_PUBLIC_BYTES] {
        &self.compressed
    }
}

/// Adds signatures over one message up to one.
///
/// # Errors
/// [`SignatureError::Mismatch`] where there is none, or one of them is no point of the group.
pub fn aggregate_bls(signatures: &[[u8; BLS_SIGNATURE_BYTES]]) -> Result<[u8; BLS_SIGNATURE_BYTES], SignatureError> {
    let wrong = |_| SignatureError::Mismatch { scheme: SCHEME };
    let points = signatures
        .iter()
        .map(|signature| Signature::sig_validate(signature, true))
        .collect::<Result<Vec<_>, _>>()
        .map_err(wrong)?;
    let points: Vec<&Signature> = points.iter().collect();
    let sum = AggregateSignature::aggregate(&points, false).map_err(wrong)?;
    Ok(sum.to_signature().compress())
}

/// Checks the sum of the signatures of all these keys over one message. One key and its signature are the simplest sum.
///
/// # Errors
/// [`SignatureError`] where there is no key, or the sum does not verify.
pub fn verify_bls_sum(keys: &[&BlsPublicKey], message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    if signature.len() != BLS_SIGNATURE_BYTES {
        return Err(SignatureError::Length { scheme: SCHEME, expected: BLS_SIGNATURE_BYTES, actual: signature.len() });
    }
    let mismatch = SignatureError::Mismatch { scheme: SCHEME };
    // Its group is checked here, and that it is not the neutral element, which every message has where keys cancel out.
    let signature = Signature::sig_validate(signature, true).map_err(|_| mismatch.clone())?;
    let points: Vec<&PublicKey> = keys.iter().map(|key| &key.point).collect();
    match signature.fast_aggregate_verify(false, message, BLS_CHECKPOINT_DST, &points) {
        BLST_ERROR::BLST_SUCCESS => Ok(()),
        _ => Err(mismatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CheckpointKey, verify_bls};

    fn keys(count: u8) -> (Vec<CheckpointKey>, Vec<BlsPublicKey>) {
        let secret: Vec<_> = (1..=count).map(|n| CheckpointKey::from_seed(&[n; 32]).unwrap()).collect();
        let public = secret.iter().map(|key| BlsPublicKey::from_bytes(&key.bls_public()).unwrap()).collect();
        (secret, public)
    }

    #[test]
    fn a_sum_verifies_for_exactly_those_who_signed_and_what_they_signed() {
        let (secret, public) = keys(4);
        let all: Vec<&BlsPublicKey> = public.iter().collect();
        let signatures: Vec<_> = secret.iter().map(|key| key.sign_bls(b"block 64")).collect();
        let sum = aggregate_bls(&signatures).unwrap();
        verify_bls_sum(&all, b"block 64", &sum).unwrap();
        assert!(verify_bls_sum(&all, b"block 65", &sum).is_err());
        assert!(verify_bls_sum(&all[..3], b"block 64", &sum).is_err());
        assert!(verify_bls_sum(&[], b"block 64", &sum).is_err());
        assert!(verify_bls_sum(&all, b"block 64", &sum[..47]).is_err());
        assert!(aggregate_bls(&[]).is_err());
        assert!(aggregate_bls(&[[7; BLS_SIGNATURE_BYTES]]).is_err());
    }

    #[test]
    fn keys_that_cancel_out_sign_nothing() {
        let (secret, public) = keys(1);
        let mut negative = secret[0].bls_public();
        negative[0] ^= 0x20;
        let negative = BlsPublicKey::from_bytes(&negative).unwrap();
        let mut neutral = [0; BLS_SIGNATURE_BYTES];
        neutral[0] = 0xc0;
        assert!(verify_bls_sum(&[&public[0], &negative], b"anything", &neutral).is_err());
    }

    #[test]
    fn a_proof_of_possession_is_no_signature_and_the_other_way_round() {
        let (secret, public) = keys(1);
        let proof = secret[0].prove_bls(b"block 64");
        assert!(verify_bls_sum(&[&public[0]], b"block 64", &proof).is_err());
        assert!(verify_bls(public[0].as_bytes(), b"block 64", &secret[0].sign_bls(b"block 64")).is_err());
    }

    #[test]
    fn a_key_is_refused_that_is_none() {
        assert!(BlsPublicKey::from_bytes(&[0; BLS_PUBLIC_BYTES]).is_err());
        assert!(BlsPublicKey::from_bytes(&[1; 95]).is_err());
        let mut neutral = [0; BLS_PUBLIC_BYTES];
        neutral[0] = 0xc0;
        assert!(BlsPublicKey::from_bytes(&neutral).is_err());
    }
}
