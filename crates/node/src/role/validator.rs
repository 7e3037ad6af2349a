//! The validator: the chain that is kept here, and the engine that decides what comes next.

use crate::datadir::check_writable;
use crate::failure::Failure;
use crate::monitor::Health;
use crate::role::accuse::{Accuser, AccuserMetrics};
use crate::role::following;
use crate::role::keeper::{Keeper, open_chain, show_height, start_checkpoints, start_rpc};
use crate::role::rotation::{self, Rotation};
use crate::role::{Base, leaders, named, open, serve_control, serve_metrics};
use crate::settings::Settings;
use crate::supervised::until_told_to_end;
use eyre::Result;
use prometheus_client::registry::Registry;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use trellis_chain_consensus::checkpoint::{CheckpointMetrics, CheckpointSigner};
use trellis_chain_consensus::{Application, EngineConfig, EngineHandle, engine_library_metrics};
use trellis_chain_finality::Validator;
use trellis_chain_producer::Producer;
use trellis_crypto::VoteKey;
use trellis_primitives::{Address, Role};

/// Runs a validator until it is told to end.
///
/// # Errors
/// Whatever keeps it from starting, with a hint; an engine that stops by itself.
pub async fn run(settings: Settings, datadir: Option<&Path>) -> Result<()> {
    let mut base = open(Role::Validator, settings, datadir, Vec::new()).await?;
    let keys = base.keys();
    let (vote_key, rotation) = (keys.vote_key()?, Rotation::of(&keys)?);
    let health = Health::new(&mut base.registry);
    let account = beneficiary(&base, &vote_key);
    let keeper = open_chain(&mut base, account, &health)?;
    let rpc = start_rpc(&mut base, &keeper).await?;
    health.set("consensus", false, "catching up");
    // Before the node catches up: whoever watches it sees how far it is.
    let registry = std::mem::take(&mut base.registry);
    let monitor = serve_metrics(&base.settings, registry, Arc::clone(&health), &base.status).await?;
    let register = |add: &dyn Fn(&mut Registry)| monitor.iter().for_each(|monitor| monitor.register(add));
    let control = serve_control(&base.datadir, Arc::new(base.answers()))?;
    let height =
        tokio::spawn(show_height(keeper.store.clone(), Arc::clone(&base.best_height), Arc::clone(&base.status)));
    tokio::select! {
        caught_up = catch_up(&base, &keeper, &vote_key) => caught_up?,
        cause = until_told_to_end() => {
            tracing::info!(cause, "validator ending while it catches up");
            return Ok(());
        }
    }
    let vote_public = vote_key.public();
    let engine = start_engine(&base, &keeper, vote_key, &health).await?;
    register(&|registry| engine.metrics().register(registry));
    let signer = CheckpointSigner { key: base.keys().checkpoint_key()?, vote_key: vote_public };
    let checkpoint_metrics = CheckpointMetrics::default();
    register(&|registry| checkpoint_metrics.register(registry));
    let _checkpoints = start_checkpoints(&base, &keeper, Some(signer), checkpoint_metrics)?;
    let accused = AccuserMetrics::default();
    register(&|registry| accused.register(named(registry)));
    let known = (keeper.store.clone(), keeper.committees.clone());
    let accuser = Accuser::new(&base, known, rpc.address(), accused).await?.map(|accuser| tokio::spawn(accuser.run()));
    let near = leaders::keep_near(base.network.clone(), keeper.store.clone(), keeper.committees.clone());
    let leaders = tokio::spawn(near);
    base.status.set("ready", json!(true));
    tracing::info!(rpc = %rpc.address(), "validator ready");
    let mut rotated = false;
    let cause = tokio::select! {
        cause = until_told_to_end() => cause.to_owned(),
        reason = engine.ended() => format!("the engine stopped: {reason}"),
        () = rotation.due(&base, &keeper) => {
            rotated = true;
            "the committee has the next vote key".to_owned()
        }
    };
    tracing::info!(cause, "validator ending");
    for task in [control, height, leaders].into_iter().chain(accuser) {
        task.abort();
    }
    rpc.stop().await;
    let stopped = engine.stop().await;
    base.network.shutdown().await;
    if rotated {
        return rotation::begin_anew(&base);
    }
    if cause.starts_with("the engine") {
        tracing::error!(cause, ?stopped, "the validator ends without being told to");
        check_writable(base.datadir.path()).map_err(|full| eyre::Report::new(full).wrap_err(cause.clone()))?;
        return Err(Failure::new(cause).hint("the log above says why").into());
    }
    Ok(())
}

/// Catches up where others may be ahead: whoever decides alone is always the first to know.
async fn catch_up(base: &Base, keeper: &Keeper, vote_key: &VoteKey) -> Result<()> {
    let deciders = keeper.committees.of(keeper.store.height().saturating_add(1))?;
    let own = |member: &Validator| member.public_key == vote_key.public();
    if deciders.validators().iter().all(own) {
        return Ok(());
    }
    following::catch_up(base, keeper).await
}

/// Starts the engine at the height after the newest block.
async fn start_engine(base: &Base, keeper: &Keeper, vote_key: VoteKey, health: &Health) -> Result<EngineHandle> {
    let consensus = &base.chain.spec.consensus;
    let engine = EngineConfig {
        block_time_ms: consensus.block_time_ms,
        propose_timeout_ms: consensus.propose_timeout_ms,
        timeout_delta_ms: consensus.timeout_delta_ms,
        ..EngineConfig::default()
    };
    let producer: Arc<dyn Application> = Arc::<Producer>::clone(&keeper.producer);
    let engine = trellis_chain_consensus::start(
        engine,
        Arc::new(vote_key),
        base.chain.genesis_hash,
        base.network.clone(),
        producer,
        Arc::clone(&base.clock),
        base.datadir.join("consensus"),
    )
    .await?;
    health.also_show(engine_library_metrics);
    health.set("consensus", true, "engine started");
    Ok(engine)
}

/// Who gets the tips: the account that the genesis names for this vote key, the node's own otherwise.
fn beneficiary(base: &Base, vote_key: &VoteKey) -> Address {
    let entries = &base.chain.spec.genesis.validators;
    let public = vote_key.public();
    let own = entries.iter().find(|entry| entry.vote_key.as_ref() == public.as_bytes());
    own.map_or(base.account.address(), |entry| entry.account)
}
