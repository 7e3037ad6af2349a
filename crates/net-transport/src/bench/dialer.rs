//! The dialers' side: one thread with a single-threaded runtime, as each listener has.

use tokio::sync::oneshot;

use super::measure::run_rounds;
use super::{BenchError, BenchOptions, BenchReport, Variant};

const DIALER: &str = "dialer";

/// Builds the variants and measures them, on a thread of its own.
///
/// # Errors
/// [`BenchError`] if the thread, its runtime or a variant cannot be set up, or a variant fails.
pub async fn run_variants(
    options: &BenchOptions,
    build: impl FnOnce() -> Result<Vec<Variant>, BenchError> + Send + 'static,
) -> Result<BenchReport, BenchError> {
    let setup = |detail: String| BenchError::Setup { variant: DIALER, detail };
    let options = *options;
    let (done, report) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| setup(error.to_string()))?;
    let work = move || {
        let result = runtime.block_on(async { run_rounds(build()?, &options).await });
        // Nobody waits any more if the caller was dropped.
        let _ = done.send(result);
    };
    let named = std::thread::Builder::new().name(format!("bench-{DIALER}"));
    named.spawn(work).map_err(|error| setup(error.to_string()))?;
    report.await.unwrap_or_else(|_| Err(setup("the thread ended without a result".to_owned())))
}
