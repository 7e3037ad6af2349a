//! The aggregator's two protocols: taking receipts, and showing batches to whoever asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use trellis_market_receipt::SignedReceipt;
use trellis_net_peers::frame::{FrameError, read_message, write_message};
use trellis_net_peers::{Acceptor, NetStream, NetworkHandle, Witness};
use trellis_primitives::{B256, BatchRoot};

use super::Inner;
use crate::error::{DataError, Refusal, SettleError};
use crate::leaf::LeafData;
use crate::tree::StatedTree;
use crate::wire::{
    BATCH_PROTOCOL, BatchAnswer, BatchRequest, LEAVES_PER_ANSWER_MAX, LatestVoucher, Outcome, RawLeaf, RawOutcome,
    RawStep, SETTLE_FRAME_BYTES_MAX, SETTLE_PROTOCOL, Submit, SubmitAnswer, WANT_PATH,
};

/// Streams of one protocol that are served at once; the next ones wait in the acceptor's queue.
const STREAMS_MAX: usize = 256;
/// How long a stream may say nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Batches kept ready to be shown.
const PUBLISHED_MAX: usize = 4;

/// A batch ready to be shown.
pub(super) struct Published {
    pub(super) number: u64,
    pub(super) leaves: Vec<LeafData>,
    pub(super) tree: StatedTree,
}

#[derive(Clone, Copy)]
enum Serving {
    Receipts,
    Batches,
}

pub(super) fn spawn(inner: &Arc<Inner>, network: &NetworkHandle) -> Result<Vec<JoinHandle<()>>, SettleError> {
    let receipts = network.accept(SETTLE_PROTOCOL)?;
    let batches = network.accept(BATCH_PROTOCOL)?;
    Ok(vec![
        tokio::spawn(accept(Arc::clone(inner), network.clone(), receipts, Serving::Receipts)),
        tokio::spawn(accept(Arc::clone(inner), network.clone(), batches, Serving::Batches)),
    ])
}

async fn accept(inner: Arc<Inner>, network: NetworkHandle, mut acceptor: Acceptor, serving: Serving) {
    let places = Arc::new(Semaphore::new(STREAMS_MAX));
    let mut streams = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Some((peer, stream)) = acceptor.next().await else { return };
        let inner = Arc::clone(&inner);
        let mut witness = Witness::new(network.clone(), peer);
        while streams.try_join_next().is_some() {}
        streams.spawn(async move {
            if let Err(error) = inner.serve(stream, serving, &mut witness).await {
                witness.failed(&error);
                tracing::debug!(%peer, %error, "settlement stream ended");
            }
            drop(place);
        });
    }
}

impl Inner {
    async fn serve(
        self: &Arc<Self>,
        mut stream: NetStream,
        serving: Serving,
        witness: &mut Witness,
    ) -> Result<(), FrameError> {
        loop {
            let served = async {
                match serving {
                    Serving::Receipts => {
                        let question: Submit = read_message(&mut stream, SETTLE_FRAME_BYTES_MAX).await?;
                        let answer = self.answer_submit(&question).await;
                        write_message(&mut stream, &answer).await
                    }
                    Serving::Batches => {
                        let question: BatchRequest = read_message(&mut stream, SETTLE_FRAME_BYTES_MAX).await?;
                        let answer = self.answer_batch(&question).await;
                        write_message(&mut stream, &answer).await
                    }
                }
            };
            match tokio::time::timeout(IDLE_TIMEOUT, served).await {
                Ok(Ok(())) => witness.valid(),
                Ok(Err(FrameError::End)) | Err(_) => return Ok(()),
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    async fn answer_submit(self: &Arc<Self>, question: &Submit) -> SubmitAnswer {
        let malformed = Outcome::Refused(Refusal::Malformed);
        if question.check().is_err() {
            let receipts = vec![RawOutcome::from(&malformed); question.receipts.len()];
            return SubmitAnswer { receipts, vouchers: vec![Refusal::Malformed as u32; question.vouchers.len()] };
        }
        let read: Vec<Option<SignedReceipt>> =
            question.receipts.iter().map(|bytes| SignedReceipt::from_bytes(bytes).ok()).collect();
        let whole: Vec<SignedReceipt> = read.iter().flatten().cloned().collect();
        let mut outcomes = self.take_receipts(&whole).await.into_iter();
        let receipts = read.iter().map(|one| match one {
            Some(_) => RawOutcome::from(&outcomes.next().unwrap_or_else(|| malformed.clone())),
            None => RawOutcome::from(&malformed),
        });
        let receipts = receipts.collect();
        let mut vouchers = Vec::with_capacity(question.vouchers.len());
        for raw in &question.vouchers {
            let refusal = match LatestVoucher::try_from(raw) {
                Ok(voucher) => self.take_vouchers(&[voucher]).await.first().copied().flatten(),
                Err(_) => Some(Refusal::Malformed),
            };
            vouchers.push(refusal.map_or(0, |refusal| refusal as u32));
        }
        SubmitAnswer { receipts, vouchers }
    }

    async fn answer_batch(self: &Arc<Self>, question: &BatchRequest) -> BatchAnswer {
        let Ok(root) = B256::try_from(question.root.as_slice()) else { return BatchAnswer::default() };
        let number = self.state.lock().number_of_root(BatchRoot(root));
        let Some(number) = number else { return BatchAnswer::default() };
        let published = match self.publish(number).await {
            Ok(published) => published,
            Err(error) => {
                tracing::error!(%error, number, "batch cannot be shown");
                return BatchAnswer::default();
            }
        };
        let index = question.index as usize;
        let mut answer = BatchAnswer { found: true, count: published.tree.count(), ..BatchAnswer::default() };
        if question.what == WANT_PATH {
            let (Some(leaf), Some(path)) = (published.tree.node(0, index), published.tree.path(0, index)) else {
                return BatchAnswer::default();
            };
            answer.leaf_hash = leaf.0.to_vec();
            answer.leaf_sum = leaf.1.to_be_bytes().to_vec();
            answer.path = path.iter().map(RawStep::from).collect();
        } else {
            answer.leaves =
                published.leaves.iter().skip(index).take(LEAVES_PER_ANSWER_MAX).map(RawLeaf::from).collect();
        }
        answer
    }

    /// A batch with its tree, from memory or from the journal.
    pub(super) async fn publish(self: &Arc<Self>, number: u64) -> Result<Arc<Published>, SettleError> {
        let ready = self.published.lock().iter().find(|published| published.number == number).cloned();
        if let Some(published) = ready {
            return Ok(published);
        }
        let mut receipts = self.load_receipts(number).await?;
        receipts.sort_unstable_by_key(|signed| (signed.receipt.channel, signed.receipt.sequence));
        let leaves: Option<Vec<LeafData>> = receipts.iter().map(LeafData::of).collect();
        let source = DataError::Field("signatures");
        let leaves = leaves.ok_or(SettleError::Record { what: "an accepted receipt", source })?;
        let tree = StatedTree::new(leaves.iter().map(LeafData::node).collect());
        let published = Arc::new(Published { number, leaves, tree });
        let mut kept = self.published.lock();
        if kept.len() >= PUBLISHED_MAX {
            kept.remove(0);
        }
        kept.push(Arc::clone(&published));
        Ok(published)
    }
}
