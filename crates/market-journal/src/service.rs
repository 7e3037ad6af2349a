//! The journal as its owner holds it, and the reader that stands beside it.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::{mpsc, oneshot, watch};
use trellis_primitives::{B256, Bytes, SharedClock, UnixMs};

use crate::config::JournalConfig;
use crate::error::{JournalError, JournalOpenError, JournalReadError};
use crate::frame::RECORD_BODY_BYTES_MAX;
use crate::index::{Index, Position};
use crate::metrics::JournalMetrics;
use crate::record::{Marker, Record};
use crate::segment::{self, Tail};
use crate::writer::{Begin, Request, Wrap, Writer};

/// Requests that may wait for the writer; a caller beyond that waits for a place, which is the back pressure.
pub const QUEUE_REQUESTS_MAX: usize = 16_384;

/// What opening a journal found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Whole records.
    pub records: u64,
    /// Bytes after the last whole record, cut off and kept in a `torn-*.bin` file beside the segment.
    pub torn_bytes: u64,
    /// Whole records among those bytes. They were never acknowledged to anybody.
    pub torn_records: usize,
}

/// The owner's handle: append, and look up. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    clock: SharedClock,
    index: Arc<RwLock<Index>>,
    metrics: JournalMetrics,
    report: OpenReport,
    failed: watch::Receiver<Option<JournalError>>,
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens a journal for writing, creating it if there is none; replays it and starts the writer's thread.
    ///
    /// # Errors
    /// [`JournalOpenError`]: in use, read-only, damaged, of another version, not a journal. Nothing is changed then.
    pub fn open(config: &JournalConfig, clock: SharedClock) -> Result<Self, JournalOpenError> {
        Self::open_with(config, clock, Box::new(|file| Box::new(file)))
    }

    pub(crate) fn open_with(config: &JournalConfig, clock: SharedClock, wrap: Wrap) -> Result<Self, JournalOpenError> {
        let folder = config.folder.clone();
        let lock = segment::lock(&folder)?;
        let mut index = Index::new(config.jobs_indexed);
        let tail = segment::replay(&folder, Tail::default(), None, &mut |position, at, record| {
            index.apply(position, at, &record);
        })?;
        let report =
            OpenReport { records: index.records(), torn_bytes: tail.torn_bytes, torn_records: tail.whole_records_lost };
        if report.torn_bytes > 0 {
            let (bytes, records) = (report.torn_bytes, report.torn_records);
            tracing::warn!(bytes, records, "journal tail torn by a crash, cut off and kept aside");
        }
        let index = Arc::new(RwLock::new(index));
        let metrics = JournalMetrics::default();
        let (failing, failed) = watch::channel(None);
        let writer = Writer::new(Begin {
            folder: folder.clone(),
            segment_bytes: config.segment_bytes_bounded(),
            wrap,
            tail,
            failed: failing,
            index: index.clone(),
            metrics: metrics.clone(),
            lock,
        })?;
        let (sender, receiver) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let thread =
            std::thread::Builder::new().name("market-journal".into()).spawn(move || writer.run(receiver)).map_err(
                |source| JournalOpenError::Io { action: "starting the thread of", path: folder.clone(), source },
            )?;
        let (requests, thread) = (Mutex::new(Some(sender)), Mutex::new(Some(thread)));
        Ok(Self { shared: Arc::new(Shared { folder, clock, index, metrics, report, failed, requests, thread }) })
    }

    /// Stores one record. Resolves when it is on the disk: only then may anything that it promises be sent.
    ///
    /// # Errors
    /// [`JournalError`]: the record is not stored, and nothing signed may leave the process.
    pub async fn append(&self, record: Record) -> Result<Position, JournalError> {
        let positions = self.append_all(vec![record]).await?;
        positions.first().copied().ok_or(JournalError::Closed)
    }

    /// Stores several records in this order, durable together.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub async fn append_all(&self, records: Vec<Record>) -> Result<Vec<Position>, JournalError> {
        self.request(records, None).await.map(Option::unwrap_or_default)
    }

    /// Stores a marker and the records that go with it, unless the marker is known: exactly once, also across restarts
    /// and among concurrent callers. `Ok(None)` says that it had been done before.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub async fn append_once(
        &self,
        key: B256,
        payload: Bytes,
        mut records: Vec<Record>,
    ) -> Result<Option<Vec<Position>>, JournalError> {
        records.insert(0, Record::Marker(Marker { key, payload }));
        self.request(records, Some(key)).await
    }

    async fn request(&self, records: Vec<Record>, unless: Option<B256>) -> Result<Option<Vec<Position>>, JournalError> {
        let at = self.shared.clock.now();
        let mut encoded = Vec::with_capacity(records.len());
        for record in records {
            let body = record.encode_body(at);
            if body.len() > RECORD_BODY_BYTES_MAX {
                return Err(JournalError::TooLong { found: body.len(), max: RECORD_BODY_BYTES_MAX });
            }
            encoded.push((at, record, body));
        }
        let sender = self.shared.requests.lock().clone().ok_or(JournalError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let request = Request { records: encoded, unless, reply };
        sender.send(request).await.map_err(|_| JournalError::Closed)?;
        drop(sender);
        answer.await.map_err(|_| JournalError::Closed)?
    }

    /// The tables of everything durable. Hold the guard briefly: the writer waits for it.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.shared.index.read()
    }

    /// Reads one record back.
    ///
    /// # Errors
    /// [`JournalReadError`].
    pub fn read(&self, position: Position) -> Result<(UnixMs, Record), JournalReadError> {
        read(&self.shared.folder, position)
    }

    /// Resolves when a record could not be stored. From then on the journal takes none; what its owner holds in memory
    /// may be ahead of the disk, so the owner ends and begins again from the disk. Never resolves while all is well.
    pub async fn failed(&self) -> JournalError {
        let mut failed = self.shared.failed.clone();
        if let Ok(error) = failed.wait_for(Option::is_some).await
            && let Some(error) = error.as_ref()
        {
            return error.clone();
        }
        std::future::pending().await
    }

    /// What opening found.
    #[must_use]
    pub fn report(&self) -> &OpenReport {
        &self.shared.report
    }

    /// The journal's figures.
    #[must_use]
    pub fn metrics(&self) -> &JournalMetrics {
        &self.shared.metrics
    }

    /// Takes no further record, finishes what waits, and frees the folder.
    pub async fn close(&self) {
        self.shared.requests.lock().take();
        let thread = self.shared.thread.lock().take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.requests.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

/// A look at a journal from outside, also while its owner writes to it. Changes nothing and takes no lock.
pub struct JournalReader {
    folder: PathBuf,
    index: Index,
    tail: Tail,
}

impl JournalReader {
    /// Reads everything that is durable now.
    ///
    /// # Errors
    /// [`JournalOpenError`]: there is none, it is damaged, it is of another version.
    pub fn open(config: &JournalConfig) -> Result<Self, JournalOpenError> {
        if segment::list(&config.folder)?.is_empty() {
            return Err(JournalOpenError::Missing { path: config.folder.clone() });
        }
        let index = Index::new(config.jobs_indexed);
        let mut reader = Self { folder: config.folder.clone(), index, tail: Tail::default() };
        reader.refresh()?;
        Ok(reader)
    }

    /// Reads what became durable since, and says how many records that were.
    ///
    /// # Errors
    /// As [`JournalReader::open`].
    pub fn refresh(&mut self) -> Result<u64, JournalOpenError> {
        let before = self.index.records();
        let upto = segment::read_head(&self.folder);
        let from = self.tail.clone();
        let index = &mut self.index;
        self.tail = segment::replay(&self.folder, from, upto, &mut |position, at, record| {
            index.apply(position, at, &record);
        })?;
        Ok(self.index.records() - before)
    }

    /// The tables of what was read.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Reads one record back.
    ///
    /// # Errors
    /// [`JournalReadError`].
    pub fn read(&self, position: Position) -> Result<(UnixMs, Record), JournalReadError> {
        read(&self.folder, position)
    }

    /// Visits every durable record from the beginning, until the visitor breaks.
    ///
    /// # Errors
    /// As [`JournalReader::open`].
    pub fn scan(
        &self,
        mut visit: impl FnMut(Position, UnixMs, Record) -> ControlFlow<()>,
    ) -> Result<(), JournalOpenError> {
        let mut going = ControlFlow::Continue(());
        let upto = Some(self.tail.next_sequence);
        segment::replay(&self.folder, Tail::default(), upto, &mut |position, at, record| {
            if going.is_continue() {
                going = visit(position, at, record);
            }
        })?;
        Ok(())
    }
}

fn read(folder: &std::path::Path, position: Position) -> Result<(UnixMs, Record), JournalReadError> {
    let path = segment::segment_path(folder, position.segment);
    match segment::read_one(&path, position.offset) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(JournalReadError::Changed { path, offset: u64::from(position.offset) }),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Err(JournalReadError::NoSuchRecord),
        Err(source) => Err(JournalReadError::Io { path, source }),
    }
}
