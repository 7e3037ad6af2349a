//! Many streams over one: yamux as libp2p's stream muxer, with bounds and goodbyes.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use tokio::time::Sleep;

use super::goodbye::{self, GOODBYE_BYTES_MAX, GOODBYE_MARK};
use super::wire::BoxedStream;
use crate::admission::Permit;
use crate::config::{CLOSE_TIMEOUT_MS, LINK_STREAMS_LATE_MAX, LINK_STREAMS_MAX, YAMUX_STREAMS_MAX, YAMUX_WINDOW_BYTES};
use crate::metrics::TransportMetrics;
use crate::session::{Direction, Session, StreamState};

/// One authenticated connection over a byte stream. Dropping it closes it.
pub struct StreamConnection {
    muxer: yamux::Connection<BoxedStream>,
    session: Session,
    state: Arc<StreamState>,
    metrics: TransportMetrics,
    /// Streams of the peer that came while only the connection itself was polled.
    waiting: VecDeque<LinkStream>,
    inbound_waker: Option<Waker>,
    counts: Arc<Counts>,
    /// Runs while the connection is being closed.
    closing: Option<Pin<Box<Sleep>>>,
    /// Held for as long as the connection lives.
    _permit: Option<Permit>,
}

/// Streams open now.
#[derive(Default)]
struct Counts {
    inbound: AtomicU32,
    outbound: AtomicU32,
    /// Whoever waits to open one.
    outbound_waker: AtomicWaker,
}

/// The place of one stream.
struct Place {
    counts: Arc<Counts>,
    direction: Direction,
}

impl Place {
    /// Only the connection's own task takes places, so the count cannot pass the bound after it was looked at.
    fn take(counts: &Arc<Counts>, direction: Direction) -> Self {
        counts.of(direction).fetch_add(1, Ordering::AcqRel);
        Self { counts: Arc::clone(counts), direction }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.of(self.direction).fetch_sub(1, Ordering::AcqRel);
        self.counts.outbound_waker.wake();
    }
}

impl Counts {
    const fn of(&self, direction: Direction) -> &AtomicU32 {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    fn full(&self, direction: Direction) -> bool {
        let late = match direction {
            Direction::Inbound => LINK_STREAMS_LATE_MAX,
            Direction::Outbound => 0,
        };
        self.of(direction).load(Ordering::Acquire) >= LINK_STREAMS_MAX + late
    }
}

impl StreamConnection {
    pub(super) fn new(
        secure: BoxedStream,
        session: Session,
        state: Arc<StreamState>,
        permit: Option<Permit>,
        metrics: TransportMetrics,
    ) -> Self {
        let mode = match session.direction() {
            Direction::Outbound => yamux::Mode::Client,
            Direction::Inbound => yamux::Mode::Server,
        };
        let mut config = yamux::Config::default();
        config.set_max_num_streams(YAMUX_STREAMS_MAX).set_max_connection_receive_window(Some(YAMUX_WINDOW_BYTES));
        metrics.open.inc();
        Self {
            muxer: yamux::Connection::new(secure, config, mode),
            session,
            state,
            metrics,
            waiting: VecDeque::new(),
            inbound_waker: None,
            counts: Arc::default(),
            closing: None,
            _permit: permit,
        }
    }

    /// What is known about the session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// The next stream of the peer that there is a place for.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<LinkStream>> {
        loop {
            let next = ready!(self.muxer.poll_next_inbound(cx));
            let inner = match next {
                Some(Ok(stream)) => stream,
                Some(Err(error)) => return Poll::Ready(Err(self.lost(error))),
                None => return Poll::Ready(Err(self.lost(yamux::ConnectionError::Closed))),
            };
            if self.counts.full(Direction::Inbound) {
                tracing::debug!(peer = %self.session.peer_id(), "stream beyond the bound reset");
                continue;
            }
            let place = Place::take(&self.counts, Direction::Inbound);
            let first =
                if self.session.node_id().is_some() { First::Awaited(Arc::clone(&self.state)) } else { First::Passed };
            return Poll::Ready(Ok(LinkStream { inner, first, _place: place }));
        }
    }

    fn lost(&self, error: yamux::ConnectionError) -> io::Error {
        self.state.closed.store(true, Ordering::Release);
        match error {
            yamux::ConnectionError::Io(error) => error,
            error => io::Error::other(error),
        }
    }

    /// Puts the goodbye on a stream of its own, as far as that goes without waiting.
    fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        let reason = self.session.own_close_reason().filter(|_| self.session.node_id().is_some());
        let Some(reason) = reason else { return };
        let Poll::Ready(Ok(mut stream)) = self.muxer.poll_new_outbound(cx) else { return };
        if Pin::new(&mut stream).poll_write(cx, &goodbye::encode(&reason)).is_ready() {
            // It stays in the muxer's queue, which is emptied before the muxer closes.
            let _ = Pin::new(&mut stream).poll_close(cx);
        }
    }
}

impl Drop for StreamConnection {
    fn drop(&mut self) {
        self.metrics.open.dec();
        self.state.closed.store(true, Ordering::Release);
    }
}

impl StreamMuxer for StreamConnection {
    type Substream = LinkStream;
    type Error = io::Error;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<LinkStream>> {
        let this = self.get_mut();
        if let Some(stream) = this.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let polled = this.poll_next(cx);
        if polled.is_pending() {
            this.inbound_waker = Some(cx.waker().clone());
        }
        polled
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<LinkStream>> {
        let this = self.get_mut();
        this.counts.outbound_waker.register(cx.waker());
        // One stream more than yamux allows would end the connection, so what is too many waits here.
        if this.counts.full(Direction::Outbound) {
            return Poll::Pending;
        }
        match ready!(this.muxer.poll_new_outbound(cx)) {
            Ok(inner) => {
                let place = Place::take(&this.counts, Direction::Outbound);
                Poll::Ready(Ok(LinkStream { inner, first: First::Passed, _place: place }))
            }
            Err(error) => Poll::Ready(Err(this.lost(error))),
        }
    }

    /// Moves bytes; yamux does that only while it is asked for the peer's streams.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let this = self.get_mut();
        let stream = ready!(this.poll_next(cx))?;
        this.waiting.push_back(stream);
        if let Some(waker) = this.inbound_waker.take() {
            waker.wake();
        }
        // There may be more; others get their turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_none() {
            this.say_goodbye(cx);
        }
        let deadline =
            this.closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_millis(CLOSE_TIMEOUT_MS))));
        let overdue = deadline.poll_unpin(cx).is_ready();
        this.state.closed.store(true, Ordering::Release);
        match this.muxer.poll_close(cx) {
            Poll::Ready(closed) => Poll::Ready(closed.map_err(io::Error::other)),
            // A peer that takes nothing any more would hold the connection open for as long as it likes.
            Poll::Pending if overdue => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// One stream of a connection.
pub struct LinkStream {
    inner: yamux::Stream,
    first: First,
    _place: Place,
}

/// What the first bytes of a stream are.
enum First {
    /// Not a goodbye, or nobody's business.
    Passed,
    /// Not read yet; a goodbye is noted here.
    Awaited(Arc<StreamState>),
    /// The beginning of a goodbye.
    Goodbye(Arc<StreamState>, Vec<u8>),
}

impl LinkStream {
    /// Reads the rest of a goodbye; to whoever reads the stream it is an empty one.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let First::Goodbye(state, bytes) = &mut self.first else { return Poll::Ready(Ok(0)) };
        let mut chunk = [0u8; GOODBYE_BYTES_MAX];
        loop {
            if let Some(reason) = goodbye::decode(bytes) {
                state.remote_close.lock().get_or_insert(reason);
                break;
            }
            let read = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut chunk)).unwrap_or_default();
            bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
            if read == 0 || bytes.len() > GOODBYE_BYTES_MAX {
                break;
            }
        }
        self.first = First::Passed;
        Poll::Ready(Ok(0))
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            // As over QUIC: whoever reads nothing asks whether the stream's negotiation is over, and yamux would wait for bytes.
            return Poll::Ready(Ok(0));
        }
        if matches!(this.first, First::Goodbye(..)) {
            return this.poll_goodbye(cx);
        }
        let read = ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let First::Awaited(state) = &this.first else { return Poll::Ready(Ok(read)) };
        let filled = buf.get(..read).unwrap_or_default();
        if filled.first() == Some(&GOODBYE_MARK) {
            this.first = First::Goodbye(Arc::clone(state), filled.to_vec());
            return this.poll_goodbye(cx);
        }
        this.first = First::Passed;
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
