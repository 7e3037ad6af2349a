//! What a peer, a zone's server, a STUN server or a damaged disk may hand to the network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::LazyLock;
use tokio::runtime::Runtime;
use trellis_fuzz::fuzz;
use trellis_net_peers::discovery::address::PeerAddress;
use trellis_net_peers::discovery::{book, file};
use trellis_net_peers::frame::{read_frame, read_message, write_message};
use trellis_net_peers::guard;
use trellis_net_peers::handshake::{Answer, Goodbye, HANDSHAKE_MESSAGE_BYTES_MAX, Hello, Verdict};
use trellis_net_reach::Answer as StunAnswer;
use trellis_net_reach::turn::{Allocation, Carriage, Credentials, FRAME_BYTES_MAX, Frames, Reply, TurnServer};
use trellis_net_transport::{PROOF_BYTES, PROOF_VERSION, Proof};
use trellis_primitives::{NodeRecord, Role, RoleSet, SignedNodeRecord, UnixMs};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        network_magic: 7,
        genesis_hash: vec![1; 32],
        record: record().to_rlp().to_vec(),
        roles: 3,
        user_agent: "fuzz".into(),
        time_ms: 1,
        nonce: vec![2; 32],
        best_height: 9,
        instance: 4,
        turned: false,
        region: "here".into(),
    }
}

fn record() -> NodeRecord {
    NodeRecord {
        ed25519: [1; 32],
        mldsa65: vec![2; 1_952].into(),
        chain_address: [3; 20].into(),
        network_magic: 7,
        roles: RoleSet::of(&[Role::Provider]),
        addresses: vec!["/ip4/127.0.0.1/udp/9700/quic-v1".into()],
        models: vec!["tiny".into()],
        sequence: 1,
        expires_ms: 2,
    }
}

fn written(hello: &Hello) -> Vec<u8> {
    let mut bytes = Vec::new();
    RUNTIME.block_on(write_message(&mut bytes, hello)).unwrap();
    bytes
}

// row: NET-56, NET-60
#[test]
fn messages_of_the_handshake_are_read_within_their_bound_or_refused() {
    fuzz!(vec![written(&hello())], |bytes: &[u8]| {
        RUNTIME.block_on(async {
            let mut stream = bytes;
            while let Ok(frame) = read_frame(&mut stream, HANDSHAKE_MESSAGE_BYTES_MAX).await {
                assert!(frame.len() <= HANDSHAKE_MESSAGE_BYTES_MAX);
            }
            let _ = read_message::<Hello, _>(&mut &*bytes, HANDSHAKE_MESSAGE_BYTES_MAX).await;
            let _ = read_message::<Answer, _>(&mut &*bytes, HANDSHAKE_MESSAGE_BYTES_MAX).await;
            let _ = read_message::<Verdict, _>(&mut &*bytes, HANDSHAKE_MESSAGE_BYTES_MAX).await;
            let _ = read_message::<Goodbye, _>(&mut &*bytes, HANDSHAKE_MESSAGE_BYTES_MAX).await;
        });
    });
}

// row: NET-01, NET-56
#[test]
fn a_node_record_has_one_encoding() {
    fuzz!(vec![record().to_rlp().to_vec()], |bytes: &[u8]| {
        if let Ok(record) = NodeRecord::from_rlp(bytes) {
            assert_eq!(*record.to_rlp(), *bytes);
        }
        if let Ok(signed) = SignedNodeRecord::from_rlp(bytes) {
            assert_eq!(*signed.to_rlp(), *bytes);
        }
    });
}

// row: NET-12
#[test]
fn a_proof_of_identity_has_one_encoding() {
    let mut proof = vec![0x11; PROOF_BYTES];
    proof[0] = PROOF_VERSION;
    fuzz!(vec![proof], |bytes: &[u8]| {
        if let Ok(proof) = Proof::decode(bytes) {
            assert_eq!(proof.encode(), bytes);
        }
    });
}

// row: NET-37
#[test]
fn address_books_and_peer_lists_are_read_or_refused() {
    let empty = file::encode(&book::Book::new([7; 32]), &[], 7);
    fuzz!(vec![empty, br#"{"magic":"trellis-peers","version":1}"#.to_vec()], |bytes: &[u8]| {
        let _ = file::decode(bytes, 7, UnixMs(1));
        let _ = guard::Book::parse(bytes);
    });
}

// row: NET-71
#[test]
fn an_address_that_is_read_reads_the_same_again() {
    let seeds = ["/ip4/1.2.3.4/udp/9700/quic-v1", "/ip6/::1/udp/9700/quic-v1", "/dns/a.example/udp/9700/quic-v1"];
    fuzz!(seeds.map(|seed| seed.as_bytes().to_vec()).to_vec(), |bytes: &[u8]| {
        if let Some(address) = std::str::from_utf8(bytes).ok().and_then(PeerAddress::parse) {
            assert_eq!(PeerAddress::parse(&address.to_string()), Some(address));
        }
    });
}

// row: NET-40
#[test]
fn answers_of_a_stun_server_are_read_or_refused() {
    let mut answer = vec![1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42];
    answer.extend([7; 12]);
    answer.extend([0, 0x20, 0, 8, 0, 1, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66]);
    assert!(StunAnswer::decode(&answer).is_ok());
    fuzz!(vec![answer], |bytes: &[u8]| {
        let _ = StunAnswer::decode(bytes);
    });
}

// row: NET-44, NET-56
#[test]
fn frames_of_a_turn_server_are_read_or_refused() {
    // A success without attributes, a refusal with code 401, and data of a channel, padded.
    let mut success = vec![1, 3, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    success.extend([7; 12]);
    let mut refusal = vec![1, 0x13, 0, 8, 0x21, 0x12, 0xa4, 0x42];
    refusal.extend([7; 12]);
    refusal.extend([0, 9, 0, 4, 0, 0, 4, 1]);
    let channel = vec![0x40, 0, 0, 2, 9, 9, 0, 0];
    assert_eq!(Reply::read(&refusal).and_then(|reply| reply.refusal).map(|(code, _)| code), Some(401));
    let seeds = [success, refusal, channel];
    let stream = seeds.concat();
    fuzz!([&seeds[..], &[stream]].concat(), |bytes: &[u8]| {
        let mut frames = Frames::default();
        frames.push(bytes);
        let mut read = 0;
        while let Ok(Some(frame)) = frames.next_frame() {
            assert!(frame.len() <= FRAME_BYTES_MAX);
            read += frame.len();
            let _ = Reply::read(&frame);
        }
        assert!(read <= bytes.len());
        for carriage in [Carriage::Udp, Carriage::Tls] {
            let credentials = Credentials { user: "a".into(), password: String::from("b").into() };
            let (local, server) = (([10, 0, 0, 1], 1).into(), ([11, 0, 0, 1], 3_478).into());
            let mut allocation = Allocation::new(carriage, local, server, &credentials);
            allocation.poll(0);
            let _ = allocation.receive(bytes, 1);
            allocation.poll(60);
        }
    });
}

// row: NET-44
#[test]
fn a_turn_server_that_is_read_reads_the_same_again() {
    let seeds = ["turn:a.example:1?transport=tcp", "turns:[::1]:443?transport=tcp", "turn:1.2.3.4"];
    fuzz!(seeds.map(|seed| seed.as_bytes().to_vec()).to_vec(), |bytes: &[u8]| {
        if let Some(server) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<TurnServer>().ok()) {
            assert_eq!(server.to_string().parse(), Ok(server));
        }
    });
}
