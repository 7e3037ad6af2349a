//! What the transport is told, and the bounds it keeps.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trellis_crypto::HybridKey;

use crate::admission::{Admission, AdmitFn};
use crate::far::Far;
use crate::metrics::TransportMetrics;
use crate::policy::Policy;
use crate::prefilter::{FloodFn, GateFn};
use crate::proxy::Proxy;

/// The ALPN of sessions that carry ML-DSA-65 proofs. It stands ahead of libp2p's own and is part of the TLS transcript,
/// so nobody on the way can strip it. (Version 1 had both proofs on one bidirectional stream.)
pub const ALPN_TRELLIS: &[u8] = b"trellis-pq/2";
/// The ALPN of the libp2p QUIC specification.
pub const ALPN_LIBP2P: &[u8] = b"libp2p";
/// From the first packet of an inbound connection to the end of its authentication (NET-20).
pub const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;
/// How long a hole puncher that will act as the listener tries one address: over a round trip of 600 ms the handshake takes
/// some two seconds. What the two sides know of their addresses may be better at the next attempt.
pub const PUNCH_TIMEOUT_MS: u64 = 4_000;
/// From the first packet of a dial to the end of TLS (NET-20); the authentication has [`HANDSHAKE_TIMEOUT_MS`] more.
pub const CONNECT_TIMEOUT_MS: u64 = 10_000;
/// Bidirectional streams that a peer may hold open on one connection (NET-15).
pub const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// Unidirectional streams that a peer may hold open on one connection: the one of its proof (NET-20).
pub const PROOF_STREAMS_MAX: u32 = 1;
/// Bytes in flight towards this node on one stream.
pub const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes in flight towards this node on a new connection: what a peer that sends and is not read can make this node hold.
/// Each time that as much as the window has been read it doubles, up to [`CONNECTION_WINDOW_BYTES`], so that it never holds
/// more than this or than was read before.
pub const NEW_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes in flight towards this node on one connection of a peer whose bytes are read.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Bytes that may wait for acknowledgement on one connection.
pub const SEND_WINDOW_BYTES: u64 = 16 * 1024 * 1024;
/// A connection on which nothing arrives for this long is lost.
pub const IDLE_TIMEOUT_MS: u32 = 10_000;
/// A packet is sent at least this often, so that a quiet connection is not lost.
pub const KEEP_ALIVE_MS: u64 = 3_000;
/// Bytes of UDP payload before a path has shown that it takes more: what IPv6 guarantees (1,280 less 48 of headers). A
/// ServerHello with the post-quantum share then fits one datagram, and a listener's TLS flight and proof together stay
/// within three times the dialer's first two datagrams, so that they arrive in one round trip (RFC 9000, 8.1).
pub const INITIAL_MTU_BYTES: u16 = 1_232;
/// Size asked of the operating system for each UDP buffer; it may give less.
pub const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// From a dial through a proxy to the tunnel's far end; building a path through an anonymity network takes this long.
pub const PROXY_TIMEOUT_MS: u64 = 30_000;
/// Streams that either side may hold open on one connection over a byte stream: each costs 256 KiB of window from its first
/// byte, so there are fewer of them than over QUIC (NET-15).
pub const LINK_STREAMS_MAX: u32 = 128;
/// Streams of the peer that this side may still hold when the peer has left them and opens others in their place.
pub const LINK_STREAMS_LATE_MAX: u32 = 32;
/// Streams of one yamux connection, as yamux counts them: both directions, and those that are gone on one side only. Our own
/// bounds per direction come first, because yamux ends the connection at its own.
pub const YAMUX_STREAMS_MAX: usize = 2 * (LINK_STREAMS_MAX + LINK_STREAMS_LATE_MAX) as usize;
/// Bytes in flight towards this node on one yamux connection; yamux takes no less than 256 KiB for each stream.
pub const YAMUX_WINDOW_BYTES: usize = YAMUX_STREAMS_MAX * 256 * 1024;
/// A connection over a byte stream has this long to say goodbye and close; then its socket is dropped.
pub const CLOSE_TIMEOUT_MS: u64 = 1_000;
/// A refusal is told within this long or not at all.
pub const GOODBYE_TIMEOUT_MS: u64 = 1_000;

/// How a connection reacts to loss.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Congestion {
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 9002.
    NewReno,
    /// Model-based; experimental in quinn.
    Bbr,
}

/// Told of an address that this node begins to write to.
pub type DialledFn = Arc<dyn Fn(IpAddr) + Send + Sync>;

/// What a [`crate::QuicTransport`] is told.
#[derive(Clone)]
pub struct TransportConfig {
    /// Both keys of this node.
    pub keys: Arc<HybridKey>,
    /// Which peers may connect.
    pub policy: Policy,
    /// Bounds that are checked for every first packet.
    pub admission: Admission,
    /// Asked before [`Self::admission`], for bans and tests.
    pub admit: Option<AdmitFn>,
    /// Asked at the socket, before anything is decrypted: what it turns away costs next to nothing.
    pub gate: Option<GateFn>,
    /// Told of every address that is dialled, over whichever transport.
    pub dialled: Option<DialledFn>,
    /// Told of addresses that send first packets faster than anybody needs to.
    pub flooded: Option<FloodFn>,
    /// Through what every dial goes; `None` dials directly.
    pub proxy: Option<Proxy>,
    /// A UDP socket on another machine, for peers that cannot be reached from here.
    pub far: Option<Far>,
    /// How connections react to loss.
    pub congestion: Congestion,
    /// Where things are counted.
    pub metrics: TransportMetrics,
}

impl TransportConfig {
    /// Every bound at its default, counted nowhere else.
    #[must_use]
    pub fn new(keys: Arc<HybridKey>, policy: Policy) -> Self {
        Self {
            keys,
            policy,
            admission: Admission::default(),
            admit: None,
            gate: None,
            dialled: None,
            flooded: None,
            proxy: None,
            far: None,
            congestion: Congestion::default(),
            metrics: TransportMetrics::default(),
        }
    }

    /// Tells who wants to know that an address is dialled.
    pub(crate) fn tell_dialled(&self, ip: IpAddr) {
        if let Some(dialled) = &self.dialled {
            dialled(ip);
        }
    }
}

/// The bounds of this file as quinn wants them.
pub(crate) fn quinn_transport(congestion: Congestion) -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport.initial_mtu(INITIAL_MTU_BYTES);
    transport.max_concurrent_uni_streams(PROOF_STREAMS_MAX.into());
    transport.max_concurrent_bidi_streams(STREAMS_PER_CONNECTION_MAX.into());
    transport.datagram_receive_buffer_size(None);
    transport.keep_alive_interval(Some(Duration::from_millis(KEEP_ALIVE_MS)));
    transport.max_idle_timeout(Some(quinn::VarInt::from_u32(IDLE_TIMEOUT_MS).into()));
    transport.allow_spin(false);
    transport.stream_receive_window(STREAM_WINDOW_BYTES.into());
    transport.receive_window(NEW_CONNECTION_WINDOW_BYTES.into());
    transport.send_window(SEND_WINDOW_BYTES);
    match congestion {
        Congestion::Cubic => {
            transport.congestion_controller_factory(Arc::new(quinn::congestion::CubicConfig::default()))
        }
        Congestion::NewReno => {
            transport.congestion_controller_factory(Arc::new(quinn::congestion::NewRenoConfig::default()))
        }
        Congestion::Bbr => transport.congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default())),
    };
    transport
}
