//! The engine's network, over our streams: votes, repairs and status as broadcast frames on [`CONSENSUS_PROTOCOL`],
//! blocks in parts on [`PROPOSAL_PROTOCOL`], and requests for decided blocks as one stream each on [`SYNC_PROTOCOL`].
//!
//! Everything that comes in is bounded in size and pace before it is decoded, and reaches the engine without loss:
//! a peer that sends too fast is read more slowly, and its own queue fills. Peers without the validator role are not heard.

mod inbound;
mod requests;

pub(crate) use requests::RESPONSE_BYTES_MAX;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_malachitebft_engine::network::{Multiaddr, NetworkEvent, NetworkMsg, PersistentPeerError, Subscriber};
use arc_malachitebft_peer::PeerId;
use arc_malachitebft_sync::{InboundRequestId, OutboundRequestId, Response};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{broadcast, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use trellis_net_peers::{AcceptError, Acceptor, NetworkHandle, PeerEvent, PeerState, Protocol};
use trellis_primitives::{NodeId, Role};

use crate::config::EngineConfig;
use crate::context::Trellis;
use crate::metrics::EngineMetrics;
use crate::wire::{ConsensusBody, WireStatus, consensus_body, encode_body, encode_part, liveness_body};

/// Votes, proposals, certificates of rounds, status.
pub const CONSENSUS_PROTOCOL: Protocol = Protocol("/trellis/consensus/1");
/// Blocks on their way to the voters, in parts.
pub const PROPOSAL_PROTOCOL: Protocol = Protocol("/trellis/proposal/1");
/// Decided blocks for validators that fell behind.
pub const SYNC_PROTOCOL: Protocol = Protocol("/trellis/value-sync/1");

/// The handle through which the host publishes parts.
pub(crate) type NetRef = ActorRef<NetworkMsg<Trellis>>;

/// What the actor and its tasks share.
pub(crate) struct Shared {
    pub(crate) network: NetworkHandle,
    pub(crate) config: EngineConfig,
    pub(crate) metrics: EngineMetrics,
    subscribers: Mutex<Vec<Box<dyn Subscriber<NetworkEvent<Trellis>>>>>,
    peers: Mutex<BTreeSet<NodeId>>,
    inbound: Mutex<HashMap<InboundRequestId, oneshot::Sender<Response<Trellis>>>>,
    outbound: Mutex<HashMap<OutboundRequestId, AbortHandle>>,
    next_request: AtomicU64,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn new(network: NetworkHandle, config: EngineConfig, metrics: EngineMetrics) -> Arc<Self> {
        Arc::new(Self {
            network,
            config,
            metrics,
            subscribers: Mutex::default(),
            peers: Mutex::default(),
            inbound: Mutex::default(),
            outbound: Mutex::default(),
            next_request: AtomicU64::new(0),
            tasks: Mutex::default(),
        })
    }

    /// Ends every task and waits for those that hold the protocols' names, so that the engine can be started again.
    /// Not left to the actor's own end: an actor that is killed with its supervisor does not get to say goodbye.
    pub(crate) async fn shutdown(&self) {
        self.subscribers.lock().clear();
        self.inbound.lock().clear();
        for (_, task) in self.outbound.lock().drain() {
            task.abort();
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            // An aborted task ends with an error that says so.
            let _ = task.await;
        }
    }

    /// Validators connected now.
    pub(crate) fn peers(&self) -> Vec<NodeId> {
        self.peers.lock().iter().copied().collect()
    }

    fn emit(&self, event: NetworkEvent<Trellis>) {
        for subscriber in self.subscribers.lock().iter() {
            subscriber.send(event.clone());
        }
    }

    fn next_id(&self) -> u64 {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    /// Compares who is connected with what the engine was told, and tells it the difference.
    fn refresh_peers(&self) {
        let now: BTreeSet<NodeId> = self
            .network
            .peers()
            .into_iter()
            .filter(|peer| peer.state == PeerState::Connected && peer.roles.contains(Role::Validator))
            .filter_map(|peer| peer.id)
            .collect();
        let before = std::mem::replace(&mut *self.peers.lock(), now.clone());
        self.metrics.peers.set(now.len() as u64);
        for gone in before.difference(&now).filter_map(engine_peer) {
            self.emit(NetworkEvent::PeerDisconnected(gone));
        }
        for new in now.difference(&before).filter_map(engine_peer) {
            self.emit(NetworkEvent::PeerConnected(new));
        }
    }

    /// Whether to listen to this peer. Its streams can be here before the event of its connection.
    fn hears(&self, peer: &NodeId) -> bool {
        if self.peers.lock().contains(peer) {
            return true;
        }
        self.refresh_peers();
        self.peers.lock().contains(peer)
    }

    async fn publish(&self, protocol: Protocol, message: Bytes) {
        let peers = self.peers();
        if peers.is_empty() {
            return;
        }
        let report = self.network.broadcast(&peers, protocol, message).await;
        for (peer, error) in report.failed {
            self.metrics.unsent.inc();
            tracing::debug!(%peer, %protocol, %error, "consensus message not queued");
        }
    }
}

/// The engine's name for a peer: our NodeId as an identity multihash.
pub(crate) fn engine_peer(node: &NodeId) -> Option<PeerId> {
    let mut multihash = vec![0u8, 32];
    multihash.extend_from_slice(&node.0);
    PeerId::from_bytes(&multihash).ok()
}

/// Our name for one of the engine's peers.
pub(crate) fn our_peer(peer: &PeerId) -> Option<NodeId> {
    let bytes = peer.to_bytes();
    <[u8; 32]>::try_from(bytes.get(2..)?).ok().map(NodeId)
}

/// The three acceptors; taken before the engine starts, so that a name in use is an error of starting.
pub(crate) struct Acceptors {
    consensus: Acceptor,
    proposal: Acceptor,
    sync: Acceptor,
}

impl Acceptors {
    pub(crate) fn take(network: &NetworkHandle) -> Result<Self, AcceptError> {
        Ok(Self {
            consensus: network.accept(CONSENSUS_PROTOCOL)?,
            proposal: network.accept(PROPOSAL_PROTOCOL)?,
            sync: network.accept(SYNC_PROTOCOL)?,
        })
    }
}

/// The actor that the engine talks to.
pub(crate) struct NetActor {
    shared: Arc<Shared>,
}

impl NetActor {
    pub(crate) async fn spawn(shared: Arc<Shared>, acceptors: Acceptors) -> Result<NetRef, ractor::SpawnErr> {
        let (actor, _) = Actor::spawn(None, Self { shared }, acceptors).await?;
        Ok(actor)
    }
}

/// Follows who comes and goes.
async fn watch_peers(shared: Arc<Shared>) {
    let mut events = shared.network.events();
    loop {
        shared.refresh_peers();
        match events.recv().await {
            Ok(PeerEvent::Connected { .. } | PeerEvent::Disconnected { .. })
            | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Ok(PeerEvent::Refused { .. } | PeerEvent::Responded { .. } | PeerEvent::Attacked { .. }) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

#[async_trait]
impl Actor for NetActor {
    type Msg = NetworkMsg<Trellis>;
    type State = ();
    type Arguments = Acceptors;

    async fn pre_start(&self, _myself: NetRef, acceptors: Acceptors) -> Result<(), ActorProcessingErr> {
        let shared = &self.shared;
        *shared.tasks.lock() = vec![
            tokio::spawn(watch_peers(Arc::clone(shared))),
            tokio::spawn(inbound::serve_consensus(Arc::clone(shared), acceptors.consensus)),
            tokio::spawn(inbound::serve_proposals(Arc::clone(shared), acceptors.proposal)),
            tokio::spawn(requests::serve(Arc::clone(shared), acceptors.sync)),
        ];
        Ok(())
    }

    async fn handle(
        &self,
        _myself: NetRef,
        message: NetworkMsg<Trellis>,
        _state: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let shared = &self.shared;
        match message {
            NetworkMsg::Subscribe(subscriber) => {
                // The engine waits for an address before it starts; ours is the network's business.
                subscriber.send(NetworkEvent::Listening(Multiaddr::empty()));
                for peer in shared.peers().iter().filter_map(engine_peer) {
                    subscriber.send(NetworkEvent::PeerConnected(peer));
                }
                shared.subscribers.lock().push(subscriber);
            }
            NetworkMsg::PublishConsensusMsg(message) => {
                let frame = encode_body(consensus_body(&message));
                shared.publish(CONSENSUS_PROTOCOL, frame).await;
            }
            NetworkMsg::PublishLivenessMsg(message) => {
                let frame = encode_body(liveness_body(&message));
                shared.publish(CONSENSUS_PROTOCOL, frame).await;
            }
            NetworkMsg::PublishProposalPart(message) => {
                if let Some(frame) = encode_part(&message) {
                    shared.publish(PROPOSAL_PROTOCOL, frame).await;
                }
            }
            NetworkMsg::BroadcastStatus(status) => {
                let status =
                    WireStatus { tip_height: status.tip_height.0, history_min_height: status.history_min_height.0 };
                let frame = encode_body(ConsensusBody::Status(status));
                shared.publish(CONSENSUS_PROTOCOL, frame).await;
            }
            NetworkMsg::OutgoingRequest(peer, request, reply) => {
                let id = requests::send(shared, peer, request);
                // The asker may be gone; then nobody misses the answer.
                let _ = reply.send(id);
            }
            NetworkMsg::CancelRequest(id) => {
                if let Some(task) = shared.outbound.lock().remove(&id) {
                    task.abort();
                }
            }
            NetworkMsg::OutgoingResponse(id, response) => {
                if let Some(waiting) = shared.inbound.lock().remove(&id) {
                    let _ = waiting.send(response);
                }
            }
            NetworkMsg::CancelInboundRequest(id) => {
                shared.inbound.lock().remove(&id);
            }
            NetworkMsg::DumpState(reply) => {
                let _ = reply.send(None);
            }
            NetworkMsg::UpdatePersistentPeers(_, reply) => {
                let _ = reply.send(Err(PersistentPeerError::NetworkStopped));
            }
            // Who may speak is decided by the role in the peer's record, not by the engine's own proofs.
            NetworkMsg::UpdateValidatorSet(_) | NetworkMsg::ValidatorProofVerified { .. } | NetworkMsg::NewEvent(_) => {
            }
        }
        Ok(())
    }
}
