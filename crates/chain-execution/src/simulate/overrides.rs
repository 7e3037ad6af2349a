//! Changes of state before a simulated block, as geth makes them.

use super::SimulateError;
use crate::database::BlockDb;
use crate::ethereum::failed;
use alloy_evm::precompiles::{DynPrecompile, Precompile, PrecompilesMap};
use alloy_primitives::map::HashMap;
use alloy_primitives::{Address, U256};
use alloy_rpc_types::state::{AccountOverride, StateOverride};
use revm::DatabaseCommit;
use revm::bytecode::Bytecode;
use revm::database_interface::Database;
use revm::state::{Account, AccountStatus, EvmStorageSlot, TransactionId};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Applies the changes in the order of the addresses, so that the same request is refused for the same reason. Gives the
/// addresses of precompiled contracts that are none any more: as in geth they stay warm, and those they move to are cold.
pub(super) fn apply_overrides(
    db: &mut BlockDb<'_>,
    precompiles: &mut PrecompilesMap,
    changes: &StateOverride,
) -> Result<Vec<Address>, SimulateError> {
    let mut sorted: Vec<(&Address, &AccountOverride)> = changes.iter().collect();
    sorted.sort_unstable_by_key(|(address, _)| **address);
    let (mut moved, mut warm) = (BTreeMap::new(), Vec::new());
    for (address, change) in sorted {
        if moved.contains_key(address) {
            return refuse(format!("account {address} has already been overridden by a precompile"));
        }
        let mut taken = None;
        precompiles.apply_precompile(address, |found| {
            taken = found;
            None
        });
        warm.extend(taken.is_some().then_some(*address));
        if let Some(to) = change.move_precompile_to {
            let Some(taken) = taken.map(Rc::new) else {
                return refuse(format!("account {address} is not a precompile"));
            };
            if changes.contains_key(&to) {
                return refuse(format!("account {to} is already overridden"));
            }
            if precompiles.get(&to).is_some() {
                precompiles.apply_precompile(&to, |_| Some(relay(&taken)));
            }
            moved.insert(to, taken);
        }
        account(db, *address, change)?;
    }
    precompiles.set_precompile_lookup(move |address: &Address| moved.get(address).map(relay));
    Ok(warm)
}

/// The same precompiled contract once more.
fn relay(moved: &Rc<DynPrecompile>) -> DynPrecompile {
    let moved = Rc::clone(moved);
    DynPrecompile::new_stateful(moved.precompile_id().clone(), move |input| moved.call(input))
}

fn refuse<T>(reason: String) -> Result<T, SimulateError> {
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
