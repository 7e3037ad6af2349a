//! Receipt version 1: what a gateway and a provider both say about one job.

use crate::eip712::{Domain, Words};
use serde::{Deserialize, Serialize};
use trellis_primitives::{Address, B256, ChannelId, JobId, NodeId, UnixMs, Wei, keccak256};

/// The version this build writes.
pub const RECEIPT_VERSION: u16 = 1;
/// Number of words of a receipt: every field is static.
const RECEIPT_WORDS: usize = 29;
/// Length of a receipt's canonical bytes, which are also its ABI encoding.
pub const RECEIPT_ABI_BYTES: usize = RECEIPT_WORDS.saturating_mul(32);

/// The EIP-712 type string, byte for byte as the contract has it.
pub(crate) const RECEIPT_TYPE: &str = "Receipt(uint16 version,uint64 chainId,address channels,address aggregator,\
bytes32 channelId,uint64 sequence,bytes32 jobId,bytes32 gatewayNode,bytes32 providerNode,bytes32 modelDigest,\
bytes32 tokenizerDigest,bytes32 engineBuild,uint16 instructionSet,bytes32 requestDigest,bytes32 parametersHash,\
bytes32 promptCommitment,bytes32 outputDigest,bytes32 fingerprintRoot,uint64 tokensIn,uint64 tokensOut,\
uint8 finishReason,uint64 startedAtMs,uint32 timeToFirstTokenMs,uint32 durationMs,uint128 priceIn,uint128 priceOut,\
uint128 cost,uint128 writtenOff,bytes32 errorHash)";

/// Why bytes are not a receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptFormatError {
    /// Not the fixed length.
    #[error("a receipt has {expected} bytes, got {actual}")]
    Length {
        /// [`RECEIPT_ABI_BYTES`].
        expected: usize,
        /// What was given.
        actual: usize,
    },
    /// A word has bits beyond its field's width.
    #[error("receipt field {field} is wider than {bits} bits")]
    Width {
        /// The field's name in the type string.
        field: &'static str,
        /// The field's width.
        bits: u32,
    },
    /// A version this build does not know.
    #[error("receipt version {actual} is not known, this build reads version {expected}")]
    Version {
        /// [`RECEIPT_VERSION`].
        expected: u16,
        /// What was given.
        actual: u16,
    },
    /// A finish reason outside the table.
    #[error("finish reason {actual} is not in the table 1..=5")]
    Finish {
        /// What was given.
        actual: u8,
    },
}

/// Why a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FinishReason {
    /// The model ended its answer or met a stop sequence.
    Stop = 1,
    /// `max_tokens` or the context's end.
    Length = 2,
    /// The gateway cancelled.
    Cancelled = 3,
    /// The backend failed; `error_hash` says how.
    Error = 4,
    /// The channel's deposit or the accepted maximum was used up.
    OutOfFunds = 5,
}

impl FinishReason {
    /// From the number in a receipt.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Stop,
            2 => Self::Length,
            3 => Self::Cancelled,
            4 => Self::Error,
            5 => Self::OutOfFunds,
            _ => return None,
        })
    }

    /// The number in a receipt.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// OpenAI's word for it; a cancelled or failed answer has none of its own and says `stop`.
    #[must_use]
    pub const fn openai(self) -> &'static str {
        match self {
            Self::Length | Self::OutOfFunds => "length",
            Self::Stop | Self::Cancelled | Self::Error => "stop",
        }
    }
}

/// The instruction-set tier that computed a job; results repeat exactly only within one tier and one engine build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct InstructionSet(pub u16);

impl InstructionSet {
    /// Not stated.
    pub const UNKNOWN: Self = Self(0);
    /// x86-64-v1 (baseline).
    pub const X86_64_V1: Self = Self(1);
    /// x86-64-v2 (SSE4.2).
    pub const X86_64_V2: Self = Self(2);
    /// x86-64-v3 (AVX2).
    pub const X86_64_V3: Self = Self(3);
    /// x86-64-v4 (AVX-512).
    pub const X86_64_V4: Self = Self(4);
    /// aarch64 with NEON.
    pub const AARCH64_NEON: Self = Self(16);
    /// A GPU.
    pub const GPU: Self = Self(256);
    /// An upstream server that does not say.
    pub const EXTERNAL: Self = Self(512);
}

/// Receipt version 1. All fields are bound by both signatures; changing any of them makes both fail.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Receipt {
    /// [`RECEIPT_VERSION`].
    pub version: u16,
    /// The chain that holds the channel.
    pub chain_id: u64,
    /// The `PaymentChannels` contract that holds the channel.
    pub channels: Address,
    /// The one aggregator that may put this receipt into a batch; zero: nobody may.
    pub aggregator: Address,
    /// The channel that pays.
    pub channel: ChannelId,
    /// Unique within the channel; given by the gateway at accept.
    pub sequence: u64,
    /// The job.
    pub job: JobId,
    /// The gateway's node.
    pub gateway: NodeId,
    /// The provider's node.
    pub provider: NodeId,
    /// Hash of the model's weights and recipe, from its manifest.
    pub model_digest: B256,
    /// Hash of the tokenizer; zero for an upstream whose counts are unverified.
    pub tokenizer_digest: B256,
    /// Hash of the engine build ([`engine_build_digest`]).
    pub engine_build: B256,
    /// The tier that computed it.
    pub instruction_set: InstructionSet,
    /// The request as received, salted ([`crate::request_digest`]).
    pub request_digest: B256,
    /// Sampling parameters with the seed ([`crate::Parameters::hash`]).
    pub parameters_hash: B256,
    /// Commitment to the prompt, canary or not; only the gateway can open it.
    pub prompt_commitment: B256,
    /// The output's text, salted ([`crate::OutputHasher`]).
    pub output_digest: B256,
    /// Root of the token or activation fingerprints; zero when there are none.
    pub fingerprint_root: B256,
    /// Prompt tokens charged.
    pub tokens_in: u64,
    /// Output tokens charged.
    pub tokens_out: u64,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// When the provider took the job.
    pub started_at: UnixMs,
    /// Milliseconds from the start to the first token; zero when there was none.
    pub time_to_first_token_ms: u32,
    /// Milliseconds from the start to the end.
    pub duration_ms: u32,
    /// Wei per million prompt tokens.
    pub price_in: Wei,
    /// Wei per million output tokens.
    pub price_out: Wei,
    /// Wei signed for by vouchers for this job.
    pub cost: Wei,
    /// Wei metered beyond what was signed.
    pub written_off: Wei,
    /// Hash of the error text ([`error_digest`]); zero when there is none.
    pub error_hash: B256,
}

impl Receipt {
    fn push_words(&self, words: &mut Words) {
        words.uint(u128::from(self.version));
        words.uint(u128::from(self.chain_id));
        words.address(self.channels);
        words.address(self.aggregator);
        words.word(self.channel.0);
        words.uint(u128::from(self.sequence));
        words.word(self.job.0);
        words.word(self.gateway.to_b256());
        words.word(self.provider.to_b256());
        words.word(self.model_digest);
        words.word(self.tokenizer_digest);
        words.word(self.engine_build);
        words.uint(u128::from(self.instruction_set.0));
        words.word(self.request_digest);
        words.word(self.parameters_hash);
        words.word(self.prompt_commitment);
        words.word(self.output_digest);
        words.word(self.fingerprint_root);
        words.uint(u128::from(self.tokens_in));
        words.uint(u128::from(self.tokens_out));
        words.uint(u128::from(self.finish_reason.number()));
        words.uint(u128::from(self.started_at.0));
        words.uint(u128::from(self.time_to_first_token_ms));
        words.uint(u128::from(self.duration_ms));
        words.uint(self.price_in.0);
        words.uint(self.price_out.0);
        words.uint(self.cost.0);
        words.uint(self.written_off.0);
        words.word(self.error_hash);
    }

    /// The canonical bytes: 29 words, which are also the ABI encoding of the contract's struct.
    #[must_use]
    pub fn to_abi_bytes(&self) -> Vec<u8> {
        let mut words = Words::default();
        self.push_words(&mut words);
        words.into_bytes()
    }

    /// EIP-712 `hashStruct`, without the domain; this is what the receipts tree holds.
    #[must_use]
    pub fn struct_hash(&self) -> B256 {
        let mut words = Words::with_type(RECEIPT_TYPE);
        self.push_words(&mut words);
        words.hash()
    }

    /// What both sides sign: the struct hash under Settlement's domain.
    #[must_use]
    pub fn digest(&self, settlement: &Domain) -> B256 {
        settlement.digest(self.struct_hash())
    }

    /// Reads canonical bytes; every bit outside a field's width must be zero.
    ///
    /// # Errors
    /// [`ReceiptFormatError`] names the field.
    pub fn from_abi_bytes(bytes: &[u8]) -> Result<Self, ReceiptFormatError> {
        let mut reader = WordReader::new(bytes)?;
        let version = reader.small("version", 16, u16::try_from)?;
        if version != RECEIPT_VERSION {
            return Err(ReceiptFormatError::Version { expected: RECEIPT_VERSION, actual: version });
        }
        Ok(Self {
            version,
            chain_id: reader.u64("chainId")?,
            channels: reader.address("channels")?,
            aggregator: reader.address("aggregator")?,
            channel: ChannelId(reader.word()),
            sequence: reader.u64("sequence")?,
            job: JobId(reader.word()),
            gateway: NodeId::from(reader.word()),
            provider: NodeId::from(reader.word()),
            model_digest: reader.word(),
            tokenizer_digest: reader.word(),
            engine_build: reader.word(),
            instruction_set: InstructionSet(reader.small("instructionSet", 16, u16::try_from)?),
            request_digest: reader.word(),
            parameters_hash: reader.word(),
            prompt_commitment: reader.word(),
            output_digest: reader.word(),
            fingerprint_root: reader.word(),
            tokens_in: reader.u64("tokensIn")?,
            tokens_out: reader.u64("tokensOut")?,
            finish_reason: reader.finish()?,
            started_at: UnixMs(reader.u64("startedAtMs")?),
            time_to_first_token_ms: reader.small("timeToFirstTokenMs", 32, u32::try_from)?,
            duration_ms: reader.small("durationMs", 32, u32::try_from)?,
            price_in: Wei(reader.u128("priceIn")?),
            price_out: Wei(reader.u128("priceOut")?),
            cost: Wei(reader.u128("cost")?),
            written_off: Wei(reader.u128("writtenOff")?),
            error_hash: reader.word(),
        })
    }
}

/// Reads the words of a receipt one after the other; the length was checked once at the start.
struct WordReader<'a> {
    words: std::slice::ChunksExact<'a, u8>,
}

impl<'a> WordReader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, ReceiptFormatError> {
        if bytes.len() != RECEIPT_ABI_BYTES {
            return Err(ReceiptFormatError::Length { expected: RECEIPT_ABI_BYTES, actual: bytes.len() });
        }
        Ok(Self { words: bytes.chunks_exact(32) })
    }

    fn word(&mut self) -> B256 {
        self.words.next().map_or(B256::ZERO, B256::from_slice)
    }

    fn u128(&mut self, field: &'static str) -> Result<u128, ReceiptFormatError> {
        let word = self.word();
        let (high, low) = word.split_at(16);
        if high.iter().any(|byte| *byte != 0) {
            return Err(ReceiptFormatError::Width { field, bits: 128 });
        }
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(low);
        Ok(u128::from_be_bytes(bytes))
    }

    fn small<T, E>(
        &mut self,
        field: &'static str,
        bits: u32,
        narrow: impl FnOnce(u128) -> Result<T, E>,
    ) -> Result<T, ReceiptFormatError> {
        let wide = self.u128(field)?;
        narrow(wide).map_err(|_| ReceiptFormatError::Width { field, bits })
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, ReceiptFormatError> {
        self.small(field, 64, u64::try_from)
    }

    fn address(&mut self, field: &'static str) -> Result<Address, ReceiptFormatError> {
        let word = self.word();
        let (high, low) = word.split_at(12);
        if high.iter().any(|byte| *byte != 0) {
            return Err(ReceiptFormatError::Width { field, bits: 160 });
        }
        Ok(Address::from_slice(low))
    }

    fn finish(&mut self) -> Result<FinishReason, ReceiptFormatError> {
        let number = self.small("finishReason", 8, u8::try_from)?;
        FinishReason::from_number(number).ok_or(ReceiptFormatError::Finish { actual: number })
    }
}

/// The hash that stands for an engine build such as `trellis-inference 0.1.0 candle 0.11`.
#[must_use]
pub fn engine_build_digest(engine: &str) -> B256 {
    keccak256(engine)
}

/// The hash that stands for an error text; zero for none.
#[must_use]
pub fn error_digest(error: &str) -> B256 {
    if error.is_empty() { B256::ZERO } else { keccak256(error) }
}
