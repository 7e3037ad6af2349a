//! Every way to be refused, in the words that Ethereum's clients and wallets know.

use alloy_primitives::U256;

/// Why a transaction was not taken. The texts begin as geth's do, because wallets and libraries match on them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PoolError {
    /// The same transaction is in the pool.
    #[error("already known")]
    AlreadyKnown,
    /// The nonce was used by a transaction in a block.
    #[error("nonce too low: next nonce {next}, tx nonce {got}")]
    NonceTooLow {
        /// The account's next nonce.
        next: u64,
        /// The transaction's nonce.
        got: u64,
    },
    /// The nonce is further ahead than the pool waits for.
    #[error("nonce too high: next nonce {next}, tx nonce {got}, at most {ahead_max} ahead")]
    NonceTooHigh {
        /// The account's next nonce.
        next: u64,
        /// The transaction's nonce.
        got: u64,
        /// How far ahead a nonce may be.
        ahead_max: u64,
    },
    /// A nonce of 2^64 - 1 can never be followed (EIP-2681).
    #[error("nonce has max value")]
    NonceMax,
    /// Another transaction with this nonce waits, and this one does not offer enough more.
    #[error(
        "replacement transaction underpriced: maxFeePerGas {fee}, minimum needed {fee_min}; \
         maxPriorityFeePerGas {tip}, minimum needed {tip_min}"
    )]
    ReplacementUnderpriced {
        /// The fee cap offered, wei.
        fee: u128,
        /// The least fee cap that replaces, wei.
        fee_min: u128,
        /// The tip cap offered, wei.
        tip: u128,
        /// The least tip cap that replaces, wei.
        tip_min: u128,
    },
    /// The fee cap is under the chain's floor.
    #[error("transaction underpriced: maxFeePerGas {fee}, minimum needed {fee_min}")]
    Underpriced {
        /// The fee cap offered, wei.
        fee: u128,
        /// The chain's floor, wei.
        fee_min: u128,
    },
    /// The pool is full of transactions that pay more.
    #[error("txpool is full: transaction underpriced, maxFeePerGas {fee}")]
    PoolFull {
        /// The fee cap offered, wei.
        fee: u128,
    },
    /// The account cannot pay for this transaction.
    #[error("insufficient funds for gas * price + value: balance {balance}, tx cost {cost}, overshot {}", .cost.saturating_sub(*.balance))]
    InsufficientFunds {
        /// The account's balance, wei.
        balance: U256,
        /// Gas limit times fee cap plus value, wei.
        cost: U256,
    },
    /// The account cannot pay for this transaction and for those of its own that wait.
    #[error(
        "insufficient funds for gas * price + value: balance {balance}, queued cost {queued}, tx cost {cost}, overshot {}",
        .queued.saturating_add(*.cost).saturating_sub(*.balance)
    )]
    InsufficientFundsQueued {
        /// The account's balance, wei.
        balance: U256,
        /// Cost of the account's waiting transactions, wei.
        queued: U256,
        /// Cost of this one, wei.
        cost: U256,
    },
    /// The gas limit does not even pay for the bytes.
    #[error("intrinsic gas too low: gas {got}, minimum needed {needed}")]
    IntrinsicGas {
        /// The transaction's gas limit.
        got: u64,
        /// What its bytes cost.
        needed: u64,
    },
    /// The gas limit is under the calldata floor (EIP-7623).
    #[error("insufficient gas for floor data gas cost: gas {got}, minimum needed {needed}")]
    FloorDataGas {
        /// The transaction's gas limit.
        got: u64,
        /// The floor.
        needed: u64,
    },
    /// The gas limit is over the cap of EIP-7825.
    #[error("transaction gas limit too high (cap: {cap}, tx: {got})")]
    GasCap {
        /// The cap.
        cap: u64,
        /// The transaction's gas limit.
        got: u64,
    },
    /// The gas limit is over the block's.
    #[error("exceeds block gas limit: tx gas {got}, block gas limit {limit}")]
    BlockGasLimit {
        /// The transaction's gas limit.
        got: u64,
        /// The block's.
        limit: u64,
    },
    /// The tip cap is over the fee cap.
    #[error("max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, maxFeePerGas: {fee}")]
    TipAboveFee {
        /// The tip cap, wei.
        tip: u128,
        /// The fee cap, wei.
        fee: u128,
    },
    /// The encoding is too long.
    #[error("oversized data: transaction size {got}, limit {limit}")]
    Oversized {
        /// Bytes of the encoding.
        got: usize,
        /// Bytes at most.
        limit: usize,
    },
    /// The creation code is too long (EIP-3860).
    #[error("max initcode size exceeded: code size {got}, limit {limit}")]
    InitcodeSize {
        /// Bytes of the code.
        got: usize,
        /// Bytes at most.
        limit: usize,
    },
    /// A transaction type that this chain does not carry (blobs, EIP-4844).
    #[error("transaction type not supported: type {0}")]
    TypeNotSupported(u8),
    /// A set-code transaction that sets nothing (EIP-7702).
    #[error("set code transaction with empty auth list")]
    EmptyAuthorizations,
    /// Signed for another chain.
    #[error("invalid chain id for signer: have {got} want {want}")]
    ChainId {
        /// The transaction's chain id.
        got: u64,
        /// This chain's.
        want: u64,
    },
    /// Signed for no chain, so that anyone could replay it on another.
    #[error("only replay-protected (EIP-155) transactions allowed over RPC")]
    Unprotected,
    /// The sender has as many transactions waiting as one may have.
    #[error("account limit exceeded: {held} transactions of this sender are waiting, limit {limit}")]
    AccountLimit {
        /// How many wait.
        held: usize,
        /// How many may.
        limit: usize,
    },
    /// Fee times gas plus value does not fit into 256 bits.
    #[error("insufficient funds for gas * price + value: required balance exceeds 256 bits")]
    CostOverflow,
    /// The account could not be read from the state.
    #[error(transparent)]
    Account(#[from] AccountReadError),
}

impl PoolError {
    /// A short constant name, the `reason` label of the refusal counter.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::AlreadyKnown => "already_known",
            Self::NonceTooLow { .. } => "nonce_too_low",
            Self::NonceTooHigh { .. } => "nonce_too_high",
            Self::NonceMax => "nonce_max",
            Self::ReplacementUnderpriced { .. } => "replacement_underpriced",
            Self::Underpriced { .. } => "underpriced",
            Self::PoolFull { .. } => "pool_full",
            Self::InsufficientFunds { .. } | Self::InsufficientFundsQueued { .. } | Self::CostOverflow => {
                "insufficient_funds"
            }
            Self::IntrinsicGas { .. } | Self::FloorDataGas { .. } => "intrinsic_gas",
            Self::GasCap { .. } | Self::BlockGasLimit { .. } => "gas_limit",
            Self::TipAboveFee { .. } => "tip_above_fee",
            Self::Oversized { .. } | Self::InitcodeSize { .. } => "oversized",
            Self::TypeNotSupported(_) | Self::EmptyAuthorizations => "type",
            Self::ChainId { .. } | Self::Unprotected => "chain_id",
            Self::AccountLimit { .. } => "account_limit",
            Self::Account(_) => "account_read",
        }
    }
}

/// The state could not be read. What went wrong inside is the reader's to log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("account state is unavailable: {0}")]
pub struct AccountReadError(
    /// The reader's own words.
    pub String,
);
