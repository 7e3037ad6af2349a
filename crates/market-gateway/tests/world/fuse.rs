//! A network handle that cuts its streams after a given frame in one direction, and says so.

use async_trait::async_trait;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::broadcast;
use trellis_net_peers::guard::{Ban, Conduct, Guard, Priority};
use trellis_net_peers::{
    AcceptError, Acceptor, BroadcastReport, DialError, DisconnectReason, NetStream, Network, NetworkHandle, OpenError,
    PeerEvent, PeerInfo, Pong, Protocol,
};
use trellis_primitives::NodeId;

/// Which frames count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Count {
    /// Those that this side sends.
    Sent,
    /// Those that this side receives.
    Received,
}

/// Blows after so many frames, on all streams together.
#[derive(Clone)]
pub struct Fuse {
    count: Count,
    left: Arc<AtomicI64>,
    blown: Arc<Mutex<mpsc::Sender<()>>>,
}

impl Fuse {
    pub fn new(count: Count, frames: i64) -> (Self, mpsc::Receiver<()>) {
        let (sender, receiver) = mpsc::channel();
        (Self { count, left: Arc::new(AtomicI64::new(frames)), blown: Arc::new(Mutex::new(sender)) }, receiver)
    }

    fn is_blown(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    fn pass(&self, count: Count, frames: i64) {
        if count == self.count && frames > 0 {
            let before = self.left.fetch_sub(frames, Ordering::SeqCst);
            if before >= 0 && before - frames < 0 {
                let _ = self.blown.lock().unwrap().send(());
            }
        }
    }
}

/// Counts whole frames in a byte stream.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    body_left: usize,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8]) -> i64 {
        let mut whole = 0;
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let step = self.body_left.min(bytes.len());
                self.body_left -= step;
                bytes = &bytes[step..];
                whole += i64::from(self.body_left == 0);
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let Ok(length) = <[u8; 4]>::try_from(self.header.as_slice()) {
                self.body_left = u32::from_be_bytes(length) as usize;
                self.header.clear();
                whole += i64::from(self.body_left == 0);
            }
        }
        whole
    }
}

struct Fused {
    inner: NetStream,
    fuse: Fuse,
    sent: Frames,
    received: Frames,
}

fn cut<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionReset)))
}

impl AsyncRead for Fused {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.fuse.is_blown() {
            return cut();
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() {
            let new = buf.filled()[before..].to_vec();
            let frames = self.received.feed(&new);
            self.fuse.pass(Count::Received, frames);
            if self.fuse.is_blown() {
                return cut();
            }
        }
        polled
    }
}

impl AsyncWrite for Fused {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.fuse.is_blown() {
            return cut();
        }
        let mut ahead = Frames { header: self.sent.header.clone(), body_left: self.sent.body_left };
        let frames = ahead.feed(bytes);
        self.fuse.pass(Count::Sent, frames);
        if self.fuse.is_blown() {
            return cut();
        }
        match Pin::new(&mut self.inner).poll_write(cx, bytes) {
            Poll::Ready(Ok(written)) => {
                self.sent.feed(&bytes[..written]);
                Poll::Ready(Ok(written))
            }
            other => {
                // It will be tried again and counted again.
                if self.fuse.count == Count::Sent {
                    self.fuse.left.fetch_add(frames, Ordering::SeqCst);
                }
                other
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A network whose opened streams have a fuse.
pub struct FusedNetwork {
    pub inner: NetworkHandle,
    pub fuse: Fuse,
}

#[async_trait]
impl Network for FusedNetwork {
    fn local_id(&self) -> NodeId {
        self.inner.local_id()
    }

    fn listen_addresses(&self) -> Vec<String> {
        self.inner.listen_addresses()
    }

    async fn dial(&self, address: &str) -> Result<NodeId, DialError> {
        self.inner.dial(address).await
    }

    async fn open(&self, peer: NodeId, protocol: Protocol) -> Result<NetStream, OpenError> {
        let inner = self.inner.open(peer, protocol).await?;
        let fuse = self.fuse.clone();
        Ok(Box::new(Fused { inner, fuse, sent: Frames::default(), received: Frames::default() }))
    }

    fn accept(&self, protocol: Protocol) -> Result<Acceptor, AcceptError> {
        self.inner.accept(protocol)
    }

    async fn broadcast(&self, peers: &[NodeId], protocol: Protocol, message: bytes::Bytes) -> BroadcastReport {
        self.inner.broadcast(peers, protocol, message).await
    }

    fn peers(&self) -> Vec<PeerInfo> {
        self.inner.peers()
    }

    fn events(&self) -> broadcast::Receiver<PeerEvent> {
        self.inner.events()
    }

    async fn disconnect(&self, peer: NodeId, reason: DisconnectReason) {
        self.inner.disconnect(peer, reason).await;
    }

    fn report(&self, peer: NodeId, conduct: Conduct) {
        self.inner.report(peer, conduct);
    }

    fn guard(&self) -> Arc<Guard> {
        self.inner.guard()
    }

    async fn ban(&self, peer: NodeId, for_ms: Option<u64>) -> Ban {
        self.inner.ban(peer, for_ms).await
    }

    async fn add_peer(&self, address: &str, priority: Priority) -> Result<NodeId, DialError> {
        self.inner.add_peer(address, priority).await
    }

    fn prefer(&self, peers: &[NodeId]) {
        self.inner.prefer(peers);
    }

    async fn reconnect(&self, peer: NodeId) -> Result<NodeId, DialError> {
        self.inner.reconnect(peer).await
    }

    fn forget_added(&self, address: Option<&str>, peer: Option<NodeId>) -> Vec<String> {
        self.inner.forget_added(address, peer)
    }

    async fn ping(&self, peer: NodeId) -> Result<Pong, OpenError> {
        self.inner.ping(peer).await
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}
