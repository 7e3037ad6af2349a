//! The committee: who votes, with which key, and how much each vote weighs.

use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;
use trellis_crypto::vote::{VotePublicKey, VoteScheme};
use trellis_primitives::{Address, B256, Bytes, keccak256};

/// Most members a committee may have (CHN-12 simulates 1,000).
pub const VALIDATORS_MAX: usize = 4_096;

/// Most members with ML-DSA-44 vote keys that a committee may have: their signatures are so long that certificates would not
/// fit into a block's section and a frame otherwise. Some 100 seats are what it is for (CHN-15); a committee that changes has
/// more members than seats for a while.
pub const POST_QUANTUM_VALIDATORS_MAX: usize = 512;

/// What stands around a signature in a certificate, in any encoding, bytes at most.
const SIGNATURE_ENVELOPE_BYTES: usize = 64;
/// What a member's power, account and envelope take in a committee's bytes at most.
const MEMBER_ENVELOPE_BYTES: usize = 64;

/// Bytes of the largest certificate of the largest committee, in any encoding.
pub const CERTIFICATE_BYTES_MAX: usize = VALIDATORS_MAX
    * (VoteScheme::Ed25519.signature_bytes() + SIGNATURE_ENVELOPE_BYTES)
    + POST_QUANTUM_VALIDATORS_MAX * VoteScheme::MlDsa44.signature_bytes()
    + 1_024;

/// Bytes of the largest committee.
pub const COMMITTEE_BYTES_MAX: usize = VALIDATORS_MAX
    * (VoteScheme::Ed25519.public_key_bytes() + MEMBER_ENVELOPE_BYTES)
    + POST_QUANTUM_VALIDATORS_MAX * VoteScheme::MlDsa44.public_key_bytes()
    + 1_024;

/// Most voting power a committee may have in total: thrice this still fits a u64, which the engine's threshold arithmetic needs.
pub const POWER_TOTAL_MAX: u64 = u64::MAX / 4;

/// One member of the committee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    /// Last 20 bytes of keccak-256 of the vote public key.
    pub address: Address,
    /// The key its votes are checked with.
    pub public_key: VotePublicKey,
    /// Voting power in whole staked TRL; never zero.
    pub power: u64,
    /// The account whose stake this is: the same when the key is another.
    pub account: Address,
}

impl Validator {
    /// A member with the address that its key implies, for an account.
    pub fn new(public_key: VotePublicKey, power: u64, account: Address) -> Self {
        Self { address: public_key.address(), public_key, power, account }
    }
}

/// Why a list of validators is not a committee.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ValidatorSetError {
    /// A committee has at least one member.
    #[error("the committee is empty")]
    Empty,
    /// A committee is bounded.
    #[error("the committee has {actual} members, at most {VALIDATORS_MAX} are allowed")]
    TooMany {
        /// Members given.
        actual: usize,
    },
    /// Nobody sits twice.
    #[error("validator {address} is in the committee twice")]
    Duplicate {
        /// The address that appears again.
        address: Address,
    },
    /// Nobody's stake counts twice.
    #[error("account {account} is in the committee twice")]
    DuplicateAccount {
        /// The account that appears again.
        account: Address,
    },
    /// A member without power would count in lists but not in decisions.
    #[error("validator {address} has no voting power")]
    ZeroPower {
        /// The member concerned.
        address: Address,
    },
    /// The sum must leave room for the threshold's multiplication.
    #[error("the total voting power exceeds {POWER_TOTAL_MAX}")]
    PowerOverflow,
    /// Their signatures would take too much room.
    #[error(
        "the committee has {actual} members with ML-DSA-44 keys, at most {POST_QUANTUM_VALIDATORS_MAX} are allowed"
    )]
    TooManyPostQuantum {
        /// Members with such keys.
        actual: usize,
    },
}

/// A committee, sorted by power (highest first) and then by address: the same members always give the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorSet {
    validators: Vec<Validator>,
    by_address: BTreeMap<Address, usize>,
    total_power: u64,
}

impl ValidatorSet {
    /// Checks and sorts the members.
    pub fn new(mut validators: Vec<Validator>) -> Result<Self, ValidatorSetError> {
        if validators.is_empty() {
            return Err(ValidatorSetError::Empty);
        }
        if validators.len() > VALIDATORS_MAX {
            return Err(ValidatorSetError::TooMany { actual: validators.len() });
        }
        let post_quantum = validators.iter().filter(|member| member.public_key.scheme() == VoteScheme::MlDsa44).count();
        if post_quantum > POST_QUANTUM_VALIDATORS_MAX {
            return Err(ValidatorSetError::TooManyPostQuantum { actual: post_quantum });
        }
        validators.sort_by(|a, b| b.power.cmp(&a.power).then_with(|| a.address.cmp(&b.address)));
        let (mut by_address, mut accounts) = (BTreeMap::new(), BTreeSet::new());
        let mut total_power = 0u64;
        for (index, validator) in validators.iter().enumerate() {
            if validator.power == 0 {
                return Err(ValidatorSetError::ZeroPower { address: validator.address });
            }
            if by_address.insert(validator.address, index).is_some() {
                return Err(ValidatorSetError::Duplicate { address: validator.address });
            }
            if !accounts.insert(validator.account) {
                return Err(ValidatorSetError::DuplicateAccount { account: validator.account });
            }
            total_power = total_power
                .checked_add(validator.power)
                .filter(|total| *total <= POWER_TOTAL_MAX)
                .ok_or(ValidatorSetError::PowerOverflow)?;
        }
        Ok(Self { validators, by_address, total_power })
    }

    /// The members, highest power first.
    pub fn validators(&self) -> &[Validator] {
        &self.validators
    }

    /// Number of members, at least one.
    pub fn count(&self) -> usize {
        self.validators.len()
    }

    /// Sum of all voting power.
    pub fn total_power(&self) -> u64 {
        self.total_power
    }

    /// The member with this address.
    pub fn get(&self, address: &Address) -> Option<&Validator> {
        self.by_address.get(address).and_then(|index| self.validators.get(*index))
    }

    /// Least power that decides: strictly more than two thirds of the total.
    pub fn quorum_power(&self) -> u64 {
        let two_thirds = u128::from(self.total_power).saturating_mul(2) / 3;
        u64::try_from(two_thirds).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// The committee's identity: keccak-256 of its RLP.
    pub fn hash(&self) -> B256 {
        keccak256(alloy_rlp::encode(self))
    }
}

#[derive(RlpEncodable, RlpDecodable)]
struct WireValidator {
    scheme: u8,
    public_key: Bytes,
    power: u64,
    account: Address,
}

impl Encodable for ValidatorSet {
    fn encode(&self, out: &mut dyn alloy_rlp::BufMut) {
        wire(self).encode(out);
    }

    fn length(&self) -> usize {
        wire(self).length()
    }
}

fn wire(set: &ValidatorSet) -> Vec<WireValidator> {
    set.validators
        .iter()
        .map(|v| WireValidator {
            scheme: v.public_key.scheme() as u8,
            public_key: Bytes::copy_from_slice(v.public_key.as_bytes()),
            power: v.power,
            account: v.account,
        })
        .collect()
}

impl Decodable for ValidatorSet {
    fn decode(buf: &mut &[u8]) -> alloy_rlp::Result<Self> {
        let list = Vec::<WireValidator>::decode(buf)?;
        let mut validators = Vec::with_capacity(list.len().min(VALIDATORS_MAX));
        for entry in list {
            let scheme = VoteScheme::from_tag(entry.scheme).ok_or(alloy_rlp::Error::Custom("unknown vote scheme"))?;
            let public_key = VotePublicKey::from_bytes(scheme, &entry.public_key)
                .map_err(|_| alloy_rlp::Error::Custom("not a vote key of its scheme"))?;
            validators.push(Validator::new(public_key, entry.power, entry.account));
        }
        let sorted = Self::new(validators.clone()).map_err(|_| alloy_rlp::Error::Custom("not a committee"))?;
        if sorted.validators != validators {
            return Err(alloy_rlp::Error::Custom("the committee is not in canonical order"));
        }
        Ok(sorted)
    }
}
