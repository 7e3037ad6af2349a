//! What was done: jobs and their wire messages, receipts, batches and proofs. Pure.
//!
//! Nothing here has a clock, a socket or a file. Layouts that a contract sees (receipt, voucher domain, sum tree, promise of
//! inclusion) are those of `contracts/README.md`, "Exact bytes"; frames between peers are prost messages with fixed numbers.

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

mod advert;
mod batch;
pub mod eip712;
mod pair_root;
mod receipt;
mod request;
mod signed;
mod tree;
pub mod wire;

pub use advert::{
    ADVERT_MODELS_MAX, ADVERT_TTL_MS_MAX, Advert, AdvertError, KIND_BIT_CHAT, KIND_BIT_COMPLETION, ModelOffer,
    SignedAdvert,
};
pub use batch::{Batch, BatchError, IncludeBy, Totals};
pub use pair_root::{
    PAIR_ROOT_INTERVAL_MS, PAIR_ROOT_RECEIPTS_MAX, PairRoot, PairRootBuilder, PairRootError, PqProof, SignedPairRoot,
};
pub use receipt::{
    FinishReason, InstructionSet, RECEIPT_ABI_BYTES, RECEIPT_VERSION, Receipt, ReceiptFormatError, engine_build_digest,
    error_digest,
};
pub use request::{
    JobKind, JobRequest, OutputHasher, PROMPT_BYTES_MAX, Parameters, RequestError, prompt_commitment, request_digest,
};
pub use signed::{DETAIL_BYTES_MAX, ReceiptDetails, ReceiptParties, SignedReceipt, VerifyError};
pub use tree::{LeafProof, ProofStep, RECEIPTS_IN_TREE_MAX, ReceiptTree, TreeError, receipt_leaf};
