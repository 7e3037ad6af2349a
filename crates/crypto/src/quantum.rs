//! The key of a post-quantum account (CHN-21): ML-DSA-44, with a secp256k1 key beside it where both must sign.

use crate::mldsa::MlDsa44Key;
use crate::{AccountKey, SignatureError};
use rand::RngCore;
use trellis_primitives::B256;
use zeroize::Zeroizing;

const SEED_BYTES: usize = 32;
const SCHEME: &str = "post-quantum account";

/// The secret of a post-quantum account. Has no `Debug`; is zeroised when dropped.
pub struct QuantumKey {
    seed: Zeroizing<[u8; SEED_BYTES]>,
    mldsa44: MlDsa44Key,
    beside: Option<AccountKey>,
}

impl QuantumKey {
    /// A new key from this source of randomness; with `hybrid` a pair of which both must sign.
    ///
    /// # Errors
    /// [`SignatureError::Key`] where the library refuses the seed.
    pub fn generate(rng: &mut dyn RngCore, hybrid: bool) -> Result<Self, SignatureError> {
        let mut seed = Zeroizing::new([0u8; SEED_BYTES]);
        rng.fill_bytes(seed.as_mut_slice());
        Self::of(&seed, hybrid.then(|| AccountKey::generate(rng)))
    }

    /// The key of a stored secret, as [`QuantumKey::to_secret`] gives it.
    ///
    /// # Errors
    /// [`SignatureError::Key`] for another length, or where a library refuses a part.
    pub fn from_secret(secret: &[u8]) -> Result<Self, SignatureError> {
        let refused = SignatureError::Key { scheme: SCHEME };
        let (seed, beside) = secret.split_at_checked(SEED_BYTES).ok_or(refused.clone())?;
        let seed: &[u8; SEED_BYTES] = seed.try_into().map_err(|_| refused.clone())?;
        let beside = match beside {
            [] => None,
            bytes => Some(AccountKey::from_bytes(bytes.try_into().map_err(|_| refused)?)?),
        };
        Self::of(seed, beside)
    }

    fn of(seed: &[u8; SEED_BYTES], beside: Option<AccountKey>) -> Result<Self, SignatureError> {
        Ok(Self { seed: Zeroizing::new(*seed), mldsa44: MlDsa44Key::from_seed(seed)?, beside })
    }

    /// The secret as it goes into a keystore: the ML-DSA seed, then the secp256k1 key if there is one.
    #[must_use]
    pub fn to_secret(&self) -> Zeroizing<Vec<u8>> {
        let mut secret = Zeroizing::new(Vec::with_capacity(2 * SEED_BYTES));
        secret.extend_from_slice(self.seed.as_slice());
        if let Some(key) = &self.beside {
            secret.extend_from_slice(key.to_bytes().as_slice());
        }
        secret
    }

    /// Whether a secp256k1 key must sign too.
    #[must_use]
    pub const fn is_hybrid(&self) -> bool {
        self.beside.is_some()
    }

    /// The key as an ERC-7913 verifier takes it: the account of the secp256k1 key if there is one, the ML-DSA-44 public key.
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        let mut key = self.beside.as_ref().map(|key| key.address().to_vec()).unwrap_or_default();
        key.extend_from_slice(&self.mldsa44.public());
        key
    }

    /// Signs a digest: r ‖ s ‖ v of the secp256k1 key if there is one, the ML-DSA-44 signature (hedged, so never twice the same).
    ///
    /// # Errors
    /// [`SignatureError::Library`] where the library cannot sign.
    pub fn sign_hash(&self, digest: B256) -> Result<Vec<u8>, SignatureError> {
        let mut signature = self.beside.as_ref().map(|key| key.sign_hash(digest).to_vec()).unwrap_or_default();
        signature.extend_from_slice(&self.mldsa44.sign(digest.as_slice())?);
        Ok(signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MLDSA44_PUBLIC_BYTES, MLDSA44_SIGNATURE_BYTES, recover, verify_mldsa44};
    use rand::SeedableRng;

    // row: CHN-21
    #[test]
    fn a_stored_key_signs_as_the_one_it_was_stored_from_alone_and_with_a_second_key() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let digest = B256::repeat_byte(7);
        for hybrid in [false, true] {
            let key = QuantumKey::generate(&mut rng, hybrid).unwrap();
            let stored = QuantumKey::from_secret(&key.to_secret()).unwrap();
            assert_eq!((stored.public(), stored.is_hybrid()), (key.public(), hybrid));
            let (public, signature) = (key.public(), stored.sign_hash(digest).unwrap());
            let (beside, public) = public.split_at(public.len() - MLDSA44_PUBLIC_BYTES);
            let (other, signature) = signature.split_at(signature.len() - MLDSA44_SIGNATURE_BYTES);
            verify_mldsa44(public, digest.as_slice(), signature).unwrap();
            let signer = if hybrid { recover(digest, other).unwrap().to_vec() } else { Vec::new() };
            assert_eq!(signer, beside);
            assert!(verify_mldsa44(public, B256::ZERO.as_slice(), signature).is_err());
        }
    }

    #[test]
    fn a_secret_of_another_length_is_no_key() {
        for length in [0, 31, 33, 63, 65] {
            assert!(QuantumKey::from_secret(&vec![1; length]).is_err(), "{length}");
        }
    }
}
