//! The seam between the market and a chain.

use std::time::Duration;

use alloy_primitives::LogData;
use async_trait::async_trait;
use trellis_crypto::AccountKey;
use trellis_primitives::{Address, B256, Bytes, UnixMs, Wei};

use crate::error::ChainError;

/// The newest block, and how far the chain is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The newest block's number.
    pub number: u64,
    /// The newest block's hash.
    pub hash: B256,
    /// The newest block's timestamp, in Unix seconds.
    pub time_s: u64,
    /// The highest block that will not be taken back.
    pub finalized_number: u64,
    /// The newest block's base fee in wei per gas.
    pub base_fee_wei: u128,
}

/// A transaction that somebody wants to happen. It must be harmless if it happens twice: after a lost answer nobody knows
/// whether a node took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxIntent {
    /// The account or contract that it goes to.
    pub to: Address,
    /// Coins that go with it.
    pub value: Wei,
    /// Call data.
    pub data: Bytes,
    /// The most gas it may use.
    pub gas_limit_max: u64,
}

/// The most gas a transaction may have on an Osaka chain (EIP-7825).
pub(crate) const TX_GAS_MAX: u64 = 16_777_216;

impl TxIntent {
    /// A call of a contract without coins, with the chain's own gas bound.
    #[must_use]
    pub fn call(to: Address, data: Vec<u8>) -> Self {
        Self { to, value: Wei::ZERO, data: data.into(), gas_limit_max: TX_GAS_MAX }
    }
}

/// Where a log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace {
    /// Block number.
    pub block: u64,
    /// Index of the log in its block.
    pub index: u64,
    /// The transaction.
    pub tx: B256,
}

/// One log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The contract that wrote it.
    pub address: Address,
    /// Topics and data.
    pub data: LogData,
    /// Where it stands.
    pub place: LogPlace,
}

/// Which logs are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    /// Contracts; any of them.
    pub addresses: Vec<Address>,
    /// For each topic position the values of which one must match; an empty list matches all.
    pub topics: Vec<Vec<B256>>,
    /// First block.
    pub from_block: u64,
    /// Last block.
    pub to_block: u64,
}

/// What became of a transaction, in a block that is final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxReceipt {
    /// The transaction that was included; another than the one first sent if it had to be replaced.
    pub tx: B256,
    /// Its block's number.
    pub block: u64,
    /// Its block's hash.
    pub block_hash: B256,
    /// Whether it succeeded.
    pub success: bool,
    /// The gas it used.
    pub gas_used: u64,
    /// Wei paid per gas.
    pub gas_price_wei: u128,
    /// Its logs.
    pub logs: Vec<Log>,
}

/// A chain as the market sees it.
#[async_trait]
pub trait ChainClient: Send + Sync + 'static {
    /// The EIP-155 chain id; checked when the client connected.
    fn chain_id(&self) -> u64;

    /// The newest block and the finalized height.
    async fn head(&self) -> Result<Head, ChainError>;

    /// Calls a contract at the newest block. A revert is [`ChainError::Reverted`].
    async fn call(&self, to: Address, data: Bytes) -> Result<Bytes, ChainError>;

    /// Logs that match, in order, from blocks that exist now.
    async fn logs(&self, filter: LogFilter) -> Result<Vec<Log>, ChainError>;

    /// The call data of a transaction that is in a block; `None` where there is none.
    async fn transaction_data(&self, tx: B256) -> Result<Option<Bytes>, ChainError>;

    /// An account's coins.
    async fn balance(&self, account: Address) -> Result<Wei, ChainError>;

    /// Signs and sends. Nonces, gas and fees are the client's business. Returns when a node has taken the transaction.
    async fn send(&self, intent: TxIntent, from: &AccountKey) -> Result<B256, ChainError>;

    /// Waits until a transaction of ours is in a final block; replaces it while it is stuck.
    async fn wait(&self, tx: B256, from: &AccountKey, within: Duration) -> Result<TxReceipt, ChainError>;

    /// Why a transaction failed: its call is executed again with the sender, value and gas that it had, on the state before
    /// its block and at its block's time. What other transactions of that block did before it is not seen.
    async fn failure_reason(&self, failed: &TxReceipt) -> Result<String, ChainError>;

    /// The time of the newest block that was ever seen; what happened on the chain before it is known, what came after is
    /// not. `None` before the first answer.
    fn last_view(&self) -> Option<UnixMs>;
}
