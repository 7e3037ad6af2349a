//! Immutable snapshots of the state, of committed and of proposed blocks alike.

use crate::diff::HashedDiff;
use crate::reader::Reader;
use crate::state::WorldState;
use crate::{Account, AccountProof, ReadError, StateDiff};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use std::collections::HashMap;
use std::sync::Arc;
use trellis_primitives::Header;

/// The state after one block: an immutable snapshot, cheap to clone, valid as long as it is held.
#[derive(Clone)]
pub struct StateView {
    pub(crate) world: WorldState,
    header: Arc<Header>,
    hash: B256,
    /// Codes made since the last block on disk.
    fresh_codes: Arc<HashMap<B256, Bytes>>,
    reader: Arc<Reader>,
}

impl std::fmt::Debug for StateView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateView").field("height", &self.height()).field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// What a block does to the state: its diff, and the snapshot after it.
#[derive(Clone, Debug)]
pub struct StateTransition {
    pub(crate) diff: StateDiff,
    pub(crate) hashed: HashedDiff,
    /// The state after the block.
    pub post: StateView,
}

impl StateTransition {
    /// The changes by address.
    #[must_use]
    pub fn diff(&self) -> &StateDiff {
        &self.diff
    }
}

/// A state root that was computed before the header that will carry it exists.
#[derive(Clone, Debug)]
pub struct PendingState {
    diff: StateDiff,
    hashed: HashedDiff,
    world: WorldState,
    fresh_codes: Arc<HashMap<B256, Bytes>>,
    reader: Arc<Reader>,
}

impl PendingState {
    /// The root of the state after the diff.
    #[must_use]
    pub fn state_root(&self) -> B256 {
        self.world.root()
    }

    /// Names the block whose state this is.
    #[must_use]
    pub fn finish(self, header: Header, hash: B256) -> StateTransition {
        let Self { diff, hashed, world, fresh_codes, reader } = self;
        let post = StateView { world, header: Arc::new(header), hash, fresh_codes, reader };
        StateTransition { diff, hashed, post }
    }
}

impl StateView {
    pub(crate) fn new(world: WorldState, header: Arc<Header>, hash: B256, reader: Arc<Reader>) -> Self {
        Self { world, header, hash, fresh_codes: Arc::default(), reader }
    }

    /// The height of the block after which this is the state.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.header.number
    }

    /// The hash of that block.
    #[must_use]
    pub fn block_hash(&self) -> B256 {
        self.hash
    }

    /// The header of that block.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The root of the state.
    #[must_use]
    pub fn state_root(&self) -> B256 {
        self.world.root()
    }

    /// An account; none where it does not exist.
    #[must_use]
    pub fn account(&self, address: Address) -> Option<Account> {
        self.world.account(address)
    }

    /// A storage slot; zero where it is empty.
    #[must_use]
    pub fn storage(&self, address: Address, slot: U256) -> U256 {
        self.world.storage(address, slot)
    }

    /// A code by its keccak.
    ///
    /// # Errors
    /// The database failed.
    pub fn code(&self, code_hash: B256) -> Result<Option<Bytes>, ReadError> {
        if code_hash == KECCAK256_EMPTY || code_hash.is_zero() {
            return Ok(Some(Bytes::new()));
        }
        match self.fresh_codes.get(&code_hash) {
            Some(code) => Ok(Some(code.clone())),
            None => self.reader.code(code_hash),
        }
    }

    /// The hash of a block at or below this one.
    ///
    /// # Errors
    /// The database failed.
    pub fn ancestor_hash(&self, height: u64) -> Result<Option<B256>, ReadError> {
        match self.height() {
            own if height > own => Ok(None),
            own if height == own => Ok(Some(self.hash)),
            own if height.saturating_add(1) == own => Ok(Some(self.header.parent_hash)),
            _ => self.reader.hash_at(height),
        }
    }

    /// Proof of an account and some of its slots against [`Self::state_root`] (EIP-1186).
    #[must_use]
    pub fn proof(&self, address: Address, slots: &[U256]) -> AccountProof {
        self.world.proof(address, slots)
    }

    /// The state after a diff, with its root. Nothing is written; the view itself does not change.
    #[must_use]
    pub fn apply(&self, diff: StateDiff) -> PendingState {
        let hashed = diff.hashed();
        let world = self.world.apply(&hashed);
        let mut fresh_codes = self.fresh_codes.clone();
        if !diff.codes.is_empty() {
            Arc::make_mut(&mut fresh_codes).extend(diff.codes.iter().cloned());
        }
        PendingState { diff, hashed, world, fresh_codes, reader: self.reader.clone() }
    }

    /// The same snapshot once its codes are on disk, so that they are held twice no longer.
    pub(crate) fn with_codes_on_disk(mut self) -> Self {
        self.fresh_codes = Arc::default();
        self
    }
}
