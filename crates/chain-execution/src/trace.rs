//! What a transaction did, step by step or call by call: blocks are run again on their parents' states while a tracer looks
//! on (`debug_trace*`, `ots_*`). Bounded in steps and in bytes, because a full block has millions of steps.

use crate::block::open_trellis;
use crate::call::Overrides;
use crate::database::BlockDb;
use crate::ethereum::{failed, open_ethereum};
use crate::executor::ChainEvm;
use crate::{CALL_GAS_MAX, CallError, ExecutionError, Executor, SystemCall};
use alloy_evm::eth::EthEvmContext;
use alloy_evm::{Database, Evm, FromRecoveredTx};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rpc_types::TransactionRequest;
use alloy_rpc_types_trace::geth::{GethDebugTracingOptions, GethTrace};
use alloy_rpc_types_trace::otterscan::InternalOperation;
use revm::bytecode::opcode::{SLOAD, SSTORE};
use revm::context::TxEnv;
use revm::context_interface::ContextTr;
use revm::context_interface::context::ContextError;
use revm::context_interface::result::{ExecutionResult, ResultAndState};
use revm::interpreter::Interpreter;
use revm::interpreter::interpreter_types::{InputsTr, Jumps, LoopControl, ReturnData};
use revm::{DatabaseCommit, Inspector};
use revm_inspectors::otterscan::InternalOperationsInspector;
use revm_inspectors::tracing::{DebugInspector, TransactionContext};
use std::collections::{HashMap, HashSet};
use trellis_chain_storage::{CommittedBlock, StateView};
use trellis_primitives::Header;

/// Steps of all transactions of one trace at most.
pub const TRACE_STEPS_MAX: u64 = 2_000_000;
/// Bytes of stack, memory, storage and returned data that the steps of one trace show at most; an answer has room for less.
pub const TRACE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of a slot in the storage that a step shows: its key and its value as text.
const SLOT_BYTES: u64 = 130;
/// Steps between two looks at the clock.
const CLOCK_EVERY_STEPS: u64 = 4_096;

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A tracer that is not known, or a setting of it that makes no sense.
    #[error("{0}")]
    Tracer(String),
    /// More than [`TRACE_STEPS_MAX`] or [`TRACE_BYTES_MAX`], or too long.
    #[error("the trace has over {TRACE_STEPS_MAX} steps, shows over {TRACE_BYTES_MAX} bytes, or took too long")]
    TooLong,
    /// The call cannot be made.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The node failed.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
}

/// A block to run again.
#[derive(Clone, Copy)]
pub struct Replayed<'a> {
    /// The state before it.
    pub parent: &'a StateView,
    /// The block.
    pub block: &'a CommittedBlock,
    /// The chain's own call in it.
    pub own: Option<&'a SystemCall>,
    /// Whether it has taken too long.
    pub late: &'a dyn Fn() -> bool,
}

/// What a tracer keeps of each step.
#[derive(Clone, Copy, Default)]
struct Shown {
    stack: bool,
    memory: bool,
    storage: bool,
    returned: bool,
}

impl Shown {
    /// Tracers with a name keep calls, not steps.
    fn of(options: &GethDebugTracingOptions) -> Self {
        let (steps, config) = (options.tracer.is_none(), &options.config);
        Self {
            stack: steps && config.is_stack_enabled(),
            memory: steps && config.is_memory_enabled(),
            storage: steps && config.is_storage_enabled(),
            returned: steps && config.is_return_data_enabled(),
        }
    }

    fn bytes(self, interpreter: &Interpreter) -> u64 {
        let stack = if self.stack { interpreter.stack.len().saturating_mul(32) } else { 0 };
        let memory = if self.memory { interpreter.memory.len() } else { 0 };
        let returned = if self.returned { interpreter.return_data.buffer().len() } else { 0 };
        u64::try_from(stack.saturating_add(memory).saturating_add(returned)).unwrap_or(u64::MAX)
    }
}

/// The slots that a transaction has read or written so far, by contract.
#[derive(Default)]
struct Touched(HashMap<Address, HashSet<U256>>);

impl Touched {
    /// Bytes of storage shown with a step: one that reads or writes a slot shows all slots of its contract so far.
    fn bytes(&mut self, interpreter: &Interpreter) -> u64 {
        if !matches!(interpreter.bytecode.opcode(), SLOAD | SSTORE) {
            return 0;
        }
        let Ok(slot) = interpreter.stack.peek(0) else { return 0 };
        let slots = self.0.entry(interpreter.input.target_address()).or_default();
        slots.insert(slot);
        u64::try_from(slots.len()).unwrap_or(u64::MAX).saturating_mul(SLOT_BYTES)
    }
}

/// Ends what has too many steps or takes too long.
pub(crate) struct StepLimit<'a> {
    left: u64,
    bytes_left: u64,
    shown: Shown,
    touched: Touched,
    late: &'a dyn Fn() -> bool,
    ended: bool,
}

impl<'a> StepLimit<'a> {
    fn new(late: &'a dyn Fn() -> bool, shown: Shown) -> Self {
        Self {
            left: TRACE_STEPS_MAX,
            bytes_left: TRACE_BYTES_MAX,
            shown,
            touched: Touched::default(),
            late,
            ended: false,
        }
    }

    /// The steps of the next transaction show nothing of what this one touched.
    fn next_transaction(&mut self) {
        self.touched = Touched::default();
    }
}

impl<DB: Database> Inspector<EthEvmContext<DB>> for StepLimit<'_> {
    fn step(&mut self, interpreter: &mut Interpreter, context: &mut EthEvmContext<DB>) {
        self.left = self.left.saturating_sub(1);
        // What a step shows of the storage is copied after the transaction, all of it at once: it is counted before.
        let storage = if self.shown.storage { self.touched.bytes(interpreter) } else { 0 };
        self.bytes_left = self.bytes_left.saturating_sub(self.shown.bytes(interpreter).saturating_add(storage));
        if self.left == 0 || self.bytes_left == 0 || (self.left.is_multiple_of(CLOCK_EVERY_STEPS) && (self.late)()) {
            self.ended = true;
            *context.error() = Err(ContextError::Custom("over the limit of a trace".into()));
            interpreter.bytecode.reset_action();
            interpreter.halt_fatal();
        }
    }
}

/// Who hears of a transaction that was run again: its place, the machine, what it was, what came of it.
type Seen<'s, 'a, I> = &'s mut dyn FnMut(usize, &mut Traced<'a, I>, TxEnv, &ResultAndState) -> Result<(), TraceError>;

type Traced<'a, I> = ChainEvm<BlockDb<'a>, (I, StepLimit<'a>)>;

impl Executor {
    /// Opens a block again with somebody looking on, who is still asleep.
    fn reopen<'a, I>(
        &'a self,
        replayed: &Replayed<'a>,
        inspector: I,
        shown: Shown,
    ) -> Result<Traced<'a, I>, ExecutionError>
    where
        I: Inspector<EthEvmContext<BlockDb<'a>>>,
    {
        let header = &replayed.block.block.header;
        let both = (inspector, StepLimit::new(replayed.late, shown));
        match self.forks() {
            Some(forks) => open_ethereum(self, forks, replayed.parent, header, both),
            None => open_trellis(self, replayed.parent, header, replayed.own, both),
        }
    }

    /// Runs a block's transactions again; the inspector is awake in those that are wanted, and `seen` hears of these.
    fn replay<'a, I>(
        &'a self,
        replayed: &Replayed<'a>,
        only: Option<usize>,
        (inspector, shown): (I, Shown),
        seen: Seen<'_, 'a, I>,
    ) -> Result<(), TraceError>
    where
        I: Inspector<EthEvmContext<BlockDb<'a>>>,
    {
        let mut evm = self.reopen(replayed, inspector, shown)?;
        let block = replayed.block;
        for (index, (tx, sender)) in block.block.transactions.iter().zip(&block.senders).enumerate() {
            let wanted = only.is_none_or(|only| only == index);
            evm.set_inspector_enabled(wanted);
            evm.inspector_mut().1.next_transaction();
            let env = TxEnv::from_recovered_tx(tx, *sender);
            let outcome = evm
                .transact_raw(env.clone())
                .map_err(|error| if evm.inspector().1.ended { TraceError::TooLong } else { failed(error).into() })?;
            if (replayed.late)() {
                return Err(TraceError::TooLong);
            }
            if wanted {
                seen(index, &mut evm, env, &outcome)?;
            }
            if only == Some(index) {
                break;
            }
            evm.db_mut().commit(outcome.state);
        }
        Ok(())
    }

    /// Traces a block's transactions, all or one of them, as geth's tracers do.
    ///
    /// # Errors
    /// See [`TraceError`].
    pub fn trace_block(
        &self,
        replayed: &Replayed<'_>,
        only: Option<usize>,
        options: &GethDebugTracingOptions,
    ) -> Result<Vec<(B256, GethTrace)>, TraceError> {
        let inspector = DebugInspector::new(options.clone()).map_err(|error| TraceError::Tracer(error.to_string()))?;
        let mut traces = Vec::new();
        self.replay(replayed, only, (inspector, Shown::of(options)), &mut |index, evm, env, outcome| {
            let hash = replayed.block.block.transactions.get(index).map(|tx| *tx.tx_hash()).unwrap_or_default();
            let context = TransactionContext {
                block_hash: Some(replayed.block.hash),
                tx_hash: Some(hash),
                tx_index: Some(index),
            };
            traces.push((hash, result(evm, Some(context), &env, outcome)?));
            evm.inspector_mut().0.fuse().map_err(|error| TraceError::Tracer(error.to_string()))
        })?;
        Ok(traces)
    }

    /// What moved inside a transaction, as Otterscan shows it.
    ///
    /// # Errors
    /// See [`TraceError`].
    pub fn internal_operations(
        &self,
        replayed: &Replayed<'_>,
        index: usize,
    ) -> Result<Vec<InternalOperation>, TraceError> {
        let mut found = Vec::new();
        let inspector = (InternalOperationsInspector::default(), Shown::default());
        self.replay(replayed, Some(index), inspector, &mut |_, evm, _, _| {
            found = evm.inspector().0.operations().to_vec();
            Ok(())
        })?;
        Ok(found)
    }

    /// What a transaction returned, whether it failed or not.
    ///
    /// # Errors
    /// See [`TraceError`].
    pub fn output_again(&self, replayed: &Replayed<'_>, index: usize) -> Result<Option<Bytes>, TraceError> {
        let mut found = None;
        let inspector = (InternalOperationsInspector::default(), Shown::default());
        self.replay(replayed, Some(index), inspector, &mut |_, _, _, outcome| {
            found = match &outcome.result {
                ExecutionResult::Success { output, .. } => Some(output.data().clone()),
                ExecutionResult::Revert { output, .. } => Some(output.clone()),
                ExecutionResult::Halt { .. } => None,
            };
            Ok(())
        })?;
        Ok(found)
    }

    /// Which transaction of a block made a contract; none where it was there before or is not after it.
    ///
    /// # Errors
    /// See [`TraceError`].
    pub fn creating_transaction(
        &self,
        replayed: &Replayed<'_>,
        contract: Address,
    ) -> Result<Option<usize>, TraceError> {
        let mut found = None;
        // One kind of inspector more would compile the whole machine once more.
        let inspector = (InternalOperationsInspector::default(), Shown::default());
        self.replay(replayed, None, inspector, &mut |index, _, _, outcome| {
            let made = outcome.state.get(&contract).is_some_and(|account| account.is_created());
            found = found.or(made.then_some(index));
            Ok(())
        })?;
        Ok(found)
    }

    /// Traces a call with the rules of [`Executor::call`].
    ///
    /// # Errors
    /// See [`TraceError`].
    pub fn trace_call(
        &self,
        view: &StateView,
        header: &Header,
        request: &TransactionRequest,
        overrides: &Overrides,
        options: &GethDebugTracingOptions,
        late: &dyn Fn() -> bool,
    ) -> Result<GethTrace, TraceError> {
        let inspector = DebugInspector::new(options.clone()).map_err(|error| TraceError::Tracer(error.to_string()))?;
        let both = (inspector, StepLimit::new(late, Shown::of(options)));
        let mut evm = self.call_evm(view, header, request, overrides, both)?;
        evm.enable_inspector();
        let gas_max = evm.block().gas_limit.min(CALL_GAS_MAX);
        let env = self.tx_env(request, request.gas.unwrap_or(gas_max).min(CALL_GAS_MAX))?;
        let outcome = evm.transact_raw(env.clone()).map_err(|error| {
            if evm.inspector().1.ended { TraceError::TooLong } else { CallError::Invalid(error.to_string()).into() }
        })?;
        result(&mut evm, None, &env, &outcome)
    }
}

fn result<DB>(
    evm: &mut ChainEvm<DB, (DebugInspector, StepLimit<'_>)>,
    context: Option<TransactionContext>,
    env: &TxEnv,
    outcome: &ResultAndState,
) -> Result<GethTrace, TraceError>
where
    DB: Database + revm::DatabaseRef,
{
    let block = evm.block().clone();
    let (db, inspector, _) = evm.components_mut();
    inspector
        .0
        .get_result(context, env, &block, outcome, db)
        .map_err(|error| TraceError::Execution(ExecutionError::Evm(error.to_string())))
}
