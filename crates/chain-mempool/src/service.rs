//! The thin shell: the lock, the account reader, the clock, the announcements.

use crate::best::BestTransactions;
use crate::config::PoolConfig;
use crate::error::{AccountReadError, PoolError};
use crate::filter::FeeFilter;
use crate::metrics::PoolMetrics;
use crate::recovered::RecoveredCache;
use crate::state::{AccountState, Inserted, PoolContent, PoolState, PoolStatus, check_stateless};
use alloy_primitives::map::{AddressHashMap, AddressHashSet};
use alloy_primitives::{Address, B256};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast;
use trellis_primitives::{RecoveredTx, SharedClock};

/// Announcements of pending transactions that a slow listener may be behind, before it misses some.
pub const PENDING_ANNOUNCEMENTS_MAX: usize = 16_384;

/// Where the pool learns nonces and balances: the newest committed state.
pub trait AccountReader: Send + Sync + 'static {
    /// The account now; an account that does not exist has nonce and balance zero.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn account(&self, address: Address) -> Result<AccountState, AccountReadError>;
}

/// A committed block, as the pool needs it.
#[derive(Clone, Copy, Debug)]
pub struct HeadUpdate<'a> {
    /// Base fee of the next block, wei.
    pub base_fee: u64,
    /// Gas limit of the next block.
    pub gas_limit: u64,
    /// Senders and hashes of the block's transactions.
    pub included: &'a [(Address, B256)],
    /// Other accounts whose nonce or balance changed, if the caller knows them (payees, EIP-7702 authorities).
    pub changed: &'a [Address],
}

/// The pool. Cheap to clone; every clone is the same pool.
#[derive(Clone)]
pub struct Mempool {
    inner: Arc<Inner>,
}

struct Inner {
    state: RwLock<PoolState>,
    config: PoolConfig,
    accounts: Arc<dyn AccountReader>,
    recovered: RecoveredCache,
    announcements: broadcast::Sender<B256>,
    clock: SharedClock,
    heads: AtomicU64,
    metrics: PoolMetrics,
}

impl std::fmt::Debug for Mempool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Mempool").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Mempool {
    /// An empty pool.
    #[must_use]
    pub fn new(config: PoolConfig, accounts: Arc<dyn AccountReader>, clock: SharedClock) -> Self {
        let (announcements, _) = broadcast::channel(PENDING_ANNOUNCEMENTS_MAX);
        Self {
            inner: Arc::new(Inner {
                state: RwLock::new(PoolState::new(config)),
                config,
                accounts,
                recovered: RecoveredCache::new(config.recovered_cache_entries_max),
                announcements,
                clock,
                heads: AtomicU64::new(0),
                metrics: PoolMetrics::default(),
            }),
        }
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> &PoolConfig {
        &self.inner.config
    }

    /// The pool's figures, to register.
    #[must_use]
    pub fn metrics(&self) -> &PoolMetrics {
        &self.inner.metrics
    }

    /// Takes one transaction. See [`add_batch`](Self::add_batch).
    ///
    /// # Errors
    /// Why it was refused.
    pub fn add(&self, tx: RecoveredTx) -> Result<B256, PoolError> {
        let mut answers = self.add_batch(vec![tx]);
        answers.pop().unwrap_or(Err(PoolError::AlreadyKnown))
    }

    /// Takes transactions in their order, with one answer each: the hash, or why it was refused.
    ///
    /// May read the state, so it belongs on a thread that may block.
    #[must_use]
    pub fn add_batch(&self, txs: Vec<RecoveredTx>) -> Vec<Result<B256, PoolError>> {
        let inner = &*self.inner;
        inner.recovered.insert_all(txs.iter().map(|tx| (tx.hash, tx.sender)));
        let checked: Vec<Result<RecoveredTx, PoolError>> =
            txs.into_iter().map(|tx| check_stateless(&inner.config, &tx).map(|()| tx)).collect();
        let head = inner.heads.load(Ordering::Acquire);
        let mut accounts = inner.accounts_of_strangers(&checked);

        let now = inner.clock.now();
        let mut promoted = Vec::new();
        let mut state = inner.state.write();
        if inner.heads.load(Ordering::Acquire) != head {
            accounts.clear();
        }
        let answers: Vec<Result<B256, PoolError>> = checked
            .into_iter()
            .map(|checked| {
                let tx = checked?;
                let hash = tx.hash;
                let inserted = inner.insert(&mut state, &mut accounts, tx, now)?;
                inner.count(&inserted);
                promoted.extend(inserted.promoted);
                Ok(hash)
            })
            .collect();
        inner.show(&state.status());
        drop(state);
        inner.announce(&promoted);
        for refusal in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            inner.metrics.refuse(refusal);
        }
        answers
    }

    /// A block was committed: its transactions leave, its senders' accounts are read again, the old expire.
    /// May read the state, so it belongs on a thread that may block.
    pub fn on_block(&self, update: &HeadUpdate<'_>) {
        let inner = &*self.inner;
        inner.heads.fetch_add(1, Ordering::AcqRel);
        let senders: AddressHashSet = {
            let state = inner.state.read();
            let touched = update.included.iter().map(|(sender, _)| sender).chain(update.changed);
            touched.filter(|address| state.known_account(address).is_some()).copied().collect()
        };
        let accounts: Vec<_> = senders.into_iter().map(|sender| (sender, inner.accounts.account(sender))).collect();

        let mut promoted = Vec::new();
        let mut state = inner.state.write();
        state.set_head(update.base_fee, update.gas_limit);
        let mut left: usize = 0;
        for (sender, account) in accounts {
            match account {
                Ok(account) => {
                    let (now_pending, gone) = state.set_account(sender, account);
                    promoted.extend(now_pending);
                    left = left.saturating_add(gone);
                }
                Err(error) => tracing::warn!(%sender, %error, "account unreadable after a block"),
            }
        }
        // Normally nothing: this takes out what an unreadable account left behind.
        left = left.saturating_add(update.included.iter().filter(|(_, hash)| state.remove(hash).is_some()).count());
        let expired = state.expire(inner.clock.now());
        inner.show(&state.status());
        drop(state);
        inner.metrics.included.inc_by(as_u64(left));
        inner.metrics.expired.inc_by(as_u64(expired));
        inner.announce(&promoted);
    }

    /// Takes out a transaction that the builder found unable to run.
    pub fn remove(&self, hash: &B256) -> Option<RecoveredTx> {
        let mut state = self.inner.state.write();
        let removed = state.remove(hash);
        self.inner.show(&state.status());
        removed
    }

    /// What the next block wants, best first, of a snapshot taken now.
    #[must_use]
    pub fn best(&self, base_fee: u64, gas_limit: u64) -> BestTransactions {
        self.inner.state.read().best(base_fee, gas_limit)
    }

    /// A transaction by its hash.
    #[must_use]
    pub fn get(&self, hash: &B256) -> Option<RecoveredTx> {
        self.inner.state.read().get(hash).cloned()
    }

    /// The sender of a transaction that came by here, so that it need not be recovered again.
    #[must_use]
    pub fn sender_of(&self, hash: &B256) -> Option<Address> {
        let sender = self.inner.state.read().get(hash).map(|tx| tx.sender).or_else(|| self.inner.recovered.get(hash));
        if sender.is_some() {
            self.inner.metrics.recovered_hits.inc();
        }
        sender
    }

    /// The nonce after the sender's last pending transaction, if it has one here.
    #[must_use]
    pub fn pending_nonce(&self, sender: &Address) -> Option<u64> {
        self.inner.state.read().pending_nonce(sender)
    }

    /// Counts.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        self.inner.state.read().status()
    }

    /// Base fee of the next block, wei, as the last [`HeadUpdate`] told it.
    #[must_use]
    pub fn base_fee(&self) -> u64 {
        self.inner.state.read().base_fee()
    }

    /// What peers need not send.
    #[must_use]
    pub fn fee_filter(&self) -> FeeFilter {
        self.inner.state.read().fee_filter()
    }

    /// Everything, or one sender's, of at most so many transactions.
    #[must_use]
    pub fn content(&self, only: Option<Address>, txs_max: usize) -> PoolContent {
        self.inner.state.read().content(only, txs_max)
    }

    /// Hashes of transactions as they become able to run.
    #[must_use]
    pub fn subscribe_pending(&self) -> broadcast::Receiver<B256> {
        self.inner.announcements.subscribe()
    }
}

type KnownAccounts = AddressHashMap<Result<AccountState, AccountReadError>>;

impl Inner {
    /// Reads, outside the lock, the accounts of senders that have nothing in the pool yet.
    fn accounts_of_strangers(&self, checked: &[Result<RecoveredTx, PoolError>]) -> KnownAccounts {
        let strangers: AddressHashSet = {
            let state = self.state.read();
            let senders = checked.iter().flatten().map(|tx| tx.sender);
            senders.filter(|sender| state.known_account(sender).is_none()).collect()
        };
        strangers.into_iter().map(|sender| (sender, self.accounts.account(sender))).collect()
    }

    /// Inserts with the account that the pool keeps up to date; only where that one is too poor is it read again,
    /// because money may have come in by another's transaction.
    fn insert(
        &self,
        state: &mut PoolState,
        accounts: &mut KnownAccounts,
        tx: RecoveredTx,
        now: trellis_primitives::UnixMs,
    ) -> Result<Inserted, PoolError> {
        let sender = tx.sender;
        let Some(kept) = state.known_account(&sender) else {
            let account = accounts.entry(sender).or_insert_with(|| self.accounts.account(sender)).clone()?;
            return state.insert(tx, account, now);
        };
        match state.insert(tx.clone(), kept, now) {
            Err(PoolError::InsufficientFunds { .. } | PoolError::InsufficientFundsQueued { .. }) => {
                state.insert(tx, self.accounts.account(sender)?, now)
            }
            other => other,
        }
    }

    fn announce(&self, promoted: &[B256]) {
        if self.announcements.receiver_count() > 0 {
            for hash in promoted {
                // An error only says that the last listener has just gone.
                let _ = self.announcements.send(*hash);
            }
        }
    }

    fn count(&self, inserted: &Inserted) {
        self.metrics.inserted.inc();
        self.metrics.replaced.inc_by(u64::from(inserted.replaced.is_some()));
        self.metrics.evicted.inc_by(as_u64(inserted.evicted));
    }

    fn show(&self, status: &PoolStatus) {
        let shown = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.pending.set(shown(status.pending));
        self.metrics.queued.set(shown(status.queued));
        self.metrics.bytes.set(shown(status.bytes));
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
