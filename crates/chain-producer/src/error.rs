//! Why a proposed block is refused.

use alloy_primitives::B256;
use trellis_chain_execution::BlockError;
use trellis_chain_finality::{CertificateError, CheckpointError, CheckpointMessage};
use trellis_chain_storage::ReadError;

const fn has(is: &bool) -> &'static str {
    if *is { "one" } else { "none" }
}

/// Why a proposed block is refused.
#[derive(Debug, thiserror::Error)]
pub enum RefusedBlock {
    /// The bytes are not a block.
    #[error("block does not decode: {0}")]
    Decode(alloy_rlp::Error),
    /// The block is for another height.
    #[error("block is for height {found}, expected {expected}")]
    Height {
        /// The height after the tip.
        expected: u64,
        /// The height in the header.
        found: u64,
    },
    /// Time does not go forward.
    #[error("block time {found} ms is not after its parent's {parent} ms")]
    TimeNotAfterParent {
        /// The parent's time.
        parent: u64,
        /// The block's time.
        found: u64,
    },
    /// The block is from the future.
    #[error("block time {found} ms is more than {ahead_max} ms ahead of the local clock {local} ms")]
    TimeAhead {
        /// The local clock.
        local: u64,
        /// How far ahead a block may be.
        ahead_max: u64,
        /// The block's time.
        found: u64,
    },
    /// The certificate of the parent is missing, or there is one for the genesis.
    #[error("section {} a certificate of the parent", if *.expected { "lacks" } else { "must not have" })]
    ParentCertificate {
        /// Whether there must be one.
        expected: bool,
    },
    /// The certificate in the section is for another block.
    #[error("section certifies block {found_height} {found}, the parent is {expected_height} {expected}")]
    OtherParent {
        /// The parent's hash.
        expected: B256,
        /// The parent's height.
        expected_height: u64,
        /// The hash in the certificate.
        found: B256,
        /// The height in the certificate.
        found_height: u64,
    },
    /// The certificate in the section proves nothing.
    #[error("certificate of the parent: {0}")]
    Certificate(#[from] CertificateError),
    /// The checkpoint's certificate in the section does not hold.
    #[error("checkpoint in the section: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The block is not one in which this checkpoint's certificate may stand.
    #[error("section certifies checkpoint {height}, block {number} may certify {open:?}")]
    CheckpointNotOpen {
        /// The certificate's height.
        height: u64,
        /// The block's.
        number: u64,
        /// Heights that it may certify.
        open: Vec<u64>,
    },
    /// The certificate is for another block of that height, or names another committee.
    #[error(
        "checkpoint {} in the section is for block {} and committee {}, expected {} and {}",
        expected.height, found.block_hash, found.next_committee, expected.block_hash, expected.next_committee
    )]
    OtherCheckpoint {
        /// The final block, and who decides the second one after it.
        expected: Box<CheckpointMessage>,
        /// What the certificate names.
        found: Box<CheckpointMessage>,
    },
    /// A certificate for this checkpoint stands in a block already.
    #[error("checkpoint {height} stands in block {number} already")]
    CheckpointAgain {
        /// The certificate's height.
        height: u64,
        /// Where it stands.
        number: u64,
    },
    /// The section does not say about epochs what follows from the blocks before.
    #[error("change of epochs in the section: {}, expected {} by the blocks before", has(.found), has(.expected))]
    Epoch {
        /// Whether there must be a change.
        expected: bool,
        /// Whether there is one; another one, if there must be one.
        found: bool,
    },
    /// This node could not read what the judgement takes.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A block with this header is known, and its body is another one.
    #[error("body does not belong to the header {hash}")]
    OtherBody {
        /// The header's hash.
        hash: B256,
    },
    /// The rules of execution.
    #[error(transparent)]
    Block(#[from] BlockError),
}
