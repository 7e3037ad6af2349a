//! What libp2p finds peers with, mDNS (NET-36) and Kademlia (NET-35), and what this node makes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use libp2p::core::Multiaddr;
use libp2p::kad::store::RecordStore;
use libp2p::kad::{self, GetProvidersOk, ProviderRecord, QueryId, QueryResult, RecordKey};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, mdns};
use tokio::sync::oneshot;
use trellis_primitives::{NodeId, NodeRecord};

use super::NodeShared;
use super::dht::Dht;
use crate::config::NetConfig;
use crate::discovery::Discovery;
use crate::discovery::address::{AddressClass, PeerAddress};
use crate::discovery::kad as dht;
use crate::discovery::kad::store::ProviderStore;
use crate::discovery::kad::{Doorway, FOUND_MAX, KEY_BYTES, QUERIES_MAX};
use crate::discovery::{LAN_ADDRESSES_MAX, Outcome, Source};
use crate::guard::CLUSTER_TABLED_MAX;

/// The behaviours.
#[derive(NetworkBehaviour)]
pub(crate) struct Finding {
    mdns_v4: Toggle<mdns::tokio::Behaviour>,
    mdns_v6: Toggle<mdns::tokio::Behaviour>,
    dht: Toggle<Dht>,
}

/// What the service is asked to do with them.
pub(crate) enum FindingCommand {
    /// Announce this node under these keys.
    Provide(Vec<[u8; KEY_BYTES]>),
    /// Keep the records of these connected peers for another while.
    Refresh(Vec<PeerId>),
    /// Look providers up.
    Providers { key: [u8; KEY_BYTES], reply: oneshot::Sender<Vec<Found>> },
}

/// A provider that was found, with where it may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) peer: PeerId,
    pub(crate) addresses: Vec<PeerAddress>,
    /// Addresses over relays.
    pub(crate) circuits: Vec<Multiaddr>,
}

impl Found {
    const fn new(peer: PeerId) -> Self {
        Self { peer, addresses: Vec::new(), circuits: Vec::new() }
    }

    /// Takes what was told of where it is, as far as it may be dialled.
    fn take(&mut self, told: &[Multiaddr], dht: &Dht) {
        for address in told {
            if let Some(address) = dht.dialable(address) {
                let address = PeerAddress { peer: Some(self.peer), ..address };
                if self.addresses.len() < dht::PROVIDER_ADDRESSES_MAX && !self.addresses.contains(&address) {
                    self.addresses.push(address);
                }
            } else if let Some(circuit) = dht.circuit_to(address, self.peer)
                && self.circuits.len() < dht::PROVIDER_ADDRESSES_MAX
                && !self.circuits.contains(&circuit)
            {
                self.circuits.push(circuit);
            }
        }
    }
}

struct Lookup {
    reply: oneshot::Sender<Vec<Found>>,
    key: [u8; KEY_BYTES],
    found: BTreeMap<PeerId, Found>,
}

/// What the service remembers of it.
#[derive(Default)]
pub(super) struct FindingState {
    doorway: Doorway,
    lookups: HashMap<QueryId, Lookup>,
    /// Addresses that mDNS told of and that have not expired.
    heard: usize,
}

/// Sets up what the configuration wants and the machine allows.
pub(super) fn build(config: &NetConfig, local: PeerId, store: Option<ProviderStore>) -> Finding {
    let mdns = |v6: bool| {
        let on_lan = is_on_lan(config);
        let config = mdns::Config { enable_ipv6: v6, ..mdns::Config::default() };
        let started = on_lan.then(|| mdns::tokio::Behaviour::new(config, local)).transpose();
        let started = started.inspect_err(|error| tracing::warn!(%error, v6, "mDNS is not available"));
        Toggle::from(started.ok().flatten())
    };
    Finding { mdns_v4: mdns(false), mdns_v6: mdns(true), dht: Toggle::from(kademlia(config, local, store)) }
}

/// Whether mDNS is wanted and has somebody to reach.
fn is_on_lan(config: &NetConfig) -> bool {
    config.discovery.as_ref().is_some_and(|told| told.mdns) && config.listen.iter().any(|text| leaves_machine(text))
}

/// Whether others than this machine can reach a listen address.
fn leaves_machine(listen: &str) -> bool {
    let address = listen.parse::<Multiaddr>().ok().and_then(|address| crate::streams::socket_address(&address));
    address.is_some_and(|socket| !socket.ip().is_loopback())
}

fn kademlia(config: &NetConfig, local: PeerId, store: Option<ProviderStore>) -> Option<Dht> {
    let store = store?;
    let protocol = dht::protocol(&config.genesis_hash).ok()?;
    let kad = kad::Behaviour::with_config(local, store, dht::config(protocol));
    Some(Dht::new(kad, &config.external_addresses))
}

impl Finding {
    /// Whether mDNS is wanted and runs in neither family.
    pub(super) fn lacks_mdns(&self, config: &NetConfig) -> bool {
        is_on_lan(config) && !self.mdns_v4.is_enabled() && !self.mdns_v6.is_enabled()
    }
}

/// The pieces of the service that this module works with.
pub(super) struct Finder<'a> {
    pub(super) behaviour: &'a mut Finding,
    pub(super) state: &'a mut FindingState,
    pub(super) shared: &'a Arc<NodeShared>,
}

impl Finder<'_> {
    pub(super) fn on_event(&mut self, event: FindingEvent) {
        match event {
            FindingEvent::MdnsV4(mdns::Event::Discovered(found))
            | FindingEvent::MdnsV6(mdns::Event::Discovered(found)) => {
                self.on_lan(&found);
            }
            FindingEvent::MdnsV4(mdns::Event::Expired(gone)) | FindingEvent::MdnsV6(mdns::Event::Expired(gone)) => {
                // A machine that sleeps and wakes is told of anew each time.
                self.state.heard = self.state.heard.saturating_sub(gone.len());
            }
            FindingEvent::Dht(event) => self.on_kad(event),
        }
    }

    pub(super) fn on_command(&mut self, command: FindingCommand) {
        let Some(dht) = self.behaviour.dht.as_mut() else { return };
        match command {
            FindingCommand::Provide(keys) => {
                for key in keys {
                    if let Err(error) = dht.kad.start_providing(RecordKey::new(&key)) {
                        tracing::warn!(%error, "not announced");
                    }
                }
            }
            FindingCommand::Refresh(peers) => {
                for peer in peers {
                    if let Some((node, record)) = self.record_of(peer) {
                        self.keep(peer, node, &record, dht::keys_of(&record));
                    }
                }
            }
            FindingCommand::Providers { key, reply } => {
                if self.state.lookups.len() < QUERIES_MAX {
                    let query = dht.kad.get_providers(RecordKey::new(&key));
                    self.state.lookups.insert(query, Lookup { reply, key, found: BTreeMap::new() });
                }
            }
        }
    }

    fn on_lan(&mut self, found: &[(PeerId, Multiaddr)]) {
        let Some(discovery) = self.shared.discovery.clone() else { return };
        self.state.heard = self.state.heard.saturating_add(found.len());
        if self.state.heard > LAN_ADDRESSES_MAX {
            // The library keeps whatever anybody on this network says for as long as he says.
            self.behaviour.mdns_v4 = Toggle::from(None);
            self.behaviour.mdns_v6 = Toggle::from(None);
            let detail = format!("more than {LAN_ADDRESSES_MAX} addresses were told: ended until the next start");
            discovery.report(&Source::Mdns, Outcome::Failed, self.state.heard, detail, self.shared.clock.now());
            return;
        }
        discovery.heard_on_lan(found, self.shared.local_peer, self.shared.clock.now());
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::RoutablePeer { peer, .. } | kad::Event::UnroutablePeer { peer } => {
                let addresses = self.state.doorway.serves(peer);
                self.enter(peer, addresses);
            }
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(record) } } => {
                match dht::read_key(&record.key) {
                    Some(key) => self.told(record.provider, key),
                    None => self.count_refused(),
                }
            }
            kad::Event::InboundRequest { request: kad::InboundRequest::PutRecord { .. } } => self.count_refused(),
            kad::Event::OutboundQueryProgressed { id, result: QueryResult::GetProviders(result), step, .. } => {
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    self.found(id, providers);
                }
                if step.last {
                    self.finish(id);
                }
            }
            _ => {}
        }
    }

    /// A provider tells of itself. Its own signed record says what is true of that; before the handshake there is none, and
    /// after it everything is known.
    fn told(&mut self, provider: PeerId, key: [u8; KEY_BYTES]) {
        let Some((node, record)) = self.record_of(provider) else { return };
        if dht::keys_of(&record).contains(&key) {
            self.keep(provider, node, &record, [key]);
        } else {
            self.count_refused();
        }
    }

    fn record_of(&self, peer: PeerId) -> Option<(NodeId, NodeRecord)> {
        let table = self.shared.table.lock();
        let node = table.connected_by_peer_id(&peer)?;
        Some((node, table.record_of(node)?))
    }

    fn keep(
        &mut self,
        provider: PeerId,
        node: NodeId,
        record: &NodeRecord,
        keys: impl IntoIterator<Item = [u8; KEY_BYTES]>,
    ) {
        let company = self.company(node);
        let Some(dht) = self.behaviour.dht.as_mut() else { return };
        let addresses = dht::provider_addresses(record, self.shared.class_of_peer(node));
        for key in keys {
            let key = RecordKey::new(&key);
            let known = if company.is_empty() { Vec::new() } else { dht.kad.store_mut().providers(&key) };
            let others = known.iter().filter(|known| company.contains(&known.provider)).count();
            if others >= CLUSTER_TABLED_MAX && !known.iter().any(|known| known.provider == provider) {
                self.shared.metrics.discovery.kad_refused.inc();
                continue;
            }
            let record = ProviderRecord { key, provider, expires: None, addresses: addresses.clone() };
            if dht.kad.store_mut().add_provider(record).is_err() {
                self.shared.metrics.discovery.kad_refused.inc();
            }
        }
        self.gauge();
    }

    /// A handshake was accepted.
    pub(super) fn accepted(&mut self, peer: PeerId) {
        if !self.behaviour.dht.is_enabled() {
            return;
        }
        let Some((node, record)) = self.record_of(peer) else { return };
        let addresses = dht::told_addresses(&record, self.shared.class_of_peer(node));
        let addresses = self.state.doorway.accepted(peer, addresses);
        self.enter(peer, addresses);
        self.keep(peer, node, &record, dht::keys_of(&record));
    }

    /// A peer's last connection is gone. One that is banned is asked nothing any more and told of to nobody.
    pub(super) fn left(&mut self, peer: &PeerId, banned: bool) {
        self.state.doorway.left(peer);
        if let (true, Some(dht)) = (banned, self.behaviour.dht.as_mut()) {
            dht.kad.remove_peer(peer);
            self.gauge();
        }
    }

    /// The other nodes of whoever made a node, by their names here; none for most, and none in networks that are one party's
    /// anyway.
    fn company(&self, node: NodeId) -> BTreeSet<PeerId> {
        if self.shared.class_of_peer(node) != AddressClass::Public {
            return BTreeSet::new();
        }
        let keys = self.shared.guard.known_clusters().company(node);
        let named = |key: &[u8; 32]| libp2p::identity::ed25519::PublicKey::try_from_bytes(key).ok();
        keys.iter().filter_map(named).map(|key| libp2p::identity::PublicKey::from(key).to_peer_id()).collect()
    }

    /// Whether the routing table has as many nodes of one party as it takes, and not this one.
    fn is_crowded(&mut self, peer: PeerId) -> bool {
        let node = self.shared.table.lock().connected_by_peer_id(&peer);
        let company = node.map(|node| self.company(node)).unwrap_or_default();
        let Some(dht) = self.behaviour.dht.as_mut().filter(|_| company.len() >= CLUSTER_TABLED_MAX) else {
            return false;
        };
        let (mut others, mut known) = (0, false);
        for bucket in dht.kad.kbuckets() {
            for entry in bucket.iter() {
                known |= *entry.node.key.preimage() == peer;
                others += usize::from(company.contains(entry.node.key.preimage()));
            }
        }
        !known && others >= CLUSTER_TABLED_MAX
    }

    fn enter(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if self.is_crowded(peer) {
            self.count_refused();
            return;
        }
        let (Some(dht), false) = (self.behaviour.dht.as_mut(), addresses.is_empty()) else { return };
        for address in addresses {
            dht.kad.add_address(&peer, address);
        }
        self.gauge();
        if let Some(discovery) = &self.shared.discovery {
            discovery.entered.notify_one();
        }
    }

    fn found(&mut self, query: QueryId, providers: impl IntoIterator<Item = PeerId>) {
        let (Some(lookup), Some(dht)) = (self.state.lookups.get_mut(&query), self.behaviour.dht.as_mut()) else {
            return;
        };
        let stored = dht.kad.store_mut().providers(&RecordKey::new(&lookup.key));
        for provider in providers.into_iter().filter(|provider| *provider != self.shared.local_peer) {
            if lookup.found.len() >= FOUND_MAX && !lookup.found.contains_key(&provider) {
                return;
            }
            let told = dht.addresses_of(provider);
            let found = lookup.found.entry(provider).or_insert_with(|| Found::new(provider));
            found.take(&told, dht);
            for record in stored.iter().filter(|record| record.provider == provider) {
                found.take(&record.addresses, dht);
            }
        }
    }

    fn finish(&mut self, query: QueryId) {
        if let Some(lookup) = self.state.lookups.remove(&query) {
            let found = lookup.found.into_values().collect();
            // Whoever asked may have given up.
            let _ = lookup.reply.send(found);
        }
    }

    fn count_refused(&self) {
        self.shared.metrics.discovery.kad_refused.inc();
    }

    fn gauge(&mut self) {
        let Some(dht) = self.behaviour.dht.as_mut() else { return };
        let peers: usize = dht.kad.kbuckets().map(|bucket| bucket.num_entries()).sum();
        let metrics = &self.shared.metrics.discovery;
        metrics.kad_peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
        metrics.kad_records.set(i64::try_from(dht.kad.store_mut().len()).unwrap_or(i64::MAX));
    }
}

impl NodeShared {
    /// How far the network reaches in which a peer is connected.
    fn class_of_peer(&self, node: NodeId) -> AddressClass {
        let remote = self.table.lock().connection_to(node).and_then(|handle| handle.session.ip());
        remote.and_then(AddressClass::of).unwrap_or(AddressClass::Public)
    }
}

/// The store of provider records with what the last run left, if Kademlia is wanted.
pub(super) fn open_store(config: &NetConfig, local: PeerId, now: trellis_primitives::UnixMs) -> Option<ProviderStore> {
    let told = config.discovery.as_ref().filter(|told| told.kad)?;
    let store = ProviderStore::new(local);
    if let Some(path) = &told.records_file
        && let Err(error) = store.read(path, config.network_magic, now)
    {
        let aside = trellis_crypto::file::set_aside(path).map(|path| path.display().to_string());
        let aside = aside.unwrap_or_else(|error| error.to_string());
        tracing::warn!(path = %path.display(), %error, aside, "the provider records were set aside");
    }
    Some(store)
}

impl Discovery {
    /// Says so where mDNS was wanted and the system refused it.
    pub(super) fn note_mdns(&self, refused: bool, now: trellis_primitives::UnixMs) {
        if refused {
            let detail = "the system gives no multicast sockets".to_owned();
            self.report(&Source::Mdns, Outcome::Failed, 0, detail, now);
        }
    }
}
