//! What can go wrong: with a peer, with the sink, with the chain itself.

use thiserror::Error;
use trellis_primitives::B256;

/// Why bytes are not a message of this protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Not a frame of the protocol.
    #[error("not a message: {0}")]
    Prost(#[from] prost::DecodeError),
    /// A part in RLP does not decode.
    #[error("the field {field} does not decode: {error}")]
    Rlp {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        error: alloy_rlp::Error,
    },
    /// A field that must be there is not.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field is longer or larger than it may be, or empty.
    #[error("the field {field} is {actual}, at most {max} and at least one are allowed")]
    Bound {
        /// The field.
        field: &'static str,
        /// The bound.
        max: u64,
        /// What came.
        actual: u64,
    },
}

/// What a peer did that it is dropped for. The names are the metric's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Headers that do not follow each other, or not what is final.
    WrongHeaders,
    /// A certificate that the committee did not sign.
    ForgedCertificate,
    /// A body that its header does not commit to.
    WrongBody,
    /// An answer that is none.
    Undecodable,
    /// It said that it has something and does not send it.
    Withheld,
    /// It sends so slowly that the others wait for it.
    Slow,
    /// The stream failed, or was refused.
    Broken,
    /// It does not speak the protocol.
    Unsupported,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 8] = [
        Self::WrongHeaders,
        Self::ForgedCertificate,
        Self::WrongBody,
        Self::Undecodable,
        Self::Withheld,
        Self::Slow,
        Self::Broken,
        Self::Unsupported,
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WrongHeaders => "wrong_headers",
            Self::ForgedCertificate => "forged_certificate",
            Self::WrongBody => "wrong_body",
            Self::Undecodable => "undecodable",
            Self::Withheld => "withheld",
            Self::Slow => "slow",
            Self::Broken => "broken",
            Self::Unsupported => "unsupported",
        }
    }

    /// Whether no honest peer does it, however bad its line is.
    #[must_use]
    pub const fn is_lie(self) -> bool {
        matches!(self, Self::WrongHeaders | Self::ForgedCertificate | Self::WrongBody | Self::Undecodable)
    }
}

/// Why a sink did not take final blocks. Nothing of it is a peer's fault: what is handed over is proved to be final.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SinkError {
    /// Storage failed (full disk, corruption).
    #[error("storage failed in {operation}: {detail}")]
    Storage {
        /// What was being done.
        operation: &'static str,
        /// The storage's own account.
        detail: String,
    },
    /// The block is final, and this node executes it to something else: its state or its software differs.
    #[error("block {height} is final, but this node cannot commit it: {detail}")]
    Disagrees {
        /// The block.
        height: u64,
        /// What differs.
        detail: String,
    },
}

/// Why a sync ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SyncError {
    /// The sink failed.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A final block breaks a rule of the chain, which takes a third of the committee's power.
    #[error("block {height} ({hash}) is final and has no certificate of its parent")]
    NoParentCertificate {
        /// The block.
        height: u64,
        /// Its hash.
        hash: B256,
    },
    /// A task of the sync ended by itself.
    #[error("the sync's task ended: {0}")]
    Task(String),
}
