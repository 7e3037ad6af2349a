//! What providers sell: their adverts, asked for once and kept until half of their life is over.

use crate::job::client::Shared;
use crate::job::error::{JobFault, WaitedFor};
use crate::job::link::{Link, name};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use trellis_market_receipt::wire::{GatewayFrame, ProviderFrame, Quote, QuoteRequest};
use trellis_market_receipt::{Advert, ModelOffer};
use trellis_primitives::{NodeId, Role, UnixMs};

/// Adverts in memory at most.
const ADVERTS_MAX: usize = 16_384;
/// Providers asked at once.
const ASKS_AT_ONCE_MAX: usize = 16;

/// One model of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderOffer {
    /// Who sells.
    pub provider: NodeId,
    /// What.
    pub offer: ModelOffer,
    /// Until when its prices hold.
    pub expires: UnixMs,
}

/// The adverts at hand.
#[derive(Debug, Default)]
pub(crate) struct Adverts {
    known: Mutex<HashMap<NodeId, Arc<Advert>>>,
}

impl Adverts {
    fn fresh(&self, provider: NodeId, now: UnixMs) -> Option<Arc<Advert>> {
        let known = self.known.lock();
        let advert = known.get(&provider)?;
        let life = advert.expires_ms.saturating_sub(advert.made_at_ms);
        let half = advert.made_at_ms.saturating_add(life >> 1);
        (now.0 < half).then(|| Arc::clone(advert))
    }

    fn keep(&self, provider: NodeId, advert: &Arc<Advert>, now: UnixMs) {
        let mut known = self.known.lock();
        if known.len() >= ADVERTS_MAX {
            known.retain(|_, advert| advert.expires_ms > now.0);
        }
        if known.len() < ADVERTS_MAX {
            known.insert(provider, Arc::clone(advert));
        }
    }

    /// Asks again next time: the provider refused on its own terms.
    pub(crate) fn forget(&self, provider: NodeId) {
        self.known.lock().remove(&provider);
    }
}

/// The provider's advert, from memory or fresh.
pub(crate) async fn advert(shared: &Shared, provider: NodeId) -> Result<Arc<Advert>, JobFault> {
    let now = shared.clock.now();
    if let Some(advert) = shared.adverts.fresh(provider, now) {
        return Ok(advert);
    }
    let mut link = Link::open(&shared.network, provider).await?;
    link.send(&GatewayFrame::AdvertRequest).await?;
    let frame = link.next(WaitedFor::Advert, shared.config.advert_wait_ms).await?;
    let ProviderFrame::Advert(signed) = frame else { return Err(JobFault::Order { frame: name(&frame) }) };
    link.finish().await;
    let advert = Arc::new(signed.verify(shared.config.chain_id, provider, shared.clock.now())?);
    shared.adverts.keep(provider, &advert, now);
    Ok(advert)
}

/// Whether a provider would take a job of this size now.
pub(crate) async fn quote(shared: &Shared, provider: NodeId, request: QuoteRequest) -> Result<Quote, JobFault> {
    let mut link = Link::open(&shared.network, provider).await?;
    link.send(&GatewayFrame::QuoteRequest(request)).await?;
    let frame = link.next(WaitedFor::Advert, shared.config.advert_wait_ms).await?;
    let ProviderFrame::Quote(quote) = frame else { return Err(JobFault::Order { frame: name(&frame) }) };
    link.finish().await;
    Ok(quote)
}

/// Everything that connected providers sell; one that does not answer is left out and logged.
pub(crate) async fn offers(shared: &Shared) -> Vec<ProviderOffer> {
    let connected = shared.network.peers().into_iter().filter(|peer| peer.roles.contains(Role::Provider));
    let mut providers: Vec<NodeId> = connected.filter_map(|peer| peer.id).collect();
    providers.sort_unstable();
    providers.dedup();
    let asked = providers.into_iter().map(|provider| async move { (provider, advert(shared, provider).await) });
    let answers: Vec<_> = futures::stream::iter(asked).buffered(ASKS_AT_ONCE_MAX).collect().await;
    let mut offers = Vec::new();
    for (provider, answer) in answers {
        match answer {
            Ok(advert) => {
                let expires = UnixMs(advert.expires_ms);
                let of = |offer: &ModelOffer| ProviderOffer { provider, offer: offer.clone(), expires };
                offers.extend(advert.models.iter().map(of));
            }
            Err(fault) => tracing::debug!(provider = %provider.short(), fault = %fault, "a provider gave no advert"),
        }
    }
    offers
}
