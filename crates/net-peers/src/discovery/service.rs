//! The shell of discovery: tasks that follow peers, run rounds, answer questions, feel and save.

mod ask;
mod dial;
mod relayed;
mod seek;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast};
use trellis_crypto::file::replace;
use trellis_primitives::NodeId;

use libp2p::core::Multiaddr;

use super::address::{AddressClass, AddressGroup, PeerAddress, without_name};
use super::hidden::{Networks, is_hidden_place};
use super::pex::{PEX, PEX_TIMEOUT_MS};
use super::{Discovery, DiscoveryReport, file};
use crate::guard::Seen;
use crate::network::Acceptor;
use crate::peer::{Direction, PeerEvent, PeerInfo};
use crate::service::NodeShared;

/// The wait between two rounds while outbound connections are missing; it doubles.
pub const SHORT_ROUND_MS_MIN: u64 = 1_000;
/// The longest such wait.
pub const SHORT_ROUND_MS_MAX: u64 = 60_000;
/// Between being woken and the round, so that what happens together is one round.
const WAKE_MS: u64 = 200;
/// Between two looks whether the book has to be saved.
const SAVE_MS: u64 = 10_000;
/// Questions of peers answered at once; one peer has few streams for them, so that none can take the places of all.
const ANSWERS_AT_ONCE_MAX: usize = 256;

/// Discovery with the node that it works for.
#[derive(Clone)]
struct Finder {
    shared: Arc<NodeShared>,
    discovery: Arc<Discovery>,
}

/// Starts the tasks of discovery, if this node has it.
pub(crate) fn start(shared: &Arc<NodeShared>) {
    let Some(discovery) = shared.discovery.clone() else { return };
    let finder = Finder { shared: Arc::clone(shared), discovery };
    let events = shared.events.subscribe();
    finder.spawn(|finder| async move { finder.follow(events).await });
    finder.spawn(|finder| async move { finder.rounds().await });
    finder.spawn(|finder| async move { finder.feel().await });
    finder.spawn(|finder| async move { finder.keep_saved().await });
    if finder.discovery.config.kad {
        finder.spawn(|finder| async move { finder.provide().await });
    }
    if finder.discovery.config.pex {
        match shared.streams.accept(PEX) {
            Ok(acceptor) => finder.spawn(|finder| async move { finder.answer_all(acceptor).await }),
            Err(error) => tracing::warn!(%error, "peers are not answered"),
        }
    }
}

impl NodeShared {
    /// What discovery shows of itself.
    pub(crate) fn discovery_report(&self) -> Option<DiscoveryReport> {
        let discovery = self.discovery.as_ref()?;
        Some(DiscoveryReport {
            sources: discovery.reports.lock().all(),
            book: discovery.book.lock().counts(),
            outbound: self.table.lock().crowd().outbound(),
            outbound_min: discovery.config.outbound_min,
            rounds: discovery.rounds.load(Ordering::Relaxed),
        })
    }

    /// A connected peer told a newer record of itself.
    pub(crate) fn learn_record(self: &Arc<Self>, peer: NodeId) {
        if let Some(discovery) = self.discovery.clone() {
            Finder { shared: Arc::clone(self), discovery }.learn(peer);
        }
    }

    /// Asks connected peers whom they know, because this node's own addresses have changed.
    pub(crate) async fn ask_around(self: &Arc<Self>) {
        if let Some(discovery) = self.discovery.clone() {
            Finder { shared: Arc::clone(self), discovery }.ask_again().await;
        }
    }

    /// Saves the book for the next run; called while the outbound peers are still connected.
    pub(crate) async fn save_book(self: &Arc<Self>) {
        if let Some(discovery) = self.discovery.clone() {
            let finder = Finder { shared: Arc::clone(self), discovery };
            tokio::join!(finder.save(), finder.save_records());
        }
    }

    /// Finds who sells a model and connects to some of them; see [`crate::Network::find_providers`].
    pub(crate) async fn find_providers(self: &Arc<Self>, model: &str) -> Vec<NodeId> {
        match self.discovery.clone().filter(|discovery| discovery.config.kad) {
            Some(discovery) => Finder { shared: Arc::clone(self), discovery }.find_model(model).await,
            None => Vec::new(),
        }
    }
}

/// Connected peers that this node dialled.
fn outbound(peers: &[PeerInfo]) -> impl Iterator<Item = &PeerInfo> {
    peers.iter().filter(|peer| peer.connected_since.is_some() && peer.direction == Direction::Outbound)
}

/// Where a peer is connected from or to.
fn remote_of(peer: &PeerInfo) -> Option<PeerAddress> {
    let id = peer.peer_id.parse().ok();
    peer.addresses.first().and_then(|text| PeerAddress::parse(text)).map(|address| PeerAddress { peer: id, ..address })
}

/// The hidden name at which this node has dialled a peer.
fn hidden_remote(peer: &PeerInfo) -> Option<Multiaddr> {
    let address = peer.addresses.first().filter(|_| peer.direction == Direction::Outbound)?;
    let address = format!("{}/p2p/{}", without_name(address), peer.peer_id).parse().ok()?;
    is_hidden_place(&address).then_some(address)
}

/// The group of who tells.
fn group_of(remote: Option<PeerAddress>) -> AddressGroup {
    remote.map_or(AddressGroup::UNPLACED, |remote| AddressGroup::of(remote.socket))
}

impl Finder {
    fn spawn<F, T>(&self, task: F)
    where
        F: FnOnce(Self) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        let closing = self.shared.closing.clone();
        let task = task(self.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// How near a peer is; one at an address that cannot be classed is as far as can be. So is everybody where there is a
    /// proxy: who comes through an onion service comes from loopback.
    fn class_of(&self, remote: Option<PeerAddress>) -> AddressClass {
        let near = remote.filter(|_| self.discovery.networks == Networks::Clear);
        near.and_then(|remote| remote.class()).unwrap_or(AddressClass::Public)
    }

    fn info(&self, peer: NodeId) -> Option<PeerInfo> {
        self.shared.table.lock().info(peer)
    }

    fn outbound_count(&self) -> usize {
        let count = self.shared.table.lock().crowd().outbound();
        self.discovery.metrics.outbound.set(i64::try_from(count).unwrap_or(i64::MAX));
        count
    }

    fn is_short(&self) -> bool {
        self.outbound_count() < self.discovery.config.outbound_min
    }

    /// The book changed: its gauges follow, and it is to be saved.
    fn book_changed(&self) {
        let counts = self.discovery.book.lock().counts();
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.discovery.metrics.book_new.set(gauge(counts.new));
        self.discovery.metrics.book_tried.set(gauge(counts.tried));
        self.discovery.dirty.store(true, Ordering::Relaxed);
    }

    async fn follow(&self, mut events: broadcast::Receiver<PeerEvent>) {
        loop {
            match events.recv().await {
                Ok(PeerEvent::Connected { peer, .. }) => self.connected(peer),
                Ok(PeerEvent::Disconnected { peer, reason }) => {
                    self.discovery.wake.notify_one();
                    self.lost(peer, reason);
                }
                Ok(PeerEvent::Refused { .. } | PeerEvent::Responded { .. } | PeerEvent::Attacked { .. }) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => self.catch_up(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Events were lost, as when refusals come in a flood: whoever is connected is learned again.
    fn catch_up(&self) {
        let connected = self.shared.table.lock().connected();
        for peer in connected {
            self.learn(peer);
        }
        self.discovery.wake.notify_one();
    }

    /// A handshake succeeded: the peer's record is known good, and an address that this node dialled is proven.
    fn connected(&self, peer: NodeId) {
        if !self.learn(peer) {
            return;
        }
        if self.discovery.config.pex {
            self.spawn(|finder| async move {
                if finder.ask_one(peer).await.is_some_and(|found| found > 0) {
                    finder.discovery.told.notify_one();
                    finder.discovery.wake.notify_one();
                }
            });
        }
    }

    /// Takes the record of a connected peer into what this node knows; `false` if it is gone.
    fn learn(&self, peer: NodeId) -> bool {
        let Some(info) = self.info(peer) else { return false };
        let remote = remote_of(&info);
        let now = self.shared.clock.now();
        if let Some(record) = &info.record {
            let teller = (self.class_of(remote), group_of(remote));
            // It may name another account than it did when it came.
            self.shared.guard.seen(peer, record, Seen::Told { source: None });
            if let Some(name) = hidden_remote(&info) {
                self.discovery.book.lock().hidden.reached(peer, name, now);
            }
            if self.discovery.take_record(peer, record, teller, now).is_some_and(|(_, new_way)| new_way) {
                self.follow_ways();
            }
            if let (Some(remote), Direction::Outbound) = (remote, info.direction) {
                self.reached(remote, peer);
            }
            if let Some(signed) = self.shared.table.lock().signed_record_of(peer) {
                self.discovery.records.lock().keep(peer, record, signed);
            }
        }
        self.book_changed();
        true
    }

    async fn rounds(&self) {
        let mut short_wait_ms = SHORT_ROUND_MS_MIN;
        loop {
            self.round().await;
            let config = &self.discovery.config;
            let wait_ms = if self.is_short() { short_wait_ms.min(config.round_ms) } else { config.round_ms };
            short_wait_ms = short_wait_ms.saturating_mul(2).min(SHORT_ROUND_MS_MAX);
            tokio::select! {
                () = tokio::time::sleep(self.discovery.jittered(wait_ms)) => {}
                () = self.until_needed() => short_wait_ms = SHORT_ROUND_MS_MIN,
            }
        }
    }

    /// Resolves when something happened that makes a round worth while before its time.
    async fn until_needed(&self) {
        loop {
            self.discovery.wake.notified().await;
            tokio::time::sleep(Duration::from_millis(WAKE_MS)).await;
            if self.is_short() {
                return;
            }
        }
    }

    /// One round: dial from what is known, ask the sources meanwhile, dial again if they told something new.
    async fn round(&self) {
        self.discovery.rounds.fetch_add(1, Ordering::Relaxed);
        self.discovery.metrics.rounds.inc();
        let now = self.shared.clock.now();
        self.discovery.records.lock().expire(now);
        self.discovery.recall_hidden(now);
        let known = async {
            self.dial_lists().await;
            tokio::join!(self.fill(), self.fill_relayed());
        };
        // What one source told is dialled while another still waits for an answer.
        tokio::join!(
            known,
            self.dial_told(self.ask_seeds()),
            self.dial_told(self.ask_peers()),
            self.dial_told(self.ask_table())
        );
    }

    /// Dials what a source told; it gives how many addresses were new.
    async fn dial_told(&self, source: impl Future<Output = usize>) {
        if source.await > 0 {
            self.book_changed();
            self.discovery.told.notify_one();
            tokio::join!(self.fill(), self.fill_relayed());
        }
    }

    async fn answer_all(&self, mut acceptor: Acceptor) {
        let places = Arc::new(Semaphore::new(ANSWERS_AT_ONCE_MAX));
        while let Some((peer, mut stream)) = acceptor.next().await {
            // Beyond the bound a question is dropped; the asker's timeout tells it.
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            self.spawn(|finder| async move {
                let _place = place;
                let limit = Duration::from_millis(PEX_TIMEOUT_MS);
                let answered = tokio::time::timeout(limit, finder.answer_one(peer, &mut stream)).await;
                if !matches!(answered, Ok(Ok(()))) {
                    tracing::debug!(%peer, ?answered, "question not answered");
                }
            });
        }
    }

    async fn keep_saved(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(SAVE_MS)).await;
            if self.discovery.dirty.load(Ordering::Relaxed) {
                self.save().await;
            }
            self.save_records().await;
        }
    }

    /// Writes the book with the outbound peers of now; those of before stay where there are none.
    async fn save(&self) {
        let Some(path) = self.discovery.config.book_file.clone() else { return };
        self.discovery.dirty.store(false, Ordering::Relaxed);
        let peers = self.shared.table.lock().infos();
        let anchors: Vec<PeerAddress> = outbound(&peers).filter_map(remote_of).take(file::ANCHORS_MAX).collect();
        let bytes = {
            let mut last = self.discovery.outbound.lock();
            if !anchors.is_empty() {
                *last = anchors;
            }
            file::encode(&self.discovery.book.lock(), &last, self.shared.config.network_magic)
        };
        let written = tokio::task::spawn_blocking(move || replace(&path, &bytes).map_err(|error| (path, error)));
        if let Ok(Err((path, error))) = written.await {
            self.discovery.dirty.store(true, Ordering::Relaxed);
            tracing::warn!(path = %path.display(), %error, "the address book was not saved");
        }
    }
}
