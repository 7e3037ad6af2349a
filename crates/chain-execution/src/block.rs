//! Building a block from candidates, and checking somebody else's. Both run the same transactions through the same code.

use crate::database::{BlockDb, DatabaseError};
use crate::env::{next_base_fee, prev_randao};
use crate::executor::{ChainEvm, chain_evm_with};
use crate::outcome::state_diff;
use crate::recover::recover_sender;
use crate::{BLOCK_RLP_BYTES_MAX, BlockError, EXTRA_DATA_BYTES_MAX, ExecutionError, Executor};
use alloy_consensus::Transaction;
use alloy_consensus::constants::{EMPTY_OMMER_ROOT_HASH, EMPTY_WITHDRAWALS};
use alloy_consensus::proofs::calculate_transaction_root;
use alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS;
use alloy_eips::eip4788::{BEACON_ROOTS_ADDRESS, SYSTEM_ADDRESS};
use alloy_eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy_evm::eth::EthEvmContext;
use alloy_evm::{Evm, FromRecoveredTx};
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, U256};
use alloy_rlp::Encodable;
use rayon::prelude::*;
use revm::context::TxEnv;
use revm::context_interface::result::{EVMError, ExecutionResult};
use revm::database::bal::EvmDatabaseError;
use revm::database::states::bundle_state::BundleRetention;
use revm::database::{BundleState, State};
use revm::inspector::NoOpInspector;
use revm::{DatabaseCommit, Inspector};
use std::sync::Arc;
use trellis_chain_storage::{ExecutedBlock, PendingState, Receipt, StateView};
use trellis_primitives::{Block, ConsensusSection, Header, RecoveredTx, TxEnvelope};

/// Bytes of a block that are neither transactions nor section, kept free when one is built: the header, and what RLP puts
/// around lists.
const BLOCK_OVERHEAD_BYTES_MAX: usize = 4_096;

/// What the proposer decides about a block.
#[derive(Clone, Debug)]
pub struct BlockAttributes {
    /// Who gets the tips.
    pub beneficiary: Address,
    /// Time, parent certificate, checkpoint.
    pub section: ConsensusSection,
    /// Free bytes, at most [`EXTRA_DATA_BYTES_MAX`].
    pub extra_data: Bytes,
}

/// A call that the chain itself makes before a block's transactions, from the system's address and without gas to pay. One
/// that fails changes nothing and stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemCall {
    /// The contract.
    pub to: Address,
    /// Call data.
    pub input: Bytes,
}

/// Where a block's transactions come from, in the order of preference. It may end at any time, for example when the
/// time to build is over.
pub trait Candidates {
    /// The next one; none ends the block.
    fn next(&mut self) -> Option<RecoveredTx>;

    /// Hears that the one handed out last was left out, so that what depends on it need not be tried.
    fn left_out(&mut self) {}
}

impl Candidates for std::vec::IntoIter<RecoveredTx> {
    fn next(&mut self) -> Option<RecoveredTx> {
        Iterator::next(self)
    }
}

/// A candidate that did not get into a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its hash.
    pub hash: B256,
    /// What the rules say about it; none where it only did not fit.
    pub invalid: Option<String>,
}

/// A block that was built and executed.
#[derive(Debug)]
pub struct BuiltBlock {
    /// The block, ready to be proposed, and to be committed once it is decided.
    pub executed: ExecutedBlock,
    /// Candidates that were left out.
    pub skipped: Vec<Skipped>,
}

/// Why one transaction did not run.
enum Refusal {
    Invalid(String),
    DoesNotFit,
    Failed(ExecutionError),
}

/// The block in the making.
struct Run<'a> {
    evm: ChainEvm<BlockDb<'a>>,
    gas_limit: u64,
    gas_used: u64,
    receipts: Vec<Receipt>,
}

fn failed<E: std::fmt::Display>(error: &E) -> ExecutionError {
    ExecutionError::Evm(error.to_string())
}

fn evm_failure(error: EVMError<EvmDatabaseError<DatabaseError>>) -> Refusal {
    match error {
        EVMError::Transaction(invalid) => Refusal::Invalid(invalid.to_string()),
        EVMError::Database(EvmDatabaseError::Database(error)) => Refusal::Failed(error.into()),
        error => Refusal::Failed(failed(&error)),
    }
}

/// Opens a block: a machine on its parent's state, after the system calls of EIP-2935 and EIP-4788, and the chain's own.
pub(crate) fn open_trellis<'a, I: Inspector<EthEvmContext<BlockDb<'a>>>>(
    executor: &'a Executor,
    parent: &'a StateView,
    header: &Header,
    own: Option<&SystemCall>,
    inspector: I,
) -> Result<ChainEvm<BlockDb<'a>, I>, ExecutionError> {
    let db = State::builder().with_database_ref(executor.database(parent)).with_bundle_update().build();
    let mut evm = chain_evm_with(db, executor.env(header), executor.config.genesis_hash, inspector);
    evm.disable_inspector();
    let root = header.parent_beacon_block_root.unwrap_or_default();
    for (contract, word) in [(HISTORY_STORAGE_ADDRESS, header.parent_hash), (BEACON_ROOTS_ADDRESS, root)] {
        let outcome =
            evm.transact_system_call(SYSTEM_ADDRESS, contract, word.0.into()).map_err(|error| failed(&error))?;
        evm.db_mut().commit(outcome.state);
    }
    if let Some(call) = own {
        let outcome =
            evm.transact_system_call(SYSTEM_ADDRESS, call.to, call.input.clone()).map_err(|error| failed(&error))?;
        if !outcome.result.is_success() {
            tracing::error!(block = header.number, result = ?outcome.result, "the chain's own call failed");
        }
        evm.db_mut().commit(outcome.state);
    }
    Ok(evm)
}

impl<'a> Run<'a> {
    fn begin(
        executor: &'a Executor,
        parent: &'a StateView,
        header: &Header,
        own: Option<&SystemCall>,
    ) -> Result<Self, ExecutionError> {
        let evm = open_trellis(executor, parent, header, own, NoOpInspector)?;
        Ok(Self { evm, gas_limit: header.gas_limit, gas_used: 0, receipts: Vec::new() })
    }

    fn execute(&mut self, tx: &TxEnvelope, sender: Address) -> Result<(), Refusal> {
        if tx.is_eip4844() {
            return Err(Refusal::Invalid("blob transactions are not accepted on this chain".to_owned()));
        }
        if tx.gas_limit() > self.gas_limit.saturating_sub(self.gas_used) {
            return Err(Refusal::DoesNotFit);
        }
        let env = TxEnv::from_recovered_tx(tx, sender);
        let outcome = self.evm.transact_raw(env).map_err(evm_failure)?;
        self.evm.db_mut().commit(outcome.state);
        self.gas_used = self.gas_used.saturating_add(outcome.result.tx_gas_used());
        self.receipts.push(receipt(tx, self.gas_used, outcome.result));
        Ok(())
    }

    fn finish(self) -> (BundleState, Vec<Receipt>, u64) {
        let mut db = self.evm.into_db();
        db.merge_transitions(BundleRetention::PlainState);
        (db.take_bundle(), self.receipts, self.gas_used)
    }
}

/// The roots of a block that was run.
struct Roots {
    transactions: B256,
    receipts: B256,
    bloom: Bloom,
    pending: PendingState,
}

/// What came of a transaction, when so much gas was used up to its end.
pub(crate) fn receipt(tx: &TxEnvelope, cumulative_gas_used: u64, result: ExecutionResult) -> Receipt {
    Receipt { tx_type: tx.tx_type(), success: result.is_success(), cumulative_gas_used, logs: result.into_logs() }
}

fn roots(parent: &StateView, bundle: BundleState, txs: &[TxEnvelope], receipts: &[Receipt]) -> Roots {
    let (pending, (transactions, (receipts, bloom))) = rayon::join(
        || parent.apply(state_diff(bundle)),
        || rayon::join(|| calculate_transaction_root(txs), || receipts_root(receipts)),
    );
    Roots { transactions, receipts, bloom, pending }
}

/// The stages of executing a block, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Header checks, system calls, transactions.
    Execute,
    /// Roots of transactions and receipts, bloom.
    Roots,
    /// State diff and state root.
    StateRoot,
}

/// The same roots one after the other, so that each can be timed.
fn roots_in_stages(
    parent: &StateView,
    bundle: BundleState,
    txs: &[TxEnvelope],
    receipts: &[Receipt],
    done: &mut dyn FnMut(Stage),
) -> Roots {
    let (transactions, (receipts, bloom)) = rayon::join(|| calculate_transaction_root(txs), || receipts_root(receipts));
    done(Stage::Roots);
    let pending = parent.apply(state_diff(bundle));
    done(Stage::StateRoot);
    Roots { transactions, receipts, bloom, pending }
}

fn receipts_root(receipts: &[Receipt]) -> (B256, Bloom) {
    use alloy_consensus::TxReceipt;
    use alloy_eips::eip2718::Encodable2718;
    let with_bloom: Vec<_> = receipts.par_iter().map(TxReceipt::with_bloom_ref).collect();
    let bloom = with_bloom.iter().fold(Bloom::ZERO, |all, receipt| all | receipt.logs_bloom);
    let root = alloy_trie::root::ordered_trie_root_with_encoder(&with_bloom, |receipt, out| receipt.encode_2718(out));
    (root, bloom)
}

impl Executor {
    /// The fields of a block's header that parent, section and rules decide; the roots are still empty.
    fn skeleton(&self, parent: &Header, parent_hash: B256, attributes: &BlockAttributes) -> Header {
        Header {
            parent_hash,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: attributes.beneficiary,
            difficulty: U256::ZERO,
            number: parent.number.saturating_add(1),
            gas_limit: self.config.gas_limit,
            timestamp: attributes.section.time_ms.div_euclid(1_000),
            extra_data: attributes.extra_data.clone(),
            mix_hash: prev_randao(parent_hash),
            nonce: B64::ZERO,
            base_fee_per_gas: Some(next_base_fee(parent, self.config.base_fee_floor_wei)),
            withdrawals_root: Some(EMPTY_WITHDRAWALS),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(attributes.section.root()),
            requests_hash: Some(EMPTY_REQUESTS_HASH),
            ..Header::default()
        }
    }

    /// The header a block on top of `parent` would have at a time, for `pending` and for calls; its roots are empty.
    #[must_use]
    pub fn pending_header(&self, parent: &StateView, time_ms: u64) -> Header {
        if let Some(forks) = self.forks() {
            return forks.pending_header(parent.header(), parent.block_hash(), time_ms.div_euclid(1_000));
        }
        let section = ConsensusSection { time_ms, parent_commit: None, checkpoint: None, epoch: None };
        let attributes =
            BlockAttributes { beneficiary: parent.header().beneficiary, section, extra_data: Bytes::new() };
        self.skeleton(parent.header(), parent.block_hash(), &attributes)
    }

    /// Builds and executes a block on a parent from candidates in the order of preference. Candidates that are invalid
    /// or do not fit are left out.
    ///
    /// # Errors
    /// Only for reasons that lie in this node.
    pub fn build_block(
        &self,
        parent: &StateView,
        attributes: BlockAttributes,
        own: Option<&SystemCall>,
        candidates: &mut dyn Candidates,
    ) -> Result<BuiltBlock, ExecutionError> {
        if attributes.extra_data.len() > EXTRA_DATA_BYTES_MAX {
            let found = attributes.extra_data.len();
            return Err(ExecutionError::ExtraData { expected: EXTRA_DATA_BYTES_MAX, found });
        }
        let header = self.skeleton(parent.header(), parent.block_hash(), &attributes);
        let mut run = Run::begin(self, parent, &header, own)?;
        let (mut txs, mut senders, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        let overhead = BLOCK_OVERHEAD_BYTES_MAX.saturating_add(attributes.section.length());
        let mut bytes_left = BLOCK_RLP_BYTES_MAX.saturating_sub(overhead);
        // A transfer is the smallest transaction there is: with less gas left, nothing more can fit.
        while run.gas_limit.saturating_sub(run.gas_used) >= 21_000 {
            let Some(candidate) = candidates.next() else { break };
            // Four bytes for the RLP string around a typed transaction.
            let bytes = candidate.encoded_bytes.saturating_add(4);
            let outcome = if bytes > bytes_left {
                Err(Refusal::DoesNotFit)
            } else {
                run.execute(&candidate.tx, candidate.sender)
            };
            match outcome {
                Ok(()) => {
                    bytes_left = bytes_left.saturating_sub(bytes);
                    txs.push(Arc::unwrap_or_clone(candidate.tx));
                    senders.push(candidate.sender);
                }
                Err(Refusal::Invalid(reason)) => {
                    candidates.left_out();
                    skipped.push(Skipped { hash: candidate.hash, invalid: Some(reason) });
                }
                Err(Refusal::DoesNotFit) => {
                    candidates.left_out();
                    skipped.push(Skipped { hash: candidate.hash, invalid: None });
                }
                Err(Refusal::Failed(error)) => return Err(error),
            }
        }
        let (bundle, receipts, gas_used) = run.finish();
        let roots = roots(parent, bundle, &txs, &receipts);
        let header = Header {
            state_root: roots.pending.state_root(),
            transactions_root: roots.transactions,
            receipts_root: roots.receipts,
            logs_bloom: roots.bloom,
            gas_used,
            ..header
        };
        let hash = header.hash_slow();
        let transition = roots.pending.finish(header.clone(), hash);
        let block = Arc::new(Block { header, transactions: txs, section: attributes.section });
        let executed = ExecutedBlock { block, hash, senders, receipts, transition, ethereum: None };
        Ok(BuiltBlock { executed, skipped })
    }

    /// Recovers the senders of a block on all cores; `known` answers for transactions whose sender is known already.
    ///
    /// # Errors
    /// [`BlockError::Signature`] with the first transaction whose signature is invalid.
    pub fn recover_senders(
        &self,
        block: &Block,
        known: &(dyn Fn(&B256) -> Option<Address> + Sync),
    ) -> Result<Vec<Address>, BlockError> {
        let one = |(index, tx): (usize, &TxEnvelope)| match known(tx.tx_hash()) {
            Some(sender) => Ok(sender),
            None => recover_sender(tx).map_err(|reason| BlockError::Signature { index, reason }),
        };
        if block.transactions.len() < 4 {
            block.transactions.iter().enumerate().map(one).collect()
        } else {
            block.transactions.par_iter().enumerate().map(one).collect()
        }
    }

    /// Executes somebody else's block on its parent's state and checks every field of its header.
    ///
    /// Not checked here, because it takes the committee and the clock: the parent's certificate, the time of the section.
    ///
    /// # Errors
    /// [`BlockError`] with the first rule that is broken.
    pub fn execute_block(
        &self,
        parent: &StateView,
        block: Block,
        senders: Vec<Address>,
        own: Option<&SystemCall>,
    ) -> Result<ExecutedBlock, BlockError> {
        self.execute_block_with(parent, block, senders, own, roots)
    }

    /// [`Self::execute_block`] with its stages one after the other; `done` hears when each is over. For measuring.
    ///
    /// # Errors
    /// As [`Self::execute_block`].
    pub fn execute_block_in_stages(
        &self,
        parent: &StateView,
        block: Block,
        senders: Vec<Address>,
        done: &mut dyn FnMut(Stage),
    ) -> Result<ExecutedBlock, BlockError> {
        self.execute_block_with(parent, block, senders, None, |parent, bundle, txs, receipts| {
            done(Stage::Execute);
            roots_in_stages(parent, bundle, txs, receipts, done)
        })
    }

    fn execute_block_with(
        &self,
        parent: &StateView,
        block: Block,
        senders: Vec<Address>,
        own: Option<&SystemCall>,
        roots: impl FnOnce(&StateView, BundleState, &[TxEnvelope], &[Receipt]) -> Roots,
    ) -> Result<ExecutedBlock, BlockError> {
        let found = block.length();
        if found > BLOCK_RLP_BYTES_MAX {
            return Err(BlockError::Bytes { expected: BLOCK_RLP_BYTES_MAX, found });
        }
        if senders.len() != block.transactions.len() {
            return Err(BlockError::Senders { expected: block.transactions.len(), found: senders.len() });
        }
        self.check_header(parent, &block)?;
        let mut run = Run::begin(self, parent, &block.header, own)?;
        for (index, (tx, sender)) in block.transactions.iter().zip(&senders).enumerate() {
            run.execute(tx, *sender).map_err(|refusal| match refusal {
                Refusal::Invalid(reason) => BlockError::Transaction { index, hash: *tx.tx_hash(), reason },
                Refusal::DoesNotFit => {
                    let reason = "its gas limit is over the gas left in the block".to_owned();
                    BlockError::Transaction { index, hash: *tx.tx_hash(), reason }
                }
                Refusal::Failed(error) => error.into(),
            })?;
        }
        let (bundle, receipts, gas_used) = run.finish();
        let roots = roots(parent, bundle, &block.transactions, &receipts);
        let header = &block.header;
        same("gasUsed", gas_used, header.gas_used)?;
        same("transactionsRoot", roots.transactions, header.transactions_root)?;
        same("receiptsRoot", roots.receipts, header.receipts_root)?;
        same("logsBloom", roots.bloom, header.logs_bloom)?;
        same("stateRoot", roots.pending.state_root(), header.state_root)?;
        let hash = header.hash_slow();
        let transition = roots.pending.finish(header.clone(), hash);
        Ok(ExecutedBlock { block: Arc::new(block), hash, senders, receipts, transition, ethereum: None })
    }

    fn check_header(&self, parent: &StateView, block: &Block) -> Result<(), BlockError> {
        let found = &block.header;
        if found.extra_data.len() > EXTRA_DATA_BYTES_MAX {
            let expected = format!("at most {EXTRA_DATA_BYTES_MAX} bytes");
            let found = format!("{} bytes", found.extra_data.len());
            return Err(BlockError::Field { field: "extraData", expected, found });
        }
        let attributes = BlockAttributes {
            beneficiary: found.beneficiary,
            section: block.section.clone(),
            extra_data: found.extra_data.clone(),
        };
        let expected = self.skeleton(parent.header(), parent.block_hash(), &attributes);
        same("parentHash", expected.parent_hash, found.parent_hash)?;
        same("number", expected.number, found.number)?;
        same("timestamp", expected.timestamp, found.timestamp)?;
        same("parentBeaconBlockRoot", expected.parent_beacon_block_root, found.parent_beacon_block_root)?;
        same("gasLimit", expected.gas_limit, found.gas_limit)?;
        same("baseFeePerGas", expected.base_fee_per_gas, found.base_fee_per_gas)?;
        same("mixHash", expected.mix_hash, found.mix_hash)?;
        same("difficulty", expected.difficulty, found.difficulty)?;
        same("nonce", expected.nonce, found.nonce)?;
        same("sha3Uncles", expected.ommers_hash, found.ommers_hash)?;
        same("withdrawalsRoot", expected.withdrawals_root, found.withdrawals_root)?;
        same("blobGasUsed", expected.blob_gas_used, found.blob_gas_used)?;
        same("excessBlobGas", expected.excess_blob_gas, found.excess_blob_gas)?;
        same("requestsHash", expected.requests_hash, found.requests_hash)?;
        same("blockAccessListHash", expected.block_access_list_hash, found.block_access_list_hash)?;
        same("slotNumber", expected.slot_number, found.slot_number)
    }
}

pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    field: &'static str,
    expected: T,
    found: T,
) -> Result<(), BlockError> {
    if expected == found {
        return Ok(());
    }
    Err(BlockError::Field { field, expected: format!("{expected:?}"), found: format!("{found:?}") })
}
