//! The executor: the chain's rules with the caches they need.

use crate::database::{CodeCache, DatabaseError, ViewDatabase};
use crate::env::{evm_env, next_base_fee};
use crate::forks::ForkSchedule;
use crate::precompile::precompiles;
use crate::{ExecutionConfig, ExecutionError, install_recovery};
use alloy_eips::eip7840::BlobParams;
use alloy_evm::eth::{EthEvm, EthEvmBuilder, EthEvmContext};
use alloy_evm::precompiles::Precompile;
use alloy_evm::precompiles::PrecompilesMap;
use alloy_evm::{Database, EvmEnv};
use alloy_primitives::{Address, B256};
use revm::Inspector;
use revm::inspector::NoOpInspector;
use revm::primitives::hardfork::SpecId;
use std::collections::BTreeMap;
use std::sync::Arc;
use trellis_chain_storage::StateView;
use trellis_primitives::Header;

/// Builds, checks and calls. Cloning it is cheap; clones share their caches.
#[derive(Clone, Debug)]
pub struct Executor {
    pub(crate) config: ExecutionConfig,
    /// The forks, where the chain is one of Ethereum's.
    pub(crate) forks: Option<Arc<ForkSchedule>>,
    pub(crate) codes: Arc<CodeCache>,
}

/// The EVM as this chain configures it.
pub type ChainEvm<DB, I = NoOpInspector> = EthEvm<DB, I, PrecompilesMap>;

impl Executor {
    /// An executor for one chain.
    #[must_use]
    pub fn new(config: ExecutionConfig) -> Self {
        install_recovery();
        Self { config, forks: None, codes: Arc::new(CodeCache::new()) }
    }

    /// An executor for a chain of Ethereum's, which follows its forks instead of the rules of a Trellis chain.
    #[must_use]
    pub fn ethereum(forks: ForkSchedule) -> Self {
        let config =
            ExecutionConfig { chain_id: forks.chain_id(), gas_limit: 0, base_fee_floor_wei: 0, genesis_hash: None };
        Self { forks: Some(Arc::new(forks)), ..Self::new(config) }
    }

    /// The forks, where the chain is one of Ethereum's.
    #[must_use]
    pub fn forks(&self) -> Option<&ForkSchedule> {
        self.forks.as_deref()
    }

    /// The machine's settings in a block of this chain.
    #[must_use]
    pub fn env(&self, header: &Header) -> EvmEnv {
        match &self.forks {
            Some(forks) => forks.env(header),
            None => evm_env(&self.config, header),
        }
    }

    /// The precompiled contracts of a block by their names (EIP-7910).
    #[must_use]
    pub fn precompile_names(&self, header: &Header) -> BTreeMap<String, Address> {
        let map = precompiles(self.env(header).cfg_env.spec, self.config.genesis_hash);
        let addresses: Vec<Address> = map.addresses().copied().collect();
        let named = |address| Some((map.get(&address)?.precompile_id().name().to_owned(), address));
        addresses.into_iter().filter_map(named).collect()
    }

    /// Whether a block is at Prague or after it.
    #[must_use]
    pub fn is_prague(&self, header: &Header) -> bool {
        self.env(header).cfg_env.spec >= SpecId::PRAGUE
    }

    /// The base fee of the block after `parent`, in wei; `None` before London.
    #[must_use]
    pub fn next_base_fee(&self, parent: &Header) -> Option<u64> {
        match &self.forks {
            Some(forks) => forks.base_fee(parent, parent.number.saturating_add(1)),
            None => Some(next_base_fee(parent, self.config.base_fee_floor_wei)),
        }
    }

    /// What a unit of blob gas costs in a block, in wei; `None` before there are blobs.
    #[must_use]
    pub fn blob_base_fee(&self, header: &Header) -> Option<u128> {
        let excess = header.excess_blob_gas?;
        let params = match &self.forks {
            Some(forks) => forks.blob_params(header.timestamp)?,
            None => BlobParams::osaka(),
        };
        Some(params.calc_blob_fee(excess))
    }

    /// What a unit of blob gas costs in the block after `parent`, in wei.
    #[must_use]
    pub fn next_blob_base_fee(&self, parent: &Header) -> Option<u128> {
        let Some(forks) = &self.forks else { return self.blob_base_fee(parent) };
        let excess = forks.excess_blob_gas(parent, parent.timestamp)?;
        Some(forks.blob_params(parent.timestamp)?.calc_blob_fee(excess))
    }

    /// The most blob gas of one block; `None` before there are blobs.
    #[must_use]
    pub fn blob_gas_max(&self, header: &Header) -> Option<u64> {
        Some(self.forks.as_ref()?.blob_params(header.timestamp)?.max_blob_gas_per_block())
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
