//! From a first packet to an authenticated connection: TLS, policy, ML-DSA-65 proofs, registry.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use rustls::NamedGroup;
use trellis_crypto::{HybridKey, HybridPublic};

use crate::admission::Permit;
use crate::auth::{AuthError, Exporter, receive_proof, send_proof};
use crate::config::{ALPN_TRELLIS, CONNECT_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, TransportConfig};
use crate::connection::Connection;
use crate::error::{ClassicalPeer, TransportError, TransportSetupError};
use crate::kex::Negotiated;
use crate::metrics::TransportMetrics;
use crate::pace::Pace;
use crate::policy::Policy;
use crate::session::{Carrier, Direction, KeyExchange, Session, SessionFacts, Sessions};
use crate::transport::format_address;

/// Application close codes of the transport itself. Codes of the layers above start at 256.
pub(crate) mod close {
    pub(super) const POLICY: u32 = 1;
    pub(crate) const AUTH: u32 = 2;
    pub(super) const WRONG_PEER: u32 = 3;
}

/// What every upgrade of one node needs.
pub(crate) struct UpgradeContext {
    pub(crate) keys: Arc<HybridKey>,
    pub(crate) identity: Keypair,
    pub(crate) local: PeerId,
    pub(crate) policy: Policy,
    pub(crate) sessions: Sessions,
    pub(crate) metrics: TransportMetrics,
    /// Whose turn it is to begin a handshake here.
    pub(crate) pace: Pace,
}

/// A connection that is not to be, and the close code that says so to the peer.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: u32,
    pub(crate) error: TransportError,
}

pub(crate) async fn within<T>(
    timeout_ms: u64,
    work: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    let timeout = Duration::from_millis(timeout_ms);
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(TransportError::Timeout { timeout_ms }))
}

impl UpgradeContext {
    pub(crate) fn new(config: &TransportConfig) -> Result<Self, TransportSetupError> {
        let identity = libp2p_identity(&config.keys)?;
        Ok(Self {
            keys: Arc::clone(&config.keys),
            local: identity.public().to_peer_id(),
            identity,
            policy: config.policy,
            sessions: Sessions::default(),
            metrics: config.metrics.clone(),
            pace: Pace::of_machine(),
        })
    }

    /// Whether a finished handshake is one that the policy lets through, with whom it should be.
    pub(crate) fn judge(
        &self,
        negotiated: &Negotiated,
        expected: Option<PeerId>,
    ) -> Result<(PeerId, KeyExchange), Refusal> {
        let refuse = |code, error| Refusal { code, error };
        let classical = |what| refuse(close::POLICY, TransportError::Classical(what));
        let peer = negotiated.peer.ok_or_else(|| refuse(close::AUTH, TransportError::NoIdentity))?;
        if let Some(expected) = expected.filter(|expected| *expected != peer) {
            let error = TransportError::WrongPeer { expected: Box::new(expected), actual: Box::new(peer) };
            return Err(refuse(close::WRONG_PEER, error));
        }
        // TLS offered nothing else under `require`; these two checks hold even if that ever changes.
        let group = negotiated.group.ok_or_else(|| classical(ClassicalPeer::KeyExchange))?;
        if self.policy == Policy::Require && group != NamedGroup::X25519MLKEM768 {
            return Err(classical(ClassicalPeer::KeyExchange));
        }
        if self.policy == Policy::Require && negotiated.alpn != ALPN_TRELLIS {
            return Err(classical(ClassicalPeer::Protocol));
        }
        Ok((peer, KeyExchange(group)))
    }

    /// Counts a connection and leaves its session to whoever the swarm tells of it.
    pub(crate) fn established(&self, session: &Session) {
        match session.direction() {
            Direction::Inbound => self.metrics.inbound.inc(),
            Direction::Outbound => self.metrics.outbound.inc(),
        };
        self.sessions.put(session.clone());
    }

    /// Accepts an inbound connection: this is where its cryptography starts. `turned` if it came to a far socket.
    pub(crate) async fn inbound(
        &self,
        incoming: quinn::Incoming,
        mut permit: Permit,
        turned: bool,
    ) -> Result<(PeerId, Connection), TransportError> {
        let remote = incoming.remote_address();
        let result = within(HANDSHAKE_TIMEOUT_MS, async {
            self.pace.turn().await;
            let connecting = incoming.accept().map_err(TransportError::from_handshake)?;
            let (connection, signed) = self.accept(connecting).await?;
            let session = self.finish(&connection, (Direction::Inbound, turned), None, signed).await?;
            Ok((connection, session))
        })
        .await;
        permit.established();
        match result {
            Ok((connection, session)) => Ok(self.hand_over(connection, session, Some(permit))),
            Err(error) => Err(self.refused(error, Direction::Inbound, remote)),
        }
    }

    /// Completes the handshake of an inbound connection. To a Trellis node the proof leaves right behind the TLS flight, a
    /// round trip before the dialer's Finished can be here; what it signs is returned.
    async fn accept(
        &self,
        mut connecting: quinn::Connecting,
    ) -> Result<(quinn::Connection, Option<Exporter>), TransportError> {
        let data = connecting.handshake_data().await.map_err(TransportError::from_handshake)?;
        if Negotiated::read(Some(data)).alpn != ALPN_TRELLIS {
            return Ok((connecting.await.map_err(TransportError::from_handshake)?, None));
        }
        let (connection, finished) = match connecting.into_0rtt() {
            Ok(early) => early,
            Err(connecting) => return Ok((connecting.await.map_err(TransportError::from_handshake)?, None)),
        };
        let signed = send_proof(&connection, &self.keys, Direction::Inbound, &self.local).await;
        if signed.is_ok() {
            finished.await;
        }
        match connection.close_reason() {
            // Why the handshake failed tells more than that the proof could not leave.
            Some(error) => Err(TransportError::from_handshake(error)),
            None => {
                Ok((connection.clone(), Some(signed.map_err(|error| refuse(&connection, close::AUTH, error.into()))?)))
            }
        }
    }

    /// Completes a dial, which was `turned` if it left from a far socket.
    pub(crate) async fn outbound(
        &self,
        connecting: quinn::Connecting,
        expected: Option<PeerId>,
        turned: bool,
    ) -> Result<(PeerId, Connection), TransportError> {
        let remote = connecting.remote_address();
        let result = async {
            let tls = async { connecting.await.map_err(TransportError::from_handshake) };
            let connection = within(CONNECT_TIMEOUT_MS, tls).await?;
            let finish = self.finish(&connection, (Direction::Outbound, turned), expected, None);
            let session = within(HANDSHAKE_TIMEOUT_MS, finish).await?;
            Ok((connection, session))
        }
        .await;
        match result {
            Ok((connection, session)) => Ok(self.hand_over(connection, session, None)),
            Err(error) => Err(self.refused(error, Direction::Outbound, remote)),
        }
    }

    fn hand_over(
        &self,
        connection: quinn::Connection,
        session: Session,
        permit: Option<Permit>,
    ) -> (PeerId, Connection) {
        self.established(&session);
        (session.peer_id(), Connection::new(connection, session, permit, self.metrics.clone()))
    }

    /// Counts and logs a connection that did not come about.
    pub(crate) fn refused(&self, error: TransportError, direction: Direction, remote: impl Display) -> TransportError {
        self.metrics.count_refused(error.name());
        tracing::info!(%remote, %direction, reason = error.name(), %error, "connection refused or failed");
        error
    }

    /// Checks identity and policy and the peer's proof, after sending this node's own unless that has been `signed`
    /// already; on failure the peer reads a reason.
    async fn finish(
        &self,
        connection: &quinn::Connection,
        (direction, turned): (Direction, bool),
        expected: Option<PeerId>,
        signed: Option<Exporter>,
    ) -> Result<Session, TransportError> {
        let refuse = |refusal: Refusal| refuse(connection, refusal.code, refusal.error);
        let negotiated = Negotiated::read(connection.handshake_data());
        let (peer_id, key_exchange) = self.judge(&negotiated, expected).map_err(refuse)?;
        let public = if negotiated.alpn == ALPN_TRELLIS {
            let keys = self.authenticate(connection, direction, &peer_id, signed).await;
            Some(keys.map_err(|error| refuse(Refusal { code: close::AUTH, error: error.into() }))?)
        } else {
            None
        };
        let alpn = String::from_utf8_lossy(&negotiated.alpn).into_owned();
        let remote = format_address(connection.remote_address());
        let facts = SessionFacts { peer_id, remote, accepted_on: None, direction, turned, key_exchange, alpn, public };
        Ok(Session::new(Carrier::Quic(connection.clone()), facts))
    }

    async fn authenticate(
        &self,
        connection: &quinn::Connection,
        direction: Direction,
        peer: &PeerId,
        signed: Option<Exporter>,
    ) -> Result<HybridPublic, AuthError> {
        let signed = match signed {
            Some(signed) => signed,
            None => send_proof(connection, &self.keys, direction, &self.local).await?,
        };
        receive_proof(connection, &signed, direction, peer).await
    }
}

/// The libp2p identity that belongs to a hybrid key.
///
/// # Errors
/// [`TransportSetupError::Identity`] if the seed is no Ed25519 key.
pub fn libp2p_identity(keys: &HybridKey) -> Result<Keypair, TransportSetupError> {
    let mut seed = keys.libp2p_seed();
    Ok(Keypair::ed25519_from_bytes(seed.as_mut_slice())?)
}

/// Closes a connection with a reason that the peer reads.
fn refuse(connection: &quinn::Connection, code: u32, error: TransportError) -> TransportError {
    connection.close(code.into(), error.to_string().as_bytes());
    error
}
