//! Receipts and vouchers on their way in: checked, stored, promised.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use trellis_contracts::typed;
use trellis_crypto::recover;
use trellis_market_chain::{ChainError, ChannelStatus, ChannelView};
use trellis_market_journal::Record;
use trellis_market_receipt::{IncludeBy, ReceiptParties, SignedReceipt};
use trellis_primitives::ChannelId;

use super::Inner;
use crate::error::Refusal;
use crate::leaf::ChannelKeys;
use crate::state::Reserved;
use crate::store;
use crate::wire::{LatestVoucher, Outcome};

/// Channels whose keys are kept in memory; beyond that all are forgotten and asked for again.
const KEYS_CACHED_MAX: usize = 100_000;

/// Keys of channels; they are fixed when a channel opens.
#[derive(Default)]
pub(super) struct KeyCache(Mutex<HashMap<ChannelId, ChannelKeys>>);

impl KeyCache {
    fn get(&self, channel: ChannelId) -> Option<ChannelKeys> {
        self.0.lock().get(&channel).copied()
    }

    fn put(&self, channel: ChannelId, keys: ChannelKeys) {
        let mut known = self.0.lock();
        if known.len() >= KEYS_CACHED_MAX {
            known.clear();
        }
        known.insert(channel, keys);
    }
}

/// A receipt that passed every check, with its promise's batch.
struct Taken {
    at: usize,
    number: u64,
}

impl Inner {
    pub(super) async fn take_receipts(self: &Arc<Self>, receipts: &[SignedReceipt]) -> Vec<Outcome> {
        let refusals = self.check_receipts(receipts).await;
        let mut outcomes: Vec<Outcome> =
            refusals.iter().map(|refusal| Outcome::Refused(refusal.unwrap_or(Refusal::Busy))).collect();
        let mut taken = Vec::new();
        for (at, signed) in receipts.iter().enumerate().filter(|(at, _)| refusals[*at].is_none()) {
            let key = (signed.receipt.channel, signed.receipt.sequence);
            let reserved = self.state.lock().reserve(key, self.clock.now());
            match reserved {
                Reserved::Into(number) => taken.push(Taken { at, number }),
                Reserved::Seen => outcomes[at] = self.promise_again(signed),
                Reserved::Full => {}
            }
        }
        let stored = self.store(receipts, &taken).await;
        if stored {
            self.promise(receipts, &taken, &mut outcomes).await;
        }
        let promised = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Promised(_))).count();
        self.metrics.receipts_promised.inc_by(promised as u64);
        self.metrics.receipts_refused.inc_by((outcomes.len() - promised) as u64);
        self.metrics.receipts_waiting.set(self.state.lock().waiting() as i64);
        outcomes
    }

    /// Stores what was reserved, before anything is promised.
    async fn store(&self, receipts: &[SignedReceipt], taken: &[Taken]) -> bool {
        let records = taken.iter().map(|t| store::accepted(t.number, &receipts[t.at])).collect();
        let answer = self.journal.append_all(records).await;
        let mut state = self.state.lock();
        for (n, t) in taken.iter().enumerate() {
            let key = (receipts[t.at].receipt.channel, receipts[t.at].receipt.sequence);
            match answer.as_ref().ok().and_then(|positions| positions.get(n)) {
                Some(position) => state.stored(t.number, key, *position),
                None => state.abandoned(t.number, key),
            }
        }
        if let Err(error) = &answer {
            tracing::error!(%error, "receipts not stored, nothing promised");
        }
        answer.is_ok()
    }

    /// Signs the promises, off the runtime: a signature costs tens of microseconds.
    async fn promise(self: &Arc<Self>, receipts: &[SignedReceipt], taken: &[Taken], outcomes: &mut [Outcome]) {
        let jobs: Vec<(usize, u64, SignedReceipt)> =
            taken.iter().map(|t| (t.at, t.number, receipts[t.at].clone())).collect();
        let inner = Arc::clone(self);
        let signing = tokio::task::spawn_blocking(move || {
            let sign = |(at, number, signed): (usize, u64, SignedReceipt)| {
                (at, IncludeBy::sign(&inner.domain, &signed, number, inner.wallet.key()))
            };
            jobs.into_iter().map(sign).collect::<Vec<_>>()
        });
        for (at, promise) in signing.await.unwrap_or_default() {
            outcomes[at] = Outcome::Promised(promise);
        }
    }

    /// The answer to a receipt whose number was taken: the same promise for the same receipt.
    fn promise_again(&self, signed: &SignedReceipt) -> Outcome {
        let hash = signed.receipt.struct_hash();
        let position = {
            let index = self.journal.index();
            let by_number = index.job_by_sequence(signed.receipt.channel, signed.receipt.sequence);
            let job = by_number.and_then(|job| index.job(job));
            match job.map(|job| (job.receipt, job.receipt_at)) {
                Some((Some((_, known)), _)) if known != hash => return Outcome::Refused(Refusal::Conflict),
                Some((Some(_), Some(position))) => position,
                // Not in the index: still on its way to the journal, or so old that the index let go of it.
                _ if index.jobs_evicted() == 0 => return Outcome::Refused(Refusal::Busy),
                _ => return Outcome::Refused(Refusal::Old),
            }
        };
        let number = match self.journal.read(position) {
            Ok((_, Record::ReceiptAccepted(kept))) => store::read_accepted(&kept.payload).map(|(number, _)| number),
            _ => return Outcome::Refused(Refusal::Old),
        };
        match number {
            Ok(number) => Outcome::Promised(IncludeBy::sign(&self.domain, signed, number, self.wallet.key())),
            Err(_) => Outcome::Refused(Refusal::Old),
        }
    }

    /// One refusal or none for each receipt.
    async fn check_receipts(self: &Arc<Self>, receipts: &[SignedReceipt]) -> Vec<Option<Refusal>> {
        let mut keys = Vec::with_capacity(receipts.len());
        for signed in receipts {
            let known = if signed.receipt.aggregator == self.wallet.address() {
                self.keys_of(signed.receipt.channel).await
            } else {
                Err(Refusal::OtherAggregator)
            };
            keys.push(known);
        }
        let (inner, receipts, count) = (Arc::clone(self), receipts.to_vec(), receipts.len());
        let checking = tokio::task::spawn_blocking(move || {
            let pairs = receipts.iter().zip(keys);
            pairs.map(|(signed, keys)| keys.and_then(|keys| inner.check_one(signed, keys)).err()).collect()
        });
        checking.await.unwrap_or_else(|_| vec![Some(Refusal::Busy); count])
    }

    fn check_one(&self, signed: &SignedReceipt, keys: ChannelKeys) -> Result<(), Refusal> {
        if signed.receipt.chain_id != self.domain.chain_id || signed.receipt.channels != self.channels.address {
            return Err(Refusal::OtherChain);
        }
        let parties = ReceiptParties { gateway_signer: keys.signer, provider_payee: keys.payee };
        signed.verify(&self.domain, self.channels.address, &parties).map_err(|_| Refusal::BadSignature)
    }

    async fn keys_of(&self, channel: ChannelId) -> Result<ChannelKeys, Refusal> {
        if let Some(keys) = self.keys.get(channel) {
            return Ok(keys);
        }
        let view = self.view(channel).await?;
        let keys = ChannelKeys { signer: view.signer, payee: view.payee };
        self.keys.put(channel, keys);
        Ok(keys)
    }

    /// The channel as the chain has it now; a channel that is not there is refused.
    async fn view(&self, channel: ChannelId) -> Result<ChannelView, Refusal> {
        let view: Result<ChannelView, ChainError> = self.channels.channel(self.wallet.client(), channel).await;
        match view {
            Ok(view) if view.status != ChannelStatus::None => Ok(view),
            Ok(_) => Err(Refusal::UnknownChannel),
            Err(error) => {
                tracing::warn!(%error, %channel, "channel not seen");
                Err(Refusal::UnknownChannel)
            }
        }
    }

    pub(super) async fn take_vouchers(&self, vouchers: &[LatestVoucher]) -> Vec<Option<Refusal>> {
        let mut answers = Vec::with_capacity(vouchers.len());
        for voucher in vouchers {
            answers.push(self.take_voucher(voucher).await.err());
        }
        answers
    }

    async fn take_voucher(&self, voucher: &LatestVoucher) -> Result<(), Refusal> {
        let known = self.state.lock().held(voucher.channel).map(|held| held.cumulative);
        if known.is_some_and(|known| known >= voucher.cumulative) {
            return Ok(());
        }
        let keys = self.keys_of(voucher.channel).await?;
        let promised = typed::Voucher { channelId: voucher.channel.0, cumulativeAmount: voucher.cumulative.0 };
        let digest = typed::digest(&promised, self.domain.chain_id, self.channels.address);
        if recover(digest, &voucher.signature) != Ok(keys.signer) {
            return Err(Refusal::BadSignature);
        }
        let view = self.view(voucher.channel).await?;
        if view.status == ChannelStatus::Closed {
            return Err(Refusal::Closed);
        }
        self.journal.append(store::voucher_record(voucher)).await.map_err(|_| Refusal::Busy)?;
        self.state.lock().hold(voucher.channel, store::held(voucher, &view, self.clock.now()));
        Ok(())
    }
}
