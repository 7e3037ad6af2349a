//! The address at a TURN server as a way in: listened at, offered for hole punching, and open to whom this node dials.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::{BoxStream, StreamExt, unfold};
use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, ListenOpts, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use trellis_net_reach::turn::TurnSocket;
use trellis_net_transport::direct_ip;

use super::{TurnWay, leads_to};
use crate::service::handle::at_socket;

/// Peers whose relayed connections are counted.
const RELAYED_PEERS_MAX: usize = 1_024;

/// Listens at the address, tells it as a candidate, and lets in whom a hole is punched to.
pub(crate) struct TurnDoor {
    way: Option<TurnWay>,
    opened: BoxStream<'static, Arc<TurnSocket>>,
    /// Connections over relays, for each peer: a dial beside them is a hole being punched.
    relayed: HashMap<PeerId, u32>,
    to_do: VecDeque<ToSwarm<Infallible, Infallible>>,
}

impl TurnDoor {
    /// Closed for good where no server is set.
    pub(crate) fn new(way: Option<TurnWay>) -> Self {
        let opened = match &way {
            Some(way) => unfold(way.opened(), |mut opened| async move {
                loop {
                    opened.changed().await.ok()?;
                    let socket = opened.borrow_and_update().clone();
                    if let Some(socket) = socket {
                        return Some((socket, opened));
                    }
                }
            })
            .boxed(),
            None => futures::stream::pending().boxed(),
        };
        Self { way, opened, relayed: HashMap::new(), to_do: VecDeque::new() }
    }

    fn came(&mut self, peer: PeerId) {
        if self.relayed.len() < RELAYED_PEERS_MAX || self.relayed.contains_key(&peer) {
            let count = self.relayed.entry(peer).or_default();
            *count = count.saturating_add(1);
        }
    }

    fn went(&mut self, peer: PeerId) {
        if let Some(count) = self.relayed.get_mut(&peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.relayed.remove(&peer);
            }
        }
    }
}

impl NetworkBehaviour for TurnDoor {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if let Some(way) = self.way.as_ref().filter(|_| peer.is_some_and(|peer| self.relayed.contains_key(&peer))) {
            // The peer dials this node's candidates at the same moment; at the server it gets in by its IP address.
            addresses.iter().filter(|address| leads_to(address)).filter_map(direct_ip).for_each(|ip| way.let_in(ip));
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(up) if up.endpoint.is_relayed() => self.came(up.peer_id),
            FromSwarm::ConnectionClosed(down) if down.endpoint.is_relayed() => self.went(down.peer_id),
            FromSwarm::NewListenAddr(new) if self.way.as_ref().is_some_and(|way| way.is_at(new.addr)) => {
                tracing::info!(address = %new.addr, "listening at a TURN server");
                self.to_do.push_back(ToSwarm::NewExternalAddrCandidate(new.addr.clone()));
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(next) = self.to_do.pop_front() {
            return Poll::Ready(next);
        }
        match Pin::new(&mut self.opened).poll_next(cx) {
            Poll::Ready(Some(socket)) => {
                Poll::Ready(ToSwarm::ListenOn { opts: ListenOpts::new(at_socket(socket.relayed())) })
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
