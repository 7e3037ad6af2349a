//! Several connections to one peer become one, without harm to the streams on the others (NET-43).

use std::sync::Arc;

use crate::reason::DisconnectReason;
use crate::service::NodeShared;

/// A connection that is not needed is closed when it has had no stream for this long: what was sent last has arrived then,
/// and the peer has seen the better one too.
pub(crate) const LINGER_MS: u64 = 2_000;

impl NodeShared {
    /// Closes the connections that a better one to the same peer makes superfluous, once their streams have ended.
    pub(super) fn close_superfluous(self: &Arc<Self>) {
        let now = self.clock.now();
        let superfluous = self.table.lock().superfluous(LINGER_MS, now);
        for (connection, handle) in superfluous {
            // A direct connection with a relay carries streams that are not counted here.
            if self.reach.relays_with(&handle.session.peer_id()) && !self.table.lock().is_relayed(connection) {
                continue;
            }
            if !self.table.lock().begin_closing(connection) {
                continue;
            }
            tracing::debug!(peer = ?handle.session.node_id(), "a superfluous connection is closed");
            let shared = Arc::clone(self);
            tokio::spawn(async move { shared.part(connection, handle, DisconnectReason::Duplicate).await });
        }
    }
}
