//! The node record: what a node says of itself, signed by all three of its keys (NET-01).

use crate::{RoleSet, UnixMs};
use alloy_primitives::{Address, Bytes};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};

/// Bytes of a signed record at most, signatures and the 1,952-byte ML-DSA key included.
pub const NODE_RECORD_BYTES_MAX: usize = 16_384;
/// Addresses in one record at most.
pub const NODE_RECORD_ADDRESSES_MAX: usize = 16;
/// Models in one record at most.
pub const NODE_RECORD_MODELS_MAX: usize = 64;
/// Bytes of one address or of one model's name at most.
pub const NODE_RECORD_TEXT_BYTES_MAX: usize = 256;

/// Why a record's body is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordBoundError {
    /// The bytes are not the RLP of a record.
    #[error("the node record is not valid RLP: {reason}")]
    NotRlp {
        /// What the decoder said.
        reason: String,
    },
    /// A list or a text is longer than allowed.
    #[error("the node record's {field} has {actual}, at most {max} are allowed")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// Its length.
        actual: usize,
        /// The bound.
        max: usize,
    },
    /// The ML-DSA-65 key is not 1,952 bytes long.
    #[error("the node record's ML-DSA-65 key has {actual} bytes, expected 1952")]
    KeyLength {
        /// The length that was found.
        actual: usize,
    },
}

/// What a node says of itself. Canonical bytes: RLP of the fields in this order.
#[derive(Clone, PartialEq, Eq, Debug, RlpEncodable, RlpDecodable)]
pub struct NodeRecord {
    /// Ed25519 public key; also the libp2p identity.
    pub ed25519: [u8; 32],
    /// ML-DSA-65 public key, 1,952 bytes.
    pub mldsa65: Bytes,
    /// The account that the node is paid to and signs vouchers' counterparts with.
    pub chain_address: Address,
    /// Which network the node is in; the first four bytes of the genesis identity.
    pub network_magic: u32,
    /// What the node does.
    pub roles: RoleSet,
    /// Multiaddresses as text, at most [`NODE_RECORD_ADDRESSES_MAX`].
    pub addresses: Vec<String>,
    /// Names of the models that a provider serves, at most [`NODE_RECORD_MODELS_MAX`].
    pub models: Vec<String>,
    /// Grows by one or more with each new record of the same node.
    pub sequence: u64,
    /// Milliseconds since 1970 after which the record is void.
    pub expires_ms: u64,
}

impl NodeRecord {
    /// The canonical bytes that all three signatures cover.
    #[must_use]
    pub fn to_rlp(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.length());
        self.encode(&mut out);
        out.into()
    }

    /// Decodes and bounds a record that came from a peer.
    ///
    /// # Errors
    /// [`RecordBoundError`] where the bytes are no record or a bound is passed.
    pub fn from_rlp(mut bytes: &[u8]) -> Result<Self, RecordBoundError> {
        if bytes.len() > NODE_RECORD_BYTES_MAX {
            return Err(too_long("bytes", bytes.len(), NODE_RECORD_BYTES_MAX));
        }
        let record =
            Self::decode(&mut bytes).map_err(|error| RecordBoundError::NotRlp { reason: error.to_string() })?;
        if !bytes.is_empty() {
            return Err(RecordBoundError::NotRlp { reason: format!("{} bytes after the record", bytes.len()) });
        }
        record.check_bounds()?;
        Ok(record)
    }

    fn check_bounds(&self) -> Result<(), RecordBoundError> {
        if self.mldsa65.len() != 1_952 {
            return Err(RecordBoundError::KeyLength { actual: self.mldsa65.len() });
        }
        if self.addresses.len() > NODE_RECORD_ADDRESSES_MAX {
            return Err(too_long("addresses", self.addresses.len(), NODE_RECORD_ADDRESSES_MAX));
        }
        if self.models.len() > NODE_RECORD_MODELS_MAX {
            return Err(too_long("models", self.models.len(), NODE_RECORD_MODELS_MAX));
        }
        let longest = self.addresses.iter().chain(&self.models).map(String::len).max().unwrap_or(0);
        if longest > NODE_RECORD_TEXT_BYTES_MAX {
            return Err(too_long("longest text", longest, NODE_RECORD_TEXT_BYTES_MAX));
        }
        Ok(())
    }

    /// When the record becomes void.
    #[must_use]
    pub const fn expires(&self) -> UnixMs {
        UnixMs(self.expires_ms)
    }
}

const fn too_long(field: &'static str, actual: usize, max: usize) -> RecordBoundError {
    RecordBoundError::TooLong { field, actual, max }
}

/// A record and its three signatures. The received bytes are kept and never encoded anew to verify.
#[derive(Clone, PartialEq, Eq, Debug, RlpEncodable, RlpDecodable)]
pub struct SignedNodeRecord {
    /// [`NodeRecord::to_rlp`] as it was signed.
    pub record_rlp: Bytes,
    /// Ed25519 signature, 64 bytes.
    pub ed25519_sig: Bytes,
    /// ML-DSA-65 signature, 3,309 bytes.
    pub mldsa65_sig: Bytes,
    /// secp256k1 signature by the chain address, 65 bytes r ‖ s ‖ v.
    pub secp256k1_sig: Bytes,
}

impl SignedNodeRecord {
    /// The bytes that travel.
    #[must_use]
    pub fn to_rlp(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.length());
        self.encode(&mut out);
        out.into()
    }

    /// Decodes what travelled; signatures are not checked here.
    ///
    /// # Errors
    /// [`RecordBoundError`] where the bytes are too many or no signed record.
    pub fn from_rlp(mut bytes: &[u8]) -> Result<Self, RecordBoundError> {
        if bytes.len() > NODE_RECORD_BYTES_MAX {
            return Err(too_long("bytes", bytes.len(), NODE_RECORD_BYTES_MAX));
        }
        let signed =
            Self::decode(&mut bytes).map_err(|error| RecordBoundError::NotRlp { reason: error.to_string() })?;
        if !bytes.is_empty() {
            return Err(RecordBoundError::NotRlp { reason: format!("{} bytes after the record", bytes.len()) });
        }
        Ok(signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;
    use proptest::prelude::*;

    fn sample() -> NodeRecord {
        NodeRecord {
            ed25519: [1; 32],
            mldsa65: vec![2; 1952].into(),
            chain_address: Address::repeat_byte(3),
            network_magic: 0x5452_4c53,
            roles: RoleSet::of(&[Role::Provider]),
            addresses: vec!["/ip4/127.0.0.1/udp/9700/quic-v1".into()],
            models: vec!["trellis-tiny".into()],
            sequence: 1,
            expires_ms: 2,
        }
    }

    #[test]
    fn a_record_survives_its_own_bytes() {
        assert_eq!(NodeRecord::from_rlp(&sample().to_rlp()).unwrap(), sample());
    }

    #[test]
    fn a_record_with_too_many_addresses_is_refused() {
        let mut record = sample();
        record.addresses = vec![String::new(); NODE_RECORD_ADDRESSES_MAX + 1];
        let refused = NodeRecord::from_rlp(&record.to_rlp());
        assert!(matches!(refused, Err(RecordBoundError::TooLong { field: "addresses", .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_peer_make_the_record_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = NodeRecord::from_rlp(&bytes);
            let _ = SignedNodeRecord::from_rlp(&bytes);
        }
    }
}
