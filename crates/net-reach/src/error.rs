//! What can go wrong, and whose fault it is.

use std::net::SocketAddr;

/// A STUN message that cannot be used: the server's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a STUN message.
    #[error("no STUN message: {detail}")]
    Malformed {
        /// What is wrong with it.
        detail: String,
    },
    /// A STUN message of another kind.
    #[error("expected an answer to a binding request, got {actual}")]
    NotAnAnswer {
        /// What came instead.
        actual: String,
    },
    /// An answer that does not say where the request came from.
    #[error("the answer names no address")]
    NoAddress,
}

/// A check that could not be made: this machine's fault, or its settings'.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// No UDP socket.
    #[error("cannot open a UDP socket at {address}: {source}")]
    Socket {
        /// Where it should be.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A port mapping that a router did not make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// This machine's routing table names no router.
    #[error("no default route, so there is no router to ask")]
    NoGateway,
    /// Nobody speaks the protocol.
    #[error("the router does not answer")]
    Silent,
    /// The router refused.
    #[error("the router refused: {detail}")]
    Refused {
        /// In its own words.
        detail: String,
    },
    /// A router behind another router maps a port that nobody outside can reach.
    #[error("the router's own address {external} is not public: there is a second NAT behind it")]
    NotPublic {
        /// What the router takes for its outer address.
        external: std::net::IpAddr,
    },
}
