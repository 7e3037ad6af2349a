//! Vote keys: what a validator signs its votes with. Ed25519 by default; ML-DSA-44 is the post-quantum mode (CHN-15).

use crate::SignatureError;
use crate::hybrid::verify_ed25519;
use crate::mldsa::{MLDSA44_PUBLIC_BYTES, MLDSA44_SIGNATURE_BYTES, MlDsa44Key, verify_mldsa44};
use ed25519_dalek::{Signer, SigningKey};
use rand::RngCore;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use trellis_primitives::{Address, B256, keccak256};
use zeroize::Zeroizing;

const ED25519_PUBLIC_BYTES: usize = 32;
const ED25519_SIGNATURE_BYTES: usize = 64;

/// How a validator signs its votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum VoteScheme {
    /// Ed25519 (RFC 8032), the default.
    #[default]
    Ed25519 = 1,
    /// ML-DSA-44 (FIPS 204) with an empty context, the post-quantum mode.
    MlDsa44 = 2,
}

/// A word that names no scheme.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vote schemes are ed25519 and ml-dsa-44, got {actual:?}")]
pub struct UnknownVoteScheme {
    /// The word.
    pub actual: String,
}

impl VoteScheme {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ed25519, Self::MlDsa44];

    /// Length of a public key of this scheme, in bytes.
    #[must_use]
    pub const fn public_key_bytes(self) -> usize {
        match self {
            Self::Ed25519 => ED25519_PUBLIC_BYTES,
            Self::MlDsa44 => MLDSA44_PUBLIC_BYTES,
        }
    }

    /// Length of a signature of this scheme, in bytes.
    #[must_use]
    pub const fn signature_bytes(self) -> usize {
        match self {
            Self::Ed25519 => ED25519_SIGNATURE_BYTES,
            Self::MlDsa44 => MLDSA44_SIGNATURE_BYTES,
        }
    }

    /// The byte by which the stake's contract knows this scheme.
    #[must_use]
    pub const fn contract_byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0,
            Self::MlDsa44 => 1,
        }
    }

    /// The scheme with this tag, as it stands in committees and in evidence.
    #[must_use]
    pub const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Ed25519),
            2 => Some(Self::MlDsa44),
            _ => None,
        }
    }

    /// The word for flags and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::MlDsa44 => "ml-dsa-44",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "Ed25519",
            Self::MlDsa44 => "ML-DSA-44",
        }
    }
}

impl fmt::Display for VoteScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for VoteScheme {
    type Err = UnknownVoteScheme;

    fn from_str(word: &str) -> Result<Self, UnknownVoteScheme> {
        let found = Self::ALL.into_iter().find(|scheme| scheme.word() == word);
        found.ok_or_else(|| UnknownVoteScheme { actual: word.to_owned() })
    }
}

/// A validator's public vote key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VotePublicKey {
    /// 32 raw bytes (RFC 8032).
    Ed25519([u8; ED25519_PUBLIC_BYTES]),
    /// 1,312 raw bytes (FIPS 204).
    MlDsa44(Box<[u8; MLDSA44_PUBLIC_BYTES]>),
}

impl VotePublicKey {
    /// The scheme this key belongs to.
    #[must_use]
    pub const fn scheme(&self) -> VoteScheme {
        match self {
            Self::Ed25519(_) => VoteScheme::Ed25519,
            Self::MlDsa44(_) => VoteScheme::MlDsa44,
        }
    }

    /// The raw key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(bytes) => bytes,
            Self::MlDsa44(bytes) => bytes.as_slice(),
        }
    }

    /// Reads a raw key of a scheme.
    ///
    /// # Errors
    /// [`SignatureError::KeyLength`] where it has not the length of one.
    pub fn from_bytes(scheme: VoteScheme, bytes: &[u8]) -> Result<Self, SignatureError> {
        let length = |_| SignatureError::KeyLength {
            scheme: scheme.name(),
            expected: scheme.public_key_bytes(),
            actual: bytes.len(),
        };
        match scheme {
            VoteScheme::Ed25519 => bytes.try_into().map(Self::Ed25519).map_err(length),
            VoteScheme::MlDsa44 => bytes.try_into().map(|key| Self::MlDsa44(Box::new(key))).map_err(length),
        }
    }

    /// Reads a raw key where only its length says of which scheme it is.
    ///
    /// # Errors
    /// [`SignatureError::KeyLength`] where it has the length of none.
    pub fn read(bytes: &[u8]) -> Result<Self, SignatureError> {
        let long = bytes.len() > ED25519_PUBLIC_BYTES;
        Self::from_bytes(if long { VoteScheme::MlDsa44 } else { VoteScheme::Ed25519 }, bytes)
    }

    /// The validator's address: the last 20 bytes of keccak-256 of the raw key.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::from_word(keccak256(self.as_bytes()))
    }

    /// What the stake's contract calls this key: keccak-256 of the scheme's byte and the key.
    #[must_use]
    pub fn contract_hash(&self) -> B256 {
        let mut bytes = vec![self.scheme().contract_byte()];
        bytes.extend_from_slice(self.as_bytes());
        keccak256(bytes)
    }

    /// Whether `signature` is this key's over `message`. A wrong length is simply not a signature.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(public) => verify_ed25519(public, message, signature).is_ok(),
            Self::MlDsa44(public) => verify_mldsa44(public.as_slice(), message, signature).is_ok(),
        }
    }
}

/// A validator's secret vote key. Has no `Debug`; the seed is zeroised when dropped.
#[derive(Clone)]
pub struct VoteKey {
    seed: Zeroizing<[u8; 32]>,
    secret: Secret,
    public: VotePublicKey,
}

#[derive(Clone)]
enum Secret {
    Ed25519(Box<SigningKey>),
    MlDsa44(Arc<MlDsa44Key>),
}

impl VoteKey {
    /// A new key from this source of randomness.
    ///
    /// # Errors
    /// [`SignatureError::Key`] where the library refuses the seed.
    pub fn generate(scheme: VoteScheme, rng: &mut dyn RngCore) -> Result<Self, SignatureError> {
        let mut seed = Zeroizing::new([0u8; 32]);
        rng.fill_bytes(seed.as_mut_slice());
        Self::of_seed(scheme, &seed)
    }

    /// The Ed25519 key of a stored seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let secret = SigningKey::from_bytes(seed);
        let public = VotePublicKey::Ed25519(secret.verifying_key().to_bytes());
        Self { seed: Zeroizing::new(*seed), secret: Secret::Ed25519(Box::new(secret)), public }
    }

    /// The key of a scheme of a stored seed.
    ///
    /// # Errors
    /// [`SignatureError::Key`] where the library refuses the seed.
    pub fn of_seed(scheme: VoteScheme, seed: &[u8; 32]) -> Result<Self, SignatureError> {
        match scheme {
            VoteScheme::Ed25519 => Ok(Self::from_seed(seed)),
            VoteScheme::MlDsa44 => {
                let key = MlDsa44Key::from_seed(seed)?;
                let public = VotePublicKey::from_bytes(scheme, &key.public())?;
                Ok(Self { seed: Zeroizing::new(*seed), secret: Secret::MlDsa44(Arc::new(key)), public })
            }
        }
    }

    /// The scheme.
    #[must_use]
    pub const fn scheme(&self) -> VoteScheme {
        self.public.scheme()
    }

    /// The seed as it goes into a keystore.
    #[must_use]
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        self.seed.clone()
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> VotePublicKey {
        self.public.clone()
    }

    /// The validator's address in votes and certificates.
    #[must_use]
    pub fn address(&self) -> Address {
        self.public.address()
    }

    /// A signature over vote bytes. ML-DSA signatures of the same bytes differ each time.
    ///
    /// # Errors
    /// [`SignatureError::Library`] where the library does not sign; Ed25519 always does.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        match &self.secret {
            Secret::Ed25519(key) => Ok(key.sign(message).to_bytes().to_vec()),
            Secret::MlDsa44(key) => key.sign(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(scheme: VoteScheme, n: u8) -> VoteKey {
        VoteKey::of_seed(scheme, &[n; 32]).unwrap()
    }

    // row: CHN-15
    #[test]
    fn a_vote_key_of_either_scheme_signs_what_only_its_public_key_verifies() {
        for scheme in VoteScheme::ALL {
            let (one, other) = (key(scheme, 1), key(scheme, 2));
            let signature = one.sign(b"a vote").unwrap();
            assert_eq!(signature.len(), scheme.signature_bytes());
            assert_eq!(one.public().as_bytes().len(), scheme.public_key_bytes());
            assert!(one.public().verifies(b"a vote", &signature));
            assert!(!one.public().verifies(b"another", &signature), "{scheme}");
            assert!(!other.public().verifies(b"a vote", &signature), "{scheme}");
            assert!(!one.public().verifies(b"a vote", &signature[1..]), "{scheme}");
            let again = key(scheme, 1);
            assert_eq!((again.public(), again.address()), (one.public(), one.address()));
            assert_eq!(VoteKey::of_seed(scheme, &one.to_seed()).unwrap().public(), one.public());
            assert_eq!(VotePublicKey::read(one.public().as_bytes()).unwrap(), one.public());
            assert_eq!(scheme.word().parse(), Ok(scheme));
        }
        let (ed25519, mldsa44) = (key(VoteScheme::Ed25519, 1), key(VoteScheme::MlDsa44, 1));
        assert!(!mldsa44.public().verifies(b"a vote", &ed25519.sign(b"a vote").unwrap()));
        assert!(!ed25519.public().verifies(b"a vote", &mldsa44.sign(b"a vote").unwrap()));
        assert_ne!(ed25519.public().contract_hash(), mldsa44.public().contract_hash());
        assert!("rsa".parse::<VoteScheme>().is_err());
    }

    // row: CHN-15
    #[test]
    fn a_post_quantum_vote_is_verified_with_an_empty_context() {
        let key = key(VoteScheme::MlDsa44, 3);
        let signature = key.sign(b"a vote").unwrap();
        verify_mldsa44(key.public().as_bytes(), b"a vote", &signature).unwrap();
        assert_ne!(signature, key.sign(b"a vote").unwrap(), "signing is hedged");
    }

    proptest! {
        #[test]
        fn bytes_of_any_length_are_a_key_of_the_scheme_of_that_length_or_none(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            proptest::collection::vec(any::<u8>(), 1_310..1_315),
        ]) {
            match VotePublicKey::read(&bytes) {
                Ok(key) => {
                    prop_assert_eq!(key.as_bytes(), bytes.as_slice());
                    prop_assert!(!key.verifies(b"", &bytes));
                }
                Err(_) => prop_assert!(![32, 1_312].contains(&bytes.len())),
            }
        }
    }
}
