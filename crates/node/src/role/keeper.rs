//! The chain on a node that has all of it, whether it votes or not: store, pool, producer, answers to peers, JSON-RPC.

use crate::failure::Failure;
use crate::fees::{FeeGauges, Prices, trl_price_usd};
use crate::monitor::Health;
use crate::role::{Base, Status, named, port_failure, socket_address};
use crate::settings::Settings;
use eyre::Result;
use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;
use trellis_chain_consensus::CheckpointKeeper;
use trellis_chain_consensus::checkpoint::{self, CheckpointMetrics, CheckpointSigner, Checkpoints};
use trellis_chain_execution::{Executor, SystemCall};
use trellis_chain_finality::{CheckpointCommittee, ValidatorSet};
use trellis_chain_mempool::gossip::{self, Gossip};
use trellis_chain_mempool::{Mempool, PoolConfig};
use trellis_chain_producer::{Committees, HeadAccounts, Producer, ProducerConfig};
use trellis_chain_spec::DEV_CHAIN_ID;
use trellis_chain_storage::{Store, StoreConfig};
use trellis_chain_sync::{Progress, SyncMetrics, SyncServer};
use trellis_net_peers::NetworkHandle;
use trellis_primitives::{Address, Block, Bytes};
use trellis_rpc::{
    CommitteeView, Namespace, NetView, NoMarket, RpcConfig, RpcParts, RpcServer, RpcStartError, SyncProgress,
    TIP_WEI_MIN,
};

/// So many blocks behind the newest that peers claim, a node is not syncing but about to have it.
pub const BEHIND_BLOCKS: u64 = 4;

/// Where a running sync stands, for JSON-RPC; none where none runs.
pub type SyncShown = Arc<RwLock<Option<watch::Receiver<Progress>>>>;

/// The parts of a chain that is kept here.
pub struct Keeper {
    /// Blocks and state.
    pub store: Store,
    /// Who decides which block.
    pub committees: Committees,
    /// Transactions that wait.
    pub mempool: Mempool,
    /// The rules.
    pub executor: Executor,
    /// The one writer.
    pub producer: Arc<Producer>,
    /// What a sync counts.
    pub sync_metrics: SyncMetrics,
    /// Where a running sync stands.
    pub sync_shown: SyncShown,
    _gossip: Gossip,
    _server: SyncServer,
}

/// Least and most MiB of the database's cache: the flag's range, for a figure that comes from a file.
const DATABASE_CACHE_MIB: std::ops::RangeInclusive<u32> = 4..=65_536;

fn cache_bytes(settings: &Settings) -> Result<usize> {
    let mib = settings.database_cache_mib;
    if !DATABASE_CACHE_MIB.contains(&mib) {
        let (least, most) = (DATABASE_CACHE_MIB.start(), DATABASE_CACHE_MIB.end());
        let message = format!("database_cache_mib is {least} to {most}, got {mib}");
        return Err(Failure::usage(message).hint("64 is enough for a million accounts").into());
    }
    Ok(usize::try_from(mib).unwrap_or(usize::MAX).saturating_mul(1 << 20))
}

/// Opens the chain, and answers those who follow it.
///
/// # Errors
/// A store that cannot be used, with its hint.
pub fn open_chain(base: &mut Base, beneficiary: Address, health: &Health) -> Result<Keeper> {
    let chain = &base.chain;
    let config = StoreConfig { cache_bytes: cache_bytes(&base.settings)?, ..StoreConfig::default() };
    let store = Store::open(&base.datadir.join("chain"), &chain.genesis, config).map_err(|error| {
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
        beneficiary,
        extra_data: Bytes::from_static(b"trellis"),
        epochs: chain.epochs(),
        clock_ahead_ms_max: chain.spec.consensus.clock_ahead_ms_max,
    };
    let producer =
        Arc::new(Producer::start(store.clone(), executor.clone(), mempool.clone(), config, Arc::clone(&base.clock))?);
    let committees = producer.committees().clone();
    ChainGauges::register(named(&mut base.registry)).follow(health, &store, &producer);
    show_fees(base, &mempool, health)?;
    let sync_metrics = SyncMetrics::default();
    sync_metrics.register(&mut base.registry);
    let server = trellis_chain_sync::serve(base.network.clone(), store.clone(), sync_metrics.clone())?;
    health.set("storage", true, "open");
    Ok(Keeper {
        store,
        committees,
        mempool,
        executor,
        producer,
        sync_metrics,
        sync_shown: SyncShown::default(),
        _gossip: gossip,
        _server: server,
    })
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
    FeeGauges::register(registry).show(&Prices { gas_price_wei: 0, trl_usd: 0.0 });
}

/// Keeps the metrics of what the next block's fees are, in dollars of the assumed price.
fn show_fees(base: &mut Base, mempool: &Mempool, health: &Health) -> Result<()> {
    let trl_usd = trl_price_usd(&base.settings.trl_price_usd)?;
    let gauges = FeeGauges::register(named(&mut base.registry));
    let (pool, floor) = (mempool.clone(), base.chain.spec.gas.base_fee_floor_wei);
    health.on_refresh(Box::new(move || {
        // Before its first block of this run the pool knows no base fee.
        let base_fee = pool.base_fee().max(floor);
        gauges.show(&Prices { gas_price_wei: u128::from(base_fee).saturating_add(TIP_WEI_MIN), trl_usd });
    }));
    Ok(())
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

/// Serves JSON-RPC from the chain that is kept here.
///
/// # Errors
/// A taken or malformed address.
pub async fn start_rpc(base: &mut Base, parts: &Keeper) -> Result<RpcServer> {
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
        net: Arc::new(NetworkView { network: base.network.clone(), sync: Arc::clone(&parts.sync_shown) }),
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

/// Begins to collect what is signed of checkpoints, and to sign them where there is a key that a committee knows.
///
/// # Errors
/// Where the network has the protocols in use already.
pub fn start_checkpoints(
    base: &Base,
    parts: &Keeper,
    signer: Option<CheckpointSigner>,
    metrics: CheckpointMetrics,
) -> Result<Checkpoints> {
    let chain: Arc<dyn CheckpointKeeper> = Arc::<Producer>::clone(&parts.producer);
    Ok(checkpoint::start(base.network.clone(), chain, signer, metrics)?)
}

/// Tells peers and `status` how high the chain is.
pub async fn show_height(store: Store, best_height: Arc<std::sync::atomic::AtomicU64>, status: Arc<Status>) {
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

    fn checkpoint_committee(&self, height: u64) -> Option<Arc<CheckpointCommittee>> {
        self.0.shown_checkpoint_committee(height).ok()
    }

    fn system_call(&self, block: &Block) -> Option<SystemCall> {
        self.0.system_call(block)
    }
}

struct NetworkView {
    network: NetworkHandle,
    sync: SyncShown,
}

impl NetView for NetworkView {
    fn peer_count(&self) -> u64 {
        self.network.peers().iter().filter(|peer| peer.connected_since.is_some()).count() as u64
    }

    fn is_listening(&self) -> bool {
        true
    }

    fn sync_progress(&self) -> Option<SyncProgress> {
        let progress = *self.sync.read().as_ref()?.borrow();
        (progress.left() > BEHIND_BLOCKS).then_some(SyncProgress {
            starting_block: progress.start,
            current_block: progress.head,
            highest_block: progress.highest,
        })
    }

    fn summary(&self) -> Value {
        json!({"node_id": self.network.local_id(), "peers": self.peer_count()})
    }
}
