//! What goes over the network: receipts and vouchers to an aggregator, batches to whoever checks them.
//!
//! `/trellis/settle/1`: each stream carries [`Submit`] frames and one [`SubmitAnswer`] for each, in order.
//! `/trellis/batch/1`: each stream carries [`BatchRequest`] frames and one [`BatchAnswer`] for each, in order. Anybody who is
//! connected may ask; batches are served for as long as their window lasts and longer.
//! Field numbers are never reused.

use prost::Message;
use trellis_contracts::settlement::Settlement::PathStep;
use trellis_market_receipt::{IncludeBy, SignedReceipt};
use trellis_net_peers::Protocol;
use trellis_primitives::{B256, Bytes, ChannelId, Wei};

use crate::error::{DataError, Refusal};
use crate::leaf::LeafData;

/// Receipts and vouchers to an aggregator.
pub const SETTLE_PROTOCOL: Protocol = Protocol("/trellis/settle/1");
/// A batch's leaves and paths.
pub const BATCH_PROTOCOL: Protocol = Protocol("/trellis/batch/1");
/// Receipts in one [`Submit`].
pub const SUBMIT_RECEIPTS_MAX: usize = 256;
/// Vouchers in one [`Submit`].
pub const SUBMIT_VOUCHERS_MAX: usize = 256;
/// Leaves in one [`BatchAnswer`].
pub const LEAVES_PER_ANSWER_MAX: usize = 512;
/// Levels in one path: a batch has at most 2^24 receipts.
pub const PATH_STEPS_MAX: usize = 24;
/// Bytes of one frame on either protocol.
pub const SETTLE_FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A channel's latest voucher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatestVoucher {
    /// The channel.
    pub channel: ChannelId,
    /// Everything promised on it so far.
    pub cumulative: Wei,
    /// The voucher signer's 65 bytes.
    pub signature: Bytes,
}

/// What became of one receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It will be in the batch of the promise.
    Promised(IncludeBy),
    /// It will not.
    Refused(Refusal),
}

/// Receipts and vouchers, from either side of a channel.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Submit {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) receipts: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) vouchers: Vec<RawVoucher>,
}

/// A voucher.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawVoucher {
    #[prost(bytes = "vec", tag = "1")]
    channel: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    cumulative: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    signature: Vec<u8>,
}

/// One answer for each receipt and for each voucher, in order.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SubmitAnswer {
    #[prost(message, repeated, tag = "1")]
    pub(crate) receipts: Vec<RawOutcome>,
    /// 0 for taken, else the refusal's number.
    #[prost(uint32, repeated, tag = "2")]
    pub(crate) vouchers: Vec<u32>,
}

/// What became of one receipt.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawOutcome {
    /// 0 for promised, else the refusal's number.
    #[prost(uint32, tag = "1")]
    refusal: u32,
    #[prost(uint64, tag = "2")]
    batch: u64,
    #[prost(bytes = "vec", tag = "3")]
    signature: Vec<u8>,
}

/// A question about a batch.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BatchRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) root: Vec<u8>,
    /// The first leaf that is wanted, or the node's index.
    #[prost(uint32, tag = "2")]
    pub(crate) index: u32,
    /// 0: leaves. 1: the path of the leaf at `index`, padding included.
    #[prost(uint32, tag = "3")]
    pub(crate) what: u32,
}

/// [`BatchRequest::what`] for leaves.
pub(crate) const WANT_LEAVES: u32 = 0;
/// [`BatchRequest::what`] for a path.
pub(crate) const WANT_PATH: u32 = 1;

/// The answer to a [`BatchRequest`].
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BatchAnswer {
    /// False: not served here.
    #[prost(bool, tag = "1")]
    pub(crate) found: bool,
    /// Receipts in the batch.
    #[prost(uint32, tag = "2")]
    pub(crate) count: u32,
    #[prost(message, repeated, tag = "3")]
    pub(crate) leaves: Vec<RawLeaf>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) path: Vec<RawStep>,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) leaf_hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) leaf_sum: Vec<u8>,
}

/// One leaf.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawLeaf {
    #[prost(bytes = "vec", tag = "1")]
    receipt: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    signatures: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pq_hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    sum: Vec<u8>,
}

/// One level of a path.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RawStep {
    #[prost(bytes = "vec", tag = "1")]
    sibling: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    sibling_sum: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    parent_sum: Vec<u8>,
}

/// One leaf's hash and sum, and the way from it to the root, as an aggregator states them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafPath {
    /// The leaf's hash, zero for padding.
    pub hash: B256,
    /// The leaf's sum in wei.
    pub sum: u128,
    /// The way up.
    pub steps: Vec<PathStep>,
}

impl TryFrom<&BatchAnswer> for LeafPath {
    type Error = DataError;
    fn try_from(answer: &BatchAnswer) -> Result<Self, DataError> {
        let (actual, max) = (answer.path.len(), PATH_STEPS_MAX);
        if actual > max {
            return Err(DataError::TooMany { what: "steps", actual, max });
        }
        Ok(Self {
            hash: word("leaf_hash", &answer.leaf_hash)?,
            sum: sum("leaf_sum", &answer.leaf_sum)?,
            steps: answer.path.iter().map(PathStep::try_from).collect::<Result<_, _>>()?,
        })
    }
}

fn word(field: &'static str, bytes: &[u8]) -> Result<B256, DataError> {
    B256::try_from(bytes).map_err(|_| DataError::Field(field))
}

fn sum(field: &'static str, bytes: &[u8]) -> Result<u128, DataError> {
    bytes.try_into().map(u128::from_be_bytes).map_err(|_| DataError::Field(field))
}

impl From<&LatestVoucher> for RawVoucher {
    fn from(voucher: &LatestVoucher) -> Self {
        Self {
            channel: voucher.channel.0.to_vec(),
            cumulative: voucher.cumulative.0.to_be_bytes().to_vec(),
            signature: voucher.signature.to_vec(),
        }
    }
}

impl TryFrom<&RawVoucher> for LatestVoucher {
    type Error = DataError;
    fn try_from(raw: &RawVoucher) -> Result<Self, DataError> {
        Ok(Self {
            channel: ChannelId(word("channel", &raw.channel)?),
            cumulative: Wei(sum("cumulative", &raw.cumulative)?),
            signature: Bytes::copy_from_slice(&raw.signature),
        })
    }
}

impl From<&Outcome> for RawOutcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Promised(promise) => {
                Self { refusal: 0, batch: promise.batch, signature: promise.signature.to_vec() }
            }
            Outcome::Refused(refusal) => Self { refusal: *refusal as u32, batch: 0, signature: Vec::new() },
        }
    }
}

impl RawOutcome {
    /// Reads the outcome for a receipt that was submitted.
    pub(crate) fn read(&self, signed: &SignedReceipt) -> Result<Outcome, DataError> {
        if self.refusal != 0 {
            return Refusal::from_number(self.refusal).map(Outcome::Refused).ok_or(DataError::Field("refusal"));
        }
        Ok(Outcome::Promised(IncludeBy {
            receipt: signed.receipt.struct_hash(),
            channel: signed.receipt.channel,
            sequence: signed.receipt.sequence,
            batch: self.batch,
            signature: Bytes::copy_from_slice(&self.signature),
        }))
    }
}

impl From<&LeafData> for RawLeaf {
    fn from(leaf: &LeafData) -> Self {
        Self {
            receipt: leaf.abi_bytes(),
            signatures: leaf.signatures.to_vec(),
            pq_hash: leaf.pq_hash.to_vec(),
            sum: leaf.sum.to_be_bytes().to_vec(),
        }
    }
}

impl TryFrom<&RawLeaf> for LeafData {
    type Error = DataError;
    fn try_from(raw: &RawLeaf) -> Result<Self, DataError> {
        Self::from_parts(&raw.receipt, &raw.signatures, &raw.pq_hash, &raw.sum)
    }
}

impl From<&PathStep> for RawStep {
    fn from(step: &PathStep) -> Self {
        Self {
            sibling: step.sibling.to_vec(),
            sibling_sum: step.siblingSum.to_be_bytes().to_vec(),
            parent_sum: step.parentSum.to_be_bytes().to_vec(),
        }
    }
}

impl TryFrom<&RawStep> for PathStep {
    type Error = DataError;
    fn try_from(raw: &RawStep) -> Result<Self, DataError> {
        Ok(Self {
            sibling: word("sibling", &raw.sibling)?,
            siblingSum: sum("sibling_sum", &raw.sibling_sum)?,
            parentSum: sum("parent_sum", &raw.parent_sum)?,
        })
    }
}

impl Submit {
    /// Refuses a message with more in it than one may have.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let bounds = [
            ("receipts", self.receipts.len(), SUBMIT_RECEIPTS_MAX),
            ("vouchers", self.vouchers.len(), SUBMIT_VOUCHERS_MAX),
        ];
        for (what, actual, max) in bounds {
            if actual > max {
                return Err(DataError::TooMany { what, actual, max });
            }
        }
        Ok(())
    }
}
