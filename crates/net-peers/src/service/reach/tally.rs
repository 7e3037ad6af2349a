//! Counts what passes through this node's relay.
//!
//! libp2p's relay copies bytes between two streams and tells nobody how many. So on a relay every connection's muxer is
//! wrapped: a stream whose first bytes name the relay protocol is one end of a circuit, and what is read from it counts. Each
//! byte is read once, at the end where it comes in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use prometheus_client::metrics::counter::Counter;

/// How the names of the relay's two protocols begin.
const RELAY_PROTOCOL: &[u8] = b"/libp2p/circuit/relay/0.2.0/";
/// The protocol's name stands within so many bytes, or the stream is another's.
const HEAD_BYTES_MAX: usize = 256;

/// A muxer whose streams are counted.
pub(crate) struct Tallied {
    inner: StreamMuxerBox,
    bytes: Counter,
}

impl Tallied {
    pub(crate) const fn new(inner: StreamMuxerBox, bytes: Counter) -> Self {
        Self { inner, bytes }
    }

    fn stream(&self, inner: SubstreamBox) -> TalliedStream<SubstreamBox> {
        TalliedStream::new(inner, self.bytes.clone())
    }
}

impl StreamMuxer for Tallied {
    type Substream = TalliedStream<SubstreamBox>;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(self.stream(stream)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(self.stream(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Whose a stream is.
enum Use {
    /// Its first bytes so far; they do not say yet.
    Unknown(Vec<u8>),
    Circuit,
    Other,
}

/// A stream that is counted if it is an end of a circuit.
pub(crate) struct TalliedStream<S> {
    inner: S,
    used: Use,
    bytes: Counter,
}

impl<S> TalliedStream<S> {
    const fn new(inner: S, bytes: Counter) -> Self {
        Self { inner, used: Use::Unknown(Vec::new()), bytes }
    }

    /// Looks at bytes that passed, in either direction, until they say whose the stream is.
    fn sniff(&mut self, passed: &[u8]) {
        let Use::Unknown(head) = &mut self.used else { return };
        let room = HEAD_BYTES_MAX.saturating_sub(head.len());
        head.extend(passed.iter().take(room));
        if head.windows(RELAY_PROTOCOL.len()).any(|window| window == RELAY_PROTOCOL) {
            self.used = Use::Circuit;
        } else if head.len() >= HEAD_BYTES_MAX {
            self.used = Use::Other;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TalliedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if matches!(self.used, Use::Circuit) {
            self.bytes.inc_by(read as u64);
        } else {
            self.sniff(buf.get(..read).unwrap_or_default());
        }
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TalliedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.sniff(buf.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;
    use futures::{AsyncReadExt, AsyncWriteExt};

    fn read_through(bytes: &[u8], at_once: usize) -> u64 {
        let counter = Counter::default();
        let mut stream = TalliedStream::new(Cursor::new(bytes.to_vec()), counter.clone());
        let mut part = vec![0; at_once];
        while block_on(stream.read(&mut part)).unwrap() > 0 {}
        counter.get()
    }

    // row: NET-42
    #[test]
    fn what_comes_in_behind_the_relays_name_is_counted_and_nothing_else() {
        let hop = b"\x13/multistream/1.0.0\n\x20/libp2p/circuit/relay/0.2.0/hop\n";
        let mut circuit = hop.to_vec();
        circuit.extend([7; 1_000]);
        assert_eq!(read_through(&circuit, 52), 1_000 + u64::try_from(hop.len()).unwrap() - 52);
        let counted = read_through(&circuit, 1);
        assert!((1_000..=1_004).contains(&counted), "{counted}");
        assert_eq!(read_through(&[b'x'; 2_000], 64), 0);
    }

    // row: NET-42
    #[test]
    fn a_stream_that_this_node_opens_for_a_circuit_is_counted_by_what_comes_back() {
        let counter = Counter::default();
        let mut stream = TalliedStream::new(Cursor::new(Vec::new()), counter.clone());
        block_on(stream.write_all(b"\x13/multistream/1.0.0\n\x21/libp2p/circuit/relay/0.2.0/stop\n")).unwrap();
        stream.inner = Cursor::new(vec![7; 500]);
        let mut all = Vec::new();
        block_on(stream.read_to_end(&mut all)).unwrap();
        assert_eq!((all.len(), counter.get()), (500, 500));
    }
}
