//! Real sockets on loopback: the transport by itself, against itself, against stock libp2p and against adversaries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod links;
mod rig;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::muxing::StreamMuxerExt;
use rig::{End, Node, Stock, connect, keys};
use trellis_net_transport::{Admit, ClassicalPeer, NEW_CONNECTION_WINDOW_BYTES, Policy, TransportError};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

// row: NET-10, NET-12, NET-20
#[tokio::test]
async fn two_nodes_under_require_agree_on_the_hybrid_and_know_each_others_node_id() {
    let (mut alice, mut bob) = (Node::new(1, Policy::Require).await, Node::new(2, Policy::Require).await);
    let (at_alice, at_bob) = connect(&mut alice, &mut bob).await;
    let (at_alice, at_bob) = (at_alice.unwrap(), at_bob.unwrap());
    for (end, peer) in [(&at_alice, 2u8), (&at_bob, 1u8)] {
        let session = end.connection.session();
        assert_eq!(session.key_exchange().name(), "X25519MLKEM768");
        assert!(session.key_exchange().is_hybrid());
        assert_eq!(session.alpn(), "trellis-pq/2");
        assert_eq!(session.node_id(), Some(keys(peer).node_id()));
        assert_eq!(session.public().unwrap(), keys(peer).public());
    }
    assert_eq!(bob.metrics.inbound.get(), 1);
    assert_eq!(alice.metrics.outbound.get(), 1);
}

// row: NET-10
#[tokio::test]
async fn stock_libp2p_connects_both_ways_under_prefer_and_is_shown_as_unauthenticated() {
    let mut ours = Node::new(1, Policy::Prefer).await;
    let mut stock = Stock::new().await;
    let (at_us, at_stock) = stock.dial(&mut ours).await;
    at_stock.unwrap();
    let End { connection } = at_us.unwrap();
    assert_eq!(connection.session().alpn(), "libp2p");
    assert_eq!(connection.session().node_id(), None);
    assert_eq!(connection.session().key_exchange().name(), "X25519MLKEM768");
    drop(connection);
    let (at_us, at_stock) = stock.dialed_by(&mut ours).await;
    at_stock.unwrap();
    assert_eq!(at_us.unwrap().connection.session().node_id(), None);
}

// row: NET-10
#[tokio::test]
async fn stock_libp2p_is_refused_under_require_with_a_clear_reason_on_both_sides() {
    let mut ours = Node::new(1, Policy::Require).await;
    let mut stock = Stock::new().await;
    let (at_us, at_stock) = stock.dial(&mut ours).await;
    let refused = at_us.err().unwrap();
    assert!(matches!(refused, TransportError::Classical(ClassicalPeer::Protocol)), "{refused}");
    assert_eq!(refused.to_string(), "policy (classical): the peer does not speak trellis-pq/2");
    let seen = format!("{:?}", at_stock.err().unwrap());
    assert!(seen.contains("protocol"), "the peer reads why: {seen}");
    assert_eq!(ours.metrics.refused_count("policy (classical)"), 1);

    let (at_us, _) = stock.dialed_by(&mut ours).await;
    let refused = at_us.err().unwrap();
    assert!(matches!(refused, TransportError::Classical(ClassicalPeer::Protocol)), "{refused}");
    assert_eq!(ours.metrics.refused_count("policy (classical)"), 2);
}

// row: NET-10
#[tokio::test]
async fn a_peer_with_a_classical_key_exchange_is_refused_under_require_and_shown_under_prefer() {
    let mut strict = Node::new(1, Policy::Require).await;
    let (at_us, at_peer) = rig::raw_dial(&mut strict, rig::RawPeer::classical_key_exchange()).await;
    let refused = at_us.err().unwrap();
    assert!(matches!(refused, TransportError::Classical(ClassicalPeer::KeyExchange)), "{refused}");
    let seen = at_peer.err().unwrap();
    assert!(seen.contains("NoKxGroupsInCommon"), "the peer reads why: {seen}");
    let mut open = Node::new(2, Policy::Prefer).await;
    let (at_us, at_peer) = rig::raw_dial(&mut open, rig::RawPeer::classical_key_exchange()).await;
    let at_us = at_us.unwrap();
    let session = at_us.connection.session();
    assert_eq!((session.key_exchange().name(), session.key_exchange().is_hybrid()), ("X25519", false));
    drop(at_peer);
}

// row: NET-12, NET-80
#[tokio::test]
async fn the_dialer_has_verified_the_listener_after_one_round_trip() {
    use futures::future::{Either, select};
    let (mut alice, mut bob) = (Node::new(1, Policy::Require).await, Node::new(2, Policy::Require).await);
    // The ClientHello with its post-quantum share fills two datagrams; nothing else of the dialer arrives for now.
    let relay = rig::Relay::start(bob.socket(), 2).await;
    let dialing = std::pin::pin!(alice.dial(relay.address.clone()));
    let listening = std::pin::pin!(bob.inbound());
    let first = tokio::time::timeout(Duration::from_secs(30), select(dialing, listening)).await.unwrap();
    let Either::Left((at_alice, listening)) = first else { panic!("the listener cannot be first") };
    let at_alice = at_alice.unwrap();
    assert_eq!(at_alice.connection.session().node_id(), Some(keys(2).node_id()));
    relay.release();
    let at_bob = listening.await.unwrap();
    assert_eq!(at_bob.connection.session().node_id(), Some(keys(1).node_id()));
}

// row: NET-12, NET-20
#[tokio::test]
async fn a_replaced_or_replayed_ml_dsa_proof_is_refused() {
    for (adversary, what) in [
        (rig::RawPeer::with_proof_signed_by(9), "signed by another key than the one shown"),
        (rig::RawPeer::with_proof_of_another_session(), "made for another session"),
        (rig::RawPeer::with_garbage_proof(), "garbage"),
    ] {
        let mut node = Node::new(1, Policy::Require).await;
        let (at_us, _) = rig::raw_dial(&mut node, adversary).await;
        let refused = at_us.err().unwrap();
        assert!(matches!(refused, TransportError::Auth(_)), "{what}: {refused}");
        assert_eq!(node.metrics.refused_count("bad signature"), 1, "{what}");
    }
}

// row: NET-12
#[tokio::test]
async fn a_certificate_whose_signature_does_not_hold_ends_the_handshake() {
    let mut node = Node::new(1, Policy::Require).await;
    let (at_us, _) = rig::raw_dial(&mut node, rig::RawPeer::with_bent_certificate()).await;
    // A peer that only stayed silent would run into the timeout.
    let refused = at_us.err().unwrap();
    assert!(matches!(refused, TransportError::Connection(_)), "{refused}");
    assert_eq!(node.metrics.refused_count("connection"), 1);
}

// row: NET-12
#[tokio::test]
async fn an_address_that_names_another_peer_is_not_connected() {
    let (mut alice, mut bob) = (Node::new(1, Policy::Require).await, Node::new(2, Policy::Require).await);
    let wrong = keys(3);
    let wrong = trellis_net_transport::libp2p_identity(&wrong).unwrap().public().to_peer_id();
    let address = bob.address.clone().with(libp2p::multiaddr::Protocol::P2p(wrong));
    let (at_alice, _) = rig::dial_address(&mut alice, &mut bob, address).await;
    assert!(matches!(at_alice.err().unwrap(), TransportError::WrongPeer { .. }));
}

// row: NET-13
#[tokio::test]
async fn a_connection_that_admission_refuses_costs_no_handshake() {
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let mut bob = Node::with_admit(
        2,
        Arc::new(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            Admit::Refuse
        }),
    )
    .await;
    let mut alice = Node::new(1, Policy::Require).await;
    let address = bob.address.clone();
    let (at_alice, at_bob) = rig::dial_address(&mut alice, &mut bob, address).await;
    assert!(matches!(at_alice.err().unwrap(), TransportError::RefusedByPeer));
    assert!(at_bob.is_none(), "the swarm must never hear of it");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(bob.metrics.admission_refused.get(), 1);
    assert_eq!(bob.metrics.inbound.get(), 0);
}

// row: NET-13
#[tokio::test]
async fn a_retry_makes_the_dialer_prove_its_address_first() {
    let admit = Arc::new(move |_, validated| if validated { Admit::Accept } else { Admit::Retry });
    let mut bob = Node::with_admit(2, admit).await;
    let mut alice = Node::new(1, Policy::Require).await;
    let (at_alice, at_bob) = connect(&mut alice, &mut bob).await;
    at_alice.unwrap();
    at_bob.unwrap();
    assert_eq!(bob.metrics.admission_retried.get(), 1);
}

// row: NET-55
#[tokio::test]
async fn garbage_on_the_port_does_nothing_and_is_counted() {
    const GARBAGE_DATAGRAMS: usize = 300;
    let (mut alice, mut bob) = (Node::new(1, Policy::Require).await, Node::new(2, Policy::Require).await);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut state = 1u64;
    for length in 0..GARBAGE_DATAGRAMS {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        socket.send_to(&bytes, bob.socket()).unwrap();
        // A socket's buffer is small, and what does not fit is dropped by the system before anybody counts it.
        let sent = length as u64 + 1;
        let start = Instant::now();
        while sent.is_multiple_of(50) && bob.metrics.garbage.get() < sent {
            assert!(start.elapsed() < Duration::from_secs(60), "{} of {sent} counted", bob.metrics.garbage.get());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let (at_alice, at_bob) = connect(&mut alice, &mut bob).await;
    at_alice.unwrap();
    at_bob.unwrap();
    assert_eq!(bob.metrics.garbage.get(), GARBAGE_DATAGRAMS as u64);
    assert_eq!(alice.metrics.garbage.get(), 0, "real packets are not garbage");
}

// row: NET-15
#[tokio::test]
async fn a_hundred_streams_run_at_once_on_one_connection() {
    const STREAMS: u32 = 100;
    let (mut alice, mut bob) = (Node::new(1, Policy::Require).await, Node::new(2, Policy::Require).await);
    let (at_alice, at_bob) = connect(&mut alice, &mut bob).await;
    let (mut near, mut far) = (at_alice.unwrap().connection, at_bob.unwrap().connection);
    tokio::spawn(async move {
        loop {
            let Ok(mut stream) = std::future::poll_fn(|cx| far.poll_inbound_unpin(cx)).await else { return };
            tokio::spawn(async move {
                let mut four = [0u8; 4];
                while stream.read_exact(&mut four).await.is_ok() {
                    stream.write_all(&four).await.unwrap();
                }
            });
        }
    });
    let mut streams = Vec::new();
    for n in 0..STREAMS {
        let mut stream = std::future::poll_fn(|cx| near.poll_outbound_unpin(cx)).await.unwrap();
        stream.write_all(&n.to_be_bytes()).await.unwrap();
        streams.push(stream);
    }
    // All are open before the first answer is read.
    let mut answers = futures::stream::FuturesUnordered::new();
    for (n, mut stream) in (0..STREAMS).zip(streams) {
        answers.push(async move {
            let mut four = [0u8; 4];
            stream.read_exact(&mut four).await.unwrap();
            assert_eq!(u32::from_be_bytes(four), n);
            stream
        });
    }
    let mut done = Vec::new();
    while let Some(stream) = answers.next().await {
        done.push(stream);
    }
    assert_eq!(done.len(), STREAMS as usize);
}

// row: NET-15, NET-56
#[tokio::test]
async fn a_peer_that_nobody_reads_fills_one_mebibyte_and_one_that_is_read_sends_all_it_has() {
    const STREAMS: usize = 8;
    const BYTES_EACH: usize = 6 * 1024 * 1024;
    let (mut alice, mut bob) = (Node::new(1, Policy::Require).await, Node::new(2, Policy::Require).await);
    let (at_alice, at_bob) = connect(&mut alice, &mut bob).await;
    let (mut near, mut far) = (at_alice.unwrap().connection, at_bob.unwrap().connection);
    let (mut ours, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..STREAMS {
        // Each is there before the first of them has filled the window.
        let mut stream = std::future::poll_fn(|cx| near.poll_outbound_unpin(cx)).await.unwrap();
        stream.write_all(&[7]).await.unwrap();
        ours.push(stream);
        streams.push(std::future::poll_fn(|cx| far.poll_inbound_unpin(cx)).await.unwrap());
    }
    let write = |mut stream: trellis_net_transport::Stream| async move {
        stream.write_all(&vec![7; BYTES_EACH - 1]).await.unwrap();
        stream.close().await.unwrap();
    };
    let writers: Vec<_> = ours.into_iter().map(|stream| tokio::spawn(write(stream))).collect();
    // Until nothing more comes.
    let (session, mut came) = (far.session().clone(), 0);
    let begun = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        let now = session.wire_bytes().0;
        if now < came + 50_000 {
            break;
        }
        came = now;
        assert!(begun.elapsed() < PATIENCE, "it never stops");
    }
    let window = u64::from(NEW_CONNECTION_WINDOW_BYTES);
    assert!((window * 9 / 10..2 * window).contains(&came), "{came} bytes of a peer that nobody reads");
    let readers = streams.into_iter().map(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap()
    });
    let read = tokio::time::timeout(PATIENCE, futures::future::join_all(readers)).await.expect("all of it comes");
    assert_eq!(read, [BYTES_EACH; STREAMS]);
    for writer in writers {
        writer.await.unwrap();
    }
}

// row: NET-19
#[tokio::test]
async fn a_close_carries_its_reason_to_the_peer() {
    let (mut alice, mut bob) = (Node::new(1, Policy::Require).await, Node::new(2, Policy::Require).await);
    let (at_alice, at_bob) = connect(&mut alice, &mut bob).await;
    let (near, far) = (at_alice.unwrap().connection, at_bob.unwrap().connection);
    let reason = trellis_net_transport::CloseReason { code: 261, text: "shutdown".to_owned() };
    near.session().set_close_reason(reason.clone());
    let session = far.session().clone();
    drop(near);
    let start = Instant::now();
    while session.remote_close().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "the close never arrived");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(session.remote_close(), Some(reason));
    drop(far);
}

// row: NET-20
#[tokio::test]
async fn a_peer_that_never_proves_itself_is_dropped_after_the_handshake_timeout() {
    let mut node = Node::new(1, Policy::Require).await;
    let (at_us, _held) = rig::raw_dial(&mut node, rig::RawPeer::silent()).await;
    let refused = at_us.err().unwrap();
    assert!(matches!(refused, TransportError::Timeout { timeout_ms: 5_000 }), "{refused}");
}
