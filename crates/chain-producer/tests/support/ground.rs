//! The ground of these tests: a chain of one validator without consensus.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, bytes};
use std::path::Path;
use std::sync::Arc;
use trellis_chain_consensus::{AppError, Application, DecidedBlock, ProposedBlock, Verdict};
use trellis_chain_execution::{ExecutionConfig, Executor, GenesisAccount, GenesisInput, genesis, recover_sender};
use trellis_chain_finality::{Validator, ValidatorSet, VoteKind, VotePlace};
use trellis_chain_mempool::{Mempool, PoolConfig};
use trellis_chain_producer::{CLOCK_AHEAD_MS_MAX, CheckpointSetup, EpochRules, HeadAccounts, Producer, ProducerConfig};
use trellis_chain_storage::{Genesis, Store, StoreConfig};
use trellis_crypto::account::AccountKey;
use trellis_crypto::vote::VoteKey;
use trellis_primitives::{
    Block, CommitCertificate, CommitSignature, ManualClock, RecoveredTx, SharedClock, TxEnvelope, UnixMs,
};

pub const CHAIN_ID: u64 = 97_001;
pub const GWEI: u128 = 1_000_000_000;
pub const GENESIS_MS: u64 = 1_700_000_000_000;
pub const MINER: Address = Address::repeat_byte(0xfe);

/// Accounts whose funds do not end.
pub const RICH: std::ops::RangeInclusive<u8> = 21..=30;

pub fn vote_key() -> VoteKey {
    VoteKey::from_seed(&[7; 32])
}

pub fn key(n: u8) -> AccountKey {
    AccountKey::from_bytes(&[n; 32]).unwrap()
}

pub fn chain_genesis() -> Genesis {
    let alloc = (1..=20)
        .map(|n| GenesisAccount {
            address: key(n).address(),
            balance: U256::from(1_000_000_000 * GWEI),
            ..GenesisAccount::default()
        })
        // Those of long chains, who have the fees of all of it.
        .chain(RICH.map(|n| GenesisAccount {
            address: key(n).address(),
            balance: U256::from(1_000_000_000_000_000 * GWEI),
            ..GenesisAccount::default()
        }))
        .collect();
    genesis(&GenesisInput {
        chain_id: CHAIN_ID,
        timestamp_ms: GENESIS_MS,
        gas_limit: 30_000_000,
        base_fee_wei: GWEI as u64,
        alloc,
        ..GenesisInput::default()
    })
    .unwrap()
}

pub fn transfer(n: u8, nonce: u64) -> RecoveredTx {
    let tx = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 10 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to: TxKind::Call(Address::repeat_byte(0x77)),
        value: U256::from(5),
        ..TxEip1559::default()
    };
    let signature = Signature::from_raw(&key(n).sign_hash(tx.signature_hash())).unwrap();
    let tx: TxEnvelope = tx.into_signed(signature).into();
    let sender = recover_sender(&tx).unwrap();
    RecoveredTx::new(tx, sender)
}

/// The one validator.
pub fn committee() -> ValidatorSet {
    let public = vote_key().public();
    ValidatorSet::new(vec![Validator::new(public, 1, Address::with_last_byte(1))]).unwrap()
}

pub struct Node {
    pub producer: Producer,
    pub mempool: Mempool,
    pub clock: Arc<ManualClock>,
}

pub fn node_on(store: Store) -> Node {
    node_with(store, committee(), CheckpointSetup::default())
}

/// A node of a chain that this committee decides for ever.
pub fn node_of(store: Store, committee: ValidatorSet) -> Node {
    node_with(store, committee, CheckpointSetup::default())
}

/// A node of a chain that this committee decides for ever, with checkpoints.
pub fn node_with(store: Store, committee: ValidatorSet, checkpoints: CheckpointSetup) -> Node {
    let clock = Arc::new(ManualClock::new(UnixMs(GENESIS_MS + 1_000)));
    let shared: SharedClock = clock.clone();
    let mempool = Mempool::new(PoolConfig::new(CHAIN_ID), Arc::new(HeadAccounts(store.clone())), shared.clone());
    let executor = Executor::new(ExecutionConfig {
        chain_id: CHAIN_ID,
        gas_limit: 30_000_000,
        base_fee_floor_wei: GWEI as u64,
        genesis_hash: None,
    });
    let config = ProducerConfig {
        beneficiary: MINER,
        extra_data: bytes!("74"),
        epochs: EpochRules { genesis: committee, staking: None, epoch_blocks: 60, seats: 100, checkpoints },
        clock_ahead_ms_max: CLOCK_AHEAD_MS_MAX,
    };
    let producer = Producer::start(store, executor, mempool.clone(), config, shared).unwrap();
    Node { producer, mempool, clock }
}

pub fn node() -> Node {
    node_on(Store::in_memory(&chain_genesis()).unwrap())
}

pub fn node_in(folder: &Path) -> Node {
    node_on(Store::open(folder, &chain_genesis(), StoreConfig::default()).unwrap())
}

/// The folder again, as soon as the thread that did the last job lets go of it.
pub fn reopened(folder: &Path) -> Node {
    let mut store = Store::open(folder, &chain_genesis(), StoreConfig::default());
    for _ in 0..6_000 {
        if store.is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        store = Store::open(folder, &chain_genesis(), StoreConfig::default());
    }
    node_on(store.unwrap())
}

pub fn certify(height: u64, round: u32, block_hash: B256) -> CommitCertificate {
    let place = VotePlace { height, round, kind: VoteKind::Precommit };
    let message = place.signing_hash(&chain_genesis().hash(), Some(&block_hash));
    let signature = vote_key().sign(message.as_slice()).unwrap().into();
    CommitCertificate {
        height,
        round,
        block_hash,
        signatures: vec![CommitSignature { validator: vote_key().address(), signature }],
    }
}

impl Node {
    pub async fn propose(&self) -> ProposedBlock {
        let tip = self.producer.tip().await.unwrap();
        self.clock.advance_ms(250);
        let deadline = self.now().plus_ms(700);
        self.producer.propose(tip.height + 1, 0, tip.certificate, deadline).await.unwrap()
    }

    /// The nonce of an account's next transfer, where none of it waits.
    pub fn nonce(&self, n: u8) -> u64 {
        self.producer.store().head().account(key(n).address()).unwrap_or_default().nonce
    }

    pub fn now(&self) -> UnixMs {
        trellis_primitives::Clock::now(&*self.clock)
    }

    pub async fn commit(&self, block: &ProposedBlock) -> Result<(), AppError> {
        let height = Block::from_rlp(&block.block_rlp).unwrap().header.number;
        let certificate = certify(height, 0, block.block_hash);
        self.producer.commit(DecidedBlock { certificate, block_rlp: block.block_rlp.clone() }).await
    }

    pub async fn step(&self) -> ProposedBlock {
        let block = self.propose().await;
        self.commit(&block).await.unwrap();
        block
    }

    pub async fn verdict(&self, block_rlp: Bytes) -> Verdict {
        let height = self.producer.tip().await.unwrap().height + 1;
        self.producer.verify(height, block_rlp).await.unwrap()
    }

    pub async fn refusal(&self, block: &Block) -> String {
        match self.verdict(block.to_rlp()).await {
            Verdict::Invalid { reason } => reason,
            Verdict::Valid { .. } => panic!("the block was found valid"),
        }
    }
}
