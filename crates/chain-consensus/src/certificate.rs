//! Certificates and evidence, between the engine's shape and ours.

use arc_malachitebft_core_consensus::MisbehaviorEvidence;
use arc_malachitebft_core_types::{
    CommitCertificate as EngineCertificate, CommitSignature as EngineCommitSignature, ExtendedCommitCertificate,
    SignedProposal as EngineProposal, SignedVote as EngineVote, VoteExtensions,
};
use arc_malachitebft_sync::RawDecidedValue;
use bytes::Bytes;
use trellis_chain_finality::{Equivocation, SignedProposal, SignedVote};
use trellis_primitives::{CommitCertificate, CommitSignature};

use crate::context::{BlockHeight, Trellis, VoteSignature, VoterAddress};
use crate::signing::{engine_round, proposal_place, vote_place};

/// Our certificate: sorted by validator.
pub(crate) fn certificate_from_engine(certificate: &EngineCertificate<Trellis>) -> CommitCertificate {
    let mut signatures: Vec<CommitSignature> = certificate
        .commit_signatures
        .iter()
        .map(|s| CommitSignature { validator: s.address.0, signature: s.signature.0.clone().into() })
        .collect();
    signatures.sort_by_key(|s| s.validator);
    CommitCertificate {
        height: certificate.height.0,
        round: certificate.round.as_u32().unwrap_or_default(),
        block_hash: certificate.value_id,
        signatures,
    }
}

/// A decided block in the form in which the engine's sync serves and checks it.
pub(crate) fn decided_to_engine(certificate: &CommitCertificate, block_rlp: Bytes) -> RawDecidedValue<Trellis> {
    let engine = EngineCertificate {
        height: BlockHeight(certificate.height),
        round: engine_round(Some(certificate.round)),
        value_id: certificate.block_hash,
        commit_signatures: certificate
            .signatures
            .iter()
            .map(|s| EngineCommitSignature::new(VoterAddress(s.validator), VoteSignature(s.signature.0.clone())))
            .collect(),
    };
    let extended = ExtendedCommitCertificate::from_commit_certificate_and_extensions(engine, VoteExtensions::default());
    RawDecidedValue::new(block_rlp, extended)
}

fn vote(vote: &EngineVote<Trellis>) -> Option<SignedVote> {
    let (place, value) = vote_place(&vote.message)?;
    Some(SignedVote { place, value, validator: vote.voter.0, signature: vote.signature.0.clone().into() })
}

fn proposal(proposal: &EngineProposal<Trellis>) -> Option<SignedProposal> {
    let (place, pol_round) = proposal_place(&proposal.message)?;
    Some(SignedProposal {
        place,
        pol_round,
        value: proposal.value.0,
        validator: proposal.proposer.0,
        signature: proposal.signature.0.clone().into(),
    })
}

/// The engine's evidence as ours, unchecked.
pub(crate) fn evidence_from_engine(evidence: &MisbehaviorEvidence<Trellis>) -> Vec<Equivocation> {
    let votes = evidence
        .votes
        .iter()
        .flat_map(|(_, pairs)| pairs)
        .filter_map(|(a, b)| Some(Equivocation::Votes(vote(a)?, vote(b)?)));
    let proposals = evidence
        .proposals
        .iter()
        .flat_map(|(_, pairs)| pairs)
        .filter_map(|(a, b)| Some(Equivocation::Proposals(proposal(a)?, proposal(b)?)));
    votes.chain(proposals).collect()
}
