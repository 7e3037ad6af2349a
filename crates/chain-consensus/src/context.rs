//! What the engine is generic over, in our types: addresses, heights, values, votes, committees.
//!
//! The value is the block's hash alone. The block itself travels beside the votes, in parts, and stays with the host.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_malachitebft_core_types as core;
use bytes::Bytes;
use core::{LinearTimeouts, NilOrVal, Round, SignedExtension, VoteType};
use trellis_chain_finality::{Demoted, Validator, ValidatorSet, VotePublicKey, proposer};
use trellis_primitives::{Address, B256};

/// The context of our chain. Holds nothing: everything comes in messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trellis;

/// A validator's address: the last 20 bytes of keccak-256 of its vote key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VoterAddress(pub(crate) Address);

impl fmt::Debug for VoterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for VoterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl core::Address for VoterAddress {}

/// A block's height; 0 is genesis and never decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockHeight(pub(crate) u64);

impl fmt::Display for BlockHeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl core::Height for BlockHeight {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// What is voted for: the header hash of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockId(pub(crate) B256);

impl core::Value for BlockId {
    type Id = B256;

    fn id(&self) -> B256 {
        self.0
    }
}

/// A signature of whatever scheme the committee uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VoteSignature(pub(crate) Bytes);

/// The schemes of [`VotePublicKey`]; secret keys never enter the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VoteSigning;

impl core::SigningScheme for VoteSigning {
    type DecodingError = trellis_crypto::SignatureError;
    type Signature = VoteSignature;
    type PublicKey = VotePublicKey;
    type PrivateKey = ();

    fn decode_signature(bytes: &[u8]) -> Result<VoteSignature, Self::DecodingError> {
        Ok(VoteSignature(Bytes::copy_from_slice(bytes)))
    }

    fn encode_signature(signature: &VoteSignature) -> Vec<u8> {
        signature.0.to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<VotePublicKey, Self::DecodingError> {
        VotePublicKey::read(bytes)
    }

    fn encode_public_key(public_key: &VotePublicKey) -> Vec<u8> {
        public_key.as_bytes().to_vec()
    }
}

/// A vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    pub(crate) kind: VoteType,
    pub(crate) height: BlockHeight,
    pub(crate) round: Round,
    pub(crate) value: NilOrVal<B256>,
    pub(crate) voter: VoterAddress,
    pub(crate) extension: Option<SignedExtension<Trellis>>,
}

impl core::Vote<Trellis> for Vote {
    fn height(&self) -> BlockHeight {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<B256> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<B256> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &VoterAddress {
        &self.voter
    }

    fn extension(&self) -> Option<&SignedExtension<Trellis>> {
        self.extension.as_ref()
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Trellis>> {
        self.extension.take()
    }

    fn extend(self, extension: SignedExtension<Trellis>) -> Self {
        Self { extension: Some(extension), ..self }
    }
}

/// A proposal: "in this round I propose this block hash".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) height: BlockHeight,
    pub(crate) round: Round,
    pub(crate) value: BlockId,
    pub(crate) pol_round: Round,
    pub(crate) proposer: VoterAddress,
}

impl core::Proposal<Trellis> for Proposal {
    fn height(&self) -> BlockHeight {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &BlockId {
        &self.value
    }

    fn take_value(self) -> BlockId {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &VoterAddress {
        &self.proposer
    }
}

/// One piece of a block on its way to the other validators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The first piece: what follows, signed by the proposer.
    Init(PartsInit),
    /// A slice of the block's RLP.
    Data {
        /// The bytes.
        bytes: Bytes,
        /// Whether nothing follows.
        last: bool,
    },
}

/// The head of a stream of parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartsInit {
    pub(crate) height: u64,
    pub(crate) round: u32,
    pub(crate) pol_round: Option<u32>,
    pub(crate) proposer: Address,
    pub(crate) block_hash: B256,
    pub(crate) payload_hash: B256,
    pub(crate) payload_bytes: usize,
    pub(crate) signature: Bytes,
}

impl core::ProposalPart<Trellis> for Part {
    fn is_first(&self) -> bool {
        matches!(self, Self::Init(_))
    }

    fn is_last(&self) -> bool {
        matches!(self, Self::Data { last: true, .. })
    }
}

/// A member of the committee, as the engine wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Voter {
    address: VoterAddress,
    public_key: VotePublicKey,
    power: u64,
}

impl core::Validator<Trellis> for Voter {
    fn address(&self) -> &VoterAddress {
        &self.address
    }

    fn public_key(&self) -> &VotePublicKey {
        &self.public_key
    }

    fn voting_power(&self) -> u64 {
        self.power
    }
}

/// The committee of one height; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Committee(Arc<CommitteeInner>);

#[derive(Debug, PartialEq, Eq)]
struct CommitteeInner {
    set: ValidatorSet,
    demoted: Demoted,
    voters: Vec<Voter>,
    by_address: BTreeMap<VoterAddress, usize>,
    first: Voter,
}

impl Committee {
    /// The engine's view of a set at the height where these of it are demoted; None only for an empty set, which
    /// [`ValidatorSet`] does not allow.
    pub(crate) fn new(set: ValidatorSet, demoted: Demoted) -> Option<Self> {
        let voters: Vec<Voter> = set
            .validators()
            .iter()
            .map(|v| Voter { address: VoterAddress(v.address), public_key: v.public_key.clone(), power: v.power })
            .collect();
        let by_address = voters.iter().enumerate().map(|(i, v)| (v.address, i)).collect();
        let first = voters.first()?.clone();
        Some(Self(Arc::new(CommitteeInner { set, demoted, voters, by_address, first })))
    }

    /// The set it was made of.
    pub(crate) fn set(&self) -> &ValidatorSet {
        &self.0.set
    }

    /// Whose turn it is to propose.
    pub(crate) fn proposer(&self, height: u64, round: u32) -> Option<&Validator> {
        proposer(&self.0.set, &self.0.demoted, height, round)
    }

    fn voter(&self, address: &VoterAddress) -> Option<&Voter> {
        self.0.by_address.get(address).and_then(|i| self.0.voters.get(*i))
    }
}

impl core::ValidatorSet<Trellis> for Committee {
    fn count(&self) -> usize {
        self.0.voters.len()
    }

    fn total_voting_power(&self) -> u64 {
        self.0.set.total_power()
    }

    fn get_by_address(&self, address: &VoterAddress) -> Option<&Voter> {
        self.voter(address)
    }

    fn get_by_index(&self, index: usize) -> Option<&Voter> {
        self.0.voters.get(index)
    }
}

impl core::Context for Trellis {
    type Address = VoterAddress;
    type Height = BlockHeight;
    type ProposalPart = Part;
    type Proposal = Proposal;
    type Validator = Voter;
    type ValidatorSet = Committee;
    type Timeouts = LinearTimeouts;
    type Value = BlockId;
    type Vote = Vote;
    type Extension = Bytes;
    type SigningScheme = VoteSigning;

    fn select_proposer<'a>(&self, committee: &'a Committee, height: BlockHeight, round: Round) -> &'a Voter {
        committee
            .proposer(height.0, round.as_u32().unwrap_or(0))
            .and_then(|chosen| committee.voter(&VoterAddress(chosen.address)))
            .unwrap_or(&committee.0.first)
    }

    fn new_proposal(
        &self,
        height: BlockHeight,
        round: Round,
        value: BlockId,
        pol_round: Round,
        proposer: VoterAddress,
    ) -> Proposal {
        Proposal { height, round, value, pol_round, proposer }
    }

    fn new_prevote(&self, height: BlockHeight, round: Round, value: NilOrVal<B256>, voter: VoterAddress) -> Vote {
        Vote { kind: VoteType::Prevote, height, round, value, voter, extension: None }
    }

    fn new_precommit(&self, height: BlockHeight, round: Round, value: NilOrVal<B256>, voter: VoterAddress) -> Vote {
        Vote { kind: VoteType::Precommit, height, round, value, voter, extension: None }
    }
}
