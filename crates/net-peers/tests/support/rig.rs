//! Nodes on loopback for the tests of discovery.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_net_peers::{
    DiscoveryConfig, NetConfig, NetMetrics, NetworkHandle, SourceReport, StartError, start_with_metrics,
};
use trellis_primitives::{B256, NodeId, Role, RoleSet, SystemClock};

/// Whatever is waited for has this long; a loaded machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The chain of every node.
pub const CHAIN_ID: u64 = 97_001;
/// The network of every node.
pub const MAGIC: u32 = 0x5452_4c53;

/// One node.
pub struct Rig {
    pub net: NetworkHandle,
    pub metrics: NetMetrics,
}

/// A node's keys.
pub fn keys(seed: u64) -> (HybridKey, AccountKey) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (HybridKey::generate(&mut rng).unwrap(), AccountKey::generate(&mut rng))
}

/// Discovery with everything at its default and short rounds.
pub fn finding() -> DiscoveryConfig {
    DiscoveryConfig { round_ms: 1_000, ..DiscoveryConfig::default() }
}

/// A node at a port of the system's choice.
pub async fn node(seed: u64, bootstrap: &[String], discovery: DiscoveryConfig) -> Rig {
    node_at(seed, "/ip4/127.0.0.1/udp/0/quic-v1", bootstrap, discovery).await
}

/// A node that listens at an address.
pub async fn node_at(seed: u64, listen: &str, bootstrap: &[String], discovery: DiscoveryConfig) -> Rig {
    let mut config = NetConfig::new(CHAIN_ID, MAGIC, B256::repeat_byte(7));
    config.listen = vec![listen.to_owned()];
    config.bootstrap = bootstrap.to_vec();
    config.discovery = Some(discovery);
    start(seed, config).await
}

/// A node with roles and models.
pub async fn member(seed: u64, role: Role, models: &[&str], bootstrap: &[String], discovery: DiscoveryConfig) -> Rig {
    let mut config = NetConfig::new(CHAIN_ID, MAGIC, B256::repeat_byte(7));
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    config.bootstrap = bootstrap.to_vec();
    config.discovery = Some(discovery);
    config.roles = RoleSet::of(&[role]);
    config.models = models.iter().map(|model| (*model).to_owned()).collect();
    start(seed, config).await
}

/// A node with this configuration.
pub async fn start(seed: u64, config: NetConfig) -> Rig {
    let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
    let started = Instant::now();
    loop {
        let ((node, account), metrics) = (keys(seed), NetMetrics::default());
        match start_with_metrics(config.clone(), node, account, Arc::new(SystemClock), metrics.clone()).await {
            Ok(net) => return Rig { net, metrics },
            // A former node's socket closes when its last connection has drained.
            Err(StartError::Listen { .. }) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Where a node is dialled.
pub fn address(rig: &Rig) -> String {
    rig.net.listen_addresses()[0].clone()
}

/// A node's port.
pub fn port(rig: &Rig) -> u16 {
    address(rig).split('/').nth(4).unwrap().parse().unwrap()
}

/// Whether a peer is connected.
pub fn is_connected(rig: &Rig, peer: NodeId) -> bool {
    rig.net.peers().iter().any(|info| info.id == Some(peer) && info.connected_since.is_some())
}

/// Waits for a condition; fails with what discovery says.
pub async fn until(what: &str, rig: &Rig, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what}: {:?}", rig.net.discovery());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a source said last.
pub fn source(rig: &Rig, name: &str) -> SourceReport {
    let report = rig.net.discovery().unwrap();
    report.sources.into_iter().find(|source| source.source == name).unwrap_or_else(|| panic!("no source {name}"))
}

/// A folder of one test's own.
pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("trellis-discovery-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
