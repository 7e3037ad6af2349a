//! The prost messages themselves. Numbers are never reused; a field that is no longer needed leaves a gap.

use super::{JOB_FRAME_BYTES_MAX, WireError};
use prost::{Message, Oneof};

/// Decodes a message of bounded length.
pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, WireError> {
    if bytes.len() > JOB_FRAME_BYTES_MAX {
        return Err(WireError::TooLong { actual: bytes.len() });
    }
    M::decode(bytes).map_err(|error| WireError::Prost { reason: error.to_string() })
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GatewayFrame {
    #[prost(oneof = "GatewayBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub body: Option<GatewayBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum GatewayBody {
    #[prost(message, tag = "1")]
    AdvertRequest(Empty),
    #[prost(message, tag = "2")]
    QuoteRequest(QuoteRequest),
    #[prost(message, tag = "3")]
    Accept(Accept),
    #[prost(message, tag = "4")]
    Voucher(VoucherFrame),
    #[prost(message, tag = "5")]
    Prompt(Prompt),
    #[prost(message, tag = "6")]
    Countersign(Countersign),
    #[prost(message, tag = "7")]
    Cancel(Id),
    #[prost(message, tag = "8")]
    ChannelSync(Id),
    #[prost(message, tag = "9")]
    PairRootOffer(PairRootOffer),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ProviderFrame {
    #[prost(oneof = "ProviderBody", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub body: Option<ProviderBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum ProviderBody {
    #[prost(message, tag = "1")]
    Advert(SignedAdvert),
    #[prost(message, tag = "2")]
    Quote(Quote),
    #[prost(message, tag = "3")]
    Accepted(Accepted),
    #[prost(message, tag = "4")]
    Due(Due),
    #[prost(message, tag = "5")]
    VoucherAck(Voucher),
    #[prost(message, tag = "6")]
    Chunk(Chunk),
    #[prost(message, tag = "7")]
    Receipt(Box<ProviderReceipt>),
    #[prost(message, tag = "8")]
    ReceiptAck(Id),
    #[prost(message, tag = "9")]
    Error(JobError),
    #[prost(message, tag = "10")]
    ChannelState(ChannelState),
    #[prost(message, tag = "11")]
    PairRootAnswer(PairRoot),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Id {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct QuoteRequest {
    #[prost(string, tag = "1")]
    pub model: String,
    #[prost(uint64, tag = "2")]
    pub request_bytes: u64,
    #[prost(uint64, tag = "3")]
    pub max_tokens: u64,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub channel: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Quote {
    #[prost(bytes = "vec", tag = "1")]
    pub price_in: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub price_out: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub expires_ms: u64,
    #[prost(uint32, tag = "4")]
    pub queued: u32,
    #[prost(bool, tag = "5")]
    pub prepay: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Accept {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub channel: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    #[prost(string, tag = "4")]
    pub model: String,
    #[prost(bytes = "vec", tag = "5")]
    pub price_in: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub price_out: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    pub max_cost: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    pub aggregator: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    pub request_digest: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    pub parameters_hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "11")]
    pub prompt_commitment: Vec<u8>,
    #[prost(bytes = "vec", tag = "12")]
    pub signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Voucher {
    #[prost(bytes = "vec", tag = "1")]
    pub channel: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub cumulative: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Increment {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub amount: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VoucherFrame {
    #[prost(message, optional, tag = "1")]
    pub voucher: Option<Voucher>,
    #[prost(message, repeated, tag = "2")]
    pub increments: Vec<Increment>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Prompt {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub kind: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub salt: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub request: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Countersign {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    pub voucher: Option<VoucherFrame>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PairRoot {
    #[prost(bytes = "vec", tag = "1")]
    pub record_rlp: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub gateway_signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub provider_signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PairRootOffer {
    #[prost(message, optional, tag = "1")]
    pub root: Option<PairRoot>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub digests: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SignedAdvert {
    #[prost(bytes = "vec", tag = "1")]
    pub advert_rlp: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Accepted {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub held: Option<Voucher>,
    #[prost(bool, tag = "3")]
    pub prepay: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Due {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub tokens_in: u64,
    #[prost(uint64, tag = "3")]
    pub tokens_out: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub due: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Chunk {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(string, tag = "2")]
    pub text: String,
    #[prost(uint64, tag = "3")]
    pub tokens_in: u64,
    #[prost(uint64, tag = "4")]
    pub tokens_out: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SignedReceipt {
    /// The 29 words.
    #[prost(bytes = "vec", tag = "1")]
    pub receipt: Vec<u8>,
    /// The texts behind the hashes, as JSON.
    #[prost(bytes = "vec", tag = "2")]
    pub details: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub gateway_signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub provider_signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub pq_proof: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ProviderReceipt {
    #[prost(message, optional, tag = "1")]
    pub last: Option<Chunk>,
    #[prost(message, optional, tag = "2")]
    pub receipt: Option<SignedReceipt>,
    #[prost(uint32, repeated, tag = "3")]
    pub token_ids: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct JobError {
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub code: u32,
    #[prost(string, tag = "3")]
    pub message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ChannelState {
    #[prost(bytes = "vec", tag = "1")]
    pub channel: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub held: Option<Voucher>,
    #[prost(message, repeated, tag = "3")]
    pub half_signed: Vec<SignedReceipt>,
}
