//! The pool's limits, each a named constant with its unit.

/// Transactions in the pool at most, all senders together.
pub const POOL_TXS_MAX: usize = 200_000;
/// Bytes of EIP-2718 encodings in the pool at most.
pub const POOL_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Transactions of one sender at most.
pub const TXS_PER_SENDER_MAX: usize = 1_024;
/// How far a nonce may run ahead of the account's.
pub const NONCE_AHEAD_MAX: u64 = 1_024;
/// Bytes of one transaction at most (geth's limit, which wallets know).
pub const TX_BYTES_MAX: usize = 128 * 1024;
/// Gas of one transaction at most (EIP-7825).
pub const TX_GAS_MAX: u64 = 16_777_216;
/// How much more a replacement must offer in both of its fees, in percent.
pub const REPLACEMENT_BUMP_PERCENT: u128 = 10;
/// How long a transaction waits at most, in milliseconds.
pub const TX_LIFETIME_MS: u64 = 3 * 60 * 60 * 1_000;
/// The lowest `maxFeePerGas` that is taken, in wei: the chain's base-fee floor.
pub const MIN_FEE_WEI_DEFAULT: u128 = 1_000_000_000;
/// Senders remembered by transaction hash at most.
pub const RECOVERED_CACHE_ENTRIES_MAX: usize = 262_144;

/// What a pool is told at its start. [`PoolConfig::new`] gives the defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolConfig {
    /// The chain whose transactions are taken.
    pub chain_id: u64,
    /// The lowest `maxFeePerGas`, in wei: the chain's base-fee floor.
    pub min_fee_wei: u128,
    /// Transactions in the pool at most.
    pub txs_max: usize,
    /// Bytes in the pool at most.
    pub bytes_max: usize,
    /// Transactions of one sender at most.
    pub txs_per_sender_max: usize,
    /// How far a nonce may run ahead of the account's.
    pub nonce_ahead_max: u64,
    /// How long a transaction waits at most, in milliseconds.
    pub lifetime_ms: u64,
    /// Senders remembered by transaction hash at most.
    pub recovered_cache_entries_max: usize,
    /// Whether a legacy transaction without a chain id (before EIP-155, replayable elsewhere) is taken.
    pub unprotected_allowed: bool,
}

impl PoolConfig {
    /// The defaults for a chain.
    #[must_use]
    pub const fn new(chain_id: u64) -> Self {
        Self {
            chain_id,
            min_fee_wei: MIN_FEE_WEI_DEFAULT,
            txs_max: POOL_TXS_MAX,
            bytes_max: POOL_BYTES_MAX,
            txs_per_sender_max: TXS_PER_SENDER_MAX,
            nonce_ahead_max: NONCE_AHEAD_MAX,
            lifetime_ms: TX_LIFETIME_MS,
            recovered_cache_entries_max: RECOVERED_CACHE_ENTRIES_MAX,
            unprotected_allowed: false,
        }
    }
}
