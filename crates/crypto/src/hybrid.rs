//! A node's identity: Ed25519 (the libp2p PeerId) and ML-DSA-65 together (NET-01).

use crate::mldsa::MlDsa65Key;
use crate::{MLDSA65_PUBLIC_BYTES, SignatureError, sha3_256, verify_mldsa65};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rand::RngCore;
use trellis_primitives::NodeId;
use zeroize::Zeroizing;

const ED25519: &str = "Ed25519";
/// What the NodeId's hash begins with.
const NODE_ID_DOMAIN: &[u8] = b"trellis/node/1";
/// Bytes of a hybrid secret: the Ed25519 seed and the ML-DSA seed.
pub const HYBRID_SECRET_BYTES: usize = 64;

/// Both public keys of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HybridPublic {
    /// Ed25519 public key.
    pub ed25519: [u8; 32],
    /// ML-DSA-65 public key, 1,952 bytes.
    pub mldsa65: Vec<u8>,
}

impl HybridPublic {
    /// SHA3-256("trellis/node/1" ‖ Ed25519 key ‖ ML-DSA-65 key).
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(sha3_256(&[NODE_ID_DOMAIN, &self.ed25519, &self.mldsa65]))
    }

    /// Checks an Ed25519 signature strictly (no small-order keys).
    ///
    /// # Errors
    /// [`SignatureError`] where the key is no key or the signature does not verify.
    pub fn verify_ed25519(&self, message: &[u8], sig: &[u8]) -> Result<(), SignatureError> {
        verify_ed25519(&self.ed25519, message, sig)
    }

    /// Checks an ML-DSA-65 signature.
    ///
    /// # Errors
    /// [`SignatureError`] where a length is wrong or the signature does not verify.
    pub fn verify_mldsa65(&self, message: &[u8], sig: &[u8]) -> Result<(), SignatureError> {
        verify_mldsa65(&self.mldsa65, message, sig)
    }
}

/// Checks an Ed25519 signature strictly (no small-order keys).
///
/// # Errors
/// [`SignatureError`] where the key is no key, a length is wrong, or the signature does not verify.
pub fn verify_ed25519(public: &[u8; 32], message: &[u8], sig: &[u8]) -> Result<(), SignatureError> {
    let key = VerifyingKey::from_bytes(public).map_err(|_| SignatureError::Key { scheme: ED25519 })?;
    let bytes: [u8; 64] =
        sig.try_into().map_err(|_| SignatureError::Length { scheme: ED25519, expected: 64, actual: sig.len() })?;
    key.verify_strict(message, &Signature::from_bytes(&bytes)).map_err(|_| SignatureError::Mismatch { scheme: ED25519 })
}

/// Both key pairs of a node. Has no `Debug`; is zeroised when dropped.
pub struct HybridKey {
    ed25519: SigningKey,
    mldsa65: MlDsa65Key,
    mldsa65_seed: Zeroizing<[u8; 32]>,
    public: HybridPublic,
}

impl HybridKey {
    /// New keys from this source of randomness.
    ///
    /// # Errors
    /// [`SignatureError`] where the library makes no key from a seed, which it does for every seed.
    pub fn generate(rng: &mut dyn RngCore) -> Result<Self, SignatureError> {
        let mut secret = Zeroizing::new([0u8; HYBRID_SECRET_BYTES]);
        rng.fill_bytes(secret.as_mut_slice());
        Self::from_secret(&secret)
    }

    /// The keys of a stored secret: Ed25519 seed ‖ ML-DSA seed.
    ///
    /// # Errors
    /// [`SignatureError`] where the library refuses the seed.
    pub fn from_secret(secret: &[u8; HYBRID_SECRET_BYTES]) -> Result<Self, SignatureError> {
        let (mut classical, mut quantum) = (Zeroizing::new([0u8; 32]), Zeroizing::new([0u8; 32]));
        classical.copy_from_slice(&secret[..32]);
        quantum.copy_from_slice(&secret[32..]);
        let ed25519 = SigningKey::from_bytes(&classical);
        let mldsa65 = MlDsa65Key::from_seed(&quantum)?;
        let public = HybridPublic { ed25519: ed25519.verifying_key().to_bytes(), mldsa65: mldsa65.public() };
        debug_assert_eq!(public.mldsa65.len(), MLDSA65_PUBLIC_BYTES);
        Ok(Self { ed25519, mldsa65, mldsa65_seed: quantum, public })
    }

    /// The secret as it goes into a keystore.
    #[must_use]
    pub fn to_secret(&self) -> Zeroizing<[u8; HYBRID_SECRET_BYTES]> {
        let mut secret = Zeroizing::new([0u8; HYBRID_SECRET_BYTES]);
        secret[..32].copy_from_slice(self.ed25519.as_bytes());
        secret[32..].copy_from_slice(self.mldsa65_seed.as_slice());
        secret
    }

    /// Both public keys.
    #[must_use]
    pub const fn public(&self) -> &HybridPublic {
        &self.public
    }

    /// The node's name.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.public.node_id()
    }

    /// An Ed25519 signature.
    #[must_use]
    pub fn ed25519_sign(&self, message: &[u8]) -> [u8; 64] {
        self.ed25519.sign(message).to_bytes()
    }

    /// An ML-DSA-65 signature, 3,309 bytes, hedged with the library's own randomness.
    ///
    /// # Errors
    /// [`SignatureError::Library`] where the library fails.
    pub fn mldsa65_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        self.mldsa65.sign(message)
    }

    /// The Ed25519 seed, for libp2p's own identity and for nothing else.
    #[must_use]
    pub fn libp2p_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.ed25519.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn key(seed: u64) -> HybridKey {
        HybridKey::generate(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed)).unwrap()
    }

    // row: NET-01
    #[test]
    fn a_node_id_comes_from_both_keys_and_survives_storage() {
        let first = key(1);
        let again = HybridKey::from_secret(&first.to_secret()).unwrap();
        assert_eq!(first.node_id(), again.node_id());
        let mut mixed = first.public().clone();
        mixed.mldsa65 = key(2).public().mldsa65.clone();
        assert_ne!(mixed.node_id(), first.node_id());
    }

    #[test]
    fn both_signatures_verify_and_a_changed_message_does_not() {
        let key = key(3);
        let quantum = key.mldsa65_sign(b"message").unwrap();
        let classical = key.ed25519_sign(b"message");
        key.public().verify_mldsa65(b"message", &quantum).unwrap();
        key.public().verify_ed25519(b"message", &classical).unwrap();
        assert!(key.public().verify_mldsa65(b"massage", &quantum).is_err());
        assert!(key.public().verify_ed25519(b"massage", &classical).is_err());
        assert!(key.public().verify_mldsa65(b"message", &quantum[1..]).is_err());
    }
}
