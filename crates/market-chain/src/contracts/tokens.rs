//! WTRL and the providers' stake.

use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use trellis_contracts::provider_staking::ProviderStaking;
use trellis_contracts::wtrl::WTRL;
use trellis_primitives::{Address, NodeId, Wei};

use super::{view, wei};
use crate::client::{ChainClient, TxIntent, TxReceipt};
use crate::error::ChainError;
use crate::wallet::Wallet;

/// The wrapped coin, or another ERC-20 token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WtrlContract {
    /// Where it is.
    pub address: Address,
}

impl WtrlContract {
    /// The token at an address.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self { address }
    }

    /// Wraps coins.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn deposit(&self, wallet: &Wallet, amount: Wei) -> Result<TxReceipt, ChainError> {
        let call = TxIntent::call(self.address, WTRL::depositCall {}.abi_encode());
        wallet.execute(TxIntent { value: amount, ..call }).await
    }

    /// Unwraps coins.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn withdraw(&self, wallet: &Wallet, amount: Wei) -> Result<TxReceipt, ChainError> {
        let call = WTRL::withdrawCall { amount: amount.to_u256() };
        wallet.execute(TxIntent::call(self.address, call.abi_encode())).await
    }

    /// An account's tokens.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn balance_of(&self, client: &dyn ChainClient, account: Address) -> Result<Wei, ChainError> {
        let word = view(client, self.address, "balanceOf", &WTRL::balanceOfCall { account }).await?;
        wei("balanceOf", word)
    }

    /// Lets a contract take tokens, where it may not take enough yet. Approves without bound, so that it happens once.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn ensure_allowance(&self, wallet: &Wallet, spender: Address, amount: Wei) -> Result<(), ChainError> {
        let call = WTRL::allowanceCall { owner: wallet.address(), spender };
        let allowance = view(wallet.client(), self.address, "allowance", &call).await?;
        if allowance < amount.to_u256() {
            let approve = WTRL::approveCall { spender, value: U256::MAX };
            wallet.execute(TxIntent::call(self.address, approve.abi_encode())).await?;
        }
        Ok(())
    }

    /// Wraps coins where the account has fewer tokens than this.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn ensure_balance(&self, wallet: &Wallet, amount: Wei) -> Result<(), ChainError> {
        let held = self.balance_of(wallet.client(), wallet.address()).await?;
        match amount.checked_sub(held) {
            Some(missing) if !missing.is_zero() => self.deposit(wallet, missing).await.map(|_| ()),
            _ => Ok(()),
        }
    }
}

/// An account's stake for one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionView {
    /// The node that it answers for.
    pub node: NodeId,
    /// What is staked and not on its way out.
    pub active: Wei,
}

/// The providers' stake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StakingContract {
    /// Where it is.
    pub address: Address,
}

impl StakingContract {
    /// The contract at an address.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self { address }
    }

    /// Stakes tokens for a node.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn stake(
        &self,
        wallet: &Wallet,
        token: Address,
        node: NodeId,
        amount: Wei,
    ) -> Result<TxReceipt, ChainError> {
        WtrlContract::new(token).ensure_allowance(wallet, self.address, amount).await?;
        let call = ProviderStaking::stakeCall { nodeId: node.to_b256(), amount: amount.0 };
        wallet.execute(TxIntent::call(self.address, call.abi_encode())).await
    }

    /// Begins to unstake; the stake stays slashable until the unbonding time is over.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn unstake(&self, wallet: &Wallet, amount: Wei) -> Result<TxReceipt, ChainError> {
        let call = ProviderStaking::unstakeCall { amount: amount.0 };
        wallet.execute(TxIntent::call(self.address, call.abi_encode())).await
    }

    /// Takes what is unbonded.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn withdraw(&self, wallet: &Wallet) -> Result<TxReceipt, ChainError> {
        wallet.execute(TxIntent::call(self.address, ProviderStaking::withdrawCall {}.abi_encode())).await
    }

    /// An account's tier; 0 is none.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn tier_of(&self, client: &dyn ChainClient, account: Address) -> Result<u8, ChainError> {
        view(client, self.address, "tierOf", &ProviderStaking::tierOfCall { account }).await
    }

    /// An account's position; all zero where it has none.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn position_of(&self, client: &dyn ChainClient, account: Address) -> Result<PositionView, ChainError> {
        let position = view(client, self.address, "positionOf", &ProviderStaking::positionOfCall { account }).await?;
        Ok(PositionView { node: NodeId(position.nodeId.0), active: Wei(position.active) })
    }
}
