//! One account's transactions on their way: which nonce is next, what is out, what is stuck. Pure.

use std::collections::BTreeMap;

use trellis_primitives::{B256, Bytes, UnixMs};

use crate::client::TxIntent;
use crate::fees::Fees;

/// Transactions of one account that may be on their way at once.
pub(crate) const IN_FLIGHT_MAX: usize = 1_024;

/// One nonce that was given out.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) intent: TxIntent,
    pub(crate) gas_limit: u64,
    pub(crate) fees: Fees,
    /// Every form of it that was sent; any of them may be included.
    pub(crate) forms: Vec<(B256, Bytes)>,
    pub(crate) sent_at: UnixMs,
}

/// An account's nonces.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    next_nonce: Option<u64>,
    slots: BTreeMap<u64, Slot>,
    by_hash: BTreeMap<B256, u64>,
}

impl Sender {
    /// The next nonce, if it is known without asking.
    pub(crate) fn next_nonce(&self) -> Option<u64> {
        self.next_nonce
    }

    /// Learns the account's next nonce from the chain.
    pub(crate) fn learn_nonce(&mut self, nonce: u64) {
        self.next_nonce = Some(nonce);
    }

    /// Forgets it: the next send asks the chain.
    pub(crate) fn forget_nonce(&mut self) {
        self.next_nonce = None;
    }

    /// Whether another transaction may go out.
    pub(crate) fn has_room(&self) -> bool {
        self.slots.len() < IN_FLIGHT_MAX
    }

    /// A node took a new transaction.
    pub(crate) fn sent(&mut self, nonce: u64, slot: Slot) {
        for (hash, _) in &slot.forms {
            self.by_hash.insert(*hash, nonce);
        }
        self.slots.insert(nonce, slot);
        self.next_nonce = Some(nonce.saturating_add(1));
    }

    /// A node took a dearer form of a transaction.
    pub(crate) fn replaced(&mut self, nonce: u64, form: (B256, Bytes), fees: Fees, now: UnixMs) {
        if let Some(slot) = self.slots.get_mut(&nonce) {
            self.by_hash.insert(form.0, nonce);
            slot.forms.push(form);
            slot.fees = fees;
            slot.sent_at = now;
        }
    }

    /// The nonce and state of a transaction that we sent.
    pub(crate) fn find(&self, tx: B256) -> Option<(u64, &Slot)> {
        let nonce = *self.by_hash.get(&tx)?;
        self.slots.get(&nonce).map(|slot| (nonce, slot))
    }

    /// The transaction is final; nothing more is kept of it.
    pub(crate) fn finished(&mut self, nonce: u64) {
        if let Some(slot) = self.slots.remove(&nonce) {
            for (hash, _) in slot.forms {
                self.by_hash.remove(&hash);
            }
        }
    }

    /// The next try of a stuck transaction counts from now.
    pub(crate) fn touched(&mut self, nonce: u64, now: UnixMs) {
        if let Some(slot) = self.slots.get_mut(&nonce) {
            slot.sent_at = now;
        }
    }
}
