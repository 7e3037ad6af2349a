//! The network's simulated twin: the same [`Network`] handle over in-memory streams, for tests of everything above it.
//!
//! A [`SimNet`] holds any number of nodes in one process. Streams are reliable and ordered as over QUIC; what can be made
//! to go wrong is what goes wrong there: latency, lost connections, partitions, refusals, nodes that die.
//! Under `tokio::time::pause` a run depends on nothing but its seed.
//!
//! ```
//! # use std::sync::Arc;
//! # use trellis_net_peers::{Protocol, sim::SimNet};
//! # use trellis_primitives::{ManualClock, NodeId, UnixMs};
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let net = SimNet::new(7, Arc::new(ManualClock::new(UnixMs(0))));
//! let (alice, bob) = (net.node(NodeId([1; 32])), net.node(NodeId([2; 32])));
//! let mut accept = bob.accept(Protocol("/trellis/echo/1"))?;
//! alice.dial(&bob.listen_addresses()[0]).await?;
//! let mut stream = alice.open(bob.local_id(), Protocol("/trellis/echo/1")).await?;
//! trellis_net_peers::frame::write_frame(&mut stream, b"hello").await?;
//! let (from, mut stream) = accept.next().await.ok_or("closed")?;
//! assert_eq!(from, alice.local_id());
//! assert_eq!(trellis_net_peers::frame::read_frame(&mut stream, 100).await?.as_ref(), b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod node;
mod pipe;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;
use trellis_primitives::{NodeId, NodeRecord, RoleSet, SharedClock, UnixMs};

use crate::error::{DialError, RefusedBy};
use crate::network::NetworkHandle;
use crate::peer::{Direction, PeerEvent};
use crate::reason::{DisconnectReason, RefusalReason};

use node::NodeState;

/// What a simulated node shows of itself.
#[derive(Clone, Debug)]
pub struct SimNode {
    /// Its identity.
    pub id: NodeId,
    /// Its roles.
    pub roles: RoleSet,
    /// Its node record, if a test needs one.
    pub record: Option<NodeRecord>,
    /// The chain height it states.
    pub best_height: u64,
}

impl From<NodeId> for SimNode {
    fn from(id: NodeId) -> Self {
        Self { id, roles: RoleSet(0), record: None, best_height: 0 }
    }
}

/// A network inside this process. Clones are the same network.
#[derive(Clone)]
pub struct SimNet {
    inner: Arc<SimInner>,
}

struct SimInner {
    clock: SharedClock,
    world: Mutex<World>,
}

struct World {
    rng: ChaCha8Rng,
    latency: Duration,
    jitter: Duration,
    nodes: BTreeMap<NodeId, Arc<NodeState>>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    partitioned: BTreeSet<(NodeId, NodeId)>,
    refusals: BTreeMap<(NodeId, NodeId), RefusalReason>,
}

/// A connection between two nodes; the key of the map is the ordered pair.
#[derive(Clone)]
struct Link {
    dialer: NodeId,
    since: UnixMs,
    lost: CancellationToken,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    if a < b { (a, b) } else { (b, a) }
}

impl SimNet {
    /// An empty network: no latency, no loss. `seed` drives the jitter.
    #[must_use]
    pub fn new(seed: u64, clock: SharedClock) -> Self {
        let world = World {
            rng: ChaCha8Rng::seed_from_u64(seed),
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            partitioned: BTreeSet::new(),
            refusals: BTreeMap::new(),
        };
        Self { inner: Arc::new(SimInner { clock, world: Mutex::new(world) }) }
    }

    /// Adds a node and returns its network handle. A node added again under the same id replaces the dead one.
    pub fn node(&self, node: impl Into<SimNode>) -> NetworkHandle {
        let node = node.into();
        let id = node.id;
        self.kill(id);
        let state = Arc::new(NodeState::new(node, Arc::clone(&self.inner.clock)));
        self.inner.world.lock().nodes.insert(id, Arc::clone(&state));
        Arc::new(node::SimHandle { net: self.clone(), state })
    }

    /// The address under which a node can be dialled.
    #[must_use]
    pub fn address(id: NodeId) -> String {
        format!("/sim/{id}")
    }

    /// Sets the one-way delay of every stream opened from now on; each stream adds up to `jitter`, drawn once.
    pub fn set_latency(&self, latency: Duration, jitter: Duration) {
        let mut world = self.inner.world.lock();
        world.latency = latency;
        world.jitter = jitter;
    }

    /// Breaks the connection between two nodes, as a lost network would: streams fail, both sides see a network error.
    pub fn drop_connection(&self, a: NodeId, b: NodeId) {
        self.cut(a, b, DisconnectReason::NetworkError);
    }

    /// Separates every node of `left` from every node of `right` until [`SimNet::heal`].
    pub fn partition(&self, left: &[NodeId], right: &[NodeId]) {
        for a in left {
            for b in right {
                self.inner.world.lock().partitioned.insert(pair(*a, *b));
                self.drop_connection(*a, *b);
            }
        }
    }

    /// Ends every partition; connections are not made again by themselves.
    pub fn heal(&self) {
        self.inner.world.lock().partitioned.clear();
    }

    /// Makes `at` refuse `peer` from now on, or accept it again.
    pub fn set_refusal(&self, at: NodeId, peer: NodeId, reason: Option<RefusalReason>) {
        let mut world = self.inner.world.lock();
        match reason {
            Some(reason) => world.refusals.insert((at, peer), reason),
            None => world.refusals.remove(&(at, peer)),
        };
    }

    /// Kills a node without a goodbye: its peers see a network error.
    pub fn kill(&self, id: NodeId) {
        self.stop(id, DisconnectReason::NetworkError);
    }

    fn stop(&self, id: NodeId, reason: DisconnectReason) {
        let (state, peers) = {
            let mut world = self.inner.world.lock();
            let peers: Vec<NodeId> = world.links.keys().filter_map(|link| other(*link, id)).collect();
            (world.nodes.remove(&id), peers)
        };
        for peer in peers {
            // The dying node was removed from the map already, so it is told through its own state.
            self.cut(id, peer, reason);
            if let Some(state) = &state {
                state.disconnected(peer, reason);
            }
        }
        if let Some(state) = state {
            state.close();
        }
    }

    fn cut(&self, a: NodeId, b: NodeId, reason: DisconnectReason) {
        let (link, ends) = {
            let mut world = self.inner.world.lock();
            let link = world.links.remove(&pair(a, b));
            (link, [(world.nodes.get(&a).cloned(), b), (world.nodes.get(&b).cloned(), a)])
        };
        let Some(link) = link else { return };
        link.lost.cancel();
        for (state, peer) in ends {
            if let Some(state) = state {
                state.disconnected(peer, reason);
            }
        }
    }

    /// One way, one stream: the configured latency and this stream's share of the jitter.
    fn draw_latency(&self) -> Duration {
        let mut world = self.inner.world.lock();
        let jitter = world.jitter;
        let share: f64 = world.rng.random();
        world.latency + jitter.mul_f64(share)
    }

    async fn connect(&self, from: &Arc<NodeState>, address: &str) -> Result<NodeId, DialError> {
        let from_id = from.node.id;
        let to_id = address.strip_prefix("/sim/").and_then(|id| id.parse::<NodeId>().ok()).ok_or_else(|| {
            DialError::BadAddress { address: address.to_owned(), detail: "expected /sim/<node id>".to_owned() }
        })?;
        if to_id == from_id {
            return Err(DialError::Refused { by: RefusedBy::Us, reason: RefusalReason::SelfConnection });
        }
        let round_trip = self.draw_latency() * 2;
        if !round_trip.is_zero() {
            tokio::time::sleep(round_trip).await;
        }
        let unreachable =
            |detail: &str| DialError::Unreachable { address: address.to_owned(), detail: detail.to_owned() };
        let now = self.inner.clock.now();
        let to = {
            let mut world = self.inner.world.lock();
            if from.closed.is_cancelled() {
                return Err(DialError::Closed);
            }
            let to = world.nodes.get(&to_id).cloned().ok_or_else(|| unreachable("no such node"))?;
            if world.partitioned.contains(&pair(from_id, to_id)) {
                return Err(unreachable("partitioned"));
            }
            if world.links.contains_key(&pair(from_id, to_id)) {
                return Ok(to_id);
            }
            for (at, peer, by) in [(from_id, to_id, RefusedBy::Us), (to_id, from_id, RefusedBy::Them)] {
                let banned = if at == from_id { from.guard.ban_of(peer) } else { to.guard.ban_of(peer) };
                let banned = banned.map(|_| RefusalReason::Banned);
                if let Some(reason) = world.refusals.get(&(at, peer)).copied().or(banned) {
                    from.refused(to_id, by, reason);
                    to.refused(from_id, if by == RefusedBy::Us { RefusedBy::Them } else { RefusedBy::Us }, reason);
                    return Err(DialError::Refused { by, reason });
                }
            }
            let link = Link { dialer: from_id, since: now, lost: CancellationToken::new() };
            world.links.insert(pair(from_id, to_id), link);
            to
        };
        let _ = from.events.send(PeerEvent::Connected { peer: to_id, direction: Direction::Outbound });
        let _ = to.events.send(PeerEvent::Connected { peer: from_id, direction: Direction::Inbound });
        Ok(to_id)
    }
}

fn other(link: (NodeId, NodeId), id: NodeId) -> Option<NodeId> {
    match link {
        (a, b) if a == id => Some(b),
        (a, b) if b == id => Some(a),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
