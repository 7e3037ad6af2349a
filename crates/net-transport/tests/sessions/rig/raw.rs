//! Raw peers over plain quinn or TCP and rustls, each wrong in one way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use trellis_net_transport::{
    ALPN_LIBP2P, ALPN_TRELLIS, Direction, EXPORTER_BYTES, PROOF_BYTES, Proof, TransportError, libp2p_identity,
};

use super::{End, Node, both, keys};

/// What the peer sends where its proof belongs.
enum ProofKind {
    None,
    SignedBy(u8),
    OtherSession,
    Garbage,
}

/// A dialer that is wrong in one way.
pub struct RawPeer {
    classical: bool,
    alpn: Vec<Vec<u8>>,
    proof: ProofKind,
    certificate_bent: bool,
}

impl RawPeer {
    fn trellis(proof: ProofKind) -> Self {
        Self { classical: false, alpn: vec![ALPN_TRELLIS.to_vec()], proof, certificate_bent: false }
    }

    /// Speaks X25519 only, as older libp2p implementations do.
    pub fn classical_key_exchange() -> Self {
        Self { classical: true, alpn: vec![ALPN_LIBP2P.to_vec()], ..Self::silent() }
    }

    /// Shows its own ML-DSA key but a signature by another one.
    pub fn with_proof_signed_by(seed: u8) -> Self {
        Self::trellis(ProofKind::SignedBy(seed))
    }

    /// Sends a good proof of another session.
    pub fn with_proof_of_another_session() -> Self {
        Self::trellis(ProofKind::OtherSession)
    }

    /// Sends bytes of the right length and version.
    pub fn with_garbage_proof() -> Self {
        Self::trellis(ProofKind::Garbage)
    }

    /// Shows a certificate whose own signature does not hold, with the right key for the handshake.
    pub fn with_bent_certificate() -> Self {
        Self { certificate_bent: true, ..Self::silent() }
    }

    /// Finishes TLS and then says nothing.
    pub fn silent() -> Self {
        Self::trellis(ProofKind::None)
    }
}

const OWN_SEED: u8 = 77;

/// The raw peer dials a node of ours; its error is text, as a foreign peer would log it.
pub async fn raw_dial(
    ours: &mut Node,
    peer: RawPeer,
) -> (Result<End, TransportError>, Result<quinn::Connection, String>) {
    let remote = ours.socket();
    let identity = libp2p_identity(&keys(OWN_SEED)).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client_config(&identity, &peer));
    let dialing = async move {
        let connection = endpoint.connect(remote, "l").unwrap().await.map_err(|error| error.to_string())?;
        if !matches!(peer.proof, ProofKind::None) {
            send_proof(&connection, &identity, &peer.proof).await;
        }
        // The endpoint lives for as long as the connection is looked at.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            drop(endpoint);
        });
        Ok(connection)
    };
    let (at_us, at_peer) = both(ours.inbound(), dialing).await;
    (at_us.unwrap(), at_peer.unwrap())
}

async fn send_proof(connection: &quinn::Connection, identity: &Keypair, kind: &ProofKind) {
    let mut exporter = [0u8; EXPORTER_BYTES];
    connection.export_keying_material(&mut exporter, b"EXPORTER-trellis-pq-auth/1", b"").unwrap();
    let wire = proof(&exporter, identity, kind);
    // A node that has refused already takes nothing any more; what it says of that is what the test looks at.
    let Ok(mut send) = connection.open_uni().await else { return };
    if send.write_all(&wire).await.is_ok() {
        let _ = send.finish();
    }
}

fn proof(exporter: &[u8; EXPORTER_BYTES], identity: &Keypair, kind: &ProofKind) -> Vec<u8> {
    let id = identity.public().to_peer_id();
    match kind {
        ProofKind::SignedBy(seed) => {
            let mut proof = Proof::sign(&keys(*seed), Direction::Outbound, exporter, &id).unwrap();
            proof.mldsa65.clone_from(&keys(OWN_SEED).public().mldsa65);
            proof.encode()
        }
        ProofKind::OtherSession => {
            Proof::sign(&keys(OWN_SEED), Direction::Outbound, &[1; EXPORTER_BYTES], &id).unwrap().encode()
        }
        ProofKind::Garbage => vec![1; PROOF_BYTES],
        ProofKind::None => unreachable!(),
    }
}

/// The raw peer dials a node of ours over TCP; what it reads after its proof, or its error as text, is what it saw.
pub async fn raw_tcp_dial(remote: SocketAddr, peer: RawPeer) -> Result<Vec<u8>, String> {
    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::compat::TokioAsyncReadCompatExt;
    let identity = libp2p_identity(&keys(OWN_SEED)).unwrap();
    let socket = tokio::net::TcpStream::connect(remote).await.unwrap().compat();
    let selected = multistream_select::dialer_select_proto(socket, ["/tls/1.0.0"], multistream_select::Version::V1);
    let (_, socket) = selected.await.map_err(|error| error.to_string())?;
    let connector = futures_rustls::TlsConnector::from(Arc::new(rustls_config(&identity, &peer)));
    let mut stream = connector.connect("l".try_into().unwrap(), socket).await.map_err(|error| error.to_string())?;
    if !matches!(peer.proof, ProofKind::None) {
        let exporter = [0u8; EXPORTER_BYTES];
        let label = b"EXPORTER-trellis-pq-auth/1";
        let exporter = stream.get_ref().1.export_keying_material(exporter, label, Some(b"")).unwrap();
        let wire = proof(&exporter, &identity, &peer.proof);
        stream.write_all(&wire).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
    }
    let mut seen = Vec::new();
    // The listener may close without a word, or reset what it has not read.
    let _ = stream.read_to_end(&mut seen).await;
    Ok(seen)
}

fn client_config(identity: &Keypair, peer: &RawPeer) -> quinn::ClientConfig {
    let config = rustls_config(identity, peer);
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    quinn::ClientConfig::new(Arc::new(crypto))
}

fn rustls_config(identity: &Keypair, peer: &RawPeer) -> rustls::ClientConfig {
    let (mut chain, key) = libp2p_tls::certificate::generate(identity).unwrap();
    if peer.certificate_bent {
        // The self-signature stands at the end.
        let mut bytes = chain.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        chain = bytes.into();
    }
    let key = aws_lc_rs::sign::any_ecdsa_type(&key).unwrap();
    let certified = Arc::new(rustls::sign::CertifiedKey::new(vec![chain], key));
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = if peer.classical { vec![kx_group::X25519] } else { vec![kx_group::X25519MLKEM768] };
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone))
        .with_client_cert_resolver(Arc::new(OneCertificate(certified)));
    config.alpn_protocols = peer.alpn.clone();
    config
}

#[derive(Debug)]
struct OneCertificate(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for OneCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// An adversary need not check anybody.
#[derive(Debug)]
struct TrustAnyone;

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
