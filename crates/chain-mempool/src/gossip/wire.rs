//! The frame that carries transactions (NET-60, NET-61): a protobuf list of EIP-2718 encodings, packed. It can also carry
//! what its sender takes (CHN-24); who does not know that field skips it.

use super::{BODY_BYTES_MAX, FRAME_TXS_MAX};
use crate::filter::FeeFilter;
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
    /// What the sender itself takes from now on; as before where there is none.
    #[prost(message, optional, tag = "2")]
    fee_filter: Option<FeeFilterMessage>,
}

/// Wei per gas. More than 2^64 - 1 wei, some 18 TRL for each gas, cannot be asked.
#[derive(Clone, Copy, PartialEq, Message)]
struct FeeFilterMessage {
    #[prost(uint64, tag = "1")]
    fee_min_wei: u64,
    #[prost(uint64, tag = "2")]
    tip_min_wei: u64,
}

/// What a frame holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Transactions as they were encoded; they are neither read nor checked here.
    pub transactions: Vec<Bytes>,
    /// What the peer takes from now on.
    pub fee_filter: Option<FeeFilter>,
}

/// A frame for transactions, and how long its body was before it was packed.
#[must_use]
pub fn encode_frame(packer: &Packer, transactions: Vec<Bytes>) -> (Bytes, usize) {
    let body = TransactionsFrame { transactions, fee_filter: None }.encode_to_vec();
    (packer.pack(&body), body.len())
}

/// A frame that tells a peer what this pool takes.
#[must_use]
pub fn encode_filter(packer: &Packer, filter: &FeeFilter) -> Bytes {
    let clamp = |wei: u128| u64::try_from(wei).unwrap_or(u64::MAX);
    let message = FeeFilterMessage { fee_min_wei: clamp(filter.fee_min_wei), tip_min_wei: clamp(filter.tip_min_wei) };
    packer.pack(&TransactionsFrame { transactions: Vec::new(), fee_filter: Some(message) }.encode_to_vec())
}

/// What a frame holds.
///
/// # Errors
/// Where the frame is none, or holds more than it may.
pub fn decode_frame(frame: &Bytes) -> Result<Frame, FrameFault> {
    let TransactionsFrame { transactions, fee_filter } = TransactionsFrame::decode(unpack(frame, BODY_BYTES_MAX)?)?;
    if transactions.len() > FRAME_TXS_MAX {
        return Err(FrameFault::TooMany { actual: transactions.len(), max: FRAME_TXS_MAX });
    }
    let fee_filter = fee_filter
        .map(|told| FeeFilter { fee_min_wei: u128::from(told.fee_min_wei), tip_min_wei: u128::from(told.tip_min_wei) });
    Ok(Frame { transactions, fee_filter })
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
        let read = decode_frame(&frame).unwrap();
        assert_eq!((read.transactions, read.fee_filter), (vec!["one".into(), "two".into()], None));
    }

    // row: CHN-24, NET-60
    #[test]
    fn the_frame_with_a_fee_filter_is_pinned_and_bounded() {
        let filter = FeeFilter { fee_min_wei: 1_000_000_000, tip_min_wei: 300 };
        let frame = encode_filter(&Packer::default(), &filter);
        assert_eq!(alloy_primitives::hex::encode(&frame), "0012090880".to_owned() + "94ebdc0310ac02");
        assert_eq!(decode_frame(&frame).unwrap(), Frame { transactions: Vec::new(), fee_filter: Some(filter) });
        let dear = FeeFilter { fee_min_wei: u128::MAX, tip_min_wei: 0 };
        let read = decode_frame(&encode_filter(&Packer::default(), &dear)).unwrap().fee_filter;
        assert_eq!(read, Some(FeeFilter { fee_min_wei: u128::from(u64::MAX), tip_min_wei: 0 }));
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
