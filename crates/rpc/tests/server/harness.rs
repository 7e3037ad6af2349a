//! A whole chain in memory behind a real server on a real port: real blocks, really executed, really signed.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEip2930, TxLegacy, TypedTransaction};
use alloy_eips::eip2718::Encodable2718;
use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use trellis_chain_execution::{
    BlockAttributes, Candidates, ExecutionConfig, Executor, GenesisAccount, GenesisInput, genesis, next_base_fee,
};
use trellis_chain_finality::{Validator, ValidatorSet, VoteKind, VotePlace};
use trellis_chain_mempool::{
    AccountReadError, AccountReader, AccountState, BestTransactions, HeadUpdate, Mempool, PoolConfig,
};
use trellis_chain_storage::{CommittedBlock, Store};
use trellis_crypto::account::AccountKey;
use trellis_crypto::vote::VoteKey;
use trellis_primitives::{
    Clock, CommitCertificate, CommitSignature, ConsensusSection, ManualClock, RecoveredTx, TxEnvelope, UnixMs,
};
use trellis_rpc::{MarketView, Namespace, NetView, RpcConfig, RpcParts, RpcServer, SyncProgress};

pub const CHAIN: u64 = 97_001;
pub const GWEI: u128 = 1_000_000_000;
/// Writes the first word of its input to slot 0 and emits it with the topic `emit`.
pub const EMITTER: Address = Address::repeat_byte(0xe1);
/// Reverts with `Error("not yours")`.
pub const REVERTER: Address = Address::repeat_byte(0xe2);
/// Runs in a circle.
pub const SPINNER: Address = Address::repeat_byte(0xe3);
/// Reverts with `Panic(1)`.
pub const PANICKER: Address = Address::repeat_byte(0xe4);
/// The topic of [`EMITTER`]'s event.
pub const EMIT_TOPIC: B256 = B256::new(hex!("00000000000000000000000000000000000000000000000000000000656d6974"));

const EMITTER_CODE: &[u8] = &hex!("6000358060005560005263656d697460206000a160206000f3");
const SPINNER_CODE: &[u8] = &hex!("5b600056");

struct Accounts(Store);

impl AccountReader for Accounts {
    fn account(&self, address: Address) -> Result<AccountState, AccountReadError> {
        let account = self.0.head().account(address).unwrap_or_default();
        Ok(AccountState { nonce: account.nonce, balance: account.balance })
    }
}

struct Best(BestTransactions);

impl Candidates for Best {
    fn next(&mut self) -> Option<RecoveredTx> {
        self.0.next()
    }
    fn left_out(&mut self) {
        self.0.skip_sender();
    }
}

struct Net;

impl NetView for Net {
    fn peer_count(&self) -> u64 {
        3
    }
    fn is_listening(&self) -> bool {
        true
    }
    fn sync_progress(&self) -> Option<SyncProgress> {
        None
    }
    fn summary(&self) -> Value {
        json!({ "peers": 3 })
    }
}

struct Market;

impl MarketView for Market {
    fn summary(&self) -> Value {
        json!({ "jobs": 7 })
    }
}

pub struct Chain {
    pub store: Store,
    pub mempool: Mempool,
    pub executor: Executor,
    pub committee: ValidatorSet,
    pub clock: Arc<ManualClock>,
    pub server: RpcServer,
    http: reqwest::Client,
    vote: VoteKey,
    ids: AtomicU64,
}

pub fn key(number: u8) -> AccountKey {
    AccountKey::from_bytes(&[number; 32]).unwrap()
}

fn reverting(payload: &[u8]) -> Bytes {
    let length = u8::try_from(payload.len()).unwrap();
    let mut code = vec![0x60, length, 0x60, 0x0c, 0x60, 0x00, 0x39, 0x60, length, 0x60, 0x00, 0xfd];
    code.extend_from_slice(payload);
    code.into()
}

fn alloc() -> Vec<GenesisAccount> {
    use alloy_sol_types::{Panic, Revert, SolError};
    let contract = |address, code| GenesisAccount { address, code, nonce: 1, ..GenesisAccount::default() };
    let rich = |number| GenesisAccount {
        address: key(number).address(),
        balance: U256::from(10).pow(U256::from(24)),
        ..GenesisAccount::default()
    };
    let mut alloc: Vec<_> = (1..=20).map(rich).collect();
    alloc.extend([
        contract(EMITTER, Bytes::from_static(EMITTER_CODE)),
        contract(REVERTER, reverting(&Revert::from("not yours".to_owned()).abi_encode())),
        contract(SPINNER, Bytes::from_static(SPINNER_CODE)),
        contract(PANICKER, reverting(&Panic { code: U256::from(1) }.abi_encode())),
    ]);
    alloc
}

impl Chain {
    pub async fn start() -> Self {
        let namespaces = BTreeSet::from(Namespace::ALL);
        Self::start_with(RpcConfig { namespaces, ..RpcConfig::default() }).await
    }

    pub async fn start_with(config: RpcConfig) -> Self {
        let input = GenesisInput {
            chain_id: CHAIN,
            timestamp_ms: 1_700_000_000_000,
            gas_limit: 400_000_000,
            base_fee_wei: 1_000_000_000,
            alloc: alloc(),
            ..GenesisInput::default()
        };
        let store = Store::in_memory(&genesis(&input).unwrap()).unwrap();
        let executor = Executor::new(ExecutionConfig {
            chain_id: CHAIN,
            gas_limit: 400_000_000,
            base_fee_floor_wei: 1_000_000_000,
            genesis_hash: None,
        });
        let clock = Arc::new(ManualClock::new(UnixMs(1_700_000_000_250)));
        let mempool = Mempool::new(PoolConfig::new(CHAIN), Arc::new(Accounts(store.clone())), clock.clone());
        let vote = VoteKey::from_seed(&[7; 32]);
        let public = vote.public();
        let committee = ValidatorSet::new(vec![Validator::new(public, 1_000_000, Address::with_last_byte(1))]).unwrap();
        let parts = RpcParts {
            store: store.clone(),
            mempool: mempool.clone(),
            executor: executor.clone(),
            committee: Arc::new(committee.clone()),
            net: Arc::new(Net),
            market: Arc::new(Market),
            clock: clock.clone(),
            client_version: "Trellis/test".to_owned(),
        };
        let config = RpcConfig { listen: "127.0.0.1:0".parse().unwrap(), ..config };
        let server = trellis_rpc::start(config, parts).await.unwrap();
        let http = reqwest::Client::new();
        let chain = Self { store, mempool, executor, committee, clock, server, http, vote, ids: AtomicU64::new(1) };
        chain.tell_pool(&[]);
        chain
    }

    fn tell_pool(&self, included: &[(Address, B256)]) {
        let head = self.store.head();
        let base_fee = next_base_fee(head.header(), 1_000_000_000);
        self.mempool.on_block(&HeadUpdate { base_fee, gas_limit: 400_000_000, included, changed: &[] });
    }

    /// Builds, certifies and commits one block from the pool.
    pub fn produce(&self) -> Arc<CommittedBlock> {
        self.clock.advance_ms(250);
        let head = self.store.head();
        let section =
            ConsensusSection { time_ms: self.clock.now().0, parent_commit: None, checkpoint: None, epoch: None };
        let attributes = BlockAttributes { beneficiary: Address::repeat_byte(0xbe), section, extra_data: Bytes::new() };
        let base_fee = next_base_fee(head.header(), 1_000_000_000);
        let mut best = Best(self.mempool.best(base_fee, 400_000_000));
        let built = self.executor.build_block(&head, attributes, None, &mut best).unwrap();
        let certificate = self.certify(head.height() + 1, built.executed.hash);
        let block = self.store.commit(built.executed, Some(certificate)).unwrap();
        let hashes = block.block.transactions.iter().map(|tx| *tx.hash());
        let included: Vec<_> = block.senders.iter().copied().zip(hashes).collect();
        self.tell_pool(&included);
        block
    }

    fn certify(&self, height: u64, block_hash: B256) -> CommitCertificate {
        let place = VotePlace { height, round: 0, kind: VoteKind::Precommit };
        let genesis_hash = self.store.genesis_hash().unwrap().unwrap();
        let message = place.signing_hash(&genesis_hash, Some(&block_hash));
        let signature = Bytes::copy_from_slice(&self.vote.sign(message.as_slice()).unwrap());
        let signatures = vec![CommitSignature { validator: self.vote.address(), signature }];
        CommitCertificate { height, round: 0, block_hash, signatures }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    pub fn request(&self, method: &str, params: Value) -> Value {
        json!({ "jsonrpc": "2.0", "id": self.ids.fetch_add(1, Ordering::SeqCst), "method": method, "params": params })
    }

    /// Posts any JSON, gives back any JSON.
    pub async fn post(&self, body: &Value) -> Value {
        let response = self.http.post(self.url()).json(body).send().await.unwrap();
        response.json().await.unwrap()
    }

    /// The result of a call that must succeed.
    pub async fn ok(&self, method: &str, params: Value) -> Value {
        let answer = self.post(&self.request(method, params)).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// The code and the message of a call that must fail.
    pub async fn refused(&self, method: &str, params: Value) -> (i64, String) {
        let answer = self.post(&self.request(method, params)).await;
        assert!(answer.get("result").is_none(), "{method}: {answer}");
        (answer["error"]["code"].as_i64().unwrap(), answer["error"]["message"].as_str().unwrap().to_owned())
    }
}

pub fn sign(tx: TypedTransaction, key: &AccountKey) -> TxEnvelope {
    let bytes = key.sign_hash(tx.signature_hash());
    let signature = Signature::from_raw_array(&bytes).unwrap();
    tx.into_envelope(signature)
}

/// A dynamic-fee transaction of account `number`.
pub fn dynamic(number: u8, nonce: u64, to: TxKind, value: u64, input: &[u8]) -> TxEnvelope {
    let tx = TxEip1559 {
        chain_id: CHAIN,
        nonce,
        gas_limit: if input.is_empty() { 21_000 } else { 200_000 },
        max_fee_per_gas: 10 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to,
        value: U256::from(value),
        input: Bytes::copy_from_slice(input),
        ..TxEip1559::default()
    };
    sign(tx.into(), &key(number))
}

pub fn transfer(number: u8, nonce: u64) -> TxEnvelope {
    dynamic(number, nonce, TxKind::Call(Address::repeat_byte(0x99)), 1, &[])
}

pub fn legacy(number: u8, nonce: u64, gas_price: u128, chain_id: Option<u64>) -> TxEnvelope {
    let to = TxKind::Call(Address::repeat_byte(0x99));
    let tx =
        TxLegacy { chain_id, nonce, gas_price, gas_limit: 21_000, to, value: U256::from(1), ..TxLegacy::default() };
    sign(tx.into(), &key(number))
}

pub fn with_access_list(number: u8, nonce: u64) -> TxEnvelope {
    let item = AccessListItem { address: EMITTER, storage_keys: vec![B256::ZERO] };
    let tx = TxEip2930 {
        chain_id: CHAIN,
        nonce,
        gas_price: 10 * GWEI,
        gas_limit: 100_000,
        to: TxKind::Call(EMITTER),
        input: Bytes::from_static(&[1; 32]),
        access_list: AccessList(vec![item]),
        ..TxEip2930::default()
    };
    sign(tx.into(), &key(number))
}

pub fn raw(tx: &TxEnvelope) -> Value {
    json!(hex::encode_prefixed(tx.encoded_2718()))
}

/// A client over a real WebSocket.
pub struct Socket {
    sender: soketto::Sender<tokio_util::compat::Compat<tokio::net::TcpStream>>,
    receiver: soketto::Receiver<tokio_util::compat::Compat<tokio::net::TcpStream>>,
}

impl Socket {
    pub async fn connect(chain: &Chain) -> Self {
        use tokio_util::compat::TokioAsyncReadCompatExt;
        let host = chain.server.address().to_string();
        let stream = tokio::net::TcpStream::connect(&host).await.unwrap();
        let mut client = soketto::handshake::Client::new(stream.compat(), &host, "/");
        match client.handshake().await.unwrap() {
            soketto::handshake::ServerResponse::Accepted { .. } => {}
            other => panic!("no WebSocket: {other:?}"),
        }
        let (sender, receiver) = client.into_builder().finish();
        Self { sender, receiver }
    }

    pub async fn send(&mut self, request: &Value) {
        self.sender.send_text(request.to_string()).await.unwrap();
        self.sender.flush().await.unwrap();
    }

    pub async fn next(&mut self) -> Value {
        let mut text = Vec::new();
        let receiving = self.receiver.receive_data(&mut text);
        tokio::time::timeout(std::time::Duration::from_secs(60), receiving).await.unwrap().unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    pub async fn ask(&mut self, request: &Value) -> Value {
        self.send(request).await;
        self.next().await
    }
}
