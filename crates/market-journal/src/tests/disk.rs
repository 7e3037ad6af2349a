//! Disks that are full, broken, read-only or taken.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{clock, config, job, opened};
use crate::writer::Medium;
use crate::{Journal, JournalConfig, JournalError, JournalOpenError, JournalReader};

/// What the disk does: 0 works, 1 takes half of a write and is full, 2 fails to synchronise.
#[derive(Clone, Default)]
struct Mood(Arc<AtomicU8>);

struct Moody(File, Mood);

impl Medium for Moody {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.1.0.load(Ordering::SeqCst) == 1 {
            Medium::append(&mut self.0, &bytes[..bytes.len() / 2])?;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Medium::append(&mut self.0, bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        if self.1.0.load(Ordering::SeqCst) == 2 {
            return Err(io::Error::other("the disk is gone"));
        }
        Medium::sync(&mut self.0)
    }
    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        Medium::truncate(&mut self.0, bytes)
    }
}

fn open(config: &JournalConfig, mood: &Mood) -> Journal {
    let mood = mood.clone();
    Journal::open_with(config, clock(), Box::new(move |file| Box::new(Moody(file, mood.clone())))).unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_the_record_and_all_after_it_until_the_journal_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let mood = Mood::default();
    let journal = open(&config(&folder), &mood);
    journal.append(opened(1, 5)).await.unwrap();
    mood.0.store(1, Ordering::SeqCst);
    assert!(matches!(journal.append(opened(2, 5)).await, Err(JournalError::DiskFull)));
    assert!(matches!(journal.failed().await, JournalError::DiskFull), "its owner hears of it");
    mood.0.store(0, Ordering::SeqCst);
    assert!(matches!(journal.append(opened(3, 5)).await, Err(JournalError::Stopped(_))));
    journal.close().await;
    let journal = open(&config(&folder), &mood);
    assert_eq!(journal.report().torn_bytes, 0, "the half of the record that was written was cut off");
    journal.append(opened(3, 5)).await.unwrap();
    journal.close().await;
    let reader = JournalReader::open(&config(&folder)).unwrap();
    let jobs: Vec<_> = reader.index().jobs().map(|(id, _)| *id).collect();
    assert_eq!(jobs, [job(1), job(3)]);
}

#[tokio::test]
async fn after_a_failed_synchronisation_nothing_more_is_promised() {
    let folder = tempfile::tempdir().unwrap();
    let mood = Mood::default();
    let journal = open(&config(&folder), &mood);
    mood.0.store(2, Ordering::SeqCst);
    assert!(matches!(journal.append(opened(1, 5)).await, Err(JournalError::Stopped(_))));
    mood.0.store(0, Ordering::SeqCst);
    assert!(matches!(journal.append(opened(2, 5)).await, Err(JournalError::Stopped(_))));
    assert_eq!(journal.index().records(), 0);
}

#[tokio::test]
async fn a_journal_has_one_writer_and_is_free_again_when_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    let second = Journal::open(&config(&folder), clock());
    assert!(matches!(second, Err(JournalOpenError::InUse { .. })));
    journal.close().await;
    assert!(matches!(journal.append(opened(1, 5)).await, Err(JournalError::Closed)));
    Journal::open(&config(&folder), clock()).unwrap();
}

#[tokio::test]
async fn a_read_only_folder_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o555)).unwrap();
    // The superuser may write everywhere; a file in the folder's place refuses even them.
    let writable_anyway = File::create(inner.join("probe")).is_ok();
    let target = if writable_anyway { folder.path().join("a-file") } else { inner.join("journal") };
    if writable_anyway {
        File::create(&target).unwrap();
    }
    let refused = Journal::open(&JournalConfig::new(&target), clock());
    assert!(matches!(refused, Err(JournalOpenError::ReadOnly { .. })));
}

#[test]
fn a_reader_says_when_there_is_no_journal() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(JournalReader::open(&config(&folder)), Err(JournalOpenError::Missing { .. })));
}
