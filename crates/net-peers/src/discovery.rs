//! Finding peers from nothing, and finding them again (NET-30 to 38).
//!
//! Sources tell addresses: the operator's list, the list of the chain spec, the anchors of the last run, the address book,
//! DNS seeds, other peers. All go into the [`book`], and from the book the outbound connections are kept at their minimum,
//! in rounds: every [`ROUND_MS`], and at once when a connection is lost or something new was told. Each source shows its
//! last result ([`DiscoveryReport`]).
//!
//! [`book`], [`address`] and the rules of [`pex`] are pure; `service` is the shell that dials, asks and saves.

pub mod address;
pub mod book;
mod crowd;
pub mod dns;
pub mod file;
pub mod hidden;
pub mod kad;
pub mod lan;
pub mod pex;
pub(crate) mod relayed;
mod report;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};

use libp2p::core::Multiaddr;
use parking_lot::Mutex;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use tokio::sync::Notify;
use trellis_crypto::file::set_aside;
use trellis_primitives::{NodeId, NodeRecord, Role, UnixMs};

use crate::config::NetConfig;
use crate::handshake::Checker;

pub use self::dns::{DnsConfig, DnsServer, DnsServerError};
pub use self::lan::LAN_ADDRESSES_MAX;
pub use self::report::{DiscoveryMetrics, DiscoveryReport, Outcome, OutcomeLabels, Source, SourceLabels, SourceReport};
pub(crate) use self::service::start;

use self::address::{AddressClass, AddressGroup, PeerAddress};
use self::book::Book;
use self::crowd::{Numbers, RelayList, Relays};
use self::dns::Seeds;
use self::hidden::{HiddenBook, Networks};
use self::kad::store::ProviderStore;
use self::pex::{AnswerLimiter, Records, other_ways, peer_of, usable_addresses};
use self::relayed::RelayedBook;
use self::report::Reports;
use crate::table::route::is_circuit;

/// Between two rounds, unless configured otherwise (NET-38).
pub const ROUND_MS: u64 = 300_000;
/// Outbound connections kept, unless configured otherwise (NET-50).
pub const OUTBOUND_MIN: usize = 8;
/// Between two feelers, unless configured otherwise.
pub const FEELER_MS: u64 = 120_000;
/// The port of nodes where a DNS seed names none.
pub const P2P_PORT: u16 = 9_700;
/// A node with a QUIC address is given this long before it is dialled over TCP.
const QUIC_FIRST_MS: u64 = 3_000;
/// The same before it is dialled over a relay: one that keeps relays does not know whether everybody reaches it.
const DIRECT_FIRST_MS: u64 = 500;
/// DNS seeds at most.
pub const SEEDS_MAX: usize = 16;

/// What discovery is told.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// Where the address book is kept; `None` keeps none over a restart.
    pub book_file: Option<PathBuf>,
    /// Addresses that came with the chain spec, multiaddr text; dialled while outbound connections are missing.
    pub compiled_in: Vec<String>,
    /// DNS seeds, at most [`SEEDS_MAX`]: a name, or `trellis://NODEID@NAME` for a signed tree of that publisher alone.
    pub dns_seeds: Vec<String>,
    /// How the seeds' names are looked up.
    pub dns: DnsConfig,
    /// The port of nodes where a DNS seed names none.
    pub p2p_port: u16,
    /// Whether peers are asked for addresses and answered.
    pub pex: bool,
    /// Whether nodes on the local network are found by mDNS; only where this node listens there.
    pub mdns: bool,
    /// Whether providers are announced and found in the network's hash table.
    pub kad: bool,
    /// Where the table's records are kept; `None` keeps none over a restart.
    pub records_file: Option<PathBuf>,
    /// Outbound connections kept.
    pub outbound_min: usize,
    /// Between two rounds, milliseconds.
    pub round_ms: u64,
    /// Between two feelers, milliseconds.
    pub feeler_ms: u64,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            book_file: None,
            compiled_in: Vec::new(),
            dns_seeds: Vec::new(),
            dns: DnsConfig::default(),
            p2p_port: P2P_PORT,
            pex: true,
            mdns: true,
            kad: true,
            records_file: None,
            outbound_min: OUTBOUND_MIN,
            round_ms: ROUND_MS,
            feeler_ms: FEELER_MS,
        }
    }
}

/// What the tasks of discovery share.
pub(crate) struct Discovery {
    pub(crate) config: DiscoveryConfig,
    networks: Networks,
    seeds: Seeds,
    book: Mutex<Book>,
    records: Mutex<Records>,
    /// Nodes that can be reached over relays.
    relayed: Mutex<RelayedBook>,
    /// Relays that records tell of.
    relays: Mutex<Relays>,
    /// The newest record of each node, by its number.
    numbers: Mutex<Numbers>,
    reports: Mutex<Reports>,
    limiter: Mutex<AnswerLimiter>,
    /// When each connected peer was last asked.
    asked: Mutex<BTreeMap<NodeId, UnixMs>>,
    /// From when on each key of a model that was looked up may be looked up again.
    sought: Mutex<BTreeMap<[u8; self::kad::KEY_BYTES], UnixMs>>,
    /// When each DNS seed's answer runs out.
    seeds_due: Mutex<BTreeMap<String, UnixMs>>,
    /// Outbound peers of the last run, until they were dialled.
    anchors: Mutex<Vec<PeerAddress>>,
    /// Outbound peers of this run, for the next one.
    outbound: Mutex<Vec<PeerAddress>>,
    dialling: Mutex<BTreeSet<SocketAddr>>,
    rng: Mutex<ChaCha8Rng>,
    rounds: AtomicU64,
    /// The book changed since it was saved.
    dirty: AtomicBool,
    /// Something was told, or a connection was lost.
    wake: Notify,
    /// The book has new addresses: a round that waits for slow dials goes on with these.
    told: Notify,
    /// A node entered Kademlia's routing table.
    pub(crate) entered: Notify,
    /// Provider records kept for others, if Kademlia is on.
    store: Option<ProviderStore>,
    metrics: DiscoveryMetrics,
}

impl Discovery {
    /// Opens the book; one that cannot be used is set aside with a warning.
    pub(crate) fn open(
        config: DiscoveryConfig,
        node: &NetConfig,
        checker: &Checker,
        now: UnixMs,
        mut rng: ChaCha8Rng,
        metrics: DiscoveryMetrics,
        store: Option<ProviderStore>,
    ) -> Self {
        let opened = config.book_file.as_ref().and_then(|path| match file::read(path, checker.network_magic, now) {
            Ok(opened) => opened,
            Err(error) => {
                let aside = set_aside(path).map(|path| path.display().to_string());
                let aside = aside.unwrap_or_else(|error| error.to_string());
                tracing::warn!(path = %path.display(), %error, aside, "the address book was set aside");
                None
            }
        });
        let (book, anchors) = match opened {
            Some(opened) => (opened.book, opened.anchors),
            None => {
                let mut secret = [0u8; 32];
                rng.fill_bytes(&mut secret);
                (Book::new(secret), Vec::new())
            }
        };
        let dns = config.dns_seeds.iter().take(SEEDS_MAX).cloned().map(Source::Dns);
        let configured = &node.bootstrap;
        let mut sources = vec![Source::Book, Source::Anchors];
        sources.extend((!configured.is_empty()).then_some(Source::Config));
        sources.extend((!config.compiled_in.is_empty()).then_some(Source::CompiledIn));
        sources.extend(config.pex.then_some(Source::Pex));
        sources.extend(config.mdns.then_some(Source::Mdns));
        sources.extend(config.kad.then_some(Source::Kad));
        Self {
            seeds: Seeds::new(&config.dns, config.p2p_port, checker.clone()),
            reports: Mutex::new(Reports::new(configured, sources.into_iter().chain(dns))),
            book: Mutex::new(book),
            records: Mutex::default(),
            relayed: Mutex::default(),
            relays: Mutex::default(),
            numbers: Mutex::default(),
            limiter: Mutex::default(),
            asked: Mutex::default(),
            sought: Mutex::default(),
            seeds_due: Mutex::default(),
            outbound: Mutex::new(anchors.clone()),
            anchors: Mutex::new(anchors),
            dialling: Mutex::default(),
            rng: Mutex::new(rng),
            rounds: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            wake: Notify::new(),
            told: Notify::new(),
            entered: Notify::new(),
            networks: Networks::of(node.proxy.as_ref()),
            store,
            metrics,
            config,
        }
    }

    /// The relays that records tell of; nothing where that is the version `seen`.
    pub(crate) fn relays_since(&self, seen: u64, now: UnixMs) -> Option<RelayList> {
        self.relays.lock().since(seen, now)
    }

    /// Takes a verified record into what this node knows, as a peer in `source` that is reached at an address of class
    /// `teller` tells it. Gives how many addresses are new and whether there is a new way beside QUIC; `None` for a record
    /// that is older than one seen before.
    fn take_record(
        &self,
        node: NodeId,
        record: &NodeRecord,
        (teller, source): (AddressClass, AddressGroup),
        now: UnixMs,
    ) -> Option<(usize, bool)> {
        if !self.numbers.lock().take(node, record, now) {
            return None;
        }
        let direct = self.direct_addresses(record, teller);
        let new = self.book.lock().tell_record(node, &direct, source, now);
        Some((new, self.note_ways(node, record, &direct, (teller, source), now)))
    }

    /// The QUIC addresses that a verified record tells and that this node may dial.
    fn direct_addresses(&self, record: &NodeRecord, teller: AddressClass) -> Vec<PeerAddress> {
        if self.networks == Networks::Hidden { Vec::new() } else { usable_addresses(record, teller) }
    }

    /// Takes up again who is known by a hidden name, and nothing else is known of.
    fn recall_hidden(&self, now: UnixMs) {
        if self.networks == Networks::Clear {
            return;
        }
        let book = self.book.lock();
        let mut relayed = self.relayed.lock();
        for (node, known) in book.hidden.all().filter(|(_, known)| HiddenBook::ends(known) > now) {
            if !relayed.knows(node) {
                relayed.tell(node, known.addresses.clone(), HiddenBook::ends(known), AddressGroup::OPERATOR, now, 0);
            }
        }
    }

    /// Takes what a verified record tells beside QUIC addresses: that its node is a relay, and how else it is reached.
    /// `true` if there is a new way.
    fn note_ways(
        &self,
        node: NodeId,
        record: &NodeRecord,
        direct: &[PeerAddress],
        (teller, source): (AddressClass, AddressGroup),
        now: UnixMs,
    ) -> bool {
        let mut others = other_ways(record, teller, self.networks);
        if self.networks != Networks::Clear {
            let mut book = self.book.lock();
            book.hidden.tell(node, &others, now);
            // Where it was reached counts, whatever its record says.
            let known = book.hidden.get(node).map(|known| known.addresses.clone()).unwrap_or_default();
            others.extend(known.into_iter().filter(|address| !others.contains(address)).collect::<Vec<_>>());
        }
        if let Some(peer) = peer_of(record) {
            let quic = direct.iter().filter_map(|address| address.to_string().parse().ok());
            let places: Vec<Multiaddr> =
                quic.chain(others.iter().filter(|other| !is_circuit(other)).cloned()).collect();
            if record.roles.contains(Role::Relay) && !places.is_empty() {
                self.relays.lock().tell(peer, places, record.expires(), source, now);
            } else {
                self.relays.lock().forget(&peer);
            }
        }
        let mut book = self.relayed.lock();
        if others.is_empty() {
            book.forget(node);
            return false;
        }
        // Where there is a QUIC address too, that one goes first.
        let wait_ms = match (direct.is_empty(), others.iter().any(is_circuit)) {
            (true, _) => 0,
            (false, true) => DIRECT_FIRST_MS,
            (false, false) => QUIC_FIRST_MS,
        };
        book.tell(node, others, record.expires(), source, now, wait_ms)
    }

    /// Every address in the book.
    pub(crate) fn known_addresses(&self) -> Vec<String> {
        let book = self.book.lock();
        let known = book.entries().map(|(socket, entry)| PeerAddress { socket, peer: entry.peer }.to_string());
        known.collect()
    }

    /// Notes what a dial to an address of the operator's list came to.
    pub(crate) fn configured(&self, address: &str, result: Result<(), String>, at: UnixMs) {
        let mut reports = self.reports.lock();
        let report = reports.configured(address, result, at);
        reports.set(&Source::Config, report, &self.metrics);
    }

    pub(crate) fn report(&self, source: &Source, outcome: Outcome, addresses: usize, detail: String, at: UnixMs) {
        let report = SourceReport { source: source.to_string(), outcome, at: Some(at), addresses, detail };
        tracing::debug!(
            source = report.source,
            outcome = outcome.name(),
            addresses,
            detail = report.detail,
            "source used"
        );
        self.reports.lock().set(source, report, &self.metrics);
    }

    /// A wait with up to a quarter of jitter on top, so that nodes started together do not ask together.
    fn jittered(&self, ms: u64) -> std::time::Duration {
        std::time::Duration::from_millis(ms.saturating_add(self.rng.lock().random_range(0..=ms / 4)))
    }
}
