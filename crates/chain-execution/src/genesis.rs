//! Block zero: the allocation, Ethereum's system contracts, and the deployments, executed.

use crate::env::{SPEC, cfg_env, prev_randao};
use crate::executor::{ChainEvm, chain_evm};
use crate::outcome::state_diff;
use crate::{EXTRA_DATA_BYTES_MAX, GenesisError};
use alloy_consensus::constants::{EMPTY_OMMER_ROOT_HASH, EMPTY_WITHDRAWALS};
use alloy_eips::eip2935::{HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE};
use alloy_eips::eip4788::{BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE};
use alloy_eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy_evm::{Evm, EvmEnv};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use revm::DatabaseCommit;
use revm::bytecode::Bytecode;
use revm::context::{BlockEnv, TxEnv};
use revm::context_interface::result::{ExecutionResult, Output};
use revm::database::states::bundle_state::BundleRetention;
use revm::database::{EmptyDB, State};
use revm::state::{Account as EvmAccount, AccountInfo, AccountStatus, EvmStorageSlot, TransactionId};
use std::collections::BTreeSet;
use trellis_chain_storage::{Genesis, StateDiff};
use trellis_primitives::{Block, ConsensusSection, Header};

/// Gas of one genesis step; no block limit holds before block zero.
const STEP_GAS: u64 = 1_000_000_000;

/// An account that exists before the first step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenesisAccount {
    /// Its address.
    pub address: Address,
    /// Its balance in wei.
    pub balance: U256,
    /// Its nonce.
    pub nonce: u64,
    /// Its code; empty for none.
    pub code: Bytes,
    /// Its storage.
    pub storage: Vec<(U256, U256)>,
}

/// One transaction of the genesis: a deployment, or a call that sets a contract up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenesisStep {
    /// What it is, for errors.
    pub name: String,
    /// Who sends it; its nonce grows by one as for any transaction.
    pub from: Address,
    /// Whom it calls; none deploys a contract.
    pub to: Option<Address>,
    /// Init code or call data.
    pub input: Bytes,
    /// Wei sent along.
    pub value: U256,
    /// Where the contract must come to lie.
    pub expected_address: Option<Address>,
}

/// All that decides block zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenesisInput {
    /// The chain id, which contracts can read.
    pub chain_id: u64,
    /// Time of block zero, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Gas of one block at most.
    pub gas_limit: u64,
    /// Base fee of block zero, in wei per gas.
    pub base_fee_wei: u64,
    /// At most 32 bytes; a chain spec puts the hash of its genesis section here, so that the block's hash covers it.
    pub extra_data: Bytes,
    /// Accounts that exist before the first step.
    pub alloc: Vec<GenesisAccount>,
    /// Executed in order.
    pub steps: Vec<GenesisStep>,
}

/// Executes the genesis: the same input gives the same block on every machine.
///
/// # Errors
/// See [`GenesisError`]: a step that fails, a contract at another address than planned, an account named twice.
pub fn genesis(input: &GenesisInput) -> Result<Genesis, GenesisError> {
    if input.extra_data.len() > EXTRA_DATA_BYTES_MAX {
        let found = input.extra_data.len();
        return Err(GenesisError::ExtraData { expected: EXTRA_DATA_BYTES_MAX, found });
    }
    let mut db = State::builder().with_database(EmptyDB::new()).with_bundle_update().build();
    let mut seen = BTreeSet::new();
    for account in system_contracts().into_iter().chain(input.alloc.iter().cloned()) {
        if !seen.insert(account.address) {
            return Err(GenesisError::Twice(account.address));
        }
        if account.nonce == 0 && account.code.is_empty() && !account.storage.is_empty() {
            return Err(GenesisError::StorageWithoutCode(account.address));
        }
        allocate(&mut db, account);
    }
    let mut evm = chain_evm(db, genesis_env(input), None);
    for (index, step) in input.steps.iter().enumerate() {
        execute_step(&mut evm, index, step, input.chain_id)?;
    }
    let mut db = evm.into_db();
    db.merge_transitions(BundleRetention::PlainState);
    let state = state_diff(db.take_bundle());
    let header = genesis_header(input, trellis_chain_storage::state_root_of(&state));
    // Time is the one thing in the section; the header's root of it is zero, as EIP-4788 says for block zero.
    let section = ConsensusSection { time_ms: input.timestamp_ms, parent_commit: None, checkpoint: None, epoch: None };
    Ok(Genesis { block: Block { header, transactions: Vec::new(), section }, state })
}

/// The contracts that block execution calls: EIP-2935 (block hashes) and EIP-4788 (roots of the consensus sections).
fn system_contracts() -> [GenesisAccount; 2] {
    [(HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE.clone()), (BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE.clone())]
        .map(|(address, code)| GenesisAccount { address, nonce: 1, code, ..GenesisAccount::default() })
}

fn allocate(db: &mut State<EmptyDB>, account: GenesisAccount) {
    let mut info = AccountInfo { balance: account.balance, nonce: account.nonce, ..AccountInfo::default() };
    if !account.code.is_empty() {
        info.code_hash = keccak256(&account.code);
        info.code = Some(Bytecode::new_raw(account.code));
    }
    let storage = account
        .storage
        .into_iter()
        .map(|(slot, value)| (slot, EvmStorageSlot::new_changed(U256::ZERO, value, TransactionId::ZERO)))
        .collect();
    let mut evm_account = EvmAccount::from(info);
    evm_account.storage = storage;
    evm_account.status = AccountStatus::Touched | AccountStatus::Created;
    // The state must have looked before it takes a change; an empty database cannot fail.
    let _ = db.load_cache_account(account.address);
    db.commit([(account.address, evm_account)].into_iter().collect());
}

fn genesis_env(input: &GenesisInput) -> EvmEnv {
    let mut cfg = cfg_env(SPEC, input.chain_id);
    cfg.tx_gas_limit_cap = Some(STEP_GAS);
    let mut block = BlockEnv {
        number: U256::ZERO,
        timestamp: U256::from(input.timestamp_ms.div_euclid(1_000)),
        gas_limit: STEP_GAS,
        basefee: 0,
        prevrandao: Some(prev_randao(B256::ZERO)),
        ..BlockEnv::default()
    };
    block.set_blob_excess_gas_and_price(0, cfg.blob_base_fee_update_fraction());
    EvmEnv { cfg_env: cfg, block_env: block }
}

fn execute_step(
    evm: &mut ChainEvm<State<EmptyDB>>,
    index: usize,
    step: &GenesisStep,
    chain_id: u64,
) -> Result<(), GenesisError> {
    let refuse = |reason: String| GenesisError::Step { index, name: step.name.clone(), reason };
    let nonce = evm
        .db_mut()
        .load_cache_account(step.from)
        .map_err(|error| GenesisError::State(error.to_string()))?
        .account_info()
        .map_or(0, |info| info.nonce);
    let tx = TxEnv {
        caller: step.from,
        gas_limit: STEP_GAS,
        gas_price: 0,
        kind: step.to.map_or(TxKind::Create, TxKind::Call),
        value: step.value,
        data: step.input.clone(),
        nonce,
        chain_id: Some(chain_id),
        ..TxEnv::default()
    };
    let outcome = evm.transact_raw(tx).map_err(|error| refuse(error.to_string()))?;
    evm.db_mut().commit(outcome.state);
    let made = match outcome.result {
        ExecutionResult::Success { output: Output::Create(_, made), .. } => made,
        ExecutionResult::Success { .. } => step.to,
        ExecutionResult::Revert { output, .. } => return Err(refuse(format!("reverted with {output}"))),
        ExecutionResult::Halt { reason, .. } => return Err(refuse(format!("{reason:?}"))),
    };
    match step.expected_address {
        Some(expected) if made != Some(expected) => {
            Err(GenesisError::Address { index, name: step.name.clone(), expected, found: made })
        }
        _ => Ok(()),
    }
}

fn genesis_header(input: &GenesisInput, state_root: B256) -> Header {
    Header {
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        state_root,
        transactions_root: EMPTY_ROOT_HASH,
        receipts_root: EMPTY_ROOT_HASH,
        gas_limit: input.gas_limit,
        timestamp: input.timestamp_ms.div_euclid(1_000),
        extra_data: input.extra_data.clone(),
        mix_hash: prev_randao(B256::ZERO),
        base_fee_per_gas: Some(input.base_fee_wei),
        withdrawals_root: Some(EMPTY_WITHDRAWALS),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Header::default()
    }
}

/// The accounts of a genesis diff as plain allocations, so that a spec can pin what the deployments made.
#[must_use]
pub fn pinned_alloc(state: &StateDiff) -> Vec<GenesisAccount> {
    state
        .accounts
        .iter()
        .filter(|diff| diff.address != HISTORY_STORAGE_ADDRESS && diff.address != BEACON_ROOTS_ADDRESS)
        .filter_map(|diff| {
            let account = diff.account?;
            let code = state.codes.iter().find(|(hash, _)| *hash == account.code_hash);
            Some(GenesisAccount {
                address: diff.address,
                balance: account.balance,
                nonce: account.nonce,
                code: code.map(|(_, code)| code.clone()).unwrap_or_default(),
                storage: diff.storage.clone(),
            })
        })
        .collect()
}
