//! Streams of this node's own whose protocol the peer confirms while data is on its way already.
//!
//! To negotiate a stream's protocol costs a round trip. The first stream of a protocol on a connection waits for it, so that
//! a protocol the peer does not speak fails the opening. Later ones send the protocol's name together with their first
//! bytes (multistream-select's lazy form). Should the peer have given up the protocol in between, the first read says so
//! with [`io::ErrorKind::Unsupported`], and the next opening waits again.

use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite};
use libp2p::core::upgrade::NegotiationError;
use libp2p::swarm::Stream;
use parking_lot::Mutex;

use super::HANDSHAKE;
use crate::config::OPEN_TIMEOUT_MS;
use crate::network::Protocol;

/// The protocols that the peer of one connection has confirmed. Clones are the same set.
#[derive(Clone)]
pub(super) struct Confirmed(Arc<Mutex<HashSet<Protocol>>>);

impl Default for Confirmed {
    fn default() -> Self {
        // The ALPN says that the peer is a Trellis node, and those speak the handshake.
        Self(Arc::new(Mutex::new(HashSet::from([HANDSHAKE]))))
    }
}

impl Confirmed {
    /// Makes a freshly opened stream usable: at once if the peer has confirmed the protocol before.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if the peer does not speak the protocol, or what the connection failed with.
    pub(super) async fn settle(self, protocol: Protocol, mut stream: Stream) -> io::Result<SelectedStream> {
        if self.0.lock().contains(&protocol) {
            return Ok(SelectedStream { stream: Some(stream), awaited: Some((protocol, self)) });
        }
        confirmation(&mut stream).await.map_err(|error| name_refusal(error, protocol))?;
        self.0.lock().insert(protocol);
        Ok(SelectedStream::settled(stream))
    }

    fn withdraw(&self, protocol: Protocol) {
        self.0.lock().remove(&protocol);
    }
}

/// Waits for the peer's word on the protocol: a read of nothing returns once it has come.
async fn confirmation(stream: &mut Stream) -> io::Result<()> {
    stream.read(&mut []).await.map(|_| ())
}

/// Gives a failed negotiation its own kind; other errors stay as they are.
fn name_refusal(error: io::Error, protocol: Protocol) -> io::Error {
    let negotiation = error.get_ref().and_then(|inner| inner.downcast_ref::<NegotiationError>());
    match negotiation {
        Some(NegotiationError::Failed) => {
            io::Error::new(io::ErrorKind::Unsupported, format!("the peer does not support {protocol}"))
        }
        _ => error,
    }
}

/// A stream on a selected protocol, which the peer may still have to confirm.
pub(crate) struct SelectedStream {
    /// Taken only when dropped.
    stream: Option<Stream>,
    awaited: Option<(Protocol, Confirmed)>,
}

impl SelectedStream {
    /// A stream whose protocol both sides know already.
    pub(super) const fn settled(stream: Stream) -> Self {
        Self { stream: Some(stream), awaited: None }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for SelectedStream {
    fn drop(&mut self) {
        let (Some(mut stream), Some(_)) = (self.stream.take(), self.awaited.take()) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // A peer that cannot send its confirmation any more drops the stream, and with it what was written: so the
        // confirmation is waited for before the receiving half goes.
        runtime.spawn(async move {
            let limit = Duration::from_millis(OPEN_TIMEOUT_MS);
            let _ = tokio::time::timeout(limit, confirmation(&mut stream)).await;
        });
    }
}

impl AsyncRead for SelectedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(self.stream()?.poll_read(cx, buf));
        let Some((protocol, confirmed)) = self.awaited.take() else { return Poll::Ready(read) };
        Poll::Ready(read.map_err(|error| {
            confirmed.withdraw(protocol);
            name_refusal(error, protocol)
        }))
    }
}

impl AsyncWrite for SelectedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_close(cx)
    }
}
