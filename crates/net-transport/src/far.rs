//! QUIC from a UDP socket on another machine (TURN), where this network lets no UDP out (NET-44).
//!
//! An address says where a peer is, not from which socket it is dialled. So whoever asks the swarm to dial holds a
//! [`Through`] meanwhile, and what the swarm asks of the transport in that time goes to the far socket. The swarm asks at
//! once and in the same call, so nothing else can slip in between. To listen there needs no such thing: the far socket's
//! address is none of this machine.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use quinn::AsyncUdpSocket;

/// Opens the far socket and says to it whom it shall reach.
pub trait FarSocket: Send + Sync {
    /// The socket that stands.
    fn standing(&self) -> Option<Arc<dyn AsyncUdpSocket>>;

    /// The socket that stands, or a new one.
    fn open(&self) -> BoxFuture<'_, io::Result<Arc<dyn AsyncUdpSocket>>>;

    /// Makes sure that packets from and to a peer pass, or says why they do not.
    fn admit(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<()>>;
}

/// The far socket of a node, and the switch that says whether it is used. Clones are the same one.
#[derive(Clone)]
pub struct Far {
    inner: Arc<Inner>,
}

struct Inner {
    socket: Box<dyn FarSocket>,
    switched: AtomicBool,
    /// The endpoint over the socket that was opened last.
    endpoint: Mutex<Option<(Arc<dyn AsyncUdpSocket>, quinn::Endpoint)>>,
}

/// While it is held, dials go through the far socket.
pub struct Through<'a>(&'a Far);

impl Far {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(socket: Box<dyn FarSocket>) -> Self {
        Self { inner: Arc::new(Inner { socket, switched: AtomicBool::new(false), endpoint: Mutex::default() }) }
    }

    /// Sends what is dialled from now on through the far socket, until the answer is dropped.
    #[must_use]
    pub fn through(&self) -> Through<'_> {
        self.inner.switched.store(true, Ordering::Release);
        Through(self)
    }

    pub(crate) fn is_switched(&self) -> bool {
        self.inner.switched.load(Ordering::Acquire)
    }

    pub(crate) async fn admit(&self, peer: SocketAddr) -> io::Result<()> {
        self.inner.socket.admit(peer).await
    }

    /// The endpoint over the socket that stands, if its address on the other machine is this one.
    pub(crate) fn endpoint_at(
        &self,
        address: SocketAddr,
        make: impl FnOnce(Arc<dyn AsyncUdpSocket>) -> io::Result<quinn::Endpoint>,
    ) -> Option<io::Result<quinn::Endpoint>> {
        let standing = self.inner.socket.standing();
        let socket = standing.filter(|socket| socket.local_addr().ok() == Some(address))?;
        Some(self.endpoint_over(socket, make))
    }

    /// The endpoint over the socket that stands; `make` makes one where the socket is new.
    pub(crate) async fn endpoint(
        &self,
        make: impl FnOnce(Arc<dyn AsyncUdpSocket>) -> io::Result<quinn::Endpoint>,
    ) -> io::Result<quinn::Endpoint> {
        let socket = self.inner.socket.open().await?;
        self.endpoint_over(socket, make)
    }

    fn endpoint_over(
        &self,
        socket: Arc<dyn AsyncUdpSocket>,
        make: impl FnOnce(Arc<dyn AsyncUdpSocket>) -> io::Result<quinn::Endpoint>,
    ) -> io::Result<quinn::Endpoint> {
        let mut known = self.inner.endpoint.lock();
        if let Some((of, endpoint)) = known.as_ref()
            && Arc::ptr_eq(of, &socket)
        {
            return Ok(endpoint.clone());
        }
        let endpoint = make(Arc::clone(&socket))?;
        *known = Some((socket, endpoint.clone()));
        Ok(endpoint)
    }
}

impl Drop for Through<'_> {
    fn drop(&mut self) {
        self.0.inner.switched.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Far").field("switched", &self.is_switched()).finish_non_exhaustive()
    }
}
