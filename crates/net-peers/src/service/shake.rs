//! The handshake of one connection, and goodbyes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use libp2p::swarm::ConnectionId;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use trellis_crypto::SignatureError;
use trellis_net_transport::{Direction, LinkKind, Session, is_hidden};
use trellis_primitives::{Bytes, NodeId, UnixMs};

use super::NodeShared;
use super::swarm::{CLOSE_DISCONNECT, CLOSE_REFUSAL};
use crate::config::{GOODBYE_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN};
use crate::error::{DialError, RefusedBy};
use crate::frame::{read_frame, read_message, write_frame, write_message};
use crate::guard::Entry;
use crate::handshake::{
    Accepted, Circumstances, Goodbye, HandshakeFailure, Hello, Refusal, as_dialer, as_listener, confirm,
};
use crate::reason::{DisconnectReason, RefusalReason};
use crate::streams::{
    ConnectionHandle, FreshConnection, GOODBYE, HANDSHAKE, InternalStreams, MeteredStream, StreamError,
};

/// Bytes of a goodbye.
const GOODBYE_BYTES_MAX: usize = 64;
/// Addresses of a node record come from the listeners, at most so many.
const RECORD_ADDRESSES_MAX: usize = trellis_primitives::NODE_RECORD_ADDRESSES_MAX;

/// Why a handshake did not end in two acceptances.
#[derive(Debug, Error)]
pub(crate) enum ShakeError {
    #[error(transparent)]
    Handshake(#[from] HandshakeFailure),
    #[error("handshake stream not opened: {0}")]
    Open(#[from] StreamError),
    #[error("no handshake within {HANDSHAKE_TIMEOUT_MS} ms")]
    Timeout,
    #[error("own record: {0}")]
    Record(#[from] SignatureError),
    #[error("connection lost")]
    Lost,
    #[error("closed by the peer: {0}")]
    ClosedWithRefusal(RefusalReason),
}

impl ShakeError {
    /// The refusal, if it was one: by whom, its name, details.
    pub(super) fn refusal(&self) -> Option<(RefusedBy, RefusalReason, String)> {
        match self {
            Self::Handshake(HandshakeFailure::Refused { by, refusal }) => {
                Some((*by, refusal.reason, refusal.detail.clone()))
            }
            Self::ClosedWithRefusal(reason) => Some((RefusedBy::Them, *reason, String::new())),
            _ => None,
        }
    }

    pub(super) fn into_dial_error(self, address: String) -> DialError {
        match self {
            Self::Timeout => DialError::Timeout { address, timeout_ms: HANDSHAKE_TIMEOUT_MS },
            other => DialError::Unreachable { address, detail: other.to_string() },
        }
    }
}

/// A handshake that ended.
pub(crate) struct Finished {
    pub(super) connection: ConnectionId,
    pub(super) peer: NodeId,
    pub(super) outcome: Result<Accepted, ShakeError>,
    pub(super) reply: Option<oneshot::Sender<Result<NodeId, DialError>>>,
    pub(super) address: String,
    /// Told when the peer stands in the table.
    pub(super) registered: oneshot::Sender<()>,
}

/// A handshake to be run.
pub(super) struct Shake {
    pub(super) shared: Arc<NodeShared>,
    pub(super) connection: ConnectionId,
    pub(super) peer: NodeId,
    pub(super) fresh: FreshConnection,
    pub(super) reply: Option<oneshot::Sender<Result<NodeId, DialError>>>,
    pub(super) address: String,
}

impl Shake {
    /// Runs the handshake, reports it, and then waits for the peer's goodbye.
    pub(super) async fn run(self, report: mpsc::Sender<Finished>) {
        let Self { shared, connection, peer, fresh, reply, address } = self;
        let FreshConnection { handle, mut internal } = fresh;
        let timeout = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
        let outcome = tokio::time::timeout(timeout, handshake(&shared, &handle, peer, &mut internal)).await;
        let mut outcome = outcome.unwrap_or(Err(ShakeError::Timeout));
        if let Err(ShakeError::Handshake(HandshakeFailure::Stream(_)) | ShakeError::Open(_)) = &outcome
            && let Some(reason) = closed_with_refusal(&handle.session)
        {
            outcome = Err(ShakeError::ClosedWithRefusal(reason));
        }
        let (outcome, stream) = match outcome {
            Ok((accepted, stream)) => (Ok(accepted), stream),
            Err(error) => (Err(error), None),
        };
        let accepted = outcome.is_ok();
        let (registered, in_table) = oneshot::channel();
        let finished = Finished { connection, peer, outcome, reply, address, registered };
        if report.send(finished).await.is_err() || !accepted || in_table.await.is_err() {
            return;
        }
        if let Some(mut stream) = stream
            && let Err(error) = confirm(&mut stream).await
        {
            tracing::debug!(%error, "handshake not confirmed");
        }
        // The handle must not keep the goodbye queue of its own connection alive.
        let session = handle.session.clone();
        drop(handle);
        answer_goodbye(&session, internal, &shared.ended).await;
    }
}

async fn handshake(
    shared: &NodeShared,
    handle: &ConnectionHandle,
    peer: NodeId,
    internal: &mut InternalStreams,
) -> Result<(Accepted, Option<MeteredStream>), ShakeError> {
    let hello = Hello { turned: handle.session.kind() == LinkKind::Turned, ..shared.hello()? };
    let check = |theirs: &Hello| {
        let accepted = shared.check(theirs, peer, handle.session.ip())?;
        shared.check_crowd(&accepted, handle.session.ip(), handle.session.direction())?;
        handle.open_gate();
        Ok(accepted)
    };
    Ok(match handle.session.direction() {
        Direction::Outbound => (as_dialer(&mut handle.open(HANDSHAKE).await?, hello, check).await?, None),
        Direction::Inbound => {
            let mut stream = internal.handshakes.recv().await.ok_or(ShakeError::Lost)?;
            let accepted = as_listener(&mut stream, hello, check).await?;
            (accepted, Some(stream))
        }
    })
}

impl NodeShared {
    /// This node's own signed record.
    pub(crate) fn own_record(&self, now: UnixMs) -> Result<Bytes, SignatureError> {
        let mut addresses = self.config.external_addresses.clone();
        if self.config.proxy.as_ref().is_some_and(|proxy| proxy.onion_only) {
            addresses.retain(|text| text.parse().is_ok_and(|address| is_hidden(&address)));
        } else if addresses.is_empty() {
            let listening: Vec<String> = self.listening.lock().iter().map(ToString::to_string).collect();
            addresses = self.reach.worth_telling(listening, now);
        }
        addresses.truncate(RECORD_ADDRESSES_MAX);
        self.record.current(&addresses, now)
    }

    /// What this node says of itself now.
    pub(crate) fn hello(&self) -> Result<Hello, SignatureError> {
        let now = self.clock.now();
        Ok(Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            network_magic: self.config.network_magic,
            genesis_hash: self.config.genesis_hash.to_vec(),
            record: self.own_record(now)?.to_vec(),
            roles: u32::from(self.config.roles.0),
            user_agent: self.config.user_agent.clone(),
            time_ms: now.0,
            nonce: self.nonce().to_vec(),
            instance: self.instance,
            region: self.config.region.clone(),
            turned: false,
            best_height: self.config.best_height.load(std::sync::atomic::Ordering::Relaxed),
        })
    }

    fn check(&self, hello: &Hello, session_id: NodeId, from: Option<IpAddr>) -> Result<Accepted, Refusal> {
        if session_id == self.local_id {
            return Err(Refusal::new(RefusalReason::SelfConnection, "same identity"));
        }
        let banned = match self.guard.enter(session_id, from.and_then(|ip| self.counted(ip))) {
            Entry::Welcome => false,
            Entry::Banned(_) => true,
            Entry::Wait => return Err(Refusal::new(RefusalReason::Full, "strangers from this network have to wait")),
        };
        let full = !self.has_room(session_id);
        let now = self.clock.now();
        let nonces = &mut *self.nonces.lock();
        self.checker.check(hello, Circumstances { session_id, now, banned, full, nonces })
    }

    /// Whether a peer can be taken in beside those that are connected.
    pub(super) fn has_room(&self, peer: NodeId) -> bool {
        let table = self.table.lock();
        let peers_max = usize::try_from(self.config.peers_max).unwrap_or(usize::MAX);
        table.is_connected(peer) || table.connected_count() < peers_max
    }
}

/// Tells the peer why the connection is about to be closed, and waits for its acknowledgement or the timeout.
pub(super) async fn say_goodbye(handle: &ConnectionHandle, reason: DisconnectReason) {
    let exchange = async {
        let mut stream = handle.open(GOODBYE).await.ok()?;
        write_message(&mut stream, &Goodbye { reason: reason.code() }).await.ok()?;
        read_frame(&mut stream, GOODBYE_BYTES_MAX).await.ok()
    };
    let acknowledged = tokio::time::timeout(Duration::from_millis(GOODBYE_TIMEOUT_MS), exchange).await;
    if !matches!(acknowledged, Ok(Some(_))) {
        tracing::debug!(peer = ?handle.session.node_id(), %reason, "goodbye not acknowledged");
    }
}

/// Waits for the peer's goodbye and acknowledges it; the peer closes then, with the same reason.
async fn answer_goodbye(session: &Session, mut internal: InternalStreams, ended: &CancellationToken) {
    let stream = tokio::select! {
        stream = internal.goodbyes.recv() => stream,
        () = ended.cancelled() => None,
    };
    let Some(mut stream) = stream else { return };
    let answer = async {
        let goodbye: Goodbye = read_message(&mut stream, GOODBYE_BYTES_MAX).await.ok()?;
        write_frame(&mut stream, &[]).await.ok()?;
        DisconnectReason::from_code(goodbye.reason)
    };
    let answered = tokio::time::timeout(Duration::from_millis(GOODBYE_TIMEOUT_MS), answer).await;
    let reason = answered.ok().flatten();
    tracing::debug!(peer = ?session.node_id(), ?reason, "peer says goodbye");
}

/// The reason with which the peer closed, as far as it gave one.
pub(super) fn remote_reason(session: &Session) -> DisconnectReason {
    let code = session.remote_close().and_then(|close| close.code.checked_sub(CLOSE_DISCONNECT));
    code.and_then(DisconnectReason::from_code).unwrap_or(DisconnectReason::NetworkError)
}

fn closed_with_refusal(session: &Session) -> Option<RefusalReason> {
    RefusalReason::from_code(session.remote_close()?.code.checked_sub(CLOSE_REFUSAL)?)
}
