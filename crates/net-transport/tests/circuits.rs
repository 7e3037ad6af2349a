//! A circuit of a relay under the node's transport: end to end between the two peers, whoever runs the relay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::{ConnectedPoint, Multiaddr};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{Config, NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, Swarm, identify, ping, relay};
use rand::SeedableRng;
use trellis_crypto::HybridKey;
use trellis_net_transport::{
    Direction, LinkKind, NodeTransport, Policy, Sessions, TransportConfig, libp2p_identity, node_transport,
};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn keys(seed: u64) -> Arc<HybridKey> {
    Arc::new(HybridKey::generate(&mut rand::rngs::StdRng::seed_from_u64(seed)).unwrap())
}

fn talk(seed: u64) -> identify::Behaviour {
    let public = libp2p_identity(&keys(seed)).unwrap().public();
    identify::Behaviour::new(identify::Config::new("/circuit-test/1".to_owned(), public))
}

#[derive(NetworkBehaviour)]
struct AtRelay {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
}

#[derive(NetworkBehaviour)]
struct AtPeer {
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

async fn relay_node(seed: u64, listen: &str) -> Multiaddr {
    let config = TransportConfig::new(keys(seed), Policy::Require);
    let NodeTransport { transport, local, .. } = node_transport(config, None).unwrap();
    let relay = relay::Behaviour::new(local, relay::Config::default());
    let behaviour = AtRelay { relay, identify: talk(seed) };
    let mut swarm = Swarm::new(transport, behaviour, local, Config::with_tokio_executor());
    swarm.listen_on(listen.parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    swarm.add_external_address(address.clone());
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    address.with(Protocol::P2p(local))
}

fn peer(seed: u64) -> (Swarm<AtPeer>, Sessions, PeerId) {
    let config = TransportConfig::new(keys(seed), Policy::Require);
    let local = libp2p_identity(&config.keys).unwrap().public().to_peer_id();
    let (relay, client) = relay::client::new(local);
    let NodeTransport { transport, sessions, local } = node_transport(config, Some(relay)).unwrap();
    let behaviour = AtPeer { relay: client, identify: talk(seed), ping: ping::Behaviour::default() };
    let config = Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
    (Swarm::new(transport, behaviour, local, config), sessions, local)
}

// row: NET-11, NET-12, NET-46
#[tokio::test]
async fn two_nodes_over_a_relays_circuit_prove_their_node_ids_to_each_other() {
    for listen in ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"] {
        let at_relay = relay_node(1, listen).await;
        let (mut bob, bobs, bob_id) = peer(2);
        bob.listen_on(at_relay.clone().with(Protocol::P2pCircuit)).unwrap();
        let reserved = async {
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = bob.select_next_some().await {
                    break address;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reserved).await.expect("a reservation");
        let (told, mut heard) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let event = bob.select_next_some().await;
                if let SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } = event
                    && let ConnectedPoint::Listener { local_addr, send_back_addr } = endpoint
                {
                    // By the relay, since two circuits of one peer have nothing else to be told apart by.
                    assert!(bobs.take(peer_id, &send_back_addr, Direction::Inbound).is_none());
                    let session = bobs.take(peer_id, &local_addr, Direction::Inbound).unwrap();
                    let _ = told.try_send(session);
                }
            }
        });
        let (mut alice, alices, _) = peer(3);
        let circuit = at_relay.with(Protocol::P2pCircuit).with(Protocol::P2p(bob_id));
        alice.dial(circuit).unwrap();
        let mut at_alice = None;
        let pinged = async {
            loop {
                match alice.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } if peer_id == bob_id => {
                        at_alice = alices.take(peer_id, endpoint.get_remote_address(), Direction::Outbound);
                    }
                    SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                    SwarmEvent::Behaviour(AtPeerEvent::Ping(ping::Event { peer, result: Ok(_), .. }))
                        if peer == bob_id =>
                    {
                        break;
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, pinged).await.expect("a ping over the circuit");
        let (at_alice, at_bob) = (at_alice.unwrap(), heard.recv().await.unwrap());
        for (session, peer) in [(&at_alice, 2), (&at_bob, 3)] {
            assert_eq!(session.node_id(), Some(keys(peer).node_id()), "{listen}");
            assert_eq!(session.key_exchange().name(), "X25519MLKEM768", "{listen}");
            assert_eq!((session.kind(), session.ip()), (LinkKind::Relayed, None), "{listen}");
        }
    }
}
