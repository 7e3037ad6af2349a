//! What can go wrong, one type per operation.

use std::path::PathBuf;

use thiserror::Error;
use trellis_net_peers::AcceptError;

use crate::application::AppError;

/// Why the engine did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A folder or file of the engine cannot be used.
    #[error("{path} cannot be used: {source}")]
    Files {
        /// Which.
        path: PathBuf,
        /// The operating system's account.
        source: std::io::Error,
    },
    /// Another engine holds the log.
    #[error("{path} is held by another process")]
    LogBusy {
        /// The log.
        path: PathBuf,
    },
    /// Neither copy of the log can be read. A validator that forgot its votes might sign a second one for the same place.
    #[error("neither {path} nor its copy can be read, so this validator does not know what it voted for")]
    LogDamaged {
        /// The first copy.
        path: PathBuf,
    },
    /// The log knows a higher height than the chain: the chain's data was set back. Voting again could equivocate.
    #[error(
        "this validator voted at height {log_height}, but the chain's tip is {tip_height}; restore the chain's data before it votes again"
    )]
    ChainBehindLog {
        /// Height in the log.
        log_height: u64,
        /// Last committed height.
        tip_height: u64,
    },
    /// The application could not say where the chain stands.
    #[error(transparent)]
    Application(#[from] AppError),
    /// The network has our protocols registered already.
    #[error(transparent)]
    Network(#[from] AcceptError),
    /// The engine's own actors did not come up.
    #[error("the engine did not start: {detail}")]
    Engine {
        /// Its account.
        detail: String,
    },
}

impl StartError {
    /// What a person can do about it, where the cause does not say it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::LogBusy { .. } => "stop the other process that votes in this folder",
            Self::LogDamaged { .. } => {
                "restore one of them, or move both away when the other validators have decided the height at which this one stopped"
            }
            Self::ChainBehindLog { .. } => {
                "put back the chain's folder that belongs to it, or let the node fetch the chain from others first"
            }
            Self::Files { .. } | Self::Application(_) | Self::Network(_) | Self::Engine { .. } => return None,
        })
    }
}

/// Why the engine is not running any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StopReason {
    /// It was asked to.
    #[error("stopped on request")]
    Requested,
    /// The application could not commit or answer; going on would lose a decision.
    #[error("the application failed: {0}")]
    Application(AppError),
    /// The block that was decided is not here. Cannot happen unless files of the engine were removed.
    #[error("block {hash} was decided at height {height}, but its bytes are not here")]
    DecidedBlockMissing {
        /// The height.
        height: u64,
        /// The block.
        hash: String,
    },
    /// A proposal could not be made durable before it was voted on.
    #[error("an undecided block could not be stored: {detail}")]
    Files {
        /// The operating system's account.
        detail: String,
    },
    /// The committee of the next height is not one.
    #[error("there is no committee for height {height}")]
    NoCommittee {
        /// The height.
        height: u64,
    },
    /// The engine ended by itself: its log could not be written, or an actor failed. Its own log line says why.
    #[error("the consensus engine halted")]
    EngineHalted,
}

impl StopReason {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::DecidedBlockMissing { .. } => {
                "start it again: it fetches the block from the other validators; where there is none, put back a copy of the folder that was taken while it was stopped"
            }
            Self::Requested
            | Self::Application(_)
            | Self::Files { .. }
            | Self::NoCommittee { .. }
            | Self::EngineHalted => "the log above says why",
        }
    }
}
