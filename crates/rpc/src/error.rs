//! What a client is told when an answer is an error: JSON-RPC codes as Ethereum's clients use them.

use alloy_primitives::{B256, Bytes};
use jsonrpsee::types::ErrorObjectOwned;
use trellis_chain_mempool::PoolError;
use trellis_chain_storage::ReadError;

/// The request does not make sense (JSON-RPC 2.0).
pub const INVALID_PARAMS_CODE: i32 = -32_602;
/// There is no such method, or not on this connection (JSON-RPC 2.0).
pub const METHOD_NOT_FOUND_CODE: i32 = -32_601;
/// The node failed, not the client (JSON-RPC 2.0).
pub const INTERNAL_CODE: i32 = -32_603;
/// The server refuses or the transaction is refused; the text says why, in geth's words.
pub const SERVER_CODE: i32 = -32_000;
/// More asked for than one answer may have (EIP-1474).
pub const LIMIT_CODE: i32 = -32_005;
/// The call was reverted; `data` is what it returned.
pub const REVERT_CODE: i32 = 3;
/// `eth_sendRawTransactionSync` waited long enough (EIP-7966).
pub const SYNC_TIMEOUT_CODE: i32 = 4;

/// The block is older than what is kept (execution-apis, as geth).
pub const PRUNED_HISTORY_CODE: i32 = 4_444;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// An argument has the wrong form.
    #[error("invalid argument {index}: {reason}")]
    InvalidArgument {
        /// Its place, from 0.
        index: usize,
        /// What is wrong with it.
        reason: ArgumentError,
    },
    /// An argument that must be there is not.
    #[error("missing value for required argument {0}")]
    MissingArgument(usize),
    /// More arguments than the method knows.
    #[error("too many arguments, want at most {0}")]
    TooManyArguments(usize),
    /// The parameters are not a list.
    #[error("non-array args")]
    NotAList,
    /// The parameters make no sense together; the text says which.
    #[error("{0}")]
    InvalidParams(&'static str),
    /// A slot's key has the wrong form.
    #[error(transparent)]
    StorageKey(StorageKeyError),
    /// More asked for than one answer may have.
    #[error("{what}: {asked} asked for, at most {max} allowed")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        asked: u64,
        /// How many may be.
        max: u64,
    },
    /// The block is not known here.
    #[error("header not found")]
    HeaderNotFound,
    /// The block is older than what this node began with.
    #[error("pruned history unavailable: block {height}, blocks from {oldest} on are kept")]
    HistoryNotKept {
        /// The block asked for.
        height: u64,
        /// The oldest kept beside block zero.
        oldest: u64,
    },
    /// The block is not known here, where a block's receipts or logs are asked for.
    #[error("unknown block")]
    UnknownBlock,
    /// The transaction is in no block here.
    #[error("transaction not found")]
    UnknownTransaction,
    /// Nothing was before block zero, so it cannot be run again.
    #[error("genesis is not traceable")]
    NotTraceable,
    /// An error that a method has a code of its own for.
    #[error("{message}")]
    Coded {
        /// The code.
        code: i32,
        /// The text.
        message: String,
    },
    /// The state of that block is no longer kept.
    #[error("required historical state unavailable: block {height}, states of blocks {oldest} to {newest} are kept")]
    StateNotKept {
        /// The block asked for.
        height: u64,
        /// The oldest kept.
        oldest: u64,
        /// The newest.
        newest: u64,
    },
    /// The bytes are no transaction.
    #[error("{0}")]
    Undecodable(DecodeError),
    /// The transaction was refused.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The call was reverted.
    #[error("execution reverted{}", reason_suffix(.reason))]
    Reverted {
        /// The reason in words, when the data is a known error of Solidity's.
        reason: Option<String>,
        /// What the call returned.
        data: Bytes,
    },
    /// The call could not be made or broke off; the text is the machine's, in geth's words.
    #[error("{0}")]
    Execution(String),
    /// The transaction needs more gas than allowed.
    #[error("gas required exceeds allowance ({0})")]
    GasRequired(u64),
    /// The transaction was sent, but was in no block in time.
    #[error("the transaction was added to the mempool but wasn't processed within {waited_ms} ms")]
    SyncTimeout {
        /// Its hash.
        hash: B256,
        /// How long was waited.
        waited_ms: u64,
    },
    /// The question took too long.
    #[error("request timed out after {0} ms")]
    TimedOut(u64),
    /// Too many questions at one time.
    #[error("server is busy: too many requests, try again")]
    Busy,
    /// Only a WebSocket can be told something later.
    #[error("notifications not supported: subscribe over WebSocket")]
    NotOverHttp,
    /// The filter is not installed, or was dropped because nobody asked for it.
    #[error("filter not found")]
    FilterNotFound,
    /// The height has no certificate yet.
    #[error("no finality certificate for block {0}: the genesis is final by definition")]
    NoCertificate(u64),
    /// The node failed.
    #[error("internal error: {0}")]
    Internal(&'static str),
    /// The store failed.
    #[error("internal error: the store could not be read")]
    Store(#[source] ReadError),
}

/// Why some bytes are no transaction, in geth's words.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Nothing was sent.
    #[error("typed transaction too short")]
    Empty,
    /// A type this chain does not carry.
    #[error("transaction type not supported")]
    Type,
    /// The RLP is damaged.
    #[error("rlp: {0}")]
    Rlp(String),
    /// Bytes are left over.
    #[error("rlp: input contains more than one value")]
    Trailing,
    /// The signature gives no sender.
    #[error("invalid sender")]
    Sender,
}

/// What is wrong with an argument.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ArgumentError {
    /// Another JSON type was wanted.
    #[error("json: want {0}")]
    Want(&'static str),
    /// Hex without its prefix.
    #[error("hex string without 0x prefix")]
    NoPrefix,
    /// Not hex at all.
    #[error("invalid hex string")]
    NotHex,
    /// Hex of an odd number of digits where bytes are wanted.
    #[error("hex string of odd length")]
    OddLength,
    /// No digit after the prefix.
    #[error("hex string \"0x\"")]
    NoDigits,
    /// The wrong number of bytes.
    #[error("hex string has length {digits}, want {want} for {what}")]
    Length {
        /// Digits given.
        digits: usize,
        /// Digits wanted.
        want: usize,
        /// What was wanted.
        what: &'static str,
    },
    /// The number does not fit.
    #[error("hex number > {0} bits")]
    TooBig(usize),
    /// A block tag that there is not.
    #[error("unknown block tag {0:?}")]
    Tag(String),
    /// The object does not have the fields it should.
    #[error("{0}")]
    Object(String),
    /// Not rising, or out of 0 to 100.
    #[error("invalid reward percentile: {0}")]
    Percentile(String),
}

/// What is wrong with a slot's key, in geth's words.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StorageKeyError {
    /// Not hex.
    #[error("invalid hex in storage key: {0:?}")]
    NotHex(String),
    /// Longer than a word.
    #[error("storage key too long (want at most 32 bytes): {0:?}")]
    TooLong(String),
}

fn reason_suffix(reason: &Option<String>) -> String {
    reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
}

impl RpcError {
    /// The JSON-RPC error code.
    #[must_use]
    pub const fn code(&self) -> i32 {
        match self {
            Self::InvalidArgument { .. }
            | Self::MissingArgument(_)
            | Self::TooManyArguments(_)
            | Self::NotAList
            | Self::InvalidParams(_)
            | Self::StorageKey(_) => INVALID_PARAMS_CODE,
            Self::Limit { .. } | Self::Busy => LIMIT_CODE,
            Self::NotOverHttp => METHOD_NOT_FOUND_CODE,
            Self::Reverted { .. } => REVERT_CODE,
            Self::SyncTimeout { .. } => SYNC_TIMEOUT_CODE,
            Self::HistoryNotKept { .. } => PRUNED_HISTORY_CODE,
            Self::Internal(_) | Self::Store(_) => INTERNAL_CODE,
            Self::Coded { code, .. } => *code,
            Self::HeaderNotFound
            | Self::UnknownBlock
            | Self::UnknownTransaction
            | Self::NotTraceable
            | Self::StateNotKept { .. }
            | Self::Undecodable(_)
            | Self::Pool(_)
            | Self::Execution(_)
            | Self::GasRequired(_)
            | Self::TimedOut(_)
            | Self::FilterNotFound
            | Self::NoCertificate(_) => SERVER_CODE,
        }
    }
}

impl From<ReadError> for RpcError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::StateNotKept { height, oldest, newest } => Self::StateNotKept { height, oldest, newest },
            other => Self::Store(other),
        }
    }
}

impl From<RpcError> for ErrorObjectOwned {
    fn from(error: RpcError) -> Self {
        if let RpcError::Store(inside) = &error {
            tracing::error!(error = %inside, "store unreadable for an answer");
        }
        let (code, message) = (error.code(), error.to_string());
        match error {
            RpcError::Reverted { data, .. } => Self::owned(code, message, Some(data)),
            RpcError::SyncTimeout { hash, .. } => Self::owned(code, message, Some(hash)),
            _ => Self::owned(code, message, None::<()>),
        }
    }
}
