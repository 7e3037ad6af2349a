//! The aggregator: collects receipts and vouchers, settles them in batches, serves the batches to who wants to check.

use crate::bridge::{connect, wallet};
use crate::monitor::Health;
use crate::role::{named, open, serve_control, serve_metrics, until_end};
use crate::settings::Settings;
use eyre::Result;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use trellis_market_journal::{Journal, JournalConfig};
use trellis_market_settlement::{Aggregator, AggregatorConfig, Contracts};
use trellis_primitives::Role;

/// Milliseconds in a second.
const SECOND_MS: u64 = 1_000;

/// Runs an aggregator until it is told to end.
///
/// # Errors
/// Whatever keeps it from starting, with a hint.
pub async fn run(settings: Settings, datadir: Option<&Path>) -> Result<()> {
    let mut base = open(Role::Aggregator, settings, datadir, Vec::new()).await?;
    let health = Health::new(&mut base.registry);
    let chain = &base.chain;
    let client = connect(chain, &base.settings.rpc, Arc::clone(&base.clock)).await?;
    client.metrics().register(named(&mut base.registry));
    let journal_config = JournalConfig::new(base.datadir.join("journal"));
    let journal = Journal::open(&journal_config, Arc::clone(&base.clock))?;
    journal.metrics().register(named(&mut base.registry));
    let protocol = &chain.spec.protocol;
    let config = AggregatorConfig {
        batch_receipts_max: usize::try_from(protocol.batch_receipts_max).unwrap_or(usize::MAX),
        batch_interval_ms: protocol.batch_interval_s.saturating_mul(SECOND_MS),
        ..AggregatorConfig::new(Contracts::from(&chain.contracts))
    };
    let wallet = wallet(client, &base.account)?;
    let aggregator =
        Aggregator::open(config, wallet, journal.clone(), &journal_config, Arc::clone(&base.clock)).await?;
    aggregator.metrics().register(named(&mut base.registry));
    let running = aggregator.run(&base.network)?;
    health.set("aggregator", true, "bonded and serving");
    let registry = std::mem::take(&mut base.registry);
    let _monitor = serve_metrics(&base.settings, registry, health, &base.status).await?;
    let answers = base.answers();
    let control = serve_control(&base.datadir, Arc::new(answers))?;
    base.status.set("ready", json!(true));
    let ended = until_end(&journal).await;
    tracing::info!(cause = ended.as_ref().copied().unwrap_or("the journal stopped"), "aggregator ending");
    control.abort();
    drop(running);
    base.network.shutdown().await;
    ended.map(|_| ())
}
