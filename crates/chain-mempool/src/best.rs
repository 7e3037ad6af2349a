//! The order the next block wants: the highest effective tip first, each sender's nonces in order, equal tips by arrival.

use crate::pooled::PooledTx;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;
use trellis_primitives::RecoveredTx;

#[derive(Debug)]
struct Candidate {
    tip: u128,
    sequence: u64,
    run: usize,
    tx: Arc<PooledTx>,
}

impl Candidate {
    fn key(&self) -> (u128, Reverse<u64>) {
        (self.tip, Reverse(self.sequence))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Candidate {}
impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// A snapshot of what can run now, yielded best first. It holds no lock: the pool goes on while a block is built.
///
/// A sender's next transaction is considered only after its previous one was yielded, so nonces never have a gap.
/// When the builder cannot use a transaction, [`skip_sender`](Self::skip_sender) leaves out what follows it.
#[derive(Debug)]
pub struct BestTransactions {
    heap: BinaryHeap<Candidate>,
    runs: Vec<std::vec::IntoIter<Arc<PooledTx>>>,
    base_fee: u64,
    gas_limit: u64,
    last: Option<usize>,
}

impl BestTransactions {
    pub(crate) fn new(runs: Vec<Vec<Arc<PooledTx>>>, base_fee: u64, gas_limit: u64) -> Self {
        let mut best = Self {
            heap: BinaryHeap::new(),
            runs: runs.into_iter().map(Vec::into_iter).collect(),
            base_fee,
            gas_limit,
            last: None,
        };
        let firsts: Vec<Candidate> = (0..best.runs.len()).filter_map(|run| best.candidate(run)).collect();
        best.heap = BinaryHeap::from(firsts);
        best
    }

    fn candidate(&mut self, run: usize) -> Option<Candidate> {
        let tx = self.runs.get_mut(run)?.next()?;
        if tx.gas_limit > self.gas_limit {
            return None;
        }
        let tip = tx.effective_tip(self.base_fee)?;
        Some(Candidate { tip, sequence: tx.sequence, run, tx })
    }

    /// Leaves out every later transaction of the sender whose transaction was yielded last.
    pub fn skip_sender(&mut self) {
        self.last = None;
    }
}

impl Iterator for BestTransactions {
    type Item = RecoveredTx;

    fn next(&mut self) -> Option<RecoveredTx> {
        if let Some(run) = self.last.take()
            && let Some(candidate) = self.candidate(run)
        {
            self.heap.push(candidate);
        }
        let best = self.heap.pop()?;
        self.last = Some(best.run);
        Some(best.tx.tx.clone())
    }
}
