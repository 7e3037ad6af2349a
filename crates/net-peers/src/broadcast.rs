//! One message to many peers: a bounded queue and a task per peer and protocol, so that nobody waits for the slowest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use trellis_primitives::NodeId;

use crate::error::{BroadcastError, OpenError};
use crate::frame::{FRAME_BYTES_MAX, write_frame};
use crate::network::{NetStream, Protocol};

/// Messages that wait for one peer on one protocol before more are dropped for it.
pub const BROADCAST_QUEUE_MESSAGES_MAX: usize = 256;
/// A peer that takes longer for one message loses its queue.
pub const BROADCAST_WRITE_TIMEOUT_MS: u64 = 10_000;

type Queues = HashMap<(NodeId, Protocol), mpsc::Sender<Bytes>>;

/// Told of a peer that does not read what is broadcast to it on a protocol.
pub(crate) type SlowFn = Arc<dyn Fn(NodeId, Protocol) + Send + Sync>;

/// The queues of all peers.
#[derive(Clone, Default)]
pub(crate) struct Broadcaster {
    queues: Arc<Mutex<Queues>>,
    slow: Option<SlowFn>,
}

impl Broadcaster {
    /// Tells of peers that are too slow.
    pub(crate) fn telling(slow: SlowFn) -> Self {
        Self { slow: Some(slow), ..Self::default() }
    }

    /// Queues `message` for `peer`; `open` makes the stream when the peer has none yet.
    pub(crate) fn send<F>(
        &self,
        peer: NodeId,
        protocol: Protocol,
        message: Bytes,
        open: F,
    ) -> Result<(), BroadcastError>
    where
        F: FnOnce() -> BoxFuture<'static, Result<NetStream, OpenError>>,
    {
        if message.len() > FRAME_BYTES_MAX {
            return Err(BroadcastError::TooLarge);
        }
        let mut queues = self.queues.lock();
        let queue = queues.entry((peer, protocol)).or_insert_with(|| self.spawn(peer, protocol, open()));
        queue.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BroadcastError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => BroadcastError::NotConnected,
        })
    }

    fn spawn(
        &self,
        peer: NodeId,
        protocol: Protocol,
        open: BoxFuture<'static, Result<NetStream, OpenError>>,
    ) -> mpsc::Sender<Bytes> {
        let (sender, receiver) = mpsc::channel(BROADCAST_QUEUE_MESSAGES_MAX);
        let queues = Arc::clone(&self.queues);
        let own = sender.downgrade();
        let slow = self.slow.clone();
        tokio::spawn(async move {
            if drain(peer, protocol, open, receiver).await == Drained::TooSlow
                && let Some(slow) = slow
            {
                slow(peer, protocol);
            }
            let mut queues = queues.lock();
            // A later queue of the same name belongs to a newer connection and stays; without a sender, ours is gone.
            let ours = own
                .upgrade()
                .is_some_and(|own| queues.get(&(peer, protocol)).is_some_and(|queue| queue.same_channel(&own)));
            if ours {
                queues.remove(&(peer, protocol));
            }
        });
        sender
    }

    /// Ends the queues of a peer that is gone.
    pub(crate) fn forget(&self, peer: NodeId) {
        self.queues.lock().retain(|(id, _), _| *id != peer);
    }

    /// Ends every queue.
    pub(crate) fn clear(&self) {
        self.queues.lock().clear();
    }
}

/// How a queue ended.
#[derive(PartialEq, Eq)]
enum Drained {
    Ended,
    TooSlow,
}

async fn drain(
    peer: NodeId,
    protocol: Protocol,
    open: BoxFuture<'static, Result<NetStream, OpenError>>,
    mut receiver: mpsc::Receiver<Bytes>,
) -> Drained {
    let mut stream = match open.await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%peer, %protocol, %error, "broadcast stream not opened");
            return Drained::Ended;
        }
    };
    let timeout = Duration::from_millis(BROADCAST_WRITE_TIMEOUT_MS);
    while let Some(message) = receiver.recv().await {
        match tokio::time::timeout(timeout, write_frame(&mut stream, &message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%peer, %protocol, %error, "broadcast stream ended");
                return Drained::Ended;
            }
            Err(_) => {
                tracing::warn!(%peer, %protocol, timeout_ms = BROADCAST_WRITE_TIMEOUT_MS, "broadcast to slow peer given up");
                return Drained::TooSlow;
            }
        }
    }
    let _ = tokio::time::timeout(timeout, tokio::io::AsyncWriteExt::shutdown(&mut stream)).await;
    Drained::Ended
}
