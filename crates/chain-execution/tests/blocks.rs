//! Blocks, calls and the genesis from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_consensus::{
    SignableTransaction, TxEip1559, TxEip2930, TxEip4844, TxEip4844Variant, TxEip7702, TxLegacy, TxReceipt,
};
use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_eips::eip7702::Authorization;
use alloy_primitives::{Address, B256, Bloom, Bytes, Signature, TxKind, U256, address, b256, bytes};
use alloy_rpc_types::state::{AccountOverride, StateOverride};
use alloy_rpc_types::{BlockOverrides, TransactionRequest};
use alloy_trie::TrieAccount;
use std::collections::BTreeMap;
use trellis_chain_execution::{
    BlockAttributes, BlockError, BuiltBlock, CallError, ExecutionConfig, Executor, GenesisAccount, GenesisError,
    GenesisInput, GenesisStep, Overrides, RecoverError, genesis, next_base_fee, pinned_alloc, recover_batch,
    recover_sender,
};
use trellis_chain_storage::{Genesis, Store};
use trellis_crypto::account::AccountKey;
use trellis_primitives::{Block, ConsensusSection, Header, RecoveredTx, TxEnvelope};

const CHAIN_ID: u64 = 97_001;
const GWEI: u128 = 1_000_000_000;
const ETHER: u128 = 1_000_000_000_000_000_000;
const MINER: Address = address!("00000000000000000000000000000000000000fe");
/// Counts in slot 0 and emits it with topic 0x42; with call data it reverts with 0xaa.
const COUNTER: Bytes =
    bytes!("6028600c60003960286000f336601d5760005460010180600055600052604260206000a160206000f35b60aa60005260206000fd");

fn key(n: u8) -> AccountKey {
    AccountKey::from_bytes(&[n; 32]).unwrap()
}

fn sender(n: u8) -> Address {
    key(n).address()
}

fn signed<T: SignableTransaction<Signature>>(n: u8, tx: T) -> TxEnvelope
where
    TxEnvelope: From<alloy_consensus::Signed<T>>,
{
    let signature = Signature::from_raw(&key(n).sign_hash(tx.signature_hash())).unwrap();
    tx.into_signed(signature).into()
}

fn eip1559(n: u8, nonce: u64, to: TxKind, value: u128, input: Bytes) -> TxEnvelope {
    let tx = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: if input.is_empty() && to != TxKind::Call(counter()) { 21_000 } else { 300_000 },
        max_fee_per_gas: 10 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to,
        value: U256::from(value),
        input,
        ..TxEip1559::default()
    };
    signed(n, tx)
}

fn transfer(n: u8, nonce: u64, to: Address, value: u128) -> TxEnvelope {
    eip1559(n, nonce, TxKind::Call(to), value, Bytes::new())
}

fn input() -> GenesisInput {
    GenesisInput {
        chain_id: CHAIN_ID,
        timestamp_ms: 1_700_000_000_123,
        gas_limit: 30_000_000,
        base_fee_wei: GWEI as u64,
        extra_data: bytes!("01020304"),
        alloc: (1..=9)
            .map(|n| GenesisAccount {
                address: sender(n),
                balance: U256::from(1_000 * ETHER),
                ..GenesisAccount::default()
            })
            .collect(),
        steps: vec![GenesisStep {
            name: "counter".to_owned(),
            from: sender(9),
            input: COUNTER,
            expected_address: Some(sender(9).create(0)),
            ..GenesisStep::default()
        }],
    }
}

fn counter() -> Address {
    sender(9).create(0)
}

struct Chain {
    store: Store,
    executor: Executor,
}

fn chain() -> Chain {
    let executor = Executor::new(ExecutionConfig {
        chain_id: CHAIN_ID,
        gas_limit: 30_000_000,
        base_fee_floor_wei: GWEI as u64,
        genesis_hash: None,
    });
    Chain { store: Store::in_memory(&genesis(&input()).unwrap()).unwrap(), executor }
}

impl Chain {
    fn attributes(&self) -> BlockAttributes {
        let time_ms = 1_700_000_001_000 + 250 * self.store.height();
        let section = ConsensusSection { time_ms, parent_commit: None, checkpoint: None, epoch: None };
        BlockAttributes { beneficiary: MINER, section, extra_data: bytes!("aa") }
    }

    fn build(&self, txs: Vec<TxEnvelope>) -> BuiltBlock {
        let recovered: Vec<RecoveredTx> = recover_batch(txs).into_iter().map(Result::unwrap).collect();
        self.executor.build_block(&self.store.head(), self.attributes(), None, &mut recovered.into_iter()).unwrap()
    }

    /// Builds, has another executor check the block's own bytes, and commits.
    fn extend(&self, txs: Vec<TxEnvelope>) -> BuiltBlock {
        let built = self.build(txs);
        let other = Executor::new(self.executor.config().clone());
        let block = Block::from_rlp(&built.executed.block.to_rlp()).unwrap();
        let senders = other.recover_senders(&block, &|_| None).unwrap();
        let checked = other.execute_block(&self.store.head(), block, senders, None).unwrap();
        assert_eq!(checked.hash, built.executed.hash);
        assert_eq!(checked.receipts, built.executed.receipts);
        assert_eq!(checked.transition.diff(), built.executed.transition.diff());
        self.store.commit(checked, None).unwrap();
        built
    }

    fn balance(&self, address: Address) -> U256 {
        self.store.head().account(address).unwrap_or_default().balance
    }

    fn check(&self, block: Block) -> BlockError {
        let senders = match self.executor.recover_senders(&block, &|_| None) {
            Ok(senders) => senders,
            Err(error) => return error,
        };
        self.executor.execute_block(&self.store.head(), block, senders, None).unwrap_err()
    }

    fn call(&self, request: &TransactionRequest, overrides: &Overrides) -> Result<Bytes, CallError> {
        let head = self.store.head();
        self.executor.call(&head, head.header(), request, overrides).map(|output| output.output)
    }
}

/// The state root by alloy's reference builder.
fn reference_root(genesis: &Genesis) -> B256 {
    let accounts: BTreeMap<Address, TrieAccount> = genesis
        .state
        .accounts
        .iter()
        .map(|diff| {
            let account = diff.account.unwrap();
            let slots = diff.storage.iter().map(|(k, v)| (B256::from(*k), *v));
            let leaf = TrieAccount {
                nonce: account.nonce,
                balance: account.balance,
                storage_root: alloy_trie::root::storage_root_unhashed(slots),
                code_hash: account.code_hash,
            };
            (diff.address, leaf)
        })
        .collect();
    alloy_trie::root::state_root_unhashed(accounts)
}

// row: CHN-20
#[test]
fn the_genesis_is_executed_and_its_root_is_the_one_of_the_reference_builder() {
    let made = genesis(&input()).unwrap();
    assert_eq!(made.hash(), genesis(&input()).unwrap().hash());
    assert_eq!(made.block.header.state_root, reference_root(&made));
    assert_eq!((made.block.header.number, made.block.header.timestamp), (0, 1_700_000_000));
    let pinned = GenesisInput { alloc: pinned_alloc(&made.state), steps: Vec::new(), ..input() };
    assert_eq!(genesis(&pinned).unwrap().hash(), made.hash());
    let chain = chain();
    let head = chain.store.head();
    let account = head.account(counter()).unwrap();
    assert_eq!(head.code(account.code_hash).unwrap().unwrap(), COUNTER.slice(12..));
    assert_eq!(head.account(sender(9)).unwrap().nonce, 1);
    let other = GenesisInput { extra_data: bytes!("05"), ..input() };
    assert_ne!(genesis(&other).unwrap().hash(), made.hash());
}

#[test]
fn a_genesis_step_that_fails_or_lands_elsewhere_is_refused_by_name() {
    let mut wrong = input();
    wrong.steps[0].expected_address = Some(Address::repeat_byte(1));
    assert!(matches!(genesis(&wrong), Err(GenesisError::Address { index: 0, .. })));
    let mut reverting = input();
    reverting.steps.push(GenesisStep {
        name: "count".to_owned(),
        from: sender(9),
        to: Some(counter()),
        input: bytes!("01"),
        ..GenesisStep::default()
    });
    let error = genesis(&reverting).unwrap_err();
    assert!(matches!(&error, GenesisError::Step { index: 1, name, .. } if name == "count"), "{error}");
    let mut hollow = input();
    hollow.alloc[0].storage = vec![(U256::ZERO, U256::from(1))];
    assert!(matches!(genesis(&hollow), Err(GenesisError::StorageWithoutCode(_))));
    let mut twice = input();
    twice.alloc.push(twice.alloc[0].clone());
    assert!(matches!(genesis(&twice), Err(GenesisError::Twice(_))));
    assert!(matches!(
        genesis(&GenesisInput { extra_data: vec![0; 33].into(), ..input() }),
        Err(GenesisError::ExtraData { found: 33, .. })
    ));
}

// row: CHN-20
#[test]
fn transfers_deployments_and_logs_are_executed_and_the_fees_go_where_they_should() {
    let chain = chain();
    let to = Address::repeat_byte(0x77);
    let built = chain.extend(vec![
        transfer(1, 0, to, ETHER),
        eip1559(2, 0, TxKind::Create, 0, COUNTER),
        eip1559(3, 0, TxKind::Call(counter()), 0, Bytes::new()),
        eip1559(3, 1, TxKind::Call(counter()), 0, bytes!("01")),
        eip1559(3, 2, TxKind::Call(counter()), 0, Bytes::new()),
    ]);
    let block = &built.executed.block;
    let receipts = &built.executed.receipts;
    assert_eq!(block.transactions.len(), 5);
    assert_eq!(receipts.iter().map(|r| r.success).collect::<Vec<_>>(), [true, true, true, false, true]);
    assert_eq!(receipts[0].cumulative_gas_used, 21_000);
    assert_eq!(block.header.gas_used, receipts[4].cumulative_gas_used);
    assert_eq!(receipts[4].logs.len(), 1);
    assert_eq!(receipts[4].logs[0].address, counter());
    assert_eq!(receipts[4].logs[0].data.data, Bytes::from(U256::from(2).to_be_bytes::<32>()));
    assert_eq!(block.header.logs_bloom, receipts[2].bloom());
    assert_ne!(block.header.logs_bloom, Bloom::ZERO);
    assert_eq!(chain.store.head().storage(counter(), U256::ZERO), U256::from(2));
    assert!(chain.store.head().account(sender(2).create(0)).is_some());

    let base_fee = u128::from(block.header.base_fee_per_gas.unwrap());
    assert_eq!(chain.balance(to), U256::from(ETHER));
    assert_eq!(chain.balance(MINER), U256::from(u128::from(block.header.gas_used) * GWEI));
    // The base fee is burned, the tip is the miner's.
    let paid = ETHER + 21_000 * (base_fee + GWEI);
    assert_eq!(chain.balance(sender(1)), U256::from(1_000 * ETHER - paid));
}

// row: CHN-20
#[test]
fn every_transaction_type_but_blobs_is_executed() {
    let chain = chain();
    let to = TxKind::Call(Address::repeat_byte(0x77));
    let value = U256::from(7);
    let legacy = |chain_id, nonce| {
        let gas_price = 2 * GWEI;
        signed(1, TxLegacy { chain_id, nonce, gas_price, gas_limit: 21_000, to, value, ..TxLegacy::default() })
    };
    let access_list = AccessList(vec![AccessListItem { address: counter(), storage_keys: vec![B256::ZERO] }]);
    let eip2930 = TxEip2930 {
        chain_id: CHAIN_ID,
        gas_price: 2 * GWEI,
        gas_limit: 40_000,
        to,
        value,
        access_list,
        ..TxEip2930::default()
    };
    let authorization = Authorization { chain_id: U256::from(CHAIN_ID), address: counter(), nonce: 0 };
    let authority = Signature::from_raw(&key(5).sign_hash(authorization.signature_hash())).unwrap();
    let eip7702 = TxEip7702 {
        chain_id: CHAIN_ID,
        gas_limit: 200_000,
        max_fee_per_gas: 10 * GWEI,
        max_priority_fee_per_gas: GWEI,
        to: sender(5),
        authorization_list: vec![authorization.into_signed(authority)],
        ..TxEip7702::default()
    };
    let built = chain.extend(vec![
        legacy(Some(CHAIN_ID), 0),
        legacy(None, 1),
        signed(2, eip2930),
        transfer(3, 0, Address::repeat_byte(0x77), 7),
        signed(4, eip7702),
    ]);
    assert_eq!(built.executed.block.transactions.len(), 5);
    assert!(built.executed.receipts.iter().all(|receipt| receipt.success));
    assert_eq!(chain.balance(Address::repeat_byte(0x77)), U256::from(28));
    // The delegated account ran the counter's code on its own storage.
    let head = chain.store.head();
    assert_eq!(head.storage(sender(5), U256::ZERO), U256::from(1));
    let code = head.code(head.account(sender(5)).unwrap().code_hash).unwrap().unwrap();
    assert_eq!(code, [&[0xef, 0x01, 0x00], counter().as_slice()].concat());

    let blob = TxEip4844 {
        chain_id: CHAIN_ID,
        nonce: 2,
        gas_limit: 21_000,
        max_fee_per_gas: 10 * GWEI,
        max_fee_per_blob_gas: GWEI,
        blob_versioned_hashes: vec![B256::repeat_byte(1)],
        ..TxEip4844::default()
    };
    let blob: TxEnvelope = signed::<TxEip4844Variant>(1, blob.into());
    let built = chain.build(vec![blob]);
    assert!(built.skipped[0].invalid.as_ref().unwrap().contains("blob"));
}

#[test]
fn candidates_that_cannot_run_are_left_out_with_the_reason() {
    let chain = chain();
    let poor = AccountKey::from_bytes(&[99; 32]).unwrap();
    let too_much_gas = TxEip1559 {
        chain_id: CHAIN_ID,
        gas_limit: 16_777_217,
        max_fee_per_gas: 10 * GWEI,
        to: TxKind::Call(MINER),
        ..TxEip1559::default()
    };
    let other_chain = TxEip1559 { chain_id: 1, gas_limit: 21_000, max_fee_per_gas: 10 * GWEI, ..too_much_gas.clone() };
    let cheap = TxEip1559 { chain_id: CHAIN_ID, gas_limit: 21_000, max_fee_per_gas: 1, ..too_much_gas.clone() };
    assert_eq!(poor.address(), sender(99));
    let built = chain.build(vec![
        transfer(1, 1, MINER, 1),
        transfer(99, 0, MINER, 1),
        signed(2, too_much_gas),
        signed(3, other_chain),
        signed(4, cheap),
        transfer(5, 0, MINER, 1),
    ]);
    assert_eq!(built.executed.block.transactions.len(), 1);
    let reasons: Vec<String> = built.skipped.into_iter().map(|s| s.invalid.unwrap()).collect();
    for (reason, word) in reasons.iter().zip(["nonce", "fund", "gas limit", "chain", "base"]) {
        assert!(reason.to_lowercase().contains(word), "{word}: {reason}");
    }
}

#[test]
fn a_full_block_ends_at_the_gas_limit() {
    let chain = chain();
    let txs = (0..1_500).map(|nonce| transfer(1, nonce, Address::repeat_byte(0x77), 1)).collect();
    let built = chain.extend(txs);
    assert_eq!(built.executed.block.transactions.len(), 30_000_000 / 21_000);
    // A full block makes the next one dearer, an empty one cheaper, and the floor holds.
    let first = u128::from(built.executed.block.header.base_fee_per_gas.unwrap());
    let second = chain.extend(vec![]).executed.block.header.base_fee_per_gas.unwrap();
    assert!(u128::from(second) > first);
    assert_eq!(
        (chain.extend(vec![]), chain.extend(vec![])).1.executed.block.header.base_fee_per_gas,
        Some(GWEI as u64)
    );
}

#[test]
fn the_base_fee_follows_eip_1559_with_a_floor() {
    let parent = |gas_used, base_fee| Header {
        gas_limit: 30_000_000,
        gas_used,
        base_fee_per_gas: Some(base_fee),
        ..Header::default()
    };
    assert_eq!(next_base_fee(&parent(30_000_000, 8_000_000_000), 1), 9_000_000_000);
    assert_eq!(next_base_fee(&parent(15_000_000, 8_000_000_000), 1), 8_000_000_000);
    assert_eq!(next_base_fee(&parent(0, 8_000_000_000), 1), 7_000_000_000);
    assert_eq!(next_base_fee(&parent(0, 1_000_000_000), 1_000_000_000), 1_000_000_000);
}

#[test]
fn contracts_see_parent_hashes_and_section_roots_as_on_mainnet() {
    let chain = chain();
    let first = chain.extend(vec![]).executed;
    let second = chain.extend(vec![]).executed;
    let word = |n: u64| Bytes::from(U256::from(n).to_be_bytes::<32>());
    let ask = |to: Address, data: Bytes| {
        let request = TransactionRequest { to: Some(to.into()), input: data.into(), ..Default::default() };
        chain.call(&request, &Overrides::default())
    };
    let history = address!("0000F90827F1C53a10cb7A02335B175320002935");
    let roots = address!("000F3df6D732807Ef1319fB7B8bB8522d0Beac02");
    assert_eq!(ask(history, word(0)).unwrap(), Bytes::from(chain.store.genesis_hash().unwrap().unwrap()));
    assert_eq!(ask(history, word(1)).unwrap(), Bytes::from(first.hash));
    let stored = ask(roots, word(second.block.header.timestamp)).unwrap();
    assert_eq!(stored, Bytes::from(second.block.section.root()));
}

// row: CHN-20
#[test]
fn every_field_of_a_header_that_is_not_what_the_rules_make_it_is_refused_by_name() {
    let chain = chain();
    chain.extend(vec![]);
    let good = (*chain.build(vec![transfer(1, 0, MINER, 1), transfer(2, 0, MINER, 1)]).executed.block).clone();
    const OTHER: B256 = B256::repeat_byte(0x11);
    let changes: Vec<(&str, Change)> = vec![
        ("parentHash", Box::new(|b| b.header.parent_hash = OTHER)),
        ("number", Box::new(|b| b.header.number += 1)),
        ("timestamp", Box::new(|b| b.header.timestamp += 1)),
        ("parentBeaconBlockRoot", Box::new(|b| b.header.parent_beacon_block_root = Some(OTHER))),
        ("parentBeaconBlockRoot", Box::new(|b| b.section.checkpoint = Some(bytes!("01")))),
        ("gasLimit", Box::new(|b| b.header.gas_limit += 1)),
        ("baseFeePerGas", Box::new(|b| b.header.base_fee_per_gas = Some(1))),
        ("mixHash", Box::new(|b| b.header.mix_hash = OTHER)),
        ("difficulty", Box::new(|b| b.header.difficulty = U256::from(1))),
        ("nonce", Box::new(|b| b.header.nonce.0[0] = 1)),
        ("sha3Uncles", Box::new(|b| b.header.ommers_hash = OTHER)),
        ("withdrawalsRoot", Box::new(|b| b.header.withdrawals_root = None)),
        ("blobGasUsed", Box::new(|b| b.header.blob_gas_used = Some(1))),
        ("excessBlobGas", Box::new(|b| b.header.excess_blob_gas = Some(1))),
        ("requestsHash", Box::new(|b| b.header.requests_hash = Some(OTHER))),
        ("blockAccessListHash", Box::new(|b| b.header.block_access_list_hash = Some(OTHER))),
        ("slotNumber", Box::new(|b| b.header.slot_number = Some(1))),
        ("extraData", Box::new(|b| b.header.extra_data = vec![0; 33].into())),
        ("gasUsed", Box::new(|b| b.header.gas_used += 1)),
        ("transactionsRoot", Box::new(|b| b.header.transactions_root = OTHER)),
        ("receiptsRoot", Box::new(|b| b.header.receipts_root = OTHER)),
        ("logsBloom", Box::new(|b| b.header.logs_bloom.0[0] = 1)),
        ("stateRoot", Box::new(|b| b.header.state_root = OTHER)),
        ("transactionsRoot", Box::new(|b| b.transactions.swap(0, 1))),
        ("gasUsed", Box::new(|b| drop(b.transactions.pop()))),
    ];
    for (expected, change) in changes {
        let mut block = good.clone();
        change(&mut block);
        match chain.check(block) {
            BlockError::Field { field, .. } => assert_eq!(field, expected),
            error => panic!("{expected}: {error}"),
        }
    }
    assert!(matches!(
        chain.executor.execute_block(&chain.store.head(), good.clone(), vec![], None),
        Err(BlockError::Senders { expected: 2, found: 0 })
    ));
    let mut repeated = good.clone();
    repeated.transactions.push(transfer(1, 0, MINER, 1));
    assert!(matches!(chain.check(repeated), BlockError::Transaction { index: 2, .. }));
    let mut huge = good.clone();
    let input = vec![0; 9_000_000].into();
    huge.transactions.push(eip1559(3, 0, TxKind::Call(MINER), 0, input));
    assert!(matches!(chain.check(huge), BlockError::Bytes { .. }));
    let mut forged = good.clone();
    forged.transactions[1] = high_s(&forged.transactions[1]);
    assert!(matches!(chain.check(forged), BlockError::Signature { index: 1, reason: RecoverError::HighS }));
}

type Change = Box<dyn Fn(&mut Block)>;

/// The same signature in its other form, which Ethereum forbids.
fn high_s(tx: &TxEnvelope) -> TxEnvelope {
    let order = b256!("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");
    let signature = tx.signature();
    let flipped = Signature::new(signature.r(), U256::from_be_bytes(order.0) - signature.s(), !signature.v());
    let TxEnvelope::Eip1559(tx) = tx else { panic!("not the type of this test") };
    tx.tx().clone().into_signed(flipped).into()
}

#[test]
fn a_senders_address_is_recovered_from_every_valid_signature_and_no_other() {
    for n in 1..50 {
        let tx = transfer(n, 0, MINER, u128::from(n));
        assert_eq!(recover_sender(&tx), Ok(sender(n)));
        assert_eq!(recover_sender(&high_s(&tx)), Err(RecoverError::HighS));
    }
    let TxEnvelope::Eip1559(tx) = transfer(1, 0, MINER, 1) else { panic!("not the type of this test") };
    let void: TxEnvelope = tx.tx().clone().into_signed(Signature::new(U256::ZERO, U256::from(1), false)).into();
    assert_eq!(recover_sender(&void), Err(RecoverError::Unrecoverable));
}

#[test]
fn a_call_answers_reverts_with_its_reason_and_takes_overrides() {
    let chain = chain();
    let count = TransactionRequest { to: Some(counter().into()), ..Default::default() };
    let one = U256::from(1).to_be_bytes::<32>();
    assert_eq!(chain.call(&count, &Overrides::default()).unwrap(), Bytes::from(one));
    assert_eq!(chain.store.head().storage(counter(), U256::ZERO), U256::ZERO);

    let revert = TransactionRequest { input: bytes!("01").into(), ..count.clone() };
    match chain.call(&revert, &Overrides::default()).unwrap_err() {
        CallError::Reverted { output, .. } => assert_eq!(output[..], U256::from(0xaa).to_be_bytes::<32>()),
        error => panic!("{error}"),
    }

    let mut state = StateOverride::default();
    let diff = [(B256::ZERO, B256::from(U256::from(41)))].into_iter().collect();
    state.insert(counter(), AccountOverride { state_diff: Some(diff), ..Default::default() });
    let overrides = Overrides { state: Some(state), block: None };
    assert_eq!(chain.call(&count, &overrides).unwrap(), Bytes::from(U256::from(42).to_be_bytes::<32>()));

    // NUMBER, MSTORE, RETURN as code of an account that has none.
    let mut state = StateOverride::default();
    state.insert(MINER, AccountOverride { code: Some(bytes!("4360005260206000f3")), ..Default::default() });
    let block = BlockOverrides { number: Some(U256::from(1_234)), ..Default::default() };
    let overrides = Overrides { state: Some(state), block: Some(block) };
    let number = TransactionRequest { to: Some(MINER.into()), ..Default::default() };
    assert_eq!(chain.call(&number, &overrides).unwrap(), Bytes::from(U256::from(1_234).to_be_bytes::<32>()));

    // A contract may ask, as multicalls do; without funds nobody can send value.
    let from_contract = TransactionRequest { from: Some(counter()), ..count.clone() };
    assert!(chain.call(&from_contract, &Overrides::default()).is_ok());
    let rich = TransactionRequest { value: Some(U256::from(1)), ..from_contract };
    assert!(matches!(chain.call(&rich, &Overrides::default()), Err(CallError::Invalid(_))));
    let other_chain = TransactionRequest { chain_id: Some(1), ..count };
    assert!(matches!(chain.call(&other_chain, &Overrides::default()), Err(CallError::Invalid(_))));
}

#[test]
fn an_estimate_is_enough_and_little_more_and_a_revert_shows_its_reason() {
    let chain = chain();
    let head = chain.store.head();
    let estimate = |request: &TransactionRequest| {
        chain.executor.estimate_gas(&head, head.header(), request, &Overrides::default())
    };
    let plain = TransactionRequest {
        from: Some(sender(1)),
        to: Some(MINER.into()),
        value: Some(U256::from(1)),
        ..Default::default()
    };
    assert_eq!(estimate(&plain).unwrap(), 21_000);

    let count = TransactionRequest { from: Some(sender(1)), to: Some(counter().into()), ..Default::default() };
    let gas = estimate(&count).unwrap();
    let with = |gas| TransactionRequest { gas: Some(gas), ..count.clone() };
    assert!(chain.call(&with(gas), &Overrides::default()).is_ok());
    assert!(chain.call(&with(gas * 95 / 100), &Overrides::default()).is_err());

    let deploy = TransactionRequest { from: Some(sender(1)), input: COUNTER.into(), ..Default::default() };
    let gas = estimate(&deploy).unwrap();
    assert!((53_000..120_000).contains(&gas), "{gas}");

    let revert = TransactionRequest { input: bytes!("01").into(), ..count.clone() };
    assert!(matches!(estimate(&revert), Err(CallError::Reverted { output, .. }) if output.len() == 32));
    let starved = TransactionRequest { gas: Some(22_000), ..count.clone() };
    assert!(matches!(estimate(&starved), Err(CallError::Allowance { allowance: 22_000 })));
    let priced = TransactionRequest { gas_price: Some(GWEI * 2), from: Some(sender(99)), ..plain };
    assert!(matches!(estimate(&priced), Err(CallError::Invalid(_))));
}

#[test]
fn a_block_executes_on_a_parent_that_is_not_committed_yet() {
    let chain = chain();
    let first = chain.build(vec![transfer(1, 0, MINER, 1)]).executed;
    let txs: Vec<_> = recover_batch(vec![transfer(1, 1, MINER, 1)]).into_iter().map(Result::unwrap).collect();
    let mut attributes = chain.attributes();
    attributes.section.time_ms += 250;
    let post = first.transition.post.clone();
    let second = chain.executor.build_block(&post, attributes, None, &mut txs.into_iter()).unwrap().executed;
    assert_eq!(second.block.transactions.len(), 1);
    chain.store.commit(first, None).unwrap();
    chain.store.commit(second, None).unwrap();
    assert_eq!(chain.store.head().account(sender(1)).unwrap().nonce, 2);
}
