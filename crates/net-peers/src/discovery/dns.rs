//! DNS seeds (NET-31): a name whose records say where nodes are.
//!
//! For a seed `NAME` these are asked, all at once: A and AAAA of `NAME` (nodes at the network's port), SRV of
//! `_trellis._udp.NAME` (hosts with their ports), TXT of `NAME` and of `_dnsaddr.NAME` (`dnsaddr=` multiaddresses).
//! A seed is a hint and no authority: what it names still has to pass the handshake.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use thiserror::Error;

use super::address::{AddressClass, PeerAddress};

/// The port of a name server that is given without one.
pub const DNS_PORT: u16 = 53;
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
const DNSADDR: &str = "dnsaddr=";

/// A name server to ask: `IP`, `IP:PORT`, `[IPv6]:PORT`, or one of them behind `udp://` or `tcp://` for that way alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DnsServer {
    /// Where it is.
    pub socket: SocketAddr,
    /// Whether it is asked over UDP.
    pub udp: bool,
    /// Whether it is asked over TCP: where UDP failed or an answer was cut, or alone.
    pub tcp: bool,
}

/// A text that names no name server.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("a DNS server is IP, IP:PORT, udp://IP:PORT or tcp://IP:PORT, got {0:?}")]
pub struct DnsServerError(pub String);

impl FromStr for DnsServer {
    type Err = DnsServerError;

    fn from_str(text: &str) -> Result<Self, DnsServerError> {
        let (udp, tcp, rest) = match (text.strip_prefix("udp://"), text.strip_prefix("tcp://")) {
            (Some(rest), _) => (true, false, rest),
            (_, Some(rest)) => (false, true, rest),
            _ => (true, true, text),
        };
        let alone = rest.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
        let socket = alone.or_else(|_| rest.parse()).map_err(|_| DnsServerError(text.to_owned()))?;
        Ok(Self { socket, udp, tcp })
    }
}

impl DnsServer {
    fn config(&self) -> NameServerConfig {
        let ways = [(self.udp, ConnectionConfig::udp()), (self.tcp, ConnectionConfig::tcp())];
        let mut connections: Vec<ConnectionConfig> =
            ways.into_iter().filter(|(used, _)| *used).map(|(_, way)| way).collect();
        connections.iter_mut().for_each(|way| way.port = self.socket.port());
        // Another server may know a name that this one does not.
        NameServerConfig::new(self.socket.ip(), false, connections)
    }
}

/// Why a seed gave nothing.
#[derive(Debug, Error)]
pub enum SeedError {
    /// The system's resolver is not configured, or not in a way that is understood.
    #[error("no resolver: {0}")]
    NoResolver(String),
    /// The text is no domain name.
    #[error("not a domain name: {0:?}")]
    BadName(String),
    /// No name server answered any question.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The questions took too long all together.
    #[error("no answer within {timeout_ms} ms")]
    Timeout {
        /// The limit that passed, milliseconds.
        timeout_ms: u64,
    },
}

/// What a seed said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeedAnswer {
    /// Where nodes are.
    pub addresses: Vec<PeerAddress>,
    /// How long the answer is kept, within [`SEED_TTL_MS_MIN`] and [`SEED_TTL_MS_MAX`].
    pub ttl_ms: u64,
    /// Addresses that were left out: not dialable, or of a network nearer than the name server.
    pub left_out: usize,
}

/// Asks seeds.
pub struct Seeds {
    resolver: Result<TokioResolver, String>,
    /// The nearest class of address that is believed.
    nearest: AddressClass,
    /// The port of nodes whose record names none.
    port: u16,
}

impl Seeds {
    /// Seeds that are looked up with these servers, or with the system's where there are none. `port` is that of nodes in
    /// A and AAAA records.
    ///
    /// Addresses of private networks are believed only if every server was named by the operator and is itself in a
    /// network as near: a public name never leads this node into its own site.
    #[must_use]
    pub fn new(servers: &[DnsServer], port: u16) -> Self {
        let classes = servers.iter().filter_map(|server| AddressClass::of(server.socket.ip()));
        let nearest = classes.max().unwrap_or(AddressClass::Public);
        Self { resolver: resolver(servers).map_err(|error| error.to_string()), nearest, port }
    }

    /// Asks one seed.
    ///
    /// # Errors
    /// [`SeedError`]. A name that exists and names nobody is an empty answer, not an error.
    pub async fn ask(&self, seed: &str) -> Result<SeedAnswer, SeedError> {
        let limit = Duration::from_millis(SEED_TIMEOUT_MS);
        let answer = tokio::time::timeout(limit, self.ask_all(seed)).await;
        answer.map_err(|_| SeedError::Timeout { timeout_ms: SEED_TIMEOUT_MS })?
    }

    async fn ask_all(&self, seed: &str) -> Result<SeedAnswer, SeedError> {
        let resolver = self.resolver.as_ref().map_err(|error| SeedError::NoResolver(error.clone()))?;
        let bad = |_| SeedError::BadName(seed.to_owned());
        let mut name = Name::from_utf8(seed).map_err(bad)?;
        name.set_fqdn(true);
        let below = |label: &str| Name::from_ascii(label).and_then(|label| label.append_domain(&name)).map_err(bad);
        let (service, dnsaddr) = (below("_trellis._udp")?, below("_dnsaddr")?);
        let (a, aaaa, srv, txt, txt_below) = tokio::join!(
            resolver.lookup(name.clone(), RecordType::A),
            resolver.lookup(name.clone(), RecordType::AAAA),
            resolver.lookup(service, RecordType::SRV),
            resolver.lookup(name.clone(), RecordType::TXT),
            resolver.lookup(dnsaddr, RecordType::TXT),
        );
        let mut gathered = Gathered::default();
        for lookup in [a, aaaa] {
            gathered.take(lookup, |data, gathered| gathered.host(data, self.port));
        }
        let mut hosts = BTreeSet::new();
        gathered.take(srv, |data, _| {
            if let RData::SRV(srv) = data {
                hosts.insert((srv.target.clone(), srv.port));
            }
        });
        for lookup in [txt, txt_below] {
            gathered.take(lookup, |data, gathered| gathered.text(data));
        }
        for (host, port) in hosts.into_iter().take(SEED_HOSTS_MAX) {
            let (a, aaaa) =
                tokio::join!(resolver.lookup(host.clone(), RecordType::A), resolver.lookup(host, RecordType::AAAA));
            for lookup in [a, aaaa] {
                gathered.take(lookup, |data, gathered| gathered.host(data, port));
            }
        }
        gathered.into_answer(self.nearest)
    }
}

fn resolver(servers: &[DnsServer]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = servers.iter().map(DnsServer::config).collect();
        Resolver::builder_with_config(ResolverConfig::from_name_servers(servers), TokioRuntimeProvider::default())
    };
    let defaults = ResolverOpts::default();
    let options = builder.options_mut();
    options.timeout = Duration::from_millis(DNS_TIMEOUT_MS);
    options.attempts = DNS_ATTEMPTS;
    options.try_tcp_on_error = true;
    options.case_randomization = defaults.case_randomization;
    // This module keeps answers itself, by the injected clock.
    options.cache_size = 0;
    builder.build()
}

/// What came so far.
#[derive(Default)]
struct Gathered {
    addresses: Vec<PeerAddress>,
    left_out: usize,
    ttl_s: Option<u32>,
    answered: bool,
    error: Option<String>,
}

impl Gathered {
    fn take(&mut self, lookup: Result<Lookup, NetError>, mut each: impl FnMut(&RData, &mut Self)) {
        match lookup {
            Ok(lookup) => {
                self.answered = true;
                for record in lookup.answers() {
                    self.ttl_s = Some(self.ttl_s.map_or(record.ttl, |ttl| ttl.min(record.ttl)));
                    each(&record.data, self);
                }
            }
            Err(error) if error.is_no_records_found() => self.answered = true,
            Err(error) => {
                self.error.get_or_insert_with(|| error.to_string());
            }
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
        let RData::TXT(txt) = data else { return };
        let bytes: Vec<u8> = txt.txt_data.iter().flat_map(|part| part.iter().copied()).collect();
        // Other records of the name, such as SPF, are none of ours.
        if let Some(address) = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_prefix(DNSADDR)) {
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
        let ttl_ms = u64::from(self.ttl_s.unwrap_or_default()) * 1_000;
        Ok(SeedAnswer { addresses: self.addresses, ttl_ms: ttl_ms.clamp(SEED_TTL_MS_MIN, SEED_TTL_MS_MAX), left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::{A, TXT};
    use proptest::prelude::*;

    #[test]
    fn name_servers_are_read_in_every_form() {
        let read = |text: &str| {
            let server: DnsServer = text.parse().unwrap();
            (server.socket.to_string(), server.udp, server.tcp)
        };
        assert_eq!(read("9.9.9.9"), ("9.9.9.9:53".to_owned(), true, true));
        assert_eq!(read("9.9.9.9:5353"), ("9.9.9.9:5353".to_owned(), true, true));
        assert_eq!(read("tcp://[2620:fe::fe]:54"), ("[2620:fe::fe]:54".to_owned(), false, true));
        assert_eq!(read("udp://2620:fe::fe"), ("[2620:fe::fe]:53".to_owned(), true, false));
        for bad in ["", "dns.example", "9.9.9.9:", "tls://9.9.9.9"] {
            assert_eq!(bad.parse::<DnsServer>(), Err(DnsServerError(bad.to_owned())));
        }
    }

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
            text("dnsaddr=/ip4/11.0.0.2/tcp/9701"),
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
