//! The JSON-RPC server: HTTP and WebSocket on one port, behind its limits.

use crate::admission::AdmissionLayer;
use crate::batch::BatchLayer;
use crate::config::{FIRST_REQUEST_MS_MAX, MESSAGES_BUFFERED_MAX, RpcConfig};
use crate::context::{RpcContext, RpcParts};
use crate::metrics::RpcMetrics;
use crate::registry::module;
use crate::subscriptions::HexIds;
use http::{HeaderValue, Method, header};
use jsonrpsee::core::RegisterMethodError;
use jsonrpsee::core::middleware::RpcServiceBuilder;
use jsonrpsee::server::{BatchRequestConfig, PingConfig, ServerBuilder, ServerConfig, ServerHandle};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};
use trellis_primitives::keccak256;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum RpcStartError {
    /// The port is taken or may not be opened.
    #[error("cannot listen on {listen} for JSON-RPC: {source}")]
    Listen {
        /// Where it should have listened.
        listen: SocketAddr,
        /// Why it could not.
        source: io::Error,
    },
    /// Two methods have one name, or an origin is no header value.
    #[error("the JSON-RPC methods cannot be registered: {0}")]
    Register(#[from] RegisterMethodError),
    /// An origin of the configuration is no header value.
    #[error("origin {0:?} is not a valid origin")]
    Origin(String),
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct RpcServer {
    address: SocketAddr,
    handle: ServerHandle,
    metrics: RpcMetrics,
}

impl RpcServer {
    /// Where it listens, with the port that was really taken.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's figures, to register.
    #[must_use]
    pub const fn metrics(&self) -> &RpcMetrics {
        &self.metrics
    }

    /// Takes no more connections, answers what was asked, and returns when all is done.
    pub async fn stop(self) {
        // An error only says that it has stopped already.
        let _ = self.handle.stop();
        self.handle.stopped().await;
    }
}

fn cors(origins: &[String]) -> Result<CorsLayer, RpcStartError> {
    let layer = CorsLayer::new()
        .allow_methods([Method::POST, Method::GET, Method::OPTIONS])
        .allow_headers([header::CONTENT_TYPE]);
    if origins.iter().any(|origin| origin == "*") {
        return Ok(layer.allow_origin(Any));
    }
    let listed = origins
        .iter()
        .map(|origin| HeaderValue::from_str(origin).map_err(|_| RpcStartError::Origin(origin.clone())))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(layer.allow_origin(AllowOrigin::list(listed)))
}

fn server_config(config: &RpcConfig, ids: HexIds) -> ServerConfig {
    ServerConfig::builder()
        .max_request_body_size(config.request_bytes_max)
        .max_response_body_size(config.response_bytes_max)
        .max_connections(config.connections_max)
        .max_subscriptions_per_connection(config.subscriptions_per_connection_max)
        .set_batch_request_config(BatchRequestConfig::Limit(config.batch_requests_max))
        .set_message_buffer_capacity(MESSAGES_BUFFERED_MAX)
        .set_id_provider(ids)
        .set_first_request_timeout(Some(Duration::from_millis(FIRST_REQUEST_MS_MAX)))
        .enable_ws_ping(PingConfig::new())
        .build()
}

/// Starts the server.
///
/// # Errors
/// When it cannot listen, or the configuration makes no sense.
pub async fn start(config: RpcConfig, parts: RpcParts) -> Result<RpcServer, RpcStartError> {
    let listen = config.listen;
    let failed = |source| RpcStartError::Listen { listen, source };
    let seed = keccak256([parts.clock.now().0.to_be_bytes(), u64::from(std::process::id()).to_be_bytes()].concat());
    let limits = server_config(&config, HexIds::new(seed));
    let context = Arc::new(RpcContext::new(parts, config));
    let metrics = context.metrics.clone();
    let config = &context.config;
    let http = tower::ServiceBuilder::new()
        .layer(AdmissionLayer::new(config.hosts.clone(), config.origins.clone(), metrics.clone()))
        .layer(cors(&config.origins)?);
    let rpc = RpcServiceBuilder::new().layer(BatchLayer { context: context.clone() });
    let server = ServerBuilder::with_config(limits)
        .set_http_middleware(http)
        .set_rpc_middleware(rpc)
        .build(listen)
        .await
        .map_err(failed)?;
    let address = server.local_addr().map_err(failed)?;
    let handle = server.start(module(context)?);
    Ok(RpcServer { address, handle, metrics })
}
