//! Why a job does not end with a receipt, by name.

use crate::job::money::ChannelOpenError;
use std::fmt;
use trellis_market_channel::{CostError, PayerError, PayerFault};
use trellis_market_journal::{JournalError, JournalOpenError, JournalReadError};
use trellis_market_receipt::wire::{JobError, WireError};
use trellis_market_receipt::{AdvertError, RequestError};
use trellis_net_peers::OpenError;
use trellis_primitives::{NodeId, Wei};

/// Why a job client does not start.
#[derive(Debug, thiserror::Error)]
pub enum JobClientError {
    /// The journal does not take records.
    #[error("the journal: {0}")]
    Journal(#[from] JournalError),
    /// The journal cannot be scanned.
    #[error("scanning the journal: {0}")]
    Scan(#[from] JournalOpenError),
    /// The journal cannot be read back.
    #[error("reading the journal back: {0}")]
    Read(#[from] JournalReadError),
}

/// What a deadline was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitedFor {
    /// The provider's advert.
    Advert,
    /// A channel on the chain.
    Channel,
    /// The provider's acceptance.
    Accepted,
    /// The first token.
    FirstToken,
    /// The next piece of the answer.
    NextToken,
    /// The receipt.
    Receipt,
    /// The acknowledgement of the countersignature.
    Acknowledgement,
}

impl fmt::Display for WaitedFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Advert => "advert",
            Self::Channel => "channel",
            Self::Accepted => "acceptance",
            Self::FirstToken => "first token",
            Self::NextToken => "next token",
            Self::Receipt => "receipt",
            Self::Acknowledgement => "acknowledgement of the receipt",
        })
    }
}

/// Why a job does not end with a receipt.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JobFault {
    /// No stream to the provider.
    #[error("no stream to the provider: {0}")]
    Open(#[from] OpenError),
    /// The provider's advert is not good.
    #[error("the provider's advert: {0}")]
    Advert(#[from] AdvertError),
    /// It does not sell this model.
    #[error("the provider {provider} does not sell {model}")]
    UnknownModel {
        /// Who was asked.
        provider: NodeId,
        /// What for.
        model: String,
    },
    /// The request itself is not good; another provider would refuse it too.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The prompt is longer than the model's context.
    #[error("the prompt has {actual} tokens, the model's context holds {max}")]
    PromptTooLong {
        /// The context.
        max: u64,
        /// The prompt, as this side counts.
        actual: u64,
    },
    /// The prompt cannot be counted with the model's tokenizer.
    #[error("the prompt cannot be counted: {reason}")]
    Count {
        /// The tokenizer's words.
        reason: String,
    },
    /// No channel could be had.
    #[error("no payment channel: {0}")]
    Channel(#[from] ChannelOpenError),
    /// The channel cannot promise more.
    #[error(transparent)]
    Payer(#[from] PayerError),
    /// The provider asked for more than this side metered.
    #[error("the provider's claim is refused: {0}")]
    Claim(#[from] PayerFault),
    /// The prices make no cost.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// The provider refused the job or ended it.
    #[error("the provider says: {0}")]
    Provider(#[from] JobError),
    /// The receipt is not what this side saw.
    #[error("the receipt's {field} is not what this gateway saw")]
    Receipt {
        /// Which field.
        field: &'static str,
    },
    /// The answer's tokens do not spell its text, or are too many for it.
    #[error("the answer's tokens do not fit its text: {reason}")]
    Recount {
        /// What does not fit.
        reason: String,
    },
    /// Something did not come in time.
    #[error("no {what} within {wait_ms} ms")]
    Late {
        /// What was waited for.
        what: WaitedFor,
        /// How long.
        wait_ms: u64,
    },
    /// The stream broke.
    #[error("the stream to the provider broke: {detail}")]
    Lost {
        /// The transport's account.
        detail: String,
    },
    /// The provider sent bytes that are no frame.
    #[error("the provider sent a bad frame: {0}")]
    Wire(#[from] WireError),
    /// The provider sent a frame that does not belong there.
    #[error("the provider sent {frame} out of order")]
    Order {
        /// Which frame.
        frame: &'static str,
    },
    /// The journal does not take records: nothing signed may leave.
    #[error("the journal failed: {reason}")]
    Journal {
        /// Its words.
        reason: String,
    },
    /// The job would cost more than is allowed.
    #[error("the job may cost {needed}, {max_cost} is allowed")]
    TooDear {
        /// The allowed maximum.
        max_cost: Wei,
        /// The prompt alone.
        needed: Wei,
    },
    /// The caller went away.
    #[error("cancelled")]
    Cancelled,
}

impl From<JournalError> for JobFault {
    fn from(error: JournalError) -> Self {
        Self::Journal { reason: error.to_string() }
    }
}

impl JobFault {
    /// True where another provider may well take the same job; the caller asks only before the first token.
    #[must_use]
    pub const fn is_worth_another_provider(&self) -> bool {
        match self {
            Self::Provider(error) => error.code.is_worth_another_provider(),
            Self::Request(_)
            | Self::PromptTooLong { .. }
            | Self::Count { .. }
            | Self::Journal { .. }
            | Self::TooDear { .. }
            | Self::Cancelled => false,
            Self::Open(_)
            | Self::Advert(_)
            | Self::UnknownModel { .. }
            | Self::Channel(_)
            | Self::Payer(_)
            | Self::Claim(_)
            | Self::Cost(_)
            | Self::Receipt { .. }
            | Self::Recount { .. }
            | Self::Late { .. }
            | Self::Lost { .. }
            | Self::Wire(_)
            | Self::Order { .. } => true,
        }
    }
}
