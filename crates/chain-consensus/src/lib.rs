//! Agree on the next block: the BFT engine, timeouts, evidence, checkpoints; owns the trait `Application`.
//!
//! The voting protocol is Malachite's (Tendermint: propose, prevote, precommit); no type of it leaves this crate. Ours
//! are the context it runs in, the network that carries its messages over our streams, the durable store of undecided
//! blocks, and the [`Application`] that builds, judges and commits blocks.
//!
//! # What is durable when
//! 1. A block, own or received, is synced to `undecided/` before the engine hears of it.
//! 2. Every vote and proposal is synced to `votes.wal` and to its copy before it leaves the node; what a damaged tail of one
//!    of the two files loses, the other has.
//! 3. A decision is committed by the application before the next height starts, evidence too.
//!
//! So a validator killed at any point comes up with every vote it ever sent and every block it voted for, replays the
//! height, and cannot sign a second value for a place (CHN-16). If the log knows more than the chain, it refuses to start.
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
mod certificate;
pub mod checkpoint;
mod codec;
mod config;
mod context;
mod error;
mod host;
mod log;
mod metrics;
mod network;
mod parts;
mod service;
mod signing;
#[cfg(test)]
mod simulation;
mod undecided;
mod wire;

pub use application::{AppError, Application, DecidedBlock, ProposedBlock, Tip, Verdict};
pub use checkpoint::{CheckpointDuty, CheckpointKeeper};
pub use config::{EngineConfig, TIMEOUT_MS_MAX};
pub use error::{StartError, StopReason};
pub use metrics::{EngineMetrics, RefusedLabel};
pub use network::{CONSENSUS_PROTOCOL, PROPOSAL_PROTOCOL, SYNC_PROTOCOL};
pub use service::{EngineHandle, EngineStatus, engine_library_metrics, start};
pub use signing::{SignerError, SigningRequest, VoteSigner};
