//! Who is let in: the rules that need only the transaction, and those that need the account and the queue.

use super::AccountState;
use super::sender::SenderQueue;
use crate::config::{PoolConfig, REPLACEMENT_BUMP_PERCENT, TX_BYTES_MAX, TX_GAS_MAX};
use crate::error::PoolError;
use crate::intrinsic::{INITCODE_BYTES_MAX, intrinsic_gas};
use crate::pooled::PooledTx;
use alloy_consensus::{Transaction, Typed2718};
use alloy_primitives::U256;
use trellis_primitives::RecoveredTx;

const BLOB_TX_TYPE: u8 = 3;
const SET_CODE_TX_TYPE: u8 = 4;

/// The rules that need nothing but the transaction. Run outside the pool's lock.
pub(crate) fn check_stateless(config: &PoolConfig, tx: &RecoveredTx) -> Result<(), PoolError> {
    let envelope = tx.tx.as_ref();
    if envelope.ty() == BLOB_TX_TYPE {
        return Err(PoolError::TypeNotSupported(BLOB_TX_TYPE));
    }
    if tx.encoded_bytes > TX_BYTES_MAX {
        return Err(PoolError::Oversized { got: tx.encoded_bytes, limit: TX_BYTES_MAX });
    }
    match envelope.chain_id() {
        Some(got) if got != config.chain_id => return Err(PoolError::ChainId { got, want: config.chain_id }),
        None if !config.unprotected_allowed => return Err(PoolError::Unprotected),
        _ => {}
    }
    if envelope.nonce() == u64::MAX {
        return Err(PoolError::NonceMax);
    }
    if envelope.is_create() && envelope.input().len() > INITCODE_BYTES_MAX {
        return Err(PoolError::InitcodeSize { got: envelope.input().len(), limit: INITCODE_BYTES_MAX });
    }
    if envelope.ty() == SET_CODE_TX_TYPE && envelope.authorization_list().is_none_or(<[_]>::is_empty) {
        return Err(PoolError::EmptyAuthorizations);
    }
    check_fees_and_gas(config, envelope)
}

fn check_fees_and_gas(config: &PoolConfig, envelope: &trellis_primitives::TxEnvelope) -> Result<(), PoolError> {
    let (fee, tip) = (envelope.max_fee_per_gas(), envelope.priority_fee_or_price());
    if tip > fee {
        return Err(PoolError::TipAboveFee { tip, fee });
    }
    if fee < config.min_fee_wei {
        return Err(PoolError::Underpriced { fee, fee_min: config.min_fee_wei });
    }
    let got = envelope.gas_limit();
    if got > TX_GAS_MAX {
        return Err(PoolError::GasCap { cap: TX_GAS_MAX, got });
    }
    let gas = intrinsic_gas(envelope);
    if got < gas.initial {
        return Err(PoolError::IntrinsicGas { got, needed: gas.initial });
    }
    if got < gas.floor {
        return Err(PoolError::FloorDataGas { got, needed: gas.floor });
    }
    Ok(())
}

/// The rules that need the account as the newest block left it, and the sender's queue.
pub(super) fn check_against_account(
    config: &PoolConfig,
    block_gas_limit: u64,
    queue: Option<&SenderQueue>,
    tx: &PooledTx,
    account: AccountState,
) -> Result<(), PoolError> {
    if tx.gas_limit > block_gas_limit {
        return Err(PoolError::BlockGasLimit { got: tx.gas_limit, limit: block_gas_limit });
    }
    let (next, got) = (account.nonce, tx.nonce);
    if got < next {
        return Err(PoolError::NonceTooLow { next, got });
    }
    if got.saturating_sub(next) > config.nonce_ahead_max {
        return Err(PoolError::NonceTooHigh { next, got, ahead_max: config.nonce_ahead_max });
    }
    let held = queue.and_then(|queue| queue.get(got));
    if let Some(old) = held {
        let (fee_min, tip_min) = (bumped(old.fee), bumped(old.tip));
        if tx.fee < fee_min || tx.tip < tip_min {
            return Err(PoolError::ReplacementUnderpriced { fee: tx.fee, fee_min, tip: tx.tip, tip_min });
        }
    }
    let cost = tx.cost;
    if cost > account.balance {
        return Err(PoolError::InsufficientFunds { balance: account.balance, cost });
    }
    let queued = queue.map_or(U256::ZERO, SenderQueue::cost_total);
    let queued = queued.saturating_sub(held.map_or(U256::ZERO, |old| old.cost));
    if queued.saturating_add(cost) > account.balance {
        return Err(PoolError::InsufficientFundsQueued { balance: account.balance, queued, cost });
    }
    let count = queue.map_or(0, SenderQueue::len);
    if held.is_none() && count >= config.txs_per_sender_max {
        return Err(PoolError::AccountLimit { held: count, limit: config.txs_per_sender_max });
    }
    Ok(())
}

/// The least that replaces a fee: 10 % more, rounded up, and at least one wei more.
fn bumped(fee: u128) -> u128 {
    let bump = fee.saturating_mul(REPLACEMENT_BUMP_PERCENT).div_ceil(100).max(1);
    fee.saturating_add(bump)
}
