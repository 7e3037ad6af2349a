//! From a chain spec to what each plane needs of it: block zero, the rules, the committee, the contracts' addresses.

use crate::failure::Failure;
use alloy_primitives::{B256, Bytes, U256};
use eyre::Result;
use trellis_chain_execution::{ExecutionConfig, GenesisAccount, GenesisInput, GenesisStep, genesis};
use trellis_chain_finality::{Validator, ValidatorSet, VotePublicKey};
use trellis_chain_spec::{AllocAccount, ChainSpec, ContractsSection};
use trellis_chain_storage::Genesis;
use trellis_contracts::deployment::{Addresses, Parameters, Step, steps};

/// A chain, ready to be used by every plane.
pub struct Chain {
    /// The spec.
    pub spec: ChainSpec,
    /// Block zero and its state.
    pub genesis: Genesis,
    /// Block zero's hash: the chain's name on the wire.
    pub genesis_hash: B256,
    /// The first committee.
    pub committee: ValidatorSet,
    /// Where the contracts are.
    pub contracts: Addresses,
}

impl Chain {
    /// Loads a spec by name or file and executes its genesis.
    ///
    /// # Errors
    /// A spec that is not valid, a deployment that fails.
    pub fn load(name_or_path: &str) -> Result<Self> {
        Self::of(ChainSpec::load(name_or_path)?)
    }

    /// Executes a spec's genesis.
    ///
    /// # Errors
    /// A deployment that fails, a committee that is none.
    pub fn of(spec: ChainSpec) -> Result<Self> {
        let genesis = genesis(&input(&spec)?)?;
        Ok(Self {
            genesis_hash: genesis.hash(),
            committee: committee(&spec)?,
            contracts: contracts_of(&spec),
            genesis,
            spec,
        })
    }

    /// The rules that all nodes of the chain execute by.
    pub fn execution(&self) -> ExecutionConfig {
        ExecutionConfig {
            chain_id: self.spec.genesis.chain_id,
            gas_limit: self.spec.gas.block_gas_limit,
            base_fee_floor_wei: self.spec.gas.base_fee_floor_wei,
        }
    }

    /// The spec with the state of block zero written into it, so that a later build makes the same block (CHN-01).
    ///
    /// # Errors
    /// An amount over 2^128.
    pub fn pinned(&self) -> Result<ChainSpec> {
        let mut spec = self.spec.clone();
        let mut alloc = std::collections::BTreeMap::new();
        for account in trellis_chain_execution::pinned_alloc(&self.genesis.state) {
            let storage = account.storage.iter().map(|(key, value)| (B256::from(*key), B256::from(*value))).collect();
            let entry = AllocAccount {
                balance: account.balance.try_into()?,
                nonce: account.nonce,
                code: account.code,
                storage,
            };
            alloc.insert(account.address, entry);
        }
        spec.genesis.alloc = alloc;
        if let Some(contracts) = &mut spec.genesis.contracts {
            contracts.pinned = true;
        }
        Ok(spec)
    }
}

/// Where a spec's contracts are: they follow from the deployer, and nothing is executed to know them.
pub fn contracts_of(spec: &ChainSpec) -> Addresses {
    let deployer = spec.genesis.contracts.as_ref().map(|contracts| contracts.deployer).unwrap_or_default();
    Addresses::of(deployer, 0)
}

fn committee(spec: &ChainSpec) -> Result<ValidatorSet> {
    let validators = spec
        .genesis
        .validators
        .iter()
        .map(|entry| Validator::new(VotePublicKey::Ed25519(entry.vote_key.0), entry.power, entry.account))
        .collect();
    Ok(ValidatorSet::new(validators)?)
}

fn input(spec: &ChainSpec) -> Result<GenesisInput> {
    let alloc = spec
        .genesis
        .alloc
        .iter()
        .map(|(address, account)| GenesisAccount {
            address: *address,
            balance: account.balance.to_u256(),
            nonce: account.nonce,
            code: account.code.clone(),
            storage: account
                .storage
                .iter()
                .map(|(key, value)| (U256::from_be_bytes(key.0), U256::from_be_bytes(value.0)))
                .collect(),
        })
        .collect();
    let deployments = match &spec.genesis.contracts {
        Some(contracts) if !contracts.pinned => {
            let parameters = parameters(spec, contracts)?;
            steps(&parameters, contracts.deployer, 0).into_iter().map(|step| genesis_step(contracts, step)).collect()
        }
        _ => Vec::new(),
    };
    Ok(GenesisInput {
        chain_id: spec.genesis.chain_id,
        timestamp_ms: spec.genesis.timestamp_ms,
        gas_limit: spec.gas.block_gas_limit,
        base_fee_wei: spec.gas.base_fee_floor_wei,
        extra_data: Bytes::copy_from_slice(spec.identity().as_slice()),
        alloc,
        steps: deployments,
    })
}

fn genesis_step(contracts: &ContractsSection, step: Step) -> GenesisStep {
    GenesisStep {
        name: step.name.to_owned(),
        from: contracts.deployer,
        expected_address: step.to.is_none().then_some(step.address),
        to: step.to,
        input: step.input,
        value: U256::ZERO,
    }
}

fn parameters(spec: &ChainSpec, contracts: &ContractsSection) -> Result<Parameters> {
    let protocol = &spec.protocol;
    let seconds = |value: u64, field: &str| {
        u32::try_from(value).map_err(|_| Failure::usage(format!("the chain spec's {field} is over 136 years")))
    };
    let base = if protocol.receipt_window_s < 3_600 {
        Parameters::dev(contracts.owner)
    } else {
        Parameters::testnet(contracts.owner)
    };
    Ok(Parameters {
        fee_bps: contracts.fee_bps,
        epoch_seconds: contracts.fee_epoch_s,
        bond_wei: contracts.aggregator_bond_wei.0,
        demand_bond_wei: contracts.demand_bond_wei.0,
        challenge_seconds: seconds(protocol.receipt_window_s, "protocol.receipt_window_s")?,
        reveal_seconds: contracts.reveal_s,
        aggregator_unbonding_seconds: seconds(protocol.unbonding_s, "protocol.unbonding_s")?,
        reporter_bps: contracts.reporter_bps,
        stake_unbonding_seconds: protocol.unbonding_s,
        ..base
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: CHN-01, CHN-02
    #[test]
    fn a_pinned_spec_makes_the_same_state_without_executing_anything() {
        let chain = Chain::load("dev").expect("dev chain");
        let pinned = Chain::of(chain.pinned().expect("pinned")).expect("pinned chain");
        let root = |chain: &Chain| chain.genesis.block.header.state_root;
        assert_eq!(root(&pinned), root(&chain));
        assert_eq!(pinned.contracts, chain.contracts);
        assert_ne!(pinned.genesis_hash, chain.genesis_hash, "the identity covers the pinned alloc");
    }
}
