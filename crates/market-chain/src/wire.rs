//! Bytes to a URL and back, with a bound and a deadline.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

/// The largest answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a URL did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No connection, a timeout, a broken stream.
    #[error("{0}")]
    Transport(String),
    /// Not 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// More bytes than are read.
    #[error("the answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

/// Something that carries a request to a URL: HTTP, or a test.
#[async_trait]
pub trait Wire: Send + Sync + 'static {
    /// Posts a JSON body and gives the answer's body.
    async fn post(&self, url: &str, body: Vec<u8>, within: Duration) -> Result<Bytes, WireError>;
}

/// HTTP.
#[derive(Debug, Clone, Default)]
pub struct HttpWire {
    client: reqwest::Client,
}

fn transport(error: &reqwest::Error) -> WireError {
    // The error may hold the URL, and a URL may hold an access key.
    let kind = if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "no connection"
    } else {
        "broken exchange"
    };
    WireError::Transport(kind.to_owned())
}

#[async_trait]
impl Wire for HttpWire {
    async fn post(&self, url: &str, body: Vec<u8>, within: Duration) -> Result<Bytes, WireError> {
        let request = self.client.post(url).header("content-type", "application/json").body(body).timeout(within);
        let mut answer = request.send().await.map_err(|e| transport(&e))?;
        if !answer.status().is_success() {
            return Err(WireError::Status(answer.status().as_u16()));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| transport(&e))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(WireError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}
