//! Apply blocks to state: EVM, precompiles, system calls; execute the genesis.

#![deny(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

mod access_list;
mod block;
mod call;
mod config;
mod database;
mod env;
mod error;
mod ethereum;
mod executor;
mod forks;
mod genesis;
mod outcome;
mod precompile;
mod recover;
mod simulate;
mod trace;

pub use access_list::AccessListOutput;
pub use block::{BlockAttributes, BuiltBlock, Candidates, Skipped, Stage, SystemCall};
pub use call::{CallOutput, Overrides};
pub use config::{
    BLOCK_RLP_BYTES_MAX, CALL_GAS_MAX, CODE_CACHE_ENTRIES_MAX, EXTRA_DATA_BYTES_MAX, ExecutionConfig, GAS_LIMIT_MIN,
    TX_GAS_MAX,
};
pub use env::{cfg_env, evm_env, next_base_fee};
pub use error::{BlockError, CallError, ExecutionError, GenesisError, RecoverError};
pub use ethereum::{BuildError, BuiltPayload, EthereumBlock, PayloadAttributes, consensus_receipt, ethereum_genesis};
pub use executor::{ChainEvm, Executor, chain_evm, chain_evm_with};
pub use forks::{ForkSchedule, TimedFork};
pub use genesis::{GenesisAccount, GenesisInput, GenesisStep, genesis, pinned_alloc};
pub use outcome::state_diff;
pub use precompile::precompiles;
pub use recover::{install_recovery, recover_batch, recover_sender};
pub use simulate::{
    BrokenRule, SIMULATED_BLOCKS_MAX, SIMULATED_GAS_MAX, SimulateError, SimulatedBlock, SimulatedBlockRequest,
    SimulatedCall, SimulatedEnd, SimulatedTx, SimulationRequest,
};
pub use trace::{Replayed, TRACE_STEPS_MAX, TraceError};
