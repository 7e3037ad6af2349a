//! ML-DSA-65 proofs on the first streams of a session, bound to that session by the TLS exporter (NET-12, NET-20).
//!
//! Each side sends one proof of fixed length on a unidirectional stream of its own, as soon as it can export, and waits for
//! nothing before: the listener right behind its TLS flight, the dialer right behind its Finished. So the dialer has
//! verified the listener after one round trip, and the listener the dialer with the packets that end the handshake.
//!
//! ```text
//! version 1 (1 byte) ‖ ML-DSA-65 public key (1,952) ‖ ML-DSA-65 signature (3,309)
//! signature over  "trellis/pq-auth/1" ‖ role ('d' dialer, 'l' listener) ‖ exporter (32) ‖ own PeerId
//! ```
//! The exporter differs in every session, so a proof cannot be replayed; the role keeps it from being reflected; the
//! PeerId ties it to the certificate. A forger has to break Ed25519 or ECDSA *and* ML-DSA-65. The listener signs before it
//! knows the dialer; it shows a stranger no more than its certificate does, and the admission has passed the dialer on.

use libp2p::PeerId;
use thiserror::Error;
use trellis_crypto::{HybridKey, HybridPublic, MLDSA65_PUBLIC_BYTES, MLDSA65_SIGNATURE_BYTES, SignatureError};

use crate::session::Direction;

/// The version byte of a proof.
pub const PROOF_VERSION: u8 = 1;
/// Bytes of a proof on the wire.
pub const PROOF_BYTES: usize = 1 + MLDSA65_PUBLIC_BYTES + MLDSA65_SIGNATURE_BYTES;
/// The exporter's label.
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-trellis-pq-auth/1";
/// Bytes of the exported secret that a proof signs.
pub const EXPORTER_BYTES: usize = 32;
const DOMAIN: &[u8] = b"trellis/pq-auth/1";

/// Why a session could not be bound to an ML-DSA-65 identity.
#[derive(Debug, Error)]
pub enum AuthError {
    /// The proof has an unknown version.
    #[error("proof of version {actual}, expected {PROOF_VERSION}")]
    Version {
        /// The version byte received.
        actual: u8,
    },
    /// The proof has another length.
    #[error("proof of {actual} bytes, expected {PROOF_BYTES}")]
    Length {
        /// Bytes received.
        actual: usize,
    },
    /// The signature does not verify for this session, role and PeerId.
    #[error("ml-dsa-65 signature: {0}")]
    Signature(#[from] SignatureError),
    /// The PeerId is not an Ed25519 one, so there is no hybrid identity.
    #[error("the peer's libp2p key is not Ed25519")]
    NotEd25519,
    /// The session exported no secret.
    #[error("the tls session exports no keying material")]
    NoExporter,
    /// What was signed during the handshake is not what the finished session exports.
    #[error("the tls session exports another secret than during its handshake")]
    ExporterChanged,
    /// The stream of a proof failed.
    #[error("proof stream: {0}")]
    Io(#[from] std::io::Error),
    /// The connection failed.
    #[error("connection: {0}")]
    Connection(#[from] quinn::ConnectionError),
}

/// A proof as it is on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    /// ML-DSA-65 public key.
    pub mldsa65: Vec<u8>,
    /// ML-DSA-65 signature.
    pub signature: Vec<u8>,
}

/// The bytes that the side with `direction` and `peer_id` signs. `direction` is that side's own view.
#[must_use]
pub fn proof_message(direction: Direction, exporter: &[u8; EXPORTER_BYTES], peer_id: &PeerId) -> Vec<u8> {
    let role = match direction {
        Direction::Outbound => b'd',
        Direction::Inbound => b'l',
    };
    [DOMAIN, &[role], exporter, &peer_id.to_bytes()].concat()
}

impl Proof {
    /// Signs for this session.
    ///
    /// # Errors
    /// [`AuthError::Signature`] if the library cannot sign.
    pub fn sign(
        keys: &HybridKey,
        direction: Direction,
        exporter: &[u8; EXPORTER_BYTES],
        peer_id: &PeerId,
    ) -> Result<Self, AuthError> {
        let signature = keys.mldsa65_sign(&proof_message(direction, exporter, peer_id))?;
        Ok(Self { mldsa65: keys.public().mldsa65.clone(), signature })
    }

    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&[PROOF_VERSION], self.mldsa65.as_slice(), self.signature.as_slice()].concat()
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`AuthError::Length`] and [`AuthError::Version`].
    pub fn decode(bytes: &[u8]) -> Result<Self, AuthError> {
        let length = AuthError::Length { actual: bytes.len() };
        let Some((&version, rest)) = bytes.split_first().filter(|_| bytes.len() == PROOF_BYTES) else {
            return Err(length);
        };
        if version != PROOF_VERSION {
            return Err(AuthError::Version { actual: version });
        }
        let (mldsa65, signature) = rest.split_at_checked(MLDSA65_PUBLIC_BYTES).ok_or(length)?;
        Ok(Self { mldsa65: mldsa65.to_vec(), signature: signature.to_vec() })
    }

    /// Verifies a peer's proof; `direction` is the peer's own view of the connection.
    ///
    /// # Errors
    /// [`AuthError::Signature`] and [`AuthError::NotEd25519`].
    pub fn verify(
        self,
        direction: Direction,
        exporter: &[u8; EXPORTER_BYTES],
        peer_id: &PeerId,
    ) -> Result<HybridPublic, AuthError> {
        let ed25519 = ed25519_of(peer_id).ok_or(AuthError::NotEd25519)?;
        let public = HybridPublic { ed25519, mldsa65: self.mldsa65 };
        public.verify_mldsa65(&proof_message(direction, exporter, peer_id), &self.signature)?;
        Ok(public)
    }
}

/// The Ed25519 key inside a PeerId: such ids hold the whole key (identity multihash over its protobuf).
#[must_use]
pub fn ed25519_of(peer_id: &PeerId) -> Option<[u8; 32]> {
    const IDENTITY_HASH: u64 = 0;
    let multihash = peer_id.as_ref();
    if multihash.code() != IDENTITY_HASH {
        return None;
    }
    let key = libp2p::identity::PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
    key.try_into_ed25519().ok().map(|key| key.to_bytes())
}

/// The secret of a session that a proof signs.
pub(crate) type Exporter = [u8; EXPORTER_BYTES];

fn export(connection: &quinn::Connection) -> Result<Exporter, AuthError> {
    let mut exporter = [0u8; EXPORTER_BYTES];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").map_err(|_| AuthError::NoExporter)?;
    Ok(exporter)
}

/// Sends this side's proof and returns the secret that it signs. A listener need not have heard the dialer's Finished.
pub(crate) async fn send_proof(
    connection: &quinn::Connection,
    keys: &HybridKey,
    direction: Direction,
    local: &PeerId,
) -> Result<Exporter, AuthError> {
    let exporter = export(connection)?;
    let proof = Proof::sign(keys, direction, &exporter, local)?.encode();
    let mut send = connection.open_uni().await?;
    send.write_all(&proof).await.map_err(std::io::Error::from)?;
    send.finish().map_err(std::io::Error::other)?;
    Ok(exporter)
}

/// Reads the peer's proof once the handshake is over, and returns the peer's verified keys. `signed` is what
/// [`send_proof`] returned, `direction` this side's own view.
pub(crate) async fn receive_proof(
    connection: &quinn::Connection,
    signed: &Exporter,
    direction: Direction,
    remote: &PeerId,
) -> Result<HybridPublic, AuthError> {
    let exporter = export(connection)?;
    if exporter != *signed {
        return Err(AuthError::ExporterChanged);
    }
    let mut receive = connection.accept_uni().await?;
    let mut theirs = vec![0u8; PROOF_BYTES];
    receive.read_exact(&mut theirs).await.map_err(|error| match error {
        quinn::ReadExactError::FinishedEarly(actual) => AuthError::Length { actual },
        quinn::ReadExactError::ReadError(error) => AuthError::Io(error.into()),
    })?;
    Proof::decode(&theirs)?.verify(direction.reversed(), &exporter, remote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    fn key(seed: u8) -> (HybridKey, PeerId) {
        let key = HybridKey::generate(&mut rand::rngs::StdRng::seed_from_u64(u64::from(seed))).unwrap();
        let pair = libp2p::identity::Keypair::ed25519_from_bytes(*key.libp2p_seed()).unwrap();
        let id = pair.public().to_peer_id();
        (key, id)
    }

    // row: NET-12, NET-20
    #[test]
    fn a_proof_holds_for_its_session_role_and_peer_only() {
        let ((alice, alice_id), (_, mallory_id)) = (key(1), key(2));
        let exporter = [7u8; 32];
        let proof = Proof::sign(&alice, Direction::Outbound, &exporter, &alice_id).unwrap();
        let public = proof.clone().verify(Direction::Outbound, &exporter, &alice_id).unwrap();
        assert_eq!(public.node_id(), alice.node_id());
        assert!(proof.clone().verify(Direction::Inbound, &exporter, &alice_id).is_err(), "reflected");
        assert!(proof.clone().verify(Direction::Outbound, &[8u8; 32], &alice_id).is_err(), "another session");
        assert!(proof.verify(Direction::Outbound, &exporter, &mallory_id).is_err(), "another peer");
    }

    #[test]
    fn the_signed_bytes_and_the_layout_are_pinned() {
        let (_, id) = key(1);
        let message = proof_message(Direction::Outbound, &[0xaa; 32], &id);
        let pinned = format!("7472656c6c69732f70712d617574682f3164{}{}", "aa".repeat(32), hex::encode(id.to_bytes()));
        assert_eq!(hex::encode(message), pinned);
        let proof = Proof { mldsa65: vec![0x11; MLDSA65_PUBLIC_BYTES], signature: vec![0x22; MLDSA65_SIGNATURE_BYTES] };
        let wire = proof.encode();
        assert_eq!(wire.len(), 5_262);
        assert_eq!(hex::encode(trellis_crypto::sha3_256(&[&wire])), PINNED_PROOF_SHA3);
        assert_eq!(Proof::decode(&wire).unwrap(), proof);
    }

    const PINNED_PROOF_SHA3: &str = "f9adbdc2512289a9aa9f7e1502c817bb182f0d0f9712f0c81cb063467ea1db62";

    #[test]
    fn a_proof_of_another_length_or_version_is_refused() {
        assert!(matches!(Proof::decode(&[]), Err(AuthError::Length { actual: 0 })));
        assert!(matches!(Proof::decode(&[1; PROOF_BYTES + 1]), Err(AuthError::Length { .. })));
        assert!(matches!(Proof::decode(&[2; PROOF_BYTES]), Err(AuthError::Version { actual: 2 })));
    }

    proptest! {
        // row: NET-56
        #[test]
        fn garbage_is_refused_without_panic(fill in any::<[u8; 32]>(), length in 0usize..6_000) {
            let bytes: Vec<u8> = fill.iter().copied().cycle().take(length).collect();
            let (_, id) = key(3);
            if let Ok(proof) = Proof::decode(&bytes) {
                prop_assert!(proof.verify(Direction::Inbound, &[0; 32], &id).is_err());
            }
        }
    }
}
