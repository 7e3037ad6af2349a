//! TURN (RFC 8656): a UDP address on somebody else's server, for networks that let no UDP out or only one port (NET-44).
//!
//! The server is reached over UDP, TCP or TLS; what leaves there towards peers is always UDP. [`Allocation`] is the pure
//! core: frames of the server and datagrams for peers go in with a time, frames for the server come out. [`open`] gives it
//! sockets and makes a [`TurnSocket`] of it, over which QUIC runs as over any UDP socket; [`Turn`] keeps one such socket of
//! the first server that gives one. Peers reach it only after this node has asked the server to let them in.

mod allocation;
mod error;
mod keeper;
mod service;
mod socket;
mod tls;
mod uri;
mod wire;

pub use allocation::{Allocation, PEERS_MAX, PeerState};
pub use error::TurnError;
pub use keeper::{RETRY_MS_MAX, RETRY_MS_MIN, SERVERS_MAX, ServerReport, Turn, TurnSettings};
pub use service::{ALLOCATE_MS_MAX, open};
pub use socket::{DATAGRAMS_IN_MAX, TurnSocket};
pub use tls::client_config;
pub use uri::{Carriage, TurnServer, UriError};
pub use wire::{FRAME_BYTES_MAX, Frames, Reply, pad};

use std::fmt;

use zeroize::Zeroizing;

/// Who this node is for the TURN servers.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The long-term name.
    pub user: String,
    /// Its password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}
