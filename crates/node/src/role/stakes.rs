//! What stake is behind a peer, as the chain's RPC tells it: for the relay, which keeps places for peers with stake (NET-42).
//!
//! Nothing waits for the chain. It is connected to when the first stake is asked for, and again after a failure; until it
//! answers, nobody has stake.

use crate::bridge::rpc_config;
use crate::chain::{Chain, staking_of};
use alloy_primitives::Address;
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::OnceCell;
use trellis_market_chain::{
    ChainClient, ChainError, PositionView, RpcChainClient, RpcConfig, StakingContract, ValidatorView,
    ValidatorsContract,
};
use trellis_net_peers::{StakeError, StakeSource, StakeView};
use trellis_primitives::{NodeId, SharedClock, Wei};

/// The stakes of a chain behind its RPC.
struct ChainStakes {
    rpc: RpcConfig,
    clock: SharedClock,
    providers: StakingContract,
    /// None where the chain's validators are fixed.
    validators: Option<ValidatorsContract>,
    client: OnceCell<Arc<RpcChainClient>>,
}

/// Where the relay asks for stake; none where the chain has no contracts or no URL is set.
pub fn source(chain: &Chain, urls: &[String], clock: SharedClock) -> Option<StakeSource> {
    chain.spec.genesis.contracts.as_ref().filter(|_| !urls.is_empty())?;
    let stakes = ChainStakes {
        rpc: rpc_config(chain, urls),
        clock,
        providers: StakingContract::new(chain.contracts.provider_staking),
        validators: staking_of(&chain.spec).map(ValidatorsContract::new),
        client: OnceCell::new(),
    };
    Some(StakeSource(Arc::new(stakes)))
}

impl ChainStakes {
    async fn ask(&self, account: Address, node: NodeId) -> Result<Wei, ChainError> {
        let connect = || RpcChainClient::connect(self.rpc.clone(), Arc::clone(&self.clock));
        let client = self.client.get_or_try_init(connect).await?;
        let client: &dyn ChainClient = client.as_ref();
        let position = self.providers.position_of(client, account).await?;
        let validator = match &self.validators {
            Some(contract) => contract.show(client, account).await?,
            None => None,
        };
        Ok(behind(node, &position, validator.as_ref()))
    }
}

#[async_trait]
impl StakeView for ChainStakes {
    async fn stake(&self, account: Address, node: NodeId) -> Result<Wei, StakeError> {
        self.ask(account, node).await.map_err(|error| StakeError { reason: error.to_string() })
    }
}

/// The stake behind a node: its account's as a provider, if it is for this node, and its account's as a validator. What is on
/// its way out does not count, nor does what a validator has that equivocated.
fn behind(node: NodeId, position: &PositionView, validator: Option<&ValidatorView>) -> Wei {
    let provided = if position.node == node { position.active } else { Wei::ZERO };
    let validating = validator
        .filter(|validator| !validator.tombstoned)
        .map_or(Wei::ZERO, |validator| validator.own.saturating_add(validator.delegated));
    provided.saturating_add(validating)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;

    fn validator(tombstoned: bool) -> ValidatorView {
        ValidatorView {
            account: Address::repeat_byte(1),
            candidate: true,
            tombstoned,
            leaving: false,
            jailed_until_s: 0,
            commission_bps: 0,
            own: Wei(5),
            delegated: Wei(6),
            unbonding: Wei(1_000),
            vote_key_hash: B256::ZERO,
        }
    }

    // row: NET-42, NET-01
    #[test]
    fn a_stake_counts_for_the_node_that_the_chain_binds_it_to_and_a_validators_for_its_account() {
        let position = PositionView { node: NodeId([1; 32]), active: Wei(100) };
        assert_eq!(behind(NodeId([1; 32]), &position, None), Wei(100));
        assert_eq!(behind(NodeId([2; 32]), &position, None), Wei::ZERO, "one position serves one node");
        assert_eq!(behind(NodeId([2; 32]), &position, Some(&validator(false))), Wei(11));
        assert_eq!(behind(NodeId([1; 32]), &position, Some(&validator(false))), Wei(111));
        assert_eq!(behind(NodeId([2; 32]), &position, Some(&validator(true))), Wei::ZERO);
    }

    // row: NET-42
    #[tokio::test]
    async fn a_chain_that_does_not_answer_is_an_error_and_is_tried_again() {
        let chain = Chain::load("dev").expect("dev chain");
        let clock: SharedClock = Arc::new(trellis_primitives::SystemClock);
        // Nothing listens at the discard port.
        let source = source(&chain, &["http://127.0.0.1:9".to_owned()], clock).expect("the dev chain has contracts");
        for _ in 0..2 {
            let error = source.0.stake(Address::ZERO, NodeId([1; 32])).await.expect_err("no chain");
            assert!(!error.reason.is_empty());
        }
    }

    // row: NET-42
    #[test]
    fn without_a_url_nobody_has_stake() {
        let chain = Chain::load("dev").expect("dev chain");
        assert!(source(&chain, &[], Arc::new(trellis_primitives::SystemClock)).is_none());
    }
}
