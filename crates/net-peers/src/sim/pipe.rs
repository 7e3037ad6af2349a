//! A pair of connected in-memory streams that can be slow and can break.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Bytes in flight in one direction of one stream before the writer waits, as a QUIC window would.
pub(super) const STREAM_WINDOW_BYTES: usize = 256 * 1024;
const PUMP_CHUNK_BYTES: usize = 16 * 1024;
const PUMP_CHUNKS_MAX: usize = STREAM_WINDOW_BYTES / PUMP_CHUNK_BYTES;

/// One end of a simulated stream.
pub(super) struct SimStream {
    inner: DuplexStream,
    lost: CancellationToken,
    lost_wait: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl SimStream {
    fn new(inner: DuplexStream, lost: CancellationToken) -> Self {
        let lost_wait = Box::pin(lost.clone().cancelled_owned());
        Self { inner, lost, lost_wait }
    }

    fn check_lost(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.lost.is_cancelled() || self.lost_wait.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "connection lost"));
        }
        Ok(())
    }
}

impl AsyncRead for SimStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_lost(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_lost(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_lost(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_lost(cx)?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A stream's two ends.
pub(super) fn pipe(latency: Duration, lost: &CancellationToken) -> (SimStream, SimStream) {
    let (near, far) = if latency.is_zero() {
        tokio::io::duplex(STREAM_WINDOW_BYTES)
    } else {
        let (near, near_inner) = tokio::io::duplex(PUMP_CHUNK_BYTES);
        let (far, far_inner) = tokio::io::duplex(PUMP_CHUNK_BYTES);
        let (near_read, near_write) = tokio::io::split(near_inner);
        let (far_read, far_write) = tokio::io::split(far_inner);
        spawn_pump(near_read, far_write, latency, lost.clone());
        spawn_pump(far_read, near_write, latency, lost.clone());
        (near, far)
    };
    (SimStream::new(near, lost.clone()), SimStream::new(far, lost.clone()))
}

/// Moves bytes one way, each chunk `latency` after it was written.
fn spawn_pump(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    latency: Duration,
    lost: CancellationToken,
) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(PUMP_CHUNKS_MAX);
    let reading = async move {
        let mut buffer = vec![0u8; PUMP_CHUNK_BYTES];
        while let Ok(read) = from.read(&mut buffer).await {
            let chunk = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
            if read == 0 || sender.send((Instant::now() + latency, chunk)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((at, chunk)) = receiver.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::spawn(async move {
        tokio::select! {
            () = lost.cancelled() => {}
            _ = async { tokio::join!(reading, writing) } => {}
        }
    });
}
