//! Bodies: which are missing, which are here.

use crate::error::Fault;
use crate::wire::Body;
use std::collections::{BTreeMap, BTreeSet};
use trellis_primitives::Header;

/// A body that its header commits to.
pub(crate) struct Held {
    pub(crate) body: Body,
    pub(crate) bytes: usize,
}

/// Bodies of the headers that are proved.
#[derive(Default)]
pub(crate) struct BodyStock {
    /// Neither here nor asked for.
    missing: BTreeSet<u64>,
    held: BTreeMap<u64, Held>,
    /// Bytes of those that are here.
    pub(crate) bytes: usize,
}

/// Decodes a body and compares it with what its header commits to.
pub(crate) fn check(header: &Header, bytes: &[u8]) -> Result<Body, Fault> {
    let body = Body::from_rlp(bytes).map_err(|_| Fault::Undecodable)?;
    let root = alloy_consensus::proofs::calculate_transaction_root(&body.transactions);
    if root != header.transactions_root || Some(body.section.root()) != header.parent_beacon_block_root {
        return Err(Fault::WrongBody);
    }
    Ok(body)
}

/// How many bytes a body is likely to have: transfers and calls have about one for a hundred gas.
pub(crate) fn likely_bytes(header: &Header) -> u64 {
    500 + header.gas_used / 100
}

impl BodyStock {
    pub(crate) fn want(&mut self, heights: impl IntoIterator<Item = u64>) {
        let held = &self.held;
        self.missing.extend(heights.into_iter().filter(|height| !held.contains_key(height)));
    }

    /// The lowest heights in a row that are missing, at most `count` of them and up to `last`.
    pub(crate) fn lowest(&self, count: u64, last: u64) -> Option<(u64, u64)> {
        let first = *self.missing.first()?;
        let row = self.missing.iter().zip(first..=last).take(usize::try_from(count).unwrap_or(usize::MAX));
        let last = row.take_while(|(height, expected)| *height == expected).last()?;
        Some((first, *last.0))
    }

    pub(crate) fn first_missing(&self) -> Option<u64> {
        self.missing.first().copied()
    }

    pub(crate) fn asked(&mut self, first: u64, last: u64) {
        for height in first..=last {
            self.missing.remove(&height);
        }
    }

    pub(crate) fn keep(&mut self, height: u64, held: Held) {
        self.missing.remove(&height);
        self.bytes = self.bytes.saturating_add(held.bytes);
        if let Some(before) = self.held.insert(height, held) {
            self.bytes = self.bytes.saturating_sub(before.bytes);
        }
    }

    pub(crate) fn get(&self, height: u64) -> Option<&Held> {
        self.held.get(&height)
    }

    pub(crate) fn take(&mut self, height: u64) -> Option<Held> {
        let taken = self.held.remove(&height)?;
        self.bytes = self.bytes.saturating_sub(taken.bytes);
        Some(taken)
    }
}
