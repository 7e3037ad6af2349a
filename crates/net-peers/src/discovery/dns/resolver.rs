//! Asking name servers: several with fail-over, encrypted where they are, validated where that is possible.
//!
//! With a trust anchor that can be verified from here, an answer counts only if its signatures do, or if the zone above
//! says with a signature that it has none. Where the anchor cannot be reached (a network of its own, a name server that
//! strips signatures) nothing can be told, and answers are taken as unsigned ones are, unless validation is required.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use thiserror::Error;
use tokio::sync::OnceCell;
use trellis_net_reach::tls::{TlsError, client_config};

use super::server::DnsServer;
use super::{DNS_ATTEMPTS, DNS_TIMEOUT_MS};

/// The keys of the trusted zones have this long to be verified.
const ANCHOR_TIMEOUT_MS: u64 = 4_000;
/// Certificates of authorities in one file.
const AUTHORITIES_MAX: usize = 1_024;

/// How names are looked up.
#[derive(Clone, Debug, Default)]
pub struct DnsConfig {
    /// Name servers, in the order of preference; none: the system's.
    pub servers: Vec<DnsServer>,
    /// PEM file of the authorities whose certificates encrypted servers may show; `None`: the system's.
    pub authorities: Option<PathBuf>,
    /// File of DNSKEY records that are trusted instead of those of the DNS root.
    pub trust_anchors: Option<PathBuf>,
    /// Whether an answer has to be validated.
    pub require_dnssec: bool,
}

/// Why no resolver could be set up.
#[derive(Debug, Error)]
pub enum ResolverError {
    /// The system's resolver is not configured, or not in a way that is understood.
    #[error("no resolver: {0}")]
    NoResolver(String),
    /// A file that was named cannot be used.
    #[error("{path}: {detail}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl From<TlsError> for ResolverError {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Authorities { path, detail } => Self::File { path, detail },
            TlsError::Library(error) => Self::Tls(error),
        }
    }
}

/// Why a question was not answered.
#[derive(Debug, Error)]
pub enum LookupError {
    /// No name server answered.
    #[error("{0}")]
    NoAnswer(String),
    /// The signatures do not verify, or they are missing in a signed zone.
    #[error("the answer for {name} {record_type} is bogus: its DNSSEC signatures do not verify")]
    Bogus {
        /// The name that was asked for.
        name: Name,
        /// What was asked for.
        record_type: RecordType,
    },
    /// Validation is required and could not be done.
    #[error("the answer for {name} {record_type} is not signed, or no trust anchor could be verified")]
    Unvalidated {
        /// The name that was asked for.
        name: Name,
        /// What was asked for.
        record_type: RecordType,
    },
}

/// Records of the type that was asked for.
pub struct Answers {
    /// The records; none where the name or the type does not exist.
    pub records: Vec<Record>,
    /// Whether every one is validated.
    pub validated: bool,
}

/// Asks name servers.
pub struct DnsResolver {
    plain: TokioResolver,
    validating: TokioResolver,
    /// Zones whose keys are trusted.
    anchors: Vec<Name>,
    /// Whether a trusted key was verified in this run.
    verified: OnceCell<()>,
    require: bool,
    /// The operator named the trusted keys, so what they do not vouch for is bogus, reachable or not.
    explicit: bool,
}

impl DnsResolver {
    /// Sets up what the configuration says.
    ///
    /// # Errors
    /// [`ResolverError`].
    pub fn new(config: &DnsConfig) -> Result<Self, ResolverError> {
        let (anchors, zones) = trust_anchors(config)?;
        let mut validating = builder(config)?.with_trust_anchor(Arc::new(anchors));
        validating.options_mut().validate = true;
        let built = |builder: ResolverBuilder<TokioRuntimeProvider>| {
            builder.build().map_err(|error| ResolverError::NoResolver(error.to_string()))
        };
        Ok(Self {
            plain: built(builder(config)?)?,
            validating: built(validating)?,
            anchors: zones,
            verified: OnceCell::new(),
            require: config.require_dnssec,
            explicit: config.trust_anchors.is_some(),
        })
    }

    /// Whether a trusted key verifies from here; asked before a round of questions. A failure is asked again next time: the
    /// network may have come up since.
    pub async fn verify_anchor(&self) -> bool {
        if self.explicit {
            return true;
        }
        let asked = self.verified.get_or_try_init(|| async {
            let limit = Duration::from_millis(ANCHOR_TIMEOUT_MS);
            let asked = self.anchors.iter().map(|zone| self.validating.lookup(zone.clone(), RecordType::DNSKEY));
            let answers = tokio::time::timeout(limit, futures::future::join_all(asked)).await.map_err(drop)?;
            let secure = |lookup: Lookup| {
                let keys = lookup.answers().iter().filter(|record| record.record_type() == RecordType::DNSKEY);
                let mut proofs = keys.map(|record| record.proof).peekable();
                proofs.peek().is_some() && proofs.all(|proof| proof == Proof::Secure)
            };
            answers.into_iter().flatten().any(secure).then_some(()).ok_or(())
        });
        asked.await.is_ok()
    }

    /// Asks one question. `verified` is what [`Self::verify_anchor`] said.
    ///
    /// # Errors
    /// [`LookupError`]. A name that does not exist is an empty answer, not an error.
    pub async fn ask(&self, name: &Name, record_type: RecordType, verified: bool) -> Result<Answers, LookupError> {
        if !verified || !self.anchors.iter().any(|zone| zone.zone_of(name)) {
            if self.require {
                return Err(LookupError::Unvalidated { name: name.clone(), record_type });
            }
            let records = answered(self.plain.lookup(name.clone(), record_type).await)?;
            return Ok(Answers { records: of_type(records, record_type), validated: false });
        }
        let bogus = || LookupError::Bogus { name: name.clone(), record_type };
        let records = match self.validating.lookup(name.clone(), record_type).await {
            Err(NetError::Dns(DnsError::Nsec { proof, .. })) if !proof.is_insecure() => return Err(bogus()),
            Err(NetError::Dns(DnsError::DnssecBogus)) => return Err(bogus()),
            Err(NetError::Dns(DnsError::Nsec { .. })) => Vec::new(),
            other => answered(other)?,
        };
        // Judged before anything is left out: a forged alias leads to a zone of its forger, whose signatures hold.
        let validated = vouched(&records).ok_or_else(bogus)?;
        let records = of_type(records, record_type);
        if self.require && !validated {
            return Err(LookupError::Unvalidated { name: name.clone(), record_type });
        }
        Ok(Answers { records, validated })
    }
}

/// Whether DNSSEC vouches for every record of an answer, aliases on the way included; `None` where one is bogus.
fn vouched(records: &[Record]) -> Option<bool> {
    // A signature is no answer by itself, and only the one that was used carries a proof.
    let mut proofs = records.iter().filter(|record| !record.record_type().is_rrsig()).map(|record| record.proof);
    proofs.try_fold(true, |all, proof| match proof {
        Proof::Secure => Some(all),
        Proof::Insecure => Some(false),
        Proof::Bogus | Proof::Indeterminate => None,
    })
}

fn of_type(records: Vec<Record>, record_type: RecordType) -> Vec<Record> {
    records.into_iter().filter(|record| record.record_type() == record_type).collect()
}

fn answered(lookup: Result<Lookup, NetError>) -> Result<Vec<Record>, LookupError> {
    match lookup {
        Ok(lookup) => Ok(lookup.answers().to_vec()),
        Err(error) if error.is_no_records_found() => Ok(Vec::new()),
        Err(error) => Err(LookupError::NoAnswer(error.to_string())),
    }
}

fn builder(config: &DnsConfig) -> Result<ResolverBuilder<TokioRuntimeProvider>, ResolverError> {
    let mut builder = if config.servers.is_empty() {
        TokioResolver::builder_tokio().map_err(|error| ResolverError::NoResolver(error.to_string()))?
    } else {
        let servers = config.servers.iter().map(DnsServer::config).collect();
        TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers), TokioRuntimeProvider::default())
    };
    let defaults = ResolverOpts::default();
    let options = builder.options_mut();
    options.timeout = Duration::from_millis(DNS_TIMEOUT_MS);
    options.attempts = DNS_ATTEMPTS;
    options.try_tcp_on_error = true;
    options.case_randomization = defaults.case_randomization;
    // Discovery keeps answers itself, by the injected clock.
    options.cache_size = 0;
    if config.servers.iter().any(DnsServer::is_encrypted) {
        builder = builder.with_tls_config(client_config(config.authorities.as_deref(), AUTHORITIES_MAX)?);
    }
    Ok(builder)
}

/// The trusted keys, and the zones that they are of.
fn trust_anchors(config: &DnsConfig) -> Result<(TrustAnchors, Vec<Name>), ResolverError> {
    let Some(path) = &config.trust_anchors else { return Ok((TrustAnchors::default(), vec![Name::root()])) };
    let failed = |detail: String| ResolverError::File { path: path.clone(), detail };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let anchors = TrustAnchors::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let first = |line: &str| line.split_whitespace().next().and_then(|name| Name::from_ascii(name).ok());
    let keys = text.lines().filter(|line| line.contains("DNSKEY") && !line.trim_start().starts_with(';'));
    let zones: Vec<Name> = keys.filter_map(first).collect();
    if zones.is_empty() {
        return Err(failed("no DNSKEY record in it".to_owned()));
    }
    Ok((anchors, zones))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::RData;
    use hickory_resolver::proto::rr::rdata::CNAME;

    fn record(name: &str, data: RData, proof: Proof) -> Record {
        let mut record = Record::from_rdata(Name::from_ascii(name).unwrap(), 60, data);
        record.proof = proof;
        record
    }

    // row: NET-31
    #[test]
    fn a_forged_alias_into_a_signed_zone_makes_the_answer_bogus() {
        let alias = |proof| {
            let target = Name::from_ascii("a.forger.example.").unwrap();
            record("seed.example.", RData::CNAME(CNAME(target)), proof)
        };
        let host = |proof| record("a.forger.example.", RData::A(std::net::Ipv4Addr::new(8, 8, 8, 8).into()), proof);
        assert_eq!(vouched(&[alias(Proof::Secure), host(Proof::Secure)]), Some(true));
        assert_eq!(vouched(&[alias(Proof::Bogus), host(Proof::Secure)]), None);
        assert_eq!(vouched(&[alias(Proof::Indeterminate), host(Proof::Secure)]), None);
        assert_eq!(vouched(&[alias(Proof::Insecure), host(Proof::Secure)]), Some(false));
        assert_eq!(vouched(&[]), Some(true));
    }
}
