//! Why a connection over a byte stream ends, in the peer's words.
//!
//! QUIC closes with a code and a text; TLS and yamux have neither. Between Trellis nodes the side that closes sends this
//! frame instead, once: in the place of its proof while there is no muxer, else as the whole of a last stream.
//!
//! ```text
//! 0 (1 byte) ‖ code (4, big endian) ‖ length of the text (1) ‖ text (UTF-8, at most 123 bytes)
//! ```
//! No proof begins with a zero, and no stream: what comes first there is the length of a protocol negotiation's header.

use crate::session::CloseReason;

/// The first byte of a goodbye.
pub(super) const GOODBYE_MARK: u8 = 0;
/// Bytes of a goodbye's text; longer ones are cut.
const TEXT_BYTES_MAX: usize = 123;
/// Bytes before the text.
pub(super) const HEAD_BYTES: usize = 1 + 4 + 1;
/// Bytes of a whole goodbye.
pub(super) const GOODBYE_BYTES_MAX: usize = HEAD_BYTES + TEXT_BYTES_MAX;

/// The wire form.
pub(super) fn encode(reason: &CloseReason) -> Vec<u8> {
    let mut cut = reason.text.len().min(TEXT_BYTES_MAX);
    while !reason.text.is_char_boundary(cut) {
        cut = cut.saturating_sub(1);
    }
    let text = reason.text.get(..cut).unwrap_or_default();
    let length = u8::try_from(text.len()).unwrap_or_default();
    [&[GOODBYE_MARK], reason.code.to_be_bytes().as_slice(), &[length], text.as_bytes()].concat()
}

/// How many bytes of text follow a head; `None` if it is none.
pub(super) fn text_bytes(head: &[u8; HEAD_BYTES]) -> Option<usize> {
    let [mark, _, _, _, _, length] = *head;
    let length = usize::from(length);
    (mark == GOODBYE_MARK && length <= TEXT_BYTES_MAX).then_some(length)
}

/// Reads the wire form; what follows it does not matter.
pub(super) fn decode(bytes: &[u8]) -> Option<CloseReason> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let text = rest.get(..text_bytes(head)?)?;
    let [_, a, b, c, d, _] = *head;
    Some(CloseReason { code: u32::from_be_bytes([a, b, c, d]), text: String::from_utf8_lossy(text).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_pinned() {
        let reason = CloseReason { code: 0x0102, text: "duplicate".to_owned() };
        assert_eq!(hex::encode(encode(&reason)), "0000000102096475706c6963617465");
        assert_eq!(decode(&encode(&reason)), Some(reason));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let reason = CloseReason { code: 1, text: "é".repeat(100) };
        let bytes = encode(&reason);
        assert!(bytes.len() <= GOODBYE_BYTES_MAX);
        assert_eq!(decode(&bytes).unwrap().text, "é".repeat(61));
    }

    proptest! {
        // row: NET-56
        #[test]
        fn garbage_is_no_goodbye_or_a_short_one(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(reason) = decode(&bytes) {
                prop_assert_eq!(bytes[0], GOODBYE_MARK);
                // A lossy character takes three bytes.
                prop_assert!(reason.text.len() <= 3 * TEXT_BYTES_MAX);
            }
        }
    }
}
