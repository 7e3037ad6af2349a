//! Streams of peers: bounded, paced, decoded, handed to the engine.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_malachitebft_engine::network::{NetworkEvent, Status};
use arc_malachitebft_peer::PeerId;
use bytes::Bytes;
use prost::Message;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use trellis_net_peers::frame::{FrameError, read_frame};
use trellis_net_peers::guard::Pattern;
use trellis_net_peers::{Acceptor, NetStream, Witness};
use trellis_primitives::NodeId;

use super::{Shared, engine_peer};
use crate::context::{BlockHeight, Trellis};
use crate::parts::PART_BYTES_MAX;
use crate::wire::{ConsensusBody, ConsensusFrame, WireError, decode_part};

/// Largest frame on the consensus protocol: a certificate of 4,096 signatures of 64 bytes.
pub(crate) const CONSENSUS_FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Largest frame on the proposal protocol: a part and its envelope.
pub(crate) const PROPOSAL_FRAME_BYTES_MAX: usize = PART_BYTES_MAX + 1024;
/// Votes and the like that one peer may send in a second before it is read more slowly.
pub(crate) const CONSENSUS_FRAMES_PER_SECOND_MAX: u32 = 2_000;
/// Parts that one peer may send in a second before it is read more slowly (256 MiB/s).
pub(crate) const PROPOSAL_FRAMES_PER_SECOND_MAX: u32 = 2_048;

/// Slows a reader down to so many frames per second.
struct Pace {
    window: Instant,
    frames: u32,
    frames_max: u32,
}

impl Pace {
    fn new(frames_max: u32) -> Self {
        Self { window: Instant::now(), frames: 0, frames_max }
    }

    async fn step(&mut self, shared: &Shared) {
        const WINDOW: Duration = Duration::from_secs(1);
        if self.window.elapsed() >= WINDOW {
            *self = Self::new(self.frames_max);
        }
        self.frames = self.frames.saturating_add(1);
        if self.frames > self.frames_max {
            shared.metrics.throttled.inc();
            tokio::time::sleep_until(self.window + WINDOW).await;
            *self = Self::new(self.frames_max);
        }
    }
}

type Decode = fn(PeerId, Bytes) -> Result<NetworkEvent<Trellis>, WireError>;

/// Hears votes, repairs and status.
pub(crate) async fn serve_consensus(shared: Arc<Shared>, acceptor: Acceptor) {
    let limits = (CONSENSUS_FRAME_BYTES_MAX, CONSENSUS_FRAMES_PER_SECOND_MAX);
    serve(shared, acceptor, limits, consensus_event).await;
}

/// Hears parts of blocks.
pub(crate) async fn serve_proposals(shared: Arc<Shared>, acceptor: Acceptor) {
    let limits = (PROPOSAL_FRAME_BYTES_MAX, PROPOSAL_FRAMES_PER_SECOND_MAX);
    serve(shared, acceptor, limits, part_event).await;
}

async fn serve(shared: Arc<Shared>, mut acceptor: Acceptor, limits: (usize, u32), decode: Decode) {
    // One stream per peer: a newer one is of a newer connection and ends the older.
    let mut current: HashMap<NodeId, AbortHandle> = HashMap::new();
    let mut readers = JoinSet::new();
    while let Some((peer, stream)) = acceptor.next().await {
        while readers.try_join_next().is_some() {}
        current.retain(|_, reader| !reader.is_finished());
        if !shared.hears(&peer) {
            shared.metrics.refuse("not_a_validator");
            continue;
        }
        let reader = readers.spawn(read_all(Arc::clone(&shared), peer, stream, limits, decode));
        if let Some(older) = current.insert(peer, reader) {
            older.abort();
        }
    }
}

async fn read_all(
    shared: Arc<Shared>,
    peer: NodeId,
    mut stream: NetStream,
    (frame_bytes_max, frames_max): (usize, u32),
    decode: Decode,
) {
    let Some(engine_id) = engine_peer(&peer) else {
        return;
    };
    let mut pace = Pace::new(frames_max);
    let mut witness = Witness::new(shared.network.clone(), peer);
    loop {
        let frame = match read_frame(&mut stream, frame_bytes_max).await {
            Ok(frame) => frame,
            Err(FrameError::End | FrameError::Io(_) | FrameError::Truncated { .. }) => return,
            Err(error) => {
                shared.metrics.refuse("frame");
                witness.failed(&error);
                tracing::warn!(%peer, %error, "consensus stream closed");
                return;
            }
        };
        pace.step(&shared).await;
        match decode(engine_id, frame) {
            Ok(event) => {
                witness.valid();
                shared.emit(event);
            }
            Err(error) => {
                shared.metrics.refuse("undecodable");
                witness.invalid(Pattern::Malformed);
                tracing::warn!(%peer, %error, "consensus message not understood");
                return;
            }
        }
    }
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
