//! Checkpoint keys: what a validator signs checkpoints with, in BLS12-381 for other chains and in ML-DSA-44 against quantum
//! computers (CHN-15). Both come from one seed.

use crate::bls::BLS_CHECKPOINT_DST;
use crate::mldsa::MlDsa44Key;
use crate::{SignatureError, sha3_256};
use blst::BLST_ERROR;
use blst::min_sig::{PublicKey, SecretKey, Signature};
use rand::RngCore;
use zeroize::Zeroizing;

/// Bytes of a BLS12-381 public key: a compressed point of G2.
pub const BLS_PUBLIC_BYTES: usize = 96;
/// Bytes of a BLS12-381 signature: a compressed point of G1.
pub const BLS_SIGNATURE_BYTES: usize = 48;

/// draft-irtf-cfrg-bls-signature, 4.2.3: minimal signatures, proofs of possession.
const POSSESSION_DST: &[u8] = b"BLS_POP_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_";
pub(crate) const SCHEME: &str = "BLS12-381";

/// A validator's secret checkpoint keys. Has no `Debug`; the seed is zeroised when dropped.
pub struct CheckpointKey {
    seed: Zeroizing<[u8; 32]>,
    bls: SecretKey,
    mldsa44: MlDsa44Key,
}

impl CheckpointKey {
    /// New keys from this source of randomness.
    ///
    /// # Errors
    /// [`SignatureError::Key`] where the library refuses the seed.
    pub fn generate(rng: &mut dyn RngCore) -> Result<Self, SignatureError> {
        let mut seed = Zeroizing::new([0u8; 32]);
        rng.fill_bytes(seed.as_mut_slice());
        Self::from_seed(&seed)
    }

    /// The keys of a stored seed.
    ///
    /// # Errors
    /// [`SignatureError::Key`] where the library refuses the seed.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, SignatureError> {
        let part = |domain: &[u8]| Zeroizing::new(sha3_256(&[domain, seed.as_slice()]));
        let bls = SecretKey::key_gen(part(b"trellis/checkpoint/bls/1").as_slice(), &[])
            .map_err(|_| SignatureError::Key { scheme: SCHEME })?;
        let mldsa44 = MlDsa44Key::from_seed(&part(b"trellis/checkpoint/ml-dsa-44/1"))?;
        Ok(Self { seed: Zeroizing::new(*seed), bls, mldsa44 })
    }

    /// The seed as it goes into a keystore.
    #[must_use]
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        self.seed.clone()
    }

    /// The BLS public key, compressed.
    #[must_use]
    pub fn bls_public(&self) -> [u8; BLS_PUBLIC_BYTES] {
        self.bls.sk_to_pk().compress()
    }

    /// The ML-DSA-44 public key.
    #[must_use]
    pub fn mldsa44_public(&self) -> Vec<u8> {
        self.mldsa44.public()
    }

    /// Proves to have the BLS key by signing this.
    #[must_use]
    pub fn prove_bls(&self, message: &[u8]) -> [u8; BLS_SIGNATURE_BYTES] {
        self.bls.sign(message, POSSESSION_DST, &[]).compress()
    }

    /// Signs a checkpoint with the BLS key.
    #[must_use]
    pub fn sign_bls(&self, message: &[u8]) -> [u8; BLS_SIGNATURE_BYTES] {
        self.bls.sign(message, BLS_CHECKPOINT_DST, &[]).compress()
    }

    /// Signs with the ML-DSA-44 key.
    ///
    /// # Errors
    /// [`SignatureError::Library`].
    pub fn sign_mldsa44(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        self.mldsa44.sign(message)
    }
}

/// Checks a proof that somebody has a BLS key.
///
/// # Errors
/// [`SignatureError`] where a length or a point is wrong or the signature does not verify.
pub fn verify_bls(public: &[u8], message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    if public.len() != BLS_PUBLIC_BYTES {
        return Err(SignatureError::Key { scheme: SCHEME });
    }
    if signature.len() != BLS_SIGNATURE_BYTES {
        return Err(SignatureError::Length { scheme: SCHEME, expected: BLS_SIGNATURE_BYTES, actual: signature.len() });
    }
    // Both are checked to be in their group, and the key not to be its neutral element.
    let key = PublicKey::key_validate(public).map_err(|_| SignatureError::Key { scheme: SCHEME })?;
    let signature = Signature::uncompress(signature).map_err(|_| SignatureError::Mismatch { scheme: SCHEME })?;
    match signature.verify(true, message, POSSESSION_DST, &[], &key, false) {
        BLST_ERROR::BLST_SUCCESS => Ok(()),
        _ => Err(SignatureError::Mismatch { scheme: SCHEME }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify_mldsa44;

    #[test]
    fn what_is_proved_with_a_key_verifies_for_it_alone() {
        let (one, other) = (CheckpointKey::from_seed(&[1; 32]).unwrap(), CheckpointKey::from_seed(&[2; 32]).unwrap());
        let proof = one.prove_bls(b"it is mine");
        verify_bls(&one.bls_public(), b"it is mine", &proof).unwrap();
        assert!(verify_bls(&other.bls_public(), b"it is mine", &proof).is_err());
        assert!(verify_bls(&one.bls_public(), b"it is yours", &proof).is_err());
        assert!(verify_bls(&[0; BLS_PUBLIC_BYTES], b"it is mine", &proof).is_err());
        let mut neutral = [0; BLS_PUBLIC_BYTES];
        neutral[0] = 0xc0;
        assert!(verify_bls(&neutral, b"it is mine", &proof).is_err(), "the neutral element proves anything");
        let signature = one.sign_mldsa44(b"a checkpoint").unwrap();
        verify_mldsa44(&one.mldsa44_public(), b"a checkpoint", &signature).unwrap();
        assert!(verify_mldsa44(&other.mldsa44_public(), b"a checkpoint", &signature).is_err());
        let again = CheckpointKey::from_seed(&one.to_seed()).unwrap();
        assert_eq!((again.bls_public(), again.mldsa44_public()), (one.bls_public(), one.mldsa44_public()));
    }
}
