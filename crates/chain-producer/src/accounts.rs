//! The mempool's view of accounts: the newest committed state.

use alloy_primitives::Address;
use trellis_chain_mempool::{AccountReadError, AccountReader, AccountState};
use trellis_chain_storage::Store;

/// Nonces and balances of the store's head.
#[derive(Clone, Debug)]
pub struct HeadAccounts(pub Store);

impl AccountReader for HeadAccounts {
    fn account(&self, address: Address) -> Result<AccountState, AccountReadError> {
        let account = self.0.head().account(address).unwrap_or_default();
        Ok(AccountState { nonce: account.nonce, balance: account.balance })
    }
}
