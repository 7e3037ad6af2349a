//! Gossip frames that are compressed where it pays (NET-61): one byte says how, zstd (RFC 8878) or not at all.
//!
//! Signatures and hashes do not compress, and what a batch holds decides; so a [`Packer`] watches what it gains and, where
//! that is little, tries only now and then. What is unpacked is bounded before its memory is taken.

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use thiserror::Error;
use zstd::bulk::{Compressor, Decompressor};

/// The body follows as it is.
const PLAIN: u8 = 0;
/// The length of the body as a 32-bit big-endian number follows, then a zstd frame that holds it.
const ZSTD: u8 = 1;
/// Bytes before the zstd frame.
const ZSTD_HEADER_BYTES: usize = 5;
/// What packing adds to a body at most, in bytes.
pub const PACK_BYTES_MAX: usize = 1;
/// Shorter bodies go as they are, in bytes: a zstd frame and its header eat the gain.
const WORTH_BYTES_MIN: usize = 256;
/// The fastest ordinary level; gossip has no time, and higher ones gain some percent.
const LEVEL: i32 = 1;
/// Where less than one part in this many is saved on average, compression is tried only now and then.
const SHARE_SAVED_MIN: i64 = 12;
/// One of so many bodies is tried then.
const TRY_EVERY: u32 = 16;
/// The average forgets by one part in this many with each body that was tried.
const MEMORY: i64 = 8;
/// The scale of shares.
const WHOLE: i64 = 1_000;

/// Why a frame could not be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// Nothing in it.
    #[error("an empty frame, at least the byte that tells the encoding expected")]
    Empty,
    /// A first byte that means nothing.
    #[error("encoding {actual}, expected 0 (plain) or 1 (zstd)")]
    Encoding {
        /// The byte.
        actual: u8,
    },
    /// More than allowed.
    #[error("a body of {actual} bytes, at most {max} allowed")]
    TooLarge {
        /// What the frame holds or says that it holds.
        actual: usize,
        /// The bound.
        max: usize,
    },
    /// Not as long as the frame says.
    #[error("a body of {actual} bytes, the frame says {expected}")]
    Length {
        /// What came out.
        actual: usize,
        /// What the frame says.
        expected: usize,
    },
    /// No zstd.
    #[error("not a zstd frame: {0}")]
    Zstd(#[source] std::io::Error),
}

/// Packs the frames of one protocol, and remembers what compression gains there.
pub struct Packer {
    state: Mutex<State>,
}

struct State {
    compressor: Option<Compressor<'static>>,
    /// What compression saves of a body on average, in parts of [`WHOLE`].
    saved: i64,
    /// Bodies since one was tried.
    untried: u32,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("saved_per_mille", &self.state.lock().saved).finish_non_exhaustive()
    }
}

impl Default for Packer {
    fn default() -> Self {
        // Optimistic: the first bodies are tried.
        Self { state: Mutex::new(State { compressor: None, saved: WHOLE, untried: 0 }) }
    }
}

impl Packer {
    /// The frame that carries a body: at most [`PACK_BYTES_MAX`] longer than it.
    #[must_use]
    pub fn pack(&self, body: &[u8]) -> Bytes {
        self.compressed(body).unwrap_or_else(|| plain(body))
    }

    fn compressed(&self, body: &[u8]) -> Option<Bytes> {
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() >= WORTH_BYTES_MIN)?;
        let mut state = self.state.lock();
        if state.saved < WHOLE / SHARE_SAVED_MIN && state.untried < TRY_EVERY {
            state.untried = state.untried.saturating_add(1);
            return None;
        }
        state.untried = 0;
        let packed = state.compress(body);
        let bytes = packed.as_ref().map_or(body.len(), |packed| packed.len().saturating_add(ZSTD_HEADER_BYTES));
        let saved = i64::try_from(body.len().saturating_sub(bytes)).unwrap_or(0).saturating_mul(WHOLE);
        let share = saved.checked_div(i64::from(length)).unwrap_or(0);
        state.saved = state.saved.saturating_add(share.saturating_sub(state.saved) / MEMORY);
        drop(state);
        let packed = packed.filter(|_| bytes < body.len())?;
        let mut frame = BytesMut::with_capacity(bytes);
        frame.extend_from_slice(&[ZSTD]);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&packed);
        Some(frame.freeze())
    }
}

impl State {
    fn compress(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        if self.compressor.is_none() {
            self.compressor = Compressor::new(LEVEL).ok();
        }
        self.compressor.as_mut()?.compress(body).ok()
    }
}

fn plain(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(body.len().saturating_add(PACK_BYTES_MAX));
    frame.extend_from_slice(&[PLAIN]);
    frame.extend_from_slice(body);
    frame.freeze()
}

/// The body of a frame; one that was not compressed is a slice of it.
///
/// # Errors
/// Where the frame is none, or its body is or says that it is longer than `bytes_max`.
pub fn unpack(frame: &Bytes, bytes_max: usize) -> Result<Bytes, UnpackError> {
    let too_large = |actual| UnpackError::TooLarge { actual, max: bytes_max };
    match frame.split_first() {
        None => Err(UnpackError::Empty),
        Some((&PLAIN, body)) if body.len() > bytes_max => Err(too_large(body.len())),
        Some((&PLAIN, _)) => Ok(frame.slice(1..)),
        Some((&ZSTD, rest)) => {
            let (length, packed) = rest.split_first_chunk::<4>().ok_or(UnpackError::Empty)?;
            let expected = u32::from_be_bytes(*length) as usize;
            if expected > bytes_max {
                return Err(too_large(expected));
            }
            let mut decompressor = Decompressor::new().map_err(UnpackError::Zstd)?;
            let body = decompressor.decompress(packed, expected).map_err(UnpackError::Zstd)?;
            if body.len() != expected {
                return Err(UnpackError::Length { actual: body.len(), expected });
            }
            Ok(body.into())
        }
        Some((&actual, _)) => Err(UnpackError::Encoding { actual }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    // row: NET-61
    #[test]
    fn what_repeats_is_sent_shorter_and_noise_as_it_is() {
        let packer = Packer::default();
        let text = b"a transfer, and another transfer, ".repeat(100);
        let frame = packer.pack(&text);
        assert!(frame.len() * 10 < text.len(), "{} of {}", frame.len(), text.len());
        assert_eq!(unpack(&frame, text.len()).unwrap(), text);
        let noise = noise(4_096);
        let frame = packer.pack(&noise);
        assert_eq!((frame.first(), frame.len()), (Some(&PLAIN), noise.len() + 1));
        assert_eq!(unpack(&frame, noise.len()).unwrap(), noise);
    }

    // row: NET-61
    #[test]
    fn where_nothing_is_gained_most_frames_are_not_tried_and_a_change_is_noticed() {
        let packer = Packer::default();
        let noise = noise(1_024);
        for _ in 0..100 {
            assert_eq!(packer.pack(&noise).first(), Some(&PLAIN));
        }
        let text = vec![b'a'; 1_024];
        let tried = (0..TRY_EVERY * 8).filter(|_| packer.pack(&text).first() == Some(&ZSTD)).count();
        assert!(tried > 0 && tried < TRY_EVERY as usize * 8, "{tried}");
        assert_eq!(packer.pack(&text).first(), Some(&ZSTD), "it pays again");
    }

    // row: NET-56, NET-61
    #[test]
    fn a_frame_that_says_more_than_allowed_or_other_than_it_holds_is_refused() {
        let text = vec![b'a'; 100_000];
        let bomb = Packer::default().pack(&text);
        assert!(matches!(unpack(&bomb, 99_999), Err(UnpackError::TooLarge { actual: 100_000, max: 99_999 })));
        let mut lie = bomb.to_vec();
        lie[1..5].copy_from_slice(&1_000u32.to_be_bytes());
        assert!(unpack(&lie.clone().into(), 2_000).is_err(), "more in it than it says");
        lie[1..5].copy_from_slice(&200_000u32.to_be_bytes());
        assert!(matches!(unpack(&lie.into(), 200_000), Err(UnpackError::Length { actual: 100_000, .. })));
        assert!(matches!(unpack(&Bytes::new(), 9), Err(UnpackError::Empty)));
        assert!(matches!(unpack(&Bytes::from_static(&[2, 0]), 9), Err(UnpackError::Encoding { actual: 2 })));
        assert!(matches!(unpack(&Bytes::from_static(&[1, 0, 0]), 9), Err(UnpackError::Empty)));
    }

    // row: NET-60
    #[test]
    fn the_layout_is_pinned() {
        assert_eq!(hex::encode(Packer::default().pack(b"trellis")), "007472656c6c6973");
        // Any zstd frame that holds the body will do, here one of the tool `zstd`: how it is compressed is the sender's affair.
        let frame = Bytes::from(hex::decode("010000012028b52ffd00484d000010616101001b2ac002").unwrap());
        assert_eq!(unpack(&frame, 288).unwrap(), vec![b'a'; 288]);
        assert_eq!(Packer::default().pack(&[b'a'; 288]).get(..5), frame.get(..5));
    }

    proptest! {
        #[test]
        fn bodies_survive(bodies in prop::collection::vec(prop::collection::vec(0u8..8, 0..2_000), 1..20)) {
            let packer = Packer::default();
            for body in bodies {
                let frame = packer.pack(&body);
                prop_assert!(frame.len() <= body.len() + PACK_BYTES_MAX);
                prop_assert_eq!(unpack(&frame, 2_000).unwrap(), body);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes.into(), 4_096);
        }
    }
}
