//! The DNS seeder (NET-33): a node that sells nothing, probes every node it hears of, and names the good ones in a zone.

use crate::cli::DnsSeedArgs;
use crate::failure::Failure;
use crate::monitor::Health as Ready;
use crate::role::{Base, open_as, serve_control, serve_metrics};
use crate::settings::Settings;
use crate::supervised::until_told_to_end;
use eyre::Result;
use futures::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use trellis_crypto::file::replace;
use trellis_net_peers::discovery::P2P_PORT;
use trellis_net_peers::discovery::address::{AddressClass, PeerAddress};
use trellis_net_peers::discovery::dns::tree::TreePlace;
use trellis_net_peers::seeder::health::{Health, Node};
use trellis_net_peers::seeder::update::{Published, Publisher, UpdateKey};
use trellis_net_peers::seeder::zone::{ZONE_NODES_MAX, Zone};
use trellis_net_peers::{DisconnectReason, NetworkHandle};
use trellis_primitives::{NodeId, RoleSet, UnixMs};

/// What the folder calls it.
const NAME: &str = "dnsseed";
/// Names that were published, so that a restart removes what is stale.
const PUBLISHED_FILE: &str = "zone.json";
/// Probes at once.
const PROBES_AT_ONCE: usize = 16;
/// Probes of one round.
const PROBES_MAX: usize = 512;
/// Connections that are kept for asking them about others.
const KEPT: usize = 32;
/// A node is named for this many rounds after it answered last.
const FRESH_ROUNDS: u64 = 3;
/// A tree is good for this many rounds, and never for less than an hour.
const TREE_ROUNDS: u64 = 100;
/// The shortest life of a tree.
const TREE_MS_MIN: u64 = 60 * 60 * 1_000;
/// The longest: less than a tree may live.
const TREE_MS_MAX: u64 = 6 * 24 * 60 * 60 * 1_000;
/// Milliseconds in a second.
const SECOND_MS: u64 = 1_000;

/// Runs the seeder until it is told to end.
///
/// # Errors
/// Whatever keeps it from starting, with a hint.
pub async fn run(settings: Settings, args: &DnsSeedArgs, datadir: Option<&Path>) -> Result<()> {
    let publisher = publisher(args)?;
    let mut base = open_as(NAME, RoleSet(0), settings, datadir, Vec::new()).await?;
    let ready = Ready::new(&mut base.registry);
    let registry = std::mem::take(&mut base.registry);
    let _monitor = serve_metrics(&base.settings, registry, Arc::clone(&ready), &base.status).await?;
    let answers = base.answers();
    let control = serve_control(&base.datadir, Arc::new(answers))?;
    base.status.set("seed", json!(format!("trellis://{}@{}", base.node_key.node_id(), args.zone)));
    ready.set(NAME, true, "crawling");
    base.status.set("ready", json!(true));
    let network = base.network.clone();
    let mut seeder = Seeder::new(base, args.clone(), publisher)?;
    let cause = tokio::select! {
        cause = until_told_to_end() => cause,
        () = seeder.work() => "the seeder stopped",
    };
    tracing::info!(cause, "dnsseed ending");
    control.abort();
    network.shutdown().await;
    Ok(())
}

fn publisher(args: &DnsSeedArgs) -> Result<Option<Publisher>> {
    let Some(server) = &args.update else { return Ok(None) };
    let usage = |message: String| {
        Failure::usage(message)
            .hint("`tsig-keygen NAME > FILE` makes a key; the server's zone needs `allow-update { key NAME; };`")
    };
    let socket = server.parse().or_else(|_| server.parse::<std::net::IpAddr>().map(|ip| (ip, 53).into()));
    let socket = socket.map_err(|_| usage(format!("--update is an IP address and a port, got {server:?}")))?;
    let file = args.key.as_ref().ok_or_else(|| usage("--update needs --key".to_owned()))?;
    let text = std::fs::read_to_string(file)
        .map_err(|error| usage(format!("cannot read the key {}: {error}", file.display())))?;
    let key = UpdateKey::parse(&text).map_err(|error| usage(format!("{}: {error}", file.display())))?;
    Ok(Some(Publisher::new(&args.zone, socket, key).map_err(|error| usage(error.to_string()))?))
}

struct Seeder {
    base: Base,
    args: DnsSeedArgs,
    publisher: Option<Publisher>,
    health: Health,
    last: Option<Zone>,
    published: Published,
    sequence: u64,
    renew: UnixMs,
    state_file: PathBuf,
}

impl Seeder {
    fn new(base: Base, args: DnsSeedArgs, publisher: Option<Publisher>) -> Result<Self> {
        let state_file = base.datadir.join(PUBLISHED_FILE);
        let published = match std::fs::read(&state_file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(_) => Published::default(),
        };
        let health = Health::default();
        Ok(Self { base, args, publisher, health, last: None, published, sequence: 0, renew: UnixMs(0), state_file })
    }

    fn round_ms(&self) -> u64 {
        u64::from(self.args.interval_s.max(1)) * SECOND_MS
    }

    async fn work(&mut self) {
        loop {
            self.crawl().await;
            if let Err(error) = self.publish().await {
                tracing::warn!(%error, "the zone was not published");
                self.base.status.set("zone_error", json!(error.to_string()));
            }
            tokio::time::sleep(Duration::from_millis(self.round_ms())).await;
        }
    }

    /// Dials everything that is known, remembered nodes first, and then where those that answered say that they listen.
    async fn crawl(&mut self) {
        let network = self.base.network.clone();
        let remembered = self.health.addresses().into_iter();
        let known = network.known_addresses();
        let heard = known.iter().filter_map(|text| PeerAddress::parse(text));
        let here = network.peers().into_iter().filter(|peer| peer.connected_since.is_some());
        let here: Vec<PeerAddress> = here.filter_map(|peer| PeerAddress::parse(peer.addresses.first()?)).collect();
        let mut places = BTreeSet::new();
        let all = remembered.chain(here).chain(heard);
        let first = all.filter(|address| places.insert(address.socket)).take(PROBES_MAX).collect();
        let elsewhere = self.probe(&network, first).await;
        let second = elsewhere.into_iter().filter(|address| places.insert(address.socket)).take(PROBES_MAX).collect();
        self.probe(&network, second).await;
        let connected = network.peers().into_iter().filter(|peer| peer.connected_since.is_some());
        for id in connected.filter_map(|peer| peer.id).skip(KEPT) {
            network.disconnect(id, DisconnectReason::UserRequest).await;
        }
    }

    /// Dials addresses; gives where nodes that answered say that they listen instead.
    async fn probe(&mut self, network: &NetworkHandle, addresses: Vec<PeerAddress>) -> Vec<PeerAddress> {
        // Without a name: a node that is connected already would answer under its own wherever it is said to be.
        let bare = addresses.into_iter().map(|address| PeerAddress { peer: None, ..address });
        let probes = bare.map(|address| async move { (address, network.dial(&address.to_string()).await) });
        let mut answers = futures::stream::iter(probes).buffer_unordered(PROBES_AT_ONCE);
        let mut elsewhere = Vec::new();
        while let Some((address, answer)) = answers.next().await {
            match answer {
                Ok(id) => elsewhere.extend(note(network, &mut self.health, id, address, self.base.clock.now())),
                Err(_) => self.health.silent(address),
            }
        }
        elsewhere
    }

    /// Publishes what changed, and a tree anew before it runs out.
    async fn publish(&mut self) -> Result<()> {
        let now = self.base.clock.now();
        let fresh = UnixMs(now.0.saturating_sub(FRESH_ROUNDS * self.round_ms().max(30 * SECOND_MS)));
        let nearest = if self.args.private { AddressClass::Loopback } else { AddressClass::Public };
        let healthy = self.health.healthy(nearest, fresh, ZONE_NODES_MAX);
        let mut nodes: Vec<Node> = healthy.into_iter().map(|(_, node)| node.clone()).collect();
        nodes.sort_by_key(|node| node.address.socket);
        self.base.status.set("nodes_known", json!(self.health.len()));
        self.base.status.set("nodes_named", json!(nodes.len()));
        if nodes.is_empty() {
            tracing::info!(known = self.health.len(), "nobody to name; the zone stays as it is");
            return Ok(());
        }
        let chain = &self.base.chain.spec;
        let place = TreePlace {
            zone: self.args.zone.trim_end_matches('.'),
            network_magic: chain.network_magic(),
            chain_id: chain.genesis.chain_id,
        };
        let port = if chain.network.p2p_port == 0 { P2P_PORT } else { chain.network.p2p_port };
        let life_ms = (TREE_ROUNDS * self.round_ms()).clamp(TREE_MS_MIN, TREE_MS_MAX);
        // With the sequence and the end of the last tree the same nodes make the same zone.
        let listed: Vec<&Node> = nodes.iter().collect();
        let make = |sequence: u64, renew: UnixMs| {
            Zone::of(&listed, port, &self.base.node_key, place, sequence, renew.plus_ms(life_ms / 2))
        };
        if now < self.renew && self.last.as_ref() == Some(&make(self.sequence, self.renew)?) {
            return Ok(());
        }
        let (sequence, renew) = (now.0.max(self.sequence + 1), now.plus_ms(life_ms / 2));
        let zone = make(sequence, renew)?;
        self.hand_over(&zone, now).await?;
        tracing::info!(nodes = nodes.len(), sequence, "the zone is published");
        self.base.status.set("zone_published", json!(now.to_rfc3339()));
        self.base.status.set("zone_error", Value::Null);
        (self.last, self.sequence, self.renew) = (Some(zone), sequence, renew);
        Ok(())
    }

    async fn hand_over(&mut self, zone: &Zone, now: UnixMs) -> Result<()> {
        if let Some(file) = &self.args.out {
            replace(file, zone.to_file().as_bytes())
                .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
        }
        if let Some(publisher) = &self.publisher {
            // Written before, so that what a torn update leaves is known to the next run.
            let all: Published = self.published.union(&zone.names()).cloned().collect();
            replace(&self.state_file, &serde_json::to_vec(&all)?)?;
            self.published = publisher.publish(zone, self.last.as_ref(), &all, now).await?;
            replace(&self.state_file, &serde_json::to_vec(&self.published)?)?;
        }
        if self.args.out.is_none() && self.publisher.is_none() {
            println!("{}", zone.to_file());
        }
        Ok(())
    }
}

/// A node answered at an address. Only where it was dialled and says that it listens it is remembered: who dialled this
/// node is known by the port of his dial, which may answer nobody, and what a record says alone may be somebody else's
/// address. Gives where it says that it listens, if that is elsewhere.
fn note(
    network: &NetworkHandle,
    health: &mut Health,
    id: NodeId,
    address: PeerAddress,
    now: UnixMs,
) -> Option<PeerAddress> {
    let info = network.peers().into_iter().find(|peer| peer.id == Some(id))?;
    let told = info.record.as_ref().map(|record| record.addresses.as_slice()).unwrap_or_default();
    let told: Vec<PeerAddress> = told.iter().filter_map(|text| PeerAddress::parse(text)).collect();
    if !told.iter().any(|own| own.socket == address.socket) {
        return told.first().copied();
    }
    if let Some(record) = network.signed_record(id) {
        health.answered(id, PeerAddress { peer: info.peer_id.parse().ok(), ..address }, record, now);
    }
    None
}
