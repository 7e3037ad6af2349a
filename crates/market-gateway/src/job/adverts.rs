//! What providers sell: their adverts, asked for once and kept until half of their life is over.

use crate::job::client::Shared;
use crate::job::error::{JobFault, WaitedFor};
use crate::job::link::{Link, name};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use trellis_market_receipt::wire::{GatewayFrame, ProviderFrame, Quote, QuoteRequest};
use trellis_market_receipt::{Advert, ModelOffer};
use trellis_net_peers::discovery::address::{AddressGroup, PeerAddress};
use trellis_net_peers::{PeerInfo, PeerState};
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
    /// Whether it is connected now; where it is not, it was when it advertised.
    pub connected: bool,
    /// The round-trip time to it, in milliseconds, where it was measured.
    pub latency_ms: Option<u32>,
    /// Its network, where its address is known.
    pub group: Option<AddressGroup>,
    /// Jobs that this gateway has there now.
    pub running_here: u32,
}

/// Where a provider is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    pub(crate) connected: bool,
    pub(crate) latency_ms: Option<u32>,
    pub(crate) group: Option<AddressGroup>,
}

/// The providers among the peers, and where each is.
pub(crate) fn placed(shared: &Shared) -> BTreeMap<NodeId, Place> {
    let providers = shared.network.peers().into_iter().filter(|peer| peer.roles.contains(Role::Provider));
    let of = |peer: &PeerInfo| Place {
        connected: peer.state == PeerState::Connected,
        // A float becomes the nearest integer that there is.
        latency_ms: peer.latency_ms.map(|ms| ms as u32),
        group: peer.addresses.first().and_then(|text| PeerAddress::parse(text)).map(|at| AddressGroup::of(at.socket)),
    };
    providers.filter_map(|peer| Some((peer.id?, of(&peer)))).collect()
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

    /// Whose adverts are fresh.
    fn known(&self, now: UnixMs) -> Vec<NodeId> {
        let known: Vec<NodeId> = self.known.lock().keys().copied().collect();
        known.into_iter().filter(|provider| self.fresh(*provider, now).is_some()).collect()
    }

    /// Jobs that a provider runs at once, as it advertised; 0 where that is not known.
    pub(crate) fn capacity(&self, provider: NodeId) -> u32 {
        let known = self.known.lock();
        let offers = known.get(&provider).map(|advert| advert.models.iter().map(|offer| offer.capacity));
        offers.and_then(Iterator::max).unwrap_or_default()
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

/// Everything that providers sell which are connected, or have advertised lately; one that does not answer is left out and
/// logged.
pub(crate) async fn offers(shared: &Shared) -> Vec<ProviderOffer> {
    let places = placed(shared);
    let connected = places.iter().filter(|(_, place)| place.connected).map(|(provider, _)| *provider);
    let mut providers: Vec<NodeId> = connected.chain(shared.adverts.known(shared.clock.now())).collect();
    providers.sort_unstable();
    providers.dedup();
    let asked = providers.into_iter().map(|provider| async move { (provider, advert(shared, provider).await) });
    let answers: Vec<_> = futures::stream::iter(asked).buffered(ASKS_AT_ONCE_MAX).collect().await;
    let mut offers = Vec::new();
    for (provider, answer) in answers {
        match answer {
            Ok(advert) => {
                let (expires, place) = (UnixMs(advert.expires_ms), places.get(&provider).copied().unwrap_or_default());
                let of = |offer: &ModelOffer| ProviderOffer {
                    provider,
                    offer: offer.clone(),
                    expires,
                    connected: place.connected,
                    latency_ms: place.latency_ms,
                    group: place.group,
                    running_here: shared.favourites.running(provider),
                };
                offers.extend(advert.models.iter().map(of));
            }
            Err(fault) => tracing::debug!(provider = %provider.short(), fault = %fault, "a provider gave no advert"),
        }
    }
    offers
}
