//! Dialling nodes over relays.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use trellis_primitives::NodeId;

use super::Finder;
use super::dial::DIALS_AT_ONCE_MAX;
use crate::discovery::DIRECT_FIRST_MS;
use crate::reason::DisconnectReason;
use crate::table::route::target_of;

/// Dials over relays in one round.
const DIALS_PER_ROUND_MAX: usize = 16;
/// Ways that are tried at once for one node, several of them through one relay.
const WAYS_AT_ONCE_MAX: usize = 8;

impl Finder {
    /// Dials at once, beside the rounds, because a new way was told: a round may be busy with an address that is dead. Then
    /// once more, for nodes whose direct address is given some time first.
    pub(super) fn follow_ways(&self) {
        self.spawn(|finder| async move {
            finder.fill_relayed().await;
            tokio::time::sleep(Duration::from_millis(DIRECT_FIRST_MS)).await;
            finder.fill_relayed().await;
        });
    }

    /// Dials nodes over relays until enough outbound connections stand or nobody is left to dial.
    pub(super) async fn fill_relayed(&self) {
        let due = self.discovery.relayed.lock().due(self.shared.clock.now());
        let wanted = |node: &NodeId| {
            *node != self.shared.local_id
                && !self.shared.is_connected(*node)
                && self.shared.guard.ban_of(*node).is_none()
        };
        let due: Vec<NodeId> = due.into_iter().filter(wanted).take(DIALS_PER_ROUND_MAX).collect();
        let dials = due.into_iter().map(|node| async move {
            if self.is_short() {
                self.dial_relayed(node).await;
            }
        });
        futures::stream::iter(dials).buffer_unordered(DIALS_AT_ONCE_MAX).collect::<Vec<()>>().await;
    }

    /// Dials one node over its relays, first over those that are connected. `true` if it is connected then.
    async fn dial_relayed(&self, node: NodeId) -> bool {
        let now = self.shared.clock.now();
        let relays: BTreeSet<PeerId> = self.shared.table.lock().relays().into_iter().map(|relay| relay.peer).collect();
        let Some(ways) = self.discovery.relayed.lock().dialled(node, &relays, now) else { return false };
        for mut some in ways {
            some.truncate(WAYS_AT_ONCE_MAX);
            let target = some.first().and_then(target_of);
            if some.is_empty() || self.shared.is_connected(node) {
                continue;
            }
            match self.shared.dial_any(target, some).await {
                Ok(reached) if reached == node => {
                    self.discovery.relayed.lock().reached(node, self.shared.clock.now());
                    return true;
                }
                Ok(other) => tracing::debug!(expected = %node, actual = %other, "another node behind the relay"),
                Err(error) => tracing::debug!(%node, %error, "not reached over its relays"),
            }
        }
        self.shared.is_connected(node)
    }

    /// A connection broke. A node behind relays is dialled again at once: its relay may have died, not it.
    pub(super) fn lost(&self, peer: NodeId, reason: DisconnectReason) {
        if reason == DisconnectReason::NetworkError {
            self.spawn(move |finder| async move {
                if !finder.shared.is_connected(peer) && finder.shared.guard.ban_of(peer).is_none() {
                    finder.dial_relayed(peer).await;
                }
            });
        }
    }
}
