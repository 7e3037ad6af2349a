//! What can go wrong on the way from a receipt to money.

use trellis_market_chain::ChainError;
use trellis_market_journal::{JournalError, JournalOpenError, JournalReadError};
use trellis_net_peers::{AcceptError, OpenError, frame::FrameError};
use trellis_primitives::{Address, BatchRoot, Wei};

/// Why bytes from a peer are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// A field does not decode.
    #[error("the field {0} does not decode")]
    Field(&'static str),
    /// More of something than one message may carry.
    #[error("{actual} {what}, at most {max} allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        actual: usize,
        /// The bound.
        max: usize,
    },
}

/// Why an aggregator refused a receipt or a voucher. The numbers go over the wire and are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum Refusal {
    /// It does not decode.
    #[error("it does not decode")]
    Malformed = 1,
    /// It names another aggregator.
    #[error("the receipt names another aggregator")]
    OtherAggregator = 2,
    /// It is for another chain or contract.
    #[error("it is for another chain or contract")]
    OtherChain = 3,
    /// There is no such channel.
    #[error("there is no such channel, or the chain cannot be asked now")]
    UnknownChannel = 4,
    /// A signature is missing or by somebody else.
    #[error("a signature is missing or by somebody else")]
    BadSignature = 5,
    /// Another receipt has the same number in the channel.
    #[error("another receipt has the same number in the channel")]
    Conflict = 6,
    /// It was taken so long ago that the promise is no longer at hand.
    #[error("it was taken long ago")]
    Old = 7,
    /// The aggregator cannot store anything now.
    #[error("the aggregator cannot store it now")]
    Busy = 8,
    /// The channel is closed.
    #[error("the channel is closed")]
    Closed = 9,
}

impl Refusal {
    /// The refusal with a number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        const ALL: [Refusal; 9] = [
            Refusal::Malformed,
            Refusal::OtherAggregator,
            Refusal::OtherChain,
            Refusal::UnknownChannel,
            Refusal::BadSignature,
            Refusal::Conflict,
            Refusal::Old,
            Refusal::Busy,
            Refusal::Closed,
        ];
        ALL.into_iter().find(|refusal| *refusal as u32 == number)
    }
}

/// Why settling did not go on.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The journal did not store.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal did not open.
    #[error(transparent)]
    Open(#[from] JournalOpenError),
    /// The journal did not read.
    #[error(transparent)]
    Read(#[from] JournalReadError),
    /// The network would not register the protocol.
    #[error(transparent)]
    Accept(#[from] AcceptError),
    /// A record of ours is not what we wrote.
    #[error("record of {what} in the aggregator's journal: {source}")]
    Record {
        /// Which record.
        what: &'static str,
        /// What does not fit.
        source: DataError,
    },
    /// Settlement was deployed over another channels contract.
    #[error("Settlement pays through {actual}, {expected} is configured")]
    OtherChannels {
        /// The configured contract.
        expected: Address,
        /// The contract's own.
        actual: Address,
    },
    /// The account cannot bond.
    #[error("the aggregator {account} holds {held} in coins and tokens, the bond needs {needed}")]
    CannotBond {
        /// The account.
        account: Address,
        /// What it has.
        held: Wei,
        /// What the bond needs besides.
        needed: Wei,
    },
    /// The chain has another batch under our number: another process settles from this account.
    #[error(
        "batch {number} on the chain has root {on_chain}, ours is {ours}; does another aggregator use this account?"
    )]
    NumberTaken {
        /// The number.
        number: u64,
        /// Our root.
        ours: BatchRoot,
        /// The root on the chain.
        on_chain: BatchRoot,
    },
}

/// Why a peer did not answer a question about receipts or batches.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No stream.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The stream broke, or said something that is no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The answer does not decode.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Nobody who is connected is the aggregator.
    #[error("no connected peer has the aggregator's account {account}")]
    NoAggregator {
        /// The account.
        account: Address,
    },
    /// Nothing came in time.
    #[error("no answer within {waited_ms} ms")]
    Timeout {
        /// For how long.
        waited_ms: u64,
    },
    /// The peer does not have the batch.
    #[error("the peer does not serve batch {root}")]
    NotServed {
        /// The batch.
        root: BatchRoot,
    },
    /// The promises in the answer could not be stored; ask again, the aggregator promises the same.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The answer does not belong to the question.
    #[error("the answer has {actual} {what}, {expected} expected")]
    Mismatch {
        /// Of what.
        what: &'static str,
        /// How many were expected.
        expected: usize,
        /// How many came.
        actual: usize,
    },
}
