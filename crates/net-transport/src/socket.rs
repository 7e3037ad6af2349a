//! The UDP socket under quinn: sized buffers, a count of datagrams that belong to no connection, and the place where first
//! packets of unwanted sources are turned away.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use prometheus_client::metrics::counter::Counter;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, UdpPoller};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::SOCKET_BUFFER_BYTES;
use crate::prefilter::{FirstPacket, Gate, Prefilter};

/// Bytes of the connection ids that this node hands out (quinn's keyed generator).
const LOCAL_CID_BYTES: usize = 8;
/// The only QUIC version spoken.
const QUIC_V1: u32 = 1;
/// RFC 9000, 17.2: set in the first byte of a long header.
const LONG_HEADER: u8 = 0x80;
/// RFC 9000, 17.2: the packet type of a long header; zero is Initial.
const LONG_TYPE: u8 = 0x30;
/// RFC 9000, 14.1: a client's first datagram is at least this long.
const INITIAL_DATAGRAM_BYTES_MIN: usize = 1_200;

/// Binds a UDP socket with larger buffers than the default.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Best effort: the system caps the sizes.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket that looks at the first bytes of what arrives, counts garbage, and turns first packets away where it has a
/// filter. It changes nothing else.
pub(crate) struct FilteringSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    cids: HashedConnectionIdGenerator,
    garbage: Counter,
    /// Only of a socket that listens.
    filter: Option<Prefilter>,
    /// Datagrams that the system may hand over joined to one, at most.
    joined_max: usize,
    /// It failed for good; an endpoint that reads from it has ended with it.
    failed: AtomicBool,
}

impl FilteringSocket {
    pub(crate) fn wrap(
        inner: Arc<dyn AsyncUdpSocket>,
        cid_key: u64,
        garbage: Counter,
        filter: Option<Prefilter>,
        joined_max: usize,
    ) -> Arc<Self> {
        let (cids, failed) = (HashedConnectionIdGenerator::from_key(cid_key), AtomicBool::new(false));
        Arc::new(Self { inner, cids, garbage, filter, joined_max, failed })
    }

    /// Whether reading from it has failed. quinn then stops the endpoint that it belongs to, and tells nobody.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether a datagram can be no packet for this node: quinn will drop it. The fixed bit says nothing, because peers
    /// may grease it (RFC 9287).
    fn is_garbage(&self, datagram: &[u8]) -> bool {
        let Some((&first, rest)) = datagram.split_first() else { return true };
        if first & LONG_HEADER == 0 {
            let cid = rest.get(..LOCAL_CID_BYTES);
            return cid.is_none_or(|cid| self.cids.validate(&ConnectionId::new(cid)).is_err());
        }
        let version = rest.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        let initial = first & LONG_TYPE == 0;
        version != Some(QUIC_V1) || (initial && datagram.len() < INITIAL_DATAGRAM_BYTES_MIN && !self.known_long(rest))
    }

    /// Whether a long header is addressed to a connection id of this node (an Initial of a server's flight is).
    fn known_long(&self, after_first: &[u8]) -> bool {
        let Some(length) = after_first.get(4).copied().map(usize::from) else { return false };
        let cid = after_first.get(5..5 + length);
        cid.is_some_and(|cid| self.is_own(cid))
    }

    fn is_own(&self, cid: &[u8]) -> bool {
        cid.len() == LOCAL_CID_BYTES && self.cids.validate(&ConnectionId::new(cid)).is_ok()
    }

    /// A client's first packet, if a datagram begins with one. One that is addressed to a connection id of this node belongs
    /// to a handshake that goes on, or comes back from a Retry.
    fn first_packet<'a>(&self, datagram: &'a [u8]) -> Option<FirstPacket<'a>> {
        let (&first, rest) = datagram.split_first()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let initial = first & LONG_HEADER != 0 && first & LONG_TYPE == 0 && u32::from_be_bytes(*version) == QUIC_V1;
        let packet = FirstPacket::read(rest).filter(|_| initial && datagram.len() >= INITIAL_DATAGRAM_BYTES_MIN)?;
        (!self.is_own(packet.destination())).then_some(packet)
    }

    /// Takes out of one batch of datagrams, all of one source, the first packets that are turned away.
    fn turn_away(&self, filter: &Prefilter, buf: &mut [u8], meta: &mut RecvMeta) {
        let filled = buf.get(..meta.len).unwrap_or_default();
        let packets =
            filled.chunks(meta.stride.max(1)).filter(|datagram| self.first_packet(datagram).is_some()).count();
        if packets == 0 {
            return;
        }
        let gate = filter.judge(meta.addr, packets);
        if gate == Gate::Pass {
            return;
        }
        let (from, to) = (meta.addr, meta.dst_ip);
        retain(buf, meta, |datagram| {
            let Some(first) = self.first_packet(datagram) else { return true };
            if let Some(answer) = filter.turn_away(gate, from, first, QUIC_V1) {
                let transmit =
                    Transmit { destination: from, ecn: None, contents: &answer, segment_size: None, src_ip: to };
                // A refusal that cannot leave at once is not worth waiting for.
                let _ = self.inner.try_send(&transmit);
            }
            false
        });
    }
}

/// Keeps some datagrams of a batch; all but the last are as long as the stride, and stay so.
fn retain(buf: &mut [u8], meta: &mut RecvMeta, mut keep: impl FnMut(&[u8]) -> bool) {
    let stride = meta.stride.max(1);
    let (mut from, mut to) = (0, 0);
    while from < meta.len {
        let end = (from + stride).min(meta.len);
        if buf.get(from..end).is_some_and(&mut keep) {
            buf.copy_within(from..end, to);
            to += end - from;
        }
        from = end;
    }
    meta.len = to;
}

impl fmt::Debug for FilteringSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilteringSocket").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for FilteringSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inner.poll_recv(cx, bufs, meta)).inspect_err(|error| {
            // A reset may be forged, and ends no endpoint.
            if error.kind() != io::ErrorKind::ConnectionReset {
                self.failed.store(true, Ordering::Release);
            }
        })?;
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(received) {
            if let Some(filter) = &self.filter {
                self.turn_away(filter, buf, meta);
                if meta.len == 0 && meta.stride > 0 {
                    // Nothing is left of it, which is not the same as an empty datagram.
                    continue;
                }
            }
            let filled = buf.get(..meta.len).unwrap_or_default();
            let garbage = filled.chunks(meta.stride.max(1)).filter(|datagram| self.is_garbage(datagram)).count();
            // An empty datagram has no chunk.
            self.garbage.inc_by(garbage as u64 + u64::from(filled.is_empty()));
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments().min(self.joined_max)
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meta(len: usize, stride: usize) -> RecvMeta {
        RecvMeta { len, stride, ..RecvMeta::default() }
    }

    proptest! {
        // row: NET-81
        #[test]
        fn what_is_kept_of_a_batch_keeps_its_order_and_its_bytes(
            bytes in prop::collection::vec(any::<u8>(), 1..200), stride in 1usize..40, kept in any::<u64>(),
        ) {
            let expected: Vec<u8> = bytes.chunks(stride).enumerate()
                .filter(|(n, _)| kept >> (n % 64) & 1 == 1).flat_map(|(_, datagram)| datagram.to_vec()).collect();
            let mut buf = bytes.clone();
            let mut meta = meta(bytes.len(), stride);
            let mut n = 0;
            retain(&mut buf, &mut meta, |_| {
                n += 1;
                kept >> ((n - 1) % 64) & 1 == 1
            });
            prop_assert_eq!(&buf[..meta.len], expected.as_slice());
        }
    }
}
