//! Kademlia's behaviour with this node's rules around it: which addresses are dialled for it, and when this node serves.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::kad::{self, Mode};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};

use crate::discovery::address::{AddressClass, PeerAddress};
use crate::discovery::kad::store::ProviderStore;

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

    /// The addresses under which a provider that a running look-up found can be dialled.
    pub(super) fn addresses_of(&mut self, peer: PeerId) -> Vec<PeerAddress> {
        let (none, role) = (ConnectionId::new_unchecked(0), Endpoint::Dialer);
        // The library tells a look-up's addresses to the dialler alone, so this asks as the dialler does.
        let known = self.kad.handle_pending_outbound_connection(none, Some(peer), &[], role).unwrap_or_default();
        let mut addresses: Vec<PeerAddress> = Vec::new();
        for address in known.iter().filter_map(|address| self.dialable(address)) {
            let address = PeerAddress { peer: Some(peer), ..address };
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
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
