//! Why a provider does not start.

use trellis_market_journal::{JournalError, JournalReadError};
use trellis_net_peers::AcceptError;

/// Why a provider does not start.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Nothing to sell.
    #[error("a provider needs at least one model")]
    NoModels,
    /// Two models of one name.
    #[error("the model {name} is listed twice")]
    DuplicateModel {
        /// The name.
        name: String,
    },
    /// Too many models for one advert.
    #[error("an advert holds at most {max} models, got {actual}")]
    TooManyModels {
        /// The bound.
        max: usize,
        /// What was given.
        actual: usize,
    },
    /// The protocol is taken.
    #[error("the job protocol could not be registered: {0}")]
    Accept(#[from] AcceptError),
    /// The journal does not take records.
    #[error("the journal: {0}")]
    Journal(#[from] JournalError),
    /// The journal cannot be read back.
    #[error("reading the journal back: {0}")]
    JournalRead(#[from] JournalReadError),
}
