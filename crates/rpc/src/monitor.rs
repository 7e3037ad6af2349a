//! `/metrics` for Prometheus and `/health/live`, `/health/ready` for whoever watches the process (OPS-20, OPS-21).

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The media type of the text that Prometheus reads.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How an OpenMetrics text ends.
const METRICS_END: &str = "# EOF\n";

/// How one component is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ComponentHealth {
    /// Its name.
    pub name: &'static str,
    /// Whether it does its work.
    pub ready: bool,
    /// What there is to say about it.
    pub detail: String,
}

/// What the node tells about itself when it is asked.
pub trait MonitorView: Send + Sync + 'static {
    /// Sets figures that are read rather than counted (process, store), just before they are shown.
    fn refresh(&self);
    /// Metrics of another registry, as an OpenMetrics text; empty for none.
    fn more_metrics(&self) -> String;
    /// How every component is.
    fn health(&self) -> Vec<ComponentHealth>;
}

/// Why the monitor did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} for metrics: {source}")]
pub struct MonitorStartError {
    /// Where it should have listened.
    pub listen: SocketAddr,
    /// Why it could not.
    pub source: io::Error,
}

/// A running monitor. Dropping it stops it.
#[derive(Debug)]
pub struct MonitorServer {
    address: SocketAddr,
    registry: Arc<RwLock<Registry>>,
    _stop: oneshot::Sender<()>,
}

impl MonitorServer {
    /// Where it listens, with the port that was really taken.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Registers what begins later than the monitor; it is shown from then on.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.write());
    }
}

#[derive(Clone)]
struct Shown {
    registry: Arc<RwLock<Registry>>,
    view: Arc<dyn MonitorView>,
}

/// Starts the monitor.
///
/// # Errors
/// When it cannot listen.
pub async fn start_monitor(
    listen: SocketAddr,
    registry: Registry,
    view: Arc<dyn MonitorView>,
) -> Result<MonitorServer, MonitorStartError> {
    let failed = |source| MonitorStartError { listen, source };
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let registry = Arc::new(RwLock::new(registry));
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(Shown { registry: Arc::clone(&registry), view });
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let until = async move {
            // Told or dropped, both mean stop.
            let _ = stopped.await;
        };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(until).await {
            tracing::error!(%error, "the metrics server failed");
        }
    });
    Ok(MonitorServer { address, registry, _stop: stop })
}

async fn metrics(State(shown): State<Shown>) -> Response {
    shown.view.refresh();
    let mut own = String::new();
    if prometheus_client::encoding::text::encode(&mut own, &shown.registry.read()).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let more = shown.view.more_metrics();
    let text = if more.is_empty() { own } else { format!("{}{more}", own.trim_end_matches(METRICS_END)) };
    ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}

/// The process answers, so it lives.
async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(shown): State<Shown>) -> Response {
    let components = shown.view.health();
    let status = if components.iter().all(|component| component.ready) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(components)).into_response()
}
