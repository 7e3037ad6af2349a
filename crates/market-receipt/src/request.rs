//! The request of a job: OpenAI's JSON in canonical bytes, the parameters that a receipt binds, and the digests.

use alloy_primitives::Keccak256;
use alloy_rlp::{Encodable, RlpEncodable};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use trellis_primitives::{B256, Bytes, keccak256};

/// A request's JSON at most, in bytes.
pub const PROMPT_BYTES_MAX: usize = 1024 * 1024;
/// Messages in a chat at most.
pub const MESSAGES_MAX: usize = 4_096;
/// Stop sequences at most, as in OpenAI's API.
pub const STOP_SEQUENCES_MAX: usize = 4;
/// A stop sequence's length at most, in bytes.
pub const STOP_BYTES_MAX: usize = 256;
/// `max_tokens` at most.
pub const MAX_TOKENS_MAX: u64 = 1_000_000;
/// Temperature at most, in millionths.
const TEMPERATURE_MILLIONTHS_MAX: u32 = 2_000_000;
/// One, in millionths.
const ONE_MILLIONTHS: u32 = 1_000_000;

/// Why a request is not accepted. `param` is the field's name as OpenAI's error envelope wants it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Too long.
    #[error("the request has {actual} bytes, at most {PROMPT_BYTES_MAX} are accepted")]
    TooLong {
        /// What was given.
        actual: usize,
    },
    /// Not a JSON object.
    #[error("the request is not a JSON object: {reason}")]
    NotJson {
        /// The parser's words.
        reason: String,
    },
    /// A field is missing.
    #[error("the field {param} is missing")]
    Missing {
        /// The field.
        param: &'static str,
    },
    /// A field has a value outside its range or of another type.
    #[error("the field {param} must be {expected}")]
    Field {
        /// The field.
        param: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A kind that is not in the table.
    #[error("job kind {actual} is not in the table")]
    Kind {
        /// What was given.
        actual: u32,
    },
}

impl RequestError {
    /// The field at fault, if it is one.
    #[must_use]
    pub const fn param(&self) -> Option<&'static str> {
        match self {
            Self::Missing { param } | Self::Field { param, .. } => Some(param),
            Self::TooLong { .. } | Self::NotJson { .. } | Self::Kind { .. } => None,
        }
    }
}

/// Which of OpenAI's routes a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// `/v1/chat/completions`.
    Chat = 1,
    /// `/v1/completions`.
    Completion = 2,
}

impl JobKind {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Chat => 1,
            Self::Completion => 2,
        }
    }

    /// From the number on the wire.
    ///
    /// # Errors
    /// [`RequestError::Kind`].
    pub const fn from_number(number: u32) -> Result<Self, RequestError> {
        match number {
            1 => Ok(Self::Chat),
            2 => Ok(Self::Completion),
            actual => Err(RequestError::Kind { actual }),
        }
    }
}

/// The sampling parameters that a receipt binds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, RlpEncodable)]
pub struct Parameters {
    /// Output tokens at most.
    pub max_tokens: u64,
    /// Temperature in millionths; 0 is greedy.
    pub temperature_millionths: u32,
    /// Nucleus in millionths; one million is off.
    pub top_p_millionths: u32,
    /// The seed of the sampler.
    pub seed: u64,
    /// Stop sequences.
    pub stop: Vec<String>,
}

impl Parameters {
    /// Keccak-256 over the RLP: the receipt's `parametersHash`.
    #[must_use]
    pub fn hash(&self) -> B256 {
        let mut out = Vec::with_capacity(self.length());
        self.encode(&mut out);
        keccak256(out)
    }
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, ...
    pub role: String,
    /// The text; parts of type `text` are joined.
    pub content: String,
}

/// A checked request. The bytes are what both sides hash; the other fields are read from them and never written back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRequest {
    /// The route.
    pub kind: JobKind,
    /// Canonical JSON: keys sorted, no white space.
    pub bytes: Bytes,
    /// The model's name.
    pub model: String,
    /// The chat; empty for a completion.
    pub messages: Vec<ChatMessage>,
    /// The prompt; empty for a chat.
    pub prompt: String,
    /// What the receipt binds.
    pub parameters: Parameters,
}

impl JobRequest {
    /// Makes a request from a client's body: fills in `max_tokens` and `seed` where they are missing, asks for a stream, sorts keys.
    ///
    /// # Errors
    /// [`RequestError`] names the field.
    pub fn from_openai(kind: JobKind, body: Value, max_tokens: u64, seed: u64) -> Result<Self, RequestError> {
        let Value::Object(mut body) = body else {
            return Err(RequestError::NotJson { reason: "the top is not an object".to_owned() });
        };
        body.retain(|_, value| !value.is_null());
        if let Some(alias) = body.remove("max_completion_tokens") {
            body.insert("max_tokens".to_owned(), alias);
        }
        body.entry("max_tokens").or_insert_with(|| Value::from(max_tokens));
        body.entry("seed").or_insert_with(|| Value::from(seed));
        body.remove("stream_options");
        body.insert("stream".to_owned(), Value::Bool(true));
        let bytes = serde_json::to_vec(&sorted(Value::Object(body)))
            .map_err(|error| RequestError::NotJson { reason: error.to_string() })?;
        Self::parse(kind, bytes.into())
    }

    /// Reads received bytes.
    ///
    /// # Errors
    /// [`RequestError`] names the field.
    pub fn parse(kind: JobKind, bytes: Bytes) -> Result<Self, RequestError> {
        if bytes.len() > PROMPT_BYTES_MAX {
            return Err(RequestError::TooLong { actual: bytes.len() });
        }
        let body: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|error| RequestError::NotJson { reason: error.to_string() })?;
        let model = match body.get("model") {
            Some(Value::String(model)) if !model.is_empty() && model.len() <= 256 => model.clone(),
            Some(_) => return Err(RequestError::Field { param: "model", expected: "a name of 1 to 256 bytes" }),
            None => return Err(RequestError::Missing { param: "model" }),
        };
        let (messages, prompt) = match kind {
            JobKind::Chat => (read_messages(&body)?, String::new()),
            JobKind::Completion => (Vec::new(), read_prompt(&body)?),
        };
        let parameters = read_parameters(&body)?;
        Ok(Self { kind, bytes, model, messages, prompt, parameters })
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|left, right| left.0.cmp(&right.0));
            Value::Object(entries.into_iter().map(|(key, inner)| (key, sorted(inner))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn read_messages(body: &Map<String, Value>) -> Result<Vec<ChatMessage>, RequestError> {
    const EXPECTED: &str = "a list of 1 to 4096 objects with role and content";
    let fault = RequestError::Field { param: "messages", expected: EXPECTED };
    let list = match body.get("messages") {
        Some(Value::Array(list)) if !list.is_empty() && list.len() <= MESSAGES_MAX => list,
        Some(_) => return Err(fault),
        None => return Err(RequestError::Missing { param: "messages" }),
    };
    let mut messages = Vec::with_capacity(list.len());
    for item in list {
        let role = item.get("role").and_then(Value::as_str).filter(|role| role.len() <= 64);
        let content = match item.get("content") {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Array(parts)) => parts.iter().map(|part| part.get("text")?.as_str()).collect(),
            Some(Value::Null) | None => Some(String::new()),
            Some(_) => None,
        };
        let (Some(role), Some(content)) = (role, content) else { return Err(fault) };
        messages.push(ChatMessage { role: role.to_owned(), content });
    }
    Ok(messages)
}

fn read_prompt(body: &Map<String, Value>) -> Result<String, RequestError> {
    let fault = RequestError::Field { param: "prompt", expected: "a text, or a list of one text" };
    match body.get("prompt") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(list)) => match list.as_slice() {
            [Value::String(text)] => Ok(text.clone()),
            _ => Err(fault),
        },
        Some(_) => Err(fault),
        None => Err(RequestError::Missing { param: "prompt" }),
    }
}

fn read_parameters(body: &Map<String, Value>) -> Result<Parameters, RequestError> {
    let max_tokens = match body.get("max_tokens").map(Value::as_u64) {
        Some(Some(count)) if (1..=MAX_TOKENS_MAX).contains(&count) => count,
        Some(_) => {
            return Err(RequestError::Field { param: "max_tokens", expected: "a whole number from 1 to 1000000" });
        }
        None => return Err(RequestError::Missing { param: "max_tokens" }),
    };
    let seed = match body.get("seed") {
        Some(Value::Number(number)) => number
            .as_u64()
            .or_else(|| number.as_i64().map(i64::cast_unsigned))
            .ok_or(RequestError::Field { param: "seed", expected: "a whole number of 64 bits" })?,
        Some(_) => return Err(RequestError::Field { param: "seed", expected: "a whole number of 64 bits" }),
        None => return Err(RequestError::Missing { param: "seed" }),
    };
    let many = body.get("n").is_some_and(|n| n.as_u64() != Some(1));
    if many {
        return Err(RequestError::Field { param: "n", expected: "1" });
    }
    Ok(Parameters {
        max_tokens,
        temperature_millionths: millionths(body, "temperature", "a number from 0 to 2", TEMPERATURE_MILLIONTHS_MAX)?,
        top_p_millionths: millionths(body, "top_p", "a number from 0 to 1", ONE_MILLIONTHS)?,
        seed,
        stop: read_stop(body)?,
    })
}

/// A number from zero to `max` millionths; one where the field is missing, as in OpenAI's API.
fn millionths(
    body: &Map<String, Value>,
    param: &'static str,
    expected: &'static str,
    max: u32,
) -> Result<u32, RequestError> {
    let Some(value) = body.get(param) else { return Ok(ONE_MILLIONTHS) };
    let fault = RequestError::Field { param, expected };
    let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0).ok_or(fault.clone())?;
    let scaled = (number * f64::from(ONE_MILLIONTHS)).round();
    if scaled > f64::from(max) {
        return Err(fault);
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and within 0..=max, checked above"
    )]
    let whole = scaled as u32;
    Ok(whole)
}

fn read_stop(body: &Map<String, Value>) -> Result<Vec<String>, RequestError> {
    let fault = RequestError::Field { param: "stop", expected: "a text or at most 4 texts, each of 1 to 256 bytes" };
    let stops: Vec<String> = match body.get("stop") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) => {
            let texts: Option<Vec<String>> = list.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            texts.ok_or(fault.clone())?
        }
        Some(_) => return Err(fault),
    };
    let bounded =
        stops.len() <= STOP_SEQUENCES_MAX && stops.iter().all(|stop| !stop.is_empty() && stop.len() <= STOP_BYTES_MAX);
    if bounded { Ok(stops) } else { Err(fault) }
}

/// The receipt's `requestDigest`: salted, because receipts become public and a short prompt could be guessed from its bare hash.
#[must_use]
pub fn request_digest(salt: &B256, kind: JobKind, bytes: &[u8]) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(b"trellis/request/1");
    hasher.update(salt);
    hasher.update(kind.number().to_be_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// The receipt's `promptCommitment`: only the gateway knows the opening, so a provider cannot tell a canary from a real prompt.
#[must_use]
pub fn prompt_commitment(opening: &B256, bytes: &[u8]) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(b"trellis/prompt/1");
    hasher.update(opening);
    hasher.update(bytes);
    hasher.finalize()
}

/// The receipt's `outputDigest`, fed with the text as it streams; salted like the request.
#[derive(Clone)]
pub struct OutputHasher {
    hasher: Keccak256,
    bytes: u64,
}

impl OutputHasher {
    /// Begins with the job's salt.
    #[must_use]
    pub fn new(salt: &B256) -> Self {
        let mut hasher = Keccak256::new();
        hasher.update(b"trellis/output/1");
        hasher.update(salt);
        Self { hasher, bytes: 0 }
    }

    /// Feeds the next piece of text.
    pub fn update(&mut self, text: &str) {
        self.hasher.update(text.as_bytes());
        self.bytes = self.bytes.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
    }

    /// Bytes of text so far; an upstream without a tokenizer has at most as many tokens.
    #[must_use]
    pub const fn text_bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of what was fed so far.
    #[must_use]
    pub fn digest(&self) -> B256 {
        self.hasher.clone().finalize()
    }
}

impl std::fmt::Debug for OutputHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputHasher").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(body: Value) -> Result<JobRequest, RequestError> {
        JobRequest::from_openai(JobKind::Chat, body, 64, 9)
    }

    #[test]
    fn a_clients_body_becomes_the_same_bytes_whatever_its_key_order() {
        let one =
            chat(json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0})).unwrap();
        let body: Value =
            serde_json::from_str(r#"{"temperature":0,"messages":[{"content":"hi","role":"user"}],"model":"m"}"#)
                .unwrap();
        let two = chat(body).unwrap();
        assert_eq!(one, two);
        assert_eq!(one.parameters.temperature_millionths, 0);
        assert_eq!((one.parameters.max_tokens, one.parameters.seed), (64, 9));
        assert_eq!(JobRequest::parse(JobKind::Chat, one.bytes.clone()).unwrap(), one);
    }

    #[test]
    fn text_parts_are_joined_and_the_newer_name_of_max_tokens_is_known() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let body = json!({"model": "m", "messages": [{"role": "user", "content": parts}], "max_completion_tokens": 5});
        let request = chat(body).unwrap();
        assert_eq!(request.messages[0].content, "ab");
        assert_eq!(request.parameters.max_tokens, 5);
    }

    #[test]
    fn bad_fields_are_named() {
        let with = |key: &str, value: Value| {
            let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
            body[key] = value;
            chat(body).unwrap_err().param()
        };
        assert_eq!(with("max_tokens", json!(-1)), Some("max_tokens"));
        assert_eq!(with("max_tokens", json!(10_000_000)), Some("max_tokens"));
        assert_eq!(with("max_tokens", json!("many")), Some("max_tokens"));
        assert_eq!(with("temperature", json!(3)), Some("temperature"));
        assert_eq!(with("top_p", json!(-0.1)), Some("top_p"));
        assert_eq!(with("stop", json!(["a", "b", "c", "d", "e"])), Some("stop"));
        assert_eq!(with("messages", json!([])), Some("messages"));
        assert_eq!(with("messages", json!([{"content": 5}])), Some("messages"));
        assert_eq!(with("n", json!(2)), Some("n"));
        assert_eq!(with("model", json!("")), Some("model"));
        assert!(matches!(chat(json!([])), Err(RequestError::NotJson { .. })));
        let huge = "x".repeat(PROMPT_BYTES_MAX);
        let long = chat(json!({"model": "m", "messages": [{"role": "user", "content": huge}]}));
        assert!(matches!(long, Err(RequestError::TooLong { .. })));
    }

    #[test]
    fn digests_depend_on_salt_kind_and_every_byte() {
        let salt = B256::repeat_byte(1);
        let base = request_digest(&salt, JobKind::Chat, b"abc");
        assert_ne!(base, request_digest(&B256::ZERO, JobKind::Chat, b"abc"));
        assert_ne!(base, request_digest(&salt, JobKind::Completion, b"abc"));
        assert_ne!(base, request_digest(&salt, JobKind::Chat, b"abd"));
        let mut pieces = OutputHasher::new(&salt);
        pieces.update("ab");
        pieces.update("c");
        let mut whole = OutputHasher::new(&salt);
        whole.update("abc");
        assert_eq!(pieces.digest(), whole.digest());
        assert_eq!(pieces.text_bytes(), 3);
    }
}
