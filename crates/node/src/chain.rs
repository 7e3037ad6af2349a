//! From a chain spec to what each plane needs of it: block zero, the rules, the committee, the contracts' addresses.

use crate::failure::Failure;
use alloy_primitives::{Address, B256, Bytes, U256};
use eyre::Result;
use trellis_chain_execution::{ExecutionConfig, GenesisAccount, GenesisInput, GenesisStep, genesis};
use trellis_chain_finality::{CheckpointCommittee, CheckpointFollower, CheckpointRules, Validator, ValidatorSet};
use trellis_chain_producer::{CheckpointSetup, EpochRules};
use trellis_chain_spec::{AllocAccount, ChainSpec, ContractsSection};
use trellis_chain_storage::Genesis;
use trellis_contracts::accounts::{ACCOUNTS_DEPLOYER, account_steps};
use trellis_contracts::deployment::{Addresses, Parameters, Step, steps};
use trellis_contracts::staking::{GenesisValidator, StakingParameters, staking_address, staking_steps};
use trellis_primitives::{CheckpointKeys, Wei};

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

    /// Blocks of an epoch, where committees change.
    pub fn epoch_blocks(&self) -> Option<u64> {
        staking_of(&self.spec).map(|_| self.spec.consensus.epoch_blocks)
    }

    /// Where its committees come from.
    pub fn epochs(&self) -> EpochRules {
        EpochRules {
            genesis: self.committee.clone(),
            staking: staking_of(&self.spec),
            epoch_blocks: self.spec.consensus.epoch_blocks,
            seats: usize::try_from(self.spec.consensus.committee_seats_max).unwrap_or(usize::MAX),
            checkpoints: self.checkpoints(),
        }
    }

    /// Which blocks have checkpoints, and what the first committee signs them with.
    fn checkpoints(&self) -> CheckpointSetup {
        let validators = self.spec.genesis.validators.iter();
        let keys = validators.filter_map(|entry| {
            let keys = entry.checkpoint.as_ref()?;
            Some((entry.account, CheckpointKeys { bls: keys.bls.clone(), mldsa44: keys.mldsa44.clone() }))
        });
        let interval_blocks = self.spec.consensus.checkpoint_blocks.unwrap_or_default();
        CheckpointSetup { interval_blocks, genesis_keys: keys.collect() }
    }

    /// Who checks checkpoints from the first committee on.
    pub fn checkpoint_follower(&self) -> CheckpointFollower {
        let setup = self.checkpoints();
        let rules = CheckpointRules { interval_blocks: setup.interval_blocks, epoch_blocks: self.epoch_blocks() };
        let of = |account| setup.genesis_keys.get(account).cloned().unwrap_or_default();
        let keys: Vec<_> = self.committee.validators().iter().map(|member| of(&member.account)).collect();
        CheckpointFollower::new(self.genesis_hash, rules, 1, CheckpointCommittee::new(&self.committee, &keys))
    }

    /// The rules that all nodes of the chain execute by.
    pub fn execution(&self) -> ExecutionConfig {
        ExecutionConfig {
            chain_id: self.spec.genesis.chain_id,
            gas_limit: self.spec.gas.block_gas_limit,
            base_fee_floor_wei: self.spec.gas.base_fee_floor_wei,
            genesis_hash: Some(self.genesis_hash),
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
        .map(|entry| Ok(Validator::new(entry.public_key()?, entry.power, entry.account)))
        .collect::<Result<Vec<_>>>()?;
    Ok(ValidatorSet::new(validators)?)
}

fn input(spec: &ChainSpec) -> Result<GenesisInput> {
    let mut alloc: Vec<_> = spec
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
            let market = steps(&parameters, contracts.deployer, 0).into_iter().map(|step| (step, U256::ZERO));
            let made = |(step, value)| genesis_step(contracts.deployer, step, value);
            let accounts = account_steps().into_iter().map(|step| genesis_step(ACCOUNTS_DEPLOYER, step, U256::ZERO));
            market.chain(staking(spec, contracts)?).map(made).chain(accounts).collect()
        }
        _ => Vec::new(),
    };
    if let Some(contracts) = &spec.genesis.contracts {
        mint(&mut alloc, contracts.deployer, spec.minted());
    }
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

/// Gives the deployer what it passes on to the stake's contract.
fn mint(alloc: &mut Vec<GenesisAccount>, deployer: Address, wei: U256) {
    match alloc.iter_mut().find(|account| account.address == deployer) {
        Some(account) => account.balance = account.balance.saturating_add(wei),
        None => alloc.push(GenesisAccount { address: deployer, balance: wei, ..GenesisAccount::default() }),
    }
}

/// The steps that make the validators' stake, where the spec has it.
fn staking(spec: &ChainSpec, contracts: &ContractsSection) -> Result<Vec<(Step, U256)>> {
    let Some(section) = &spec.genesis.staking else { return Ok(Vec::new()) };
    let parameters = StakingParameters {
        min_stake_wei: section.min_stake_wei.to_u256(),
        unbonding_seconds: spec.protocol.unbonding_s,
        evidence_age_seconds: spec.protocol.evidence_age_s,
        jail_seconds: section.jail_s,
        slash_bps: section.slash_bps,
        reporter_bps: section.reporter_bps,
        seats: u32::try_from(spec.consensus.committee_seats_max)
            .map_err(|_| Failure::usage("the chain spec's consensus.committee_seats_max is over 2^32"))?,
        epoch_blocks: spec.consensus.epoch_blocks,
        epoch_reward_wei: section.epoch_reward_wei.to_u256(),
        epochs_per_halving: section.epochs_per_halving,
        treasury: contracts.owner,
        reserve_wei: section.reserve_wei.to_u256(),
    };
    let validators: Vec<_> = spec
        .genesis
        .validators
        .iter()
        .map(|entry| GenesisValidator {
            account: entry.account,
            scheme: spec.vote_scheme().contract_byte(),
            vote_key: entry.vote_key.clone(),
            checkpoint: entry
                .checkpoint
                .as_ref()
                .map(|keys| (keys.bls.clone(), keys.mldsa44.clone()))
                .unwrap_or_default(),
            stake_wei: Wei::from_trl(entry.power).to_u256(),
        })
        .collect();
    Ok(staking_steps(&parameters, &validators, contracts.deployer, 0))
}

/// Where the validators' stake is held, if the chain has it.
pub fn staking_of(spec: &ChainSpec) -> Option<Address> {
    let contracts = spec.genesis.contracts.as_ref().filter(|_| spec.genesis.staking.is_some())?;
    Some(staking_address(contracts.deployer, 0))
}

fn genesis_step(from: Address, step: Step, value: U256) -> GenesisStep {
    GenesisStep {
        name: step.name.to_owned(),
        from,
        expected_address: step.to.is_none().then_some(step.address),
        to: step.to,
        input: step.input,
        value,
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
