//! Hold valid transactions in the order the next block wants them.
//!
//! Senders are recovered once, before the pool; the pool never sees a signature. See [`Mempool`] for the
//! surface, [`PoolState`] for the pure core behind it and [`PoolError`] for every way to be refused.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

mod best;
mod config;
mod error;
mod filter;
pub mod gossip;
mod intrinsic;
mod metrics;
mod pooled;
mod recent;
mod recovered;
mod service;
mod state;

pub use best::BestTransactions;
pub use config::{
    MIN_FEE_WEI_DEFAULT, NONCE_AHEAD_MAX, POOL_BYTES_MAX, POOL_TXS_MAX, PoolConfig, RECOVERED_CACHE_ENTRIES_MAX,
    REPLACEMENT_BUMP_PERCENT, TX_BYTES_MAX, TX_GAS_MAX, TX_LIFETIME_MS, TXS_PER_SENDER_MAX,
};
pub use error::{AccountReadError, PoolError};
pub use filter::FeeFilter;
pub use intrinsic::{INITCODE_BYTES_MAX, IntrinsicGas, intrinsic_gas};
pub use metrics::{GossipMetrics, PoolMetrics};
pub use pooled::PooledTx;
pub use recovered::RecoveredCache;
pub use service::{AccountReader, HeadUpdate, Mempool, PENDING_ANNOUNCEMENTS_MAX};
pub use state::{AccountState, Inserted, PoolContent, PoolState, PoolStatus, SenderContent};
