//! What is final: committee, vote bytes, certificates, and their verification (for sync, RPC and light clients). Pure.
//!
//! # Protocol
//! A validator signs the 32 bytes
//! `SHA3-256(len(domain) ‖ domain ‖ genesis hash ‖ height u64 BE ‖ round u32 BE ‖ kind u8 ‖ value tag u8 ‖ value id 32 B)`
//! with the domain `trellis/vote/1`. `kind` is 1 for a prevote and 2 for a precommit; the value tag is 0 for nil (the
//! value id is then 32 zero bytes) and 1 for a block hash. A block is final when precommits for its header hash,
//! made in one round by validators of the committee of its height, weigh **more than two thirds** of the committee's power.
//! The value id is the header hash and the round is not inside the block, so that a block may be proposed again.
//!
//! A proposal is signed likewise with the domain `trellis/proposal/1` over
//! `genesis hash ‖ height ‖ round ‖ proof-of-lock round + 1 (0 = none) ‖ value id`.
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

mod certificate;
mod checkpoint;
mod committee;
mod evidence;
mod handover;
mod proof;
mod proposer;
mod testimony;
mod turns;
mod validator_set;
mod vote;

#[cfg(test)]
mod tests;

pub use certificate::{CertificateError, verify_certificate};
pub use checkpoint::{
    CHECKPOINT_CERTIFICATE_BYTES_MAX, CHECKPOINT_COMMITTEE_BYTES_MAX, CHECKPOINT_COMMITTEE_DOMAIN, CHECKPOINT_DOMAIN,
    CHECKPOINT_INCLUSION_BLOCKS, CHECKPOINT_VERSION, CheckpointCertificate, CheckpointCommittee, CheckpointError,
    CheckpointFollower, CheckpointMember, CheckpointMessage, CheckpointRules, CheckpointSignature, CheckpointTally,
    FollowError, POST_QUANTUM_CERTIFICATE_BYTES_MAX, PostQuantumCertificate,
};
pub use committee::{COMMITTEE_DELAY_BLOCKS, Candidate, committee_epoch, ended_epoch, next_committee};
pub use evidence::{Equivocation, EvidenceError, SignedProposal, SignedVote};
pub use handover::{CommitteeChain, HandoverError};
pub use proof::{FINALITY_PROOF_BYTES_MAX, FinalityProof, ProofError};
pub use proposer::proposer;
pub use testimony::{EVIDENCE_MESSAGE_BYTES_MAX, EvidenceMessage, judge_evidence};
pub use trellis_crypto::vote::{VotePublicKey, VoteScheme};
pub use turns::{DEMOTED_TURNS, Demoted, TERM_HEIGHTS, Turns, first_of_term};
pub use validator_set::{
    CERTIFICATE_BYTES_MAX, COMMITTEE_BYTES_MAX, POST_QUANTUM_VALIDATORS_MAX, POWER_TOTAL_MAX, VALIDATORS_MAX,
    Validator, ValidatorSet, ValidatorSetError,
};
pub use vote::{PROPOSAL_DOMAIN, ProposalPlace, VOTE_DOMAIN, VoteKind, VotePlace};
