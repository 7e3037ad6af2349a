//! TLS to a TURN server: the system's authorities, or one file of them.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::error::TurnError;

/// Certificates that one file of authorities may hold.
const AUTHORITIES_MAX: usize = 512;

/// How TURN servers are believed: by the authorities in a PEM file, or by the system's.
///
/// # Errors
/// [`TurnError::Authorities`] where the file holds none.
pub fn client_config(authorities: Option<&Path>) -> Result<Arc<rustls::ClientConfig>, TurnError> {
    let mut roots = rustls::RootCertStore::empty();
    let shown = authorities.map_or_else(|| "the system".to_owned(), |path| path.display().to_string());
    let failed = |detail: String| TurnError::Authorities { path: shown.clone(), detail };
    match authorities {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
            for certificate in certificates.take(AUTHORITIES_MAX) {
                let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                roots.add(certificate).map_err(|error| failed(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(failed("no certificate in it".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-44
    #[test]
    fn a_file_without_a_certificate_is_refused_by_its_name() {
        let error = client_config(Some(Path::new("Cargo.toml"))).unwrap_err();
        assert!(matches!(&error, TurnError::Authorities { path, .. } if path == "Cargo.toml"), "{error}");
        assert!(client_config(Some(Path::new("no/such/file.pem"))).is_err());
        assert!(client_config(None).is_ok());
    }
}
