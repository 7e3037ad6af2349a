//! What a gateway checks before it countersigns: every field of the receipt, and the count of tokens.

use crate::job::error::JobFault;
use trellis_market_channel::ChannelView;
use trellis_market_inference::{ChatMessage, Role, TokenizerOnly};
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::wire::Accept;
use trellis_market_receipt::{
    FinishReason, JobKind, JobRequest, ModelOffer, RECEIPT_VERSION, SignedReceipt, VerifyError, engine_build_digest,
};
use trellis_primitives::{Address, B256, NodeId};

/// Where no ids come with the receipt (a cancelled or cut answer), so many tokens more than a fresh count of the text are accepted:
/// an eighth, for text that a model spells in more tokens than its tokenizer would, and
const RECOUNT_SLACK_TOKENS: u64 = 16;

/// What this side saw of a job.
pub(crate) struct Seen<'a> {
    pub(crate) chain_id: u64,
    pub(crate) channels: Address,
    pub(crate) settlement: Domain,
    pub(crate) gateway: NodeId,
    pub(crate) provider: NodeId,
    pub(crate) view: ChannelView,
    pub(crate) accept: &'a Accept,
    pub(crate) offer: &'a ModelOffer,
    pub(crate) output_digest: B256,
    pub(crate) tokens: (u64, u64),
    pub(crate) cancelled: bool,
}

impl Seen<'_> {
    /// Checks every field that this side knows, and the provider's signature. Times, the fingerprint root and the split of cost are
    /// the provider's to say or are checked with the money.
    pub(crate) fn check(&self, signed: &SignedReceipt) -> Result<(), JobFault> {
        let (receipt, accept, offer) = (&signed.receipt, self.accept, self.offer);
        let early = matches!(receipt.finish_reason, FinishReason::Cancelled) && !self.cancelled;
        let checks = [
            ("version", receipt.version == RECEIPT_VERSION),
            ("chain", receipt.chain_id == self.chain_id),
            ("contract", receipt.channels == self.channels),
            ("aggregator", receipt.aggregator == accept.aggregator),
            ("channel", receipt.channel == accept.channel),
            ("sequence", receipt.sequence == accept.sequence),
            ("job", receipt.job == accept.job),
            ("gateway", receipt.gateway == self.gateway),
            ("provider", receipt.provider == self.provider),
            ("model digest", receipt.model_digest == offer.model_digest),
            ("tokenizer digest", receipt.tokenizer_digest == offer.tokenizer_digest),
            ("engine build", receipt.engine_build == engine_build_digest(&offer.engine)),
            ("instruction set", receipt.instruction_set == offer.tier()),
            ("request digest", receipt.request_digest == accept.request_digest),
            ("parameters", receipt.parameters_hash == accept.parameters_hash),
            ("prompt commitment", receipt.prompt_commitment == accept.prompt_commitment),
            ("output digest", receipt.output_digest == self.output_digest),
            ("prompt tokens", receipt.tokens_in == self.tokens.0),
            ("output tokens", receipt.tokens_out == self.tokens.1),
            ("finish reason", !early),
            ("prompt price", receipt.price_in == accept.price_in),
            ("output price", receipt.price_out == accept.price_out),
            ("model name", signed.details.model == accept.model),
        ];
        if let Some((field, _)) = checks.into_iter().find(|(_, fits)| !fits) {
            return Err(JobFault::Receipt { field });
        }
        let verified = signed.verify_provider(&self.settlement, self.view.terms.payee);
        verified.map_err(|error| match error {
            VerifyError::Detail { field, .. } => JobFault::Receipt { field },
            _ => JobFault::Receipt { field: "provider signature" },
        })
    }
}

/// Prompt tokens at most: the exact count with the model's tokenizer, the request's bytes without it.
pub(crate) fn prompt_tokens(tokenizer: Option<&TokenizerOnly>, request: &JobRequest) -> Result<u64, JobFault> {
    let Some(tokenizer) = tokenizer else { return Ok(request.bytes.len() as u64) };
    let failed = |reason: String| JobFault::Count { reason };
    let counted = if request.kind == JobKind::Completion {
        tokenizer.count_text_prompt(&request.prompt)
    } else {
        let mut messages = Vec::with_capacity(request.messages.len());
        for message in &request.messages {
            let role = match message.role.as_str() {
                "system" | "developer" => Role::System,
                "user" => Role::User,
                "assistant" => Role::Assistant,
                other => return Err(failed(format!("the role {other:?} is not one of system, user, assistant"))),
            };
            messages.push(ChatMessage { role, content: message.content.clone() });
        }
        tokenizer.count_prompt(&messages)
    };
    counted.map(|tokens| tokens as u64).map_err(|error| failed(error.to_string()))
}

/// Checks that the charged output tokens spell the text (exactly, with the ids), or that the text can have so many.
pub(crate) fn recount(
    tokenizer: &TokenizerOnly,
    finish: FinishReason,
    ids: &[u32],
    text: &str,
    tokens_out: u64,
) -> Result<(), JobFault> {
    let refuse = |reason: String| JobFault::Recount { reason };
    if matches!(finish, FinishReason::Stop | FinishReason::Length) {
        if ids.len() as u64 != tokens_out {
            return Err(refuse(format!("{tokens_out} tokens are charged, {} are shown", ids.len())));
        }
        return tokenizer.verify_output(ids, text).map_err(|error| refuse(error.to_string()));
    }
    let counted = tokenizer.count_output(text) as u64;
    let max = counted.saturating_add(counted >> 3).saturating_add(RECOUNT_SLACK_TOKENS);
    if tokens_out > max {
        return Err(refuse(format!("{tokens_out} tokens are charged, the text has {counted}")));
    }
    Ok(())
}
