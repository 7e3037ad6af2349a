//! Fingerprints of the computation, TOPLOC-like: for each 32 output tokens the largest entries of the final-norm hidden state.
//!
//! For output token `i` the row is the hidden state from which its logits were made (for the first token: the row of the last prompt token).
//! The rows of 32 tokens are laid one after the other, so an index is `row * dim + column`. The 128 entries with the largest absolute value
//! are kept (ties go to the lower index), as bfloat16 rounded to nearest even, sorted by index. A last, shorter chunk is kept as well.
//! A verifier makes the same rows with one prefill of prompt and output and compares with a tolerance; that comparison is not in this crate yet.

use sha2::{Digest, Sha256};

/// Version byte of the record.
pub const FINGERPRINT_VERSION: u8 = 1;
/// Output tokens in one fingerprint.
pub const FINGERPRINT_TOKENS: usize = 32;
/// Most entries in one fingerprint.
pub const FINGERPRINT_ENTRIES_MAX: usize = 128;
const HEADER_BYTES: usize = 1 + 4 + 1 + 4 + 2;
const ENTRY_BYTES: usize = 6;

/// One chunk of at most 32 output tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// Number of the chunk in its output, from 0.
    pub chunk: u32,
    /// Output tokens in it, 1 to 32.
    pub tokens: u8,
    /// Width of one hidden row.
    pub dim: u32,
    /// `(index, bfloat16 bits)`, sorted by index, at most 128.
    pub entries: Vec<(u32, u16)>,
}

/// Bytes that are no fingerprint record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FingerprintDecodeError {
    /// Another length than the header says.
    #[error("a fingerprint record has {actual} bytes, expected {expected}")]
    Length {
        /// Bytes expected.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// Another version.
    #[error("fingerprint version {0} is unknown")]
    Version(u8),
    /// A field is out of range, or the entries are not sorted.
    #[error("fingerprint field {0} is out of range")]
    Range(&'static str),
}

impl Fingerprint {
    /// The canonical bytes, little-endian: version u8, chunk u32, tokens u8, dim u32, count u16, then count times (index u32, bits u16).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES);
        out.push(FINGERPRINT_VERSION);
        out.extend_from_slice(&self.chunk.to_le_bytes());
        out.push(self.tokens);
        out.extend_from_slice(&self.dim.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u16).to_le_bytes());
        for (index, bits) in &self.entries {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&bits.to_le_bytes());
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; every other byte string is refused.
    ///
    /// # Errors
    /// A wrong length, version or range.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FingerprintDecodeError> {
        let short = FingerprintDecodeError::Length { expected: HEADER_BYTES, actual: bytes.len() };
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
        let [version, c0, c1, c2, c3, tokens, d0, d1, d2, d3, n0, n1] = *header;
        if version != FINGERPRINT_VERSION {
            return Err(FingerprintDecodeError::Version(version));
        }
        let count = usize::from(u16::from_le_bytes([n0, n1]));
        let dim = u32::from_le_bytes([d0, d1, d2, d3]);
        if count > FINGERPRINT_ENTRIES_MAX {
            return Err(FingerprintDecodeError::Range("count"));
        }
        if tokens == 0 || usize::from(tokens) > FINGERPRINT_TOKENS {
            return Err(FingerprintDecodeError::Range("tokens"));
        }
        if rest.len() != count * ENTRY_BYTES {
            return Err(FingerprintDecodeError::Length {
                expected: HEADER_BYTES + count * ENTRY_BYTES,
                actual: bytes.len(),
            });
        }
        let entries: Vec<(u32, u16)> = rest
            .chunks_exact(ENTRY_BYTES)
            .map(|e| (u32::from_le_bytes([e[0], e[1], e[2], e[3]]), u16::from_le_bytes([e[4], e[5]])))
            .collect();
        let end = u64::from(dim) * u64::from(tokens);
        if entries.windows(2).any(|w| w[0].0 >= w[1].0) || entries.last().is_some_and(|(i, _)| u64::from(*i) >= end) {
            return Err(FingerprintDecodeError::Range("index"));
        }
        Ok(Self { chunk: u32::from_le_bytes([c0, c1, c2, c3]), tokens, dim, entries })
    }
}

/// The hash of all fingerprints of one output, for the receipt: SHA-256 of the domain, the count as u32 little-endian, and the SHA-256 of
/// each record in order.
#[must_use]
pub fn fingerprint_root(fingerprints: &[Fingerprint]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"trellis/fingerprints/1");
    hash.update((fingerprints.len() as u32).to_le_bytes());
    for fingerprint in fingerprints {
        hash.update(Sha256::digest(fingerprint.to_bytes()));
    }
    hash.finalize().into()
}

/// Collects hidden rows and turns each 32 of them into a record.
#[derive(Debug)]
pub(crate) struct FingerprintBuilder {
    dim: usize,
    rows: Vec<f32>,
    done: Vec<Fingerprint>,
}

impl FingerprintBuilder {
    pub(crate) fn new(dim: usize) -> Self {
        Self { dim, rows: Vec::with_capacity(dim * FINGERPRINT_TOKENS), done: Vec::new() }
    }

    pub(crate) fn push(&mut self, hidden: &[f32]) {
        self.rows.extend_from_slice(hidden);
        if self.rows.len() >= self.dim * FINGERPRINT_TOKENS {
            self.close_chunk();
        }
    }

    fn close_chunk(&mut self) {
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        let size = |i: &u32| self.rows.get(*i as usize).map_or(0.0, |x| x.abs());
        let largest_first = |a: &u32, b: &u32| size(b).total_cmp(&size(a)).then(a.cmp(b));
        if order.len() > FINGERPRINT_ENTRIES_MAX {
            order.select_nth_unstable_by(FINGERPRINT_ENTRIES_MAX - 1, largest_first);
            order.truncate(FINGERPRINT_ENTRIES_MAX);
        }
        order.sort_unstable();
        let entries =
            order.iter().map(|i| (*i, bf16_bits(self.rows.get(*i as usize).copied().unwrap_or(0.0)))).collect();
        let tokens = (self.rows.len() / self.dim.max(1)) as u8;
        self.done.push(Fingerprint { chunk: self.done.len() as u32, tokens, dim: self.dim as u32, entries });
        self.rows.clear();
    }

    pub(crate) fn finish(&mut self) -> Vec<Fingerprint> {
        if !self.rows.is_empty() {
            self.close_chunk();
        }
        std::mem::take(&mut self.done)
    }
}

/// bfloat16 of `x`, rounded to nearest even; every NaN becomes the one quiet NaN.
fn bf16_bits(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fc0;
    }
    let bits = x.to_bits();
    let rounded = u64::from(bits) + 0x7fff + u64::from((bits >> 16) & 1);
    (rounded >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_entries_are_kept_sorted_by_index_and_the_record_reads_back() {
        let mut builder = FingerprintBuilder::new(16);
        for token in 0..40u32 {
            let row: Vec<f32> = (0..16u32).map(|i| ((token * 16 + i) as f32 * 0.7).sin() * (1.0 + i as f32)).collect();
            builder.push(&row);
        }
        let prints = builder.finish();
        assert_eq!(
            prints.iter().map(|p| (p.chunk, p.tokens, p.entries.len())).collect::<Vec<_>>(),
            [(0, 32, 128), (1, 8, 128)]
        );
        for print in &prints {
            assert!(print.entries.windows(2).all(|w| w[0].0 < w[1].0));
            assert_eq!(Fingerprint::from_bytes(&print.to_bytes()).as_ref(), Ok(print));
        }
        assert_ne!(fingerprint_root(&prints), fingerprint_root(&prints[..1]));
    }

    #[test]
    fn the_record_form_is_pinned() {
        let print = Fingerprint { chunk: 3, tokens: 2, dim: 256, entries: vec![(1, 0x3f80), (300, 0xbf80)] };
        assert_eq!(hex::encode(print.to_bytes()), "0103000000020001000002000100000080 3f2c01000080bf".replace(' ', ""));
        assert_eq!(
            hex::encode(fingerprint_root(&[print])),
            "e89b943c0a415a16c1788ca72923d491810e641e40c2da4bfc9d764b07db7e49".to_owned()
        );
    }

    #[test]
    fn bfloat16_rounds_to_nearest_even() {
        for (x, bits) in [
            (1.0f32, 0x3f80u16),
            (-2.0, 0xc000),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f81_8000), 0x3f82),
        ] {
            assert_eq!(bf16_bits(x), bits, "{x}");
        }
        assert_eq!(bf16_bits(f32::NAN), 0x7fc0);
    }

    proptest::proptest! {
        #[test]
        fn a_record_that_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            if let Ok(print) = Fingerprint::from_bytes(&bytes) {
                proptest::prop_assert_eq!(print.to_bytes(), bytes);
            }
        }
    }
}
