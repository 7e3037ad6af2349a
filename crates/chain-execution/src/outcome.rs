//! From what the EVM leaves behind to what the store takes: the state diff.

use alloy_primitives::U256;
use rayon::prelude::*;
use revm::database::BundleState;
use revm::database::states::BundleAccount;
use trellis_chain_storage::{Account, AccountDiff, StateDiff};

/// The changes in a bundle, without accounts and slots that are as before.
#[must_use]
pub fn state_diff(bundle: BundleState) -> StateDiff {
    let mut accounts: Vec<AccountDiff> =
        bundle.state.iter().filter_map(|(address, account)| account_diff(*address, account)).collect();
    accounts.par_sort_unstable_by_key(|diff| diff.address);
    let mut codes: Vec<_> = bundle.contracts.iter().map(|(hash, code)| (*hash, code.original_bytes())).collect();
    codes.sort_unstable_by_key(|(hash, _)| *hash);
    StateDiff { accounts, codes }
}

fn account_diff(address: alloy_primitives::Address, account: &BundleAccount) -> Option<AccountDiff> {
    let wiped = account.was_destroyed();
    let mut storage: Vec<(U256, U256)> = account
        .storage
        .iter()
        .filter(|(_, slot)| {
            if wiped { !slot.present_value.is_zero() } else { slot.previous_or_original_value != slot.present_value }
        })
        .map(|(key, slot)| (*key, slot.present_value))
        .collect();
    if !wiped && storage.is_empty() && account.info == account.original_info {
        return None;
    }
    storage.sort_unstable_by_key(|(key, _)| *key);
    let account = account.info.as_ref().map(|info| Account {
        nonce: info.nonce,
        balance: info.balance,
        code_hash: info.code_hash,
    });
    Some(AccountDiff { address, account, wiped, storage })
}
