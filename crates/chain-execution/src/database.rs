//! A state snapshot as the EVM's database.

use crate::CODE_CACHE_ENTRIES_MAX;
use alloy_primitives::{Address, B256, U256};
use lru::LruCache;
use parking_lot::Mutex;
use revm::bytecode::Bytecode;
use revm::database::{State, WrapDatabaseRef};
use revm::database_interface::{DBErrorMarker, DatabaseRef};
use revm::state::AccountInfo;
use std::num::NonZeroUsize;
use trellis_chain_storage::{ReadError, StateView};

/// Codes with their jump tables, so that a contract is analysed once and not in every block.
#[derive(Debug)]
pub(crate) struct CodeCache(Mutex<LruCache<B256, Bytecode>>);

impl CodeCache {
    pub(crate) fn new() -> Self {
        let entries = NonZeroUsize::new(CODE_CACHE_ENTRIES_MAX).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::new(entries)))
    }
}

/// A read failed under the EVM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabaseError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("code {0} is missing")]
    CodeMissing(B256),
}

impl DBErrorMarker for DatabaseError {}

/// A snapshot with the cache of analysed codes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ViewDatabase<'a> {
    pub(crate) view: &'a StateView,
    pub(crate) codes: &'a CodeCache,
}

/// The state that a block's transactions are run on, with the changes they make.
pub(crate) type BlockDb<'a> = State<WrapDatabaseRef<ViewDatabase<'a>>>;

impl DatabaseRef for ViewDatabase<'_> {
    type Error = DatabaseError;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Self::Error> {
        Ok(self.view.account(address).map(|account| AccountInfo {
            balance: account.balance,
            nonce: account.nonce,
            code_hash: account.code_hash,
            code: None,
            ..AccountInfo::default()
        }))
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, Self::Error> {
        if let Some(code) = self.codes.0.lock().get(&code_hash) {
            return Ok(code.clone());
        }
        let bytes = self.view.code(code_hash)?.ok_or(DatabaseError::CodeMissing(code_hash))?;
        let code = Bytecode::new_raw(bytes);
        self.codes.0.lock().put(code_hash, code.clone());
        Ok(code)
    }

    fn storage_ref(&self, address: Address, index: U256) -> Result<U256, Self::Error> {
        Ok(self.view.storage(address, index))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Self::Error> {
        Ok(self.view.ancestor_hash(number)?.unwrap_or_default())
    }
}
