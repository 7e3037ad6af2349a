//! The allocation against a server that is scripted, for what a real one cannot be made to do. What one does is shown in the
//! laboratory.

use proptest::prelude::*;
use turn_client_proto::types::attribute::{ChannelNumber, Lifetime, XorRelayedAddress};
use turn_client_proto::types::message::{CHANNEL_BIND, CREATE_PERMISSION};
use turn_client_proto::types::stun::attribute::{ErrorCode, Nonce, Realm};
use turn_client_proto::types::stun::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, MessageClass, MessageWriteVec, TransactionId,
};
use turn_client_proto::types::stun::prelude::*;
use zeroize::Zeroizing;

use super::*;

const RELAYED: &str = "11.200.0.2:50000";
const PEER: &str = "11.201.0.2:9700";
/// Allocations of the scripted server end after this, seconds.
const LIFETIME: u32 = 600;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn allocation(carriage: Carriage) -> Allocation {
    let credentials = Credentials { user: "alice".to_owned(), password: Zeroizing::new("secret".to_owned()) };
    Allocation::new(carriage, address("192.168.1.2:40000"), address("11.200.0.2:3478"), &credentials)
}

/// Answers requests: the first without credentials with 401, all others with success, unless a fault is set for their kind.
#[derive(Default)]
pub(in crate::turn) struct Server {
    fault: Option<(Method, u16)>,
    answered: Vec<Method>,
    channel: Option<u16>,
}

impl Server {
    fn failing(method: Method, code: u16) -> Self {
        Self { fault: Some((method, code)), ..Self::default() }
    }

    pub(in crate::turn) fn answer(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let message = Message::from_bytes(frame).ok().filter(|message| message.has_class(MessageClass::Request))?;
        let method = message.method();
        self.answered.push(method);
        let signed = message.attribute::<Nonce>().is_ok();
        if !signed {
            return Some(refusal(&message, 401));
        }
        if let Some((_, code)) = self.fault.filter(|(of, _)| *of == method) {
            return Some(refusal(&message, code));
        }
        let mut reply = Message::builder_success(&message, MessageWriteVec::new());
        if method == ALLOCATE {
            let id: TransactionId = message.transaction_id();
            reply.add_attribute(&XorRelayedAddress::new(address(RELAYED), id)).unwrap();
        }
        if method == ALLOCATE || method == REFRESH {
            reply.add_attribute(&Lifetime::new(LIFETIME)).unwrap();
        }
        if let Ok(number) = message.attribute::<ChannelNumber>() {
            self.channel = Some(number.channel());
        }
        sign(&mut reply);
        Some(reply.finish())
    }

    /// Lets both talk until neither has anything to say at this time; gives the frames that were no requests.
    fn settle(&mut self, allocation: &mut Allocation, now_ms: &mut u64) -> Vec<Vec<u8>> {
        let mut others = Vec::new();
        for _ in 0..200 {
            allocation.poll(*now_ms);
            let mut quiet = true;
            while let Some(frame) = allocation.next_out() {
                quiet = false;
                match self.answer(&frame) {
                    Some(answer) => drop(allocation.receive(&answer, *now_ms)),
                    None => others.push(frame),
                }
            }
            // Requests keep a distance of 50 ms.
            *now_ms += 60;
            if quiet {
                break;
            }
        }
        others
    }
}

fn sign(reply: &mut MessageWriteVec) {
    let key = LongTermKeyCredentials::new("alice".to_owned(), "secret".to_owned(), "realm".to_owned());
    reply.add_message_integrity(&key.into(), IntegrityAlgorithm::Sha1).unwrap();
}

fn refusal(request: &Message<'_>, code: u16) -> Vec<u8> {
    let mut reply = Message::builder_error(request, MessageWriteVec::new());
    reply.add_attribute(&ErrorCode::builder(code).reason("scripted").build().unwrap()).unwrap();
    if matches!(code, 401 | 438) {
        reply.add_attribute(&Realm::new("realm").unwrap()).unwrap();
        reply.add_attribute(&Nonce::new("nonce").unwrap()).unwrap();
    } else {
        sign(&mut reply);
    }
    reply.finish()
}

fn allocated(carriage: Carriage, server: &mut Server, now_ms: &mut u64) -> Allocation {
    let mut allocation = allocation(carriage);
    server.settle(&mut allocation, now_ms);
    assert_eq!((allocation.relayed(), allocation.failure()), (Some(address(RELAYED)), None));
    allocation
}

// row: NET-44
#[test]
fn a_datagram_waits_until_the_server_lets_its_peer_in_and_then_flows_both_ways() {
    for carriage in [Carriage::Udp, Carriage::Tcp, Carriage::Tls] {
        let (mut server, mut now_ms) = (Server::default(), 0);
        let mut allocation = allocated(carriage, &mut server, &mut now_ms);
        assert_eq!(allocation.send(address(PEER), b"hello", now_ms), Sent::Taken);
        assert_eq!(allocation.peer(address(PEER)), Some(&PeerState::Asked));
        let sent = server.settle(&mut allocation, &mut now_ms);
        assert_eq!(allocation.peer(address(PEER)), Some(&PeerState::Open));
        let [high, low] = server.channel.unwrap().to_be_bytes();
        let mut frame = [&[high, low, 0, 5][..], b"hello"].concat();
        if carriage != Carriage::Udp {
            frame.extend([0; 3]);
        }
        assert_eq!(sent, [frame], "{carriage}");
        let back = [&[high, low, 0, 5][..], b"world"].concat();
        assert_eq!(allocation.receive(&back, now_ms), Some((address(PEER), b"world".to_vec())));
    }
}

// row: NET-44
#[test]
fn what_the_server_refuses_has_its_name() {
    let expected = [
        (437, TurnError::Mismatch),
        (486, TurnError::Quota),
        (508, TurnError::Capacity),
        (441, TurnError::Credentials { code: 441 }),
        (401, TurnError::Credentials { code: 401 }),
        (400, TurnError::Refused { code: 400, reason: "scripted".to_owned() }),
    ];
    for (code, error) in expected {
        let (mut server, mut now_ms) = (Server::failing(ALLOCATE, code), 0);
        let mut allocation = allocation(Carriage::Udp);
        server.settle(&mut allocation, &mut now_ms);
        assert_eq!((allocation.failure(), allocation.relayed()), (Some(&error), None), "{code}");
        assert_eq!(allocation.admit(address(PEER), now_ms), Err(error));
    }
}

// row: NET-44
#[test]
fn a_peer_that_the_server_keeps_out_is_refused_by_name_and_the_allocation_stands() {
    let (mut server, mut now_ms) = (Server::failing(CHANNEL_BIND, 403), 0);
    let mut allocation = allocated(Carriage::Udp, &mut server, &mut now_ms);
    allocation.admit(address(PEER), now_ms).unwrap();
    server.settle(&mut allocation, &mut now_ms);
    let forbidden = PeerState::Refused(TurnError::Forbidden { peer: address(PEER) });
    assert_eq!((allocation.peer(address(PEER)), allocation.failure()), (Some(&forbidden), None));
    assert_eq!(allocation.send(address(PEER), b"lost", now_ms), Sent::Dropped);
    // Asked again, it may have changed its mind.
    server.fault = None;
    allocation.admit(address(PEER), now_ms).unwrap();
    server.settle(&mut allocation, &mut now_ms);
    assert_eq!(allocation.peer(address(PEER)), Some(&PeerState::Open));
}

// row: NET-44
#[test]
fn stale_nonces_are_renewed_a_few_times_and_no_more() {
    let (mut server, mut now_ms) = (Server::default(), 0);
    let mut allocation = allocated(Carriage::Udp, &mut server, &mut now_ms);
    server.fault = Some((CHANNEL_BIND, 438));
    allocation.admit(address(PEER), now_ms).unwrap();
    for _ in 0..40 {
        server.settle(&mut allocation, &mut now_ms);
    }
    assert!(matches!(allocation.failure(), Some(TurnError::StaleNonce { .. })), "{:?}", allocation.failure());
    let asked = server.answered.iter().filter(|method| **method == CHANNEL_BIND).count();
    assert!(asked <= usize::from(STALE_NONCES_MAX) + 2, "{asked}");
}

// row: NET-44
#[test]
fn an_allocation_is_renewed_in_time_and_one_that_the_server_forgot_is_over() {
    let (mut server, mut now_ms) = (Server::default(), 0);
    let mut allocation = allocated(Carriage::Udp, &mut server, &mut now_ms);
    allocation.admit(address(PEER), now_ms).unwrap();
    server.settle(&mut allocation, &mut now_ms);
    for _ in 0..600 {
        now_ms += 10_000;
        server.settle(&mut allocation, &mut now_ms);
    }
    assert_eq!(allocation.failure(), None, "after {now_ms} ms");
    let renewed = |server: &Server, method| server.answered.iter().filter(|of| **of == method).count();
    assert!(renewed(&server, REFRESH) >= 8 && renewed(&server, CHANNEL_BIND) >= 8, "{:?}", server.answered);

    server.fault = Some((REFRESH, 437));
    for _ in 0..120 {
        now_ms += 10_000;
        server.settle(&mut allocation, &mut now_ms);
    }
    assert_eq!(allocation.failure(), Some(&TurnError::Mismatch));
}

// row: NET-44
#[test]
fn a_silent_server_is_given_up_and_a_forged_refusal_is_nobodys() {
    let mut allocation = allocation(Carriage::Udp);
    let mut now_ms = 0;
    let mut sent = 0;
    while now_ms < 60_000 {
        let next_ms = allocation.poll(now_ms);
        if allocation.failure().is_some() {
            break;
        }
        while let Some(frame) = allocation.next_out() {
            sent += 1;
            // The same refusal of a request that was never sent.
            let mut forged = refusal(&Message::from_bytes(&frame).unwrap(), 508);
            forged[19] ^= 1;
            allocation.receive(&forged, now_ms);
        }
        now_ms = next_ms.max(now_ms + 1);
    }
    assert!(matches!(allocation.failure(), Some(TurnError::Silent { .. })), "{:?}", allocation.failure());
    assert!((2..=REQUESTS_SENT).contains(&sent) && now_ms <= 2 * request_ms(), "{sent} frames in {now_ms} ms");
}

// row: NET-56
#[test]
fn peers_and_datagrams_that_wait_are_bounded() {
    let (mut server, mut now_ms) = (Server::default(), 0);
    let mut allocation = allocated(Carriage::Udp, &mut server, &mut now_ms);
    let peer = |n: usize| SocketAddr::new([11, 1, (n >> 8) as u8, n as u8].into(), 9_700);
    for n in 0..PEERS_MAX {
        allocation.admit(peer(n), now_ms).unwrap();
        allocation.let_in(peer(n).ip(), now_ms).unwrap();
    }
    assert_eq!(allocation.admit(peer(PEERS_MAX), now_ms), Err(TurnError::Full { peers: PEERS_MAX }));
    assert_eq!(allocation.let_in(peer(PEERS_MAX).ip(), now_ms), Err(TurnError::Full { peers: PEERS_MAX }));
    let taken = (0..100).filter(|_| allocation.send(peer(0), b"early", now_ms) == Sent::Taken).count();
    assert_eq!(taken, DATAGRAMS_PER_PEER_MAX);
    let other: SocketAddr = "[2600:11::2]:9700".parse().unwrap();
    assert_eq!(allocation.admit(other, now_ms), Err(TurnError::Family { peer: other }));

    let mut allocation = allocated(Carriage::Udp, &mut Server::default(), &mut now_ms);
    allocation.admit(peer(0), now_ms).unwrap();
    Server::default().settle(&mut allocation, &mut now_ms);
    let taken = (0..10_000).filter(|_| allocation.send(peer(0), b"much", now_ms) == Sent::Taken).count();
    assert_eq!((taken, allocation.send(peer(0), b"more", now_ms)), (FRAMES_OUT_MAX, Sent::Full));
}

// row: NET-44
#[test]
fn whoever_comes_from_an_address_that_was_let_in_is_heard() {
    let (mut server, mut now_ms) = (Server::default(), 0);
    let mut allocation = allocated(Carriage::Udp, &mut server, &mut now_ms);
    allocation.let_in(address(PEER).ip(), now_ms).unwrap();
    server.settle(&mut allocation, &mut now_ms);
    assert!(server.answered.contains(&CREATE_PERMISSION));
    assert_eq!(allocation.send(address(PEER), b"answer", now_ms), Sent::Taken);
}

proptest! {
    // row: NET-56
    #[test]
    fn no_bytes_of_a_server_do_harm(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..24), stream in any::<bool>(),
    ) {
        let carriage = if stream { Carriage::Tcp } else { Carriage::Udp };
        let mut now_ms = 0;
        let mut allocation = allocated(carriage, &mut Server::default(), &mut now_ms);
        for frame in frames {
            let _ = allocation.receive(&frame, now_ms);
            now_ms = allocation.poll(now_ms).min(now_ms + 1_000);
        }
        prop_assert!(allocation.requests.len() <= REQUESTS_REMEMBERED_MAX);
    }
}
