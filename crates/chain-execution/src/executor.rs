//! The executor: the chain's rules with the caches they need.

use crate::database::{CodeCache, DatabaseError, ViewDatabase};
use crate::precompile::precompiles;
use crate::{ExecutionConfig, ExecutionError, install_recovery};
use alloy_evm::eth::{EthEvm, EthEvmBuilder, EthEvmContext};
use alloy_evm::precompiles::PrecompilesMap;
use alloy_evm::{Database, EvmEnv};
use alloy_primitives::B256;
use revm::Inspector;
use revm::inspector::NoOpInspector;
use std::sync::Arc;
use trellis_chain_storage::StateView;

/// Builds, checks and calls. Cloning it is cheap; clones share their caches.
#[derive(Clone, Debug)]
pub struct Executor {
    pub(crate) config: ExecutionConfig,
    pub(crate) codes: Arc<CodeCache>,
}

/// The EVM as this chain configures it.
pub type ChainEvm<DB, I = NoOpInspector> = EthEvm<DB, I, PrecompilesMap>;

impl Executor {
    /// An executor for one chain.
    #[must_use]
    pub fn new(config: ExecutionConfig) -> Self {
        install_recovery();
        Self { config, codes: Arc::new(CodeCache::new()) }
    }

    /// The chain's settings.
    #[must_use]
    pub fn config(&self) -> &ExecutionConfig {
        &self.config
    }

    pub(crate) fn database<'a>(&'a self, view: &'a StateView) -> ViewDatabase<'a> {
        ViewDatabase { view, codes: &self.codes }
    }
}

/// The one place where an EVM is made, at the chain's own fork or, for the state tests, at any other; with the chain's own
/// precompiled contracts where its block zero is known.
#[must_use]
pub fn chain_evm<DB: Database>(db: DB, env: EvmEnv, genesis_hash: Option<B256>) -> ChainEvm<DB> {
    let precompiles = precompiles(env.cfg_env.spec, genesis_hash);
    EthEvmBuilder::new(db, env).precompiles(precompiles).build()
}

/// [`chain_evm`] with somebody looking on: for traces, and for the state tests.
#[must_use]
pub fn chain_evm_with<DB: Database, I: Inspector<EthEvmContext<DB>>>(
    db: DB,
    env: EvmEnv,
    genesis_hash: Option<B256>,
    inspector: I,
) -> ChainEvm<DB, I> {
    let precompiles = precompiles(env.cfg_env.spec, genesis_hash);
    EthEvmBuilder::new(db, env).precompiles(precompiles).activate_inspector(inspector).build()
}

impl From<DatabaseError> for ExecutionError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Read(error) => Self::State(error),
            error @ DatabaseError::CodeMissing(_) => Self::Evm(error.to_string()),
        }
    }
}
