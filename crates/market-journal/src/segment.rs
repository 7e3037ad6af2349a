//! Files: finding the segments, reading them whole, the acknowledged head, and the writer's lock.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use trellis_primitives::UnixMs;

use crate::error::JournalOpenError;
use crate::frame::{self, At, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SegmentHeaderFault};
use crate::index::Position;
use crate::record::Record;

const HEAD_FILE: &str = "head";
const HEAD_MAGIC: [u8; 8] = *b"TRLSJHD1";
const HEAD_BYTES: usize = 20;
const LOCK_FILE: &str = "lock";
const SEGMENT_PREFIX: &str = "journal-";
const SEGMENT_SUFFIX: &str = ".trj";

/// What a replay found at the end of the last segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) segment: u32,
    pub(crate) valid_bytes: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) whole_records_lost: usize,
    pub(crate) next_sequence: u64,
}

/// The path of a segment.
pub(crate) fn segment_path(folder: &Path, segment: u32) -> PathBuf {
    folder.join(format!("{SEGMENT_PREFIX}{segment:08}{SEGMENT_SUFFIX}"))
}

/// The segments' numbers in a folder, ascending. A folder that does not exist has none.
pub(crate) fn list(folder: &Path) -> Result<Vec<u32>, JournalOpenError> {
    let io = |source| JournalOpenError::Io { action: "listing", path: folder.to_path_buf(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(io)?.file_name();
        let number =
            name.to_str().and_then(|n| n.strip_prefix(SEGMENT_PREFIX)).and_then(|n| n.strip_suffix(SEGMENT_SUFFIX));
        found.extend(number.and_then(|n| n.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Takes the writer's lock; it is free again when the file is dropped or the process ends.
pub(crate) fn lock(folder: &Path) -> Result<File, JournalOpenError> {
    let read_only = |source| JournalOpenError::ReadOnly { path: folder.to_path_buf(), source };
    fs::create_dir_all(folder).map_err(read_only)?;
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(read_only)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalOpenError::InUse { path: folder.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(JournalOpenError::Io { action: "locking", path, source }),
    }
}

/// Makes a folder's entries durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates a segment with its header, durable with its folder entry.
pub(crate) fn create(folder: &Path, segment: u32, first_sequence: u64) -> io::Result<File> {
    let path = segment_path(folder, segment);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    file.write_all(&frame::segment_header(first_sequence))?;
    file.sync_all()?;
    sync_folder(folder)?;
    Ok(file)
}

/// The record count that had been acknowledged when the file was last written: after every group, without a
/// synchronisation of its own. It can lag behind after a power cut, and it can never be ahead.
pub(crate) struct Head(File);

impl Head {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(HEAD_FILE);
        OpenOptions::new().create(true).truncate(false).write(true).open(path).map(Self)
    }

    pub(crate) fn write(&self, next_sequence: u64) -> io::Result<()> {
        let mut bytes = [0u8; HEAD_BYTES];
        bytes[..8].copy_from_slice(&HEAD_MAGIC);
        bytes[8..16].copy_from_slice(&next_sequence.to_be_bytes());
        let crc = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&crc.to_be_bytes());
        self.0.write_all_at(&bytes, 0)
    }
}

/// The acknowledged record count, if its file is there and whole.
pub(crate) fn read_head(folder: &Path) -> Option<u64> {
    let bytes = fs::read(folder.join(HEAD_FILE)).ok()?;
    let bytes: [u8; HEAD_BYTES] = bytes.try_into().ok()?;
    let crc = u32::from_be_bytes(bytes[16..].try_into().ok()?);
    let whole = bytes[..8] == HEAD_MAGIC && crc32fast::hash(&bytes[..16]) == crc;
    whole.then(|| bytes[8..16].try_into().ok().map(u64::from_be_bytes)).flatten()
}

/// Reads a whole segment; its size is bounded by the configuration that wrote it.
pub(crate) fn load(folder: &Path, segment: u32) -> Result<Bytes, JournalOpenError> {
    let path = segment_path(folder, segment);
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|source| JournalOpenError::Io { action: "reading", path, source })?;
    Ok(Bytes::from(bytes))
}

/// Replays every segment of a folder, oldest first, and says what stands at the end.
///
/// With `upto`, stops before that sequence and expects to get there: what a reader beside a running writer may see.
pub(crate) fn replay(
    folder: &Path,
    from: Tail,
    upto: Option<u64>,
    visit: &mut dyn FnMut(Position, UnixMs, Record),
) -> Result<Tail, JournalOpenError> {
    let segments = list(folder)?;
    let acknowledged = upto.or_else(|| read_head(folder));
    let mut tail = from;
    let last = segments.last().copied().unwrap_or(0);
    let first = tail.segment;
    for segment in segments.into_iter().filter(|segment| *segment >= first) {
        if upto.is_some_and(|limit| tail.next_sequence >= limit) {
            break;
        }
        let bytes = load(folder, segment)?;
        let start = if segment == tail.segment { tail.valid_bytes } else { 0 };
        let walk = Walk { folder, segment, bytes, is_last: segment == last, acknowledged, upto };
        tail = walk.run(start, tail.next_sequence, visit)?;
    }
    match acknowledged {
        Some(acknowledged) if acknowledged > tail.next_sequence => Err(JournalOpenError::Damaged {
            path: segment_path(folder, tail.segment),
            offset: tail.valid_bytes,
            sequence: tail.next_sequence,
        }),
        _ => Ok(tail),
    }
}

/// One segment being replayed.
struct Walk<'a> {
    folder: &'a Path,
    segment: u32,
    bytes: Bytes,
    is_last: bool,
    acknowledged: Option<u64>,
    upto: Option<u64>,
}

impl Walk<'_> {
    fn path(&self) -> PathBuf {
        segment_path(self.folder, self.segment)
    }

    fn tail(&self, valid_bytes: usize, next_sequence: u64, whole_records_lost: usize) -> Tail {
        let torn_bytes = self.bytes.len().saturating_sub(valid_bytes) as u64;
        Tail { segment: self.segment, valid_bytes: valid_bytes as u64, torn_bytes, whole_records_lost, next_sequence }
    }

    fn run(
        &self,
        start: u64,
        expected: u64,
        visit: &mut dyn FnMut(Position, UnixMs, Record),
    ) -> Result<Tail, JournalOpenError> {
        let mut sequence = expected;
        let mut offset = usize::try_from(start).unwrap_or(usize::MAX);
        if offset == 0 {
            match self.begin(expected)? {
                Some(after_header) => offset = after_header,
                None => return Ok(self.tail(0, sequence, 0)),
            }
        }
        loop {
            if self.upto.is_some_and(|limit| sequence >= limit) {
                return Ok(Tail { torn_bytes: 0, ..self.tail(offset, sequence, 0) });
            }
            match frame::read_at(&self.bytes, offset, sequence) {
                At::End => return Ok(self.tail(offset, sequence, 0)),
                At::Record { body, next, .. } => {
                    let (at, record) = Record::decode_body(&body).map_err(|fault| JournalOpenError::NotUnderstood {
                        path: self.path(),
                        offset: offset as u64,
                        fault,
                    })?;
                    visit(self.position(offset), at, record);
                    sequence += 1;
                    offset = next;
                }
                At::Torn { whole_records_lost } => return self.torn(offset, sequence, whole_records_lost),
                At::Damaged { .. } => return Err(self.damaged(offset, sequence)),
            }
        }
    }

    /// Checks the segment's header. `None` for a last segment whose creation a crash cut short.
    fn begin(&self, expected: u64) -> Result<Option<usize>, JournalOpenError> {
        match frame::parse_segment_header(&self.bytes) {
            Ok(first) if first == expected => Ok(Some(SEGMENT_HEADER_BYTES)),
            Ok(found) => Err(JournalOpenError::Gap { path: self.path(), expected, found }),
            Err(SegmentHeaderFault::Short) if self.is_last => Ok(None),
            Err(SegmentHeaderFault::Version(found)) => {
                Err(JournalOpenError::Version { path: self.path(), found, expected: SEGMENT_VERSION })
            }
            Err(SegmentHeaderFault::Magic) => Err(JournalOpenError::NotAJournal { path: self.path() }),
            Err(SegmentHeaderFault::Short | SegmentHeaderFault::Checksum) => Err(self.damaged(0, expected)),
        }
    }

    fn torn(&self, offset: usize, sequence: u64, lost: usize) -> Result<Tail, JournalOpenError> {
        // A segment gets a successor only after its last group was synchronised, so nothing in it can be torn.
        if !self.is_last || self.acknowledged.is_some_and(|acknowledged| sequence < acknowledged) {
            return Err(self.damaged(offset, sequence));
        }
        Ok(self.tail(offset, sequence, lost))
    }

    fn damaged(&self, offset: usize, sequence: u64) -> JournalOpenError {
        JournalOpenError::Damaged { path: self.path(), offset: offset as u64, sequence }
    }

    fn position(&self, offset: usize) -> Position {
        // A segment is at most SEGMENT_BYTES_MAX plus one group, far below 4 GiB.
        Position { segment: self.segment, offset: u32::try_from(offset).unwrap_or(u32::MAX) }
    }
}

/// Reads one record back; `Ok(None)` when the bytes there are no whole record.
pub(crate) fn read_one(path: &Path, offset: u32) -> io::Result<Option<(UnixMs, Record)>> {
    let file = File::open(path)?;
    let mut header = [0u8; RECORD_HEADER_BYTES];
    let read = file.read_exact_at(&mut header, u64::from(offset));
    match read {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let Some(parsed) = frame::parse_record_header(&header) else { return Ok(None) };
    let mut body = vec![0u8; parsed.body_bytes];
    file.read_exact_at(&mut body, u64::from(offset) + RECORD_HEADER_BYTES as u64)?;
    if crc32fast::hash(&body) != parsed.body_crc {
        return Ok(None);
    }
    Ok(Record::decode_body(&body).ok())
}
