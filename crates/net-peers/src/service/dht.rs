//! Kademlia's behaviour with this node's rules around it: which addresses are dialled for it, and when this node serves.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::kad::{self, Mode};
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};

use trellis_net_transport::direct_ip;

use crate::discovery::address::{AddressClass, PeerAddress};
use crate::discovery::kad::store::ProviderStore;
use crate::table::route::{relay_of, target_of};

type Inner = kad::Behaviour<ProviderStore>;

/// The behaviour.
pub(crate) struct Dht {
    pub(super) kad: Inner,
    /// Listen addresses by how far they reach.
    listening: BTreeMap<Multiaddr, AddressClass>,
    /// An operator said at which public address this node is reached.
    reachable: bool,
    /// The widest network that this node was seen in: no address nearer than it is dialled because somebody told of it.
    widest: Option<AddressClass>,
}

fn class_of(address: &Multiaddr) -> Option<AddressClass> {
    PeerAddress::parse(&address.to_string()).and_then(|address| address.class())
}

impl Dht {
    pub(super) fn new(kad: Inner, external_addresses: &[String]) -> Self {
        let public = |text: &String| PeerAddress::parse(text).and_then(|address| address.class());
        let reachable = external_addresses.iter().any(|text| public(text) == Some(AddressClass::Public));
        let mut dht = Self { kad, listening: BTreeMap::new(), reachable, widest: None };
        dht.choose_mode();
        dht
    }

    /// The addresses at which a provider that a running look-up found is said to be.
    pub(super) fn addresses_of(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let (none, role) = (ConnectionId::new_unchecked(0), Endpoint::Dialer);
        // The library tells a look-up's addresses to the dialler alone, so this asks as the dialler does.
        self.kad.handle_pending_outbound_connection(none, Some(peer), &[], role).unwrap_or_default()
    }

    /// The address, if it is one of a peer over a relay and may be dialled; the peer's name stands at its end.
    pub(super) fn circuit_to(&self, address: &Multiaddr, peer: PeerId) -> Option<Multiaddr> {
        let relay = relay_of(address).filter(|relay| *relay != peer)?;
        let class = direct_ip(address).and_then(AddressClass::of)?;
        let nearest = self.widest.unwrap_or(AddressClass::Public);
        let place = address.iter().take_while(|part| !matches!(part, Part::P2p(_)));
        let circuit = place.chain([Part::P2p(relay), Part::P2pCircuit, Part::P2p(peer)]).collect();
        let to_it = target_of(address).is_none_or(|named| named == peer);
        (to_it && nearest.may_share(class)).then_some(circuit)
    }

    /// The address, if one that was heard of in this network may be dialled.
    pub(super) fn dialable(&self, address: &Multiaddr) -> Option<PeerAddress> {
        let address = PeerAddress::parse(&address.to_string())?;
        let nearest = self.widest.unwrap_or(AddressClass::Public);
        address.class().filter(|class| nearest.may_share(*class)).map(|_| address)
    }

    /// Only who can be reached serves others. A node whose whole network is this machine can be reached by all of it; for
    /// the others the library follows the external addresses that were confirmed.
    fn choose_mode(&mut self) {
        let widest = self.listening.values().max();
        let serves = self.reachable || matches!(widest, Some(AddressClass::Public | AddressClass::Loopback));
        self.kad.set_mode(serves.then_some(Mode::Server));
    }

    fn seen(&mut self, address: &Multiaddr) {
        self.widest = self.widest.max(class_of(address));
    }
}

impl NetworkBehaviour for Dht {
    type ConnectionHandler = THandler<Inner>;
    type ToSwarm = kad::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let told = self.kad.handle_pending_outbound_connection(connection, peer, addresses, role)?;
        Ok(told.into_iter().filter(|address| self.dialable(address).is_some()).collect())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kad.handle_established_outbound_connection(connection, peer, remote, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(established) => self.seen(established.endpoint.get_remote_address()),
            FromSwarm::NewListenAddr(new) => {
                self.seen(new.addr);
                if let Some(class) = class_of(new.addr) {
                    self.listening.insert(new.addr.clone(), class);
                }
                self.choose_mode();
            }
            FromSwarm::ExpiredListenAddr(expired) => {
                self.listening.remove(expired.addr);
                self.choose_mode();
            }
            _ => {}
        }
        self.kad.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.kad.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.kad.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::kad::{config, protocol};
    use trellis_primitives::B256;

    // row: NET-35, NET-42
    #[tokio::test]
    async fn a_circuit_that_is_told_is_dialled_only_to_its_own_peer_and_over_a_relay_no_nearer_than_this_network() {
        let local = PeerId::random();
        let kad = kad::Behaviour::with_config(local, ProviderStore::new(local), config(protocol(&B256::ZERO).unwrap()));
        let mut dht = Dht::new(kad, &[]);
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let at = |text: String| text.parse::<Multiaddr>().unwrap();
        let whole = at(format!("/ip4/8.8.8.8/udp/1/quic-v1/p2p/{relay}/p2p-circuit/p2p/{peer}"));
        let bare = at(format!("/ip4/8.8.8.8/udp/1/quic-v1/p2p/{relay}/p2p-circuit"));
        let near = at(format!("/ip4/192.168.1.1/tcp/1/p2p/{relay}/p2p-circuit"));
        assert_eq!(dht.circuit_to(&whole, peer), Some(whole.clone()));
        assert_eq!(dht.circuit_to(&bare, peer), Some(whole.clone()));
        assert_eq!(dht.circuit_to(&whole, local), None, "another's");
        assert_eq!(dht.circuit_to(&bare, relay), None, "a relay is not behind itself");
        assert_eq!(dht.circuit_to(&near, peer), None);
        dht.seen(&at("/ip4/192.168.1.2/udp/1/quic-v1".to_owned()));
        assert!(dht.circuit_to(&near, peer).is_some());
        assert_eq!(dht.circuit_to(&at("/ip4/8.8.8.8/udp/1/quic-v1".to_owned()), peer), None);
    }
}
