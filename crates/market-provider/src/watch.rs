//! The watch-tower: looks at every channel on the chain, hands over vouchers in time, and receipts for settlement.

use crate::channels::{Book, Entry};
use crate::service::Shared;
use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use trellis_market_channel::{ChannelPhase, ChannelView};
use trellis_market_journal::{ChannelPhase as KeptPhase, ChannelUpdated, Record};
use trellis_market_receipt::SignedReceipt;
use trellis_market_receipt::wire::HeldVoucher;
use trellis_primitives::{B256, Bytes, ChannelId, UnixMs, Wei, keccak256};

/// Channels asked for at once.
const ASKS_AT_ONCE_MAX: usize = 8;
/// An intent is repeated after this where the chain has not paid by then, in milliseconds.
const INTENT_REPEAT_MS: u64 = 30_000;
/// A receipt waits this long for its pair root, then it is handed over without a post-quantum proof, in milliseconds.
const PAIR_ROOT_WAIT_MS: u64 = 5_000;
/// Receipts handed over in one call at most.
pub const RECEIPTS_AT_ONCE_MAX: usize = 256;
/// Receipts that wait at most; beyond it the oldest is handed over at once.
const PENDING_MAX: usize = 65_536;

/// Why a voucher should be brought to the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedeemCause {
    /// The payer has begun to close the channel.
    PayerCloses,
    /// The channel nears its expiry.
    NearExpiry,
    /// The unredeemed part reached the configured amount.
    Amount,
    /// Somebody asked for it.
    Requested,
}

/// A voucher that should be brought to the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedeemIntent {
    /// The voucher.
    pub voucher: HeldVoucher,
    /// What the chain has paid of it, as last seen.
    pub paid: Wei,
    /// Why now.
    pub cause: RedeemCause,
}

/// Where vouchers and receipts go; the node implements it over `market-chain` and the aggregator's protocol.
///
/// Both calls may come again for the same voucher or receipt: after a restart, and as long as the chain has not paid.
#[async_trait]
pub trait Payouts: Send + Sync + 'static {
    /// Brings a voucher to the chain. Returns once the intent is taken, not once it is mined.
    async fn redeem(&self, intent: RedeemIntent);

    /// Hands receipts with both signatures, at most [`RECEIPTS_AT_ONCE_MAX`], to the aggregator they name, with the highest voucher
    /// of each of their channels. For each receipt, true where it was taken for good; the others come again later.
    async fn receipts(&self, receipts: &[SignedReceipt], vouchers: &[HeldVoucher]) -> Vec<bool>;
}

struct Waiting {
    receipt: SignedReceipt,
    since: UnixMs,
    proven: bool,
}

/// Receipts on their way to the aggregator.
#[derive(Default)]
pub(crate) struct Pending {
    waiting: Mutex<BTreeMap<B256, Waiting>>,
}

impl Pending {
    pub(crate) fn add(&self, receipt: SignedReceipt, since: UnixMs) {
        let mut waiting = self.waiting.lock();
        let proven = !receipt.pq_proof.is_empty();
        // Beyond the bound receipts stay in the journal alone, and are found there at the next start.
        if waiting.len() < PENDING_MAX {
            waiting.insert(receipt.receipt.struct_hash(), Waiting { receipt, since, proven });
        }
    }

    /// The receipt's pair root is signed by both.
    pub(crate) fn prove(&self, receipt: &B256, proof: Bytes) {
        if let Some(waiting) = self.waiting.lock().get_mut(receipt) {
            waiting.receipt.pq_proof = proof;
            waiting.proven = true;
        }
    }

    fn ready(&self, now: UnixMs) -> Vec<SignedReceipt> {
        let waiting = self.waiting.lock();
        let due = |entry: &&Waiting| entry.proven || now.ms_since(entry.since) >= PAIR_ROOT_WAIT_MS;
        waiting.values().filter(due).map(|entry| entry.receipt.clone()).collect()
    }

    fn taken(&self, receipt: &SignedReceipt) {
        self.waiting.lock().remove(&receipt.receipt.struct_hash());
    }
}

/// The marker of a receipt that the aggregator took.
pub(crate) fn handed_over(receipt: B256) -> B256 {
    let mut bytes = b"trellis/receipt-handed-over/1".to_vec();
    bytes.extend_from_slice(receipt.as_slice());
    keccak256(bytes)
}

/// Runs until the provider stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut intents: HashMap<ChannelId, (Wei, UnixMs)> = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(shared.config.watch_interval_ms)) => {}
            () = shared.stop.cancelled() => return,
        }
        look_at_channels(&shared, &mut intents).await;
        hand_over_receipts(&shared).await;
    }
}

async fn look_at_channels(shared: &Arc<Shared>, intents: &mut HashMap<ChannelId, (Wei, UnixMs)>) {
    let looks = shared.book.all().into_iter().map(|entry| look(shared, entry));
    let found: Vec<Option<RedeemIntent>> =
        futures::stream::iter(looks).buffer_unordered(ASKS_AT_ONCE_MAX).collect().await;
    let now = shared.clock.now();
    for intent in found.into_iter().flatten() {
        let known = intents.get(&intent.voucher.channel);
        let repeats = known.is_some_and(|(cumulative, at)| {
            *cumulative >= intent.voucher.cumulative && now.ms_since(*at) < INTENT_REPEAT_MS
        });
        if !repeats {
            intents.insert(intent.voucher.channel, (intent.voucher.cumulative, now));
            shared.metrics.redeems.inc();
            shared.payouts.redeem(intent).await;
        }
    }
}

/// Refreshes one channel and says whether its voucher should be redeemed.
async fn look(shared: &Arc<Shared>, entry: Arc<Entry>) -> Option<RedeemIntent> {
    let before = entry.view();
    if before.phase == ChannelPhase::Closed {
        return None;
    }
    match shared.book.ask(entry.id).await {
        Ok(Some(view)) => {
            entry.set_view(view);
            remember(shared, &before, &view).await;
        }
        Ok(None) => tracing::warn!(channel = %entry.id, "the chain no longer knows a channel"),
        Err(error) => tracing::warn!(channel = %entry.id, error = %error, "the chain was not seen"),
    }
    intent(shared, &entry)
}

fn intent(shared: &Shared, entry: &Entry) -> Option<RedeemIntent> {
    let (view, voucher) = (entry.view(), entry.held()?);
    let unpaid = voucher.cumulative.min(view.deposit).saturating_sub(view.paid);
    if unpaid.is_zero() || !Book::is_payable(&view) {
        return None;
    }
    let cause = match view.phase {
        ChannelPhase::Closing { .. } => RedeemCause::PayerCloses,
        _ if shared.clock.now().as_secs() >= view.stop_seconds() => RedeemCause::NearExpiry,
        _ if unpaid >= shared.config.redeem_after => RedeemCause::Amount,
        _ => return None,
    };
    Some(RedeemIntent { voucher, paid: view.paid, cause })
}

async fn remember(shared: &Shared, before: &ChannelView, view: &ChannelView) {
    if (before.phase, before.deposit, before.paid) == (view.phase, view.deposit, view.paid) {
        return;
    }
    let phase = match view.phase {
        ChannelPhase::Open => KeptPhase::Open,
        ChannelPhase::Closing { .. } => KeptPhase::Closing,
        ChannelPhase::Closed => KeptPhase::Closed,
    };
    let record = ChannelUpdated {
        channel: view.id,
        phase,
        deposit: view.deposit,
        paid: view.paid,
        expires_s: view.terms.expiry_seconds,
    };
    if let Err(error) = shared.journal.append(Record::ChannelUpdated(record)).await {
        tracing::error!(channel = %view.id, error = %error, "a channel's change could not be stored");
    }
}

async fn hand_over_receipts(shared: &Shared) {
    let ready = shared.pending.ready(shared.clock.now());
    for receipts in ready.chunks(RECEIPTS_AT_ONCE_MAX) {
        let channels: BTreeSet<ChannelId> = receipts.iter().map(|signed| signed.receipt.channel).collect();
        let held = channels.into_iter().filter_map(|channel| shared.book.known(channel)?.held());
        let vouchers: Vec<HeldVoucher> = held.collect();
        let taken = shared.payouts.receipts(receipts, &vouchers).await;
        for (receipt, _) in receipts.iter().zip(taken).filter(|(_, taken)| *taken) {
            let key = handed_over(receipt.receipt.struct_hash());
            match shared.journal.append_once(key, Bytes::new(), Vec::new()).await {
                Ok(_) => shared.pending.taken(receipt),
                Err(error) => tracing::error!(error = %error, "a handed-over receipt could not be marked"),
            }
        }
    }
}
