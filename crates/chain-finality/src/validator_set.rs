//! The committee: who votes, with which key, and how much each vote weighs.

use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;
use trellis_primitives::{Address, B256, Bytes, keccak256};

/// Most members a committee may have (CHN-12 simulates 1,000).
pub const VALIDATORS_MAX: usize = 4_096;

/// Most voting power a committee may have in total: thrice this still fits a u64, which the engine's threshold arithmetic needs.
pub const POWER_TOTAL_MAX: u64 = u64::MAX / 4;

const ED25519_PUBLIC_BYTES: usize = 32;
const ML_DSA_44_PUBLIC_BYTES: usize = 1_312;

/// How a validator signs its votes (CHN-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum VoteScheme {
    /// Ed25519 (RFC 8032), the default.
    Ed25519 = 1,
    /// ML-DSA-44 (FIPS 204), the post-quantum mode. Recognised, not accepted yet.
    MlDsa44 = 2,
}

impl VoteScheme {
    /// Length of a public key of this scheme, in bytes.
    pub const fn public_key_bytes(self) -> usize {
        match self {
            Self::Ed25519 => ED25519_PUBLIC_BYTES,
            Self::MlDsa44 => ML_DSA_44_PUBLIC_BYTES,
        }
    }

    /// Length of a signature of this scheme, in bytes.
    pub const fn signature_bytes(self) -> usize {
        match self {
            Self::Ed25519 => 64,
            Self::MlDsa44 => 2_420,
        }
    }

    /// The byte by which the stake's contract knows this scheme.
    pub const fn contract_byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0,
            Self::MlDsa44 => 1,
        }
    }

    pub(crate) const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Ed25519),
            2 => Some(Self::MlDsa44),
            _ => None,
        }
    }
}

/// A validator's public vote key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VotePublicKey {
    /// 32 raw bytes (RFC 8032).
    Ed25519([u8; ED25519_PUBLIC_BYTES]),
}

impl VotePublicKey {
    /// The scheme this key belongs to.
    pub const fn scheme(&self) -> VoteScheme {
        match self {
            Self::Ed25519(_) => VoteScheme::Ed25519,
        }
    }

    /// The raw key.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(bytes) => bytes,
        }
    }

    /// Reads a raw key of a scheme.
    pub fn from_bytes(scheme: VoteScheme, bytes: &[u8]) -> Result<Self, ValidatorSetError> {
        match scheme {
            VoteScheme::Ed25519 => bytes.try_into().map(Self::Ed25519).map_err(|_| ValidatorSetError::KeyLength {
                scheme,
                expected: scheme.public_key_bytes(),
                actual: bytes.len(),
            }),
            VoteScheme::MlDsa44 => Err(ValidatorSetError::SchemeNotAccepted { scheme }),
        }
    }

    /// The validator's address: the last 20 bytes of keccak-256 of the raw key.
    pub fn address(&self) -> Address {
        Address::from_slice(keccak256(self.as_bytes()).get(12..).unwrap_or(&[0; 20]))
    }

    /// What the stake's contract calls this key: keccak-256 of the scheme's byte and the key.
    pub fn contract_hash(&self) -> B256 {
        let mut bytes = vec![self.scheme().contract_byte()];
        bytes.extend_from_slice(self.as_bytes());
        keccak256(bytes)
    }

    /// Whether `signature` is this key's over `message`. A wrong length is simply not a signature.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(public) => trellis_crypto::vote::verify(public, message, signature).is_ok(),
        }
    }
}

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
    /// A key of the wrong length.
    #[error("a {scheme:?} vote key has {expected} bytes, this one has {actual}")]
    KeyLength {
        /// Scheme named beside the key.
        scheme: VoteScheme,
        /// Bytes a key of that scheme has.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// A scheme that exists but is not switched on.
    #[error("vote keys of scheme {scheme:?} are not accepted on this chain")]
    SchemeNotAccepted {
        /// The scheme named.
        scheme: VoteScheme,
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
