//! Calls that change nothing: `eth_call` and `eth_estimateGas`, with the rules that geth has for them.

use crate::database::{DatabaseError, ViewDatabase};
use crate::executor::{ChainEvm, chain_evm_with};
use crate::{CALL_GAS_MAX, CallError, ExecutionError, Executor, TX_GAS_MAX};
use alloy_eips::eip7702::SignedAuthorization;
use alloy_evm::eth::EthEvmContext;
use alloy_evm::{Evm, EvmEnv};
use alloy_primitives::{Address, Bytes, Log, TxKind, U256};
use alloy_rpc_types::state::{AccountOverride, StateOverride};
use alloy_rpc_types::{BlockOverrides, TransactionRequest};
use revm::Inspector;
use revm::bytecode::Bytecode;
use revm::context::TxEnv;
use revm::context::either::Either;
use revm::context_interface::result::{EVMError, ExecutionResult};
use revm::database::CacheDB;
use revm::database_interface::DatabaseRef;
use revm::inspector::NoOpInspector;
use trellis_chain_storage::StateView;
use trellis_primitives::Header;

/// Gas of a plain transfer.
const TRANSFER_GAS: u64 = 21_000;
/// Gas that a call with value hands on for free (EIP-150).
const CALL_STIPEND_GAS: u64 = 2_300;
/// The search for an estimate ends when the interval is under this many thousandths of the upper end, as in geth.
const ESTIMATE_ERROR_PERMILLE: u64 = 15;

pub(crate) type CallDb<'a> = CacheDB<ViewDatabase<'a>>;

/// Changes that hold for one call only.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Of accounts.
    pub state: Option<StateOverride>,
    /// Of the block.
    pub block: Option<BlockOverrides>,
}

/// What a call gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallOutput {
    /// What the contract returned, or the code of the contract made.
    pub output: Bytes,
    /// Gas used, after refunds.
    pub gas_used: u64,
    /// Gas refunded.
    pub gas_refunded: u64,
    /// Events emitted.
    pub logs: Vec<Log>,
}

impl Executor {
    /// Runs a call on a state in the environment of a block, which need not be the state's own (`pending`).
    ///
    /// As in geth: without a gas price the base fee counts as zero; without a gas limit the call gets
    /// [`CALL_GAS_MAX`] or the block's limit; the nonce is not checked; a contract may be the caller.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(
        &self,
        view: &StateView,
        header: &Header,
        request: &TransactionRequest,
        overrides: &Overrides,
    ) -> Result<CallOutput, CallError> {
        let mut evm = self.call_evm(view, header, request, overrides, NoOpInspector)?;
        let gas_max = evm.block().gas_limit.min(CALL_GAS_MAX);
        let tx = self.tx_env(request, request.gas.unwrap_or(gas_max).min(CALL_GAS_MAX))?;
        output_of(run(&mut evm, tx)?)
    }

    /// The least gas limit with which a transaction succeeds, found as geth finds it.
    ///
    /// # Errors
    /// [`CallError::Reverted`] with the contract's reason where no gas limit helps; see [`CallError`].
    pub fn estimate_gas(
        &self,
        view: &StateView,
        header: &Header,
        request: &TransactionRequest,
        overrides: &Overrides,
    ) -> Result<u64, CallError> {
        let mut evm = self.call_evm(view, header, request, overrides, NoOpInspector)?;
        let gas_max = evm.block().gas_limit.min(TX_GAS_MAX);
        let asked = request.gas.filter(|gas| *gas >= TRANSFER_GAS).unwrap_or(gas_max).min(gas_max);
        let mut high = asked.min(self.affordable_gas(&mut evm, request)?);
        if is_plain_transfer(&mut evm, request)? {
            let tx = self.tx_env(request, TRANSFER_GAS)?;
            if high >= TRANSFER_GAS && run(&mut evm, tx).is_ok_and(|outcome| outcome.is_success()) {
                return Ok(TRANSFER_GAS);
            }
        }
        let first = run(&mut evm, self.tx_env(request, high)?)?;
        if let ExecutionResult::Halt { .. } = first {
            return match output_of(first) {
                Err(CallError::Halted { reason, .. }) if reason.contains("OutOfGas") => {
                    Err(CallError::Allowance { allowance: high })
                }
                other => other.map(|output| output.gas_used),
            };
        }
        let spent = first.gas().total_gas_spent();
        let mut low = output_of(first)?.gas_used.saturating_sub(1);
        // Only 63 of 64 parts of the gas are handed to an inner call (EIP-150); what the run spent, with that part and
        // the stipend on top, is mostly enough.
        let guess = spent.saturating_add(CALL_STIPEND_GAS).saturating_mul(64).div_euclid(63);
        let mut middle = if guess < high { guess } else { midpoint(low, high) };
        while low.saturating_add(1) < high {
            if high.saturating_sub(low).saturating_mul(1_000) < high.saturating_mul(ESTIMATE_ERROR_PERMILLE) {
                break;
            }
            if succeeds(&mut evm, self.tx_env(request, middle)?)? {
                high = middle;
            } else {
                low = middle;
            }
            // The lower end is nearly always near the answer, so the search does not jump far above it.
            middle = midpoint(low, high).min(low.saturating_mul(2).max(low.saturating_add(1)));
        }
        Ok(high)
    }

    pub(crate) fn call_evm<'a, I: Inspector<EthEvmContext<CallDb<'a>>>>(
        &'a self,
        view: &'a StateView,
        header: &Header,
        request: &TransactionRequest,
        overrides: &Overrides,
        inspector: I,
    ) -> Result<ChainEvm<CallDb<'a>, I>, CallError> {
        let mut env = self.env(header);
        env.cfg_env.disable_nonce_check = true;
        env.cfg_env.disable_eip3607 = true;
        env.cfg_env.tx_gas_limit_cap = Some(u64::MAX);
        if let Some(block) = &overrides.block {
            override_block(&mut env, block);
        }
        if price_of(request) == 0 {
            env.block_env.basefee = 0;
        }
        if let Some(blob) = &mut env.block_env.blob_excess_gas_and_price
            && request.max_fee_per_blob_gas.unwrap_or_default() == 0
        {
            blob.blob_gasprice = 0;
        }
        let mut db = CacheDB::new(self.database(view));
        for (address, change) in overrides.state.iter().flatten() {
            override_account(&mut db, *address, change)?;
        }
        if let Some(hashes) = overrides.block.as_ref().and_then(|block| block.block_hash.as_ref()) {
            db.cache.block_hashes.extend(hashes.iter().map(|(number, hash)| (U256::from(*number), *hash)));
        }
        let mut evm = chain_evm_with(db, env, self.config.genesis_hash, inspector);
        // Whoever wants to look on says so; a plain call does not pay for it.
        evm.disable_inspector();
        Ok(evm)
    }

    /// The transaction as the EVM takes it.
    pub(crate) fn tx_env(&self, request: &TransactionRequest, gas_limit: u64) -> Result<TxEnv, CallError> {
        if let Some(chain_id) = request.chain_id
            && chain_id != self.config.chain_id
        {
            let expected = self.config.chain_id;
            return Err(CallError::Invalid(format!("chain id {chain_id} does not match {expected}")));
        }
        if request.gas_price.is_some() && request.max_fee_per_gas.is_some() {
            let reason = "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified";
            return Err(CallError::Invalid(reason.to_owned()));
        }
        let authorizations: Vec<_> =
            request.authorization_list.iter().flatten().cloned().map(Either::<SignedAuthorization, _>::Left).collect();
        let has_fee = request.max_fee_per_gas.is_some() || request.max_priority_fee_per_gas.is_some();
        let blob_hashes = request.blob_versioned_hashes.clone().unwrap_or_default();
        let tx_type = match (&request.authorization_list, has_fee, &request.access_list) {
            (Some(_), _, _) => 4,
            _ if !blob_hashes.is_empty() => 3,
            (None, true, _) => 2,
            (None, false, Some(_)) => 1,
            (None, false, None) => 0,
        };
        Ok(TxEnv {
            tx_type,
            caller: request.from.unwrap_or_default(),
            gas_limit,
            gas_price: price_of(request),
            kind: request.to.unwrap_or(TxKind::Create),
            value: request.value.unwrap_or_default(),
            data: request.input.input().cloned().unwrap_or_default(),
            nonce: request.nonce.unwrap_or_default(),
            chain_id: Some(self.config.chain_id),
            access_list: request.access_list.clone().unwrap_or_default(),
            gas_priority_fee: (tx_type >= 2).then(|| request.max_priority_fee_per_gas.unwrap_or_default()),
            blob_hashes,
            max_fee_per_blob_gas: request.max_fee_per_blob_gas.unwrap_or_default(),
            authorization_list: authorizations,
        })
    }

    /// Gas that the sender can pay for at the price offered; no limit where no price is offered.
    fn affordable_gas(&self, evm: &mut ChainEvm<CallDb<'_>>, request: &TransactionRequest) -> Result<u64, CallError> {
        let price = price_of(request);
        if price == 0 {
            return Ok(u64::MAX);
        }
        let from = request.from.unwrap_or_default();
        let balance =
            evm.db().basic_ref(from).map_err(ExecutionError::from)?.map(|info| info.balance).unwrap_or_default();
        let value = request.value.unwrap_or_default();
        let Some(left) = balance.checked_sub(value) else {
            return Err(CallError::Invalid("insufficient funds for transfer".to_owned()));
        };
        Ok(left.checked_div(U256::from(price)).unwrap_or_default().saturating_to())
    }
}

fn midpoint(low: u64, high: u64) -> u64 {
    low.saturating_add(high.saturating_sub(low).div_euclid(2))
}

/// Price per gas offered, in wei.
fn price_of(request: &TransactionRequest) -> u128 {
    request.gas_price.or(request.max_fee_per_gas).unwrap_or_default()
}

fn is_plain_transfer(evm: &mut ChainEvm<CallDb<'_>>, request: &TransactionRequest) -> Result<bool, CallError> {
    let Some(TxKind::Call(to)) = request.to else { return Ok(false) };
    let bare = request.input.input().is_none_or(|input| input.is_empty())
        && request.access_list.is_none()
        && request.authorization_list.is_none();
    let info = evm.db().basic_ref(to).map_err(ExecutionError::from)?;
    Ok(bare && info.is_none_or(|info| info.is_empty_code_hash()))
}

pub(crate) fn run<'a, I: Inspector<EthEvmContext<CallDb<'a>>>>(
    evm: &mut ChainEvm<CallDb<'a>, I>,
    tx: TxEnv,
) -> Result<ExecutionResult, CallError> {
    match evm.transact_raw(tx) {
        Ok(outcome) => Ok(outcome.result),
        Err(EVMError::Transaction(invalid)) => Err(CallError::Invalid(invalid.to_string())),
        Err(EVMError::Database(error)) => Err(CallError::Execution(error.into())),
        Err(error) => Err(CallError::Execution(ExecutionError::Evm(error.to_string()))),
    }
}

/// Whether a transaction succeeds with its gas limit; too little gas to begin with is a no, not an error.
fn succeeds(evm: &mut ChainEvm<CallDb<'_>>, tx: TxEnv) -> Result<bool, CallError> {
    match run(evm, tx) {
        Ok(outcome) => Ok(outcome.is_success()),
        Err(CallError::Invalid(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn output_of(result: ExecutionResult) -> Result<CallOutput, CallError> {
    let gas_used = result.tx_gas_used();
    let gas_refunded = result.gas().final_refunded();
    match result {
        ExecutionResult::Success { output, logs, .. } => {
            Ok(CallOutput { output: output.into_data(), gas_used, gas_refunded, logs })
        }
        ExecutionResult::Revert { output, .. } => Err(CallError::Reverted { output, gas_used }),
        ExecutionResult::Halt { reason, .. } => Err(CallError::Halted { reason: format!("{reason:?}"), gas_used }),
    }
}

fn override_block(env: &mut EvmEnv, change: &BlockOverrides) {
    let block = &mut env.block_env;
    if let Some(number) = change.number {
        block.number = number;
    }
    if let Some(time) = change.time {
        block.timestamp = U256::from(time);
    }
    if let Some(gas_limit) = change.gas_limit {
        block.gas_limit = gas_limit;
    }
    if let Some(coinbase) = change.coinbase {
        block.beneficiary = coinbase;
    }
    if let Some(random) = change.random {
        block.prevrandao = Some(random);
    }
    if let Some(base_fee) = change.base_fee {
        block.basefee = base_fee.saturating_to();
    }
}

fn override_account(db: &mut CallDb<'_>, address: Address, change: &AccountOverride) -> Result<(), CallError> {
    let refuse = |reason| CallError::Override { address, reason };
    if change.move_precompile_to.is_some() {
        return Err(refuse("moving precompiled contracts is not supported"));
    }
    if change.state.is_some() && change.state_diff.is_some() {
        return Err(refuse("both state and stateDiff given"));
    }
    let mut info = db.basic_ref(address).map_err(ExecutionError::from)?.unwrap_or_default();
    if let Some(balance) = change.balance {
        info.balance = balance;
    }
    if let Some(nonce) = change.nonce {
        info.nonce = nonce;
    }
    if let Some(code) = &change.code {
        let code = Bytecode::new_raw_checked(code.clone()).map_err(|_| refuse("the code is not valid"))?;
        info.code_hash = code.hash_slow();
        info.code = Some(code);
    }
    db.insert_account_info(address, info);
    let failed = |error: DatabaseError| CallError::Execution(error.into());
    if let Some(state) = &change.state {
        let slots = state.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        db.replace_account_storage(address, slots).map_err(failed)?;
    }
    for (key, value) in change.state_diff.iter().flatten() {
        db.insert_account_storage(address, (*key).into(), (*value).into()).map_err(failed)?;
    }
    Ok(())
}
