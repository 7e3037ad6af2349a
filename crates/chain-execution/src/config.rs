//! Bounds and settings of execution.

use alloy_primitives::B256;

/// Gas of one transaction at most (EIP-7825).
pub const TX_GAS_MAX: u64 = 16_777_216;
/// Gas of one call at most that nobody pays for (`eth_call`, `eth_estimateGas`).
pub const CALL_GAS_MAX: u64 = 50_000_000;
/// Bytes of a block's RLP at most (EIP-7934: 10 MiB less a margin of 2 MiB).
pub const BLOCK_RLP_BYTES_MAX: usize = 8_388_608;
/// Bytes of a header's extra data at most.
pub const EXTRA_DATA_BYTES_MAX: usize = 32;
/// Gas limit of a block at least, as on mainnet.
pub const GAS_LIMIT_MIN: u64 = 5_000;
/// Analysed contract codes held in memory.
pub const CODE_CACHE_ENTRIES_MAX: usize = 4_096;

/// What all nodes of a chain must agree on to get the same blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionConfig {
    /// The chain id that transactions must be signed for.
    pub chain_id: u64,
    /// Gas of one block at most; every header says exactly this.
    pub gas_limit: u64,
    /// The base fee never falls below this, in wei per gas.
    pub base_fee_floor_wei: u64,
    /// The hash of block zero, which evidence of equivocation is judged by; without it the chain's own precompiled contracts
    /// are not there.
    pub genesis_hash: Option<B256>,
}
