//! The running provider: accepts streams, watches channels, stops in order.

use crate::admission::Admission;
use crate::channels::{Book, ChannelSource};
use crate::config::{ModelForSale, ProviderConfig};
use crate::error::ProviderError;
use crate::metrics::ProviderMetrics;
use crate::pairs::LastRoots;
use crate::watch::{Payouts, Pending, RedeemCause, RedeemIntent};
use crate::{restore, session, watch};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_market_channel::ChannelView;
use trellis_market_journal::Journal;
use trellis_market_receipt::wire::{HeldVoucher, JOB_PROTOCOL, JobError, JobErrorCode};
use trellis_market_receipt::{ADVERT_MODELS_MAX, SignedAdvert};
use trellis_net_peers::{Acceptor, NetworkHandle, Protocol};
use trellis_primitives::{ChannelId, JobId, NodeId, SharedClock, Wei};

/// What the provider is given.
pub struct ProviderParts {
    /// The network.
    pub network: NetworkHandle,
    /// The time.
    pub clock: SharedClock,
    /// The journal; nobody else writes to it.
    pub journal: Journal,
    /// What the chain says of channels.
    pub channels: Arc<dyn ChannelSource>,
    /// Where vouchers and receipts go.
    pub payouts: Arc<dyn Payouts>,
    /// The payee account: channels pay it, and it signs receipts and adverts.
    pub account: AccountKey,
    /// The node's key, for pair roots.
    pub node_key: Arc<HybridKey>,
    /// What is for sale.
    pub models: Vec<ModelForSale>,
}

/// What all tasks share.
pub(crate) struct Shared {
    pub(crate) config: ProviderConfig,
    pub(crate) network: NetworkHandle,
    pub(crate) clock: SharedClock,
    pub(crate) journal: Journal,
    pub(crate) account: AccountKey,
    pub(crate) node_key: Arc<HybridKey>,
    pub(crate) models: Vec<ModelForSale>,
    pub(crate) book: Arc<Book>,
    pub(crate) admission: Admission,
    pub(crate) payouts: Arc<dyn Payouts>,
    pub(crate) pending: Pending,
    pub(crate) roots: LastRoots,
    pub(crate) metrics: ProviderMetrics,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    pub(crate) fn model(&self, name: &str) -> Result<&ModelForSale, JobError> {
        self.models.iter().find(|model| model.name == name).ok_or_else(|| JobError {
            job: JobId::default(),
            code: JobErrorCode::UnknownModel,
            message: format!("no model {name:?} is for sale here"),
        })
    }
}

/// A channel in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelSummary {
    /// The gateway.
    pub gateway: NodeId,
    /// As last seen on the chain.
    pub view: ChannelView,
    /// The highest voucher.
    pub held: Option<HeldVoucher>,
    /// Everything promised on it.
    pub cumulative: Wei,
    /// Jobs under way.
    pub open_jobs: usize,
    /// Delivered and never paid.
    pub arrears: Wei,
}

/// A running provider.
pub struct Provider {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Provider {
    /// Restores the book from the journal, registers the protocol, and serves until [`Self::shutdown`].
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn start(config: ProviderConfig, parts: ProviderParts) -> Result<Self, ProviderError> {
        check_models(&parts.models)?;
        let metrics = ProviderMetrics::default();
        let book = Book::new(
            config.clone(),
            parts.account.address(),
            parts.channels,
            parts.journal.clone(),
            Arc::clone(&parts.clock),
            metrics.clone(),
        );
        let shared = Arc::new(Shared {
            admission: Admission::new(config.jobs_max, config.queue_max),
            config,
            network: parts.network,
            clock: parts.clock,
            journal: parts.journal,
            account: parts.account,
            node_key: parts.node_key,
            models: parts.models,
            book: Arc::new(book),
            payouts: parts.payouts,
            pending: Pending::default(),
            roots: LastRoots::default(),
            metrics,
            stop: CancellationToken::new(),
        });
        let restored = restore::restore(&shared).await?;
        let (channels, aborted, half_signed) = (restored.channels, restored.aborted, restored.half_signed);
        tracing::info!(channels, aborted, half_signed, "provider's book restored");
        for entry in shared.book.all() {
            if let Ok(Some(view)) = shared.book.ask(entry.id).await {
                entry.set_view(view);
            }
        }
        let acceptor = shared.network.accept(Protocol(JOB_PROTOCOL))?;
        let tasks = TaskTracker::new();
        tasks.spawn(watch::run(Arc::clone(&shared)));
        tasks.spawn(accept_streams(Arc::clone(&shared), acceptor, tasks.clone()));
        tasks.close();
        Ok(Self { shared, tasks })
    }

    /// What is for sale now, signed.
    #[must_use]
    pub fn advert(&self) -> SignedAdvert {
        session::advert(&self.shared)
    }

    /// Every channel that pays this provider.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelSummary> {
        let summary = |entry: Arc<crate::channels::Entry>| {
            let (cumulative, open_jobs, arrears) = entry.figures();
            let (view, held) = (entry.view(), entry.held());
            ChannelSummary { gateway: entry.peer, view, held, cumulative, open_jobs, arrears }
        };
        self.shared.book.all().into_iter().map(summary).collect()
    }

    /// Hands the highest voucher of a channel over to be redeemed; false where nothing is due on it.
    pub async fn redeem(&self, channel: ChannelId) -> bool {
        let Some(entry) = self.shared.book.known(channel) else { return false };
        let (view, Some(voucher)) = (entry.view(), entry.held()) else { return false };
        if voucher.cumulative <= view.paid {
            return false;
        }
        let intent = RedeemIntent { voucher, paid: view.paid, cause: RedeemCause::Requested };
        self.shared.payouts.redeem(intent).await;
        true
    }

    /// The provider's figures.
    #[must_use]
    pub fn metrics(&self) -> &ProviderMetrics {
        &self.shared.metrics
    }

    /// Takes no further job, aborts those under way with their exact money, and waits for that at most so long.
    pub async fn shutdown(self, wait: Duration) {
        self.shared.stop.cancel();
        if tokio::time::timeout(wait, self.tasks.wait()).await.is_err() {
            tracing::warn!("some streams did not end in time");
        }
    }
}

fn check_models(models: &[ModelForSale]) -> Result<(), ProviderError> {
    if models.is_empty() {
        return Err(ProviderError::NoModels);
    }
    if models.len() > ADVERT_MODELS_MAX {
        return Err(ProviderError::TooManyModels { max: ADVERT_MODELS_MAX, actual: models.len() });
    }
    let mut names = BTreeSet::new();
    for model in models {
        if !names.insert(&model.name) {
            return Err(ProviderError::DuplicateModel { name: model.name.clone() });
        }
    }
    Ok(())
}

async fn accept_streams(shared: Arc<Shared>, mut acceptor: Acceptor, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(shared.config.streams_max.clamp(1, Semaphore::MAX_PERMITS)));
    loop {
        let next = tokio::select! {
            next = acceptor.next() => next,
            () = shared.stop.cancelled() => return,
        };
        let Some((peer, stream)) = next else { return };
        // A peer beyond the bound sees its stream reset, which its own deadline names.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            session::serve(shared, peer, stream).await;
            drop(place);
        });
    }
}
