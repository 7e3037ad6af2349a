//! What can go wrong, one type per operation.

use thiserror::Error;

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
    /// The key exchange policy left no QUIC cipher.
    #[error("no cipher suite for QUIC initial packets")]
    NoInitialCipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}
