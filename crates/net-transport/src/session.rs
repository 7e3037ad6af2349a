//! What the layers above may know about a connection, and how they reach it: the registry of sessions.
//!
//! libp2p's swarm shows a PeerId and an address, nothing of the TLS session. So the transport leaves a [`Session`] here
//! just before it hands a connection to the swarm, and whoever handles the swarm's event takes it.

mod registry;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use parking_lot::Mutex;
use rustls::NamedGroup;
use serde::Serialize;
use trellis_crypto::HybridPublic;
use trellis_primitives::NodeId;

pub use self::registry::{SESSIONS_WAITING_MAX, Sessions};
use crate::address::direct_ip;
use crate::link::WireBytes;

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

/// What carries a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// QUIC over UDP.
    Quic,
    /// QUIC over UDP from an address on another machine.
    Turned,
    /// TLS over TCP.
    Tcp,
    /// TLS over a circuit of a relay.
    Relayed,
    /// TLS over TCP through a SOCKS5 proxy.
    Proxied,
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Turned => "turned",
            Self::Tcp => "tcp",
            Self::Relayed => "relayed",
            Self::Proxied => "proxied",
        })
    }
}

/// A live connection as the layers above see it. Clones are the same connection.
#[derive(Clone)]
pub struct Session {
    inner: Arc<SessionInner>,
}

struct SessionInner {
    facts: SessionFacts,
    identity: Option<(NodeId, HybridPublic)>,
    carrier: Carrier,
    close: Mutex<Option<CloseReason>>,
}

/// What the handshake showed.
pub(crate) struct SessionFacts {
    pub(crate) peer_id: PeerId,
    /// Without the peer's name at its end.
    pub(crate) remote: Multiaddr,
    /// The circuit on which it was accepted, where the peer has no address of its own.
    pub(crate) accepted_on: Option<Multiaddr>,
    pub(crate) direction: Direction,
    /// This node's own end is on another machine.
    pub(crate) turned: bool,
    pub(crate) key_exchange: KeyExchange,
    /// The application protocol of TLS, or the name of what stands in for TLS.
    pub(crate) alpn: String,
    /// Both keys, if the session is bound to an ML-DSA-65 key.
    pub(crate) public: Option<HybridPublic>,
}

/// What a session runs over.
pub(crate) enum Carrier {
    Quic(quinn::Connection),
    Stream(Arc<StreamState>),
}

/// What is known of a connection over a byte stream beside its bytes.
pub(crate) struct StreamState {
    pub(crate) kind: LinkKind,
    pub(crate) wire: Arc<WireBytes>,
    /// What the peer's goodbye said; the first one counts.
    pub(crate) remote_close: Mutex<Option<CloseReason>>,
    pub(crate) closed: AtomicBool,
}

impl StreamState {
    pub(crate) fn new(kind: LinkKind, wire: Arc<WireBytes>) -> Arc<Self> {
        Arc::new(Self { kind, wire, remote_close: Mutex::default(), closed: AtomicBool::new(false) })
    }
}

impl Session {
    pub(crate) fn new(carrier: Carrier, mut facts: SessionFacts) -> Self {
        let identity = facts.public.take().map(|public| (public.node_id(), public));
        Self { inner: Arc::new(SessionInner { facts, identity, carrier, close: Mutex::default() }) }
    }

    /// The peer's libp2p id, verified against its certificate.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.inner.facts.peer_id
    }

    /// The peer's address as it was dialled or came, without the peer's name at its end; of a circuit that was accepted
    /// nothing is left.
    #[must_use]
    pub fn remote(&self) -> &Multiaddr {
        &self.inner.facts.remote
    }

    /// The address by which the swarm's report of this connection is told from others.
    fn reported_as(&self) -> &Multiaddr {
        self.inner.facts.accepted_on.as_ref().unwrap_or(&self.inner.facts.remote)
    }

    /// The IP address that the peer's packets come from; `None` behind a relay or a proxy.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.kind() {
            LinkKind::Quic | LinkKind::Turned | LinkKind::Tcp => direct_ip(self.remote()),
            LinkKind::Relayed | LinkKind::Proxied => None,
        }
    }

    /// What carries the connection.
    #[must_use]
    pub fn kind(&self) -> LinkKind {
        match &self.inner.carrier {
            Carrier::Quic(_) if self.inner.facts.turned => LinkKind::Turned,
            Carrier::Quic(_) => LinkKind::Quic,
            Carrier::Stream(stream) => stream.kind,
        }
    }

    /// Which end this node is in the handshakes: who dialled, save where both did to pass a NAT and have agreed on it.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.inner.facts.direction
    }

    /// The key exchange that this session completed.
    #[must_use]
    pub fn key_exchange(&self) -> KeyExchange {
        self.inner.facts.key_exchange
    }

    /// The negotiated application protocol; of a session without TLS the name of its secure channel.
    #[must_use]
    pub fn alpn(&self) -> &str {
        &self.inner.facts.alpn
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

    /// QUIC's own smoothed round-trip time; nothing measures it on other links.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        match &self.inner.carrier {
            Carrier::Quic(connection) => Some(connection.rtt()),
            Carrier::Stream(_) => None,
        }
    }

    /// Bytes received and sent, overhead included: of UDP payload over QUIC, else of the stream that carries TLS.
    #[must_use]
    pub fn wire_bytes(&self) -> (u64, u64) {
        match &self.inner.carrier {
            Carrier::Quic(connection) => {
                let stats = connection.stats();
                (stats.udp_rx.bytes, stats.udp_tx.bytes)
            }
            Carrier::Stream(stream) => stream.wire.totals(),
        }
    }

    /// The reason that the peer will read when this connection is closed from here. The first one set wins.
    pub fn set_close_reason(&self, reason: CloseReason) {
        self.inner.close.lock().get_or_insert(reason);
    }

    pub(crate) fn own_close_reason(&self) -> Option<CloseReason> {
        self.inner.close.lock().clone()
    }

    /// The reason that the peer gave for closing, if it gave one.
    #[must_use]
    pub fn remote_close(&self) -> Option<CloseReason> {
        let connection = match &self.inner.carrier {
            Carrier::Quic(connection) => connection,
            Carrier::Stream(stream) => return stream.remote_close.lock().clone(),
        };
        match connection.close_reason()? {
            quinn::ConnectionError::ApplicationClosed(close) => Some(CloseReason {
                code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
                text: String::from_utf8_lossy(&close.reason).into_owned(),
            }),
            _ => None,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        match &self.inner.carrier {
            Carrier::Quic(connection) => connection.close_reason().is_some(),
            Carrier::Stream(stream) => stream.closed.load(Ordering::Acquire),
        }
    }

    /// Closes a QUIC connection now, with the reason set or none. Others close with their muxer.
    pub(crate) fn close(&self) {
        let Carrier::Quic(connection) = &self.inner.carrier else { return };
        if connection.close_reason().is_some() {
            // Closing again would hide why the connection ended.
            return;
        }
        let (code, text) = self.own_close_reason().map_or((0, String::new()), |reason| (reason.code, reason.text));
        connection.close(code.into(), text.as_bytes());
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer_id", &self.peer_id())
            .field("remote", self.remote())
            .field("kind", &self.kind())
            .field("direction", &self.direction())
            .field("key_exchange", &self.key_exchange())
            .field("alpn", &self.alpn())
            .field("node_id", &self.node_id())
            .finish_non_exhaustive()
    }
}
