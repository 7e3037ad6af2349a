//! Bytes that change or vanish: a clean tail or an error, never a wrong record.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{clock, config, opened, receipt, voucher};
use crate::{Journal, JournalConfig, JournalOpenError, JournalReader, Record};

/// A journal of nine records in three groups, its records, and the offset where each record ends.
fn written(folder: &tempfile::TempDir) -> (JournalConfig, Vec<Record>, Vec<u64>) {
    let config = config(folder);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let groups = [
        vec![opened(1, 5), Record::VoucherReceived(voucher(5, 70, &[(1, 70)]))],
        vec![opened(2, 5), opened(3, 6), Record::JobReceipt(receipt(1, 5, 0, 70))],
        vec![
            Record::JobComplete(receipt(1, 5, 0, 70)),
            Record::VoucherReceived(voucher(6, 5, &[(3, 5)])),
            Record::JobReceipt(receipt(3, 6, 0, 5)),
            Record::JobComplete(receipt(3, 6, 0, 5)),
        ],
    ];
    let mut ends = Vec::new();
    let journal = Journal::open(&config, clock()).unwrap();
    for group in groups.clone() {
        let positions = runtime.block_on(journal.append_all(group)).unwrap();
        ends.extend(positions.iter().map(|p| u64::from(p.offset)));
    }
    runtime.block_on(journal.close());
    ends.remove(0);
    ends.push(std::fs::metadata(segment(&config)).unwrap().len());
    (config, groups.concat(), ends)
}

fn segment(config: &JournalConfig) -> PathBuf {
    crate::segment::segment_path(&config.folder, 1)
}

fn forget_head(config: &JournalConfig) {
    std::fs::remove_file(config.folder.join("head")).unwrap();
}

fn records_of(config: &JournalConfig) -> Vec<Record> {
    let reader = JournalReader::open(config).unwrap();
    let mut found = Vec::new();
    reader
        .scan(|_, _, record| {
            found.push(record);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    found
}

fn change(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    edit(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_file_cut_short_by_a_power_failure_keeps_every_whole_record(cut in 0usize..2_600) {
        let folder = tempfile::tempdir().unwrap();
        let (config, records, ends) = written(&folder);
        let length = usize::try_from(*ends.last().unwrap()).unwrap();
        let cut = cut % length;
        change(&segment(&config), |bytes| bytes.truncate(cut));
        // A power failure may also lose the head, which is never synchronised.
        forget_head(&config);
        let whole = ends.iter().filter(|end| **end <= cut as u64).count();
        let journal = Journal::open(&config, clock()).unwrap();
        prop_assert_eq!(journal.report().records, whole as u64);
        drop(journal);
        prop_assert_eq!(records_of(&config), &records[..whole]);
    }

    #[test]
    fn a_file_that_lost_acknowledged_records_is_refused(cut in 0usize..2_600) {
        let folder = tempfile::tempdir().unwrap();
        let (config, _, ends) = written(&folder);
        let length = usize::try_from(*ends.last().unwrap()).unwrap();
        change(&segment(&config), |bytes| bytes.truncate(cut % length));
        let before = std::fs::read(segment(&config)).unwrap();
        prop_assert!(Journal::open(&config, clock()).is_err());
        prop_assert!(JournalReader::open(&config).is_err());
        prop_assert_eq!(std::fs::read(segment(&config)).unwrap(), before, "nothing may be changed");
    }

    #[test]
    fn a_flipped_bit_never_becomes_a_wrong_record(at in 0usize..2_600, bit in 0u8..8, head_lost: bool) {
        let folder = tempfile::tempdir().unwrap();
        let (config, records, ends) = written(&folder);
        let length = usize::try_from(*ends.last().unwrap()).unwrap();
        let at = at % length;
        change(&segment(&config), |bytes| bytes[at] ^= 1 << bit);
        if head_lost {
            forget_head(&config);
        }
        let opened = Journal::open(&config, clock());
        let in_last_group = at as u64 >= ends[4];
        if !head_lost || !in_last_group {
            prop_assert!(opened.is_err(), "damage to a promised record at byte {} went unseen", at);
            return Ok(());
        }
        // Without the head, the last group might be one that a crash tore: it is cut off and counted.
        let journal = opened.unwrap();
        let kept = usize::try_from(journal.report().records).unwrap();
        prop_assert!((5..9).contains(&kept));
        prop_assert!(journal.report().torn_bytes > 0);
        drop(journal);
        prop_assert_eq!(records_of(&config), &records[..kept]);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Record::decode_body(&bytes);
        let _ = crate::frame::parse_record_header(&bytes);
        let _ = crate::frame::parse_segment_header(&bytes);
    }
}

#[test]
fn the_torn_tail_is_kept_aside_and_the_journal_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (config, _, _) = written(&folder);
    // What a crash in the middle of a write leaves: bytes after the last acknowledged record.
    change(&segment(&config), |bytes| bytes.extend_from_slice(b"TRLR and half of a record"));
    let journal = Journal::open(&config, clock()).unwrap();
    assert_eq!(journal.report().torn_bytes, 25);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(journal.append(opened(9, 5))).unwrap();
    drop(journal);
    assert_eq!(records_of(&config).len(), 10);
    let kept = std::fs::read_dir(&config.folder)
        .unwrap()
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("torn-"))
        .unwrap();
    assert_eq!(std::fs::read(kept.path()).unwrap(), b"TRLR and half of a record");
}

#[test]
fn another_file_or_a_newer_version_in_the_journals_place_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (config, _, _) = written(&folder);
    change(&segment(&config), |bytes| bytes[..8].copy_from_slice(b"SQLite f"));
    assert!(matches!(Journal::open(&config, clock()), Err(JournalOpenError::NotAJournal { .. })));
    change(&segment(&config), |bytes| {
        bytes[..8].copy_from_slice(b"TRLSJRN1");
        bytes[9] = 2;
        let crc = crc32fast::hash(&bytes[..20]);
        bytes[20..24].copy_from_slice(&crc.to_be_bytes());
    });
    assert!(matches!(Journal::open(&config, clock()), Err(JournalOpenError::Version { found: 2, .. })));
}

#[test]
fn a_peers_bytes_that_imitate_a_record_are_not_taken_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let journal = Journal::open(&config, clock()).unwrap();
    let mut imitation = Vec::new();
    crate::frame::write_record(&mut imitation, 7, 1 << 20, b"no body of ours");
    let mut job = receipt(1, 5, 0, 70);
    job.payload = imitation.into();
    runtime.block_on(journal.append(opened(1, 5))).unwrap();
    let at = runtime.block_on(journal.append(Record::JobReceipt(job))).unwrap();
    runtime.block_on(journal.close());
    forget_head(&config);
    // The body's first byte is torn: the bytes inside it must not count as a later record.
    change(&segment(&config), |bytes| bytes[at.offset as usize + 40] ^= 1);
    let journal = Journal::open(&config, clock()).unwrap();
    assert_eq!(journal.report().records, 1);
    assert_eq!(journal.report().torn_records, 0);
}

/// The layout on disk is a promise to every later build: this journal's bytes may never change.
#[test]
fn the_bytes_on_disk_are_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let (config, _, _) = written(&folder);
    let bytes = std::fs::read(segment(&config)).unwrap();
    let digest = trellis_primitives::keccak256(&bytes).to_string();
    assert_eq!(
        (bytes.len(), digest.as_str()),
        (2_241, "0x2b51968100a82d06b51536507cd03259eba28652d09917ef350e586421b14bdf")
    );
}
