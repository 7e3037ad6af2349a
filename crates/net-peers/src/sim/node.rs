//! One simulated node and its handle.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use trellis_primitives::{NodeId, SharedClock};

use super::pipe::pipe;
use super::{Link, SimNet, SimNode, other, pair};
use crate::broadcast::Broadcaster;
use crate::config::{ACCEPT_QUEUE_STREAMS_MAX, EVENTS_BUFFERED_MAX};
use crate::error::{AcceptError, BroadcastError, DialError, OpenError, RefusedBy};
use crate::guard::{Added, Ban, Conduct, Guard, Priority, Response, Thresholds};
use crate::meter::{Counters, Metered};
use crate::metrics::NetMetrics;
use crate::network::{Acceptor, BroadcastReport, NetStream, NetStreamSlot, Network, Pong, Protocol};
use crate::peer::{Direction, Path, PeerEvent, PeerInfo};
use crate::reason::{DisconnectReason, RefusalReason};
use crate::state::PeerState;

type AcceptSender = mpsc::Sender<(NodeId, NetStreamSlot)>;

pub(super) struct NodeState {
    pub(super) node: SimNode,
    pub(super) events: broadcast::Sender<PeerEvent>,
    pub(super) closed: CancellationToken,
    acceptors: Mutex<HashMap<Protocol, AcceptSender>>,
    counters: Mutex<BTreeMap<NodeId, Arc<Counters>>>,
    broadcaster: Broadcaster,
    pub(super) guard: Arc<Guard>,
}

impl NodeState {
    pub(super) fn new(node: SimNode, clock: SharedClock) -> Self {
        let events = broadcast::channel(EVENTS_BUFFERED_MAX).0;
        let guard = Guard::open(Thresholds::default(), None, clock, NetMetrics::default(), events.clone());
        Self {
            node,
            events,
            guard,
            closed: CancellationToken::new(),
            acceptors: Mutex::default(),
            counters: Mutex::default(),
            broadcaster: Broadcaster::default(),
        }
    }

    pub(super) fn disconnected(&self, peer: NodeId, reason: DisconnectReason) {
        self.broadcaster.forget(peer);
        let _ = self.events.send(PeerEvent::Disconnected { peer, reason });
    }

    pub(super) fn refused(&self, peer: NodeId, by: RefusedBy, reason: RefusalReason) {
        let address = SimNet::address(peer);
        let _ = self.events.send(PeerEvent::Refused { peer: Some(peer), address, by, reason });
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
        self.broadcaster.clear();
        self.acceptors.lock().clear();
    }

    fn counters(&self, peer: NodeId) -> Arc<Counters> {
        Arc::clone(self.counters.lock().entry(peer).or_default())
    }
}

/// The handle of a simulated node.
pub(super) struct SimHandle {
    pub(super) net: SimNet,
    pub(super) state: Arc<NodeState>,
}

async fn open(net: SimNet, state: Arc<NodeState>, peer: NodeId, protocol: Protocol) -> Result<NetStream, OpenError> {
    if state.closed.is_cancelled() {
        return Err(OpenError::Closed);
    }
    let latency = net.draw_latency();
    if !latency.is_zero() {
        // The name of the protocol goes there and the answer comes back before the stream is usable.
        tokio::time::sleep(latency * 2).await;
    }
    let (link, remote) = {
        let world = net.inner.world.lock();
        let link = world.links.get(&pair(state.node.id, peer)).cloned();
        link.zip(world.nodes.get(&peer).cloned()).ok_or(OpenError::NotConnected(peer))?
    };
    let acceptor = {
        let mut acceptors = remote.acceptors.lock();
        acceptors.retain(|_, acceptor| !acceptor.is_closed());
        acceptors.get(&protocol).cloned().ok_or(OpenError::Unsupported { peer, protocol })?
    };
    let (near, far) = pipe(latency, &link.lost);
    let clock = &net.inner.clock;
    let near = Metered::new(near, Arc::clone(clock), state.counters(peer));
    let far = Metered::new(far, Arc::clone(clock), remote.counters(state.node.id));
    match acceptor.try_send((state.node.id, NetStreamSlot(Box::new(far)))) {
        Ok(()) => Ok(Box::new(near)),
        Err(mpsc::error::TrySendError::Full(_)) => Err(OpenError::Busy(peer)),
        Err(mpsc::error::TrySendError::Closed(_)) => Err(OpenError::Unsupported { peer, protocol }),
    }
}

impl SimHandle {
    fn info(&self, peer: &NodeState, link: &Link, latency_ms: f64) -> PeerInfo {
        let id = peer.node.id;
        let counters = self.state.counters(id);
        let outbound = link.dialer == self.state.node.id;
        PeerInfo {
            id: Some(id),
            peer_id: format!("sim-{}", id.short()),
            record: peer.node.record.clone(),
            roles: peer.node.roles,
            user_agent: "trellis-sim".to_owned(),
            protocol_version: Some(crate::config::PROTOCOL_VERSION_MAX),
            best_height: Some(peer.node.best_height),
            addresses: vec![SimNet::address(id)],
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            state: PeerState::Connected,
            state_since: link.since,
            history: Vec::new(),
            banned: false,
            reputation: self.state.guard.score(id),
            connected_since: Some(link.since),
            last_activity: counters.last_activity(),
            latency_ms: Some(latency_ms),
            latency_variance: Some(0.0),
            key_exchange: "simulated".to_owned(),
            mldsa_authenticated: false,
            path: Path::Simulated,
            direct_after_ms: None,
            bytes_in: counters.bytes_in.load(Ordering::Relaxed),
            bytes_out: counters.bytes_out.load(Ordering::Relaxed),
            messages_in: counters.messages_in.load(Ordering::Relaxed),
            messages_out: counters.messages_out.load(Ordering::Relaxed),
            streams: counters.streams.load(Ordering::Relaxed),
            disconnect_reason: None,
            refusal_reason: None,
        }
    }
}

#[async_trait]
impl Network for SimHandle {
    fn local_id(&self) -> NodeId {
        self.state.node.id
    }

    fn listen_addresses(&self) -> Vec<String> {
        vec![SimNet::address(self.state.node.id)]
    }

    async fn dial(&self, address: &str) -> Result<NodeId, DialError> {
        self.net.connect(&self.state, address).await
    }

    async fn open(&self, peer: NodeId, protocol: Protocol) -> Result<NetStream, OpenError> {
        open(self.net.clone(), Arc::clone(&self.state), peer, protocol).await
    }

    fn accept(&self, protocol: Protocol) -> Result<Acceptor, AcceptError> {
        if self.state.closed.is_cancelled() {
            return Err(AcceptError::Closed);
        }
        let mut acceptors = self.state.acceptors.lock();
        if acceptors.get(&protocol).is_some_and(|acceptor| !acceptor.is_closed()) {
            return Err(AcceptError::AlreadyRegistered(protocol));
        }
        let (sender, receiver) = mpsc::channel(ACCEPT_QUEUE_STREAMS_MAX);
        acceptors.insert(protocol, sender);
        Ok(Acceptor::new(receiver))
    }

    async fn broadcast(&self, peers: &[NodeId], protocol: Protocol, message: Bytes) -> BroadcastReport {
        let mut report = BroadcastReport::default();
        for peer in peers.iter().copied() {
            let connected = self.net.inner.world.lock().links.contains_key(&pair(self.state.node.id, peer));
            let sent = if connected {
                let (net, state) = (self.net.clone(), Arc::clone(&self.state));
                let stream = || Box::pin(open(net, state, peer, protocol)) as _;
                self.state.broadcaster.send(peer, protocol, message.clone(), stream)
            } else {
                Err(BroadcastError::NotConnected)
            };
            match sent {
                Ok(()) => report.queued.push(peer),
                Err(error) => report.failed.push((peer, error)),
            }
        }
        report
    }

    fn peers(&self) -> Vec<PeerInfo> {
        let world = self.net.inner.world.lock();
        let latency_ms = world.latency.as_secs_f64() * 2_000.0;
        let mine = world.links.iter().filter_map(|(ids, link)| Some((other(*ids, self.state.node.id)?, link)));
        mine.filter_map(|(id, link)| Some(self.info(world.nodes.get(&id)?, link, latency_ms))).collect()
    }

    fn events(&self) -> broadcast::Receiver<PeerEvent> {
        self.state.events.subscribe()
    }

    async fn disconnect(&self, peer: NodeId, reason: DisconnectReason) {
        if reason == DisconnectReason::Banned {
            self.state.guard.ban(peer, None);
        }
        self.net.cut(self.state.node.id, peer, reason);
    }

    fn report(&self, peer: NodeId, conduct: Conduct) {
        match self.state.guard.report(peer, conduct) {
            Some(Response::Disconnected { .. }) => {
                self.net.cut(self.state.node.id, peer, DisconnectReason::InvalidMessage);
            }
            Some(Response::Banned { .. }) => self.net.cut(self.state.node.id, peer, DisconnectReason::Banned),
            Some(Response::Warned | Response::Throttled { .. }) | None => {}
        }
    }

    fn guard(&self) -> Arc<Guard> {
        Arc::clone(&self.state.guard)
    }

    async fn ban(&self, peer: NodeId, for_ms: Option<u64>) -> Ban {
        let ban = self.state.guard.ban(peer, for_ms);
        self.net.cut(self.state.node.id, peer, DisconnectReason::Banned);
        ban
    }

    async fn add_peer(&self, address: &str, priority: Priority) -> Result<NodeId, DialError> {
        let reached = self.net.connect(&self.state, address).await;
        if priority != Priority::Low && matches!(reached, Ok(_) | Err(DialError::Unreachable { .. })) {
            self.state.guard.add(Added { address: address.to_owned(), priority });
        }
        reached
    }

    fn prefer(&self, peers: &[NodeId]) {
        for peer in peers.iter().take(crate::PREFERRED_MAX) {
            let (net, state, address) = (self.net.clone(), Arc::clone(&self.state), SimNet::address(*peer));
            tokio::spawn(async move { net.connect(&state, &address).await });
        }
    }

    async fn reconnect(&self, peer: NodeId) -> Result<NodeId, DialError> {
        self.net.connect(&self.state, &SimNet::address(peer)).await
    }

    fn forget_added(&self, address: Option<&str>, peer: Option<NodeId>) -> Vec<String> {
        let own = peer.map(SimNet::address);
        let names = [address, own.as_deref()];
        let gone = self.state.guard.remove_added(|added| names.contains(&Some(added.address.as_str())));
        gone.into_iter().map(|added| added.address).collect()
    }

    async fn ping(&self, peer: NodeId) -> Result<Pong, OpenError> {
        let round_trip = self.net.draw_latency() * 2;
        tokio::time::sleep(round_trip).await;
        if !self.net.inner.world.lock().links.contains_key(&pair(self.state.node.id, peer)) {
            return Err(OpenError::NotConnected(peer));
        }
        Ok(Pong { round_trip, path: Path::Simulated, address: SimNet::address(peer) })
    }

    async fn shutdown(&self) {
        self.net.stop(self.state.node.id, DisconnectReason::Shutdown);
    }
}
