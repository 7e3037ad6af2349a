//! One allocation at one server. Pure: no socket, no clock; the client crate has the protocol's timers and retransmissions.
//!
//! What this adds: names for refusals, bounds, and a place where datagrams wait until the server lets their peer in.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use turn_client_proto::api::{BindChannelError, CreatePermissionError, Transmit, TurnConfig, TurnPollRet, TurnRecvRet};
use turn_client_proto::api::{TurnClientApi, TurnEvent};
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::channel::ChannelData;
use turn_client_proto::types::message::{ALLOCATE, REFRESH};
use turn_client_proto::types::stun::message::{Message, Method};
use turn_client_proto::types::{Instant, TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

use super::Credentials;
use super::error::TurnError;
use super::uri::Carriage;
use super::wire::{Reply, pad, request};

turn_client_proto::impl_client!(Client, (Udp, TurnClientUdp), (Tcp, TurnClientTcp));

/// Peers of one allocation. The client crate keeps a channel alive for each to the allocation's end.
pub const PEERS_MAX: usize = 256;
/// Frames that wait to be written before more datagrams are held back.
pub const FRAMES_OUT_MAX: usize = 512;
/// Datagrams that wait for the server to let their peer in, for each peer.
const DATAGRAMS_PER_PEER_MAX: usize = 8;
/// Requests whose answers are still understood.
const REQUESTS_REMEMBERED_MAX: usize = 64;
/// Nonces that a server may call stale in a row.
const STALE_NONCES_MAX: u8 = 8;
/// After its first packet a request over UDP is repeated so soon, then twice as late each time.
const REQUEST_MS_FIRST: u64 = 300;
/// Requests over UDP are sent so often.
const REQUESTS_SENT: u32 = 4;
/// After its last packet a request is given up after this.
const REQUEST_MS_LAST: u64 = 2_000;
/// The longest sleep between two looks at the timers.
const LOOK_MS_MAX: u64 = 60_000;
/// Rounds of one look; the client crate settles in a few.
const ROUNDS_MAX: usize = 64;
/// Until a look that did not settle is repeated.
const UNSETTLED_MS: u64 = 20;

/// Whether a peer can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// The server was asked to let it in.
    Asked,
    /// Datagrams flow.
    Open,
    /// The server does not let it in.
    Refused(TurnError),
}

#[derive(Debug)]
struct Peer {
    state: PeerState,
    waiting: VecDeque<Vec<u8>>,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It leaves, or waits for its peer to be let in.
    Taken,
    /// Too much waits: again later.
    Full,
    /// It goes nowhere, like one that a router has dropped.
    Dropped,
}

/// An allocation that is being made, stands, or is over.
#[derive(Debug)]
pub struct Allocation {
    client: Client,
    relayed: Option<SocketAddr>,
    peers: HashMap<SocketAddr, Peer>,
    let_in: HashSet<IpAddr>,
    /// For the server, in order.
    out: VecDeque<Vec<u8>>,
    requests: VecDeque<(u128, Method)>,
    unauthorized: u8,
    stale: u8,
    /// The refusal in the answer that is being read.
    refusal: Option<(u16, String)>,
    failure: Option<TurnError>,
    releasing: bool,
    /// The request for it is among the frames.
    said_release: bool,
}

fn at(now_ms: u64) -> Instant {
    Instant::from_nanos(i64::try_from(now_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX / 2))
}

/// Rounded up, so that nobody looks too early.
fn ms_of(instant: Instant) -> u64 {
    u64::try_from(instant.as_nanos()).unwrap_or(0).div_ceil(1_000_000)
}

impl Allocation {
    /// Begins an allocation; [`Self::poll`] gives the first frame. The addresses are those of the connection to the server.
    #[must_use]
    pub fn new(carriage: Carriage, local: SocketAddr, server: SocketAddr, credentials: &Credentials) -> Self {
        let mut config = TurnConfig::new(TurnCredentials::new(&credentials.user, &credentials.password));
        let ms = Duration::from_millis;
        config.set_request_retransmits(ms(REQUEST_MS_FIRST), ms(REQUEST_MS_LAST), REQUESTS_SENT, ms(REQUEST_MS_LAST));
        let client = match carriage {
            Carriage::Udp => Client::Udp(TurnClientUdp::allocate(local, server, config)),
            Carriage::Tcp | Carriage::Tls => Client::Tcp(TurnClientTcp::allocate(local, server, config)),
        };
        Self {
            client,
            relayed: None,
            peers: HashMap::new(),
            let_in: HashSet::new(),
            out: VecDeque::new(),
            requests: VecDeque::new(),
            unauthorized: 0,
            stale: 0,
            refusal: None,
            failure: None,
            releasing: false,
            said_release: false,
        }
    }

    /// The address at the server, once there is one.
    #[must_use]
    pub const fn relayed(&self) -> Option<SocketAddr> {
        self.relayed
    }

    /// Why there is no allocation, or none any more.
    #[must_use]
    pub const fn failure(&self) -> Option<&TurnError> {
        self.failure.as_ref()
    }

    /// Whether a peer can be written to; `None` of one that nobody has written to.
    #[must_use]
    pub fn peer(&self, peer: SocketAddr) -> Option<&PeerState> {
        self.peers.get(&peer).map(|peer| &peer.state)
    }

    /// The next frame for the server.
    pub fn next_out(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// Whether datagrams are held back.
    pub(crate) fn is_full(&self) -> bool {
        self.out.len() >= FRAMES_OUT_MAX
    }

    /// The first reason counts.
    pub(crate) fn fail(&mut self, error: TurnError) {
        self.failure.get_or_insert(error);
    }

    /// Looks at the timers and collects what is to be sent. Gives when to look again at the latest, milliseconds.
    pub fn poll(&mut self, now_ms: u64) -> u64 {
        let now = at(now_ms);
        for _ in 0..ROUNDS_MAX {
            if self.failure.is_some() {
                return now_ms.saturating_add(LOOK_MS_MAX);
            }
            // First of all, because looking for what is to be sent forgets requests that have just timed out.
            let wait = self.client.poll(now);
            let mut settled = true;
            while let Some(transmit) = self.client.poll_transmit(now) {
                self.write(transmit.data.to_vec());
                settled = false;
            }
            while let Some(event) = self.client.poll_event() {
                self.on_event(&event, now_ms);
                settled = false;
            }
            match wait {
                TurnPollRet::WaitUntil(until) if settled && ms_of(until) > now_ms => {
                    return ms_of(until).min(now_ms.saturating_add(LOOK_MS_MAX));
                }
                TurnPollRet::Closed => self.closed(),
                // The other two belong to TCP allocations, which are never asked for.
                _ => {}
            }
        }
        now_ms.saturating_add(UNSETTLED_MS)
    }

    fn closed(&mut self) {
        self.fail(if self.relayed.is_some() {
            TurnError::Lost { detail: "it was not renewed in time".to_owned() }
        } else {
            TurnError::Silent { timeout_ms: request_ms() }
        });
    }

    fn write(&mut self, mut frame: Vec<u8>) {
        if let Some(known) = request(&frame) {
            self.said_release |= self.releasing && known.1 == REFRESH;
            if self.requests.len() >= REQUESTS_REMEMBERED_MAX {
                self.requests.pop_front();
            }
            self.requests.push_back(known);
        }
        if matches!(self.client, Client::Tcp(_)) {
            pad(&mut frame);
        }
        self.out.push_back(frame);
    }

    /// Takes a frame of the server; gives what it carries of a peer.
    pub fn receive(&mut self, frame: &[u8], now_ms: u64) -> Option<(SocketAddr, Vec<u8>)> {
        if self.failure.is_some() {
            return None;
        }
        if Message::from_bytes(frame).is_err() && ChannelData::parse(frame).is_err() {
            if matches!(self.client, Client::Tcp(_)) {
                // Whatever follows in the stream would be read at the wrong place.
                self.fail(TurnError::Malformed { detail: format!("a frame of {} bytes", frame.len()) });
            }
            return None;
        }
        self.note(Reply::read(frame));
        let (transport, from, to) = (self.client.transport(), self.client.remote_addr(), self.client.local_addr());
        let received = self.client.recv(Transmit::new(frame, transport, from, to), at(now_ms));
        let carried = match received {
            TurnRecvRet::PeerData(data) => Some((data.peer, data.data().to_vec())),
            TurnRecvRet::Handled | TurnRecvRet::Ignored(_) | TurnRecvRet::PeerIcmp { .. } => None,
        };
        while let Some(event) = self.client.poll_event() {
            self.on_event(&event, now_ms);
        }
        self.refusal = None;
        carried
    }

    /// Names what an answer refuses, before the client crate turns it into a mere failure. An answer to a request that was
    /// never sent is nobody's. Refusals are believed unsigned, as the first one always is: whoever can forge them on the way
    /// can drop the packets as well.
    fn note(&mut self, reply: Option<Reply>) {
        let known = |reply: &Reply| {
            self.requests.iter().any(|(id, method)| (*id, *method) == (reply.transaction, reply.method))
        };
        let Some(reply) = reply.filter(known) else { return };
        let Some((code, reason)) = reply.refusal else {
            (self.unauthorized, self.stale) = (0, 0);
            return;
        };
        match code {
            438 => {
                self.stale = self.stale.saturating_add(1);
                if self.stale > STALE_NONCES_MAX {
                    self.fail(TurnError::StaleNonce { replies: self.stale });
                }
            }
            // The first one brings the nonce.
            401 if reply.method == ALLOCATE && self.unauthorized == 0 => self.unauthorized = 1,
            401 | 441 => self.fail(TurnError::Credentials { code }),
            _ if self.releasing => {}
            _ if reply.method == ALLOCATE || reply.method == REFRESH => self.fail(TurnError::of_code(code, &reason)),
            _ => self.refusal = Some((code, reason)),
        }
    }

    fn on_event(&mut self, event: &TurnEvent, now_ms: u64) {
        match event {
            TurnEvent::AllocationCreated(TransportType::Udp, relayed) => self.relayed = Some(*relayed),
            TurnEvent::AllocationCreateFailed(_) => self.fail(TurnError::Silent { timeout_ms: request_ms() }),
            TurnEvent::ChannelCreated(_, peer) => self.opened(|known| known == peer, now_ms),
            TurnEvent::PermissionCreated(_, ip) => self.opened(|known| known.ip() == *ip, now_ms),
            TurnEvent::ChannelCreateFailed(_, peer) => self.refused(|known| known == peer),
            TurnEvent::PermissionCreateFailed(_, ip) => {
                self.let_in.remove(ip);
                self.refused(|known| known.ip() == *ip);
            }
            _ => {}
        }
    }

    /// Peers may be written to from now on.
    fn opened(&mut self, which: impl Fn(&SocketAddr) -> bool, now_ms: u64) {
        let mut ready = Vec::new();
        for (peer, known) in self.peers.iter_mut().filter(|(peer, _)| which(peer)) {
            known.state = PeerState::Open;
            ready.extend(std::mem::take(&mut known.waiting).into_iter().map(|datagram| (*peer, datagram)));
        }
        for (peer, datagram) in ready {
            self.carry(peer, &datagram, now_ms);
        }
    }

    /// The server does not let peers in that were asked for.
    fn refused(&mut self, which: impl Fn(&SocketAddr) -> bool) {
        let refusal = self.refusal.clone();
        for (peer, known) in
            self.peers.iter_mut().filter(|(peer, known)| which(peer) && known.state == PeerState::Asked)
        {
            known.waiting.clear();
            known.state = PeerState::Refused(match &refusal {
                Some((403, _)) => TurnError::Forbidden { peer: *peer },
                Some((code, reason)) => TurnError::of_code(*code, reason),
                None => TurnError::Silent { timeout_ms: request_ms() },
            });
        }
    }

    /// Asks the server to let a peer in, and for the short form of its address in every frame.
    ///
    /// # Errors
    /// The allocation is over, full, or of the other family.
    pub fn admit(&mut self, peer: SocketAddr, now_ms: u64) -> Result<(), TurnError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.relayed.is_some_and(|relayed| relayed.is_ipv4() != peer.is_ipv4()) {
            return Err(TurnError::Family { peer });
        }
        if self.peers.get(&peer).is_some_and(|known| !matches!(known.state, PeerState::Refused(_))) {
            return Ok(());
        }
        if !self.peers.contains_key(&peer) && self.peers.len() >= PEERS_MAX {
            return Err(TurnError::Full { peers: PEERS_MAX });
        }
        let state = match self.client.bind_channel(TransportType::Udp, peer, at(now_ms)) {
            Ok(()) => PeerState::Asked,
            Err(BindChannelError::AlreadyExists) => PeerState::Open,
            // Its channel has just ended and may not come back yet; the long form works without.
            Err(BindChannelError::ExpiredChannelExists(_)) => self.permit(peer.ip(), now_ms)?,
            Err(_) => return Err(TurnError::Lost { detail: "there is no allocation".to_owned() }),
        };
        self.peers.insert(peer, Peer { state, waiting: VecDeque::new() });
        Ok(())
    }

    /// Asks the server to let everybody in who comes from an IP address.
    ///
    /// # Errors
    /// The allocation is over or full.
    pub fn let_in(&mut self, ip: IpAddr, now_ms: u64) -> Result<(), TurnError> {
        if self.relayed.is_none_or(|relayed| relayed.is_ipv4() != ip.is_ipv4()) || self.let_in.contains(&ip) {
            return Ok(());
        }
        if self.let_in.len() >= PEERS_MAX {
            return Err(TurnError::Full { peers: PEERS_MAX });
        }
        self.permit(ip, now_ms)?;
        self.let_in.insert(ip);
        Ok(())
    }

    fn permit(&mut self, ip: IpAddr, now_ms: u64) -> Result<PeerState, TurnError> {
        match self.client.create_permission(TransportType::Udp, ip, at(now_ms)) {
            Ok(()) => Ok(PeerState::Asked),
            Err(CreatePermissionError::AlreadyExists) => Ok(PeerState::Open),
            Err(_) => Err(TurnError::Lost { detail: "there is no allocation".to_owned() }),
        }
    }

    /// Takes a datagram for a peer; one that nobody has written to is let in first.
    pub(crate) fn send(&mut self, peer: SocketAddr, datagram: &[u8], now_ms: u64) -> Sent {
        if self.is_full() {
            return Sent::Full;
        }
        match self.peers.get_mut(&peer).map(|known| (&known.state, &mut known.waiting)) {
            Some((PeerState::Open, _)) => return self.carry(peer, datagram, now_ms),
            Some((PeerState::Refused(_), _)) => return Sent::Dropped,
            Some((PeerState::Asked, _)) => {}
            None => {
                if let Err(error) = self.admit(peer, now_ms) {
                    tracing::debug!(%peer, %error, "a datagram for a peer that the TURN server does not let in");
                    return Sent::Dropped;
                }
            }
        }
        match self.peers.get_mut(&peer) {
            Some(known) if known.waiting.len() < DATAGRAMS_PER_PEER_MAX => {
                known.waiting.push_back(datagram.to_vec());
                Sent::Taken
            }
            _ => Sent::Dropped,
        }
    }

    fn carry(&mut self, peer: SocketAddr, datagram: &[u8], now_ms: u64) -> Sent {
        match self.client.send_to(TransportType::Udp, peer, datagram, at(now_ms)) {
            Ok(Some(frame)) => {
                let frame = frame.build().data;
                self.write(frame);
                Sent::Taken
            }
            Ok(None) => Sent::Taken,
            Err(error) => {
                // The permission has ended: the next datagram asks for it anew.
                tracing::debug!(%peer, %error, "the TURN server does not take a datagram");
                self.peers.remove(&peer);
                Sent::Dropped
            }
        }
    }

    /// Gives the allocation back. `false` while that has not been said: requests keep a distance, so it may be asked for a
    /// little later again.
    pub fn release(&mut self, now_ms: u64) -> bool {
        if !self.releasing {
            self.releasing = true;
            if self.failure.is_none() && self.client.delete(at(now_ms)).is_err() {
                self.fail(TurnError::GivenBack);
            }
        }
        if self.failure.is_some() {
            return true;
        }
        self.poll(now_ms);
        if self.said_release {
            self.fail(TurnError::GivenBack);
        }
        self.failure.is_some()
    }
}

/// How long a request is waited for, milliseconds.
fn request_ms() -> u64 {
    (0..REQUESTS_SENT.saturating_sub(1)).map(|n| REQUEST_MS_FIRST << n).sum::<u64>() + REQUEST_MS_LAST
}

#[cfg(test)]
pub(super) mod tests;
