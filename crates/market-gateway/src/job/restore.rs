//! After a start: the purse from the journal, an end for every job that a crash cut short, and the chain of pair roots.

use crate::job::client::Shared;
use crate::job::error::JobClientError;
use crate::job::money::Entry;
use crate::job::pairs::Pair;
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use trellis_market_channel::{ChannelView, PayerChannel};
use trellis_market_journal::{
    ChannelState, Index, JobAborted, JobPhase, JournalConfig, JournalReader, PairRoot as PairRootRecord, Record, Side,
};
use trellis_market_receipt::wire::PairRootOffer;
use trellis_market_receipt::{PAIR_ROOT_RECEIPTS_MAX, PairRootBuilder, SignedPairRoot};
use trellis_primitives::{B256, ChannelId, JobId, NodeId, Wei};

/// What the scan collects.
#[derive(Default)]
struct Found {
    increments: HashMap<ChannelId, Vec<(JobId, Wei)>>,
    roots: HashMap<NodeId, Vec<PairRootRecord>>,
}

/// Rebuilds the purse and writes the end of unfinished jobs.
pub(crate) async fn restore(shared: &Shared, journal: &JournalConfig) -> Result<(), JobClientError> {
    let aborted = unfinished(shared);
    let unfinished_jobs = aborted.len();
    if !aborted.is_empty() {
        shared.journal.append_all(aborted).await?;
    }
    let mut found = scan(journal)?;
    let index = shared.journal.index();
    let mut channels = 0_usize;
    for (id, state) in index.channels() {
        let increments = found.increments.remove(id).unwrap_or_default();
        if let Some(entry) = entry(shared, *id, state, increments) {
            shared.purse.insert(Arc::new(entry));
            channels = channels.saturating_add(1);
        }
    }
    for provider in peers(&index) {
        let roots = found.roots.remove(&provider).unwrap_or_default();
        if let Some(pair) = pair(shared, &index, provider, &roots) {
            shared.pairs.insert(provider, pair);
        }
    }
    tracing::info!(channels, unfinished_jobs, "gateway's purse restored");
    Ok(())
}

fn scan(journal: &JournalConfig) -> Result<Found, JobClientError> {
    let mut found = Found::default();
    JournalReader::open(journal)?.scan(|_, _, record| {
        match record {
            Record::VoucherSent(voucher) => {
                let parts = voucher.increments.iter().map(|part| (part.job, part.amount));
                found.increments.entry(voucher.channel).or_default().extend(parts);
            }
            Record::PairRoot(root) => found.roots.entry(NodeId::from(root.peer)).or_default().push(root),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Jobs without an end: what was signed for them stays signed.
fn unfinished(shared: &Shared) -> Vec<Record> {
    let index = shared.journal.index();
    let open = index.jobs().filter(|(_, state)| state.phase == JobPhase::Open);
    open.map(|(job, state)| {
        Record::JobAborted(JobAborted {
            job: *job,
            channel: state.channel,
            metered: state.signed,
            signed: state.signed,
            written_off: Wei::ZERO,
            bound: shared.config.risk_limit,
            reason: "restart".to_owned(),
        })
    })
    .collect()
}

fn entry(shared: &Shared, id: ChannelId, state: &ChannelState, increments: Vec<(JobId, Wei)>) -> Option<Entry> {
    let opened = state.opened.as_ref().filter(|opened| opened.side == Side::Payer)?;
    let view: ChannelView = serde_json::from_slice(&opened.payload).ok()?;
    let domain = shared.config.channels_domain();
    let money = PayerChannel::restore(domain, id, view.terms.signer, view.deposit, increments);
    Some(Entry::new(NodeId::from(opened.peer), view, money, state.next_sequence))
}

fn peers(index: &Index) -> BTreeSet<NodeId> {
    let opened = index.channels().filter_map(|(_, state)| state.opened.as_ref());
    opened.filter(|opened| opened.side == Side::Payer).map(|opened| NodeId::from(opened.peer)).collect()
}

/// The pair's chain of roots: the last one that both signed, the one that waits for its answer, and receipts under none.
fn pair(shared: &Shared, index: &Index, provider: NodeId, roots: &[PairRootRecord]) -> Option<Pair> {
    let (mut next_index, mut previous) = (0, B256::ZERO);
    let mut covered = BTreeSet::new();
    let mut offer = None;
    for kept in roots {
        let signed = SignedPairRoot::from_bytes(&kept.payload).ok()?;
        if signed.provider_signature.is_empty() {
            offer = Some(PairRootOffer { root: signed, digests: kept.receipts.clone() });
            continue;
        }
        offer = None;
        previous = signed.hash().ok()?;
        next_index = signed.record().ok()?.index.saturating_add(1);
        covered.extend(kept.receipts.iter().copied());
    }
    let (chain_id, gateway) = (shared.config.chain_id, shared.network.local_id());
    let mut builder = PairRootBuilder::new(chain_id, gateway, provider, next_index, previous);
    // The root that waits is rebuilt first, so that its answer fits.
    let waiting = offer.as_ref().map(|offer: &PairRootOffer| offer.digests.clone()).unwrap_or_default();
    for receipt in waiting.iter().take(PAIR_ROOT_RECEIPTS_MAX) {
        builder.add(*receipt, 0).ok()?;
    }
    covered.extend(waiting);
    let mut pair = Pair::new(builder, offer);
    let now = shared.clock.now();
    for (_, state) in index.jobs().filter(|(_, state)| state.phase == JobPhase::Complete) {
        let of_provider = index
            .channel(state.channel)
            .and_then(|channel| channel.opened.as_ref())
            .is_some_and(|opened| NodeId::from(opened.peer) == provider);
        if let Some((_, hash)) = state.receipt.filter(|(_, hash)| of_provider && !covered.contains(hash)) {
            pair.add(hash, now);
        }
    }
    Some(pair)
}
