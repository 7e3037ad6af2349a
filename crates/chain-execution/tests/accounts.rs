//! Smart accounts with real ML-DSA-44 signatures, in blocks of the chain (CHN-21).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use alloy_rpc_types::TransactionRequest;
use alloy_sol_types::{SolCall, SolError};
use rand::SeedableRng;
use trellis_chain_execution::{
    BlockAttributes, CallError, ExecutionConfig, Executor, GenesisAccount, GenesisInput, GenesisStep, Overrides,
    genesis, recover_batch,
};
use trellis_chain_storage::{Genesis, Store};
use trellis_contracts::accounts::{
    ACCOUNTS_DEPLOYER, AccountContracts, Call, Execute, account_steps, create_call, signer,
};
use trellis_contracts::ml_dsa44_verifier::MlDsa44Verifier;
use trellis_contracts::smart_account::SmartAccount as abi;
use trellis_crypto::{AccountKey, MLDSA44_SIGNATURE_BYTES, QuantumKey};
use trellis_primitives::{ConsensusSection, RecoveredTx, TxEnvelope};

const CHAIN_ID: u64 = 97_001;
const GWEI: u64 = 1_000_000_000;
const ETHER: u128 = 1_000_000_000_000_000_000;
const SHOP: Address = Address::repeat_byte(0x5b);
const START_MS: u64 = 1_700_000_000_000;

/// A chain with the accounts' contracts, one of whose users brings whatever it is given.
struct Chain {
    store: Store,
    executor: Executor,
    relayer: AccountKey,
    nonce: u64,
}

fn block_zero(relayer: Address) -> Genesis {
    let steps = account_steps().into_iter().map(|step| GenesisStep {
        name: step.name.to_owned(),
        from: ACCOUNTS_DEPLOYER,
        expected_address: Some(step.address),
        input: step.input,
        ..GenesisStep::default()
    });
    let rich = GenesisAccount { address: relayer, balance: U256::from(1_000 * ETHER), ..GenesisAccount::default() };
    genesis(&GenesisInput {
        chain_id: CHAIN_ID,
        timestamp_ms: START_MS,
        gas_limit: 30_000_000,
        base_fee_wei: GWEI,
        alloc: vec![rich],
        steps: steps.collect(),
        ..GenesisInput::default()
    })
    .unwrap()
}

impl Chain {
    fn new() -> Self {
        let relayer = AccountKey::from_bytes(&[1; 32]).unwrap();
        let zero = block_zero(relayer.address());
        let executor = Executor::new(ExecutionConfig {
            chain_id: CHAIN_ID,
            gas_limit: 30_000_000,
            base_fee_floor_wei: GWEI,
            genesis_hash: Some(zero.hash()),
        });
        Self { store: Store::in_memory(&zero).unwrap(), executor, relayer, nonce: 0 }
    }

    /// A block with one transaction of the relayer's: whether it succeeded, and its gas.
    fn send(&mut self, to: Address, value: u128, input: Vec<u8>) -> (bool, u64) {
        let tx = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce: self.nonce,
            gas_limit: 2_000_000,
            max_fee_per_gas: 100 * u128::from(GWEI),
            max_priority_fee_per_gas: 0,
            to: TxKind::Call(to),
            value: U256::from(value),
            input: input.into(),
            ..TxEip1559::default()
        };
        self.nonce += 1;
        let signature = Signature::from_raw(&self.relayer.sign_hash(tx.signature_hash())).unwrap();
        let tx: TxEnvelope = tx.into_signed(signature).into();
        let recovered: Vec<RecoveredTx> = recover_batch(vec![tx]).into_iter().map(Result::unwrap).collect();
        let time_ms = START_MS + 1_000 * (self.store.height() + 1);
        let section = ConsensusSection { time_ms, parent_commit: None, checkpoint: None, epoch: None };
        let attributes = BlockAttributes { beneficiary: Address::ZERO, section, extra_data: Bytes::new() };
        let head = self.store.head();
        let built = self.executor.build_block(&head, attributes, None, &mut recovered.into_iter()).unwrap();
        let receipt = built.executed.receipts.first().expect("the transaction is in the block");
        let ended = (receipt.success, receipt.cumulative_gas_used);
        self.store.commit(built.executed, None).unwrap();
        ended
    }

    fn call(&self, to: Address, input: Vec<u8>) -> Result<Bytes, CallError> {
        let head = self.store.head();
        let request = TransactionRequest {
            to: Some(TxKind::Call(to)),
            input: Bytes::from(input).into(),
            ..TransactionRequest::default()
        };
        self.executor.call(&head, head.header(), &request, &Overrides::default()).map(|output| output.output)
    }

    fn balance(&self, address: Address) -> u128 {
        self.store.head().account(address).unwrap_or_default().balance.to()
    }
}

struct Owner {
    key: QuantumKey,
    signer: Bytes,
    account: Address,
}

impl Owner {
    fn new(seed: u64, hybrid: bool) -> Self {
        let key = QuantumKey::generate(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed), hybrid).unwrap();
        let at = AccountContracts::predeployed();
        let verifier = if hybrid { at.hybrid_verifier } else { at.ml_dsa44_verifier };
        let signer = signer(verifier, &key.public());
        let account = at.address_of(&signer, B256::ZERO);
        Self { key, signer, account }
    }

    fn sign(&self, execute: &Execute, chain_id: u64) -> Vec<u8> {
        self.key.sign_hash(execute.digest(chain_id, self.account)).unwrap()
    }
}

fn payment(nonce: u64, value: u128) -> Execute {
    Execute {
        calls: vec![Call { target: SHOP, value: U256::from(value), data: Bytes::new() }],
        nonce,
        deadline: u64::MAX,
        relayer: Address::ZERO,
        fee: U256::ZERO,
        gas: U256::ZERO,
    }
}

/// The selector of the error that a call reverts with.
fn refusal(answer: Result<Bytes, CallError>) -> [u8; 4] {
    match answer {
        Err(CallError::Reverted { output, .. }) => output[..4].try_into().unwrap(),
        other => panic!("not reverted: {other:?}"),
    }
}

// row: CHN-21
#[test]
fn an_account_is_paid_made_and_spends_with_a_real_signature() {
    for hybrid in [false, true] {
        let (mut chain, owner) = (Chain::new(), Owner::new(1, hybrid));
        assert!(chain.send(owner.account, 5 * ETHER, Vec::new()).0, "paid before it is there");
        let factory = AccountContracts::predeployed().factory;
        let (made, create_gas) = chain.send(factory, 0, create_call(owner.signer.clone(), B256::ZERO));
        assert!(made);
        let held =
            abi::signerCall::abi_decode_returns(&chain.call(owner.account, abi::signerCall {}.abi_encode()).unwrap());
        assert_eq!(held.unwrap(), owner.signer, "it is where its address was computed");

        let pay = payment(0, 2 * ETHER);
        let data = pay.call_data(owner.sign(&pay, CHAIN_ID).into());
        let (done, first_gas) = chain.send(owner.account, 0, data.clone());
        assert!(done);
        assert_eq!((chain.balance(SHOP), chain.balance(owner.account)), (2 * ETHER, 3 * ETHER));
        assert_eq!(refusal(chain.call(owner.account, data.clone())), abi::WrongNonce::SELECTOR);
        assert!(!chain.send(owner.account, 0, data).0, "the same once more");
        let pay = payment(1, ETHER);
        let (done, gas) = chain.send(owner.account, 0, pay.call_data(owner.sign(&pay, CHAIN_ID).into()));
        assert!(done);
        assert_eq!(chain.balance(SHOP), 3 * ETHER, "once each");
        println!("hybrid {hybrid}: make {create_gas}, first payment {first_gas}, next {gas} gas");
        assert!(create_gas < 450_000 && gas < 160_000, "{create_gas} {gas}");
    }
}

// row: CHN-21
#[test]
fn a_signature_by_another_key_for_another_chain_or_changed_anywhere_moves_nothing() {
    let (mut chain, owner, thief) = (Chain::new(), Owner::new(1, false), Owner::new(2, false));
    chain.send(owner.account, 5 * ETHER, Vec::new());
    let factory = AccountContracts::predeployed().factory;
    assert!(chain.send(factory, 0, create_call(owner.signer.clone(), B256::ZERO)).0);
    let pay = payment(0, ETHER);
    // Signing draws at random, and one signature in some hundreds has no room behind its hints.
    let hints_of = |signature: &Vec<u8>| usize::from(signature[MLDSA44_SIGNATURE_BYTES - 1]);
    let good = (0..100).map(|_| owner.sign(&pay, CHAIN_ID)).find(|signature| hints_of(signature) < 80).unwrap();
    let mut refused = vec![
        thief.key.sign_hash(pay.digest(CHAIN_ID, owner.account)).unwrap(),
        thief.sign(&pay, CHAIN_ID),
        owner.sign(&pay, CHAIN_ID + 1),
        owner.sign(&payment(0, 2 * ETHER), CHAIN_ID),
        good[..MLDSA44_SIGNATURE_BYTES - 1].to_vec(),
        [&good[..], &[0]].concat(),
        Vec::new(),
    ];
    // Every part of it: the challenge, the response, the hints.
    for at in (0..MLDSA44_SIGNATURE_BYTES).step_by(97).chain([MLDSA44_SIGNATURE_BYTES - 1]) {
        let mut changed = good.clone();
        changed[at] ^= 1;
        refused.push(changed);
    }
    // What is behind the last hint must be zero, or one signature would have several forms.
    let mut padded = good.clone();
    padded[MLDSA44_SIGNATURE_BYTES - 84 + hints_of(&good)] = 1;
    refused.push(padded);
    for signature in refused {
        let answer = chain.call(owner.account, pay.call_data(signature.into()));
        assert_eq!(refusal(answer), abi::BadSignature::SELECTOR);
    }
    assert!(chain.send(owner.account, 0, pay.call_data(good.into())).0, "the good one is");
    assert_eq!(chain.balance(SHOP), ETHER);
}

// row: CHN-21
#[test]
fn the_verifier_answers_as_erc_7913_asks() {
    let (chain, owner) = (Chain::new(), Owner::new(3, false));
    let hash = B256::repeat_byte(7);
    let ask = |key: Vec<u8>, signature: Vec<u8>| {
        let call = MlDsa44Verifier::verifyCall { key: key.into(), hash, signature: signature.into() };
        let answer = chain.call(AccountContracts::predeployed().ml_dsa44_verifier, call.abi_encode()).unwrap();
        MlDsa44Verifier::verifyCall::abi_decode_returns(&answer).unwrap().0
    };
    let signature = owner.key.sign_hash(hash).unwrap();
    assert_eq!(ask(owner.key.public(), signature.clone()), MlDsa44Verifier::verifyCall::SELECTOR);
    assert_eq!(ask(Owner::new(4, false).key.public(), signature.clone()), [0xff; 4]);
    assert_eq!(ask(Vec::new(), signature), [0xff; 4]);
}
