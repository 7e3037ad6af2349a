//! Filters that clients install and ask again (`eth_newFilter` and its kin), bounded in number and in idle time.

use crate::config::{FILTER_IDLE_MS_MAX, FILTERS_MAX};
use crate::methods::LogQuery;
use alloy_primitives::U64;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use tokio::sync::broadcast;
use trellis_primitives::{B256, UnixMs};

/// What a filter waits for.
#[derive(Debug)]
pub(crate) enum FilterKind {
    /// Logs, of blocks from this height on.
    Logs { query: LogQuery, next: u64 },
    /// Blocks from this height on.
    Blocks { next: u64 },
    /// Transactions that wait.
    Pending(broadcast::Receiver<B256>),
}

#[derive(Debug)]
struct Installed {
    kind: FilterKind,
    asked: UnixMs,
}

/// All filters of a server.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    /// How many there ever were, and those that are there.
    installed: Mutex<(u64, HashMap<u64, Installed>)>,
    /// Keys of the system's randomness: nobody guesses the filters of others.
    ids: RandomState,
}

impl Filters {
    /// Installs a filter; `None` when there are as many as may be.
    pub(crate) fn install(&self, kind: FilterKind, now: UnixMs) -> Option<U64> {
        let mut installed = self.installed.lock();
        installed.1.retain(|_, filter| now.ms_since(filter.asked) < FILTER_IDLE_MS_MAX);
        if installed.1.len() >= FILTERS_MAX {
            return None;
        }
        installed.0 = installed.0.saturating_add(1);
        let id = self.ids.hash_one(installed.0);
        installed.1.insert(id, Installed { kind, asked: now });
        Some(U64::from(id))
    }

    /// Does something with a filter; `None` when it is not installed.
    pub(crate) fn with<T>(&self, id: u64, now: UnixMs, act: impl FnOnce(&mut FilterKind) -> T) -> Option<T> {
        let mut installed = self.installed.lock();
        let filter = installed.1.get_mut(&id).filter(|filter| now.ms_since(filter.asked) < FILTER_IDLE_MS_MAX)?;
        filter.asked = now;
        Some(act(&mut filter.kind))
    }

    /// Takes a filter away. Says whether it was there.
    pub(crate) fn remove(&self, id: u64) -> bool {
        self.installed.lock().1.remove(&id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_bounded_and_the_idle_ones_leave() {
        let filters = Filters::default();
        let install = || filters.install(FilterKind::Blocks { next: 1 }, UnixMs(0)).map(|id| id.to::<u64>());
        let ids: Vec<u64> = (0..FILTERS_MAX).map(|_| install().unwrap()).collect();
        let (one, two) = (ids[0], ids[1]);
        assert!(one.abs_diff(two) > 1 && two.abs_diff(ids[2]) > 1, "one does not tell the next");
        assert_eq!(filters.install(FilterKind::Blocks { next: 1 }, UnixMs(1)), None);
        assert!(filters.with(one, UnixMs(1_000), |_| ()).is_some());
        let later = UnixMs(FILTER_IDLE_MS_MAX);
        assert!(filters.with(two, later, |_| ()).is_none());
        assert!(filters.install(FilterKind::Blocks { next: 1 }, later).is_some());
        assert!(filters.with(one, later, |_| ()).is_some());
        assert!(filters.remove(one) && !filters.remove(one));
    }
}
