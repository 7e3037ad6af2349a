//! DNS seeds (NET-31): a name whose records say where nodes are.
//!
//! For a seed `NAME` these are asked, all at once: A and AAAA of `NAME` (nodes at the network's port), SRV of
//! `_trellis._udp.NAME` (hosts with their ports), TXT of `NAME` and of `_dnsaddr.NAME` (`dnsaddr=` multiaddresses).
//! For a seed `trellis://NODEID@NAME` the signed tree of node records below `NAME` is read ([`tree`]), and nothing that the
//! named publisher did not sign is believed. A seed is a hint and no authority: what it names still has to pass the
//! handshake.

pub mod resolver;
pub mod server;
pub mod tree;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use thiserror::Error;
use trellis_primitives::{NodeId, NodeRecord, UnixMs};

pub use self::resolver::{DnsConfig, DnsResolver, LookupError, ResolverError};
pub use self::server::{DnsServer, DnsServerError, DnsWay};

use self::resolver::Answers;
use self::tree::TreeError;
use super::address::{AddressClass, PeerAddress};
use crate::handshake::Checker;

/// One name server has this long for one question.
pub const DNS_TIMEOUT_MS: u64 = 3_000;
/// Questions to each name server before it counts as silent.
pub const DNS_ATTEMPTS: usize = 2;
/// A seed with all its questions has this long.
pub const SEED_TIMEOUT_MS: u64 = 20_000;
/// Addresses taken from one seed.
pub const SEED_ADDRESSES_MAX: usize = 256;
/// Hosts of SRV records whose addresses are asked for.
pub const SEED_HOSTS_MAX: usize = 16;
/// An answer is kept for at least this long, whatever its time to live.
pub const SEED_TTL_MS_MIN: u64 = 30_000;
/// An answer is kept for at most this long.
pub const SEED_TTL_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// A seed that failed is asked again after this long.
pub const SEED_RETRY_MS: u64 = 15_000;
/// What a TXT record of a node begins with.
pub const DNSADDR: &str = "dnsaddr=";
/// What the name of a signed tree begins with.
const PINNED: &str = "trellis://";

/// Why a seed gave nothing.
#[derive(Debug, Error)]
pub enum SeedError {
    /// No resolver could be set up.
    #[error("{0}")]
    NoResolver(String),
    /// The text is no domain name.
    #[error("not a domain name: {0:?}")]
    BadName(String),
    /// No name server answered any question.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// An answer was refused.
    #[error(transparent)]
    Refused(LookupError),
    /// The signed tree is not believed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The questions took too long all together.
    #[error("no answer within {timeout_ms} ms")]
    Timeout {
        /// The limit that passed, milliseconds.
        timeout_ms: u64,
    },
}

impl From<LookupError> for SeedError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NoAnswer(detail) => Self::NoAnswer(detail),
            refused => Self::Refused(refused),
        }
    }
}

/// What a seed said.
#[derive(Clone, PartialEq, Debug)]
pub struct SeedAnswer {
    /// Where nodes are.
    pub addresses: Vec<PeerAddress>,
    /// Nodes with their signed records, and what these say of where they are.
    pub nodes: Vec<(NodeId, NodeRecord, Vec<PeerAddress>)>,
    /// How long the answer is kept, within [`SEED_TTL_MS_MIN`] and [`SEED_TTL_MS_MAX`].
    pub ttl_ms: u64,
    /// Addresses and records that were left out: not dialable, not good, or of a network nearer than the name server.
    pub left_out: usize,
    /// Whether DNSSEC vouches for the whole answer.
    pub validated: bool,
}

/// Asks seeds.
pub struct Seeds {
    resolver: Result<DnsResolver, String>,
    /// The nearest class of address that is believed.
    nearest: AddressClass,
    /// The port of nodes whose record names none.
    port: u16,
    /// What records in a tree have to be of.
    checker: Checker,
    /// The newest number of each publisher's tree.
    trees: Mutex<BTreeMap<NodeId, u64>>,
}

impl Seeds {
    /// Seeds that are looked up as the configuration says. `port` is that of nodes in A and AAAA records.
    ///
    /// Addresses of private networks are believed only if every server was named by the operator and is itself in a
    /// network as near: a public name never leads this node into its own site.
    pub(crate) fn new(config: &DnsConfig, port: u16, checker: Checker) -> Self {
        let classes = config.servers.iter().filter_map(|server| AddressClass::of(server.socket.ip()));
        let nearest = classes.max().unwrap_or(AddressClass::Public);
        let resolver = DnsResolver::new(config).map_err(|error| error.to_string());
        Self { resolver, nearest, port, checker, trees: Mutex::default() }
    }

    /// Asks one seed. `draw` chooses which part of a large tree is read.
    ///
    /// # Errors
    /// [`SeedError`]. A name that exists and names nobody is an empty answer, not an error.
    pub async fn ask(&self, seed: &str, now: UnixMs, draw: u64) -> Result<SeedAnswer, SeedError> {
        let limit = Duration::from_millis(SEED_TIMEOUT_MS);
        let asked = async {
            let resolver = self.resolver.as_ref().map_err(|error| SeedError::NoResolver(error.clone()))?;
            match seed.strip_prefix(PINNED) {
                Some(pinned) => self.ask_tree(resolver, pinned, now, draw).await,
                None => self.ask_records(resolver, seed).await,
            }
        };
        let answer = tokio::time::timeout(limit, asked).await;
        answer.map_err(|_| SeedError::Timeout { timeout_ms: SEED_TIMEOUT_MS })?
    }

    async fn ask_records(&self, resolver: &DnsResolver, seed: &str) -> Result<SeedAnswer, SeedError> {
        let name = domain(seed)?;
        let (service, dnsaddr) = (below("_trellis._udp", &name)?, below("_dnsaddr", &name)?);
        let verified = resolver.verify_anchor().await;
        let ask = |name: Name, record_type| async move { resolver.ask(&name, record_type, verified).await };
        let (a, aaaa, srv, txt, txt_below) = tokio::join!(
            ask(name.clone(), RecordType::A),
            ask(name.clone(), RecordType::AAAA),
            ask(service, RecordType::SRV),
            ask(name.clone(), RecordType::TXT),
            ask(dnsaddr, RecordType::TXT),
        );
        let mut gathered = Gathered { validated: true, ..Gathered::default() };
        for answers in [a, aaaa] {
            gathered.take(answers, |data, gathered| gathered.host(data, self.port))?;
        }
        let mut hosts = BTreeSet::new();
        gathered.take(srv, |data, _| {
            if let RData::SRV(srv) = data {
                hosts.insert((srv.target.clone(), srv.port));
            }
        })?;
        for answers in [txt, txt_below] {
            gathered.take(answers, |data, gathered| gathered.text(data))?;
        }
        // All at once: one host that is never found must not cost the time of the others.
        let hosts = hosts.into_iter().take(SEED_HOSTS_MAX).map(|(host, port)| async move {
            let both = tokio::join!(ask(host.clone(), RecordType::A), ask(host, RecordType::AAAA));
            (both, port)
        });
        for ((a, aaaa), port) in futures::future::join_all(hosts).await {
            for answers in [a, aaaa] {
                gathered.take(answers, |data, gathered| gathered.host(data, port))?;
            }
        }
        gathered.into_answer(self.nearest)
    }
}

/// A domain name, absolute.
fn domain(text: &str) -> Result<Name, SeedError> {
    let mut name = Name::from_utf8(text).map_err(|_| SeedError::BadName(text.to_owned()))?;
    name.set_fqdn(true);
    Ok(name)
}

/// A name below another.
fn below(label: &str, name: &Name) -> Result<Name, SeedError> {
    let joined = Name::from_ascii(label).and_then(|label| label.append_domain(name));
    joined.map_err(|_| SeedError::BadName(format!("{label}.{name}")))
}

/// The text of a TXT record, its parts joined.
fn text_of(data: &RData) -> Option<String> {
    let RData::TXT(txt) = data else { return None };
    let bytes: Vec<u8> = txt.txt_data.iter().flat_map(|part| part.iter().copied()).collect();
    String::from_utf8(bytes).ok()
}

/// How long an answer is kept.
fn bounded_ttl_ms(ttl_s: Option<u32>) -> u64 {
    (u64::from(ttl_s.unwrap_or_default()) * 1_000).clamp(SEED_TTL_MS_MIN, SEED_TTL_MS_MAX)
}

/// What came so far.
#[derive(Default)]
struct Gathered {
    addresses: Vec<PeerAddress>,
    left_out: usize,
    ttl_s: Option<u32>,
    answered: bool,
    validated: bool,
    error: Option<String>,
}

impl Gathered {
    /// Takes one answer; one that was refused refuses the whole seed.
    fn take(
        &mut self,
        answers: Result<Answers, LookupError>,
        mut each: impl FnMut(&RData, &mut Self),
    ) -> Result<(), SeedError> {
        match answers {
            Ok(answers) => {
                self.answered = true;
                self.validated &= answers.validated;
                for record in &answers.records {
                    self.ttl_s = Some(self.ttl_s.map_or(record.ttl, |ttl| ttl.min(record.ttl)));
                    each(&record.data, self);
                }
                Ok(())
            }
            Err(LookupError::NoAnswer(detail)) => {
                self.error.get_or_insert(detail);
                Ok(())
            }
            Err(refused) => Err(SeedError::Refused(refused)),
        }
    }

    fn host(&mut self, data: &RData, port: u16) {
        let ip: IpAddr = match data {
            RData::A(a) => a.0.into(),
            RData::AAAA(aaaa) => aaaa.0.into(),
            _ => return,
        };
        self.add(Some(PeerAddress { socket: SocketAddr::new(ip.to_canonical(), port), peer: None }));
    }

    fn text(&mut self, data: &RData) {
        // Other records of the name, such as SPF, are none of ours.
        if let Some(address) = text_of(data).as_deref().and_then(|text| text.strip_prefix(DNSADDR)) {
            self.add(PeerAddress::parse(address));
        }
    }

    fn add(&mut self, address: Option<PeerAddress>) {
        match address {
            Some(address) if address.socket.port() != 0 && self.addresses.len() < SEED_ADDRESSES_MAX => {
                if !self.addresses.contains(&address) {
                    self.addresses.push(address);
                }
            }
            _ => self.left_out += 1,
        }
    }

    fn into_answer(mut self, nearest: AddressClass) -> Result<SeedAnswer, SeedError> {
        if let (false, Some(error)) = (self.answered, self.error) {
            return Err(SeedError::NoAnswer(error));
        }
        let before = self.addresses.len();
        self.addresses.retain(|address| address.class().is_some_and(|class| nearest.may_share(class)));
        let left_out = self.left_out + before - self.addresses.len();
        let (ttl_ms, validated) = (bounded_ttl_ms(self.ttl_s), self.validated);
        Ok(SeedAnswer { addresses: self.addresses, nodes: Vec::new(), ttl_ms, left_out, validated })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::{A, TXT};
    use proptest::prelude::*;

    fn gathered(data: &[RData]) -> Gathered {
        let mut gathered = Gathered { answered: true, ..Gathered::default() };
        data.iter().for_each(|data| {
            gathered.host(data, 9_700);
            gathered.text(data);
        });
        gathered
    }

    // row: NET-31
    #[test]
    fn addresses_are_filtered_and_times_to_live_bounded() {
        let text = |text: &str| RData::TXT(TXT::new(vec![text.to_owned()]));
        let data = [
            RData::A(A::new(11, 0, 0, 1)),
            RData::A(A::new(11, 0, 0, 1)),
            RData::A(A::new(192, 168, 0, 1)),
            RData::A(A::new(0, 0, 0, 0)),
            text("dnsaddr=/ip4/11.0.0.2/udp/9701/quic-v1"),
            text("dnsaddr=/ip4/11.0.0.2/sctp/9701"),
            text("v=spf1 -all"),
        ];
        let answer = gathered(&data).into_answer(AddressClass::Public).unwrap();
        let sockets: Vec<String> = answer.addresses.iter().map(|address| address.socket.to_string()).collect();
        assert_eq!(sockets, ["11.0.0.1:9700", "11.0.0.2:9701"]);
        assert_eq!((answer.left_out, answer.ttl_ms), (3, SEED_TTL_MS_MIN));
        let mut long = gathered(&data);
        long.ttl_s = Some(u32::MAX);
        let answer = long.into_answer(AddressClass::Private).unwrap();
        assert_eq!((answer.addresses.len(), answer.ttl_ms), (3, SEED_TTL_MS_MAX));
        let silent = Gathered { error: Some("timed out".to_owned()), ..Gathered::default() };
        assert!(matches!(silent.into_answer(AddressClass::Public), Err(SeedError::NoAnswer(_))));
    }

    proptest! {
        // row: NET-31, NET-56
        #[test]
        fn no_text_of_a_zone_makes_the_reader_panic_and_its_size_is_bounded(texts in prop::collection::vec("(dnsaddr=)?(/ip4/11\\.0\\.0\\.[0-9]/udp/[0-9]{1,5}/quic-v1|.{0,40})", 0..400)) {
            let data: Vec<RData> = texts.into_iter().map(|text| RData::TXT(TXT::new(vec![text]))).collect();
            let answer = gathered(&data).into_answer(AddressClass::Public).unwrap();
            prop_assert!(answer.addresses.len() <= SEED_ADDRESSES_MAX);
        }
    }
}
