//! Measures the path of a block inside the process, stage by stage: decode, recover, execute, roots, state root, persist.
//!
//! Every block is durable (synced) before the next one begins, every header field is checked, nothing is remembered
//! from signing: the transactions go in as bytes, like those of another validator's block.

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_primitives::{Address, Bytes, Signature, TxKind, U256, keccak256};
use rayon::prelude::*;
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use std::path::PathBuf;
use std::time::Instant;
use trellis_chain_execution::{
    BlockAttributes, BlockError, ExecutionConfig, ExecutionError, Executor, GenesisAccount, GenesisError, GenesisInput,
    GenesisStep, RecoverError, Stage, genesis, recover_batch,
};
use trellis_chain_storage::{CommitError, OpenError, Receipt, Store, StoreConfig};
use trellis_contracts::wtrl::WTRL;
use trellis_primitives::{Block, ConsensusSection, TxEnvelope};

const CHAIN_ID: u64 = 97_001;
const BASE_FEE_FLOOR_WEI: u64 = 1_000_000_000;
/// Gas limit of a native transfer.
const NATIVE_GAS: u64 = 21_000;
/// Gas limit of a token transfer; what it uses is less.
const ERC20_GAS: u64 = 100_000;
/// `transfer(address,uint256)`.
const TRANSFER_SELECTOR: [u8; 4] = [0xa9, 0x05, 0x9c, 0xbb];
const GENESIS_TIME_MS: u64 = 1_700_000_000_000;
/// Names of the stages, in the order of [`BenchReport::stages`].
pub const STAGES: [&str; 6] = ["decode", "recover", "execute", "roots", "state_root", "persist"];

/// What is transferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transfers {
    /// The native coin.
    #[default]
    Native,
    /// The chain's own ERC-20 with votes and permit, WTRL; every account of the state holds some.
    Erc20,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// What is transferred.
    pub transfers: Transfers,
    /// Accounts in the state.
    pub accounts: u32,
    /// Accounts that send; each sends once per round.
    pub senders: u32,
    /// Blocks measured.
    pub blocks: u32,
    /// Transfers in each block.
    pub txs_per_block: u32,
    /// Where to put the data folder; a temporary one where there is none.
    pub folder: Option<PathBuf>,
}

impl Default for BenchConfig {
    fn default() -> Self {
        Self {
            transfers: Transfers::Native,
            accounts: 100_000,
            senders: 10_000,
            blocks: 8,
            txs_per_block: 5_000,
            folder: None,
        }
    }
}

/// Time of one stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct StageTime {
    /// Its name.
    pub name: &'static str,
    /// Microseconds on the clock per transaction.
    pub wall_us_per_tx: f64,
    /// Microseconds of all cores per transaction; zero where the system does not tell.
    pub cpu_us_per_tx: f64,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct BenchReport {
    /// What was transferred.
    pub transfers: Transfers,
    /// Accounts in the state.
    pub accounts: u32,
    /// Blocks committed.
    pub blocks: u32,
    /// Transactions committed.
    pub transactions: u64,
    /// The stages in order.
    pub stages: Vec<StageTime>,
    /// Sum of the stages on the clock, in microseconds per transaction.
    pub wall_us_per_tx: f64,
    /// Sum of the stages on all cores, in microseconds per transaction.
    pub cpu_us_per_tx: f64,
    /// Transactions per second with the stages one after the other.
    pub transactions_per_s: f64,
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No folder.
    #[error("temporary folder: {0}")]
    Folder(#[from] std::io::Error),
    /// The genesis failed.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The store did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A transaction did not decode.
    #[error("a transaction does not decode: {0}")]
    Decode(#[from] alloy_eips::eip2718::Eip2718Error),
    /// A signature was not valid.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A block could not be built.
    #[error(transparent)]
    Build(#[from] ExecutionError),
    /// A block was refused.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A block could not be committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A transfer was executed and failed.
    #[error("transfer {index} of a block failed")]
    Failed {
        /// Its place in the block.
        index: usize,
    },
    /// Not all transfers got into the block.
    #[error("{found} of {expected} transfers are in the block")]
    Short {
        /// Transfers signed for the block.
        expected: usize,
        /// Transfers in it.
        found: usize,
    },
}

/// Time of all threads of the process on a core, in microseconds, as Linux tells it.
fn cpu_us() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next().and_then(|first| first.parse::<f64>().ok()))
        .sum::<f64>()
        / 1_000.0
}

/// Adds up wall and CPU time per stage.
struct Meter {
    at: Instant,
    cpu: f64,
    sums: [(f64, f64); STAGES.len()],
}

impl Meter {
    fn start() -> Self {
        Self { at: Instant::now(), cpu: cpu_us(), sums: Default::default() }
    }

    fn restart(&mut self) {
        (self.at, self.cpu) = (Instant::now(), cpu_us());
    }

    fn lap(&mut self, stage: usize) {
        let (at, cpu) = (Instant::now(), cpu_us());
        if let Some((wall, busy)) = self.sums.get_mut(stage) {
            *wall += at.duration_since(self.at).as_secs_f64() * 1e6;
            *busy += cpu - self.cpu;
        }
        (self.at, self.cpu) = (at, cpu);
    }

    fn report(&self, config: &BenchConfig) -> BenchReport {
        let transactions = u64::from(config.blocks) * u64::from(config.txs_per_block);
        #[allow(clippy::cast_precision_loss)]
        let each = |us: f64| us / transactions.max(1) as f64;
        let stages: Vec<StageTime> = STAGES
            .iter()
            .zip(&self.sums)
            .map(|(name, (wall, cpu))| StageTime { name, wall_us_per_tx: each(*wall), cpu_us_per_tx: each(*cpu) })
            .collect();
        let wall_us_per_tx = stages.iter().map(|stage| stage.wall_us_per_tx).sum();
        let cpu_us_per_tx = stages.iter().map(|stage| stage.cpu_us_per_tx).sum();
        BenchReport {
            transfers: config.transfers,
            accounts: config.accounts,
            blocks: config.blocks,
            transactions,
            stages,
            wall_us_per_tx,
            cpu_us_per_tx,
            transactions_per_s: 1e6 / wall_us_per_tx,
        }
    }
}

fn secret(n: u32) -> Option<SecretKey> {
    SecretKey::from_byte_array(keccak256(n.to_be_bytes()).0).ok()
}

fn address_of(n: u32) -> Option<Address> {
    let key = PublicKey::from_secret_key_global(&secret(n)?).serialize_uncompressed();
    let hash = keccak256(key.split_at(1).1);
    Some(Address::from_slice(hash.split_at(12).1))
}

/// Receivers need no key.
fn receiver(n: u32) -> Address {
    Address::from_slice(keccak256([b"receiver".as_slice(), &n.to_be_bytes()].concat()).split_at(12).1)
}

/// Deploys the token, and nothing else.
fn deployer() -> Address {
    receiver(u32::MAX)
}

fn transfer(transfers: Transfers, from: u32, nonce: u64, to: Address) -> Option<Bytes> {
    let tx = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        max_fee_per_gas: 1_000_000_000_000,
        max_priority_fee_per_gas: 1,
        ..TxEip1559::default()
    };
    let tx = match transfers {
        Transfers::Native => TxEip1559 { gas_limit: NATIVE_GAS, to: TxKind::Call(to), value: U256::from(1), ..tx },
        Transfers::Erc20 => {
            let amount = U256::from(1).to_be_bytes::<32>();
            let input = [TRANSFER_SELECTOR.as_slice(), to.into_word().as_slice(), &amount].concat().into();
            // The deposit was each account's first transaction.
            let nonce = nonce.checked_add(1)?;
            TxEip1559 { gas_limit: ERC20_GAS, nonce, to: TxKind::Call(deployer().create(0)), input, ..tx }
        }
    };
    let hash = tx.signature_hash();
    let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(hash.0), &secret(from)?);
    let (id, compact) = signature.serialize_compact();
    let signature = Signature::from_bytes_and_parity(&compact, i32::from(id) == 1);
    let tx: TxEnvelope = tx.into_signed(signature).into();
    Some(tx.encoded_2718().into())
}

/// The transfers of one block, signed on all cores; what signing costs is not measured.
fn sign_block(config: &BenchConfig, block: u32) -> Vec<Bytes> {
    let senders = config.senders.max(1);
    (0..config.txs_per_block)
        .into_par_iter()
        .filter_map(|i| {
            let number = u64::from(block) * u64::from(config.txs_per_block) + u64::from(i);
            let from = u32::try_from(number % u64::from(senders)).ok()?;
            let nonce = number / u64::from(senders);
            let pick = keccak256(number.to_be_bytes());
            let [a, b, c, d, ..] = pick.0;
            let to = receiver(u32::from_be_bytes([a, b, c, d]) % config.accounts.saturating_sub(senders).max(1));
            transfer(config.transfers, from, nonce, to)
        })
        .collect()
}

fn make_store(config: &BenchConfig, executor: &Executor, folder: &std::path::Path) -> Result<Store, BenchError> {
    let balance = U256::from(1_000_000_000_000_000_000_000_u128);
    let senders: Vec<Address> = (0..config.senders).into_par_iter().filter_map(address_of).collect();
    let receivers = (0..config.accounts.saturating_sub(config.senders)).map(receiver);
    let alloc: Vec<GenesisAccount> = senders
        .into_iter()
        .chain(receivers)
        .map(|address| GenesisAccount { address, balance, ..GenesisAccount::default() })
        .collect();
    let steps = match config.transfers {
        Transfers::Native => Vec::new(),
        Transfers::Erc20 => token_steps(&alloc),
    };
    let genesis = genesis(&GenesisInput {
        chain_id: CHAIN_ID,
        timestamp_ms: GENESIS_TIME_MS,
        gas_limit: executor.config().gas_limit,
        base_fee_wei: BASE_FEE_FLOOR_WEI,
        alloc,
        steps,
        ..GenesisInput::default()
    })?;
    Ok(Store::open(folder, &genesis, StoreConfig::default())?)
}

/// Deploys the token and has every account deposit one coin.
fn token_steps(alloc: &[GenesisAccount]) -> Vec<GenesisStep> {
    let token = deployer().create(0);
    let deploy = GenesisStep {
        name: "deploy WTRL".to_owned(),
        from: deployer(),
        input: WTRL::BYTECODE.clone(),
        expected_address: Some(token),
        ..GenesisStep::default()
    };
    let deposits = alloc.iter().map(|account| GenesisStep {
        name: "deposit".to_owned(),
        from: account.address,
        to: Some(token),
        value: U256::from(1_000_000_000_000_000_000_u128),
        ..GenesisStep::default()
    });
    std::iter::once(deploy).chain(deposits).collect()
}

/// Measures blocks of transfers.
///
/// # Errors
/// See [`BenchError`].
pub fn run(config: &BenchConfig) -> Result<BenchReport, BenchError> {
    let temporary = match &config.folder {
        Some(_) => None,
        None => Some(tempfile::tempdir()?),
    };
    let folder = match (&config.folder, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(temporary)) => temporary.path().to_path_buf(),
        (None, None) => PathBuf::new(),
    };
    let gas = match config.transfers {
        Transfers::Native => NATIVE_GAS,
        Transfers::Erc20 => ERC20_GAS,
    };
    // Twice what a block needs, so that the base fee stays where it is.
    let gas_limit = (u64::from(config.txs_per_block) * gas * 2).max(30_000_000);
    let executor = Executor::new(ExecutionConfig {
        chain_id: CHAIN_ID,
        gas_limit,
        base_fee_floor_wei: BASE_FEE_FLOOR_WEI,
        genesis_hash: None,
    });
    let store = make_store(config, &executor, &folder)?;
    let mut meter = Meter::start();
    for number in 0..config.blocks {
        let bytes = sign_block(config, number);
        let template = propose(&executor, &store, &bytes)?;
        if template.transactions.len() != bytes.len() {
            return Err(BenchError::Short { expected: bytes.len(), found: template.transactions.len() });
        }
        measure_block(&executor, &store, template, &bytes, &mut meter)?;
    }
    Ok(meter.report(config))
}

/// Another validator's block: its header says what must come out.
fn propose(executor: &Executor, store: &Store, bytes: &[Bytes]) -> Result<Block, BenchError> {
    let txs = decode(bytes)?;
    let candidates = recover_batch(txs).into_iter().collect::<Result<Vec<_>, _>>()?;
    let head = store.head();
    let time_ms = GENESIS_TIME_MS + (head.height() + 1) * 250;
    let section = ConsensusSection { time_ms, parent_commit: None, checkpoint: None, epoch: None };
    let attributes = BlockAttributes { beneficiary: receiver(0), section, extra_data: Bytes::new() };
    let built = executor.build_block(&head, attributes, None, &mut candidates.into_iter())?;
    Ok((*built.executed.block).clone())
}

fn decode(bytes: &[Bytes]) -> Result<Vec<TxEnvelope>, BenchError> {
    Ok(bytes
        .par_iter()
        .map(|bytes| {
            let tx = TxEnvelope::decode_2718(&mut bytes.as_ref())?;
            let _hash = tx.tx_hash();
            Ok(tx)
        })
        .collect::<Result<_, alloy_eips::eip2718::Eip2718Error>>()?)
}

fn measure_block(
    executor: &Executor,
    store: &Store,
    template: Block,
    bytes: &[Bytes],
    meter: &mut Meter,
) -> Result<(), BenchError> {
    meter.restart();
    let transactions = decode(bytes)?;
    meter.lap(0);
    let block = Block { transactions, ..template };
    let senders = executor.recover_senders(&block, &|_| None)?;
    meter.lap(1);
    let executed = executor.execute_block_in_stages(&store.head(), block, senders, &mut |stage| match stage {
        Stage::Execute => meter.lap(2),
        Stage::Roots => meter.lap(3),
        Stage::StateRoot => meter.lap(4),
    })?;
    let receipts = executed.receipts.clone();
    meter.restart();
    store.commit(executed, None)?;
    meter.lap(5);
    check_success(&receipts)
}

/// A failed transfer would make the figures look better than they are.
fn check_success(receipts: &[Receipt]) -> Result<(), BenchError> {
    match receipts.iter().position(|receipt| !receipt.success) {
        Some(index) => Err(BenchError::Failed { index }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_commits_every_transfer_and_times_every_stage() {
        for transfers in [Transfers::Native, Transfers::Erc20] {
            let config =
                BenchConfig { transfers, accounts: 300, senders: 100, blocks: 3, txs_per_block: 150, folder: None };
            let report = run(&config).unwrap();
            assert_eq!(report.transactions, 450);
            assert_eq!(report.stages.len(), STAGES.len());
            assert!(report.stages.iter().all(|stage| stage.wall_us_per_tx > 0.0));
            assert!(report.transactions_per_s > 0.0);
        }
    }

    #[test]
    fn a_token_transfer_that_fails_stops_the_run() {
        let config = BenchConfig {
            transfers: Transfers::Erc20,
            accounts: 4,
            senders: 2,
            blocks: 1,
            txs_per_block: 4,
            folder: None,
        };
        assert!(run(&config).is_ok());
        let receipt = Receipt { success: false, ..Receipt::default() };
        assert!(matches!(
            check_success(&[Receipt { success: true, ..receipt.clone() }, receipt]),
            Err(BenchError::Failed { index: 1 })
        ));
    }
}
