//! Small disks that can be filled and made read-only: a tmpfs each, unmounted however the test ends.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// The file that takes all the space.
const FILLER: &str = "filler";
/// Bytes of one write while filling.
const FILL_BYTES: usize = 64 * 1024;

/// A mounted tmpfs.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one of so many MiB; the gate runs as root, and so must whoever runs this test.
    pub fn new(mib: u32) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let disk = Self { folder };
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]);
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let open = std::fs::File::options().create(true).append(true).open(self.path().join(FILLER));
        let mut filler = open.expect("the filler opens");
        let mut bytes = FILL_BYTES;
        while bytes > 0 {
            match filler.write(&vec![0xf1; bytes]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => bytes /= 2,
                Err(error) => panic!("filling {}: {error}", self.path().display()),
            }
        }
    }

    /// Frees what [`SmallDisk::fill`] took.
    pub fn free(&self) {
        std::fs::remove_file(self.path().join(FILLER)).expect("the filler is removed");
    }

    /// Makes it read-only; nobody may have a file open for writing.
    pub fn make_read_only(&self) {
        self.mount(&["-o", "remount,ro"]);
    }

    /// Makes it writable again.
    pub fn make_writable(&self) {
        self.mount(&["-o", "remount,rw"]);
    }

    /// A folder for a network whose role has its data here.
    pub fn folder_with(&self, role: &str) -> TempDir {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::os::unix::fs::symlink(self.path(), folder.path().join(role)).expect("a link");
        folder
    }

    fn mount(&self, arguments: &[&str]) {
        let output = Command::new("mount").args(arguments).arg(self.path()).output().expect("mount runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "mount {arguments:?} failed: {complaint}; this test mounts a small disk and must be run as root, as the gate is"
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is just being killed may still be in it.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
