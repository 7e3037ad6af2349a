//! `eth_simulateV1`: blocks that nobody proposed, on top of one that somebody did, with whatever state and calls the asker
//! wishes. They are executed, rooted and hashed as real ones would be, so that their headers are what clients agree on.

mod overrides;
mod plan;
mod transaction;
mod transfers;

pub use transaction::SimulatedTx;

use crate::database::BlockDb;
use crate::ethereum::{close_ethereum, failed, receipts_root_of};
use crate::executor::ChainEvm;
use crate::forks::ForkSchedule;
use crate::outcome::state_diff;
use crate::precompile::precompiles;
use crate::{ExecutionError, Executor};
use alloy_consensus::constants::EMPTY_WITHDRAWALS;
use alloy_consensus::proofs::calculate_withdrawals_root;
use alloy_eips::eip4895::Withdrawal;
use alloy_evm::block::SystemCaller;
use alloy_evm::eth::EthEvmBuilder;
use alloy_evm::{Evm, EvmEnv};
use alloy_primitives::{Address, B256, Bytes, Log, U256};
use alloy_rpc_types::state::StateOverride;
use alloy_rpc_types::{BlockOverrides, TransactionRequest};
use overrides::apply_overrides;
use plan::PlannedBlock;
use revm::DatabaseCommit;
use revm::context_interface::result::{EVMError, ExecutionResult, InvalidTransaction, ResultGas};
use revm::database::State;
use revm::database::states::bundle_state::BundleRetention;
use revm::database_interface::Database;
use transaction::Prepared;
use transfers::CallLogs;
use trellis_chain_storage::{Receipt, StateView};
use trellis_primitives::Header;

/// Blocks that one simulation has at most, the empty ones between included (execution-apis).
pub const SIMULATED_BLOCKS_MAX: u64 = 256;
/// Gas of all calls of one simulation at most.
pub const SIMULATED_GAS_MAX: u64 = crate::CALL_GAS_MAX;

/// One block as it is asked for.
#[derive(Clone, Debug, Default)]
pub struct SimulatedBlockRequest {
    /// What its header says.
    pub overrides: BlockOverrides,
    /// Coins that come from the beacon chain.
    pub withdrawals: Vec<Withdrawal>,
    /// Accounts that are changed before it.
    pub state: StateOverride,
    /// Its calls.
    pub calls: Vec<TransactionRequest>,
}

/// A whole simulation as it is asked for.
#[derive(Clone, Debug, Default)]
pub struct SimulationRequest {
    /// The blocks, in order.
    pub blocks: Vec<SimulatedBlockRequest>,
    /// Whether transfers of coins are shown as logs.
    pub transfers: bool,
    /// Whether nonces, fees and funds are checked as in a real block.
    pub validation: bool,
}

/// How a simulated call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimulatedEnd {
    /// Well.
    Success,
    /// It was reverted with this.
    Reverted(Bytes),
    /// It broke off; the machine's word for why.
    Halted(String),
}

/// What a simulated call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedCall {
    /// What it returned; nothing where it failed.
    pub output: Bytes,
    /// Logs with their place in the block; nothing where it failed.
    pub logs: Vec<(u64, Log)>,
    /// Gas used, after refunds.
    pub gas_used: u64,
    /// The most gas that was in use, before refunds.
    pub max_used_gas: u64,
    /// How it ended.
    pub end: SimulatedEnd,
}

/// A simulated block.
#[derive(Clone, Debug)]
pub struct SimulatedBlock {
    /// Its header, roots and all.
    pub header: Header,
    /// Its hash.
    pub hash: B256,
    /// Its transactions.
    pub transactions: Vec<SimulatedTx>,
    /// What each of them did.
    pub calls: Vec<SimulatedCall>,
    /// Its withdrawals.
    pub withdrawals: Vec<Withdrawal>,
}

/// Why there is no simulation. The texts are geth's.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// A block's number does not follow.
    #[error("block numbers must be in order: {found} <= {before}")]
    Number {
        /// The number asked for.
        found: U256,
        /// The one before.
        before: u64,
    },
    /// A block's time does not follow.
    #[error("block timestamps must be in order: {found} <= {before}")]
    Time {
        /// The time asked for, in seconds.
        found: u64,
        /// The one before.
        before: u64,
    },
    /// More than [`SIMULATED_BLOCKS_MAX`].
    #[error("too many blocks")]
    Blocks,
    /// An override that makes no sense.
    #[error("{0}")]
    Override(String),
    /// Arguments of a call that make no sense together.
    #[error("{0}")]
    Arguments(String),
    /// The calls of a block need more gas than it has.
    #[error("block gas limit reached: remaining: {left}, required: {asked}")]
    GasLimit {
        /// Gas left.
        left: u64,
        /// Gas asked for.
        asked: u64,
    },
    /// A call that cannot be a transaction.
    #[error("err: {reason} (supplied gas {gas})")]
    Call {
        /// Which rule it breaks.
        rule: BrokenRule,
        /// The same in words.
        reason: String,
        /// Its gas.
        gas: u64,
    },
    /// It took too long.
    #[error("the simulation took too long")]
    Late,
    /// The node failed.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
}

/// A rule that a call breaks, where Ethereum has an error code for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenRule {
    /// The nonce is below the account's.
    NonceTooLow,
    /// The nonce is above the account's.
    NonceTooHigh,
    /// The fee offered is below the block's base fee.
    FeeTooLow,
    /// The tip is over the fee.
    TipOverFee,
    /// The gas does not pay for the transaction itself.
    IntrinsicGas,
    /// The sender cannot pay.
    Funds,
    /// The code that makes the contract is too long.
    InitCodeSize,
    /// Any other.
    Other,
}

/// A simulation that runs.
struct Simulation<'a> {
    executor: &'a Executor,
    request: &'a SimulationRequest,
    /// Blocks done, which `BLOCKHASH` sees.
    hashes: Vec<(u64, B256)>,
    gas_left: u64,
    late: &'a dyn Fn() -> bool,
}

type SimEvm<'a> = ChainEvm<BlockDb<'a>, CallLogs>;

/// What the calls of one block add up to.
#[derive(Default)]
struct Totals {
    gas_used: u64,
    blob_gas_used: u64,
    receipts: Vec<Receipt>,
    transactions: Vec<SimulatedTx>,
    calls: Vec<SimulatedCall>,
}

impl Executor {
    /// Simulates blocks on top of one. `late` is asked between calls whether it has taken too long.
    ///
    /// # Errors
    /// See [`SimulateError`].
    pub fn simulate(
        &self,
        base: &StateView,
        request: &SimulationRequest,
        late: &dyn Fn() -> bool,
    ) -> Result<Vec<SimulatedBlock>, SimulateError> {
        let planned = plan::plan(base.header(), &request.blocks)?;
        let hashes = vec![(base.height(), base.block_hash())];
        let mut simulation = Simulation { executor: self, request, hashes, gas_left: SIMULATED_GAS_MAX, late };
        let mut view = base.clone();
        let mut blocks = Vec::with_capacity(planned.len());
        for block in &planned {
            if late() {
                return Err(SimulateError::Late);
            }
            let (done, after) = simulation.block(&view, block)?;
            simulation.hashes.push((done.header.number, done.hash));
            view = after;
            blocks.push(done);
        }
        Ok(blocks)
    }

    /// The transaction that a request asks for, without a signature. Nonce, gas and fees must be in it; what else is not given
    /// is zero or empty.
    ///
    /// # Errors
    /// [`SimulateError::Arguments`] where its fields make no sense together, or it is for another chain.
    pub fn unsigned(&self, request: &TransactionRequest, base_fee: Option<u64>) -> Result<SimulatedTx, SimulateError> {
        let (nonce, gas) = (request.nonce.unwrap_or_default(), request.gas.unwrap_or_default());
        let prepared = Prepared::new(request, self.config.chain_id, nonce, gas, base_fee)?;
        Ok(prepared.into_tx(request.from.unwrap_or_default()))
    }

    /// The forks as a simulation needs them; a Trellis chain is at its fork from the beginning.
    fn simulated_forks(&self) -> ForkSchedule {
        self.forks().cloned().unwrap_or_else(|| ForkSchedule::osaka(self.config.chain_id))
    }
}

impl Simulation<'_> {
    fn header(&self, forks: &ForkSchedule, parent: &StateView, block: &PlannedBlock) -> Header {
        let before = parent.header();
        let overrides = &block.request.overrides;
        let bare = Header {
            parent_hash: parent.block_hash(),
            beneficiary: overrides.coinbase.unwrap_or(before.beneficiary),
            difficulty: before.difficulty,
            number: block.number,
            gas_limit: overrides.gas_limit.unwrap_or(before.gas_limit),
            timestamp: block.time_s,
            mix_hash: overrides.random.unwrap_or_default(),
            parent_beacon_block_root: overrides.beacon_root,
            base_fee_per_gas: overrides.base_fee.map(|fee| fee.saturating_to()),
            ..Header::default()
        };
        let fee_given = bare.base_fee_per_gas.is_some();
        let mut header = forks.dress(before, bare);
        if !fee_given && header.base_fee_per_gas.is_some() {
            // Without validation a call that offers no fee must not meet a base fee.
            let next = if self.executor.forks().is_some() {
                header.base_fee_per_gas
            } else {
                self.executor.next_base_fee(before)
            };
            header.base_fee_per_gas = if self.request.validation { next } else { Some(0) };
        }
        header
    }

    fn block(
        &mut self,
        parent: &StateView,
        block: &PlannedBlock,
    ) -> Result<(SimulatedBlock, StateView), SimulateError> {
        let forks = self.executor.simulated_forks();
        let mut header = self.header(&forks, parent, block);
        let env = self.env(&forks, &header, &block.request.overrides);
        let mut map = precompiles(env.cfg_env.spec, self.executor.config.genesis_hash);
        let mut db = State::builder().with_database_ref(self.executor.database(parent)).with_bundle_update().build();
        db.block_hashes.extend(self.hashes.iter().copied());
        db.block_hashes
            .extend(block.request.overrides.block_hash.iter().flatten().map(|(number, hash)| (*number, *hash)));
        let warm = apply_overrides(&mut db, &mut map, &block.request.state)?;
        let logs = CallLogs::new(self.request.transfers, warm);
        let mut evm = EthEvmBuilder::new(db, env).precompiles(map).activate_inspector(logs).build();
        evm.set_inspector_enabled(false);
        SystemCaller::new(forks.at(&header)).apply_pre_execution_changes(&header, &mut evm).map_err(failed)?;
        evm.set_inspector_enabled(true);
        let mut totals = Totals::default();
        for call in &block.request.calls {
            if (self.late)() {
                return Err(SimulateError::Late);
            }
            self.call(&mut evm, &header, call, &mut totals)?;
        }
        evm.set_inspector_enabled(false);
        let withdrawals = &block.request.withdrawals;
        let requests = if self.executor.forks().is_some() {
            Some(close_ethereum(&mut evm, forks.at(&header), &totals.receipts, &[], withdrawals)?)
        } else {
            None
        };
        if let (Some(root), Some(requests)) = (&mut header.requests_hash, requests) {
            *root = requests.requests_hash();
        }
        let mut db = evm.into_db();
        db.merge_transitions(BundleRetention::PlainState);
        let pending = parent.apply(state_diff(db.take_bundle()));
        let encoded: Vec<&[u8]> = totals.transactions.iter().map(SimulatedTx::encoded).collect();
        let (receipts_root, bloom) = receipts_root_of(&totals.receipts, &[]);
        let header = Header {
            state_root: pending.state_root(),
            transactions_root: alloy_trie::root::ordered_trie_root_with_encoder(&encoded, |bytes, out| {
                out.extend_from_slice(bytes);
            }),
            receipts_root,
            logs_bloom: bloom,
            gas_used: totals.gas_used,
            blob_gas_used: header.blob_gas_used.map(|_| totals.blob_gas_used),
            withdrawals_root: header.withdrawals_root.map(|_| {
                if withdrawals.is_empty() { EMPTY_WITHDRAWALS } else { calculate_withdrawals_root(withdrawals) }
            }),
            ..header
        };
        let hash = header.hash_slow();
        let after = pending.finish(header.clone(), hash).post;
        let Totals { transactions, calls, .. } = totals;
        Ok((SimulatedBlock { header, hash, transactions, calls, withdrawals: withdrawals.clone() }, after))
    }

    fn env(&self, forks: &ForkSchedule, header: &Header, overrides: &BlockOverrides) -> EvmEnv {
        let mut env = forks.env(header);
        env.cfg_env.disable_nonce_check = !self.request.validation;
        env.cfg_env.disable_eip3607 = true;
        env.cfg_env.tx_gas_limit_cap = Some(u64::MAX);
        if let (Some(price), Some(blob)) = (overrides.blob_base_fee, &mut env.block_env.blob_excess_gas_and_price) {
            blob.blob_gasprice = price.saturating_to();
        }
        env
    }

    fn call(
        &mut self,
        evm: &mut SimEvm<'_>,
        header: &Header,
        call: &TransactionRequest,
        totals: &mut Totals,
    ) -> Result<(), SimulateError> {
        let sender = call.from.unwrap_or_default();
        let info = evm.db_mut().basic(sender).map_err(failed)?.unwrap_or_default();
        let left = header.gas_limit.saturating_sub(totals.gas_used);
        let asked = call.gas.unwrap_or(left);
        if asked > left {
            return Err(SimulateError::GasLimit { left, asked });
        }
        let gas = asked.min(self.gas_left);
        let chain_id = self.executor.config.chain_id;
        let prepared = Prepared::new(call, chain_id, call.nonce.unwrap_or(info.nonce), gas, header.base_fee_per_gas)?;
        let blob_price = evm.block().blob_excess_gas_and_price.as_ref().map_or(0, |blob| blob.blob_gasprice);
        prepared.check(&info, self.request.validation, header.base_fee_per_gas.unwrap_or_default(), blob_price)?;
        // As in geth, who offers nothing at all is not asked for a fee, unless everything is checked.
        evm.ctx_mut().cfg.disable_base_fee = !self.request.validation && prepared.offers_nothing();
        evm.inspector_mut().begin();
        let outcome = evm.transact_raw(prepared.env.clone()).map_err(|error| refused(error, gas))?;
        evm.db_mut().commit(outcome.state);
        let result = outcome.result;
        let gas_used = result.tx_gas_used();
        self.gas_left = self.gas_left.saturating_sub(gas_used);
        totals.gas_used = totals.gas_used.saturating_add(gas_used);
        totals.blob_gas_used = totals.blob_gas_used.saturating_add(prepared.blob_gas());
        let seen = evm.inspector_mut().take();
        totals.receipts.push(Receipt {
            tx_type: prepared.tx_type(),
            success: result.is_success(),
            cumulative_gas_used: totals.gas_used,
            logs: result.logs().to_vec(),
        });
        totals.transactions.push(prepared.into_tx(sender));
        totals.calls.push(ended(result, gas_used, seen));
        Ok(())
    }
}

fn ended(result: ExecutionResult, gas_used: u64, seen: Vec<(u64, Log)>) -> SimulatedCall {
    let max_used_gas = peak(result.gas());
    let (output, logs, end) = match result {
        ExecutionResult::Success { output, .. } => (output.into_data(), seen, SimulatedEnd::Success),
        ExecutionResult::Revert { output, .. } => (Bytes::new(), Vec::new(), SimulatedEnd::Reverted(output)),
        ExecutionResult::Halt { reason, .. } => (Bytes::new(), Vec::new(), SimulatedEnd::Halted(format!("{reason:?}"))),
    };
    SimulatedCall { output, logs, gas_used, max_used_gas, end }
}

fn peak(gas: &ResultGas) -> u64 {
    gas.total_gas_spent().max(gas.floor_gas())
}

fn refused<E: std::error::Error>(error: EVMError<E>, gas: u64) -> SimulateError {
    let invalid = match error {
        EVMError::Transaction(invalid) => invalid,
        error => return SimulateError::Execution(failed(error)),
    };
    let rule = match &invalid {
        InvalidTransaction::CallGasCostMoreThanGasLimit { .. } => BrokenRule::IntrinsicGas,
        InvalidTransaction::CreateInitCodeSizeLimit => BrokenRule::InitCodeSize,
        InvalidTransaction::LackOfFundForMaxFee { .. } | InvalidTransaction::OverflowPaymentInTransaction => {
            BrokenRule::Funds
        }
        InvalidTransaction::NonceTooLow { .. } => BrokenRule::NonceTooLow,
        InvalidTransaction::NonceTooHigh { .. } => BrokenRule::NonceTooHigh,
        InvalidTransaction::GasPriceLessThanBasefee => BrokenRule::FeeTooLow,
        InvalidTransaction::PriorityFeeGreaterThanMaxFee => BrokenRule::TipOverFee,
        _ => BrokenRule::Other,
    };
    SimulateError::Call { rule, reason: invalid.to_string(), gas }
}

/// The address that logs of transfers come from, as everybody writes the coin's own.
pub(crate) const COIN: Address = Address::repeat_byte(0xee);
