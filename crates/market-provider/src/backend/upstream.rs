//! Any OpenAI-compatible server as a backend: Ollama, vLLM, llama.cpp, or another gateway.
//!
//! Without the model's tokenizer nothing can be recounted, so such a model is listed as unverified (tokenizer digest zero). Before the
//! answer, the prompt is charged by its bytes, [`BYTES_PER_PROMPT_TOKEN`] to a token, which is below what tokenizers give for common
//! text; at the end the server's own `usage` is charged where it is higher and possible (tokens never exceed bytes).

use super::sse::SseReader;
use super::{Backend, BackendDone, BackendError, BackendEvent, BackendInfo, BackendStream};
use async_trait::async_trait;
use futures::StreamExt;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;
use trellis_market_receipt::{FinishReason, InstructionSet, JobKind, JobRequest};
use trellis_primitives::{B256, keccak256};

/// Bytes of a request that count as one prompt token before the server says its own count.
pub const BYTES_PER_PROMPT_TOKEN: u64 = 8;
/// An error body is read up to this many bytes.
const ERROR_BYTES_MAX: usize = 2_048;

/// Where the server is and what it serves.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// The base URL up to and with `/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// A bearer token, if the server wants one.
    pub api_key: Option<String>,
    /// Prompt and answer together, in tokens.
    pub context_tokens: u32,
    /// Jobs at once.
    pub capacity: u32,
    /// To connect, in milliseconds.
    pub connect_wait_ms: u64,
    /// To the first byte of the answer, in milliseconds.
    pub response_wait_ms: u64,
}

/// Runs requests on an OpenAI-compatible server.
pub struct UpstreamBackend {
    config: UpstreamConfig,
    client: reqwest::Client,
}

impl UpstreamBackend {
    /// A client for this server; nothing is sent yet.
    ///
    /// # Errors
    /// [`BackendError::Failed`] where the HTTP client cannot be made.
    pub fn new(config: UpstreamConfig) -> Result<Self, BackendError> {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(config.connect_wait_ms))
            .build()
            .map_err(|error| BackendError::Failed { reason: error.to_string() })?;
        Ok(Self { config, client })
    }

    fn body(&self, request: &JobRequest) -> Result<Value, BackendError> {
        let bad = |error: serde_json::Error| BackendError::BadRequest { reason: error.to_string() };
        let mut body: Value = serde_json::from_slice(&request.bytes).map_err(bad)?;
        if let Value::Object(fields) = &mut body {
            fields.insert("model".to_owned(), Value::String(self.config.model.clone()));
            fields.insert("stream".to_owned(), Value::Bool(true));
            fields.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        Ok(body)
    }
}

async fn refusal(response: reqwest::Response) -> BackendError {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let text: String = text.chars().take(ERROR_BYTES_MAX).collect();
    let reason = format!("status {}: {text}", status.as_u16());
    match status.as_u16() {
        429 | 503 => BackendError::Busy,
        400 | 404 | 413 | 422 => BackendError::BadRequest { reason },
        _ => BackendError::Failed { reason },
    }
}

#[async_trait]
impl Backend for UpstreamBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            model_digest: keccak256(format!("trellis/upstream-model/1 {}", self.config.model)),
            tokenizer_digest: B256::ZERO,
            context_tokens: self.config.context_tokens,
            engine: format!("openai-compatible upstream, model {}", self.config.model),
            instruction_set: InstructionSet::EXTERNAL,
            capacity: self.config.capacity,
        }
    }

    async fn count_prompt(&self, request: &JobRequest) -> Result<u64, BackendError> {
        let tokens = (request.bytes.len() as u64).div_ceil(BYTES_PER_PROMPT_TOKEN);
        let max = u64::from(self.config.context_tokens);
        if tokens >= max {
            return Err(BackendError::PromptTooLong { max, actual: tokens });
        }
        Ok(tokens)
    }

    async fn start(&self, request: &JobRequest) -> Result<Box<dyn BackendStream>, BackendError> {
        let path = match request.kind {
            JobKind::Chat => "chat/completions",
            JobKind::Completion => "completions",
        };
        let url = format!("{}/{path}", self.config.url.trim_end_matches('/'));
        let body = serde_json::to_vec(&self.body(request)?)
            .map_err(|error| BackendError::BadRequest { reason: error.to_string() })?;
        let mut call = self.client.post(url).header("content-type", "application/json").body(body);
        if let Some(key) = &self.config.api_key {
            call = call.bearer_auth(key);
        }
        let wait_ms = self.config.response_wait_ms;
        let answer = tokio::time::timeout(Duration::from_millis(wait_ms), call.send()).await;
        let response = answer
            .map_err(|_| BackendError::Late { what: "answer", wait_ms })?
            .map_err(|error| BackendError::Failed { reason: error.without_url().to_string() })?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(Box::new(UpstreamStream {
            bytes: response.bytes_stream().boxed(),
            reader: SseReader::default(),
            ready: VecDeque::new(),
            finish: None,
            usage: None,
            request_bytes: request.bytes.len() as u64,
        }))
    }
}

type ByteStream = futures::stream::BoxStream<'static, Result<bytes::Bytes, reqwest::Error>>;

struct UpstreamStream {
    bytes: ByteStream,
    reader: SseReader,
    ready: VecDeque<BackendEvent>,
    finish: Option<FinishReason>,
    usage: Option<(u64, u64)>,
    request_bytes: u64,
}

impl UpstreamStream {
    /// Takes one event's data; true at the end.
    fn take(&mut self, data: &str) -> Result<bool, BackendError> {
        if data == "[DONE]" {
            return Ok(true);
        }
        let failed = |error: serde_json::Error| BackendError::Failed { reason: error.to_string() };
        let event: Value = serde_json::from_str(data).map_err(failed)?;
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            return Err(BackendError::Failed { reason: error.to_string().chars().take(ERROR_BYTES_MAX).collect() });
        }
        if let Some(usage) = event.get("usage").filter(|usage| !usage.is_null()) {
            let field = |name: &str| usage.get(name).and_then(Value::as_u64);
            if let (Some(prompt), Some(completion)) = (field("prompt_tokens"), field("completion_tokens")) {
                self.usage = Some((prompt.min(self.request_bytes), completion));
            }
        }
        let Some(choice) = event.get("choices").and_then(|choices| choices.get(0)) else { return Ok(false) };
        let text = choice.pointer("/delta/content").or_else(|| choice.get("text")).and_then(Value::as_str);
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            // Servers send one token to a piece; where one sends more, its own usage says so at the end.
            self.ready.push_back(BackendEvent::Text { text: text.to_owned(), tokens: 1 });
        }
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
            self.finish = Some(if reason == "length" { FinishReason::Length } else { FinishReason::Stop });
        }
        Ok(false)
    }

    fn end(&self) -> Result<BackendEvent, BackendError> {
        let cut = || BackendError::Failed { reason: "the upstream's answer ended early".to_owned() };
        Ok(BackendEvent::Done(BackendDone {
            finish: self.finish.ok_or_else(cut)?,
            usage: self.usage,
            token_ids: Vec::new(),
            fingerprint_root: B256::ZERO,
            error: String::new(),
        }))
    }
}

#[async_trait]
impl BackendStream for UpstreamStream {
    async fn next(&mut self) -> Result<BackendEvent, BackendError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let Some(piece) = self.bytes.next().await else { return self.end() };
            let piece = piece.map_err(|error| BackendError::Failed { reason: error.without_url().to_string() })?;
            let bad = |_| BackendError::Failed { reason: "the upstream sent a line that is no event".to_owned() };
            for data in self.reader.feed(&piece).map_err(bad)? {
                if self.take(&data)? {
                    let end = self.end()?;
                    self.ready.push_back(end);
                }
            }
        }
    }
}
