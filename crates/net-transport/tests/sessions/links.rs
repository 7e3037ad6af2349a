//! TCP on loopback: against itself, against stock libp2p, against adversaries.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::muxing::StreamMuxerExt;
use libp2p::multiaddr::Protocol;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use trellis_net_transport::{
    AdmissionLimits, ClassicalPeer, CloseReason, HANDSHAKE_TIMEOUT_MS, LINK_STREAMS_MAX, LinkKind, Policy,
    TransportError,
};

use crate::rig::link::{LinkNode, Secured, StockTcp, connect_over_tcp, drive, named, next_incoming};
use crate::rig::{RawPeer, both, keys, raw_tcp_dial};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// row: NET-11, NET-12
#[tokio::test]
async fn two_nodes_over_tcp_agree_on_the_hybrid_and_know_each_others_node_id() {
    let (mut alice, mut bob) = (LinkNode::new(1, Policy::Require).await, LinkNode::new(2, Policy::Require).await);
    let (at_alice, at_bob) = connect_over_tcp(&mut alice, &mut bob).await;
    let (at_alice, at_bob) = (at_alice.unwrap(), at_bob.unwrap());
    for (end, peer) in [(&at_alice, 2u8), (&at_bob, 1u8)] {
        let session = &end.session;
        assert_eq!(session.kind(), LinkKind::Tcp);
        assert_eq!(session.key_exchange().name(), "X25519MLKEM768");
        assert_eq!(session.alpn(), "trellis-pq/2");
        assert_eq!(session.node_id(), Some(keys(peer).node_id()));
        assert_eq!(session.public().unwrap(), keys(peer).public());
        assert!(session.ip().unwrap().is_loopback());
        let (received, sent) = session.wire_bytes();
        assert!(received > 5_262 && sent > 5_262, "{received} {sent}");
    }
    assert_eq!((bob.metrics.inbound.get(), alice.metrics.outbound.get()), (1, 1));
    assert_eq!(bob.admission.half_open(), 0);
}

// row: NET-10, NET-11
#[tokio::test]
async fn stock_libp2p_over_tcp_connects_both_ways_under_prefer_and_is_shown_as_unauthenticated() {
    let mut ours = LinkNode::new(1, Policy::Prefer).await;
    for (secured, alpn, group, hybrid) in
        [(Secured::Tls, "libp2p", "X25519MLKEM768", true), (Secured::Noise, "/noise", "X25519", false)]
    {
        let mut stock = StockTcp::new(secured).await;
        let (at_us, at_stock) = stock.dial(&mut ours).await;
        let (at_us, (peer, _held)) = (at_us.unwrap(), at_stock.unwrap());
        assert_eq!(peer, ours.local);
        let (at_us_too, at_stock) = stock.dialed_by(&mut ours).await;
        at_stock.unwrap();
        for session in [at_us.session, at_us_too.unwrap().session] {
            assert_eq!((session.alpn(), session.node_id()), (alpn, None), "{secured:?}");
            let shown = session.key_exchange();
            assert_eq!((shown.name(), shown.is_hybrid()), (group, hybrid), "{secured:?}");
        }
    }
}

// row: NET-10, NET-11
#[tokio::test]
async fn stock_libp2p_over_tcp_is_refused_by_name_under_require() {
    for (secured, what) in [(Secured::Tls, ClassicalPeer::Protocol), (Secured::Noise, ClassicalPeer::SecureChannel)] {
        let mut ours = LinkNode::new(1, Policy::Require).await;
        let mut stock = StockTcp::new(secured).await;
        let (at_us, at_stock) = stock.dial(&mut ours).await;
        let refused = at_us.err().unwrap();
        assert!(
            matches!(named(&refused), TransportError::Classical(found) if *found == what),
            "{secured:?}: {refused}"
        );
        at_stock.err().unwrap();
        let (at_us, _) = stock.dialed_by(&mut ours).await;
        let refused = at_us.err().unwrap();
        assert!(
            matches!(named(&refused), TransportError::Classical(found) if *found == what),
            "{secured:?}: {refused}"
        );
        assert_eq!(ours.metrics.refused_count("policy (classical)"), 2, "{secured:?}");
    }
}

// row: NET-10, NET-11
#[tokio::test]
async fn a_classical_key_exchange_over_tcp_is_refused_under_require() {
    let mut ours = LinkNode::new(1, Policy::Require).await;
    let remote = ours.socket();
    let (at_us, at_peer) = both(ours.inbound(), raw_tcp_dial(remote, RawPeer::classical_key_exchange())).await;
    let refused = at_us.unwrap().err().unwrap();
    assert!(matches!(named(&refused), TransportError::Classical(ClassicalPeer::KeyExchange)), "{refused}");
    let seen = at_peer.unwrap().err().unwrap();
    assert!(seen.contains("HandshakeFailure"), "the peer reads why: {seen}");
}

// row: NET-12, NET-20
#[tokio::test]
async fn a_replaced_or_replayed_proof_over_tcp_is_refused_and_the_peer_reads_why() {
    for (adversary, what) in [
        (RawPeer::with_proof_signed_by(9), "signed by another key than the one shown"),
        (RawPeer::with_proof_of_another_session(), "made for another session"),
        (RawPeer::with_garbage_proof(), "garbage"),
    ] {
        let mut ours = LinkNode::new(1, Policy::Require).await;
        let remote = ours.socket();
        let (at_us, at_peer) = both(ours.inbound(), raw_tcp_dial(remote, adversary)).await;
        let refused = at_us.unwrap().err().unwrap();
        assert!(matches!(named(&refused), TransportError::Auth(_)), "{what}: {refused}");
        assert_eq!(ours.metrics.refused_count("bad signature"), 1, "{what}");
        // Our own proof, and behind it the goodbye.
        let seen = at_peer.unwrap().unwrap();
        let goodbye = seen.get(trellis_net_transport::PROOF_BYTES..).unwrap();
        assert!(String::from_utf8_lossy(goodbye).contains("ml-dsa authentication"), "{what}: {goodbye:?}");
    }
}

// row: NET-12
#[tokio::test]
async fn a_certificate_that_does_not_hold_ends_the_tcp_handshake() {
    let mut ours = LinkNode::new(1, Policy::Require).await;
    let remote = ours.socket();
    let (at_us, _) = both(ours.inbound(), raw_tcp_dial(remote, RawPeer::with_bent_certificate())).await;
    let refused = at_us.unwrap().err().unwrap();
    assert!(matches!(named(&refused), TransportError::Tls(_)), "{refused}");
}

// row: NET-12
#[tokio::test]
async fn a_tcp_address_that_names_another_peer_is_not_connected_and_the_peer_is_told() {
    let (mut alice, mut bob) = (LinkNode::new(1, Policy::Require).await, LinkNode::new(2, Policy::Require).await);
    let wrong = trellis_net_transport::libp2p_identity(&keys(3)).unwrap().public().to_peer_id();
    let dialing = alice.dial(bob.address.clone().with(Protocol::P2p(wrong)));
    let (at_alice, at_bob) = both(dialing, bob.inbound()).await;
    let refused = at_alice.unwrap().err().unwrap();
    assert!(matches!(named(&refused), TransportError::WrongPeer { .. }), "{refused}");
    let told = at_bob.unwrap().err().unwrap();
    assert!(matches!(named(&told), TransportError::ClosedByPeer(reason) if reason.code == 3), "{told}");
}

// row: NET-13, NET-55
#[tokio::test]
async fn garbage_and_silence_on_the_tcp_port_hold_places_only_until_the_handshake_timeout() {
    const PLACES: u32 = 12;
    let limits = AdmissionLimits { half_open_max: PLACES, ..AdmissionLimits::default() };
    let mut bob = LinkNode::with_limits(2, Policy::Require, limits).await;
    let (remote, metrics, admission) = (bob.socket(), bob.metrics.clone(), bob.admission.clone());
    let sessions = bob.sessions.clone();
    tokio::spawn(async move {
        loop {
            let (upgrade, _) = next_incoming(&mut bob.transport).await;
            tokio::spawn(upgrade);
        }
    });
    let mut held = Vec::new();
    for n in 0..2 * PLACES {
        let mut socket = tokio::net::TcpStream::connect(remote).await.unwrap();
        let bytes: Vec<u8> = match n % 3 {
            0 => Vec::new(),
            1 => (0..20_000u32).map(|byte| (byte.wrapping_mul(n + 7) >> 3) as u8).collect(),
            // The negotiation succeeds; what should be TLS is a record that promises more than ever comes.
            _ => [b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n".as_slice(), &[22, 3, 1, 64, 0, 1, 0, 63, 252]].concat(),
        };
        // The far end may close while this is written.
        let _ = socket.write_all(&bytes).await;
        held.push(socket);
    }
    // Those of plain garbage may have left already, so that more than the bound came in one after the other.
    until("nobody was refused", || metrics.admission_refused.get() > 0 || metrics.refused_count("negotiation") > 0)
        .await;
    assert!(admission.half_open() <= PLACES);
    let deadline = Duration::from_millis(HANDSHAKE_TIMEOUT_MS) + PATIENCE;
    for mut socket in held {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(deadline, socket.read_to_end(&mut rest)).await;
        closed.expect("the listener closes what never gets anywhere").ok();
    }
    until("a place was not freed", || admission.half_open() == 0).await;
    assert_eq!((metrics.inbound.get(), metrics.open.get()), (0, 0));
    assert!(metrics.refused_count("timeout") > 0);
    drop(sessions);
}

// row: NET-19
#[tokio::test]
async fn a_close_over_tcp_carries_its_reason_to_the_peer() {
    let (mut alice, mut bob) = (LinkNode::new(1, Policy::Require).await, LinkNode::new(2, Policy::Require).await);
    let (at_alice, at_bob) = connect_over_tcp(&mut alice, &mut bob).await;
    let (mut near, far) = (at_alice.unwrap(), at_bob.unwrap());
    let reason = CloseReason { code: 261, text: "shutdown".to_owned() };
    near.session.set_close_reason(reason.clone());
    let driven = drive(far.muxer);
    poll_fn(|cx| near.muxer.poll_close_unpin(cx)).await.unwrap();
    until("the close never arrived", || far.session.remote_close().is_some()).await;
    assert_eq!(far.session.remote_close(), Some(reason));
    tokio::time::timeout(PATIENCE, driven).await.expect("the connection ends").unwrap();
    assert_eq!(near.session.remote_close(), None);
}

// row: NET-19
#[tokio::test]
async fn a_peer_that_takes_nothing_any_more_does_not_hold_a_closing_connection() {
    let (mut alice, mut bob) = (LinkNode::new(1, Policy::Require).await, LinkNode::new(2, Policy::Require).await);
    let (at_alice, at_bob) = connect_over_tcp(&mut alice, &mut bob).await;
    let (mut near, _held) = (at_alice.unwrap(), at_bob.unwrap());
    // Streams with as much as their windows take; the far end reads nothing, so the socket fills up.
    let mut streams = Vec::new();
    for _ in 0..64 {
        let mut stream = poll_fn(|cx| near.muxer.poll_outbound_unpin(cx)).await.unwrap();
        for _ in 0..16 {
            let chunk = [0u8; 16 * 1024];
            let written = tokio::time::timeout(Duration::from_millis(20), async {
                let pushing = stream.write_all(&chunk);
                futures::pin_mut!(pushing);
                poll_fn(|cx| {
                    let _ = near.muxer.poll_unpin(cx);
                    pushing.as_mut().poll(cx)
                })
                .await
            })
            .await;
            if written.is_err() {
                break;
            }
        }
        streams.push(stream);
    }
    tokio::time::timeout(PATIENCE, poll_fn(|cx| near.muxer.poll_close_unpin(cx))).await.expect("closed").ok();
}

// row: NET-15
#[tokio::test]
async fn a_stream_beyond_the_bound_waits_for_a_place_and_the_connection_lives_on() {
    let (mut alice, mut bob) = (LinkNode::new(1, Policy::Require).await, LinkNode::new(2, Policy::Require).await);
    let (at_alice, at_bob) = connect_over_tcp(&mut alice, &mut bob).await;
    let (mut near, mut far) = (at_alice.unwrap(), at_bob.unwrap());
    tokio::spawn(async move {
        // Every stream is echoed for as long as it is open.
        while let Ok(mut stream) = poll_fn(|cx| far.muxer.poll_inbound_unpin(cx)).await {
            tokio::spawn(async move {
                let mut four = [0u8; 4];
                while stream.read_exact(&mut four).await.is_ok() && stream.write_all(&four).await.is_ok() {
                    let _ = stream.flush().await;
                }
            });
        }
    });
    // As in the field no stream begins with a zero.
    let marked = |n: u32| (n | 0x1300_0000).to_be_bytes();
    let mut streams = Vec::new();
    for n in 0..LINK_STREAMS_MAX {
        let mut stream = poll_fn(|cx| near.muxer.poll_outbound_unpin(cx)).await.unwrap();
        stream.write_all(&marked(n)).await.unwrap();
        streams.push(stream);
    }
    assert!(futures::poll!(poll_fn(|cx| near.muxer.poll_outbound_unpin(cx))).is_pending());
    let echoes = tokio::spawn(async move {
        for (n, mut stream) in (0u32..).zip(streams) {
            let mut four = [0u8; 4];
            stream.read_exact(&mut four).await.unwrap();
            assert_eq!(four, marked(n));
            stream.close().await.unwrap();
        }
    });
    let one_more = async {
        let mut stream = poll_fn(|cx| {
            let _ = near.muxer.poll_unpin(cx);
            near.muxer.poll_outbound_unpin(cx)
        })
        .await
        .unwrap();
        stream.write_all(b"last").await.unwrap();
        let mut four = [0u8; 4];
        let reading = stream.read_exact(&mut four);
        futures::pin_mut!(reading);
        poll_fn(|cx| {
            let _ = near.muxer.poll_unpin(cx);
            reading.as_mut().poll(cx)
        })
        .await
        .unwrap();
        four
    };
    assert_eq!(tokio::time::timeout(PATIENCE, one_more).await.expect("a place becomes free"), *b"last");
    echoes.abort();
}
