//! The nouns: ids, amounts, headers, transactions, jobs, and their canonical bytes.
//!
//! Everything above this crate speaks in these types. They hold no key, no clock of their own and no socket;
//! their canonical bytes are RLP (chain objects), so a signature made over them today verifies tomorrow.

#![deny(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
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

mod amount;
mod block;
mod clock;
mod id;
mod record;
mod role;

pub use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
pub use amount::{AmountError, WEI_PER_TRL, Wei};
pub use block::{
    BLOCK_BYTES_MAX, Block, COMMIT_SIGNATURES_MAX, CheckpointKeys, CommitCertificate, CommitSignature,
    ConsensusSection, EpochChange, Header, RecoveredTx, TxEnvelope,
};
pub use clock::{Clock, ManualClock, SharedClock, SystemClock, UnixMs};
pub use id::{BatchRoot, ChannelId, IdError, JobId, NodeId};
pub use record::{
    NODE_RECORD_ADDRESSES_MAX, NODE_RECORD_BYTES_MAX, NODE_RECORD_MODELS_MAX, NODE_RECORD_TEXT_BYTES_MAX, NodeRecord,
    RecordBoundError, SignedNodeRecord,
};
pub use role::{Role, RoleError, RoleSet};
