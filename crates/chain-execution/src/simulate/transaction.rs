//! A simulated call as the transaction it would be: unsigned, but with every field that its hash counts.

use super::{BrokenRule, SimulateError};
use alloy_consensus::{
    SignableTransaction, Signed, TxEip1559, TxEip4844, TxEip4844Variant, TxEip7702, TxLegacy, TxType,
};
use alloy_eips::eip2718::Encodable2718;
use alloy_eips::eip4844::DATA_GAS_PER_BLOB;
use alloy_evm::FromRecoveredTx;
use alloy_primitives::{Address, B256, Signature, TxKind, U256, keccak256};
use alloy_rlp::Encodable;
use alloy_rpc_types::TransactionRequest;
use revm::context::TxEnv;
use revm::state::AccountInfo;
use trellis_primitives::TxEnvelope;

/// A simulated transaction. Its signature is all zeros.
#[derive(Clone, Debug)]
pub struct SimulatedTx {
    /// Who would send it.
    pub sender: Address,
    /// The hash of its bytes.
    pub hash: B256,
    /// The transaction.
    pub tx: TxEnvelope,
    encoded: Vec<u8>,
}

impl SimulatedTx {
    /// Its bytes (EIP-2718).
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

/// A call that is ready to run.
pub(super) struct Prepared {
    tx: TxEnvelope,
    pub(super) env: TxEnv,
    fee: u128,
    tip: u128,
    blob_fee: u128,
}

fn zero_signature() -> Signature {
    Signature::new(U256::ZERO, U256::ZERO, false)
}

impl Prepared {
    /// As geth makes it: of dynamic fees unless a gas price is given; what is not given is zero.
    pub(super) fn new(
        call: &TransactionRequest,
        chain_id: u64,
        nonce: u64,
        gas: u64,
        base_fee: Option<u64>,
    ) -> Result<Self, SimulateError> {
        let has_fee = call.max_fee_per_gas.is_some() || call.max_priority_fee_per_gas.is_some();
        if call.gas_price.is_some() && has_fee {
            let reason = "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified";
            return Err(SimulateError::Arguments(reason.to_owned()));
        }
        if let Some(have) = call.chain_id.filter(|have| *have != chain_id) {
            let reason = format!("chainId does not match node's (have={have}, want={chain_id})");
            return Err(SimulateError::Arguments(reason));
        }
        let legacy = call.gas_price.is_some() || base_fee.is_none();
        let price = call.gas_price.unwrap_or_default();
        let (fee, tip) = if legacy {
            (price, price)
        } else {
            (call.max_fee_per_gas.unwrap_or_default(), call.max_priority_fee_per_gas.unwrap_or_default())
        };
        let tx = if legacy { legacy_tx(call, nonce, gas, price) } else { typed(call, chain_id, nonce, gas)? };
        let mut env = TxEnv::from_recovered_tx(&tx, call.from.unwrap_or_default());
        env.chain_id = Some(chain_id);
        let blobs = call.blob_versioned_hashes.is_some();
        let blob_fee = call.max_fee_per_blob_gas.filter(|_| blobs).unwrap_or_default();
        Ok(Self { tx, env, fee, tip, blob_fee })
    }

    pub(super) const fn offers_nothing(&self) -> bool {
        self.fee == 0 && self.tip == 0
    }

    pub(super) fn tx_type(&self) -> TxType {
        self.tx.tx_type()
    }

    pub(super) fn blob_gas(&self) -> u64 {
        u64::try_from(self.env.blob_hashes.len()).unwrap_or(u64::MAX).saturating_mul(DATA_GAS_PER_BLOB)
    }

    /// The rules that geth checks before it runs anything, in its order: nonce, fees, funds.
    pub(super) fn check(
        &self,
        info: &AccountInfo,
        validation: bool,
        base_fee: u64,
        blob_price: u128,
    ) -> Result<(), SimulateError> {
        let gas = self.env.gas_limit;
        let refuse = |rule, reason: String| Err(SimulateError::Call { rule, reason, gas });
        let (have, nonce) = (info.nonce, self.env.nonce);
        if validation && nonce > have {
            return refuse(BrokenRule::NonceTooHigh, format!("nonce too high: tx: {nonce} state: {have}"));
        }
        if validation && nonce < have {
            return refuse(BrokenRule::NonceTooLow, format!("nonce too low: tx: {nonce} state: {have}"));
        }
        if validation && have == u64::MAX {
            return refuse(BrokenRule::Other, format!("nonce has max value: nonce: {have}"));
        }
        if validation || !self.offers_nothing() {
            if self.tip > self.fee {
                let reason = "max priority fee per gas higher than max fee per gas".to_owned();
                return refuse(BrokenRule::TipOverFee, reason);
            }
            if self.fee < u128::from(base_fee) {
                let reason = format!(
                    "max fee per gas less than block base fee: maxFeePerGas: {}, baseFee: {base_fee}",
                    self.fee
                );
                return refuse(BrokenRule::FeeTooLow, reason);
            }
        }
        if self.blob_gas() > 0 && (validation || self.blob_fee > 0) && self.blob_fee < blob_price {
            let reason = format!("max fee per blob gas less than block blob gas fee: {} < {blob_price}", self.blob_fee);
            return refuse(BrokenRule::Other, reason);
        }
        let of = |gas: u64, price: u128| U256::from(gas).saturating_mul(U256::from(price));
        let want = of(gas, self.fee).saturating_add(of(self.blob_gas(), self.blob_fee)).saturating_add(self.env.value);
        if info.balance < want {
            let reason = format!("insufficient funds for gas * price + value: have {} want {want}", info.balance);
            return refuse(BrokenRule::Funds, reason);
        }
        Ok(())
    }

    pub(super) fn into_tx(self, sender: Address) -> SimulatedTx {
        let encoded = match &self.tx {
            TxEnvelope::Legacy(tx) => unsigned(tx.tx()),
            tx => tx.encoded_2718(),
        };
        let hash = keccak256(&encoded);
        let tx = match self.tx {
            TxEnvelope::Legacy(tx) => {
                TxEnvelope::Legacy(Signed::new_unchecked(tx.strip_signature(), zero_signature(), hash))
            }
            tx => tx,
        };
        SimulatedTx { sender, hash, tx, encoded }
    }
}

/// The bytes of a legacy transaction with v, r and s all zero, which no encoder of signed ones gives.
fn unsigned(tx: &TxLegacy) -> Vec<u8> {
    let mut fields = Vec::new();
    tx.nonce.encode(&mut fields);
    tx.gas_price.encode(&mut fields);
    tx.gas_limit.encode(&mut fields);
    tx.to.encode(&mut fields);
    tx.value.encode(&mut fields);
    tx.input.encode(&mut fields);
    for _ in ["v", "r", "s"] {
        0_u64.encode(&mut fields);
    }
    let mut out = Vec::new();
    alloy_rlp::Header { list: true, payload_length: fields.len() }.encode(&mut out);
    out.extend_from_slice(&fields);
    out
}

fn legacy_tx(call: &TransactionRequest, nonce: u64, gas_limit: u64, gas_price: u128) -> TxEnvelope {
    let tx = TxLegacy {
        chain_id: None,
        nonce,
        gas_price,
        gas_limit,
        to: call.to.unwrap_or(TxKind::Create),
        value: call.value.unwrap_or_default(),
        input: call.input.input().cloned().unwrap_or_default(),
    };
    TxEnvelope::Legacy(tx.into_signed(zero_signature()))
}

fn typed(call: &TransactionRequest, chain_id: u64, nonce: u64, gas_limit: u64) -> Result<TxEnvelope, SimulateError> {
    let to = call.to.unwrap_or(TxKind::Create);
    let value = call.value.unwrap_or_default();
    let input = call.input.input().cloned().unwrap_or_default();
    let access_list = call.access_list.clone().unwrap_or_default();
    let max_fee_per_gas = call.max_fee_per_gas.unwrap_or_default();
    let max_priority_fee_per_gas = call.max_priority_fee_per_gas.unwrap_or_default();
    let named = |what: &str| match to {
        TxKind::Call(to) => Ok(to),
        TxKind::Create => Err(SimulateError::Arguments(format!("{what} transaction of type create not allowed"))),
    };
    if let Some(list) = &call.authorization_list {
        let tx = TxEip7702 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to: named("set code")?,
            value,
            access_list,
            authorization_list: list.clone(),
            input,
        };
        return Ok(TxEnvelope::Eip7702(tx.into_signed(zero_signature())));
    }
    if let Some(hashes) = &call.blob_versioned_hashes {
        let tx = TxEip4844 {
            chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas,
            max_priority_fee_per_gas,
            to: named("blob")?,
            value,
            access_list,
            blob_versioned_hashes: hashes.clone(),
            max_fee_per_blob_gas: call.max_fee_per_blob_gas.unwrap_or_default(),
            input,
        };
        return Ok(TxEnvelope::Eip4844(TxEip4844Variant::TxEip4844(tx).into_signed(zero_signature())));
    }
    let tx = TxEip1559 {
        chain_id,
        nonce,
        gas_limit,
        max_fee_per_gas,
        max_priority_fee_per_gas,
        to,
        value,
        access_list,
        input,
    };
    Ok(TxEnvelope::Eip1559(tx.into_signed(zero_signature())))
}
