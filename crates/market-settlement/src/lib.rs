//! Turn receipts into money: batch, settle, prove, dispute, claim.
//!
//! Money is never optimistic here: every voucher is checked by the contract and paid through the channel's own figure,
//! whichever door it comes through. What an [`Aggregator`] is trusted with for a while is only the root over receipts, and a
//! bond stands for that. It promises each receipt a place in a batch (durable before the promise leaves), puts batches and
//! vouchers on the chain exactly once, shows every batch to whoever asks, and answers demands. A [`Challenger`] looks at all
//! of it and topples what is wrong by one proof. A [`WatchTower`] keeps a payee's money safe while a payer closes, and
//! [`audit_ledger`] adds up both sides' journals and the chain.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout))]

mod audit;
mod challenger;
mod client;
mod config;
mod error;
mod examine;
mod leaf;
mod metrics;
mod promises;
mod service;
mod state;
mod store;
mod tree;
mod watch;
mod wire;

pub use audit::{
    AuditFault, AuditReport, AuditTotals, ChannelAudit, ChannelSums, HalfSigned, LedgerSide, audit_ledger,
};
pub use challenger::{BatchSource, Challenger, NetworkSource, Verdict};
pub use client::{ANSWER_WITHIN, AggregatorLink, Submitted, fetch_leaves, fetch_path, node_of_account, submit};
pub use config::{
    AggregatorConfig, BATCH_INTERVAL_MS_DEFAULT, BATCH_INTERVAL_MS_DEV, BATCH_RECEIPTS_MAX_DEFAULT, Contracts,
    TICK_INTERVAL_MS_DEFAULT, VOUCHERS_PER_TX_MAX,
};
pub use error::{AskError, DataError, Refusal, SettleError};
pub use examine::Charge;
pub use leaf::LeafData;
pub use metrics::SettlementMetrics;
pub use service::{Aggregator, Running, TickReport};
pub use watch::{WatchReport, WatchTower};
pub use wire::{BATCH_PROTOCOL, LatestVoucher, LeafPath, Outcome, SETTLE_PROTOCOL};

#[cfg(test)]
mod tests;
