//! What a block's header must say, as far as its parent and its body decide it.

use crate::block::same;
use crate::ethereum::EthereumBlock;
use crate::forks::ForkSchedule;
use crate::{BlockError, EXTRA_DATA_BYTES_MAX};
use alloy_consensus::constants::EMPTY_OMMER_ROOT_HASH;
use alloy_consensus::proofs::{calculate_ommers_root, calculate_transaction_root, calculate_withdrawals_root};
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::B64;
use trellis_chain_storage::StateView;
use trellis_primitives::Header;

/// Ommers of one block at most.
const OMMERS_MAX: usize = 2;

fn refuse(field: &'static str, expected: String, found: String) -> Result<(), BlockError> {
    Err(BlockError::Field { field, expected, found })
}

pub(super) fn check(forks: &ForkSchedule, parent: &StateView, block: &EthereumBlock) -> Result<(), BlockError> {
    let (header, before) = (&block.header, parent.header());
    same("parentHash", parent.block_hash(), header.parent_hash)?;
    same("number", before.number.saturating_add(1), header.number)?;
    if header.timestamp <= before.timestamp {
        return refuse("timestamp", format!("over {}", before.timestamp), header.timestamp.to_string());
    }
    if header.extra_data.len() > EXTRA_DATA_BYTES_MAX {
        let found = format!("{} bytes", header.extra_data.len());
        return refuse("extraData", format!("at most {EXTRA_DATA_BYTES_MAX} bytes"), found);
    }
    if !forks.gas_limit_follows(before, header.number, header.gas_limit) {
        return refuse("gasLimit", format!("near {}", before.gas_limit), header.gas_limit.to_string());
    }
    merge(before, block)?;
    forked(forks, before, header)?;
    body(block)
}

/// After the merge there is no going back, and nothing is mined.
fn merge(before: &Header, block: &EthereumBlock) -> Result<(), BlockError> {
    let header = &block.header;
    if before.number > 0 && before.difficulty.is_zero() {
        same("difficulty", before.difficulty, header.difficulty)?;
    }
    if header.difficulty.is_zero() {
        same("nonce", B64::ZERO, header.nonce)?;
        same("sha3Uncles", EMPTY_OMMER_ROOT_HASH, header.ommers_hash)?;
    }
    Ok(())
}

/// Fields that came with some fork: there from it on, and not before.
fn forked(forks: &ForkSchedule, before: &Header, header: &Header) -> Result<(), BlockError> {
    let (at, time_s) = (forks.at(header), header.timestamp);
    let cancun = at.is_cancun_active_at_timestamp(time_s);
    same("baseFeePerGas", forks.base_fee(before, header.number), header.base_fee_per_gas)?;
    same("excessBlobGas", forks.excess_blob_gas(before, time_s), header.excess_blob_gas)?;
    let withdrawals = at.is_shanghai_active_at_timestamp(time_s);
    same("withdrawalsRoot is there", withdrawals, header.withdrawals_root.is_some())?;
    same("blobGasUsed is there", cancun, header.blob_gas_used.is_some())?;
    same("parentBeaconBlockRoot is there", cancun, header.parent_beacon_block_root.is_some())?;
    same("requestsHash is there", at.is_prague_active_at_timestamp(time_s), header.requests_hash.is_some())?;
    same("blockAccessListHash", None, header.block_access_list_hash)?;
    same("slotNumber", None, header.slot_number)
}

fn body(block: &EthereumBlock) -> Result<(), BlockError> {
    let (header, body) = (&block.header, &block.body);
    if body.ommers.len() > OMMERS_MAX {
        return refuse("uncles", format!("at most {OMMERS_MAX}"), body.ommers.len().to_string());
    }
    same("sha3Uncles", calculate_ommers_root(&body.ommers), header.ommers_hash)?;
    same("transactionsRoot", calculate_transaction_root(&body.transactions), header.transactions_root)?;
    let withdrawals = body.withdrawals.as_ref().map(|list| calculate_withdrawals_root(list));
    same("withdrawalsRoot", withdrawals, header.withdrawals_root)
}
