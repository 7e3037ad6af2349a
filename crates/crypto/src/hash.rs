//! Hashing with domains, so that bytes signed for one purpose mean nothing for another.

use sha3::{Digest, Sha3_256};
use trellis_primitives::B256;

/// SHA3-256 over the parts in order, without separators; callers put lengths or fixed sizes between them.
#[must_use]
pub fn sha3_256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha3_256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// What is signed outside EIP-712: SHA3-256(len(domain) as one byte ‖ domain ‖ chain id as 8 bytes big-endian ‖ RLP).
///
/// Domains are constants of ours below 256 bytes; a longer one is cut, which no constant reaches.
#[must_use]
pub fn domain_hash(domain: &str, chain_id: u64, rlp: &[u8]) -> B256 {
    let name = domain.as_bytes().get(..255).unwrap_or(domain.as_bytes());
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    B256::from(sha3_256(&[&[length], name, &chain_id.to_be_bytes(), rlp]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_domain_or_chain_gives_another_hash() {
        let base = domain_hash("trellis/record/1", 1, b"x");
        assert_ne!(base, domain_hash("trellis/record/2", 1, b"x"));
        assert_ne!(base, domain_hash("trellis/record/1", 2, b"x"));
        assert_ne!(base, domain_hash("trellis/record/1", 1, b"y"));
    }

    #[test]
    fn sha3_is_the_fips_202_function() {
        let empty = hex_of(&sha3_256(&[b""]));
        assert_eq!(empty, "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a");
    }

    fn hex_of(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
