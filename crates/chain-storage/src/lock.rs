//! One process per data folder: an advisory lock on a file that also names its holder.

use crate::OpenError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Held as long as the folder is open; the system releases it when the process dies, however it dies.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    pub(crate) fn acquire(folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join("LOCK");
        let io = |source| OpenError::from_io(&path, source);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The holder may be writing its id at this moment; then the id is simply not known.
                let _ = file.read_to_string(&mut text);
                return Err(OpenError::InUse { folder: folder.to_path_buf(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}
