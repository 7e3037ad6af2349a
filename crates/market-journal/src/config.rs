//! Where a journal lives and how large its pieces may grow.

use std::path::PathBuf;

/// A segment is closed when the next group would pass this many bytes.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// The smallest segment size that a configuration may ask for, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 4 * 1024;
/// The largest segment size that a configuration may ask for, in bytes: positions hold 32-bit offsets.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Jobs whose place is kept in memory; older finished ones are found by a scan.
pub const JOBS_INDEXED_DEFAULT: usize = 1_000_000;

/// Promises of aggregators that are kept in memory, about 300 bytes each; further ones are in the journal alone.
pub const PROMISES_INDEXED_MAX: usize = 262_144;

/// A journal's settings.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// The folder of the journal; made if it does not exist.
    pub folder: PathBuf,
    /// Size in bytes after which a new segment begins.
    pub segment_bytes: u64,
    /// Jobs whose place is kept in memory.
    pub jobs_indexed: usize,
}

impl JournalConfig {
    /// The defaults, in a folder.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), segment_bytes: SEGMENT_BYTES_DEFAULT, jobs_indexed: JOBS_INDEXED_DEFAULT }
    }

    /// The segment size within its bounds, in bytes.
    pub(crate) fn segment_bytes_bounded(&self) -> u64 {
        self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }
}
