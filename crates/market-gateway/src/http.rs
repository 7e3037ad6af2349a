//! The OpenAI HTTP API (MKT-10): chat, completions and models; SSE; the error envelope; works with the official clients.
//!
//! Life of a request: limits and key → JSON → [`JobRequest`] → [`Jobs::start`] → text as SSE chunks or as one answer.
//! A client that goes away drops the stream, which cancels the job.

mod answer;
mod envelope;
mod stream;

#[cfg(test)]
mod tests;

use crate::jobs::{FailureKind, JobFailure, Jobs};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use envelope::ApiError;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tower_http::cors::{Any, CorsLayer};
use trellis_market_receipt::{JobKind, JobRequest, ModelOffer};
use trellis_primitives::{NodeId, SharedClock};

/// Bytes of a request's body at most.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Output tokens where the client names no maximum.
pub const MAX_TOKENS_DEFAULT: u64 = 256;

/// How the API is served.
#[derive(Clone, Debug, Default)]
pub struct HttpConfig {
    /// Keys that are accepted; none: any key, because the server listens on this machine only.
    pub api_keys: Vec<String>,
}

pub(crate) struct Api {
    jobs: Arc<dyn Jobs>,
    clock: SharedClock,
    config: HttpConfig,
}

/// Serves the API until the listener's task is dropped or aborted.
///
/// # Errors
/// What the system says of the listener.
pub async fn serve(
    listener: TcpListener,
    jobs: Arc<dyn Jobs>,
    clock: SharedClock,
    config: HttpConfig,
) -> std::io::Result<()> {
    // Tokens are small writes: with Nagle's algorithm each would wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %error, "a client's connection keeps delaying small writes");
        }
    });
    axum::serve(listener, router(jobs, clock, config).into_make_service_with_connect_info::<SocketAddr>()).await
}

/// The routes, for a server or a test.
pub fn router(jobs: Arc<dyn Jobs>, clock: SharedClock, config: HttpConfig) -> Router {
    let api = Arc::new(Api { jobs, clock, config });
    let cors = CorsLayer::new().allow_origin(Any).allow_methods([Method::GET, Method::POST]).allow_headers(Any);
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&api), check_key))
        .route("/health", get(|| async { "ok" }))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(cors)
        .with_state(api)
}

async fn chat(State(api): State<Arc<Api>>, body: Result<Bytes, axum::extract::rejection::BytesRejection>) -> Response {
    run(&api, JobKind::Chat, body).await
}

async fn completion(
    State(api): State<Arc<Api>>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    run(&api, JobKind::Completion, body).await
}

async fn run(api: &Arc<Api>, kind: JobKind, body: Result<Bytes, axum::extract::rejection::BytesRejection>) -> Response {
    let outcome = async {
        let body = body.map_err(|rejection| ApiError::body(rejection.status()))?;
        let body: Value = serde_json::from_slice(&body).map_err(|error| ApiError::json(&error))?;
        let wishes = Wishes::of(&body)?;
        let request = JobRequest::from_openai(kind, body, MAX_TOKENS_DEFAULT, rand::random::<u32>().into())
            .map_err(|error| ApiError::request(&error))?;
        let head = answer::Head::new(kind, &request.model, api.clock.now());
        let job = api.jobs.start(request).await.map_err(ApiError::from)?;
        if wishes.stream {
            Ok(stream::response(head, job, wishes.include_usage))
        } else {
            answer::whole(head, job).await
        }
    };
    outcome.await.unwrap_or_else(|error: ApiError| error.into_response())
}

/// What a client wants of the answer's form, and refusals of what we do not do.
struct Wishes {
    stream: bool,
    include_usage: bool,
}

impl Wishes {
    fn of(body: &Value) -> Result<Self, ApiError> {
        let flag = |value: Option<&Value>, param: &'static str| match value {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(ApiError::field(param, "it must be true or false")),
        };
        if body.get("n").is_some_and(|n| !n.is_null() && n != &json!(1)) {
            return Err(ApiError::field(
                "n",
                "one answer per request is supported; send the request again for another",
            ));
        }
        let unsupported = ["tools", "functions", "logprobs", "top_logprobs", "echo", "suffix", "response_format"];
        for param in unsupported {
            let asked = match body.get(param) {
                None | Some(Value::Null | Value::Bool(false)) => false,
                Some(Value::Array(items)) => !items.is_empty(),
                Some(Value::Object(object)) => object.get("type") != Some(&json!("text")),
                Some(_) => true,
            };
            if asked {
                return Err(ApiError::field(param, "this gateway does not support it yet"));
            }
        }
        let options = body.get("stream_options");
        Ok(Self {
            stream: flag(body.get("stream"), "stream")?,
            include_usage: flag(options.and_then(|o| o.get("include_usage")), "stream_options.include_usage")?,
        })
    }
}

async fn models(State(api): State<Arc<Api>>) -> Response {
    let data: Vec<Value> =
        grouped(api.jobs.offers().await).iter().map(|(name, offers)| shown(name, offers, &api)).collect();
    axum::Json(json!({"object": "list", "data": data})).into_response()
}

async fn model(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Response {
    match grouped(api.jobs.offers().await).get(&name) {
        Some(offers) => axum::Json(shown(&name, offers, &api)).into_response(),
        None => {
            let failure = JobFailure::new(FailureKind::UnknownModel, format!("The model `{name}` does not exist"));
            ApiError::from(failure).into_response()
        }
    }
}

fn grouped(offers: Vec<(NodeId, ModelOffer)>) -> BTreeMap<String, Vec<(NodeId, ModelOffer)>> {
    let mut models: BTreeMap<String, Vec<(NodeId, ModelOffer)>> = BTreeMap::new();
    for (provider, offer) in offers {
        models.entry(offer.name.clone()).or_default().push((provider, offer));
    }
    models
}

/// A model in OpenAI's form, with what it costs and who sells it beside it.
fn shown(name: &str, offers: &[(NodeId, ModelOffer)], api: &Api) -> Value {
    let sellers: Vec<Value> = offers
        .iter()
        .map(|(provider, offer)| {
            json!({
                "provider": provider,
                "price_in_wei_per_million": offer.price_in,
                "price_out_wei_per_million": offer.price_out,
                "context_tokens": offer.context_tokens,
                "capacity": offer.capacity,
                "running": offer.running,
                "model_digest": offer.model_digest,
                "verified_token_counts": !offer.tokenizer_digest.is_zero(),
            })
        })
        .collect();
    json!({
        "id": name,
        "object": "model",
        "created": api.clock.now().as_secs(),
        "owned_by": "trellis",
        "offers": sellers,
    })
}

async fn check_key(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if api.config.api_keys.is_empty() || accepted(request.headers(), &api.config.api_keys) {
        return next.run(request).await;
    }
    ApiError::key(request.headers().contains_key(header::AUTHORIZATION)).into_response()
}

fn accepted(headers: &HeaderMap, keys: &[String]) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(given) = given.and_then(|value| value.strip_prefix("Bearer ")) else { return false };
    // Every key is compared to its end, so that the time taken tells nothing about any of them.
    keys.iter().fold(false, |found, key| found | same(key.as_bytes(), given.trim().as_bytes()))
}

fn same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0u8, |all, (x, y)| all | (x ^ y));
    a.len() == b.len() && difference == 0
}

async fn unknown_route(request: Request) -> Response {
    ApiError::route(request.method(), request.uri().path(), StatusCode::NOT_FOUND).into_response()
}

async fn wrong_method(request: Request) -> Response {
    ApiError::route(request.method(), request.uri().path(), StatusCode::METHOD_NOT_ALLOWED).into_response()
}
