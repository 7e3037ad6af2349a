//! What goes in and what comes out: executed blocks, committed blocks, the genesis.

use crate::{StateDiff, StateTransition};
use alloy_consensus::{EthereumReceipt, TxType};
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Address, B256, Log};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use std::sync::Arc;
use trellis_primitives::{Block, CommitCertificate, Header};

/// A receipt as it is stored: without the bloom, which is recomputed from the logs where it is needed.
pub type Receipt = EthereumReceipt<TxType, Log>;

/// Where a transaction stands in the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxLocation {
    /// The height of its block.
    pub block: u64,
    /// Its place in the block, from 0.
    pub index: u32,
}

/// Block zero and the state it begins with.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// The block at height 0; its header's state root is the root of `state`.
    pub block: Block,
    /// All accounts, codes and slots of the first state.
    pub state: StateDiff,
}

impl Genesis {
    /// The hash of block zero: the name of the chain.
    #[must_use]
    pub fn hash(&self) -> B256 {
        self.block.hash()
    }
}

/// What a block of Ethereum's own chains has beside what a Trellis block has. Only an imported chain has such blocks.
#[derive(Clone, PartialEq, Eq, Debug, Default, RlpEncodable, RlpDecodable)]
pub struct EthereumBody {
    /// Headers of blocks that were mined beside its ancestors.
    pub ommers: Vec<Header>,
    /// Coins that came from the beacon chain; empty before Shanghai, and then the header has no root of them.
    pub withdrawals: Vec<Withdrawal>,
    /// Before Byzantium the root of the state after each transaction, which its receipt has in place of the status.
    pub receipt_roots: Vec<B256>,
}

/// A block that was executed on its parent's state and is ready to be committed.
#[derive(Clone, Debug)]
pub struct ExecutedBlock {
    /// The block.
    pub block: Arc<Block>,
    /// The hash of its header.
    pub hash: B256,
    /// The sender of each transaction, in order.
    pub senders: Vec<Address>,
    /// The receipt of each transaction, in order.
    pub receipts: Vec<Receipt>,
    /// What it does to the state.
    pub transition: StateTransition,
    /// What only a block of Ethereum's own chains has.
    pub ethereum: Option<EthereumBody>,
}

/// A final block as it is on disk.
#[derive(Clone, Debug)]
pub struct CommittedBlock {
    /// The block.
    pub block: Arc<Block>,
    /// The hash of its header.
    pub hash: B256,
    /// The sender of each transaction, in order.
    pub senders: Vec<Address>,
    /// The receipt of each transaction, in order.
    pub receipts: Vec<Receipt>,
    /// The certificate that finalised it; none for the genesis.
    pub certificate: Option<CommitCertificate>,
    /// What only a block of Ethereum's own chains has.
    pub ethereum: Option<EthereumBody>,
}

impl CommittedBlock {
    /// The block's height.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.block.header.number
    }
}
