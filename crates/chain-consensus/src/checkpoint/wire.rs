//! A signature over a checkpoint on its way: prost, field numbers never reused.

use bytes::Bytes;
use prost::Message;
use trellis_chain_finality::CheckpointSignature;
use trellis_crypto::{BLS_SIGNATURE_BYTES, MLDSA44_SIGNATURE_BYTES};
use trellis_primitives::B256;

use crate::wire::{WireError, address, bytes32, copy};

/// Largest frame, in bytes: both signatures, hash, account and height.
pub(super) const FRAME_BYTES_MAX: usize = MLDSA44_SIGNATURE_BYTES + BLS_SIGNATURE_BYTES + 128;

/// What one member says about the checkpoint of a height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointVote {
    /// The checkpoint.
    pub(crate) height: u64,
    /// Its block, so that a vote for another one costs no verification.
    pub(crate) block_hash: B256,
    /// Who says it, with what.
    pub(crate) signature: CheckpointSignature,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCheckpointVote {
    #[prost(uint64, tag = "1")]
    height: u64,
    #[prost(bytes = "bytes", tag = "2")]
    block_hash: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    account: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    bls: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    mldsa44: Bytes,
}

impl CheckpointVote {
    pub(super) fn to_bytes(&self) -> Bytes {
        let wire = WireCheckpointVote {
            height: self.height,
            block_hash: copy(self.block_hash.as_slice()),
            account: copy(self.signature.account.as_slice()),
            bls: copy(&self.signature.bls),
            mldsa44: self.signature.mldsa44.0.clone(),
        };
        wire.encode_to_vec().into()
    }

    pub(super) fn from_bytes(frame: Bytes) -> Result<Self, WireError> {
        let wire = WireCheckpointVote::decode(frame)?;
        let length = |field, actual| WireError::Length { field, actual };
        let bls = <[u8; BLS_SIGNATURE_BYTES]>::try_from(wire.bls.as_ref());
        if wire.mldsa44.len() != MLDSA44_SIGNATURE_BYTES {
            return Err(length("mldsa44", wire.mldsa44.len()));
        }
        Ok(Self {
            height: wire.height,
            block_hash: bytes32("block_hash", &wire.block_hash)?,
            signature: CheckpointSignature {
                account: address("account", &wire.account)?,
                bls: bls.map_err(|_| length("bls", wire.bls.len()))?,
                mldsa44: wire.mldsa44.into(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use trellis_primitives::Address;

    // row: CHN-15
    #[test]
    fn a_vote_survives_its_frame_which_is_bounded_and_anything_shorter_is_refused() {
        let signature = CheckpointSignature {
            account: Address::repeat_byte(1),
            bls: [2; BLS_SIGNATURE_BYTES],
            mldsa44: vec![3; MLDSA44_SIGNATURE_BYTES].into(),
        };
        let vote = CheckpointVote { height: u64::MAX, block_hash: B256::repeat_byte(4), signature };
        let frame = vote.to_bytes();
        assert!(frame.len() <= FRAME_BYTES_MAX, "{} bytes", frame.len());
        assert_eq!(CheckpointVote::from_bytes(frame.clone()).unwrap(), vote);
        for cut in [0, 1, 40, 100, frame.len() - 1] {
            CheckpointVote::from_bytes(frame.slice(..cut)).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn bytes_of_strangers_make_no_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = CheckpointVote::from_bytes(bytes.into());
        }
    }
}
