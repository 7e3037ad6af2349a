//! The frame that carries transactions (NET-60, NET-61): a protobuf list of EIP-2718 encodings, packed.

use super::{BODY_BYTES_MAX, FRAME_TXS_MAX};
use bytes::Bytes;
use prost::Message;
use thiserror::Error;
use trellis_net_peers::pack::{Packer, UnpackError, unpack};

/// Why a frame holds no transactions.
#[derive(Debug, Error)]
pub enum FrameFault {
    /// It cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// It is no list.
    #[error("not a list of transactions: {0}")]
    Decode(#[from] prost::DecodeError),
    /// Too many.
    #[error("{actual} transactions in a frame, at most {max} allowed")]
    TooMany {
        /// How many it holds.
        actual: usize,
        /// The bound.
        max: usize,
    },
}

#[derive(Clone, PartialEq, Message)]
struct TransactionsFrame {
    /// EIP-2718 encodings.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    transactions: Vec<Bytes>,
}

/// A frame for transactions, and how long its body was before it was packed.
#[must_use]
pub fn encode_frame(packer: &Packer, transactions: Vec<Bytes>) -> (Bytes, usize) {
    let body = TransactionsFrame { transactions }.encode_to_vec();
    (packer.pack(&body), body.len())
}

/// The transactions of a frame, as they were encoded; they are neither read nor checked here.
///
/// # Errors
/// Where the frame is none, or holds more than it may.
pub fn decode_frame(frame: &Bytes) -> Result<Vec<Bytes>, FrameFault> {
    let transactions = TransactionsFrame::decode(unpack(frame, BODY_BYTES_MAX)?)?.transactions;
    if transactions.len() > FRAME_TXS_MAX {
        return Err(FrameFault::TooMany { actual: transactions.len(), max: FRAME_TXS_MAX });
    }
    Ok(transactions)
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-60
    #[test]
    fn the_frame_is_pinned() {
        let (frame, body) =
            encode_frame(&Packer::default(), vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
        assert_eq!((alloy_primitives::hex::encode(&frame), body), ("000a036f6e650a0374776f".to_owned(), 10));
        assert_eq!(decode_frame(&frame).unwrap(), [&b"one"[..], b"two"]);
    }

    // row: NET-56
    #[test]
    fn more_transactions_than_a_frame_may_hold_are_refused() {
        let many = vec![Bytes::from_static(b"t"); FRAME_TXS_MAX + 1];
        let (frame, _) = encode_frame(&Packer::default(), many);
        let error = decode_frame(&frame).unwrap_err();
        assert!(matches!(error, FrameFault::TooMany { actual: 1_025, max: FRAME_TXS_MAX }), "{error}");
    }
}
