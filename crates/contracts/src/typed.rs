//! The EIP-712 structs that the contracts check, with their domains, digests and signatures' forms.
//!
//! Source: `contracts/README.md`, "Exact bytes". A signature is 65 bytes r ‖ s ‖ v with v = 27 or 28 and a low s.

use alloy_primitives::{Address, B256, Keccak256, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain};

pub use crate::payment_channels::PaymentChannels::Terms;
use crate::settlement::Settlement as abi;
pub use crate::settlement::Settlement::IncludeBy;

/// `name` of every EIP-712 domain of ours.
pub const DOMAIN_NAME: &str = "Trellis";
/// `version` of every EIP-712 domain of ours.
pub const DOMAIN_VERSION: &str = "1";
/// Length of a signature: r, s, v.
pub const SIGNATURE_BYTES: usize = 65;
/// `Receipt.version` of the receipts that Settlement takes.
pub const RECEIPT_VERSION: u16 = 1;

#[allow(missing_docs)]
mod structs {
    alloy_sol_types::sol! {
        /// A promise to pay `cumulativeAmount` wei (gross, since the channel opened); signed by the channel's signer.
        #[derive(Debug, PartialEq, Eq)]
        struct Voucher {
            bytes32 channelId;
            uint128 cumulativeAmount;
        }

        /// Both sides' consent to close at once at `cumulativeAmount` wei; signed by the channel's signer and its payee.
        #[derive(Debug, PartialEq, Eq)]
        struct CloseAgreement {
            bytes32 channelId;
            uint128 cumulativeAmount;
        }
    }
}
pub use structs::{CloseAgreement, Voucher};

/// The domain of `Voucher` and `CloseAgreement` (`contract` is PaymentChannels), or of `IncludeBy` and [`Receipt`]
/// (`contract` is Settlement).
#[must_use]
pub fn domain(chain_id: u64, contract: Address) -> Eip712Domain {
    eip712_domain! {
        name: DOMAIN_NAME,
        version: DOMAIN_VERSION,
        chain_id: chain_id,
        verifying_contract: contract,
    }
}

/// What is signed for `value`: `keccak256(0x1901 ‖ domain separator ‖ hashStruct(value))`.
#[must_use]
pub fn digest<T: SolStruct>(value: &T, chain_id: u64, contract: Address) -> B256 {
    value.eip712_signing_hash(&domain(chain_id, contract))
}

/// EIP-712 type of a receipt, flat; `keccak256` of it is Settlement's `RECEIPT_TYPEHASH`.
pub const RECEIPT_TYPE: &str = "Receipt(uint16 version,uint64 chainId,address channels,address aggregator,bytes32 channelId,uint64 sequence,bytes32 jobId,bytes32 gatewayNode,bytes32 providerNode,bytes32 modelDigest,bytes32 tokenizerDigest,bytes32 engineBuild,uint16 instructionSet,bytes32 requestDigest,bytes32 parametersHash,bytes32 promptCommitment,bytes32 outputDigest,bytes32 fingerprintRoot,uint64 tokensIn,uint64 tokensOut,uint8 finishReason,uint64 startedAtMs,uint32 timeToFirstTokenMs,uint32 durationMs,uint128 priceIn,uint128 priceOut,uint128 cost,uint128 writtenOff,bytes32 errorHash)";

/// Receipt v1, flat, in the order of [`RECEIPT_TYPE`]. The meaning of each field stands in `contracts/README.md`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// 1.
    pub version: u16,
    /// Chain that holds the channel.
    pub chain_id: u64,
    /// PaymentChannels contract that holds the channel.
    pub channels: Address,
    /// The one aggregator that may put this receipt into a batch; zero: nobody.
    pub aggregator: Address,
    /// Channel that paid.
    pub channel_id: B256,
    /// Number of the receipt, unique within its channel.
    pub sequence: u64,
    /// The job.
    pub job_id: B256,
    /// NodeId of the gateway.
    pub gateway_node: B256,
    /// NodeId of the provider.
    pub provider_node: B256,
    /// Digest of the model's weights, from its manifest.
    pub model_digest: B256,
    /// Digest of the tokenizer; zero for an unverified upstream.
    pub tokenizer_digest: B256,
    /// Hash of the engine's build.
    pub engine_build: B256,
    /// Instruction-set tier.
    pub instruction_set: u16,
    /// Hash of the request as received.
    pub request_digest: B256,
    /// Hash of the sampling parameters with the seed.
    pub parameters_hash: B256,
    /// Commitment to the prompt, canary or not.
    pub prompt_commitment: B256,
    /// Hash of the output.
    pub output_digest: B256,
    /// Root of the fingerprints; zero when there are none.
    pub fingerprint_root: B256,
    /// Tokens of the prompt.
    pub tokens_in: u64,
    /// Tokens of the output.
    pub tokens_out: u64,
    /// 1 stop, 2 length, 3 cancelled, 4 error, 5 out of funds.
    pub finish_reason: u8,
    /// When the job began, in Unix milliseconds.
    pub started_at_ms: u64,
    /// Milliseconds from the beginning to the first token.
    pub time_to_first_token_ms: u32,
    /// Milliseconds from the beginning to the end.
    pub duration_ms: u32,
    /// Wei per million prompt tokens.
    pub price_in: u128,
    /// Wei per million output tokens.
    pub price_out: u128,
    /// Wei that vouchers signed for this job.
    pub cost: u128,
    /// Wei metered beyond, never to be paid.
    pub written_off: u128,
    /// Hash of the error; zero when there is none.
    pub error_hash: B256,
}

impl Receipt {
    /// `hashStruct(receipt)`, without a domain: what a leaf of the receipts tree and an `IncludeBy` name a receipt by.
    #[must_use]
    pub fn hash_struct(&self) -> B256 {
        let mut hasher = Keccak256::new();
        hasher.update(keccak256(RECEIPT_TYPE));
        hasher.update(self.to_abi().abi_encode());
        hasher.finalize()
    }

    /// What both sides sign, in the domain of the Settlement contract `settlement` of the receipt's chain.
    #[must_use]
    pub fn digest(&self, settlement: Address) -> B256 {
        let separator = domain(self.chain_id, settlement).separator();
        let mut hasher = Keccak256::new();
        hasher.update([0x19, 0x01]);
        hasher.update(separator);
        hasher.update(self.hash_struct());
        hasher.finalize()
    }

    /// The receipt as Settlement's functions take it, in its three groups.
    #[must_use]
    pub fn to_abi(&self) -> abi::Receipt {
        abi::Receipt {
            key: abi::ReceiptKey {
                version: self.version,
                chainId: self.chain_id,
                channels: self.channels,
                aggregator: self.aggregator,
                channelId: self.channel_id,
                sequence: self.sequence,
                jobId: self.job_id,
            },
            job: abi::ReceiptJob {
                gatewayNode: self.gateway_node,
                providerNode: self.provider_node,
                modelDigest: self.model_digest,
                tokenizerDigest: self.tokenizer_digest,
                engineBuild: self.engine_build,
                instructionSet: self.instruction_set,
                requestDigest: self.request_digest,
                parametersHash: self.parameters_hash,
                promptCommitment: self.prompt_commitment,
            },
            outcome: abi::ReceiptOutcome {
                outputDigest: self.output_digest,
                fingerprintRoot: self.fingerprint_root,
                tokensIn: self.tokens_in,
                tokensOut: self.tokens_out,
                finishReason: self.finish_reason,
                startedAtMs: self.started_at_ms,
                timeToFirstTokenMs: self.time_to_first_token_ms,
                durationMs: self.duration_ms,
                priceIn: self.price_in,
                priceOut: self.price_out,
                cost: self.cost,
                writtenOff: self.written_off,
                errorHash: self.error_hash,
            },
        }
    }
}

/// The id of the channel that `payer` opens with `terms` in the PaymentChannels contract `channels` of a chain.
#[must_use]
pub fn channel_id(payer: Address, terms: &Terms, chain_id: u64, channels: Address) -> B256 {
    let chain = alloy_primitives::U256::from(chain_id);
    keccak256((payer, terms.clone(), chain, channels).abi_encode())
}

/// A 65-byte signature in the EIP-2098 form (r, vs) that `settle` takes; `None` if v is neither 27 nor 28 or s is high.
#[must_use]
pub fn compact_signature(signature: &[u8; SIGNATURE_BYTES]) -> Option<(B256, B256)> {
    let r = B256::from_slice(signature.get(..32)?);
    let mut vs = B256::from_slice(signature.get(32..64)?);
    // A low s is below 2^255, so its top bit is free for v.
    if vs.0[0] & 0x80 != 0 {
        return None;
    }
    match signature[64] {
        27 => {}
        28 => vs.0[0] |= 0x80,
        _ => return None,
    }
    Some((r, vs))
}
