//! The chain's part in these tests: it opens channels, tops them up and pays vouchers by the contract's rules, and counts every wei.

use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use trellis_market_channel::{ChannelPhase, ChannelTerms, ChannelView, verify_voucher};
use trellis_market_gateway::{ChannelNeed, ChannelOpenError, ChannelOpener};
use trellis_market_provider::{ChannelSource, ChannelSourceError, Payouts, RedeemIntent};
use trellis_market_receipt::SignedReceipt;
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::wire::HeldVoucher;
use trellis_primitives::{Address, B256, ChannelId, Clock, SystemClock, Wei};

/// Shared by all nodes of a world.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    domain: Domain,
    channels: Mutex<BTreeMap<ChannelId, ChannelView>>,
    receipts: Mutex<Vec<SignedReceipt>>,
    salt: AtomicU64,
    unreachable: AtomicBool,
    challenge_seconds: u32,
}

impl Ledger {
    pub fn new(domain: Domain, challenge_seconds: u32) -> Self {
        Self {
            inner: Arc::new(Inner {
                domain,
                channels: Mutex::default(),
                receipts: Mutex::default(),
                salt: AtomicU64::new(0),
                unreachable: AtomicBool::new(false),
                challenge_seconds,
            }),
        }
    }

    pub fn set_unreachable(&self, unreachable: bool) {
        self.inner.unreachable.store(unreachable, Ordering::SeqCst);
    }

    fn reach(&self) -> bool {
        !self.inner.unreachable.load(Ordering::SeqCst)
    }

    pub fn all(&self) -> Vec<ChannelView> {
        self.inner.channels.lock().values().copied().collect()
    }

    pub fn receipts(&self) -> Vec<SignedReceipt> {
        self.inner.receipts.lock().clone()
    }

    pub fn start_close(&self, id: ChannelId, closing_at_seconds: u64) {
        self.inner.channels.lock().get_mut(&id).unwrap().phase = ChannelPhase::Closing { closing_at_seconds };
    }

    /// Pays a voucher as `PaymentChannels.redeem` does: once, up to the deposit.
    pub fn redeem(&self, voucher: &HeldVoucher) -> Wei {
        let mut channels = self.inner.channels.lock();
        let view = channels.get_mut(&voucher.channel).unwrap();
        verify_voucher(&self.inner.domain, voucher, view.terms.signer).unwrap();
        let due = voucher.cumulative.min(view.deposit).saturating_sub(view.paid);
        view.paid = view.paid.saturating_add(due);
        due
    }

    fn view_now(&self, id: ChannelId) -> Option<ChannelView> {
        let view = self.inner.channels.lock().get(&id).copied()?;
        Some(ChannelView { seen_at: SystemClock.now(), ..view })
    }
}

#[async_trait]
impl ChannelOpener for Ledger {
    async fn open(&self, need: &ChannelNeed) -> Result<ChannelView, ChannelOpenError> {
        if !self.reach() {
            return Err(ChannelOpenError::Unreachable { reason: "the test says so".into() });
        }
        let terms = ChannelTerms {
            payer: Address::repeat_byte(0x11),
            payee: need.payee,
            payout: need.payout,
            signer: need.signer,
            token: need.token,
            challenge_seconds: self.inner.challenge_seconds,
            expiry_seconds: need.alive_until_seconds + 1_000_000,
            salt: B256::from(trellis_primitives::U256::from(self.inner.salt.fetch_add(1, Ordering::SeqCst))),
        };
        let id = terms.id(&self.inner.domain);
        let (phase, paid, seen_at) = (ChannelPhase::Open, Wei::ZERO, SystemClock.now());
        let view = ChannelView { id, terms, phase, deposit: need.deposit, paid, seen_at };
        self.inner.channels.lock().insert(id, view);
        Ok(view)
    }

    async fn top_up(&self, channel: ChannelId, amount: Wei) -> Result<ChannelView, ChannelOpenError> {
        if !self.reach() {
            return Err(ChannelOpenError::Unreachable { reason: "the test says so".into() });
        }
        let mut channels = self.inner.channels.lock();
        let view = channels.get_mut(&channel).unwrap();
        view.deposit = view.deposit.saturating_add(amount);
        Ok(*view)
    }

    async fn view(&self, channel: ChannelId) -> Result<Option<ChannelView>, ChannelOpenError> {
        if !self.reach() {
            return Err(ChannelOpenError::Unreachable { reason: "the test says so".into() });
        }
        Ok(self.view_now(channel))
    }
}

#[async_trait]
impl ChannelSource for Ledger {
    async fn channel(&self, id: ChannelId) -> Result<Option<ChannelView>, ChannelSourceError> {
        if !self.reach() {
            return Err(ChannelSourceError::Unreachable { reason: "the test says so".into() });
        }
        Ok(self.view_now(id))
    }
}

#[async_trait]
impl Payouts for Ledger {
    async fn redeem(&self, intent: RedeemIntent) {
        Ledger::redeem(self, &intent.voucher);
    }

    async fn receipts(&self, receipts: &[SignedReceipt], vouchers: &[HeldVoucher]) -> Vec<bool> {
        assert!(receipts.iter().all(|signed| vouchers.iter().any(|held| held.channel == signed.receipt.channel)));
        self.inner.receipts.lock().extend_from_slice(receipts);
        vec![true; receipts.len()]
    }
}
