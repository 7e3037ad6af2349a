//! Sessions between the transport that made them and the layer that takes them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use parking_lot::Mutex;

use super::{Direction, Session};
use crate::address::without_peer;

/// Sessions that may wait to be taken; beyond it the oldest are dropped.
pub const SESSIONS_WAITING_MAX: usize = 1_024;

type SessionKey = (PeerId, Multiaddr, Direction);

/// Sessions of connections that were handed to the swarm and wait to be taken. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Sessions {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    by_key: HashMap<SessionKey, VecDeque<Session>>,
    order: VecDeque<SessionKey>,
}

impl Sessions {
    pub(crate) fn put(&self, session: Session) {
        let key = (session.peer_id(), session.reported_as().clone(), session.direction());
        let mut waiting = self.waiting.lock();
        if waiting.order.len() >= SESSIONS_WAITING_MAX
            && let Some(oldest) = waiting.order.pop_front()
        {
            waiting.pop(&oldest);
        }
        waiting.order.push_back(key.clone());
        waiting.by_key.entry(key).or_default().push_back(session);
    }

    /// Takes the session of a connection that the swarm reports, by the address it reports: the remote one, but of a circuit
    /// that was accepted the local one, because a peer there has none. Of several connections with the same peer, address
    /// and direction the oldest comes first.
    #[must_use]
    pub fn take(&self, peer_id: PeerId, address: &Multiaddr, direction: Direction) -> Option<Session> {
        let key = (peer_id, without_peer(address), direction);
        let mut waiting = self.waiting.lock();
        let mut found = None;
        while let Some(session) = waiting.pop(&key) {
            if let Some(at) = waiting.order.iter().position(|waiting| *waiting == key) {
                waiting.order.remove(at);
            }
            // A closed one belongs to a connection that the swarm denied and never reported, unless the peer was quick
            // to close: then it is the last one there is.
            let alive = !session.is_closed();
            found = Some(session);
            if alive {
                break;
            }
        }
        found
    }
}

impl Waiting {
    fn pop(&mut self, key: &SessionKey) -> Option<Session> {
        let queue = self.by_key.get_mut(key)?;
        let session = queue.pop_front();
        if queue.is_empty() {
            self.by_key.remove(key);
        }
        session
    }
}
