//! Which way to a peer is tried first (NET-11, NET-44): QUIC, TCP at the same port where nobody answers there, and QUIC from an
//! address at a TURN server where nobody answers either.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::DialError as SwarmDialError;
use tokio::sync::oneshot;
use trellis_net_reach::turn::ALLOCATE_MS_MAX;
use trellis_net_transport::{TransportError, is_hidden};
use trellis_primitives::NodeId;

use super::handle::{at_socket, parse_address};
use super::turn::{TurnWay, leads_to};
use super::{Command, NodeShared};
use crate::config::{CONNECT_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, TCP_AFTER_MS, TURN_AFTER_BLOCKED_MS, TURN_AFTER_MS};
use crate::dark::{DARK_SCHEME, DarkAddress, DarkAddressError, Host};
use crate::discovery::hidden::Networks;
use crate::error::{DialError, RefusedBy, printable};
use crate::reason::RefusalReason;
use crate::table::route::{is_circuit, relay_of, target_of};

/// What is dialled.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// As it was written.
    pub(super) text: &'a str,
    /// Who has to answer.
    pub(super) pinned: Option<NodeId>,
}

/// How an attempt is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It is the one that the table shows.
    Loud,
    /// It leaves the table to the attempt beside it.
    Quiet,
    /// So does this one, which goes through the TURN server.
    Turned,
}

/// How two attempts ended.
enum Raced {
    /// One of them came to an end that no other way would change.
    Over(Result<NodeId, DialError>),
    /// The first led nowhere, and what became of the second.
    Nowhere(DialError, Result<NodeId, DialError>),
}

/// Begins the second attempt when the first has led nowhere, or beside it after its head start.
async fn race<F, S>(first: F, second: S, head_start_ms: u64) -> Raced
where
    F: Future<Output = Result<NodeId, DialError>>,
    S: Future<Output = Result<NodeId, DialError>>,
{
    let (first, second) = (std::pin::pin!(first), std::pin::pin!(second));
    let head_start = std::pin::pin!(tokio::time::sleep(Duration::from_millis(head_start_ms)));
    match select(first, head_start).await {
        Either::Left((Err(error), _)) if may_go_elsewhere(&error) => Raced::Nowhere(error, second.await),
        Either::Left((dialled, _)) => Raced::Over(dialled),
        Either::Right(((), first)) => match select(first, second).await {
            Either::Left((Err(error), second)) if may_go_elsewhere(&error) => Raced::Nowhere(error, second.await),
            Either::Right((Err(error), first)) => match first.await {
                Err(nowhere) if may_go_elsewhere(&nowhere) => Raced::Nowhere(nowhere, Err(error)),
                dialled => Raced::Over(dialled),
            },
            Either::Left((dialled, _)) | Either::Right((dialled, _)) => Raced::Over(dialled),
        },
    }
}

/// Where a proxy is asked to go for a name.
fn named_place(name: &str, port: u16) -> String {
    match name.strip_suffix(".onion") {
        Some(onion) => format!("/onion3/{onion}:{port}"),
        None => format!("/dns/{name}/tcp/{port}"),
    }
}

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

/// What can be listened at and dialled.
pub(super) const ADDRESS_FORMS: &str = "expected /ip4/IP/udp/PORT/quic-v1, /ip4/IP/tcp/PORT or /ip6/…";

impl NodeShared {
    /// Dials and waits for the handshake. Where QUIC has not answered after [`TCP_AFTER_MS`], TCP is tried beside it.
    pub(crate) async fn dial(&self, text: &str) -> Result<NodeId, DialError> {
        if self.closing.is_cancelled() {
            return Err(DialError::Closed);
        }
        let dialled = if text.starts_with(DARK_SCHEME) {
            self.dial_dark(text).await
        } else {
            self.dial_at(parse_address(text)?, Wanted { text, pinned: None }).await
        };
        if matches!(dialled, Err(DialError::Unreachable { .. } | DialError::Timeout { .. })) {
            self.unreachable(text);
        }
        dialled
    }

    /// Tries the ways to an address, cheapest first, the next one where those before it lead nowhere in time.
    pub(super) async fn dial_at(&self, address: Multiaddr, wanted: Wanted<'_>) -> Result<NodeId, DialError> {
        let Some(twin) = tcp_twin(&address) else {
            return self.dial_one(wanted, address, Manner::Loud).await;
        };
        if self.turn.is_none() || !leads_to(&address) {
            return self.dial_both(wanted, address, twin).await;
        }
        let turned = self.dial_one(wanted, address.clone(), Manner::Turned);
        let blocked = self.turn.as_ref().is_some_and(TurnWay::is_blocked);
        let head_start_ms = if blocked { TURN_AFTER_BLOCKED_MS } else { TURN_AFTER_MS };
        match race(self.dial_both(wanted, address, twin), turned, head_start_ms).await {
            Raced::Over(dialled) => dialled,
            // The server's own refusals are in the log and in the status.
            Raced::Nowhere(direct, Err(error)) if may_go_elsewhere(&error) => Err(direct),
            Raced::Nowhere(_, dialled) => dialled,
        }
    }

    /// Dials where a dark address leads, one place after the other, and takes nobody but whom it names.
    async fn dial_dark(&self, text: &str) -> Result<NodeId, DialError> {
        let bad = |detail: String| DialError::BadAddress { address: text.to_owned(), detail };
        let dark: DarkAddress = text.parse().map_err(|error: DarkAddressError| bad(error.to_string()))?;
        if self.is_connected(dark.node) {
            return Ok(dark.node);
        }
        let unreachable = |detail| DialError::Unreachable { address: text.to_owned(), detail };
        let places = match &dark.host {
            // The proxy looks names up.
            Host::Name(name) if self.config.proxy.is_some() => {
                vec![named_place(name, dark.port).parse().map_err(|_| bad("the host".to_owned()))?]
            }
            _ => dark.resolve().await.map_err(unreachable)?.into_iter().map(at_socket).collect(),
        };
        let mut last = unreachable("the name has no address".to_owned());
        for place in places {
            match self.dial_at(place, Wanted { text, pinned: Some(dark.node) }).await {
                Err(error @ (DialError::Unreachable { .. } | DialError::Timeout { .. })) => last = error,
                ended => return ended,
            }
        }
        Err(last)
    }

    async fn dial_both(&self, wanted: Wanted<'_>, quic: Multiaddr, tcp: Multiaddr) -> Result<NodeId, DialError> {
        let over_tcp = self.dial_one(wanted, tcp, Manner::Quiet);
        let (over_quic, over_tcp) = match race(self.dial_one(wanted, quic, Manner::Loud), over_tcp, TCP_AFTER_MS).await
        {
            Raced::Over(dialled) => return dialled,
            Raced::Nowhere(over_quic, over_tcp) => (over_quic, over_tcp),
        };
        // The address is QUIC's, so what became of that is said, unless TCP has more to say.
        match over_tcp {
            Err(error) if may_go_elsewhere(&error) && !matches!(over_quic, DialError::BadAddress { .. }) => {
                Err(over_quic)
            }
            dialled => dialled,
        }
    }

    /// Dials several addresses of one peer at once; the first that answers counts.
    pub(crate) async fn dial_any(&self, peer: Option<PeerId>, addresses: Vec<Multiaddr>) -> Result<NodeId, DialError> {
        let text = addresses.first().map(ToString::to_string).unwrap_or_default();
        let dialled = self.dial_each(peer, addresses, Wanted { text: &text, pinned: None }, Manner::Loud).await;
        if matches!(dialled, Err(DialError::Unreachable { .. } | DialError::Timeout { .. })) {
            self.unreachable(&text);
        }
        dialled
    }

    /// Dials a peer whose name is known at several addresses, over relays only where none leads straight there.
    pub(super) async fn dial_known(
        &self,
        name: PeerId,
        addresses: Vec<Multiaddr>,
        wanted: Wanted<'_>,
    ) -> Result<NodeId, DialError> {
        let (circuits, straight): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_circuit);
        if straight.is_empty() {
            return self.dial_each(Some(name), circuits, wanted, Manner::Loud).await;
        }
        match self.dial_each(Some(name), straight, wanted, Manner::Loud).await {
            Err(error) if may_go_elsewhere(&error) && !circuits.is_empty() => {
                self.dial_each(Some(name), circuits, wanted, Manner::Loud).await
            }
            dialled => dialled,
        }
    }

    async fn dial_one(&self, wanted: Wanted<'_>, address: Multiaddr, manner: Manner) -> Result<NodeId, DialError> {
        self.dial_each(target_of(&address), vec![address], wanted, manner).await
    }

    /// One attempt.
    async fn dial_each(
        &self,
        peer: Option<PeerId>,
        mut addresses: Vec<Multiaddr>,
        Wanted { text, pinned }: Wanted<'_>,
        manner: Manner,
    ) -> Result<NodeId, DialError> {
        if Networks::of(self.config.proxy.as_ref()) == Networks::Hidden {
            addresses.retain(is_hidden);
            if addresses.is_empty() {
                return Err(DialError::ClearAddress { address: text.to_owned() });
            }
        }
        self.connect_relays(&addresses).await;
        // Whichever address a relay was reached at, the circuit is the same; several would be several connections.
        let mut relays = BTreeSet::new();
        addresses.retain(|address| relay_of(address).is_none_or(|relay| relays.insert(relay)));
        let (reply, answer) = oneshot::channel();
        let (quiet, turned) = (manner != Manner::Loud, manner == Manner::Turned);
        let command = Command::Dial { peer, addresses, text: text.to_owned(), quiet, turned, pinned, reply };
        self.commands.send(command).await.map_err(|_| DialError::Closed)?;
        // The transport takes up to CONNECT + HANDSHAKE for TLS and its proofs, the handshake of this layer follows.
        let direct_ms = CONNECT_TIMEOUT_MS + 2 * HANDSHAKE_TIMEOUT_MS;
        // Through a proxy the path comes first, and all of it is slower.
        let proxy_ms = trellis_net_transport::PROXY_TIMEOUT_MS + direct_ms;
        let timeout_ms = match manner {
            Manner::Turned => ALLOCATE_MS_MAX + direct_ms,
            Manner::Loud | Manner::Quiet if self.config.proxy.is_some() => proxy_ms,
            Manner::Loud | Manner::Quiet => direct_ms,
        };
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

/// The transport's own error inside the swarm's. A relay's transport is boxed twice, and so are its errors.
pub(super) fn transport_error(error: &std::io::Error) -> Option<&TransportError> {
    let inner = error.get_ref()?;
    inner.downcast_ref::<TransportError>().or_else(|| transport_error(inner.downcast_ref::<std::io::Error>()?))
}

/// The swarm's error in our words.
pub(super) fn dial_error(address: &str, error: &SwarmDialError) -> DialError {
    let address = address.to_owned();
    let refused = |by, reason| DialError::Refused { by, reason };
    let detail = match error {
        SwarmDialError::LocalPeerId { .. } => return refused(RefusedBy::Us, RefusalReason::SelfConnection),
        SwarmDialError::Transport(attempts) => match attempts.first().map(|(_, error)| error) {
            Some(libp2p::TransportError::MultiaddrNotSupported(_)) => {
                let detail = ADDRESS_FORMS.to_owned();
                return DialError::BadAddress { address, detail };
            }
            Some(libp2p::TransportError::Other(error)) => match transport_error(error) {
                Some(TransportError::Classical(_)) => {
                    return refused(RefusedBy::Us, RefusalReason::PolicyClassical);
                }
                Some(TransportError::Auth(_) | TransportError::NoIdentity) => {
                    return refused(RefusedBy::Us, RefusalReason::BadSignature);
                }
                Some(TransportError::RefusedByPeer) => return refused(RefusedBy::Them, RefusalReason::Full),
                Some(TransportError::Timeout { timeout_ms }) => {
                    return DialError::Timeout { address, timeout_ms: *timeout_ms };
                }
                Some(TransportError::Connection(quinn_error)) if quinn_error.to_string() == "timed out" => {
                    return DialError::Timeout { address, timeout_ms: CONNECT_TIMEOUT_MS };
                }
                _ => error.to_string(),
            },
            None => "no address".to_owned(),
        },
        other => other.to_string(),
    };
    // The transport's account quotes what the peer said when it closed.
    DialError::Unreachable { address, detail: printable(&detail) }
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
