//! An account that acts on a chain.

use std::sync::Arc;
use std::time::Duration;

use trellis_crypto::AccountKey;
use trellis_primitives::Address;

use crate::client::{ChainClient, TxIntent, TxReceipt};
use crate::error::ChainError;

/// A client, a key, and how long a transaction may take. Cheap to clone.
#[derive(Clone)]
pub struct Wallet {
    client: Arc<dyn ChainClient>,
    key: Arc<AccountKey>,
    within: Duration,
}

impl Wallet {
    /// A wallet whose transactions must be final within a time.
    #[must_use]
    pub fn new(client: Arc<dyn ChainClient>, key: Arc<AccountKey>, within: Duration) -> Self {
        Self { client, key, within }
    }

    /// The chain.
    #[must_use]
    pub fn client(&self) -> &dyn ChainClient {
        &*self.client
    }

    /// The chain, to keep.
    #[must_use]
    pub fn shared_client(&self) -> Arc<dyn ChainClient> {
        Arc::clone(&self.client)
    }

    /// The account's key.
    #[must_use]
    pub fn key(&self) -> &AccountKey {
        &self.key
    }

    /// The account.
    #[must_use]
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// Sends, and waits until the transaction is in a final block.
    ///
    /// # Errors
    /// [`ChainError`]; [`ChainError::Failed`] where it is in a block and did not succeed.
    pub async fn execute(&self, intent: TxIntent) -> Result<TxReceipt, ChainError> {
        let tx = self.client.send(intent, &self.key).await?;
        let receipt = self.client.wait(tx, &self.key, self.within).await?;
        if receipt.success {
            return Ok(receipt);
        }
        let reason = self.client.failure_reason(&receipt).await;
        let reason = reason.unwrap_or_else(|error| format!("the chain cannot say why: {error}"));
        Err(ChainError::Failed { tx: receipt.tx, block: receipt.block, gas_used: receipt.gas_used, reason })
    }
}
