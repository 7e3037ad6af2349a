//! What the HTTP side asks of whatever runs jobs: the gateway's own job client, or a test.

use async_trait::async_trait;
use futures::Stream;
use std::pin::Pin;
use trellis_market_receipt::{FinishReason, JobRequest, ModelOffer};
use trellis_primitives::{B256, JobId, NodeId, Wei};

/// Why a job did not run or did not end well, in the classes that HTTP tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// The request itself is bad; nobody would run it.
    BadRequest,
    /// No connected provider sells this model.
    UnknownModel,
    /// Every provider of the model is full.
    Busy,
    /// The gateway's account or channel cannot pay.
    Funds,
    /// No provider could be reached, or the one that was chosen failed.
    Unavailable,
    /// A wait passed its deadline.
    Deadline,
    /// The gateway's own fault.
    Internal,
}

/// A job's failure. The message is for the client; inner causes go to the log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct JobFailure {
    /// The class.
    pub kind: FailureKind,
    /// The field of the request at fault, where there is one.
    pub param: Option<&'static str>,
    /// What, why and what to do.
    pub message: String,
}

impl JobFailure {
    /// A failure of a class.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, param: None, message: message.into() }
    }
}

/// How a job ended and what it cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobSummary {
    /// The job.
    pub job: JobId,
    /// Hash of the receipt that both sides signed.
    pub receipt: B256,
    /// Who ran it.
    pub provider: NodeId,
    /// Why the text ended.
    pub finish: FinishReason,
    /// Prompt tokens.
    pub tokens_in: u64,
    /// Output tokens.
    pub tokens_out: u64,
    /// What was paid.
    pub cost: Wei,
}

/// What a running job says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JobEvent {
    /// More text.
    Text(String),
    /// The end, with a receipt.
    Done(JobSummary),
    /// The end, without all of the answer.
    Failed(JobFailure),
}

/// A running job. Dropping it cancels the job.
pub type JobStream = Pin<Box<dyn Stream<Item = JobEvent> + Send>>;

/// What runs jobs.
#[async_trait]
pub trait Jobs: Send + Sync + 'static {
    /// What can be bought now, each model once per provider.
    async fn offers(&self) -> Vec<(NodeId, ModelOffer)>;

    /// Starts a job; returns when a provider has accepted it.
    async fn start(&self, request: JobRequest) -> Result<JobStream, JobFailure>;
}
