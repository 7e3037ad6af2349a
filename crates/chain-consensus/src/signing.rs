//! Signing and checking: the engine's two traits over our vote bytes, and a guard in front of the key.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_malachitebft_core_types::{NilOrVal, Round, SignedMessage, ValidatorProof, VoteExtensionScope, VoteType};
use arc_malachitebft_signing::{Error as EngineSigningError, Signer, VerificationResult, Verifier};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use thiserror::Error;
use trellis_chain_finality::{ProposalPlace, VoteKind, VotePlace, VotePublicKey};
use trellis_crypto::{VoteKey, sha3_256};
use trellis_primitives::B256;

use crate::context::{Proposal, Trellis, Vote, VoteSignature};

/// Heights whose places the guard remembers; the engine's log covers what lies before.
const GUARD_HEIGHTS: u64 = 2;

const EXTENSION_DOMAIN: &[u8] = b"trellis/vote-extension/1";
const PARTS_DOMAIN: &[u8] = b"trellis/proposal-parts/1";

/// What a signature is asked for, so that a signer can judge before it signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningRequest {
    /// A vote; None is nil.
    Vote {
        /// Where.
        place: VotePlace,
        /// What for.
        value: Option<B256>,
    },
    /// A proposal.
    Proposal {
        /// Where.
        place: ProposalPlace,
        /// The round in which the block was locked, if any.
        pol_round: Option<u32>,
        /// The block.
        value: B256,
    },
    /// The head of a stream of block parts: binds bytes to the sender, decides nothing.
    Parts {
        /// Where.
        place: ProposalPlace,
        /// The block.
        value: B256,
    },
    /// An extension of a precommit.
    Extension {
        /// Where.
        place: VotePlace,
    },
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SignerError {
    /// Another value was signed for this place before (CHN-16).
    #[error("refused to sign a second value for {place}")]
    SecondValue {
        /// Height, round and kind in words.
        place: String,
    },
    /// The signer is away or refused.
    #[error("the signer did not sign: {detail}")]
    Unavailable {
        /// Its own account.
        detail: String,
    },
}

/// Holds a vote key and signs with it. A [`VoteKey`] is one; a remote signer can be another.
#[async_trait]
pub trait VoteSigner: Send + Sync + 'static {
    /// The public key that the committee knows.
    fn public_key(&self) -> VotePublicKey;

    /// Signs the 32 bytes `message`, which are those of `request`.
    async fn sign(&self, request: &SigningRequest, message: &B256) -> Result<Bytes, SignerError>;
}

#[async_trait]
impl VoteSigner for VoteKey {
    fn public_key(&self) -> VotePublicKey {
        self.public()
    }

    async fn sign(&self, _request: &SigningRequest, message: &B256) -> Result<Bytes, SignerError> {
        VoteKey::sign(self, message.as_slice())
            .map(Bytes::from)
            .map_err(|error| SignerError::Unavailable { detail: error.to_string() })
    }
}

/// Remembers what was signed in this run and refuses a second value for one place. The engine's log does the same
/// across restarts; this is the second lock on the same door.
#[derive(Debug, Default)]
struct SignGuard {
    signed: BTreeMap<(u64, u32, u8), B256>,
}

impl SignGuard {
    fn allow(&mut self, place: (u64, u32, u8), message: B256) -> Result<(), SignerError> {
        let (height, round, kind) = place;
        self.signed.retain(|(h, _, _), _| h.saturating_add(GUARD_HEIGHTS) > height);
        match self.signed.get(&place) {
            Some(before) if *before != message => {
                Err(SignerError::SecondValue { place: format!("height {height}, round {round}, kind {kind}") })
            }
            _ => {
                self.signed.insert(place, message);
                Ok(())
            }
        }
    }
}

/// The engine's signer: our vote bytes, the guard, then the key.
#[derive(Clone)]
pub(crate) struct EngineSigner {
    signer: Arc<dyn VoteSigner>,
    genesis_hash: B256,
    guard: Arc<Mutex<SignGuard>>,
}

impl EngineSigner {
    pub(crate) fn new(signer: Arc<dyn VoteSigner>, genesis_hash: B256) -> Self {
        Self { signer, genesis_hash, guard: Arc::new(Mutex::new(SignGuard::default())) }
    }

    /// Signs the head of a stream of parts.
    pub(crate) async fn sign_parts(
        &self,
        place: ProposalPlace,
        value: B256,
        payload_hash: &B256,
        payload_bytes: usize,
    ) -> Result<Bytes, SignerError> {
        let message = parts_hash(&self.genesis_hash, place, &value, payload_hash, payload_bytes);
        self.signer.sign(&SigningRequest::Parts { place, value }, &message).await
    }

    async fn guarded(
        &self,
        place: (u64, u32, u8),
        request: SigningRequest,
        message: B256,
    ) -> Result<VoteSignature, EngineSigningError> {
        self.guard.lock().allow(place, message).map_err(EngineSigningError::from_source)?;
        let signature = self.signer.sign(&request, &message).await.map_err(EngineSigningError::from_source)?;
        Ok(VoteSignature(signature))
    }
}

/// The bytes signed over the head of a stream of parts.
pub(crate) fn parts_hash(
    genesis_hash: &B256,
    place: ProposalPlace,
    value: &B256,
    payload_hash: &B256,
    payload_bytes: usize,
) -> B256 {
    B256::from(sha3_256(&[
        PARTS_DOMAIN,
        genesis_hash.as_slice(),
        &place.height.to_be_bytes(),
        &place.round.to_be_bytes(),
        value.as_slice(),
        payload_hash.as_slice(),
        &(payload_bytes as u64).to_be_bytes(),
    ]))
}

/// Our place and value of an engine vote; None for a vote without a round, which nobody casts.
pub(crate) fn vote_place(vote: &Vote) -> Option<(VotePlace, Option<B256>)> {
    let kind = match vote.kind {
        VoteType::Prevote => VoteKind::Prevote,
        VoteType::Precommit => VoteKind::Precommit,
    };
    let place = VotePlace { height: vote.height.0, round: vote.round.as_u32()?, kind };
    let value = match vote.value {
        NilOrVal::Nil => None,
        NilOrVal::Val(id) => Some(id),
    };
    Some((place, value))
}

/// Our place of an engine proposal.
pub(crate) fn proposal_place(proposal: &Proposal) -> Option<(ProposalPlace, Option<u32>)> {
    let place = ProposalPlace { height: proposal.height.0, round: proposal.round.as_u32()? };
    Some((place, proposal.pol_round.as_u32()))
}

fn extension_hash(
    genesis_hash: &B256,
    scope: &VoteExtensionScope<Trellis>,
    extension: &Bytes,
) -> Option<(VotePlace, B256)> {
    let place = VotePlace { height: scope.height.0, round: scope.round.as_u32()?, kind: VoteKind::Precommit };
    let message = sha3_256(&[
        EXTENSION_DOMAIN,
        genesis_hash.as_slice(),
        &place.height.to_be_bytes(),
        &place.round.to_be_bytes(),
        scope.value_id.as_slice(),
        scope.validator_address.0.as_slice(),
        extension,
    ]);
    Some((place, B256::from(message)))
}

#[async_trait]
impl Signer<Trellis> for EngineSigner {
    async fn sign_vote(&self, vote: Vote) -> Result<SignedMessage<Trellis, Vote>, EngineSigningError> {
        let (place, value) = vote_place(&vote).ok_or_else(EngineSigningError::new)?;
        let message = place.signing_hash(&self.genesis_hash, value.as_ref());
        let key = (place.height, place.round, place.kind as u8);
        let signature = self.guarded(key, SigningRequest::Vote { place, value }, message).await?;
        Ok(SignedMessage::new(vote, signature))
    }

    async fn sign_proposal(&self, proposal: Proposal) -> Result<SignedMessage<Trellis, Proposal>, EngineSigningError> {
        let (place, pol_round) = proposal_place(&proposal).ok_or_else(EngineSigningError::new)?;
        let value = proposal.value.0;
        let message = place.signing_hash(&self.genesis_hash, pol_round, &value);
        let request = SigningRequest::Proposal { place, pol_round, value };
        let signature = self.guarded((place.height, place.round, 0), request, message).await?;
        Ok(SignedMessage::new(proposal, signature))
    }

    async fn sign_vote_extension(
        &self,
        scope: VoteExtensionScope<Trellis>,
        extension: Bytes,
    ) -> Result<SignedMessage<Trellis, Bytes>, EngineSigningError> {
        let (place, message) =
            extension_hash(&self.genesis_hash, &scope, &extension).ok_or_else(EngineSigningError::new)?;
        let signature = self
            .signer
            .sign(&SigningRequest::Extension { place }, &message)
            .await
            .map_err(EngineSigningError::from_source)?;
        Ok(SignedMessage::new(extension, VoteSignature(signature)))
    }

    /// Peers are authenticated by the network below; there is no second proof.
    async fn sign_validator_proof(
        &self,
        _public_key: Vec<u8>,
        _peer_id: Vec<u8>,
    ) -> Result<ValidatorProof<Trellis>, EngineSigningError> {
        Err(EngineSigningError::new())
    }
}

/// The engine's verifier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineVerifier {
    genesis_hash: B256,
}

impl EngineVerifier {
    pub(crate) fn new(genesis_hash: B256) -> Self {
        Self { genesis_hash }
    }
}

fn checked(message: Option<B256>, signature: &VoteSignature, key: &VotePublicKey) -> VerificationResult {
    VerificationResult::from_bool(message.is_some_and(|message| key.verifies(message.as_slice(), &signature.0)))
}

#[async_trait]
impl Verifier<Trellis> for EngineVerifier {
    async fn verify_signed_vote(
        &self,
        vote: &Vote,
        signature: &VoteSignature,
        key: &VotePublicKey,
    ) -> Result<VerificationResult, EngineSigningError> {
        let message = vote_place(vote).map(|(place, value)| place.signing_hash(&self.genesis_hash, value.as_ref()));
        Ok(checked(message, signature, key))
    }

    async fn verify_signed_proposal(
        &self,
        proposal: &Proposal,
        signature: &VoteSignature,
        key: &VotePublicKey,
    ) -> Result<VerificationResult, EngineSigningError> {
        let message =
            proposal_place(proposal).map(|(place, pol)| place.signing_hash(&self.genesis_hash, pol, &proposal.value.0));
        Ok(checked(message, signature, key))
    }

    async fn verify_signed_vote_extension(
        &self,
        scope: &VoteExtensionScope<Trellis>,
        extension: &Bytes,
        signature: &VoteSignature,
        key: &VotePublicKey,
    ) -> Result<VerificationResult, EngineSigningError> {
        let message = extension_hash(&self.genesis_hash, scope, extension).map(|(_, hash)| hash);
        Ok(checked(message, signature, key))
    }

    async fn verify_validator_proof(
        &self,
        _proof: &ValidatorProof<Trellis>,
    ) -> Result<VerificationResult, EngineSigningError> {
        Ok(VerificationResult::Invalid)
    }
}

/// The engine's round of ours.
pub(crate) fn engine_round(round: Option<u32>) -> Round {
    round.map_or(Round::Nil, Round::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: CHN-16
    #[test]
    fn the_guard_signs_the_same_value_again_but_never_a_second_one() {
        let mut guard = SignGuard::default();
        let place = (5, 0, 1);
        assert!(guard.allow(place, B256::repeat_byte(1)).is_ok());
        assert!(guard.allow(place, B256::repeat_byte(1)).is_ok());
        assert!(guard.allow(place, B256::repeat_byte(2)).is_err());
        assert!(guard.allow((5, 1, 1), B256::repeat_byte(2)).is_ok());
        assert!(guard.allow((5, 0, 2), B256::repeat_byte(2)).is_ok());
    }

    #[test]
    fn the_guard_forgets_only_what_lies_heights_back() {
        let mut guard = SignGuard::default();
        assert!(guard.allow((5, 0, 1), B256::repeat_byte(1)).is_ok());
        assert!(guard.allow((6, 0, 1), B256::repeat_byte(1)).is_ok());
        assert!(guard.allow((5, 0, 1), B256::repeat_byte(2)).is_err(), "one height back");
        assert!(guard.allow((9, 0, 1), B256::repeat_byte(1)).is_ok());
        assert_eq!(guard.signed.len(), 1);
    }
}
