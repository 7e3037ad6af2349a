//! Evidence of equivocation: one validator, one place, two signed messages (CHN-13).

use crate::validator_set::ValidatorSet;
use crate::vote::{ProposalPlace, VoteKind, VotePlace};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use thiserror::Error;
use trellis_primitives::{Address, B256, Bytes};

/// A vote with its signature, complete enough to be checked by a stranger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedVote {
    /// Where it was cast.
    pub place: VotePlace,
    /// What for; None is nil.
    pub value: Option<B256>,
    /// Who cast it.
    pub validator: Address,
    /// Signature over [`VotePlace::signing_hash`].
    pub signature: Bytes,
}

/// A proposal with its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedProposal {
    /// Where it was made.
    pub place: ProposalPlace,
    /// The round in which the proposer says the block was locked.
    pub pol_round: Option<u32>,
    /// The block hash proposed.
    pub value: B256,
    /// Who proposed.
    pub validator: Address,
    /// Signature over [`ProposalPlace::signing_hash`].
    pub signature: Bytes,
}

/// Two messages that no honest validator signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Equivocation {
    /// Two votes of one kind in one round.
    Votes(SignedVote, SignedVote),
    /// Two blocks proposed in one round.
    Proposals(SignedProposal, SignedProposal),
}

/// Why evidence convicts nobody.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EvidenceError {
    /// Two validators, no equivocation.
    #[error("the two messages are of {first} and {second}, not of one validator")]
    TwoValidators {
        /// Signer of the first.
        first: Address,
        /// Signer of the second.
        second: Address,
    },
    /// Voting in two places is what validators do.
    #[error("the two messages are for different places")]
    TwoPlaces,
    /// The same message twice proves nothing.
    #[error("the two messages say the same")]
    SameValue,
    /// Not a member of the committee of that height.
    #[error("{validator} is not in the committee")]
    UnknownValidator {
        /// The accused.
        validator: Address,
    },
    /// The bytes are no signed message of a validator.
    #[error("the evidence does not decode as a vote or a proposal")]
    NotAMessage,
    /// A signature that does not verify, for example of another chain.
    #[error("a signature of {validator} is not valid on this chain")]
    BadSignature {
        /// The accused.
        validator: Address,
    },
}

impl Equivocation {
    /// Who is accused.
    pub fn validator(&self) -> Address {
        match self {
            Self::Votes(a, _) => a.validator,
            Self::Proposals(a, _) => a.validator,
        }
    }

    /// The height it happened at.
    pub fn height(&self) -> u64 {
        match self {
            Self::Votes(a, _) => a.place.height,
            Self::Proposals(a, _) => a.place.height,
        }
    }

    /// Checks that the accused, a member of the committee of that height, signed both messages on the chain with this genesis.
    pub fn verify(&self, set: &ValidatorSet, genesis_hash: &B256) -> Result<(), EvidenceError> {
        match self {
            Self::Votes(a, b) => {
                judge((a.validator, b.validator), a.place == b.place, a.value == b.value)?;
                let messages =
                    [a, b].map(|vote| (vote.place.signing_hash(genesis_hash, vote.value.as_ref()), &vote.signature));
                check_signatures(set, a.validator, messages)
            }
            Self::Proposals(a, b) => {
                judge(
                    (a.validator, b.validator),
                    a.place == b.place,
                    a.value == b.value && a.pol_round == b.pol_round,
                )?;
                let messages =
                    [a, b].map(|p| (p.place.signing_hash(genesis_hash, p.pol_round, &p.value), &p.signature));
                check_signatures(set, a.validator, messages)
            }
        }
    }
}

fn judge((first, second): (Address, Address), same_place: bool, same_value: bool) -> Result<(), EvidenceError> {
    if first != second {
        return Err(EvidenceError::TwoValidators { first, second });
    }
    if !same_place {
        return Err(EvidenceError::TwoPlaces);
    }
    if same_value {
        return Err(EvidenceError::SameValue);
    }
    Ok(())
}

fn check_signatures(
    set: &ValidatorSet,
    validator: Address,
    messages: [(B256, &Bytes); 2],
) -> Result<(), EvidenceError> {
    let member = set.get(&validator).ok_or(EvidenceError::UnknownValidator { validator })?;
    for (message, signature) in messages {
        if !member.public_key.verifies(message.as_slice(), signature) {
            return Err(EvidenceError::BadSignature { validator });
        }
    }
    Ok(())
}

/// Flat wire form of either message: nil and "no round" are empty strings, so that every value has one encoding.
#[derive(RlpEncodable, RlpDecodable)]
struct WireMessage {
    height: u64,
    round: u32,
    /// Vote kind, or 0 for a proposal.
    kind: u8,
    /// 32 bytes, or empty for nil.
    value: Bytes,
    /// Proof-of-lock round + 1; 0 = none. Always 0 in votes.
    pol: u64,
    validator: Address,
    signature: Bytes,
}

impl From<&SignedVote> for WireMessage {
    fn from(vote: &SignedVote) -> Self {
        Self {
            height: vote.place.height,
            round: vote.place.round,
            kind: vote.place.kind as u8,
            value: vote.value.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(id.as_slice())),
            pol: 0,
            validator: vote.validator,
            signature: vote.signature.clone(),
        }
    }
}

impl From<&SignedProposal> for WireMessage {
    fn from(proposal: &SignedProposal) -> Self {
        Self {
            height: proposal.place.height,
            round: proposal.place.round,
            kind: 0,
            value: Bytes::copy_from_slice(proposal.value.as_slice()),
            pol: proposal.pol_round.map_or(0, |round| u64::from(round).saturating_add(1)),
            validator: proposal.validator,
            signature: proposal.signature.clone(),
        }
    }
}

impl WireMessage {
    fn value(&self) -> alloy_rlp::Result<Option<B256>> {
        match self.value.len() {
            0 => Ok(None),
            32 => Ok(Some(B256::from_slice(&self.value))),
            _ => Err(alloy_rlp::Error::Custom("a value id has 32 bytes or none")),
        }
    }

    fn into_vote(self) -> alloy_rlp::Result<SignedVote> {
        let kind = VoteKind::from_tag(self.kind).ok_or(alloy_rlp::Error::Custom("unknown vote kind"))?;
        if self.pol != 0 {
            return Err(alloy_rlp::Error::Custom("a vote has no proof-of-lock round"));
        }
        let value = self.value()?;
        let place = VotePlace { height: self.height, round: self.round, kind };
        Ok(SignedVote { place, value, validator: self.validator, signature: self.signature })
    }

    fn into_proposal(self) -> alloy_rlp::Result<SignedProposal> {
        if self.kind != 0 {
            return Err(alloy_rlp::Error::Custom("a vote where a proposal was expected"));
        }
        let value = self.value()?.ok_or(alloy_rlp::Error::Custom("a proposal names a block"))?;
        let pol_round = match self.pol.checked_sub(1) {
            None => None,
            Some(round) => Some(
                u32::try_from(round).map_err(|_| alloy_rlp::Error::Custom("the proof-of-lock round is too large"))?,
            ),
        };
        let place = ProposalPlace { height: self.height, round: self.round };
        let (validator, signature) = (self.validator, self.signature);
        Ok(SignedProposal { place, pol_round, value, validator, signature })
    }
}

#[derive(RlpEncodable, RlpDecodable)]
struct WirePair {
    first: WireMessage,
    second: WireMessage,
}

impl Equivocation {
    fn wire(&self) -> WirePair {
        match self {
            Self::Votes(a, b) => WirePair { first: a.into(), second: b.into() },
            Self::Proposals(a, b) => WirePair { first: a.into(), second: b.into() },
        }
    }
}

impl Encodable for Equivocation {
    fn encode(&self, out: &mut dyn alloy_rlp::BufMut) {
        self.wire().encode(out);
    }

    fn length(&self) -> usize {
        self.wire().length()
    }
}

impl Decodable for Equivocation {
    fn decode(buf: &mut &[u8]) -> alloy_rlp::Result<Self> {
        let WirePair { first, second } = WirePair::decode(buf)?;
        if first.kind == 0 {
            Ok(Self::Proposals(first.into_proposal()?, second.into_proposal()?))
        } else {
            Ok(Self::Votes(first.into_vote()?, second.into_vote()?))
        }
    }
}
