//! TLS to a TURN server: the system's authorities, or one file of them.

use std::path::Path;
use std::sync::Arc;

use super::error::TurnError;
use crate::tls::{self, TlsError};

/// Certificates that one file of authorities may hold.
const AUTHORITIES_MAX: usize = 512;

/// How TURN servers are believed: by the authorities in a PEM file, or by the system's.
///
/// # Errors
/// [`TurnError::Authorities`] where the file holds none.
pub fn client_config(authorities: Option<&Path>) -> Result<Arc<rustls::ClientConfig>, TurnError> {
    let shown = authorities.map_or_else(|| "the system".to_owned(), |path| path.display().to_string());
    tls::client_config(authorities, AUTHORITIES_MAX).map(Arc::new).map_err(|error| match error {
        TlsError::Authorities { detail, .. } => TurnError::Authorities { path: shown, detail },
        TlsError::Library(error) => TurnError::Authorities { path: shown, detail: error.to_string() },
    })
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
