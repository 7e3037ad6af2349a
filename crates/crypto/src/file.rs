//! Small files that are replaced whole, and moved aside when they cannot be read.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The name with something behind it: two files of a folder never share it, whatever their extensions.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Replaces a file durably: at any moment the old or the new one is there whole. Only its owner may read it (mode 0600).
///
/// # Errors
/// The system's.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = beside(path, ".partial");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

/// Moves a file that cannot be used out of the way, so that nothing is lost and a start goes on; an earlier one that lies
/// there is replaced. Returns where it is now.
///
/// # Errors
/// The system's.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, ".damaged");
    fs::rename(path, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_differ_in_their_extension_only_do_not_touch_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("peers.json"), folder.path().join("peers.book"));
        // What the other file's writer has on the disk at this moment.
        let half = beside(&other, ".partial");
        fs::write(&half, "half").unwrap();
        fs::write(folder.path().join("peers.partial"), "half").unwrap();
        replace(&one, b"one").unwrap();
        replace(&one, b"two").unwrap();
        assert_eq!(fs::read(&one).unwrap(), b"two");
        assert_eq!(fs::read(&half).unwrap(), b"half");
        assert_eq!(fs::read(folder.path().join("peers.partial")).unwrap(), b"half");
        fs::write(&other, "other").unwrap();
        let asides = [set_aside(&one).unwrap(), set_aside(&other).unwrap()];
        assert_eq!(asides.map(|path| fs::read(path).unwrap()), [b"two".to_vec(), b"other".to_vec()]);
        assert!(!one.exists() && !other.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_replaced_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        replace(&path, b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
