//! OpenAI's error envelope: `{"error": {"message", "type", "param", "code"}}`, and the status that goes with it.

use crate::jobs::{FailureKind, JobFailure};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use trellis_market_receipt::RequestError;

/// Seconds after which a client that met a full queue may try again.
const RETRY_AFTER_SECONDS: u32 = 1;

/// An error as the client sees it.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    class: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl ApiError {
    fn bad_request(code: Option<&'static str>, param: Option<String>, message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, class: "invalid_request_error", code, param, message }
    }

    pub(crate) fn json(error: &serde_json::Error) -> Self {
        Self::bad_request(None, None, format!("We could not parse the JSON body of your request: {error}"))
    }

    pub(crate) fn field(param: &str, rule: &str) -> Self {
        Self::bad_request(Some("invalid_value"), Some(param.to_owned()), format!("Invalid value for '{param}': {rule}"))
    }

    pub(crate) fn request(error: &RequestError) -> Self {
        let code = matches!(error, RequestError::TooLong { .. }).then_some("request_too_large");
        Self::bad_request(code, error.param().map(str::to_owned), error.to_string())
    }

    pub(crate) fn body(status: StatusCode) -> Self {
        let message = if status == StatusCode::PAYLOAD_TOO_LARGE {
            format!("the request is longer than {} bytes", super::BODY_BYTES_MAX)
        } else {
            "the request's body could not be read".to_owned()
        };
        Self { status, ..Self::bad_request(Some("request_too_large"), None, message) }
    }

    pub(crate) fn key(given: bool) -> Self {
        let (message, code) = if given {
            ("Incorrect API key provided.", Some("invalid_api_key"))
        } else {
            ("You didn't provide an API key. Send it as `Authorization: Bearer KEY`.", None)
        };
        Self { status: StatusCode::UNAUTHORIZED, ..Self::bad_request(code, None, message.to_owned()) }
    }

    pub(crate) fn route(method: &Method, path: &str, status: StatusCode) -> Self {
        let message = if status == StatusCode::METHOD_NOT_ALLOWED {
            format!("{method} is not allowed on {path}")
        } else {
            format!("Invalid URL ({method} {path})")
        };
        Self { status, ..Self::bad_request(Some("unknown_url"), None, message) }
    }

    /// The envelope.
    pub(crate) fn to_json(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.class, "param": self.param, "code": self.code}})
    }
}

impl From<JobFailure> for ApiError {
    fn from(failure: JobFailure) -> Self {
        let (status, class, code) = match failure.kind {
            FailureKind::BadRequest => (StatusCode::BAD_REQUEST, "invalid_request_error", None),
            FailureKind::UnknownModel => (StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found")),
            FailureKind::Busy => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("providers_busy")),
            FailureKind::Funds => (StatusCode::PAYMENT_REQUIRED, "insufficient_quota", Some("insufficient_funds")),
            FailureKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("provider_unavailable")),
            FailureKind::Deadline => (StatusCode::GATEWAY_TIMEOUT, "server_error", Some("deadline_exceeded")),
            FailureKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", None),
        };
        let param = match failure.kind {
            FailureKind::UnknownModel => Some("model".to_owned()),
            _ => failure.param.map(str::to_owned),
        };
        Self { status, class, code, param, message: failure.message }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.to_json())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}
