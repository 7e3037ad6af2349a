//! A chain small enough to read: blocks that name their parent and carry a salt, in memory and, if asked, in a file.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use trellis_chain_consensus::{
    AppError, Application, DecidedBlock, EngineConfig, EngineHandle, ProposedBlock, Tip, Verdict, VoteSigner, start,
};
use trellis_chain_finality::{Equivocation, Validator, ValidatorSet, verify_certificate};
use trellis_crypto::VoteKey;
use trellis_net_peers::NetworkHandle;
use trellis_net_peers::sim::{SimNet, SimNode};
use trellis_primitives::{
    Address, B256, Block, Bytes, CommitCertificate, ConsensusSection, Header, NodeId, Role, RoleSet, SystemClock,
    UnixMs, keccak256,
};

pub const GENESIS: B256 = B256::repeat_byte(0x47);

pub fn key(n: u8) -> VoteKey {
    VoteKey::from_seed(&[n; 32])
}

pub fn committee(powers: &[u64]) -> ValidatorSet {
    let members = powers.iter().enumerate().map(|(n, power)| {
        let n = u8::try_from(n + 1).unwrap();
        Validator::new(key(n).public(), *power, Address::left_padding_from(&n.to_be_bytes()))
    });
    ValidatorSet::new(members.collect()).unwrap()
}

/// What a test may want to happen inside the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    BeforePropose,
    AfterPropose,
    AfterVerify,
    BeforeCommit,
    AfterCommit,
}

pub type Hook = Box<dyn Fn(Step, u64) + Send + Sync>;

struct Chain {
    blocks: BTreeMap<u64, DecidedBlock>,
    tip: (u64, B256),
}

pub struct TestApp {
    set: ValidatorSet,
    chain: Mutex<Chain>,
    pub evidence: Mutex<Vec<Equivocation>>,
    pub verified: AtomicU64,
    salt: u64,
    /// Bytes that every block carries, to make it as large as a test wants.
    pub ballast: usize,
    file: Option<PathBuf>,
    hook: Hook,
}

/// Different in every run of every process, so that a second proposal for a place is never the same by chance.
fn fresh_salt() -> u64 {
    static RUN: AtomicU64 = AtomicU64::new(0);
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    time.as_nanos() as u64 ^ (u64::from(std::process::id()) << 32) ^ RUN.fetch_add(1, Ordering::Relaxed)
}

impl TestApp {
    pub fn new(set: ValidatorSet) -> Self {
        Self {
            set,
            chain: Mutex::new(Chain { blocks: BTreeMap::new(), tip: (0, GENESIS) }),
            evidence: Mutex::default(),
            verified: AtomicU64::new(0),
            salt: fresh_salt(),
            ballast: 0,
            file: None,
            hook: Box::new(|_, _| {}),
        }
    }

    /// An application whose committed blocks are in a file, one hex line each, synced.
    pub fn open(set: ValidatorSet, file: PathBuf, hook: Hook) -> Self {
        let mut app = Self::new(set);
        for line in fs::read_to_string(&file).unwrap_or_default().lines() {
            let mut fields = line.split(' ');
            let (certificate, block) = (fields.next(), fields.next());
            let (Some(certificate), Some(block)) = (certificate, block) else { break };
            let certificate: CommitCertificate =
                alloy_rlp::decode_exact(certificate.parse::<Bytes>().unwrap()).unwrap();
            let block_rlp: Bytes = block.parse().unwrap();
            app.insert(DecidedBlock { certificate, block_rlp });
        }
        app.file = Some(file);
        app.hook = hook;
        app
    }

    pub fn height(&self) -> u64 {
        self.chain.lock().tip.0
    }

    pub fn hash_at(&self, height: u64) -> Option<B256> {
        self.chain.lock().blocks.get(&height).map(|b| b.certificate.block_hash)
    }

    pub fn certificate_at(&self, height: u64) -> Option<CommitCertificate> {
        self.chain.lock().blocks.get(&height).map(|b| b.certificate.clone())
    }

    fn insert(&self, decided: DecidedBlock) {
        let mut chain = self.chain.lock();
        chain.tip = (decided.certificate.height, decided.certificate.block_hash);
        chain.blocks.insert(decided.certificate.height, decided);
    }

    fn judge(&self, height: u64, block_rlp: &[u8]) -> Result<B256, String> {
        let block = Block::from_rlp(block_rlp).map_err(|e| e.to_string())?;
        let (tip, parent) = self.chain.lock().tip;
        if height != tip + 1 {
            return Err(format!("asked about height {height} on tip {tip}"));
        }
        if block.header.number != height || block.header.parent_hash != parent {
            return Err("not on the tip".to_owned());
        }
        if block.header.parent_beacon_block_root != Some(block.section.root()) {
            return Err("another section than the header says".to_owned());
        }
        match &block.section.parent_commit {
            None if tip == 0 => {}
            Some(certificate) if certificate.block_hash == parent => {
                verify_certificate(certificate, &self.set, &GENESIS).map_err(|e| e.to_string())?;
            }
            _ => return Err("no certificate of the parent".to_owned()),
        }
        Ok(block.hash())
    }
}

#[async_trait]
impl Application for TestApp {
    async fn tip(&self) -> Result<Tip, AppError> {
        let chain = self.chain.lock();
        let (height, hash) = chain.tip;
        Ok(Tip { height, hash, certificate: chain.blocks.get(&height).map(|b| b.certificate.clone()) })
    }

    async fn validators(&self, _height: u64) -> Result<ValidatorSet, AppError> {
        Ok(self.set.clone())
    }

    async fn propose(
        &self,
        height: u64,
        round: u32,
        parent_commit: Option<CommitCertificate>,
        _deadline: UnixMs,
    ) -> Result<ProposedBlock, AppError> {
        (self.hook)(Step::BeforePropose, height);
        let section = ConsensusSection { time_ms: height, parent_commit, checkpoint: None, epoch: None };
        let salt = keccak256([self.salt.to_be_bytes(), u64::from(round).to_be_bytes()].concat());
        let mut extra = salt.to_vec();
        extra.resize(32 + self.ballast, 7);
        let header = Header {
            number: height,
            parent_hash: self.chain.lock().tip.1,
            base_fee_per_gas: Some(1),
            withdrawals_root: Some(B256::ZERO),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(section.root()),
            extra_data: extra.into(),
            ..Header::default()
        };
        let block = Block { header, transactions: Vec::new(), section };
        (self.hook)(Step::AfterPropose, height);
        Ok(ProposedBlock { block_hash: block.hash(), block_rlp: block.to_rlp() })
    }

    async fn verify(&self, height: u64, block_rlp: Bytes) -> Result<Verdict, AppError> {
        self.verified.fetch_add(1, Ordering::Relaxed);
        let verdict = self.judge(height, &block_rlp);
        (self.hook)(Step::AfterVerify, height);
        Ok(match verdict {
            Ok(block_hash) => Verdict::Valid { block_hash },
            Err(reason) => Verdict::Invalid { reason },
        })
    }

    async fn commit(&self, decided: DecidedBlock) -> Result<(), AppError> {
        let height = decided.certificate.height;
        (self.hook)(Step::BeforeCommit, height);
        verify_certificate(&decided.certificate, &self.set, &GENESIS).expect("a decision has a certificate");
        let judged = self.judge(height, &decided.block_rlp).expect("a decided block is valid");
        assert_eq!(judged, decided.certificate.block_hash);
        if let Some(path) = &self.file {
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            let certificate = Bytes::from(alloy_rlp::encode(&decided.certificate));
            writeln!(file, "{certificate} {}", decided.block_rlp).unwrap();
            file.sync_all().unwrap();
        }
        self.insert(decided);
        (self.hook)(Step::AfterCommit, height);
        Ok(())
    }

    async fn finalized(&self, certificate: CommitCertificate, evidence: Vec<Equivocation>) -> Result<(), AppError> {
        verify_certificate(&certificate, &self.set, &GENESIS).expect("a fuller certificate is one too");
        self.evidence.lock().extend(evidence);
        Ok(())
    }

    async fn decided(&self, height: u64) -> Result<Option<DecidedBlock>, AppError> {
        Ok(self.chain.lock().blocks.get(&height).cloned())
    }
}

/// Settings for tests: no pause between blocks, short timeouts.
pub fn fast() -> EngineConfig {
    EngineConfig {
        block_time_ms: 0,
        propose_timeout_ms: 400,
        timeout_delta_ms: 100,
        vote_timeout_ms: 200,
        status_interval_ms: 100,
        sync_timeout_ms: 2_000,
    }
}

pub fn node_id(n: u8) -> NodeId {
    NodeId([n; 32])
}

/// Adds validator `n` to the simulated network and connects it to the others that are there.
pub async fn join(net: &SimNet, n: u8, others: &[u8]) -> NetworkHandle {
    let roles = RoleSet::of(&[Role::Validator]);
    let handle = net.node(SimNode { id: node_id(n), roles, record: None, best_height: 0 });
    for other in others {
        // A node that is down cannot be dialled; it dials when it comes back.
        let _ = handle.dial(&SimNet::address(node_id(*other))).await;
    }
    handle
}

pub async fn run(
    config: EngineConfig,
    signer: Arc<dyn VoteSigner>,
    network: NetworkHandle,
    app: Arc<TestApp>,
    home: PathBuf,
) -> EngineHandle {
    start(config, signer, GENESIS, network, app, Arc::new(SystemClock), home).await.unwrap()
}

/// How many times longer than an idle machine a loaded one may take.
const LOAD_FACTOR: u64 = 6;

/// Waits until the application is at `height`; fails with what it waited for. The seconds are an idle machine's.
pub async fn reach(app: &TestApp, height: u64, seconds: u64, what: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds * LOAD_FACTOR);
    while app.height() < height {
        assert!(tokio::time::Instant::now() < deadline, "{what}: at {} of {height}", app.height());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// No two applications have different blocks at one height, and every block has its certificate.
pub fn assert_no_fork(apps: &[Arc<TestApp>]) -> u64 {
    let mut common = u64::MAX;
    for app in apps {
        common = common.min(app.height());
    }
    for height in 1..=apps.iter().map(|a| a.height()).max().unwrap_or(0) {
        let mut hashes: Vec<B256> = apps.iter().filter_map(|a| a.hash_at(height)).collect();
        hashes.dedup();
        assert!(hashes.len() <= 1, "fork at height {height}: {hashes:?}");
    }
    common
}
