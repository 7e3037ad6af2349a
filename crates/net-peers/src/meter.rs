//! Streams that count what passes, for both the real network and the simulated one; the real ones are watched besides.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trellis_primitives::{SharedClock, UnixMs};

use crate::bandwidth::Way;
use crate::frame::FrameCounter;
use crate::watch::Watch;

/// What passed between this node and one peer, over all connections and streams of this run.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    pub(crate) streams: AtomicU64,
    /// Of these, streams of the peer's for control messages.
    pub(crate) control_streams: AtomicU64,
    last_activity_ms: AtomicU64,
    last_stream_ms: AtomicU64,
}

impl Counters {
    /// Something came from the peer just now.
    pub(crate) fn touch(&self, now: UnixMs) {
        self.last_activity_ms.fetch_max(now.0, Ordering::Relaxed);
    }

    /// Since when there has been no stream with the peer; `None` while there is one.
    pub(crate) fn idle_since(&self) -> Option<UnixMs> {
        let ended = UnixMs(self.last_stream_ms.load(Ordering::Relaxed));
        (self.streams.load(Ordering::Relaxed) == 0).then_some(ended)
    }

    /// When something last came from the peer.
    pub(crate) fn last_activity(&self) -> Option<UnixMs> {
        Some(self.last_activity_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0).map(UnixMs)
    }
}

/// The streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct LiveStreams {
    live: AtomicU64,
    last_ended_ms: AtomicU64,
}

impl LiveStreams {
    /// Since when there has been no stream; `None` while there is one.
    pub(crate) fn idle_since(&self) -> Option<UnixMs> {
        let ended = UnixMs(self.last_ended_ms.load(Ordering::Relaxed));
        (self.live.load(Ordering::Relaxed) == 0).then_some(ended)
    }

    fn begin(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, now: UnixMs) {
        self.last_ended_ms.fetch_max(now.0, Ordering::Relaxed);
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that counts, and that keeps to the rates and the bandwidth of its peer where it is watched.
pub(crate) struct Metered<S> {
    inner: S,
    clock: SharedClock,
    counters: Arc<Counters>,
    /// Of the connection that carries it, where that is known.
    connection: Option<Arc<LiveStreams>>,
    frames_in: FrameCounter,
    frames_out: FrameCounter,
    watch: Option<Box<Watch>>,
}

impl<S> Metered<S> {
    pub(crate) fn new(inner: S, clock: SharedClock, counters: Arc<Counters>) -> Self {
        Self::watched(inner, clock, counters, None)
    }

    pub(crate) fn watched(inner: S, clock: SharedClock, counters: Arc<Counters>, watch: Option<Box<Watch>>) -> Self {
        counters.streams.fetch_add(1, Ordering::Relaxed);
        let (frames_in, frames_out) = (FrameCounter::default(), FrameCounter::default());
        Self { inner, clock, counters, connection: None, frames_in, frames_out, watch }
    }

    /// The same, counted among the streams of its connection too.
    pub(crate) fn on(mut self, connection: &Arc<LiveStreams>) -> Self {
        connection.begin();
        self.connection = Some(Arc::clone(connection));
        self
    }
}

impl<S> Drop for Metered<S> {
    fn drop(&mut self) {
        self.counters.last_stream_ms.fetch_max(self.clock.now().0, Ordering::Relaxed);
        self.counters.streams.fetch_sub(1, Ordering::Relaxed);
        if let Some(connection) = &self.connection {
            connection.end(self.clock.now());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Some(watch) = &mut this.watch {
            ready!(watch.poll_budget(cx, Way::Down, buf.remaining()));
        }
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf)?;
        if polled.is_pending() {
            return match &mut this.watch {
                Some(watch) => watch.poll_unread(cx, this.frames_in.inside()).map(Err),
                None => Poll::Pending,
            };
        }
        let read = buf.filled().get(before..).unwrap_or_default();
        if !read.is_empty() {
            let frames = this.frames_in.feed(read);
            this.counters.bytes_in.fetch_add(read.len() as u64, Ordering::Relaxed);
            this.counters.messages_in.fetch_add(frames, Ordering::Relaxed);
            this.counters.touch(this.clock.now());
            if let Some(watch) = &mut this.watch {
                watch.received(frames, read.len())?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut allowed = buf;
        if let Some(watch) = &mut this.watch {
            let budget = ready!(watch.poll_budget(cx, Way::Up, buf.len()));
            allowed = buf.get(..budget).unwrap_or(buf);
        }
        let polled = Pin::new(&mut this.inner).poll_write(cx, allowed)?;
        let Poll::Ready(written) = polled else {
            return match &mut this.watch {
                Some(watch) => watch.poll_unwritten(cx).map(Err),
                None => Poll::Pending,
            };
        };
        let frames = this.frames_out.feed(allowed.get(..written).unwrap_or_default());
        this.counters.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
        this.counters.messages_out.fetch_add(frames, Ordering::Relaxed);
        if let Some(watch) = &mut this.watch {
            watch.sent(written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
