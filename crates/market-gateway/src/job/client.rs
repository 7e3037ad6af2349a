//! The job client itself: what it is given, and what callers may ask of it.

use crate::job::adverts::{self, Adverts, ProviderOffer};
use crate::job::config::JobClientConfig;
use crate::job::error::{JobClientError, JobFault};
use crate::job::favourites::{self, Favourites};
use crate::job::money::{ChannelOpener, Entry, Purse};
use crate::job::pairs::{self, Pairs};
use crate::job::restore;
use crate::job::run::{self, JobOrder, RunningJob};
use crate::job::sync;
use parking_lot::Mutex;
use rand::RngCore;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_market_channel::ChannelView;
use trellis_market_inference::TokenizerOnly;
use trellis_market_journal::{Journal, JournalConfig};
use trellis_market_receipt::Advert;
use trellis_market_receipt::wire::{Quote, QuoteRequest};
use trellis_net_peers::NetworkHandle;
use trellis_primitives::{B256, NodeId, SharedClock, Wei};

/// What the job client is given.
pub struct JobClientParts {
    /// The network.
    pub network: NetworkHandle,
    /// The time.
    pub clock: SharedClock,
    /// The journal; nobody else writes to it.
    pub journal: Journal,
    /// Where that journal is: it is scanned once at the start.
    pub journal_config: JournalConfig,
    /// Opens channels on the chain.
    pub opener: Arc<dyn ChannelOpener>,
    /// The voucher signer: signs vouchers, accepts and receipts.
    pub signer: AccountKey,
    /// The node's key, for pair roots.
    pub node_key: Arc<HybridKey>,
    /// Tokenizers by their digest; a model whose tokenizer is not here is bounded by bytes.
    pub tokenizers: HashMap<B256, TokenizerOnly>,
    /// Randomness for job ids and salts.
    pub rng: Box<dyn RngCore + Send>,
}

/// What all tasks share.
pub(crate) struct Shared {
    pub(crate) config: JobClientConfig,
    pub(crate) network: NetworkHandle,
    pub(crate) clock: SharedClock,
    pub(crate) journal: Journal,
    pub(crate) opener: Arc<dyn ChannelOpener>,
    pub(crate) signer: AccountKey,
    pub(crate) node_key: Arc<HybridKey>,
    pub(crate) tokenizers: HashMap<B256, TokenizerOnly>,
    pub(crate) purse: Purse,
    pub(crate) adverts: Adverts,
    pub(crate) pairs: Pairs,
    pub(crate) favourites: Favourites,
    pub(crate) stop: CancellationToken,
    rng: Mutex<Box<dyn RngCore + Send>>,
}

impl Shared {
    pub(crate) fn random_word(&self) -> B256 {
        let mut bytes = [0u8; 32];
        self.rng.lock().fill_bytes(&mut bytes);
        B256::from(bytes)
    }
}

/// A channel in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelSummary {
    /// The provider.
    pub provider: NodeId,
    /// As last seen on the chain.
    pub view: ChannelView,
    /// Everything promised on it.
    pub cumulative: Wei,
    /// What can still be promised.
    pub available: Wei,
    /// What the provider has acknowledged.
    pub acknowledged: Wei,
}

/// The gateway's side of every job. Cheap to clone.
#[derive(Clone)]
pub struct JobClient {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl JobClient {
    /// Restores the channels from the journal, aborts what a crash cut short, and starts signing pair roots.
    ///
    /// # Errors
    /// [`JobClientError`].
    pub async fn start(config: JobClientConfig, parts: JobClientParts) -> Result<Self, JobClientError> {
        let shared = Arc::new(Shared {
            config,
            network: parts.network,
            clock: parts.clock,
            journal: parts.journal,
            opener: parts.opener,
            signer: parts.signer,
            node_key: parts.node_key,
            tokenizers: parts.tokenizers,
            purse: Purse::default(),
            adverts: Adverts::default(),
            pairs: Pairs::default(),
            favourites: Favourites::default(),
            stop: CancellationToken::new(),
            rng: Mutex::new(parts.rng),
        });
        restore::restore(&shared, &parts.journal_config).await?;
        let tasks = TaskTracker::new();
        tasks.spawn(pairs::run(Arc::clone(&shared)));
        tasks.spawn(favourites::run(Arc::clone(&shared)));
        Ok(Self { shared, tasks })
    }

    /// Runs a job. The answer comes as events; dropping the job cancels it.
    #[must_use]
    pub fn run(&self, order: JobOrder) -> RunningJob {
        run::start(Arc::clone(&self.shared), &self.tasks, order)
    }

    /// A provider's advert, from memory or fresh.
    ///
    /// # Errors
    /// [`JobFault`].
    pub async fn advert(&self, provider: NodeId) -> Result<Arc<Advert>, JobFault> {
        adverts::advert(&self.shared, provider).await
    }

    /// Whether a provider would take a job of this size now.
    ///
    /// # Errors
    /// [`JobFault`].
    pub async fn quote(&self, provider: NodeId, request: QuoteRequest) -> Result<Quote, JobFault> {
        adverts::quote(&self.shared, provider, request).await
    }

    /// Everything that providers sell which are connected, or were when they advertised, by provider.
    pub async fn offers(&self) -> Vec<ProviderOffer> {
        adverts::offers(&self.shared).await
    }

    /// Connects again to a provider whose connection is gone; true where it is connected then. Where it is not, what it sells
    /// is forgotten, so that nobody tries it again before it is back.
    pub async fn bring_back(&self, provider: NodeId) -> bool {
        let limit = Duration::from_millis(self.shared.config.redial_wait_ms);
        let dialled = tokio::time::timeout(limit, self.shared.network.reconnect(provider)).await;
        if matches!(dialled, Ok(Ok(_))) {
            return true;
        }
        tracing::info!(provider = %provider.short(), "a provider is gone");
        self.shared.adverts.forget(provider);
        false
    }

    /// Asks the network who sells a model that no connected provider sells; true where somebody was found and connected.
    pub async fn look_for(&self, model: &str) -> bool {
        !self.shared.network.find_providers(model).await.is_empty()
    }

    /// Every channel this gateway pays by.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelSummary> {
        let summary = |entry: Arc<Entry>| {
            let view = entry.view();
            entry.with_money(|money| ChannelSummary {
                provider: entry.provider,
                view,
                cumulative: money.cumulative(),
                available: money.available(),
                acknowledged: money.acknowledged_amount(),
            })
        };
        self.shared.purse.all().into_iter().map(summary).collect()
    }

    /// Asks every provider what it holds on our channels, sends what it lacks, and finishes half-signed receipts.
    /// Each job does this for its own channel when needed; an operator or an audit may ask for all.
    pub async fn sync_all(&self) -> Vec<(NodeId, Result<(), JobFault>)> {
        let mut results = Vec::new();
        for entry in self.shared.purse.all() {
            entry.lost();
            results.push((entry.provider, sync::sync(&self.shared, &entry).await));
        }
        results
    }

    /// True where this gateway has the tokenizer with which the counts of a model can be checked.
    #[must_use]
    pub fn can_recount(&self, tokenizer_digest: B256) -> bool {
        self.shared.tokenizers.contains_key(&tokenizer_digest)
    }

    /// Cancels every job, pays for what was delivered, signs the last pair roots, and waits for that at most so long.
    pub async fn shutdown(&self, wait: Duration) {
        self.shared.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(wait, self.tasks.wait()).await.is_err() {
            tracing::warn!("some jobs did not end in time");
        }
    }
}
