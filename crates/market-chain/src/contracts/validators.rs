//! The validators' stake: who may sit, who delegates to whom (CHN-11, CHN-19).

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall;
use trellis_contracts::staking::{ProvenKeys, register_call, rotate_call};
use trellis_contracts::validator_staking::ValidatorStaking as abi;
use trellis_primitives::{Bytes, Wei};

use super::{view, wei};
use crate::client::{ChainClient, TxIntent, TxReceipt};
use crate::error::ChainError;
use crate::wallet::Wallet;

/// Validators read in one call.
const PAGE: u64 = 100;
/// Validators that a listing shows at most.
pub const VALIDATORS_LISTED_MAX: u64 = 10_000;

/// A registered validator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorView {
    /// Whose it is.
    pub account: Address,
    /// Whether it may be chosen.
    pub candidate: bool,
    /// Whether it equivocated and is out for ever.
    pub tombstoned: bool,
    /// Whether it leaves.
    pub leaving: bool,
    /// Seconds since 1970 until which it is out at least; 0: not jailed.
    pub jailed_until_s: u64,
    /// Its part of what its delegators earn, in hundredths of a percent.
    pub commission_bps: u16,
    /// Its own stake.
    pub own: Wei,
    /// Others' stake with it.
    pub delegated: Wei,
    /// On the way out, still slashable.
    pub unbonding: Wei,
    /// Hash of scheme and vote key.
    pub vote_key_hash: B256,
}

/// ValidatorStaking at an address.
#[derive(Clone, Copy, Debug)]
pub struct ValidatorsContract {
    /// Where it is.
    pub address: Address,
}

impl ValidatorsContract {
    /// The contract at an address.
    #[must_use]
    pub const fn new(address: Address) -> Self {
        Self { address }
    }

    async fn send<C: SolCall + Send>(&self, wallet: &Wallet, call: C, value: Wei) -> Result<TxReceipt, ChainError> {
        let intent = TxIntent::call(self.address, call.abi_encode());
        wallet.execute(TxIntent { value, ..intent }).await
    }

    /// How many are registered.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn count(&self, client: &dyn ChainClient) -> Result<u64, ChainError> {
        let call = abi::validatorsCall { start: U256::ZERO, count: U256::ZERO };
        Ok(view(client, self.address, "validators", &call).await?.total.saturating_to())
    }

    /// The registered ones, in the order they came.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn list(&self, client: &dyn ChainClient) -> Result<Vec<ValidatorView>, ChainError> {
        let total = self.count(client).await?.min(VALIDATORS_LISTED_MAX);
        let mut all = Vec::new();
        let mut start = 0;
        while start < total {
            let call = abi::validatorsCall { start: U256::from(start), count: U256::from(PAGE) };
            for account in view(client, self.address, "validators", &call).await?.page {
                all.extend(self.show(client, account).await?);
            }
            start = start.saturating_add(PAGE);
        }
        Ok(all)
    }

    /// One of them; none where the account is no validator.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn show(&self, client: &dyn ChainClient, account: Address) -> Result<Option<ValidatorView>, ChainError> {
        let info = view(client, self.address, "info", &abi::infoCall { validator: account }).await?;
        if !info.registered {
            return Ok(None);
        }
        Ok(Some(ValidatorView {
            account,
            candidate: info.candidate,
            tombstoned: info.tombstoned,
            leaving: info.leaving,
            jailed_until_s: info.jailedUntil,
            commission_bps: info.commissionBps,
            own: wei("info", info.own)?,
            delegated: wei("info", info.delegated)?,
            unbonding: wei("info", info.unbonding)?,
            vote_key_hash: info.voteKeyHash,
        }))
    }

    /// What an account has with a validator.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn delegation(
        &self,
        client: &dyn ChainClient,
        validator: Address,
        delegator: Address,
    ) -> Result<Wei, ChainError> {
        let call = abi::delegationCall { validator, delegator };
        wei("delegation", view(client, self.address, "delegation", &call).await?.amount)
    }

    /// Makes the wallet's account a validator with a stake.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn register(
        &self,
        wallet: &Wallet,
        keys: &ProvenKeys,
        commission_bps: u16,
        stake: Wei,
    ) -> Result<TxReceipt, ChainError> {
        let intent = TxIntent::call(self.address, register_call(keys, commission_bps).to_vec());
        wallet.execute(TxIntent { value: stake, ..intent }).await
    }

    /// Replaces the keys of the wallet's validator.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn rotate(&self, wallet: &Wallet, keys: &ProvenKeys) -> Result<TxReceipt, ChainError> {
        wallet.execute(TxIntent::call(self.address, rotate_call(keys).to_vec())).await
    }

    /// Adds to the wallet's stake with a validator.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn delegate(&self, wallet: &Wallet, validator: Address, amount: Wei) -> Result<TxReceipt, ChainError> {
        self.send(wallet, abi::delegateCall { validator }, amount).await
    }

    /// Takes back stake; it can be withdrawn when it has unbonded.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn undelegate(&self, wallet: &Wallet, validator: Address, amount: Wei) -> Result<TxReceipt, ChainError> {
        self.send(wallet, abi::undelegateCall { validator, amount: amount.to_u256() }, Wei::ZERO).await
    }

    /// Pays out what has unbonded.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn withdraw(&self, wallet: &Wallet, validator: Address) -> Result<TxReceipt, ChainError> {
        self.send(wallet, abi::withdrawCall { validator }, Wei::ZERO).await
    }

    /// Sets the wallet's commission as a validator.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn set_commission(&self, wallet: &Wallet, bps: u16) -> Result<TxReceipt, ChainError> {
        self.send(wallet, abi::setCommissionCall { bps }, Wei::ZERO).await
    }

    /// Makes the wallet's validator one that may be chosen again after its time in jail.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn unjail(&self, wallet: &Wallet) -> Result<TxReceipt, ChainError> {
        self.send(wallet, abi::unjailCall {}, Wei::ZERO).await
    }

    /// Hands in two conflicting messages of a validator, each in the chain's wire form.
    ///
    /// # Errors
    /// [`ChainError`]; [`ChainError::Reverted`] where they convict nobody.
    pub async fn report_equivocation(
        &self,
        wallet: &Wallet,
        first: Bytes,
        second: Bytes,
    ) -> Result<TxReceipt, ChainError> {
        self.send(wallet, abi::reportEquivocationCall { a: first, b: second }, Wei::ZERO).await
    }

    /// Pays out what evidence has earned the wallet's account.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn claim(&self, wallet: &Wallet) -> Result<TxReceipt, ChainError> {
        self.send(wallet, abi::claimCall {}, Wei::ZERO).await
    }

    /// Takes the wallet's validator out for good.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn leave(&self, wallet: &Wallet) -> Result<TxReceipt, ChainError> {
        self.send(wallet, abi::leaveCall {}, Wei::ZERO).await
    }
}
