//! Who is trusted how far: reputation, rates, bans, and what is done about those who misbehave (NET-51 to 55, 58, 59).
//!
//! The rules are pure: [`GuardState`] takes events and a time and returns decisions. [`Guard`] is the thin shell around
//! them: a clock, counters, events and a file. Both the real network and the simulated one have one.
//!
//! ```text
//! protocols ──report(peer, conduct)──▶ Guard ──▶ score ──▶ ladder: warned, throttled, disconnected, banned
//! handshake ──enter(peer, address)──▶ Guard ──▶ welcome, banned, or (a stranger from a bad network) wait
//! listener  ──door(address)─────────▶ Guard ──▶ open, prove the address, wait, blocked for a while
//! ```

mod book;
mod clusters;
mod conduct;
mod nets;
mod rates;
mod score;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use trellis_primitives::{NodeId, NodeRecord, SharedClock, UnixMs};

use crate::metrics::NetMetrics;
use crate::peer::{PeerEvent, PeerInfo};

pub use book::{BOOK_BYTES_MAX, BOOK_MAGIC, BOOK_VERSION, Book, BookError, Imported};
pub use clusters::{
    CLUSTER_OUTBOUND_MAX, CLUSTER_PLACES_MAX, CLUSTER_TABLED_MAX, CLUSTER_TOLD_MAX, CLUSTER_TRIED_MAX,
    CLUSTERED_NODES_MAX, ClusterReport, Clusters, Seen,
};
pub use conduct::{AddressSource, BanCause, Conduct, Pattern, Response};
pub use nets::{
    BANNED_KEYS_HALF_LIFE_MS, BANNED_KEYS_PER_IP, BANNED_KEYS_PER_SUBNET, BLOCK_MS_FIRST, BLOCK_MS_MAX, Door, NETS_MAX,
    NEWCOMERS_AT_ONCE, NEWCOMERS_PER_MINUTE, Nets, THREAT_BLOCK, THREAT_RETRY, THREAT_THROTTLE, Threat,
};
pub use rates::{
    CONTROL_MESSAGES_PER_MINUTE, GOSSIP_BYTES_PER_MINUTE, MessageClass, PeerRates, STRAINED_COST, STREAMS_AT_ONCE,
    STREAMS_PER_MINUTE, THROTTLED_COST, TokenBucket,
};
pub use score::{
    CAP_INVALID, CAP_PROVEN, DECAY_PER_DAY, INVALID_BURST, INVALID_WINDOW_MS, Inputs, NEUTRAL, Parts, Reputation,
    SCORE_MAX, WEIGHTS,
};
pub use state::{
    ADDED_MAX, ADDRESS_BYTES_MAX, ADDRESSES_MAX, ALARM_AT, ALARM_WINDOW_MS, Added, Arrival, BAN_MS_FIRST,
    BANS_BEFORE_PERMANENT, Ban, EXCLUSION_MS_FIRST, EXCLUSION_MS_MAX, Entry, FORGIVEN_MS, GuardState, KnownAddress,
    PROVEN_ONLINE_MS, Priority, RECORDS_MAX, Standing, THROTTLE_AT, THROTTLE_MS, Thresholds,
};

/// What changed is written at the latest after this long; a ban at once.
pub const SAVE_INTERVAL_MS: u64 = 30_000;
/// Between two events about one pattern of attack; the counter counts them all.
pub const PATTERN_EVENT_MS: u64 = 1_000;

/// The peer manager of one node.
pub struct Guard {
    state: Mutex<GuardState>,
    clusters: Mutex<Clusters>,
    clock: SharedClock,
    metrics: NetMetrics,
    events: broadcast::Sender<PeerEvent>,
    /// When each pattern of attack was last announced.
    announced: Mutex<BTreeMap<Pattern, UnixMs>>,
    file: Option<PathBuf>,
    changed: AtomicBool,
    /// A ban waits to be written.
    urgent: Notify,
    /// Two writers would use the same partial file.
    writing: Mutex<()>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Guard {
    /// A peer manager that remembers what the file holds, if one is named and there.
    pub(crate) fn open(
        thresholds: Thresholds,
        file: Option<PathBuf>,
        clock: SharedClock,
        metrics: NetMetrics,
        events: broadcast::Sender<PeerEvent>,
    ) -> Arc<Self> {
        let mut state = GuardState::new(thresholds);
        if let Some(book) = file.as_deref().and_then(Book::read_or_set_aside) {
            state.take_book(book, clock.now(), false);
        }
        Arc::new(Self {
            state: Mutex::new(state),
            clusters: Mutex::default(),
            clock,
            metrics,
            events,
            announced: Mutex::default(),
            file,
            changed: AtomicBool::new(false),
            urgent: Notify::new(),
            writing: Mutex::default(),
        })
    }

    fn now(&self) -> UnixMs {
        self.clock.now()
    }

    fn touch(&self, urgent: bool) {
        self.changed.store(true, Ordering::Release);
        if urgent {
            self.urgent.notify_one();
        }
    }

    /// Takes what a peer did, counts and announces the response. The caller ends the connection where it says so.
    pub(crate) fn report(&self, peer: NodeId, conduct: Conduct) -> Option<Response> {
        let (response, score) = {
            let (mut state, now) = (self.state.lock(), self.now());
            (state.report(peer, conduct, now), state.score(peer, now))
        };
        if let Conduct::Invalid { pattern } = conduct {
            self.recognised(pattern, Some(peer), None);
        }
        let Some(response) = response else {
            self.touch(false);
            return None;
        };
        self.touch(response.ends_connection());
        self.metrics.count_response(response);
        tracing::warn!(%peer, ?conduct, response = response.name(), score, "a peer misbehaves");
        let _ = self.events.send(PeerEvent::Responded { peer, response });
        Some(response)
    }

    /// Whether an identity may come in; one that waits or is banned is counted by the handshake.
    pub(crate) fn enter(&self, peer: NodeId, ip: Option<IpAddr>) -> Entry {
        self.state.lock().enter(peer, ip, self.now())
    }

    /// A pattern of attack was recognised: it is counted, and announced at most once in [`PATTERN_EVENT_MS`].
    pub(crate) fn recognised(&self, pattern: Pattern, peer: Option<NodeId>, ip: Option<IpAddr>) {
        self.metrics.count_pattern(pattern);
        let now = self.now();
        let mut announced = self.announced.lock();
        if announced.get(&pattern).is_some_and(|last| now.ms_since(*last) < PATTERN_EVENT_MS) {
            return;
        }
        announced.insert(pattern, now);
        drop(announced);
        tracing::warn!(pattern = pattern.name(), ?peer, ?ip, "a pattern of attack");
        let _ = self.events.send(PeerEvent::Attacked { pattern, peer, ip });
    }

    /// What a first packet from an address meets; `validated` says whether the address is proven.
    pub(crate) fn door(&self, ip: IpAddr, validated: bool) -> Door {
        self.state.lock().door(ip, validated, self.now())
    }

    /// What first packets from an address have to put up with; nothing is counted.
    pub(crate) fn level(&self, ip: IpAddr) -> Door {
        self.state.lock().level(ip, self.now())
    }

    /// Something happened at an address that nobody shows an identity for.
    pub(crate) fn threat(&self, ip: IpAddr, threat: Threat) {
        let pattern = match threat {
            Threat::HalfOpen => Pattern::HalfOpenFlood,
            Threat::Flood => Pattern::ConnectionFlood,
            Threat::FailedHandshake => Pattern::HandshakeFailures,
            Threat::Malformed => Pattern::Malformed,
            Threat::Replay => Pattern::Replay,
        };
        let grown = self.state.lock().threat(ip, threat, self.now());
        // One broken handshake is no pattern; something malformed or replayed is wrong by itself.
        if grown || matches!(threat, Threat::Malformed | Threat::Replay) {
            self.recognised(pattern, None, Some(ip));
        }
    }

    /// Whether a peer is known from before: a member of the committee, or connected for long without a ban (NET-50).
    #[must_use]
    pub fn is_proven(&self, peer: NodeId) -> bool {
        let (mut state, now) = (self.state.lock(), self.now());
        state.tick_one(peer, now);
        state.is_proven(peer, now)
    }

    /// Whether a peer belongs to the committee.
    pub(crate) fn is_exempt(&self, peer: NodeId) -> bool {
        self.state.lock().is_exempt(peer)
    }

    /// Known peers behind each address.
    pub(crate) fn count_known(&self) -> HashMap<IpAddr, u32> {
        let (mut state, now) = (self.state.lock(), self.now());
        state.tick(now);
        state.count_known(now)
    }

    /// A peer is known once it was connected for so long.
    pub(crate) fn set_proven_online(&self, ms: u64) {
        self.state.lock().proven_online_ms = Some(ms);
    }

    /// Whether a peer is trusted enough that traffic is relayed for it or through it (NET-53).
    #[must_use]
    pub fn may_relay(&self, peer: NodeId) -> bool {
        self.state.lock().may_relay(peer, self.now())
    }

    /// Whether so much went wrong within the last seconds that this node is under attack (NET-51).
    #[must_use]
    pub fn under_attack(&self) -> bool {
        self.state.lock().under_attack(self.now())
    }

    pub(crate) fn arrived(&self, peer: NodeId, arrival: &Arrival<'_>) {
        self.state.lock().arrived(peer, arrival, self.now());
        self.clusters.lock().connected(peer, true);
        self.touch(false);
    }

    /// A verified record of a node was seen. A cluster that it shows is announced and counted once.
    pub(crate) fn seen(&self, node: NodeId, record: &NodeRecord, seen: Seen<'_>) {
        let found = self.clusters.lock().seen(node, record, seen, self.now());
        if let Some(nodes) = found {
            tracing::warn!(%node, nodes, account = %record.chain_address, "nodes that one party made");
            self.recognised(Pattern::SybilCluster, Some(node), None);
        }
    }

    /// The clusters of nodes; nobody may hold them while it takes another lock.
    pub(crate) fn known_clusters(&self) -> parking_lot::MutexGuard<'_, Clusters> {
        self.clusters.lock()
    }

    /// What is known of clusters of nodes that one party made (NET-37).
    #[must_use]
    pub fn clusters(&self) -> ClusterReport {
        self.clusters.lock().report()
    }

    pub(crate) fn left(&self, peer: NodeId, dropped: bool) {
        self.state.lock().left(peer, dropped, self.now());
        self.clusters.lock().connected(peer, false);
        self.touch(false);
    }

    /// Whether so many more messages of this class are within a peer's rate (NET-51).
    #[must_use]
    pub fn allow(&self, peer: NodeId, class: MessageClass, messages: u64, bytes: u64) -> bool {
        self.state.lock().allow(peer, class, messages, bytes, self.now())
    }

    /// Whether one more stream is within a peer's rate.
    #[must_use]
    pub(crate) fn allow_stream(&self, peer: NodeId) -> bool {
        self.state.lock().allow_stream(peer, self.now())
    }

    /// The ban that holds against an identity.
    #[must_use]
    pub fn ban_of(&self, peer: NodeId) -> Option<Ban> {
        self.state.lock().ban_of(peer, self.now())
    }

    /// Bans an identity for so many milliseconds, or for good, and remembers it. The connection is the network's to end.
    pub(crate) fn ban(&self, peer: NodeId, for_ms: Option<u64>) -> Ban {
        let now = self.now();
        let ban = self.state.lock().ban(peer, for_ms.map(|ms| now.plus_ms(ms)), now);
        let response = Response::Banned { until: ban.until };
        self.metrics.count_response(response);
        let _ = self.events.send(PeerEvent::Responded { peer, response });
        self.touch(true);
        ban
    }

    /// Lifts a ban; `false` where none held.
    pub fn unban(&self, peer: NodeId) -> bool {
        let lifted = self.state.lock().unban(peer, self.now());
        self.touch(true);
        lifted
    }

    /// The score of an identity, 0 to 100; neutral where nothing is known.
    #[must_use]
    pub fn score(&self, peer: NodeId) -> f64 {
        self.state.lock().score(peer, self.now())
    }

    /// The scores below which a peer is trusted with less (NET-53).
    #[must_use]
    pub fn thresholds(&self) -> Thresholds {
        *self.state.lock().thresholds()
    }

    /// Everything known about one identity.
    #[must_use]
    pub fn standing(&self, peer: NodeId) -> Option<Standing> {
        let (mut state, now) = (self.state.lock(), self.now());
        state.tick(now);
        state.standing(peer, now)
    }

    /// Everything known about everybody, in the order of their ids.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        let (mut state, now) = (self.state.lock(), self.now());
        state.tick(now);
        state.standings(now)
    }

    /// Writes scores and bans beside what else is known of peers.
    pub(crate) fn mark(&self, infos: &mut [PeerInfo]) {
        let (state, now) = (self.state.lock(), self.now());
        for info in infos {
            if let Some(id) = info.id {
                info.reputation = state.score(id, now);
                info.banned = state.ban_of(id, now).is_some();
            }
        }
    }

    /// Everything remembered, in the form of the file.
    #[must_use]
    pub fn export(&self) -> Book {
        let (mut state, now) = (self.state.lock(), self.now());
        state.tick(now);
        state.to_book(now)
    }

    /// Takes over what another book holds and this one does not.
    pub fn import(&self, book: Book) -> Imported {
        let changed = self.state.lock().take_book(book, self.now(), true);
        self.touch(true);
        changed
    }

    /// The addresses that a person added.
    #[must_use]
    pub fn added(&self) -> Vec<Added> {
        self.state.lock().added.clone()
    }

    pub(crate) fn add(&self, added: Added) {
        self.state.lock().add(added);
        self.touch(true);
    }

    pub(crate) fn remove_added(&self, gone: impl Fn(&Added) -> bool) -> Vec<Added> {
        let mut state = self.state.lock();
        let (removed, kept) = std::mem::take(&mut state.added).into_iter().partition(|added| gone(added));
        state.added = kept;
        drop(state);
        self.touch(true);
        removed
    }

    /// Writes what changed since the last time. Blocks.
    pub(crate) fn save(&self) {
        let Some(file) = &self.file else { return };
        let _alone = self.writing.lock();
        if !self.changed.swap(false, Ordering::AcqRel) {
            return;
        }
        let book = self.export();
        if let Err(error) = book.write(file) {
            self.changed.store(true, Ordering::Release);
            tracing::error!(file = %file.display(), %error, "the peers cannot be written down");
        }
    }

    /// Writes what changed, apart from the tasks that must not wait for a disk.
    pub async fn saved(self: &Arc<Self>) {
        let guard = Arc::clone(self);
        if let Err(error) = tokio::task::spawn_blocking(move || guard.save()).await {
            tracing::error!(%error, "the peers were not written down");
        }
    }

    /// Writes now and then, and at once after a ban, until the network has ended; then once more.
    pub(crate) async fn keep_saved(self: Arc<Self>, ended: CancellationToken) {
        let interval = Duration::from_millis(SAVE_INTERVAL_MS);
        while !ended.is_cancelled() {
            tokio::select! {
                () = ended.cancelled() => {}
                () = self.urgent.notified() => {}
                () = tokio::time::sleep(interval) => {}
            }
            self.saved().await;
        }
    }
}
