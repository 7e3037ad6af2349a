//! The UDP socket under quinn: sized buffers, and a count of datagrams that belong to no connection.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use prometheus_client::metrics::counter::Counter;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, Runtime, UdpPoller};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::SOCKET_BUFFER_BYTES;

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

/// A socket that looks at the first bytes of what arrives and counts garbage. It changes nothing.
pub(crate) struct CountingSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    cids: HashedConnectionIdGenerator,
    garbage: Counter,
}

impl CountingSocket {
    pub(crate) fn wrap(socket: std::net::UdpSocket, cid_key: u64, garbage: Counter) -> io::Result<Arc<Self>> {
        let inner = quinn::TokioRuntime.wrap_udp_socket(socket)?;
        Ok(Arc::new(Self { inner, cids: HashedConnectionIdGenerator::from_key(cid_key), garbage }))
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
        let cid = after_first.get(5..5 + length).filter(|cid| cid.len() == LOCAL_CID_BYTES);
        cid.is_some_and(|cid| self.cids.validate(&ConnectionId::new(cid)).is_ok())
    }
}

impl fmt::Debug for CountingSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountingSocket").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for CountingSocket {
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
        let received = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buf, meta) in bufs.iter().zip(meta.iter()).take(received) {
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
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
