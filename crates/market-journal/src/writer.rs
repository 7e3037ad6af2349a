//! The one who writes: groups of records, one synchronisation each, on a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};
use trellis_primitives::{B256, UnixMs};

use crate::error::{JournalError, JournalOpenError};
use crate::frame::{self, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use crate::index::{Index, Position};
use crate::metrics::JournalMetrics;
use crate::record::Record;
use crate::segment::{self, Head, Tail};

/// Requests that share one synchronisation at most.
pub(crate) const GROUP_REQUESTS_MAX: usize = 4_096;
/// Bytes after which a group takes no further request.
pub(crate) const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Records that must become durable together.
pub(crate) struct Request {
    pub(crate) records: Vec<(UnixMs, Record, Bytes)>,
    /// Do nothing if this marker is known.
    pub(crate) unless: Option<B256>,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// The positions, or `None` where the marker was known.
pub(crate) type Reply = Result<Option<Vec<Position>>, JournalError>;

/// A file that records are appended to; a trait so that tests can fill the disk.
pub(crate) trait Medium: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn truncate(&mut self, bytes: u64) -> io::Result<()>;
}

impl Medium for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)?;
        self.seek(SeekFrom::Start(bytes)).map(|_| ())
    }
}

/// How a file becomes a medium.
pub(crate) type Wrap = Box<dyn Fn(File) -> Box<dyn Medium> + Send>;

/// The writer's state.
pub(crate) struct Writer {
    folder: PathBuf,
    segment_bytes: u64,
    wrap: Wrap,
    medium: Box<dyn Medium>,
    head: Head,
    segment: u32,
    length_bytes: u64,
    next_sequence: u64,
    stopped: Option<String>,
    failed: watch::Sender<Option<JournalError>>,
    index: Arc<RwLock<Index>>,
    metrics: JournalMetrics,
    _lock: File,
}

/// What a writer needs to begin.
pub(crate) struct Begin {
    pub(crate) folder: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) wrap: Wrap,
    pub(crate) tail: Tail,
    pub(crate) failed: watch::Sender<Option<JournalError>>,
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) metrics: JournalMetrics,
    pub(crate) lock: File,
}

/// A group on its way to the disk.
struct Group {
    bytes: Vec<u8>,
    done: Vec<(Request, Vec<Position>)>,
    known: Vec<Request>,
    next_sequence: u64,
}

impl Writer {
    /// Opens the last segment for appending, after cutting a torn tail off and keeping it aside.
    pub(crate) fn new(begin: Begin) -> Result<Self, JournalOpenError> {
        let Begin { folder, segment_bytes, wrap, tail, failed, index, metrics, lock } = begin;
        let io_at = |action, path: PathBuf| move |source| JournalOpenError::Io { action, path, source };
        let number = tail.segment.max(1);
        let path = segment::segment_path(&folder, number);
        if tail.torn_bytes > 0 {
            keep_torn_tail(&folder, &tail).map_err(io_at("keeping the torn tail of", path.clone()))?;
        }
        let fresh = tail.valid_bytes < SEGMENT_HEADER_BYTES as u64;
        let file = if fresh {
            segment::create(&folder, number, tail.next_sequence)
        } else {
            open_for_append(&path, tail.valid_bytes, tail.torn_bytes > 0)
        };
        let file = file.map_err(io_at("opening", path.clone()))?;
        let head = Head::open(&folder).map_err(io_at("opening the head of", path.clone()))?;
        head.write(tail.next_sequence).map_err(io_at("writing the head of", path))?;
        let length_bytes = tail.valid_bytes.max(SEGMENT_HEADER_BYTES as u64);
        let medium = wrap(file);
        Ok(Self {
            folder,
            segment_bytes,
            wrap,
            medium,
            head,
            segment: number,
            length_bytes,
            next_sequence: tail.next_sequence,
            stopped: None,
            failed,
            index,
            metrics,
            _lock: lock,
        })
    }

    /// Serves requests until every sender is gone.
    pub(crate) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut bytes = request_bytes(&first);
            let mut group = vec![first];
            while group.len() < GROUP_REQUESTS_MAX && bytes < GROUP_BYTES_MAX {
                let Ok(next) = requests.try_recv() else { break };
                bytes += request_bytes(&next);
                group.push(next);
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, requests: Vec<Request>) {
        if let Some(why) = &self.stopped {
            return refuse(requests, &JournalError::Stopped(why.clone()));
        }
        let bytes_max: usize = requests.iter().map(request_bytes).sum();
        if let Err(error) = self.rotate_if_full(bytes_max) {
            let error = self.fail(write_error(&error));
            return refuse(requests, &error);
        }
        let group = self.form(requests);
        let begun = Instant::now();
        if let Err(error) = self.store(&group.bytes) {
            let error = self.fail(error);
            return refuse(group.done.into_iter().map(|(r, _)| r).chain(group.known).collect(), &error);
        }
        self.metrics.sync_seconds.observe(begun.elapsed().as_secs_f64());
        self.acknowledge(group);
    }

    /// Lays the records out behind the current end, leaving out requests whose marker is known.
    fn form(&self, requests: Vec<Request>) -> Group {
        let mut group =
            Group { bytes: Vec::new(), done: Vec::new(), known: Vec::new(), next_sequence: self.next_sequence };
        let mut markers = Vec::new();
        let index = self.index.read();
        for request in requests {
            let known = |key: &B256| index.marker(*key).is_some() || markers.contains(key);
            if request.unless.as_ref().is_some_and(known) {
                group.known.push(request);
                continue;
            }
            let mut positions = Vec::with_capacity(request.records.len());
            for (_, record, body) in &request.records {
                if let Record::Marker(marker) = record {
                    markers.push(marker.key);
                }
                let offset = self.length_bytes + group.bytes.len() as u64;
                positions.push(Position { segment: self.segment, offset: u32::try_from(offset).unwrap_or(u32::MAX) });
                frame::write_record(&mut group.bytes, group.next_sequence, self.length_bytes, body);
                group.next_sequence += 1;
            }
            group.done.push((request, positions));
        }
        group
    }

    fn store(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.medium.append(bytes) {
            return Err(match self.medium.truncate(self.length_bytes) {
                Ok(()) => write_error(&error),
                Err(second) => JournalError::Stopped(format!("{error}; and cutting the rest off failed: {second}")),
            });
        }
        // After a failed synchronisation nobody knows which pages are on the disk, and trying again would not tell.
        self.medium.sync().map_err(|error| JournalError::Stopped(format!("synchronising failed: {error}")))
    }

    /// After a failure nothing more is stored: callers count in memory what they asked to store, so a later record would
    /// stand on one that is not there. What is on the disk is whole, and the owner begins again from it.
    fn fail(&mut self, error: JournalError) -> JournalError {
        self.metrics.failures.inc();
        tracing::error!(%error, "journal group not stored; the journal stops");
        self.stopped = Some(match &error {
            JournalError::Stopped(why) => why.clone(),
            other => other.to_string(),
        });
        self.failed.send_replace(Some(error.clone()));
        error
    }

    fn acknowledge(&mut self, group: Group) {
        if !group.bytes.is_empty() {
            self.length_bytes += group.bytes.len() as u64;
            self.metrics.groups.inc();
            self.metrics.bytes.inc_by(group.bytes.len() as u64);
            self.metrics.records.inc_by(group.next_sequence - self.next_sequence);
            self.next_sequence = group.next_sequence;
            if let Err(error) = self.head.write(self.next_sequence) {
                // The head only helps to tell damage from a torn tail; the records themselves are safe.
                tracing::warn!(%error, "journal head not written");
            }
        }
        let mut index = self.index.write();
        for (request, positions) in &group.done {
            for ((at, record, _), position) in request.records.iter().zip(positions) {
                index.apply(*position, *at, record);
            }
        }
        drop(index);
        for (request, positions) in group.done {
            // A caller that stopped waiting does not change what is stored.
            let _ = request.reply.send(Ok(Some(positions)));
        }
        for request in group.known {
            let _ = request.reply.send(Ok(None));
        }
    }

    fn rotate_if_full(&mut self, group_bytes: usize) -> io::Result<()> {
        let begun = self.length_bytes > SEGMENT_HEADER_BYTES as u64;
        if !begun || self.length_bytes + group_bytes as u64 <= self.segment_bytes {
            return Ok(());
        }
        let file = segment::create(&self.folder, self.segment + 1, self.next_sequence)?;
        self.medium = (self.wrap)(file);
        self.segment += 1;
        self.length_bytes = SEGMENT_HEADER_BYTES as u64;
        Ok(())
    }
}

fn request_bytes(request: &Request) -> usize {
    request.records.iter().map(|(_, _, body)| body.len() + RECORD_HEADER_BYTES).sum()
}

fn refuse(requests: Vec<Request>, error: &JournalError) {
    for request in requests {
        let _ = request.reply.send(Err(error.clone()));
    }
}

fn write_error(error: &io::Error) -> JournalError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => JournalError::DiskFull,
        _ => JournalError::Write(error.to_string()),
    }
}

fn open_for_append(path: &std::path::Path, valid_bytes: u64, cut: bool) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    if cut {
        file.set_len(valid_bytes)?;
        file.sync_all()?;
    }
    file.seek(SeekFrom::Start(valid_bytes))?;
    Ok(file)
}

/// Copies the bytes that will be cut off to a file beside the segment, so that even they are not lost.
fn keep_torn_tail(folder: &std::path::Path, tail: &Tail) -> io::Result<()> {
    let bytes = std::fs::read(segment::segment_path(folder, tail.segment))?;
    let from = usize::try_from(tail.valid_bytes).unwrap_or(usize::MAX);
    let torn = bytes.get(from..).unwrap_or_default();
    std::fs::write(folder.join(format!("torn-{:08}-{}.bin", tail.segment, tail.valid_bytes)), torn)
}
