//! Starting and stopping the engine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_malachitebft_app_channel::app::config::NodeConfig;
use arc_malachitebft_app_channel::app::engine::node::NodeRef;
use arc_malachitebft_app_channel::{
    Channels, ConsensusContext, EngineBuilder, NetworkMsg as AppNetworkMsg, RequestContext, SyncContext,
};
use arc_malachitebft_config::{ConsensusConfig, ScoringStrategy, ValuePayload, ValueSyncConfig};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use trellis_net_peers::NetworkHandle;
use trellis_primitives::{Address, B256, SharedClock};

use crate::application::Application;
use crate::codec::EngineCodec;
use crate::config::EngineConfig;
use crate::context::{Trellis, VoterAddress};
use crate::error::{StartError, StopReason};
use crate::host::{Host, Work};
use crate::log::{Copies, LogActor, mend};
use crate::metrics::EngineMetrics;
use crate::network::{Acceptors, NetActor, NetRef, RESPONSE_BYTES_MAX, Shared};
use crate::signing::{EngineSigner, EngineVerifier, VoteSigner};
use crate::undecided::UndecidedStore;

/// Name of the folder of undecided blocks.
const UNDECIDED_DIR: &str = "undecided";
/// How long the engine's actors may take to stop, milliseconds.
const STOP_WAIT_MS_MAX: u64 = 5_000;
/// Length of the queue of requests into the engine, entries.
const REQUESTS_MAX: usize = 16;
/// Future heights for which the engine keeps messages.
const QUEUED_HEIGHTS_MAX: usize = 16;
/// Messages it keeps for one of them: two rounds of votes of a committee of this many, or of the largest in this mode. It
/// keeps them before it checks them, so that in all they are at most some 80 MiB.
const QUEUED_MESSAGES_MAX: usize = 4 * 512;

/// Where the engine stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStatus {
    /// Height being decided.
    pub height: u64,
    /// Its round.
    pub round: u32,
    /// Last height decided and committed.
    pub decided_height: u64,
    /// Header hash of that block.
    pub decided_hash: B256,
}

/// A running engine.
#[derive(Debug)]
pub struct EngineHandle {
    address: Address,
    stop: watch::Sender<bool>,
    status: watch::Receiver<EngineStatus>,
    ended: watch::Receiver<Option<StopReason>>,
    metrics: EngineMetrics,
    task: JoinHandle<()>,
}

impl EngineHandle {
    /// This validator's address: the last 20 bytes of keccak-256 of its vote key.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Follows the engine's height and round.
    pub fn status(&self) -> watch::Receiver<EngineStatus> {
        self.status.clone()
    }

    /// The engine's metrics, to be registered.
    pub fn metrics(&self) -> &EngineMetrics {
        &self.metrics
    }

    /// Resolves when the engine has ended, with the reason. Anything but [`StopReason::Requested`] needs an operator or a restart.
    pub async fn ended(&self) -> StopReason {
        let mut ended = self.ended.clone();
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|r| r.clone());
        reason.unwrap_or(StopReason::EngineHalted)
    }

    /// Stops after the call to the application that is running, if one is. Returns when the log is closed and the
    /// network's protocols are free, so that the engine can be started again at once.
    pub async fn stop(self) -> StopReason {
        self.stop.send_replace(true);
        let reason = self.ended().await;
        // The task ends right after it has said why.
        let _ = self.task.await;
        reason
    }
}

/// The text of the engine's own metrics (its library has a registry of its own), to be appended to ours.
pub fn engine_library_metrics() -> String {
    let mut text = String::new();
    arc_malachitebft_app_channel::app::metrics::export(&mut text);
    text
}

/// Starts the engine at the height after the application's tip.
///
/// `home` holds the engine's log and the undecided blocks; it belongs to this vote key alone and must be restored or
/// lost together with the chain's data. The same code runs for one validator and for many.
///
/// # Errors
/// [`StartError`]: files, a log that is ahead of the chain, a network that has the protocols registered already.
pub async fn start(
    config: EngineConfig,
    signer: Arc<dyn VoteSigner>,
    genesis_hash: B256,
    network: NetworkHandle,
    app: Arc<dyn Application>,
    clock: SharedClock,
    home: PathBuf,
) -> Result<EngineHandle, StartError> {
    let address = signer.public_key().address();
    let tip = app.tip().await?;
    fs::create_dir_all(&home).map_err(|source| files(&home, source))?;
    let log = Copies::in_folder(&home);
    mend(&log, tip.height).await?;
    let undecided = home.join(UNDECIDED_DIR);
    let store = UndecidedStore::open(undecided.clone()).map_err(|e| files(&undecided, e))?;
    let acceptors = Acceptors::take(&network)?;
    let metrics = EngineMetrics::default();
    let shared = Shared::new(network, config, metrics.clone());
    let net = NetActor::spawn(Arc::clone(&shared), acceptors).await.map_err(engine_error)?;
    let engine_signer = EngineSigner::new(signer, genesis_hash);
    let parts = EngineParts { config, log, address, genesis_hash };
    let (channels, node) = match build(parts, engine_signer.clone(), net.clone()).await {
        Ok(built) => built,
        Err(error) => {
            let wait = Some(Duration::from_millis(STOP_WAIT_MS_MAX));
            let _ = net.stop_and_wait(None, wait).await;
            shared.shutdown().await;
            return Err(error);
        }
    };
    let (status, status_receiver) = watch::channel(EngineStatus::default());
    let (stop, stop_receiver) = watch::channel(false);
    let (ended_sender, ended) = watch::channel(None);
    let host = Host {
        app,
        signer: engine_signer,
        address,
        genesis_hash,
        store,
        clock,
        config,
        metrics: metrics.clone(),
        net,
        shared,
        status,
        first_height: tip.height.saturating_add(1),
        tip,
        work: Work::default(),
    };
    let task = tokio::spawn(supervise(host, channels, node, stop_receiver, ended_sender));
    Ok(EngineHandle { address, stop, status: status_receiver, ended, metrics, task })
}

/// Runs the host and takes the engine down with it.
async fn supervise(
    host: Host,
    channels: Channels<Trellis>,
    node: NodeRef,
    stop: watch::Receiver<bool>,
    ended: watch::Sender<Option<StopReason>>,
) {
    let shared = Arc::clone(&host.shared);
    let reason = host.run(channels.consensus, stop).await;
    let wait = Some(Duration::from_millis(STOP_WAIT_MS_MAX));
    node.get_cell().stop_children_and_wait(None, wait).await;
    // An actor that has stopped already is what we want.
    let _ = node.stop_and_wait(None, wait).await;
    shared.shutdown().await;
    ended.send_replace(Some(reason));
}

struct EngineParts {
    config: EngineConfig,
    log: Copies,
    address: Address,
    genesis_hash: B256,
}

async fn build(
    parts: EngineParts,
    signer: EngineSigner,
    net: NetRef,
) -> Result<(Channels<Trellis>, NodeRef), StartError> {
    let verifier = EngineVerifier::new(parts.genesis_hash);
    let consensus = ConsensusContext::new_validator(VoterAddress(parts.address), Box::new(verifier), Box::new(signer));
    let log = LogActor::spawn(parts.log.clone()).await.map_err(engine_error)?;
    let built = EngineBuilder::new(Trellis, Settings::new(&parts))
        .with_custom_wal(log.clone())
        .with_custom_network(net.clone(), publisher(net))
        .with_default_sync(SyncContext::new(EngineCodec))
        .with_default_consensus(consensus)
        .with_default_request(RequestContext::new(REQUESTS_MAX))
        .build()
        .await;
    match built {
        Ok((channels, handle)) => Ok((channels, handle.actor)),
        Err(error) => {
            // It may not have been given to the engine yet, which would take it down.
            let _ = log.stop_and_wait(None, Some(Duration::from_millis(STOP_WAIT_MS_MAX))).await;
            Err(engine_error(error))
        }
    }
}

/// The channel through which the engine's library would have us publish parts; the host casts them itself.
fn publisher(net: NetRef) -> mpsc::Sender<AppNetworkMsg<Trellis>> {
    let (sender, mut receiver) = mpsc::channel::<AppNetworkMsg<Trellis>>(1);
    tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            if net.cast(message.into()).is_err() {
                return;
            }
        }
    });
    sender
}

/// The library's settings: what of them our own network leaves in use.
struct Settings {
    moniker: String,
    consensus: ConsensusConfig,
    sync: ValueSyncConfig,
}

impl Settings {
    fn new(parts: &EngineParts) -> Self {
        // Several engines may run in one process (tests, simulations): the library's registry is one per process.
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let run = STARTED.fetch_add(1, Ordering::Relaxed);
        let consensus = ConsensusConfig {
            value_payload: ValuePayload::ProposalAndParts,
            queue_capacity: QUEUED_HEIGHTS_MAX,
            queue_per_height_capacity: QUEUED_MESSAGES_MAX,
            ..ConsensusConfig::default()
        };
        let defaults = ValueSyncConfig::default();
        let response_max = u64::try_from(RESPONSE_BYTES_MAX).unwrap_or(u64::MAX);
        let sync = ValueSyncConfig {
            enabled: true,
            status_update_interval: Duration::from_millis(parts.config.status_interval_ms.max(1)),
            request_timeout: Duration::from_millis(parts.config.sync_timeout_ms.max(1)),
            scoring_strategy: ScoringStrategy::Ema,
            max_response_size: response_max.to_string().parse().unwrap_or(defaults.max_response_size),
            ..defaults
        };
        Self { moniker: format!("{}-{run}", parts.address), consensus, sync }
    }
}

impl NodeConfig for Settings {
    fn moniker(&self) -> &str {
        &self.moniker
    }

    fn consensus(&self) -> &ConsensusConfig {
        &self.consensus
    }

    fn consensus_mut(&mut self) -> &mut ConsensusConfig {
        &mut self.consensus
    }

    fn value_sync(&self) -> &ValueSyncConfig {
        &self.sync
    }

    fn value_sync_mut(&mut self) -> &mut ValueSyncConfig {
        &mut self.sync
    }
}

fn files(path: &Path, source: io::Error) -> StartError {
    StartError::Files { path: path.to_owned(), source }
}

fn engine_error(error: impl std::fmt::Display) -> StartError {
    StartError::Engine { detail: error.to_string() }
}
