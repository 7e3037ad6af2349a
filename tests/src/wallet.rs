//! An account that sends coins, with transactions signed here and handed to JSON-RPC.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, Signature, TxKind, U256, hex};
use trellis_crypto::account::AccountKey;

/// The second account of the public test mnemonic.
pub const SECOND_ACCOUNT: [u8; 32] = hex!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d");

/// Gas of a transfer at most: one to a contract runs its code.
const TRANSFER_GAS_MAX: u64 = 60_000;

/// A key and the number of its next transaction.
pub struct Wallet {
    key: AccountKey,
    chain_id: u64,
    nonce: u64,
}

impl Wallet {
    /// An account that has sent nothing yet.
    ///
    /// # Panics
    /// Where the secret is none.
    pub fn new(secret: &[u8; 32], chain_id: u64) -> Self {
        Self { key: AccountKey::from_bytes(secret).expect("a key"), chain_id, nonce: 0 }
    }

    /// The next transfer of one wei: its bytes, and its hash.
    ///
    /// # Panics
    /// Never: a signature of the key's is one.
    pub fn transfer(&mut self) -> (String, String) {
        self.pay(Address::repeat_byte(7), 1)
    }

    /// The next payment of so many wei: its bytes, and its hash.
    ///
    /// # Panics
    /// Never: a signature of the key's is one.
    pub fn pay(&mut self, to: Address, wei: u128) -> (String, String) {
        let tx = TxEip1559 {
            chain_id: self.chain_id,
            nonce: self.nonce,
            gas_limit: TRANSFER_GAS_MAX,
            max_fee_per_gas: 100_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(to),
            value: U256::from(wei),
            ..Default::default()
        };
        self.nonce += 1;
        let signature = Signature::from_raw_array(&self.key.sign_hash(tx.signature_hash())).expect("a signature");
        let tx: TxEnvelope = tx.into_signed(signature).into();
        (hex::encode_prefixed(tx.encoded_2718()), tx.tx_hash().to_string())
    }
}
