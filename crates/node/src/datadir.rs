//! The folder of a node: one process at a time, private to its owner.

use crate::failure::{Failure, cannot_write};
use eyre::Result;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Bytes that a folder must take to count as writable: what the next few records of a node need.
const PROBE_BYTES: usize = 64 * 1024;

/// A data folder that this process holds; the lock goes with the process, however it ends.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the folder where it is missing and locks it.
    ///
    /// # Errors
    /// A [`Failure`] where the folder cannot be written or another process holds it.
    pub fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(|error| {
            Failure::new(format!("cannot make the data folder {}: {error}", path.display()))
                .hint("choose a folder that you may write with --datadir DIR")
        })?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        }
        let file = path.join("lock");
        let in_folder = format!("in the data folder {}", path.display());
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&file)
            .map_err(|error| cannot_write(&in_folder, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                return Err(Failure::new(format!(
                    "the data folder {} is in use by process {}",
                    path.display(),
                    holder.trim()
                ))
                .hint("stop that node first, or choose another --datadir")
                .into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(Failure::new(format!("cannot lock {}: {error}", file.display())).into());
            }
        }
        let noted = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        noted.map_err(|error| cannot_write(&in_folder, &error))?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A place inside it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps a short text under a name; on a full disk the one that is there stays whole.
    ///
    /// # Errors
    /// A [`Failure`] with a hint where the disk is full or the folder is read-only.
    pub fn keep(&self, name: &str, text: &str) -> Result<()> {
        let path = self.join(name);
        if fs::read_to_string(&path).is_ok_and(|kept| kept == text) {
            return Ok(());
        }
        let partial = self.join(&format!("{name}.partial"));
        let kept = fs::write(&partial, text).and_then(|()| fs::rename(&partial, &path));
        kept.map_err(|error| {
            let _ = fs::remove_file(&partial);
            cannot_write(&path.display().to_string(), &error).into()
        })
    }
}

/// Tries whether a folder takes anything more: what stopped a node may not have said that its disk is full.
///
/// # Errors
/// A [`Failure`] with a hint where it does not.
pub fn check_writable(folder: &Path) -> Result<(), Failure> {
    let probe = folder.join("probe.partial");
    let tried = fs::write(&probe, vec![0u8; PROBE_BYTES]);
    let _ = fs::remove_file(&probe);
    tried.map_err(|error| cannot_write(&format!("in the data folder {}", folder.display()), &error))
}

/// The folder that is used where none is given: `~/.trellis/<role>`.
pub fn default_for(role: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    home.join(".trellis").join(role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_another_node_holds_is_refused_with_its_process() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let held = DataDir::open(folder.path()).expect("first");
        let error = DataDir::open(folder.path()).err().expect("second is refused").to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        DataDir::open(folder.path()).expect("free again");
    }
}
