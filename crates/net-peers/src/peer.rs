//! What is known about a peer, as commands and other protocols see it.

use std::net::IpAddr;

use serde::Serialize;
use trellis_primitives::{NodeId, NodeRecord, RoleSet, UnixMs};

pub use trellis_net_transport::Direction;
use trellis_net_transport::LinkKind;

use crate::error::RefusedBy;
use crate::guard::{Pattern, Response};
use crate::reason::{DisconnectReason, RefusalReason};
use crate::state::{PeerState, StateChange};

/// The way the packets take.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// Straight to the peer.
    Direct,
    /// From an address at a TURN server, this node's or the peer's.
    Turn,
    /// Over a relay.
    #[serde(rename = "relay")]
    Relayed,
    /// Through a proxy.
    Proxied,
    /// Inside this process, simulated.
    Simulated,
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Turn => "turn",
            Self::Relayed => "relay",
            Self::Proxied => "proxied",
            Self::Simulated => "simulated",
        })
    }
}

impl From<LinkKind> for Path {
    fn from(kind: LinkKind) -> Self {
        match kind {
            LinkKind::Quic | LinkKind::Tcp => Self::Direct,
            LinkKind::Turned => Self::Turn,
            LinkKind::Relayed => Self::Relayed,
            LinkKind::Proxied => Self::Proxied,
        }
    }
}

/// Everything known about one peer of this run.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerInfo {
    /// Hash of both keys; `None` for a classical libp2p peer under the policy `prefer`, which has no NodeId.
    pub id: Option<NodeId>,
    /// The libp2p PeerId, base58; an address, not an identity.
    pub peer_id: String,
    /// The verified node record (roles, models, chain address), once the handshake was accepted.
    pub record: Option<NodeRecord>,
    /// The roles of the record.
    pub roles: RoleSet,
    /// What the peer calls its software.
    pub user_agent: String,
    /// The highest protocol version both sides speak.
    pub protocol_version: Option<u32>,
    /// The peer's chain height when it connected.
    pub best_height: Option<u64>,
    /// Addresses: the one in use first, then those of the record.
    pub addresses: Vec<String>,
    /// Who dialled the connection in use.
    pub direction: Direction,
    /// Where the peer stands.
    pub state: PeerState,
    /// When that state began.
    pub state_since: UnixMs,
    /// Its states, oldest first; the last is the present one.
    pub history: Vec<StateChange>,
    /// Whether the identity is banned (beside the state).
    pub banned: bool,
    /// Its score, 0 to 100 (NET-52).
    pub reputation: f64,
    /// When the handshake was accepted.
    pub connected_since: Option<UnixMs>,
    /// When a frame or ping last came.
    pub last_activity: Option<UnixMs>,
    /// Average round-trip time, milliseconds.
    pub latency_ms: Option<f64>,
    /// Variance of the round-trip time, milliseconds squared.
    pub latency_variance: Option<f64>,
    /// The key exchange of the TLS session, for example `X25519MLKEM768`; `classical` when it is not a hybrid one.
    pub key_exchange: String,
    /// Whether the session is bound to the peer's ML-DSA-65 key.
    pub mldsa_authenticated: bool,
    /// The way the packets take.
    pub path: Path,
    /// From the first connection to the direct one, milliseconds: 0 where the first was direct, `None` while none is.
    pub direct_after_ms: Option<u64>,
    /// Bytes received in streams.
    pub bytes_in: u64,
    /// Bytes sent in streams.
    pub bytes_out: u64,
    /// Frames received.
    pub messages_in: u64,
    /// Frames sent.
    pub messages_out: u64,
    /// Streams open now.
    pub streams: u64,
    /// Why the last connection ended, if one did.
    pub disconnect_reason: Option<DisconnectReason>,
    /// Why the last attempt was refused, if one was.
    pub refusal_reason: Option<RefusalReason>,
}

/// Something that happened to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// Both sides accepted the handshake; streams can be opened.
    Connected {
        /// Who.
        peer: NodeId,
        /// Who dialled.
        direction: Direction,
    },
    /// The last connection to the peer is gone.
    Disconnected {
        /// Who.
        peer: NodeId,
        /// Why.
        reason: DisconnectReason,
    },
    /// A connection was refused, by this node or by the peer.
    Refused {
        /// Who, if it got far enough to show an identity.
        peer: Option<NodeId>,
        /// Its address.
        address: String,
        /// Who refused.
        by: RefusedBy,
        /// The named reason.
        reason: RefusalReason,
    },
    /// Something was done about a peer that misbehaved, or somebody banned it.
    Responded {
        /// Who.
        peer: NodeId,
        /// What.
        response: Response,
    },
    /// A pattern of attack was recognised (NET-55).
    Attacked {
        /// Which.
        pattern: Pattern,
        /// By whom, where an identity was shown.
        peer: Option<NodeId>,
        /// From where, where none was.
        ip: Option<IpAddr>,
    },
}
