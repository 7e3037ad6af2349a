//! Ethereum's GeneralStateTests through our own pieces: our sender recovery, our EVM settings, our state diff, our trie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_consensus::Transaction;
use alloy_eips::eip2718::Decodable2718;
use alloy_evm::eth::EthEvmContext;
use alloy_evm::{Database, Evm, EvmEnv, FromRecoveredTx};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use rayon::prelude::*;
use revm::bytecode::Bytecode;
use revm::context::{BlockEnv, TxEnv};
use revm::context_interface::JournalTr;
use revm::database::states::bundle_state::BundleRetention;
use revm::database::{CacheState, EmptyDB, State};
use revm::interpreter::{CreateInputs, CreateOutcome};
use revm::primitives::hardfork::SpecId;
use revm::state::AccountInfo;
use revm::{DatabaseCommit, Inspector};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use trellis_chain_execution::{cfg_env, chain_evm_with, recover_sender, state_diff};
use trellis_chain_storage::{Account, AccountDiff, StateDiff, state_root_of};
use trellis_primitives::TxEnvelope;

const SAMPLE: &[u8] = include_bytes!("../../../tests/data/state-tests-sample.tar.gz");

#[derive(Deserialize)]
struct Test {
    env: Env,
    pre: BTreeMap<Address, Pre>,
    post: BTreeMap<String, Vec<Post>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Env {
    current_base_fee: Option<U256>,
    current_coinbase: Address,
    current_difficulty: U256,
    current_excess_blob_gas: Option<U256>,
    current_gas_limit: U256,
    current_number: U256,
    current_random: Option<U256>,
    current_timestamp: U256,
}

#[derive(Deserialize, Clone)]
struct Pre {
    balance: U256,
    code: Bytes,
    nonce: U256,
    storage: BTreeMap<U256, U256>,
}

#[derive(Deserialize)]
struct Post {
    hash: B256,
    logs: B256,
    txbytes: Bytes,
    #[serde(rename = "expectException")]
    exception: Option<String>,
}

fn spec_of(fork: &str) -> SpecId {
    match fork {
        "Frontier" => SpecId::FRONTIER,
        "Homestead" => SpecId::HOMESTEAD,
        "EIP150" => SpecId::TANGERINE,
        "EIP158" => SpecId::SPURIOUS_DRAGON,
        "Byzantium" => SpecId::BYZANTIUM,
        "ConstantinopleFix" => SpecId::PETERSBURG,
        "Istanbul" => SpecId::ISTANBUL,
        "Berlin" => SpecId::BERLIN,
        "London" => SpecId::LONDON,
        "Paris" | "Merge" => SpecId::MERGE,
        "Shanghai" => SpecId::SHANGHAI,
        "Cancun" => SpecId::CANCUN,
        "Prague" => SpecId::PRAGUE,
        "Osaka" => SpecId::OSAKA,
        other => panic!("unknown fork {other}"),
    }
}

fn environment(env: &Env, spec: SpecId) -> EvmEnv {
    let mut cfg = cfg_env(spec, 1);
    if spec >= SpecId::CANCUN {
        cfg.set_max_blobs_per_tx(if spec >= SpecId::PRAGUE { 9 } else { 6 });
    }
    let mut block = BlockEnv {
        number: env.current_number,
        beneficiary: env.current_coinbase,
        timestamp: env.current_timestamp,
        gas_limit: env.current_gas_limit.saturating_to(),
        basefee: env.current_base_fee.unwrap_or_default().to(),
        difficulty: env.current_difficulty,
        prevrandao: (spec >= SpecId::MERGE).then(|| env.current_random.unwrap_or_default().into()),
        blob_excess_gas_and_price: None,
        slot_num: 0,
    };
    if spec >= SpecId::CANCUN {
        let excess = env.current_excess_blob_gas.unwrap_or_default().to();
        block.set_blob_excess_gas_and_price(excess, cfg.blob_base_fee_update_fraction());
    }
    EvmEnv { cfg_env: cfg, block_env: block }
}

fn pre_state(pre: &BTreeMap<Address, Pre>) -> CacheState {
    let mut cache = CacheState::new();
    for (address, account) in pre {
        let code = Bytecode::new_raw(account.code.clone());
        let info = AccountInfo {
            balance: account.balance,
            nonce: account.nonce.to(),
            code_hash: keccak256(&account.code),
            code: Some(code),
            ..AccountInfo::default()
        };
        cache.insert_account_with_storage(*address, info, account.storage.clone().into_iter().collect());
    }
    cache
}

/// Accounts with storage, but with neither code nor nonce. Some cases have them; on the chain they cannot exist, because
/// the genesis refuses them, so the chain's EVM does not look for them. Creating a contract there must fail (EIP-7610).
fn hollow_accounts(pre: &BTreeMap<Address, Pre>) -> BTreeSet<Address> {
    pre.iter()
        .filter(|(_, account)| account.nonce.is_zero() && account.code.is_empty() && !account.storage.is_empty())
        .map(|(address, _)| *address)
        .collect()
}

/// Gives a hollow account a nonce while a contract is being made there, which is what makes the EVM see the collision.
struct Collisions {
    hollow: BTreeSet<Address>,
    raised: Vec<Option<Address>>,
}

impl<DB: Database> Inspector<EthEvmContext<DB>> for Collisions {
    fn create(&mut self, context: &mut EthEvmContext<DB>, inputs: &mut CreateInputs) -> Option<CreateOutcome> {
        let journal = &mut context.journaled_state;
        let nonce = journal.load_account(inputs.caller()).ok()?.data.info.nonce;
        let address = Some(inputs.created_address(nonce)).filter(|address| self.hollow.contains(address));
        if let Some(address) = address {
            journal.load_account(address).ok()?;
            journal.inner.state.get_mut(&address)?.info.nonce = 1;
        }
        self.raised.push(address);
        None
    }

    fn create_end(&mut self, context: &mut EthEvmContext<DB>, _: &CreateInputs, _: &mut CreateOutcome) {
        if let Some(Some(address)) = self.raised.pop()
            && let Some(account) = context.journaled_state.inner.state.get_mut(&address)
        {
            account.info.nonce = 0;
        }
    }
}

/// The root of the state before with the changes put over it.
fn root_after(pre: &BTreeMap<Address, Pre>, changes: StateDiff) -> B256 {
    let mut world: BTreeMap<Address, (Account, BTreeMap<U256, U256>)> = pre
        .iter()
        .map(|(address, pre)| {
            let account = Account { nonce: pre.nonce.to(), balance: pre.balance, code_hash: keccak256(&pre.code) };
            (*address, (account, pre.storage.clone()))
        })
        .collect();
    for change in changes.accounts {
        match change.account {
            None => drop(world.remove(&change.address)),
            Some(account) => {
                let entry = world.entry(change.address).or_default();
                entry.0 = account;
                if change.wiped {
                    entry.1.clear();
                }
                entry.1.extend(change.storage);
            }
        }
    }
    let accounts = world
        .into_iter()
        .map(|(address, (account, storage))| AccountDiff {
            address,
            account: Some(account),
            wiped: false,
            storage: storage.into_iter().filter(|(_, value)| !value.is_zero()).collect(),
        })
        .collect();
    state_root_of(&StateDiff { accounts, codes: Vec::new() })
}

fn run(test: &Test, spec: SpecId, post: &Post) -> Result<(), String> {
    let outcome = execute(test, spec, &post.txbytes);
    match (&post.exception, outcome) {
        (Some(_), Err(_)) => Ok(()),
        (Some(expected), Ok(_)) => Err(format!("succeeded instead of {expected}")),
        (None, Err(error)) => Err(error),
        (None, Ok((root, logs))) if root == post.hash && logs == post.logs => Ok(()),
        (None, Ok((root, logs))) => Err(format!("root {root} logs {logs}, expected {} {}", post.hash, post.logs)),
    }
}

fn execute(test: &Test, spec: SpecId, txbytes: &Bytes) -> Result<(B256, B256), String> {
    let tx = TxEnvelope::decode_2718(&mut txbytes.as_ref()).map_err(|error| error.to_string())?;
    let sender = recover_sender(&tx).map_err(|error| error.to_string())?;
    let db = State::builder()
        .with_database(EmptyDB::new())
        .with_cached_prestate(pre_state(&test.pre))
        .with_bundle_update()
        .build();
    let env = environment(&test.env, spec);
    if tx.gas_limit() > env.block_env.gas_limit {
        return Err("gas limit over the block's".to_owned());
    }
    let collisions = Collisions { hollow: hollow_accounts(&test.pre), raised: Vec::new() };
    let looks = !collisions.hollow.is_empty();
    let mut evm = chain_evm_with(db, env, None, collisions);
    evm.set_inspector_enabled(looks);
    let outcome = evm.transact_raw(TxEnv::from_recovered_tx(&tx, sender)).map_err(|error| error.to_string())?;
    let logs = keccak256(alloy_rlp::encode(outcome.result.into_logs()));
    evm.db_mut().commit(outcome.state);
    let mut db = evm.into_db();
    db.merge_transitions(BundleRetention::PlainState);
    Ok((root_after(&test.pre, state_diff(db.take_bundle())), logs))
}

fn files() -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(SAMPLE));
    archive
        .entries()
        .unwrap()
        .filter_map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            path.ends_with(".json").then(|| {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (path, bytes)
            })
        })
        .collect()
}

// row: CHN-20
#[test]
fn every_case_of_the_general_state_tests_sample_passes_in_every_fork_it_claims() {
    let outcomes: Vec<Result<(), String>> = files()
        .par_iter()
        .flat_map_iter(|(path, bytes)| {
            let tests: BTreeMap<String, Test> = serde_json::from_slice(bytes).unwrap();
            let mut outcomes = Vec::new();
            for (name, test) in &tests {
                for (fork, posts) in &test.post {
                    for (index, post) in posts.iter().enumerate() {
                        let outcome = run(test, spec_of(fork), post);
                        outcomes.push(outcome.map_err(|error| format!("{path} {name} {fork} {index}: {error}")));
                    }
                }
            }
            outcomes
        })
        .collect();
    let failures: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(failures.is_empty(), "{} of {} cases fail: {failures:#?}", failures.len(), outcomes.len());
    // The sample's size is pinned, so that an archive that unpacks to nothing cannot pass.
    assert_eq!(outcomes.len(), 3_175);
}
