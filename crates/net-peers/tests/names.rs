//! DNS seeds over every way, with signatures of every kind, against BIND (NET-31, NET-33).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/bind.rs"]
mod bind;
#[allow(dead_code)]
#[path = "support/rig.rs"]
mod rig;

use bind::{Bind, Extras};
use rig::{CHAIN_ID, MAGIC, Rig, address, finding, is_connected, keys, node, port, source, until};
use std::time::{SystemTime, UNIX_EPOCH};
use trellis_net_peers::discovery::Outcome;
use trellis_net_peers::discovery::address::PeerAddress;
use trellis_net_peers::discovery::dns::tree::TreePlace;
use trellis_net_peers::seeder::health::Node;
use trellis_net_peers::seeder::update::{Published, Publisher, UpdateError, UpdateKey};
use trellis_net_peers::seeder::zone::Zone;
use trellis_net_peers::{DiscoveryConfig, DnsConfig};
use trellis_primitives::UnixMs;

/// A node that knows one seed and this way of looking names up.
async fn newcomer(seed: u64, name: &str, p2p_port: u16, dns: DnsConfig) -> Rig {
    node(seed, &[], DiscoveryConfig { dns_seeds: vec![name.to_owned()], dns, p2p_port, ..finding() }).await
}

fn server(text: &str) -> DnsConfig {
    DnsConfig { servers: vec![text.parse().unwrap()], ..DnsConfig::default() }
}

async fn outcome(rig: &Rig, name: &str) -> trellis_net_peers::SourceReport {
    let name = format!("dns:{name}");
    until("the seed was asked", rig, || source(rig, &name).outcome != Outcome::Unused).await;
    source(rig, &name)
}

fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixMs(u64::try_from(since.as_millis()).unwrap())
}

// row: NET-31
#[tokio::test]
async fn a_seed_is_found_over_tls_and_https_and_a_server_with_another_certificate_is_not_believed() {
    let alice = node(1, &[], finding()).await;
    let bind = Bind::start_with("a 60 IN A 127.0.0.1\n", Extras { encrypted: true, ..Extras::default() });
    for (seed, way) in (10..).zip(["tls", "https"]) {
        let dns = DnsConfig { authorities: Some(bind.authorities()), ..server(&bind.encrypted_server(way)) };
        let carol = newcomer(seed, "a.seed.test", port(&alice), dns).await;
        until(way, &carol, || is_connected(&carol, alice.net.local_id())).await;
        assert_eq!(outcome(&carol, "a.seed.test").await.outcome, Outcome::Found, "{way}");
    }
    let wrong_name = bind.encrypted_server("tls").replace("ns.seed.test", "other.test");
    let wrong_name = DnsConfig { authorities: Some(bind.authorities()), ..server(&wrong_name) };
    let no_authority = server(&bind.encrypted_server("tls"));
    for (seed, dns) in (20..).zip([wrong_name, no_authority]) {
        let carol = newcomer(seed, "a.seed.test", port(&alice), dns).await;
        assert_eq!(outcome(&carol, "a.seed.test").await.outcome, Outcome::Failed);
    }
    // The next server answers where the first is not believed.
    let mut both = server(&bind.encrypted_server("tls").replace("ns.seed.test", "other.test"));
    both.servers.push(bind.server("udp").parse().unwrap());
    both.authorities = Some(bind.authorities());
    let carol = newcomer(30, "a.seed.test", port(&alice), both).await;
    until("the second server answers", &carol, || is_connected(&carol, alice.net.local_id())).await;
}

// row: NET-31
#[tokio::test]
async fn a_signed_zone_is_validated_a_bogus_answer_is_refused_and_an_unsigned_one_only_on_demand() {
    let alice = node(1, &[], finding()).await;
    let signed = Bind::start_with("a 60 IN A 127.0.0.1\n", Extras { dnssec: true, ..Extras::default() });
    let other = Bind::start_with("a 60 IN A 127.0.0.1\n", Extras { dnssec: true, ..Extras::default() });
    let unsigned = Bind::start("a 60 IN A 127.0.0.1\n");
    let anchored = |bind: &Bind, anchor: &Bind| DnsConfig {
        trust_anchors: Some(anchor.trust_anchor()),
        ..server(&bind.server("udp"))
    };
    for (seed, require_dnssec) in [(10, false), (11, true)] {
        let dns = DnsConfig { require_dnssec, ..anchored(&signed, &signed) };
        let carol = newcomer(seed, "a.seed.test", port(&alice), dns).await;
        until("carol found alice", &carol, || is_connected(&carol, alice.net.local_id())).await;
        let report = outcome(&carol, "a.seed.test").await;
        assert!(report.detail.ends_with("DNSSEC"), "{report:?}");
    }
    // Keys of another zone of the same name, and a zone whose signatures were taken away.
    for (seed, bind) in [(20, &signed), (21, &unsigned)] {
        let carol = newcomer(seed, "a.seed.test", port(&alice), anchored(bind, &other)).await;
        let report = outcome(&carol, "a.seed.test").await;
        assert_eq!(report.outcome, Outcome::Failed, "{report:?}");
        assert!(report.detail.contains("bogus"), "{report:?}");
        assert!(!is_connected(&carol, alice.net.local_id()));
    }
    let carol = newcomer(30, "a.seed.test", port(&alice), server(&unsigned.server("udp"))).await;
    until("an unsigned answer is taken", &carol, || is_connected(&carol, alice.net.local_id())).await;
    let strict = DnsConfig { require_dnssec: true, ..server(&unsigned.server("udp")) };
    let carol = newcomer(31, "a.seed.test", port(&alice), strict).await;
    let report = outcome(&carol, "a.seed.test").await;
    assert_eq!(report.outcome, Outcome::Failed, "{report:?}");
    assert!(report.detail.contains("not signed"), "{report:?}");
}

/// Alice as a crawler knows her.
async fn probed(alice: &Rig) -> Node {
    let visitor = node(9, &[], DiscoveryConfig { outbound_min: 0, ..finding() }).await;
    let id = visitor.net.dial(&address(alice)).await.unwrap();
    let record = visitor.net.signed_record(id).unwrap();
    let address = PeerAddress::parse(&address(alice)).unwrap();
    Node { address, record, reliability: 1.0, answered: now(), failures: 0 }
}

// row: NET-31, NET-33
#[tokio::test]
async fn a_zone_that_was_published_by_update_leads_newcomers_in_by_every_form_and_a_forged_tree_leads_nobody() {
    let alice = node(1, &[], finding()).await;
    let bind = Bind::start_with("old 60 IN TXT \"kept\"\n", Extras { updates: true, ..Extras::default() });
    let key = UpdateKey::parse(&std::fs::read_to_string(bind.update_key()).unwrap()).unwrap();
    let publisher = Publisher::new("seed.test", bind.socket().parse().unwrap(), key).unwrap();
    let alices = probed(&alice).await;
    let (seeder, _) = keys(5);
    let place = TreePlace { zone: "seed.test", network_magic: MAGIC, chain_id: CHAIN_ID };
    let until_ms = now().plus_ms(3_600_000);
    let zone = |sequence| Zone::of(&[&alices], port(&alice), &seeder, place, sequence, until_ms).unwrap();
    let first = zone(1);
    let published = publisher.publish(&first, None, &Published::default(), now()).await.unwrap();
    assert_eq!(published, first.names());
    let pinned = format!("trellis://{}@seed.test", seeder.node_id());
    // A tree's texts are longer than a UDP answer: the server is asked over both.
    // Plain records tell of her socket with and without her name.
    for (seed, name, addresses) in [(10, "seed.test", 2), (11, &pinned, 1)] {
        let carol = newcomer(seed, name, port(&alice), server(&bind.socket())).await;
        until(name, &carol, || is_connected(&carol, alice.net.local_id())).await;
        let report = outcome(&carol, name).await;
        assert_eq!((report.outcome, report.addresses), (Outcome::Found, addresses), "{report:?}");
    }
    // Another key than the one the name pins.
    let forger = format!("trellis://{}@seed.test", keys(6).0.node_id());
    let carol = newcomer(20, &forger, port(&alice), server(&bind.socket())).await;
    let report = outcome(&carol, &forger).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(report.detail.contains(&format!("expected {}", keys(6).0.node_id())), "{report:?}");
    // The second tree replaces the first, entry by entry.
    let second = zone(2);
    let published = publisher.publish(&second, Some(&first), &published, now()).await.unwrap();
    assert_eq!(published, second.names());
    let carol = newcomer(21, &pinned, port(&alice), server(&bind.server("tcp"))).await;
    until("the second tree", &carol, || is_connected(&carol, alice.net.local_id())).await;
    // Without the right key nothing changes.
    let wrong = "key \"seeder\" { algorithm hmac-sha256; secret \"AAAA\"; };";
    let thief = Publisher::new("seed.test", bind.socket().parse().unwrap(), UpdateKey::parse(wrong).unwrap()).unwrap();
    let refused = thief.publish(&zone(3), None, &published, now()).await;
    assert!(matches!(refused, Err(UpdateError::Refused(_))), "{refused:?}");
}
