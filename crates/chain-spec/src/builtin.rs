//! The built-in specs (CHN-02). Every key of `dev` is public: it is for one machine and for nothing of value.

use crate::SpecError;
use crate::keys::CheckpointEntry;
use crate::spec::{
    AllocAccount, ChainSpec, ConsensusSection, ContractsSection, GasSection, GenesisSection, NetworkSection,
    ProtocolSection, StakingSection, ValidatorEntry,
};
use alloy_primitives::{Address, Bytes, address};
use std::collections::BTreeMap;
use trellis_crypto::{CheckpointKey, VoteKey, VoteScheme, sha3_256};
use trellis_primitives::Wei;

/// Chain id of `dev`.
pub const DEV_CHAIN_ID: u64 = 97_001;
/// Chain id of `local`.
pub const LOCAL_CHAIN_ID: u64 = 97_002;
/// Most validators that `local` begins with.
pub const LOCAL_VALIDATORS_MAX: u32 = 100;
/// Index of the mnemonic's account that is the first validator's on `local`; the others' follow.
pub const LOCAL_FIRST_ACCOUNT: u32 = 20;
/// The standard test mnemonic that every Ethereum tool knows.
pub const DEV_MNEMONIC: &str = "test test test test test test test test test test test junk";
/// Block time of `local`: several processes on one machine agree on each block.
const LOCAL_BLOCK_TIME_MS: u64 = 500;
/// What each account of `local` has: enough to become a validator and to delegate.
const LOCAL_FUNDS_TRL: u64 = 10_000_000;
/// Accounts of the mnemonic that are funded for people, from index 0.
pub const DEV_ACCOUNT_COUNT: usize = 10;

/// The mnemonic's accounts 0 to 9: for people and their tools.
const DEV_ACCOUNTS: [Address; DEV_ACCOUNT_COUNT] = [
    address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
    address!("70997970C51812dc3A010C7d01b50e0d17dc79C8"),
    address!("3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"),
    address!("90F79bf6EB2c4f870365E785982E1f101E93b906"),
    address!("15d34AAf54267DB7D7c367839AAf71A00a2C6A65"),
    address!("9965507D1a55bcC2695C58ba16FB37d819B0A4dc"),
    address!("976EA74026E726554dB657fA54763abd0C3a0aa9"),
    address!("14dC79964da2C08b23698B3D3cc7Ca32193d9955"),
    address!("23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f"),
    address!("a0Ee7A142d267C1f36714E4a8F75612F20a79720"),
];

/// The mnemonic's accounts 10 to 19: for the roles of `trellis dev`. Index 10 is the validator's, 11 the provider's,
/// 12 the gateway's, 13 the aggregator's, 14 deploys the contracts at genesis; 15 to 19 are for more of them.
pub const DEV_ROLE_ACCOUNTS: [Address; 10] = [
    address!("Bcd4042DE499D14e55001CcbB24a551F3b954096"),
    address!("71bE63f3384f5fb98995898A86B02Fb2426c5788"),
    address!("FABB0ac9d68B0B445fB7357272Ff202C5651694a"),
    address!("1CBd3b2770909D4e10f157cABC84C7264073C9Ec"),
    address!("dF3e18d64BC6A983f673Ab319CCaE4f1a57C7097"),
    address!("cd3B766CCDd6AE721141F452C550Ca635964ce71"),
    address!("2546BcD3c84621e976D8185a91A922aE77ECEc30"),
    address!("bDA5747bFD65F08deb54cb465eB87D40e51B197E"),
    address!("dD2FD4581271e230360230F9337D5c0430Bf44C0"),
    address!("8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199"),
];

/// The vote key's seed of a `dev` or `local` validator: public, made from its number.
#[must_use]
pub fn dev_vote_seed(number: u32) -> [u8; 32] {
    sha3_256(&[b"trellis/dev/vote/1", &number.to_be_bytes()])
}

/// The seed of a `dev` or `local` validator's checkpoint keys: public, made from its number.
#[must_use]
pub fn dev_checkpoint_seed(number: u32) -> [u8; 32] {
    sha3_256(&[b"trellis/dev/checkpoint/1", &number.to_be_bytes()])
}

/// A validator of `dev` or `local`.
fn validator(number: u32, chain_id: u64, account: Address) -> ValidatorEntry {
    let checkpoint = CheckpointKey::from_seed(&dev_checkpoint_seed(number)).ok();
    ValidatorEntry {
        vote_key: Bytes::copy_from_slice(VoteKey::from_seed(&dev_vote_seed(number)).public().as_bytes()),
        power: 1_000_000,
        account,
        checkpoint: checkpoint.map(|key| CheckpointEntry::of(&key, chain_id, account)),
    }
}

/// Whether a chain's keys are public, so that nothing on it is worth protecting.
#[must_use]
pub const fn is_public_chain(chain_id: u64) -> bool {
    matches!(chain_id, DEV_CHAIN_ID | LOCAL_CHAIN_ID)
}

impl ChainSpec {
    /// As `dev`, with so many validators of equal weight as there are accounts for them (CHN-02).
    #[must_use]
    pub fn local(accounts: &[Address]) -> Self {
        let mut spec = Self::dev();
        spec.genesis.chain_id = LOCAL_CHAIN_ID;
        spec.genesis.name = "trellis-local".into();
        let funded = AllocAccount { balance: Wei::from_trl(LOCAL_FUNDS_TRL), ..AllocAccount::default() };
        for balance in spec.genesis.alloc.values_mut() {
            *balance = funded.clone();
        }
        spec.genesis.validators =
            (0..).zip(accounts).map(|(number, account)| validator(number, LOCAL_CHAIN_ID, *account)).collect();
        spec.genesis.alloc.extend(accounts.iter().map(|account| (*account, funded.clone())));
        spec.consensus.block_time_ms = LOCAL_BLOCK_TIME_MS;
        spec
    }

    /// The same chain with the first validators' public vote keys of this scheme (CHN-15).
    ///
    /// # Errors
    /// [`SpecError::Value`] where the cryptographic library refuses a seed.
    pub fn with_dev_votes(mut self, scheme: VoteScheme) -> Result<Self, SpecError> {
        for (number, entry) in (0..).zip(&mut self.genesis.validators) {
            let key = VoteKey::of_seed(scheme, &dev_vote_seed(number)).map_err(|error| SpecError::Value {
                field: "genesis.validators.vote_key",
                actual: error.to_string(),
                rule: "a public vote key could not be made",
            })?;
            entry.vote_key = Bytes::copy_from_slice(key.public().as_bytes());
        }
        Ok(self)
    }

    /// One validator, twenty funded accounts, short windows (CHN-02).
    #[must_use]
    pub fn dev() -> Self {
        let funded = AllocAccount { balance: Wei::from_trl(1_000_000), ..AllocAccount::default() };
        let accounts = DEV_ACCOUNTS.iter().chain(&DEV_ROLE_ACCOUNTS);
        let alloc: BTreeMap<Address, AllocAccount> = accounts.map(|address| (*address, funded.clone())).collect();
        Self {
            genesis: GenesisSection {
                chain_id: DEV_CHAIN_ID,
                name: "trellis-dev".into(),
                timestamp_ms: 1_790_000_000_000,
                validators: vec![validator(0, DEV_CHAIN_ID, DEV_ROLE_ACCOUNTS[0])],
                contracts: Some(ContractsSection {
                    deployer: DEV_ROLE_ACCOUNTS[4],
                    owner: DEV_ROLE_ACCOUNTS[4],
                    fee_bps: 0,
                    aggregator_bond_wei: Wei::from_trl(100),
                    demand_bond_wei: Wei::from_milli_trl(10),
                    reveal_s: 10,
                    reporter_bps: 3_000,
                    fee_epoch_s: 60,
                    pinned: false,
                }),
                staking: Some(StakingSection {
                    min_stake_wei: Wei::from_trl(1_000_000),
                    jail_s: 20,
                    slash_bps: 1_000,
                    reporter_bps: 500,
                    epoch_reward_wei: Wei::from_trl(10),
                    epochs_per_halving: 8_400_000,
                    reserve_wei: Wei::from_trl(1_000_000),
                }),
                alloc,
            },
            consensus: ConsensusSection {
                block_time_ms: 250,
                propose_timeout_ms: 700,
                timeout_delta_ms: 200,
                epoch_blocks: 60,
                committee_seats_max: 100,
                clock_ahead_ms_max: 500,
                checkpoint_blocks: Some(64),
            },
            gas: GasSection { block_gas_limit: 400_000_000, base_fee_floor_wei: 1_000_000_000 },
            protocol: ProtocolSection {
                unbonding_s: 120,
                evidence_age_s: 60,
                receipt_window_s: 10,
                channel_challenge_s: 10,
                risk_limit_wei: Wei::from_milli_trl(10),
                batch_receipts_max: 10_000,
                batch_interval_s: 2,
            },
            network: NetworkSection {
                protocol_version: 1,
                p2p_port: 9700,
                rpc_port: 8545,
                ..NetworkSection::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: CHN-02
    #[test]
    fn the_dev_chain_is_valid_and_its_identity_is_pinned() {
        let spec = ChainSpec::dev();
        spec.check().unwrap();
        assert_eq!(spec.supply(), Wei::from_trl(22_000_000).to_u256());
    }

    // row: CHN-15
    #[test]
    fn checkpoint_keys_are_proved_for_one_chain_and_account_and_part_of_the_identity() {
        let spec = ChainSpec::dev();
        let changes: [fn(&mut ChainSpec); 5] = [
            |s| s.genesis.chain_id += 1,
            |s| s.genesis.validators[0].account = Address::repeat_byte(9),
            |s| s.genesis.validators[0].checkpoint.as_mut().unwrap().bls_proof = vec![0; 48].into(),
            |s| s.genesis.validators[0].checkpoint.as_mut().unwrap().mldsa44 = vec![0; 1_311].into(),
            |s| s.consensus.checkpoint_blocks = Some(7),
        ];
        for change in changes {
            let mut wrong = spec.clone();
            change(&mut wrong);
            assert!(wrong.check().unwrap_err().to_string().contains("checkpoint"));
        }
        let mut without = spec.clone();
        without.genesis.validators[0].checkpoint = None;
        without.consensus.checkpoint_blocks = None;
        without.check().unwrap();
        assert_ne!(without.identity(), spec.identity());
        assert_eq!(ChainSpec::from_toml(&without.to_toml().unwrap()).unwrap(), without);
    }

    // row: CHN-02
    #[test]
    fn the_local_chain_has_a_validator_for_each_account_and_is_valid() {
        let accounts = [Address::repeat_byte(1), Address::repeat_byte(2), Address::repeat_byte(3)];
        let spec = ChainSpec::local(&accounts);
        spec.check().unwrap();
        let keys: std::collections::BTreeSet<_> = spec.genesis.validators.iter().map(|entry| &entry.vote_key).collect();
        assert_eq!(keys.len(), 3);
        assert!(accounts.iter().all(|account| spec.genesis.alloc.contains_key(account)));
        assert_eq!(ChainSpec::from_toml(&spec.to_toml().unwrap()).unwrap(), spec);
    }
}
