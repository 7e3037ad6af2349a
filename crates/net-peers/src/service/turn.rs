//! The way through a TURN server (NET-44): the socket there, as the transport wants it, and when there is to be one.
//!
//! An address at a server costs somebody a port, so it is asked for when a dial needs it, or once dials have shown that UDP
//! does not leave this network. From then on it is a candidate for hole punching too ([`door`]): a peer that is dialled there
//! and dials back gets in.

mod door;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::Multiaddr;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use trellis_net_reach::turn::{RETRY_MS_MIN, ServerReport, Turn, TurnSettings, TurnSocket};
use trellis_net_transport::{Far, FarSocket, LinkKind, Session, Through};

pub(super) use self::door::TurnDoor;
use super::NodeShared;
use crate::discovery::address::on_internet;

/// It is looked this often whether the address still stands and whether it is needed.
const LOOK_MS: u64 = 5_000;
/// Where UDP leaves this network, an address that carried nothing and was asked for by nobody for this long is given back.
const UNUSED_MS: u64 = 60_000;

/// The node's address at a TURN server. Clones are the same one.
#[derive(Clone)]
pub(crate) struct TurnWay {
    shared: Arc<Shared>,
    far: Far,
}

struct Shared {
    turn: Turn,
    /// The socket that was opened last.
    socket: watch::Sender<Option<Arc<TurnSocket>>>,
    /// Dials have shown that UDP does not leave this network.
    blocked: AtomicBool,
    /// When somebody needed the address last.
    used: Mutex<Instant>,
    changed: Notify,
}

impl Shared {
    async fn open(&self) -> io::Result<Arc<TurnSocket>> {
        *self.used.lock() = Instant::now();
        let socket = self.turn.socket().await.map_err(io::Error::other)?;
        let is_new = self.socket.send_if_modified(|known| {
            let same = known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &socket));
            *known = Some(Arc::clone(&socket));
            !same
        });
        if is_new {
            // Somebody has to look whether it is still needed.
            self.changed.notify_one();
        }
        Ok(socket)
    }
}

struct Opener(Arc<Shared>);

impl FarSocket for Opener {
    fn standing(&self) -> Option<Arc<dyn quinn::AsyncUdpSocket>> {
        let socket = self.0.socket.borrow().clone().filter(|socket| socket.failure().is_none())?;
        Some(socket as Arc<dyn quinn::AsyncUdpSocket>)
    }

    fn open(&self) -> BoxFuture<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        async { Ok(self.0.open().await? as Arc<dyn quinn::AsyncUdpSocket>) }.boxed()
    }

    fn admit(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<()>> {
        async move { self.0.open().await?.admit(peer).await.map_err(io::Error::other) }.boxed()
    }
}

impl TurnWay {
    /// Nothing is asked of a server yet.
    pub(super) fn new(settings: TurnSettings) -> Self {
        let shared = Arc::new(Shared {
            turn: Turn::new(settings),
            socket: watch::Sender::new(None),
            blocked: AtomicBool::new(false),
            used: Mutex::new(Instant::now()),
            changed: Notify::new(),
        });
        Self { far: Far::new(Box::new(Opener(Arc::clone(&shared)))), shared }
    }

    pub(super) fn far(&self) -> Far {
        self.far.clone()
    }

    /// What the swarm is asked for while this is held goes through the server.
    pub(super) fn through(&self) -> Through<'_> {
        self.far.through()
    }

    /// The servers, as commands show them.
    pub(crate) fn report(&self) -> Vec<ServerReport> {
        self.shared.turn.report()
    }

    /// A dial has shown whether UDP leaves this network; a `quiet` one began because QUIC had not answered.
    pub(super) fn established(&self, session: &Session, quiet: bool) {
        let blocked = match session.kind() {
            LinkKind::Quic if leads_to(session.remote()) => false,
            LinkKind::Tcp if quiet && leads_to(session.remote()) => true,
            LinkKind::Turned => true,
            _ => return,
        };
        if self.shared.blocked.swap(blocked, Ordering::Relaxed) != blocked {
            tracing::info!(blocked, "whether UDP leaves this network, as dials show it");
            self.shared.changed.notify_one();
        }
    }

    /// Whether dials have shown that UDP does not leave this network.
    pub(super) fn is_blocked(&self) -> bool {
        self.shared.blocked.load(Ordering::Relaxed)
    }

    /// The address at the server, while it stands.
    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        let socket = self.shared.socket.borrow();
        socket.as_ref().filter(|socket| socket.failure().is_none()).map(|socket| socket.relayed())
    }

    /// Gives the address back to its server.
    pub(super) async fn give_back(&self) {
        self.shared.turn.give_back().await;
        self.shared.socket.send_replace(None);
    }

    /// Notes whether the address is in use, and says for how long it has not been.
    fn unused_ms(&self, in_use: bool) -> u64 {
        let mut used = self.shared.used.lock();
        if in_use {
            *used = Instant::now();
        }
        u64::try_from(used.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether an address is the one at the server.
    pub(super) fn is_at(&self, address: &Multiaddr) -> bool {
        self.relayed().is_some_and(|relayed| super::handle::at_socket(relayed) == without_name_of(address))
    }

    /// Asks the server to let in whoever comes from an IP address.
    fn let_in(&self, ip: IpAddr) {
        let socket = self.shared.socket.borrow().clone();
        if let Some(Err(error)) = socket.map(|socket| socket.let_in(ip)) {
            tracing::debug!(%ip, %error, "the TURN server was not asked to let a peer in");
        }
    }

    fn opened(&self) -> watch::Receiver<Option<Arc<TurnSocket>>> {
        self.shared.socket.subscribe()
    }
}

fn without_name_of(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_))).collect()
}

/// Keeps an address at a server for as long as UDP does not leave this network, and gives it back when it is not needed.
pub(super) async fn keep(shared: Arc<NodeShared>) {
    let Some(way) = shared.turn.clone() else { return };
    let closing = shared.closing.clone();
    let work = async {
        loop {
            let wait_ms = if !way.is_blocked() {
                let in_use = shared.table.lock().has_turned();
                if way.relayed().is_some() && way.unused_ms(in_use) >= UNUSED_MS {
                    way.give_back().await;
                }
                way.relayed().is_some().then_some(LOOK_MS)
            } else if way.shared.open().await.is_ok() {
                Some(LOOK_MS)
            } else {
                Some(RETRY_MS_MIN)
            };
            match wait_ms {
                None => way.shared.changed.notified().await,
                Some(ms) => {
                    let _ = tokio::time::timeout(Duration::from_millis(ms), way.shared.changed.notified()).await;
                }
            }
        }
    };
    tokio::select! {
        () = closing.cancelled() => {}
        () = work => {}
    }
}

/// Whether a TURN server may lead to an address: one somewhere on the Internet.
pub(super) fn leads_to(address: &Multiaddr) -> bool {
    on_internet(address)
}
