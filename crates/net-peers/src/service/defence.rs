//! The peer manager's decisions, carried out on the real network: doors, cuts, pings, and addresses a person added.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::core::Multiaddr;
use rand::Rng;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use trellis_net_transport::{Admission, Admit, AdmitFn};
use trellis_primitives::NodeId;

use super::{Command, NodeShared, sentry};
use crate::config::OPEN_TIMEOUT_MS;
use crate::discovery::address::place;
use crate::error::{DialError, OpenError};
use crate::frame::{FrameError, read_frame, write_frame};
use crate::guard::{Added, Conduct, Door, Guard, Pattern, Priority, Response, Threat};
use crate::network::{Acceptor, NetStream, Pong, Protocol};
use crate::peer::Path;
use crate::reason::{DisconnectReason, RefusalReason};
use crate::redial::keep_connected;
use crate::table::route::target_of;
use crate::watch::Offence;

/// Echoes frames back, for `trellis ping`.
pub(crate) const PING: Protocol = Protocol("/trellis/ping/1");
/// Bytes of a ping.
const PING_BYTES_MAX: usize = 64;
/// Ping streams that are served at once; one peer has few of them, so that none can take those of all.
const PING_STREAMS_MAX: usize = 1_024;
/// A ping stream that says nothing for this long is closed.
const PING_IDLE_MS: u64 = 30_000;

/// What the listener asks about every first packet (NET-58).
pub(super) fn door(guard: Arc<Guard>, admission: Admission) -> AdmitFn {
    Arc::new(move |remote: SocketAddr, validated| {
        let ip = remote.ip().to_canonical();
        if admission.exempts(ip) {
            return Admit::Accept;
        }
        match guard.door(ip, validated) {
            Door::Open => Admit::Accept,
            Door::Retry if validated => Admit::Accept,
            Door::Retry => Admit::Retry,
            Door::Wait => Admit::Refuse,
            Door::Blocked => Admit::Ignore,
        }
    })
}

/// The address, unless it is one that is never held against anybody (loopback, link-local and private ranges).
pub(super) fn public(ip: IpAddr, private_exempt: bool) -> Option<IpAddr> {
    let ip = ip.to_canonical();
    let local = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    (!private_exempt || !local).then_some(ip)
}

/// Starts what runs beside the service: the file, the echo, the peers that a person added.
pub(super) fn begin(shared: &Arc<NodeShared>, offences: mpsc::Receiver<Offence>, jitter_seed: u64) {
    tokio::spawn(sentry::act(Arc::clone(shared), offences));
    tokio::spawn(sentry::keep_known(Arc::clone(shared)));
    tokio::spawn(sentry::keep_usage(Arc::clone(shared)));
    tokio::spawn(Arc::clone(&shared.guard).keep_saved(shared.ended.clone()));
    if let Ok(acceptor) = shared.streams.accept(PING) {
        tokio::spawn(serve_pings(Arc::clone(shared), acceptor));
    }
    for added in shared.guard.added() {
        match added.priority {
            Priority::High => shared.keep(&added.address, jitter_seed),
            Priority::Normal | Priority::Low => {
                let shared = Arc::clone(shared);
                tokio::spawn(async move {
                    if let Err(error) = shared.dial(&added.address).await {
                        tracing::info!(address = added.address, %error, "an added peer is not reached");
                    }
                });
            }
        }
    }
}

impl NodeShared {
    /// The address at which strangers are counted; `None` where it is exempt.
    pub(super) fn counted(&self, ip: IpAddr) -> Option<IpAddr> {
        public(ip, self.config.limits.private_exempt)
    }

    /// Takes what a peer did and ends its connections where that is the answer.
    pub(crate) fn report(&self, peer: NodeId, conduct: Conduct) {
        match self.guard.report(peer, conduct) {
            Some(Response::Disconnected { .. }) => self.cut(peer, DisconnectReason::InvalidMessage),
            Some(Response::Banned { .. }) => self.cut(peer, DisconnectReason::Banned),
            Some(Response::Warned | Response::Throttled { .. }) | None => {}
        }
    }

    /// Closes every connection to a peer without waiting for its goodbye: who misbehaves does not get to delay it.
    pub(super) fn cut(&self, peer: NodeId, reason: DisconnectReason) {
        for (connection, _) in self.table.lock().connections_to(peer) {
            let (done, _) = oneshot::channel();
            let refused = self.commands.try_send(Command::Close { connection, reason, done }).err();
            if let Some(mpsc::error::TrySendError::Full(command)) = refused {
                let commands = self.commands.clone();
                tokio::spawn(async move { commands.send(command).await });
            }
        }
    }

    /// An unfinished or refused connection says something about its address.
    pub(super) fn hold_against(&self, address: &str, reason: RefusalReason) {
        let threat = match reason {
            RefusalReason::Malformed => Threat::Malformed,
            RefusalReason::Replay => Threat::Replay,
            RefusalReason::BadSignature | RefusalReason::IdentityChanged => Threat::FailedHandshake,
            RefusalReason::Banned => Threat::Flood,
            // Being full is not the peer's fault, nor is another network or clock.
            _ => return,
        };
        if let Ok(address) = address.parse::<Multiaddr>() {
            self.hold_threat(&address, threat);
        }
    }

    /// A dial found nobody: it counts against the identity that the address names, if that one is known.
    pub(super) fn unreachable(&self, address: &str) {
        // Behind a relay it is whoever was to answer there; the relay has done nothing wrong.
        let peer = address.parse::<Multiaddr>().ok().as_ref().and_then(target_of);
        let node = peer.and_then(|peer| self.table.lock().pinned(&peer));
        // Anybody can name an address where a node is not: one that is here is not away.
        if let Some(node) = node.filter(|node| !self.is_connected(*node)) {
            self.guard.report(node, Conduct::Unreachable);
        }
    }

    /// Keeps an address connected until it is forgotten.
    fn keep(self: &Arc<Self>, address: &str, seed: u64) {
        let token = CancellationToken::new();
        if let Some(before) = self.kept.lock().insert(address.to_owned(), token.clone()) {
            before.cancel();
        }
        let (shared, address) = (Arc::clone(self), address.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = keep_connected(shared, address, seed) => {}
            }
        });
    }

    pub(super) async fn add_peer(self: &Arc<Self>, address: &str, priority: Priority) -> Result<NodeId, DialError> {
        let reached = self.dial(address).await;
        let worth_it = matches!(reached, Ok(_) | Err(DialError::Unreachable { .. } | DialError::Timeout { .. }));
        if worth_it && priority != Priority::Low {
            self.guard.add(Added { address: address.to_owned(), priority });
            if priority == Priority::High {
                let seed = self.rng.lock().random();
                self.keep(address, seed);
            } else if let Some(before) = self.kept.lock().remove(address) {
                // It was wanted more before.
                before.cancel();
            }
        }
        reached
    }

    pub(super) fn forget_added(&self, address: Option<&str>, peer: Option<NodeId>) -> Vec<String> {
        let mut names: Vec<String> = address.map(|address| place(address).to_owned()).into_iter().collect();
        if let Some(standing) = peer.and_then(|peer| self.guard.standing(peer)) {
            names.extend(standing.addresses.iter().map(|known| place(&known.address).to_owned()));
        }
        let removed = self.guard.remove_added(|added| names.iter().any(|name| name == place(&added.address)));
        let mut kept = self.kept.lock();
        for added in &removed {
            if let Some(token) = kept.remove(&added.address) {
                token.cancel();
            }
        }
        removed.into_iter().map(|added| added.address).collect()
    }

    pub(super) async fn ping(self: Arc<Self>, peer: NodeId) -> Result<Pong, OpenError> {
        let nonce: [u8; 8] = self.rng.lock().random();
        let lost = |error: FrameError| OpenError::Lost { peer, detail: error.to_string() };
        let mut stream = Arc::clone(&self).open(peer, PING).await?;
        // Opening costs round trips of its own; what is measured is one frame there and back.
        let asked = Instant::now();
        let echo = async {
            write_frame(&mut stream, &nonce).await.map_err(lost)?;
            read_frame(&mut stream, PING_BYTES_MAX).await.map_err(lost)
        };
        let timeout_ms = OPEN_TIMEOUT_MS;
        let answered = tokio::time::timeout(Duration::from_millis(timeout_ms), echo).await;
        let round_trip = asked.elapsed();
        let echoed = answered.map_err(|_| OpenError::Timeout { peer, timeout_ms })??;
        if echoed.as_ref() != nonce {
            self.report(peer, Conduct::Invalid { pattern: Pattern::Unverified });
            return Err(OpenError::Lost { peer, detail: "the echo is not what was sent".to_owned() });
        }
        let us = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
        self.report(peer, Conduct::RoundTrip { us });
        let (used, turned) = self.table.lock().way_to(peer);
        let address = used.as_ref().map(|handle| handle.session.remote().to_string()).unwrap_or_default();
        let path = used.map_or(Path::Direct, |handle| handle.session.kind().into());
        let path = if turned { Path::Turn } else { path };
        Ok(Pong { round_trip, path, address })
    }
}

async fn serve_pings(shared: Arc<NodeShared>, mut acceptor: Acceptor) {
    let places = Arc::new(Semaphore::new(PING_STREAMS_MAX));
    while let Some((peer, stream)) = acceptor.next().await {
        // Above the bound a stream is dropped, which the asker sees as its end.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Err(error) = echo(stream).await {
                if let Some(pattern) = error.pattern() {
                    shared.report(peer, Conduct::Invalid { pattern });
                }
                tracing::debug!(%peer, %error, "ping stream ended");
            }
            drop(place);
        });
    }
}

async fn echo(mut stream: NetStream) -> Result<(), FrameError> {
    let idle = Duration::from_millis(PING_IDLE_MS);
    while let Ok(frame) = tokio::time::timeout(idle, read_frame(&mut stream, PING_BYTES_MAX)).await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(FrameError::End) => return Ok(()),
            Err(error) => return Err(error),
        };
        write_frame(&mut stream, &frame).await?;
    }
    Ok(())
}
