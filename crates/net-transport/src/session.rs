//! What the layers above may know about a connection, and how they reach it: the registry of sessions.
//!
//! libp2p's swarm shows a PeerId and an address, nothing of the TLS session. So the transport leaves a [`Session`] here
//! just before it hands a connection to the swarm, and whoever handles the swarm's event takes it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use parking_lot::Mutex;
use rustls::NamedGroup;
use serde::Serialize;
use trellis_crypto::HybridPublic;
use trellis_primitives::NodeId;

/// Sessions that may wait to be taken; beyond it the oldest are dropped.
pub const SESSIONS_WAITING_MAX: usize = 1_024;

/// Who dialled, from this node's view.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The peer dialled this node.
    Inbound,
    /// This node dialled the peer.
    Outbound,
}

impl Direction {
    /// The other side's view.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Inbound => Self::Outbound,
            Self::Outbound => Self::Inbound,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        })
    }
}

/// The key exchange that a TLS session completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyExchange(pub(crate) NamedGroup);

impl KeyExchange {
    /// Whether it is a post-quantum hybrid.
    #[must_use]
    pub fn is_hybrid(self) -> bool {
        self.0 == NamedGroup::X25519MLKEM768
    }

    /// The group's registered name, for example `X25519MLKEM768`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
            NamedGroup::X25519 => "X25519",
            NamedGroup::secp256r1 => "secp256r1",
            _ => "unknown",
        }
    }
}

impl fmt::Display for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a connection was closed by an application: a code and a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CloseReason {
    /// The number on the wire.
    pub code: u32,
    /// The text on the wire.
    pub text: String,
}

/// A live connection as the layers above see it. Clones are the same connection.
#[derive(Clone)]
pub struct Session {
    inner: Arc<SessionInner>,
}

struct SessionInner {
    peer_id: PeerId,
    remote: SocketAddr,
    direction: Direction,
    key_exchange: KeyExchange,
    alpn: String,
    identity: Option<(NodeId, HybridPublic)>,
    connection: quinn::Connection,
    close: Mutex<Option<CloseReason>>,
}

impl Session {
    pub(crate) fn new(
        connection: quinn::Connection,
        peer_id: PeerId,
        direction: Direction,
        key_exchange: KeyExchange,
        alpn: &[u8],
        public: Option<HybridPublic>,
    ) -> Self {
        let inner = SessionInner {
            peer_id,
            remote: connection.remote_address(),
            direction,
            key_exchange,
            alpn: String::from_utf8_lossy(alpn).into_owned(),
            identity: public.map(|public| (public.node_id(), public)),
            connection,
            close: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The peer's libp2p id, verified against its certificate.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.inner.peer_id
    }

    /// The peer's UDP address.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.inner.remote
    }

    /// Who dialled.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.inner.direction
    }

    /// The key exchange that this session completed.
    #[must_use]
    pub fn key_exchange(&self) -> KeyExchange {
        self.inner.key_exchange
    }

    /// The negotiated application protocol.
    #[must_use]
    pub fn alpn(&self) -> &str {
        &self.inner.alpn
    }

    /// The peer's NodeId, if the session is bound to an ML-DSA-65 key.
    #[must_use]
    pub fn node_id(&self) -> Option<NodeId> {
        self.inner.identity.as_ref().map(|(id, _)| *id)
    }

    /// Both verified public keys, if the session is bound to an ML-DSA-65 key.
    #[must_use]
    pub fn public(&self) -> Option<&HybridPublic> {
        self.inner.identity.as_ref().map(|(_, public)| public)
    }

    /// QUIC's own smoothed round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.inner.connection.rtt()
    }

    /// Bytes of UDP payload received and sent, overhead included.
    #[must_use]
    pub fn udp_bytes(&self) -> (u64, u64) {
        let stats = self.inner.connection.stats();
        (stats.udp_rx.bytes, stats.udp_tx.bytes)
    }

    /// The reason that the peer will read when this connection is closed from here. The first one set wins.
    pub fn set_close_reason(&self, reason: CloseReason) {
        self.inner.close.lock().get_or_insert(reason);
    }

    /// The reason that the peer gave for closing, if it closed.
    #[must_use]
    pub fn remote_close(&self) -> Option<CloseReason> {
        match self.inner.connection.close_reason()? {
            quinn::ConnectionError::ApplicationClosed(close) => Some(CloseReason {
                code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
                text: String::from_utf8_lossy(&close.reason).into_owned(),
            }),
            _ => None,
        }
    }

    /// Closes the QUIC connection now, with the reason set or none.
    pub(crate) fn close(&self) {
        if self.inner.connection.close_reason().is_some() {
            // Closing again would hide why the connection ended.
            return;
        }
        let reason = self.inner.close.lock().clone();
        let (code, text) = reason.map_or((0, String::new()), |reason| (reason.code, reason.text));
        self.inner.connection.close(code.into(), text.as_bytes());
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer_id", &self.inner.peer_id)
            .field("remote", &self.inner.remote)
            .field("direction", &self.inner.direction)
            .field("key_exchange", &self.inner.key_exchange)
            .field("alpn", &self.inner.alpn)
            .field("node_id", &self.node_id())
            .finish_non_exhaustive()
    }
}

type SessionKey = (PeerId, SocketAddr, Direction);

/// Sessions of connections that were handed to the swarm and wait to be taken. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Sessions {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    by_key: HashMap<SessionKey, VecDeque<Session>>,
    order: VecDeque<SessionKey>,
}

impl Sessions {
    pub(crate) fn put(&self, session: Session) {
        let key = (session.peer_id(), session.remote(), session.direction());
        let mut waiting = self.waiting.lock();
        if waiting.order.len() >= SESSIONS_WAITING_MAX
            && let Some(oldest) = waiting.order.pop_front()
        {
            waiting.pop(&oldest);
        }
        waiting.order.push_back(key);
        waiting.by_key.entry(key).or_default().push_back(session);
    }

    /// Takes the session of a connection that the swarm reports. Of several connections with the same peer, address and
    /// direction the oldest comes first.
    #[must_use]
    pub fn take(&self, peer_id: PeerId, remote: SocketAddr, direction: Direction) -> Option<Session> {
        let key = (peer_id, remote, direction);
        let mut waiting = self.waiting.lock();
        let mut found = None;
        while let Some(session) = waiting.pop(&key) {
            if let Some(at) = waiting.order.iter().position(|waiting| *waiting == key) {
                waiting.order.remove(at);
            }
            // A closed one belongs to a connection that the swarm denied and never reported, unless the peer was quick
            // to close: then it is the last one there is.
            let alive = session.inner.connection.close_reason().is_none();
            found = Some(session);
            if alive {
                break;
            }
        }
        found
    }
}

impl Waiting {
    fn pop(&mut self, key: &SessionKey) -> Option<Session> {
        let queue = self.by_key.get_mut(key)?;
        let session = queue.pop_front();
        if queue.is_empty() {
            self.by_key.remove(key);
        }
        session
    }
}
