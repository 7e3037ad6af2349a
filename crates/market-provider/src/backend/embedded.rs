//! The embedded engine of `market-inference` as a backend.

use super::{Backend, BackendDone, BackendError, BackendEvent, BackendInfo, BackendStream};
use async_trait::async_trait;
use std::sync::Arc;
use trellis_market_inference::{
    ChatMessage, Engine, FinishReason as EngineFinish, GenerateRequest, Generation, Prompt, Role, Sampling,
    SubmitError, TokenEvent, fingerprint_root,
};
use trellis_market_receipt::{FinishReason, InstructionSet, JobKind, JobRequest};
use trellis_primitives::B256;

/// Prompts longer than this are tokenised on a thread of their own, in bytes.
const TOKENISE_INLINE_BYTES_MAX: usize = 16 * 1024;

/// Runs requests on an [`Engine`].
#[derive(Clone)]
pub struct EmbeddedBackend {
    engine: Arc<Engine>,
    capacity: u32,
}

impl EmbeddedBackend {
    /// Wraps a running engine that decodes so many sequences at once.
    #[must_use]
    pub const fn new(engine: Arc<Engine>, capacity: u32) -> Self {
        Self { engine, capacity }
    }
}

/// The tier of a machine as a receipt's number, from the engine's words.
fn instruction_set(tier: &str) -> InstructionSet {
    match tier {
        "avx512-vnni" => InstructionSet::X86_64_V4,
        "avx-vnni" | "avx2" => InstructionSet::X86_64_V3,
        "x86-64-baseline" => InstructionSet::X86_64_V1,
        neon if neon.starts_with("neon") => InstructionSet::AARCH64_NEON,
        _ => InstructionSet::UNKNOWN,
    }
}

fn prompt(request: &JobRequest) -> Result<Prompt, BackendError> {
    if request.kind == JobKind::Completion {
        return Ok(Prompt::Text(request.prompt.clone()));
    }
    let mut messages = Vec::with_capacity(request.messages.len());
    for message in &request.messages {
        let role = match message.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                let reason = format!("the role {other:?} is not one of system, user, assistant");
                return Err(BackendError::BadRequest { reason });
            }
        };
        messages.push(ChatMessage { role, content: message.content.clone() });
    }
    Ok(Prompt::Chat(messages))
}

#[allow(clippy::cast_precision_loss, reason = "millionths below 2^24 are exact in f64 and rounded once to f32")]
fn sampling(request: &JobRequest) -> Sampling {
    let parameters = &request.parameters;
    let unit = |millionths: u32| (f64::from(millionths) / 1_000_000.0) as f32;
    Sampling {
        temperature: unit(parameters.temperature_millionths),
        // A nucleus of zero keeps the most likely token alone.
        top_p: unit(parameters.top_p_millionths.max(1)),
        seed: parameters.seed,
        max_tokens: u32::try_from(parameters.max_tokens).unwrap_or(u32::MAX),
        stop: parameters.stop.clone(),
    }
}

fn submit_error(error: SubmitError) -> BackendError {
    match error {
        SubmitError::QueueFull { .. } => BackendError::Busy,
        SubmitError::Stopped => BackendError::Failed { reason: error.to_string() },
        other => BackendError::BadRequest { reason: other.to_string() },
    }
}

#[async_trait]
impl Backend for EmbeddedBackend {
    fn info(&self) -> BackendInfo {
        let manifest = self.engine.model().manifest();
        BackendInfo {
            model_digest: B256::from(manifest.weight_digest),
            tokenizer_digest: B256::from(manifest.tokenizer_digest),
            context_tokens: manifest.context_tokens_max,
            engine: format!("{} {}", manifest.engine_build, manifest.isa_tier),
            instruction_set: instruction_set(&manifest.isa_tier),
            capacity: self.capacity,
        }
    }

    async fn count_prompt(&self, request: &JobRequest) -> Result<u64, BackendError> {
        let tokenizer = self.engine.model().tokenizer().clone();
        let prompt = prompt(request)?;
        let count = move || match &prompt {
            Prompt::Chat(messages) => tokenizer.count_prompt(messages),
            Prompt::Text(text) => tokenizer.count_text_prompt(text),
        };
        let counted = if request.bytes.len() <= TOKENISE_INLINE_BYTES_MAX {
            count()
        } else {
            let failed = |_| BackendError::Failed { reason: "the tokenizer's thread failed".to_owned() };
            tokio::task::spawn_blocking(count).await.map_err(failed)?
        };
        let actual = counted.map_err(submit_error)? as u64;
        let max = u64::from(self.engine.model().manifest().context_tokens_max);
        if actual >= max {
            return Err(BackendError::PromptTooLong { max, actual });
        }
        Ok(actual)
    }

    async fn start(&self, request: &JobRequest) -> Result<Box<dyn BackendStream>, BackendError> {
        let order = GenerateRequest { prompt: prompt(request)?, sampling: sampling(request) };
        let generation = if request.bytes.len() <= TOKENISE_INLINE_BYTES_MAX {
            self.engine.submit(order)
        } else {
            let engine = Arc::clone(&self.engine);
            let failed = |_| BackendError::Failed { reason: "the tokenizer's thread failed".to_owned() };
            tokio::task::spawn_blocking(move || engine.submit(order)).await.map_err(failed)?
        };
        Ok(Box::new(EmbeddedStream { generation: generation.map_err(submit_error)? }))
    }
}

struct EmbeddedStream {
    generation: Generation,
}

#[async_trait]
impl BackendStream for EmbeddedStream {
    async fn next(&mut self) -> Result<BackendEvent, BackendError> {
        loop {
            let event = self.generation.next().await;
            let died = || BackendError::Failed { reason: "the engine stopped".to_owned() };
            match event.ok_or_else(died)? {
                TokenEvent::Started { .. } => {}
                TokenEvent::Text { text, tokens } => {
                    return Ok(BackendEvent::Text { text, tokens: u64::from(tokens) });
                }
                TokenEvent::Done { finish, tokens_out, token_ids, fingerprints, .. } => {
                    let finish = match finish {
                        EngineFinish::Stop => FinishReason::Stop,
                        EngineFinish::Length => FinishReason::Length,
                        EngineFinish::Cancelled => FinishReason::Cancelled,
                        EngineFinish::Error => FinishReason::Error,
                    };
                    let failed = finish == FinishReason::Error;
                    let fingerprint_root =
                        if fingerprints.is_empty() { B256::ZERO } else { B256::from(fingerprint_root(&fingerprints)) };
                    return Ok(BackendEvent::Done(BackendDone {
                        finish,
                        usage: Some((u64::from(self.generation.tokens_in()), u64::from(tokens_out))),
                        token_ids,
                        fingerprint_root,
                        error: if failed { "the engine failed".to_owned() } else { String::new() },
                    }));
                }
            }
        }
    }
}
