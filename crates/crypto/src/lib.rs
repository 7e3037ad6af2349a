//! Keys and proofs: hybrid signing, keystore, key agreement, hashing with domains, Merkle trees.
//!
//! Each key has one purpose (decisions: "Keys, all separate"). Secrets are zeroised when dropped, have no `Debug`,
//! and leave this crate only into a keystore file or as the one seed that libp2p needs for its own identity.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod account;
mod bls;
mod checkpoint;
pub mod file;
mod hash;
pub mod hybrid;
pub mod keystore;
pub mod merkle;
mod mldsa;
mod quantum;
pub mod record;
pub mod vote;

pub use account::{ACCOUNT_SIGNATURE_BYTES, AccountKey, recover};
pub use bls::{BLS_CHECKPOINT_DST, BlsPublicKey, aggregate_bls, verify_bls_sum};
pub use checkpoint::{BLS_PUBLIC_BYTES, BLS_SIGNATURE_BYTES, CheckpointKey, verify_bls};
pub use hash::{domain_hash, sha3_256};
pub use hybrid::{HybridKey, HybridPublic};
pub use mldsa::{
    MLDSA44_PUBLIC_BYTES, MLDSA44_SIGNATURE_BYTES, MLDSA65_PUBLIC_BYTES, MLDSA65_SIGNATURE_BYTES, verify_mldsa44,
    verify_mldsa65,
};
pub use quantum::QuantumKey;
pub use vote::{VoteKey, VotePublicKey, VoteScheme};

/// Why a signature or a key is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The signature has the wrong length.
    #[error("a {scheme} signature has {expected} bytes, got {actual}")]
    Length {
        /// Which scheme.
        scheme: &'static str,
        /// Bytes it must have.
        expected: usize,
        /// Bytes it has.
        actual: usize,
    },
    /// The public key has the wrong length.
    #[error("a {scheme} key has {expected} bytes, got {actual}")]
    KeyLength {
        /// Which scheme.
        scheme: &'static str,
        /// Bytes it must have.
        expected: usize,
        /// Bytes it has.
        actual: usize,
    },
    /// The public or secret key is no key of the scheme.
    #[error("not a {scheme} key")]
    Key {
        /// Which scheme.
        scheme: &'static str,
    },
    /// The signature's s is in the upper half of the group order, so a second valid form of it exists (EIP-2).
    #[error("the signature's s value is in the upper half; only the lower one is accepted")]
    HighS,
    /// The recovery byte is neither 27 nor 28.
    #[error("the recovery byte is 27 or 28, got {actual}")]
    RecoveryByte {
        /// The byte.
        actual: u8,
    },
    /// The signature does not belong to this key and message.
    #[error("the {scheme} signature does not verify")]
    Mismatch {
        /// Which scheme.
        scheme: &'static str,
    },
    /// The cryptographic library could not make a signature.
    #[error("the {scheme} library could not sign")]
    Library {
        /// Which scheme.
        scheme: &'static str,
    },
}
