//! Real nodes that find each other: through a peer, from the address book, from a DNS seed served by BIND.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/bind.rs"]
mod bind;
#[allow(dead_code)]
#[path = "support/rig.rs"]
mod rig;

use bind::Bind;
use rig::{address, finding, folder, is_connected, node, node_at, port, source, until};
use trellis_net_peers::discovery::Outcome;
use trellis_net_peers::frame::{read_message, write_message};
use trellis_net_peers::{DiscoveryConfig, DnsConfig};

/// Nobody listens here: the discard port.
const DEAD: &str = "/ip4/127.0.0.1/udp/9/quic-v1";

fn servers(texts: &[&str]) -> DnsConfig {
    DnsConfig { servers: texts.iter().map(|text| text.parse().unwrap()).collect(), ..DnsConfig::default() }
}

// row: NET-34
#[tokio::test]
async fn a_node_that_knows_one_peer_finds_the_peers_of_that_peer() {
    let alice = node(1, &[], finding()).await;
    let bob = node(2, &[address(&alice)], finding()).await;
    until("bob is connected to alice", &bob, || is_connected(&bob, alice.net.local_id())).await;
    let carol = node(3, &[address(&alice)], finding()).await;
    until("carol found bob", &carol, || is_connected(&carol, bob.net.local_id())).await;
    until("the exchange is shown", &carol, || source(&carol, "pex").outcome != Outcome::Unused).await;
    assert_eq!(source(&carol, "config").outcome, Outcome::Found);
    until("an answer is counted", &alice, || alice.metrics.discovery.answers.get() > 0).await;
    assert_eq!(carol.metrics.discovery.records_invalid.get(), 0);
    let report = carol.net.discovery().unwrap();
    assert!(report.book.new + report.book.tried >= 2, "{report:?}");
}

// row: NET-30, NET-37
#[tokio::test]
async fn with_every_seed_dead_a_node_that_ran_before_rejoins_from_its_book() {
    let folder = folder("rejoin");
    let book_file = Some(folder.join("peers.book"));
    let alice = node(1, &[], finding()).await;
    let bob = node(2, &[address(&alice)], finding()).await;
    let remembers = DiscoveryConfig { book_file: book_file.clone(), ..finding() };
    let carol = node(3, &[address(&alice)], remembers.clone()).await;
    until("carol found bob", &carol, || is_connected(&carol, bob.net.local_id())).await;
    carol.net.shutdown().await;
    drop(carol);
    alice.net.shutdown().await;
    drop(alice);
    let dead_seeds = DiscoveryConfig {
        compiled_in: vec![DEAD.to_owned()],
        dns_seeds: vec!["gone.seed.example".to_owned()],
        dns: servers(&["127.0.0.1:9"]),
        ..remembers
    };
    let carol = node(3, &[DEAD.to_owned()], dead_seeds).await;
    until("carol is back with bob", &carol, || is_connected(&carol, bob.net.local_id())).await;
    until("the seed is shown as failed", &carol, || source(&carol, "dns:gone.seed.example").outcome == Outcome::Failed)
        .await;
    until("the anchors are shown", &carol, || source(&carol, "anchors").outcome != Outcome::Unused).await;
    std::fs::remove_dir_all(folder).unwrap();
}

// row: NET-30
#[tokio::test]
async fn a_damaged_book_is_set_aside_and_the_node_starts() {
    let folder = folder("damaged");
    let path = folder.join("peers.book");
    std::fs::write(&path, b"this is no book").unwrap();
    let alice = node(1, &[], finding()).await;
    let bob = node(2, &[address(&alice)], DiscoveryConfig { book_file: Some(path.clone()), ..finding() }).await;
    assert_eq!(std::fs::read(folder.join("peers.book.damaged")).unwrap(), b"this is no book");
    until("bob is connected", &bob, || is_connected(&bob, alice.net.local_id())).await;
    bob.net.shutdown().await;
    assert!(std::fs::read(&path).unwrap().starts_with(b"TRLB"));
    std::fs::remove_dir_all(folder).unwrap();
}

// row: NET-38
#[tokio::test]
async fn a_lost_outbound_connection_is_replaced_at_once_and_not_at_the_next_round() {
    let slow = DiscoveryConfig { round_ms: 3_600_000, outbound_min: 1, ..DiscoveryConfig::default() };
    let alice = node(1, &[], slow.clone()).await;
    let bob = node(2, &[address(&alice)], slow.clone()).await;
    until("bob is connected", &bob, || is_connected(&bob, alice.net.local_id())).await;
    // Carol is below two, finds both, and is content.
    let two = DiscoveryConfig { outbound_min: 2, ..slow };
    let carol = node(3, &[], DiscoveryConfig { compiled_in: vec![address(&alice)], ..two }).await;
    until("carol has both", &carol, || carol.net.discovery().is_some_and(|report| report.outbound >= 2)).await;
    assert_eq!(source(&carol, "compiled-in").outcome, Outcome::Found);
    // Bob goes and comes back at the same place: nothing but the book leads to him.
    let at = address(&bob).split("/p2p/").next().unwrap().to_owned();
    let id = bob.net.local_id();
    bob.net.shutdown().await;
    drop(bob);
    until("carol lost bob", &carol, || !is_connected(&carol, id)).await;
    let quiet = DiscoveryConfig { outbound_min: 0, pex: false, ..finding() };
    let bob = node_at(2, &at, &[], quiet).await;
    until("carol is back with bob", &carol, || is_connected(&carol, bob.net.local_id())).await;
}

// row: NET-34, NET-51
#[tokio::test]
async fn a_peer_that_asks_without_end_is_told_to_wait_and_a_malformed_question_gets_nothing() {
    use trellis_net_peers::discovery::pex::{ADDRESSES_BYTES_MAX, ANSWERS_BURST, Addresses, GetAddresses, PEX};
    let alice = node(1, &[], finding()).await;
    let silent = DiscoveryConfig { pex: false, outbound_min: 0, ..finding() };
    let bob = node(2, &[], silent).await;
    let id = bob.net.dial(&address(&alice)).await.unwrap();
    for n in 0..=ANSWERS_BURST {
        let mut stream = bob.net.open(id, PEX).await.unwrap();
        write_message(&mut stream, &GetAddresses { records_max: 32 }).await.unwrap();
        let answer: Addresses = read_message(&mut stream, ADDRESSES_BYTES_MAX).await.unwrap();
        let refused = n == ANSWERS_BURST;
        assert_eq!((answer.records.is_empty(), answer.retry_after_ms > 0), (refused, refused), "question {n}");
    }
    assert_eq!(alice.metrics.discovery.answers_refused.get(), 1);
    let mut stream = bob.net.open(id, PEX).await.unwrap();
    trellis_net_peers::frame::write_frame(&mut stream, &[0xff; 40]).await.unwrap();
    assert!(read_message::<Addresses, _>(&mut stream, ADDRESSES_BYTES_MAX).await.is_err());
    let mut stream = bob.net.open(id, PEX).await.unwrap();
    trellis_net_peers::frame::write_frame(&mut stream, &[0; 4_096]).await.unwrap();
    assert!(read_message::<Addresses, _>(&mut stream, ADDRESSES_BYTES_MAX).await.is_err());
}

fn seeded(bind: &Bind, name: &str, p2p_port: u16) -> DiscoveryConfig {
    let dns = servers(&[&bind.server("udp")]);
    DiscoveryConfig { dns_seeds: vec![name.to_owned()], dns, p2p_port, ..finding() }
}

// row: NET-31
#[tokio::test]
async fn every_kind_of_record_of_a_seed_leads_to_a_node() {
    let alice = node(1, &[], finding()).await;
    let (at, port) = (address(&alice), port(&alice));
    let bind = Bind::start(&format!(
        "a        60 IN A   127.0.0.1\n\
         aaaa     60 IN AAAA ::ffff:127.0.0.1\n\
         host     60 IN A   127.0.0.1\n\
         _trellis._udp.srv 60 IN SRV 0 0 {port} host\n\
         txt      60 IN TXT \"v=spf1 -all\"\n\
         txt      60 IN TXT \"dnsaddr={at}\"\n\
         _dnsaddr.below 60 IN TXT \"dnsaddr={at}\"\n\
         empty    60 IN TXT \"nobody here\"\n",
    ));
    for (seed, kind) in (10..).zip(["a", "aaaa", "srv", "txt", "below"]) {
        let name = format!("{kind}.seed.test");
        let carol = node(seed, &[], seeded(&bind, &name, port)).await;
        until(kind, &carol, || is_connected(&carol, alice.net.local_id())).await;
        let report = source(&carol, &format!("dns:{name}"));
        assert_eq!((report.outcome, report.addresses), (Outcome::Found, 1), "{report:?}");
        assert!(report.detail.contains("kept for 60 s"), "{report:?}");
    }
    let carol = node(20, &[], seeded(&bind, "empty.seed.test", port)).await;
    until("empty", &carol, || source(&carol, "dns:empty.seed.test").outcome == Outcome::Empty).await;
}

// row: NET-31
#[tokio::test]
async fn a_dead_name_server_a_dead_seed_and_a_blocked_udp_are_worked_around() {
    let alice = node(1, &[], finding()).await;
    let bind = Bind::start("a 60 IN A 127.0.0.1\n");
    let good = seeded(&bind, "a.seed.test", port(&alice));
    let dead_server = DiscoveryConfig { dns: servers(&["127.0.0.1:9", &bind.server("udp")]), ..good.clone() };
    let dead_seed =
        DiscoveryConfig { dns_seeds: vec!["gone.seed.test".to_owned(), "a.seed.test".to_owned()], ..good.clone() };
    let tcp_alone = DiscoveryConfig { dns: servers(&[&bind.server("tcp")]), ..good };
    for (seed, config) in (30..).zip([dead_server, dead_seed, tcp_alone]) {
        let carol = node(seed, &[], config).await;
        until("carol found alice", &carol, || is_connected(&carol, alice.net.local_id())).await;
        assert_eq!(source(&carol, "dns:a.seed.test").outcome, Outcome::Found);
    }
}

// row: NET-34
#[tokio::test]
async fn a_node_of_ill_repute_is_told_to_nobody() {
    use trellis_net_peers::NetConfig;
    use trellis_net_peers::discovery::pex::{ADDRESSES_BYTES_MAX, Addresses, GetAddresses, PEX};
    use trellis_net_peers::guard::{Conduct, Pattern, Thresholds};
    let mut config = NetConfig::new(rig::CHAIN_ID, rig::MAGIC, trellis_primitives::B256::repeat_byte(7));
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    config.discovery = Some(finding());
    // A stranger's fifty is enough, and nothing that follows ends a connection.
    config.thresholds = Thresholds { relay: 49.0, consensus: 0.0, disconnect: 0.0, ban: 0.0 };
    let alice = rig::start(1, config).await;
    let bob = node(2, &[address(&alice)], finding()).await;
    until("bob is connected", &alice, || is_connected(&alice, bob.net.local_id())).await;
    let silent = DiscoveryConfig { pex: false, outbound_min: 0, ..finding() };
    let carol = node(3, &[], silent).await;
    let id = carol.net.dial(&address(&alice)).await.unwrap();
    let told = async || {
        let mut stream = carol.net.open(id, PEX).await.unwrap();
        write_message(&mut stream, &GetAddresses { records_max: 32 }).await.unwrap();
        read_message::<Addresses, _>(&mut stream, ADDRESSES_BYTES_MAX).await.unwrap().records.len()
    };
    assert_eq!(told().await, 2, "alice and bob");
    for _ in 0..5 {
        alice.net.report(bob.net.local_id(), Conduct::Invalid { pattern: Pattern::Unverified });
    }
    let score = alice.net.guard().score(bob.net.local_id());
    assert!(score < 49.0 && is_connected(&alice, bob.net.local_id()), "{score}");
    assert_eq!(told().await, 1, "alice alone");
}
