//! ML-DSA (FIPS 204) through aws-lc: 65 for node identity and receipts, 44 for votes and accounts (CHN-15).

use crate::SignatureError;
use aws_lc_rs::signature::{self, KeyPair, PqdsaKeyPair, UnparsedPublicKey};
use aws_lc_rs::signature::{ML_DSA_44, ML_DSA_44_SIGNING, ML_DSA_65, ML_DSA_65_SIGNING};

/// Bytes of an ML-DSA-65 public key.
pub const MLDSA65_PUBLIC_BYTES: usize = 1_952;
/// Bytes of an ML-DSA-65 signature.
pub const MLDSA65_SIGNATURE_BYTES: usize = 3_309;
/// Bytes of an ML-DSA-44 public key.
pub const MLDSA44_PUBLIC_BYTES: usize = 1_312;
/// Bytes of an ML-DSA-44 signature.
pub const MLDSA44_SIGNATURE_BYTES: usize = 2_420;

const SCHEME_65: &str = "ML-DSA-65";
const SCHEME_44: &str = "ML-DSA-44";

/// An ML-DSA-65 key pair, made from its 32-byte seed.
pub(crate) struct MlDsa65Key(PqdsaKeyPair);

impl MlDsa65Key {
    pub(crate) fn from_seed(seed: &[u8; 32]) -> Result<Self, SignatureError> {
        PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, seed)
            .map(Self)
            .map_err(|_| SignatureError::Key { scheme: SCHEME_65 })
    }

    pub(crate) fn public(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let mut out = vec![0u8; MLDSA65_SIGNATURE_BYTES];
        self.0.sign(message, &mut out).map_err(|_| SignatureError::Library { scheme: SCHEME_65 })?;
        Ok(out)
    }
}

/// An ML-DSA-44 key pair, made from its 32-byte seed.
pub(crate) struct MlDsa44Key(PqdsaKeyPair);

impl MlDsa44Key {
    pub(crate) fn from_seed(seed: &[u8; 32]) -> Result<Self, SignatureError> {
        PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, seed)
            .map(Self)
            .map_err(|_| SignatureError::Key { scheme: SCHEME_44 })
    }

    pub(crate) fn public(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let mut out = vec![0u8; MLDSA44_SIGNATURE_BYTES];
        self.0.sign(message, &mut out).map_err(|_| SignatureError::Library { scheme: SCHEME_44 })?;
        Ok(out)
    }
}

/// Verifies an ML-DSA-65 signature with an empty context.
///
/// # Errors
/// [`SignatureError`] where a length is wrong or the signature does not verify.
pub fn verify_mldsa65(public: &[u8], message: &[u8], sig: &[u8]) -> Result<(), SignatureError> {
    verify(&ML_DSA_65, SCHEME_65, (MLDSA65_PUBLIC_BYTES, MLDSA65_SIGNATURE_BYTES), public, message, sig)
}

/// Verifies an ML-DSA-44 signature with an empty context.
///
/// # Errors
/// [`SignatureError`] where a length is wrong or the signature does not verify.
pub fn verify_mldsa44(public: &[u8], message: &[u8], sig: &[u8]) -> Result<(), SignatureError> {
    verify(&ML_DSA_44, SCHEME_44, (MLDSA44_PUBLIC_BYTES, MLDSA44_SIGNATURE_BYTES), public, message, sig)
}

fn verify(
    algorithm: &'static dyn signature::VerificationAlgorithm,
    scheme: &'static str,
    (public_bytes, signature_bytes): (usize, usize),
    public: &[u8],
    message: &[u8],
    sig: &[u8],
) -> Result<(), SignatureError> {
    if public.len() != public_bytes {
        return Err(SignatureError::Key { scheme });
    }
    if sig.len() != signature_bytes {
        return Err(SignatureError::Length { scheme, expected: signature_bytes, actual: sig.len() });
    }
    UnparsedPublicKey::new(algorithm, public).verify(message, sig).map_err(|_| SignatureError::Mismatch { scheme })
}
