//! One stream: a task that reads and books vouchers at once, a task that writes, and the session between them.

use crate::channels::Book;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use trellis_market_receipt::wire::{GatewayFrame, JOB_FRAME_BYTES_MAX, JobError, JobErrorCode, ProviderFrame};
use trellis_net_peers::frame::{FrameError, read_frame, write_frame};
use trellis_net_peers::guard::Pattern;
use trellis_net_peers::{NetStream, Witness};
use trellis_primitives::JobId;

/// Frames waiting for the session at most.
const FRAMES_AHEAD_MAX: usize = 16;
/// Frames waiting to be written at most.
const FRAMES_BEHIND_MAX: usize = 64;

/// What came.
#[derive(Debug)]
pub(crate) enum Came {
    /// A frame; vouchers are booked already and do not come here.
    Frame(Box<GatewayFrame>),
    /// Something that ends the session.
    Bad(JobError),
}

/// Why nothing came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The stream is closed.
    Closed,
    /// The deadline passed.
    Late,
}

/// Both ends of a stream.
pub(crate) struct Link {
    came: mpsc::Receiver<Came>,
    out: mpsc::Sender<ProviderFrame>,
    _reader: AbortOnDropHandle<()>,
    writer: AbortOnDropHandle<()>,
}

impl Link {
    pub(crate) fn new(stream: NetStream, book: Arc<Book>, witness: Witness) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (came_in, came) = mpsc::channel(FRAMES_AHEAD_MAX);
        let (out, to_write) = mpsc::channel(FRAMES_BEHIND_MAX);
        let reader = tokio::spawn(read_all(read, book, witness, came_in, out.clone()));
        let writer = tokio::spawn(write_all(write, to_write));
        Self { came, out, _reader: AbortOnDropHandle::new(reader), writer: AbortOnDropHandle::new(writer) }
    }

    /// The next frame, or why there is none. Cancel-safe.
    pub(crate) async fn next(&mut self, wait_ms: u64) -> Result<Came, Silence> {
        match tokio::time::timeout(Duration::from_millis(wait_ms), self.came.recv()).await {
            Ok(Some(came)) => Ok(came),
            Ok(None) => Err(Silence::Closed),
            Err(_) => Err(Silence::Late),
        }
    }

    /// The next frame, for a select. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> Option<Came> {
        self.came.recv().await
    }

    /// Queues a frame; waits while the peer does not read.
    pub(crate) async fn send(&self, frame: ProviderFrame) -> Result<(), Silence> {
        self.out.send(frame).await.map_err(|_| Silence::Closed)
    }

    /// Writes what is queued, finishes the stream, and waits for that a bounded time.
    pub(crate) async fn finish(self, wait_ms: u64) {
        let Self { out, writer, _reader, came } = self;
        drop((out, _reader, came));
        if tokio::time::timeout(Duration::from_millis(wait_ms), writer).await.is_err() {
            tracing::debug!("a stream's last frames were not taken in time");
        }
    }
}

async fn read_all(
    mut read: ReadHalf<NetStream>,
    book: Arc<Book>,
    mut witness: Witness,
    came: mpsc::Sender<Came>,
    out: mpsc::Sender<ProviderFrame>,
) {
    loop {
        let bytes = match read_frame(&mut read, JOB_FRAME_BYTES_MAX).await {
            Ok(bytes) => bytes,
            Err(FrameError::TooLarge { actual, max }) => {
                witness.invalid(Pattern::Oversized);
                let message = format!("a frame of {actual} bytes, at most {max} are accepted");
                let _ = came.send(Came::Bad(protocol_error(message))).await;
                return;
            }
            Err(_) => return,
        };
        let next = match GatewayFrame::decode(&bytes) {
            Ok(GatewayFrame::Voucher(frame)) => match book.voucher(&frame).await {
                Ok(held) => {
                    witness.valid();
                    if out.send(ProviderFrame::VoucherAck(held)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(error) => {
                    if error.code == JobErrorCode::Voucher {
                        witness.invalid(Pattern::Unverified);
                    }
                    Came::Bad(error)
                }
            },
            Ok(frame) => {
                witness.valid();
                Came::Frame(Box::new(frame))
            }
            Err(error) => {
                witness.invalid(Pattern::Malformed);
                Came::Bad(protocol_error(error.to_string()))
            }
        };
        let ends = matches!(next, Came::Bad(_));
        if came.send(next).await.is_err() || ends {
            return;
        }
    }
}

async fn write_all(mut write: WriteHalf<NetStream>, mut frames: mpsc::Receiver<ProviderFrame>) {
    while let Some(frame) = frames.recv().await {
        if write_frame(&mut write, &frame.encode()).await.is_err() {
            return;
        }
    }
    let _ = write.shutdown().await;
}

/// A frame that does not belong where it came.
pub(crate) fn protocol_error(message: String) -> JobError {
    JobError { job: JobId::default(), code: JobErrorCode::Protocol, message }
}
