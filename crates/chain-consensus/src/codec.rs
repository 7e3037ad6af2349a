//! The engine's codecs: entries of its log, and the messages of its sync.

use arc_malachitebft_codec::{Codec, HasEncodedLen};
use arc_malachitebft_core_consensus::{ProposedValue, SignedConsensusMsg};
use arc_malachitebft_core_types::{PolkaCertificate, Validity};
use arc_malachitebft_sync as sync;
use bytes::Bytes;
use prost::Message;
use trellis_chain_finality::VALIDATORS_MAX;
use trellis_primitives::CommitCertificate;

use crate::certificate::{certificate_from_engine, decided_to_engine};
use crate::context::{BlockHeight, BlockId, Trellis, VoterAddress};
use crate::signing::engine_round;
use crate::wire::{
    ConsensusBody, ConsensusFrame, WireDecided, WireError, WirePolka, WireProposedValue, WireStatus, WireSyncRequest,
    WireSyncResponse, address, bytes32, consensus_body, copy, encode_body,
};

/// Encodes the entries of the engine's log and the messages of its sync. Votes are the same bytes in both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineCodec;

impl Codec<SignedConsensusMsg<Trellis>> for EngineCodec {
    type Error = WireError;

    fn decode(&self, bytes: Bytes) -> Result<SignedConsensusMsg<Trellis>, WireError> {
        match ConsensusFrame::decode(bytes)?.body {
            Some(ConsensusBody::Vote(vote)) => Ok(SignedConsensusMsg::Vote(vote.try_into()?)),
            Some(ConsensusBody::Proposal(proposal)) => Ok(SignedConsensusMsg::Proposal(proposal.try_into()?)),
            _ => Err(WireError::Missing("vote or proposal")),
        }
    }

    fn encode(&self, message: &SignedConsensusMsg<Trellis>) -> Result<Bytes, WireError> {
        Ok(encode_body(consensus_body(message)))
    }
}

impl Codec<PolkaCertificate<Trellis>> for EngineCodec {
    type Error = WireError;

    fn decode(&self, bytes: Bytes) -> Result<PolkaCertificate<Trellis>, WireError> {
        WirePolka::decode(bytes)?.try_into()
    }

    fn encode(&self, polka: &PolkaCertificate<Trellis>) -> Result<Bytes, WireError> {
        Ok(WirePolka::from(polka).encode_to_vec().into())
    }
}

impl Codec<ProposedValue<Trellis>> for EngineCodec {
    type Error = WireError;

    fn decode(&self, bytes: Bytes) -> Result<ProposedValue<Trellis>, WireError> {
        let wire = WireProposedValue::decode(bytes)?;
        Ok(ProposedValue {
            height: BlockHeight(wire.height),
            round: engine_round(wire.round),
            valid_round: engine_round(wire.valid_round),
            proposer: VoterAddress(address("proposer", &wire.proposer)?),
            value: BlockId(bytes32("value", &wire.value)?),
            validity: Validity::from_bool(wire.valid),
        })
    }

    fn encode(&self, value: &ProposedValue<Trellis>) -> Result<Bytes, WireError> {
        let wire = WireProposedValue {
            height: value.height.0,
            round: value.round.as_u32(),
            valid_round: value.valid_round.as_u32(),
            proposer: copy(value.proposer.0.as_slice()),
            value: copy(value.value.0.as_slice()),
            valid: value.validity.is_valid(),
        };
        Ok(wire.encode_to_vec().into())
    }
}

impl Codec<sync::Status<Trellis>> for EngineCodec {
    type Error = WireError;

    /// The sender's id is not in the bytes: the network knows who sent them.
    fn decode(&self, _bytes: Bytes) -> Result<sync::Status<Trellis>, WireError> {
        Err(WireError::Missing("peer"))
    }

    fn encode(&self, status: &sync::Status<Trellis>) -> Result<Bytes, WireError> {
        let wire = WireStatus { tip_height: status.tip_height.0, history_min_height: status.history_min_height.0 };
        Ok(wire.encode_to_vec().into())
    }
}

impl Codec<sync::Request<Trellis>> for EngineCodec {
    type Error = WireError;

    fn decode(&self, bytes: Bytes) -> Result<sync::Request<Trellis>, WireError> {
        let wire = WireSyncRequest::decode(bytes)?;
        let range = BlockHeight(wire.first)..=BlockHeight(wire.last);
        Ok(sync::Request::ValueRequest(sync::ValueRequest::new(range)))
    }

    fn encode(&self, request: &sync::Request<Trellis>) -> Result<Bytes, WireError> {
        let sync::Request::ValueRequest(request) = request;
        let wire = WireSyncRequest { first: request.range.start().0, last: request.range.end().0 };
        Ok(wire.encode_to_vec().into())
    }
}

fn response_to_wire(response: &sync::Response<Trellis>) -> WireSyncResponse {
    let sync::Response::ValueResponse(response) = response;
    WireSyncResponse {
        first: response.start_height.0,
        values: response
            .values
            .iter()
            .map(|value| WireDecided {
                certificate: alloy_rlp::encode(certificate_from_engine(&value.certificate.trim_vote_extensions()))
                    .into(),
                block: value.value_bytes.clone(),
            })
            .collect(),
    }
}

impl Codec<sync::Response<Trellis>> for EngineCodec {
    type Error = WireError;

    fn decode(&self, bytes: Bytes) -> Result<sync::Response<Trellis>, WireError> {
        let wire = WireSyncResponse::decode(bytes)?;
        let values = wire
            .values
            .into_iter()
            .map(|value| {
                let certificate: CommitCertificate =
                    alloy_rlp::decode_exact(&value.certificate).map_err(|_| WireError::Missing("certificate"))?;
                if certificate.signatures.len() > VALIDATORS_MAX {
                    let actual = certificate.signatures.len();
                    return Err(WireError::Length { field: "signatures", actual });
                }
                Ok(decided_to_engine(&certificate, value.block))
            })
            .collect::<Result<_, WireError>>()?;
        Ok(sync::Response::ValueResponse(sync::ValueResponse::new(BlockHeight(wire.first), values)))
    }

    fn encode(&self, response: &sync::Response<Trellis>) -> Result<Bytes, WireError> {
        Ok(response_to_wire(response).encode_to_vec().into())
    }
}

impl HasEncodedLen<sync::Response<Trellis>> for EngineCodec {
    fn encoded_len(&self, response: &sync::Response<Trellis>) -> Result<usize, WireError> {
        Ok(response_to_wire(response).encoded_len())
    }
}
