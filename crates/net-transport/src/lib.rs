//! Encrypted streams between two hybrid identities over QUIC, TCP, relays and proxies.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

mod address;
mod admission;
mod auth;
pub mod bench;
mod config;
mod connection;
mod error;
mod exporter;
mod far;
mod kex;
mod link;
mod metrics;
mod node;
mod pace;
mod policy;
mod prefilter;
mod proxy;
mod session;
mod socket;
mod tcp;
mod tls;
mod transport;
mod upgrade;

pub use address::{PortKind, direct_ip, socket_of};
pub use admission::{
    Admission, AdmissionLimits, Admit, AdmitFn, CONNECTIONS_PER_IP_MAX, CONNECTIONS_PER_SUBNET_MAX, HALF_OPEN_MAX,
    HALF_OPEN_RETRY_ABOVE, Permit, VOUCHED_ADDRESSES_MAX, VOUCHED_PER_IP_MAX,
};
pub use auth::{AuthError, EXPORTER_BYTES, PROOF_BYTES, PROOF_VERSION, Proof, ed25519_of, proof_message};
pub use config::{
    ALPN_LIBP2P, ALPN_TRELLIS, CLOSE_TIMEOUT_MS, CONNECT_TIMEOUT_MS, CONNECTION_WINDOW_BYTES, Congestion, DialledFn,
    HANDSHAKE_TIMEOUT_MS, IDLE_TIMEOUT_MS, INITIAL_MTU_BYTES, KEEP_ALIVE_MS, LINK_STREAMS_LATE_MAX, LINK_STREAMS_MAX,
    NEW_CONNECTION_WINDOW_BYTES, PROOF_STREAMS_MAX, PROXY_TIMEOUT_MS, SEND_WINDOW_BYTES, SOCKET_BUFFER_BYTES,
    STREAM_WINDOW_BYTES, STREAMS_PER_CONNECTION_MAX, TransportConfig, YAMUX_STREAMS_MAX, YAMUX_WINDOW_BYTES,
};
pub use connection::{Connection, Stream};
pub use error::{ClassicalPeer, TransportError, TransportSetupError};
pub use far::{Far, FarSocket, Through};
pub use ipnet::IpNet;
pub use link::{LinkStream, StreamConnection};
pub use metrics::{RefusalLabel, TransportMetrics};
pub use node::{NodeTransport, node_transport};
pub use pace::{HANDSHAKE_EVERY_MS, HANDSHAKES_AT_ONCE};
pub use policy::Policy;
pub use prefilter::{
    ATTEMPTS_PER_WINDOW_MAX, FIRST_PACKETS_PER_SOURCE_MAX, FIRST_PACKETS_RATIONED_MAX, FloodFn, Gate, GateFn,
    REFUSALS_PER_SOURCE_MAX, REFUSALS_PER_WINDOW_MAX,
};
pub use proxy::{Proxy, is_hidden};
pub use session::{CloseReason, Direction, KeyExchange, LinkKind, SESSIONS_WAITING_MAX, Session, Sessions};
pub use transport::QuicTransport;
pub use upgrade::libp2p_identity;
