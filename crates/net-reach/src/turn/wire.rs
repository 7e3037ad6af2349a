//! The bytes between this node and a TURN server, as far as the client crate does not read them: frames in a stream, and
//! what an answer refuses. A server is hostile: everything is bounded.

use turn_client_proto::types::stun::attribute::ErrorCode;
use turn_client_proto::types::stun::message::{Message, MessageClass, Method};

use super::error::TurnError;

/// Bytes of a frame: what a length of 16 bits can say, with the longer of both headers.
pub const FRAME_BYTES_MAX: usize = STUN_HEADER_BYTES + u16::MAX as usize;
/// RFC 8489: type, length, magic cookie, transaction.
const STUN_HEADER_BYTES: usize = 20;
/// RFC 8656: channel number, length.
const CHANNEL_HEADER_BYTES: usize = 4;
/// RFC 8656, 12.5: frames in a stream are as long as a multiple of this.
const ALIGNMENT: usize = 4;
/// The two highest bits of the first byte: zero for STUN, one for a channel's data.
const KIND_SHIFT: u8 = 6;

/// Cuts a stream into frames; the padding between them is taken out.
#[derive(Debug, Default)]
pub struct Frames {
    /// Never longer than what one frame and one read leave over.
    bytes: Vec<u8>,
}

impl Frames {
    /// More of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame. To be asked until there is none, before more is pushed.
    ///
    /// # Errors
    /// [`TurnError::Malformed`] where no frame can begin so; the stream cannot be followed any more.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, TurnError> {
        let Some(&[first, _, high, low]) = self.bytes.first_chunk::<CHANNEL_HEADER_BYTES>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (header, padding) = match first >> KIND_SHIFT {
            0 => (STUN_HEADER_BYTES, 0),
            1 => (CHANNEL_HEADER_BYTES, length.next_multiple_of(ALIGNMENT) - length),
            _ => return Err(TurnError::Malformed { detail: format!("a frame begins with {first:#04x}") }),
        };
        let end = header + length;
        if self.bytes.len() < end + padding {
            return Ok(None);
        }
        let mut frame: Vec<u8> = self.bytes.drain(..end + padding).collect();
        frame.truncate(end);
        Ok(Some(frame))
    }
}

/// Fills a frame up for a stream; STUN messages are aligned as they are.
pub fn pad(frame: &mut Vec<u8>) {
    frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
}

/// A STUN message, as far as it says what became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The request's number.
    pub transaction: u128,
    /// Which kind of request.
    pub method: Method,
    /// The code and words of a refusal; `None` of a success.
    pub refusal: Option<(u16, String)>,
}

impl Reply {
    /// Reads an answer of a server; `None` for everything else.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let message = Message::from_bytes(frame).ok()?;
        let refusal = match message.class() {
            MessageClass::Success => None,
            MessageClass::Error => {
                let code = message.attribute::<ErrorCode>().ok();
                Some(code.map_or((0, String::new()), |code| (code.code(), code.reason().to_owned())))
            }
            MessageClass::Request | MessageClass::Indication => return None,
        };
        Some(Self { transaction: message.transaction_id().into(), method: message.method(), refusal })
    }
}

/// The number and kind of a request that is about to be sent.
pub(super) fn request(frame: &[u8]) -> Option<(u128, Method)> {
    let message = Message::from_bytes(frame).ok()?;
    message.has_class(MessageClass::Request).then(|| (message.transaction_id().into(), message.method()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn channel(number: u16, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap();
        [&number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
    }

    proptest! {
        // row: NET-44
        #[test]
        fn frames_come_out_as_they_went_in_however_the_stream_is_cut(
            data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..70), 0..8), cut in 1usize..50,
        ) {
            let frames: Vec<Vec<u8>> = data.iter().map(|data| channel(0x4001, data)).collect();
            let mut stream = Vec::new();
            for frame in &frames {
                let mut frame = frame.clone();
                pad(&mut frame);
                stream.extend(frame);
            }
            let (mut reader, mut read) = (Frames::default(), Vec::new());
            for piece in stream.chunks(cut) {
                reader.push(piece);
                while let Some(frame) = reader.next_frame().unwrap() { read.push(frame); }
            }
            prop_assert_eq!(read, frames);
            prop_assert!(reader.bytes.is_empty());
        }

        // row: NET-56
        #[test]
        fn no_bytes_of_a_server_do_harm_and_what_waits_is_bounded(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let mut reader = Frames::default();
            for piece in pieces {
                reader.push(&piece);
                loop {
                    match reader.next_frame() {
                        Ok(Some(frame)) => { let _ = Reply::read(&frame); }
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
                prop_assert!(reader.bytes.len() <= FRAME_BYTES_MAX + ALIGNMENT);
            }
        }
    }

    #[test]
    fn a_stream_that_is_not_turn_is_told_at_its_first_byte() {
        let mut reader = Frames::default();
        reader.push(b"\x80HTTP/1.1 200 OK");
        assert!(matches!(reader.next_frame(), Err(TurnError::Malformed { .. })));
    }
}
