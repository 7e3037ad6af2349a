//! The frames of `/trellis/job/1`: length-delimited prost, field numbers fixed for ever, every size bounded.
//!
//! ```text
//! gateway                                   provider
//!   AdvertRequest ─────────────────────────▶
//!                 ◀───────────────────────── Advert            what is for sale, signed
//!   QuoteRequest ──────────────────────────▶
//!                 ◀───────────────────────── Quote             whether this job would be taken now
//!   Accept, Prompt ────────────────────────▶                   signed by the channel's signer
//!                 ◀───────────────────────── Accepted          the highest voucher the provider holds
//!                 ◀───────────────────────── Due               pay up to here, then it goes on
//!   Voucher ───────────────────────────────▶
//!                 ◀───────────────────────── VoucherAck        durable
//!                 ◀───────────────────────── Chunk ...         text, tokens so far
//!   Cancel (at any time) ──────────────────▶
//!                 ◀───────────────────────── Receipt           signed, with the last chunk
//!   Countersign (with the final voucher) ──▶
//!                 ◀───────────────────────── ReceiptAck        durable
//!   PairRootOffer ─────────────────────────▶                   on a stream of its own
//!                 ◀───────────────────────── PairRootAnswer
//!   ChannelSync ───────────────────────────▶                   on a stream of its own, after a restart
//!                 ◀───────────────────────── ChannelState
//! ```
//! A voucher follows the `Accepted` or `ChannelState` of its channel: before it the provider has not looked at the channel yet.
//! Received bytes that carry a signature (advert, pair root, receipt words) are kept and never encoded again to verify it.

mod convert;
mod raw;

use crate::{JobKind, PROMPT_BYTES_MAX, ReceiptFormatError, RequestError, SignedAdvert, SignedPairRoot, SignedReceipt};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::fmt;
use trellis_crypto::{AccountKey, SignatureError, domain_hash, recover};
use trellis_primitives::{Address, B256, Bytes, ChannelId, JobId, NodeId, Wei};

/// The protocol's name.
pub const JOB_PROTOCOL: &str = "/trellis/job/1";
/// A frame at most, in bytes: a prompt and its envelope.
pub const JOB_FRAME_BYTES_MAX: usize = PROMPT_BYTES_MAX.saturating_add(64 * 1024);
/// Text in one chunk at most, in bytes.
pub const CHUNK_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Increments beside one voucher at most.
pub const VOUCHER_INCREMENTS_MAX: usize = 1_024;
/// A model's name at most, in bytes.
pub const MODEL_NAME_BYTES_MAX: usize = 256;
/// An error's text at most, in bytes.
pub const ERROR_TEXT_BYTES_MAX: usize = 1_024;
/// Output token ids beside a receipt at most.
pub const TOKEN_IDS_MAX: usize = 256 * 1024;
/// Half-signed receipts in one channel state at most.
pub const HALF_SIGNED_MAX: usize = 64;

/// Why a frame is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Too long.
    #[error("a frame has at most {JOB_FRAME_BYTES_MAX} bytes, got {actual}")]
    TooLong {
        /// What was given.
        actual: usize,
    },
    /// Not prost.
    #[error("not a frame: {reason}")]
    Prost {
        /// The decoder's words.
        reason: String,
    },
    /// No message of a known number.
    #[error("the frame holds no message that this version knows")]
    Unknown,
    /// A field has the wrong length.
    #[error("field {field} has {expected} bytes, got {actual}")]
    Length {
        /// Which field.
        field: &'static str,
        /// Its length.
        expected: usize,
        /// What was given.
        actual: usize,
    },
    /// A field passes its bound.
    #[error("field {field} is at most {max}, got {actual}")]
    Bound {
        /// Which field.
        field: &'static str,
        /// Its bound.
        max: usize,
        /// What was given.
        actual: usize,
    },
    /// A part is missing.
    #[error("field {field} is missing")]
    Missing {
        /// Which field.
        field: &'static str,
    },
    /// The receipt's words are wrong.
    #[error(transparent)]
    Receipt(#[from] ReceiptFormatError),
    /// The request's kind is unknown.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The texts beside a receipt cannot be read.
    #[error("the texts beside the receipt: {reason}")]
    Details {
        /// The parser's words.
        reason: String,
    },
}

/// Asks whether a job of this size would be taken now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteRequest {
    /// The model's name.
    pub model: String,
    /// Length of the request's JSON.
    pub request_bytes: u64,
    /// Output tokens at most.
    pub max_tokens: u64,
    /// The channel it would be paid from, if there is one.
    pub channel: Option<ChannelId>,
}

/// The answer to a [`QuoteRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// Wei per million prompt tokens.
    pub price_in: Wei,
    /// Wei per million output tokens.
    pub price_out: Wei,
    /// Until when the prices hold, Unix milliseconds.
    pub expires_ms: u64,
    /// Jobs waiting before this one.
    pub queued: u32,
    /// True where the first risk unit must be paid before anything is delivered.
    pub prepay: bool,
}

/// Takes the offer. Signed by the channel's voucher signer, so that nobody can run up debts on another's channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// The job; chosen by the gateway.
    pub job: JobId,
    /// The channel that pays.
    pub channel: ChannelId,
    /// The receipt's sequence; unique within the channel.
    pub sequence: u64,
    /// The model's name.
    pub model: String,
    /// Wei per million prompt tokens.
    pub price_in: Wei,
    /// Wei per million output tokens.
    pub price_out: Wei,
    /// The most that the gateway will sign for this job, in wei.
    pub max_cost: Wei,
    /// The aggregator that the receipt will name.
    pub aggregator: Address,
    /// What the prompt's bytes will hash to.
    pub request_digest: B256,
    /// What the parameters hash to.
    pub parameters_hash: B256,
    /// Commitment to the prompt, canary or not.
    pub prompt_commitment: B256,
    /// `r ‖ s ‖ v` over [`Accept::digest`] by the channel's voucher signer.
    pub signature: [u8; 65],
}

impl Accept {
    /// What the voucher signer signs: every field, both nodes and the chain.
    #[must_use]
    pub fn digest(&self, chain_id: u64, gateway: NodeId, provider: NodeId) -> B256 {
        let mut fields = raw::Accept::from(self);
        fields.signature.clear();
        let mut bytes = gateway.0.to_vec();
        bytes.extend_from_slice(&provider.0);
        bytes.extend_from_slice(&fields.encode_to_vec());
        domain_hash("trellis/accept/1", chain_id, &bytes)
    }

    /// Puts the signature in.
    pub fn sign(&mut self, chain_id: u64, gateway: NodeId, provider: NodeId, signer: &AccountKey) {
        self.signature = signer.sign_hash(self.digest(chain_id, gateway, provider));
    }

    /// Who signed.
    ///
    /// # Errors
    /// [`SignatureError`] for a malformed signature.
    pub fn signer(&self, chain_id: u64, gateway: NodeId, provider: NodeId) -> Result<Address, SignatureError> {
        recover(self.digest(chain_id, gateway, provider), &self.signature)
    }
}

/// The provider has taken the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The job.
    pub job: JobId,
    /// The highest voucher that the provider holds on this channel, if any.
    pub held: Option<HeldVoucher>,
    /// True where the first risk unit must be paid before anything is delivered.
    pub prepay: bool,
}

/// A voucher as its holder shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeldVoucher {
    /// The channel.
    pub channel: ChannelId,
    /// What it is worth in all.
    pub cumulative: Wei,
    /// `r ‖ s ‖ v` by the channel's voucher signer.
    #[serde(with = "signature_hex")]
    pub signature: [u8; 65],
}

/// A voucher with the unsigned list of what it pays for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoucherFrame {
    /// The voucher.
    pub voucher: HeldVoucher,
    /// Since the last acknowledged voucher, in the order in which the counter grew.
    pub increments: Vec<(JobId, Wei)>,
}

/// The request itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The job.
    pub job: JobId,
    /// The route.
    pub kind: JobKind,
    /// The salt of the request's and the output's digests.
    pub salt: B256,
    /// Canonical JSON.
    pub request: Bytes,
}

/// The provider goes on when vouchers for the job reach `due`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The job.
    pub job: JobId,
    /// Prompt tokens metered so far.
    pub tokens_in: u64,
    /// Output tokens metered so far, delivered or ready to be.
    pub tokens_out: u64,
    /// What must be signed for the job in all, in wei.
    pub due: Wei,
}

/// A piece of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The job.
    pub job: JobId,
    /// The text.
    pub text: String,
    /// Prompt tokens charged.
    pub tokens_in: u64,
    /// Output tokens charged up to and with this chunk.
    pub tokens_out: u64,
}

/// The provider's receipt, with the last piece of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderReceipt {
    /// The last piece; its text may be empty.
    pub last: Chunk,
    /// The receipt, signed by the provider.
    pub receipt: SignedReceipt,
    /// The ids of the output tokens, with which a gateway recounts exactly; empty for an upstream without a tokenizer.
    pub token_ids: Vec<u32>,
}

/// The gateway's signature and the final voucher, together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Countersign {
    /// The job.
    pub job: JobId,
    /// `r ‖ s ‖ v` over the receipt by the channel's voucher signer.
    pub signature: [u8; 65],
    /// Pays the rest of the cost; nothing where all is paid.
    pub voucher: Option<VoucherFrame>,
}

/// Why a job is refused or ends early. The number is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobErrorCode {
    /// A frame that does not belong here.
    Protocol = 1,
    /// No such model here.
    UnknownModel = 2,
    /// The queue is full.
    Busy = 3,
    /// The request is malformed or does not match its digests.
    BadRequest = 4,
    /// The prompt is longer than the model's context.
    PromptTooLong = 5,
    /// The offered prices are below the advertised ones.
    Price = 6,
    /// The channel is unknown, short, closing, near expiry or not with this provider.
    Channel = 7,
    /// The voucher is not good.
    Voucher = 8,
    /// The payment did not come in time.
    PaymentLate = 9,
    /// The backend failed.
    Backend = 10,
    /// The provider is shutting down.
    ShuttingDown = 11,
    /// The chain was not seen for too long.
    ChainUnseen = 12,
    /// The receipt or its countersignature is not good.
    Receipt = 13,
    /// Something inside failed.
    Internal = 14,
}

impl JobErrorCode {
    /// All codes, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Protocol,
        Self::UnknownModel,
        Self::Busy,
        Self::BadRequest,
        Self::PromptTooLong,
        Self::Price,
        Self::Channel,
        Self::Voucher,
        Self::PaymentLate,
        Self::Backend,
        Self::ShuttingDown,
        Self::ChainUnseen,
        Self::Receipt,
        Self::Internal,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// From the number on the wire.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// True where another provider may well take the same job.
    #[must_use]
    pub const fn is_worth_another_provider(self) -> bool {
        !matches!(self, Self::BadRequest)
    }
}

impl fmt::Display for JobErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol => "protocol",
            Self::UnknownModel => "unknown model",
            Self::Busy => "busy",
            Self::BadRequest => "bad request",
            Self::PromptTooLong => "prompt too long",
            Self::Price => "price",
            Self::Channel => "channel",
            Self::Voucher => "voucher",
            Self::PaymentLate => "payment late",
            Self::Backend => "backend",
            Self::ShuttingDown => "shutting down",
            Self::ChainUnseen => "chain unseen",
            Self::Receipt => "receipt",
            Self::Internal => "internal",
        })
    }
}

/// A refusal or an early end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct JobError {
    /// The job; zero where there is none.
    pub job: JobId,
    /// The cause.
    pub code: JobErrorCode,
    /// For people.
    pub message: String,
}

/// What a provider holds on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelState {
    /// The channel.
    pub channel: ChannelId,
    /// The highest voucher, if any.
    pub held: Option<HeldVoucher>,
    /// Receipts that the provider signed and the gateway has not countersigned.
    pub half_signed: Vec<SignedReceipt>,
}

/// A pair root signed by the gateway, with the digests under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairRootOffer {
    /// The root; the provider's signature is empty.
    pub root: SignedPairRoot,
    /// The receipts' digests in the root's order.
    pub digests: Vec<B256>,
}

/// What a gateway sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayFrame {
    /// Asks for the advert.
    AdvertRequest,
    /// Asks for a quote.
    QuoteRequest(QuoteRequest),
    /// Takes the offer.
    Accept(Accept),
    /// Pays.
    Voucher(VoucherFrame),
    /// The request.
    Prompt(Prompt),
    /// Signs the receipt and pays the rest.
    Countersign(Countersign),
    /// Ends the job early; what was delivered will be paid.
    Cancel(JobId),
    /// Asks what the provider holds.
    ChannelSync(ChannelId),
    /// Offers a pair root.
    PairRootOffer(PairRootOffer),
}

/// What a provider sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderFrame {
    /// What is for sale.
    Advert(SignedAdvert),
    /// The answer to a quote request.
    Quote(Quote),
    /// The job is taken.
    Accepted(Accepted),
    /// A voucher is wanted.
    Due(Due),
    /// The highest voucher that is durable.
    VoucherAck(HeldVoucher),
    /// A piece of the answer.
    Chunk(Chunk),
    /// The receipt with the last piece.
    Receipt(Box<ProviderReceipt>),
    /// The countersigned receipt is durable.
    ReceiptAck(JobId),
    /// A refusal or an early end.
    Error(JobError),
    /// What the provider holds.
    ChannelState(ChannelState),
    /// The pair root with the provider's signature.
    PairRootAnswer(SignedPairRoot),
}

impl GatewayFrame {
    /// The frame's bytes, without the length before it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        raw::GatewayFrame::from(self).encode_to_vec()
    }

    /// Reads and checks a frame.
    ///
    /// # Errors
    /// [`WireError`] names the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        raw::decode::<raw::GatewayFrame>(bytes)?.try_into()
    }
}

impl ProviderFrame {
    /// The frame's bytes, without the length before it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        raw::ProviderFrame::from(self).encode_to_vec()
    }

    /// Reads and checks a frame.
    ///
    /// # Errors
    /// [`WireError`] names the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        raw::decode::<raw::ProviderFrame>(bytes)?.try_into()
    }
}

impl SignedReceipt {
    /// The bytes that journals and batches keep.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        raw::SignedReceipt::from(self).encode_to_vec()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`WireError`] names the field.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        raw::decode::<raw::SignedReceipt>(bytes)?.try_into()
    }
}

impl SignedPairRoot {
    /// The bytes that journals keep.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        raw::PairRoot::from(self).encode_to_vec()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`WireError`] names the field.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        raw::decode::<raw::PairRoot>(bytes)?.try_into()
    }
}

impl Accept {
    /// The bytes that journals keep.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        raw::Accept::from(self).encode_to_vec()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`WireError`] names the field.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        raw::decode::<raw::Accept>(bytes)?.try_into()
    }
}

mod signature_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use trellis_primitives::Bytes;

    pub(super) fn serialize<S: Serializer>(signature: &[u8; 65], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Bytes::copy_from_slice(signature))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 65], D::Error> {
        let bytes = Bytes::deserialize(deserializer)?;
        bytes.as_ref().try_into().map_err(|_| D::Error::invalid_length(bytes.len(), &"65 bytes"))
    }
}
