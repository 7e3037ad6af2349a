//! Append-only files of block records. Each file begins with magic and version, each record with length and checksum.

use crate::OpenError;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Magic and format version at the head of every segment file.
const FILE_MAGIC: [u8; 8] = *b"TRLSEG01";
/// Bytes of a file's head: the magic and the number of the segment.
pub(crate) const FILE_HEAD_BYTES: u64 = 16;
/// Bytes of a record's head: payload length, checksum, height.
pub(crate) const RECORD_HEAD_BYTES: u64 = 16;
/// Bytes of one payload at most: a block at its limit with senders, receipts and diff.
pub(crate) const RECORD_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// Where a record lies; `bytes` includes its head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Location {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

impl Location {
    /// Where the next record begins.
    pub(crate) fn end(&self) -> Cursor {
        Cursor { segment: self.segment, offset: self.offset.saturating_add(u64::from(self.bytes)) }
    }
}

/// A place between records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Cursor {
    pub(crate) segment: u32,
    pub(crate) offset: u64,
}

impl Cursor {
    /// Before the first record of all.
    pub(crate) const START: Self = Self { segment: 0, offset: FILE_HEAD_BYTES };
}

/// Magic and format version of the mark of what was acknowledged.
const MARK_MAGIC: [u8; 8] = *b"TRLMRK01";
/// Bytes of the mark: magic, segment, offset, checksum.
const MARK_BYTES: usize = 24;

enum Medium {
    Folder { folder: PathBuf, open: Mutex<Option<(u32, File)>>, mark: Mutex<Option<File>> },
    Memory(Mutex<Vec<Vec<u8>>>),
}

/// The segment files of a store.
pub(crate) struct Segments {
    medium: Medium,
    bytes_max: u64,
}

fn checksum(height: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&height.to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn file_head(segment: u32) -> Vec<u8> {
    [FILE_MAGIC.as_slice(), &u64::from(segment).to_be_bytes()].concat()
}

/// Where the mark lies, in the folder of the segments.
const MARK_FILE: &str = "acknowledged";

fn mark_of(end: Cursor) -> Vec<u8> {
    let mut bytes = [MARK_MAGIC.as_slice(), &end.segment.to_be_bytes(), &end.offset.to_be_bytes()].concat();
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    bytes
}

/// None where it is not a whole mark.
fn parse_mark(bytes: &[u8]) -> Option<Cursor> {
    let bytes: &[u8; MARK_BYTES] = bytes.try_into().ok()?;
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let body = body.strip_prefix(&MARK_MAGIC)?;
    let (segment, offset) = body.split_first_chunk::<4>()?;
    let end = Cursor { segment: u32::from_be_bytes(*segment), offset: u64::from_be_bytes(offset.try_into().ok()?) };
    (crc32fast::hash(bytes.get(..20)?) == u32::from_be_bytes(*crc)).then_some(end)
}

/// Splits a record's head into payload length, checksum and height.
fn parse_head(head: &[u8]) -> io::Result<(u32, u32, u64)> {
    let number = |from: usize, to: usize| {
        head.get(from..to)
            .map(|bytes| bytes.iter().fold(0_u64, |n, byte| (n << 8) | u64::from(*byte)))
            .ok_or_else(|| invalid("a record's head is cut short"))
    };
    let narrow = |n: u64| u32::try_from(n).map_err(|_| invalid("a record's head is out of range"));
    Ok((narrow(number(0, 4)?)?, narrow(number(4, 8)?)?, number(8, 16)?))
}

/// The height of the first whole record that begins anywhere in these bytes.
fn whole_record_in(bytes: &[u8]) -> Option<u64> {
    let head_bytes = usize::try_from(RECORD_HEAD_BYTES).ok()?;
    (0..bytes.len()).find_map(|from| {
        let rest = bytes.get(from..)?;
        let (length, crc, height) = parse_head(rest).ok()?;
        // No height of a chain takes the upper half of its bytes, and no record is empty: most places end here.
        if length == 0 || height > u64::from(u32::MAX) {
            return None;
        }
        let payload = rest.get(head_bytes..)?.get(..usize::try_from(length).ok()?)?;
        (checksum(height, payload) == crc).then_some(height)
    })
}

impl Segments {
    pub(crate) fn open(folder: &Path, bytes_max: u64) -> Result<Self, OpenError> {
        std::fs::create_dir_all(folder).map_err(|source| OpenError::from_io(folder, source))?;
        let medium = Medium::Folder { folder: folder.to_path_buf(), open: Mutex::new(None), mark: Mutex::new(None) };
        Ok(Self { medium, bytes_max })
    }

    pub(crate) fn in_memory(bytes_max: u64) -> Self {
        Self { medium: Medium::Memory(Mutex::new(Vec::new())), bytes_max }
    }

    pub(crate) fn path(&self, segment: u32) -> PathBuf {
        match &self.medium {
            Medium::Folder { folder, .. } => folder.join(format!("{segment:06}.seg")),
            Medium::Memory(_) => PathBuf::from(format!("memory/{segment:06}.seg")),
        }
    }

    /// Length of a segment; none where there is no such file.
    pub(crate) fn len(&self, segment: u32) -> io::Result<Option<u64>> {
        match &self.medium {
            Medium::Folder { .. } => match std::fs::metadata(self.path(segment)) {
                Ok(metadata) => Ok(Some(metadata.len())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
            Medium::Memory(files) => {
                Ok(files.lock().get(usize::try_from(segment).unwrap_or(usize::MAX)).map(|f| f.len() as u64))
            }
        }
    }

    fn read_at(&self, segment: u32, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; bytes];
        match &self.medium {
            Medium::Folder { .. } => {
                let mut file = File::open(self.path(segment))?;
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(&mut out)?;
            }
            Medium::Memory(files) => {
                let files = files.lock();
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = files
                    .get(usize::try_from(segment).unwrap_or(usize::MAX))
                    .and_then(|file| file.get(from..from.saturating_add(bytes)))
                    .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
                out.copy_from_slice(part);
            }
        }
        Ok(out)
    }

    /// Writes at an offset of a segment, cuts off whatever stood behind it, and syncs where that is wanted.
    fn write_at(&self, segment: u32, offset: u64, bytes: &[u8], sync: bool) -> io::Result<()> {
        match &self.medium {
            Medium::Folder { folder, open, .. } => {
                let mut open = open.lock();
                if open.as_ref().is_none_or(|(number, _)| *number != segment) {
                    if let Some((_, before)) = open.as_ref() {
                        // Nobody syncs it any more once the next one is open.
                        before.sync_data()?;
                    }
                    let path = self.path(segment);
                    let is_new = !path.exists();
                    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
                    if is_new {
                        // The name of a new file is durable only when its folder is synced too.
                        File::open(folder)?.sync_all()?;
                    }
                    *open = Some((segment, file));
                }
                let Some((_, file)) = open.as_mut() else { return Err(invalid("no open segment")) };
                if file.metadata()?.len() != offset {
                    file.set_len(offset)?;
                }
                file.seek(SeekFrom::Start(offset))?;
                file.write_all(bytes)?;
                if sync { file.sync_data() } else { Ok(()) }
            }
            Medium::Memory(files) => {
                let mut files = files.lock();
                let index = usize::try_from(segment).unwrap_or(usize::MAX);
                while files.len() <= index {
                    files.push(Vec::new());
                }
                let file = files.get_mut(index).ok_or_else(|| invalid("no such segment"))?;
                file.truncate(usize::try_from(offset).unwrap_or(usize::MAX));
                file.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Syncs what was appended without being synced.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match &self.medium {
            Medium::Folder { open, .. } => open.lock().as_ref().map_or(Ok(()), |(_, file)| file.sync_data()),
            Medium::Memory(_) => Ok(()),
        }
    }

    /// Appends a record at a place and syncs it where that is wanted; what stood behind the place is cut off.
    pub(crate) fn append(&self, at: Cursor, height: u64, payload: &[u8], sync: bool) -> io::Result<Location> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|length| *length <= RECORD_BYTES_MAX)
            .ok_or_else(|| invalid("a record is over its limit"))?;
        let mut at = at;
        if at.offset >= self.bytes_max {
            at = Cursor { segment: at.segment.saturating_add(1), offset: FILE_HEAD_BYTES };
        }
        let mut bytes = Vec::with_capacity(payload.len().saturating_add(32));
        let mut offset = at.offset;
        if offset <= FILE_HEAD_BYTES {
            offset = 0;
            bytes.extend_from_slice(&file_head(at.segment));
        }
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&checksum(height, payload).to_be_bytes());
        bytes.extend_from_slice(&height.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.write_at(at.segment, offset, &bytes, sync)?;
        let bytes = length.saturating_add(u32::try_from(RECORD_HEAD_BYTES).unwrap_or(16));
        Ok(Location { segment: at.segment, offset: at.offset, bytes })
    }

    /// Marks everything before a place as acknowledged: a record that is damaged there was not torn by a stop, it was lost.
    ///
    /// The mark is not synced. A kill leaves it; a power cut may leave an older one, which then tells less and nothing wrong,
    /// because the records before it were synced first.
    pub(crate) fn acknowledge(&self, end: Cursor) -> io::Result<()> {
        let Medium::Folder { folder, mark, .. } = &self.medium else { return Ok(()) };
        let mut mark = mark.lock();
        if mark.is_none() {
            let path = folder.join(MARK_FILE);
            *mark = Some(OpenOptions::new().write(true).create(true).truncate(false).open(path)?);
        }
        let Some(file) = mark.as_mut() else { return Err(invalid("no open mark")) };
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&mark_of(end))
    }

    /// Up to where records were acknowledged, as far as that is known.
    pub(crate) fn acknowledged(&self) -> io::Result<Option<Cursor>> {
        let Medium::Folder { folder, .. } = &self.medium else { return Ok(None) };
        match std::fs::read(folder.join(MARK_FILE)) {
            Ok(bytes) => Ok(parse_mark(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Cuts off everything behind a place, of its segment and of all later ones.
    pub(crate) fn truncate(&self, at: Cursor) -> io::Result<()> {
        if self.len(at.segment)?.is_some_and(|len| len > at.offset) {
            self.write_at(at.segment, at.offset, &[], true)?;
        }
        let mut later = at.segment.saturating_add(1);
        while self.len(later)?.is_some_and(|len| len > 0) {
            match &self.medium {
                Medium::Folder { .. } => std::fs::remove_file(self.path(later))?,
                Medium::Memory(_) => self.write_at(later, 0, &[], true)?,
            }
            later = later.saturating_add(1);
        }
        Ok(())
    }

    /// The payload of a record, checked.
    pub(crate) fn read(&self, location: Location, height: u64) -> io::Result<Vec<u8>> {
        let bytes = usize::try_from(location.bytes).map_err(|_| invalid("a record is over its limit"))?;
        let mut record = self.read_at(location.segment, location.offset, bytes)?;
        let (length, crc, found) = parse_head(&record)?;
        let payload = record.split_off(usize::try_from(RECORD_HEAD_BYTES).unwrap_or(16));
        if found != height || payload.len() as u64 != u64::from(length) || checksum(height, &payload) != crc {
            return Err(invalid("the checksum of a record does not match"));
        }
        Ok(payload)
    }

    /// The height of some whole record behind a place where none begins; none where nothing but a torn one is left.
    pub(crate) fn later_record(&self, at: Cursor) -> io::Result<Option<u64>> {
        let mut at = at;
        while let Some(len) = self.len(at.segment)? {
            let rest = usize::try_from(len.saturating_sub(at.offset)).map_err(|_| invalid("a segment is too long"))?;
            if let Some(height) = whole_record_in(&self.read_at(at.segment, at.offset.min(len), rest)?) {
                return Ok(Some(height));
            }
            at = Cursor { segment: at.segment.saturating_add(1), offset: FILE_HEAD_BYTES };
        }
        Ok(None)
    }

    /// The whole record that begins at a place; none where the file ends or the record is torn.
    pub(crate) fn next_record(&self, at: Cursor) -> io::Result<Option<(Location, u64, Vec<u8>)>> {
        let mut at = at;
        if at.offset >= self.bytes_max {
            at = Cursor { segment: at.segment.saturating_add(1), offset: FILE_HEAD_BYTES };
        }
        let Some(len) = self.len(at.segment)? else { return Ok(None) };
        if len < at.offset.saturating_add(RECORD_HEAD_BYTES) {
            return Ok(None);
        }
        if at.offset == FILE_HEAD_BYTES && self.read_at(at.segment, 0, 16)? != file_head(at.segment) {
            return Err(invalid("the file does not begin like a segment of this format"));
        }
        let (length, _, height) = parse_head(&self.read_at(at.segment, at.offset, 16)?)?;
        let bytes = u64::from(length).saturating_add(RECORD_HEAD_BYTES);
        if length > RECORD_BYTES_MAX || len < at.offset.saturating_add(bytes) {
            return Ok(None);
        }
        let bytes = u32::try_from(bytes).map_err(|_| invalid("a record is over its limit"))?;
        let location = Location { segment: at.segment, offset: at.offset, bytes };
        match self.read(location, height) {
            Ok(payload) => Ok(Some((location, height, payload))),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(error),
        }
    }
}
