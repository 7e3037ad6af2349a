//! Which way to a peer is tried first (NET-11): QUIC, and TCP at the same port where nobody answers there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use tokio::sync::oneshot;
use trellis_primitives::NodeId;

use super::handle::parse_address;
use super::{Command, NodeShared};
use crate::config::{CONNECT_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, TCP_AFTER_MS};
use crate::error::DialError;
use crate::table::route::{relay_of, target_of};

/// TCP at the port where an address has QUIC.
fn tcp_twin(address: &Multiaddr) -> Option<Multiaddr> {
    let mut parts = address.iter();
    let host = parts.next()?;
    let Part::Udp(port) = parts.next()? else { return None };
    let Part::QuicV1 = parts.next()? else { return None };
    let twin = Multiaddr::empty().with(host).with(Part::Tcp(port));
    match (parts.next(), parts.next()) {
        (None, _) => Some(twin),
        (Some(peer @ Part::P2p(_)), None) => Some(twin.with(peer)),
        _ => None,
    }
}

/// Whether another way may lead there: nobody has answered, or this way cannot be taken at all.
const fn may_go_elsewhere(error: &DialError) -> bool {
    matches!(error, DialError::Unreachable { .. } | DialError::Timeout { .. } | DialError::BadAddress { .. })
}

impl NodeShared {
    /// Dials and waits for the handshake. Where QUIC has not answered after [`TCP_AFTER_MS`], TCP is tried beside it.
    pub(crate) async fn dial(&self, text: &str) -> Result<NodeId, DialError> {
        if self.closing.is_cancelled() {
            return Err(DialError::Closed);
        }
        let address = parse_address(text)?;
        let dialled = match tcp_twin(&address) {
            Some(twin) => self.dial_both(text, address, twin).await,
            None => self.dial_one(text, address, false).await,
        };
        if matches!(dialled, Err(DialError::Unreachable { .. } | DialError::Timeout { .. })) {
            self.unreachable(text);
        }
        dialled
    }

    async fn dial_both(&self, text: &str, quic: Multiaddr, tcp: Multiaddr) -> Result<NodeId, DialError> {
        let first = std::pin::pin!(self.dial_one(text, quic, false));
        let head_start = std::pin::pin!(tokio::time::sleep(Duration::from_millis(TCP_AFTER_MS)));
        let second = std::pin::pin!(self.dial_one(text, tcp, true));
        let (over_quic, over_tcp) = match select(first, head_start).await {
            Either::Left((Err(error), _)) if may_go_elsewhere(&error) => (error, second.await),
            Either::Left((dialled, _)) => return dialled,
            Either::Right(((), first)) => match select(first, second).await {
                Either::Left((Err(error), second)) if may_go_elsewhere(&error) => (error, second.await),
                Either::Right((Err(error), first)) => match first.await {
                    Err(over_quic) if may_go_elsewhere(&over_quic) => (over_quic, Err(error)),
                    dialled => return dialled,
                },
                Either::Left((dialled, _)) | Either::Right((dialled, _)) => return dialled,
            },
        };
        // The address is QUIC's, so what became of that is said, unless TCP has more to say.
        match over_tcp {
            Err(error) if may_go_elsewhere(&error) && !matches!(over_quic, DialError::BadAddress { .. }) => {
                Err(over_quic)
            }
            dialled => dialled,
        }
    }

    /// One attempt; a `quiet` one leaves the table to the attempt beside it.
    async fn dial_one(&self, text: &str, address: Multiaddr, quiet: bool) -> Result<NodeId, DialError> {
        self.dial_each(target_of(&address), vec![address], text, quiet).await
    }

    /// Dials several addresses of one peer at once; the first that answers counts.
    pub(crate) async fn dial_any(&self, peer: Option<PeerId>, addresses: Vec<Multiaddr>) -> Result<NodeId, DialError> {
        let text = addresses.first().map(ToString::to_string).unwrap_or_default();
        self.dial_each(peer, addresses, &text, false).await
    }

    async fn dial_each(
        &self,
        peer: Option<PeerId>,
        mut addresses: Vec<Multiaddr>,
        text: &str,
        quiet: bool,
    ) -> Result<NodeId, DialError> {
        self.connect_relays(&addresses).await;
        // Whichever address a relay was reached at, the circuit is the same; several would be several connections.
        let mut relays = BTreeSet::new();
        addresses.retain(|address| relay_of(address).is_none_or(|relay| relays.insert(relay)));
        let (reply, answer) = oneshot::channel();
        let command = Command::Dial { peer, addresses, text: text.to_owned(), quiet, reply };
        self.commands.send(command).await.map_err(|_| DialError::Closed)?;
        // The transport takes up to CONNECT + HANDSHAKE for TLS and its proofs, the handshake of this layer follows.
        let direct_ms = CONNECT_TIMEOUT_MS + 2 * HANDSHAKE_TIMEOUT_MS;
        // Through a proxy the path comes first, and all of it is slower.
        let proxy_ms = trellis_net_transport::PROXY_TIMEOUT_MS + direct_ms;
        let timeout_ms = if self.config.proxy.is_some() { proxy_ms } else { direct_ms };
        match tokio::time::timeout(Duration::from_millis(timeout_ms), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(DialError::Closed),
            Err(_) => Err(DialError::Timeout { address: text.to_owned(), timeout_ms }),
        }
    }

    /// Connects to the relays of circuits that are to be dialled: a relay carries only whose handshake it has accepted.
    fn connect_relays<'a>(&'a self, addresses: &'a [Multiaddr]) -> BoxFuture<'a, ()> {
        let mut places: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for address in addresses {
            if let Some(relay) = relay_of(address) {
                let place = address.iter().take_while(|part| !matches!(part, Part::P2p(_))).collect();
                places.entry(relay).or_default().push(place);
            }
        }
        places.retain(|relay, _| self.table.lock().connected_by_peer_id(relay).is_none());
        Box::pin(async move {
            let dials = places.into_iter().map(|(relay, places)| self.dial_any(Some(relay), places));
            // Where one is not reached, the circuit's own dial says so.
            futures::future::join_all(dials).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-11
    #[test]
    fn the_twin_of_a_quic_address_is_tcp_at_the_same_port() {
        let twin = |text: &str| tcp_twin(&text.parse().unwrap()).map(|twin| twin.to_string());
        let id = libp2p::PeerId::random();
        assert_eq!(twin("/ip4/11.0.0.1/udp/9700/quic-v1").as_deref(), Some("/ip4/11.0.0.1/tcp/9700"));
        let named = twin(&format!("/ip6/2001::1/udp/1/quic-v1/p2p/{id}"));
        assert_eq!(named, Some(format!("/ip6/2001::1/tcp/1/p2p/{id}")));
        for text in ["/ip4/11.0.0.1/tcp/9700", &format!("/ip4/11.0.0.1/udp/1/quic-v1/p2p/{id}/p2p-circuit")] {
            assert_eq!(twin(text), None, "{text}");
        }
    }
}
