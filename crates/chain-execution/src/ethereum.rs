//! Blocks of Ethereum's own chains, for the compatibility suite: block zero from a `genesis.json`, and the execution of a
//! block from a file by the rules of its fork (CHN-41).
//!
//! The seal of proof of work and the proof of stake's signatures are not looked at: whoever gives the file vouches for the
//! order of its blocks. Everything that follows from a block's parent and its body is checked, every root of it.

mod build;
mod header;

pub use build::{BuildError, BuiltPayload, PayloadAttributes};

use crate::block::{receipt, same};
use crate::database::BlockDb;
use crate::executor::{ChainEvm, chain_evm_with};
use crate::forks::{ForkSchedule, ForksAt};
use crate::outcome::state_diff;
use crate::recover::recover_sender_of;
use crate::{BlockError, ExecutionError, Executor, GenesisError};
use alloy_consensus::{Eip658Value, ReceiptWithBloom, Transaction, TxReceipt};
use alloy_eips::eip2718::Encodable2718;
use alloy_eips::eip4895::Withdrawal;
use alloy_eips::eip7685::Requests;
use alloy_evm::block::SystemCaller;
use alloy_evm::block::calc::{base_block_reward, block_reward, ommer_reward};
use alloy_evm::block::state_changes::post_block_balance_increments;
use alloy_evm::eth::eip6110::{DEPOSIT_REQUEST_TYPE, accumulate_deposits_from_receipts};
use alloy_evm::eth::spec::EthExecutorSpec;
use alloy_evm::eth::{EthEvmContext, dao_fork};
use alloy_evm::{Database, Evm, FromRecoveredTx};
use alloy_hardforks::{EthereumHardfork, EthereumHardforks};
use alloy_primitives::{Address, B256, Bloom, KECCAK256_EMPTY, U256, keccak256};
use rayon::prelude::*;
use revm::context::TxEnv;
use revm::database::State;
use revm::database::states::bundle_state::BundleRetention;
use revm::database_interface::DatabaseCommitExt;
use revm::inspector::NoOpInspector;
use revm::primitives::hardfork::SpecId;
use revm::{DatabaseCommit, Inspector};
use std::sync::Arc;
use trellis_chain_storage::{
    Account, AccountDiff, EthereumBody, ExecutedBlock, Genesis, PendingState, Receipt, StateDiff, StateView,
    state_root_of,
};
use trellis_primitives::{Block, ConsensusSection, Header, TxEnvelope};

/// A block as Ethereum's files and peers have it: header, transactions, ommers, withdrawals.
pub type EthereumBlock = alloy_consensus::Block<TxEnvelope>;

/// Block zero of a `genesis.json`.
///
/// # Errors
/// [`GenesisError::Number`] where it does not begin at zero.
pub fn ethereum_genesis(genesis: &alloy_genesis::Genesis) -> Result<Genesis, GenesisError> {
    if let Some(number) = genesis.number.filter(|number| *number != 0) {
        return Err(GenesisError::Number(number));
    }
    let state = genesis_state(genesis);
    let forks = ForkSchedule::new(genesis.config.clone());
    let bare = Header {
        parent_hash: genesis.parent_hash.unwrap_or_default(),
        beneficiary: genesis.coinbase,
        state_root: state_root_of(&state),
        difficulty: genesis.difficulty,
        gas_limit: genesis.gas_limit,
        timestamp: genesis.timestamp,
        extra_data: genesis.extra_data.clone(),
        mix_hash: genesis.mix_hash,
        nonce: genesis.nonce.into(),
        base_fee_per_gas: genesis.base_fee_per_gas.and_then(|fee| u64::try_from(fee).ok()),
        ..Header::default()
    };
    let mut header = forks.dress(&Header::default(), bare);
    if header.excess_blob_gas.is_some() {
        header.excess_blob_gas = Some(genesis.excess_blob_gas.unwrap_or_default());
        header.blob_gas_used = Some(genesis.blob_gas_used.unwrap_or_default());
    }
    let block = Block { header, transactions: Vec::new(), section: ConsensusSection::default() };
    Ok(Genesis { block, state })
}

fn genesis_state(genesis: &alloy_genesis::Genesis) -> StateDiff {
    let mut codes = Vec::new();
    let accounts = genesis
        .alloc
        .iter()
        .map(|(address, account)| {
            let code = account.code.clone().unwrap_or_default();
            let code_hash = if code.is_empty() { KECCAK256_EMPTY } else { keccak256(&code) };
            if !code.is_empty() {
                codes.push((code_hash, code));
            }
            let slots = account.storage.iter().flatten();
            let storage = slots.map(|(slot, value)| (U256::from_be_bytes(slot.0), U256::from_be_bytes(value.0)));
            let account = Account { nonce: account.nonce.unwrap_or_default(), balance: account.balance, code_hash };
            let storage = storage.filter(|(_, value)| !value.is_zero()).collect();
            AccountDiff { address: *address, account: Some(account), wiped: false, storage }
        })
        .collect();
    codes.sort_unstable_by_key(|(hash, _)| *hash);
    codes.dedup_by_key(|(hash, _)| *hash);
    StateDiff { accounts, codes }
}

/// What a block did, before it is compared with its header.
pub(crate) struct EthereumOutcome {
    pub(crate) pending: PendingState,
    pub(crate) receipts: Vec<Receipt>,
    /// The root of the state after each transaction, before Byzantium.
    pub(crate) roots: Vec<B256>,
    pub(crate) gas_used: u64,
    pub(crate) blob_gas_used: u64,
    pub(crate) requests: Requests,
}

/// An Ethereum block in the making.
pub(crate) struct EthereumRun<'a> {
    pub(crate) evm: ChainEvm<BlockDb<'a>>,
    forks: ForksAt<'a>,
    parent: &'a StateView,
    spec: SpecId,
    gas_limit: u64,
    blob_gas_max: u64,
    gas_used: u64,
    blob_gas_used: u64,
    receipts: Vec<Receipt>,
    roots: Vec<B256>,
}

pub(crate) fn failed<E: std::fmt::Display>(error: E) -> ExecutionError {
    ExecutionError::Evm(error.to_string())
}

/// Opens a block: a machine on its parent's state, after the calls that the fork makes before its transactions.
pub(crate) fn open_ethereum<'a, I: Inspector<EthEvmContext<BlockDb<'a>>>>(
    executor: &'a Executor,
    forks: &ForkSchedule,
    parent: &'a StateView,
    header: &Header,
    inspector: I,
) -> Result<ChainEvm<BlockDb<'a>, I>, ExecutionError> {
    let db = State::builder().with_database_ref(executor.database(parent)).with_bundle_update().build();
    let mut evm = chain_evm_with(db, forks.env(header), None, inspector);
    evm.disable_inspector();
    SystemCaller::new(forks.at(header)).apply_pre_execution_changes(header, &mut evm).map_err(failed)?;
    Ok(evm)
}

/// What a fork does after a block's transactions: requests (EIP-7685), rewards, withdrawals.
pub(crate) fn close_ethereum<DB: Database + DatabaseCommit, I: Inspector<EthEvmContext<DB>>>(
    evm: &mut ChainEvm<DB, I>,
    forks: ForksAt<'_>,
    receipts: &[Receipt],
    ommers: &[Header],
    withdrawals: &[Withdrawal],
) -> Result<Requests, ExecutionError> {
    let (number, time_s) = (evm.block().number.saturating_to(), evm.block().timestamp.saturating_to());
    let mut requests = Requests::default();
    if forks.is_prague_active_at_timestamp(time_s) {
        let mut deposits = Vec::new();
        if let Some(contract) = forks.deposit_contract_address() {
            accumulate_deposits_from_receipts(contract, receipts, &mut deposits).map_err(failed)?;
        }
        if !deposits.is_empty() {
            requests.push_request_with_type(DEPOSIT_REQUEST_TYPE, deposits);
        }
        SystemCaller::new(forks).append_post_execution_changes(evm, &mut requests).map_err(failed)?;
    }
    let mut increments = post_block_balance_increments(forks, evm.block(), ommers, Some(withdrawals));
    if forks.ethereum_fork_activation(EthereumHardfork::Dao).transitions_at_block(number) {
        let drained = evm.db_mut().drain_balances(dao_fork::DAO_HARDFORK_ACCOUNTS).map_err(failed)?;
        let to = increments.entry(dao_fork::DAO_HARDFORK_BENEFICIARY).or_default();
        *to = drained.into_iter().fold(*to, u128::saturating_add);
    }
    evm.db_mut().increment_balances(increments).map_err(failed)?;
    Ok(requests)
}

impl<'a> EthereumRun<'a> {
    pub(crate) fn begin(
        executor: &'a Executor,
        forks: &'a ForkSchedule,
        parent: &'a StateView,
        header: &Header,
    ) -> Result<Self, ExecutionError> {
        let evm = open_ethereum(executor, forks, parent, header, NoOpInspector)?;
        Ok(Self {
            evm,
            forks: forks.at(header),
            parent,
            spec: forks.spec(header),
            gas_limit: header.gas_limit,
            blob_gas_max: forks.blob_params(header.timestamp).map_or(0, |blobs| blobs.max_blob_gas_per_block()),
            gas_used: 0,
            blob_gas_used: 0,
            receipts: Vec::new(),
            roots: Vec::new(),
        })
    }

    /// Runs a transaction; the text says why it cannot be in this block.
    pub(crate) fn execute(&mut self, tx: &TxEnvelope, sender: Address) -> Result<(), String> {
        let left = self.gas_limit.saturating_sub(self.gas_used);
        if tx.gas_limit() > left {
            return Err(format!("gas limit reached: {left} left, {} asked for", tx.gas_limit()));
        }
        let blob_gas = self.blob_gas_used.saturating_add(tx.blob_gas_used().unwrap_or_default());
        if blob_gas > self.blob_gas_max {
            return Err(format!("blob gas limit reached: {blob_gas} over {}", self.blob_gas_max));
        }
        let outcome = self.evm.transact_raw(TxEnv::from_recovered_tx(tx, sender)).map_err(|error| error.to_string())?;
        self.evm.db_mut().commit(outcome.state);
        self.blob_gas_used = blob_gas;
        self.gas_used = self.gas_used.saturating_add(outcome.result.tx_gas_used());
        self.receipts.push(receipt(tx, self.gas_used, outcome.result));
        if self.spec < SpecId::BYZANTIUM {
            let db = self.evm.db_mut();
            db.merge_transitions(BundleRetention::PlainState);
            self.roots.push(self.parent.apply(state_diff(db.bundle_state.clone())).state_root());
        }
        Ok(())
    }

    pub(crate) const fn gas_used(&self) -> u64 {
        self.gas_used
    }

    pub(crate) fn finish(
        mut self,
        ommers: &[Header],
        withdrawals: &[Withdrawal],
    ) -> Result<EthereumOutcome, ExecutionError> {
        let requests = close_ethereum(&mut self.evm, self.forks, &self.receipts, ommers, withdrawals)?;
        let mut db = self.evm.into_db();
        db.merge_transitions(BundleRetention::PlainState);
        let pending = self.parent.apply(state_diff(db.take_bundle()));
        let (gas_used, blob_gas_used) = (self.gas_used, self.blob_gas_used);
        Ok(EthereumOutcome { pending, receipts: self.receipts, roots: self.roots, gas_used, blob_gas_used, requests })
    }
}

/// A receipt as the receipts' root counts it: with the state's root in the place of the status before Byzantium.
#[must_use]
pub fn consensus_receipt(receipt: &Receipt, root: Option<B256>) -> Vec<u8> {
    match root {
        None => receipt.with_bloom_ref().encoded_2718(),
        Some(root) => {
            let logs = receipt.logs.clone();
            let bloom = alloy_primitives::logs_bloom(&logs);
            let status = Eip658Value::PostState(root);
            let cumulative_gas_used = receipt.cumulative_gas_used;
            let plain = alloy_consensus::Receipt { status, cumulative_gas_used, logs };
            alloy_rlp::encode(ReceiptWithBloom { receipt: plain, logs_bloom: bloom })
        }
    }
}

/// The root of a block's receipts, and the bloom of all their logs.
pub(crate) fn receipts_root_of(receipts: &[Receipt], roots: &[B256]) -> (B256, Bloom) {
    let encoded: Vec<Vec<u8>> = receipts
        .iter()
        .enumerate()
        .map(|(index, receipt)| consensus_receipt(receipt, roots.get(index).copied()))
        .collect();
    let root = alloy_trie::root::ordered_trie_root_with_encoder(&encoded, |bytes, out| out.extend_from_slice(bytes));
    let bloom = receipts.iter().fold(Bloom::ZERO, |all, receipt| all | alloy_primitives::logs_bloom(&receipt.logs));
    (root, bloom)
}

impl Executor {
    /// New coins of a block, in wei: its miner's and its ommers'. Nothing after the merge, and nothing on a Trellis chain, whose
    /// new coins come from a contract.
    #[must_use]
    pub fn issuance(&self, header: &Header, ommers: &[Header]) -> (U256, U256) {
        let at = match self.forks() {
            Some(forks) => forks.at(header),
            None => return (U256::ZERO, U256::ZERO),
        };
        let Some(base) = base_block_reward(at, header.number) else { return (U256::ZERO, U256::ZERO) };
        let uncles = ommers.iter().map(|ommer| ommer_reward(base, header.number, ommer.number));
        (U256::from(block_reward(base, ommers.len())), U256::from(uncles.fold(0, u128::saturating_add)))
    }

    /// Executes a block of an Ethereum chain on its parent's state, by the rules of its fork, and checks every field of its
    /// header but the seal.
    ///
    /// # Errors
    /// [`BlockError`] with the first rule that is broken; [`BlockError::NotEthereum`] where the executor is of a Trellis chain.
    pub fn execute_ethereum_block(
        &self,
        parent: &StateView,
        block: EthereumBlock,
    ) -> Result<ExecutedBlock, BlockError> {
        let forks = self.forks.as_deref().ok_or(BlockError::NotEthereum)?;
        header::check(forks, parent, &block)?;
        let alloy_consensus::Block { header, body } = block;
        let withdrawals = body.withdrawals.map(|list| list.0).unwrap_or_default();
        let strict = forks.spec(&header) >= SpecId::HOMESTEAD;
        let sender = |(index, tx): (usize, &TxEnvelope)| {
            recover_sender_of(tx, strict).map_err(|reason| BlockError::Signature { index, reason })
        };
        let senders: Vec<Address> = body.transactions.par_iter().enumerate().map(sender).collect::<Result<_, _>>()?;
        let mut run = EthereumRun::begin(self, forks, parent, &header)?;
        for (index, (tx, sender)) in body.transactions.iter().zip(&senders).enumerate() {
            run.execute(tx, *sender).map_err(|reason| BlockError::Transaction {
                index,
                hash: *tx.tx_hash(),
                reason,
            })?;
        }
        let outcome = run.finish(&body.ommers, &withdrawals)?;
        let (receipts_root, bloom) = receipts_root_of(&outcome.receipts, &outcome.roots);
        same("gasUsed", outcome.gas_used, header.gas_used)?;
        same("blobGasUsed", header.blob_gas_used.map(|_| outcome.blob_gas_used), header.blob_gas_used)?;
        same("requestsHash", header.requests_hash.map(|_| outcome.requests.requests_hash()), header.requests_hash)?;
        same("logsBloom", bloom, header.logs_bloom)?;
        same("stateRoot", outcome.pending.state_root(), header.state_root)?;
        same("receiptsRoot", receipts_root, header.receipts_root)?;
        let hash = header.hash_slow();
        let transition = outcome.pending.finish(header.clone(), hash);
        let section = ConsensusSection::default();
        let ethereum = Some(EthereumBody { ommers: body.ommers, withdrawals, receipt_roots: outcome.roots });
        Ok(ExecutedBlock {
            block: Arc::new(Block { header, transactions: body.transactions, section }),
            hash,
            senders,
            receipts: outcome.receipts,
            transition,
            ethereum,
        })
    }
}
