//! The task that keeps this node reachable: it tells the relays' keeper what it sees, and does what the keeper wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use trellis_net_reach::reachability::Reachability;
use trellis_net_reach::relay::keeper::{RELAYS_KNOWN_MAX, RelayAction, RelayEvent, RelayStage};
use trellis_primitives::{NodeId, UnixMs};

use super::ADDRESSES_PER_RELAY_MAX;
use super::again::PunchPlan;
use crate::discovery::address::{is_tcp, without_name, worth_telling};
use crate::guard::Conduct;
use crate::reason::DisconnectReason;
use crate::service::{Command, NodeShared};
use crate::table::RelayPeer;

/// Between two looks, at most.
const LOOK_EVERY_MS: u64 = 500;
/// A relay in use is asked for a sign of life this often.
const PROBE_EVERY_MS: u64 = 1_500;
/// A relay in use that gives none within this is taken for dead, long before its connection is: everything over it has to
/// move within 10 s.
const PROBE_MS_MAX: u64 = 4_000;
/// Between two tries to connect to a relay over TCP too.
const TCP_EVERY_MS: u64 = 30_000;

/// What the task remembers between two looks.
#[derive(Default)]
struct Keeping {
    connected: BTreeSet<PeerId>,
    /// Of the list of relays that records tell of.
    told_version: u64,
    /// The addresses of each connected relay.
    places: BTreeMap<PeerId, Places>,
    verdict: Option<Reachability>,
    /// Its addresses that peers have connected to.
    confirmed: Vec<Multiaddr>,
    probed: BTreeMap<PeerId, UnixMs>,
    tcp_tried: Option<UnixMs>,
    punches: PunchPlan,
}

/// The addresses of a relay's record, read once.
struct Places {
    /// As the record has them.
    told: Vec<String>,
    addresses: Vec<Multiaddr>,
    /// Those of the widest class, without names.
    widest: Vec<String>,
}

impl Places {
    fn of(told: &[String]) -> Self {
        let addresses = told.iter().filter_map(|text| text.parse().ok()).collect();
        let widest = worth_telling(told).iter().map(|text| without_name(text).to_owned()).collect();
        Self { told: told.to_vec(), addresses, widest }
    }
}

/// Keeps this node reachable until its network closes.
pub(crate) async fn keep_reachable(shared: Arc<NodeShared>) {
    let mut keeping = Keeping::default();
    let mut looks = tokio::time::interval(Duration::from_millis(LOOK_EVERY_MS));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            _ = looks.tick() => {}
            () = shared.reach.wake.notified() => {}
        }
        keeping.look(&shared);
        shared.close_superfluous();
    }
}

impl Keeping {
    fn look(&mut self, shared: &Arc<NodeShared>) {
        let now = shared.clock.now();
        let relays: Vec<RelayPeer> =
            if shared.config.relays_wanted > 0 { shared.table.lock().relays() } else { Vec::new() };
        self.read(&relays);
        self.tell(shared, &relays, now);
        let verdict = self.judge(shared, now);
        let needed = verdict == Reachability::Private && shared.config.relay.is_none() && shared.config.proxy.is_none();
        let actions = shared.reach.keeper.lock().step(needed, now.0);
        for action in actions {
            self.act(shared, action, &relays);
        }
        self.probe(shared, &relays, now);
        if needed {
            self.look_over_tcp(shared, &relays, now);
        }
        self.punch_again(shared, now);
        let confirmed = shared.reach.way.lock().confirmed(now.0);
        let others = std::mem::replace(&mut self.confirmed, confirmed) != self.confirmed;
        if self.renew_circuits(shared, &relays) || others {
            shared.tell_record();
        }
    }

    /// Has holes punched anew to peers that are still reached over relays alone.
    fn punch_again(&mut self, shared: &NodeShared, now: UnixMs) {
        if shared.config.proxy.is_some() {
            return;
        }
        let relayed = shared.table.lock().dialled_over_relays();
        let nodes: BTreeSet<NodeId> = relayed.iter().map(|(node, ..)| *node).collect();
        let due = self.punches.due(&nodes, shared.reach.candidates.load(Ordering::Relaxed), now);
        for (node, peer, at) in relayed.into_iter().filter(|(node, ..)| due.contains(node)) {
            tracing::debug!(%node, %at, "another attempt at a direct way");
            // Where the queue is full there is a next time.
            let _ = shared.commands.try_send(Command::Look { peer, at });
        }
    }

    /// Reads the addresses of connected relays that are new or have changed.
    fn read(&mut self, relays: &[RelayPeer]) {
        self.places.retain(|peer, _| relays.iter().any(|relay| relay.peer == *peer));
        for relay in relays {
            if self.places.get(&relay.peer).is_none_or(|places| places.told != relay.addresses) {
                self.places.insert(relay.peer, Places::of(&relay.addresses));
            }
        }
    }

    /// Tells the keeper who is connected and who was told of.
    fn tell(&mut self, shared: &NodeShared, relays: &[RelayPeer], now: UnixMs) {
        let told = shared.discovery.as_ref().and_then(|discovery| discovery.relays_since(self.told_version, now));
        let told = told.map_or_else(Vec::new, |told| {
            self.told_version = told.version;
            told.relays
        });
        let here = |region: &str| !region.is_empty() && region == shared.config.region;
        let mut keeper = shared.reach.keeper.lock();
        let mut known = shared.reach.known.lock();
        for (peer, addresses) in told {
            keeper.told(&peer, false, now.0);
            known.insert(peer, addresses);
        }
        let connected: BTreeSet<PeerId> = relays.iter().map(|relay| relay.peer).collect();
        for relay in relays {
            keeper.met(&relay.peer, here(&relay.region), now.0);
            keeper.event(&relay.peer, RelayEvent::Connected, now.0);
            if let Some(us) = relay.latency_us {
                keeper.event(&relay.peer, RelayEvent::Latency { us }, now.0);
            }
            if let Some(places) = self.places.get(&relay.peer) {
                known.insert(relay.peer, places.addresses.clone());
            }
        }
        for gone in self.connected.difference(&connected) {
            keeper.event(gone, RelayEvent::Lost, now.0);
        }
        self.connected = connected;
        if known.len() > RELAYS_KNOWN_MAX {
            let kept: BTreeSet<PeerId> = keeper.all().map(|(peer, ..)| *peer).collect();
            known.retain(|peer, _| kept.contains(peer));
        }
        let reserved = i64::try_from(keeper.reserved().count()).unwrap_or(i64::MAX);
        shared.reach.metrics.reserved.set(reserved);
    }

    fn judge(&mut self, shared: &NodeShared, now: UnixMs) -> Reachability {
        let has_peers = shared.table.lock().connected_count() > 0;
        let mut way = shared.reach.way.lock();
        way.peers(has_peers, now.0);
        let verdict = way.verdict(now.0);
        drop(way);
        if self.verdict.replace(verdict) != Some(verdict) {
            tracing::info!(reachability = verdict.word(), "whether others can connect to this node");
        }
        verdict
    }

    fn act(&self, shared: &Arc<NodeShared>, action: RelayAction<PeerId>, relays: &[RelayPeer]) {
        match action {
            RelayAction::Connect(relay) => {
                let addresses = shared.reach.known.lock().get(&relay).cloned().unwrap_or_default();
                let shared = Arc::clone(shared);
                tokio::spawn(async move {
                    if let Err(error) = shared.dial_any(Some(relay), addresses).await {
                        tracing::debug!(%relay, %error, "the relay is not reached");
                        shared.reach.event(&relay, RelayEvent::Failed, shared.clock.now().0);
                    } else {
                        shared.reach.wake.notify_one();
                    }
                });
            }
            RelayAction::Reserve(relay) => {
                let at = relays.iter().find(|known| known.peer == relay).and_then(|known| known.at.clone());
                match at {
                    Some(at) => self.command(shared, Command::Reserve { relay, at }),
                    None => shared.reach.event(&relay, RelayEvent::Failed, shared.clock.now().0),
                }
            }
            RelayAction::Release(relay) => self.command(shared, Command::Release { relay }),
        }
    }

    fn command(&self, shared: &Arc<NodeShared>, command: Command) {
        let commands = shared.commands.clone();
        tokio::spawn(async move { commands.send(command).await });
    }

    /// Asks the relays in use for a sign of life, those too over which only circuits of this node's own dials go.
    fn probe(&mut self, shared: &Arc<NodeShared>, relays: &[RelayPeer], now: UnixMs) {
        let mut used = shared.table.lock().relays_in_use();
        used.extend(self.compared(shared));
        self.probed.retain(|peer, _| used.contains(peer));
        for relay in relays.iter().filter(|relay| used.contains(&relay.peer)) {
            let last = self.probed.get(&relay.peer).copied();
            if last.is_some_and(|last| now.ms_since(last) < PROBE_EVERY_MS) {
                continue;
            }
            self.probed.insert(relay.peer, now);
            tokio::spawn(probe_one(Arc::clone(shared), relay.node, relay.peer));
        }
    }

    /// A node that also listens on TCP connects to one of its relays that way too: only so it learns at which address a hole
    /// can be punched over TCP, for peers whose network lets no UDP through.
    fn look_over_tcp(&mut self, shared: &Arc<NodeShared>, relays: &[RelayPeer], now: UnixMs) {
        let listens = shared.listening.lock().iter().any(is_tcp);
        let waits = self.tcp_tried.is_some_and(|tried| now.ms_since(tried) < TCP_EVERY_MS);
        if !listens || waits || relays.iter().any(|relay| relay.over_tcp) {
            return;
        }
        let place = |relay: &RelayPeer| {
            let mut places = self.places.get(&relay.peer)?.addresses.iter().filter(|at| is_tcp(at));
            let place = places.next()?.iter().take_while(|part| !matches!(part, Part::P2p(_))).collect();
            Some((relay.peer, place))
        };
        if let Some((relay, at)) = relays.iter().find_map(place) {
            self.tcp_tried = Some(now);
            self.command(shared, Command::Look { peer: relay, at });
        }
    }

    /// Relays with a reservation, and connected ones until they are measured.
    fn compared(&self, shared: &NodeShared) -> Vec<PeerId> {
        let keeper = shared.reach.keeper.lock();
        let of = |(peer, stage, latency): (&PeerId, RelayStage, Option<u32>)| {
            let held = matches!(stage, RelayStage::Reserved | RelayStage::Reserving);
            (held || stage == RelayStage::Connected && latency.is_none()).then_some(*peer)
        };
        keeper.all().filter_map(of).collect()
    }

    /// Puts together this node's addresses over its relays. `true` if they changed.
    fn renew_circuits(&self, shared: &NodeShared, relays: &[RelayPeer]) -> bool {
        let reserved: BTreeSet<PeerId> = shared.reach.keeper.lock().reserved().copied().collect();
        let mut circuits = Vec::new();
        for relay in relays.iter().filter(|relay| reserved.contains(&relay.peer)) {
            let at = relay.at.iter().map(ToString::to_string).map(|text| without_name(&text).to_owned());
            let mut places: Vec<String> = at.collect();
            for told in self.places.get(&relay.peer).map(|places| places.widest.as_slice()).unwrap_or_default() {
                if !places.contains(told) {
                    places.push(told.clone());
                }
            }
            let way = |place: &String| format!("{place}/p2p/{}/p2p-circuit", relay.peer);
            circuits.extend(places.iter().take(ADDRESSES_PER_RELAY_MAX).map(way));
        }
        let mut before = shared.reach.circuits.lock();
        if *before == circuits {
            return false;
        }
        *before = circuits;
        true
    }
}

async fn probe_one(shared: Arc<NodeShared>, node: NodeId, peer: PeerId) {
    let limit = Duration::from_millis(PROBE_MS_MAX);
    match tokio::time::timeout(limit, Arc::clone(&shared).ping(node)).await {
        Ok(Ok(pong)) => {
            let us = u32::try_from(pong.round_trip.as_micros()).unwrap_or(u32::MAX);
            shared.reach.event_quietly(&peer, RelayEvent::Latency { us }, shared.clock.now().0);
        }
        // It is gone already, or too busy to open a stream; the next look says which.
        Ok(Err(error)) => tracing::debug!(relay = %node, %error, "no sign of life asked for"),
        Err(_) => {
            tracing::info!(relay = %node, after_ms = PROBE_MS_MAX, "the relay gives no sign of life; what goes over it moves");
            shared.report(node, Conduct::RelayFailed);
            shared.cut(node, DisconnectReason::NetworkError);
            shared.reach.event(&peer, RelayEvent::Lost, shared.clock.now().0);
        }
    }
}
