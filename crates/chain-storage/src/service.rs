//! The store: one writer, any number of readers.

use crate::codec::encode_record;
use crate::config::{EVENTS_BUFFERED_MAX, EVIDENCE_BUFFERED_MAX};
use crate::db::{BlockWrite, Db};
use crate::diff::HashedDiff;
use crate::lock::FolderLock;
use crate::metrics::MetricsCell;
use crate::reader::Reader;
use crate::recover::{self, Rebuilt};
use crate::remake;
use crate::segment::{Cursor, Location, Segments};
use crate::state::WorldState;
use crate::view::{StateTransition, StateView};
use crate::{
    CommitError, CommittedBlock, ExecutedBlock, Genesis, OpenError, ReadError, Receipt, StoreConfig, StoreMetrics,
    TxLocation,
};
use alloy_primitives::{B256, Bytes};
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::broadcast;
use trellis_primitives::{CommitCertificate, Header};

/// Blocks and state of one chain in one data folder. Cloning it is cheap; all clones are the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    reader: Arc<Reader>,
    head: RwLock<Head>,
    writer: Mutex<Writer>,
    events: broadcast::Sender<Arc<CommittedBlock>>,
    evidence: broadcast::Sender<Bytes>,
    config: StoreConfig,
    metrics: MetricsCell,
}

/// What the one writer knows: where the next record goes, and what the segments have made durable since the database was.
struct Writer {
    cursor: Cursor,
    blocks: u64,
    transactions: u64,
}

impl Writer {
    fn at(cursor: Cursor) -> Self {
        Self { cursor, blocks: 0, transactions: 0 }
    }

    /// Counts a block; whether the database is to be made durable with it.
    fn is_due(&mut self, transactions: usize, config: &StoreConfig) -> bool {
        self.blocks = self.blocks.saturating_add(1);
        self.transactions = self.transactions.saturating_add(u64::try_from(transactions).unwrap_or(u64::MAX));
        let due = self.blocks >= config.database_sync_blocks || self.transactions >= config.database_sync_transactions;
        if due {
            *self = Self::at(self.cursor);
        }
        due
    }
}

struct Head {
    view: StateView,
    /// Older states, oldest first, without gaps up to the head.
    history: VecDeque<StateView>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("height", &self.height()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the data folder of a chain, or makes it.
    ///
    /// Rebuilds the trie, checks its root against the tip's header, and finishes or cuts off what a crash interrupted. A
    /// damaged database is set aside and made again from the blocks, where they are all there.
    ///
    /// # Errors
    /// See [`OpenError`]; each has a [`OpenError::hint`].
    pub fn open(folder: &Path, genesis: &Genesis, config: StoreConfig) -> Result<Self, OpenError> {
        Self::open_folder(folder, Some(genesis), config)
    }

    /// Opens the data folder of whatever chain it holds, for tools that inspect it.
    ///
    /// # Errors
    /// See [`OpenError`]; [`OpenError::Empty`] where it holds no chain.
    pub fn open_existing(folder: &Path, config: StoreConfig) -> Result<Self, OpenError> {
        if !folder.join("state.redb").exists() {
            return Err(OpenError::Empty { folder: folder.to_path_buf() });
        }
        Self::open_folder(folder, None, config)
    }

    fn open_folder(folder: &Path, genesis: Option<&Genesis>, config: StoreConfig) -> Result<Self, OpenError> {
        std::fs::create_dir_all(folder).map_err(|source| OpenError::from_io(folder, source))?;
        match Self::open_files(folder, genesis, config.clone()) {
            Err(damaged) if genesis.is_some() && damaged.is_of_the_database() => {
                remake::database(folder, damaged, || Self::open_files(folder, genesis, config))
            }
            opened => opened,
        }
    }

    fn open_files(folder: &Path, genesis: Option<&Genesis>, config: StoreConfig) -> Result<Self, OpenError> {
        let path = folder.join("state.redb");
        let lock = FolderLock::acquire(folder)?;
        remake::caught(&path, || {
            let db = Db::open(&path, config.cache_bytes, lock)?;
            let segments = Segments::open(&folder.join("segments"), config.segment_bytes)?;
            Self::start(Reader::new(db, segments), genesis, config, folder)
        })
    }

    /// A store without a folder, for tests and throw-away chains: the same code on other media.
    ///
    /// # Errors
    /// The genesis header does not have the root of the genesis state.
    pub fn in_memory(genesis: &Genesis) -> Result<Self, OpenError> {
        let config = StoreConfig::default();
        let reader = Reader::new(Db::in_memory()?, Segments::in_memory(config.segment_bytes));
        Self::start(reader, Some(genesis), config, Path::new("memory"))
    }

    fn start(reader: Reader, genesis: Option<&Genesis>, config: StoreConfig, folder: &Path) -> Result<Self, OpenError> {
        recover::check_format(&reader.db)?;
        if let Some(genesis) = genesis {
            recover::check_genesis(&reader, genesis.hash())?;
        }
        let reader = Arc::new(reader);
        let rebuilt = recover::rebuild(&reader, &config)?;
        let (rebuilt, from_nothing) = match (rebuilt, genesis) {
            (Some(rebuilt), _) => (rebuilt, false),
            (None, Some(genesis)) => (before_genesis(&reader, genesis), true),
            (None, None) => return Err(OpenError::Empty { folder: folder.to_path_buf() }),
        };
        let Rebuilt { head, history, cursor } = rebuilt;
        let (events, _) = broadcast::channel(EVENTS_BUFFERED_MAX);
        let (evidence, _) = broadcast::channel(EVIDENCE_BUFFERED_MAX);
        let store = Self(Arc::new(Inner {
            reader,
            head: RwLock::new(Head { view: head, history }),
            writer: Mutex::new(Writer::at(cursor)),
            events,
            evidence,
            config,
            metrics: MetricsCell::default(),
        }));
        store.replay(from_nothing)?;
        if let (true, Some(genesis)) = (from_nothing, genesis) {
            store.begin_with(genesis)?;
        }
        Ok(store)
    }

    /// Applies whole records that were synced but had not reached the database when the process died.
    fn replay(&self, from_nothing: bool) -> Result<(), OpenError> {
        let mut expect_genesis = from_nothing;
        loop {
            let cursor = self.0.writer.lock().cursor;
            let found = if from_nothing {
                recover::next_of_all(&self.0.reader, cursor)?
            } else {
                recover::next_record(&self.0.reader, cursor)?
            };
            let Some((location, record)) = found else { return Ok(()) };
            let height = record.block.height();
            let head = self.head();
            if expect_genesis && record.block.hash != head.block_hash() {
                return Err(OpenError::WrongGenesis { expected: head.block_hash(), found: record.block.hash });
            }
            if !expect_genesis && record.block.block.header.parent_hash != head.block_hash() {
                let what = "it does not follow the block before it".to_owned();
                return Err(OpenError::RecordDamaged { height, what });
            }
            expect_genesis = false;
            tracing::info!(height, "applying a block that was synced before the last stop");
            let base = if height == 0 { self.emptied() } else { head };
            let header = record.block.block.header.clone();
            let transition = base.apply(record.diff).finish(header, record.block.hash);
            let mut writer = self.0.writer.lock();
            self.apply(&mut writer, &base, record.block, transition, (location, true)).map_err(
                |error| match error {
                    CommitError::DiskFull { path } => OpenError::DiskFull { path },
                    error => OpenError::RecordDamaged { height, what: error.to_string() },
                },
            )?;
        }
    }

    /// The snapshot before block zero.
    fn emptied(&self) -> StateView {
        let head = self.head();
        StateView::new(WorldState::default(), Arc::new(head.header().clone()), head.block_hash(), self.0.reader.clone())
    }

    /// Writes block zero, unless a replay found it.
    fn begin_with(&self, genesis: &Genesis) -> Result<(), OpenError> {
        let failed = |error: redb::Error| recover::database_error(&self.0.reader.db, &error);
        if self.0.reader.db.tip().map_err(failed)?.is_some() {
            return Ok(());
        }
        let base = self.emptied();
        let hash = genesis.hash();
        let transition = base.apply(genesis.state.clone()).finish(genesis.block.header.clone(), hash);
        let block = CommittedBlock {
            block: Arc::new(genesis.block.clone()),
            hash,
            senders: Vec::new(),
            receipts: Vec::new(),
            certificate: None,
            ethereum: None,
        };
        let path = self.0.reader.db.path.clone();
        self.write(&base, block, transition, true).map(drop).map_err(|error| match error {
            CommitError::StateRoot { height, expected, found } => OpenError::StateRoot { height, expected, found },
            CommitError::DiskFull { path } => OpenError::DiskFull { path },
            CommitError::Segment { path, source } => OpenError::from_io(&path, source),
            error => OpenError::DatabaseDamaged { path, what: error.to_string() },
        })
    }

    /// Makes an executed block final and durable; when this returns, it survives a power cut.
    ///
    /// # Errors
    /// See [`CommitError`]; the store then stays at its old head and the same block may be committed again.
    pub fn commit(
        &self,
        executed: ExecutedBlock,
        certificate: Option<CommitCertificate>,
    ) -> Result<Arc<CommittedBlock>, CommitError> {
        self.commit_as(executed, certificate, true)
    }

    /// The same for a block that others have and that can be had again: it survives a stop only after [`Self::sync`] or the
    /// next [`Self::commit`]. A stop before that leaves the store at one of the blocks since, whole.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn commit_unsynced(
        &self,
        executed: ExecutedBlock,
        certificate: Option<CommitCertificate>,
    ) -> Result<Arc<CommittedBlock>, CommitError> {
        self.commit_as(executed, certificate, false)
    }

    /// Makes durable what [`Self::commit_unsynced`] wrote.
    ///
    /// # Errors
    /// A segment or the database failed.
    pub fn sync(&self) -> Result<(), CommitError> {
        let writer = self.0.writer.lock();
        let reader = &self.0.reader;
        // The blocks first: the database must not know of any that is not there.
        reader
            .segments
            .sync()
            .map_err(|source| CommitError::from_io(&reader.segments.path(writer.cursor.segment), source))?;
        reader.db.sync().map_err(|error| self.commit_error(error))
    }

    fn commit_as(
        &self,
        executed: ExecutedBlock,
        certificate: Option<CommitCertificate>,
        sync: bool,
    ) -> Result<Arc<CommittedBlock>, CommitError> {
        if let Some(certificate) = &certificate
            && certificate.block_hash != executed.hash
        {
            return Err(CommitError::Certificate { expected: executed.hash, found: certificate.block_hash });
        }
        let ExecutedBlock { block, hash, senders, receipts, transition, ethereum } = executed;
        let head = self.head();
        let header = &block.header;
        if header.parent_hash != head.block_hash() || header.number != head.height().saturating_add(1) {
            return Err(CommitError::NotOnHead {
                height: header.number,
                parent: header.parent_hash,
                head_height: head.height(),
                head: head.block_hash(),
            });
        }
        let block = CommittedBlock { block, hash, senders, receipts, certificate, ethereum };
        self.write(&head, block, transition, sync)
    }

    /// Keeps what was learnt about a final block after its commit: the certificate with precommits that came late, which is of use
    /// and not needed, and evidence of equivocation as its RLP, which is durable when this returns.
    ///
    /// # Errors
    /// [`CommitError::Certificate`] where the certificate is not for the block at its height; the database failed.
    pub fn amend(&self, certificate: &CommitCertificate, evidence: &[Bytes]) -> Result<(), CommitError> {
        let expected = self.hash_at(certificate.height)?.unwrap_or_default();
        if expected != certificate.block_hash {
            return Err(CommitError::Certificate { expected, found: certificate.block_hash });
        }
        let _writer = self.0.writer.lock();
        let fresh = self.0.reader.db.amend(certificate, evidence).map_err(|error| self.commit_error(error))?;
        for piece in fresh {
            // No subscriber is not an error.
            let _ = self.0.evidence.send(piece);
        }
        Ok(())
    }

    /// All evidence of equivocation kept, as RLP.
    ///
    /// # Errors
    /// The database failed.
    pub fn evidence(&self) -> Result<Vec<Bytes>, ReadError> {
        Ok(self.0.reader.db.evidence()?)
    }

    /// Every piece of evidence kept from now on that was not kept before, after it is durable.
    #[must_use]
    pub fn subscribe_evidence(&self) -> broadcast::Receiver<Bytes> {
        self.0.evidence.subscribe()
    }

    fn commit_error(&self, error: redb::Error) -> CommitError {
        match error {
            redb::Error::Io(source) => CommitError::from_io(&self.0.reader.db.path, source),
            error => CommitError::Database(error.to_string()),
        }
    }

    /// Segment first: from there on the block is durable. Then everything else.
    fn write(
        &self,
        base: &StateView,
        block: CommittedBlock,
        transition: StateTransition,
        sync: bool,
    ) -> Result<Arc<CommittedBlock>, CommitError> {
        let inner = &*self.0;
        let mut writer = inner.writer.lock();
        check_state_root(&block, &transition)?;
        let started = Instant::now();
        let payload = encode_record(&block, transition.diff());
        let path = inner.reader.segments.path(writer.cursor.segment);
        let location = inner
            .reader
            .segments
            .append(writer.cursor, block.height(), &payload, sync)
            .map_err(|source| CommitError::from_io(&path, source))?;
        let appended = Instant::now();
        let block = self.apply(&mut writer, base, block, transition, (location, sync))?;
        if sync && let Err(error) = inner.reader.segments.acknowledge(writer.cursor) {
            tracing::warn!(%error, "a block is durable and not marked as acknowledged");
        }
        let transactions = block.block.transactions.len();
        let (segment, database) = (appended.duration_since(started), appended.elapsed());
        inner.metrics.committed(transactions, u64::from(location.bytes), segment, database);
        Ok(block)
    }

    /// What follows the segment: database, memory, subscribers, in this order. The database is made durable now and then only:
    /// until then a start takes the block from the segment.
    fn apply(
        &self,
        writer: &mut Writer,
        base: &StateView,
        block: CommittedBlock,
        transition: StateTransition,
        (location, sync): (Location, bool),
    ) -> Result<Arc<CommittedBlock>, CommitError> {
        let inner = &*self.0;
        check_state_root(&block, &transition)?;
        let StateTransition { diff, hashed, post } = transition;
        let height = block.height();
        // Nothing was before block zero, so nothing leads back there.
        let undo = if height == 0 { HashedDiff::default() } else { base.world.undo(&hashed) };
        let forget_undo = height.checked_sub(inner.config.history_blocks);
        let write = BlockWrite { block: &block, diff: &diff, undo: Some(&undo), location, forget_undo };
        let durable = sync && writer.is_due(block.block.transactions.len(), &inner.config);
        inner.reader.db.write(&write, durable).map_err(|error| self.commit_error(error))?;
        writer.cursor = location.end();
        let block = Arc::new(block);
        self.publish(block.clone(), post.with_codes_on_disk());
        Ok(block)
    }

    fn publish(&self, block: Arc<CommittedBlock>, view: StateView) {
        let inner = &*self.0;
        inner.reader.remember(block.clone());
        {
            let mut head = inner.head.write();
            if block.height() > 0 {
                let old = std::mem::replace(&mut head.view, view);
                head.history.push_back(old);
            } else {
                head.view = view;
            }
            let keep = usize::try_from(inner.config.history_blocks).unwrap_or(usize::MAX);
            while head.history.len() > keep {
                head.history.pop_front();
            }
        }
        // No subscriber is not an error.
        let _ = inner.events.send(block);
    }

    /// The state after the newest final block.
    #[must_use]
    pub fn head(&self) -> StateView {
        self.0.head.read().view.clone()
    }

    /// The height of the newest final block.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.0.head.read().view.height()
    }

    /// The state after a recent block.
    ///
    /// # Errors
    /// [`ReadError::StateNotKept`] for a height above the head or further behind it than the history reaches.
    pub fn state_at(&self, height: u64) -> Result<StateView, ReadError> {
        let head = self.0.head.read();
        if height == head.view.height() {
            return Ok(head.view.clone());
        }
        let oldest = head.history.front().map_or(head.view.height(), StateView::height);
        height
            .checked_sub(oldest)
            .and_then(|index| head.history.get(usize::try_from(index).ok()?))
            .cloned()
            .ok_or(ReadError::StateNotKept { height, oldest, newest: head.view.height() })
    }

    pub(crate) fn reader(&self) -> &Arc<Reader> {
        &self.0.reader
    }

    /// The lowest height whose block is held, block zero apart: 0 unless the store began with a snapshot.
    ///
    /// # Errors
    /// The database failed.
    pub fn first_height(&self) -> Result<u64, ReadError> {
        Ok(self.0.reader.db.base()?.unwrap_or(0))
    }

    /// The oldest height whose state can be read, and how many blocks behind the head states are kept.
    #[must_use]
    pub fn oldest_state(&self) -> (u64, u64) {
        let head = self.0.head.read();
        let oldest = head.history.front().map_or(head.view.height(), StateView::height);
        (oldest, self.0.config.history_blocks)
    }

    /// A header by height.
    ///
    /// # Errors
    /// The database failed.
    pub fn header(&self, height: u64) -> Result<Option<Header>, ReadError> {
        self.0.reader.header(height)
    }

    /// A block's hash by its height.
    ///
    /// # Errors
    /// The database failed.
    pub fn hash_at(&self, height: u64) -> Result<Option<B256>, ReadError> {
        self.0.reader.hash_at(height)
    }

    /// A block's height by its hash.
    ///
    /// # Errors
    /// The database failed.
    pub fn height_of(&self, hash: B256) -> Result<Option<u64>, ReadError> {
        self.0.reader.height_of(hash)
    }

    /// A block with its senders, receipts and certificate, by height.
    ///
    /// # Errors
    /// The database or the segment failed.
    pub fn block(&self, height: u64) -> Result<Option<Arc<CommittedBlock>>, ReadError> {
        self.0.reader.block(height)
    }

    /// A block with its senders, receipts and certificate, by hash.
    ///
    /// # Errors
    /// The database or the segment failed.
    pub fn block_by_hash(&self, hash: B256) -> Result<Option<Arc<CommittedBlock>>, ReadError> {
        match self.height_of(hash)? {
            Some(height) => self.block(height),
            None => Ok(None),
        }
    }

    /// The receipts of a block, by height.
    ///
    /// # Errors
    /// The database or the segment failed.
    pub fn receipts(&self, height: u64) -> Result<Option<Vec<Receipt>>, ReadError> {
        Ok(self.block(height)?.map(|block| block.receipts.clone()))
    }

    /// Where a transaction stands.
    ///
    /// # Errors
    /// The database failed.
    pub fn tx_location(&self, hash: B256) -> Result<Option<TxLocation>, ReadError> {
        self.0.reader.transaction(hash)
    }

    /// The certificate that finalised a block; none for the genesis and for heights above the head.
    ///
    /// # Errors
    /// The database failed.
    pub fn certificate(&self, height: u64) -> Result<Option<CommitCertificate>, ReadError> {
        self.0.reader.certificate(height)
    }

    /// The hash of block zero.
    ///
    /// # Errors
    /// The database failed.
    pub fn genesis_hash(&self) -> Result<Option<B256>, ReadError> {
        self.hash_at(0)
    }

    /// Every block committed from now on, after it is durable.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<CommittedBlock>> {
        self.0.events.subscribe()
    }

    /// Numbers since the store was opened.
    #[must_use]
    pub fn metrics(&self) -> StoreMetrics {
        self.0.metrics.get()
    }
}

fn check_state_root(block: &CommittedBlock, transition: &StateTransition) -> Result<(), CommitError> {
    let (expected, found) = (block.block.header.state_root, transition.post.state_root());
    if expected == found {
        return Ok(());
    }
    Err(CommitError::StateRoot { height: block.height(), expected, found })
}

/// The empty folder's head, only to stand in until block zero is written a moment later.
fn before_genesis(reader: &Arc<Reader>, genesis: &Genesis) -> Rebuilt {
    let header = Arc::new(genesis.block.header.clone());
    let head = StateView::new(WorldState::default(), header, genesis.hash(), reader.clone());
    Rebuilt { head, history: VecDeque::new(), cursor: Cursor::START }
}
