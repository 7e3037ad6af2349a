//! Evidence as a stranger's transaction carries it: two messages, each with the key that signed it, so that nothing else is
//! needed to judge them but the chain's name (CHN-13; decisions: "Evidence").

use crate::evidence::{Equivocation, EvidenceError};
use crate::validator_set::ValidatorSet;
use crate::vote::{ProposalPlace, VoteKind, VotePlace};
use alloy_rlp::{RlpDecodable, RlpEncodable};
use trellis_crypto::{VotePublicKey, VoteScheme};
use trellis_primitives::{B256, Bytes};

/// Largest encoded message that is looked at: a key and a signature of the larger scheme and the rest.
pub const EVIDENCE_MESSAGE_BYTES_MAX: usize = 4_096;

/// One signed message, complete. Flat: nil and "no round" are empty or 0, so that everything has one encoding.
#[derive(Clone, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct EvidenceMessage {
    /// The key's scheme.
    pub scheme: u8,
    /// Who signed.
    pub public_key: Bytes,
    /// At which height.
    pub height: u64,
    /// In which round.
    pub round: u32,
    /// Prevote 1, precommit 2, proposal 0.
    pub kind: u8,
    /// The block's hash; empty for nil.
    pub value: Bytes,
    /// Proof-of-lock round of a proposal + 1; 0 for none and in votes.
    pub pol: u64,
    /// The signature.
    pub signature: Bytes,
}

impl EvidenceMessage {
    fn decode(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > EVIDENCE_MESSAGE_BYTES_MAX {
            return Err(EvidenceError::NotAMessage);
        }
        alloy_rlp::decode_exact(bytes).map_err(|_| EvidenceError::NotAMessage)
    }

    fn key(&self) -> Result<VotePublicKey, EvidenceError> {
        let scheme = VoteScheme::from_tag(self.scheme).ok_or(EvidenceError::NotAMessage)?;
        VotePublicKey::from_bytes(scheme, &self.public_key).map_err(|_| EvidenceError::NotAMessage)
    }

    fn value(&self) -> Result<Option<B256>, EvidenceError> {
        match self.value.len() {
            0 => Ok(None),
            32 => Ok(Some(B256::from_slice(&self.value))),
            _ => Err(EvidenceError::NotAMessage),
        }
    }

    /// The bytes that were signed.
    fn signed(&self, genesis_hash: &B256) -> Result<B256, EvidenceError> {
        let value = self.value()?;
        if let Some(kind) = VoteKind::from_tag(self.kind) {
            let place = VotePlace { height: self.height, round: self.round, kind };
            return if self.pol == 0 {
                Ok(place.signing_hash(genesis_hash, value.as_ref()))
            } else {
                Err(EvidenceError::NotAMessage)
            };
        }
        let (0, Some(value)) = (self.kind, value) else { return Err(EvidenceError::NotAMessage) };
        let pol_round = match self.pol.checked_sub(1) {
            None => None,
            Some(round) => Some(u32::try_from(round).map_err(|_| EvidenceError::NotAMessage)?),
        };
        let place = ProposalPlace { height: self.height, round: self.round };
        Ok(place.signing_hash(genesis_hash, pol_round, &value))
    }
}

/// Judges two messages on the chain with this block zero: the hash of the key that signed both, as the stake's contract has
/// it, and the height.
///
/// # Errors
/// [`EvidenceError`] where they convict nobody: another place, the same value, a signature that does not verify.
pub fn judge_evidence(first: &[u8], second: &[u8], genesis_hash: &B256) -> Result<(B256, u64), EvidenceError> {
    let (first, second) = (EvidenceMessage::decode(first)?, EvidenceMessage::decode(second)?);
    let key = first.key()?;
    if key != second.key()? {
        return Err(EvidenceError::TwoValidators { first: key.address(), second: second.key()?.address() });
    }
    if (first.height, first.round, first.kind) != (second.height, second.round, second.kind) {
        return Err(EvidenceError::TwoPlaces);
    }
    if (&first.value, first.pol) == (&second.value, second.pol) {
        return Err(EvidenceError::SameValue);
    }
    for message in [&first, &second] {
        if !key.verifies(message.signed(genesis_hash)?.as_slice(), &message.signature) {
            return Err(EvidenceError::BadSignature { validator: key.address() });
        }
    }
    Ok((key.contract_hash(), first.height))
}

impl Equivocation {
    /// The two messages as a transaction carries them; none where the accused is not in the committee given.
    #[must_use]
    pub fn testimony(&self, set: &ValidatorSet) -> Option<(Bytes, Bytes)> {
        let key = &set.get(&self.validator())?.public_key;
        let message = |height, (round, kind), value: Option<B256>, pol_round: Option<u32>, signature: &Bytes| {
            let message = EvidenceMessage {
                scheme: key.scheme() as u8,
                public_key: Bytes::copy_from_slice(key.as_bytes()),
                height,
                round,
                kind,
                value: value.map_or_else(Bytes::new, |value| Bytes::copy_from_slice(value.as_slice())),
                pol: pol_round.map_or(0, |round| u64::from(round).saturating_add(1)),
                signature: signature.clone(),
            };
            Bytes::from(alloy_rlp::encode(&message))
        };
        Some(match self {
            Self::Votes(a, b) => {
                let one = |vote: &crate::evidence::SignedVote| {
                    let place = vote.place;
                    message(place.height, (place.round, place.kind as u8), vote.value, None, &vote.signature)
                };
                (one(a), one(b))
            }
            Self::Proposals(a, b) => {
                let one = |proposal: &crate::evidence::SignedProposal| {
                    let (height, round) = (proposal.place.height, proposal.place.round);
                    message(height, (round, 0), Some(proposal.value), proposal.pol_round, &proposal.signature)
                };
                (one(a), one(b))
            }
        })
    }
}
