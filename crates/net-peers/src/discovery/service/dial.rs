//! Keeping the outbound connections at their minimum, and feelers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use trellis_primitives::NodeId;

use super::{Finder, outbound, remote_of};
use crate::discovery::address::{AddressClass, AddressGroup, PeerAddress};
use crate::discovery::book::{Book, Entry};
use crate::discovery::hidden::Networks;
use crate::discovery::{Outcome, Source};
use crate::error::{DialError, RefusedBy};
use crate::guard::{CLUSTER_OUTBOUND_MAX, CLUSTER_TRIED_MAX};
use crate::peer::PeerInfo;
use crate::reason::{DisconnectReason, RefusalReason};

/// Dials of one round at once.
pub(super) const DIALS_AT_ONCE_MAX: usize = 8;
/// Dials of one round.
const DIALS_PER_ROUND_MAX: usize = 32;
/// More dials than connections missing that run at once, so that one dead address holds nobody up.
const DIALS_SPARE: usize = 2;
/// Outbound connections into one public group where there is nobody else to connect to.
const OUTBOUND_PER_GROUP_MAX: usize = 2;
/// A feeler's connection stands this long, so that what it tells can be heard.
const FEELER_STAY_MS: u64 = 3_000;

/// Who is connected, as the choice of the next address needs it.
#[derive(Default)]
struct Connected {
    nodes: BTreeSet<NodeId>,
    peers: BTreeSet<PeerId>,
    sockets: BTreeSet<SocketAddr>,
    /// Outbound connections in each public group.
    groups: BTreeMap<AddressGroup, usize>,
    /// Nodes of parties to which there are enough outbound connections in the public network.
    crowded: BTreeSet<NodeId>,
}

impl Connected {
    fn of(infos: &[PeerInfo], local: PeerId, crowded: impl FnOnce(&BTreeSet<NodeId>) -> BTreeSet<NodeId>) -> Self {
        let (mut connected, mut dialled) = (Self::default(), BTreeSet::new());
        connected.peers.insert(local);
        for info in infos.iter().filter(|info| info.connected_since.is_some()) {
            connected.nodes.extend(info.id);
            connected.peers.extend(info.peer_id.parse::<PeerId>().ok());
        }
        for (info, remote) in outbound(infos).filter_map(|info| Some((info, remote_of(info)?))) {
            connected.sockets.insert(remote.socket);
            if remote.class() == Some(AddressClass::Public) {
                *connected.groups.entry(AddressGroup::of(remote.socket)).or_default() += 1;
                dialled.extend(info.id);
            }
        }
        connected.crowded = crowded(&dialled);
        connected
    }

    /// Whether an address leads to somebody who is not connected, in a group with at most so many outbound connections.
    fn lacks(&self, socket: SocketAddr, entry: &Entry, in_group_max: usize) -> bool {
        let in_group = self.groups.get(&AddressGroup::of(socket)).copied().unwrap_or_default();
        !self.sockets.contains(&socket)
            && !entry.node.is_some_and(|node| self.nodes.contains(&node) || self.crowded.contains(&node))
            && !entry.peer.is_some_and(|peer| self.peers.contains(&peer))
            && in_group <= in_group_max
    }
}

impl Finder {
    /// Dials the anchors of the last run, once, and the list of the chain spec for as long as connections are missing.
    pub(super) async fn dial_lists(&self) {
        let anchors = std::mem::take(&mut *self.discovery.anchors.lock());
        let listed: Vec<&String> = self.discovery.config.compiled_in.iter().filter(|_| self.is_short()).collect();
        let named = listed.iter().filter(|text| PeerAddress::parse(text).is_none()).map(|text| self.dial_named(text));
        let bare = listed.iter().filter_map(|text| PeerAddress::parse(text)).collect();
        tokio::join!(
            self.dial_list(Source::Anchors, anchors),
            self.dial_list(Source::CompiledIn, bare),
            futures::future::join_all(named)
        );
    }

    /// Dials a listed address that is no bare socket: a dark one, one over a relay, one that a proxy looks up.
    async fn dial_named(&self, text: &str) {
        let now = self.shared.clock.now();
        match self.shared.dial(text).await {
            Ok(_) => self.discovery.report(&Source::CompiledIn, Outcome::Found, 1, format!("connected to {text}"), now),
            Err(error) => self.discovery.report(&Source::CompiledIn, Outcome::Failed, 1, error.to_string(), now),
        }
    }

    async fn dial_list(&self, source: Source, addresses: Vec<PeerAddress>) {
        let count = addresses.len();
        if count == 0 {
            return;
        }
        let dials = addresses.into_iter().map(|address| self.dial(address));
        let results: Vec<bool> = futures::stream::iter(dials).buffer_unordered(DIALS_AT_ONCE_MAX).collect().await;
        let connected = results.into_iter().filter(|connected| *connected).count();
        let outcome = if connected > 0 { Outcome::Found } else { Outcome::Failed };
        let detail = format!("{connected} of {count} connected");
        self.discovery.report(&source, outcome, count, detail, self.shared.clock.now());
    }

    /// Dials from the book until enough outbound connections stand or nobody is left to dial.
    pub(super) async fn fill(&self) {
        let (mut dialled, mut connected) = (0, 0);
        let mut running = FuturesUnordered::new();
        loop {
            let missing = self.discovery.config.outbound_min.saturating_sub(self.outbound_count());
            let at_once = if missing == 0 { 0 } else { DIALS_AT_ONCE_MAX.min(missing + DIALS_SPARE) };
            while running.len() < at_once && dialled < DIALS_PER_ROUND_MAX {
                let Some(next) = self.next_address() else { break };
                dialled += 1;
                running.push(self.dial(next));
            }
            let ended = tokio::select! {
                ended = running.next() => ended,
                () = self.discovery.told.notified(), if running.len() < at_once => continue,
            };
            match ended {
                Some(true) => connected += 1,
                Some(false) => {}
                None => break,
            }
        }
        let counts = self.discovery.book.lock().counts();
        let outcome = match (dialled, connected) {
            (0, _) => Outcome::Empty,
            (_, 0) => Outcome::Failed,
            _ => Outcome::Found,
        };
        let detail = format!("{dialled} dialled, {connected} connected");
        self.discovery.report(&Source::Book, outcome, counts.new + counts.tried, detail, self.shared.clock.now());
    }

    /// The next address to connect to: in a group without an outbound connection if there is one.
    fn next_address(&self) -> Option<PeerAddress> {
        self.draw(|book, rng, now, may| {
            let alone = book.choose(rng, now, |socket, entry| may(socket, entry, 0));
            alone.or_else(|| book.choose(rng, now, |socket, entry| may(socket, entry, OUTBOUND_PER_GROUP_MAX - 1)))
        })
    }

    /// Draws an address from the book and marks it as being dialled.
    fn draw(
        &self,
        choose: impl FnOnce(
            &Book,
            &mut rand_chacha::ChaCha8Rng,
            trellis_primitives::UnixMs,
            &dyn Fn(SocketAddr, &Entry, usize) -> bool,
        ) -> Option<SocketAddr>,
    ) -> Option<PeerAddress> {
        if self.discovery.networks == Networks::Hidden {
            // Its tables hold sockets, which are of the clear network.
            return None;
        }
        let now = self.shared.clock.now();
        let infos = self.shared.table.lock().infos();
        let nodes: Vec<NodeId> = self.discovery.book.lock().entries().filter_map(|(_, entry)| entry.node).collect();
        let banned: BTreeSet<NodeId> =
            nodes.into_iter().filter(|node| self.shared.guard.ban_of(*node).is_some()).collect();
        let guard = &self.shared.guard;
        let crowded = |dialled: &BTreeSet<NodeId>| guard.known_clusters().crowded(dialled, CLUSTER_OUTBOUND_MAX);
        let connected = Connected::of(&infos, self.shared.local_peer, crowded);
        let dialling = self.discovery.dialling.lock().clone();
        let may = |socket: SocketAddr, entry: &Entry, in_group_max: usize| {
            !dialling.contains(&socket)
                && !entry.node.is_some_and(|node| banned.contains(&node))
                && connected.lacks(socket, entry, in_group_max)
        };
        let mut book = self.discovery.book.lock();
        let socket = choose(&book, &mut self.discovery.rng.lock(), now, &may)?;
        book.dialled(socket, now);
        let peer = book.get(socket)?.peer;
        Some(PeerAddress { socket, peer })
    }

    /// Dials an address and tells the book what came of it. `true` if a node is there.
    pub(super) async fn dial(&self, address: PeerAddress) -> bool {
        if !self.discovery.dialling.lock().insert(address.socket) {
            return false;
        }
        let result = self.shared.dial(&address.to_string()).await;
        self.discovery.dialling.lock().remove(&address.socket);
        let now = self.shared.clock.now();
        let answered = match result {
            Ok(node) => {
                self.found(address, node);
                true
            }
            Err(DialError::Closed) => false,
            Err(error) => {
                tracing::debug!(%address, %error, "not connected");
                let mut book = self.discovery.book.lock();
                match error {
                    // Whoever is there will not be of this network, or another node, in an hour either.
                    DialError::Refused {
                        reason:
                            RefusalReason::WrongNetwork | RefusalReason::WrongGenesis | RefusalReason::SelfConnection,
                        ..
                    } => book.forget(address.socket),
                    DialError::Refused { by: RefusedBy::Them, .. } => book.refused(address.socket, now),
                    _ => book.failed(address.socket, now),
                }
                false
            }
        };
        self.book_changed();
        answered
    }

    /// A dial ended at a node. If it had been connected under its name before, nothing was dialled and nothing is proven.
    fn found(&self, address: PeerAddress, node: NodeId) {
        let Some(info) = self.info(node) else { return };
        let remote = remote_of(&info).map(|remote| remote.socket);
        if address.peer.is_none() || remote == Some(address.socket) {
            let peer = info.peer_id.parse().ok().or(address.peer);
            let proven = PeerAddress { peer, ..address };
            self.reached(proven, node);
        }
    }

    /// A node was reached at an address by a dial of this node. One of a party that has its part of *tried* stays among those
    /// that were heard of (NET-37).
    pub(super) fn reached(&self, address: PeerAddress, node: NodeId) {
        let now = self.shared.clock.now();
        let public = address.class() == Some(AddressClass::Public);
        let groups = if public { self.shared.guard.known_clusters().others(node) } else { Vec::new() };
        let mut book = self.discovery.book.lock();
        let tried = groups.iter().map(|others| others.iter().filter(|other| book.was_reached(**other)).count()).max();
        if tried.is_some_and(|tried| tried >= CLUSTER_TRIED_MAX) && !book.was_reached(node) {
            book.refused(address.socket, now);
        } else {
            book.reached(address, node, AddressGroup::OPERATOR, now);
        }
    }

    /// Tests addresses that were only heard of, one at a time, while enough outbound connections stand.
    pub(super) async fn feel(&self) {
        loop {
            tokio::time::sleep(self.discovery.jittered(self.discovery.config.feeler_ms)).await;
            if self.is_short() {
                continue;
            }
            let next = self.draw(|book, rng, now, may| {
                book.choose_feeler(rng, now, |socket, entry| may(socket, entry, usize::MAX))
            });
            if let Some(address) = next {
                self.discovery.metrics.feelers.inc();
                self.feeler(address).await;
            }
        }
    }

    async fn feeler(&self, address: PeerAddress) {
        let started = self.shared.clock.now();
        if !self.dial(address).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(FEELER_STAY_MS)).await;
        let infos = self.shared.table.lock().infos();
        let at = |info: &&PeerInfo| remote_of(info).is_some_and(|remote| remote.socket == address.socket);
        let Some(info) = outbound(&infos).find(at) else { return };
        // Somebody may have found a use for it meanwhile; within twice the minimum it may stay then.
        let in_use = info.streams > 0 && self.outbound_count() <= 2 * self.discovery.config.outbound_min;
        let is_new = info.connected_since.is_some_and(|since| since >= started);
        if let (Some(node), true, false) = (info.id, is_new, in_use) {
            self.shared.disconnect(node, DisconnectReason::ConnectionLimit).await;
        }
    }
}
