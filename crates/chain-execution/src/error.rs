//! Errors by operation.

use alloy_primitives::{Address, B256, Bytes};
use trellis_chain_storage::ReadError;

/// Why a transaction's sender is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The upper half of the curve's order is not allowed for `s` (EIP-2).
    #[error("signature has a high s value")]
    HighS,
    /// No public key gives this signature.
    #[error("signature does not recover to a public key")]
    Unrecoverable,
}

/// Why execution failed for a reason that lies in this node, not in a block.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] ReadError),
    /// The EVM failed in a way that no transaction explains.
    #[error("EVM failed: {0}")]
    Evm(String),
    /// The extra data is over its limit.
    #[error("extra data has {found} bytes, at most {expected} are allowed")]
    ExtraData {
        /// The limit in bytes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

/// Why a block is refused.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// A header field is not what parent, section and rules make it.
    #[error("{field} is {found}, expected {expected}")]
    Field {
        /// The header's field.
        field: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The block is over its byte limit.
    #[error("block has {found} bytes, at most {expected} are allowed")]
    Bytes {
        /// The limit in bytes.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// The number of senders given is not the number of transactions.
    #[error("{found} senders given for {expected} transactions")]
    Senders {
        /// Transactions in the block.
        expected: usize,
        /// Senders given.
        found: usize,
    },
    /// A transaction's signature is invalid.
    #[error("transaction {index}: {reason}")]
    Signature {
        /// Its place in the block.
        index: usize,
        /// What is wrong with it.
        reason: RecoverError,
    },
    /// A transaction cannot be executed where it stands.
    #[error("transaction {index} ({hash}) is invalid: {reason}")]
    Transaction {
        /// Its place in the block.
        index: usize,
        /// Its hash.
        hash: B256,
        /// What the rules say about it.
        reason: String,
    },
    /// A block of Ethereum was given to an executor of another chain.
    #[error("this executor's chain is not one of Ethereum's")]
    NotEthereum,
    /// Not the block's fault.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
}

/// Why a call or an estimate has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The contract reverted; `output` is its reason as ABI bytes.
    #[error("execution reverted")]
    Reverted {
        /// ABI bytes of the reason.
        output: Bytes,
        /// Gas used until then.
        gas_used: u64,
    },
    /// Execution ended abnormally (out of gas, invalid opcode, ...).
    #[error("{reason}")]
    Halted {
        /// What the EVM says.
        reason: String,
        /// Gas used, which is all there was.
        gas_used: u64,
    },
    /// The call cannot be made at all (funds, fees, gas).
    #[error("{0}")]
    Invalid(String),
    /// Even all the gas allowed is not enough.
    #[error("gas required exceeds allowance ({allowance})")]
    Allowance {
        /// Gas that was allowed.
        allowance: u64,
    },
    /// An override makes no sense or is not supported.
    #[error("override of {address}: {reason}")]
    Override {
        /// The account.
        address: Address,
        /// What is wrong.
        reason: &'static str,
    },
    /// The node failed.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
}

/// Why block zero could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// A deployment or a call failed.
    #[error("genesis step {index} ({name}) failed: {reason}")]
    Step {
        /// Its place in the list.
        index: usize,
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A contract is not where the plan says.
    #[error("genesis step {index} ({name}) made {found:?}, expected {expected}")]
    Address {
        /// Its place in the list.
        index: usize,
        /// Its name.
        name: String,
        /// The planned address.
        expected: Address,
        /// The address made.
        found: Option<Address>,
    },
    /// An account stands in the allocation twice.
    #[error("account {0} is allocated twice")]
    Twice(Address),
    /// An account with storage, but without code and with nonce zero. No contract could be made there any more (EIP-7610),
    /// and no such account comes to be in any other way, so the EVM need not look for it at every creation.
    #[error("account {0} has storage, but neither code nor a nonce")]
    StorageWithoutCode(Address),
    /// The extra data is over its limit.
    #[error("extra data has {found} bytes, at most {expected} are allowed")]
    ExtraData {
        /// The limit in bytes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A chain of Ethereum that does not begin at zero.
    #[error("block zero has the number {0}")]
    Number(u64),
    /// The store that the deployments ran on failed.
    #[error("genesis state: {0}")]
    State(String),
}
