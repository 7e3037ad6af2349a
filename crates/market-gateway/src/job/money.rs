//! The gateway's book: the channels it pays by, and the one way in which money leaves.

use crate::job::client::Shared;
use crate::job::error::{JobFault, WaitedFor};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use trellis_market_channel::{ChannelPhase, ChannelView, PayerChannel, VoucherDraft, sign_voucher};
use trellis_market_journal::{ChannelOpened, Increment, Record, Side, Voucher};
use trellis_market_receipt::Advert;
use trellis_market_receipt::wire::{HeldVoucher, VoucherFrame};
use trellis_primitives::{Address, Bytes, ChannelId, JobId, NodeId, UnixMs, Wei};

/// Sequences are at least this many per millisecond of Unix time, so that a restart never uses one again.
const SEQUENCES_PER_MS: u64 = 1_000;
/// A new channel lives at least this long beyond the moment it is asked for, in seconds.
const CHANNEL_LIFE_SECONDS_MIN: u64 = 600;

/// What a channel must be for a provider to serve on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelNeed {
    /// The provider.
    pub provider: NodeId,
    /// Its account.
    pub payee: Address,
    /// Where its payouts go.
    pub payout: Address,
    /// The key that will sign vouchers.
    pub signer: Address,
    /// The token.
    pub token: Address,
    /// The deposit.
    pub deposit: Wei,
    /// The shortest challenge period, in seconds.
    pub challenge_seconds_min: u32,
    /// It must live at least until then, Unix seconds, margins not counted.
    pub alive_until_seconds: u64,
}

/// Why there is no channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelOpenError {
    /// The gateway's account cannot pay the deposit.
    #[error("the account has {available}, the deposit is {needed}")]
    Funds {
        /// What it has.
        available: Wei,
        /// What is needed.
        needed: Wei,
    },
    /// The transaction failed.
    #[error("the transaction failed: {reason}")]
    Transaction {
        /// Why.
        reason: String,
    },
    /// The chain cannot be asked.
    #[error("the chain cannot be asked: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// What was opened is not what was asked for.
    #[error("the opened channel has another {field} than was asked for")]
    Mismatch {
        /// Which term.
        field: &'static str,
    },
}

/// Opens channels on the chain; the node implements it over `market-chain`.
#[async_trait]
pub trait ChannelOpener: Send + Sync + 'static {
    /// Opens a new channel and resolves when it is on the chain.
    ///
    /// # Errors
    /// [`ChannelOpenError`].
    async fn open(&self, need: &ChannelNeed) -> Result<ChannelView, ChannelOpenError>;

    /// Adds to a channel's deposit.
    ///
    /// # Errors
    /// [`ChannelOpenError`].
    async fn top_up(&self, channel: ChannelId, amount: Wei) -> Result<ChannelView, ChannelOpenError>;

    /// The channel's newest state, `None` where there is no such channel.
    ///
    /// # Errors
    /// [`ChannelOpenError::Unreachable`].
    async fn view(&self, channel: ChannelId) -> Result<Option<ChannelView>, ChannelOpenError>;
}

/// A channel that this gateway pays by.
pub(crate) struct Entry {
    pub(crate) id: ChannelId,
    pub(crate) provider: NodeId,
    view: Mutex<ChannelView>,
    money: Mutex<PayerChannel>,
    sequence: AtomicU64,
    wants_sync: AtomicBool,
    pub(crate) syncing: tokio::sync::Mutex<()>,
}

impl Entry {
    pub(crate) fn new(provider: NodeId, view: ChannelView, money: PayerChannel, next_sequence: u64) -> Self {
        let wants_sync = AtomicBool::new(!money.is_synced());
        Self {
            id: view.id,
            provider,
            view: Mutex::new(view),
            money: Mutex::new(money),
            sequence: AtomicU64::new(next_sequence),
            wants_sync,
            syncing: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn view(&self) -> ChannelView {
        *self.view.lock()
    }

    pub(crate) fn set_view(&self, view: ChannelView) {
        *self.view.lock() = view;
        self.money.lock().set_deposit(view.deposit);
    }

    pub(crate) fn with_money<T>(&self, look: impl FnOnce(&mut PayerChannel) -> T) -> T {
        look(&mut self.money.lock())
    }

    /// A sequence that was never used on this channel.
    pub(crate) fn next_sequence(&self, now: UnixMs) -> u64 {
        let floor = now.0.saturating_mul(SEQUENCES_PER_MS);
        let next = |last: u64| Some(last.max(floor).saturating_add(1));
        self.sequence.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).map_or(floor, |last| last.max(floor))
    }

    /// After a broken stream: what the provider holds must be seen before the next job.
    pub(crate) fn lost(&self) {
        self.wants_sync.store(true, Ordering::Release);
    }

    pub(crate) fn wants_sync(&self) -> bool {
        self.wants_sync.load(Ordering::Acquire)
    }

    pub(crate) fn synced(&self) {
        self.wants_sync.store(false, Ordering::Release);
    }

    /// True where a provider would still serve on it.
    pub(crate) fn is_usable(&self, now: UnixMs) -> bool {
        let view = self.view();
        view.phase == ChannelPhase::Open && now.as_secs() < view.stop_seconds()
    }

    /// Promises more for a job: allotted, signed, not yet durable.
    pub(crate) fn promise(&self, shared: &Shared, job: JobId, amount: Wei) -> Result<(VoucherFrame, Record), JobFault> {
        let draft = self.with_money(|money| money.allot(job, amount))?;
        let added = draft.added;
        let frame = sign(shared, draft);
        Ok((frame.clone(), sent_record(&frame.voucher, added)))
    }

    /// Promises more for a job, durably: the frame may be sent.
    pub(crate) async fn pay(&self, shared: &Shared, job: JobId, amount: Wei) -> Result<VoucherFrame, JobFault> {
        let (frame, record) = self.promise(shared, job, amount)?;
        shared.journal.append(record).await?;
        Ok(frame)
    }

    /// The highest voucher again, where the provider has not acknowledged it. It is in the journal already.
    pub(crate) fn resend(&self, shared: &Shared) -> Option<VoucherFrame> {
        let draft = self.with_money(|money| money.resend())?;
        Some(sign(shared, draft))
    }
}

/// The same amount gives the same signature (RFC 6979), so signing again says nothing new.
fn sign(shared: &Shared, draft: VoucherDraft) -> VoucherFrame {
    let domain = shared.config.channels_domain();
    let voucher = sign_voucher(&domain, draft.channel, draft.cumulative, &shared.signer);
    draft.into_frame(voucher)
}

fn sent_record(voucher: &HeldVoucher, (job, amount): (JobId, Wei)) -> Record {
    Record::VoucherSent(Voucher {
        channel: voucher.channel,
        cumulative: voucher.cumulative,
        signature: Bytes::copy_from_slice(&voucher.signature),
        increments: vec![Increment { job, amount }],
    })
}

/// All channels, and one opening at a time per provider.
#[derive(Default)]
pub(crate) struct Purse {
    entries: Mutex<HashMap<NodeId, Vec<Arc<Entry>>>>,
    opening: Mutex<HashMap<NodeId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Purse {
    pub(crate) fn insert(&self, entry: Arc<Entry>) {
        self.entries.lock().entry(entry.provider).or_default().push(entry);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<Arc<Entry>> = self.entries.lock().values().flatten().cloned().collect();
        all.sort_by_key(|entry| entry.id);
        all
    }

    /// The newest channel to a provider that it would serve on.
    fn usable(&self, provider: NodeId, payee: Address, now: UnixMs) -> Option<Arc<Entry>> {
        let entries = self.entries.lock();
        let of_provider = entries.get(&provider)?;
        let fits = |entry: &&Arc<Entry>| entry.view().terms.payee == payee && entry.is_usable(now);
        of_provider.iter().rev().find(fits).cloned()
    }

    fn gate(&self, provider: NodeId) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.opening.lock().entry(provider).or_default())
    }
}

/// A channel to this provider with so much to promise; opens one or tops one up where there is none.
pub(crate) async fn ensure(
    shared: &Shared,
    provider: NodeId,
    advert: &Advert,
    needed: Wei,
) -> Result<Arc<Entry>, JobFault> {
    let gate = shared.purse.gate(provider);
    let wait_ms = shared.config.channel_wait_ms;
    let work = async {
        let _one_at_a_time = gate.lock().await;
        let now = shared.clock.now();
        match shared.purse.usable(provider, advert.payee, now) {
            Some(entry) => {
                fill(shared, &entry, needed).await;
                Ok(entry)
            }
            None => open(shared, provider, advert, needed).await,
        }
    };
    let late = |_| JobFault::Late { what: WaitedFor::Channel, wait_ms };
    tokio::time::timeout(Duration::from_millis(wait_ms), work).await.map_err(late)?
}

/// Tops a channel up where a job may not fit. A failure is not the job's end: most jobs cost less than their maximum.
async fn fill(shared: &Shared, entry: &Entry, needed: Wei) {
    if entry.with_money(|money| money.available()) >= needed {
        return;
    }
    let amount = shared.config.deposit.max(needed);
    match shared.opener.top_up(entry.id, amount).await {
        Ok(view) => entry.set_view(view),
        Err(error) => tracing::warn!(channel = %entry.id, error = %error, "a channel could not be topped up"),
    }
}

async fn open(shared: &Shared, provider: NodeId, advert: &Advert, needed: Wei) -> Result<Arc<Entry>, JobFault> {
    let now = shared.clock.now();
    let need = ChannelNeed {
        provider,
        payee: advert.payee,
        payout: advert.payout,
        signer: shared.signer.address(),
        token: shared.config.token,
        deposit: shared.config.deposit.max(advert.deposit_min).max(needed),
        challenge_seconds_min: advert.challenge_seconds_min,
        alive_until_seconds: now.as_secs().saturating_add(CHANNEL_LIFE_SECONDS_MIN),
    };
    let view = shared.opener.open(&need).await?;
    check(shared, &need, &view)?;
    let opened = ChannelOpened {
        channel: view.id,
        side: Side::Payer,
        peer: provider.to_b256(),
        payer: view.terms.payer,
        payee: view.terms.payee,
        contract: shared.config.channels,
        chain_id: shared.config.chain_id,
        deposit: view.deposit,
        expires_s: view.terms.expiry_seconds,
        payload: serde_json::to_vec(&view).unwrap_or_default().into(),
    };
    shared.journal.append(Record::ChannelOpened(opened)).await?;
    let domain = shared.config.channels_domain();
    let money = PayerChannel::new(domain, view.id, view.terms.signer, view.deposit);
    let entry = Arc::new(Entry::new(provider, view, money, 0));
    shared.purse.insert(Arc::clone(&entry));
    Ok(entry)
}

fn check(shared: &Shared, need: &ChannelNeed, view: &ChannelView) -> Result<(), ChannelOpenError> {
    let terms = &view.terms;
    let fits = [
        ("id", terms.id(&shared.config.channels_domain()) == view.id),
        ("payee", terms.payee == need.payee),
        ("payout", terms.payout == need.payout),
        ("signer", terms.signer == need.signer),
        ("token", terms.token == need.token),
        ("challenge period", terms.challenge_seconds >= need.challenge_seconds_min),
        ("deposit", view.deposit >= need.deposit),
        ("phase", view.phase == ChannelPhase::Open),
    ];
    match fits.into_iter().find(|(_, fits)| !fits) {
        Some((field, _)) => Err(ChannelOpenError::Mismatch { field }),
        None => Ok(()),
    }
}
