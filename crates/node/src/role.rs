//! What every role shares: data folder, keys, chain, network, metrics, control socket; and how it ends.

pub mod accuse;
mod address;
pub mod aggregator;
mod budget;
mod discovery;
pub mod dnsseed;
pub mod following;
pub mod full;
pub mod gateway;
mod keeper;
mod leaders;
mod peers;
pub mod provider;
mod proxy;
pub mod relay;
mod rotation;
mod stakes;
pub mod stun;
pub mod turn;
pub mod validator;

use crate::chain::Chain;
use crate::control::{self, Admin};
use crate::datadir::{DataDir, default_for};
use crate::failure::Failure;
use crate::keys::KeyMaker;
use crate::monitor::Health;
use crate::settings::{Settings, commented_defaults};
use crate::supervised::until_told_to_end;
use crate::view::{banned_json, peer_json};
use async_trait::async_trait;
use eyre::Result;
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use trellis_chain_spec::{DEV_CHAIN_ID, DEV_ROLE_ACCOUNTS};
use trellis_crypto::{AccountKey, HybridKey};
use trellis_market_journal::Journal;
use trellis_net_peers::guard::{NEUTRAL, Thresholds};
use trellis_net_peers::{DarkAddress, NetConfig, NetMetrics, NetworkHandle, Policy, start_with_metrics};
use trellis_primitives::{Address, NodeId, Role, RoleSet, SharedClock, SystemClock, Wei};

/// A node whose network runs; the role's own services come on top.
pub struct Base {
    /// Its folder, locked.
    pub datadir: DataDir,
    /// Its settings.
    pub settings: Settings,
    /// Its chain.
    pub chain: Chain,
    /// Its account: paid to, and paid from.
    pub account: AccountKey,
    /// What it signs vouchers with.
    pub voucher: AccountKey,
    /// Its identity, for what the market signs with it.
    pub node_key: Arc<HybridKey>,
    /// Its network.
    pub network: NetworkHandle,
    /// The time.
    pub clock: SharedClock,
    /// Its metrics, while they are still being registered.
    pub registry: Registry,
    /// What it tells of itself.
    pub status: Arc<Status>,
    /// Its chain height as peers are told.
    pub best_height: Arc<std::sync::atomic::AtomicU64>,
}

impl Base {
    /// Its keys' files.
    pub fn keys(&self) -> KeyMaker<'_> {
        KeyMaker {
            datadir: self.datadir.path(),
            chain_id: self.chain.spec.genesis.chain_id,
            vote_scheme: self.chain.spec.vote_scheme(),
            dev_account: self.settings.dev_account,
            passphrase_file: self.settings.passphrase_file.as_deref(),
        }
    }

    /// What a role without answers of its own serves on its control socket.
    pub fn answers(&self) -> Answers {
        Answers { network: self.network.clone(), status: Arc::clone(&self.status) }
    }
}

/// What `admin_status` answers; filled as the services come up.
pub struct Status {
    fields: RwLock<serde_json::Map<String, Value>>,
}

impl Status {
    /// Sets a field.
    pub fn set(&self, key: &str, value: Value) {
        self.fields.write().insert(key.to_owned(), value);
    }

    /// Sets a field of `endpoints`.
    pub fn endpoint(&self, name: &str, address: impl ToString) {
        let mut fields = self.fields.write();
        let endpoints = fields.entry("endpoints").or_insert_with(|| json!({}));
        endpoints[name] = Value::String(address.to_string());
    }

    /// Everything so far.
    pub fn to_json(&self) -> Value {
        Value::Object(self.fields.read().clone())
    }
}

/// Opens everything that every role has, and joins the network.
///
/// # Errors
/// A folder, a key, a spec or an address that cannot be used; each with its hint.
pub async fn open(role: Role, settings: Settings, datadir: Option<&Path>, models: Vec<String>) -> Result<Base> {
    open_as(role.word(), RoleSet::of(&[role]), settings, datadir, models).await
}

/// The same for a node that is known by a name of its own and may have no role for the others.
///
/// # Errors
/// As [`open`].
pub async fn open_as(
    name: &str,
    roles: RoleSet,
    settings: Settings,
    datadir: Option<&Path>,
    models: Vec<String>,
) -> Result<Base> {
    let chosen = datadir.map_or_else(|| default_for(name), Path::to_path_buf);
    let datadir = DataDir::open(&chosen)?;
    datadir.keep("role", name)?;
    let spec = std::fs::canonicalize(&settings.chain)
        .map_or_else(|_| settings.chain.clone(), |path| path.display().to_string());
    datadir.keep("chain-spec", &spec)?;
    if !datadir.join("config.toml").exists() {
        datadir.keep("config.toml", &commented_defaults()?)?;
    }
    let chain = Chain::load(&settings.chain)?;
    let maker = KeyMaker {
        datadir: datadir.path(),
        chain_id: chain.spec.genesis.chain_id,
        vote_scheme: chain.spec.vote_scheme(),
        dev_account: settings.dev_account,
        passphrase_file: settings.passphrase_file.as_deref(),
    };
    let keys = maker.open_or_make()?;
    // The network owns its keys; the market needs the same ones. Opening a keystore again would cost its Argon2 again.
    let node_key = Arc::new(HybridKey::from_secret(&keys.node.to_secret())?);
    let network_account = same_key(&keys.account)?;
    let clock: SharedClock = Arc::new(SystemClock);
    let mut registry = Registry::default();
    let metrics = NetMetrics::default();
    metrics.register(&mut registry);
    let best_height = Arc::default();
    let mut config = net_config(roles, &settings, &chain, models, Arc::clone(&best_height))?;
    config.peers_file = Some(datadir.join("peers.json"));
    config.stakes = config.relay.and_then(|_| stakes::source(&chain, &settings.rpc, Arc::clone(&clock)));
    config.discovery = discovery::config(&settings, &chain, datadir.path())?;
    if config.discovery.is_none() {
        config.bootstrap.extend(chain.spec.network.boot_nodes.iter().cloned());
    }
    let node_id = keys.node.node_id();
    let network = start_with_metrics(config, keys.node, network_account, Arc::clone(&clock), metrics).await?;
    let status = Arc::new(Status { fields: RwLock::default() });
    status.set("role", json!(name));
    status.set("node_id", json!(node_id));
    status.set("account", json!(keys.account.address()));
    status.set("pid", json!(std::process::id()));
    status.set("version", json!(env!("CARGO_PKG_VERSION")));
    status.set("chain", json!({"id": chain.spec.genesis.chain_id, "genesis": chain.genesis_hash}));
    status.set("ready", json!(false));
    status.set("dark_addresses", json!(dark_addresses(node_id, &settings, &network)));
    for address in network.listen_addresses().into_iter().take(1) {
        status.endpoint("p2p", address);
    }
    Ok(Base {
        datadir,
        settings,
        chain,
        account: keys.account,
        voucher: keys.voucher,
        node_key,
        network,
        clock,
        registry,
        status,
        best_height,
    })
}

/// The node's dark addresses: where it says that it is; else where it listens.
fn dark_addresses(node: NodeId, settings: &Settings, network: &NetworkHandle) -> Vec<String> {
    let told = DarkAddress::of(node, &settings.external_addresses);
    let own = if told.is_empty() { DarkAddress::of(node, &network.listen_addresses()) } else { told };
    own.iter().map(ToString::to_string).collect()
}

fn net_config(
    roles: RoleSet,
    settings: &Settings,
    chain: &Chain,
    models: Vec<String>,
    best_height: Arc<std::sync::atomic::AtomicU64>,
) -> Result<NetConfig> {
    let mut config = NetConfig::new(chain.spec.genesis.chain_id, chain.spec.network_magic(), chain.genesis_hash);
    config.relays_wanted = usize::from(settings.relays);
    config.map_ports = settings.map_ports;
    config.relay = relay::profile(roles, &settings.relay_profile)?;
    config.region = relay::region(&settings.region)?;
    proxy::configure(settings, &mut config)?;
    config.stun_servers = stun::configured(&settings.stun)?;
    config.turn = turn::configured(settings)?;
    config.bootstrap = settings.peers.iter().filter(|peer| !peer.is_empty()).cloned().collect();
    config.policy = match settings.post_quantum.as_str() {
        "require" => Policy::Require,
        "prefer" => Policy::Prefer,
        other => {
            return Err(Failure::usage(format!("post_quantum is `require` or `prefer`, got {other:?}")).into());
        }
    };
    config.roles = roles;
    config.models = models;
    config.best_height = best_height;
    config.thresholds = thresholds(settings)?;
    budget::apply(&mut config, roles, settings)?;
    config.committee = chain.spec.genesis.validators.iter().map(|validator| validator.account).collect();
    Ok(config)
}

/// The scores below which a peer is trusted with less. A file may hold what the flags would refuse.
fn thresholds(settings: &Settings) -> Result<Thresholds> {
    let all = [settings.relay_below, settings.consensus_below, settings.disconnect_below, settings.ban_below];
    if all.iter().any(|below| f64::from(*below) > NEUTRAL) {
        return Err(Failure::usage(format!(
            "a new peer has a reputation of {NEUTRAL}; a threshold above it keeps everybody out"
        ))
        .hint("relay_below, consensus_below, disconnect_below and ban_below are 0 to 50")
        .into());
    }
    let [relay, consensus, disconnect, ban] = all.map(f64::from);
    Ok(Thresholds { relay, consensus, disconnect, ban })
}

/// Parses `ADDR:PORT` of a setting.
///
/// # Errors
/// A usage failure that names the setting.
pub fn socket_address(setting: &str, text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| {
        Failure::usage(format!("{setting} is an address and a port like 127.0.0.1:8545, got {text:?}")).into()
    })
}

/// Peers, for `admin_peers` of every role.
pub fn peers_json(network: &NetworkHandle) -> Value {
    let infos = network.peers();
    let here: std::collections::BTreeSet<_> = infos.iter().filter_map(|peer| peer.id).collect();
    let standings = network.guard().standings();
    // A ban outlives the connection and the process, so those that are kept out are shown though they are not here.
    let absent = standings.iter().filter(|standing| standing.ban.is_some() && !here.contains(&standing.id));
    Value::Array(infos.iter().map(peer_json).chain(absent.map(banned_json)).collect())
}

/// Answers on the control socket, of a role that has none of its own.
pub struct Answers {
    network: NetworkHandle,
    status: Arc<Status>,
}

#[async_trait]
impl Admin for Answers {
    async fn call(&self, method: &str, params: Value) -> Option<Result<Value>> {
        common_answer(&self.network, &self.status, method, &params).await
    }
}

/// The answers that every role gives on its control socket.
pub async fn common_answer(
    base_network: &NetworkHandle,
    status: &Status,
    method: &str,
    params: &Value,
) -> Option<Result<Value>> {
    match method {
        "admin_status" => {
            let mut value = status.to_json();
            let connected = base_network.peers().iter().filter(|peer| peer.connected_since.is_some()).count();
            value["peers_connected"] = json!(connected);
            if let Some(report) = base_network.reach() {
                value["reach"] = crate::view::reach_json(&report);
            }
            value["clusters"] = json!(base_network.guard().clusters());
            if let Some(report) = base_network.discovery() {
                value["discovery"] = discovery::to_json(&report);
            }
            if let Some(bandwidth) = budget::to_json(base_network) {
                value["bandwidth"] = bandwidth;
            }
            Some(Ok(value))
        }
        "admin_bandwidth" => Some(budget::set(base_network, params)),
        "admin_peers" => Some(Ok(peers_json(base_network))),
        other => peers::answer(base_network, other, params).await,
    }
}

/// Serves metrics where they are wanted, and says so in the status.
///
/// # Errors
/// A taken or malformed address.
pub async fn serve_metrics(
    settings: &Settings,
    registry: Registry,
    health: Arc<Health>,
    status: &Status,
) -> Result<Option<trellis_rpc::MonitorServer>> {
    if settings.metrics_listen == "off" {
        return Ok(None);
    }
    let listen = socket_address("metrics_listen", &settings.metrics_listen)?;
    let server = trellis_rpc::start_monitor(listen, registry, health)
        .await
        .map_err(|error| port_failure("metrics", listen, &error.source))?;
    status.endpoint("metrics", server.address());
    Ok(Some(server))
}

/// Why an address cannot be listened on, with who holds it where that can be seen.
pub fn port_failure(what: &str, listen: SocketAddr, source: &std::io::Error) -> Failure {
    let holder = crate::holder::of_tcp_port(listen.port()).map(|holder| format!(" by {holder}")).unwrap_or_default();
    match source.kind() {
        std::io::ErrorKind::AddrInUse => Failure::new(format!("the {what} address {listen} is taken{holder}"))
            .hint("stop that process or choose another port (0 lets the system choose)"),
        _ => Failure::new(format!("cannot listen on the {what} address {listen}: {source}")),
    }
}

/// Waits until the node is told to end, or until its journal can store nothing more: then it must begin again from the
/// disk, because what it holds in memory may be ahead.
///
/// # Errors
/// The journal's failure.
pub async fn until_end(journal: &Journal) -> Result<&'static str> {
    tokio::select! {
        cause = until_told_to_end() => Ok(cause),
        error = journal.failed() => {
            Err(eyre::Report::new(error).wrap_err("the journal stopped, and the node with it"))
        }
    }
}

/// Serves the control socket.
///
/// # Errors
/// A socket that cannot be made.
pub fn serve_control(datadir: &DataDir, admin: Arc<dyn control::Admin>) -> Result<tokio::task::JoinHandle<()>> {
    control::serve(datadir.path(), admin)
}

/// The account that settles receipts, where one is named or known.
///
/// # Errors
/// A usage failure where the setting is no address.
pub fn aggregator(settings: &Settings, chain: &Chain) -> Result<Option<Address>> {
    match &settings.aggregator {
        Some(text) => crate::bridge::address("aggregator", text).map(Some),
        None if chain.spec.genesis.chain_id == DEV_CHAIN_ID => Ok(Some(DEV_ROLE_ACCOUNTS[3])),
        None => Ok(None),
    }
}

/// An amount of a setting, in wei.
///
/// # Errors
/// A usage failure that names the setting.
pub fn wei(setting: &str, text: &str) -> Result<Wei> {
    text.parse().map_err(|error| Failure::usage(format!("{setting}: {error}")).into())
}

/// A second owner of an account's key.
///
/// # Errors
/// A key that is none, which no opened keystore holds.
pub fn same_key(key: &AccountKey) -> Result<AccountKey> {
    Ok(AccountKey::from_bytes(&key.to_bytes())?)
}

/// Where components register that do not say `trellis` in their own names.
pub fn named(registry: &mut Registry) -> &mut Registry {
    registry.sub_registry_with_prefix("trellis")
}

/// METRICS.md: every metric of every component, from the same registrations that the nodes make.
pub fn metrics_document() -> String {
    use trellis_market_provider::ProviderMetrics;
    let mut registry = Registry::default();
    NetMetrics::default().register(&mut registry);
    trellis_chain_consensus::EngineMetrics::default().register(&mut registry);
    trellis_chain_consensus::checkpoint::CheckpointMetrics::default().register(&mut registry);
    trellis_chain_mempool::PoolMetrics::default().register(&mut registry);
    trellis_rpc::RpcMetrics::default().register(&mut registry);
    accuse::AccuserMetrics::default().register(named(&mut registry));
    trellis_chain_sync::SyncMetrics::default().register(&mut registry);
    keeper::register_gauges(named(&mut registry));
    trellis_market_chain::ChainMetrics::default().register(named(&mut registry));
    trellis_market_journal::JournalMetrics::default().register(named(&mut registry));
    ProviderMetrics::default().register(named(&mut registry));
    trellis_market_settlement::SettlementMetrics::default().register(named(&mut registry));
    let _ = Health::new(&mut registry);
    let mut encoded = String::new();
    if prometheus_client::encoding::text::encode(&mut encoded, &registry).is_err() {
        return String::new();
    }
    let mut rows: Vec<String> = encoded.lines().filter_map(|line| metric_row(line, &encoded)).collect();
    rows.sort();
    rows.dedup();
    format!(
        "# Metrics\n\nGenerated by `cargo xtask docs`. Every node serves its own on `/metrics` (port 9600 by default).\n\n\
         | metric | type | meaning |\n|---|---|---|\n{}\n",
        rows.join("\n")
    )
}

fn metric_row(line: &str, encoded: &str) -> Option<String> {
    let (name, help) = line.strip_prefix("# HELP ")?.split_once(' ')?;
    let kind = encoded.lines().find_map(|other| other.strip_prefix("# TYPE ")?.strip_prefix(name)?.strip_prefix(' '));
    Some(format!("| `{name}` | {} | {} |", kind.unwrap_or("unknown"), help.trim_end_matches('.').replace('|', "\\|")))
}
