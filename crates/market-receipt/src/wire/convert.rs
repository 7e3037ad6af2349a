//! Between the prost messages and the checked types. Encoding never fails; decoding checks every length and bound.

use super::raw::{self, GatewayBody, ProviderBody};
use super::{
    Accept, Accepted, CHUNK_TEXT_BYTES_MAX, ChannelState, Chunk, Countersign, Due, ERROR_TEXT_BYTES_MAX, GatewayFrame,
    HALF_SIGNED_MAX, HeldVoucher, JobError, JobErrorCode, MODEL_NAME_BYTES_MAX, PairRootOffer, Prompt, ProviderFrame,
    ProviderReceipt, Quote, QuoteRequest, TOKEN_IDS_MAX, VOUCHER_INCREMENTS_MAX, VoucherFrame, WireError,
};
use crate::advert::ADVERT_BYTES_MAX;
use crate::pair_root::PAIR_ROOT_RECEIPTS_MAX;
use crate::{
    DETAIL_BYTES_MAX, JobKind, PROMPT_BYTES_MAX, Receipt, ReceiptDetails, SignedAdvert, SignedPairRoot, SignedReceipt,
};
use trellis_primitives::{B256, Bytes, ChannelId, JobId, Wei};

/// RLP of a pair root at most, in bytes.
const PAIR_ROOT_BYTES_MAX: usize = 512;
/// A signature of any scheme at most, in bytes.
const SIGNATURE_BYTES_MAX: usize = 4_096;
/// A post-quantum proof beside a receipt at most, in bytes.
const PQ_PROOF_BYTES_MAX: usize = 512;

fn fixed<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| WireError::Length { field, expected: N, actual: bytes.len() })
}

fn word(field: &'static str, bytes: &[u8]) -> Result<B256, WireError> {
    fixed(field, bytes).map(B256::new)
}

fn job_id(bytes: &[u8]) -> Result<JobId, WireError> {
    word("job", bytes).map(JobId)
}

fn channel_id(bytes: &[u8]) -> Result<ChannelId, WireError> {
    word("channel", bytes).map(ChannelId)
}

fn wei(field: &'static str, bytes: &[u8]) -> Result<Wei, WireError> {
    fixed(field, bytes).map(|bytes| Wei(u128::from_be_bytes(bytes)))
}

fn bound(field: &'static str, max: usize, actual: usize) -> Result<(), WireError> {
    if actual > max { Err(WireError::Bound { field, max, actual }) } else { Ok(()) }
}

fn bounded(field: &'static str, max: usize, bytes: Vec<u8>) -> Result<Bytes, WireError> {
    bound(field, max, bytes.len())?;
    Ok(bytes.into())
}

fn name(field: &'static str, max: usize, text: String) -> Result<String, WireError> {
    bound(field, max, text.len())?;
    Ok(text)
}

fn wei_bytes(amount: Wei) -> Vec<u8> {
    amount.0.to_be_bytes().to_vec()
}

fn id(word: B256) -> raw::Id {
    raw::Id { id: word.to_vec() }
}

/// The start of a text, cut at a character's border.
fn cut(text: &str, max: usize) -> String {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default().to_owned()
}

impl From<&GatewayFrame> for raw::GatewayFrame {
    fn from(frame: &GatewayFrame) -> Self {
        let body = match frame {
            GatewayFrame::AdvertRequest => GatewayBody::AdvertRequest(raw::Empty {}),
            GatewayFrame::QuoteRequest(request) => GatewayBody::QuoteRequest(raw::QuoteRequest {
                model: request.model.clone(),
                request_bytes: request.request_bytes,
                max_tokens: request.max_tokens,
                channel: request.channel.map(|channel| channel.0.to_vec()),
            }),
            GatewayFrame::Accept(accept) => GatewayBody::Accept(accept.into()),
            GatewayFrame::Voucher(frame) => GatewayBody::Voucher(frame.into()),
            GatewayFrame::Prompt(prompt) => GatewayBody::Prompt(raw::Prompt {
                job: prompt.job.0.to_vec(),
                kind: prompt.kind.number(),
                salt: prompt.salt.to_vec(),
                request: prompt.request.to_vec(),
            }),
            GatewayFrame::Countersign(countersign) => GatewayBody::Countersign(raw::Countersign {
                job: countersign.job.0.to_vec(),
                signature: countersign.signature.to_vec(),
                voucher: countersign.voucher.as_ref().map(Into::into),
            }),
            GatewayFrame::Cancel(job) => GatewayBody::Cancel(id(job.0)),
            GatewayFrame::ChannelSync(channel) => GatewayBody::ChannelSync(id(channel.0)),
            GatewayFrame::PairRootOffer(offer) => GatewayBody::PairRootOffer(raw::PairRootOffer {
                root: Some((&offer.root).into()),
                digests: offer.digests.iter().map(|digest| digest.to_vec()).collect(),
            }),
        };
        Self { body: Some(body) }
    }
}

impl TryFrom<raw::GatewayFrame> for GatewayFrame {
    type Error = WireError;
    fn try_from(frame: raw::GatewayFrame) -> Result<Self, WireError> {
        Ok(match frame.body.ok_or(WireError::Unknown)? {
            GatewayBody::AdvertRequest(_) => Self::AdvertRequest,
            GatewayBody::QuoteRequest(request) => Self::QuoteRequest(QuoteRequest {
                model: name("model", MODEL_NAME_BYTES_MAX, request.model)?,
                request_bytes: request.request_bytes,
                max_tokens: request.max_tokens,
                channel: request.channel.as_deref().map(channel_id).transpose()?,
            }),
            GatewayBody::Accept(accept) => Self::Accept(accept.try_into()?),
            GatewayBody::Voucher(frame) => Self::Voucher(frame.try_into()?),
            GatewayBody::Prompt(prompt) => Self::Prompt(Prompt {
                job: job_id(&prompt.job)?,
                kind: JobKind::from_number(prompt.kind)?,
                salt: word("salt", &prompt.salt)?,
                request: bounded("request", PROMPT_BYTES_MAX, prompt.request)?,
            }),
            GatewayBody::Countersign(countersign) => Self::Countersign(Countersign {
                job: job_id(&countersign.job)?,
                signature: fixed("signature", &countersign.signature)?,
                voucher: countersign.voucher.map(TryInto::try_into).transpose()?,
            }),
            GatewayBody::Cancel(job) => Self::Cancel(job_id(&job.id)?),
            GatewayBody::ChannelSync(channel) => Self::ChannelSync(channel_id(&channel.id)?),
            GatewayBody::PairRootOffer(offer) => {
                bound("digests", PAIR_ROOT_RECEIPTS_MAX, offer.digests.len())?;
                let digests: Result<Vec<B256>, WireError> =
                    offer.digests.iter().map(|digest| word("digest", digest)).collect();
                let root = offer.root.ok_or(WireError::Missing { field: "root" })?.try_into()?;
                Self::PairRootOffer(PairRootOffer { root, digests: digests? })
            }
        })
    }
}

impl From<&ProviderFrame> for raw::ProviderFrame {
    fn from(frame: &ProviderFrame) -> Self {
        let body = match frame {
            ProviderFrame::Advert(advert) => ProviderBody::Advert(raw::SignedAdvert {
                advert_rlp: advert.advert_rlp.to_vec(),
                signature: advert.signature.to_vec(),
            }),
            ProviderFrame::Quote(quote) => ProviderBody::Quote(raw::Quote {
                price_in: wei_bytes(quote.price_in),
                price_out: wei_bytes(quote.price_out),
                expires_ms: quote.expires_ms,
                queued: quote.queued,
                prepay: quote.prepay,
            }),
            ProviderFrame::Accepted(accepted) => ProviderBody::Accepted(raw::Accepted {
                job: accepted.job.0.to_vec(),
                held: accepted.held.as_ref().map(Into::into),
                prepay: accepted.prepay,
            }),
            ProviderFrame::Due(due) => ProviderBody::Due(raw::Due {
                job: due.job.0.to_vec(),
                tokens_in: due.tokens_in,
                tokens_out: due.tokens_out,
                due: wei_bytes(due.due),
            }),
            ProviderFrame::VoucherAck(held) => ProviderBody::VoucherAck(held.into()),
            ProviderFrame::Chunk(chunk) => ProviderBody::Chunk(chunk.into()),
            ProviderFrame::Receipt(receipt) => ProviderBody::Receipt(Box::new(raw::ProviderReceipt {
                last: Some((&receipt.last).into()),
                receipt: Some((&receipt.receipt).into()),
                token_ids: receipt.token_ids.clone(),
            })),
            ProviderFrame::ReceiptAck(job) => ProviderBody::ReceiptAck(id(job.0)),
            ProviderFrame::Error(error) => ProviderBody::Error(raw::JobError {
                job: error.job.0.to_vec(),
                code: error.code.number(),
                message: cut(&error.message, ERROR_TEXT_BYTES_MAX),
            }),
            ProviderFrame::ChannelState(state) => ProviderBody::ChannelState(raw::ChannelState {
                channel: state.channel.0.to_vec(),
                held: state.held.as_ref().map(Into::into),
                half_signed: state.half_signed.iter().take(HALF_SIGNED_MAX).map(Into::into).collect(),
            }),
            ProviderFrame::PairRootAnswer(root) => ProviderBody::PairRootAnswer(root.into()),
        };
        Self { body: Some(body) }
    }
}

impl TryFrom<raw::ProviderFrame> for ProviderFrame {
    type Error = WireError;
    fn try_from(frame: raw::ProviderFrame) -> Result<Self, WireError> {
        Ok(match frame.body.ok_or(WireError::Unknown)? {
            ProviderBody::Advert(advert) => Self::Advert(SignedAdvert {
                advert_rlp: bounded("advert", ADVERT_BYTES_MAX, advert.advert_rlp)?,
                signature: bounded("signature", SIGNATURE_BYTES_MAX, advert.signature)?,
            }),
            ProviderBody::Quote(quote) => Self::Quote(Quote {
                price_in: wei("price_in", &quote.price_in)?,
                price_out: wei("price_out", &quote.price_out)?,
                expires_ms: quote.expires_ms,
                queued: quote.queued,
                prepay: quote.prepay,
            }),
            ProviderBody::Accepted(accepted) => Self::Accepted(Accepted {
                job: job_id(&accepted.job)?,
                held: accepted.held.map(TryInto::try_into).transpose()?,
                prepay: accepted.prepay,
            }),
            ProviderBody::Due(due) => Self::Due(Due {
                job: job_id(&due.job)?,
                tokens_in: due.tokens_in,
                tokens_out: due.tokens_out,
                due: wei("due", &due.due)?,
            }),
            ProviderBody::VoucherAck(held) => Self::VoucherAck(held.try_into()?),
            ProviderBody::Chunk(chunk) => Self::Chunk(chunk.try_into()?),
            ProviderBody::Receipt(receipt) => Self::Receipt(Box::new((*receipt).try_into()?)),
            ProviderBody::ReceiptAck(job) => Self::ReceiptAck(job_id(&job.id)?),
            ProviderBody::Error(error) => Self::Error(JobError {
                job: job_id(&error.job)?,
                // A code of a newer version still ends the job; it is shown as an internal one.
                code: JobErrorCode::from_number(error.code).unwrap_or(JobErrorCode::Internal),
                message: name("message", ERROR_TEXT_BYTES_MAX, error.message)?,
            }),
            ProviderBody::ChannelState(state) => {
                bound("half_signed", HALF_SIGNED_MAX, state.half_signed.len())?;
                let half_signed: Result<Vec<SignedReceipt>, WireError> =
                    state.half_signed.into_iter().map(TryInto::try_into).collect();
                Self::ChannelState(ChannelState {
                    channel: channel_id(&state.channel)?,
                    held: state.held.map(TryInto::try_into).transpose()?,
                    half_signed: half_signed?,
                })
            }
            ProviderBody::PairRootAnswer(root) => Self::PairRootAnswer(root.try_into()?),
        })
    }
}

impl From<&Accept> for raw::Accept {
    fn from(accept: &Accept) -> Self {
        Self {
            job: accept.job.0.to_vec(),
            channel: accept.channel.0.to_vec(),
            sequence: accept.sequence,
            model: accept.model.clone(),
            price_in: wei_bytes(accept.price_in),
            price_out: wei_bytes(accept.price_out),
            max_cost: wei_bytes(accept.max_cost),
            aggregator: accept.aggregator.to_vec(),
            request_digest: accept.request_digest.to_vec(),
            parameters_hash: accept.parameters_hash.to_vec(),
            prompt_commitment: accept.prompt_commitment.to_vec(),
            signature: accept.signature.to_vec(),
        }
    }
}

impl TryFrom<raw::Accept> for Accept {
    type Error = WireError;
    fn try_from(accept: raw::Accept) -> Result<Self, WireError> {
        Ok(Self {
            job: job_id(&accept.job)?,
            channel: channel_id(&accept.channel)?,
            sequence: accept.sequence,
            model: name("model", MODEL_NAME_BYTES_MAX, accept.model)?,
            price_in: wei("price_in", &accept.price_in)?,
            price_out: wei("price_out", &accept.price_out)?,
            max_cost: wei("max_cost", &accept.max_cost)?,
            aggregator: fixed("aggregator", &accept.aggregator)?.into(),
            request_digest: word("request_digest", &accept.request_digest)?,
            parameters_hash: word("parameters_hash", &accept.parameters_hash)?,
            prompt_commitment: word("prompt_commitment", &accept.prompt_commitment)?,
            signature: fixed("signature", &accept.signature)?,
        })
    }
}

impl From<&HeldVoucher> for raw::Voucher {
    fn from(held: &HeldVoucher) -> Self {
        Self {
            channel: held.channel.0.to_vec(),
            cumulative: wei_bytes(held.cumulative),
            signature: held.signature.to_vec(),
        }
    }
}

impl TryFrom<raw::Voucher> for HeldVoucher {
    type Error = WireError;
    fn try_from(voucher: raw::Voucher) -> Result<Self, WireError> {
        Ok(Self {
            channel: channel_id(&voucher.channel)?,
            cumulative: wei("cumulative", &voucher.cumulative)?,
            signature: fixed("signature", &voucher.signature)?,
        })
    }
}

impl From<&VoucherFrame> for raw::VoucherFrame {
    fn from(frame: &VoucherFrame) -> Self {
        let increments = frame.increments.iter();
        Self {
            voucher: Some((&frame.voucher).into()),
            increments: increments
                .map(|(job, amount)| raw::Increment { job: job.0.to_vec(), amount: wei_bytes(*amount) })
                .collect(),
        }
    }
}

impl TryFrom<raw::VoucherFrame> for VoucherFrame {
    type Error = WireError;
    fn try_from(frame: raw::VoucherFrame) -> Result<Self, WireError> {
        bound("increments", VOUCHER_INCREMENTS_MAX, frame.increments.len())?;
        let mut increments = Vec::with_capacity(frame.increments.len());
        for increment in &frame.increments {
            increments.push((job_id(&increment.job)?, wei("amount", &increment.amount)?));
        }
        let voucher = frame.voucher.ok_or(WireError::Missing { field: "voucher" })?.try_into()?;
        Ok(Self { voucher, increments })
    }
}

impl From<&Chunk> for raw::Chunk {
    fn from(chunk: &Chunk) -> Self {
        Self {
            job: chunk.job.0.to_vec(),
            text: chunk.text.clone(),
            tokens_in: chunk.tokens_in,
            tokens_out: chunk.tokens_out,
        }
    }
}

impl TryFrom<raw::Chunk> for Chunk {
    type Error = WireError;
    fn try_from(chunk: raw::Chunk) -> Result<Self, WireError> {
        Ok(Self {
            job: job_id(&chunk.job)?,
            text: name("text", CHUNK_TEXT_BYTES_MAX, chunk.text)?,
            tokens_in: chunk.tokens_in,
            tokens_out: chunk.tokens_out,
        })
    }
}

impl TryFrom<raw::ProviderReceipt> for ProviderReceipt {
    type Error = WireError;
    fn try_from(receipt: raw::ProviderReceipt) -> Result<Self, WireError> {
        bound("token ids", TOKEN_IDS_MAX, receipt.token_ids.len())?;
        Ok(Self {
            last: receipt.last.ok_or(WireError::Missing { field: "last" })?.try_into()?,
            receipt: receipt.receipt.ok_or(WireError::Missing { field: "receipt" })?.try_into()?,
            token_ids: receipt.token_ids,
        })
    }
}

impl From<&SignedPairRoot> for raw::PairRoot {
    fn from(root: &SignedPairRoot) -> Self {
        Self {
            record_rlp: root.record_rlp.to_vec(),
            gateway_signature: root.gateway_signature.to_vec(),
            provider_signature: root.provider_signature.to_vec(),
        }
    }
}

impl TryFrom<raw::PairRoot> for SignedPairRoot {
    type Error = WireError;
    fn try_from(root: raw::PairRoot) -> Result<Self, WireError> {
        Ok(Self {
            record_rlp: bounded("pair root", PAIR_ROOT_BYTES_MAX, root.record_rlp)?,
            gateway_signature: bounded("gateway signature", SIGNATURE_BYTES_MAX, root.gateway_signature)?,
            provider_signature: bounded("provider signature", SIGNATURE_BYTES_MAX, root.provider_signature)?,
        })
    }
}

impl From<&SignedReceipt> for raw::SignedReceipt {
    fn from(signed: &SignedReceipt) -> Self {
        Self {
            receipt: signed.receipt.to_abi_bytes(),
            // A struct of texts and numbers always has a JSON form; an empty one would fail the check of the hashes.
            details: serde_json::to_vec(&signed.details).unwrap_or_default(),
            gateway_signature: signed.gateway_signature.to_vec(),
            provider_signature: signed.provider_signature.to_vec(),
            pq_proof: signed.pq_proof.to_vec(),
        }
    }
}

impl TryFrom<raw::SignedReceipt> for SignedReceipt {
    type Error = WireError;
    fn try_from(signed: raw::SignedReceipt) -> Result<Self, WireError> {
        // Four texts of at most a kilobyte, escaped, and four stop sequences.
        bound("details", DETAIL_BYTES_MAX.saturating_mul(16), signed.details.len())?;
        let details: ReceiptDetails = serde_json::from_slice(&signed.details)
            .map_err(|error| WireError::Details { reason: error.to_string() })?;
        Ok(Self {
            receipt: Receipt::from_abi_bytes(&signed.receipt)?,
            details,
            gateway_signature: bounded("gateway signature", 65, signed.gateway_signature)?,
            provider_signature: bounded("provider signature", 65, signed.provider_signature)?,
            pq_proof: bounded("proof", PQ_PROOF_BYTES_MAX, signed.pq_proof)?,
        })
    }
}
