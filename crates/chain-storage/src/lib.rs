//! Remember: blocks, state, trie, snapshots, crash-safe.
//!
//! A [`Store`] owns one data folder. Blocks, their receipts and the certificate that finalised them go to append-only
//! segment files; the flat state and the indices go to a `redb` database; the Merkle-Patricia trie over the state is held
//! in memory, rebuilt at start and checked against the tip's header. The trie is persistent in the functional sense: a
//! [`StateView`] is an immutable snapshot, so a reader of an old height, an execution of a proposed block and the commit
//! of the next one never wait for each other.

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

mod block;
mod checkpoints;
mod codec;
mod config;
mod db;
mod diff;
mod error;
mod lock;
mod metrics;
mod place;
mod proof;
mod reader;
mod recover;
mod remake;
mod segment;
mod served;
mod service;
mod snapshot;
mod state;
mod trie;
mod view;

pub use block::{CommittedBlock, EthereumBody, ExecutedBlock, Genesis, Receipt, TxLocation};
pub use checkpoints::StoredCheckpoint;
pub use config::{
    CODE_CACHE_ENTRIES_MAX, EVENTS_BUFFERED_MAX, RECENT_BLOCKS_MAX, SEGMENT_BYTES_MAX, STATE_HISTORY_BLOCKS,
    StoreConfig,
};
pub use diff::{Account, AccountDiff, StateDiff};
pub use error::{CommitError, OpenError, ReadError};
pub use metrics::StoreMetrics;
pub use place::{
    NodeReference, PART_ENTRIES_MAX, PART_NODES_MAX, PlaceContent, PlaceError, PlacedAccount, ProvedPlace,
    SLOTS_INLINE_MAX, StatePlace, StateTarget,
};
pub use proof::{AccountProof, StorageProof};
pub use served::ServedState;
pub use service::Store;
pub use snapshot::{ImportError, Importer, STATE_PART_CODE_BYTES, STATE_PART_ENTRIES, StateCheck, StatePart};
pub use state::state_root_of;
pub use view::{PendingState, StateTransition, StateView};
