//! Length-delimited frames: a 32-bit big-endian length, then that many bytes. Protocol messages (prost) go inside.

use bytes::Bytes;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::guard::Pattern;

/// Bytes of the length prefix.
pub const FRAME_HEADER_BYTES: usize = 4;
/// The largest frame any protocol may use; each protocol gives its own smaller bound to [`read_frame`].
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024 + 64 * 1024;
/// Memory is taken in steps of this size while a frame arrives, so that a length alone never costs its bytes.
const READ_STEP_BYTES: usize = 64 * 1024;

/// Why a frame could not be read or written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The stream ended cleanly between two frames.
    #[error("end of stream")]
    End,
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame: {read} of {expected} bytes")]
    Truncated {
        /// Bytes that came.
        read: usize,
        /// Bytes announced.
        expected: usize,
    },
    /// The announced or given length is above the bound.
    #[error("frame of {actual} bytes, at most {max} allowed")]
    TooLarge {
        /// The length announced or given.
        actual: usize,
        /// The bound.
        max: usize,
    },
    /// The frame's content is not the message expected.
    #[error("frame does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl FrameError {
    /// What the peer did wrong; `None` where the stream merely ended or failed.
    #[must_use]
    pub const fn pattern(&self) -> Option<Pattern> {
        match self {
            Self::TooLarge { .. } => Some(Pattern::Oversized),
            Self::Decode(_) => Some(Pattern::Malformed),
            Self::End | Self::Truncated { .. } | Self::Io(_) => None,
        }
    }
}

/// Reads one frame of at most `bytes_max` bytes.
///
/// # Errors
/// [`FrameError::End`] if the stream ends before the first byte of the frame; the others as they say.
pub async fn read_frame<S: AsyncRead + Unpin + ?Sized>(stream: &mut S, bytes_max: usize) -> Result<Bytes, FrameError> {
    let mut header = [0u8; FRAME_HEADER_BYTES];
    let mut filled = 0;
    while filled < FRAME_HEADER_BYTES {
        let read = stream.read(header.get_mut(filled..).unwrap_or_default()).await?;
        if read == 0 {
            return Err(match filled {
                0 => FrameError::End,
                read => FrameError::Truncated { read, expected: FRAME_HEADER_BYTES },
            });
        }
        filled += read;
    }
    let expected = u32::from_be_bytes(header) as usize;
    let max = bytes_max.min(FRAME_BYTES_MAX);
    if expected > max {
        return Err(FrameError::TooLarge { actual: expected, max });
    }
    let mut body = Vec::with_capacity(expected.min(READ_STEP_BYTES));
    let mut limited = stream.take(expected as u64);
    let read = limited.read_to_end(&mut body).await?;
    if read < expected {
        return Err(FrameError::Truncated { read, expected });
    }
    Ok(body.into())
}

/// Writes one frame and flushes.
///
/// # Errors
/// [`FrameError::TooLarge`] above [`FRAME_BYTES_MAX`], or the stream's error.
pub async fn write_frame<S: AsyncWrite + Unpin + ?Sized>(stream: &mut S, body: &[u8]) -> Result<(), FrameError> {
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= FRAME_BYTES_MAX)
        .ok_or(FrameError::TooLarge { actual: body.len(), max: FRAME_BYTES_MAX })?;
    if body.len() <= READ_STEP_BYTES {
        // One write for header and body: a small message leaves as one packet.
        let mut whole = Vec::with_capacity(FRAME_HEADER_BYTES + body.len());
        whole.extend_from_slice(&length.to_be_bytes());
        whole.extend_from_slice(body);
        stream.write_all(&whole).await?;
    } else {
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(body).await?;
    }
    stream.flush().await?;
    Ok(())
}

/// Reads one frame and decodes the prost message in it.
///
/// # Errors
/// As [`read_frame`], and [`FrameError::Decode`].
pub async fn read_message<M, S>(stream: &mut S, bytes_max: usize) -> Result<M, FrameError>
where
    M: prost::Message + Default,
    S: AsyncRead + Unpin + ?Sized,
{
    Ok(M::decode(read_frame(stream, bytes_max).await?)?)
}

/// Encodes a prost message and writes it as one frame.
///
/// # Errors
/// As [`write_frame`].
pub async fn write_message<M, S>(stream: &mut S, message: &M) -> Result<(), FrameError>
where
    M: prost::Message,
    S: AsyncWrite + Unpin + ?Sized,
{
    write_frame(stream, &message.encode_to_vec()).await
}

/// Counts the frames that pass in one direction, from the bytes alone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameCounter {
    header_bytes: usize,
    length: u32,
    body_bytes_left: u64,
    /// The length of the frame that is passing.
    body_bytes: u64,
}

impl FrameCounter {
    /// The length of the frame that has begun and not ended, as far as it is known; `None` between two frames.
    pub(crate) const fn inside(&self) -> Option<u64> {
        match (self.header_bytes, self.body_bytes_left) {
            (0, 0) => None,
            (0, _) => Some(self.body_bytes),
            _ => Some(0),
        }
    }

    /// Takes the bytes that passed and returns how many frames ended in them.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        let mut frames = 0;
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.body_bytes_left > 0 {
                let step = (bytes.len() as u64).min(self.body_bytes_left);
                self.body_bytes_left -= step;
                bytes = bytes.get(step as usize..).unwrap_or_default();
            } else {
                self.length = (self.length << 8) | u32::from(byte);
                self.header_bytes += 1;
                bytes = rest;
                if self.header_bytes < FRAME_HEADER_BYTES {
                    continue;
                }
                self.body_bytes_left = u64::from(self.length);
                self.body_bytes = self.body_bytes_left;
                self.header_bytes = 0;
                self.length = 0;
            }
            frames += u64::from(self.body_bytes_left == 0);
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn the_frame_layout_is_pinned() {
        let mut out = Vec::new();
        block_on(write_frame(&mut out, b"trellis")).unwrap();
        assert_eq!(hex::encode(out), "000000077472656c6c6973");
    }

    // row: NET-56
    #[test]
    fn a_frame_above_its_bound_is_refused_before_its_bytes_are_read() {
        let mut wire: &[u8] = &[0, 0, 1, 1, 9, 9];
        let error = block_on(read_frame(&mut wire, 256)).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { actual: 257, max: 256 }), "{error}");
        assert_eq!(wire, &[9, 9]);
    }

    #[test]
    fn the_counter_knows_whether_a_frame_is_passing() {
        let mut counter = FrameCounter::default();
        assert_eq!(counter.inside(), None);
        counter.feed(&[0, 0]);
        assert_eq!(counter.inside(), Some(0));
        counter.feed(&[0, 3, 1]);
        assert_eq!(counter.inside(), Some(3));
        assert_eq!((counter.feed(&[1, 1]), counter.inside()), (1, None));
    }

    #[test]
    fn the_end_between_frames_is_not_the_end_inside_one() {
        assert!(matches!(block_on(read_frame(&mut &[][..], 9)), Err(FrameError::End)));
        let cut = block_on(read_frame(&mut &[0, 0, 0, 5, 1, 2][..], 9));
        assert!(matches!(cut, Err(FrameError::Truncated { read: 2, expected: 5 })));
        let cut = block_on(read_frame(&mut &[0, 0][..], 9));
        assert!(matches!(cut, Err(FrameError::Truncated { read: 2, expected: 4 })));
    }

    proptest! {
        #[test]
        fn frames_survive_the_wire_in_order(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8), cut in 1usize..50) {
            let mut wire = Vec::new();
            for body in &bodies {
                block_on(write_frame(&mut wire, body)).unwrap();
            }
            let mut counter = FrameCounter::default();
            let counted: u64 = wire.chunks(cut).map(|chunk| counter.feed(chunk)).sum();
            prop_assert_eq!(counted, bodies.len() as u64);
            let mut rest = wire.as_slice();
            for body in &bodies {
                let read = block_on(read_frame(&mut rest, 300)).unwrap();
                prop_assert_eq!(read.as_ref(), body.as_slice());
            }
            prop_assert!(matches!(block_on(read_frame(&mut rest, 300)), Err(FrameError::End)));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = block_on(read_frame(&mut bytes.as_slice(), 100));
            FrameCounter::default().feed(&bytes);
        }
    }
}
