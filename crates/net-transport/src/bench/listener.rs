//! A listener on its own thread that echoes, swallows, refuses, and knows its own CPU time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::{BenchError, BenchStream};

/// First byte of a stream whose messages are to be echoed.
pub(super) const MODE_ECHO: u8 = b'e';
/// First byte of a stream whose bytes are to be swallowed and acknowledged at the end.
pub(super) const MODE_SWALLOW: u8 = b's';
/// Bytes of an echoed message.
pub(super) const ECHO_BYTES: usize = 64;
/// Bytes of one read or write of a bulk stream.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
const START_TIMEOUT_MS: u64 = 5_000;

/// What a variant's listener does on its thread: bind, say where, and serve until dropped. The flag says "refuse".
pub type Serve =
    Box<dyn FnOnce(Arc<AtomicBool>, oneshot::Sender<Result<SocketAddr, BenchError>>) -> BoxFuture<'static, ()> + Send>;

/// A running listener. Dropping it stops its thread.
pub struct BenchListener {
    /// Where it listens.
    pub address: SocketAddr,
    refuse: Arc<AtomicBool>,
    cpu_requests: tokio::sync::mpsc::UnboundedSender<mpsc::Sender<Option<u64>>>,
    _stop: oneshot::Sender<()>,
}

impl BenchListener {
    /// Starts a listener.
    ///
    /// # Errors
    /// [`BenchError::Setup`] if the thread, its runtime or the socket cannot be had.
    pub fn start(variant: &'static str, serve: Serve) -> Result<Self, BenchError> {
        let setup = move |detail: String| BenchError::Setup { variant, detail };
        let refuse = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&refuse);
        let (stop, stopped) = oneshot::channel::<()>();
        let (cpu_requests, mut requests) = tokio::sync::mpsc::unbounded_channel::<mpsc::Sender<Option<u64>>>();
        let (ready_sender, ready) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| setup(error.to_string()))?;
        let work = move || {
            runtime.block_on(async move {
                let (address_sender, address) = oneshot::channel();
                let serving = serve(flag, address_sender);
                let reporting = async {
                    let bound = address.await.unwrap_or_else(|_| Err(setup("no address".to_owned())));
                    let _ = ready_sender.send(bound);
                    while let Some(request) = requests.recv().await {
                        let _ = request.send(thread_cpu_ns());
                    }
                };
                tokio::select! {
                    () = serving => {}
                    () = reporting => {}
                    _ = stopped => {}
                }
            });
        };
        let named = std::thread::Builder::new().name(format!("bench-{variant}"));
        named.spawn(work).map_err(|error| BenchError::Setup { variant, detail: error.to_string() })?;
        let ready = ready.recv_timeout(Duration::from_millis(START_TIMEOUT_MS));
        let address = ready.map_err(|error| BenchError::Setup { variant, detail: error.to_string() })??;
        Ok(Self { address, refuse, cpu_requests, _stop: stop })
    }

    /// Whether new connections are refused from now on.
    pub(super) fn set_refuse(&self, refuse: bool) {
        self.refuse.store(refuse, Ordering::SeqCst);
    }

    /// CPU time of the listener's thread so far, nanoseconds; `None` where the kernel does not tell.
    pub(super) fn cpu_ns(&self) -> Option<u64> {
        let (reply, answer) = mpsc::channel();
        self.cpu_requests.send(reply).ok()?;
        answer.recv_timeout(Duration::from_millis(START_TIMEOUT_MS)).ok()?
    }
}

/// The first figure of Linux's `schedstat`: nanoseconds this thread was on a CPU; `None` where there is no such file.
pub(super) fn thread_cpu_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Serves one stream: its first byte says how.
pub async fn serve_stream(mut stream: impl BenchStream) {
    let mut mode = [0u8; 1];
    if stream.read_exact(&mut mode).await.is_err() {
        return;
    }
    if mode == [MODE_ECHO] {
        let mut message = [0u8; ECHO_BYTES];
        while stream.read_exact(&mut message).await.is_ok() {
            if stream.write_all(&message).await.is_err() {
                return;
            }
        }
    } else {
        let mut chunk = vec![0u8; CHUNK_BYTES];
        while stream.read(&mut chunk).await.is_ok_and(|read| read > 0) {}
        let _ = stream.write_all(&mode).await;
        let _ = stream.close().await;
    }
}
