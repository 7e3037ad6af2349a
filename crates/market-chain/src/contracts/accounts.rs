//! Smart accounts: made by a factory, moved by calls that their owners signed and anybody brings (CHN-21).

use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolCall;
use trellis_contracts::accounts::{AccountContracts, Execute, create_call};
use trellis_contracts::ml_dsa44_verifier::MlDsa44Verifier;
use trellis_contracts::smart_account::SmartAccount as abi;

use super::view;
use crate::client::{ChainClient, TxIntent, TxReceipt};
use crate::error::ChainError;
use crate::wallet::Wallet;

/// An account as the chain has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// The number that its next signed calls must carry.
    pub nonce: u64,
    /// Who owns it: a verifier's address, then the key.
    pub signer: Bytes,
}

/// Calls that an account's owner signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCalls {
    /// Whose calls they are.
    pub account: Address,
    /// The calls and their terms.
    pub execute: Execute,
    /// The owner's signature over their digest.
    pub signature: Bytes,
}

/// The contracts of smart accounts on a chain.
#[derive(Clone, Copy, Debug)]
pub struct SmartAccounts {
    /// Where they are.
    pub contracts: AccountContracts,
}

impl SmartAccounts {
    /// With contracts at these addresses.
    #[must_use]
    pub const fn new(contracts: AccountContracts) -> Self {
        Self { contracts }
    }

    /// An account; none where it has not been made yet.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn show(&self, client: &dyn ChainClient, account: Address) -> Result<Option<AccountView>, ChainError> {
        let answer = client.call(account, abi::nonceCall {}.abi_encode().into()).await?;
        if answer.is_empty() {
            return Ok(None);
        }
        let nonce = view(client, account, "nonce", &abi::nonceCall {}).await?;
        let signer = view(client, account, "signer", &abi::signerCall {}).await?;
        Ok(Some(AccountView { nonce, signer }))
    }

    /// Whether a verifier on this chain takes a key's signature over a digest; none where there is no verifier.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn verifies(
        &self,
        client: &dyn ChainClient,
        signer: &[u8],
        hash: B256,
        signature: Bytes,
    ) -> Result<Option<bool>, ChainError> {
        let Some((verifier, key)) = signer.split_at_checked(Address::len_bytes()) else { return Ok(Some(false)) };
        let call = MlDsa44Verifier::verifyCall { key: Bytes::copy_from_slice(key), hash, signature };
        let answer = client.call(Address::from_slice(verifier), call.abi_encode().into()).await?;
        Ok((!answer.is_empty()).then(|| answer.starts_with(&MlDsa44Verifier::verifyCall::SELECTOR)))
    }

    /// Makes the account of a signer; anybody may, and twice is as good as once.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn create(&self, wallet: &Wallet, signer: Bytes, salt: B256) -> Result<TxReceipt, ChainError> {
        wallet.execute(TxIntent::call(self.contracts.factory, create_call(signer, salt))).await
    }

    /// Brings signed calls to the chain.
    ///
    /// # Errors
    /// [`ChainError`]; [`ChainError::Reverted`] where the account refuses them, as it does a second time.
    pub async fn relay(&self, wallet: &Wallet, signed: &SignedCalls) -> Result<TxReceipt, ChainError> {
        let data = signed.execute.call_data(signed.signature.clone());
        wallet.execute(TxIntent::call(signed.account, data)).await
    }
}
