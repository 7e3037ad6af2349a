//! Talk to a chain from outside, ours or foreign: nonces, fees, replacement, reorgs; owns the trait `ChainClient`.
//!
//! Everything of the market that needs a chain goes through [`ChainClient`]. [`RpcChainClient`] speaks JSON-RPC over HTTP to
//! one or more URLs of the same chain; tests of the layers above run the real contracts behind the same trait. The typed
//! wrappers ([`ChannelsContract`], [`SettlementContract`], [`WtrlContract`], [`StakingContract`]) build call data and read
//! answers, and nothing else.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout))]

mod client;
mod config;
mod contracts;
mod error;
mod fees;
mod finality;
mod json;
mod metrics;
mod service;
mod state;
mod transaction;
mod wallet;
mod wire;

pub use client::{ChainClient, Head, Log, LogFilter, LogPlace, TxIntent, TxReceipt};
pub use config::{Confirmation, FeePolicy, RpcConfig};
pub use contracts::{
    AccountView, AggregatorView, BatchStatus, BatchTotals, BatchView, ChannelEvent, ChannelStatus, ChannelTerms,
    ChannelView, ChannelsContract, DemandStatus, DemandView, Fault, PositionView, SettlementContract, SettlementEvent,
    SettlementTerms, SignedCalls, SignedVoucher, SmartAccounts, StakingContract, VALIDATORS_LISTED_MAX, ValidatorView,
    ValidatorsContract, WtrlContract, describe_revert,
};
pub use error::ChainError;
pub use fees::Fees;
pub use finality::Committee;
pub use metrics::ChainMetrics;
pub use service::RpcChainClient;
pub use wallet::Wallet;
pub use wire::{HttpWire, Wire, WireError};

#[cfg(test)]
mod tests;
