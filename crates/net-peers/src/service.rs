//! The thin shell: one task that owns libp2p's swarm, and the handle that everybody else holds.

mod defence;
mod dht;
mod dial;
mod evict;
mod finding;
mod handle;
mod preferred;
mod reach;
mod sentry;
mod shake;
mod swarm;
mod turn;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::{Multiaddr, Transport};
use libp2p::swarm::ConnectionId;
use parking_lot::Mutex;
use rand::{Rng, RngCore, SeedableRng};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_net_transport::{Admission, NodeTransport, TransportConfig, libp2p_identity, node_transport};
use trellis_primitives::{NodeId, SharedClock, UnixMs};

pub(crate) use self::finding::{FindingCommand, Found};

use self::evict::evict_idle;
use self::handle::NetHandle;
use self::preferred::Preferred;
pub use self::reach::{ReachReport, RelayReport};
use self::reach::{ReachShared, RelayDoor, Tallied};
use self::swarm::Service;
use self::turn::TurnWay;
use crate::bandwidth::Bandwidth;
use crate::broadcast::Broadcaster;
use crate::config::{EVENTS_BUFFERED_MAX, NetConfig};
use crate::discovery::kad::store::ProviderStore;
use crate::discovery::{self, Discovery};
use crate::error::{DialError, StartError};
use crate::guard::Guard;
use crate::handshake::{Checker, NonceCache};
use crate::metrics::NetMetrics;
use crate::network::NetworkHandle;
use crate::peer::PeerEvent;
use crate::reason::DisconnectReason;
use crate::record::RecordKeeper;
use crate::redial::keep_connected;
use crate::streams::{Streams, StreamsShared};
use crate::table::Table;
use crate::watch::{OFFENCES_WAITING_MAX, Offence, Sentry};

/// Commands that wait for the service.
const COMMANDS_WAITING_MAX: usize = 1_024;
/// A listen address has this long to come up.
const LISTEN_TIMEOUT_MS: u64 = 5_000;

/// What the service task is asked to do.
pub(crate) enum Command {
    Dial {
        peer: Option<PeerId>,
        /// All of the one peer; the first that answers counts.
        addresses: Vec<Multiaddr>,
        text: String,
        /// Another attempt to the same place answers for both in the table.
        quiet: bool,
        /// Through the TURN server.
        turned: bool,
        /// Who has to answer.
        pinned: Option<NodeId>,
        reply: oneshot::Sender<Result<NodeId, DialError>>,
    },
    Close {
        connection: ConnectionId,
        reason: DisconnectReason,
        done: oneshot::Sender<()>,
    },
    /// Ask a relay, dialled at this address, for a reservation.
    Reserve {
        relay: PeerId,
        at: Multiaddr,
    },
    /// Connect to a peer another way beside the connection that there is: to a relay over TCP too, or over a relay once more
    /// so that both punch with what they know by now.
    Look {
        peer: PeerId,
        at: Multiaddr,
    },
    /// This node may be reachable at an address.
    Candidate(Multiaddr),
    /// Ask peers anew which of these addresses lead here, and of none that was known before.
    Probe(Vec<Multiaddr>),
    /// Give a relay its reservation back.
    Release {
        relay: PeerId,
    },
    Find(FindingCommand),
}

/// What the handle, the service and its tasks share.
pub(crate) struct NodeShared {
    pub(crate) config: NetConfig,
    pub(crate) local_id: NodeId,
    pub(crate) local_peer: PeerId,
    pub(crate) clock: SharedClock,
    /// Drawn at this start.
    pub(crate) instance: u64,
    pub(crate) checker: Checker,
    pub(crate) record: RecordKeeper,
    pub(crate) nonces: Mutex<NonceCache>,
    pub(crate) rng: Mutex<rand::rngs::StdRng>,
    pub(crate) streams: Arc<StreamsShared>,
    pub(crate) table: Mutex<Table>,
    /// Peers behind the bootstrap addresses; they are never evicted, because they would be redialled at once.
    pub(crate) bootstrapped: Mutex<HashSet<NodeId>>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) reach: ReachShared,
    /// The way through a TURN server, where one is set.
    pub(crate) turn: Option<TurnWay>,
    /// Who may start a handshake; the same counts as the transport's.
    pub(crate) admission: Admission,
    pub(crate) bandwidth: Arc<Bandwidth>,
    /// Addresses that a person added and that are kept connected, with what ends that.
    pub(crate) kept: Mutex<HashMap<String, CancellationToken>>,
    /// Peers that are kept connected because somebody will need them next.
    pub(crate) preferred: Preferred,
    pub(crate) listening: Mutex<Vec<Multiaddr>>,
    pub(crate) events: broadcast::Sender<PeerEvent>,
    pub(crate) broadcaster: Broadcaster,
    pub(crate) metrics: NetMetrics,
    pub(crate) discovery: Option<Arc<Discovery>>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// Cancelled when nothing new is to begin.
    pub(crate) closing: CancellationToken,
    /// Cancelled when the service is to end.
    pub(crate) stop: CancellationToken,
    /// Cancelled by the service when it has ended.
    pub(crate) ended: CancellationToken,
}

/// Starts the network of a node and returns its handle once every listen address is up.
///
/// `keys` is the node's identity, `account` signs its node record. Bootstrap addresses are dialled in the background.
///
/// # Errors
/// [`StartError`]: a bad address, a port in use, or an identity that cannot be set up.
pub async fn start(
    config: NetConfig,
    keys: HybridKey,
    account: AccountKey,
    clock: SharedClock,
) -> Result<NetworkHandle, StartError> {
    start_with_metrics(config, keys, account, clock, NetMetrics::default()).await
}

/// As [`start`], counting into `metrics`.
///
/// # Errors
/// As [`start`].
pub async fn start_with_metrics(
    config: NetConfig,
    keys: HybridKey,
    account: AccountKey,
    clock: SharedClock,
    metrics: NetMetrics,
) -> Result<NetworkHandle, StartError> {
    Ok(Arc::new(NetHandle::new(start_node(config, keys, account, clock, metrics).await?)))
}

/// What [`start_with_metrics`] gives a handle to.
async fn start_node(
    config: NetConfig,
    keys: HybridKey,
    account: AccountKey,
    clock: SharedClock,
    metrics: NetMetrics,
) -> Result<Arc<NodeShared>, StartError> {
    let keys = Arc::new(keys);
    let identity = libp2p_identity(&keys)?;
    let (events, file) = (broadcast::channel(EVENTS_BUFFERED_MAX).0, config.peers_file.clone());
    let guard = Guard::open(config.thresholds, file, Arc::clone(&clock), metrics.clone(), events.clone());
    guard.set_proven_online(config.proven_online_ms);
    let admission = Admission::with_listed(config.limits, config.exempt_networks.clone());
    let door = RelayDoor::new(Arc::clone(&guard), Arc::clone(&clock), &config, metrics.reach.clone());
    let (circuits, client) = libp2p::relay::client::new(identity.public().to_peer_id());
    let contacted = Arc::new(Mutex::default());
    let turn = config.turn.clone().map(TurnWay::new);
    let mut doors = transport(&config, Arc::clone(&keys), &admission, &guard, &metrics);
    doors.dialled = Some(reach::strangers::noted(&contacted, &clock));
    doors.far = turn.as_ref().map(TurnWay::far);
    let transport = tallied(node_transport(doors, Some(circuits))?, &config, &door);
    let (offences_sender, offences) = mpsc::channel(OFFENCES_WAITING_MAX);
    let bandwidth = Arc::new(Bandwidth::new(config.bandwidth_up, config.bandwidth_down));
    let sentry =
        Arc::new(Sentry { guard: Arc::clone(&guard), bandwidth: Arc::clone(&bandwidth), offences: offences_sender });
    let streams = watched_streams(&transport, &clock, &metrics, &sentry, admission.clone());
    let clock_now = clock.now();
    let store = finding::open_store(&config, identity.public().to_peer_id(), clock_now);
    let finding = finding::build(&config, identity.public().to_peer_id(), store.clone());
    let lacks_mdns = finding.lacks_mdns(&config);
    let (swarm, streams) =
        swarm::build(transport, &identity, &config, streams, (client, &door), (finding, turn.clone()))?;
    let (commands, command_queue) = mpsc::channel(COMMANDS_WAITING_MAX);
    let mut rng = rand::rngs::StdRng::from_os_rng();
    let jitter_seed = config.jitter_seed.unwrap_or_else(|| rng.random());
    let (local_id, checker) = (keys.node_id(), checker(&config));
    let shared = Arc::new(NodeShared {
        local_id,
        local_peer: identity.public().to_peer_id(),
        checker: checker.clone(),
        record: record_keeper(&config, keys, account),
        clock,
        instance: rng.random(),
        nonces: Mutex::default(),
        rng: Mutex::new(rng),
        streams,
        table: Mutex::new(Table::of(local_id)),
        bootstrapped: Mutex::default(),
        guard,
        reach: ReachShared::new(&config, door, contacted, metrics.reach.clone()),
        turn,
        kept: Mutex::default(),
        preferred: Preferred::default(),
        listening: Mutex::default(),
        events,
        broadcaster: Broadcaster::telling(Arc::new(move |peer, protocol| sentry.too_slow(peer, protocol))),
        admission,
        bandwidth,
        discovery: open_discovery(&config, clock_now, jitter_seed, &metrics, store, &checker),
        metrics,
        commands,
        closing: CancellationToken::new(),
        stop: CancellationToken::new(),
        ended: CancellationToken::new(),
        config,
    });
    listen(Service::new(swarm, Arc::clone(&shared), command_queue), &shared).await?;
    start_tasks(&shared, offences, jitter_seed, lacks_mdns);
    Ok(shared)
}

/// Brings the listen addresses up and lets the service run.
async fn listen(mut service: Service, shared: &NodeShared) -> Result<(), StartError> {
    service.listen(Duration::from_millis(LISTEN_TIMEOUT_MS)).await?;
    // The first record is signed here, so that a record out of bounds stops the start and not the first handshake.
    let hello = shared.hello().map_err(|error| StartError::Record(error.to_string()))?;
    tracing::info!(node = %shared.local_id, peer = %shared.local_peer, record_bytes = hello.record.len(), "network started");
    tokio::spawn(service.run());
    Ok(())
}

fn watched_streams(
    transport: &NodeTransport,
    clock: &SharedClock,
    metrics: &NetMetrics,
    sentry: &Arc<Sentry>,
    exempt: Admission,
) -> Streams {
    let exempts = Box::new(move |ip| exempt.exempts(ip));
    let (sessions, dropped) = (transport.sessions.clone(), metrics.streams_dropped.clone());
    Streams::new(sessions, Arc::clone(clock), dropped, Arc::clone(sentry), exempts)
}

/// The transport; that of a relay counts the bytes that it carries for others, and bounds them.
fn tallied(mut transport: NodeTransport, config: &NetConfig, door: &Arc<RelayDoor>) -> NodeTransport {
    if config.relay.is_none() {
        return transport;
    }
    let door = Arc::clone(door);
    let counted = transport
        .transport
        .map(move |(peer, muxer), _| (peer, StreamMuxerBox::new(Tallied::new(muxer, peer, Arc::clone(&door)))));
    transport.transport = counted.boxed();
    transport
}

/// The transport with its doors: the socket's, which only looks, and the listener's, which counts.
fn transport(
    config: &NetConfig,
    keys: Arc<HybridKey>,
    admission: &Admission,
    guard: &Arc<Guard>,
    metrics: &NetMetrics,
) -> TransportConfig {
    let mut transport = TransportConfig::new(keys, config.policy);
    transport.admission = admission.clone();
    transport.metrics = metrics.transport.clone();
    transport.proxy.clone_from(&config.proxy);
    transport.admit = Some(defence::door(Arc::clone(guard), admission.clone()));
    transport.gate = Some(sentry::gate(Arc::clone(guard), admission.clone()));
    transport.flooded = Some(sentry::flooded(Arc::clone(guard)));
    transport
}

/// What runs beside the service.
fn start_tasks(shared: &Arc<NodeShared>, offences: mpsc::Receiver<Offence>, jitter_seed: u64, lacks_mdns: bool) {
    tokio::spawn(evict_idle(Arc::clone(shared)));
    for (seed, address) in (jitter_seed..).zip(shared.config.bootstrap.clone()) {
        tokio::spawn(keep_connected(Arc::clone(shared), address, seed));
    }
    defence::begin(shared, offences, jitter_seed);
    discovery::start(shared);
    if let Some(discovery) = &shared.discovery {
        discovery.note_mdns(lacks_mdns, shared.clock.now());
    }
    reach::begin(shared);
    tokio::spawn(preferred::keep(Arc::clone(shared)));
    tokio::spawn(turn::keep(Arc::clone(shared)));
}

const fn checker(config: &NetConfig) -> Checker {
    let (network_magic, genesis_hash, chain_id) = (config.network_magic, config.genesis_hash, config.chain_id);
    Checker { network_magic, genesis_hash, chain_id }
}

fn record_keeper(config: &NetConfig, keys: Arc<HybridKey>, account: AccountKey) -> RecordKeeper {
    RecordKeeper {
        keys,
        account,
        chain_id: config.chain_id,
        network_magic: config.network_magic,
        roles: config.roles,
        models: config.models.clone(),
        current: Mutex::default(),
    }
}

fn open_discovery(
    config: &NetConfig,
    now: UnixMs,
    seed: u64,
    metrics: &NetMetrics,
    store: Option<ProviderStore>,
    checker: &Checker,
) -> Option<Arc<Discovery>> {
    let rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (told, metrics) = (config.discovery.clone()?, metrics.discovery.clone());
    Some(Arc::new(Discovery::open(told, config, checker, now, rng, metrics, store)))
}

impl NodeShared {
    /// A nonce nobody can guess.
    fn nonce(&self) -> [u8; crate::handshake::NONCE_BYTES] {
        let mut nonce = [0u8; crate::handshake::NONCE_BYTES];
        self.rng.lock().fill_bytes(&mut nonce);
        nonce
    }

    /// Whether streams can be opened to a peer.
    pub(crate) fn is_connected(&self, peer: NodeId) -> bool {
        self.table.lock().is_connected(peer)
    }
}
