//! The order of the questions (RFC 5780 §4) as a machine without socket, clock or randomness of its own.
//!
//! Three sockets take part. **Mapping** asks every server, and one of them at all its addresses. **Filtering** asks that
//! one server alone, so that an answer from the server's other address comes from a stranger. **Fresh** never sends:
//! what arrives there passed a port that nobody had opened.

use std::net::SocketAddr;

use rand::RngCore;
use rand_chacha::ChaCha20Rng;

use crate::config::{REQUEST_MS_MAX, REQUEST_SENT_AT_MS, SERVERS_MAX};
use crate::message::{Answer, Request};
use crate::nat::{Filtering, Findings, Mapping, ServerFinding, is_public};

/// A socket of the check.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Socket {
    /// Asks every server.
    Mapping,
    /// Asks one server, at one address.
    Filtering,
    /// Sends nothing.
    Fresh,
}

/// What is to be done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send this.
    Send {
        /// From this socket.
        from: Socket,
        /// To this address.
        to: SocketAddr,
        /// This request.
        request: Request,
    },
    /// Nothing to send before this time, in the caller's milliseconds.
    Wait {
        /// When to ask again.
        until_ms: u64,
    },
    /// Every question has its answer, or none will come.
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// Who am I, to a server.
    First { server: usize },
    /// The same at the server's other address and the same port.
    OtherAddress,
    /// The same at the server's other address and other port.
    OtherBoth,
    /// Opens the way for the three below.
    Opener,
    /// Answered by a stranger.
    FromStranger,
    /// Answered by the same host from another port.
    FromOtherPort,
    /// Answered to the fresh socket.
    Unasked,
}

struct Question {
    purpose: Purpose,
    socket: Socket,
    to: SocketAddr,
    request: Request,
    began_ms: u64,
    sent: usize,
    /// The address in the answer, and when it came.
    answered: Option<(SocketAddr, u64)>,
    given_up: bool,
}

impl Question {
    const fn is_open(&self) -> bool {
        self.answered.is_none() && !self.given_up
    }
}

/// One family's check.
pub struct Probe {
    servers: Vec<SocketAddr>,
    /// Each server's other address, once it told it.
    others: Vec<Option<SocketAddr>>,
    local: Option<SocketAddr>,
    /// The outer port that would lead to the fresh socket.
    fresh_port: Option<u16>,
    questions: Vec<Question>,
    /// Servers that were examined closer, the last one now.
    examined: Vec<usize>,
    findings: Option<(Option<Mapping>, Option<Filtering>, Option<bool>)>,
    rng: ChaCha20Rng,
}

impl Probe {
    /// A check that asks these servers (the first [`SERVERS_MAX`]) from a socket at `local`.
    #[must_use]
    pub fn new(
        mut servers: Vec<SocketAddr>,
        local: Option<SocketAddr>,
        fresh_port: Option<u16>,
        now_ms: u64,
        rng: ChaCha20Rng,
    ) -> Self {
        servers.truncate(SERVERS_MAX);
        let others = vec![None; servers.len()];
        let mut probe = Self {
            servers,
            others,
            local,
            fresh_port,
            questions: Vec::new(),
            examined: Vec::new(),
            findings: None,
            rng,
        };
        for server in 0..probe.servers.len() {
            let to = probe.servers[server];
            probe.ask(Purpose::First { server }, Socket::Mapping, to, now_ms, |_| {});
        }
        probe
    }

    fn ask(
        &mut self,
        purpose: Purpose,
        socket: Socket,
        to: SocketAddr,
        began_ms: u64,
        change: impl FnOnce(&mut Request),
    ) {
        let transaction = (u128::from(self.rng.next_u64()) << 64) | u128::from(self.rng.next_u64());
        let mut request = Request::plain(transaction);
        change(&mut request);
        self.questions.push(Question {
            purpose,
            socket,
            to,
            request,
            began_ms,
            sent: 0,
            answered: None,
            given_up: false,
        });
    }

    /// What to do at this time. To be called after every event and at the time that [`Step::Wait`] names.
    pub fn poll(&mut self, now_ms: u64) -> Step {
        for question in &mut self.questions {
            if question.is_open() && now_ms.saturating_sub(question.began_ms) >= REQUEST_MS_MAX {
                question.given_up = true;
            }
        }
        self.advance(now_ms);
        let mut until_ms = u64::MAX;
        for question in self.questions.iter_mut().filter(|question| question.is_open()) {
            let next = REQUEST_SENT_AT_MS.get(question.sent).copied().unwrap_or(REQUEST_MS_MAX);
            let due = question.began_ms.saturating_add(next);
            if due <= now_ms && next < REQUEST_MS_MAX {
                question.sent += 1;
                return Step::Send { from: question.socket, to: question.to, request: question.request };
            }
            until_ms = until_ms.min(due);
        }
        if until_ms == u64::MAX { Step::Done } else { Step::Wait { until_ms } }
    }

    /// A message came in on a socket. One that answers no open question from where its answer must come is ignored.
    pub fn on_answer(&mut self, socket: Socket, from: SocketAddr, answer: &Answer, now_ms: u64) {
        let examined = self.examined.last().copied();
        let stranger = examined.and_then(|server| self.others.get(server).copied().flatten());
        let Some(question) = self.questions.iter_mut().find(|question| {
            question.is_open() && question.sent > 0 && question.request.transaction == answer.transaction
        }) else {
            return;
        };
        let (arrives_at, comes_from) = match question.purpose {
            Purpose::FromStranger => (Socket::Filtering, stranger),
            Purpose::FromOtherPort => {
                let port = stranger.map(|other| other.port());
                (Socket::Filtering, port.map(|port| SocketAddr::new(question.to.ip(), port)))
            }
            Purpose::Unasked => (Socket::Fresh, Some(question.to)),
            _ => (question.socket, Some(question.to)),
        };
        if socket != arrives_at || comes_from != Some(from) {
            return;
        }
        question.answered = Some((answer.mapped, now_ms));
        if let Purpose::First { server } = question.purpose {
            let own = question.to;
            // A server in the open does not send this machine's packets to its neighbours at home.
            let useful = |other: &SocketAddr| {
                other.ip() != own.ip()
                    && other.port() != own.port()
                    && other.is_ipv4() == own.is_ipv4()
                    && (is_public(other.ip()) || !is_public(own.ip()))
            };
            self.others[server] = answer.other.filter(useful);
        }
    }

    /// The system refused to send to an address.
    pub fn on_send_error(&mut self, to: SocketAddr) {
        for question in self.questions.iter_mut().filter(|question| question.to == to && question.is_open()) {
            question.given_up = true;
        }
    }

    /// What was found, so far or at last.
    #[must_use]
    pub fn findings(&self) -> Findings {
        let servers = self.servers.iter().enumerate().map(|(server, address)| {
            let question = self.question(Purpose::First { server });
            ServerFinding {
                address: *address,
                seen: question.and_then(|question| question.answered).map(|(seen, _)| seen),
                rtt_ms: question
                    .and_then(|question| question.answered.map(|(_, at_ms)| at_ms.saturating_sub(question.began_ms))),
                rfc5780: self.others[server].is_some(),
            }
        });
        let servers: Vec<ServerFinding> = servers.collect();
        let (mapping, filtering, unasked) = self.findings.unwrap_or_else(|| self.conclude());
        let mapping = mapping.or_else(|| mapping_across(&servers));
        Findings { servers, local: self.local, mapping, filtering, unasked }
    }

    fn question(&self, purpose: Purpose) -> Option<&Question> {
        self.questions.iter().find(|question| question.purpose == purpose)
    }

    fn answer(&self, purpose: Purpose) -> Option<SocketAddr> {
        self.question(purpose)?.answered.map(|(address, _)| address)
    }

    /// Begins what the answers so far allow.
    fn advance(&mut self, now_ms: u64) {
        if let Some(server) = self.examined.last().copied() {
            if self.answer(Purpose::Opener).is_some() && self.question(Purpose::FromStranger).is_none() {
                self.ask_filtering(server, now_ms);
            }
            let open = self.questions.iter().any(Question::is_open);
            if open || self.findings.is_some() {
                return;
            }
            let found = self.conclude();
            // A server whose other address is dead tells nothing; the next one may.
            if (found.0.is_none() || found.1.is_none()) && self.next_candidate().is_some() {
                let asked_once = |question: &Question| matches!(question.purpose, Purpose::First { .. });
                self.questions.retain(asked_once);
            } else {
                self.findings = Some(found);
                return;
            }
        }
        if let Some(server) = self.next_candidate() {
            self.examine(server, now_ms);
        }
    }

    fn next_candidate(&self) -> Option<usize> {
        (0..self.servers.len()).find(|server| self.others[*server].is_some() && !self.examined.contains(server))
    }

    fn examine(&mut self, server: usize, now_ms: u64) {
        let (Some(own), Some(other)) = (self.servers.get(server).copied(), self.others[server]) else { return };
        self.examined.push(server);
        let other_address = SocketAddr::new(other.ip(), own.port());
        self.ask(Purpose::OtherAddress, Socket::Mapping, other_address, now_ms, |_| {});
        self.ask(Purpose::OtherBoth, Socket::Mapping, other, now_ms, |_| {});
        self.ask(Purpose::Opener, Socket::Filtering, own, now_ms, |_| {});
    }

    fn ask_filtering(&mut self, server: usize, now_ms: u64) {
        let Some(own) = self.servers.get(server).copied() else { return };
        self.ask(Purpose::FromStranger, Socket::Filtering, own, now_ms, |request| {
            request.change_ip = true;
            request.change_port = true;
        });
        self.ask(Purpose::FromOtherPort, Socket::Filtering, own, now_ms, |request| request.change_port = true);
        if let Some(port) = self.fresh_port {
            self.ask(Purpose::Unasked, Socket::Filtering, own, now_ms, |request| request.response_port = Some(port));
        }
    }

    fn conclude(&self) -> (Option<Mapping>, Option<Filtering>, Option<bool>) {
        let Some(server) = self.examined.last().copied() else { return (None, None, None) };
        let first = self.answer(Purpose::First { server });
        let mapping = match (first, self.answer(Purpose::OtherAddress), self.answer(Purpose::OtherBoth)) {
            (Some(first), Some(second), third) if first == second && third.is_none_or(|third| third == first) => {
                Some(Mapping::EndpointIndependent)
            }
            (Some(_), Some(second), Some(third)) if second == third => Some(Mapping::AddressDependent),
            (Some(_), Some(_), _) => Some(Mapping::AddressAndPortDependent),
            _ => None,
        };
        let opened = self.answer(Purpose::Opener).is_some();
        let filtering = match (self.answer(Purpose::FromStranger), self.answer(Purpose::FromOtherPort)) {
            _ if !opened => None,
            (Some(_), _) => Some(Filtering::EndpointIndependent),
            (None, Some(_)) => Some(Filtering::AddressDependent),
            // Where the server's other address is silent altogether, its silence here says nothing.
            (None, None) => mapping.map(|_| Filtering::AddressAndPortDependent),
        };
        let unasked = self.question(Purpose::Unasked).map(|question| question.answered.is_some());
        (mapping, filtering, unasked)
    }
}

/// What servers at different addresses saw of one socket tells the mapping without RFC 5780.
fn mapping_across(servers: &[ServerFinding]) -> Option<Mapping> {
    let seen: Vec<(SocketAddr, SocketAddr)> =
        servers.iter().filter_map(|server| server.seen.map(|seen| (server.address, seen))).collect();
    let (first_server, first_seen) = *seen.first()?;
    if seen.iter().any(|(_, seen)| *seen != first_seen) {
        return Some(Mapping::AddressAndPortDependent);
    }
    seen.iter().any(|(server, _)| server.ip() != first_server.ip()).then_some(Mapping::EndpointIndependent)
}

#[cfg(test)]
mod tests;
