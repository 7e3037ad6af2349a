//! Streams on which peers push frames without being asked: votes, parts of blocks, transactions. One stream per peer, frames
//! bounded in bytes and in pace, what was good or bad told to the peer manager.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use trellis_primitives::NodeId;

use crate::frame::{FrameError, read_frame};
use crate::guard::{Conduct, Pattern};
use crate::network::{Acceptor, NetStream, NetworkHandle};
use crate::witness::Witness;

/// What one peer may push.
#[derive(Clone, Copy, Debug)]
pub struct InletLimits {
    /// Largest frame, in bytes.
    pub frame_bytes_max: usize,
    /// Messages in a second before the peer is read more slowly.
    pub messages_per_second_max: u32,
}

/// Why a peer was not read, or is read no further; each has a word for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InletRefusal {
    /// It is not one that is listened to.
    Unheard,
    /// A frame too large.
    Frame,
    /// A frame that holds no message of the protocol.
    Undecodable,
    /// A signature that does not verify.
    Forged,
}

impl InletRefusal {
    /// A constant name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unheard => "unheard",
            Self::Frame => "frame",
            Self::Undecodable => "undecodable",
            Self::Forged => "forged",
        }
    }
}

/// What ends the reading of a peer's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InletFault {
    /// What it sent is no message of the protocol.
    Invalid(Pattern),
    /// It sent a signature that does not verify.
    Forged,
    /// This node no longer listens.
    Closing,
}

/// Who takes what peers push.
#[async_trait]
pub trait Inlet: Send + Sync + 'static {
    /// What a frame holds.
    type Message: Send;

    /// Whether a peer is listened to at all.
    fn hears(&self, peer: &NodeId) -> bool {
        let _ = peer;
        true
    }

    /// Reads a frame; gives its content and how many messages it counts for.
    ///
    /// # Errors
    /// What is wrong with it.
    fn decode(&self, peer: NodeId, frame: Bytes) -> Result<(Self::Message, u32), InletFault>;

    /// Takes the content; the peer is not read until it is done.
    ///
    /// # Errors
    /// What turned out to be wrong with it.
    async fn take(&self, peer: NodeId, message: Self::Message) -> Result<(), InletFault>;

    /// A peer is read more slowly.
    fn throttled(&self) {}

    /// A peer was not read, or is read no further.
    fn refused(&self, peer: NodeId, why: InletRefusal) {
        let _ = (peer, why);
    }
}

/// Slows a reader down to so many messages per second.
struct Pace {
    since: Instant,
    messages: u32,
    most: u32,
}

impl Pace {
    fn new(most: u32) -> Self {
        Self { since: Instant::now(), messages: 0, most }
    }

    /// Counts messages. `true` if it waited.
    async fn step(&mut self, messages: u32) -> bool {
        const WINDOW: Duration = Duration::from_secs(1);
        if self.since.elapsed() >= WINDOW {
            *self = Self::new(self.most);
        }
        self.messages = self.messages.saturating_add(messages);
        if self.messages <= self.most {
            return false;
        }
        tokio::time::sleep_until(self.since + WINDOW).await;
        *self = Self::new(self.most);
        true
    }
}

/// Reads every peer's stream until the network closes.
pub async fn serve<I: Inlet>(network: NetworkHandle, mut acceptor: Acceptor, limits: InletLimits, inlet: Arc<I>) {
    let mut readers = JoinSet::new();
    // One stream per peer: a newer one is of a newer connection and ends the older.
    let mut current: HashMap<NodeId, AbortHandle> = HashMap::new();
    while let Some((peer, stream)) = acceptor.next().await {
        while readers.try_join_next().is_some() {}
        current.retain(|_, reader| !reader.is_finished());
        if !inlet.hears(&peer) {
            inlet.refused(peer, InletRefusal::Unheard);
            continue;
        }
        let reader = readers.spawn(read_all(network.clone(), peer, stream, limits, Arc::clone(&inlet)));
        if let Some(older) = current.insert(peer, reader) {
            older.abort();
        }
    }
}

async fn read_all<I: Inlet>(
    network: NetworkHandle,
    peer: NodeId,
    mut stream: NetStream,
    limits: InletLimits,
    inlet: Arc<I>,
) {
    let mut pace = Pace::new(limits.messages_per_second_max);
    let mut witness = Witness::new(network.clone(), peer);
    let fault = loop {
        let frame = match read_frame(&mut stream, limits.frame_bytes_max).await {
            Ok(frame) => frame,
            Err(FrameError::End | FrameError::Io(_) | FrameError::Truncated { .. }) => return,
            Err(error) => {
                inlet.refused(peer, InletRefusal::Frame);
                tracing::warn!(%peer, %error, "a peer's stream is closed");
                return witness.failed(&error);
            }
        };
        let (message, count) = match inlet.decode(peer, frame) {
            Ok(decoded) => decoded,
            Err(fault) => break fault,
        };
        if pace.step(count).await {
            inlet.throttled();
        }
        match inlet.take(peer, message).await {
            Ok(()) => witness.valid(),
            Err(fault) => break fault,
        }
    };
    match fault {
        InletFault::Closing => {}
        InletFault::Invalid(pattern) => {
            inlet.refused(peer, InletRefusal::Undecodable);
            tracing::warn!(%peer, ?pattern, "a peer's message is not understood");
            witness.invalid(pattern);
        }
        InletFault::Forged => {
            inlet.refused(peer, InletRefusal::Forged);
            tracing::warn!(%peer, "a peer sent a forged signature");
            drop(witness);
            network.report(peer, Conduct::Forged);
        }
    }
}
