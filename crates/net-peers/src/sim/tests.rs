use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trellis_primitives::{ManualClock, NodeId, UnixMs};

use super::*;
use crate::error::{BroadcastError, OpenError};
use crate::frame::{read_frame, write_frame};
use crate::network::{NetworkHandle, Protocol};

const ECHO: Protocol = Protocol("/trellis/echo/1");

fn id(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn net() -> SimNet {
    SimNet::new(7, Arc::new(ManualClock::new(UnixMs(1_000))))
}

async fn two(net: &SimNet) -> (NetworkHandle, NetworkHandle) {
    let (a, b) = (net.node(id(1)), net.node(id(2)));
    assert_eq!(a.dial(&b.listen_addresses()[0]).await, Ok(id(2)));
    (a, b)
}

#[tokio::test]
async fn both_sides_hear_of_the_connection_and_its_end() {
    let net = net();
    let (a, b) = (net.node(id(1)), net.node(id(2)));
    let (mut at_a, mut at_b) = (a.events(), b.events());
    a.dial(&SimNet::address(id(2))).await.unwrap();
    assert_eq!(at_a.recv().await.unwrap(), PeerEvent::Connected { peer: id(2), direction: Direction::Outbound });
    assert_eq!(at_b.recv().await.unwrap(), PeerEvent::Connected { peer: id(1), direction: Direction::Inbound });
    a.shutdown().await;
    let reason = DisconnectReason::Shutdown;
    assert_eq!(at_b.recv().await.unwrap(), PeerEvent::Disconnected { peer: id(1), reason });
    assert_eq!(at_a.recv().await.unwrap(), PeerEvent::Disconnected { peer: id(2), reason });
    assert!(matches!(a.open(id(2), ECHO).await, Err(OpenError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_one_latency_later_and_a_half_can_be_finished() {
    let net = net();
    net.set_latency(Duration::from_millis(40), Duration::ZERO);
    let (a, b) = two(&net).await;
    let mut accept = b.accept(ECHO).unwrap();
    let mut near = a.open(id(2), ECHO).await.unwrap();
    let (from, mut far) = accept.next().await.unwrap();
    assert_eq!(from, id(1));
    let start = tokio::time::Instant::now();
    near.write_all(b"ping").await.unwrap();
    near.shutdown().await.unwrap();
    let mut all = Vec::new();
    far.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"ping");
    assert_eq!(start.elapsed().as_millis(), 40);
    far.write_all(b"pong").await.unwrap();
    let mut four = [0u8; 4];
    near.read_exact(&mut four).await.unwrap();
    assert_eq!(start.elapsed().as_millis(), 80);
}

#[tokio::test]
async fn a_lost_connection_is_an_error_and_not_an_end_of_file() {
    let net = net();
    let (a, b) = two(&net).await;
    let mut accept = b.accept(ECHO).unwrap();
    let mut near = a.open(id(2), ECHO).await.unwrap();
    let (_, mut far) = accept.next().await.unwrap();
    let reading = tokio::spawn(async move { far.read_u8().await });
    tokio::task::yield_now().await;
    net.drop_connection(id(1), id(2));
    assert_eq!(reading.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(near.write_all(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(matches!(a.open(id(2), ECHO).await, Err(OpenError::NotConnected(_))));
}

#[tokio::test]
async fn a_partition_keeps_nodes_apart_until_it_heals() {
    let net = net();
    let (a, _b) = two(&net).await;
    net.partition(&[id(1)], &[id(2)]);
    assert!(a.peers().is_empty());
    assert!(matches!(a.dial(&SimNet::address(id(2))).await, Err(DialError::Unreachable { .. })));
    net.heal();
    assert_eq!(a.dial(&SimNet::address(id(2))).await, Ok(id(2)));
}

#[tokio::test]
async fn a_refusal_is_named_on_both_sides() {
    let net = net();
    let (a, b) = (net.node(id(1)), net.node(id(2)));
    let mut at_b = b.events();
    net.set_refusal(id(2), id(1), Some(RefusalReason::Banned));
    let refused = a.dial(&SimNet::address(id(2))).await.unwrap_err();
    assert_eq!(refused, DialError::Refused { by: RefusedBy::Them, reason: RefusalReason::Banned });
    let event = at_b.recv().await.unwrap();
    let (by, reason) = (RefusedBy::Us, RefusalReason::Banned);
    assert_eq!(event, PeerEvent::Refused { peer: Some(id(1)), address: SimNet::address(id(1)), by, reason });
}

// row: NET-17
#[tokio::test]
async fn a_slow_peer_never_delays_the_others() {
    let net = net();
    let (a, slow) = two(&net).await;
    let fast = net.node(id(3));
    a.dial(&SimNet::address(id(3))).await.unwrap();
    let _never_read = slow.accept(ECHO).unwrap();
    let mut accept = fast.accept(ECHO).unwrap();
    let reader = tokio::spawn(async move {
        let (_, mut stream) = accept.next().await.unwrap();
        for n in 0u32..1_000 {
            let frame = read_frame(&mut stream, 10_000).await.unwrap();
            assert_eq!(frame[..4], n.to_be_bytes());
        }
    });
    let mut dropped = 0;
    for n in 0u32..1_000 {
        let mut message = vec![0u8; 8_000];
        message[..4].copy_from_slice(&n.to_be_bytes());
        loop {
            let report = a.broadcast(&[id(2), id(3), id(9)], ECHO, Bytes::from(message.clone())).await;
            assert!(report.failed.contains(&(id(9), BroadcastError::NotConnected)));
            dropped += usize::from(report.failed.contains(&(id(2), BroadcastError::QueueFull)));
            if report.queued.contains(&id(3)) {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    tokio::time::timeout(Duration::from_secs(60), reader).await.unwrap().unwrap();
    assert!(dropped > 0, "the slow peer's queue must overflow");
}

#[tokio::test]
async fn counters_show_bytes_and_frames_on_both_sides() {
    let net = net();
    let (a, b) = two(&net).await;
    let mut accept = b.accept(ECHO).unwrap();
    let mut near = a.open(id(2), ECHO).await.unwrap();
    let (_, mut far) = accept.next().await.unwrap();
    write_frame(&mut near, b"12345678").await.unwrap();
    read_frame(&mut far, 100).await.unwrap();
    let (at_a, at_b) = (&a.peers()[0], &b.peers()[0]);
    assert_eq!((at_a.bytes_out, at_a.messages_out, at_a.streams), (12, 1, 1));
    assert_eq!((at_b.bytes_in, at_b.messages_in), (12, 1));
    assert_eq!((at_a.direction, at_b.direction), (Direction::Outbound, Direction::Inbound));
}

#[tokio::test]
async fn a_protocol_has_one_acceptor_and_dropping_it_frees_the_name() {
    let net = net();
    let (a, b) = two(&net).await;
    let first = b.accept(ECHO).unwrap();
    assert_eq!(b.accept(ECHO).unwrap_err(), crate::error::AcceptError::AlreadyRegistered(ECHO));
    drop(first);
    assert!(matches!(a.open(id(2), ECHO).await, Err(OpenError::Unsupported { .. })));
    assert!(b.accept(ECHO).is_ok());
}

#[tokio::test]
async fn a_killed_node_comes_back_under_its_id() {
    let net = net();
    let (a, _b) = two(&net).await;
    let mut events = a.events();
    let again = net.node(id(2));
    let lost = PeerEvent::Disconnected { peer: id(2), reason: DisconnectReason::NetworkError };
    assert_eq!(events.recv().await.unwrap(), lost);
    assert_eq!(again.dial(&SimNet::address(id(1))).await, Ok(id(1)));
}
