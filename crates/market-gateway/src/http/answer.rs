//! Answers in OpenAI's form: the parts that a stream and a whole answer share, and the whole answer.

use super::envelope::ApiError;
use crate::jobs::{FailureKind, JobEvent, JobFailure, JobStream, JobSummary};
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::{Value, json};
use trellis_market_receipt::{FinishReason, JobKind};
use trellis_primitives::UnixMs;

/// Hexadecimal digits of an answer's id.
const ID_DIGITS: usize = 29;

/// What every object of one answer repeats.
pub(crate) struct Head {
    kind: JobKind,
    id: String,
    model: String,
    created: u64,
}

impl Head {
    pub(crate) fn new(kind: JobKind, model: &str, now: UnixMs) -> Self {
        let random = format!("{:032x}", rand::random::<u128>());
        let digits: String = random.chars().take(ID_DIGITS).collect();
        let id = match kind {
            JobKind::Chat => format!("chatcmpl-{digits}"),
            JobKind::Completion => format!("cmpl-{digits}"),
        };
        Self { kind, id, model: model.to_owned(), created: now.as_secs() }
    }

    fn object(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    /// A chunk of a stream: text, the role before it, or the reason of the end after it.
    pub(crate) fn chunk(&self, text: Option<&str>, first: bool, finish: Option<FinishReason>) -> Value {
        let finish = finish.map(word);
        match self.kind {
            JobKind::Chat => {
                let mut delta = serde_json::Map::new();
                if first {
                    delta.insert("role".into(), json!("assistant"));
                }
                if let Some(text) = text {
                    delta.insert("content".into(), json!(text));
                }
                let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
                self.object("chat.completion.chunk", json!([choice]))
            }
            JobKind::Completion => {
                let text = text.unwrap_or_default();
                let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish});
                self.object("text_completion", json!([choice]))
            }
        }
    }

    /// The chunk that carries usage and no choice, where the client asked for it.
    pub(crate) fn usage_chunk(&self, summary: &JobSummary) -> Value {
        let object = match self.kind {
            JobKind::Chat => "chat.completion.chunk",
            JobKind::Completion => "text_completion",
        };
        with(self.object(object, json!([])), "usage", usage(summary))
    }

    fn whole(&self, text: &str, summary: &JobSummary) -> Value {
        let finish = word(summary.finish);
        let answer = match self.kind {
            JobKind::Chat => {
                let message = json!({"role": "assistant", "content": text, "refusal": null});
                let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish});
                self.object("chat.completion", json!([choice]))
            }
            JobKind::Completion => {
                let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish});
                self.object("text_completion", json!([choice]))
            }
        };
        with(with(answer, "usage", usage(summary)), "trellis", receipt(summary))
    }
}

/// What both sides signed, for clients that want to check it.
pub(crate) fn receipt(summary: &JobSummary) -> Value {
    json!({
        "job": summary.job,
        "receipt": summary.receipt,
        "provider": summary.provider,
        "cost_wei": summary.cost,
    })
}

pub(crate) fn with(mut object: Value, key: &str, value: Value) -> Value {
    if let Value::Object(map) = &mut object {
        map.insert(key.to_owned(), value);
    }
    object
}

fn usage(summary: &JobSummary) -> Value {
    json!({
        "prompt_tokens": summary.tokens_in,
        "completion_tokens": summary.tokens_out,
        "total_tokens": summary.tokens_in.saturating_add(summary.tokens_out),
    })
}

/// OpenAI's word; what it has no word for ends like a length limit, and the receipt says more.
fn word(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        _ => "length",
    }
}

/// Waits for the whole answer.
pub(crate) async fn whole(head: Head, mut job: JobStream) -> Result<Response, ApiError> {
    let mut text = String::new();
    while let Some(event) = job.next().await {
        match event {
            JobEvent::Text(more) => text.push_str(&more),
            JobEvent::Failed(failure) => return Err(failure.into()),
            JobEvent::Done(summary) => {
                let mut response = axum::Json(head.whole(&text, &summary)).into_response();
                for (name, value) in [
                    ("x-trellis-receipt", summary.receipt.to_string()),
                    ("x-trellis-provider", summary.provider.to_string()),
                    ("x-trellis-cost-wei", summary.cost.0.to_string()),
                ] {
                    if let Ok(value) = HeaderValue::from_str(&value) {
                        response.headers_mut().insert(name, value);
                    }
                }
                return Ok(response);
            }
        }
    }
    Err(JobFailure::new(FailureKind::Internal, "the job ended without a word; try again").into())
}
