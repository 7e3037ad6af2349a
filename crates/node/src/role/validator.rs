//! The validator: storage, execution, mempool, producer and consensus behind JSON-RPC.

use crate::datadir::check_writable;
use crate::failure::Failure;
use crate::keys::KeyMaker;
use crate::monitor::Health;
use crate::role::{Base, Status, named, open, port_failure, serve_control, serve_metrics, socket_address};
use crate::settings::Settings;
use crate::supervised::until_told_to_end;
use eyre::Result;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use trellis_chain_consensus::{EngineConfig, EngineHandle, engine_library_metrics};
use trellis_chain_execution::{Executor, SystemCall};
use trellis_chain_finality::ValidatorSet;
use trellis_chain_mempool::gossip::{self, Gossip};
use trellis_chain_mempool::{Mempool, PoolConfig};
use trellis_chain_producer::{Committees, HeadAccounts, Producer, ProducerConfig};
use trellis_chain_spec::DEV_CHAIN_ID;
use trellis_chain_storage::{Store, StoreConfig};
use trellis_crypto::VoteKey;
use trellis_net_peers::NetworkHandle;
use trellis_primitives::{Address, Block, Bytes, Role};
use trellis_rpc::{
    CommitteeView, Namespace, NetView, NoMarket, RpcConfig, RpcParts, RpcServer, RpcStartError, SyncProgress,
};

/// Runs a validator until it is told to end.
///
/// # Errors
/// Whatever keeps it from starting, with a hint; an engine that stops by itself.
pub async fn run(settings: Settings, datadir: Option<&Path>) -> Result<()> {
    let mut base = open(Role::Validator, settings, datadir, Vec::new()).await?;
    let vote_key = KeyMaker {
        datadir: base.datadir.path(),
        chain_id: base.chain.spec.genesis.chain_id,
        dev_account: base.settings.dev_account,
        passphrase_file: base.settings.passphrase_file.as_deref(),
    }
    .vote_key()?;
    let health = Health::new(&mut base.registry);
    let parts = start_chain(&mut base, vote_key, &health).await?;
    let rpc = start_rpc(&mut base, &parts).await?;
    let registry = std::mem::take(&mut base.registry);
    let _monitor = serve_metrics(&base.settings, registry, Arc::clone(&health), &base.status).await?;
    let follower = tokio::spawn(follow(parts.store.clone(), Arc::clone(&base.best_height), Arc::clone(&base.status)));
    let answers = base.answers();
    let control = serve_control(&base.datadir, Arc::new(answers))?;
    base.status.set("ready", json!(true));
    tracing::info!(rpc = %rpc.address(), "validator ready");
    let cause = tokio::select! {
        cause = until_told_to_end() => cause.to_owned(),
        reason = parts.engine.ended() => format!("the engine stopped: {reason}"),
    };
    tracing::info!(cause, "validator ending");
    control.abort();
    follower.abort();
    rpc.stop().await;
    let stopped = parts.engine.stop().await;
    base.network.shutdown().await;
    if cause.starts_with("the engine") {
        tracing::error!(cause, ?stopped, "the validator ends without being told to");
        check_writable(base.datadir.path()).map_err(|full| eyre::Report::new(full).wrap_err(cause.clone()))?;
        return Err(Failure::new(cause).hint("the log above says why").into());
    }
    Ok(())
}

/// The parts of a running chain.
struct ChainParts {
    store: Store,
    committees: Committees,
    mempool: Mempool,
    executor: Executor,
    engine: EngineHandle,
    _gossip: Gossip,
}

async fn start_chain(base: &mut Base, vote_key: VoteKey, health: &Health) -> Result<ChainParts> {
    let chain = &base.chain;
    let store = Store::open(&base.datadir.join("chain"), &chain.genesis, StoreConfig::default()).map_err(|error| {
        let hint = error.hint();
        Failure::new(error.to_string()).hint(hint)
    })?;
    let executor = Executor::new(chain.execution());
    let mut pool = PoolConfig::new(chain.spec.genesis.chain_id);
    pool.min_fee_wei = u128::from(chain.spec.gas.base_fee_floor_wei);
    let mempool = Mempool::new(pool, Arc::new(HeadAccounts(store.clone())), Arc::clone(&base.clock));
    mempool.metrics().register(&mut base.registry);
    let gossip = gossip::start(mempool.clone(), base.network.clone())?;
    let config = ProducerConfig {
        beneficiary: beneficiary(base, &vote_key),
        extra_data: Bytes::from_static(b"trellis"),
        epochs: chain.epochs(),
        clock_ahead_ms_max: chain.spec.consensus.clock_ahead_ms_max,
    };
    let producer =
        Arc::new(Producer::start(store.clone(), executor.clone(), mempool.clone(), config, Arc::clone(&base.clock))?);
    let committees = producer.committees().clone();
    ChainGauges::register(named(&mut base.registry)).follow(health, &store, &producer);
    let consensus = &chain.spec.consensus;
    let engine = EngineConfig {
        block_time_ms: consensus.block_time_ms,
        propose_timeout_ms: consensus.propose_timeout_ms,
        timeout_delta_ms: consensus.timeout_delta_ms,
        ..EngineConfig::default()
    };
    let engine = trellis_chain_consensus::start(
        engine,
        Arc::new(vote_key),
        chain.genesis_hash,
        base.network.clone(),
        producer,
        Arc::clone(&base.clock),
        base.datadir.join("consensus"),
    )
    .await?;
    engine.metrics().register(&mut base.registry);
    health.also_show(engine_library_metrics);
    health.set("consensus", true, "engine started");
    health.set("storage", true, "open");
    Ok(ChainParts { store, committees, mempool, executor, engine, _gossip: gossip })
}

/// Who gets the tips: the account that the genesis names for this vote key, the node's own otherwise.
fn beneficiary(base: &Base, vote_key: &VoteKey) -> Address {
    let entries = &base.chain.spec.genesis.validators;
    let own = entries.iter().find(|entry| entry.vote_key.0 == vote_key.public());
    own.map_or(base.account.address(), |entry| entry.account)
}

/// Figures of the chain that are read rather than counted.
struct ChainGauges {
    height: Gauge,
    transactions: Gauge,
    gas: Gauge,
    commit: Gauge,
}

/// Registers the chain's gauges.
pub fn register_gauges(registry: &mut Registry) {
    let _ = ChainGauges::register(registry);
}

impl ChainGauges {
    fn register(registry: &mut Registry) -> Self {
        let made = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            height: made(registry, "chain_height_blocks", "Height of the newest final block"),
            transactions: made(
                registry,
                "chain_transactions_committed",
                "Transactions in blocks committed by this process",
            ),
            gas: made(registry, "chain_gas_used", "Gas used in blocks committed by this process"),
            commit: made(registry, "chain_last_commit_us", "Microseconds that the last durable commit took"),
        }
    }

    fn follow(self, health: &Health, store: &Store, producer: &Arc<Producer>) {
        let (store, producer) = (store.clone(), Arc::clone(producer));
        let clamp = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        health.on_refresh(Box::new(move || {
            let figures = producer.metrics();
            self.height.set(clamp(store.height()));
            self.transactions.set(clamp(figures.transactions_total));
            self.gas.set(clamp(figures.gas_total));
            self.commit.set(clamp(store.metrics().last_commit_us));
        }));
    }
}

async fn start_rpc(base: &mut Base, parts: &ChainParts) -> Result<RpcServer> {
    let listen = socket_address("rpc_listen", &base.settings.rpc_listen)?;
    let mut config = RpcConfig { listen, ..RpcConfig::default() };
    if base.chain.spec.genesis.chain_id == DEV_CHAIN_ID {
        // Nobody else's node: what is dear or private may be asked.
        config.namespaces.extend([Namespace::Debug, Namespace::Ots]);
    }
    let rpc_parts = RpcParts {
        store: parts.store.clone(),
        mempool: parts.mempool.clone(),
        executor: parts.executor.clone(),
        committee: Arc::new(CommitteesView(parts.committees.clone())),
        net: Arc::new(NetworkView(base.network.clone())),
        market: Arc::new(NoMarket),
        clock: Arc::clone(&base.clock),
        client_version: format!(
            "Trellis/v{}/{}-{}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH
        ),
    };
    let server = trellis_rpc::start(config, rpc_parts).await.map_err(|error| match error {
        RpcStartError::Listen { listen, source } => eyre::Report::new(port_failure("JSON-RPC", listen, &source)),
        other => eyre::Report::new(other),
    })?;
    server.metrics().register(&mut base.registry);
    base.status.endpoint("rpc", server.address());
    Ok(server)
}

/// Tells peers and `status` how high the chain is.
async fn follow(store: Store, best_height: Arc<std::sync::atomic::AtomicU64>, status: Arc<Status>) {
    let mut blocks = store.subscribe();
    loop {
        let height = store.height();
        best_height.store(height, Ordering::Relaxed);
        status.set("height", json!(height));
        if matches!(blocks.recv().await, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
            return;
        }
    }
}

struct CommitteesView(Committees);

impl CommitteeView for CommitteesView {
    fn committee(&self, height: u64) -> Option<ValidatorSet> {
        self.0.of(height).ok()
    }

    fn system_call(&self, block: &Block) -> Option<SystemCall> {
        self.0.system_call(block)
    }
}

struct NetworkView(NetworkHandle);

impl NetView for NetworkView {
    fn peer_count(&self) -> u64 {
        self.0.peers().iter().filter(|peer| peer.connected_since.is_some()).count() as u64
    }

    fn is_listening(&self) -> bool {
        true
    }

    fn sync_progress(&self) -> Option<SyncProgress> {
        None
    }

    fn summary(&self) -> Value {
        json!({"node_id": self.0.local_id(), "peers": self.peer_count()})
    }
}
