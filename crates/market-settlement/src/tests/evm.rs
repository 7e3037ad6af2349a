//! A chain of tests: the contracts' real code in revm behind [`ChainClient`]. One transaction is one block, final at once.

use std::collections::HashMap;
use std::time::Duration;

use alloy_primitives::{LogData, TxKind, U256};
use async_trait::async_trait;
use parking_lot::Mutex;
use revm::context::TxEnv;
use revm::context::result::{ExecutionResult, Output};
use revm::database::{CacheDB, EmptyDB};
use revm::state::AccountInfo;
use revm::{Context, DatabaseRef, ExecuteCommitEvm, ExecuteEvm, MainBuilder, MainContext};
use trellis_crypto::AccountKey;
use trellis_market_chain::{
    ChainClient, ChainError, Head, Log, LogFilter, LogPlace, TxIntent, TxReceipt, describe_revert,
};
use trellis_primitives::{Address, B256, Bytes, UnixMs, Wei, keccak256};

pub(super) const CHAIN_ID: u64 = 97_001;
const GAS_MAX: u64 = 16_777_216;

struct Evm {
    db: CacheDB<EmptyDB>,
    number: u64,
    time_s: u64,
    logs: Vec<Log>,
    receipts: HashMap<B256, TxReceipt>,
    inputs: HashMap<B256, Bytes>,
    failures: HashMap<B256, String>,
    transactions: u64,
    gas: u64,
    down: bool,
    /// Transactions happen, and whoever waits for them dies before it learns of it.
    lose_receipts: bool,
}

/// The chain.
pub(super) struct EvmChain(Mutex<Evm>);

impl EvmChain {
    pub(super) fn new(time_s: u64) -> Self {
        Self(Mutex::new(Evm {
            db: CacheDB::new(EmptyDB::default()),
            number: 0,
            time_s,
            logs: Vec::new(),
            receipts: HashMap::new(),
            inputs: HashMap::new(),
            failures: HashMap::new(),
            transactions: 0,
            gas: 0,
            down: false,
            lose_receipts: false,
        }))
    }

    pub(super) fn fund(&self, account: Address, amount: Wei) {
        let info = AccountInfo { balance: amount.to_u256(), ..AccountInfo::default() };
        self.0.lock().db.insert_account_info(account, info);
    }

    pub(super) fn advance_s(&self, seconds: u64) {
        self.0.lock().time_s += seconds;
    }

    pub(super) fn set_down(&self, down: bool) {
        self.0.lock().down = down;
    }

    pub(super) fn lose_receipts(&self, lose: bool) {
        self.0.lock().lose_receipts = lose;
    }

    /// Transactions that happened, failed ones included.
    pub(super) fn transactions(&self) -> u64 {
        self.0.lock().transactions
    }

    /// Gas of all transactions.
    pub(super) fn gas_used(&self) -> u64 {
        self.0.lock().gas
    }

    /// Executes one step of the genesis.
    pub(super) fn genesis_step(&self, deployer: Address, to: Option<Address>, input: Bytes) -> Address {
        let mut evm = self.0.lock();
        let kind = to.map_or(TxKind::Create, TxKind::Call);
        match evm.transact(deployer, kind, U256::ZERO, input) {
            ExecutionResult::Success { output: Output::Create(_, Some(address)), .. } => address,
            ExecutionResult::Success { .. } => to.unwrap(),
            other => panic!("genesis step failed: {other:?}"),
        }
    }

    fn reachable(&self, method: &'static str) -> Result<parking_lot::MutexGuard<'_, Evm>, ChainError> {
        let evm = self.0.lock();
        if evm.down {
            return Err(ChainError::Unreachable { method, urls: 1, last: "down".into() });
        }
        Ok(evm)
    }
}

impl Evm {
    fn env(&self, from: Address, kind: TxKind, value: U256, data: Bytes) -> TxEnv {
        let nonce = self.db.basic_ref(from).unwrap().unwrap_or_default().nonce;
        let tx = TxEnv::builder().caller(from).kind(kind).value(value).data(data).nonce(nonce);
        tx.gas_limit(GAS_MAX).gas_price(0).chain_id(Some(CHAIN_ID)).build().unwrap()
    }

    fn transact(&mut self, from: Address, kind: TxKind, value: U256, data: Bytes) -> ExecutionResult {
        let env = self.env(from, kind, value, data);
        self.number += 1;
        let (number, time_s) = (self.number, self.time_s);
        let context = Context::mainnet()
            .with_db(&mut self.db)
            .modify_cfg_chained(|cfg| cfg.chain_id = CHAIN_ID)
            .modify_block_chained(|block| {
                block.number = U256::from(number);
                block.timestamp = U256::from(time_s);
                block.gas_limit = 400_000_000;
                block.basefee = 0;
            });
        context.build_mainnet().transact_commit(env).unwrap()
    }

    fn look(&mut self, from: Address, kind: TxKind, value: U256, data: Bytes) -> ExecutionResult {
        let env = self.env(from, kind, value, data);
        let (number, time_s) = (self.number, self.time_s);
        let context = Context::mainnet()
            .with_db(&mut self.db)
            .modify_cfg_chained(|cfg| cfg.chain_id = CHAIN_ID)
            .modify_block_chained(|block| {
                block.number = U256::from(number);
                block.timestamp = U256::from(time_s);
                block.gas_limit = 400_000_000;
                block.basefee = 0;
            });
        context.build_mainnet().transact(env).unwrap().result
    }
}

fn reverted(result: &ExecutionResult) -> ChainError {
    match result {
        ExecutionResult::Revert { output, .. } => {
            ChainError::Reverted { reason: describe_revert(output), data: output.clone() }
        }
        other => ChainError::Other(format!("{other:?}")),
    }
}

#[async_trait]
impl ChainClient for EvmChain {
    fn chain_id(&self) -> u64 {
        CHAIN_ID
    }

    async fn head(&self) -> Result<Head, ChainError> {
        let evm = self.reachable("head")?;
        let (number, time_s) = (evm.number, evm.time_s);
        Ok(Head { number, hash: keccak256(number.to_be_bytes()), time_s, finalized_number: number, base_fee_wei: 0 })
    }

    async fn call(&self, to: Address, data: Bytes) -> Result<Bytes, ChainError> {
        let mut evm = self.reachable("call")?;
        match evm.look(Address::ZERO, TxKind::Call(to), U256::ZERO, data) {
            ExecutionResult::Success { output, .. } => Ok(output.into_data()),
            other => Err(reverted(&other)),
        }
    }

    async fn logs(&self, filter: LogFilter) -> Result<Vec<Log>, ChainError> {
        let evm = self.reachable("logs")?;
        let wanted = |log: &&Log| {
            let topics = log.data.topics();
            let matches =
                filter.topics.iter().enumerate().all(|(at, any_of)| {
                    any_of.is_empty() || topics.get(at).is_some_and(|topic| any_of.contains(topic))
                });
            filter.addresses.contains(&log.address)
                && (filter.from_block..=filter.to_block).contains(&log.place.block)
                && matches
        };
        Ok(evm.logs.iter().filter(wanted).cloned().collect())
    }

    async fn transaction_data(&self, tx: B256) -> Result<Option<Bytes>, ChainError> {
        Ok(self.reachable("transaction")?.inputs.get(&tx).cloned())
    }

    async fn balance(&self, account: Address) -> Result<Wei, ChainError> {
        let evm = self.reachable("balance")?;
        let info = evm.db.basic_ref(account).unwrap().unwrap_or_default();
        Ok(Wei::try_from(info.balance).unwrap())
    }

    async fn send(&self, intent: TxIntent, from: &AccountKey) -> Result<B256, ChainError> {
        let mut evm = self.reachable("send")?;
        let (kind, value) = (TxKind::Call(intent.to), intent.value.to_u256());
        // As a node does: what would revert is refused before it costs anything.
        let estimate = evm.look(from.address(), kind, value, intent.data.clone());
        if !estimate.is_success() {
            return Err(reverted(&estimate));
        }
        let result = evm.transact(from.address(), kind, value, intent.data.clone());
        evm.transactions += 1;
        evm.gas += result.tx_gas_used();
        let (block, tx) = (evm.number, keccak256(evm.number.to_be_bytes()));
        let mut logs = Vec::new();
        for (index, log) in result.logs().iter().enumerate() {
            let data = LogData::new_unchecked(log.data.topics().to_vec(), log.data.data.clone());
            logs.push(Log { address: log.address, data, place: LogPlace { block, index: index as u64, tx } });
        }
        evm.logs.extend(logs.iter().cloned());
        let receipt = TxReceipt {
            tx,
            block,
            block_hash: tx,
            success: result.is_success(),
            gas_used: result.tx_gas_used(),
            gas_price_wei: 0,
            logs,
        };
        if !receipt.success {
            evm.failures.insert(tx, reverted(&result).to_string());
        }
        evm.receipts.insert(tx, receipt);
        evm.inputs.insert(tx, intent.data);
        Ok(tx)
    }

    async fn wait(&self, tx: B256, _from: &AccountKey, within: Duration) -> Result<TxReceipt, ChainError> {
        let evm = self.reachable("wait")?;
        if evm.lose_receipts {
            let waited_ms = within.as_millis() as u64;
            return Err(ChainError::Timeout { what: "the transaction's final block", waited_ms });
        }
        Ok(evm.receipts[&tx].clone())
    }

    async fn failure_reason(&self, failed: &TxReceipt) -> Result<String, ChainError> {
        let evm = self.reachable("failure")?;
        Ok(evm.failures[&failed.tx].clone())
    }

    fn last_view(&self) -> Option<UnixMs> {
        Some(UnixMs(self.0.lock().time_s * 1_000))
    }
}
