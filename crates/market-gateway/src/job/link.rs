//! A stream to a provider: a task reads frames, the owner writes them.

use crate::job::error::{JobFault, WaitedFor};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use trellis_market_receipt::wire::{GatewayFrame, JOB_FRAME_BYTES_MAX, JOB_PROTOCOL, ProviderFrame};
use trellis_net_peers::frame::{read_frame, write_frame};
use trellis_net_peers::guard::Pattern;
use trellis_net_peers::{NetStream, NetworkHandle, Protocol, Witness};
use trellis_primitives::NodeId;

/// Frames waiting for the owner at most; beyond it the provider waits.
const FRAMES_AHEAD_MAX: usize = 64;
/// A frame must be taken by the transport within this, in milliseconds.
const WRITE_WAIT_MS: u64 = 10_000;
/// After a failed write the provider's reason is waited for this long, in milliseconds.
const LAST_WORDS_WAIT_MS: u64 = 500;

/// A stream to a provider.
pub(crate) struct Link {
    came: mpsc::Receiver<Result<ProviderFrame, JobFault>>,
    write: WriteHalf<NetStream>,
    _reader: AbortOnDropHandle<()>,
}

impl Link {
    pub(crate) async fn open(network: &NetworkHandle, provider: NodeId) -> Result<Self, JobFault> {
        let stream = network.open(provider, Protocol(JOB_PROTOCOL)).await?;
        let (read, write) = tokio::io::split(stream);
        let (sender, came) = mpsc::channel(FRAMES_AHEAD_MAX);
        let reader =
            AbortOnDropHandle::new(tokio::spawn(read_all(read, sender, Witness::new(network.clone(), provider))));
        Ok(Self { came, write, _reader: reader })
    }

    pub(crate) async fn send(&mut self, frame: &GatewayFrame) -> Result<(), JobFault> {
        let bytes = frame.encode();
        let write = write_frame(&mut self.write, &bytes);
        match tokio::time::timeout(Duration::from_millis(WRITE_WAIT_MS), write).await {
            Ok(Ok(())) => Ok(()),
            // The provider may have said why before it closed the stream.
            Ok(Err(error)) => Err(self.last_words().await.unwrap_or(JobFault::Lost { detail: error.to_string() })),
            Err(_) => Err(JobFault::Lost { detail: format!("not writable for {WRITE_WAIT_MS} ms") }),
        }
    }

    /// Why the provider closed the stream, if it said so: its error may still be on the way when writing fails.
    async fn last_words(&mut self) -> Option<JobFault> {
        let deadline = Instant::now() + Duration::from_millis(LAST_WORDS_WAIT_MS);
        while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(deadline, self.came.recv()).await {
            if let ProviderFrame::Error(error) = frame {
                return Some(JobFault::Provider(error));
            }
        }
        None
    }

    /// The next frame within this time.
    pub(crate) async fn next(&mut self, what: WaitedFor, wait_ms: u64) -> Result<ProviderFrame, JobFault> {
        self.next_until(what, wait_ms, Instant::now() + Duration::from_millis(wait_ms)).await
    }

    /// The next frame before a deadline that began `wait_ms` earlier. A provider's error is the fault. Cancel-safe.
    pub(crate) async fn next_until(
        &mut self,
        what: WaitedFor,
        wait_ms: u64,
        deadline: Instant,
    ) -> Result<ProviderFrame, JobFault> {
        match tokio::time::timeout_at(deadline, self.came.recv()).await {
            Ok(Some(Ok(ProviderFrame::Error(error)))) => Err(JobFault::Provider(error)),
            Ok(Some(came)) => came,
            Ok(None) => Err(JobFault::Lost { detail: "end of stream".to_owned() }),
            Err(_) => Err(JobFault::Late { what, wait_ms }),
        }
    }

    /// Finishes the writing half.
    pub(crate) async fn finish(mut self) {
        let _ = tokio::time::timeout(Duration::from_millis(WRITE_WAIT_MS), self.write.shutdown()).await;
    }
}

async fn read_all(
    mut read: ReadHalf<NetStream>,
    sender: mpsc::Sender<Result<ProviderFrame, JobFault>>,
    mut witness: Witness,
) {
    loop {
        let came = match read_frame(&mut read, JOB_FRAME_BYTES_MAX).await {
            Ok(bytes) => {
                let frame = ProviderFrame::decode(&bytes);
                match &frame {
                    Ok(_) => witness.valid(),
                    Err(_) => witness.invalid(Pattern::Malformed),
                }
                frame.map_err(JobFault::Wire)
            }
            Err(error) => {
                witness.failed(&error);
                Err(JobFault::Lost { detail: error.to_string() })
            }
        };
        let ends = came.is_err();
        if sender.send(came).await.is_err() || ends {
            return;
        }
    }
}

/// What a frame is, for [`JobFault::Order`].
pub(crate) const fn name(frame: &ProviderFrame) -> &'static str {
    match frame {
        ProviderFrame::Advert(_) => "an advert",
        ProviderFrame::Quote(_) => "a quote",
        ProviderFrame::Accepted(_) => "an acceptance",
        ProviderFrame::Due(_) => "a demand",
        ProviderFrame::VoucherAck(_) => "an acknowledgement of a voucher",
        ProviderFrame::Chunk(_) => "a chunk",
        ProviderFrame::Receipt(_) => "a receipt",
        ProviderFrame::ReceiptAck(_) => "an acknowledgement of a receipt",
        ProviderFrame::Error(_) => "an error",
        ProviderFrame::ChannelState(_) => "a channel's state",
        ProviderFrame::PairRootAnswer(_) => "a pair root",
    }
}
