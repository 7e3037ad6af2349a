//! The task that owns the swarm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::upgrade::Version;
use libp2p::core::{ConnectedPoint, Multiaddr};
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError as SwarmDialError, NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, Swarm, identify, ping};
use libp2p_connection_limits::ConnectionLimits;
use tokio::sync::{mpsc, oneshot};
use trellis_net_transport::{CloseReason, LinkKind, NodeTransport, TransportError};
use trellis_primitives::NodeId;

use super::dial::{ADDRESS_FORMS, dial_error, transport_error};
use super::finding::{Finder, Finding, FindingState};
use super::reach::quiet::Quiet;
use super::reach::{Reach, Reaching, RelayDoor};
use super::shake::{Finished, Shake, ShakeError, remote_reason};
use super::turn::{TurnDoor, TurnWay};
use super::{Command, NodeShared};
use crate::config::{NetConfig, PING_INTERVAL_MS};
use crate::error::{DialError, RefusedBy, StartError};
use crate::guard::{Arrival, Conduct};
use crate::handshake::{Accepted, HandshakeFailure};
use crate::peer::{Direction, PeerEvent};
use crate::reason::{DisconnectReason, RefusalReason};
use crate::streams::{Streams, StreamsShared};
use crate::table::route::{Route, is_circuit};

/// A ping without an answer counts as failed after this long.
const PING_TIMEOUT_MS: u64 = 10_000;
/// A classical peer without any stream is let go after this long; handshaken peers are kept.
const IDLE_CLASSICAL_MS: u64 = 60_000;
/// Connections to one peer: one each way, direct and relayed, and as many again while old ones are being replaced.
const CONNECTIONS_PER_PEER_MAX: u32 = 8;
/// Inbound handshakes of the transport at once.
const PENDING_INBOUND_MAX: u32 = 512;
/// Inbound streams of one connection in negotiation at once.
const NEGOTIATING_STREAMS_MAX: usize = 128;
/// Application close codes: a disconnect's reason stands at this offset.
pub(super) const CLOSE_DISCONNECT: u32 = 0x100;
/// Application close codes: a refusal's reason stands at this offset.
pub(super) const CLOSE_REFUSAL: u32 = 0x200;
/// At the end, connections have this long to close.
const CLOSE_TIMEOUT_MS: u64 = 500;
/// Finished handshakes that wait for the service.
const FINISHED_WAITING_MAX: usize = 1_024;
/// What identify says of the protocol family.
const IDENTIFY_PROTOCOL: &str = "/trellis/id/1";

/// Deny early: bans, then counts, then our own streams, then libp2p's small talk.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    blocked: libp2p_allow_block_list::Behaviour<libp2p_allow_block_list::BlockedPeers>,
    limits: libp2p_connection_limits::Behaviour,
    streams: Streams,
    identify: Quiet,
    ping: ping::Behaviour,
    pub(super) reach: Reach,
    turn: TurnDoor,
    finding: Finding,
}

struct PendingDial {
    address: String,
    /// Another attempt to the same place answers for both in the table.
    quiet: bool,
    /// Through the TURN server.
    turned: bool,
    /// Who has to answer.
    pinned: Option<NodeId>,
    reply: oneshot::Sender<Result<NodeId, DialError>>,
}

pub(crate) struct Service {
    swarm: Swarm<Behaviour>,
    shared: Arc<NodeShared>,
    commands: mpsc::Receiver<Command>,
    finished_sender: mpsc::Sender<Finished>,
    finished: mpsc::Receiver<Finished>,
    dials: HashMap<ConnectionId, PendingDial>,
    closing: HashMap<ConnectionId, (DisconnectReason, Vec<oneshot::Sender<()>>)>,
    reaching: Reaching,
    finding: FindingState,
}

/// The swarm of a node and the part of its streams that the handle shares.
pub(super) fn build(
    transport: NodeTransport,
    identity: &Keypair,
    config: &NetConfig,
    streams: Streams,
    (client, door): (libp2p::relay::client::Behaviour, &Arc<RelayDoor>),
    (finding, turn): (Finding, Option<TurnWay>),
) -> Result<(Swarm<Behaviour>, Arc<StreamsShared>), StartError> {
    let NodeTransport { transport, local, .. } = transport;
    let connections_max = config.peers_max.saturating_mul(2);
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_INBOUND_MAX))
        .with_max_established(Some(connections_max))
        // Whoever fills the places with connections that never shake hands must not keep this node from dialling.
        .with_max_established_incoming(Some(connections_max - connections_max / 4))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX));
    let shared = streams.shared();
    let identify = identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), identity.public())
        .with_agent_version(config.user_agent.clone());
    let ping = ping::Config::new()
        .with_interval(Duration::from_millis(PING_INTERVAL_MS))
        .with_timeout(Duration::from_millis(PING_TIMEOUT_MS));
    let behaviour = Behaviour {
        blocked: libp2p_allow_block_list::Behaviour::default(),
        limits: libp2p_connection_limits::Behaviour::new(limits),
        streams,
        identify: Quiet(identify::Behaviour::new(identify)),
        ping: ping::Behaviour::new(ping),
        reach: Reach::new(local, client, config, door),
        turn: TurnDoor::new(turn),
        finding,
    };
    let config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_millis(IDLE_CLASSICAL_MS))
        .with_max_negotiating_inbound_streams(NEGOTIATING_STREAMS_MAX)
        // QUIC before TCP and IPv6 before IPv4, each with a short start.
        .with_smart_dial()
        // A stream that asks for one protocol sends its name with the first bytes; `streams::lazy` says what follows.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    Ok((Swarm::new(transport, behaviour, local, config), shared))
}

impl Service {
    pub(super) fn new(swarm: Swarm<Behaviour>, shared: Arc<NodeShared>, commands: mpsc::Receiver<Command>) -> Self {
        let (finished_sender, finished) = mpsc::channel(FINISHED_WAITING_MAX);
        let (dials, closing) = (HashMap::new(), HashMap::new());
        let (reaching, finding) = (Reaching::default(), FindingState::default());
        Self { swarm, shared, commands, finished_sender, finished, dials, closing, reaching, finding }
    }

    fn finder(&mut self) -> Finder<'_> {
        let behaviour = &mut self.swarm.behaviour_mut().finding;
        Finder { behaviour, state: &mut self.finding, shared: &self.shared }
    }

    /// Binds every configured address and waits until each is up.
    pub(super) async fn listen(&mut self, timeout: Duration) -> Result<(), StartError> {
        let mut waiting = HashMap::new();
        for text in self.shared.config.listen.clone() {
            let address: Multiaddr = text.parse().map_err(|error: libp2p::multiaddr::Error| {
                StartError::BadListenAddress { address: text.clone(), detail: error.to_string() }
            })?;
            let id = self.swarm.listen_on(address).map_err(|error| match error {
                libp2p::TransportError::MultiaddrNotSupported(_) => {
                    StartError::BadListenAddress { address: text.clone(), detail: ADDRESS_FORMS.to_owned() }
                }
                libp2p::TransportError::Other(error) => {
                    StartError::Listen { address: text.clone(), detail: error.to_string() }
                }
            })?;
            waiting.insert(id, text);
        }
        let deadline = tokio::time::Instant::now() + timeout;
        while !waiting.is_empty() {
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await;
            let Ok(event) = event else {
                let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                return Err(StartError::ListenTimeout { timeout_ms });
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => drop(waiting.remove(listener_id)),
                SwarmEvent::ListenerError { listener_id, error } => {
                    let address = waiting.get(listener_id).cloned().unwrap_or_default();
                    return Err(StartError::Listen { address, detail: error.to_string() });
                }
                _ => {}
            }
            self.on_event(event);
        }
        Ok(())
    }

    /// Runs until the network stops.
    pub(super) async fn run(mut self) {
        let stop = self.shared.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(finished) = self.finished.recv() => self.on_finished(finished),
            }
        }
        self.close_all().await;
        self.shared.streams.close();
        self.shared.broadcaster.clear();
        self.shared.ended.cancel();
    }

    async fn close_all(&mut self) {
        let connections = self.shared.table.lock().all_connections();
        for (connection, _) in connections {
            self.close(connection, DisconnectReason::Shutdown, None);
        }
        let deadline = tokio::time::Instant::now() + Duration::from_millis(CLOSE_TIMEOUT_MS);
        while !self.shared.table.lock().all_connections().is_empty() {
            match tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await {
                Ok(event) => self.on_event(event),
                Err(_) => break,
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial { peer, addresses, text, quiet, turned, pinned, reply } => {
                self.dial(peer, addresses, PendingDial { address: text, quiet, turned, pinned, reply });
            }
            Command::Close { connection, reason, done } => self.close(connection, reason, Some(done)),
            Command::Reserve { relay, at } => self.reaching.reserve(&mut self.swarm, &self.shared, relay, at),
            Command::Look { peer, at } => Reaching::look(&mut self.swarm, peer, at),
            Command::Candidate(address) => Reaching::candidate(&mut self.swarm, &address),
            Command::Probe(places) => Reaching::probe(&mut self.swarm, &self.shared, &places),
            Command::Release { relay } => self.reaching.release(&mut self.swarm, relay),
            Command::Find(command) => self.finder().on_command(command),
        }
    }

    fn dial(&mut self, peer: Option<PeerId>, mut addresses: Vec<Multiaddr>, dial: PendingDial) {
        let relayed = addresses.iter().all(is_circuit);
        let known = peer.and_then(|peer| {
            let table = self.shared.table.lock();
            table.connected_by_peer_id(&peer).filter(|known| table.has_as_good(*known, relayed, dial.turned))
        });
        if let Some(known) = known {
            let _ = dial.reply.send(Ok(known));
            return;
        }
        let options = match (peer, addresses.pop()) {
            (Some(peer), Some(last)) => {
                addresses.push(last);
                DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Always).build()
            }
            (None, Some(address)) => DialOpts::unknown_peer_id().address(address).build(),
            (_, None) => {
                let detail = "no address".to_owned();
                let _ = dial.reply.send(Err(DialError::BadAddress { address: dial.address, detail }));
                return;
            }
        };
        let connection = options.connection_id();
        if !dial.quiet {
            self.shared.table.lock().dialing(&dial.address, self.shared.clock.now());
        }
        let turn = self.shared.turn.clone().filter(|_| dial.turned);
        let _through = turn.as_ref().map(TurnWay::through);
        self.dials.insert(connection, dial);
        if let Err(error) = self.swarm.dial(options) {
            self.dial_failed(connection, &error);
        }
    }

    fn dial_failed(&mut self, connection: ConnectionId, error: &SwarmDialError) {
        let Some(dial) = self.dials.remove(&connection) else { return };
        let error = dial_error(&dial.address, error);
        let refusal = match &error {
            DialError::Refused { by, reason } => {
                self.report_refusal(None, dial.address.clone(), *by, *reason, "");
                Some(*reason)
            }
            _ => None,
        };
        if !dial.quiet || refusal.is_some() {
            self.shared.table.lock().dial_failed(&dial.address, refusal, self.shared.clock.now());
        }
        let _ = dial.reply.send(Err(error));
    }

    fn close(&mut self, connection: ConnectionId, reason: DisconnectReason, done: Option<oneshot::Sender<()>>) {
        let handle = self.shared.table.lock().all_connections().into_iter().find(|(id, _)| *id == connection);
        let Some((_, handle)) = handle else { return };
        handle
            .session
            .set_close_reason(CloseReason { code: CLOSE_DISCONNECT + reason.code(), text: reason.name().to_owned() });
        let closing = self.closing.entry(connection).or_insert((reason, Vec::new()));
        closing.1.extend(done);
        self.swarm.close_connection(connection);
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(connection_id, peer_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => self.on_closed(connection_id),
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.dial_failed(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                self.on_inbound_failed(send_back_addr, &error);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                if self.reaching.listens(&mut self.swarm, &self.shared, listener_id, &address) {
                    return;
                }
                tracing::info!(%address, "listening");
                self.shared.listening.lock().push(address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.shared.listening.lock().retain(|known| *known != address);
                Reaching::unlistens(&mut self.swarm, &self.shared, &address);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { connection, result: Ok(rtt), .. })) => {
                let ms = rtt.as_secs_f64() * 1_000.0;
                let mut table = self.shared.table.lock();
                table.round_trip(connection, ms, self.shared.clock.now());
                let node = table.node_of(connection);
                drop(table);
                if let Some(node) = node {
                    let us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
                    self.shared.report(node, Conduct::RoundTrip { us });
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                connection_id, info, ..
            })) => {
                self.shared.table.lock().identified(connection_id, &info.agent_version);
                Reaching::observed(&mut self.swarm, &self.shared, connection_id, &info);
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                self.reaching.listener_closed(&self.shared, listener_id, &reason);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Reach(event)) => {
                self.reaching.event(&mut self.swarm, &self.shared, event);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Finding(event)) => self.finder().on_event(event),
            _ => {}
        }
    }

    fn on_inbound_failed(&self, address: Multiaddr, error: &libp2p::swarm::ListenError) {
        let libp2p::swarm::ListenError::Transport(libp2p::TransportError::Other(error)) = error else {
            tracing::debug!(%address, %error, "inbound connection denied");
            return;
        };
        if let Some(error) = transport_error(error) {
            self.shared.handshake_broke(&address, error);
        }
        let reason = match transport_error(error) {
            Some(TransportError::Classical(_)) => RefusalReason::PolicyClassical,
            Some(TransportError::Auth(_) | TransportError::NoIdentity) => RefusalReason::BadSignature,
            _ => return,
        };
        self.report_refusal(None, address.to_string(), RefusedBy::Us, reason, &error.to_string());
    }

    fn on_established(&mut self, connection: ConnectionId, peer: PeerId, endpoint: &ConnectedPoint) {
        let mut dial = self.dials.remove(&connection);
        let Some(fresh) = self.swarm.behaviour_mut().streams.take_fresh(connection) else { return };
        if fresh.handle.is_trial {
            // AutoNAT dialled it for a peer; it closes when the answer is given.
            return;
        }
        self.shared.arrived(endpoint);
        let session = fresh.handle.session.clone();
        let turned = session.kind() == LinkKind::Turned;
        if let (Some(turn), Some(dial)) = (&self.shared.turn, &dial) {
            turn.established(&session, dial.quiet);
        }
        let route = Route::of(endpoint, turned, self.shared.clock.now());
        let (address, relayed) = (route.address.clone(), route.relayed);
        let node = session.node_id();
        if let Some(dial) = dial.take_if(|dial| dial.pinned.is_some_and(|pinned| node != Some(pinned))) {
            self.wrong_key(connection, peer, node, dial);
            return;
        }
        let mut table = self.shared.table.lock();
        table.routed(connection, route);
        if let (Some(node), Some(_)) = (node, &dial)
            && table.has_as_good(node, relayed, turned)
        {
            // The address led to a peer that is connected already.
            let dialed = dial.as_ref().map(|dial| dial.address.as_str());
            table.session_up(connection, &fresh.handle, dialed, address, self.shared.clock.now());
            drop(table);
            self.close(connection, DisconnectReason::Duplicate, None);
            if let Some(dial) = dial {
                let _ = dial.reply.send(Ok(node));
            }
            return;
        }
        let dialed = dial.as_ref().map(|dial| dial.address.as_str());
        table.session_up(connection, &fresh.handle, dialed, address.clone(), self.shared.clock.now());
        let pinned = node.map(|node| table.pin(peer, node));
        drop(table);
        let reply = dial.map(|dial| dial.reply);
        match (node, pinned) {
            (Some(node), Some(Err(pinned))) => {
                let detail = format!("pinned {pinned}, showed {node}");
                tracing::warn!(%peer, %pinned, shown = %node, "a PeerId showed a second ML-DSA key");
                let refusal = (RefusedBy::Us, RefusalReason::IdentityChanged, detail);
                self.refuse(connection, node, address, reply, &refusal);
            }
            (Some(node), _) => {
                let shared = Arc::clone(&self.shared);
                let shake = Shake { shared, connection, peer: node, fresh, reply, address };
                tokio::spawn(shake.run(self.finished_sender.clone()));
            }
            (None, _) => {
                // Only under `prefer`: identify and ping go on, nothing else is offered.
                tracing::info!(%peer, %address, "classical peer without an ml-dsa identity");
                let (by, reason) = (RefusedBy::Us, RefusalReason::PolicyClassical);
                if let Some(reply) = reply {
                    let _ = reply.send(Err(DialError::Refused { by, reason }));
                }
            }
        }
    }

    /// Somebody else answers than the dark address names: nothing is said to him.
    fn wrong_key(&mut self, connection: ConnectionId, peer: PeerId, node: Option<NodeId>, dial: PendingDial) {
        let found = node.map_or_else(|| format!("{peer} without an ML-DSA key"), |node| node.to_string());
        let expected = dial.pinned.unwrap_or(self.shared.local_id);
        let error = DialError::WrongKey { address: dial.address.clone(), expected, found };
        let (by, reason) = (RefusedBy::Us, RefusalReason::IdentityChanged);
        self.shared.table.lock().dial_failed(&dial.address, Some(reason), self.shared.clock.now());
        self.report_refusal(node, dial.address, by, reason, &error.to_string());
        self.swarm.close_connection(connection);
        let _ = dial.reply.send(Err(error));
    }

    fn on_finished(&mut self, finished: Finished) {
        let Finished { connection, peer, outcome, reply, address, registered } = finished;
        let outcome = outcome.and_then(|accepted| {
            let full = |refusal| HandshakeFailure::Refused { by: RefusedBy::Us, refusal };
            self.shared.check_place(peer, connection).map_err(full)?;
            Ok(accepted)
        });
        let failure = match outcome {
            Ok(accepted) => match self.accept(connection, accepted) {
                Some(peer) => {
                    let _ = registered.send(());
                    if let Some(reply) = reply {
                        let _ = reply.send(Ok(peer));
                    }
                    return;
                }
                None => ShakeError::Lost,
            },
            Err(failure) => failure,
        };
        if let Some(refusal) = failure.refusal() {
            self.refuse(connection, peer, address, reply, &refusal);
            return;
        }
        tracing::info!(%peer, %address, detail = %failure, "handshake not finished");
        if reply.is_none() {
            self.shared.left_unfinished(&address);
        }
        self.shared.table.lock().handshake_failed(peer, None, self.shared.clock.now());
        if let Some(reply) = reply {
            let _ = reply.send(Err(failure.into_dial_error(address)));
        }
        self.close(connection, DisconnectReason::ProtocolViolation, None);
    }

    /// Both sides accepted. `None` if the connection broke meanwhile.
    fn accept(&mut self, connection: ConnectionId, accepted: Accepted) -> Option<NodeId> {
        let peer = accepted.id;
        let mut table = self.shared.table.lock();
        let direction = table.direction(connection)?;
        let account = accepted.record.chain_address;
        let address = table.address_of(connection).unwrap_or_default();
        let from = table.remote_ip(connection).and_then(|ip| self.shared.counted(ip));
        self.shared.guard.arrived(
            peer,
            &Arrival {
                address: &address,
                outbound: direction == Direction::Outbound,
                record_addresses: &accepted.record.addresses,
                agent: &accepted.user_agent,
                ip: from,
                exempt: self.shared.config.committee.contains(&account),
            },
        );
        let acceptance = table.accepted(connection, accepted, self.shared.clock.now());
        let (connected, peer_id) = (table.connected_count(), table.peer_id_of(connection));
        drop(table);
        if let Some(peer_id) = peer_id {
            self.finder().accepted(peer_id);
            self.shared.reach.door.greeted(peer_id, peer, account);
        }
        self.shared.metrics.accepted.inc();
        self.shared.metrics.connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
        if acceptance.moved {
            // Messages that are queued still go the old way; the next ones go the better one.
            self.shared.broadcaster.forget(peer);
        }
        self.announce(peer, direction, &acceptance);
        let superfluous = acceptance.superseded.into_iter().chain(acceptance.redundant.then_some(connection));
        for connection in superfluous {
            self.close(connection, DisconnectReason::Duplicate, None);
        }
        Some(peer)
    }

    fn announce(&self, peer: NodeId, direction: Direction, acceptance: &crate::table::Acceptance) {
        if acceptance.newly_connected {
            tracing::info!(%peer, %direction, "peer connected");
            let _ = self.shared.events.send(PeerEvent::Connected { peer, direction });
        } else if !acceptance.superseded.is_empty() {
            // The peer restarted before its old connections were missed; whoever holds streams on them must hear of it.
            tracing::info!(%peer, %direction, "peer connected again; the connections of its former life are closed");
            let reason = DisconnectReason::Duplicate;
            self.shared.broadcaster.forget(peer);
            let _ = self.shared.events.send(PeerEvent::Disconnected { peer, reason });
            let _ = self.shared.events.send(PeerEvent::Connected { peer, direction });
        }
    }

    fn refuse(
        &mut self,
        connection: ConnectionId,
        peer: NodeId,
        address: String,
        reply: Option<oneshot::Sender<Result<NodeId, DialError>>>,
        refusal: &(RefusedBy, RefusalReason, String),
    ) {
        let (by, reason, detail) = refusal;
        self.report_refusal(Some(peer), address, *by, *reason, detail);
        let connections = self.shared.table.lock().all_connections();
        if let Some((_, handle)) = connections.into_iter().find(|(id, _)| *id == connection) {
            let code = CLOSE_REFUSAL + reason.code();
            handle.session.set_close_reason(CloseReason { code, text: reason.name().to_owned() });
        }
        self.shared.table.lock().handshake_failed(peer, Some(*reason), self.shared.clock.now());
        self.swarm.close_connection(connection);
        if let Some(reply) = reply {
            let _ = reply.send(Err(DialError::Refused { by: *by, reason: *reason }));
        }
    }

    fn report_refusal(
        &self,
        peer: Option<NodeId>,
        address: String,
        by: RefusedBy,
        reason: RefusalReason,
        detail: &str,
    ) {
        tracing::info!(?peer, %address, %by, %reason, detail, "connection refused");
        self.shared.metrics.count_refused(by, reason);
        if by == RefusedBy::Us {
            self.shared.hold_against(&address, reason);
        }
        let _ = self.shared.events.send(PeerEvent::Refused { peer, address, by, reason });
    }

    fn on_closed(&mut self, connection: ConnectionId) {
        let connections = self.shared.table.lock().all_connections();
        let handle = connections.into_iter().find(|(id, _)| *id == connection).map(|(_, handle)| handle);
        let closed_here = self.closing.remove(&connection);
        let reason = match (&closed_here, handle) {
            (Some((reason, _)), _) => *reason,
            (None, Some(handle)) => remote_reason(&handle.session),
            (None, None) => DisconnectReason::NetworkError,
        };
        let mut table = self.shared.table.lock();
        let peer_id = table.peer_id_of(connection);
        let gone = table.closed(connection, reason, self.shared.clock.now());
        let connected = table.connected_count();
        drop(table);
        self.shared.metrics.connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
        if let Some(peer) = gone {
            tracing::info!(%peer, %reason, "peer disconnected");
            self.shared.metrics.count_disconnected(reason);
            self.shared.guard.left(peer, reason == DisconnectReason::NetworkError);
            self.shared.broadcaster.forget(peer);
            self.shared.reach.door.parted(peer);
            let banned = self.shared.guard.ban_of(peer).is_some();
            if let Some(peer_id) = peer_id {
                self.finder().left(&peer_id, banned);
            }
            let _ = self.shared.events.send(PeerEvent::Disconnected { peer, reason });
        }
        for done in closed_here.map(|(_, waiting)| waiting).unwrap_or_default() {
            let _ = done.send(());
        }
    }
}
