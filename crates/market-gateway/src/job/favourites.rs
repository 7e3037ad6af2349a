//! Keeps the connections to the providers that served well, though no job is there for them (NET-57).

use crate::job::adverts::placed;
use crate::job::client::Shared;
use crate::job::error::JobFault;
use crate::selection::{Candidate, Experience, Served, favourites};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use trellis_net_peers::PREFERRED_MAX;
use trellis_primitives::NodeId;

/// Between two looks at who is a favourite, in milliseconds.
const LOOK_EVERY_MS: u64 = 2_000;

/// What was seen of providers, and what wakes the task that chooses among them.
#[derive(Default)]
pub(crate) struct Favourites {
    seen: Mutex<Experience>,
    changed: Notify,
}

impl Favourites {
    /// Jobs that this gateway has at a provider now.
    pub(crate) fn running(&self, provider: NodeId) -> u32 {
        self.seen.lock().running(provider)
    }
}

/// A job at a provider, counted for as long as it runs.
pub(crate) struct Counted {
    shared: Arc<Shared>,
    provider: NodeId,
    served: Served,
}

impl Counted {
    pub(crate) fn begin(shared: &Arc<Shared>, provider: NodeId) -> Self {
        shared.favourites.seen.lock().begun(provider);
        Self { shared: Arc::clone(shared), provider, served: Served::Undecided }
    }

    /// How it ended.
    pub(crate) fn end(mut self, ended: &Result<(), JobFault>) {
        self.served = match ended {
            Ok(()) => Served::Well,
            Err(fault) if is_providers(fault) => Served::Badly,
            Err(_) => Served::Undecided,
        };
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let favourites = &self.shared.favourites;
        favourites.seen.lock().ended(self.provider, self.served, self.shared.clock.now());
        favourites.changed.notify_one();
    }
}

/// Whether a fault is the provider's, or its way's, which is the same for whoever waits for an answer.
const fn is_providers(fault: &JobFault) -> bool {
    matches!(
        fault,
        JobFault::Open(_)
            | JobFault::Advert(_)
            | JobFault::Claim(_)
            | JobFault::Receipt { .. }
            | JobFault::Recount { .. }
            | JobFault::Late { .. }
            | JobFault::Lost { .. }
            | JobFault::Wire(_)
            | JobFault::Order { .. }
    )
}

/// Who is kept near now.
fn choose(shared: &Shared) -> Vec<NodeId> {
    let lately = shared.favourites.seen.lock().lately(shared.clock.now());
    let peers = placed(shared);
    let of = |provider: NodeId| {
        let place = peers.get(&provider).copied().unwrap_or_default();
        let capacity = shared.adverts.capacity(provider);
        Candidate { provider, capacity, latency_ms: place.latency_ms, group: place.group }
    };
    let candidates: Vec<Candidate> = lately.into_iter().map(of).collect();
    favourites(&candidates, shared.config.favourites_max.min(PREFERRED_MAX))
}

/// Tells the network who is to be kept, until the client stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    // Whom this gateway has channels with it has bought from, in a former life too.
    for entry in shared.purse.all() {
        shared.favourites.seen.lock().remembered(entry.provider, shared.clock.now());
    }
    let mut told = Vec::new();
    loop {
        let chosen = choose(&shared);
        if !chosen.is_empty() || chosen != told {
            shared.network.prefer(&chosen);
            told = chosen;
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.favourites.changed.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(LOOK_EVERY_MS)) => {}
        }
    }
}
