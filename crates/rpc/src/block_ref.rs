//! How a client names a block: by tag, number or hash.

use crate::error::ArgumentError;
use crate::params::{hash, quantity_u64};
use alloy_primitives::B256;
use serde_json::Value;

/// A block as a client names it.
///
/// On a Trellis chain `latest`, `safe` and `finalized` are one: a block that is stored here has the signatures of more than
/// two thirds of the committee and cannot be undone. Of an imported chain of Ethereum's the importer was told which are which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BlockRef {
    /// The newest final block.
    Latest,
    /// The newest block that will hardly be undone.
    Safe,
    /// The newest block that cannot be undone.
    Finalized,
    /// The block that would come next.
    Pending,
    /// A height.
    Number(u64),
    /// A header's hash.
    Hash(B256),
}

/// A tag or a number, or a hash, or an object with one of the two (EIP-1898).
pub(crate) fn block_ref(value: &Value) -> Result<BlockRef, ArgumentError> {
    match value {
        Value::String(text) => from_text(text, value),
        Value::Number(_) => quantity_u64(value).map(BlockRef::Number),
        Value::Object(fields) => match (fields.get("blockHash"), fields.get("blockNumber")) {
            (Some(_), Some(_)) => Err(ArgumentError::Object(
                "cannot specify both BlockHash and BlockNumber, choose one or the other".into(),
            )),
            (Some(named), None) => hash(named).map(BlockRef::Hash),
            (None, Some(named)) => block_ref(named),
            (None, None) => Err(ArgumentError::Want("blockHash or blockNumber")),
        },
        _ => Err(ArgumentError::Want("block tag, number or hash")),
    }
}

/// A tag or a number, where Ethereum takes no hash.
pub(crate) fn block_number(value: &Value) -> Result<BlockRef, ArgumentError> {
    match block_ref(value)? {
        BlockRef::Hash(_) => Err(ArgumentError::TooBig(64)),
        named => Ok(named),
    }
}

fn from_text(text: &str, value: &Value) -> Result<BlockRef, ArgumentError> {
    const HASH_DIGITS: usize = 66;
    match text {
        "latest" => Ok(BlockRef::Latest),
        "safe" => Ok(BlockRef::Safe),
        "finalized" => Ok(BlockRef::Finalized),
        "pending" => Ok(BlockRef::Pending),
        "earliest" => Ok(BlockRef::Number(0)),
        _ if text.len() == HASH_DIGITS => hash(value).map(BlockRef::Hash),
        _ if text.starts_with("0x") || text.chars().all(|letter| letter.is_ascii_digit()) => {
            quantity_u64(value).map(BlockRef::Number)
        }
        _ => Err(ArgumentError::Tag(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tags_numbers_and_hashes_are_told_apart() {
        let digest = format!("0x{}", "ab".repeat(32));
        for (named, expected) in [
            (json!("latest"), BlockRef::Latest),
            (json!("safe"), BlockRef::Safe),
            (json!("finalized"), BlockRef::Finalized),
            (json!("pending"), BlockRef::Pending),
            (json!("earliest"), BlockRef::Number(0)),
            (json!("0x10"), BlockRef::Number(16)),
            (json!(16), BlockRef::Number(16)),
            (json!(digest), BlockRef::Hash(B256::repeat_byte(0xab))),
            (json!({"blockHash": digest, "requireCanonical": true}), BlockRef::Hash(B256::repeat_byte(0xab))),
            (json!({"blockNumber": "0x10"}), BlockRef::Number(16)),
        ] {
            assert_eq!(block_ref(&named).unwrap(), expected, "{named}");
        }
        for bad in [json!("newest"), json!("10"), json!(null), json!({}), json!("0x"), json!(-1), json!([])] {
            assert!(block_ref(&bad).is_err(), "{bad}");
        }
        assert!(block_number(&json!(digest)).is_err());
        assert_eq!(block_ref(&json!("2")).unwrap_err().to_string(), "hex string without 0x prefix");
    }
}
