//! The messages between validators and the entries of the engine's log: prost, field numbers never reused.

use arc_malachitebft_core_consensus::{LivenessMsg, SignedConsensusMsg};
use arc_malachitebft_core_types::{
    NilOrVal, PolkaCertificate, PolkaSignature, RoundCertificate, RoundCertificateType, RoundSignature, SignedMessage,
    SignedProposal, SignedVote, VoteType,
};
use arc_malachitebft_engine::util::streaming::{StreamContent, StreamId, StreamMessage};
use bytes::Bytes;
use prost::Message;
use thiserror::Error;
use trellis_chain_finality::{VALIDATORS_MAX, VoteScheme};
use trellis_primitives::{Address, B256};

use crate::context::{BlockHeight, BlockId, Part, PartsInit, Proposal, Trellis, Vote, VoteSignature, VoterAddress};
use crate::signing::engine_round;

/// Longest signature of any scheme, bytes.
const SIGNATURE_BYTES_MAX: usize = VoteScheme::MlDsa44.signature_bytes();

/// Longest stream id, bytes.
const STREAM_ID_BYTES_MAX: usize = 32;

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum WireError {
    #[error("not a message: {0}")]
    Prost(#[from] prost::DecodeError),
    #[error("the field {0} is missing")]
    Missing(&'static str),
    #[error("the field {field} has {actual} bytes or entries, which is not allowed")]
    Length { field: &'static str, actual: usize },
    #[error("the field {field} has the unknown value {actual}")]
    Unknown { field: &'static str, actual: u64 },
}

/// One frame on the consensus protocol.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConsensusFrame {
    #[prost(oneof = "ConsensusBody", tags = "1, 2, 3, 4, 5, 6")]
    pub(crate) body: Option<ConsensusBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum ConsensusBody {
    #[prost(message, tag = "1")]
    Vote(WireVote),
    #[prost(message, tag = "2")]
    Proposal(WireProposal),
    #[prost(message, tag = "3")]
    RepeatedVote(WireVote),
    #[prost(message, tag = "4")]
    Polka(WirePolka),
    #[prost(message, tag = "5")]
    SkipRound(WireRoundCertificate),
    #[prost(message, tag = "6")]
    Status(WireStatus),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireVote {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint64, tag = "2")]
    height: u64,
    #[prost(uint32, tag = "3")]
    round: u32,
    #[prost(bytes = "bytes", optional, tag = "4")]
    value: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "5")]
    voter: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    signature: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireProposal {
    #[prost(uint64, tag = "1")]
    height: u64,
    #[prost(uint32, tag = "2")]
    round: u32,
    #[prost(bytes = "bytes", tag = "3")]
    value: Bytes,
    #[prost(uint32, optional, tag = "4")]
    pol_round: Option<u32>,
    #[prost(bytes = "bytes", tag = "5")]
    proposer: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    signature: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireSignature {
    #[prost(bytes = "bytes", tag = "1")]
    voter: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    signature: Bytes,
    /// In round certificates only: which vote it was.
    #[prost(uint32, tag = "3")]
    kind: u32,
    /// In round certificates only: what for.
    #[prost(bytes = "bytes", optional, tag = "4")]
    value: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WirePolka {
    #[prost(uint64, tag = "1")]
    height: u64,
    #[prost(uint32, tag = "2")]
    round: u32,
    #[prost(bytes = "bytes", tag = "3")]
    value: Bytes,
    #[prost(message, repeated, tag = "4")]
    signatures: Vec<WireSignature>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireRoundCertificate {
    #[prost(uint64, tag = "1")]
    height: u64,
    #[prost(uint32, tag = "2")]
    round: u32,
    /// 1 = skip, 2 = precommit.
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(message, repeated, tag = "4")]
    signatures: Vec<WireSignature>,
}

/// What a validator tells others about its chain.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireStatus {
    #[prost(uint64, tag = "1")]
    pub(crate) tip_height: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) history_min_height: u64,
}

/// One frame on the proposal protocol.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WirePart {
    #[prost(bytes = "bytes", tag = "1")]
    stream: Bytes,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(message, optional, tag = "3")]
    init: Option<WireInit>,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
    #[prost(bool, tag = "5")]
    last: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireInit {
    #[prost(uint64, tag = "1")]
    height: u64,
    #[prost(uint32, tag = "2")]
    round: u32,
    #[prost(uint32, optional, tag = "3")]
    pol_round: Option<u32>,
    #[prost(bytes = "bytes", tag = "4")]
    proposer: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    block_hash: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    payload_hash: Bytes,
    #[prost(uint64, tag = "7")]
    payload_bytes: u64,
    #[prost(bytes = "bytes", tag = "8")]
    signature: Bytes,
}

/// A block that was seen proposed, as the engine's log keeps it: by hash.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireProposedValue {
    #[prost(uint64, tag = "1")]
    pub(crate) height: u64,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) round: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    pub(crate) valid_round: Option<u32>,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) proposer: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) value: Bytes,
    #[prost(bool, tag = "6")]
    pub(crate) valid: bool,
}

/// Asks for decided blocks `first..=last`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireSyncRequest {
    #[prost(uint64, tag = "1")]
    pub(crate) first: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) last: u64,
}

/// The answer: blocks in order of height, the first of them `first`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireSyncResponse {
    #[prost(uint64, tag = "1")]
    pub(crate) first: u64,
    #[prost(message, repeated, tag = "2")]
    pub(crate) values: Vec<WireDecided>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WireDecided {
    /// RLP of the certificate.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) certificate: Bytes,
    /// RLP of the block.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) block: Bytes,
}

pub(crate) fn bytes32(field: &'static str, bytes: &[u8]) -> Result<B256, WireError> {
    B256::try_from(bytes).map_err(|_| WireError::Length { field, actual: bytes.len() })
}

pub(crate) fn address(field: &'static str, bytes: &[u8]) -> Result<Address, WireError> {
    Address::try_from(bytes).map_err(|_| WireError::Length { field, actual: bytes.len() })
}

pub(crate) fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A copy: what was decoded shares the whole frame, and the engine keeps messages of later heights before it checks them.
fn signature(bytes: Bytes) -> Result<VoteSignature, WireError> {
    match bytes.len() {
        0..=SIGNATURE_BYTES_MAX => Ok(VoteSignature(copy(&bytes))),
        actual => Err(WireError::Length { field: "signature", actual }),
    }
}

fn vote_kind(tag: u32) -> Result<VoteType, WireError> {
    match tag {
        1 => Ok(VoteType::Prevote),
        2 => Ok(VoteType::Precommit),
        _ => Err(WireError::Unknown { field: "kind", actual: tag.into() }),
    }
}

fn kind_tag(kind: VoteType) -> u32 {
    match kind {
        VoteType::Prevote => 1,
        VoteType::Precommit => 2,
    }
}

fn value_to_wire(value: &NilOrVal<B256>) -> Option<Bytes> {
    match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(id) => Some(copy(id.as_slice())),
    }
}

fn value_from_wire(value: Option<Bytes>) -> Result<NilOrVal<B256>, WireError> {
    Ok(match value {
        None => NilOrVal::Nil,
        Some(bytes) => NilOrVal::Val(bytes32("value", &bytes)?),
    })
}

impl From<&SignedVote<Trellis>> for WireVote {
    fn from(vote: &SignedVote<Trellis>) -> Self {
        Self {
            kind: kind_tag(vote.kind),
            height: vote.height.0,
            round: vote.round.as_u32().unwrap_or_default(),
            value: value_to_wire(&vote.value),
            voter: copy(vote.voter.0.as_slice()),
            signature: vote.signature.0.clone(),
        }
    }
}

impl TryFrom<WireVote> for SignedVote<Trellis> {
    type Error = WireError;

    fn try_from(wire: WireVote) -> Result<Self, WireError> {
        let vote = Vote {
            kind: vote_kind(wire.kind)?,
            height: BlockHeight(wire.height),
            round: engine_round(Some(wire.round)),
            value: value_from_wire(wire.value)?,
            voter: VoterAddress(address("voter", &wire.voter)?),
            // There are none on this chain (ADR 0007), and the engine would keep one unseen.
            extension: None,
        };
        Ok(SignedMessage::new(vote, signature(wire.signature)?))
    }
}

impl From<&SignedProposal<Trellis>> for WireProposal {
    fn from(proposal: &SignedProposal<Trellis>) -> Self {
        Self {
            height: proposal.height.0,
            round: proposal.round.as_u32().unwrap_or_default(),
            value: copy(proposal.value.0.as_slice()),
            pol_round: proposal.pol_round.as_u32(),
            proposer: copy(proposal.proposer.0.as_slice()),
            signature: proposal.signature.0.clone(),
        }
    }
}

impl TryFrom<WireProposal> for SignedProposal<Trellis> {
    type Error = WireError;

    fn try_from(wire: WireProposal) -> Result<Self, WireError> {
        let proposal = Proposal {
            height: BlockHeight(wire.height),
            round: engine_round(Some(wire.round)),
            value: BlockId(bytes32("value", &wire.value)?),
            pol_round: engine_round(wire.pol_round),
            proposer: VoterAddress(address("proposer", &wire.proposer)?),
        };
        Ok(SignedMessage::new(proposal, signature(wire.signature)?))
    }
}

impl From<&PolkaCertificate<Trellis>> for WirePolka {
    fn from(polka: &PolkaCertificate<Trellis>) -> Self {
        Self {
            height: polka.height.0,
            round: polka.round.as_u32().unwrap_or_default(),
            value: copy(polka.value_id.as_slice()),
            signatures: polka
                .polka_signatures
                .iter()
                .map(|s| WireSignature {
                    voter: copy(s.address.0.as_slice()),
                    signature: s.signature.0.clone(),
                    kind: 0,
                    value: None,
                })
                .collect(),
        }
    }
}

fn bounded(signatures: Vec<WireSignature>) -> Result<Vec<WireSignature>, WireError> {
    match signatures.len() {
        0..=VALIDATORS_MAX => Ok(signatures),
        actual => Err(WireError::Length { field: "signatures", actual }),
    }
}

impl TryFrom<WirePolka> for PolkaCertificate<Trellis> {
    type Error = WireError;

    fn try_from(wire: WirePolka) -> Result<Self, WireError> {
        let polka_signatures = bounded(wire.signatures)?
            .into_iter()
            .map(|s| {
                let voter = VoterAddress(address("voter", &s.voter)?);
                Ok(PolkaSignature::new(voter, signature(s.signature)?))
            })
            .collect::<Result<_, WireError>>()?;
        Ok(Self {
            height: BlockHeight(wire.height),
            round: engine_round(Some(wire.round)),
            value_id: bytes32("value", &wire.value)?,
            polka_signatures,
        })
    }
}

impl From<&RoundCertificate<Trellis>> for WireRoundCertificate {
    fn from(certificate: &RoundCertificate<Trellis>) -> Self {
        Self {
            height: certificate.height.0,
            round: certificate.round.as_u32().unwrap_or_default(),
            kind: match certificate.cert_type {
                RoundCertificateType::Skip => 1,
                RoundCertificateType::Precommit => 2,
            },
            signatures: certificate
                .round_signatures
                .iter()
                .map(|s| WireSignature {
                    voter: copy(s.address.0.as_slice()),
                    signature: s.signature.0.clone(),
                    kind: kind_tag(s.vote_type),
                    value: value_to_wire(&s.value_id),
                })
                .collect(),
        }
    }
}

impl TryFrom<WireRoundCertificate> for RoundCertificate<Trellis> {
    type Error = WireError;

    fn try_from(wire: WireRoundCertificate) -> Result<Self, WireError> {
        let cert_type = match wire.kind {
            1 => RoundCertificateType::Skip,
            2 => RoundCertificateType::Precommit,
            other => return Err(WireError::Unknown { field: "kind", actual: other.into() }),
        };
        let round_signatures = bounded(wire.signatures)?
            .into_iter()
            .map(|s| {
                Ok(RoundSignature::new(
                    vote_kind(s.kind)?,
                    value_from_wire(s.value)?,
                    VoterAddress(address("voter", &s.voter)?),
                    signature(s.signature)?,
                ))
            })
            .collect::<Result<_, WireError>>()?;
        Ok(Self {
            height: BlockHeight(wire.height),
            round: engine_round(Some(wire.round)),
            cert_type,
            round_signatures,
        })
    }
}

/// The frame of a vote or proposal.
pub(crate) fn consensus_body(message: &SignedConsensusMsg<Trellis>) -> ConsensusBody {
    match message {
        SignedConsensusMsg::Vote(vote) => ConsensusBody::Vote(vote.into()),
        SignedConsensusMsg::Proposal(proposal) => ConsensusBody::Proposal(proposal.into()),
    }
}

/// The frame of a liveness message.
pub(crate) fn liveness_body(message: &LivenessMsg<Trellis>) -> ConsensusBody {
    match message {
        LivenessMsg::Vote(vote) => ConsensusBody::RepeatedVote(vote.into()),
        LivenessMsg::PolkaCertificate(polka) => ConsensusBody::Polka(polka.into()),
        LivenessMsg::SkipRoundCertificate(certificate) => ConsensusBody::SkipRound(certificate.into()),
    }
}

/// Encodes one frame.
pub(crate) fn encode_body(body: ConsensusBody) -> Bytes {
    ConsensusFrame { body: Some(body) }.encode_to_vec().into()
}

/// Encodes one part of a stream; None for the engine's own end marker, which our streams do not use.
pub(crate) fn encode_part(message: &StreamMessage<Part>) -> Option<Bytes> {
    let (init, data, last) = match &message.content {
        StreamContent::Fin => return None,
        StreamContent::Data(Part::Data { bytes, last }) => (None, bytes.clone(), *last),
        StreamContent::Data(Part::Init(init)) => (Some(WireInit::from(init)), Bytes::new(), false),
    };
    let part = WirePart { stream: message.stream_id.to_bytes(), sequence: message.sequence, init, data, last };
    Some(part.encode_to_vec().into())
}

/// Decodes one part of a stream.
pub(crate) fn decode_part(bytes: Bytes) -> Result<StreamMessage<Part>, WireError> {
    let part = WirePart::decode(bytes)?;
    if part.stream.len() > STREAM_ID_BYTES_MAX {
        return Err(WireError::Length { field: "stream", actual: part.stream.len() });
    }
    let content = match part.init {
        Some(init) => Part::Init(init.try_into()?),
        None => Part::Data { bytes: part.data, last: part.last },
    };
    Ok(StreamMessage::new(StreamId::new(part.stream), part.sequence, StreamContent::Data(content)))
}

impl From<&PartsInit> for WireInit {
    fn from(init: &PartsInit) -> Self {
        Self {
            height: init.height,
            round: init.round,
            pol_round: init.pol_round,
            proposer: copy(init.proposer.as_slice()),
            block_hash: copy(init.block_hash.as_slice()),
            payload_hash: copy(init.payload_hash.as_slice()),
            payload_bytes: init.payload_bytes as u64,
            signature: init.signature.clone(),
        }
    }
}

impl TryFrom<WireInit> for PartsInit {
    type Error = WireError;

    fn try_from(wire: WireInit) -> Result<Self, WireError> {
        Ok(Self {
            height: wire.height,
            round: wire.round,
            pol_round: wire.pol_round,
            proposer: address("proposer", &wire.proposer)?,
            block_hash: bytes32("block_hash", &wire.block_hash)?,
            payload_hash: bytes32("payload_hash", &wire.payload_hash)?,
            payload_bytes: usize::try_from(wire.payload_bytes).unwrap_or(usize::MAX),
            signature: signature(wire.signature)?.0,
        })
    }
}
