//! An allocation as a UDP socket for QUIC.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::allocation::{Allocation, PeerState, Sent};
use super::error::TurnError;

/// Datagrams that wait to be read before more are dropped, as a kernel's socket would.
pub const DATAGRAMS_IN_MAX: usize = 2_048;
/// Tasks that wait for room.
const WRITERS_WAITING_MAX: usize = 1_024;

/// Datagrams of peers.
#[derive(Default)]
struct Inbox {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    reader: Option<Waker>,
}

/// What the socket and the tasks of its connection share.
pub(super) struct Shared {
    pub(super) allocation: Mutex<Allocation>,
    inbox: Mutex<Inbox>,
    writers: Mutex<Vec<Waker>>,
    began: Instant,
    /// There is something to write, or a timer to look at.
    pub(super) work: Notify,
    /// Something has changed in the allocation.
    pub(super) changed: Notify,
    /// Cancelled when nothing more is written.
    pub(super) ended: CancellationToken,
}

impl Shared {
    pub(super) fn new(allocation: Allocation) -> Arc<Self> {
        Arc::new(Self {
            allocation: Mutex::new(allocation),
            inbox: Mutex::default(),
            writers: Mutex::default(),
            began: Instant::now(),
            work: Notify::new(),
            changed: Notify::new(),
            ended: CancellationToken::new(),
        })
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn instant(&self, ms: u64) -> Instant {
        self.began + std::time::Duration::from_millis(ms)
    }

    /// A frame of the server came.
    pub(super) fn came(&self, frame: &[u8]) {
        let carried = self.allocation.lock().receive(frame, self.now_ms());
        match carried {
            Some((peer, datagram)) => self.deliver(peer, datagram),
            None => self.stirred(),
        }
    }

    fn deliver(&self, peer: SocketAddr, datagram: Vec<u8>) {
        let mut inbox = self.inbox.lock();
        if inbox.datagrams.len() < DATAGRAMS_IN_MAX {
            inbox.datagrams.push_back((peer, datagram));
        }
        if let Some(reader) = inbox.reader.take() {
            reader.wake();
        }
    }

    /// The allocation is over: whoever reads or waits hears of it.
    pub(super) fn fail(&self, error: TurnError) {
        self.allocation.lock().fail(error);
        self.stirred();
    }

    /// Wakes everybody who may be waiting for a change.
    pub(super) fn stirred(&self) {
        self.work.notify_one();
        self.changed.notify_waiters();
        if self.allocation.lock().failure().is_some()
            && let Some(reader) = self.inbox.lock().reader.take()
        {
            reader.wake();
        }
    }

    /// Frames have left: there is room again.
    pub(super) fn room(&self) {
        for writer in std::mem::take(&mut *self.writers.lock()) {
            writer.wake();
        }
    }

    /// Waits until a question about the allocation has an answer.
    pub(super) async fn until<T>(&self, ask: impl Fn(&Allocation) -> Option<T>) -> Result<T, TurnError> {
        loop {
            let changed = self.changed.notified();
            {
                let allocation = self.allocation.lock();
                if let Some(answer) = ask(&allocation) {
                    return Ok(answer);
                }
                if let Some(failure) = allocation.failure() {
                    return Err(failure.clone());
                }
            }
            changed.await;
        }
    }
}

/// A UDP socket whose address is at a TURN server. Dropped, it gives the address back.
pub struct TurnSocket {
    shared: Arc<Shared>,
    relayed: SocketAddr,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl TurnSocket {
    pub(super) fn new(shared: Arc<Shared>, relayed: SocketAddr, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { shared, relayed, _stop: stop.clone().drop_guard(), stop })
    }

    /// The address that peers see.
    #[must_use]
    pub const fn relayed(&self) -> SocketAddr {
        self.relayed
    }

    /// Why the allocation is over; `None` while it stands.
    #[must_use]
    pub fn failure(&self) -> Option<TurnError> {
        self.shared.allocation.lock().failure().cloned()
    }

    /// Gives the address back to the server, whoever still holds this, and waits until that has been said.
    pub async fn give_back(&self) {
        self.stop.cancel();
        self.shared.ended.cancelled().await;
    }

    /// Asks the server to let a peer in, and waits for its answer.
    ///
    /// # Errors
    /// The server refuses or does not answer, or the allocation is over.
    pub async fn admit(&self, peer: SocketAddr) -> Result<(), TurnError> {
        self.shared.allocation.lock().admit(peer, self.shared.now_ms())?;
        self.shared.work.notify_one();
        self.shared
            .until(|allocation| match allocation.peer(peer) {
                Some(PeerState::Open) => Some(Ok(())),
                Some(PeerState::Refused(error)) => Some(Err(error.clone())),
                Some(PeerState::Asked) | None => None,
            })
            .await?
    }

    /// Asks the server to let everybody in who comes from an IP address; nobody waits for its answer.
    ///
    /// # Errors
    /// The allocation is over or full.
    pub fn let_in(&self, ip: IpAddr) -> Result<(), TurnError> {
        self.shared.allocation.lock().let_in(ip, self.shared.now_ms())?;
        self.shared.work.notify_one();
        Ok(())
    }
}

impl fmt::Debug for TurnSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnSocket").field("relayed", &self.relayed).finish_non_exhaustive()
    }
}

/// Waits for room.
struct RoomPoller(Arc<TurnSocket>);

impl fmt::Debug for RoomPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomPoller")
    }
}

impl UdpPoller for RoomPoller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = &self.0.shared;
        let mut writers = shared.writers.lock();
        // Asked under the lock, so that room that comes meanwhile wakes this task too.
        if !shared.allocation.lock().is_full() || writers.len() >= WRITERS_WAITING_MAX {
            return Poll::Ready(Ok(()));
        }
        writers.push(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncUdpSocket for TurnSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(RoomPoller(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let now_ms = self.shared.now_ms();
        let sent = self.shared.allocation.lock().send(transmit.destination, transmit.contents, now_ms);
        match sent {
            Sent::Full => Err(io::ErrorKind::WouldBlock.into()),
            Sent::Taken | Sent::Dropped => {
                self.shared.work.notify_one();
                Ok(())
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.shared.inbox.lock();
        let mut read = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
            let Some((addr, datagram)) = inbox.datagrams.pop_front() else { break };
            let len = datagram.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..len), datagram.get(..len)) {
                to.copy_from_slice(from);
            }
            *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
            read += 1;
        }
        if read > 0 {
            return Poll::Ready(Ok(read));
        }
        inbox.reader = Some(cx.waker().clone());
        drop(inbox);
        match self.failure() {
            Some(failure) => Poll::Ready(Err(io::Error::other(failure))),
            None => Poll::Pending,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.relayed)
    }

    fn may_fragment(&self) -> bool {
        // What leaves the server is not under this node's control, so no packet is made larger than the first.
        true
    }
}
