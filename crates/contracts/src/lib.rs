//! Rust bindings and artifacts of the contracts, nothing else.
//!
//! One module per contract, each made by `sol!` from the artifact that CI reproduces byte for byte; the EIP-712 structs
//! that both sides of a channel sign; and what a genesis must execute to have the contracts.
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
#![deny(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

pub mod accounts;
mod bindings;
pub mod deployment;
pub mod staking;
pub mod typed;

pub use bindings::{
    fee_pool, hybrid_verifier, ml_dsa44_verifier, payment_channels, provider_staking, settlement, smart_account,
    smart_account_factory, validator_staking, wtrl,
};

#[cfg(test)]
mod tests;
