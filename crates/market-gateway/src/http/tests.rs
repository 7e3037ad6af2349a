//! The HTTP side alone, against scripted jobs: forms, errors, cancellation. Real jobs run in the scenarios.

use super::{BODY_BYTES_MAX, HttpConfig, router};
use crate::jobs::{FailureKind, JobEvent, JobFailure, JobStream, JobSummary, Jobs};
use async_trait::async_trait;
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use trellis_market_receipt::{FinishReason, JobRequest, ModelOffer};
use trellis_primitives::{B256, JobId, NodeId, SystemClock, Wei};

struct Scripted {
    dropped: Arc<AtomicUsize>,
}

struct CountsDrop(Arc<AtomicUsize>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn summary() -> JobSummary {
    JobSummary {
        job: JobId(B256::repeat_byte(1)),
        receipt: B256::repeat_byte(2),
        provider: NodeId([3; 32]),
        finish: FinishReason::Stop,
        tokens_in: 5,
        tokens_out: 2,
        cost: Wei(77),
    }
}

#[async_trait]
impl Jobs for Scripted {
    async fn offers(&self) -> Vec<(NodeId, ModelOffer)> {
        let offer = ModelOffer {
            name: "m/1".into(),
            model_digest: B256::repeat_byte(9),
            tokenizer_digest: B256::ZERO,
            price_in: Wei(1),
            price_out: Wei(2),
            context_tokens: 512,
            capacity: 1,
            running: 0,
            kinds: 3,
            engine: String::new(),
            instruction_set: 0,
            region: String::new(),
        };
        vec![(NodeId([3; 32]), offer)]
    }

    async fn start(&self, request: JobRequest) -> Result<JobStream, JobFailure> {
        let guard = CountsDrop(Arc::clone(&self.dropped));
        let events = match request.model.as_str() {
            "m/1" => vec![JobEvent::Text("Hel".into()), JobEvent::Text("lo".into()), JobEvent::Done(summary())],
            "endless" => {
                let endless = futures::stream::repeat_with(move || {
                    let _held = &guard;
                    JobEvent::Text("x".into())
                });
                return Ok(Box::pin(endless.then(|event| async {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    event
                })));
            }
            "breaks" => vec![
                JobEvent::Text("a".into()),
                JobEvent::Failed(JobFailure::new(FailureKind::Deadline, "no token within 30 s")),
            ],
            "poor" => return Err(JobFailure::new(FailureKind::Funds, "the channel is short")),
            "busy" => return Err(JobFailure::new(FailureKind::Busy, "all providers are full")),
            _ => return Err(JobFailure::new(FailureKind::UnknownModel, "The model does not exist")),
        };
        Ok(Box::pin(futures::stream::iter(events)))
    }
}

async fn server(keys: &[&str]) -> (String, Arc<AtomicUsize>) {
    let dropped = Arc::new(AtomicUsize::new(0));
    let jobs = Arc::new(Scripted { dropped: Arc::clone(&dropped) });
    let config = HttpConfig { api_keys: keys.iter().map(ToString::to_string).collect() };
    let routes = router(jobs, Arc::new(SystemClock), config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (format!("http://{address}"), dropped)
}

async fn ask(base: &str, path: &str, body: Value) -> (u16, Value) {
    let response = reqwest::Client::new().post(format!("{base}{path}")).json(&body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
}

// row: MKT-10
#[tokio::test]
async fn a_chat_comes_back_whole_with_usage_and_receipt() {
    let (base, _) = server(&[]).await;
    let (status, answer) = ask(&base, "/v1/chat/completions", chat("m/1")).await;
    assert_eq!(status, 200);
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["total_tokens"], 7);
    assert_eq!(answer["trellis"]["cost_wei"], "77");
}

// row: MKT-10
#[tokio::test]
async fn a_stream_has_role_text_end_usage_and_done() {
    let (base, _) = server(&[]).await;
    let mut body = chat("m/1");
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let response = reqwest::Client::new().post(format!("{base}/v1/chat/completions")).json(&body).send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let text = response.text().await.unwrap();
    let chunks: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(chunks.last(), Some(&"[DONE]"));
    let parsed: Vec<Value> = chunks[..chunks.len() - 1].iter().map(|c| serde_json::from_str(c).unwrap()).collect();
    assert_eq!(parsed[0]["choices"][0]["delta"]["role"], "assistant");
    let said: String = parsed.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(said, "Hello");
    assert_eq!(parsed[2]["choices"][0]["finish_reason"], "stop");
    assert_eq!(parsed[3]["usage"]["prompt_tokens"], 5);
    assert_eq!(parsed[3]["choices"], json!([]));
}

// row: MKT-10
#[tokio::test]
async fn a_client_that_goes_away_drops_the_job() {
    let (base, dropped) = server(&[]).await;
    let mut body = chat("endless");
    body["stream"] = json!(true);
    let response = reqwest::Client::new().post(format!("{base}/v1/chat/completions")).json(&body).send().await.unwrap();
    let mut bytes = response.bytes_stream();
    bytes.next().await.unwrap().unwrap();
    drop(bytes);
    for _ in 0..6_000 {
        if dropped.load(Ordering::SeqCst) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the job went on after its client had gone");
}

// row: MKT-10
#[tokio::test]
async fn every_bad_request_gets_openais_envelope_with_the_field_named() {
    let (base, _) = server(&[]).await;
    let cases = [
        (json!({"messages": [{"role": "user", "content": "x"}]}), 400, "model"),
        (json!({"model": "m/1"}), 400, "messages"),
        (json!({"model": "m/1", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1}), 400, "max_tokens"),
        (
            json!({"model": "m/1", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1u64 << 60}),
            400,
            "max_tokens",
        ),
        (json!({"model": "m/1", "messages": [{"role": "user", "content": "x"}], "temperature": 9}), 400, "temperature"),
        (json!({"model": "m/1", "messages": [{"role": "user", "content": "x"}], "n": 2}), 400, "n"),
        (json!({"model": "m/1", "messages": [{"role": "user", "content": "x"}], "stream": "yes"}), 400, "stream"),
        (json!({"model": "m/1", "messages": [{"role": "user", "content": "x"}], "logprobs": true}), 400, "logprobs"),
        (chat("none"), 404, "model"),
    ];
    for (body, status, param) in cases {
        let (got, answer) = ask(&base, "/v1/chat/completions", body.clone()).await;
        assert_eq!((got, answer["error"]["param"].as_str()), (status, Some(param)), "{body}: {answer}");
        assert_eq!(answer["error"]["type"], "invalid_request_error");
    }
    let (status, answer) = ask(&base, "/v1/chat/completions", chat("poor")).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (402, Some("insufficient_funds")));
    let (status, _) = ask(&base, "/v1/chat/completions", chat("busy")).await;
    assert_eq!(status, 429);
    let (status, answer) = ask(&base, "/v1/chat/completions", chat("breaks")).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (504, Some("deadline_exceeded")));
}

#[tokio::test]
async fn malformed_json_an_unknown_route_a_wrong_method_and_a_huge_body_are_told_apart() {
    let (base, _) = server(&[]).await;
    let client = reqwest::Client::new();
    let send = |body: Vec<u8>| client.post(format!("{base}/v1/chat/completions")).body(body).send();
    assert_eq!(send(b"{".to_vec()).await.unwrap().status(), 400);
    assert_eq!(send(vec![b' '; BODY_BYTES_MAX + 1]).await.unwrap().status(), 413);
    assert_eq!(client.get(format!("{base}/v1/nothing")).send().await.unwrap().status(), 404);
    assert_eq!(client.get(format!("{base}/v1/completions")).send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn a_key_is_wanted_where_keys_are_set_and_none_is_leaked() {
    let (base, _) = server(&["right"]).await;
    let client = reqwest::Client::new();
    let get = |key: &'static str| client.get(format!("{base}/v1/models")).header("authorization", key).send();
    assert_eq!(get("Bearer right").await.unwrap().status(), 200);
    let refused = get("Bearer wrong").await.unwrap();
    assert_eq!(refused.status(), 401);
    let answer: Value = refused.json().await.unwrap();
    assert_eq!(answer["error"]["code"], "invalid_api_key");
    assert!(!answer.to_string().contains("right"));
    assert_eq!(client.get(format!("{base}/v1/models")).send().await.unwrap().status(), 401);
    assert_eq!(client.get(format!("{base}/health")).send().await.unwrap().status(), 200);
}

// row: MKT-10
#[tokio::test]
async fn models_are_listed_with_prices_and_found_by_a_name_with_a_slash() {
    let (base, _) = server(&[]).await;
    let client = reqwest::Client::new();
    let list: Value = client.get(format!("{base}/v1/models")).send().await.unwrap().json().await.unwrap();
    assert_eq!(list["data"][0]["id"], "m/1");
    assert_eq!(list["data"][0]["offers"][0]["price_out_wei_per_million"], "2");
    assert_eq!(client.get(format!("{base}/v1/models/m/1")).send().await.unwrap().status(), 200);
    assert_eq!(client.get(format!("{base}/v1/models/m2")).send().await.unwrap().status(), 404);
}
