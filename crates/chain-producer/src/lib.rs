//! Build, verify and commit blocks: the one writer, behind consensus and sync.

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

mod accounts;
pub mod bench;
mod checkpoints;
mod config;
mod epochs;
mod error;
mod follow;
mod import;
mod metrics;
mod service;
mod state;
mod verify;
mod worker;

pub use accounts::HeadAccounts;
pub use checkpoints::CheckpointSetup;
pub use config::{CANDIDATES_MAX, CLOCK_AHEAD_MS_MAX, ProducerConfig, WORK_QUEUE_MAX};
pub use epochs::{Committees, EpochRules};
pub use error::RefusedBlock;
pub use import::{ImportError, Imported, import_ethereum};
pub use metrics::ProducerMetrics;
pub use service::{Producer, StartError};
