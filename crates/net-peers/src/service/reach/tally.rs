//! Counts what passes through this node's relay, and holds each circuit to its budget.
//!
//! libp2p's relay copies bytes between two streams, tells nobody how many, and knows one budget for all. So on a relay every
//! connection's muxer is wrapped. A stream that a peer opens is read along with ([`super::hop`]): if it asks for a circuit, what
//! passes on it, in both directions, is on the budget of its [`Ask`]. A stream that this node opens is an end of a circuit if
//! its first bytes name the relay's protocol. What is read at either end counts: each byte once, where it comes in.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use prometheus_client::metrics::counter::Counter;

use super::desk::Ask;
use super::door::RelayDoor;
use super::hop::{Heard, Listener};

/// How the names of the relay's two protocols begin.
const RELAY_PROTOCOL: &[u8] = b"/libp2p/circuit/relay/0.2.0/";
/// The protocol's name stands within so many bytes of a stream that this node opens, or the stream is another's.
const HEAD_BYTES_MAX: usize = 256;

/// A muxer whose streams are counted.
pub(crate) struct Tallied {
    inner: StreamMuxerBox,
    peer: PeerId,
    door: Arc<RelayDoor>,
}

impl Tallied {
    /// The muxer of a connection to `peer`.
    pub(crate) const fn new(inner: StreamMuxerBox, peer: PeerId, door: Arc<RelayDoor>) -> Self {
        Self { inner, peer, door }
    }
}

impl StreamMuxer for Tallied {
    type Substream = TalliedStream<SubstreamBox>;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        let (door, peer) = (Arc::clone(&self.door), self.peer);
        let asked: AskedFn = Box::new(move |to| door.asked(peer, to));
        let bytes = self.door.bytes();
        Poll::Ready(Ok(TalliedStream::new(stream, Use::Heard(Listener::default(), asked), bytes)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(TalliedStream::new(stream, Use::Unknown(Vec::new()), self.door.bytes())))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// What is to be done when a peer asks for a circuit to another.
type AskedFn = Box<dyn Fn(PeerId) -> Ask + Send>;

/// Whose a stream is.
enum Use {
    /// A peer opened it; what it sends does not say yet.
    Heard(Listener, AskedFn),
    /// This node opened it, and these are its first bytes; they do not say yet.
    Unknown(Vec<u8>),
    /// Its end of a circuit or, without an [`Ask`], this node's; or a question that is no circuit.
    Relay(Option<Ask>),
    Other,
}

/// A stream that is counted if it is an end of a circuit.
pub(crate) struct TalliedStream<S> {
    inner: S,
    used: Use,
    bytes: Counter,
}

impl<S> TalliedStream<S> {
    const fn new(inner: S, used: Use, bytes: Counter) -> Self {
        Self { inner, used, bytes }
    }

    /// Looks at bytes that passed, `inwards` or out, until they say whose the stream is.
    fn sniff(&mut self, passed: &[u8], inwards: bool) {
        match &mut self.used {
            Use::Heard(listener, asked) if inwards => match listener.hear(passed) {
                Heard::Nothing | Heard::Asked => {}
                Heard::Connect(to) => {
                    let ask = asked(to);
                    self.used = Use::Relay(Some(ask));
                }
                Heard::OtherAsk => self.used = Use::Relay(None),
                Heard::OtherProtocol => self.used = Use::Other,
            },
            Use::Unknown(head) => {
                let room = HEAD_BYTES_MAX.saturating_sub(head.len());
                head.extend(passed.iter().take(room));
                if head.windows(RELAY_PROTOCOL.len()).any(|window| window == RELAY_PROTOCOL) {
                    self.used = Use::Relay(None);
                } else if head.len() >= HEAD_BYTES_MAX {
                    self.used = Use::Other;
                }
            }
            Use::Heard(..) | Use::Relay(_) | Use::Other => {}
        }
    }

    /// Whether the stream may carry more.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match &mut self.used {
            Use::Relay(Some(ask)) => ask.check(cx),
            _ => Ok(()),
        }
    }

    fn passed(&mut self, bytes: &[u8], inwards: bool) {
        match &mut self.used {
            Use::Relay(ask) => {
                if inwards {
                    self.bytes.inc_by(bytes.len() as u64);
                }
                if let Some(ask) = ask {
                    ask.spend(bytes.len());
                }
            }
            _ => self.sniff(bytes, inwards),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TalliedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.passed(buf.get(..read).unwrap_or_default(), true);
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TalliedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.passed(buf.get(..written).unwrap_or_default(), false);
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
    use super::super::desk::CircuitDesk;
    use super::super::hop::tests::asks_for;
    use super::*;
    use futures::io::Cursor;
    use futures::{AsyncReadExt, AsyncWriteExt};
    use trellis_net_reach::relay::budget::RelayBudget;

    fn desk(bytes_max: u64) -> Arc<CircuitDesk> {
        let mut budget = RelayBudget::sized(4);
        budget.circuit.bytes_max = bytes_max;
        CircuitDesk::new(budget, Counter::default())
    }

    fn inbound(bytes: Vec<u8>, desk: &Arc<CircuitDesk>) -> TalliedStream<Cursor<Vec<u8>>> {
        let (desk, peer) = (Arc::clone(desk), PeerId::random());
        let asked: AskedFn = Box::new(move |_| desk.asked(peer, None));
        TalliedStream::new(Cursor::new(bytes), Use::Heard(Listener::default(), asked), Counter::default())
    }

    async fn read_through(bytes: &[u8], at_once: usize) -> u64 {
        let mut stream = inbound(bytes.to_vec(), &desk(u64::MAX));
        let mut part = vec![0; at_once];
        while stream.read(&mut part).await.unwrap() > 0 {}
        stream.bytes.get()
    }

    // row: NET-42
    #[tokio::test]
    async fn what_comes_in_behind_the_question_for_a_circuit_is_counted_and_nothing_else() {
        let mut circuit = asks_for(PeerId::random());
        let head = circuit.len();
        circuit.extend([7; 1_000]);
        assert_eq!(read_through(&circuit, head).await, 1_000);
        assert_eq!(read_through(&circuit, 1).await, 1_000);
        assert_eq!(read_through(&[b'x'; 2_000], 64).await, 0);
    }

    // row: NET-42
    #[tokio::test]
    async fn a_stream_that_this_node_opens_for_a_circuit_is_counted_by_what_comes_back() {
        let bytes = Counter::default();
        let mut stream = TalliedStream::new(Cursor::new(Vec::new()), Use::Unknown(Vec::new()), bytes.clone());
        stream.write_all(b"\x13/multistream/1.0.0\n\x21/libp2p/circuit/relay/0.2.0/stop\n").await.unwrap();
        stream.inner = Cursor::new(vec![7; 500]);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!((all.len(), bytes.get()), (500, 500));
    }

    // row: NET-42
    #[tokio::test]
    async fn a_circuit_that_has_carried_its_bytes_in_both_directions_together_is_cut() {
        let desk = desk(10_000);
        let mut bytes = asks_for(PeerId::random());
        let head = bytes.len();
        bytes.extend([7; 6_000]);
        let mut stream = inbound(bytes, &desk);
        let mut part = vec![0; head];
        stream.read_exact(&mut part).await.unwrap();
        assert_eq!(desk.report().used, 1);
        stream.read_exact(&mut vec![0; 6_000]).await.unwrap();
        stream.write_all(&[7; 4_000]).await.unwrap();
        assert_eq!(stream.write_all(&[7; 1]).await.unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(stream.read(&mut part).await.unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        drop(stream);
        assert_eq!(desk.report().used, 0);
    }
}
