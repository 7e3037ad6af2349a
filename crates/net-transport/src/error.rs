//! What can go wrong, one type per operation. Variants say who is at fault.

use libp2p::PeerId;
use thiserror::Error;

use crate::auth::AuthError;
use crate::session::CloseReason;

/// Why a transport could not be made from an identity.
#[derive(Debug, Error)]
pub enum TransportSetupError {
    /// The Ed25519 seed is not a libp2p identity.
    #[error("identity key: {0}")]
    Identity(#[from] libp2p::identity::DecodingError),
    /// The libp2p certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] libp2p_tls::certificate::GenError),
    /// TLS could not be configured.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    /// Noise could not be configured.
    #[error("noise: {0}")]
    Noise(#[from] libp2p::noise::Error),
    /// The key exchange policy left no QUIC cipher.
    #[error("no cipher suite for QUIC initial packets")]
    NoInitialCipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Why a connection did not come about, or a listener failed.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The policy `require` refused a peer that cannot do, or did not do, the post-quantum session.
    #[error("policy (classical): {0}")]
    Classical(ClassicalPeer),
    /// The peer refused this node before any cryptography (its limits or bans).
    #[error("the peer refused the connection before the handshake")]
    RefusedByPeer,
    /// The peer did not prove its ML-DSA-65 identity.
    #[error("ml-dsa authentication: {0}")]
    Auth(#[from] AuthError),
    /// The peer behind the address is another one than the address names.
    #[error("expected peer {expected}, found {actual}")]
    WrongPeer {
        /// The PeerId in the dialled address.
        expected: Box<PeerId>,
        /// The PeerId of the certificate.
        actual: Box<PeerId>,
    },
    /// The session has no verified libp2p certificate.
    #[error("the peer showed no libp2p certificate")]
    NoIdentity,
    /// It took too long.
    #[error("handshake not finished within {timeout_ms} ms")]
    Timeout {
        /// The limit that passed, milliseconds.
        timeout_ms: u64,
    },
    /// The connection failed.
    #[error("connection: {0}")]
    Connection(#[from] quinn::ConnectionError),
    /// The dial could not start.
    #[error("dial: {0}")]
    Connect(#[from] quinn::ConnectError),
    /// The peer ended the handshake and said why.
    #[error("closed by the peer: {} (code {})", .0.text, .0.code)]
    ClosedByPeer(CloseReason),
    /// No secure channel could be agreed upon, or the peer does not speak the negotiation at all.
    #[error("protocol negotiation: {0}")]
    Negotiation(multistream_select::NegotiationError),
    /// TLS over a byte stream failed.
    #[error("tls: {0}")]
    Tls(std::io::Error),
    /// Noise failed.
    #[error("noise: {0}")]
    Noise(#[from] libp2p::noise::Error),
    /// The proxy did not answer or could not reach the peer.
    #[error("proxy: {0}")]
    Proxy(#[from] tokio_socks::Error),
    /// In onion-only mode no socket is opened to the clear network.
    #[error("{0} is open to the clear network, which the onion-only mode does not allow")]
    ClearAddress(libp2p::Multiaddr),
    /// The socket on another machine is not to be had, or does not reach the peer.
    #[error("turn: {0}")]
    Far(std::io::Error),
    /// A relay gave no circuit or reservation.
    #[error("relay: {0}")]
    Relay(#[from] libp2p::relay::client::transport::Error),
    /// A socket failed.
    #[error("socket: {0}")]
    Io(#[from] std::io::Error),
}

impl From<multistream_select::NegotiationError> for TransportError {
    fn from(error: multistream_select::NegotiationError) -> Self {
        match error {
            // Each side speaks the negotiation, and nothing that the peer speaks is enough.
            multistream_select::NegotiationError::Failed => Self::Classical(ClassicalPeer::SecureChannel),
            error @ multistream_select::NegotiationError::ProtocolError(_) => Self::Negotiation(error),
        }
    }
}

/// What makes a peer classical.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ClassicalPeer {
    /// No common key exchange: it has no X25519MLKEM768.
    #[error("the peer offers no X25519MLKEM768 key exchange")]
    KeyExchange,
    /// No common secure channel: it has no TLS 1.3.
    #[error("the peer offers no /tls/1.0.0")]
    SecureChannel,
    /// No common protocol: it does not authenticate with ML-DSA-65.
    #[error("the peer does not speak trellis-pq/2")]
    Protocol,
}

/// TLS alert 40, `handshake_failure`: no common key exchange.
const ALERT_HANDSHAKE_FAILURE: u8 = 40;
/// TLS alert 120, `no_application_protocol`.
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

impl TransportError {
    /// Names a failed QUIC handshake where the cause is known.
    pub(crate) fn from_handshake(error: quinn::ConnectionError) -> Self {
        let code = match &error {
            quinn::ConnectionError::TransportError(error) => error.code,
            quinn::ConnectionError::ConnectionClosed(close) => close.error_code,
            _ => return Self::Connection(error),
        };
        if code == quinn::TransportErrorCode::crypto(ALERT_HANDSHAKE_FAILURE) {
            Self::Classical(ClassicalPeer::KeyExchange)
        } else if code == quinn::TransportErrorCode::crypto(ALERT_NO_APPLICATION_PROTOCOL) {
            Self::Classical(ClassicalPeer::Protocol)
        } else if code == quinn::TransportErrorCode::CONNECTION_REFUSED {
            Self::RefusedByPeer
        } else {
            Self::Connection(error)
        }
    }

    /// Names a failed TLS handshake over a byte stream where the cause is known.
    pub(crate) fn from_tls(error: std::io::Error) -> Self {
        use rustls::AlertDescription::{HandshakeFailure, NoApplicationProtocol};
        use rustls::{Error as Tls, PeerIncompatible};
        let Some(inner) = error.get_ref() else { return Self::Tls(error) };
        match inner.downcast_ref() {
            Some(Tls::NoApplicationProtocol | Tls::AlertReceived(NoApplicationProtocol)) => {
                return Self::Classical(ClassicalPeer::Protocol);
            }
            Some(
                Tls::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) | Tls::AlertReceived(HandshakeFailure),
            ) => return Self::Classical(ClassicalPeer::KeyExchange),
            _ => {}
        }
        // What was sent ahead of the answer to the negotiation.
        if matches!(inner.downcast_ref(), Some(multistream_select::NegotiationError::Failed)) {
            return Self::Classical(ClassicalPeer::SecureChannel);
        }
        Self::Tls(error)
    }

    /// Whether an inbound handshake was begun and never finished.
    #[must_use]
    pub const fn is_unfinished(&self) -> bool {
        use quinn::ConnectionError::{Reset, TimedOut};
        matches!(self, Self::Timeout { .. } | Self::Connection(TimedOut | Reset))
    }

    /// Whether an inbound handshake broke a rule of QUIC or TLS; a peer that takes its leave breaks none.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        use quinn::ConnectionError::{ConnectionClosed, TransportError, VersionMismatch};
        matches!(self, Self::Connection(TransportError(_) | ConnectionClosed(_) | VersionMismatch))
    }

    /// The name under which the failure is logged and counted.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Classical(_) => "policy (classical)",
            Self::RefusedByPeer => "refused by peer",
            Self::Auth(_) => "bad signature",
            Self::WrongPeer { .. } => "wrong peer",
            Self::NoIdentity => "no identity",
            Self::Timeout { .. } => "timeout",
            Self::Connection(_) => "connection",
            Self::Connect(_) => "connect",
            Self::ClosedByPeer(_) => "closed by peer",
            Self::Negotiation(_) => "negotiation",
            Self::Tls(_) => "tls",
            Self::Noise(_) => "noise",
            Self::Proxy(_) => "proxy",
            Self::ClearAddress(_) => "clear address",
            Self::Far(_) => "turn",
            Self::Relay(_) => "relay",
            Self::Io(_) => "socket",
        }
    }
}
