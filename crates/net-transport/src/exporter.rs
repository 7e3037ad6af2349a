//! The TLS exporter of a listener before its handshake is over.
//!
//! The exporter secret covers the handshake up to the server's Finished (RFC 8446, 7.1), so a listener has it as soon as it
//! has sent its own flight, a round trip before the dialer's Finished comes back. rustls exports only after that. Its key
//! log is told the secret when it is derived, though: [`EarlyExporter`] is such a log, which hands the secret to the
//! session that reads handshake bytes on this thread and to nobody else. Once the handshake is over, rustls' own export
//! is compared with what was signed ([`crate::auth`]), so a difference between the two would end the session.

use std::fmt;

use aws_lc_rs::digest::{self, digest};
use aws_lc_rs::hkdf::{self, KeyType};
use rustls::KeyLog;
use zeroize::Zeroizing;

use crate::kex::note_exporter_secret;

/// The key log's name of the exporter secret.
const EXPORTER_SECRET: &str = "EXPORTER_SECRET";
/// RFC 8446, 7.1: what every label begins with.
const LABEL_PREFIX: &[u8] = b"tls13 ";
/// RFC 8446, 7.5: the label of the last step.
const EXPORTER_LABEL: &[u8] = b"exporter";

/// An exporter secret; erased when dropped.
#[derive(Clone)]
pub(crate) struct ExporterSecret(Zeroizing<Vec<u8>>);

impl fmt::Debug for ExporterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExporterSecret")
    }
}

/// Hands the exporter secret to the session whose handshake derives it.
#[derive(Debug)]
pub(crate) struct EarlyExporter;

impl KeyLog for EarlyExporter {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if self.will_log(label) {
            note_exporter_secret(ExporterSecret(Zeroizing::new(secret.to_vec())));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == EXPORTER_SECRET
    }
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

impl ExporterSecret {
    /// RFC 8446, 7.5: TLS-Exporter(label, context, length of `output`). `None` if a length is out of bounds.
    pub(crate) fn export(&self, output: &mut [u8], label: &[u8], context: &[u8]) -> Option<()> {
        // A secret is as long as the hash of its cipher suite.
        let (hkdf, hash) = if self.0.len() == digest::SHA256_OUTPUT_LEN {
            (hkdf::HKDF_SHA256, &digest::SHA256)
        } else {
            (hkdf::HKDF_SHA384, &digest::SHA384)
        };
        let mut derived = Zeroizing::new(vec![0u8; self.0.len()]);
        expand_label(hkdf, &self.0, label, digest(hash, b"").as_ref(), &mut derived)?;
        expand_label(hkdf, &derived, EXPORTER_LABEL, digest(hash, context).as_ref(), output)
    }
}

/// RFC 8446, 7.1: HKDF-Expand-Label.
fn expand_label(
    algorithm: hkdf::Algorithm,
    secret: &[u8],
    label: &[u8],
    context: &[u8],
    output: &mut [u8],
) -> Option<()> {
    let length = u16::try_from(output.len()).ok()?.to_be_bytes();
    let label_bytes = [u8::try_from(LABEL_PREFIX.len() + label.len()).ok()?];
    let context_bytes = [u8::try_from(context.len()).ok()?];
    let info: [&[u8]; 6] = [&length, &label_bytes, LABEL_PREFIX, label, &context_bytes, context];
    let key = hkdf::Prk::new_less_safe(algorithm, secret);
    key.expand(&info, Bytes(output.len())).ok()?.fill(output).ok()
}
