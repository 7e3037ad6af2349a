//! What block zero says: `chain_spec.toml`, protocol constants, validators, pinned genesis state.
//!
//! The identity of a chain is the hash of [genesis], [consensus], [gas] and [protocol] in canonical RLP; [network] is
//! hints and may differ from file to file (CHN-01). Every protocol constant stands here with its unit and its reason.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod builtin;
mod error;
mod keys;
mod spec;

pub use builtin::{
    DEV_ACCOUNT_COUNT, DEV_CHAIN_ID, DEV_MNEMONIC, DEV_ROLE_ACCOUNTS, LOCAL_CHAIN_ID, LOCAL_FIRST_ACCOUNT,
    LOCAL_VALIDATORS_MAX, dev_checkpoint_seed, dev_vote_seed, is_public_chain,
};
pub use error::SpecError;
pub use keys::CheckpointEntry;
pub use spec::{
    AllocAccount, ChainSpec, ConsensusSection, ContractsSection, GasSection, GenesisSection, NetworkSection,
    POST_QUANTUM_SEATS_MAX, ProtocolSection, SPEC_BYTES_MAX, StakingSection, StorageSlot, ValidatorEntry,
};
