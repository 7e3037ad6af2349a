//! Kademlia between real nodes on loopback (NET-35).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[allow(dead_code)]
#[path = "support/rig.rs"]
mod rig;

use rig::{address, finding, folder, is_connected, member, node, source, until};
use trellis_net_peers::DiscoveryConfig;
use trellis_net_peers::discovery::Outcome;
use trellis_primitives::Role;

/// Nothing but the table: no exchange of records, no outbound connections beside those that are configured.
fn table_alone() -> DiscoveryConfig {
    DiscoveryConfig { pex: false, outbound_min: 0, ..finding() }
}

// row: NET-35
#[tokio::test]
async fn a_gateway_finds_the_provider_of_a_model_through_nodes_that_are_neither() {
    let hub = member(1, Role::Aggregator, &[], &[], table_alone()).await;
    let provider = member(2, Role::Provider, &["small-model"], &[address(&hub)], table_alone()).await;
    until("the hub keeps both keys", &hub, || hub.metrics.discovery.kad_records.get() == 2).await;
    let quiet = DiscoveryConfig { round_ms: 3_600_000, ..table_alone() };
    // Not a gateway, so that no round looks anything up and the question below is the first.
    let buyer = member(3, Role::Aggregator, &[], &[address(&hub)], quiet).await;
    until("the buyer is in the table", &buyer, || buyer.metrics.discovery.kad_peers.get() > 0).await;
    assert!(!is_connected(&buyer, provider.net.local_id()));
    assert!(buyer.net.find_providers("another-model").await.is_empty());
    assert_eq!(source(&buyer, "kad").outcome, Outcome::Empty);
    assert_eq!(buyer.net.find_providers("small-model").await, [provider.net.local_id()]);
    assert!(is_connected(&buyer, provider.net.local_id()));
    assert_eq!(source(&buyer, "kad").outcome, Outcome::Found);
    assert_eq!(hub.metrics.discovery.kad_refused.get(), 0);
}

// row: NET-35
#[tokio::test]
async fn a_model_that_nobody_sold_is_found_once_somebody_does_however_often_it_is_asked_for() {
    let hub = member(1, Role::Aggregator, &[], &[], table_alone()).await;
    let quiet = DiscoveryConfig { round_ms: 3_600_000, ..table_alone() };
    let buyer = member(3, Role::Aggregator, &[], &[address(&hub)], quiet).await;
    until("the buyer is in the table", &buyer, || buyer.metrics.discovery.kad_peers.get() > 0).await;
    assert!(buyer.net.find_providers("small-model").await.is_empty());
    let provider = member(2, Role::Provider, &["small-model"], &[address(&hub)], table_alone()).await;
    let begun = std::time::Instant::now();
    while buyer.net.find_providers("small-model").await != [provider.net.local_id()] {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "never found: {:?}", buyer.net.discovery());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

// row: NET-35
#[tokio::test]
async fn a_gateways_round_finds_providers_by_itself_and_a_hub_that_restarts_still_knows_them() {
    let folder = folder("table");
    let file = folder.join("kad.records");
    let keeps = DiscoveryConfig { records_file: Some(file.clone()), ..table_alone() };
    let hub = member(1, Role::Aggregator, &[], &[], keeps.clone()).await;
    let at = address(&hub).split("/p2p/").next().unwrap().to_owned();
    let provider = member(2, Role::Provider, &["m"], &[address(&hub)], table_alone()).await;
    until("the hub keeps both keys", &hub, || hub.metrics.discovery.kad_records.get() == 2).await;
    hub.net.shutdown().await;
    drop(hub);
    assert!(std::fs::read(&file).unwrap().starts_with(b"TRLK"));
    // The hub comes back elsewhere, where the provider does not look for it.
    let hub = member(1, Role::Aggregator, &[], &[], keeps).await;
    assert_ne!(address(&hub).split("/p2p/").next().unwrap(), at);
    let gateway = member(3, Role::Gateway, &[], &[address(&hub)], table_alone()).await;
    until("the gateway found the provider", &gateway, || is_connected(&gateway, provider.net.local_id())).await;
    std::fs::remove_dir_all(folder).unwrap();
}

// row: NET-35
#[tokio::test]
async fn a_node_cannot_announce_what_its_own_record_does_not_say() {
    use futures::StreamExt;
    use libp2p::swarm::SwarmEvent;
    let hub = node(1, &[], table_alone()).await;
    // A bare libp2p node that speaks the table's protocol and no handshake of this network.
    let mut stranger = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_other_transport(|keys| libp2p_quic::tokio::Transport::new(libp2p_quic::Config::new(keys)))
        .unwrap()
        .with_behaviour(|keys| {
            let id = keys.public().to_peer_id();
            let protocol = format!("/trellis/kad/1/{}", "07".repeat(16));
            let config = libp2p::kad::Config::new(libp2p::StreamProtocol::try_from_owned(protocol).unwrap());
            libp2p::kad::Behaviour::with_config(id, libp2p::kad::store::MemoryStore::new(id), config)
        })
        .unwrap()
        .build();
    let at: libp2p::Multiaddr = address(&hub).parse().unwrap();
    let Some(libp2p::multiaddr::Protocol::P2p(hub_id)) = at.iter().last() else { panic!("no name in {at}") };
    stranger.behaviour_mut().add_address(&hub_id, at);
    stranger.behaviour_mut().start_providing(libp2p::kad::RecordKey::new(b"anything")).unwrap();
    let ended = tokio::time::timeout(rig::PATIENCE, async {
        loop {
            match stranger.select_next_some().await {
                SwarmEvent::OutgoingConnectionError { .. } | SwarmEvent::ConnectionClosed { .. } => return,
                _ => {}
            }
        }
    });
    ended.await.expect("refused");
    assert_eq!((hub.metrics.discovery.kad_records.get(), hub.metrics.discovery.kad_peers.get()), (0, 0));
}
