//! The OpenAI API over plain HTTP, as a program without a client library uses it.

use crate::http::{Response, send};
use serde_json::{Value, json};
use std::time::Instant;

/// A job's answer, streamed or whole.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The text.
    pub text: String,
    /// Pieces that carried text.
    pub pieces: usize,
    /// From the request to the first piece of a stream, in milliseconds.
    pub first_piece_ms: Option<u64>,
    /// The `trellis` object: job, receipt, provider, cost.
    pub trellis: Value,
    /// The `usage` object.
    pub usage: Value,
    /// The `error` object, also one in the midst of a stream.
    pub error: Value,
    /// A stream ended with `[DONE]`; true of every whole answer.
    pub done: bool,
    /// The connection broke before the answer's end.
    pub broken: bool,
}

impl Answer {
    /// True where there is an answer with its receipt.
    pub fn is_paid_answer(&self) -> bool {
        self.status == 200 && self.done && self.error.is_null() && self.trellis["receipt"].is_string()
    }

    /// What the job cost, in wei.
    pub fn cost(&self) -> u128 {
        let text = self.trellis["cost_wei"].as_str().unwrap_or_else(|| panic!("no cost in {self:?}"));
        text.parse().expect("wei")
    }
}

/// A chat request.
pub fn chat(prompt: &str, max_tokens: u64, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": prompt}]);
    json!({"model": "trellis-tiny", "messages": messages, "max_tokens": max_tokens, "stream": stream})
}

/// A completion request.
pub fn completion(prompt: &str, max_tokens: u64, stream: bool) -> Value {
    json!({"model": "trellis-tiny", "prompt": prompt, "max_tokens": max_tokens, "stream": stream})
}

/// Runs a job to its end, by the endpoint that its body is for.
pub fn job(openai: &str, body: Value) -> Answer {
    watched_job(openai, body, &mut |_| {})
}

/// The same, and tells how many pieces of a stream there are as each comes.
pub fn watched_job(openai: &str, mut body: Value, on_piece: &mut dyn FnMut(usize)) -> Answer {
    let began = Instant::now();
    let path = if body.get("prompt").is_some() { "completions" } else { "chat/completions" };
    if body["stream"] == true {
        body["stream_options"] = json!({"include_usage": true});
    }
    match send("POST", &format!("{openai}/{path}"), &[], body.to_string().as_bytes()) {
        Ok(response) if body["stream"] == true && response.status == 200 => streamed(response, began, on_piece),
        Ok(response) => whole(response),
        Err(error) => Answer { broken: true, error: json!(error.to_string()), ..Answer::default() },
    }
}

fn whole(response: Response) -> Answer {
    let status = response.status;
    let Ok(body) = response.json() else {
        return Answer { status, broken: true, ..Answer::default() };
    };
    let choice = &body["choices"][0];
    let text = choice["message"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default().to_owned();
    Answer {
        status,
        pieces: usize::from(!text.is_empty()),
        text,
        first_piece_ms: None,
        trellis: body["trellis"].clone(),
        usage: body["usage"].clone(),
        error: body["error"].clone(),
        done: true,
        broken: false,
    }
}

fn streamed(mut response: Response, began: Instant, on_piece: &mut dyn FnMut(usize)) -> Answer {
    let mut answer = Answer { status: response.status, ..Answer::default() };
    let mut buffer = Vec::new();
    loop {
        match response.piece() {
            Ok(Some(piece)) => buffer.extend_from_slice(&piece),
            Ok(None) => return answer,
            Err(_) => {
                answer.broken = true;
                return answer;
            }
        }
        while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = buffer.drain(..end + 2).collect();
            let before = answer.pieces;
            read_event(&String::from_utf8_lossy(&event), &mut answer);
            if answer.pieces > before {
                answer
                    .first_piece_ms
                    .get_or_insert_with(|| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
                on_piece(answer.pieces);
            }
        }
    }
}

fn read_event(event: &str, answer: &mut Answer) {
    let Some(data) = event.trim().strip_prefix("data: ") else { return };
    if data == "[DONE]" {
        answer.done = true;
        return;
    }
    let chunk: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in the event {data:?}"));
    let choice = &chunk["choices"][0];
    if let Some(text) = choice["delta"]["content"].as_str().or(choice["text"].as_str()).filter(|text| !text.is_empty())
    {
        answer.text.push_str(text);
        answer.pieces += 1;
    }
    for (field, place) in [("trellis", &mut answer.trellis), ("usage", &mut answer.usage), ("error", &mut answer.error)]
    {
        if !chunk[field].is_null() {
            *place = chunk[field].clone();
        }
    }
}

/// Starts a streaming job and drops the connection after so many bytes of its answer.
pub fn cancelled_job(openai: &str, body: &Value, after_bytes: usize) -> usize {
    let url = format!("{openai}/chat/completions");
    let mut response = send("POST", &url, &[], body.to_string().as_bytes()).expect("the job starts");
    assert_eq!(response.status, 200);
    let mut seen = 0;
    while seen < after_bytes {
        match response.piece() {
            Ok(Some(piece)) => seen += piece.len(),
            _ => break,
        }
    }
    seen
}
