//! How a node finds others: from settings and chain spec to the network's configuration, and back into `status`.

use crate::chain::Chain;
use crate::failure::Failure;
use crate::settings::Settings;
use eyre::Result;
use serde_json::{Value, json};
use std::path::Path;
use trellis_net_peers::{DiscoveryConfig, DiscoveryReport, DnsConfig, DnsServer};
use trellis_primitives::UnixMs;

/// The address book's file in the data folder.
const BOOK_FILE: &str = "peers.book";
/// The file of Kademlia's records in the data folder.
const RECORDS_FILE: &str = "kad.records";
/// The sources that can be switched.
const WAYS: [&str; 5] = ["book", "dns", "pex", "mdns", "kad"];
/// Milliseconds in a second.
const SECOND_MS: u64 = 1_000;

/// What discovery is told; `None` where the operator wants none.
///
/// # Errors
/// A usage failure that names the setting.
pub fn config(settings: &Settings, chain: &Chain, datadir: &Path) -> Result<Option<DiscoveryConfig>> {
    let mut ways = settings.discovery.iter().map(String::as_str).filter(|way| !way.is_empty());
    if let Some(unknown) = ways.clone().find(|way| !WAYS.contains(way) && *way != "off") {
        let message = format!("discovery is a list of `{}`, or `off`, got {unknown:?}", WAYS.join("`, `"));
        return Err(Failure::usage(message).into());
    }
    if ways.any(|way| way == "off") {
        return Ok(None);
    }
    // A question to a name server and an announcement on the local network leave this machine beside the proxy.
    let beside = |way: &str| settings.proxy.is_some() && matches!(way, "dns" | "mdns");
    let uses = |way: &str| settings.discovery.iter().any(|used| used == way) && !beside(way);
    let servers = settings.dns_server.iter().filter(|text| !text.is_empty()).map(|text| text.parse::<DnsServer>());
    let servers = servers.collect::<Result<Vec<_>, _>>().map_err(|error| {
        Failure::usage(format!("dns_server: {error}")).hint("for example 9.9.9.9 or tls://1.1.1.1#cloudflare-dns.com")
    })?;
    let dns = DnsConfig {
        servers,
        authorities: settings.dns_ca.clone(),
        trust_anchors: settings.dns_trust_anchor.clone(),
        require_dnssec: settings.require_dnssec,
    };
    let named: Vec<String> = settings.dns_seed.iter().filter(|name| !name.is_empty()).cloned().collect();
    let hints = &chain.spec.network;
    let dns_seeds = match (uses("dns"), named.is_empty()) {
        (false, _) => Vec::new(),
        (true, true) => hints.dns_seeds.clone(),
        (true, false) => named,
    };
    let defaults = DiscoveryConfig::default();
    Ok(Some(DiscoveryConfig {
        book_file: uses("book").then(|| datadir.join(BOOK_FILE)),
        compiled_in: hints.boot_nodes.clone(),
        dns_seeds,
        dns,
        p2p_port: if hints.p2p_port == 0 { defaults.p2p_port } else { hints.p2p_port },
        pex: uses("pex"),
        mdns: uses("mdns"),
        kad: uses("kad"),
        records_file: uses("kad").then(|| datadir.join(RECORDS_FILE)),
        outbound_min: usize::try_from(super::budget::outbound_min(settings)).unwrap_or(usize::MAX),
        round_ms: u64::from(settings.discovery_interval_s.max(1)) * SECOND_MS,
        ..defaults
    }))
}

/// Each source's last result, the book and the outbound connections.
pub fn to_json(report: &DiscoveryReport) -> Value {
    let source = |source: &trellis_net_peers::SourceReport| {
        json!({
            "source": source.source,
            "outcome": source.outcome,
            "at": source.at.map(UnixMs::to_rfc3339),
            "addresses": source.addresses,
            "detail": source.detail,
        })
    };
    json!({
        "sources": report.sources.iter().map(source).collect::<Vec<_>>(),
        "book": report.book,
        "outbound": report.outbound,
        "outbound_min": report.outbound_min,
        "rounds": report.rounds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use trellis_net_peers::discovery::P2P_PORT;

    fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = Settings::default();
        change(&mut settings);
        settings
    }

    // row: NET-30, NET-31
    #[test]
    fn every_source_is_on_by_default_and_each_can_be_left_out() {
        let chain = Chain::load("dev").expect("dev");
        let all = |settings: &Settings| config(settings, &chain, Path::new("folder")).expect("config");
        let default = all(&Settings::default()).expect("on");
        assert_eq!(default.book_file.as_deref(), Some(Path::new("folder/peers.book")));
        assert!(
            default.pex && default.p2p_port == P2P_PORT && default.outbound_min == 8 && default.round_ms == 300_000
        );
        let seeded = settings(|settings| {
            settings.dns_seed = vec!["seed.example".into()];
            settings.dns_server = vec!["tcp://127.0.0.1:5353".into()];
        });
        let seeded = all(&seeded).expect("on");
        assert_eq!((seeded.dns_seeds.len(), seeded.dns.servers.len()), (1, 1));
        let pex_alone = all(&settings(|settings| {
            settings.discovery = vec!["pex".into()];
            settings.dns_seed = vec!["seed.example".into()];
        }))
        .expect("on");
        assert!(pex_alone.pex && pex_alone.book_file.is_none() && pex_alone.dns_seeds.is_empty());
        assert!(!pex_alone.mdns && !pex_alone.kad && pex_alone.records_file.is_none());
        assert!(default.mdns && default.records_file.as_deref() == Some(Path::new("folder/kad.records")));
        assert!(all(&settings(|settings| settings.discovery = vec!["off".into()])).is_none());
    }

    #[test]
    fn wrong_words_are_refused_with_the_setting_named() {
        let chain = Chain::load("dev").expect("dev");
        let wrong = settings(|settings| settings.discovery = vec!["dht".into()]);
        let error = config(&wrong, &chain, Path::new("folder")).expect_err("refused").to_string();
        assert!(error.contains("discovery") && error.contains("dht"), "{error}");
        let wrong = settings(|settings| settings.dns_server = vec!["dns.example".into()]);
        let error = config(&wrong, &chain, Path::new("folder")).expect_err("refused").to_string();
        assert!(error.contains("dns_server") && error.contains("hint:"), "{error}");
    }
}
