//! Reads of what is on disk, shared by the store and all its snapshots.

use crate::codec::{decode_block, decode_record};
use crate::config::{CODE_CACHE_ENTRIES_MAX, RECENT_BLOCKS_MAX};
use crate::db::Db;
use crate::segment::Segments;
use crate::{CommittedBlock, ReadError, StateDiff, TxLocation};
use alloy_primitives::{B256, Bytes};
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use trellis_primitives::{CommitCertificate, Header};

pub(crate) struct Reader {
    pub(crate) db: Db,
    pub(crate) segments: Segments,
    /// The newest blocks, oldest first, without gaps.
    recent: RwLock<VecDeque<Arc<CommittedBlock>>>,
    codes: Mutex<LruCache<B256, Bytes>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("path", &self.db.path).finish_non_exhaustive()
    }
}

impl From<redb::Error> for ReadError {
    fn from(error: redb::Error) -> Self {
        Self::Database(error.to_string())
    }
}

impl Reader {
    pub(crate) fn new(db: Db, segments: Segments) -> Self {
        let entries = NonZeroUsize::new(CODE_CACHE_ENTRIES_MAX).unwrap_or(NonZeroUsize::MIN);
        Self { db, segments, recent: RwLock::default(), codes: Mutex::new(LruCache::new(entries)) }
    }

    /// Remembers a block that was just committed.
    pub(crate) fn remember(&self, block: Arc<CommittedBlock>) {
        let mut recent = self.recent.write();
        recent.push_back(block);
        while recent.len() > RECENT_BLOCKS_MAX {
            recent.pop_front();
        }
    }

    fn recent(&self, height: u64) -> Option<Arc<CommittedBlock>> {
        let recent = self.recent.read();
        let first = recent.front()?.height();
        recent.get(usize::try_from(height.checked_sub(first)?).ok()?).cloned()
    }

    pub(crate) fn code(&self, hash: B256) -> Result<Option<Bytes>, ReadError> {
        if let Some(code) = self.codes.lock().get(&hash) {
            return Ok(Some(code.clone()));
        }
        let code = self.db.code(&hash)?;
        if let Some(code) = &code {
            self.codes.lock().put(hash, code.clone());
        }
        Ok(code)
    }

    pub(crate) fn header(&self, height: u64) -> Result<Option<Header>, ReadError> {
        match self.recent(height) {
            Some(block) => Ok(Some(block.block.header.clone())),
            None => Ok(self.db.header(height)?),
        }
    }

    pub(crate) fn hash_at(&self, height: u64) -> Result<Option<B256>, ReadError> {
        match self.recent(height) {
            Some(block) => Ok(Some(block.hash)),
            None => Ok(self.db.header(height)?.map(|header| header.hash_slow())),
        }
    }

    pub(crate) fn height_of(&self, hash: B256) -> Result<Option<u64>, ReadError> {
        let found = self.recent.read().iter().rev().find(|block| block.hash == hash).map(|block| block.height());
        match found {
            Some(height) => Ok(Some(height)),
            None => Ok(self.db.height_of(&hash)?),
        }
    }

    pub(crate) fn transaction(&self, hash: B256) -> Result<Option<TxLocation>, ReadError> {
        Ok(self.db.transaction(&hash)?)
    }

    /// From the database always: precommits that came late are added there.
    pub(crate) fn certificate(&self, height: u64) -> Result<Option<CommitCertificate>, ReadError> {
        Ok(self.db.certificate(height)?)
    }

    pub(crate) fn block(&self, height: u64) -> Result<Option<Arc<CommittedBlock>>, ReadError> {
        if let Some(block) = self.recent(height) {
            return Ok(Some(block));
        }
        let Some(payload) = self.record(height)? else { return Ok(None) };
        let block = decode_block(&payload).map_err(|error| ReadError::Damaged { height, what: error.to_string() })?;
        Ok(Some(Arc::new(block)))
    }

    fn record(&self, height: u64) -> Result<Option<Vec<u8>>, ReadError> {
        let Some(location) = self.db.location(height)? else { return Ok(None) };
        let payload = self.segments.read(location, height).map_err(|source| match source.kind() {
            std::io::ErrorKind::InvalidData => ReadError::Damaged { height, what: source.to_string() },
            _ => ReadError::Segment { path: self.segments.path(location.segment), source },
        })?;
        Ok(Some(payload))
    }

    /// What a block did to the state; empty for the blocks that came with a snapshot.
    pub(crate) fn diff(&self, height: u64) -> Result<Option<StateDiff>, ReadError> {
        let Some(payload) = self.record(height)? else { return Ok(None) };
        let record = decode_record(&payload).map_err(|error| ReadError::Damaged { height, what: error.to_string() })?;
        Ok(Some(record.diff))
    }
}
