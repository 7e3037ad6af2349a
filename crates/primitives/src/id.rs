//! Identifiers: fixed 32-byte values, shown in hexadecimal and never random where a key or a hash can make them.

use alloy_primitives::B256;
use alloy_rlp::{RlpDecodableWrapper, RlpEncodableWrapper};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text does not hold exactly 32 bytes of hexadecimal.
    #[error("an id is 64 hexadecimal digits, got {actual:?}")]
    NotHex {
        /// The text as it was given, cut to 80 characters.
        actual: String,
    },
}

fn parse_hex32(text: &str) -> Result<[u8; 32], IdError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mut bytes = [0u8; 32];
    hex::decode_to_slice(digits, &mut bytes)
        .map_err(|_| IdError::NotHex { actual: text.chars().take(80).collect() })?;
    Ok(bytes)
}

/// A node's name: SHA3-256 over both of its public keys (NET-01). The libp2p PeerId is only an address.
///
/// Shown as 64 lowercase hexadecimal digits without a prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The first eight digits, for tables and log lines; never for a comparison.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(self.0.get(..4).unwrap_or_default())
    }

    /// The same 32 bytes as a word of the EVM.
    #[must_use]
    pub fn to_b256(self) -> B256 {
        B256::from(self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.short())
    }
}

impl FromStr for NodeId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_hex32(text).map(Self)
    }
}

impl From<B256> for NodeId {
    fn from(word: B256) -> Self {
        Self(word.0)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! word_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
            RlpEncodableWrapper, RlpDecodableWrapper,
        )]
        #[serde(transparent)]
        pub struct $name(pub B256);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{}", hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex32(text).map(|bytes| Self(B256::from(bytes)))
            }
        }

        impl From<B256> for $name {
            fn from(word: B256) -> Self {
                Self(word)
            }
        }
    };
}

word_id! {
    /// One paid unit of compute; chosen by the gateway, unique within a channel.
    JobId
}
word_id! {
    /// A payment channel: the hash of all its fixed fields, the chain id and the contract (MKT-30).
    ChannelId
}
word_id! {
    /// The root of a batch's receipts tree (MKT-40).
    BatchRoot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_own_text() {
        let id = NodeId([7u8; 32]);
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
        let job = JobId(B256::repeat_byte(9));
        assert_eq!(job.to_string().parse::<JobId>().unwrap(), job);
    }

    #[test]
    fn a_short_or_foreign_text_is_refused() {
        assert!("abc".parse::<NodeId>().is_err());
        assert!("zz".repeat(32).parse::<ChannelId>().is_err());
    }
}
