//! The sections of `chain_spec.toml`.

use crate::SpecError;
use crate::keys::CheckpointEntry;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::{Encodable, RlpEncodable};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use trellis_crypto::{VotePublicKey, VoteScheme};
use trellis_primitives::{UnixMs, Wei};

/// Blocks between checkpoints at least: the certificate of one, which may stand in the eight blocks after it, is in a block
/// before the next is signed.
const CHECKPOINT_BLOCKS_MIN: u64 = 8;
/// Blocks of an epoch at least, where the committee changes: it changes in the third block of the next.
const EPOCH_BLOCKS_MIN: u64 = 8;
/// Seats at most where votes are ML-DSA-44: beyond some 100 members the votes of a block are megabytes (CHN-15).
pub const POST_QUANTUM_SEATS_MAX: u64 = 128;
/// Bytes of a chain spec at most: a pinned genesis holds the code of every contract.
pub const SPEC_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A chain, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainSpec {
    /// What block zero holds.
    pub genesis: GenesisSection,
    /// How blocks are agreed on.
    pub consensus: ConsensusSection,
    /// What gas costs.
    pub gas: GasSection,
    /// Windows and limits of the money and of the stake.
    pub protocol: ProtocolSection,
    /// Hints for finding the network; no part of the chain's identity.
    #[serde(default)]
    pub network: NetworkSection,
}

/// [genesis]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisSection {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The chain's name for people.
    pub name: String,
    /// Time of block zero, milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The first committee.
    pub validators: Vec<ValidatorEntry>,
    /// The contracts that genesis deploys by executing them; absent once the state is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contracts: Option<ContractsSection>,
    /// Stake and epochs; needs [genesis.contracts].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staking: Option<StakingSection>,
    /// Accounts of block zero, by address.
    pub alloc: BTreeMap<Address, AllocAccount>,
}

/// One validator of the first committee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
#[rlp(trailing)]
pub struct ValidatorEntry {
    /// Vote key: 32 bytes of Ed25519 or 1,312 of ML-DSA-44. All are of one scheme, which is the chain's.
    pub vote_key: Bytes,
    /// Voting power: stake in whole TRL.
    pub power: u64,
    /// The account that fees and rewards go to.
    pub account: Address,
    /// What it signs checkpoints with. Who has none here brings keys later, and counts against the two thirds until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointEntry>,
}

impl ValidatorEntry {
    /// The vote key.
    ///
    /// # Errors
    /// [`SpecError::Value`] where it has the length of none.
    pub fn public_key(&self) -> Result<VotePublicKey, SpecError> {
        VotePublicKey::read(&self.vote_key).map_err(|error| SpecError::Value {
            field: "genesis.validators.vote_key",
            actual: error.to_string(),
            rule: "a vote key has 32 bytes (Ed25519) or 1,312 (ML-DSA-44)",
        })
    }
}

/// [genesis.contracts]: the parameters of the deployments that genesis executes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
pub struct ContractsSection {
    /// The account that deploys; its nonces give the contracts their addresses.
    pub deployer: Address,
    /// Owner of the fee pool and of the provider stake: names the distributor and the slasher. A timelock on a public
    /// chain.
    pub owner: Address,
    /// Part of each channel payout that goes to the fee pool, in hundredths of a percent.
    pub fee_bps: u16,
    /// What an aggregator bonds, in wei.
    pub aggregator_bond_wei: Wei,
    /// What a demand for a receipt bonds, in wei.
    pub demand_bond_wei: Wei,
    /// Seconds that an aggregator has to answer a demand.
    pub reveal_s: u32,
    /// The reporter's part of a slashed bond, in hundredths of a percent.
    pub reporter_bps: u16,
    /// Seconds in an epoch of the fee pool.
    pub fee_epoch_s: u64,
    /// True where [genesis.alloc] holds the state that the deployments made, so that nothing is executed again.
    #[serde(default)]
    pub pinned: bool,
}

/// [genesis.staking]: the contract that holds the validators' stake, where the committee comes from it. Without it the first
/// committee sits for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
pub struct StakingSection {
    /// Own stake that a validator needs, in wei. 1,000,000 TRL.
    pub min_stake_wei: Wei,
    /// Seconds that a validator which signed less than half of an epoch stays out at least.
    pub jail_s: u64,
    /// What an equivocation costs of a stake, in hundredths of a percent. 1,000.
    pub slash_bps: u16,
    /// The reporter's part of what is slashed, in hundredths of a percent.
    pub reporter_bps: u16,
    /// What all validators together earn in an epoch before the first halving, in wei.
    pub epoch_reward_wei: Wei,
    /// Epochs after which that halves.
    pub epochs_per_halving: u64,
    /// What rewards are paid from, in wei; new in block zero, as the stakes of the first validators are.
    pub reserve_wei: Wei,
}

/// One account of block zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocAccount {
    /// Balance in wei.
    #[serde(default)]
    pub balance: Wei,
    /// Nonce; contracts begin at 1.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nonce: u64,
    /// Code, where the account is a contract.
    #[serde(default, skip_serializing_if = "no_bytes")]
    pub code: Bytes,
    /// Storage, slot by slot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub storage: BTreeMap<B256, B256>,
}

// serde's skip_serializing_if passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn no_bytes(bytes: &Bytes) -> bool {
    bytes.0.is_empty()
}

/// One storage slot in canonical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, RlpEncodable)]
pub struct StorageSlot {
    /// The slot.
    pub key: B256,
    /// Its word.
    pub value: B256,
}

/// [consensus]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
#[rlp(trailing)]
pub struct ConsensusSection {
    /// Milliseconds from block to block. 1,000 by default; dev 250, so that a transfer feels instant.
    pub block_time_ms: u64,
    /// Milliseconds to wait for a proposal in round zero. 700: a dead proposer must not push finality past 2 s.
    pub propose_timeout_ms: u64,
    /// Milliseconds that each further round waits longer.
    pub timeout_delta_ms: u64,
    /// Blocks in an epoch; the committee changes at its end. 3,600 (an hour at 1 s); dev 60.
    pub epoch_blocks: u64,
    /// Seats of the committee at most. 100: votes of all reach all within a second.
    pub committee_seats_max: u64,
    /// Milliseconds by which a block's time may be ahead of a voter's clock.
    pub clock_ahead_ms_max: u64,
    /// Blocks from one checkpoint to the next. 64: at 1 s another chain is a minute behind, and ML-DSA-44 signatures of 100
    /// validators cost 4 KB a block. At least 8, the blocks that a certificate has to get into one. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_blocks: Option<u64>,
}

/// [gas]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
pub struct GasSection {
    /// Gas of a block at most.
    pub block_gas_limit: u64,
    /// The base fee never falls below this, in wei per gas. 1 gwei: spam costs something on an idle chain.
    pub base_fee_floor_wei: u64,
}

/// [protocol]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, RlpEncodable)]
#[serde(deny_unknown_fields)]
pub struct ProtocolSection {
    /// Seconds from unbonding to withdrawal. 21 days; longer than the evidence age.
    pub unbonding_s: u64,
    /// Seconds for which evidence of equivocation is accepted. 14 days.
    pub evidence_age_s: u64,
    /// Seconds in which a batch of receipts can be challenged. 24 hours; dev 10 s.
    pub receipt_window_s: u64,
    /// Seconds in which a higher voucher can answer a payer's close. 24 hours; dev 10 s.
    pub channel_challenge_s: u32,
    /// Wei that one side of a job may owe the other at most. 0.01 TRL.
    pub risk_limit_wei: Wei,
    /// Receipts in a batch at most.
    pub batch_receipts_max: u64,
    /// Seconds after which a batch is closed though it is not full.
    pub batch_interval_s: u64,
}

/// [network]: hints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSection {
    /// Names of DNS seeds.
    pub dns_seeds: Vec<String>,
    /// Multiaddresses of boot nodes.
    pub boot_nodes: Vec<String>,
    /// Protocol version that the nodes speak.
    pub protocol_version: u32,
    /// Default p2p port.
    pub p2p_port: u16,
    /// Default JSON-RPC port.
    pub rpc_port: u16,
}

#[derive(RlpEncodable)]
struct AllocEntry {
    address: Address,
    balance: Wei,
    nonce: u64,
    code: Bytes,
    storage: Vec<StorageSlot>,
}

#[derive(RlpEncodable)]
struct Identity {
    version: u64,
    chain_id: u64,
    name: String,
    timestamp_ms: u64,
    validators: Vec<ValidatorEntry>,
    contracts: Vec<ContractsSection>,
    staking: Vec<StakingSection>,
    alloc: Vec<AllocEntry>,
    consensus: ConsensusSection,
    gas: GasSection,
    protocol: ProtocolSection,
}

impl ChainSpec {
    /// Reads a built-in spec by name or a file by path.
    ///
    /// # Errors
    /// [`SpecError`] where there is neither, or the file is no valid spec.
    pub fn load(name_or_path: &str) -> Result<Self, SpecError> {
        if name_or_path == "dev" {
            return Ok(Self::dev());
        }
        let path = Path::new(name_or_path);
        if !path.exists() {
            return Err(SpecError::Unknown { name: name_or_path.to_owned() });
        }
        let text = std::fs::read_to_string(path).map_err(|source| SpecError::Io {
            action: "read",
            path: path.to_path_buf(),
            source,
        })?;
        Self::from_toml(&text)
    }

    /// Parses and checks a spec.
    ///
    /// # Errors
    /// [`SpecError`] names the line or the field.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        if text.len() > SPEC_BYTES_MAX {
            return Err(SpecError::TooLong { actual: text.len(), max: SPEC_BYTES_MAX });
        }
        let spec: Self = toml::from_str(text).map_err(|error| SpecError::NotToml { reason: error.to_string() })?;
        spec.check()?;
        Ok(spec)
    }

    /// The spec as a file.
    ///
    /// # Errors
    /// [`SpecError::NotToml`] where a value has no TOML form, which no checked spec has.
    pub fn to_toml(&self) -> Result<String, SpecError> {
        toml::to_string(self).map_err(|error| SpecError::NotToml { reason: error.to_string() })
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`SpecError::Value`] names the first field that is out of bounds.
    pub fn check(&self) -> Result<(), SpecError> {
        let rules: [(bool, &'static str, String, &'static str); 8] = [
            (self.genesis.chain_id > 0, "genesis.chain_id", self.genesis.chain_id.to_string(), "it must be above 0"),
            (
                !self.genesis.validators.is_empty(),
                "genesis.validators",
                "empty".into(),
                "a chain needs at least one validator",
            ),
            (
                self.genesis.validators.iter().all(|validator| validator.power > 0),
                "genesis.validators.power",
                "0".into(),
                "every validator needs voting power",
            ),
            (
                (50..=60_000).contains(&self.consensus.block_time_ms),
                "consensus.block_time_ms",
                self.consensus.block_time_ms.to_string(),
                "it must be 50 to 60,000 ms",
            ),
            (
                self.consensus.epoch_blocks > 0,
                "consensus.epoch_blocks",
                self.consensus.epoch_blocks.to_string(),
                "it must be above 0",
            ),
            (
                self.gas.block_gas_limit >= 30_000_000,
                "gas.block_gas_limit",
                self.gas.block_gas_limit.to_string(),
                "it must be at least 30,000,000 so that the contracts can be deployed",
            ),
            (
                self.gas.base_fee_floor_wei > 0,
                "gas.base_fee_floor_wei",
                self.gas.base_fee_floor_wei.to_string(),
                "it must be above 0",
            ),
            (
                self.protocol.unbonding_s > self.protocol.receipt_window_s,
                "protocol.unbonding_s",
                self.protocol.unbonding_s.to_string(),
                "stake must stay longer than receipts can be challenged",
            ),
        ];
        let keys: Vec<VotePublicKey> =
            self.genesis.validators.iter().map(ValidatorEntry::public_key).collect::<Result<_, _>>()?;
        let rules = rules.into_iter().chain(self.checkpoint_rules()).chain(self.staking_rules());
        match rules.chain(self.vote_rules(&keys)).find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, field, actual, rule)) => Err(SpecError::Value { field, actual, rule }),
        }
    }

    fn checkpoint_rules(&self) -> [(bool, &'static str, String, &'static str); 2] {
        let genesis = &self.genesis;
        let bad = genesis.validators.iter().find(|validator| {
            validator.checkpoint.as_ref().is_some_and(|keys| !keys.holds(genesis.chain_id, validator.account))
        });
        let interval = self.consensus.checkpoint_blocks;
        [
            (
                interval.is_none_or(|blocks| blocks >= CHECKPOINT_BLOCKS_MIN),
                "consensus.checkpoint_blocks",
                interval.unwrap_or_default().to_string(),
                "it must be at least 8: a certificate has so many blocks to get into one",
            ),
            (
                bad.is_none(),
                "genesis.validators.checkpoint",
                bad.map(|validator| validator.account.to_string()).unwrap_or_default(),
                "its keys must be a BLS12-381 and an ML-DSA-44 key, with the first one's proof for this chain and account",
            ),
        ]
    }

    /// How the validators of this chain sign their votes: as those of its genesis do (CHN-15).
    #[must_use]
    pub fn vote_scheme(&self) -> VoteScheme {
        let first = self.genesis.validators.first().and_then(|validator| validator.public_key().ok());
        first.map_or_else(VoteScheme::default, |key| key.scheme())
    }

    fn vote_rules(&self, keys: &[VotePublicKey]) -> [(bool, &'static str, String, &'static str); 2] {
        let scheme = self.vote_scheme();
        let seats = self.consensus.committee_seats_max.max(u64::try_from(keys.len()).unwrap_or(u64::MAX));
        [
            (
                keys.iter().all(|key| key.scheme() == scheme),
                "genesis.validators.vote_key",
                "keys of two schemes".into(),
                "all validators of a chain sign their votes in one scheme",
            ),
            (
                scheme == VoteScheme::Ed25519 || seats <= POST_QUANTUM_SEATS_MAX,
                "consensus.committee_seats_max",
                seats.to_string(),
                "at most 128 validators can sign their votes with ML-DSA-44",
            ),
        ]
    }

    fn staking_rules(&self) -> Vec<(bool, &'static str, String, &'static str)> {
        let Some(staking) = &self.genesis.staking else { return Vec::new() };
        let least = self.genesis.validators.iter().map(|validator| validator.power).min().unwrap_or(0);
        vec![
            (
                self.genesis.contracts.is_some(),
                "genesis.staking",
                "without [genesis.contracts]".into(),
                "the stake is held by one of the contracts",
            ),
            (
                self.consensus.epoch_blocks >= EPOCH_BLOCKS_MIN,
                "consensus.epoch_blocks",
                self.consensus.epoch_blocks.to_string(),
                "it must be at least 8 where the committee changes",
            ),
            (
                self.protocol.unbonding_s > self.protocol.evidence_age_s,
                "protocol.unbonding_s",
                self.protocol.unbonding_s.to_string(),
                "stake must stay longer than evidence is accepted",
            ),
            (
                Wei::from_trl(least).to_u256() >= staking.min_stake_wei.to_u256(),
                "genesis.validators.power",
                least.to_string(),
                "every validator of the genesis needs genesis.staking.min_stake_wei",
            ),
        ]
    }

    /// The chain's identity: keccak over the canonical RLP of all sections but [network].
    #[must_use]
    pub fn identity(&self) -> B256 {
        let identity = Identity {
            version: 1,
            chain_id: self.genesis.chain_id,
            name: self.genesis.name.clone(),
            timestamp_ms: self.genesis.timestamp_ms,
            validators: self.genesis.validators.clone(),
            contracts: self.genesis.contracts.iter().cloned().collect(),
            staking: self.genesis.staking.iter().cloned().collect(),
            alloc: self.genesis.alloc.iter().map(|(address, account)| alloc_entry(*address, account)).collect(),
            consensus: self.consensus.clone(),
            gas: self.gas.clone(),
            protocol: self.protocol.clone(),
        };
        let mut out = Vec::new();
        identity.encode(&mut out);
        keccak256(&out)
    }

    /// The first four bytes of the identity; peers of other networks are told apart by it.
    #[must_use]
    pub fn network_magic(&self) -> u32 {
        let [a, b, c, d, ..] = self.identity().0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The time of block zero.
    #[must_use]
    pub const fn timestamp(&self) -> UnixMs {
        UnixMs(self.genesis.timestamp_ms)
    }

    /// The sum of all balances of block zero.
    #[must_use]
    pub fn supply(&self) -> U256 {
        let allocated: U256 = self.genesis.alloc.values().map(|account| account.balance.to_u256()).sum();
        allocated.saturating_add(self.minted())
    }

    /// Wei of the first validators' stakes and of the reserve, where they are not in the allocation yet.
    #[must_use]
    pub fn minted(&self) -> U256 {
        let pinned = self.genesis.contracts.as_ref().is_none_or(|contracts| contracts.pinned);
        let Some(staking) = self.genesis.staking.as_ref().filter(|_| !pinned) else { return U256::ZERO };
        let stakes = self.genesis.validators.iter().map(|validator| Wei::from_trl(validator.power).to_u256());
        stakes.fold(staking.reserve_wei.to_u256(), U256::saturating_add)
    }
}

fn alloc_entry(address: Address, account: &AllocAccount) -> AllocEntry {
    AllocEntry {
        address,
        balance: account.balance,
        nonce: account.nonce,
        code: account.code.clone(),
        storage: account.storage.iter().map(|(key, value)| StorageSlot { key: *key, value: *value }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: CHN-01
    #[test]
    fn a_spec_survives_its_own_file_and_keeps_its_identity() {
        let spec = ChainSpec::dev();
        let again = ChainSpec::from_toml(&spec.to_toml().unwrap()).unwrap();
        assert_eq!(again, spec);
        assert_eq!(again.identity(), spec.identity());
    }

    // row: CHN-01
    #[test]
    fn every_section_but_the_network_is_part_of_the_identity() {
        let spec = ChainSpec::dev();
        let changes: [fn(&mut ChainSpec); 5] = [
            |s| s.genesis.chain_id += 1,
            |s| s.consensus.block_time_ms += 1,
            |s| s.gas.block_gas_limit += 1,
            |s| s.protocol.unbonding_s += 1,
            |s| s.genesis.validators[0].power += 1,
        ];
        for change in changes {
            let mut other = spec.clone();
            change(&mut other);
            assert_ne!(other.identity(), spec.identity());
        }
        let mut hinted = spec.clone();
        hinted.network.boot_nodes.push("/ip4/127.0.0.1/udp/9700/quic-v1".into());
        assert_eq!(hinted.identity(), spec.identity());
    }

    // row: CHN-01, CHN-15
    #[test]
    fn a_vote_key_says_by_its_length_how_votes_are_signed_and_all_must_say_the_same() {
        let refused = |spec: &ChainSpec| spec.check().unwrap_err().to_string();
        let spec = ChainSpec::local(&[Address::repeat_byte(1), Address::repeat_byte(2)]);
        assert_eq!(spec.vote_scheme(), VoteScheme::Ed25519);
        // What identifies a chain of Ed25519 keys does not depend on there being others.
        let key = &spec.genesis.validators[0].vote_key;
        assert_eq!(alloy_rlp::encode(key), alloy_rlp::encode(B256::from_slice(key)));
        let post_quantum = spec.clone().with_dev_votes(VoteScheme::MlDsa44).unwrap();
        post_quantum.check().unwrap();
        assert_eq!(post_quantum.vote_scheme(), VoteScheme::MlDsa44);
        assert_ne!(post_quantum.identity(), spec.identity());
        assert_eq!(ChainSpec::from_toml(&post_quantum.to_toml().unwrap()).unwrap(), post_quantum);
        let mut mixed = post_quantum.clone();
        mixed.genesis.validators[1].vote_key = key.clone();
        assert!(refused(&mixed).contains("one scheme"));
        let mut crowded = post_quantum.clone();
        crowded.consensus.committee_seats_max = POST_QUANTUM_SEATS_MAX + 1;
        assert!(refused(&crowded).contains("committee_seats_max"));
        let mut cut = spec;
        cut.genesis.validators[0].vote_key = Bytes::from_static(&[1; 31]);
        assert!(refused(&cut).contains("vote_key"));
    }

    // row: CHN-01
    #[test]
    fn a_bad_spec_is_refused_with_the_field_named() {
        let mut spec = ChainSpec::dev();
        spec.genesis.validators.clear();
        assert!(spec.check().unwrap_err().to_string().contains("genesis.validators"));
        let unknown = spec.to_toml().unwrap().replace("block_time_ms", "block_tyme_ms");
        assert!(ChainSpec::from_toml(&unknown).unwrap_err().to_string().contains("block_tyme_ms"));
    }
}
