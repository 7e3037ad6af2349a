//! What runs a request.

pub mod embedded;
mod sse;
pub mod upstream;

use async_trait::async_trait;
use trellis_market_receipt::wire::JobErrorCode;
use trellis_market_receipt::{FinishReason, InstructionSet, JobRequest};
use trellis_primitives::B256;

/// Why a backend does not run a request, or stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Its queue is full.
    #[error("the backend is busy")]
    Busy,
    /// It does not accept the request.
    #[error("the backend refuses the request: {reason}")]
    BadRequest {
        /// Its words.
        reason: String,
    },
    /// The prompt is longer than the context.
    #[error("the prompt has {actual} tokens, the context holds {max}")]
    PromptTooLong {
        /// The context.
        max: u64,
        /// The prompt.
        actual: u64,
    },
    /// It failed.
    #[error("the backend failed: {reason}")]
    Failed {
        /// Its words.
        reason: String,
    },
    /// Nothing came in time.
    #[error("the backend sent no {what} within {wait_ms} ms")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        wait_ms: u64,
    },
}

impl BackendError {
    /// The code that the gateway sees.
    #[must_use]
    pub const fn code(&self) -> JobErrorCode {
        match self {
            Self::Busy => JobErrorCode::Busy,
            Self::BadRequest { .. } => JobErrorCode::BadRequest,
            Self::PromptTooLong { .. } => JobErrorCode::PromptTooLong,
            Self::Failed { .. } | Self::Late { .. } => JobErrorCode::Backend,
        }
    }
}

/// What a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// Hash of the weights and recipe; for an upstream, a hash of what it calls itself.
    pub model_digest: B256,
    /// Hash of the tokenizer; zero where counts cannot be verified.
    pub tokenizer_digest: B256,
    /// Prompt and answer together, in tokens.
    pub context_tokens: u32,
    /// The engine build, in words.
    pub engine: String,
    /// The tier on which it computes.
    pub instruction_set: InstructionSet,
    /// Jobs it runs at once.
    pub capacity: u32,
}

/// What a running request tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendEvent {
    /// More text, and how many output tokens it accounts for.
    Text {
        /// The text; may be empty where its tokens' text is withheld.
        text: String,
        /// Tokens.
        tokens: u64,
    },
    /// The end.
    Done(BackendDone),
}

/// The end of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendDone {
    /// Why.
    pub finish: FinishReason,
    /// Prompt and output tokens as the backend counts them, where it does.
    pub usage: Option<(u64, u64)>,
    /// Ids of the output tokens; empty where there are none.
    pub token_ids: Vec<u32>,
    /// Root of the fingerprints; zero for none.
    pub fingerprint_root: B256,
    /// What failed; empty for nothing.
    pub error: String,
}

/// A running request. Dropping it cancels.
#[async_trait]
pub trait BackendStream: Send {
    /// The next event; nothing follows `Done`.
    ///
    /// # Errors
    /// [`BackendError`] where it failed without an end.
    async fn next(&mut self) -> Result<BackendEvent, BackendError>;
}

/// What runs requests for one model.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What it is.
    fn info(&self) -> BackendInfo;

    /// Prompt tokens that will be charged, before anything is computed.
    ///
    /// # Errors
    /// [`BackendError`] for a request that it would refuse.
    async fn count_prompt(&self, request: &JobRequest) -> Result<u64, BackendError>;

    /// Begins to compute.
    ///
    /// # Errors
    /// [`BackendError`].
    async fn start(&self, request: &JobRequest) -> Result<Box<dyn BackendStream>, BackendError>;
}
