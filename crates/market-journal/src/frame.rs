//! The bytes of one record on disk, and how a broken tail is told from broken money.
//!
//! ```text
//! record  = marker u32 | body bytes u32 | sequence u64 | group start u64 | body crc u32 | header crc u32 | body
//! segment = magic 8 | version u16 | zero u16 | first sequence u64 | header crc u32 | record*
//! ```
//! All integers are big-endian, all checksums CRC-32 (IEEE). `group start` is the offset in the segment of the first record
//! that was written and synchronised together with this one. When a record cannot be read and a readable one follows it
//! whose group began *after* the unreadable place, then that place had been acknowledged as durable: it is damage, and an
//! error. When nothing readable follows, or only records of the same group, no promise covers it: it is a torn tail.

use bytes::Bytes;

/// The first eight bytes of every segment.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"TRLSJRN1";
/// The version of the segment layout that this build writes and reads.
pub(crate) const SEGMENT_VERSION: u16 = 1;
/// Length of a segment's header in bytes.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 24;
/// Length of a record's header in bytes.
pub(crate) const RECORD_HEADER_BYTES: usize = 32;
/// The longest body that a record may have, in bytes.
pub const RECORD_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

const RECORD_MARKER: [u8; 4] = *b"TRLR";

/// Why a segment's header was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SegmentHeaderFault {
    /// Fewer bytes than a header has.
    Short,
    /// Not a journal at all.
    Magic,
    /// A journal of another version.
    Version(u16),
    /// The checksum differs.
    Checksum,
}

/// A parsed record header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) body_bytes: usize,
    pub(crate) sequence: u64,
    pub(crate) group_start: u64,
    pub(crate) body_crc: u32,
}

/// Reads `N` bytes at `at`; `None` when the slice is too short.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The header of a segment whose first record has `first_sequence`.
pub(crate) fn segment_header(first_sequence: u64) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut out = [0u8; SEGMENT_HEADER_BYTES];
    out[..8].copy_from_slice(&SEGMENT_MAGIC);
    out[8..10].copy_from_slice(&SEGMENT_VERSION.to_be_bytes());
    out[12..20].copy_from_slice(&first_sequence.to_be_bytes());
    let crc = crc32fast::hash(&out[..20]);
    out[20..24].copy_from_slice(&crc.to_be_bytes());
    out
}

/// Reads a segment header and gives the sequence of its first record.
pub(crate) fn parse_segment_header(bytes: &[u8]) -> Result<u64, SegmentHeaderFault> {
    let magic: [u8; 8] = array(bytes, 0).ok_or(SegmentHeaderFault::Short)?;
    if magic != SEGMENT_MAGIC {
        return Err(SegmentHeaderFault::Magic);
    }
    let version = u16::from_be_bytes(array(bytes, 8).ok_or(SegmentHeaderFault::Short)?);
    let first = u64::from_be_bytes(array(bytes, 12).ok_or(SegmentHeaderFault::Short)?);
    let crc = u32::from_be_bytes(array(bytes, 20).ok_or(SegmentHeaderFault::Short)?);
    if crc32fast::hash(&bytes[..20]) != crc {
        return Err(SegmentHeaderFault::Checksum);
    }
    if version != SEGMENT_VERSION {
        return Err(SegmentHeaderFault::Version(version));
    }
    Ok(first)
}

/// Appends one record to `out`.
pub(crate) fn write_record(out: &mut Vec<u8>, sequence: u64, group_start: u64, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&RECORD_MARKER);
    // A body is at most RECORD_BODY_BYTES_MAX (checked where records are accepted), so the length fits 32 bits.
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&group_start.to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(body).to_be_bytes());
    let crc = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&crc.to_be_bytes());
    out.extend_from_slice(body);
}

/// Reads the record header at the start of `bytes`; `None` when it is short or damaged.
pub(crate) fn parse_record_header(bytes: &[u8]) -> Option<RecordHeader> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    if header[..4] != RECORD_MARKER {
        return None;
    }
    let crc = u32::from_be_bytes(array(header, 28)?);
    if crc32fast::hash(&header[..28]) != crc {
        return None;
    }
    let body_bytes = u32::from_be_bytes(array(header, 4)?) as usize;
    if body_bytes > RECORD_BODY_BYTES_MAX {
        return None;
    }
    Some(RecordHeader {
        body_bytes,
        sequence: u64::from_be_bytes(array(header, 8)?),
        group_start: u64::from_be_bytes(array(header, 16)?),
        body_crc: u32::from_be_bytes(array(header, 24)?),
    })
}

/// What stands at one place of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    /// A whole record; the next one begins at `next`.
    Record { header: RecordHeader, body: Bytes, next: usize },
    /// Exactly the end of the bytes.
    End,
    /// Bytes that no promise covers: a write that a crash cut short.
    Torn { whole_records_lost: usize },
    /// Bytes that had been acknowledged and cannot be read any more.
    Damaged { readable_again_at: usize },
}

/// Reads what stands at `offset`, where a record with `sequence` is expected.
pub(crate) fn read_at(segment: &Bytes, offset: usize, sequence: u64) -> At {
    if offset == segment.len() {
        return At::End;
    }
    match whole_record(segment, offset) {
        Some((header, next)) if header.sequence == sequence => {
            let body = segment.slice(offset + RECORD_HEADER_BYTES..next);
            At::Record { header, body, next }
        }
        _ => judge_tail(segment, offset, sequence),
    }
}

/// The record at `offset` if both of its checksums hold.
fn whole_record(segment: &[u8], offset: usize) -> Option<(RecordHeader, usize)> {
    let header = parse_record_header(segment.get(offset..)?)?;
    let body_start = offset.checked_add(RECORD_HEADER_BYTES)?;
    let next = body_start.checked_add(header.body_bytes)?;
    let body = segment.get(body_start..next)?;
    (crc32fast::hash(body) == header.body_crc).then_some((header, next))
}

/// Decides whether an unreadable place is a torn tail or damage, by looking for readable records behind it.
fn judge_tail(segment: &[u8], offset: usize, sequence: u64) -> At {
    let mut at = match parse_record_header(segment.get(offset..).unwrap_or_default()) {
        // The body is peers' bytes and may imitate records, so nothing inside it is evidence of anything.
        Some(header) => offset.saturating_add(RECORD_HEADER_BYTES).saturating_add(header.body_bytes),
        None => offset.saturating_add(1),
    };
    let mut whole_records_lost = 0;
    while let Some(found) = next_marker(segment, at) {
        match whole_record(segment, found) {
            Some((header, next)) => {
                // An older sequence would be a stale block that the file system gave back: it proves nothing.
                if header.sequence >= sequence && header.group_start > offset as u64 {
                    return At::Damaged { readable_again_at: found };
                }
                whole_records_lost += 1;
                at = next;
            }
            None => at = found + 1,
        }
    }
    At::Torn { whole_records_lost }
}

/// The next place at or after `from` where a record's marker stands.
fn next_marker(segment: &[u8], from: usize) -> Option<usize> {
    let tail = segment.get(from..)?;
    tail.windows(RECORD_MARKER.len()).position(|w| w == RECORD_MARKER).map(|i| from + i)
}
