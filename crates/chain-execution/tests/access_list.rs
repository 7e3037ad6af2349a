//! Access lists: of the real token's transfer, and of small contracts that touch one thing each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_eips::eip7702::Authorization;
use alloy_primitives::{Address, B256, Bytes, Signature, U256, hex};
use alloy_rpc_types::TransactionRequest;
use alloy_sol_types::SolCall;
use trellis_chain_execution::{
    AccessListOutput, CallError, CallOutput, ExecutionConfig, Executor, GenesisAccount, GenesisInput, GenesisStep,
    Overrides, genesis,
};
use trellis_chain_storage::Store;
use trellis_contracts::deployment::{Addresses, Parameters, steps};
use trellis_contracts::wtrl::WTRL;
use trellis_crypto::account::AccountKey;

const CHAIN_ID: u64 = 97_001;
const DEPLOYER: Address = Address::repeat_byte(0xdd);
const HOLDER: Address = Address::repeat_byte(0x11);
const RECIPIENT: Address = Address::repeat_byte(0x22);
const FORWARDER: Address = Address::repeat_byte(0xf0);
const LOOKER: Address = Address::repeat_byte(0xf1);
const REVERTING_LOOKER: Address = Address::repeat_byte(0xf2);
const RESTLESS: Address = Address::repeat_byte(0xf3);
/// Wei of a transfer.
const AMOUNT: u64 = 1_000;

/// What a slot named in the list saves at least: 2,100 for a cold read less 1,900 for its name and 100 for a warm read.
const SLOT_SAVES_GAS: u64 = 100;
/// What an account's name costs (EIP-2930), which is lost where the account is warm anyway.
const ACCOUNT_NAME_GAS: u64 = 2_400;

struct Chain {
    store: Store,
    executor: Executor,
}

fn wtrl() -> Address {
    Addresses::of(DEPLOYER, 0).wtrl
}

/// Hands its call data on to the token.
fn forwarder_code() -> Bytes {
    [&hex!("365f5f375f5f365f5f73")[..], wtrl().as_slice(), &hex!("5af16026575f5ffd5b00")].concat().into()
}

fn other_key() -> AccountKey {
    AccountKey::from_bytes(&[9; 32]).unwrap()
}

/// Asks the balances of its caller, of a stranger and of another account, the code size of a precompiled contract, and slot
/// 5; then ends as told.
fn looker_code(end: &[u8]) -> Bytes {
    let stranger = Address::repeat_byte(0xaa);
    let asked =
        [&hex!("33315073")[..], stranger.as_slice(), &hex!("315073"), other_key().address().as_slice()].concat();
    [&asked[..], &hex!("315060013b5060055450"), end].concat().into()
}

fn chain() -> Chain {
    let contract = |address, code| GenesisAccount { address, code, nonce: 1, ..GenesisAccount::default() };
    let rich = |address| GenesisAccount { address, balance: U256::from(1_000_000), ..GenesisAccount::default() };
    let step = |from, input: Vec<u8>, value: u64| GenesisStep {
        from,
        to: Some(wtrl()),
        input: input.into(),
        value: U256::from(value),
        ..GenesisStep::default()
    };
    let deployments = steps(&Parameters::dev(HOLDER), DEPLOYER, 0).into_iter().map(|step| GenesisStep {
        name: step.name.to_owned(),
        from: DEPLOYER,
        to: step.to,
        input: step.input,
        ..GenesisStep::default()
    });
    let funding = [
        step(HOLDER, WTRL::depositCall {}.abi_encode(), 100 * AMOUNT),
        step(HOLDER, WTRL::transferCall { to: FORWARDER, value: U256::from(10 * AMOUNT) }.abi_encode(), 0),
    ];
    let input = GenesisInput {
        chain_id: CHAIN_ID,
        timestamp_ms: 1_700_000_000_000,
        gas_limit: 400_000_000,
        base_fee_wei: 1,
        alloc: vec![
            rich(HOLDER),
            contract(FORWARDER, forwarder_code()),
            contract(LOOKER, looker_code(&hex!("00"))),
            contract(REVERTING_LOOKER, looker_code(&hex!("5f5ffd"))),
            // Reads the slot whose number is the gas that is left.
            contract(RESTLESS, hex!("5a5400").into()),
        ],
        steps: deployments.chain(funding).collect(),
        ..GenesisInput::default()
    };
    let config =
        ExecutionConfig { chain_id: CHAIN_ID, gas_limit: 400_000_000, base_fee_floor_wei: 1, genesis_hash: None };
    Chain { store: Store::in_memory(&genesis(&input).unwrap()).unwrap(), executor: Executor::new(config) }
}

impl Chain {
    fn list(&self, request: &TransactionRequest) -> Result<AccessListOutput, CallError> {
        let head = self.store.head();
        self.executor.access_list(&head, head.header(), request, &Overrides::default())
    }

    fn call(&self, request: &TransactionRequest) -> CallOutput {
        let head = self.store.head();
        self.executor.call(&head, head.header(), request, &Overrides::default()).unwrap()
    }

    /// The list of a call that succeeds, which is the same when asked with it, and the gas without and with it.
    fn checked(&self, request: &TransactionRequest) -> (AccessList, u64, u64) {
        let found = self.list(request).unwrap();
        assert!(found.failure.is_none(), "{:?}", found.failure);
        let listed = TransactionRequest { access_list: Some(found.list.clone()), ..request.clone() };
        let again = self.list(&listed).unwrap();
        assert_eq!((&again.list, again.gas_used), (&found.list, found.gas_used));
        let (without, with) = (self.call(request), self.call(&listed));
        assert_eq!(with.gas_used, found.gas_used);
        assert_eq!((with.output, with.logs), (without.output, without.logs));
        (found.list, without.gas_used, with.gas_used)
    }
}

fn transfer_through(to: Address) -> TransactionRequest {
    let input = WTRL::transferCall { to: RECIPIENT, value: U256::from(AMOUNT) }.abi_encode();
    TransactionRequest {
        from: Some(HOLDER),
        to: Some(to.into()),
        input: Bytes::from(input).into(),
        ..TransactionRequest::default()
    }
}

// row: CHN-40
#[test]
fn a_token_transfer_through_another_contract_is_cheaper_with_its_access_list_and_has_the_same_list_again() {
    let (list, without, with) = chain().checked(&transfer_through(FORWARDER));
    assert_eq!(list.iter().map(|item| item.address).collect::<Vec<_>>(), [wtrl()]);
    let named = 1 + list.storage_keys_count() as u64;
    assert!(named >= 3, "the balances of both at least: {list:?}");
    assert!(with + named * SLOT_SAVES_GAS <= without, "{with} gas with {named} names, {without} without");
}

// The token is warm because it is called, so its name is paid for nothing: geth's list says so too, and leaves it to the
// sender to compare. Each slot in the list still saves what it should, so each is one that the transfer touches.
#[test]
fn a_direct_token_transfer_touches_every_slot_in_its_list() {
    let (list, without, with) = chain().checked(&transfer_through(wtrl()));
    assert_eq!(list.iter().map(|item| item.address).collect::<Vec<_>>(), [wtrl()]);
    let slots = list.storage_keys_count() as u64;
    assert!(slots >= 2 && with + slots * SLOT_SAVES_GAS <= without + ACCOUNT_NAME_GAS, "{with} and {without} gas");
}

#[test]
fn what_is_warm_anyway_is_not_named_and_a_revert_has_its_list_too() {
    let chain = chain();
    let item = |address, slots: &[u64]| AccessListItem {
        address,
        storage_keys: slots.iter().map(|slot| B256::from(U256::from(*slot))).collect(),
    };
    let asks =
        |to: Address| TransactionRequest { from: Some(HOLDER), to: Some(to.into()), ..TransactionRequest::default() };
    let (stranger, other) = (item(Address::repeat_byte(0xaa), &[]), item(other_key().address(), &[]));
    let sorted = |mut items: Vec<AccessListItem>| {
        items.sort_by_key(|item| item.address);
        AccessList(items)
    };
    let all = |to| sorted(vec![stranger.clone(), other.clone(), item(to, &[5])]);
    assert_eq!(chain.checked(&asks(LOOKER)).0, all(LOOKER));
    let reverted = chain.list(&asks(REVERTING_LOOKER)).unwrap();
    assert_eq!(reverted.list, all(REVERTING_LOOKER));
    assert!(matches!(reverted.failure, Some(CallError::Reverted { .. })), "{:?}", reverted.failure);
    assert!(reverted.gas_used > 21_000);

    // An account that sets its code in the same transaction is warm by that (EIP-7702).
    let authorization = Authorization { chain_id: U256::from(CHAIN_ID), address: LOOKER, nonce: 0 };
    let signature = Signature::from_raw(&other_key().sign_hash(authorization.signature_hash())).unwrap();
    let with_code =
        TransactionRequest { authorization_list: Some(vec![authorization.into_signed(signature)]), ..asks(LOOKER) };
    assert_eq!(chain.checked(&with_code).0, sorted(vec![stranger, item(LOOKER, &[5])]));
    let starved = TransactionRequest { gas: Some(24_999), ..with_code };
    assert!(matches!(chain.list(&starved), Err(CallError::Invalid(reason)) if reason.contains("authorizations")));
}

#[test]
fn a_call_that_touches_something_new_in_every_run_is_given_up() {
    let request = TransactionRequest { to: Some(RESTLESS.into()), ..TransactionRequest::default() };
    assert!(matches!(chain().list(&request), Err(CallError::Invalid(reason)) if reason.contains("something new")));
}
