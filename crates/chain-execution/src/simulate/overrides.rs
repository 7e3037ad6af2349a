//! Changes of state before a simulated block, as geth makes them.

use super::SimulateError;
use crate::database::BlockDb;
use crate::ethereum::failed;
use alloy_evm::precompiles::PrecompilesMap;
use alloy_primitives::map::HashMap;
use alloy_primitives::{Address, U256};
use alloy_rpc_types::state::{AccountOverride, StateOverride};
use revm::DatabaseCommit;
use revm::bytecode::Bytecode;
use revm::database_interface::Database;
use revm::state::{Account, AccountStatus, EvmStorageSlot, TransactionId};
use std::collections::BTreeSet;

/// Applies the changes in the order of the addresses, so that the same request is refused for the same reason.
pub(super) fn apply_overrides(
    db: &mut BlockDb<'_>,
    precompiles: &mut PrecompilesMap,
    changes: &StateOverride,
) -> Result<(), SimulateError> {
    let mut sorted: Vec<(&Address, &AccountOverride)> = changes.iter().collect();
    sorted.sort_unstable_by_key(|(address, _)| **address);
    let mut moved_to = BTreeSet::new();
    for (address, change) in sorted {
        if moved_to.contains(address) {
            return refuse(format!("account {address} has already been overridden by a precompile"));
        }
        if let Some(to) = change.move_precompile_to {
            if precompiles.get(address).is_none() {
                return refuse(format!("account {address} is not a precompile"));
            }
            if changes.contains_key(&to) {
                return refuse(format!("account {to} is already overridden"));
            }
            precompiles
                .move_precompiles([(*address, to)])
                .map_err(|error| SimulateError::Override(error.to_string()))?;
            moved_to.insert(to);
        }
        if precompiles.get(address).is_some() {
            precompiles.apply_precompile(address, |_| None);
        }
        account(db, *address, change)?;
    }
    Ok(())
}

fn refuse(reason: String) -> Result<(), SimulateError> {
    Err(SimulateError::Override(reason))
}

fn account(db: &mut BlockDb<'_>, address: Address, change: &AccountOverride) -> Result<(), SimulateError> {
    if change.state.is_some() && change.state_diff.is_some() {
        return refuse(format!("account {address} has both 'state' and 'stateDiff'"));
    }
    let mut info = db.basic(address).map_err(failed)?.unwrap_or_default();
    info.nonce = change.nonce.unwrap_or(info.nonce);
    info.balance = change.balance.unwrap_or(info.balance);
    if let Some(code) = &change.code {
        let code = Bytecode::new_raw_checked(code.clone())
            .map_err(|_| SimulateError::Override(format!("the code of account {address} is not valid")))?;
        info.code_hash = code.hash_slow();
        info.code = Some(code);
    }
    let mut after = Account::from(info);
    after.status = AccountStatus::Touched;
    if change.state.is_some() {
        // Destroyed first, so that nothing of the old storage is left; then made again.
        let mut destroyed = Account::default();
        destroyed.status = AccountStatus::SelfDestructed | AccountStatus::Touched;
        commit(db, address, destroyed);
        after.mark_created();
    }
    for (slot, value) in change.state.iter().chain(&change.state_diff).flatten() {
        let (slot, value) = (U256::from_be_bytes(slot.0), U256::from_be_bytes(value.0));
        let before = if change.state.is_some() { U256::ZERO } else { db.storage(address, slot).map_err(failed)? };
        after.storage.insert(slot, EvmStorageSlot::new_changed(before, value, TransactionId::ZERO));
    }
    if after.info.is_empty() && !after.storage.is_empty() {
        // An empty account that is only touched would be taken away with its storage (EIP-161).
        after.mark_created();
    }
    commit(db, address, after);
    Ok(())
}

fn commit(db: &mut BlockDb<'_>, address: Address, account: Account) {
    db.commit(HashMap::from_iter([(address, account)]));
}
