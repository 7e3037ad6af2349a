//! What is appended is there again after a restart, and once only.

use std::sync::Arc;
use std::time::Instant;

use super::{channel, clock, config, job, opened, receipt, voucher};
use crate::{
    BatchPhase, JobPhase, Journal, JournalConfig, JournalOpenError, JournalReader, Payout, Promise, PromisesChecked,
    Record, SEGMENT_BYTES_MIN,
};
use trellis_primitives::{Address, B256, Bytes, Wei};

// row: MKT-21
#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    journal.append(opened(1, 5)).await.unwrap();
    journal.append(Record::VoucherReceived(voucher(5, 70, &[(1, 70)]))).await.unwrap();
    journal.append(Record::VoucherReceived(voucher(5, 100, &[(1, 20), (2, 10)]))).await.unwrap();
    journal.append(Record::JobReceipt(receipt(1, 5, 0, 90))).await.unwrap();
    let complete = journal.append(Record::JobComplete(receipt(1, 5, 0, 90))).await.unwrap();
    drop(journal);

    let journal = Journal::open(&config(&folder), clock()).unwrap();
    assert_eq!(journal.report().records, 5);
    assert_eq!(journal.report().torn_bytes, 0);
    let index = journal.index();
    let state = index.channel(channel(5)).unwrap();
    assert_eq!(state.voucher.as_ref().unwrap().cumulative, Wei(100));
    assert_eq!(state.increments, Wei(100));
    assert_eq!(state.next_sequence, 1);
    let one = index.job(job(1)).unwrap();
    assert_eq!((one.phase, one.signed, one.cost), (JobPhase::Complete, Wei(90), Some(Wei(90))));
    assert_eq!(one.receipt_at, Some(complete));
    assert_eq!(index.job(job(2)).unwrap().signed, Wei(10));
    assert_eq!(index.job_by_sequence(channel(5), 0), Some(job(1)));
    assert_eq!(index.job_by_receipt_hash(receipt(1, 5, 0, 90).hash), Some(job(1)));
    drop(index);
    assert_eq!(journal.read(complete).unwrap().1, Record::JobComplete(receipt(1, 5, 0, 90)));
}

#[tokio::test]
async fn a_lower_voucher_or_an_earlier_form_of_a_receipt_never_replaces_a_better_one() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    let records = vec![
        Record::VoucherSent(voucher(5, 100, &[])),
        Record::VoucherSent(voucher(5, 60, &[])),
        Record::JobComplete(receipt(1, 5, 0, 90)),
        Record::JobReceipt(receipt(1, 5, 0, 90)),
    ];
    journal.append_all(records).await.unwrap();
    let index = journal.index();
    assert_eq!(index.channel(channel(5)).unwrap().voucher.as_ref().unwrap().cumulative, Wei(100));
    assert_eq!(index.job(job(1)).unwrap().phase, JobPhase::Complete);
}

fn promise(batch: u64, receipt: u8) -> Promise {
    Promise {
        aggregator: Address::repeat_byte(4),
        batch,
        receipt: B256::repeat_byte(receipt),
        channel: channel(5),
        sequence: u64::from(receipt),
        signature: Bytes::from(vec![receipt; 65]),
    }
}

// row: MKT-42
#[tokio::test]
async fn a_promise_is_there_after_a_restart_until_its_batch_was_checked_with_all_promises_into_it() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    for (batch, receipt) in [(1, 1), (1, 2), (2, 3), (1, 2)] {
        journal.append(Record::PromiseKept(promise(batch, receipt))).await.unwrap();
    }
    let account = Address::repeat_byte(4);
    let checked = |batch, count| Record::PromisesChecked(PromisesChecked { aggregator: account, batch, count });
    // One of two was checked, because the other came meanwhile.
    journal.append(checked(1, 1)).await.unwrap();
    drop(journal);
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    let kept = |journal: &Journal, batch| journal.index().promises(account, batch).cloned().collect::<Vec<_>>();
    assert_eq!(kept(&journal, 1), [promise(1, 1), promise(1, 2)]);
    assert_eq!(kept(&journal, 2), [promise(2, 3)]);
    assert_eq!(journal.index().promise(account, 2, B256::repeat_byte(3)), Some(&promise(2, 3)));
    journal.append(checked(1, 2)).await.unwrap();
    drop(journal);
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    assert_eq!(journal.index().promised_batches().collect::<Vec<_>>(), [(account, 2)]);
}

// row: MKT-40
#[tokio::test]
async fn a_thing_marked_as_done_is_done_once_among_concurrent_callers_and_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let key = B256::repeat_byte(3);
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    let attempts = (0..50).map(|n| {
        let journal = journal.clone();
        tokio::spawn(async move { journal.append_once(key, Bytes::new(), vec![opened(n, 5)]).await.unwrap() })
    });
    let answers = futures_of(attempts).await;
    assert_eq!(answers.iter().filter(|a| a.is_some()).count(), 1);
    journal.close().await;
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    assert_eq!(journal.append_once(key, Bytes::new(), vec![opened(99, 5)]).await.unwrap(), None);
    assert_eq!(journal.index().jobs().count(), 1);
}

async fn futures_of<T: Send + 'static>(tasks: impl Iterator<Item = tokio::task::JoinHandle<T>>) -> Vec<T> {
    let tasks: Vec<_> = tasks.collect();
    let mut out = Vec::new();
    for task in tasks {
        out.push(task.await.unwrap());
    }
    out
}

#[tokio::test]
async fn a_payout_that_is_seen_twice_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    let payout = Payout { channel: channel(5), cumulative: Wei(90), paid: Wei(90), tx: B256::repeat_byte(1), block: 4 };
    journal.append(Record::Redeemed(payout.clone())).await.unwrap();
    journal.append(Record::Redeemed(payout)).await.unwrap();
    assert_eq!(journal.index().channel(channel(5)).unwrap().paid, Wei(90));
}

#[tokio::test]
async fn segments_follow_one_another_and_a_missing_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { segment_bytes: SEGMENT_BYTES_MIN, ..config(&folder) };
    let journal = Journal::open(&config, clock()).unwrap();
    for n in 0..100 {
        journal.append(Record::JobComplete(receipt(n, 5, n, 1))).await.unwrap();
    }
    journal.close().await;
    let segments = crate::segment::list(&config.folder).unwrap();
    assert!(segments.len() > 5, "{segments:?}");
    assert_eq!(JournalReader::open(&config).unwrap().index().records(), 100);
    std::fs::remove_file(crate::segment::segment_path(&config.folder, segments[2])).unwrap();
    assert!(matches!(Journal::open(&config, clock()), Err(JournalOpenError::Gap { .. })));
}

#[tokio::test]
async fn a_reader_beside_the_writer_sees_what_is_durable_and_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { segment_bytes: SEGMENT_BYTES_MIN, ..config(&folder) };
    let journal = Journal::open(&config, clock()).unwrap();
    journal.append(opened(1, 5)).await.unwrap();
    let mut reader = JournalReader::open(&config).unwrap();
    assert_eq!(reader.index().records(), 1);
    for n in 2..60 {
        journal.append(opened(n, 5)).await.unwrap();
    }
    assert_eq!(reader.refresh().unwrap(), 58);
    assert_eq!(reader.refresh().unwrap(), 0);
    let mut seen = 0;
    reader
        .scan(|_, _, _| {
            seen += 1;
            if seen == 10 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(seen, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_meets_a_half_written_record_while_the_writer_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { segment_bytes: SEGMENT_BYTES_MIN, ..config(&folder) };
    let journal = Journal::open(&config, clock()).unwrap();
    journal.append(opened(0, 5)).await.unwrap();
    let writing = {
        let journal = journal.clone();
        tokio::spawn(async move {
            for n in 1..400 {
                journal.append(Record::JobComplete(receipt(n, 5, n, 1))).await.unwrap();
            }
        })
    };
    let mut reader = JournalReader::open(&config).unwrap();
    while !writing.is_finished() {
        reader.refresh().unwrap();
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    reader.refresh().unwrap();
    assert_eq!(reader.index().records(), 400);
}

#[tokio::test]
async fn the_memory_for_jobs_is_bounded_and_unfinished_jobs_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = JournalConfig { jobs_indexed: 10, ..config(&folder) };
    let journal = Journal::open(&config, clock()).unwrap();
    journal.append(opened(0, 5)).await.unwrap();
    for n in 1..50 {
        journal.append(Record::JobComplete(receipt(n, 5, n, 1))).await.unwrap();
    }
    let index = journal.index();
    assert!(index.jobs().count() <= 10);
    assert_eq!(index.job(job(0)).unwrap().phase, JobPhase::Open);
    assert_eq!(index.jobs_evicted(), 40);
    assert_eq!(index.channel(channel(5)).unwrap().next_sequence, 50);
}

#[tokio::test]
async fn a_batch_moves_forward_only() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    let batch = crate::Batch {
        root: B256::repeat_byte(8),
        count: 3,
        sum: Wei(9),
        tx: B256::repeat_byte(2),
        payload: Bytes::new(),
    };
    journal.append(Record::BatchSubmitted(batch.clone())).await.unwrap();
    journal.append(Record::BatchFormed(batch.clone())).await.unwrap();
    assert_eq!(journal.index().batch(batch.root).unwrap().phase, BatchPhase::Submitted);
}

/// Prints what group commit gains; the assertion only says that appends shared synchronisations.
// row: MKT-61
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measured_appends_per_second_with_every_record_synchronised() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(&folder), clock()).unwrap();
    let begun = Instant::now();
    for n in 0..100 {
        journal.append(Record::VoucherReceived(voucher(5, n, &[(1, 1)]))).await.unwrap();
    }
    let alone = 100.0 / begun.elapsed().as_secs_f64();
    let journal = Arc::new(journal);
    let begun = Instant::now();
    let tasks = (0..256u64).map(|task| {
        let journal = journal.clone();
        tokio::spawn(async move {
            for n in 0..40u64 {
                journal.append(Record::JobComplete(receipt(task * 40 + n, 6, task * 40 + n, 1))).await.unwrap();
            }
        })
    });
    futures_of(tasks).await;
    let together = 256.0 * 40.0 / begun.elapsed().as_secs_f64();
    let groups = journal.metrics().groups.get() - 100;
    println!("one caller: {alone:.0} appends/s; 256 callers: {together:.0} appends/s in {groups} synchronisations");
    assert!(groups < 256 * 40 / 4, "10,240 appends took {groups} synchronisations");
}
