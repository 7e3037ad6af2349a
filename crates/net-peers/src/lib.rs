//! Know whom to talk to: discovery, address book, handshake, scores, bans, budgets. Gives the rest one network handle, real or simulated.
//!
//! Protocols hold a [`NetworkHandle`] and see nothing else of the network:
//!
//! ```no_run
//! # async fn demo(network: trellis_net_peers::NetworkHandle) -> Result<(), Box<dyn std::error::Error>> {
//! use trellis_net_peers::{Protocol, frame};
//! const ECHO: Protocol = Protocol("/trellis/echo/1");
//! // The side that asks:
//! let peer = network.dial("/ip4/127.0.0.1/udp/9700/quic-v1").await?;
//! let mut stream = network.open(peer, ECHO).await?;
//! frame::write_frame(&mut stream, b"hello").await?;
//! // The side that answers:
//! let mut acceptor = network.accept(ECHO)?;
//! while let Some((peer, mut stream)) = acceptor.next().await {
//!     let question = frame::read_frame(&mut stream, 1_024).await?;
//!     println!("{peer} said {question:?}");
//! }
//! # Ok(()) }
//! ```
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

mod bandwidth;
mod broadcast;
pub mod config;
pub mod dark;
pub mod discovery;
mod error;
pub mod frame;
pub mod guard;
pub mod handshake;
pub mod inlet;
mod meter;
mod metrics;
mod network;
pub mod pack;
mod peer;
mod prefer;
mod reason;
mod record;
mod redial;
pub mod seeder;
mod service;
pub mod sim;
mod stake;
pub mod state;
mod streams;
mod table;
mod watch;
mod witness;

pub use bandwidth::{BANDWIDTH_BYTES_PER_S, Bandwidth, ClassUsage, PEER_PERCENT, WORK_SHARE, Way};
pub use broadcast::{BROADCAST_QUEUE_MESSAGES_MAX, BROADCAST_WRITE_TIMEOUT_MS};
pub use config::{IpNet, NetConfig, Policy, Proxy};
pub use dark::{DarkAddress, DarkAddressError};
pub use discovery::{DiscoveryConfig, DiscoveryMetrics, DiscoveryReport, DnsConfig, DnsServer, SourceReport};
pub use error::{AcceptError, BroadcastError, DialError, OpenError, RefusedBy, StartError};
pub use metrics::{
    BandwidthLabels, DisconnectedLabels, NetMetrics, PatternLabels, ReachMetrics, RefusedLabels, RelayPlacesLabels,
    RelayRefusalLabels, ResponseLabels,
};
pub use network::{Acceptor, BroadcastReport, NetStream, Network, NetworkHandle, Pong, Protocol, StreamIo};
pub use peer::{Direction, Path, PeerEvent, PeerInfo};
pub use prefer::{PREFERRED_DIALS_MAX, PREFERRED_MAX, PREFERRED_RETRY_MS_MAX, PREFERRED_RETRY_MS_MIN};
pub use reason::{DisconnectReason, RefusalReason};
pub use redial::{REDIAL_MS_MAX, REDIAL_MS_MIN};
pub use service::{ReachReport, RelayReport, start, start_with_metrics};
pub use stake::{
    STAKE_ANSWER_MS_MAX, STAKE_MIN, STAKE_MS, STAKE_QUESTIONS_MAX, STAKE_REFRESH_MS, STAKE_RETRY_MS,
    STAKES_REMEMBERED_MAX, StakeError, StakeSource, StakeView,
};
pub use state::PeerState;
pub use table::{PEERS_REMEMBERED_MAX, PINS_MAX};
pub use trellis_net_transport::is_hidden;
pub use watch::{CONTROL_STREAMS_PER_PEER_MAX, FRAME_BYTES_PER_S_MIN, SLOW_FRAME_MS, SLOW_WRITE_MS};
pub use witness::Witness;
