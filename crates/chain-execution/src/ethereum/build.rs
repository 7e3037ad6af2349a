//! A block of Ethereum's that somebody would like to have (`testing_buildBlockV1`): built and rooted, and kept nowhere.

use super::{EthereumRun, receipts_root_of};
use crate::{EXTRA_DATA_BYTES_MAX, ExecutionError, Executor};
use alloy_consensus::Transaction;
use alloy_consensus::proofs::{calculate_transaction_root, calculate_withdrawals_root};
use alloy_eips::eip4895::Withdrawal;
use alloy_eips::eip7685::Requests;
use alloy_primitives::{Address, B256, Bytes, U256};
use trellis_chain_storage::StateView;
use trellis_primitives::{Header, RecoveredTx, TxEnvelope};

/// The gas limit that blocks move to where nothing else is asked for, as geth's.
const GAS_LIMIT_WISH: u64 = 60_000_000;

/// What the block's header is to say.
#[derive(Clone, Debug, Default)]
pub struct PayloadAttributes {
    /// Seconds since 1970.
    pub time_s: u64,
    /// The beacon chain's random word.
    pub prev_randao: B256,
    /// Who gets the tips.
    pub fee_recipient: Address,
    /// Coins that come from the beacon chain.
    pub withdrawals: Vec<Withdrawal>,
    /// The parent's root on the beacon chain.
    pub beacon_root: Option<B256>,
    /// The gas limit to move to.
    pub gas_limit: Option<u64>,
    /// Free bytes.
    pub extra_data: Bytes,
}

/// A block that was built.
#[derive(Clone, Debug)]
pub struct BuiltPayload {
    /// Its header.
    pub header: Header,
    /// Its hash.
    pub hash: B256,
    /// Its transactions.
    pub transactions: Vec<TxEnvelope>,
    /// Its requests.
    pub requests: Requests,
    /// What its tips add up to, in wei.
    pub value: U256,
}

/// Why there is no block.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Only a chain of Ethereum's has such blocks.
    #[error("this chain's blocks are built by its validators only")]
    NotEthereum,
    /// The attributes make no block.
    #[error("{0}")]
    Attributes(&'static str),
    /// A transaction that must be in the block cannot be.
    #[error("{0}")]
    Transaction(String),
    /// The node failed.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
}

impl Executor {
    /// Builds a block on a parent; with `all` every transaction must be in it, else those that cannot are left out.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build_ethereum_block(
        &self,
        parent: &StateView,
        attributes: &PayloadAttributes,
        candidates: impl IntoIterator<Item = RecoveredTx>,
        all: bool,
    ) -> Result<BuiltPayload, BuildError> {
        let forks = self.forks().ok_or(BuildError::NotEthereum)?;
        let before = parent.header();
        if attributes.time_s <= before.timestamp {
            return Err(BuildError::Attributes("the timestamp is not after the parent's"));
        }
        if attributes.extra_data.len() > EXTRA_DATA_BYTES_MAX {
            return Err(BuildError::Attributes("the extra data is too long"));
        }
        let wish = attributes.gas_limit.unwrap_or(GAS_LIMIT_WISH);
        let bare = Header {
            beneficiary: attributes.fee_recipient,
            gas_limit: forks.gas_limit_towards(before, wish),
            mix_hash: attributes.prev_randao,
            extra_data: attributes.extra_data.clone(),
            parent_beacon_block_root: attributes.beacon_root,
            ..forks.pending_header(before, parent.block_hash(), attributes.time_s)
        };
        let header = forks.dress(before, bare);
        let mut run = EthereumRun::begin(self, forks, parent, &header)?;
        let (mut transactions, mut value, mut gas_before) = (Vec::new(), U256::ZERO, 0_u64);
        for candidate in candidates {
            match run.execute(&candidate.tx, candidate.sender) {
                Ok(()) => {
                    let tip = candidate.tx.effective_tip_per_gas(header.base_fee_per_gas.unwrap_or_default());
                    let gas = U256::from(run.gas_used().saturating_sub(gas_before));
                    gas_before = run.gas_used();
                    value = value.saturating_add(gas.saturating_mul(U256::from(tip.unwrap_or_default())));
                    transactions.push(candidate.tx.as_ref().clone());
                }
                Err(reason) if all => return Err(BuildError::Transaction(reason)),
                Err(_) => {}
            }
        }
        let outcome = run.finish(&[], &attributes.withdrawals)?;
        let (receipts_root, logs_bloom) = receipts_root_of(&outcome.receipts, &outcome.roots);
        let header = Header {
            state_root: outcome.pending.state_root(),
            transactions_root: calculate_transaction_root(&transactions),
            receipts_root,
            logs_bloom,
            gas_used: outcome.gas_used,
            blob_gas_used: header.blob_gas_used.map(|_| outcome.blob_gas_used),
            withdrawals_root: header.withdrawals_root.map(|_| calculate_withdrawals_root(&attributes.withdrawals)),
            requests_hash: header.requests_hash.map(|_| outcome.requests.requests_hash()),
            ..header
        };
        let hash = header.hash_slow();
        Ok(BuiltPayload { header, hash, transactions, requests: outcome.requests, value })
    }
}
