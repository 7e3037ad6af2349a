//! TLS 1.3 with libp2p certificates: explicit provider, certificates always verified, no resumption, no key log
//! but the one that gives a listener's own session its exporter secret ([`crate::exporter`]).

mod verifier;

use std::sync::Arc;

use libp2p::identity::Keypair;
use libp2p_tls::certificate;
use rustls::SignatureScheme;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;

use self::verifier::Libp2pVerifier;
use crate::config::{ALPN_LIBP2P, ALPN_TRELLIS};
use crate::error::TransportSetupError;
use crate::exporter::EarlyExporter;
use crate::kex::{PREFER_GROUPS, REQUIRE_GROUPS};
use crate::policy::Policy;

/// The two rustls configurations of one node. Clones show the same certificate.
#[derive(Clone)]
pub(crate) struct TlsConfigs {
    pub(crate) client: rustls::ClientConfig,
    pub(crate) server: rustls::ServerConfig,
}

/// Both sides of TLS for a libp2p identity under a policy.
pub(crate) fn tls_configs(identity: &Keypair, policy: Policy) -> Result<TlsConfigs, TransportSetupError> {
    let (groups, alpn) = match policy {
        Policy::Require => (REQUIRE_GROUPS, vec![ALPN_TRELLIS.to_vec()]),
        Policy::Prefer => (PREFER_GROUPS, vec![ALPN_TRELLIS.to_vec(), ALPN_LIBP2P.to_vec()]),
    };
    tls_configs_with(identity, groups.to_vec(), alpn)
}

/// Both sides of TLS with these groups and application protocols, most wanted first.
pub(crate) fn tls_configs_with(
    identity: &Keypair,
    groups: Vec<&'static dyn SupportedKxGroup>,
    alpn: Vec<Vec<u8>>,
) -> Result<TlsConfigs, TransportSetupError> {
    let (chain, key) = certificate::generate(identity)?;
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key)?;
    let certified = Arc::new(OneCertificate(Arc::new(CertifiedKey::new(vec![chain], key))));
    // AES-128-GCM first: with AES in hardware it moves 60 % more than ChaCha20, which stays for machines without.
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
        kx_groups: groups,
        ..rustls::crypto::aws_lc_rs::default_provider()
    });

    let mut client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Libp2pVerifier))
        .with_client_cert_resolver(Arc::clone(&certified) as _);
    client.alpn_protocols = alpn.clone();
    client.resumption = Resumption::disabled();
    client.enable_sni = false;

    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Libp2pVerifier))
        .with_cert_resolver(certified);
    server.alpn_protocols = alpn;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.key_log = Arc::new(EarlyExporter);
    Ok(TlsConfigs { client, server })
}

#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for OneCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::NamedGroup;

    fn names(policy: Policy) -> Vec<NamedGroup> {
        let configs = tls_configs(&Keypair::generate_ed25519(), policy).unwrap();
        configs.client.crypto_provider().kx_groups.iter().map(|group| group.name()).collect()
    }

    // row: NET-10
    #[test]
    fn under_require_nothing_classical_is_even_offered() {
        assert_eq!(names(Policy::Require), [NamedGroup::X25519MLKEM768]);
        let prefer = [NamedGroup::X25519MLKEM768, NamedGroup::X25519, NamedGroup::secp256r1];
        assert_eq!(names(Policy::Prefer), prefer);
        let configs = tls_configs(&Keypair::generate_ed25519(), Policy::Require).unwrap();
        assert_eq!(configs.server.alpn_protocols, [ALPN_TRELLIS]);
    }

    // row: NET-14
    #[test]
    fn there_are_no_tickets_and_no_early_data() {
        let configs = tls_configs(&Keypair::generate_ed25519(), Policy::Prefer).unwrap();
        assert_eq!(configs.server.send_tls13_tickets, 0);
        assert_eq!(configs.server.max_early_data_size, 0);
        assert!(!configs.client.enable_early_data);
    }

    /// A client and a server over memory with this cipher suite.
    fn ends(suite: rustls::SupportedCipherSuite) -> (rustls::ClientConnection, rustls::ServerConnection) {
        let configs = tls_configs(&Keypair::generate_ed25519(), Policy::Require).unwrap();
        let provider = CryptoProvider { cipher_suites: vec![suite], ..(**configs.client.crypto_provider()).clone() };
        let mut client = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Libp2pVerifier))
            .with_client_cert_resolver(configs.client.client_auth_cert_resolver.clone());
        client.alpn_protocols = configs.client.alpn_protocols.clone();
        let client = rustls::ClientConnection::new(Arc::new(client), "l".try_into().unwrap()).unwrap();
        (client, rustls::ServerConnection::new(Arc::new(configs.server)).unwrap())
    }

    // row: NET-12
    #[test]
    fn a_listener_exports_early_what_both_ends_export_in_the_end() {
        for suite in [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256] {
            let (mut client, mut server) = ends(suite);
            let mut early = [0u8; 32];
            let mut exported = false;
            while client.is_handshaking() || server.is_handshaking() {
                let mut flight = Vec::new();
                client.write_tls(&mut flight).unwrap();
                server.read_tls(&mut flight.as_slice()).unwrap();
                server.process_new_packets().unwrap();
                if !exported {
                    assert!(server.is_handshaking());
                    let secret = crate::kex::take_exporter_secret().unwrap();
                    secret.export(&mut early, b"EXPORTER-test", b"context").unwrap();
                    exported = true;
                }
                let mut flight = Vec::new();
                server.write_tls(&mut flight).unwrap();
                client.read_tls(&mut flight.as_slice()).unwrap();
                client.process_new_packets().unwrap();
            }
            let at_server = server.export_keying_material([0u8; 32], b"EXPORTER-test", Some(b"context")).unwrap();
            let at_client = client.export_keying_material([0u8; 32], b"EXPORTER-test", Some(b"context")).unwrap();
            assert_eq!((early, early), (at_server, at_client), "{suite:?}");
        }
    }
}
