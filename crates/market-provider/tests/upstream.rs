//! The upstream backend against servers that speak HTTP by hand: streaming, usage, refusals, cut answers, cancellation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use trellis_market_provider::{Backend, BackendDone, BackendError, BackendEvent, UpstreamBackend, UpstreamConfig};
use trellis_market_receipt::{FinishReason, JobKind, JobRequest};

/// An answer that never comes is waited for this long.
const HANGS_WAIT_MS: u64 = 1_000;

/// What the server does after it has read the request.
enum Server {
    /// Sends this and closes.
    Says(String),
    /// Sends this, then nothing, and tells when the client has gone.
    Hangs(String, oneshot::Sender<()>),
}

fn stream_of(events: &[&str]) -> String {
    let mut text = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_owned();
    for event in events {
        text.push_str(&format!("data: {event}\n\n"));
    }
    text
}

async fn read_request(socket: &mut TcpStream) -> Value {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            if body.len() >= length.unwrap().trim().parse::<usize>().unwrap() {
                assert!(head.starts_with("POST /v1/chat/completions "), "{head}");
                return serde_json::from_str(body).unwrap();
            }
        }
        let mut buffer = [0u8; 4_096];
        let read = socket.read(&mut buffer).await.unwrap();
        assert!(read > 0);
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// Serves one request; gives the backend, and what the server received.
async fn serve(server: Server) -> (UpstreamBackend, tokio::task::JoinHandle<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/", listener.local_addr().unwrap());
    let hangs = matches!(&server, Server::Hangs(answer, _) if answer.is_empty());
    let got = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let body = read_request(&mut socket).await;
        match server {
            // A backend that has read enough may hang up before the last byte.
            Server::Says(answer) => drop(socket.write_all(answer.as_bytes()).await),
            Server::Hangs(answer, gone) => {
                let _ = socket.write_all(answer.as_bytes()).await;
                let mut rest = [0u8; 1];
                let _ = socket.read(&mut rest).await;
                let _ = gone.send(());
            }
        }
        body
    });
    let config = UpstreamConfig {
        url,
        model: "their-name".into(),
        api_key: Some("secret".into()),
        context_tokens: 4_096,
        capacity: 4,
        // Longer than a loaded machine takes; who waits in vain on purpose waits shorter.
        connect_wait_ms: 60_000,
        response_wait_ms: if hangs { HANGS_WAIT_MS } else { 60_000 },
    };
    (UpstreamBackend::new(config).unwrap(), got)
}

fn request() -> JobRequest {
    let body = json!({"model": "our-name", "messages": [{"role": "user", "content": "hi"}], "tools": [{"x": 1}]});
    JobRequest::from_openai(JobKind::Chat, body, 64, 3).unwrap()
}

async fn run(backend: &UpstreamBackend) -> Result<(String, u64, BackendDone), BackendError> {
    let mut stream = backend.start(&request()).await?;
    let (mut text, mut tokens) = (String::new(), 0);
    loop {
        match stream.next().await? {
            BackendEvent::Text { text: piece, tokens: more } => {
                text.push_str(&piece);
                tokens += more;
            }
            BackendEvent::Done(done) => return Ok((text, tokens, done)),
        }
    }
}

// row: MKT-11
#[tokio::test]
async fn an_upstreams_stream_and_usage_are_read_and_its_own_model_name_is_asked_for() {
    let answer = stream_of(&[
        r#"{"choices":[{"delta":{"role":"assistant"}}]}"#,
        r#"{"choices":[{"delta":{"content":"Hel"}}]}"#,
        r#"{"choices":[{"delta":{"content":"lo"},"finish_reason":null}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":3}}"#,
        "[DONE]",
    ]);
    let (backend, got) = serve(Server::Says(answer)).await;
    let (text, tokens, done) = run(&backend).await.unwrap();
    assert_eq!((text.as_str(), tokens), ("Hello", 2));
    assert_eq!((done.finish, done.usage), (FinishReason::Length, Some((11, 3))));
    let body = got.await.unwrap();
    assert_eq!(body["model"], "their-name");
    assert_eq!(body["stream_options"]["include_usage"], true);
    assert_eq!(body["tools"][0]["x"], 1, "what this side does not know passes through");
    assert!(backend.info().tokenizer_digest.is_zero(), "listed as unverified");
}

#[tokio::test]
async fn an_upstreams_refusals_and_faults_have_names() {
    let refusal = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 4\r\nconnection: close\r\n\r\noops");
    let fault = async |answer: String| run(&serve(Server::Says(answer)).await.0).await.unwrap_err();
    assert_eq!(fault(refusal("429 Too Many Requests")).await, BackendError::Busy);
    assert!(
        matches!(fault(refusal("404 Not Found")).await, BackendError::BadRequest { reason } if reason.contains("oops"))
    );
    assert!(matches!(fault(refusal("500 Broken")).await, BackendError::Failed { .. }));
    let cut = stream_of(&[r#"{"choices":[{"delta":{"content":"Hel"}}]}"#]);
    assert!(matches!(fault(cut).await, BackendError::Failed { reason } if reason.contains("early")));
    let garbage = stream_of(&["not json"]);
    assert!(matches!(fault(garbage).await, BackendError::Failed { .. }));
    let inner = stream_of(&[r#"{"error":{"message":"out of memory"}}"#]);
    assert!(matches!(fault(inner).await, BackendError::Failed { reason } if reason.contains("out of memory")));
}

#[tokio::test]
async fn dropping_the_stream_hangs_up_on_the_upstream() {
    let (sender, gone) = oneshot::channel();
    let answer = stream_of(&[r#"{"choices":[{"delta":{"content":"Hel"}}]}"#]);
    let (backend, _got) = serve(Server::Hangs(answer, sender)).await;
    let mut stream = backend.start(&request()).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), BackendEvent::Text { .. }));
    drop(stream);
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the upstream must see the end").unwrap();
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_or_is_not_there_is_named() {
    let (sender, _gone) = oneshot::channel();
    let (backend, _got) = serve(Server::Hangs(String::new(), sender)).await;
    assert_eq!(run(&backend).await.unwrap_err(), BackendError::Late { what: "answer", wait_ms: HANGS_WAIT_MS });
    let config = UpstreamConfig {
        url: "http://127.0.0.1:1/v1".into(),
        model: "m".into(),
        api_key: None,
        context_tokens: 16,
        capacity: 1,
        connect_wait_ms: 500,
        response_wait_ms: 500,
    };
    let absent = UpstreamBackend::new(config).unwrap();
    assert!(matches!(run(&absent).await.unwrap_err(), BackendError::Failed { .. } | BackendError::Late { .. }));
    assert!(matches!(absent.count_prompt(&request()).await, Err(BackendError::PromptTooLong { max: 16, .. })));
}
