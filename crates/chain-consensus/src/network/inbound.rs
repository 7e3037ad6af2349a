//! Streams of peers: bounded, paced, decoded, handed to the engine.

use std::sync::Arc;

use arc_malachitebft_engine::network::{NetworkEvent, Status};
use arc_malachitebft_peer::PeerId;
use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use trellis_chain_finality::CERTIFICATE_BYTES_MAX;
use trellis_net_peers::Acceptor;
use trellis_net_peers::guard::Pattern;
use trellis_net_peers::inlet::{Inlet, InletFault, InletLimits, InletRefusal, serve};
use trellis_primitives::NodeId;

use super::{Shared, engine_peer};
use crate::context::{BlockHeight, Trellis};
use crate::parts::PART_BYTES_MAX;
use crate::wire::{ConsensusBody, ConsensusFrame, WireError, decode_part};

/// Largest frame on the consensus protocol: the largest certificate of a round.
pub(crate) const CONSENSUS_FRAME_BYTES_MAX: usize = CERTIFICATE_BYTES_MAX;
/// Largest frame on the proposal protocol: a part and its envelope.
pub(crate) const PROPOSAL_FRAME_BYTES_MAX: usize = PART_BYTES_MAX + 1024;
/// Votes and the like that one peer may send in a second before it is read more slowly.
pub(crate) const CONSENSUS_FRAMES_PER_SECOND_MAX: u32 = 2_000;
/// Parts that one peer may send in a second before it is read more slowly (256 MiB/s).
pub(crate) const PROPOSAL_FRAMES_PER_SECOND_MAX: u32 = 2_048;

type Decode = fn(PeerId, Bytes) -> Result<NetworkEvent<Trellis>, WireError>;

/// Hands what the peers push to the engine.
struct Ear {
    shared: Arc<Shared>,
    decode: Decode,
}

#[async_trait]
impl Inlet for Ear {
    type Message = NetworkEvent<Trellis>;

    fn hears(&self, peer: &NodeId) -> bool {
        self.shared.hears(peer)
    }

    fn decode(&self, peer: NodeId, frame: Bytes) -> Result<(NetworkEvent<Trellis>, u32), InletFault> {
        let engine_id = engine_peer(&peer).ok_or(InletFault::Closing)?;
        let event = (self.decode)(engine_id, frame).map_err(|error| {
            tracing::debug!(%peer, %error, "consensus message not understood");
            InletFault::Invalid(Pattern::Malformed)
        })?;
        let signatures = signatures(&event);
        Ok((event, signatures))
    }

    async fn take(&self, _: NodeId, event: NetworkEvent<Trellis>) -> Result<(), InletFault> {
        self.shared.emit(event);
        Ok(())
    }

    fn throttled(&self) {
        self.shared.metrics.throttled.inc();
    }

    fn refused(&self, _: NodeId, why: InletRefusal) {
        self.shared.metrics.refuse(if why == InletRefusal::Unheard { "not_a_validator" } else { why.word() });
    }
}

/// Hears votes, repairs and status.
pub(crate) async fn serve_consensus(shared: Arc<Shared>, acceptor: Acceptor) {
    hear(shared, acceptor, (CONSENSUS_FRAME_BYTES_MAX, CONSENSUS_FRAMES_PER_SECOND_MAX), consensus_event).await;
}

/// Hears parts of blocks.
pub(crate) async fn serve_proposals(shared: Arc<Shared>, acceptor: Acceptor) {
    hear(shared, acceptor, (PROPOSAL_FRAME_BYTES_MAX, PROPOSAL_FRAMES_PER_SECOND_MAX), part_event).await;
}

async fn hear(shared: Arc<Shared>, acceptor: Acceptor, limits: (usize, u32), decode: Decode) {
    let (frame_bytes_max, messages_per_second_max) = limits;
    let network = shared.network.clone();
    let limits = InletLimits { frame_bytes_max, messages_per_second_max };
    serve(network, acceptor, limits, Arc::new(Ear { shared, decode })).await;
}

/// How many signatures the engine checks for a message: a certificate counts for the votes in it, whether or not they are enough.
fn signatures(event: &NetworkEvent<Trellis>) -> u32 {
    let count = match event {
        NetworkEvent::PolkaCertificate(_, certificate) => certificate.polka_signatures.len(),
        NetworkEvent::RoundCertificate(_, certificate) => certificate.round_signatures.len(),
        _ => 1,
    };
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

fn consensus_event(peer: PeerId, frame: Bytes) -> Result<NetworkEvent<Trellis>, WireError> {
    let body = ConsensusFrame::decode(frame)?.body.ok_or(WireError::Missing("body"))?;
    Ok(match body {
        ConsensusBody::Vote(vote) | ConsensusBody::RepeatedVote(vote) => NetworkEvent::Vote(peer, vote.try_into()?),
        ConsensusBody::Proposal(proposal) => NetworkEvent::Proposal(peer, proposal.try_into()?),
        ConsensusBody::Polka(polka) => NetworkEvent::PolkaCertificate(peer, polka.try_into()?),
        ConsensusBody::SkipRound(certificate) => NetworkEvent::RoundCertificate(peer, certificate.try_into()?),
        ConsensusBody::Status(status) => NetworkEvent::Status(
            peer,
            Status::new(BlockHeight(status.tip_height), BlockHeight(status.history_min_height)),
        ),
    })
}

fn part_event(peer: PeerId, frame: Bytes) -> Result<NetworkEvent<Trellis>, WireError> {
    Ok(NetworkEvent::ProposalPart(peer, None, decode_part(frame)?))
}
