//! What can go wrong between the market and a chain.

use trellis_chain_finality::{HandoverError, ProofError};
use trellis_primitives::{B256, Bytes};

/// Why something with a chain did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No URL is configured.
    #[error("no RPC URL is configured; give one with --rpc")]
    NoUrl,
    /// None of the URLs answered.
    #[error("none of the {urls} RPC URLs answered {method}; the last one: {last}")]
    Unreachable {
        /// What was asked.
        method: &'static str,
        /// How many URLs were tried.
        urls: usize,
        /// What the last one's trouble was.
        last: String,
    },
    /// Another chain is behind a URL.
    #[error("{url} serves chain {actual}, chain {expected} is configured")]
    WrongChain {
        /// The URL.
        url: String,
        /// The configured id.
        expected: u64,
        /// The id it answered with.
        actual: u64,
    },
    /// The answer is not what the method answers with.
    #[error("the answer to {method} is malformed: {reason}")]
    Malformed {
        /// What was asked.
        method: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The node refused, and another node would too.
    #[error("{method} was refused: {message} (code {code})")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// JSON-RPC's code.
        code: i64,
        /// The node's words.
        message: String,
    },
    /// A contract reverted.
    #[error("the contract reverted: {reason}")]
    Reverted {
        /// The error's name and values where it is one of ours.
        reason: String,
        /// The revert data.
        data: Bytes,
    },
    /// The sender cannot pay.
    #[error("the sender's coins do not cover value and gas: {message}")]
    InsufficientFunds {
        /// The node's words.
        message: String,
    },
    /// Gas costs more than the configuration allows.
    #[error("gas costs {base_fee_wei} wei, the cap is {cap_wei} wei; wait, or raise the cap")]
    FeeAboveCap {
        /// The base fee now.
        base_fee_wei: u128,
        /// The configured cap.
        cap_wei: u128,
    },
    /// The transaction is in a block and failed.
    #[error("transaction {tx} failed in block {block} after {gas_used} gas: {reason}")]
    Failed {
        /// The transaction.
        tx: B256,
        /// Its block.
        block: u64,
        /// The gas it used.
        gas_used: u64,
        /// Why, as far as the same call can tell on the state before its block.
        reason: String,
    },
    /// Another transaction took the nonce.
    #[error(
        "transaction {tx} will never be included: its nonce {nonce} was used by another transaction of the account"
    )]
    Displaced {
        /// The transaction.
        tx: B256,
        /// Its nonce.
        nonce: u64,
    },
    /// A deadline passed.
    #[error("{what} did not happen within {waited_ms} ms")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        waited_ms: u64,
    },
    /// The chain's word on what is final is not proved.
    #[error("the finality proof does not hold: {0}")]
    NotProved(#[from] ProofError),
    /// A change of committees is not proved.
    #[error("the next committee is not proved: {0}")]
    NotHandedOver(#[from] HandoverError),
    /// A log or a return value does not decode.
    #[error("{what} does not decode: {reason}")]
    Decode {
        /// What was read.
        what: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// Something else that a chain of tests refused.
    #[error("{0}")]
    Other(String),
}

impl ChainError {
    /// True if the same request may work later without any change: the chain is away, slow or dear.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::FeeAboveCap { .. })
    }
}
