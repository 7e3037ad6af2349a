//! The aggregator: takes receipts and vouchers, promises, batches, settles, serves, answers.

mod chain_work;
mod intake;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use trellis_market_chain::{ChannelsContract, SettlementContract, SettlementTerms, Wallet, WtrlContract};
use trellis_market_journal::{Journal, JournalConfig};
use trellis_market_receipt::SignedReceipt;
use trellis_market_receipt::eip712::Domain;
use trellis_net_peers::NetworkHandle;
use trellis_primitives::{Address, SharedClock, Wei};

use crate::config::AggregatorConfig;
use crate::error::{Refusal, SettleError};
use crate::metrics::SettlementMetrics;
use crate::state::State;
use crate::store;
use crate::wire::{LatestVoucher, Outcome};

pub use chain_work::TickReport;
use intake::KeyCache;
use serve::Published;

/// The receipt and voucher taker. Clones are the same aggregator.
#[derive(Clone)]
pub struct Aggregator {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: AggregatorConfig,
    wallet: Wallet,
    channels: ChannelsContract,
    settlement: SettlementContract,
    terms: SettlementTerms,
    domain: Domain,
    journal: Journal,
    clock: SharedClock,
    state: Mutex<State>,
    keys: KeyCache,
    published: Mutex<Vec<Arc<Published>>>,
    /// The first block whose Settlement events have not been looked at.
    event_cursor: tokio::sync::Mutex<u64>,
    metrics: SettlementMetrics,
}

/// Tasks that run until this is dropped.
pub struct Running {
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn new(tasks: Vec<JoinHandle<()>>) -> Self {
        Self { tasks }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Aggregator {
    /// Bonds where that is needed, and brings the state back from the journal. Nothing runs yet.
    ///
    /// # Errors
    /// [`SettleError`]: the chain is away, the account cannot bond, the journal is not ours.
    pub async fn open(
        config: AggregatorConfig,
        wallet: Wallet,
        journal: Journal,
        journal_config: &JournalConfig,
        clock: SharedClock,
    ) -> Result<Self, SettleError> {
        let channels = ChannelsContract::new(config.contracts.channels);
        let settlement = SettlementContract::new(config.contracts.settlement);
        let terms = settlement.terms(wallet.client()).await?;
        if terms.channels != channels.address {
            return Err(SettleError::OtherChannels { expected: channels.address, actual: terms.channels });
        }
        ensure_bond(&wallet, &settlement, &terms).await?;
        let on_chain = settlement.aggregator(wallet.client(), wallet.address()).await?;
        let mut state = State::new(config.batch_receipts_max, config.batch_interval_ms, on_chain.batches + 1);
        let recalled = store::recall(journal_config, &mut state)?;
        let seen = journal.index().chain_seen(settlement.address);
        let domain = Domain { chain_id: wallet.client().chain_id(), contract: settlement.address };
        let inner = Inner {
            config,
            wallet,
            channels,
            settlement,
            terms,
            domain,
            journal,
            clock,
            state: Mutex::new(state),
            keys: KeyCache::default(),
            published: Mutex::default(),
            event_cursor: tokio::sync::Mutex::new(seen.map_or(0, |block| block + 1)),
            metrics: SettlementMetrics::default(),
        };
        for (voucher, since) in recalled.vouchers.into_values() {
            let view = inner.channels.channel(inner.wallet.client(), voucher.channel).await?;
            inner.state.lock().hold(voucher.channel, store::held(&voucher, &view, since));
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Serves both protocols and looks at the chain at every interval, until the result is dropped.
    ///
    /// # Errors
    /// [`SettleError::Accept`] where another acceptor has a protocol.
    pub fn run(&self, network: &NetworkHandle) -> Result<Running, SettleError> {
        let mut tasks = serve::spawn(&self.inner, network)?;
        let aggregator = self.clone();
        tasks.push(tokio::spawn(async move {
            let every = Duration::from_millis(aggregator.inner.config.tick_interval_ms);
            loop {
                if let Err(error) = aggregator.tick().await {
                    tracing::warn!(%error, "settling did not go on, trying again");
                }
                tokio::time::sleep(every).await;
            }
        }));
        Ok(Running::new(tasks))
    }

    /// Takes receipts and vouchers, as from the network. Every promise in the answer is durable.
    pub async fn submit(
        &self,
        receipts: &[SignedReceipt],
        vouchers: &[LatestVoucher],
    ) -> (Vec<Outcome>, Vec<Option<Refusal>>) {
        let outcomes = self.inner.take_receipts(receipts).await;
        let taken = self.inner.take_vouchers(vouchers).await;
        (outcomes, taken)
    }

    /// One look at the clock and the chain: closes, forms, submits and finalises batches, pays vouchers, answers demands.
    /// What fails because the chain is away is tried again at the next look.
    ///
    /// # Errors
    /// [`SettleError`].
    pub async fn tick(&self) -> Result<TickReport, SettleError> {
        self.inner.tick().await
    }

    /// The aggregator's account, which receipts must name.
    #[must_use]
    pub fn account(&self) -> Address {
        self.inner.wallet.address()
    }

    /// The aggregator's figures.
    #[must_use]
    pub fn metrics(&self) -> &SettlementMetrics {
        &self.inner.metrics
    }
}

/// Registers with the least bond, wrapping coins where tokens are short.
async fn ensure_bond(
    wallet: &Wallet,
    settlement: &SettlementContract,
    terms: &SettlementTerms,
) -> Result<(), SettleError> {
    let known = settlement.aggregator(wallet.client(), wallet.address()).await?;
    let missing = terms.bond.saturating_sub(known.bond);
    if missing.is_zero() {
        return Ok(());
    }
    let token = WtrlContract::new(terms.token);
    let tokens = token.balance_of(wallet.client(), wallet.address()).await?;
    let coins = wallet.client().balance(wallet.address()).await?;
    let held: Wei = tokens.saturating_add(coins);
    if held < missing {
        return Err(SettleError::CannotBond { account: wallet.address(), held, needed: missing });
    }
    token.ensure_balance(wallet, missing).await?;
    settlement.register(wallet, terms.token, missing).await?;
    tracing::info!(account = %wallet.address(), bond = %terms.bond, "aggregator bonded");
    Ok(())
}
