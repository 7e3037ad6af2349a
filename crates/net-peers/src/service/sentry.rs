//! What runs beside the service to keep attackers at their distance: offences become responses, broken handshakes become
//! threats, known peers become known to the door, and nobody fills the table from one network.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use libp2p::core::Multiaddr;
use libp2p::swarm::ConnectionId;
use tokio::sync::mpsc;
use trellis_net_transport::{Admission, Direction, FloodFn, Gate, GateFn, TransportError};
use trellis_primitives::NodeId;

use super::NodeShared;
use super::defence::public;
use crate::discovery::address::{AddressClass, AddressGroup};
use crate::guard::{CLUSTER_PLACES_MAX, Conduct, Door, Guard, Pattern, Seen, Threat};
use crate::handshake::{Accepted, Refusal};
use crate::reason::{DisconnectReason, RefusalReason};
use crate::streams::socket_address;
use crate::watch::Offence;

/// Between two looks at who has become known.
const KNOWN_MS: u64 = 2_000;
/// Between two looks at what flows.
const USAGE_MS: u64 = 1_000;
/// Inbound peers of one group of neighbours (/16, /32) that are let in however few places there are.
const GROUP_PEERS_MIN: usize = 4;
/// One part in so many of the places for inbound peers is the most that one group of neighbours gets.
const GROUP_SHARE: usize = 4;
/// One part in so many of all places is the most that is kept free for outbound peers.
const OUTBOUND_SHARE_MAX: usize = 4;

/// What the socket asks about every first packet, before anything is decrypted (NET-58).
pub(super) fn gate(guard: Arc<Guard>, admission: Admission) -> GateFn {
    Arc::new(move |remote: SocketAddr| {
        if admission.exempts(remote.ip()) {
            return Gate::Pass;
        }
        match guard.level(remote.ip()) {
            Door::Open => Gate::Pass,
            Door::Retry | Door::Wait => Gate::Ration,
            Door::Blocked => Gate::Drop,
        }
    })
}

/// What the socket tells of an address that floods it with first packets.
pub(super) fn flooded(guard: Arc<Guard>) -> FloodFn {
    Arc::new(move |ip| guard.threat(ip, Threat::Flood))
}

/// Takes offences out of the queue and acts on them, until the network has ended.
pub(super) async fn act(shared: Arc<NodeShared>, mut offences: mpsc::Receiver<Offence>) {
    loop {
        let offence = tokio::select! {
            () = shared.ended.cancelled() => return,
            offence = offences.recv() => offence,
        };
        let Some(Offence { peer, pattern, cut }) = offence else { return };
        shared.report(peer, Conduct::Invalid { pattern });
        if cut && !shared.is_exempt(peer) {
            shared.cut(peer, DisconnectReason::TooSlow);
        }
    }
}

/// Tells the door which addresses known peers live at, and gives their connections' places back.
pub(super) async fn keep_known(shared: Arc<NodeShared>) {
    let mut vouched: HashMap<IpAddr, u32> = HashMap::new();
    while rest(&shared, KNOWN_MS).await {
        let known = shared.guard.count_known();
        for gone in vouched.keys().filter(|ip| !known.contains_key(ip)) {
            shared.admission.vouch(*gone, 0);
        }
        for (ip, peers) in &known {
            shared.admission.vouch(*ip, *peers);
        }
        vouched = known;
        let connections = shared.table.lock().handshaken();
        for (peer, remote) in connections {
            if shared.is_known(peer) {
                shared.admission.prove(remote);
            }
        }
    }
}

/// Looks at what flows, once a second.
pub(super) async fn keep_usage(shared: Arc<NodeShared>) {
    while rest(&shared, USAGE_MS).await {
        shared.bandwidth.sample();
        shared.metrics.show_usage(&shared.bandwidth.usage());
        shared.metrics.half_open.set(i64::from(shared.admission.half_open()));
        shared.metrics.under_attack.set(i64::from(shared.guard.under_attack()));
        shared.metrics.show_clusters(&shared.guard.clusters());
    }
}

/// Waits; `false` once the network has ended.
async fn rest(shared: &NodeShared, ms: u64) -> bool {
    tokio::select! {
        () = shared.ended.cancelled() => false,
        () = tokio::time::sleep(Duration::from_millis(ms)) => true,
    }
}

impl NodeShared {
    /// A peer that is trusted before it has shown anything: of the committee, from the bootstrap list, or known from before.
    fn is_known(&self, peer: NodeId) -> bool {
        self.bootstrapped.lock().contains(&peer) || self.guard.is_proven(peer)
    }

    /// A member of the committee: local reputation never closes its connections.
    fn is_exempt(&self, peer: NodeId) -> bool {
        self.guard.is_exempt(peer)
    }

    /// An inbound connection ended before its handshake did.
    pub(super) fn handshake_broke(&self, address: &Multiaddr, error: &TransportError) {
        // What the policy and the proofs refuse is held against the address where the refusal is reported.
        let threat = match (error.is_unfinished(), error.is_broken()) {
            (true, _) => Threat::HalfOpen,
            (false, true) => Threat::FailedHandshake,
            (false, false) => return,
        };
        self.hold_threat(address, threat);
    }

    /// A peer that dialled this node took a connection and never shook hands on it.
    pub(super) fn left_unfinished(&self, address: &str) {
        if let Ok(address) = address.parse::<Multiaddr>() {
            self.hold_threat(&address, Threat::HalfOpen);
        }
    }

    /// Something is held against an address, unless it is exempt.
    pub(super) fn hold_threat(&self, address: &Multiaddr, threat: Threat) {
        let ip = socket_address(address).and_then(|socket| public(socket.ip(), self.config.limits.private_exempt));
        if let Some(ip) = ip.filter(|ip| !self.admission.exempts(*ip)) {
            self.guard.threat(ip, threat);
        }
    }

    /// Whether a stranger that has shown who it is may come in from there, and how many may in all (NET-50, NET-55).
    /// A relay's client has no address of its own: the relay counts it, and it takes a place here like all others.
    pub(super) fn check_crowd(
        &self,
        accepted: &Accepted,
        remote: Option<IpAddr>,
        direction: Direction,
    ) -> Result<(), Refusal> {
        let peer = accepted.id;
        let ip = remote.filter(|ip| !self.is_exempt_from_crowds(*ip));
        self.guard.seen(peer, &accepted.record, Seen::Here { ip, agent: &accepted.user_agent });
        if direction == Direction::Outbound || self.is_known(peer) {
            return Ok(());
        }
        let ip = remote.map(|ip| ip.to_canonical());
        let (inbound, group) = {
            let table = self.table.lock();
            let of = |ip: IpAddr| table.crowd().inbound_of(AddressGroup::of(SocketAddr::new(ip, 0)));
            (table.crowd().inbound(), ip.map(of).unwrap_or_default())
        };
        let places = self.inbound_max();
        if inbound >= places {
            return Err(Refusal::new(RefusalReason::Full, "the other places are for peers that this node dials"));
        }
        self.check_cluster(peer, remote)?;
        let Some(ip) = ip else { return Ok(()) };
        let exempt = self.admission.exempts(ip);
        if !exempt && self.admission.is_crowded(ip) {
            return Err(Refusal::new(RefusalReason::Full, "too many strangers from this address or subnet"));
        }
        if !exempt && AddressClass::of(ip) == Some(AddressClass::Public) && group >= group_max(places) {
            self.guard.recognised(Pattern::EclipsePressure, Some(peer), Some(ip));
            return Err(Refusal::new(RefusalReason::Full, "too many peers of one network"));
        }
        Ok(())
    }

    /// Whether peers from an address are counted in no crowd: listed networks and, by default, private ones (NET-50).
    fn is_exempt_from_crowds(&self, ip: IpAddr) -> bool {
        self.admission.exempts(ip) || self.counted(ip).is_none()
    }

    /// Whether a peer whose handshake has ended still finds a place: many may have found the same last one free, and here they
    /// come one after the other (NET-37, NET-50).
    pub(super) fn check_place(&self, peer: NodeId, connection: ConnectionId) -> Result<(), Refusal> {
        if !self.has_room(peer) {
            return Err(Refusal::new(RefusalReason::Full, "no room for another peer"));
        }
        let (inbound, remote) = {
            let table = self.table.lock();
            (table.direction(connection) == Some(Direction::Inbound), table.remote_ip(connection))
        };
        if inbound && !self.is_known(peer) { self.check_cluster(peer, remote) } else { Ok(()) }
    }

    /// Whether a stranger finds a place among those that its party gets (NET-37).
    fn check_cluster(&self, peer: NodeId, remote: Option<IpAddr>) -> Result<(), Refusal> {
        // Another way to a peer that has its place already takes none.
        if remote.is_some_and(|ip| self.is_exempt_from_crowds(ip)) || self.is_connected(peer) {
            return Ok(());
        }
        let groups = self.guard.known_clusters().connected_others(peer);
        let of_one_party = groups.into_iter().filter(|others| others.len() >= CLUSTER_PLACES_MAX);
        let is_stranger = |other: &&NodeId| self.table.lock().has_dialled_here(**other) && !self.is_known(**other);
        let strangers = of_one_party.map(|others| others.iter().filter(is_stranger).count()).max();
        if strangers.is_some_and(|strangers| strangers >= CLUSTER_PLACES_MAX) {
            self.guard.known_clusters().count_refused();
            self.metrics.sybils_refused.inc();
            self.guard.recognised(Pattern::SybilCluster, Some(peer), remote);
            return Err(Refusal::new(RefusalReason::Full, "too many peers of one party"));
        }
        Ok(())
    }

    /// Places for peers that dialled this node: all but what it keeps for those it dials.
    fn inbound_max(&self) -> usize {
        let all = usize::try_from(self.config.peers_max).unwrap_or(usize::MAX);
        let kept = self.config.discovery.as_ref().map_or(0, |discovery| discovery.outbound_min);
        all.saturating_sub(kept.min(all / OUTBOUND_SHARE_MAX))
    }
}

/// The most inbound peers of one group of neighbours.
fn group_max(places: usize) -> usize {
    (places / GROUP_SHARE).max(GROUP_PEERS_MIN)
}
