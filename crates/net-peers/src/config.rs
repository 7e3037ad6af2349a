//! What a node's network is told, and the bounds it keeps.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use trellis_primitives::{Address, B256, RoleSet};

use trellis_net_reach::relay::keeper::RELAYS_WANTED;

use crate::bandwidth::BANDWIDTH_BYTES_PER_S;
use crate::guard::{PROVEN_ONLINE_MS, Thresholds};

use crate::discovery::DiscoveryConfig;
use crate::stake::StakeSource;

/// The oldest protocol version this build speaks.
pub const PROTOCOL_VERSION_MIN: u32 = 1;
/// The newest protocol version this build speaks.
pub const PROTOCOL_VERSION_MAX: u32 = 1;
/// A dial gives up after this long (NET-20).
pub const CONNECT_TIMEOUT_MS: u64 = 10_000;
/// QUIC has this long to answer before TCP is tried beside it.
pub const TCP_AFTER_MS: u64 = 2_000;
/// QUIC and TCP have this long to answer before a TURN server is tried beside them.
pub const TURN_AFTER_MS: u64 = TCP_AFTER_MS + 2_000;
/// The same where dials have shown already that UDP does not leave this network.
pub const TURN_AFTER_BLOCKED_MS: u64 = TCP_AFTER_MS + 500;
/// The handshake after the encrypted connection stands (NET-20).
pub const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;
/// The clocks of two peers may differ by this much (NET-21).
pub const CLOCK_SKEW_MS_MAX: u64 = 30_000;
/// Opening a stream gives up after this long.
pub const OPEN_TIMEOUT_MS: u64 = 5_000;
/// Goodbyes are waited for this long at shutdown (NET-19).
pub const GOODBYE_TIMEOUT_MS: u64 = 1_000;
/// Between two keep-alive pings (NET-19).
pub const PING_INTERVAL_MS: u64 = 30_000;
/// Streams that wait in one acceptor before more are dropped.
pub const ACCEPT_QUEUE_STREAMS_MAX: usize = 256;
/// Events that wait for a slow receiver before the oldest are lost to it.
pub const EVENTS_BUFFERED_MAX: usize = 1_024;
/// Peers at once, unless configured otherwise (NET-50).
pub const PEERS_MAX_DEFAULT: u32 = 125;
/// Peers that stay connected however idle, unless configured otherwise (NET-16); the places above are for newcomers.
pub const POOL_PEERS_DEFAULT: u32 = 100;
/// A peer without a stream for this long may be let go, unless configured otherwise (NET-16).
pub const POOL_IDLE_MS_DEFAULT: u64 = 10 * 60 * 1_000;
/// Bytes of a region's name.
pub const REGION_BYTES_MAX: usize = 32;
/// A node record is valid for this long after it was signed.
pub const RECORD_LIFETIME_MS: u64 = 24 * 60 * 60 * 1_000;
/// A node record is signed anew when this share of its lifetime is left (one part in this many).
pub const RECORD_REFRESH_FRACTION: u64 = 4;
/// A peer's own record may claim to be valid for at most this long: its lifetime and what clocks may differ by. Less than
/// what a record may claim that others tell of ([`crate::discovery::pex`]), so that nobody is blamed for passing it on.
pub const OWN_RECORD_MS_MAX: u64 = RECORD_LIFETIME_MS + 2 * CLOCK_SKEW_MS_MAX;

pub use trellis_net_reach::relay::budget::{RelayBudget, RelayProfile};
pub use trellis_net_reach::turn::{Credentials, TurnServer, TurnSettings};
pub use trellis_net_transport::{AdmissionLimits, IpNet, Policy, Proxy};

/// What the network of one node is told.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Where to listen, multiaddr text: `/ip4/0.0.0.0/udp/9700/quic-v1`, `/ip4/0.0.0.0/tcp/9700`. Empty: dial only.
    pub listen: Vec<String>,
    /// Peers to be connected to, multiaddr text; redialled with backoff for as long as they are missing.
    pub bootstrap: Vec<String>,
    /// Addresses to put into the node record instead of the ones listened at.
    pub external_addresses: Vec<String>,
    /// Through what every dial goes; `None` dials directly.
    pub proxy: Option<Proxy>,
    /// STUN servers that are asked about the NAT, `HOST:PORT` (NET-40); none if empty.
    pub stun_servers: Vec<String>,
    /// TURN servers, for networks that block UDP (NET-44); none if `None`.
    pub turn: Option<TurnSettings>,
    /// Whether classical peers are let in.
    pub policy: Policy,
    /// What is admitted before any cryptography.
    pub limits: AdmissionLimits,
    /// Peers at once.
    pub peers_max: u32,
    /// Networks that are exempt from the bounds per IP and subnet and from the bandwidth budget.
    pub exempt_networks: Vec<IpNet>,
    /// A peer that was connected for so long altogether is known, milliseconds (NET-50).
    pub proven_online_ms: u64,
    /// Bytes per second to peers; zero is no limit (NET-18).
    pub bandwidth_up: u64,
    /// Bytes per second from peers; zero is no limit (NET-18).
    pub bandwidth_down: u64,
    /// Above so many peers the longest idle ones are disconnected, bootstrap peers never.
    pub pool_peers: u32,
    /// How long a peer is without a stream before it counts as idle, milliseconds.
    pub pool_idle_ms: u64,
    /// The network's number; a peer with another is refused.
    pub network_magic: u32,
    /// The hash of block zero; a peer with another is refused.
    pub genesis_hash: B256,
    /// The chain's id; node records are signed over it.
    pub chain_id: u64,
    /// What this node calls its software.
    pub user_agent: String,
    /// What this node does.
    pub roles: RoleSet,
    /// The models it serves, for its node record.
    pub models: Vec<String>,
    /// This node's chain height, stated in every handshake; whoever follows the chain keeps it up to date.
    pub best_height: Arc<AtomicU64>,
    /// How peers are found beside `bootstrap`; `None`: not at all, and nobody is told of others.
    pub discovery: Option<DiscoveryConfig>,
    /// Seed of the jitter in redials; `None` takes one from the operating system.
    pub jitter_seed: Option<u64>,
    /// Where bans, reputation and addresses are remembered over a restart; nowhere if `None`.
    pub peers_file: Option<PathBuf>,
    /// The scores below which a peer is trusted with less.
    pub thresholds: Thresholds,
    /// Whether this node relays for others, and how large it is; `None` relays nothing.
    pub relay: Option<RelayProfile>,
    /// What the relay gives away, where that is not what its profile says.
    pub relay_budget: Option<RelayBudget>,
    /// Where the stake behind peers is known, for the relay; `None`: nobody has stake.
    pub stakes: Option<StakeSource>,
    /// Reservations at relays that are kept while this node cannot be reached otherwise; 0 for none.
    pub relays_wanted: usize,
    /// Whether a router that lets nobody in is asked to map the ports listened at (NET-41).
    pub map_ports: bool,
    /// Where this node is, in the operator's words (`eu-west`); relays of the same region are asked first. May be empty.
    pub region: String,
    /// Accounts of the committee: local reputation never closes or throttles their nodes.
    pub committee: Vec<Address>,
}

impl NetConfig {
    /// A node of this network that listens nowhere and knows nobody, with every limit at its default.
    #[must_use]
    pub fn new(chain_id: u64, network_magic: u32, genesis_hash: B256) -> Self {
        Self {
            listen: Vec::new(),
            bootstrap: Vec::new(),
            external_addresses: Vec::new(),
            proxy: None,
            stun_servers: Vec::new(),
            turn: None,
            policy: Policy::Require,
            limits: AdmissionLimits::default(),
            peers_max: PEERS_MAX_DEFAULT,
            exempt_networks: Vec::new(),
            proven_online_ms: PROVEN_ONLINE_MS,
            bandwidth_up: BANDWIDTH_BYTES_PER_S,
            bandwidth_down: BANDWIDTH_BYTES_PER_S,
            pool_peers: POOL_PEERS_DEFAULT,
            pool_idle_ms: POOL_IDLE_MS_DEFAULT,
            network_magic,
            genesis_hash,
            chain_id,
            user_agent: concat!("trellis/", env!("CARGO_PKG_VERSION")).to_owned(),
            roles: RoleSet(0),
            models: Vec::new(),
            best_height: Arc::default(),
            discovery: None,
            jitter_seed: None,
            peers_file: None,
            thresholds: Thresholds::default(),
            relay: None,
            relay_budget: None,
            stakes: None,
            relays_wanted: RELAYS_WANTED,
            map_ports: false,
            region: String::new(),
            committee: Vec::new(),
        }
    }
}
