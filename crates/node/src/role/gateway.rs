//! The gateway: the OpenAI API in front, providers behind, vouchers between.

use crate::bridge::{Channels, connect};
use crate::control::Admin;
use crate::failure::Failure;
use crate::monitor::Health;
use crate::role::{
    Base, Status, common_answer, named, open, port_failure, same_key, serve_control, serve_metrics, socket_address,
    until_end, wei,
};
use crate::settings::Settings;
use crate::view::gateway_channel_json;
use alloy_primitives::B256;
use async_trait::async_trait;
use eyre::Result;
use futures::StreamExt;
use rand::SeedableRng;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use trellis_market_chain::ChannelStatus;
use trellis_market_gateway::http::{HttpConfig, serve};
use trellis_market_gateway::jobs::{JobEvent, Jobs};
use trellis_market_gateway::{JobClient, JobClientConfig, JobClientParts, Market};
use trellis_market_inference::{BUILTIN_MODEL_GGUF, TokenizerOnly};
use trellis_market_journal::{Journal, JournalConfig};
use trellis_market_receipt::{JobKind, JobRequest};
use trellis_market_settlement::{Contracts, Running, WatchTower};
use trellis_net_peers::NetworkHandle;
use trellis_primitives::{ChannelId, Role};

/// Between two looks at the chain for events of our channels, in milliseconds.
const WATCH_INTERVAL_MS: u64 = 1_000;
/// How long jobs may take to end when the node ends.
const SHUTDOWN_SECONDS: u64 = 3;

/// Runs a gateway until it is told to end.
///
/// # Errors
/// Whatever keeps it from starting, with a hint.
pub async fn run(settings: Settings, datadir: Option<&Path>) -> Result<()> {
    let mut base = open(Role::Gateway, settings, datadir, Vec::new()).await?;
    let health = Health::new(&mut base.registry);
    let (market, channels, journal, _watching) = start(&mut base).await?;
    let listen = socket_address("http_listen", &base.settings.http_listen)?;
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(|error| port_failure("HTTP", listen, &error))?;
    check_open_to_others(&base.settings, listen)?;
    base.status.endpoint("http", listener.local_addr()?);
    let config = HttpConfig { api_keys: base.settings.api_keys.clone() };
    let http = tokio::spawn(serve(listener, Arc::new(market.clone()), Arc::clone(&base.clock), config));
    health.set("http", true, "serving");
    let registry = std::mem::take(&mut base.registry);
    let _monitor = serve_metrics(&base.settings, registry, health, &base.status).await?;
    let answers =
        Answers { network: base.network.clone(), status: Arc::clone(&base.status), market: market.clone(), channels };
    let control = serve_control(&base.datadir, Arc::new(answers))?;
    base.status.set("ready", json!(true));
    let ended = until_end(&journal).await;
    tracing::info!(cause = ended.as_ref().copied().unwrap_or("the journal stopped"), "gateway ending");
    control.abort();
    http.abort();
    market.client().shutdown(Duration::from_secs(SHUTDOWN_SECONDS)).await;
    base.network.shutdown().await;
    ended.map(|_| ())
}

/// Without a key anybody who reaches the port spends the gateway's money.
fn check_open_to_others(settings: &Settings, listen: std::net::SocketAddr) -> Result<()> {
    if settings.api_keys.is_empty() && !listen.ip().is_loopback() {
        return Err(Failure::usage(format!("http_listen {listen} is open to other machines and no API key is set"))
            .hint("set --api-keys KEY, or listen on 127.0.0.1")
            .into());
    }
    Ok(())
}

/// A market to buy on, its channels and journal, and what watches them for as long as it is kept.
async fn start(base: &mut Base) -> Result<(Market, Channels, Journal, Running)> {
    let chain = &base.chain;
    let client = connect(chain, &base.settings.rpc, Arc::clone(&base.clock)).await?;
    client.metrics().register(named(&mut base.registry));
    let channels = Channels::new(chain, client, &base.account, Arc::clone(&base.clock))?;
    let journal_config = JournalConfig::new(base.datadir.join("journal"));
    let journal = Journal::open(&journal_config, Arc::clone(&base.clock))?;
    journal.metrics().register(named(&mut base.registry));
    let config = JobClientConfig {
        chain_id: chain.spec.genesis.chain_id,
        channels: chain.contracts.payment_channels,
        settlement: chain.contracts.settlement,
        token: chain.contracts.wtrl,
        risk_limit: wei("risk_limit_wei", &base.settings.risk_limit_wei)?,
        deposit: wei("deposit_wei", &base.settings.deposit_wei)?,
        favourites_max: usize::from(base.settings.favourites),
        ..JobClientConfig::default()
    };
    let tower = WatchTower::new(channels.wallet().clone(), &Contracts::from(&chain.contracts), journal.clone());
    let watching = Arc::new(tower).run(Duration::from_millis(WATCH_INTERVAL_MS));
    let parts = JobClientParts {
        network: base.network.clone(),
        clock: Arc::clone(&base.clock),
        journal: journal.clone(),
        journal_config,
        opener: Arc::new(channels.clone()),
        signer: same_key(&base.voucher)?,
        node_key: Arc::clone(&base.node_key),
        tokenizers: tokenizers(&base.settings)?,
        rng: Box::new(rand_chacha::ChaCha20Rng::from_os_rng()),
    };
    Ok((Market::new(JobClient::start(config, parts).await?), channels, journal, watching))
}

/// The tokenizers with which token counts are checked: the built-in model's and that of `--model`.
fn tokenizers(settings: &Settings) -> Result<HashMap<B256, TokenizerOnly>> {
    let mut known = vec![TokenizerOnly::from_bytes(BUILTIN_MODEL_GGUF)?];
    if let Some(path) = &settings.model {
        known.push(TokenizerOnly::from_gguf(path)?);
    }
    Ok(known.into_iter().map(|tokenizer| (B256::from(tokenizer.digest()), tokenizer)).collect())
}

struct Answers {
    network: NetworkHandle,
    status: Arc<Status>,
    market: Market,
    channels: Channels,
}

#[async_trait]
impl Admin for Answers {
    async fn call(&self, method: &str, params: Value) -> Option<Result<Value>> {
        match method {
            "admin_channels" => {
                Some(Ok(Value::Array(self.market.client().channels().iter().map(gateway_channel_json).collect())))
            }
            "admin_closeChannel" => Some(self.close(&params).await),
            "admin_sync" => Some(self.sync().await),
            "admin_runJob" => Some(self.run_job(&params).await),
            other => common_answer(&self.network, &self.status, other, &params).await,
        }
    }
}

impl Answers {
    /// Begins to close a channel, or finishes what was begun.
    async fn close(&self, params: &Value) -> Result<Value> {
        let text = params["channel"].as_str().unwrap_or_default();
        let id: ChannelId = text.parse().map_err(|error| Failure::usage(format!("the channel's id: {error}")))?;
        let (contract, wallet) = (self.channels.contract(), self.channels.wallet());
        let view = contract.channel(wallet.client(), id).await?;
        let (receipt, state) = match view.status {
            ChannelStatus::None => return Err(Failure::new(format!("there is no channel {id} on this chain")).into()),
            ChannelStatus::Closed => return Err(Failure::new(format!("the channel {id} is closed already")).into()),
            ChannelStatus::Open => (contract.start_close(wallet, id).await?, "closing"),
            ChannelStatus::Closing => (contract.finish_close(wallet, id).await?, "closed"),
        };
        let view = contract.channel(wallet.client(), id).await?;
        Ok(json!({"channel": id, "state": state, "tx": receipt.tx, "closing_at_s": view.closing_at_s}))
    }

    async fn sync(&self) -> Result<Value> {
        let results = self.market.client().sync_all().await;
        let shown: Vec<Value> = results
            .into_iter()
            .map(|(provider, result)| json!({"provider": provider, "error": result.err().map(|fault| fault.to_string())}))
            .collect();
        Ok(Value::Array(shown))
    }

    /// Runs one prompt and collects its answer with the receipt.
    async fn run_job(&self, params: &Value) -> Result<Value> {
        let model = match params["model"].as_str() {
            Some(model) => model.to_owned(),
            None => {
                let offers = self.market.offers().await;
                let first = offers.first().map(|(_, offer)| offer.name.clone());
                first.ok_or_else(|| Failure::new("no provider is connected, so there is no model to choose"))?
            }
        };
        let body = json!({
            "model": model,
            "messages": [{"role": "user", "content": params["prompt"]}],
            "max_tokens": params["max_tokens"],
        });
        let request = JobRequest::from_openai(JobKind::Chat, body, 128, rand::random::<u32>().into())?;
        let mut stream = self.market.start(request).await.map_err(|failure| Failure::new(failure.message))?;
        let mut text = String::new();
        while let Some(event) = stream.next().await {
            match event {
                JobEvent::Text(more) => text.push_str(&more),
                JobEvent::Failed(failure) => return Err(Failure::new(failure.message).into()),
                JobEvent::Done(summary) => {
                    return Ok(json!({
                        "text": text,
                        "model": model,
                        "job": summary.job,
                        "receipt": summary.receipt,
                        "provider": summary.provider,
                        "tokens_in": summary.tokens_in,
                        "tokens_out": summary.tokens_out,
                        "cost_wei": summary.cost,
                    }));
                }
            }
        }
        Err(Failure::new("the job ended without a word").into())
    }
}
