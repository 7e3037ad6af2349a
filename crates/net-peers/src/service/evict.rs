//! Idle connections make room (NET-16).

use std::sync::Arc;
use std::time::Duration;

use crate::reason::DisconnectReason;
use crate::service::NodeShared;

/// Between two looks at the pool, at least and at most.
const LOOK_EVERY_MS: std::ops::RangeInclusive<u64> = 50..=60_000;
/// So many looks fit into the idle time.
const LOOKS_PER_IDLE_TIME: u64 = 4;

/// Lets the longest idle peers go for as long as the pool is above its size, until the network closes.
pub(super) async fn evict_idle(shared: Arc<NodeShared>) {
    let (size, idle_ms) = (shared.config.pool_peers, shared.config.pool_idle_ms);
    let look_ms = (idle_ms / LOOKS_PER_IDLE_TIME).clamp(*LOOK_EVERY_MS.start(), *LOOK_EVERY_MS.end());
    let mut looks = tokio::time::interval(Duration::from_millis(look_ms));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.closing.cancelled() => return,
            _ = looks.tick() => {}
        }
        let now = shared.clock.now();
        let idle = {
            let mut kept = shared.bootstrapped.lock().clone();
            kept.extend(shared.relays_kept());
            kept.extend(shared.preferred());
            shared.table.lock().idle_beyond(usize::try_from(size).unwrap_or(usize::MAX), idle_ms, now, &kept)
        };
        // Each has its own time to say goodbye: who takes all of it holds up nobody.
        let parting = idle.into_iter().map(|peer| {
            tracing::debug!(%peer, "idle connection evicted");
            shared.disconnect(peer, DisconnectReason::Inactivity)
        });
        futures::future::join_all(parting).await;
    }
}
