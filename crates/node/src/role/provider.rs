//! The provider: an engine or an upstream behind the job protocol, paid through channels.

use crate::bridge::{Channels, ProviderPayouts, connect};
use crate::control::Admin;
use crate::failure::Failure;
use crate::monitor::Health;
use crate::role::{
    Base, Status, aggregator, common_answer, named, open, same_key, serve_control, serve_metrics, until_end, wei,
};
use crate::settings::Settings;
use crate::view::provider_channel_json;
use async_trait::async_trait;
use eyre::Result;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use trellis_market_channel::Prices;
use trellis_market_inference::{Engine, EngineConfig, LoadOptions, Model};
use trellis_market_journal::{Journal, JournalConfig};
use trellis_market_provider::{
    Backend, EmbeddedBackend, ModelForSale, Provider, ProviderConfig, ProviderParts, UpstreamBackend, UpstreamConfig,
};
use trellis_market_receipt::eip712::Domain;
use trellis_market_settlement::{AggregatorLink, Challenger, Contracts, NetworkSource, Running, WatchTower};
use trellis_net_peers::NetworkHandle;
use trellis_primitives::{ChannelId, Role};

/// How long jobs may take to end when the node ends.
const SHUTDOWN_SECONDS: u64 = 3;
/// Between two looks at the chain for events of our channels and for batches to check, in milliseconds.
const WATCH_INTERVAL_MS: u64 = 1_000;
/// An upstream is asked for its models within this time.
const UPSTREAM_SECONDS_MAX: u64 = 10;
/// Tokens of prompt and answer that an upstream is taken to hold where it does not say.
const UPSTREAM_CONTEXT_TOKENS: u32 = 8_192;

/// Runs a provider until it is told to end.
///
/// # Errors
/// Whatever keeps it from starting, with a hint.
pub async fn run(settings: Settings, datadir: Option<&Path>) -> Result<()> {
    let (name, backend) = backend(&settings).await?;
    let mut base = open(Role::Provider, settings, datadir, vec![name.clone()]).await?;
    base.status.set("model", json!(name));
    let health = Health::new(&mut base.registry);
    let (provider, journal, _watching) = start(&mut base, name, backend).await?;
    let provider = Arc::new(provider);
    provider.metrics().register(named(&mut base.registry));
    health.set("provider", true, "serving");
    let registry = std::mem::take(&mut base.registry);
    let _monitor = serve_metrics(&base.settings, registry, health, &base.status).await?;
    let answers =
        Answers { network: base.network.clone(), status: Arc::clone(&base.status), provider: Arc::clone(&provider) };
    let control = serve_control(&base.datadir, Arc::new(answers))?;
    base.status.set("ready", json!(true));
    let ended = until_end(&journal).await;
    tracing::info!(cause = ended.as_ref().copied().unwrap_or("the journal stopped"), "provider ending");
    control.abort();
    let _ = control.await;
    if let Some(provider) = Arc::into_inner(provider) {
        provider.shutdown(Duration::from_secs(SHUTDOWN_SECONDS)).await;
    }
    base.network.shutdown().await;
    ended.map(|_| ())
}

/// A provider with its journal, and what watches its channels and its aggregator for as long as it is kept.
async fn start(base: &mut Base, name: String, backend: Arc<dyn Backend>) -> Result<(Provider, Journal, Vec<Running>)> {
    let chain = &base.chain;
    let client = connect(chain, &base.settings.rpc, Arc::clone(&base.clock)).await?;
    client.metrics().register(named(&mut base.registry));
    let channels = Channels::new(chain, client, &base.account, Arc::clone(&base.clock))?;
    let journal = Journal::open(&JournalConfig::new(base.datadir.join("journal")), Arc::clone(&base.clock))?;
    journal.metrics().register(named(&mut base.registry));
    let settles = aggregator(&base.settings, chain)?;
    let domain = Domain { chain_id: chain.spec.genesis.chain_id, contract: chain.contracts.settlement };
    let link = settles.map(|account| AggregatorLink::new(base.network.clone(), account, None, domain, journal.clone()));
    let config = ProviderConfig {
        chain_id: chain.spec.genesis.chain_id,
        channels: chain.contracts.payment_channels,
        settlement: chain.contracts.settlement,
        token: chain.contracts.wtrl,
        payout: base.account.address(),
        aggregator: settles.unwrap_or_default(),
        risk_limit: wei("risk_limit_wei", &base.settings.risk_limit_wei)?,
        challenge_seconds_min: chain.spec.protocol.channel_challenge_s.min(3_600),
        jobs_max: base.settings.jobs_max as usize,
        ..ProviderConfig::default()
    };
    let prices = Prices {
        input: wei("price_in_wei", &base.settings.price_in_wei)?,
        output: wei("price_out_wei", &base.settings.price_out_wei)?,
    };
    let contracts = Contracts::from(&chain.contracts);
    let tower = Arc::new(WatchTower::new(channels.wallet().clone(), &contracts, journal.clone()));
    let source = Arc::new(NetworkSource::new(base.network.clone()));
    // Over the same journal as the link, so that it knows what the aggregator promised, also before a restart.
    let challenger = Challenger::new(channels.wallet().clone(), &contracts, source, journal.clone()).await?;
    let challenger = Arc::new(challenger);
    let every = Duration::from_millis(WATCH_INTERVAL_MS);
    let watching = vec![tower.run(every), challenger.run(every)];
    let parts = ProviderParts {
        network: base.network.clone(),
        clock: Arc::clone(&base.clock),
        journal: journal.clone(),
        channels: Arc::new(channels.clone()),
        payouts: Arc::new(ProviderPayouts::new(channels, link)),
        account: same_key(&base.account)?,
        node_key: Arc::clone(&base.node_key),
        models: vec![ModelForSale { name, prices, backend }],
    };
    Ok((Provider::start(config, parts).await?, journal, watching))
}

/// What runs the jobs, and under which name it is sold.
async fn backend(settings: &Settings) -> Result<(String, Arc<dyn Backend>)> {
    if let Some(url) = &settings.upstream {
        return upstream(url, settings.jobs_max).await;
    }
    let path = settings.model.clone();
    let options = LoadOptions::default();
    let model = tokio::task::spawn_blocking(move || match path {
        Some(path) => Model::load(&path, &options),
        None => Model::builtin(&options),
    })
    .await??;
    let name = model.manifest().name.clone();
    let sequences = settings.jobs_max.max(1);
    let config = EngineConfig { sequences_max: sequences as usize, ..EngineConfig::default() };
    let engine = Engine::start(model, config)?;
    Ok((name, Arc::new(EmbeddedBackend::new(Arc::new(engine), sequences))))
}

async fn upstream(url: &str, capacity: u32) -> Result<(String, Arc<dyn Backend>)> {
    let base = url.trim_end_matches('/');
    let unreachable = |reason: String| {
        Failure::new(format!("the upstream {base} does not answer: {reason}"))
            .hint("give the URL up to and with /v1, as http://127.0.0.1:11434/v1")
    };
    let list: Value = reqwest::Client::new()
        .get(format!("{base}/models"))
        .timeout(Duration::from_secs(UPSTREAM_SECONDS_MAX))
        .send()
        .await
        .map_err(|error| unreachable(error.to_string()))?
        .json()
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let name = list["data"][0]["id"].as_str().ok_or_else(|| unreachable("it lists no model".into()))?.to_owned();
    let backend = UpstreamBackend::new(UpstreamConfig {
        url: base.to_owned(),
        model: name.clone(),
        api_key: std::env::var("TRELLIS_UPSTREAM_API_KEY").ok(),
        context_tokens: UPSTREAM_CONTEXT_TOKENS,
        capacity,
        connect_wait_ms: 5_000,
        response_wait_ms: 60_000,
    })?;
    Ok((name, Arc::new(backend)))
}

struct Answers {
    network: NetworkHandle,
    status: Arc<Status>,
    provider: Arc<Provider>,
}

#[async_trait]
impl Admin for Answers {
    async fn call(&self, method: &str, params: Value) -> Option<Result<Value>> {
        match method {
            "admin_channels" => {
                Some(Ok(Value::Array(self.provider.channels().iter().map(provider_channel_json).collect())))
            }
            "admin_redeem" => Some(redeem(&self.provider, &params).await),
            other => common_answer(&self.network, &self.status, other, &params).await,
        }
    }
}

async fn redeem(provider: &Provider, params: &Value) -> Result<Value> {
    let text = params["channel"].as_str().unwrap_or_default();
    let channel: ChannelId = text.parse().map_err(|error| Failure::usage(format!("the channel's id: {error}")))?;
    Ok(json!({"redeeming": provider.redeem(channel).await}))
}
