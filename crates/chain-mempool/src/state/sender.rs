//! One sender's transactions: in nonce order, with the run that can execute now at the front.

use crate::pooled::PooledTx;
use crate::state::AccountState;
use alloy_primitives::U256;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The queue of one sender.
///
/// The *run* is the stretch of transactions without a gap from the account's nonce on that the balance covers:
/// these are pending, the rest is queued.
#[derive(Debug, Default)]
pub(crate) struct SenderQueue {
    pub(crate) account: AccountState,
    txs: BTreeMap<u64, Arc<PooledTx>>,
    run_length: u64,
    run_cost: U256,
    cost_total: U256,
}

impl SenderQueue {
    pub(crate) fn new(account: AccountState) -> Self {
        Self { account, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.txs.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.txs.is_empty()
    }

    pub(crate) fn get(&self, nonce: u64) -> Option<&Arc<PooledTx>> {
        self.txs.get(&nonce)
    }

    /// What all of them cost at most, wei.
    pub(crate) fn cost_total(&self) -> U256 {
        self.cost_total
    }

    /// How many can run now.
    pub(crate) fn run_length(&self) -> u64 {
        self.run_length
    }

    /// The first nonce after the run: what a wallet should use next.
    pub(crate) fn next_nonce(&self) -> u64 {
        self.account.nonce.saturating_add(self.run_length)
    }

    pub(crate) fn run(&self) -> impl Iterator<Item = &Arc<PooledTx>> {
        self.run_from(self.account.nonce)
    }

    /// What can run now, from this nonce on.
    pub(crate) fn run_from(&self, nonce: u64) -> impl Iterator<Item = &Arc<PooledTx>> {
        let end = self.next_nonce();
        self.txs.range(nonce.clamp(self.account.nonce, end)..end).map(|(_, tx)| tx)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<PooledTx>> {
        self.txs.values()
    }

    /// Puts a transaction in, gives back the one it replaces.
    pub(crate) fn insert(&mut self, tx: Arc<PooledTx>) -> Option<Arc<PooledTx>> {
        let nonce = tx.nonce;
        self.cost_total = self.cost_total.saturating_add(tx.cost);
        let replaced = self.txs.insert(nonce, tx);
        if let Some(old) = &replaced {
            self.cost_total = self.cost_total.saturating_sub(old.cost);
        }
        if nonce < self.next_nonce() {
            self.restart_run();
        } else {
            self.extend_run();
        }
        replaced
    }

    pub(crate) fn remove(&mut self, nonce: u64) -> Option<Arc<PooledTx>> {
        let removed = self.txs.remove(&nonce)?;
        self.cost_total = self.cost_total.saturating_sub(removed.cost);
        if nonce < self.next_nonce() {
            self.restart_run();
        }
        Some(removed)
    }

    /// The account moved on: what has a lower nonce now leaves.
    pub(crate) fn update_account(&mut self, account: AccountState) -> Vec<Arc<PooledTx>> {
        self.account = account;
        let kept = self.txs.split_off(&account.nonce);
        let gone: Vec<_> = std::mem::replace(&mut self.txs, kept).into_values().collect();
        for tx in &gone {
            self.cost_total = self.cost_total.saturating_sub(tx.cost);
        }
        self.restart_run();
        gone
    }

    fn restart_run(&mut self) {
        self.run_length = 0;
        self.run_cost = U256::ZERO;
        self.extend_run();
    }

    fn extend_run(&mut self) {
        let start = self.next_nonce();
        let mut length = self.run_length;
        let mut cost = self.run_cost;
        for (expected, (nonce, tx)) in (start..).zip(self.txs.range(start..)) {
            let with_it = cost.saturating_add(tx.cost);
            if *nonce != expected || with_it > self.account.balance {
                break;
            }
            cost = with_it;
            length = length.saturating_add(1);
        }
        self.run_length = length;
        self.run_cost = cost;
    }
}
