//! Catch up from nothing: headers, bodies, snapshots; owns the trait `BlockSink`.
//!
//! A node that follows the chain asks those who have it, over [`SYNC_PROTOCOL`], one stream per request:
//!
//! | request | answer |
//! |---|---|
//! | status above a height, and how long to wait | the newest header with its certificate, at once where it is higher, else when there is one or the time is over |
//! | headers from a height to another | a run: the headers, the certificate of the last one, and that one's section where it names a committee |
//! | bodies from a height to another | frames of bodies in order, as many as the sender likes to send; the end of the stream ends the answer |
//!
//! # What is believed
//! A run of headers is proved by its last one's certificate alone: the certificate makes that block final, each header
//! names its parent's hash, and a final block's ancestors are final. A run ends at the latest at the block that names the
//! next committee, so that one committee decides all of a run, and the committees are followed from one that is known (the
//! genesis's, or those of the blocks that this node has committed) without a gap.
//! A body is compared with its header (root of the transactions, hash of the section) before it is kept. The certificate
//! that is stored with a block is its run's, or the one that the next block's section has.
//! So nothing that a peer says is believed, and whatever does not fit is that peer's fault.
//!
//! # Whom to ask
//! Bodies come from many peers at a time, in ranges as large as each is fast. Whoever lies is out at once and reported;
//! whoever withholds what it claims to have, or lets all others wait while somebody else could be asked, loses its range
//! to another and is out the second time. The last peer that is left may be slow.
//!
//! # What is durable
//! Only what the sink has committed. After a kill, headers and bodies above the head come again: the proof of 256 headers
//! costs 256 hashes and one certificate, which is less than writing them down would.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

pub mod config;
mod error;
mod metrics;
mod server;
mod service;
mod sink;
pub mod snapshot;
mod state;
pub mod wire;

pub use config::{SYNC_PROTOCOL, SyncConfig};
pub use error::{Fault, SinkError, SyncError, WireError};
pub use metrics::{SyncMetrics, SyncReason};
pub use server::{SyncServer, serve};
pub use service::{ChainRules, SyncHandle, start};
pub use sink::{BlockSink, FinalBlock, Head};
pub use state::Progress;
