//! Typed data that a contract can check: EIP-712 with the domain `Trellis`, version `1`.

use trellis_primitives::{Address, B256, keccak256};

/// The domain's type string.
pub const DOMAIN_TYPE: &str = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
/// The domain's name.
pub const DOMAIN_NAME: &str = "Trellis";
/// The domain's version.
pub const DOMAIN_VERSION: &str = "1";

/// Where a signature counts: one contract on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Domain {
    /// The EVM chain id.
    pub chain_id: u64,
    /// The contract that checks the signature.
    pub contract: Address,
}

impl Domain {
    /// The domain separator of EIP-712.
    #[must_use]
    pub fn separator(&self) -> B256 {
        let mut words = Words::with_type(DOMAIN_TYPE);
        words.word(keccak256(DOMAIN_NAME));
        words.word(keccak256(DOMAIN_VERSION));
        words.uint(u128::from(self.chain_id));
        words.address(self.contract);
        words.hash()
    }

    /// `keccak256(0x1901 ‖ separator ‖ struct hash)`, which is what the key signs.
    #[must_use]
    pub fn digest(&self, struct_hash: B256) -> B256 {
        let mut bytes = [0u8; 66];
        bytes[0] = 0x19;
        bytes[1] = 0x01;
        bytes[2..34].copy_from_slice(self.separator().as_slice());
        bytes[34..66].copy_from_slice(struct_hash.as_slice());
        keccak256(bytes)
    }
}

/// A struct's fields as 32-byte words, in order.
#[derive(Debug, Clone, Default)]
pub struct Words {
    bytes: Vec<u8>,
}

impl Words {
    /// Begins with the hash of the struct's type string.
    #[must_use]
    pub fn with_type(type_string: &str) -> Self {
        let mut words = Self::default();
        words.word(keccak256(type_string));
        words
    }

    /// Appends a `bytes32`.
    pub fn word(&mut self, word: B256) {
        self.bytes.extend_from_slice(word.as_slice());
    }

    /// Appends an unsigned integer of at most 128 bits.
    pub fn uint(&mut self, value: u128) {
        self.bytes.extend_from_slice(&[0u8; 16]);
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// Appends an address.
    pub fn address(&mut self, address: Address) {
        self.bytes.extend_from_slice(&[0u8; 12]);
        self.bytes.extend_from_slice(address.as_slice());
    }

    /// The hash over all words.
    #[must_use]
    pub fn hash(&self) -> B256 {
        keccak256(&self.bytes)
    }

    /// The words themselves.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
