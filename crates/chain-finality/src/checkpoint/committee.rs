//! A committee as checkpoints see it: power and checkpoint keys.

use super::certificate::CheckpointError;
use super::prefixed;
use crate::validator_set::ValidatorSet;
use alloy_rlp::{RlpDecodable, RlpEncodable};
use std::collections::BTreeMap;
use trellis_crypto::{BLS_PUBLIC_BYTES, BlsPublicKey, MLDSA44_PUBLIC_BYTES, VotePublicKey};
use trellis_primitives::{Address, B256, Bytes, CheckpointKeys, keccak256};

/// Keeps committees' hashes apart from every other.
pub const CHECKPOINT_COMMITTEE_DOMAIN: &str = "trellis/checkpoint-committee/1";

/// Bytes of an encoded committee with its keys at most: 4,096 members.
pub const CHECKPOINT_COMMITTEE_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(RlpEncodable, RlpDecodable)]
struct WireCommittee {
    validators: Bytes,
    keys: Vec<CheckpointKeys>,
}

/// One member of the committee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointMember {
    /// Whose stake it is.
    pub account: Address,
    /// Voting power in whole TRL, with or without keys.
    pub power: u64,
    /// What it said its keys are.
    pub keys: CheckpointKeys,
    /// The BLS key, where both keys are good.
    bls: Option<BlsPublicKey>,
}

impl CheckpointMember {
    fn new(account: Address, power: u64, keys: CheckpointKeys) -> Self {
        let whole = keys.mldsa44.len() == MLDSA44_PUBLIC_BYTES;
        let bls = whole.then(|| BlsPublicKey::from_bytes(&keys.bls).ok()).flatten();
        Self { account, power, keys, bls }
    }

    /// The keys to check its signatures with; none where it cannot sign.
    #[must_use]
    pub fn verifying(&self) -> Option<(&BlsPublicKey, &[u8])> {
        self.bls.as_ref().map(|bls| (bls, self.keys.mldsa44.as_ref()))
    }
}

/// A committee with its checkpoint keys. The order is the committee's own; a bit of a certificate stands for a place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointCommittee {
    members: Vec<CheckpointMember>,
    places: BTreeMap<Address, usize>,
    validators: ValidatorSet,
}

impl CheckpointCommittee {
    /// A committee whose members sign with these keys, in its order. Whoever has none, or none that are keys, counts with
    /// its power all the same: two thirds are two thirds of everybody.
    #[must_use]
    pub fn new(set: &ValidatorSet, keys: &[CheckpointKeys]) -> Self {
        let keys = keys.iter().cloned().chain(std::iter::repeat(CheckpointKeys::default()));
        let members: Vec<_> = set
            .validators()
            .iter()
            .zip(keys)
            .map(|(member, keys)| CheckpointMember::new(member.account, member.power, keys))
            .collect();
        let places = members.iter().enumerate().map(|(place, member)| (member.account, place)).collect();
        Self { members, places, validators: set.clone() }
    }

    /// RLP of the committee and its keys, as [`Self::decode_exact`] takes it.
    #[must_use]
    pub fn to_rlp(&self) -> Bytes {
        let keys = self.members.iter().map(|member| member.keys.clone()).collect();
        alloy_rlp::encode(WireCommittee { validators: alloy_rlp::encode(&self.validators).into(), keys }).into()
    }

    /// Reads a committee and its keys.
    ///
    /// # Errors
    /// [`CheckpointError`] where the bytes are too many or no committee's.
    pub fn decode_exact(bytes: &[u8]) -> Result<Self, CheckpointError> {
        if bytes.len() > CHECKPOINT_COMMITTEE_BYTES_MAX {
            return Err(CheckpointError::TooLarge { max: CHECKPOINT_COMMITTEE_BYTES_MAX, actual: bytes.len() });
        }
        let wire: WireCommittee = alloy_rlp::decode_exact(bytes)?;
        let set: ValidatorSet = alloy_rlp::decode_exact(&wire.validators)?;
        if wire.keys.len() != set.count() {
            return Err(CheckpointError::Encoding(alloy_rlp::Error::Custom("not one entry of keys for each member")));
        }
        Ok(Self::new(&set, &wire.keys))
    }

    /// The members in their order.
    #[must_use]
    pub fn members(&self) -> &[CheckpointMember] {
        &self.members
    }

    /// An account's place and what is known of it.
    #[must_use]
    pub fn of(&self, account: &Address) -> Option<(usize, &CheckpointMember)> {
        let place = *self.places.get(account)?;
        Some((place, self.members.get(place)?))
    }

    /// Whose BLS key this is.
    #[must_use]
    pub fn holder(&self, bls: &[u8]) -> Option<&CheckpointMember> {
        self.members.iter().find(|member| member.verifying().is_some_and(|(key, _)| key.as_bytes() == bls))
    }

    /// The account of the member with this vote key.
    #[must_use]
    pub fn account_of(&self, vote_key: &VotePublicKey) -> Option<Address> {
        let member = self.validators.validators().iter().find(|member| member.public_key == *vote_key)?;
        Some(member.account)
    }

    /// Hash of the committee's vote keys: `ValidatorSet::hash`.
    #[must_use]
    pub fn validators_hash(&self) -> B256 {
        self.validators.hash()
    }

    /// Sum of all power.
    #[must_use]
    pub fn total_power(&self) -> u64 {
        self.validators.total_power()
    }

    /// Least power that makes a checkpoint: strictly more than two thirds of the total.
    #[must_use]
    pub fn quorum_power(&self) -> u64 {
        self.validators.quorum_power()
    }

    /// What a checkpoint names a committee by: keccak-256 of length and text of [`CHECKPOINT_COMMITTEE_DOMAIN`], the hash of
    /// the vote keys, and for each member account (20 bytes), power (u64 BE), BLS key (96), keccak-256 of the ML-DSA-44 key
    /// (32); zeros for the last two where it cannot sign. Every entry has 156 bytes, so that a contract can walk through them.
    #[must_use]
    pub fn hash(&self) -> B256 {
        let mut bytes = prefixed(CHECKPOINT_COMMITTEE_DOMAIN);
        bytes.extend_from_slice(self.validators.hash().as_slice());
        for member in &self.members {
            bytes.extend_from_slice(member.account.as_slice());
            bytes.extend_from_slice(&member.power.to_be_bytes());
            match member.verifying() {
                Some((bls, mldsa44)) => {
                    bytes.extend_from_slice(bls.as_bytes());
                    bytes.extend_from_slice(keccak256(mldsa44).as_slice());
                }
                None => bytes.extend_from_slice(&[0; BLS_PUBLIC_BYTES.saturating_add(32)]),
            }
        }
        keccak256(bytes)
    }
}
