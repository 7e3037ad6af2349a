//! What each source of addresses said last, for `trellis status` and the metrics.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use trellis_primitives::UnixMs;

use super::book::BookCounts;

/// Where addresses come from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    /// The operator's list.
    Config,
    /// The list in the chain spec.
    CompiledIn,
    /// Outbound peers of the last run.
    Anchors,
    /// The address book.
    Book,
    /// A DNS seed.
    Dns(String),
    /// Other peers.
    Pex,
    /// The local network.
    Mdns,
    /// The network's hash table.
    Kad,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::CompiledIn => f.write_str("compiled-in"),
            Self::Anchors => f.write_str("anchors"),
            Self::Book => f.write_str("book"),
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Pex => f.write_str("pex"),
            Self::Mdns => f.write_str("mdns"),
            Self::Kad => f.write_str("kad"),
        }
    }
}

/// How a source's last use ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Not used yet in this run.
    Unused,
    /// It gave something.
    Found,
    /// It answered and had nothing new.
    Empty,
    /// It did not answer, or nobody was there.
    Failed,
}

impl Outcome {
    /// The word in listings and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Found => "found",
            Self::Empty => "empty",
            Self::Failed => "failed",
        }
    }
}

/// One source's last result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SourceReport {
    /// `config`, `compiled-in`, `anchors`, `book`, `dns:NAME`, `pex`, `mdns` or `kad`.
    pub source: String,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub at: Option<UnixMs>,
    /// Addresses it gave.
    pub addresses: usize,
    /// What happened, in words.
    pub detail: String,
}

/// What discovery shows of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DiscoveryReport {
    /// Every source, also one that was not used yet.
    pub sources: Vec<SourceReport>,
    /// The address book.
    pub book: BookCounts,
    /// Connections this node has dialled.
    pub outbound: usize,
    /// How many of them it keeps.
    pub outbound_min: usize,
    /// Rounds so far in this run.
    pub rounds: u64,
}

/// A source's name.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct SourceLabels {
    /// As in [`SourceReport::source`].
    pub source: String,
}

/// A source's name and how its use ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// As in [`SourceReport::source`].
    pub source: String,
    /// As [`Outcome::name`].
    pub outcome: &'static str,
}

/// The counters of discovery. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryMetrics {
    /// Uses of each source, by outcome.
    pub results: Family<OutcomeLabels, Counter>,
    /// Addresses in each source's last result.
    pub addresses: Family<SourceLabels, Gauge>,
    /// Addresses in the book that were heard of.
    pub book_new: Gauge,
    /// Addresses in the book where a node was reached.
    pub book_tried: Gauge,
    /// Connections dialled by this node.
    pub outbound: Gauge,
    /// Rounds.
    pub rounds: Counter,
    /// Addresses tested by feelers.
    pub feelers: Counter,
    /// Questions of peers answered.
    pub answers: Counter,
    /// Questions of peers refused because they came too often.
    pub answers_refused: Counter,
    /// Records of peers that did not verify.
    pub records_invalid: Counter,
    /// Nodes in Kademlia's routing table.
    pub kad_peers: Gauge,
    /// Provider records kept for others.
    pub kad_records: Gauge,
    /// Records that peers wanted kept and that were not theirs to tell, or beyond the bounds.
    pub kad_refused: Counter,
}

impl DiscoveryMetrics {
    /// Registers every counter under the prefix `trellis_discovery`.
    pub fn register(&self, registry: &mut Registry) {
        let group = registry.sub_registry_with_prefix("trellis_discovery");
        group.register("results", "Uses of a source of addresses, by outcome", self.results.clone());
        group.register("addresses", "Addresses in a source's last result", self.addresses.clone());
        group.register("book_new", "Addresses in the book that were heard of", self.book_new.clone());
        group.register("book_tried", "Addresses in the book where a node was reached", self.book_tried.clone());
        group.register("outbound", "Connections that this node dialled", self.outbound.clone());
        group.register("rounds", "Discovery rounds", self.rounds.clone());
        group.register("feelers", "Addresses tested by feelers", self.feelers.clone());
        group.register("answers", "Questions of peers for addresses that were answered", self.answers.clone());
        let help = "Questions of peers for addresses that came too often";
        group.register("answers_refused", help, self.answers_refused.clone());
        let help = "Node records from peers that did not verify";
        group.register("records_invalid", help, self.records_invalid.clone());
        group.register("kad_peers", "Nodes in Kademlia's routing table", self.kad_peers.clone());
        group.register("kad_records", "Provider records kept for other nodes", self.kad_records.clone());
        let help = "Records that peers wanted kept and that were not theirs to tell, or beyond the bounds";
        group.register("kad_refused", help, self.kad_refused.clone());
    }
}

/// The last result of every source.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    last: BTreeMap<Source, SourceReport>,
    /// Whether each configured address is connected, and what it said otherwise.
    configured: BTreeMap<String, Option<Result<(), String>>>,
}

impl Reports {
    pub(crate) fn new(configured: &[String], others: impl IntoIterator<Item = Source>) -> Self {
        let mut reports = Self::default();
        for source in others {
            let unused = SourceReport {
                source: source.to_string(),
                outcome: Outcome::Unused,
                at: None,
                addresses: 0,
                detail: String::new(),
            };
            reports.last.insert(source, unused);
        }
        reports.configured.extend(configured.iter().map(|address| (address.clone(), None)));
        reports
    }

    pub(crate) fn set(&mut self, source: &Source, report: SourceReport, metrics: &DiscoveryMetrics) {
        let labels = OutcomeLabels { source: report.source.clone(), outcome: report.outcome.name() };
        metrics.results.get_or_create(&labels).inc();
        let addresses = i64::try_from(report.addresses).unwrap_or(i64::MAX);
        metrics.addresses.get_or_create(&SourceLabels { source: report.source.clone() }).set(addresses);
        self.last.insert(source.clone(), report);
    }

    /// The result of a dial to a configured address, and with it the source's report.
    pub(crate) fn configured(&mut self, address: &str, result: Result<(), String>, at: UnixMs) -> SourceReport {
        self.configured.insert(address.to_owned(), Some(result));
        let connected = self.configured.values().filter(|result| matches!(result, Some(Ok(())))).count();
        let all = self.configured.len();
        let failure = self.configured.iter().find_map(|(address, result)| match result {
            Some(Err(error)) => Some(format!("; {address}: {error}")),
            _ => None,
        });
        SourceReport {
            source: Source::Config.to_string(),
            outcome: if connected > 0 { Outcome::Found } else { Outcome::Failed },
            at: Some(at),
            addresses: all,
            detail: format!("{connected} of {all} answered last{}", failure.unwrap_or_default()),
        }
    }

    pub(crate) fn all(&self) -> Vec<SourceReport> {
        self.last.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-30
    #[test]
    fn every_source_is_shown_before_and_after_its_first_use() {
        let metrics = DiscoveryMetrics::default();
        let seed = Source::Dns("seed.example".to_owned());
        let mut reports = Reports::new(&["a".to_owned(), "b".to_owned()], [Source::Config, Source::Pex, seed.clone()]);
        assert!(reports.all().iter().all(|report| report.outcome == Outcome::Unused && report.at.is_none()));
        let report = reports.configured("a", Err("no answer".to_owned()), UnixMs(1));
        assert_eq!((report.outcome, report.detail.as_str()), (Outcome::Failed, "0 of 2 answered last; a: no answer"));
        let report = reports.configured("b", Ok(()), UnixMs(2));
        assert_eq!((report.outcome, report.addresses), (Outcome::Found, 2));
        reports.set(&Source::Config, report, &metrics);
        let names: Vec<String> = reports.all().into_iter().map(|report| report.source).collect();
        assert_eq!(names, ["config", "dns:seed.example", "pex"]);
        let labels = OutcomeLabels { source: "config".to_owned(), outcome: "found" };
        assert_eq!(metrics.results.get_or_create(&labels).get(), 1);
    }
}
