//! A node's record while it is connected: told again when its addresses change, and taken from others (NET-42).
//!
//! The handshake brings the record as it was then. A node that finds its relays later has other addresses, and those who
//! tell others of it have to know them. The sender opens a stream of [`RECORD`] and writes its signed record in one frame.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use trellis_primitives::{Bytes, NODE_RECORD_BYTES_MAX, NodeId};

use crate::config::{OPEN_TIMEOUT_MS, OWN_RECORD_MS_MAX};
use crate::discovery::pex::{self, PexError, Verified};
use crate::error::OpenError;
use crate::frame::{FrameError, read_frame, write_frame};
use crate::guard::{Conduct, Pattern};
use crate::network::{Acceptor, NetStream, Protocol};
use crate::service::{Command, FindingCommand, NodeShared};

/// Carries a renewed record.
pub(crate) const RECORD: Protocol = Protocol("/trellis/record/1");
/// Bytes of a frame with a record and its three signatures.
const RECORD_FRAME_BYTES_MAX: usize = 2 * NODE_RECORD_BYTES_MAX;
/// Records that are read at once.
const READS_AT_ONCE_MAX: usize = 32;
/// Records that are sent at once.
const SENDS_AT_ONCE_MAX: usize = 16;

/// Why a renewed record was not taken.
#[derive(Debug, Error)]
enum RecordError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("not within {OPEN_TIMEOUT_MS} ms")]
    Timeout,
    #[error("of another node")]
    Other,
    #[error(transparent)]
    Invalid(#[from] PexError),
    #[error("verification stopped")]
    Stopped,
}

impl RecordError {
    fn pattern(&self) -> Option<Pattern> {
        match self {
            Self::Frame(error) => error.pattern(),
            Self::Other => Some(Pattern::Unverified),
            Self::Invalid(error) => error.is_violation().then_some(Pattern::Unverified),
            Self::Timeout | Self::Stopped => None,
        }
    }
}

impl NodeShared {
    /// Tells every connected peer this node's record as it is now, and looks who else is there.
    pub(super) fn tell_record(self: &Arc<Self>) {
        let record = match self.own_record(self.clock.now()) {
            Ok(record) => record,
            Err(error) => return tracing::error!(%error, "this node's record is not renewed"),
        };
        tracing::info!(circuits = self.reach.circuits().len(), "this node's addresses have changed");
        let peers = self.table.lock().connected();
        let places = Arc::new(Semaphore::new(SENDS_AT_ONCE_MAX));
        let (shared, closing) = (Arc::clone(self), self.closing.clone());
        let work = async move {
            let told = peers.into_iter().map(|peer| {
                let (shared, places, record) = (Arc::clone(&shared), Arc::clone(&places), record.clone());
                async move {
                    let _place = places.acquire().await;
                    if let Err(error) = tell_one(&shared, peer, &record).await {
                        tracing::debug!(%peer, %error, "the peer does not hear of the renewed record");
                    }
                }
            });
            futures::future::join_all(told).await;
            shared.ask_around().await;
        };
        tokio::spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// Why a peer was not told.
#[derive(Debug, Error)]
enum TellError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Stream(#[from] std::io::Error),
}

async fn tell_one(shared: &Arc<NodeShared>, peer: NodeId, record: &Bytes) -> Result<(), TellError> {
    let mut stream = Arc::clone(shared).open(peer, RECORD).await?;
    write_frame(&mut stream, record).await?;
    Ok(stream.shutdown().await?)
}

/// Takes renewed records for as long as the network runs.
pub(crate) async fn take_records(shared: Arc<NodeShared>, mut acceptor: Acceptor) {
    let places = Arc::new(Semaphore::new(READS_AT_ONCE_MAX));
    while let Some((peer, stream)) = acceptor.next().await {
        // Above the bound a record is dropped; its owner tells it again when it changes.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Err(error) = take_one(&shared, peer, stream).await {
                tracing::debug!(%peer, %error, "a renewed record is not taken");
                if let Some(pattern) = error.pattern() {
                    shared.report(peer, Conduct::Invalid { pattern });
                }
            }
            drop(place);
        });
    }
}

async fn take_one(shared: &Arc<NodeShared>, peer: NodeId, mut stream: NetStream) -> Result<(), RecordError> {
    let limit = Duration::from_millis(OPEN_TIMEOUT_MS);
    let frame = tokio::time::timeout(limit, read_frame(&mut stream, RECORD_FRAME_BYTES_MAX)).await;
    let frame = frame.map_err(|_| RecordError::Timeout)??;
    let (checker, now, bytes) = (shared.checker.clone(), shared.clock.now(), frame.clone());
    // Three signatures, one of them post-quantum, are too much work for a thread of the runtime.
    let verified = tokio::task::spawn_blocking(move || pex::verify(&bytes, &checker, now)).await;
    let Verified { id, record } = verified.map_err(|_| RecordError::Stopped)??;
    if id != peer {
        return Err(RecordError::Other);
    }
    let (actual_ms, max_ms) = (record.expires().ms_since(now), OWN_RECORD_MS_MAX);
    if actual_ms > max_ms {
        return Err(PexError::TooLongLived { actual_ms, max_ms }.into());
    }
    if shared.table.lock().renew_record(peer, record, frame.into()) {
        // The same record again is worth nothing, or a good name could be made of it.
        shared.report(peer, Conduct::Valid { messages: 1 });
        shared.learn_record(peer);
        // Where it sells, it sells at its new addresses; should the queue be full, the table hears of them later.
        let name = shared.table.lock().connection_to(peer).map(|handle| handle.session.peer_id());
        if let Some(name) = name {
            let _ = shared.commands.try_send(Command::Find(FindingCommand::Refresh(vec![name])));
        }
    }
    Ok(())
}
