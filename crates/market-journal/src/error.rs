//! What can go wrong with a journal, each with what to do about it.

use std::io;
use std::path::PathBuf;

use crate::record::RecordFault;

/// Why a journal could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalOpenError {
    /// Another process writes to the journal.
    #[error("the journal {} is in use by another process; stop that process, or choose another data folder", .path.display())]
    InUse {
        /// The journal's folder.
        path: PathBuf,
    },
    /// The folder cannot be written to.
    #[error("the journal {} cannot be written to ({source}); make the folder writable for this user", .path.display())]
    ReadOnly {
        /// The journal's folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no journal.
    #[error("there is no journal in {}; the role that owns it has not run yet, or the data folder is another one", .path.display())]
    Missing {
        /// The journal's folder.
        path: PathBuf,
    },
    /// A file of the journal is not a journal.
    #[error("{} is not a journal: its first bytes differ; move the file away if it does not belong here", .path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// A newer build wrote it.
    #[error("{} has journal version {found}, this build knows {expected}; use the build that wrote it", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version on disk.
        found: u16,
        /// The version that this build knows.
        expected: u16,
    },
    /// Bytes that had been promised durable cannot be read.
    #[error("{} is damaged at byte {offset}: record {sequence} had been stored and cannot be read, records after it can; restore the file from a copy, nothing has been changed", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the unreadable record begins.
        offset: u64,
        /// The unreadable record's number.
        sequence: u64,
    },
    /// A segment between two others is missing or cut.
    #[error("{} begins with record {found}, record {expected} was expected; a file of the journal is missing or was cut, restore it from a copy", .path.display())]
    Gap {
        /// The file after the gap.
        path: PathBuf,
        /// The record that should come next.
        expected: u64,
        /// The record that comes next.
        found: u64,
    },
    /// A record's checksums hold, and still this build does not understand it.
    #[error("{} at byte {offset}: {fault}; use the build that wrote it", .path.display())]
    NotUnderstood {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What is wrong.
        fault: RecordFault,
    },
    /// The system refused something else.
    #[error("{action} {} failed: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a record was not stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The record is longer than a record may be.
    #[error("the record has {found} bytes, at most {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        found: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// The disk is full. Nothing of the record was kept, and the journal takes no more until it is opened again.
    #[error(
        "the disk of the journal is full, nothing of the record was stored; free some space, then start the role again"
    )]
    DiskFull,
    /// A write failed. Nothing of the record was kept, and the journal takes no more until it is opened again.
    #[error("writing to the journal failed: {0}")]
    Write(String),
    /// After a failure nothing is stored any more: a later record could stand on one that is not there.
    #[error("the journal stopped after a failure: {0}; restart the role")]
    Stopped(String),
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// Why a stored record could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum JournalReadError {
    /// No such position.
    #[error("there is no record at this position")]
    NoSuchRecord,
    /// The bytes on disk changed since they were indexed.
    #[error("the record at byte {offset} of {} changed on disk since it was stored; restore the file from a copy", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
    },
    /// The system refused.
    #[error("reading {} failed: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
