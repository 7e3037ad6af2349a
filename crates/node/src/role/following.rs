//! Following the chain: a full node always, a validator until it is near enough for its engine (CHN-30).

use crate::chain::Chain;
use crate::role::keeper::{BEHIND_BLOCKS, Keeper};
use crate::role::{Base, Status};
use eyre::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use trellis_chain_sync::{BlockSink, ChainRules, Progress, SyncConfig, SyncHandle};

/// A validator that is further behind catches up before its engine starts; what is less, the engine fetches itself.
const FAR_BEHIND_BLOCKS: u64 = 64;
/// A validator whose newest block is so young is near, whatever its peers claim, in milliseconds: some ten blocks, and less than
/// the engine fetches itself where blocks are faster.
const YOUNG_MS: u64 = 10_000;
/// How long a validator looks for somebody who says where the chain is, in milliseconds.
const LOOK_MS: u64 = 3_000;
/// A validator whose sync makes no step for so long starts its engine as it is, in milliseconds.
const STUCK_MS: u64 = 60_000;
/// Between two lines of the log about a sync, in milliseconds.
const LOG_MS: u64 = 10_000;

/// What proves a block of a chain to be final.
pub fn rules(chain: &Chain) -> ChainRules {
    ChainRules {
        genesis_hash: chain.genesis_hash,
        genesis: chain.committee.clone(),
        epoch_blocks: chain.epoch_blocks(),
    }
}

/// Begins to follow the chain.
///
/// # Errors
/// A store that does not say where it stands.
pub async fn start(base: &Base, keeper: &Keeper) -> Result<SyncHandle> {
    let rules = rules(&base.chain);
    let sink: Arc<dyn BlockSink> = Arc::<trellis_chain_producer::Producer>::clone(&keeper.producer);
    let metrics = keeper.sync_metrics.clone();
    let sync = trellis_chain_sync::start(SyncConfig::default(), rules, base.network.clone(), sink, metrics).await?;
    *keeper.sync_shown.write() = Some(sync.progress());
    Ok(sync)
}

/// Brings a validator near to where the others are. When it returns, nobody writes to the chain any more.
///
/// # Errors
/// A final block that this node cannot commit.
pub async fn catch_up(base: &Base, keeper: &Keeper) -> Result<()> {
    let configured = !base.settings.peers.is_empty() || !base.chain.spec.network.boot_nodes.is_empty();
    if !configured && base.network.known_addresses().is_empty() {
        return Ok(());
    }
    let sync = start(base, keeper).await?;
    let shown = tokio::spawn(show(sync.progress(), Arc::clone(&base.status)));
    let near = near(sync.progress(), || {
        let made_ms = keeper.store.head().header().timestamp.saturating_mul(1_000);
        base.clock.now().0.abs_diff(made_ms) <= YOUNG_MS
    });
    let failed = tokio::select! {
        () = near => None,
        error = sync.ended() => Some(error),
    };
    shown.abort();
    *keeper.sync_shown.write() = None;
    sync.stop().await;
    base.status.set("sync", serde_json::Value::Null);
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Waits until a sync is near its goal, or nobody says where that is, or it does not move any more. The goal is what peers claim,
/// and whoever claims too much must not keep a validator from its work: a young block is near enough.
async fn near(mut progress: watch::Receiver<Progress>, young: impl Fn() -> bool) {
    let look = Duration::from_millis(LOOK_MS);
    // An error is a sync that has ended, which is seen elsewhere.
    let Ok(Ok(_)) = timeout(look, progress.wait_for(|now| now.peers > 0)).await else { return };
    if progress.borrow().left() <= FAR_BEHIND_BLOCKS {
        return;
    }
    let mut moved = (progress.borrow().head, Instant::now());
    while progress.borrow().left() > BEHIND_BLOCKS && !young() {
        let stuck = Duration::from_millis(STUCK_MS).saturating_sub(moved.1.elapsed());
        if !matches!(timeout(stuck, progress.changed()).await, Ok(Ok(()))) {
            tracing::warn!(head = moved.0, "the sync does not move; the engine starts as it is");
            return;
        }
        let head = progress.borrow().head;
        if head > moved.0 {
            moved = (head, Instant::now());
        }
    }
}

/// Shows where a sync stands: in `status`, as a bar where there is a terminal, as lines of the log.
pub async fn show(mut progress: watch::Receiver<Progress>, status: Arc<Status>) {
    let mut bar: Option<ProgressBar> = None;
    let mut logged = (progress.borrow().head, Instant::now());
    loop {
        let now = *progress.borrow_and_update();
        status.set("sync", to_json(&now));
        if now.left() > BEHIND_BLOCKS {
            let bar = bar.get_or_insert_with(|| new_bar(&now));
            bar.set_length(now.highest.saturating_sub(now.start));
            bar.set_position(now.head.saturating_sub(now.start));
            let since = logged.1.elapsed();
            if since >= Duration::from_millis(LOG_MS) {
                let blocks_per_s = now.head.saturating_sub(logged.0) as f64 / since.as_secs_f64();
                tracing::info!(head = now.head, highest = now.highest, peers = now.peers, blocks_per_s, "syncing");
                logged = (now.head, Instant::now());
            }
        } else if let Some(bar) = bar.take() {
            bar.finish_and_clear();
            tracing::info!(head = now.head, "synced");
        }
        if progress.changed().await.is_err() {
            return;
        }
    }
}

fn to_json(now: &Progress) -> serde_json::Value {
    json!({
        "start": now.start,
        "head": now.head,
        "proved": now.proved,
        "highest": now.highest,
        "peers": now.peers,
        "share": now.share(),
        "syncing": now.left() > BEHIND_BLOCKS,
    })
}

/// A bar on standard error; it shows nothing where that is no terminal.
fn new_bar(now: &Progress) -> ProgressBar {
    let bar = ProgressBar::new(now.highest.saturating_sub(now.start));
    let style = ProgressStyle::with_template("syncing {wide_bar} {pos}/{len} blocks, {per_sec}, {eta} left");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    // row: CHN-30
    #[tokio::test]
    async fn a_validator_with_a_young_block_is_near_whatever_its_peers_claim() {
        let claimed = Progress { head: 100, proved: 100, highest: u64::MAX, peers: 1, ..Progress::default() };
        let (_told, progress) = watch::channel(claimed);
        // Less than after which it would give up.
        let patience = Duration::from_millis(STUCK_MS / 2);
        assert!(timeout(patience, near(progress.clone(), || true)).await.is_ok());
        assert!(timeout(Duration::from_millis(200), near(progress, || false)).await.is_err(), "an old one is not");
    }
}
