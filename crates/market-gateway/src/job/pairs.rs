//! Pair roots on the gateway's side: makes one a second per provider, signs it with ML-DSA-65, asks for the other signature.

use crate::job::client::Shared;
use crate::job::error::{JobFault, WaitedFor};
use crate::job::link::{Link, name};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use trellis_crypto::HybridPublic;
use trellis_market_journal::{PairRoot as PairRootRecord, Record};
use trellis_market_receipt::wire::{GatewayFrame, PairRootOffer, ProviderFrame};
use trellis_market_receipt::{PAIR_ROOT_RECEIPTS_MAX, PairRootBuilder, PairRootError, SignedPairRoot};
use trellis_primitives::{B256, NodeId, UnixMs};

/// A root that was not answered is offered again after this, in milliseconds.
const RETRY_MS: u64 = 2_000;
/// Receipts of one pair waiting at most; beyond it the oldest stay without a post-quantum signature.
const WAITING_MAX: usize = 65_536;

/// One provider's receipts on their way under a root.
pub(crate) struct Pair {
    builder: PairRootBuilder,
    overflow: Vec<B256>,
    offer: Option<PairRootOffer>,
    retry_at: UnixMs,
}

impl Pair {
    pub(crate) fn new(builder: PairRootBuilder, offer: Option<PairRootOffer>) -> Self {
        Self { builder, overflow: Vec::new(), offer, retry_at: UnixMs(0) }
    }

    pub(crate) fn add(&mut self, receipt: B256, now: UnixMs) {
        let full = self.builder.waiting().len() >= PAIR_ROOT_RECEIPTS_MAX;
        if full || self.builder.add(receipt, now.0).is_err() {
            if self.overflow.len() < WAITING_MAX {
                self.overflow.push(receipt);
            } else {
                tracing::warn!("too many receipts wait for a pair root");
            }
        }
    }

    /// The root to offer now, if any; `fresh` where it was just made and is not in the journal yet.
    fn due(&mut self, now: UnixMs, closing: bool) -> Result<Option<(PairRootOffer, bool)>, PairRootError> {
        if let Some(offer) = &self.offer {
            return Ok((now >= self.retry_at || closing).then(|| (offer.clone(), false)));
        }
        let due = self.builder.is_due(now.0) || (closing && !self.builder.waiting().is_empty());
        if !due {
            return Ok(None);
        }
        let (root, digests) = self.builder.make(now.0)?;
        Ok(Some((PairRootOffer { root, digests }, true)))
    }

    fn taken(&mut self, root: &SignedPairRoot, now: UnixMs) -> Result<(), PairRootError> {
        self.builder.taken(root)?;
        self.offer = None;
        for receipt in std::mem::take(&mut self.overflow) {
            self.add(receipt, now);
        }
        Ok(())
    }
}

/// All providers' pairs.
#[derive(Default)]
pub(crate) struct Pairs {
    pairs: Mutex<HashMap<NodeId, Pair>>,
}

impl Pairs {
    pub(crate) fn insert(&self, provider: NodeId, pair: Pair) {
        self.pairs.lock().insert(provider, pair);
    }

    /// A receipt that both have signed.
    pub(crate) fn add(&self, shared: &Shared, provider: NodeId, receipt: B256) {
        let fresh = || {
            let (chain_id, gateway) = (shared.config.chain_id, shared.network.local_id());
            Pair::new(PairRootBuilder::new(chain_id, gateway, provider, 0, B256::ZERO), None)
        };
        self.pairs.lock().entry(provider).or_insert_with(fresh).add(receipt, shared.clock.now());
    }

    fn due(&self, now: UnixMs, closing: bool) -> Vec<(NodeId, PairRootOffer, bool)> {
        let mut found = Vec::new();
        for (provider, pair) in self.pairs.lock().iter_mut() {
            match pair.due(now, closing) {
                Ok(Some((offer, fresh))) => found.push((*provider, offer, fresh)),
                Ok(None) => {}
                Err(error) => tracing::error!(error = %error, "a pair root could not be made"),
            }
        }
        found
    }

    fn with<T>(&self, provider: NodeId, change: impl FnOnce(&mut Pair) -> T) -> Option<T> {
        self.pairs.lock().get_mut(&provider).map(change)
    }
}

/// Runs until the client stops, and once more then: what is waiting is signed at close.
pub(crate) async fn run(shared: Arc<Shared>) {
    let tick = Duration::from_millis(shared.config.pair_root_tick_ms);
    loop {
        let closing = tokio::select! {
            () = tokio::time::sleep(tick) => false,
            () = shared.stop.cancelled() => true,
        };
        for (provider, offer, fresh) in shared.pairs.due(shared.clock.now(), closing) {
            if let Err(fault) = offer_root(&shared, provider, offer, fresh).await {
                tracing::debug!(provider = %provider.short(), fault = %fault, "a pair root was not answered");
                let retry_at = shared.clock.now().plus_ms(RETRY_MS);
                shared.pairs.with(provider, |pair| pair.retry_at = retry_at);
            }
        }
        if closing {
            return;
        }
    }
}

fn bad(_: PairRootError) -> JobFault {
    JobFault::Receipt { field: "pair root" }
}

async fn offer_root(shared: &Shared, provider: NodeId, mut offer: PairRootOffer, fresh: bool) -> Result<(), JobFault> {
    if fresh {
        offer.root.sign_as_gateway(&shared.node_key).map_err(bad)?;
        // Stored before it leaves: after a crash the same root is offered again, never another one of its number.
        shared.journal.append(record(provider, &offer.root, &offer.digests)?).await?;
        let kept = offer.clone();
        shared.pairs.with(provider, |pair| pair.offer = Some(kept));
    }
    let mut link = Link::open(&shared.network, provider).await?;
    link.send(&GatewayFrame::PairRootOffer(offer.clone())).await?;
    let frame = link.next(WaitedFor::Acknowledgement, shared.config.ack_wait_ms).await?;
    let ProviderFrame::PairRootAnswer(answer) = frame else { return Err(JobFault::Order { frame: name(&frame) }) };
    link.finish().await;
    let same = answer.record_rlp == offer.root.record_rlp && answer.gateway_signature == offer.root.gateway_signature;
    if !same {
        return Err(JobFault::Receipt { field: "pair root" });
    }
    let key = peer_key(shared, provider).ok_or(JobFault::Receipt { field: "pair root's key" })?;
    answer.verify_provider(&key).map_err(bad)?;
    shared.journal.append(record(provider, &answer, &offer.digests)?).await?;
    let now = shared.clock.now();
    shared.pairs.with(provider, |pair| pair.taken(&answer, now)).transpose().map_err(bad)?;
    Ok(())
}

fn record(provider: NodeId, root: &SignedPairRoot, receipts: &[B256]) -> Result<Record, JobFault> {
    Ok(Record::PairRoot(PairRootRecord {
        peer: provider.to_b256(),
        root: root.record().map_err(bad)?.root,
        receipts: receipts.to_vec(),
        payload: root.to_bytes().into(),
    }))
}

/// The public keys in the node record that the peer's handshake proved.
fn peer_key(shared: &Shared, peer: NodeId) -> Option<HybridPublic> {
    let record = shared.network.peers().into_iter().find(|info| info.id == Some(peer))?.record?;
    Some(HybridPublic { ed25519: record.ed25519, mldsa65: record.mldsa65.to_vec() })
}
