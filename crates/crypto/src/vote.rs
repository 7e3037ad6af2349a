//! Vote keys: what a validator signs its votes with. Ed25519 by default; ML-DSA-44 is the post-quantum mode (CHN-15).

use crate::SignatureError;
use crate::hybrid::verify_ed25519;
use ed25519_dalek::{Signer, SigningKey};
use rand::RngCore;
use trellis_primitives::{Address, keccak256};
use zeroize::Zeroizing;

/// A validator's secret vote key. Has no `Debug`; is zeroised when dropped.
#[derive(Clone)]
pub struct VoteKey(SigningKey);

impl VoteKey {
    /// A new key from this source of randomness.
    pub fn generate(rng: &mut dyn RngCore) -> Self {
        let mut seed = Zeroizing::new([0u8; 32]);
        rng.fill_bytes(seed.as_mut_slice());
        Self::from_seed(&seed)
    }

    /// The key of a stored seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed as it goes into a keystore.
    #[must_use]
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The validator's address in votes and certificates.
    #[must_use]
    pub fn address(&self) -> Address {
        address(&self.public())
    }

    /// A signature over vote bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// The address of a vote key: the last 20 bytes of the keccak of the public key.
#[must_use]
pub fn address(public: &[u8]) -> Address {
    Address::from_word(keccak256(public))
}

/// Checks a vote's signature.
///
/// # Errors
/// [`SignatureError`] where the key is no key or the signature does not verify.
pub fn verify(public: &[u8; 32], message: &[u8], sig: &[u8]) -> Result<(), SignatureError> {
    verify_ed25519(public, message, sig)
}
