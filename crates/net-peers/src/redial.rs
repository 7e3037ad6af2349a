//! Bootstrap addresses are dialled until they are connected, and again when they are lost.

use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::broadcast;
use trellis_primitives::NodeId;

use crate::peer::PeerEvent;
use crate::service::NodeShared;

/// The first wait after a failed dial.
pub const REDIAL_MS_MIN: u64 = 250;
/// The longest wait between two dials of one address.
pub const REDIAL_MS_MAX: u64 = 30_000;

/// Waits between dials: doubling, bounded, with up to a quarter of jitter on top.
pub(crate) struct Backoff {
    next_ms: u64,
    rng: ChaCha8Rng,
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Self {
        Self { next_ms: REDIAL_MS_MIN, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let base = self.next_ms;
        self.next_ms = base.saturating_mul(2).min(REDIAL_MS_MAX);
        Duration::from_millis(base + self.rng.random_range(0..=base / 4))
    }

    pub(crate) const fn reset(&mut self) {
        self.next_ms = REDIAL_MS_MIN;
    }
}

/// A peer is trusted and kept as one of the list for as long as this is held, however the task that holds it ends.
struct Listed<'a> {
    shared: &'a NodeShared,
    peer: NodeId,
}

impl<'a> Listed<'a> {
    fn of(shared: &'a NodeShared, peer: NodeId) -> Self {
        shared.bootstrapped.lock().insert(peer);
        Self { shared, peer }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.shared.bootstrapped.lock().remove(&self.peer);
    }
}

/// Keeps one address connected until the network stops.
pub(crate) async fn keep_connected(shared: Arc<NodeShared>, address: String, seed: u64) {
    let mut backoff = Backoff::new(seed);
    let stopped = shared.closing.clone();
    let work = async {
        loop {
            let mut events = shared.events.subscribe();
            let dialled = shared.dial(&address).await;
            if let Some(discovery) = &shared.discovery {
                let result = dialled.as_ref().map(|_| ()).map_err(ToString::to_string);
                discovery.configured(&address, result, shared.clock.now());
            }
            match dialled {
                Ok(peer) => {
                    backoff.reset();
                    let _listed = Listed::of(&shared, peer);
                    until_disconnected(&shared, &mut events, peer).await;
                }
                Err(error) => tracing::debug!(%address, %error, "bootstrap address not connected"),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    };
    tokio::select! {
        () = stopped.cancelled() => {}
        () = work => {}
    }
}

async fn until_disconnected(shared: &NodeShared, events: &mut broadcast::Receiver<PeerEvent>, peer: NodeId) {
    loop {
        match events.recv().await {
            Ok(PeerEvent::Disconnected { peer: gone, .. }) if gone == peer && !shared.is_connected(peer) => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) if shared.is_connected(peer) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_bound_with_jitter_from_the_seed() {
        let (mut a, mut b) = (Backoff::new(1), Backoff::new(1));
        let waits: Vec<u64> = (0..12).map(|_| a.next().as_millis() as u64).collect();
        assert_eq!(waits, (0..12).map(|_| b.next().as_millis() as u64).collect::<Vec<_>>());
        assert!((250..=312).contains(&waits[0]) && (500..=625).contains(&waits[1]));
        assert!(waits.iter().all(|wait| *wait <= REDIAL_MS_MAX + REDIAL_MS_MAX / 4));
        assert!(*waits.last().unwrap() >= REDIAL_MS_MAX);
        a.reset();
        assert!(a.next().as_millis() <= 312);
    }
}
