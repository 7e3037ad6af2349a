//! An aggregator's and a challenger's settings.

use trellis_contracts::deployment::Addresses;
use trellis_primitives::Address;

/// Receipts after which a batch is closed.
pub const BATCH_RECEIPTS_MAX_DEFAULT: usize = 10_000;
/// Milliseconds after its first receipt when a batch is closed.
pub const BATCH_INTERVAL_MS_DEFAULT: u64 = 60_000;
/// Milliseconds after its first receipt when a batch is closed on a development chain.
pub const BATCH_INTERVAL_MS_DEV: u64 = 2_000;
/// Vouchers in one transaction: each costs up to 50,000 gas (the test `gas` prints it), a transaction has at most 16,777,216.
pub const VOUCHERS_PER_TX_MAX: usize = 256;
/// Milliseconds between two looks at the chain.
pub const TICK_INTERVAL_MS_DEFAULT: u64 = 500;

/// Where the contracts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contracts {
    /// Payment channels.
    pub channels: Address,
    /// Settlement.
    pub settlement: Address,
    /// The token of bonds and deposits.
    pub token: Address,
}

impl From<&Addresses> for Contracts {
    fn from(addresses: &Addresses) -> Self {
        Self { channels: addresses.payment_channels, settlement: addresses.settlement, token: addresses.wtrl }
    }
}

/// An aggregator's settings.
#[derive(Debug, Clone)]
pub struct AggregatorConfig {
    /// Where the contracts are.
    pub contracts: Contracts,
    /// Receipts after which a batch is closed.
    pub batch_receipts_max: usize,
    /// Milliseconds after its first receipt when a batch is closed.
    pub batch_interval_ms: u64,
    /// Vouchers in one transaction.
    pub vouchers_per_tx_max: usize,
    /// Milliseconds between two looks at the chain.
    pub tick_interval_ms: u64,
}

impl AggregatorConfig {
    /// The defaults over contracts.
    #[must_use]
    pub fn new(contracts: Contracts) -> Self {
        Self {
            contracts,
            batch_receipts_max: BATCH_RECEIPTS_MAX_DEFAULT,
            batch_interval_ms: BATCH_INTERVAL_MS_DEFAULT,
            vouchers_per_tx_max: VOUCHERS_PER_TX_MAX,
            tick_interval_ms: TICK_INTERVAL_MS_DEFAULT,
        }
    }

    /// As [`AggregatorConfig::new`], with the interval of a development chain.
    #[must_use]
    pub fn dev(contracts: Contracts) -> Self {
        Self { batch_interval_ms: BATCH_INTERVAL_MS_DEV, ..Self::new(contracts) }
    }
}
