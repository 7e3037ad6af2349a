//! How fast the transport is beside plain quinn in the same run (NET-80, NET-81). Library code of `trellis bench transport`.
//!
//! Every variant has its listener on its own thread with its own single-threaded runtime, and all dialers share another such
//! thread; the variants take turns, round by round, and the medians over the rounds are reported, so that a busy machine
//! slows all of them alike. Each end thus does all of its work on one thread, which reads its own CPU time from the kernel:
//! that is how the cost of a refused connection is told apart from the cost of asking, and computing from waiting.
//!
//! Plain quinn here has the same certificates, mutual authentication, windows and cipher (AES-128-GCM), but a classical
//! X25519 key exchange and no ML-DSA-65 proofs. Stock libp2p-quic is as it comes.

mod dialer;
mod listener;
mod measure;
mod plain;
mod stock;
mod streams;

use std::net::SocketAddr;

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite};
use serde::Serialize;
use thiserror::Error;

pub use self::dialer::run_variants;
pub use self::listener::{BenchListener, Serve, serve_stream};
pub use self::measure::BenchOptions;
pub use self::plain::{plain_quinn, trellis};
pub use self::stock::stock_libp2p;
pub use self::streams::{STREAM_COUNTS, StreamsRow};

/// Why a benchmark could not run.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The variant could not be set up.
    #[error("set-up of {variant}: {detail}")]
    Setup {
        /// Which variant.
        variant: &'static str,
        /// What went wrong.
        detail: String,
    },
    /// A connection or stream failed while measuring.
    #[error("{variant}: {detail}")]
    Run {
        /// Which variant.
        variant: &'static str,
        /// What went wrong.
        detail: String,
    },
}

/// One stream of a variant.
pub trait BenchStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> BenchStream for T {}

/// One connection of a variant, at the dialer.
pub trait BenchConnection: Send {
    /// Opens a stream.
    fn open(&mut self) -> BoxFuture<'_, Result<Box<dyn BenchStream>, BenchError>>;
}

/// The dialer of a variant.
pub trait BenchDialer: Send {
    /// Opens a connection, authenticated in whatever way the variant does it.
    fn dial(&mut self, remote: SocketAddr) -> BoxFuture<'_, Result<Box<dyn BenchConnection>, BenchError>>;
}

/// One way to do it: a listener on its thread and a dialer.
pub struct Variant {
    /// The name in the results.
    pub name: &'static str,
    /// The listening side.
    pub listener: BenchListener,
    /// The dialling side.
    pub dialer: Box<dyn BenchDialer>,
}

/// The result of one variant; the form of `trellis bench transport --json` (OPS-06).
#[derive(Clone, Debug, Serialize)]
pub struct BenchRow {
    /// Which variant.
    pub variant: &'static str,
    /// Echo of 64 bytes on an open stream, median, microseconds.
    pub echo_us_p50: f64,
    /// Echo of 64 bytes on an open stream, 99th percentile, microseconds.
    pub echo_us_p99: f64,
    /// CPU time of both ends for one such echo, microseconds.
    pub echo_cpu_us: f64,
    /// One stream, one way.
    pub mib_per_s: f64,
    /// CPU time of both ends for one mebibyte of it, microseconds.
    pub mib_cpu_us: f64,
    /// From the first packet to an authenticated connection at the dialer, median, milliseconds.
    pub handshake_ms_p50: f64,
    /// From the first packet to the first reply on a new connection, median, milliseconds.
    pub fresh_reply_ms_p50: f64,
    /// From opening a stream to the first reply on a connection that stands, median, milliseconds: what the pool is for.
    pub reused_reply_ms_p50: f64,
    /// CPU time of the listener for one connection that it refuses, microseconds.
    pub refused_cpu_us: f64,
    /// CPU time of the listener for one connection that it accepts, with one echo, microseconds.
    pub accepted_cpu_us: f64,
    /// CPU time of the dialer for one connection that is accepted, with one echo, microseconds.
    pub dialed_cpu_us: f64,
    /// Many streams at once, one row for each of [`STREAM_COUNTS`].
    pub streams: Vec<StreamsRow>,
}

/// All rows, as `--json` prints them.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// One row per variant.
    pub rows: Vec<BenchRow>,
}

/// Measures Trellis' transport, plain quinn and stock libp2p-quic.
///
/// # Errors
/// [`BenchError`] if a variant cannot be set up or fails.
pub async fn run(options: &BenchOptions) -> Result<BenchReport, BenchError> {
    run_variants(options, || Ok(vec![trellis()?, plain_quinn()?, stock_libp2p()?])).await
}
