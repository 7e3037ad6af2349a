//! Agree on the next block: the BFT engine, timeouts, evidence, checkpoints; owns the trait `Application`.
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

mod application;

pub use application::{AppError, Application, DecidedBlock, ProposedBlock, Tip, Verdict};
