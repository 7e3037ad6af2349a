//! A QUIC connection as libp2p's stream muxer, and its streams.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};

use crate::admission::Permit;
use crate::metrics::TransportMetrics;
use crate::session::Session;

type OpeningStream = BoxFuture<'static, Result<(quinn::SendStream, quinn::RecvStream), quinn::ConnectionError>>;

/// One authenticated connection. Dropping it closes it.
pub struct Connection {
    connection: quinn::Connection,
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
        Self { connection, session, metrics, incoming: None, outgoing: None, closing: None, _permit: permit }
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
        Poll::Ready(opened.map(Stream::new))
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
        Poll::Ready(opened.map(Stream::new))
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
    closed: bool,
}

impl Stream {
    pub(crate) fn new((send, receive): (quinn::SendStream, quinn::RecvStream)) -> Self {
        Self { send, receive, closed: false }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.receive.poll_read(cx, buf).map_err(io::Error::from)
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
