//! The environment of a block as the EVM sees it.

use crate::{ExecutionConfig, TX_GAS_MAX};
use alloy_eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};
use alloy_evm::EvmEnv;
use alloy_primitives::{B256, U256, keccak256};
use revm::context::{BlockEnv, CfgEnv};
use revm::primitives::hardfork::SpecId;
use trellis_primitives::Header;

/// The fork of the chain, from block zero on.
pub(crate) const SPEC: SpecId = SpecId::OSAKA;

/// The base fee of the block after `parent`: EIP-1559 with a floor.
#[must_use]
pub fn next_base_fee(parent: &Header, floor_wei: u64) -> u64 {
    let base_fee = parent.base_fee_per_gas.unwrap_or(floor_wei);
    calc_next_block_base_fee(parent.gas_used, parent.gas_limit, base_fee, BaseFeeParams::ethereum()).max(floor_wei)
}

/// prevRandao: bound to the chain, known in advance, not random.
pub(crate) fn prev_randao(parent_hash: B256) -> B256 {
    keccak256(parent_hash)
}

/// The EVM's settings for a fork and a chain. Every run of the EVM in this crate begins here, the state tests included.
#[must_use]
pub fn cfg_env(spec: SpecId, chain_id: u64) -> CfgEnv {
    let mut cfg = CfgEnv::new_with_spec(spec).with_chain_id(chain_id);
    cfg.tx_gas_limit_cap = spec.is_enabled_in(SpecId::OSAKA).then_some(TX_GAS_MAX);
    cfg
}

/// What a fork's EVM sees of a header, blobs apart.
pub(crate) fn block_env(spec: SpecId, header: &Header) -> BlockEnv {
    BlockEnv {
        number: U256::from(header.number),
        beneficiary: header.beneficiary,
        timestamp: U256::from(header.timestamp),
        gas_limit: header.gas_limit,
        basefee: header.base_fee_per_gas.unwrap_or_default(),
        difficulty: header.difficulty,
        prevrandao: (spec >= SpecId::MERGE).then_some(header.mix_hash),
        blob_excess_gas_and_price: None,
        slot_num: 0,
    }
}

/// The environment of the block with this header.
#[must_use]
pub fn evm_env(config: &ExecutionConfig, header: &Header) -> EvmEnv {
    let cfg = cfg_env(SPEC, config.chain_id);
    let mut block = BlockEnv { difficulty: U256::ZERO, ..block_env(SPEC, header) };
    block
        .set_blob_excess_gas_and_price(header.excess_blob_gas.unwrap_or_default(), cfg.blob_base_fee_update_fraction());
    EvmEnv { cfg_env: cfg, block_env: block }
}
