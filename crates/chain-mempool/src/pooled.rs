//! One transaction as the pool holds it: what is asked often is worked out once.

use alloy_consensus::Transaction;
use alloy_primitives::U256;
use trellis_primitives::{RecoveredTx, UnixMs};

/// A transaction in the pool, with its fees and its place in the line.
#[derive(Clone, Debug)]
pub struct PooledTx {
    /// The transaction, its hash and its sender.
    pub tx: RecoveredTx,
    /// The nonce.
    pub nonce: u64,
    /// The most it costs its sender: gas limit times fee cap plus value, wei.
    pub cost: U256,
    /// The fee cap per gas, wei (a legacy transaction's gas price).
    pub fee: u128,
    /// The tip cap per gas, wei (a legacy transaction's gas price).
    pub tip: u128,
    /// The gas limit.
    pub gas_limit: u64,
    /// When it came.
    pub arrived: UnixMs,
    /// Its place in the order of arrival, which settles equal tips.
    pub sequence: u64,
}

impl PooledTx {
    /// Works out the fees. `None` where the cost is over 256 bits.
    #[must_use]
    pub fn new(tx: RecoveredTx, arrived: UnixMs, sequence: u64) -> Option<Self> {
        let envelope = tx.tx.as_ref();
        let fee = envelope.max_fee_per_gas();
        let tip = envelope.priority_fee_or_price();
        let gas_limit = envelope.gas_limit();
        let cost = U256::from(fee).checked_mul(U256::from(gas_limit))?.checked_add(envelope.value())?;
        let nonce = envelope.nonce();
        Some(Self { tx, nonce, cost, fee, tip, gas_limit, arrived, sequence })
    }

    /// What the block's maker gets per gas at this base fee, wei; `None` where the fee cap is under the base fee.
    #[must_use]
    pub fn effective_tip(&self, base_fee: u64) -> Option<u128> {
        Some(self.fee.checked_sub(u128::from(base_fee))?.min(self.tip))
    }
}
