//! Keeps the peers connected that somebody above will need next, and connects to one that was known before (NET-57).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use libp2p::core::Multiaddr;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use trellis_primitives::NodeId;

use super::NodeShared;
use super::dial::Wanted;
use crate::discovery::address::{AddressClass, class_of};
use crate::error::{DialError, RefusedBy};
use crate::guard::{AddressSource, KnownAddress};
use crate::prefer::Preference;
use crate::reason::RefusalReason;
use crate::table::route::target_of;

/// Between two looks at who is missing, while nobody tells of a change.
const LOOK_EVERY_MS: u64 = 1_000;
/// Addresses that one dial of a known peer tries at most.
const ADDRESSES_MAX: usize = 8;

/// The list and what wakes the task that keeps it.
#[derive(Default)]
pub(crate) struct Preferred {
    state: Mutex<Preference>,
    changed: Notify,
}

/// The addresses at which a peer may be dialled, best first: where it was reached, what a person named, what its record
/// says. Nobody has this node dial into a network that is nearer to it than where the peer itself was met.
fn dialable(known: &[KnownAddress]) -> Vec<String> {
    let of = |wanted: &'static [AddressSource]| {
        known.iter().filter(move |address| wanted.contains(&address.source)).map(|address| address.address.clone())
    };
    let met = of(&[AddressSource::Dialled, AddressSource::Inbound, AddressSource::Operator]);
    let met = met.filter_map(|address| class_of(&address)).max().unwrap_or(AddressClass::Public);
    let mut found: Vec<String> = of(&[AddressSource::Dialled, AddressSource::Operator]).collect();
    found.extend(
        of(&[AddressSource::Record, AddressSource::Imported])
            .filter(|address| class_of(address).is_some_and(|class| met.may_share(class))),
    );
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|address| seen.insert(address.clone()));
    found.truncate(ADDRESSES_MAX);
    found
}

impl NodeShared {
    /// Peers that are wanted whatever else happens; the list before is forgotten.
    pub(super) fn prefer(&self, peers: &[NodeId]) {
        self.preferred.state.lock().replace(peers, self.local_id);
        self.preferred.changed.notify_one();
    }

    /// Who is preferred now.
    pub(super) fn preferred(&self) -> Vec<NodeId> {
        self.preferred.state.lock().wanted().collect()
    }

    /// A person disconnected a peer: it is not dialled again because somebody prefers it.
    pub(super) fn leave_alone(&self, peer: NodeId) {
        self.preferred.state.lock().decline(peer, self.clock.now());
    }

    /// Connects to a peer at the addresses that are remembered of it, and to nobody else who may be there now.
    pub(super) async fn reconnect(&self, peer: NodeId) -> Result<NodeId, DialError> {
        if self.closing.is_cancelled() {
            return Err(DialError::Closed);
        }
        if self.is_connected(peer) {
            return Ok(peer);
        }
        if self.guard.ban_of(peer).is_some() {
            return Err(DialError::Refused { by: RefusedBy::Us, reason: RefusalReason::Banned });
        }
        let unknown = || DialError::Unreachable { address: peer.to_string(), detail: "no address known".to_owned() };
        let known = self.guard.standing(peer).map(|standing| standing.addresses).unwrap_or_default();
        let addresses: Vec<Multiaddr> = dialable(&known).iter().filter_map(|text| text.parse().ok()).collect();
        let text = addresses.first().map(ToString::to_string).ok_or_else(unknown)?;
        let told = self.table.lock().info(peer).and_then(|info| info.peer_id.parse::<PeerId>().ok());
        let wanted = Wanted { text: &text, pinned: Some(peer) };
        match told.or_else(|| addresses.iter().find_map(target_of)) {
            Some(name) => self.dial_known(name, addresses, wanted).await,
            None => self.dial_at(addresses.into_iter().next().ok_or_else(unknown)?, wanted).await,
        }
    }
}

/// Keeps preferred peers connected until the network closes.
pub(super) async fn keep(shared: Arc<NodeShared>) {
    let mut events = shared.events.subscribe();
    let mut running = FuturesUnordered::new();
    loop {
        let due = shared.preferred.state.lock().due(|peer| shared.is_connected(peer), shared.clock.now());
        for peer in due {
            let shared = &shared;
            running.push(async move { (peer, shared.reconnect(peer).await) });
        }
        tokio::select! {
            () = shared.closing.cancelled() => return,
            () = shared.preferred.changed.notified() => {}
            event = events.recv() => match event {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            Some((peer, dialled)) = running.next() => {
                if let Err(error) = &dialled {
                    tracing::debug!(%peer, %error, "a preferred peer is not reached");
                }
                shared.preferred.state.lock().dialled(peer, dialled.is_ok(), shared.clock.now());
            }
            () = tokio::time::sleep(Duration::from_millis(LOOK_EVERY_MS)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trellis_primitives::UnixMs;

    // row: NET-57, NET-56
    #[test]
    fn a_peer_is_dialled_where_it_was_reached_first_and_its_record_sends_nobody_into_a_nearer_network() {
        let known = |text: &str, source| KnownAddress { address: text.to_owned(), source, seen: UnixMs(0) };
        let mut all = vec![
            known("/ip4/192.168.1.1/tcp/80", AddressSource::Record),
            known("/ip4/11.1.0.2/udp/9700/quic-v1", AddressSource::Record),
            known("/ip4/11.1.0.3/udp/51234/quic-v1", AddressSource::Inbound),
            known("/ip4/11.1.0.3/udp/9700/quic-v1", AddressSource::Dialled),
        ];
        assert_eq!(dialable(&all), ["/ip4/11.1.0.3/udp/9700/quic-v1", "/ip4/11.1.0.2/udp/9700/quic-v1"]);
        all.truncate(1);
        assert!(dialable(&all).is_empty(), "nobody was met there");
        all.push(known("/ip4/192.168.1.9/udp/9700/quic-v1", AddressSource::Dialled));
        assert_eq!(dialable(&all).len(), 2, "a neighbour may tell of the neighbourhood");
    }
}
