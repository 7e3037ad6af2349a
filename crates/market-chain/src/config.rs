//! Which chain, through which URLs, at which price.

use std::time::Duration;

use crate::finality::Committee;

/// Milliseconds that one request to one URL may take.
pub const REQUEST_TIMEOUT_MS_DEFAULT: u64 = 5_000;
/// Milliseconds between two looks for a receipt.
pub const POLL_INTERVAL_MS_DEFAULT: u64 = 200;
/// Milliseconds after which a transaction that is in no block is replaced.
pub const STUCK_AFTER_MS_DEFAULT: u64 = 15_000;
/// Wei per gas above which nothing is sent: 500 gwei.
pub const MAX_FEE_CAP_WEI_DEFAULT: u128 = 500_000_000_000;
/// Wei per gas for the block's proposer: 1 gwei.
pub const PRIORITY_FEE_WEI_DEFAULT: u128 = 1_000_000_000;

/// When a block counts as final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// When the chain says so by its `finalized` tag: ours, and Ethereum.
    Finalized,
    /// When so many blocks stand on it: chains without that tag.
    Depth(u64),
}

/// What may be paid for gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeePolicy {
    /// The most wei per gas, tip included.
    pub max_fee_cap_wei: u128,
    /// The tip in wei per gas.
    pub priority_fee_wei: u128,
}

impl Default for FeePolicy {
    fn default() -> Self {
        Self { max_fee_cap_wei: MAX_FEE_CAP_WEI_DEFAULT, priority_fee_wei: PRIORITY_FEE_WEI_DEFAULT }
    }
}

/// A client's settings.
#[derive(Debug, Clone)]
pub struct RpcConfig {
    /// The chain id that every URL must have.
    pub chain_id: u64,
    /// The URLs, the preferred one first.
    pub urls: Vec<String>,
    /// How long one request to one URL may take.
    pub request_timeout: Duration,
    /// How often receipts are looked for.
    pub poll_interval: Duration,
    /// After how long a transaction counts as stuck.
    pub stuck_after: Duration,
    /// When a block counts as final.
    pub confirmation: Confirmation,
    /// What may be paid for gas.
    pub fees: FeePolicy,
    /// Whose signatures the finalized height must have; `None` trusts the URL (foreign chains).
    pub committee: Option<Committee>,
}

impl RpcConfig {
    /// The defaults for a chain.
    #[must_use]
    pub fn new(chain_id: u64, urls: Vec<String>) -> Self {
        Self {
            chain_id,
            urls,
            request_timeout: Duration::from_millis(REQUEST_TIMEOUT_MS_DEFAULT),
            poll_interval: Duration::from_millis(POLL_INTERVAL_MS_DEFAULT),
            stuck_after: Duration::from_millis(STUCK_AFTER_MS_DEFAULT),
            confirmation: Confirmation::Finalized,
            fees: FeePolicy::default(),
            committee: None,
        }
    }
}
