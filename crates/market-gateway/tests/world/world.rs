//! A gateway and a provider over the simulated network, each on a runtime of its own, so that either can be killed like a process.
#![allow(dead_code, reason = "each test file uses its part of this")]

#[path = "fuse.rs"]
pub mod fuse;
#[path = "ledger.rs"]
pub mod ledger;
#[path = "script.rs"]
pub mod script;

use fuse::{Fuse, FusedNetwork};
use ledger::Ledger;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use trellis_crypto::{AccountKey, HybridKey};
use trellis_market_channel::{Prices, job_cost};
use trellis_market_gateway::{JobClient, JobClientConfig, JobClientParts, JobDone, JobEvent, JobFault, JobOrder};
use trellis_market_inference::TokenizerOnly;
use trellis_market_journal::{JobPhase, Journal, JournalConfig, JournalReader};
use trellis_market_provider::{Backend, ModelForSale, Provider, ProviderConfig, ProviderParts};
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::{JobKind, JobRequest};
use trellis_net_peers::NetworkHandle;
use trellis_net_peers::sim::{SimNet, SimNode};
use trellis_primitives::{Address, B256, NodeId, NodeRecord, Role, RoleSet, SharedClock, SystemClock, Wei};

pub const CHAIN_ID: u64 = 97_001;
/// A thousand wei per token both ways.
pub const WEI_PER_TOKEN: u128 = 1_000;
/// A hundred tokens.
pub const RISK: Wei = Wei(100 * WEI_PER_TOKEN);
pub const MODEL: &str = "script";

pub fn prices() -> Prices {
    Prices { input: Wei(WEI_PER_TOKEN * 1_000_000), output: Wei(WEI_PER_TOKEN * 1_000_000) }
}

pub fn channels_domain() -> Domain {
    Domain { chain_id: CHAIN_ID, contract: Address::repeat_byte(0xc4) }
}

pub fn settlement_domain() -> Domain {
    Domain { chain_id: CHAIN_ID, contract: Address::repeat_byte(0x5e) }
}

pub struct World {
    pub net: SimNet,
    pub ledger: Ledger,
    pub folder: TempDir,
    pub gateway_key: Arc<HybridKey>,
    pub provider_key: Arc<HybridKey>,
    pub provider_config: ProviderConfig,
    pub gateway_config: JobClientConfig,
    pub tokenizers: HashMap<B256, TokenizerOnly>,
}

pub struct GatewaySide {
    pub runtime: Runtime,
    pub client: JobClient,
    pub network: NetworkHandle,
}

pub struct ProviderSide {
    pub runtime: Runtime,
    pub provider: Provider,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn clock() -> SharedClock {
    Arc::new(SystemClock)
}

pub fn signer_key() -> AccountKey {
    AccountKey::from_bytes(&[0x51; 32]).unwrap()
}

pub fn payee_key() -> AccountKey {
    AccountKey::from_bytes(&[0x52; 32]).unwrap()
}

pub fn request(model: &str, text: &str, max_tokens: u64) -> JobRequest {
    let body = serde_json::json!({
        "model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, "temperature": 0,
    });
    JobRequest::from_openai(JobKind::Chat, body, 64, 7).unwrap()
}

impl World {
    pub fn new() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(42);
        let (channels, settlement) = (channels_domain().contract, settlement_domain().contract);
        let token = Address::repeat_byte(0x70);
        Self {
            net: SimNet::new(1, clock()),
            ledger: Ledger::new(channels_domain(), 3_600),
            folder: TempDir::new().unwrap(),
            gateway_key: Arc::new(HybridKey::generate(&mut rng).unwrap()),
            provider_key: Arc::new(HybridKey::generate(&mut rng).unwrap()),
            provider_config: ProviderConfig {
                chain_id: CHAIN_ID,
                channels,
                settlement,
                token,
                payout: payee_key().address(),
                aggregator: Address::repeat_byte(0xa9),
                risk_limit: RISK,
                deposit_min: RISK,
                watch_interval_ms: 20,
                payment_wait_ms: 5_000,
                countersign_wait_ms: 5_000,
                // A loaded machine is slow; where silence is the point, the test says how long it lasts.
                first_token_wait_ms: 30_000,
                stall_wait_ms: 30_000,
                ..ProviderConfig::default()
            },
            gateway_config: JobClientConfig {
                chain_id: CHAIN_ID,
                channels,
                settlement,
                token,
                risk_limit: RISK,
                deposit: Wei(RISK.0 * 1_000),
                first_token_wait_ms: 40_000,
                stall_wait_ms: 40_000,
                receipt_wait_ms: 10_000,
                ack_wait_ms: 5_000,
                pair_root_tick_ms: 20,
                ..JobClientConfig::default()
            },
            tokenizers: HashMap::new(),
        }
    }

    pub fn gateway_id(&self) -> NodeId {
        self.gateway_key.node_id()
    }

    pub fn provider_id(&self) -> NodeId {
        self.provider_key.node_id()
    }

    pub fn node(&self, key: &HybridKey, role: Role, account: Address) -> NetworkHandle {
        let roles = RoleSet::of(&[role]);
        let record = NodeRecord {
            ed25519: key.public().ed25519,
            mldsa65: key.public().mldsa65.clone().into(),
            chain_address: account,
            network_magic: 1,
            roles,
            addresses: Vec::new(),
            models: Vec::new(),
            sequence: 1,
            expires_ms: u64::MAX,
        };
        self.net.node(SimNode { id: key.node_id(), roles, record: Some(record), best_height: 0 })
    }

    fn journal(&self, name: &str) -> JournalConfig {
        JournalConfig::new(self.path(name))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A killed process frees its journal when its last task is gone, which takes a moment here.
    fn open_journal(&self, name: &str) -> Journal {
        let config = self.journal(name);
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match Journal::open(&config, clock()) {
                Ok(journal) => return journal,
                Err(error) if Instant::now() > until => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    pub fn provider(&self, backend: impl Backend) -> ProviderSide {
        self.provider_named(MODEL, Arc::new(backend))
    }

    pub fn provider_named(&self, model: &str, backend: Arc<dyn Backend>) -> ProviderSide {
        let runtime = runtime();
        let network = self.node(&self.provider_key, Role::Provider, payee_key().address());
        let models = vec![ModelForSale { name: model.into(), prices: prices(), backend }];
        let parts = ProviderParts {
            network,
            clock: clock(),
            journal: self.open_journal("provider"),
            channels: Arc::new(self.ledger.clone()),
            payouts: Arc::new(self.ledger.clone()),
            account: payee_key(),
            node_key: Arc::clone(&self.provider_key),
            models,
        };
        let provider = runtime.block_on(Provider::start(self.provider_config.clone(), parts)).unwrap();
        ProviderSide { runtime, provider }
    }

    pub fn gateway(&self) -> GatewaySide {
        self.gateway_with(None)
    }

    pub fn gateway_with(&self, fuse: Option<Fuse>) -> GatewaySide {
        let runtime = runtime();
        let plain = self.node(&self.gateway_key, Role::Gateway, Address::repeat_byte(0x11));
        let network: NetworkHandle = match fuse {
            Some(fuse) => Arc::new(FusedNetwork { inner: plain, fuse }),
            None => plain,
        };
        let parts = JobClientParts {
            network: Arc::clone(&network),
            clock: clock(),
            journal: self.open_journal("gateway"),
            journal_config: self.journal("gateway"),
            opener: Arc::new(self.ledger.clone()),
            signer: signer_key(),
            node_key: Arc::clone(&self.gateway_key),
            tokenizers: self.tokenizers.clone(),
            rng: Box::new(ChaCha8Rng::from_os_rng()),
        };
        let client = runtime.block_on(JobClient::start(self.gateway_config.clone(), parts)).unwrap();
        GatewaySide { runtime, client, network }
    }

    /// Both journals and the chain, to the wei. `synced`: both sides have talked since the last crash.
    pub fn audit(&self, synced: bool) -> Audit {
        // The provider's first: what it holds was written by the gateway before, also while jobs run between the two reads.
        let provider = JournalReader::open(&self.journal("provider")).unwrap();
        let gateway = JournalReader::open(&self.journal("gateway")).unwrap();
        let mut audit = Audit::default();
        for (id, state) in gateway.index().channels() {
            let promised = state.voucher.as_ref().map_or(Wei::ZERO, |voucher| voucher.cumulative);
            assert_eq!(state.increments, promised, "gateway: increments are the counter");
            let theirs = provider.index().channel(*id);
            let held = theirs.and_then(|state| state.voucher.as_ref()).map_or(Wei::ZERO, |voucher| voucher.cumulative);
            assert_eq!(
                theirs.map_or(Wei::ZERO, |state| state.increments),
                held,
                "provider: increments are the counter"
            );
            assert!(held <= promised, "the provider holds what was promised");
            if synced {
                assert_eq!(held, promised, "after the sync both know the same voucher");
            }
            audit.promised = audit.promised.saturating_add(promised);
            let on_chain = self.ledger.all().into_iter().find(|view| view.id == *id).unwrap();
            assert!(on_chain.paid <= held && on_chain.paid <= on_chain.deposit, "paid at most once");
        }
        for (job, ours) in gateway.index().jobs() {
            let theirs = provider.index().job(*job);
            if let (true, Some(theirs)) = (synced, theirs) {
                assert_eq!(ours.signed, theirs.signed, "each job's increments are the same on both sides");
                if ours.phase == JobPhase::Complete {
                    assert_eq!(
                        theirs.phase,
                        JobPhase::Complete,
                        "a receipt that the gateway signed reaches the provider"
                    );
                }
            }
            audit.costs = audit.costs.saturating_add(ours.signed);
            match ours.phase {
                JobPhase::Complete => {
                    let both = theirs.is_some_and(|theirs| theirs.phase == JobPhase::Complete);
                    audit.complete += usize::from(both);
                    assert_eq!(ours.cost, Some(ours.signed), "a complete job's cost is what was signed for it");
                }
                JobPhase::Aborted => {
                    audit.aborted += 1;
                    assert_eq!(ours.cost, Some(ours.signed), "an aborted job's cost is what was signed for it");
                }
                JobPhase::Open | JobPhase::SignedByProvider => {}
            }
        }
        for (_, theirs) in provider.index().jobs() {
            let aborted = theirs.aborted.as_ref().map_or(Wei::ZERO, |aborted| aborted.written_off);
            assert!(aborted <= RISK, "at most one risk limit is lost with a job");
            audit.half_signed += usize::from(theirs.phase != JobPhase::Complete && theirs.receipt_at.is_some());
            if theirs.phase != JobPhase::SignedByProvider {
                let cost = theirs.cost.unwrap_or(theirs.signed);
                assert_eq!(
                    cost, theirs.signed,
                    "provider: a job's cost is what was signed for it, late money included"
                );
            }
        }
        assert_eq!(audit.costs, audit.promised, "the sum of the costs is the sum of the counters");
        audit
    }
}

/// Sums over all jobs; `complete` counts those that are complete on both sides.
#[derive(Debug, Default)]
pub struct Audit {
    pub promised: Wei,
    pub costs: Wei,
    pub complete: usize,
    pub aborted: usize,
    pub half_signed: usize,
}

/// What a job gave.
#[derive(Debug)]
pub struct Answer {
    pub text: String,
    pub end: Result<Box<JobDone>, JobFault>,
}

impl GatewaySide {
    pub fn connect(&self, world: &World) {
        let address = SimNet::address(world.provider_id());
        self.runtime.block_on(self.network.dial(&address)).unwrap();
    }

    pub fn order(&self, world: &World, request: JobRequest) -> JobOrder {
        JobOrder { provider: world.provider_id(), request, max_cost: None, prompt_opening: None }
    }

    pub fn ask(&self, world: &World, text: &str, max_tokens: u64) -> Answer {
        self.run(self.order(world, request(MODEL, text, max_tokens)))
    }

    pub fn run(&self, order: JobOrder) -> Answer {
        let client = self.client.clone();
        self.runtime.block_on(self.runtime.spawn(async move { collect(client, order).await })).unwrap()
    }

    /// As `kill -9`: nothing is finished, nothing is said.
    pub fn kill(self, world: &World) {
        world.net.kill(world.gateway_id());
        self.runtime.shutdown_background();
    }
}

pub async fn collect(client: JobClient, order: JobOrder) -> Answer {
    let mut job = client.run(order);
    let mut text = String::new();
    loop {
        match job.next().await {
            Some(JobEvent::Accepted { .. }) => {}
            Some(JobEvent::Text { text: piece, .. }) => text.push_str(&piece),
            Some(JobEvent::Done(done)) => return Answer { text, end: Ok(done) },
            Some(JobEvent::Error(fault)) => return Answer { text, end: Err(fault) },
            None => return Answer { text, end: Err(JobFault::Cancelled) },
        }
    }
}

impl ProviderSide {
    /// As `kill -9`: nothing is finished, nothing is said.
    pub fn kill(self, world: &World) {
        world.net.kill(world.provider_id());
        self.runtime.shutdown_background();
    }
}

pub fn cost(tokens_in: u64, tokens_out: u64) -> Wei {
    job_cost(&prices(), tokens_in, tokens_out).unwrap()
}

/// Waits for something that another runtime does.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
