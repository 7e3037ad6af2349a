//! Every NAT, server and loss in one process and virtual time.

use super::*;
use crate::nat::{NatKind, TcpCheck, classify};
use proptest::prelude::*;
use rand::SeedableRng;
use std::collections::HashMap;

/// A whole check ends within this: two servers examined one after the other.
const ALL_MS_MAX: u64 = 10 * REQUEST_MS_MAX;

#[derive(Clone)]
struct Server {
    own: SocketAddr,
    other: Option<SocketAddr>,
    answers: bool,
    /// Answers at and from its other address.
    other_lives: bool,
    /// Answers from another address or port when asked to.
    changes: bool,
}

impl Server {
    fn new(number: u8) -> Self {
        Self {
            own: SocketAddr::from(([11, 200, number, 2], 3478)),
            other: Some(SocketAddr::from(([11, 200, number, 3], 3479))),
            answers: true,
            other_lives: true,
            changes: true,
        }
    }

    /// Where the answer comes from.
    fn origin(&self, asked: SocketAddr, request: &Request) -> SocketAddr {
        let Some(other) = self.other.filter(|_| self.changes) else { return asked };
        let flip_ip = if asked.ip() == self.own.ip() { other.ip() } else { self.own.ip() };
        let flip_port = if asked.port() == self.own.port() { other.port() } else { self.own.port() };
        SocketAddr::new(
            if request.change_ip { flip_ip } else { asked.ip() },
            if request.change_port { flip_port } else { asked.port() },
        )
    }

    fn has(&self, address: SocketAddr) -> bool {
        let Some(other) = self.other else { return address == self.own };
        let alternate = address.ip() == other.ip();
        (alternate || address.ip() == self.own.ip())
            && [self.own.port(), other.port()].contains(&address.port())
            && (!alternate || self.other_lives)
    }
}

struct World {
    mapping: Mapping,
    filtering: Filtering,
    /// Ports are handed through as they are, asked for or not.
    open: bool,
    servers: Vec<Server>,
    /// Of so many packets each way one is lost; 0: none.
    loses_one_in: u64,
    sent: u64,
    ports: HashMap<(Socket, Option<std::net::IpAddr>, Option<u16>), u16>,
    wrote: Vec<(Socket, SocketAddr)>,
}

const FRESH_PORT: u16 = 50_003;

impl World {
    fn new(mapping: Mapping, filtering: Filtering) -> Self {
        Self {
            mapping,
            filtering,
            open: false,
            servers: vec![Server::new(0)],
            loses_one_in: 0,
            sent: 0,
            ports: HashMap::new(),
            wrote: Vec::new(),
        }
    }

    fn lost(&mut self) -> bool {
        self.sent += 1;
        self.loses_one_in > 0 && self.sent.is_multiple_of(self.loses_one_in)
    }

    fn outer_port(&mut self, from: Socket, to: SocketAddr) -> u16 {
        let key = match self.mapping {
            Mapping::EndpointIndependent => (from, None, None),
            Mapping::AddressDependent => (from, Some(to.ip()), None),
            Mapping::AddressAndPortDependent => (from, Some(to.ip()), Some(to.port())),
        };
        let next = 40_000 + u16::try_from(self.ports.len()).unwrap();
        *self.ports.entry(key).or_insert(next)
    }

    /// The answer that comes back, the socket it arrives at and where it comes from.
    fn send(&mut self, from: Socket, to: SocketAddr, request: &Request) -> Option<(Socket, SocketAddr, Answer)> {
        let port = self.outer_port(from, to);
        self.wrote.push((from, to));
        let server = self.servers.iter().find(|server| server.has(to) && server.answers)?.clone();
        let origin = server.origin(to, request);
        if self.lost() || self.lost() || !server.has(origin) {
            return None;
        }
        let mapped = SocketAddr::from(([11, 1, 0, 2], port));
        let answer = Answer { transaction: request.transaction, mapped, other: server.other };
        match request.response_port {
            Some(FRESH_PORT) => self.open.then_some((Socket::Fresh, origin, answer)),
            Some(_) => None,
            None => self.lets_in(from, origin).then_some((from, origin, answer)),
        }
    }

    fn lets_in(&self, socket: Socket, origin: SocketAddr) -> bool {
        let known =
            |same: &dyn Fn(&SocketAddr) -> bool| self.wrote.iter().any(|(from, to)| *from == socket && same(to));
        match self.filtering {
            _ if self.open => true,
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => known(&|to| to.ip() == origin.ip()),
            Filtering::AddressAndPortDependent => known(&|to| *to == origin),
        }
    }

    /// Runs a whole check; gives what was found and how long it took, in virtual milliseconds.
    fn check(&mut self) -> (Findings, u64) {
        let servers = self.servers.iter().map(|server| server.own).collect();
        let local = Some("192.168.1.10:50001".parse().unwrap());
        let mut probe = Probe::new(servers, local, Some(FRESH_PORT), 0, ChaCha20Rng::seed_from_u64(1));
        let mut now_ms = 0;
        loop {
            match probe.poll(now_ms) {
                Step::Send { from, to, request } => {
                    if let Some((socket, origin, answer)) = self.send(from, to, &request) {
                        probe.on_answer(socket, origin, &answer, now_ms + 1);
                    }
                }
                Step::Wait { until_ms } => {
                    assert!(until_ms > now_ms, "it does not wait for the past");
                    now_ms = until_ms;
                }
                Step::Done => return (probe.findings(), now_ms),
            }
            assert!(now_ms < ALL_MS_MAX, "no end in sight");
        }
    }

    fn kind(&mut self) -> NatKind {
        classify(&self.check().0, TcpCheck::NotNeeded).kind
    }
}

const KINDS: [(Mapping, Filtering, bool, NatKind); 6] = [
    (Mapping::EndpointIndependent, Filtering::EndpointIndependent, true, NatKind::Open),
    (Mapping::EndpointIndependent, Filtering::EndpointIndependent, false, NatKind::FullCone),
    (Mapping::EndpointIndependent, Filtering::AddressDependent, false, NatKind::AddressRestricted),
    (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, false, NatKind::PortRestricted),
    (Mapping::AddressDependent, Filtering::AddressDependent, false, NatKind::Symmetric),
    (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, false, NatKind::Symmetric),
];

fn world(case: (Mapping, Filtering, bool, NatKind)) -> World {
    let mut world = World::new(case.0, case.1);
    world.open = case.2;
    world
}

// row: NET-40
#[test]
fn each_nat_is_told_from_the_others() {
    for case in KINDS {
        let (findings, took_ms) = world(case).check();
        assert_eq!(classify(&findings, TcpCheck::NotNeeded).kind, case.3, "{findings:?}");
        assert_eq!(findings.mapping, Some(case.0));
        assert!(took_ms <= REQUEST_MS_MAX + 10, "{took_ms} ms for one living server");
    }
}

// row: NET-40
#[test]
fn dead_servers_are_passed_over_and_do_not_delay_beyond_their_own_wait() {
    for case in KINDS {
        let mut world = world(case);
        let dead = Server { answers: false, ..Server::new(1) };
        world.servers = vec![dead.clone(), dead, Server::new(2)];
        let (findings, took_ms) = world.check();
        assert_eq!(classify(&findings, TcpCheck::NotNeeded).kind, case.3, "{findings:?}");
        assert!(findings.servers[0].seen.is_none() && findings.servers[2].rfc5780);
        assert!(took_ms <= 2 * REQUEST_MS_MAX, "{took_ms}");
    }
}

// row: NET-40
#[test]
fn a_server_whose_other_address_is_dead_is_followed_by_the_next() {
    for case in KINDS {
        let mut world = world(case);
        world.servers = vec![Server { other_lives: false, ..Server::new(1) }, Server::new(2)];
        let (findings, took_ms) = world.check();
        assert_eq!(classify(&findings, TcpCheck::NotNeeded).kind, case.3, "{findings:?}");
        assert!(took_ms <= 4 * REQUEST_MS_MAX, "{took_ms}");
    }
}

#[test]
fn a_server_that_answers_from_the_wrong_place_never_makes_a_nat_look_wider() {
    let mut world = World::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent);
    world.servers = vec![Server { changes: false, ..Server::new(1) }];
    assert_eq!(world.kind(), NatKind::PortRestricted);
}

// row: NET-40
#[test]
fn plain_servers_still_tell_a_symmetric_nat_and_leave_the_filter_unknown() {
    let plain = |number| Server { other: None, ..Server::new(number) };
    let mut symmetric = World::new(Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent);
    symmetric.servers = vec![plain(1), plain(2)];
    assert_eq!(symmetric.kind(), NatKind::Symmetric);
    let mut cone = World::new(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent);
    cone.servers = vec![plain(1), plain(2)];
    let (findings, _) = cone.check();
    assert_eq!((findings.mapping, findings.filtering), (Some(Mapping::EndpointIndependent), None));
    cone.servers = vec![plain(1)];
    assert_eq!(cone.check().0.mapping, None, "one view is no comparison");
}

// row: NET-40
#[test]
fn silence_ends_after_the_wait_for_one_request() {
    let mut world = World::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
    world.servers[0].answers = false;
    let (findings, took_ms) = world.check();
    assert!(!findings.works());
    assert_eq!(took_ms, REQUEST_MS_MAX);
}

#[test]
fn no_server_and_no_route_end_at_once() {
    let rng = || ChaCha20Rng::seed_from_u64(1);
    assert_eq!(Probe::new(Vec::new(), None, None, 0, rng()).poll(0), Step::Done);
    let to = Server::new(0).own;
    let mut probe = Probe::new(vec![to], None, None, 0, rng());
    assert!(matches!(probe.poll(0), Step::Send { .. }));
    probe.on_send_error(to);
    assert_eq!(probe.poll(0), Step::Done);
}

#[test]
fn more_servers_than_the_bound_are_left_out() {
    let servers = (0..20).map(|number| Server::new(number).own).collect();
    let probe = Probe::new(servers, None, None, 0, ChaCha20Rng::seed_from_u64(1));
    assert_eq!(probe.findings().servers.len(), SERVERS_MAX);
}

proptest! {
    // row: NET-40
    #[test]
    fn one_packet_in_five_may_be_lost(case in 0usize..KINDS.len(), loses_one_in in 5u64..50) {
        let mut world = world(KINDS[case]);
        world.loses_one_in = loses_one_in;
        prop_assert_eq!(world.kind(), KINDS[case].3);
    }

    #[test]
    fn answers_that_were_not_asked_for_change_nothing(
        transaction in any::<u128>(), port in any::<u16>(), from in 0usize..3, known in any::<bool>(),
    ) {
        let mut probe = Probe::new(vec![Server::new(0).own], None, Some(FRESH_PORT), 0, ChaCha20Rng::seed_from_u64(1));
        let Step::Send { request, .. } = probe.poll(0) else { panic!("it begins with a question") };
        let before = probe.findings();
        // Either the id is wrong, or it is right and comes from another address than the one that was asked.
        let transaction = if known { request.transaction } else { transaction };
        prop_assume!(known || transaction != request.transaction);
        let answer = Answer { transaction, mapped: SocketAddr::from(([9, 9, 9, 9], port)), other: None };
        let socket = [Socket::Mapping, Socket::Filtering, Socket::Fresh][from];
        probe.on_answer(socket, SocketAddr::from(([11, 9, 9, 9], 3478)), &answer, 1);
        prop_assert_eq!(probe.findings(), before);
    }
}

// row: NET-40
#[test]
fn a_public_server_that_names_a_machine_at_home_as_its_other_address_is_not_believed() {
    let own: SocketAddr = "8.8.8.8:3478".parse().unwrap();
    let asked = |other: &str| {
        let mut probe = Probe::new(vec![own], None, None, 0, ChaCha20Rng::seed_from_u64(1));
        let Step::Send { request, .. } = probe.poll(0) else { panic!("nothing is asked") };
        let mapped = "9.9.9.9:1".parse().unwrap();
        let answer = Answer { transaction: request.transaction, mapped, other: Some(other.parse().unwrap()) };
        probe.on_answer(Socket::Mapping, own, &answer, 1);
        let mut sent = Vec::new();
        while let Step::Send { to, .. } = probe.poll(2) {
            sent.push(to.ip().to_string());
        }
        (probe.findings().servers[0].rfc5780, sent.contains(&other.split(':').next().unwrap().to_owned()))
    };
    assert_eq!(asked("8.8.4.4:3479"), (true, true));
    for near in ["192.168.1.1:80", "127.0.0.1:53", "10.0.0.1:3479"] {
        assert_eq!(asked(near), (false, false), "{near}");
    }
}
