//! TLS to servers of others, by the system's authorities or by one file of them: TURN servers and encrypted name servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;

/// Why TLS cannot be set up.
#[derive(Clone, PartialEq, Debug, Error)]
pub enum TlsError {
    /// The file of authorities cannot be used.
    #[error("{path}: {detail}", path = path.display())]
    Authorities {
        /// Which.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// The library refuses.
    #[error(transparent)]
    Library(#[from] rustls::Error),
}

/// How servers are believed: by at most so many authorities of a PEM file, or by the system's.
///
/// # Errors
/// [`TlsError::Authorities`] where the file holds none.
pub fn client_config(authorities: Option<&Path>, authorities_max: usize) -> Result<rustls::ClientConfig, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    match authorities {
        Some(path) => {
            let failed = |detail: String| TlsError::Authorities { path: path.to_path_buf(), detail };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
            for certificate in certificates.take(authorities_max) {
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
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
