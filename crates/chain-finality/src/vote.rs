//! The bytes that validators sign.

use trellis_crypto::sha3_256;
use trellis_primitives::B256;

/// Separates votes from everything else a key might sign.
pub const VOTE_DOMAIN: &str = "trellis/vote/1";

/// Separates proposals from everything else a key might sign.
pub const PROPOSAL_DOMAIN: &str = "trellis/proposal/1";

/// The two votes of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum VoteKind {
    /// "I hold this block to be valid."
    Prevote = 1,
    /// "I saw two thirds hold it to be valid": these make certificates.
    Precommit = 2,
}

impl VoteKind {
    /// The kind with this tag, as it stands in signed bytes and on the wire.
    pub const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Prevote),
            2 => Some(Self::Precommit),
            _ => None,
        }
    }
}

/// One place for a vote. A validator signs at most one value for it, ever (CHN-16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VotePlace {
    /// Block height.
    pub height: u64,
    /// Round within the height, from 0.
    pub round: u32,
    /// Prevote or precommit.
    pub kind: VoteKind,
}

impl VotePlace {
    /// The 32 bytes that are signed for `value` (None = nil) in this place; see the crate's documentation.
    pub fn signing_hash(&self, genesis_hash: &B256, value: Option<&B256>) -> B256 {
        let (tag, id) = match value {
            Some(id) => (1u8, *id),
            None => (0u8, B256::ZERO),
        };
        domain_hash(
            VOTE_DOMAIN,
            &[
                genesis_hash.as_slice(),
                &self.height.to_be_bytes(),
                &self.round.to_be_bytes(),
                &[self.kind as u8, tag],
                id.as_slice(),
            ],
        )
    }
}

/// One place for a proposal: a validator proposes at most one block in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalPlace {
    /// Block height.
    pub height: u64,
    /// Round within the height, from 0.
    pub round: u32,
}

impl ProposalPlace {
    /// The 32 bytes that are signed for a proposal of `value`, locked in `pol_round` if any.
    pub fn signing_hash(&self, genesis_hash: &B256, pol_round: Option<u32>, value: &B256) -> B256 {
        let pol = pol_round.map_or(0, |round| u64::from(round).saturating_add(1));
        domain_hash(
            PROPOSAL_DOMAIN,
            &[
                genesis_hash.as_slice(),
                &self.height.to_be_bytes(),
                &self.round.to_be_bytes(),
                &pol.to_be_bytes(),
                value.as_slice(),
            ],
        )
    }
}

/// SHA3-256 over the length-prefixed domain and the parts, all of which have fixed lengths.
fn domain_hash(domain: &str, parts: &[&[u8]]) -> B256 {
    let length = [u8::try_from(domain.len()).unwrap_or(u8::MAX)];
    let mut all: Vec<&[u8]> = Vec::with_capacity(parts.len().saturating_add(2));
    all.push(&length);
    all.push(domain.as_bytes());
    all.extend_from_slice(parts);
    B256::from(sha3_256(&all))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Pinned (computed apart, with Python's hashlib): what is signed never changes by accident, neither here nor in the evidence precompile.
    #[test]
    fn vote_bytes_are_pinned() {
        let genesis = B256::repeat_byte(7);
        let place = VotePlace { height: 42, round: 3, kind: VoteKind::Precommit };
        let value = B256::repeat_byte(9);
        assert_eq!(
            place.signing_hash(&genesis, Some(&value)).to_string(),
            "0xe0aca1b5a5316338ad6a7a67f6ca4f46989d7fc5d6f97313f629503d4698e2b1"
        );
        assert_eq!(
            place.signing_hash(&genesis, None).to_string(),
            "0x923f61744cd968b37d1d6d6a9c7bd9abc0bf1031e7f57a2f8bde5476549be0a9"
        );
        let proposal = ProposalPlace { height: 42, round: 3 };
        assert_eq!(
            proposal.signing_hash(&genesis, Some(1), &value).to_string(),
            "0x2cb90e3ace88c163fdd07f1145ab27782596adeb39e74d5b54e14798628e5c38"
        );
    }

    #[test]
    fn every_field_of_a_place_changes_the_bytes() {
        let genesis = B256::repeat_byte(7);
        let value = B256::repeat_byte(9);
        let base = VotePlace { height: 42, round: 3, kind: VoteKind::Precommit };
        let reference = base.signing_hash(&genesis, Some(&value));
        let others = [
            VotePlace { height: 43, ..base }.signing_hash(&genesis, Some(&value)),
            VotePlace { round: 4, ..base }.signing_hash(&genesis, Some(&value)),
            VotePlace { kind: VoteKind::Prevote, ..base }.signing_hash(&genesis, Some(&value)),
            base.signing_hash(&B256::repeat_byte(8), Some(&value)),
            base.signing_hash(&genesis, Some(&B256::repeat_byte(10))),
            base.signing_hash(&genesis, None),
            base.signing_hash(&genesis, Some(&B256::ZERO)),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(&reference, other, "case {index}");
        }
        assert_ne!(others[5], others[6], "nil is not the zero hash");
    }
}
