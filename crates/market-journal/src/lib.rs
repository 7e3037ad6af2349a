//! Remember money: receipts, vouchers and channels, durable before they are sent.
//!
//! A journal is a folder of append-only segments. [`Journal::append`] resolves only when the record is synchronised with the
//! disk; callers that append at the same time share one synchronisation. On open every record is read again and the tables of
//! [`Index`] are rebuilt: the highest voucher of each channel, each job, each receipt by number and by hash, each batch, each
//! marker of a thing done once, each promise that has not been held against its batch. A tail that a crash tore is cut off (it had been promised to nobody), counted, and kept aside;
//! damage to anything that had been promised is an error that says where, and nothing is changed.
//!
//! The journal does not know how receipts and vouchers are made: `market-receipt` and `market-channel` hand it their signed
//! bytes as payloads, beside the few typed figures that tables and audits need.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout))]

mod config;
mod error;
mod frame;
mod index;
mod metrics;
mod record;
mod segment;
mod service;
mod writer;

pub use config::{
    JOBS_INDEXED_DEFAULT, JournalConfig, PROMISES_INDEXED_MAX, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
};
pub use error::{JournalError, JournalOpenError, JournalReadError};
pub use frame::RECORD_BODY_BYTES_MAX;
pub use index::{BatchPhase, BatchState, ChannelState, Index, JobPhase, JobState, Position};
pub use metrics::JournalMetrics;
pub use record::{
    Batch, ChainSeen, ChannelOpened, ChannelPhase, ChannelUpdated, Increment, JobAborted, JobOpened, Marker, PairRoot,
    Payout, Promise, PromisesChecked, RECORD_VERSION, ReceiptKept, Record, RecordFault, Side, Voucher,
};
pub use service::{Journal, JournalReader, OpenReport, QUEUE_REQUESTS_MAX};

#[cfg(test)]
mod tests;
