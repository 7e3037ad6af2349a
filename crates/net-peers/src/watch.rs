//! What a stream of a real peer has to keep to: its rates (NET-51), its bandwidth (NET-18), and a pace (NET-55).
//!
//! The watch sits in the stream itself, below every protocol, so that no protocol can forget it. What a peer does wrong is
//! put into a queue that the service empties; nothing here waits for that. A stream on which nothing is wrong pays for two
//! counters, and for a timer only while a frame stands half-read or a write is stuck.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use trellis_primitives::NodeId;

use crate::bandwidth::{Allowance, Bandwidth, PeerBudget, Way};
use crate::guard::{Guard, MessageClass, Pattern};
use crate::meter::Counters;
use crate::network::Protocol;

/// A frame that has begun has to be there within this time, and longer ones within that of [`FRAME_BYTES_PER_S_MIN`].
pub const SLOW_FRAME_MS: u64 = 30_000;
/// The pace that a long frame has to keep.
pub const FRAME_BYTES_PER_S_MIN: u64 = 16 * 1024;
/// A peer that takes nothing of what is written to it for this long is slow.
pub const SLOW_WRITE_MS: u64 = 60_000;
/// Streams for control messages that one peer may hold open; what serves them has places for every peer's.
pub const CONTROL_STREAMS_PER_PEER_MAX: u64 = 8;
/// Offences that wait for the service; what comes while so many wait adds nothing to them.
pub(crate) const OFFENCES_WAITING_MAX: usize = 1_024;

/// Something a peer did wrong on a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Offence {
    pub(crate) peer: NodeId,
    pub(crate) pattern: Pattern,
    /// Whether it cannot be served any more, so that the connection is to end whatever its score says.
    pub(crate) cut: bool,
}

/// What the watches of one node share.
pub(crate) struct Sentry {
    pub(crate) guard: Arc<Guard>,
    pub(crate) bandwidth: Arc<Bandwidth>,
    pub(crate) offences: mpsc::Sender<Offence>,
}

impl Sentry {
    /// Tells of an offence without waiting.
    pub(crate) fn tell(&self, peer: NodeId, pattern: Pattern, cut: bool) {
        let _ = self.offences.try_send(Offence { peer, pattern, cut });
    }

    /// Whether one more stream of a peer is taken; one that is not counts against it.
    pub(crate) fn takes_stream(&self, peer: NodeId) -> bool {
        let taken = self.guard.allow_stream(peer);
        if !taken {
            self.tell(peer, Pattern::StreamFlood, false);
        }
        taken
    }

    /// A broadcast to a peer was given up because it does not read. What everybody gets anyway is dropped for it; a peer
    /// that misses other messages is let go, so that it begins again.
    pub(crate) fn too_slow(&self, peer: NodeId, protocol: Protocol) {
        let spared = matches!(MessageClass::of(protocol), MessageClass::Gossip | MessageClass::Consensus);
        self.tell(peer, Pattern::SlowPeer, !spared);
    }
}

/// A place among a peer's streams for control messages; dropping it frees the place.
pub(crate) struct ControlPlace(Arc<Counters>);

impl ControlPlace {
    /// A place, if one is left.
    pub(crate) fn take(counters: &Arc<Counters>) -> Option<Self> {
        let place = Self(Arc::clone(counters));
        let taken = counters.control_streams.fetch_add(1, Ordering::Relaxed);
        (taken < CONTROL_STREAMS_PER_PEER_MAX).then_some(place)
    }
}

impl Drop for ControlPlace {
    fn drop(&mut self) {
        self.0.control_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The watch on one stream.
pub(crate) struct Watch {
    sentry: Arc<Sentry>,
    peer: NodeId,
    class: MessageClass,
    /// The peer opened the stream, so what comes is not an answer to a question of this node.
    inbound: bool,
    /// `None` where the line is not the Internet's.
    budget: Option<Arc<PeerBudget>>,
    down: Allowance,
    up: Allowance,
    reading: Patience,
    writing: Patience,
    /// Held only to be dropped.
    _place: Option<ControlPlace>,
}

impl Watch {
    pub(crate) fn new(
        sentry: Arc<Sentry>,
        peer: NodeId,
        protocol: Protocol,
        inbound: bool,
        budget: Option<Arc<PeerBudget>>,
    ) -> Self {
        let class = MessageClass::of(protocol);
        Self {
            sentry,
            peer,
            class,
            inbound,
            budget,
            down: Allowance::default(),
            up: Allowance::default(),
            reading: Patience::default(),
            writing: Patience::default(),
            _place: None,
        }
    }

    /// The stream holds a place among its peer's.
    pub(crate) fn holding(mut self, place: Option<ControlPlace>) -> Self {
        self._place = place;
        self
    }

    /// Ready with how many bytes may be moved now.
    pub(crate) fn poll_budget(&mut self, cx: &mut Context<'_>, way: Way, wanted: usize) -> Poll<usize> {
        let Some(budget) = &self.budget else { return Poll::Ready(wanted) };
        let allowance = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        if wanted == 0 {
            return Poll::Ready(0);
        }
        allowance.poll(cx, &self.sentry.bandwidth, budget, (way, self.class), wanted)
    }

    /// Bytes were read.
    ///
    /// # Errors
    /// Where the peer is above its rate; the stream ends with it.
    pub(crate) fn received(&mut self, frames: u64, bytes: usize) -> io::Result<()> {
        self.sentry.bandwidth.count(Way::Down, self.class, bytes as u64);
        self.down.spend(bytes);
        if frames > 0 {
            self.reading.over();
        }
        let pattern = match self.class {
            MessageClass::Control if frames > 0 => Pattern::StreamFlood,
            MessageClass::Gossip => Pattern::GossipFlood,
            _ => return Ok(()),
        };
        if !self.inbound || self.sentry.guard.allow(self.peer, self.class, frames, bytes as u64) {
            return Ok(());
        }
        self.sentry.tell(self.peer, pattern, false);
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the peer is above its rate"))
    }

    /// Bytes were written.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sentry.bandwidth.count(Way::Up, self.class, bytes as u64);
        self.up.spend(bytes);
        self.writing.over();
    }

    /// There is nothing to read. Ready with an error once a frame has been begun for too long.
    pub(crate) fn poll_unread(&mut self, cx: &mut Context<'_>, inside: Option<u64>) -> Poll<io::Error> {
        let Some(frame_bytes) = inside else {
            self.reading.over();
            return Poll::Pending;
        };
        let limit_ms = SLOW_FRAME_MS.saturating_add(frame_bytes.saturating_mul(1_000) / FRAME_BYTES_PER_S_MIN);
        self.reading.poll(cx, Duration::from_millis(limit_ms)).map(|()| self.slow("a frame does not end"))
    }

    /// Nothing can be written. Ready with an error once that has been so for too long.
    pub(crate) fn poll_unwritten(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.writing.poll(cx, Duration::from_millis(SLOW_WRITE_MS)).map(|()| self.slow("the peer takes nothing"))
    }

    fn slow(&self, what: &'static str) -> io::Error {
        self.sentry.tell(self.peer, Pattern::SlowPeer, false);
        io::Error::new(io::ErrorKind::TimedOut, what)
    }
}

/// How long something has been waited for. Its timer is made when it is first needed and used again.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// What was waited for is there.
    const fn over(&mut self) {
        self.since = None;
    }

    /// Ready once the wait has taken `limit`.
    fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let deadline = *self.since.get_or_insert_with(Instant::now) + limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.is_elapsed() || sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        // A timer that was set for an earlier wait comes too soon, and is set again then.
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
