//! The full node: follows the chain without a vote and serves JSON-RPC from its own data (CHN-30).

use crate::failure::Failure;
use crate::monitor::Health;
use crate::role::following::{self, show};
use crate::role::keeper::{open_chain, show_height, start_checkpoints, start_rpc};
use crate::role::{open, serve_control, serve_metrics};
use crate::settings::Settings;
use crate::supervised::until_told_to_end;
use eyre::Result;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use trellis_chain_consensus::checkpoint::CheckpointMetrics;
use trellis_primitives::Role;

/// Runs a full node until it is told to end.
///
/// # Errors
/// Whatever keeps it from starting, with a hint; a final block that this node cannot commit.
pub async fn run(settings: Settings, datadir: Option<&Path>) -> Result<()> {
    let mut base = open(Role::Full, settings, datadir, Vec::new()).await?;
    let health = Health::new(&mut base.registry);
    let account = base.account.address();
    let keeper = open_chain(&mut base, account, &health)?;
    let sync = following::start(&base, &keeper).await?;
    let shown = tokio::spawn(show(sync.progress(), Arc::clone(&base.status)));
    let rpc = start_rpc(&mut base, &keeper).await?;
    let checkpoint_metrics = CheckpointMetrics::default();
    checkpoint_metrics.register(&mut base.registry);
    let _checkpoints = start_checkpoints(&base, &keeper, None, checkpoint_metrics)?;
    health.set("sync", true, "following");
    let registry = std::mem::take(&mut base.registry);
    let _monitor = serve_metrics(&base.settings, registry, health, &base.status).await?;
    let height =
        tokio::spawn(show_height(keeper.store.clone(), Arc::clone(&base.best_height), Arc::clone(&base.status)));
    let control = serve_control(&base.datadir, Arc::new(base.answers()))?;
    base.status.set("ready", json!(true));
    tracing::info!(rpc = %rpc.address(), "full node ready");
    let failed = tokio::select! {
        cause = until_told_to_end() => {
            tracing::info!(cause, "full node ending");
            None
        }
        error = sync.ended() => Some(error),
    };
    control.abort();
    shown.abort();
    height.abort();
    rpc.stop().await;
    sync.stop().await;
    base.network.shutdown().await;
    match failed {
        None => Ok(()),
        Some(error) => Err(Failure::new(error.to_string()).hint("the log above says why").into()),
    }
}
