//! A transaction's bytes: EIP-1559, signed by an account key.

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Signature, TxKind};
use trellis_crypto::AccountKey;
use trellis_primitives::{B256, Bytes};

use crate::client::TxIntent;
use crate::error::ChainError;
use crate::fees::Fees;

/// What one signing needs besides the intent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    pub(crate) chain_id: u64,
    pub(crate) nonce: u64,
    pub(crate) gas_limit: u64,
    pub(crate) fees: Fees,
}

/// Signs an intent; gives the hash and the bytes for `eth_sendRawTransaction`.
pub(crate) fn sign(intent: &TxIntent, envelope: Envelope, key: &AccountKey) -> Result<(B256, Bytes), ChainError> {
    let tx = TxEip1559 {
        chain_id: envelope.chain_id,
        nonce: envelope.nonce,
        gas_limit: envelope.gas_limit,
        max_fee_per_gas: envelope.fees.max_fee_wei,
        max_priority_fee_per_gas: envelope.fees.priority_fee_wei,
        to: TxKind::Call(intent.to),
        value: intent.value.to_u256(),
        access_list: Default::default(),
        input: intent.data.clone(),
    };
    let bytes = key.sign_hash(tx.signature_hash());
    let signature = Signature::from_raw_array(&bytes)
        .map_err(|error| ChainError::Decode { what: "our own signature", reason: error.to_string() })?;
    let signed = tx.into_signed(signature);
    Ok((*signed.hash(), signed.encoded_2718().into()))
}
