//! A chain of ours in memory, and what a block comes to on it.

use crate::oracle::{Outcome, Verdict};
use crate::transactions::{BASE_FEE_FLOOR_WEI, BENEFICIARY, CHAIN_ID};
use alloy_consensus::TxReceipt;
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, bytes};
use serde_json::{Value, json};
use trellis_chain_execution::{
    BlockAttributes, BuiltBlock, ExecutionConfig, Executor, GenesisInput, genesis, recover_batch,
};
use trellis_chain_storage::Store;
use trellis_primitives::{Block, ConsensusSection, RecoveredTx, TxEnvelope};

pub struct Ours {
    store: Store,
    executor: Executor,
    /// Another node's, which has nothing of the first in its caches.
    checker: Executor,
}

/// What a block is given to run on, apart from its transactions.
#[derive(Clone)]
pub struct Surroundings(BlockAttributes);

impl Ours {
    pub fn new(input: &GenesisInput) -> Self {
        let zero = genesis(input).expect("a genesis without steps");
        let config = ExecutionConfig {
            chain_id: CHAIN_ID,
            gas_limit: input.gas_limit,
            base_fee_floor_wei: BASE_FEE_FLOOR_WEI,
            // With the chain's own precompiled contracts, as every real chain has them.
            genesis_hash: Some(zero.hash()),
        };
        let store = Store::in_memory(&zero).expect("a store");
        Self { store, executor: Executor::new(config.clone()), checker: Executor::new(config) }
    }

    pub fn head(&self) -> (B256, B256) {
        let head = self.store.head();
        (head.header().state_root, head.block_hash())
    }

    pub fn nonce(&self, address: Address) -> u64 {
        self.store.head().account(address).unwrap_or_default().nonce
    }

    pub fn next_base_fee(&self) -> u64 {
        self.executor.next_base_fee(self.store.head().header()).expect("there is a base fee")
    }

    /// The next block so many milliseconds after the last one.
    pub fn next(&self, time_ms: u64) -> Surroundings {
        let section = ConsensusSection { time_ms, parent_commit: None, checkpoint: None, epoch: None };
        Surroundings(BlockAttributes { beneficiary: BENEFICIARY, section, extra_data: bytes!("7472656c6c6973") })
    }

    /// The block as these candidates make it; nothing is kept.
    pub fn build(&self, around: &Surroundings, candidates: &[TxEnvelope]) -> (BuiltBlock, Verdict) {
        let recovered = recover_batch(candidates.to_vec()).into_iter().filter_map(Result::ok);
        let recovered: Vec<RecoveredTx> = recovered.collect();
        let head = self.store.head();
        let built =
            self.executor.build_block(&head, around.0.clone(), None, &mut recovered.into_iter()).expect("it is built");
        let verdict = verdict(&built, candidates);
        (built, verdict)
    }

    /// Lets another node check the block's own bytes, and goes on from it.
    pub fn keep(&self, built: BuiltBlock) -> Result<(), String> {
        let head = self.store.head();
        let block = Block::from_rlp(&built.executed.block.to_rlp()).map_err(|error| error.to_string())?;
        let senders = self.checker.recover_senders(&block, &|_| None).map_err(|error| error.to_string())?;
        let checked = self.checker.execute_block(&head, block, senders, None).map_err(|error| error.to_string())?;
        if checked.hash != built.executed.hash || checked.receipts != built.executed.receipts {
            return Err("the block that was built and the block that was checked differ".to_owned());
        }
        self.store.commit(checked, None).map_err(|error| error.to_string())?;
        Ok(())
    }
}

impl Surroundings {
    /// The same in the other implementation's words.
    pub fn asked(&self, candidates: &[TxEnvelope]) -> Value {
        let attributes = &self.0;
        let raw: Vec<Bytes> = candidates.iter().map(|tx| tx.encoded_2718().into()).collect();
        json!({ "block": {
            "beneficiary": attributes.beneficiary,
            "extra_data": attributes.extra_data,
            "timestamp": attributes.section.time_ms / 1_000,
            "section_root": attributes.section.root(),
            "transactions": raw,
        }})
    }
}

/// Block zero in the other implementation's words.
pub fn genesis_asked(input: &GenesisInput) -> Value {
    let zero = genesis(input).expect("a genesis without steps");
    let accounts = zero.state.accounts.iter().filter_map(|diff| {
        let account = diff.account?;
        let code = zero.state.codes.iter().find(|(hash, _)| *hash == account.code_hash);
        let slots = diff.storage.iter();
        Some(json!({
            "address": diff.address,
            "nonce": account.nonce,
            "balance": account.balance,
            "code": code.map(|(_, code)| code.clone()).unwrap_or_default(),
            "storage": slots.map(|(slot, value)| json!([B256::from(*slot), value])).collect::<Vec<_>>(),
        }))
    });
    json!({ "genesis": {
        "chain_id": input.chain_id,
        "base_fee_floor": BASE_FEE_FLOOR_WEI,
        "base_fee": input.base_fee_wei,
        "gas_limit": input.gas_limit,
        "timestamp": input.timestamp_ms / 1_000,
        "alloc": accounts.collect::<Vec<_>>(),
    }})
}

fn verdict(built: &BuiltBlock, candidates: &[TxEnvelope]) -> Verdict {
    let block = &built.executed.block;
    let header = &block.header;
    // Those in the block are in the order in which they were handed out.
    let mut included = block.transactions.iter().zip(&built.executed.receipts).peekable();
    let outcomes = candidates
        .iter()
        .map(|candidate| match included.next_if(|(tx, _)| tx.tx_hash() == candidate.tx_hash()) {
            Some((_, receipt)) => Outcome::Receipt(receipt.with_bloom_ref().encoded_2718().into()),
            None => {
                let skipped = built.skipped.iter().find(|skipped| skipped.hash == *candidate.tx_hash());
                let reason =
                    skipped.map(|skipped| skipped.invalid.clone().unwrap_or_else(|| "does not fit".to_owned()));
                Outcome::Refused(reason.unwrap_or_else(|| "no sender, or the block was full".to_owned()))
            }
        })
        .collect();
    Verdict {
        outcomes,
        state_root: header.state_root,
        transactions_root: header.transactions_root,
        receipts_root: header.receipts_root,
        logs_bloom: header.logs_bloom,
        gas_used: header.gas_used,
        base_fee: header.base_fee_per_gas.unwrap_or_default(),
        hash: built.executed.hash,
    }
}
