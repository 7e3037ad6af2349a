//! The validators' stake at genesis, and what the chain says to its contract at the end of an epoch.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::SolCall;

use crate::deployment::{Step, create};
use crate::validator_staking::ValidatorStaking;
use crate::validator_staking::ValidatorStaking as abi;

/// Nonces of the deployer that come before this contract's.
const STEPS_BEFORE: u64 = 6;
/// What keys' proofs of possession are for.
const KEY_DOMAIN: &[u8] = b"trellis/validator-keys/1";

/// What the constructor takes. Times in seconds, amounts in wei, shares in hundredths of a percent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StakingParameters {
    /// Least own stake of a validator.
    pub min_stake_wei: U256,
    /// How long stake stays slashable after it is taken back; longer than the evidence's age.
    pub unbonding_seconds: u64,
    /// How old evidence may be.
    pub evidence_age_seconds: u64,
    /// How long a validator that did not sign stays out at least.
    pub jail_seconds: u64,
    /// What an equivocation costs.
    pub slash_bps: u16,
    /// The reporter's part of it.
    pub reporter_bps: u16,
    /// Seats of the committee.
    pub seats: u32,
    /// Blocks of an epoch.
    pub epoch_blocks: u64,
    /// What all validators together earn in an epoch of the first years.
    pub epoch_reward_wei: U256,
    /// Epochs after which that halves.
    pub epochs_per_halving: u64,
    /// Who can claim the rest of slashed stake.
    pub treasury: Address,
    /// What rewards are paid from.
    pub reserve_wei: U256,
}

/// One validator of the genesis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenesisValidator {
    /// Whose stake it is.
    pub account: Address,
    /// Its vote key's scheme, as the contract counts them: 0 Ed25519, 1 ML-DSA-44.
    pub scheme: u8,
    /// Its vote key.
    pub vote_key: Bytes,
    /// Its checkpoint keys, BLS12-381 and ML-DSA-44; empty where it has none yet.
    pub checkpoint: (Bytes, Bytes),
    /// Its stake.
    pub stake_wei: U256,
}

/// Where the contract is after [`crate::deployment::steps`] and [`staking_steps`] of this deployer.
#[must_use]
pub fn staking_address(deployer: Address, first_nonce: u64) -> Address {
    deployer.create(first_nonce.wrapping_add(STEPS_BEFORE))
}

/// What the deployer sends after [`crate::deployment::steps`], each with its value in wei, which is new money: the contract,
/// the validators' stakes, the reserve.
#[must_use]
pub fn staking_steps(
    p: &StakingParameters,
    validators: &[GenesisValidator],
    deployer: Address,
    first_nonce: u64,
) -> Vec<(Step, U256)> {
    let address = staking_address(deployer, first_nonce);
    let parameters = abi::Params {
        minStake: p.min_stake_wei,
        unbondingSeconds: p.unbonding_seconds,
        evidenceAgeSeconds: p.evidence_age_seconds,
        jailSeconds: p.jail_seconds,
        slashBps: p.slash_bps,
        reporterBps: p.reporter_bps,
        seats: p.seats,
        epochBlocks: p.epoch_blocks,
        epochReward: p.epoch_reward_wei,
        epochsPerHalving: p.epochs_per_halving,
        treasury: p.treasury,
        keyDomain: keccak256(KEY_DOMAIN),
    };
    let constructor = ValidatorStaking::constructorCall { p: parameters };
    let list = validators.iter().map(|validator| abi::Registration {
        validator: validator.account,
        keys: abi::Keys {
            scheme: validator.scheme,
            vote: validator.vote_key.clone(),
            bls: validator.checkpoint.0.clone(),
            mldsa44: validator.checkpoint.1.clone(),
        },
        stake: validator.stake_wei,
        commissionBps: 0,
    });
    let register = ValidatorStaking::genesisRegisterCall { list: list.collect() };
    let staked = validators.iter().map(|validator| validator.stake_wei).fold(U256::ZERO, U256::saturating_add);
    let call = |name, input: Vec<u8>| Step { name, to: Some(address), input: input.into(), address };
    vec![
        (create("ValidatorStaking", address, &ValidatorStaking::BYTECODE, &constructor), U256::ZERO),
        (call("ValidatorStaking.genesisRegister", register.abi_encode()), staked),
        (call("ValidatorStaking.fund", ValidatorStaking::fundCall {}.abi_encode()), p.reserve_wei),
    ]
}

/// A validator that the contract says may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StakedCandidate {
    /// Whose stake it is.
    pub account: Address,
    /// The vote key's scheme.
    pub scheme: u8,
    /// The vote key.
    pub vote_key: Bytes,
    /// Its checkpoint keys, BLS12-381 and ML-DSA-44; empty where it has none.
    pub checkpoint: (Bytes, Bytes),
    /// Own and delegated stake, wei.
    pub stake_wei: U256,
}

/// Asks for the candidates among so many registered validators.
#[must_use]
pub fn candidates_call(start: u64, count: u64) -> Bytes {
    ValidatorStaking::candidatesCall { start: U256::from(start), count: U256::from(count) }.abi_encode().into()
}

/// Reads the answer: the page's candidates, and how many validators are registered. `None` where it is no such answer.
#[must_use]
pub fn read_candidates(answer: &[u8]) -> Option<(Vec<StakedCandidate>, u64)> {
    let answer = ValidatorStaking::candidatesCall::abi_decode_returns(answer).ok()?;
    let total = u64::try_from(answer.total).ok()?;
    let one = |candidate: abi::Candidate| StakedCandidate {
        account: candidate.validator,
        scheme: candidate.scheme,
        vote_key: candidate.vote,
        checkpoint: (candidate.bls, candidate.mldsa44),
        stake_wei: candidate.stake,
    };
    Some((answer.page.into_iter().map(one).collect(), total))
}

/// What the chain says at the end of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochReport {
    /// The epoch that ended.
    pub epoch: u64,
    /// Blocks that were counted.
    pub blocks: u32,
    /// Account, power and blocks signed of each member of the committee that sat.
    pub members: Vec<(Address, u64, u32)>,
    /// The next committee's hash.
    pub next_committee_root: B256,
    /// Its members' accounts.
    pub next_members: Vec<Address>,
}

/// The call that says so.
#[must_use]
pub fn end_epoch_call(report: &EpochReport) -> Bytes {
    let report = abi::EpochReport {
        epoch: report.epoch,
        blocks: report.blocks,
        members: report.members.iter().map(|(account, _, _)| *account).collect(),
        signed: report.members.iter().map(|(_, _, signed)| *signed).collect(),
        powers: report.members.iter().map(|(_, power, _)| *power).collect(),
        nextCommitteeRoot: report.next_committee_root,
        nextMembers: report.next_members.clone(),
    };
    ValidatorStaking::endEpochCall { report }.abi_encode().into()
}

/// Keys of a validator with the proofs that it has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenKeys {
    /// The vote key's scheme, as the contract counts them: 0 Ed25519, 1 ML-DSA-44.
    pub scheme: u8,
    /// Vote key and its proof.
    pub vote: (Bytes, Bytes),
    /// BLS12-381 checkpoint key and its proof.
    pub bls: (Bytes, Bytes),
    /// ML-DSA-44 checkpoint key and its proof.
    pub mldsa44: (Bytes, Bytes),
}

/// What a key is for, in [`proof_digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyKind {
    /// Votes.
    Vote = 0,
    /// Checkpoints for other chains.
    Bls = 1,
    /// Checkpoints against quantum computers.
    MlDsa44 = 2,
}

/// What a key signs to prove that a validator has it.
#[must_use]
pub fn proof_digest(chain_id: u64, contract: Address, validator: Address, kind: KeyKind, key: &[u8]) -> B256 {
    use alloy_sol_types::SolValue;
    let words =
        (keccak256(KEY_DOMAIN), U256::from(chain_id), contract, validator, U256::from(kind as u8), keccak256(key));
    keccak256(words.abi_encode())
}

fn split(keys: &ProvenKeys) -> (abi::Keys, abi::Proofs) {
    let ProvenKeys { scheme, vote, bls, mldsa44 } = keys.clone();
    (
        abi::Keys { scheme, vote: vote.0, bls: bls.0, mldsa44: mldsa44.0 },
        abi::Proofs { vote: vote.1, bls: bls.1, mldsa44: mldsa44.1 },
    )
}

/// Registers the caller as a validator.
#[must_use]
pub fn register_call(keys: &ProvenKeys, commission_bps: u16) -> Bytes {
    let (keys, proofs) = split(keys);
    ValidatorStaking::registerCall { keys, proofs, commissionBps: commission_bps }.abi_encode().into()
}

/// Replaces the caller's keys.
#[must_use]
pub fn rotate_call(keys: &ProvenKeys) -> Bytes {
    let (keys, proofs) = split(keys);
    ValidatorStaking::rotateKeyCall { keys, proofs }.abi_encode().into()
}
