//! A QUIC connection as libp2p's stream muxer, and its streams.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use parking_lot::Mutex;

use crate::admission::Permit;
use crate::config::{CONNECTION_WINDOW_BYTES, NEW_CONNECTION_WINDOW_BYTES};
use crate::metrics::TransportMetrics;
use crate::session::Session;

type OpeningStream = BoxFuture<'static, Result<(quinn::SendStream, quinn::RecvStream), quinn::ConnectionError>>;

/// One authenticated connection. Dropping it closes it.
pub struct Connection {
    connection: quinn::Connection,
    window: Arc<Window>,
    session: Session,
    metrics: TransportMetrics,
    incoming: Option<OpeningStream>,
    outgoing: Option<OpeningStream>,
    closing: Option<BoxFuture<'static, quinn::ConnectionError>>,
    /// Held for as long as the connection lives.
    _permit: Option<Permit>,
}

impl Connection {
    pub(crate) fn new(
        connection: quinn::Connection,
        session: Session,
        permit: Option<Permit>,
        metrics: TransportMetrics,
    ) -> Self {
        metrics.open.inc();
        let window = Window::of(&connection);
        Self { connection, window, session, metrics, incoming: None, outgoing: None, closing: None, _permit: permit }
    }

    /// What is known about the session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.open.dec();
        // A session handle may outlive the muxer, so the last drop of the quinn handle cannot be relied upon.
        self.session.close();
    }
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = quinn::ConnectionError;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Self::Error>> {
        let this = self.get_mut();
        let connection = &this.connection;
        let incoming = this.incoming.get_or_insert_with(|| {
            let connection = connection.clone();
            async move { connection.accept_bi().await }.boxed()
        });
        let opened = ready!(incoming.poll_unpin(cx));
        this.incoming = None;
        Poll::Ready(opened.map(|halves| Stream::new(halves, Some(&this.window))))
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Self::Error>> {
        let this = self.get_mut();
        let connection = &this.connection;
        let outgoing = this.outgoing.get_or_insert_with(|| {
            let connection = connection.clone();
            async move { connection.open_bi().await }.boxed()
        });
        let opened = ready!(outgoing.poll_unpin(cx));
        this.outgoing = None;
        Poll::Ready(opened.map(|halves| Stream::new(halves, Some(&this.window))))
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Poll::Pending
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        let (connection, session) = (&this.connection, &this.session);
        let closing = this.closing.get_or_insert_with(|| {
            session.close();
            let connection = connection.clone();
            async move { connection.closed().await }.boxed()
        });
        match ready!(closing.poll_unpin(cx)) {
            quinn::ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error)),
        }
    }
}

/// One bidirectional stream. Dropping it finishes the sending half; what was written is still delivered.
pub struct Stream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    /// None where the window is wide from the start.
    window: Option<Arc<Window>>,
    closed: bool,
}

impl Stream {
    pub(crate) fn new((send, receive): (quinn::SendStream, quinn::RecvStream), window: Option<&Arc<Window>>) -> Self {
        Self { send, receive, window: window.cloned(), closed: false }
    }
}

/// How many unread bytes a connection may hold; grows with those that are read.
pub(crate) struct Window {
    connection: quinn::Connection,
    /// It grows no more; so that most reads ask for no lock.
    full: AtomicBool,
    growth: Mutex<Growth>,
}

impl Window {
    fn of(connection: &quinn::Connection) -> Arc<Self> {
        Arc::new(Self { connection: connection.clone(), full: AtomicBool::new(false), growth: Mutex::default() })
    }

    fn read(&self, bytes: usize) {
        if self.full.load(Ordering::Relaxed) {
            return;
        }
        let wider = self.growth.lock().read(bytes);
        if let Some(bytes) = wider {
            self.connection.set_receive_window(bytes.into());
            self.full.store(bytes >= CONNECTION_WINDOW_BYTES, Ordering::Relaxed);
        }
    }
}

/// The window's size and what was read since it was set. Pure.
struct Growth {
    window: u32,
    read: u32,
}

impl Default for Growth {
    fn default() -> Self {
        Self { window: NEW_CONNECTION_WINDOW_BYTES, read: 0 }
    }
}

impl Growth {
    /// So many bytes were read; gives the window's new size where it changes.
    fn read(&mut self, bytes: usize) -> Option<u32> {
        if self.window >= CONNECTION_WINDOW_BYTES {
            return None;
        }
        self.read = self.read.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.read < self.window {
            return None;
        }
        (self.window, self.read) = (self.window.saturating_mul(2).min(CONNECTION_WINDOW_BYTES), 0);
        Some(self.window)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(self.receive.poll_read(cx, buf))?;
        if let Some(window) = &self.window {
            window.read(read);
        }
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, buf).map_err(io::Error::from)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // quinn sends what was written by itself.
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            self.closed = true;
            // A stream that the peer stopped or that is finished already needs no finishing.
            let _ = self.send.finish();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-15, NET-56
    #[test]
    fn a_window_doubles_with_what_is_read_and_never_passes_what_was_read_before_or_its_bound() {
        let (mut growth, mut total) = (Growth::default(), 0u64);
        let mut sizes = vec![growth.window];
        while total < 64 * 1024 * 1024 {
            let before = total;
            total += 10_000;
            if let Some(window) = growth.read(10_000) {
                assert!(u64::from(window) <= before + 10_000 + u64::from(NEW_CONNECTION_WINDOW_BYTES));
                sizes.push(window);
            }
        }
        let mib = |n: u32| n * 1024 * 1024;
        assert_eq!(sizes, [mib(1), mib(2), mib(4), mib(8), mib(16)]);
        assert_eq!(Growth::default().read(usize::MAX), Some(mib(2)), "one read is one step");
    }
}
