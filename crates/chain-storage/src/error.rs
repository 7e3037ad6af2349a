//! Errors by operation. Each says what was expected and what was found; `hint` says what a person can do about it.

use alloy_primitives::B256;
use std::io;
use std::path::{Path, PathBuf};

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder.
    #[error("data folder {} is in use by process {}", .folder.display(), .pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()))]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process that wrote its id into the lock file.
        pid: Option<u32>,
    },
    /// The folder or a file in it cannot be written.
    #[error("data folder {} cannot be written: {source}", .path.display())]
    NotWritable {
        /// What could not be written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk is full.
    #[error("no space left on the disk of {}", .path.display())]
    DiskFull {
        /// What could not be written.
        path: PathBuf,
    },
    /// Another failure of the file system.
    #[error("file system error at {}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The database file is damaged or cut short.
    #[error("database {} is damaged: {what}", .path.display())]
    DatabaseDamaged {
        /// The file.
        path: PathBuf,
        /// What the database engine found.
        what: String,
    },
    /// A segment file ends before a block that the database has as final.
    #[error("segment file {} has {found} bytes, but final blocks need {expected}", .path.display())]
    SegmentTruncated {
        /// The file.
        path: PathBuf,
        /// Bytes that final blocks take.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The segments end, or are damaged, before a block that was acknowledged as final and that the database does not hold yet.
    #[error(
        "blocks that were final are lost: {} is whole up to byte {whole}, and records were acknowledged up to byte {expected} of segment {expected_segment}",
        .path.display()
    )]
    AcknowledgedLost {
        /// The file whose next record is not whole.
        path: PathBuf,
        /// Up to where it is.
        whole: u64,
        /// The segment up to which records were acknowledged.
        expected_segment: u32,
        /// The same in bytes of that segment.
        expected: u64,
    },
    /// A segment record that the database has as final does not match its checksum or does not decode.
    #[error("record of block {height} is damaged: {what}")]
    RecordDamaged {
        /// The block's height.
        height: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The folder belongs to another chain.
    #[error("data folder holds the chain with genesis {found}, but this chain's genesis is {expected}")]
    WrongGenesis {
        /// The genesis hash asked for.
        expected: B256,
        /// The genesis hash in the folder.
        found: B256,
    },
    /// The folder was written by another version of the format.
    #[error("data folder has format {found}, this build reads format {expected}")]
    Format {
        /// The format of this build.
        expected: String,
        /// The format in the folder.
        found: String,
    },
    /// The folder holds no chain and none was given.
    #[error("data folder {} holds no chain", .folder.display())]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// The state on disk does not have the root that the header of the tip promises.
    #[error("state of block {height} has root {found}, its header says {expected}")]
    StateRoot {
        /// The height of the tip.
        height: u64,
        /// The header's root.
        expected: B256,
        /// The root of the state on disk.
        found: B256,
    },
}

impl OpenError {
    /// Whether what is wrong is in the database, all of which follows from the blocks.
    pub(crate) fn is_of_the_database(&self) -> bool {
        matches!(self, Self::DatabaseDamaged { .. } | Self::StateRoot { .. })
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "stop that process, or give this one another --datadir",
            Self::NotWritable { .. } => "check the owner and the permissions of the folder, or give another --datadir",
            Self::DiskFull { .. } => "free some space, then start again: nothing final was lost",
            Self::Io { .. } => "check the disk and the path",
            Self::DatabaseDamaged { .. }
            | Self::SegmentTruncated { .. }
            | Self::AcknowledgedLost { .. }
            | Self::RecordDamaged { .. } => {
                "move the folder away and sync again, or restore a copy that was taken while the node was stopped"
            }
            Self::WrongGenesis { .. } => "use the chain spec this folder was made with, or another --datadir",
            Self::Format { .. } => "use the build that wrote the folder, or another --datadir and sync again",
            Self::Empty { .. } => "start the node once with a chain spec, it makes the folder",
            Self::StateRoot { .. } => "the disk or the file is damaged: move the folder away and sync again",
        }
    }

    /// Sorts an error of the file system by what a person can do about it.
    pub(crate) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::NotWritable { path, source },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { path, source },
        }
    }
}

/// Why something stored could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The state of that height is no longer, or not yet, kept.
    #[error("state of block {height} is not available, states of {oldest}..={newest} are")]
    StateNotKept {
        /// The height asked for.
        height: u64,
        /// The oldest height kept.
        oldest: u64,
        /// The head.
        newest: u64,
    },
    /// The database failed.
    #[error("database error: {0}")]
    Database(String),
    /// A segment file failed.
    #[error("segment error at {}: {source}", .path.display())]
    Segment {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A record does not match its checksum or does not decode.
    #[error("record of block {height} is damaged: {what}")]
    Damaged {
        /// The block's height.
        height: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// Why a block was not committed. The store stays at its old head.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The block does not stand on the head.
    #[error("block {height} with parent {parent} does not stand on the head {head_height} {head}")]
    NotOnHead {
        /// The block's height.
        height: u64,
        /// Its parent's hash.
        parent: B256,
        /// The head's height.
        head_height: u64,
        /// The head's hash.
        head: B256,
    },
    /// The state after the block is not the one its header promises.
    #[error("block {height} has state root {found}, its header says {expected}")]
    StateRoot {
        /// The block's height.
        height: u64,
        /// The header's root.
        expected: B256,
        /// The root after execution.
        found: B256,
    },
    /// The certificate is for another block.
    #[error("certificate is for block {found}, not for {expected}")]
    Certificate {
        /// The block's hash.
        expected: B256,
        /// The hash in the certificate.
        found: B256,
    },
    /// The disk is full. The block is not lost: commit it again when there is space.
    #[error("no space left on the disk of {}", .path.display())]
    DiskFull {
        /// What could not be written.
        path: PathBuf,
    },
    /// The segment file failed.
    #[error("segment error at {}: {source}", .path.display())]
    Segment {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The database failed.
    #[error("database error: {0}")]
    Database(String),
    /// Something of the head, needed for its history, could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl CommitError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::DiskFull { .. } => "free some space and start again: no final block is lost",
            Self::Segment { .. } | Self::Database(_) | Self::Read(_) => "check the disk, then start again",
            Self::NotOnHead { .. } | Self::StateRoot { .. } | Self::Certificate { .. } => {
                "this is a fault of the node: please report it with the log"
            }
        }
    }

    /// Sorts an error of the file system by what a person can do about it.
    pub(crate) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Segment { path, source },
        }
    }
}
