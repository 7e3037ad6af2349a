//! Asking for decided blocks, and answering: one stream per request.
//!
//! The asker writes one frame and reads frames until the end of the stream; joined they are the answer.

use std::sync::Arc;
use std::time::Duration;

use arc_malachitebft_codec::Codec;
use arc_malachitebft_engine::network::NetworkEvent;
use arc_malachitebft_peer::PeerId;
use arc_malachitebft_sync::{InboundRequestId, OutboundFailureReason, OutboundRequestId, Request, Response};
use bytes::Bytes;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use trellis_net_peers::frame::{FrameError, read_frame, write_frame};
use trellis_net_peers::guard::Pattern;
use trellis_net_peers::{Acceptor, NetStream, OpenError, Witness};
use trellis_primitives::NodeId;

use super::{SYNC_PROTOCOL, Shared, engine_peer, our_peer};
use crate::codec::EngineCodec;
use crate::context::Trellis;
use crate::wire::WireError;

/// Largest request, bytes.
const REQUEST_BYTES_MAX: usize = 256;
/// Largest frame of an answer, bytes.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Largest answer, bytes: one block of the largest size and its certificate, or several small ones.
pub(crate) const RESPONSE_BYTES_MAX: usize = 20 * 1024 * 1024;
/// Requests answered at a time.
const SERVED_MAX: usize = 64;
/// A request arrives within this time of its stream, milliseconds.
const REQUEST_TIMEOUT_MS: u64 = 5_000;

#[derive(Debug, Error)]
enum RequestError {
    #[error("no stream: {0}")]
    Open(OpenError),
    #[error("the stream failed: {0}")]
    Stream(#[from] FrameError),
    #[error("the answer is larger than {RESPONSE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the answer is not understood: {0}")]
    Undecodable(WireError),
}

/// Sends a request to a peer; the answer, or that there is none, comes as an event.
pub(super) fn send(shared: &Arc<Shared>, peer: PeerId, request: Request<Trellis>) -> OutboundRequestId {
    let id = OutboundRequestId::new(shared.next_id());
    let task = tokio::spawn(run(Arc::clone(shared), id.clone(), peer, request));
    shared.outbound.lock().insert(id.clone(), task.abort_handle());
    id
}

async fn run(shared: Arc<Shared>, id: OutboundRequestId, peer: PeerId, request: Request<Trellis>) {
    let limit = Duration::from_millis(shared.config.sync_timeout_ms);
    let outcome = timeout(limit, exchange(&shared, &peer, &request)).await;
    shared.outbound.lock().remove(&id);
    if let Ok(Err(error)) = &outcome {
        tracing::debug!(%peer, %error, "no decided blocks from peer");
    }
    let event = match outcome {
        Ok(Ok(response)) => NetworkEvent::SyncResponse(id, peer, Some(response)),
        Ok(Err(RequestError::TooLarge | RequestError::Undecodable(_))) => {
            shared.metrics.refuse("sync_response");
            NetworkEvent::SyncResponse(id, peer, None)
        }
        Ok(Err(RequestError::Open(OpenError::Unsupported { .. }))) => {
            NetworkEvent::SyncRequestFailed(id, peer, OutboundFailureReason::UnsupportedProtocols)
        }
        Ok(Err(RequestError::Open(_))) => NetworkEvent::SyncRequestFailed(id, peer, OutboundFailureReason::DialFailure),
        Ok(Err(RequestError::Stream(_))) => NetworkEvent::SyncRequestFailed(id, peer, OutboundFailureReason::Io),
        Err(_) => NetworkEvent::SyncRequestFailed(id, peer, OutboundFailureReason::Timeout),
    };
    shared.emit(event);
}

async fn exchange(
    shared: &Shared,
    peer: &PeerId,
    request: &Request<Trellis>,
) -> Result<Response<Trellis>, RequestError> {
    let not_ours = RequestError::Undecodable(WireError::Missing("peer"));
    let node = our_peer(peer).ok_or(not_ours)?;
    let mut stream = shared.network.open(node, SYNC_PROTOCOL).await.map_err(RequestError::Open)?;
    let frame = EngineCodec.encode(request).map_err(RequestError::Undecodable)?;
    write_frame(&mut stream, &frame).await?;
    let mut answer = Vec::new();
    loop {
        match read_frame(&mut stream, CHUNK_BYTES_MAX).await {
            Ok(chunk) if answer.len() + chunk.len() <= RESPONSE_BYTES_MAX => {
                answer.extend_from_slice(&chunk);
            }
            Ok(_) => return Err(RequestError::TooLarge),
            Err(FrameError::End) => break,
            Err(error) => return Err(error.into()),
        }
    }
    EngineCodec.decode(Bytes::from(answer)).map_err(RequestError::Undecodable)
}

/// Answers requests of validators.
pub(super) async fn serve(shared: Arc<Shared>, mut acceptor: Acceptor) {
    let mut served = JoinSet::new();
    while let Some((peer, stream)) = acceptor.next().await {
        while served.try_join_next().is_some() {}
        if !shared.hears(&peer) {
            shared.metrics.refuse("not_a_validator");
        } else if served.len() >= SERVED_MAX {
            shared.metrics.refuse("too_many_sync_requests");
        } else {
            served.spawn(answer(Arc::clone(&shared), peer, stream));
        }
    }
}

async fn answer(shared: Arc<Shared>, peer: NodeId, mut stream: NetStream) {
    let Some(engine_id) = engine_peer(&peer) else {
        return;
    };
    let limit = Duration::from_millis(REQUEST_TIMEOUT_MS);
    let request: Request<Trellis> = match timeout(limit, read_frame(&mut stream, REQUEST_BYTES_MAX)).await {
        Ok(Ok(frame)) => match EngineCodec.decode(frame) {
            Ok(request) => request,
            Err(_) => {
                Witness::new(shared.network.clone(), peer).invalid(Pattern::Malformed);
                return shared.metrics.refuse("sync_request");
            }
        },
        _ => return shared.metrics.refuse("sync_request"),
    };
    let id = InboundRequestId::new(shared.next_id());
    let (sender, response) = oneshot::channel();
    shared.inbound.lock().insert(id.clone(), sender);
    shared.emit(NetworkEvent::SyncRequest(id.clone(), engine_id, request));
    let limit = Duration::from_millis(shared.config.sync_timeout_ms);
    let sent = match timeout(limit, response).await {
        Ok(Ok(response)) => timeout(limit, write_answer(&mut stream, &response)).await.is_ok(),
        _ => false,
    };
    if shared.inbound.lock().remove(&id).is_some() || !sent {
        shared.emit(NetworkEvent::SyncInboundRequestFailed(id, engine_id));
    }
}

async fn write_answer(stream: &mut NetStream, response: &Response<Trellis>) -> Result<(), RequestError> {
    let bytes = EngineCodec.encode(response).map_err(RequestError::Undecodable)?;
    for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
        write_frame(stream, chunk).await?;
    }
    stream.shutdown().await.map_err(FrameError::from)?;
    Ok(())
}
