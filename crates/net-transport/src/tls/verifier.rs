//! Who may be at the other end: the libp2p TLS certificate, for both directions the same (NET-12).
//!
//! Exactly one self-signed certificate with libp2p's extension, whose signature binds it to a PeerId; there is no way to
//! switch the check off. Its three signatures (the self-signature, the extension's, and the one over the handshake) are
//! checked once, together, where TLS checks the last of them: rustls asks for that in every full handshake, and there is no
//! other kind here. Which PeerId it may be is decided when the handshake is over, from what [`crate::kex`] noted.

use libp2p_tls::certificate::{self, P2pCertificate};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::kex::note_peer;

const SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
];

/// What both sides check; the two traits of rustls below only give it their names.
#[derive(Debug)]
pub(super) struct Libp2pVerifier;

fn check_chain_length(intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    if intermediates.is_empty() {
        Ok(())
    } else {
        Err(Error::General("libp2p TLS requires exactly one certificate".to_owned()))
    }
}

/// Checks the certificate's validity, its self-signature and the extension's.
fn check_certificate<'a>(certificate: &'a CertificateDer<'a>) -> Result<P2pCertificate<'a>, Error> {
    Ok(certificate::parse(certificate)?)
}

fn check_handshake(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = check_certificate(certificate)?;
    certificate.verify_signature(signed.scheme, message, signed.signature())?;
    note_peer(certificate.peer_id());
    Ok(HandshakeSignatureValid::assertion())
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("only TLS 1.3 is offered".to_owned()))
}

impl ServerCertVerifier for Libp2pVerifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_chain_length(intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_handshake(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for Libp2pVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_chain_length(intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_handshake(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::identity::Keypair;

    // row: NET-12
    #[test]
    fn a_certificate_without_the_libp2p_extension_is_refused() {
        let garbage = CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x01]);
        assert!(check_certificate(&garbage).is_err());
        let identity = Keypair::generate_ed25519();
        let (good, _) = certificate::generate(&identity).unwrap();
        assert_eq!(check_certificate(&good).unwrap().peer_id(), identity.public().to_peer_id());
        assert!(check_chain_length(&[]).is_ok());
        assert!(check_chain_length(std::slice::from_ref(&good)).is_err());
        let mut bent = good.to_vec();
        let middle = bent.len() / 2;
        bent[middle] ^= 1;
        assert!(check_certificate(&CertificateDer::from(bent)).is_err());
    }
}
