//! What can go wrong, one type per operation.

use thiserror::Error;
use trellis_primitives::NodeId;

use crate::network::Protocol;
use crate::reason::RefusalReason;

/// Whose decision a refusal was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum RefusedBy {
    /// This node refused the peer.
    Us,
    /// The peer refused this node.
    Them,
}

impl std::fmt::Display for RefusedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Us => "us",
            Self::Them => "the peer",
        })
    }
}

/// Characters of a peer's words that are kept.
const PEER_WORDS_CHARS_MAX: usize = 256;

/// A peer's words without what could play tricks on a terminal or a log, and not all of them.
pub(crate) fn printable(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(PEER_WORDS_CHARS_MAX).collect()
}

/// Why a dial did not end in a connected peer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DialError {
    /// The text is not an address this node can dial.
    #[error("not a dialable address: {address}: {detail}")]
    BadAddress {
        /// What was given.
        address: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The address is of the clear network, where an onion-only node does not go.
    #[error("{address} is of the clear network, where the onion-only mode does not go")]
    ClearAddress {
        /// What was given.
        address: String,
    },
    /// The handshake was refused, with the reason's name.
    #[error("refused by {by}: {reason}")]
    Refused {
        /// Who refused.
        by: RefusedBy,
        /// The named reason.
        reason: RefusalReason,
    },
    /// Whoever answers is not who the dark address names (NET-03).
    #[error("{address} shows another key: expected {expected}, found {found}")]
    WrongKey {
        /// What was dialled.
        address: String,
        /// Who was to answer.
        expected: NodeId,
        /// Who did: a NodeId, or a peer without an ML-DSA key.
        found: String,
    },
    /// No connection came about: nobody there, the transport refused, or the handshake of the transport failed.
    #[error("could not connect to {address}: {detail}")]
    Unreachable {
        /// What was dialled.
        address: String,
        /// The transport's account.
        detail: String,
    },
    /// The connection or handshake took too long.
    #[error("no answer from {address} within {timeout_ms} ms")]
    Timeout {
        /// What was dialled.
        address: String,
        /// The limit that passed, milliseconds.
        timeout_ms: u64,
    },
    /// The network is shutting down.
    #[error("the network has shut down")]
    Closed,
}

/// Why a stream could not be opened.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    /// No handshaken connection to this peer.
    #[error("not connected to {0}")]
    NotConnected(NodeId),
    /// The peer has no acceptor for this protocol.
    #[error("{peer} does not support {protocol}")]
    Unsupported {
        /// The peer.
        peer: NodeId,
        /// The protocol asked for.
        protocol: Protocol,
    },
    /// The peer did not answer in time.
    #[error("{peer} did not open a stream within {timeout_ms} ms")]
    Timeout {
        /// The peer.
        peer: NodeId,
        /// The limit that passed, milliseconds.
        timeout_ms: u64,
    },
    /// The connection broke meanwhile.
    #[error("connection to {peer} lost: {detail}")]
    Lost {
        /// The peer.
        peer: NodeId,
        /// The transport's account.
        detail: String,
    },
    /// Too many streams wait to be opened to this peer.
    #[error("{0} has too many streams waiting to be opened")]
    Busy(NodeId),
    /// The network is shutting down.
    #[error("the network has shut down")]
    Closed,
}

/// Why a protocol could not be registered.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AcceptError {
    /// One acceptor per protocol.
    #[error("{0} has an acceptor already")]
    AlreadyRegistered(Protocol),
    /// The name belongs to the network itself.
    #[error("{0} is reserved")]
    Reserved(Protocol),
    /// The network is shutting down.
    #[error("the network has shut down")]
    Closed,
}

/// Why one peer did not get a broadcast message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BroadcastError {
    /// No handshaken connection to this peer.
    #[error("not connected")]
    NotConnected,
    /// The peer is slow and its queue is full; the message is dropped for it.
    #[error("queue full")]
    QueueFull,
    /// The message is larger than a frame may be.
    #[error("message too large")]
    TooLarge,
}

/// Why the network did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A configured address is not a multiaddr this node can listen at.
    #[error("not a listen address: {address}: {detail}")]
    BadListenAddress {
        /// What was configured.
        address: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The socket could not be bound (port in use, no permission).
    #[error("cannot listen at {address}: {detail}")]
    Listen {
        /// What was configured.
        address: String,
        /// The operating system's account.
        detail: String,
    },
    /// A listen address did not come up in time.
    #[error("no listen address came up within {timeout_ms} ms")]
    ListenTimeout {
        /// The limit that passed, milliseconds.
        timeout_ms: u64,
    },
    /// The identity could not be turned into a transport.
    #[error("transport: {0}")]
    Transport(#[from] trellis_net_transport::TransportSetupError),
    /// The node record breaks one of its own bounds.
    #[error("node record: {0}")]
    Record(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_plays_no_tricks_on_a_terminal() {
        assert_eq!(printable("full\u{1b}[2J\r\n\u{9b}x"), "full [2J   x");
        assert_eq!(printable(&"é".repeat(1_000)).chars().count(), PEER_WORDS_CHARS_MAX);
    }
}
