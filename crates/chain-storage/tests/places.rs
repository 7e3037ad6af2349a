//! A state that is handed out in places while the chain goes on, and proves itself to whoever knows its root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use std::collections::HashSet;
use std::sync::Arc;
use trellis_chain_storage::{
    Account, AccountDiff, ExecutedBlock, Genesis, NodeReference, PART_ENTRIES_MAX, PART_NODES_MAX, PlaceContent,
    PlaceError, ProvedPlace, SLOTS_INLINE_MAX, ServedState, StateCheck, StateDiff, StatePart, StatePlace, StateTarget,
    Store, state_root_of,
};
use trellis_primitives::{Block, ConsensusSection, Header};

/// Accounts of the first state.
const ACCOUNTS: u64 = 9_000;
/// Slots of its largest account, which is the first.
const SLOTS: u64 = 9_000;

fn address(n: u64) -> Address {
    Address::from_word(keccak256(n.to_be_bytes()))
}

fn code() -> Bytes {
    Bytes::from_static(&[0x60, 0x00, 0x60, 0x00, 0xf3])
}

fn change(n: u64, balance: u64, slots: impl Iterator<Item = (u64, u64)>) -> AccountDiff {
    let mut account = Account { balance: U256::from(balance), nonce: n, ..Account::default() };
    if n.is_multiple_of(100) {
        account.code_hash = keccak256(code());
    }
    let mut storage: Vec<_> = slots.map(|(slot, value)| (U256::from(slot), U256::from(value))).collect();
    storage.sort_unstable();
    AccountDiff { address: address(n), account: Some(account), wiped: false, storage }
}

/// The first has more slots than an answer, the second more than come with it, the third as many as may.
fn slots(n: u64) -> u64 {
    match n {
        0 => SLOTS,
        1 => SLOTS_INLINE_MAX as u64 + 1,
        2 => SLOTS_INLINE_MAX as u64,
        n => n % 3,
    }
}

fn genesis() -> Genesis {
    let mut accounts: Vec<_> =
        (0..ACCOUNTS).map(|n| change(n, 1_000 + n, (0..slots(n)).map(|slot| (slot, slot + 1)))).collect();
    accounts.sort_by_key(|account| account.address);
    let state = StateDiff { accounts, codes: vec![(keccak256(code()), code())] };
    let header = Header { state_root: state_root_of(&state), ..Header::default() };
    Genesis { block: Block { header, transactions: vec![], section: ConsensusSection::default() }, state }
}

fn commit(store: &Store, mut accounts: Vec<AccountDiff>) {
    accounts.sort_by_key(|account| account.address);
    let parent = store.head();
    let pending = parent.apply(StateDiff { accounts, codes: Vec::new() });
    let number = parent.height() + 1;
    let header =
        Header { parent_hash: parent.block_hash(), number, state_root: pending.state_root(), ..Header::default() };
    let hash = header.hash_slow();
    let transition = pending.finish(header.clone(), hash);
    let block = Arc::new(Block { header, transactions: vec![], section: ConsensusSection::default() });
    let executed = ExecutedBlock { block, hash, senders: vec![], receipts: vec![], transition, ethereum: None };
    store.commit(executed, None).unwrap();
}

/// Blocks that empty slots of each kind of account, remove accounts, make new ones and change others.
fn goes_on(store: &Store) {
    let emptied = |n: u64, every: usize| change(n, 5, (0..slots(n)).step_by(every).map(|slot| (slot, 0)));
    commit(store, vec![emptied(0, 2), emptied(1, 3), emptied(2, 1), emptied(5, 1)]);
    let gone = |n| AccountDiff { address: address(n), account: None, wiped: false, storage: vec![] };
    // Those that have no slots: none is emptied as a whole.
    commit(store, vec![gone(6), gone(9), change(ACCOUNTS + 1, 7, std::iter::empty())]);
    commit(store, (20..60).map(|n| change(n, 1, (0..9).map(|slot| (slot, n)))).collect());
}

struct Fetched {
    check: StateCheck,
    answers: Vec<(StateTarget, PlaceContent)>,
    codes: HashSet<B256>,
}

/// Everything from the root downwards.
fn fetch(state: &ServedState, root: B256) -> Fetched {
    let mut fetched = Fetched { check: StateCheck::default(), answers: Vec::new(), codes: HashSet::new() };
    let mut wanted = vec![StateTarget::root(root)];
    while let Some(target) = wanted.pop() {
        let content = state.read(&target.place).unwrap().expect("it stands there");
        let content = PlaceContent::from_rlp(&content.to_rlp()).unwrap();
        let ProvedPlace { part, more, codes, .. } = content.clone().prove(&target).unwrap();
        part.iter().for_each(|part| fetched.check.take(&StatePart::from_rlp(&part.to_rlp()).unwrap()));
        fetched.codes.extend(codes);
        fetched.answers.push((target, content));
        wanted.extend(more);
    }
    fetched.check.take(&StatePart::of_codes(vec![code()]));
    fetched
}

// row: CHN-30, CHN-23
#[test]
fn a_state_is_handed_out_whole_while_later_blocks_empty_its_slots_and_remove_its_accounts() {
    let genesis = genesis();
    let store = Store::in_memory(&genesis).unwrap();
    let root = store.head().state_root();
    let before = store.serve_state(0).unwrap();
    let kinds = |fetched: &Fetched| {
        let count = |is: fn(&PlaceContent) -> bool| fetched.answers.iter().filter(|(_, content)| is(content)).count();
        (count(|c| matches!(c, PlaceContent::Nodes(_))), count(|c| matches!(c, PlaceContent::Slots(_))))
    };
    let first = fetch(&before, root);
    first.check.check(0, root).unwrap();
    assert_eq!(first.codes, HashSet::from([keccak256(code())]));
    let (nodes, slots) = kinds(&first);
    assert!(nodes >= 2 && slots >= 3, "{nodes} answers with nodes, {slots} with slots");
    goes_on(&store);
    // Both the state that was read already, and one that is read for the first time now.
    for state in [before, store.serve_state(0).unwrap()] {
        fetch(&state, root).check.check(0, root).unwrap();
    }
    let newest = store.head().state_root();
    assert_ne!(newest, root);
    fetch(&store.serve_state(3).unwrap(), newest).check.check(3, newest).unwrap();
    assert!(store.serve_state(4).is_err());
}

// row: CHN-30
#[test]
fn an_answer_is_within_its_bounds_and_what_a_newer_state_has_as_well_has_the_same_reference() {
    let store = Store::in_memory(&genesis()).unwrap();
    let root = store.head().state_root();
    let old = fetch(&store.serve_state(0).unwrap(), root);
    for (target, content) in &old.answers {
        match content {
            PlaceContent::Accounts(accounts) => {
                let entries: usize = accounts.iter().map(|account| 1 + account.slots.len()).sum();
                assert!(entries <= PART_ENTRIES_MAX, "{entries} at {target:?}");
            }
            PlaceContent::Slots(slots) => assert!(slots.len() <= PART_ENTRIES_MAX),
            PlaceContent::Nodes(nodes) => assert!(nodes.len() <= PART_NODES_MAX),
        }
    }
    commit(&store, vec![change(7, 1, std::iter::empty())]);
    let new = fetch(&store.serve_state(1).unwrap(), store.head().state_root());
    let references: HashSet<(StatePlace, NodeReference)> =
        old.answers.into_iter().map(|(target, _)| (target.place, target.reference)).collect();
    let known = |(target, _): &&(StateTarget, PlaceContent)| {
        references.contains(&(target.place.clone(), target.reference.clone()))
    };
    let changed = new.answers.iter().filter(|answer| !known(answer)).count();
    assert!((1..=3).contains(&changed), "{changed} of {} answers are new", new.answers.len());
}

/// Every way to tell a part of an answer differently.
fn lies(content: &PlaceContent) -> Vec<PlaceContent> {
    match content {
        PlaceContent::Accounts(accounts) => {
            let bent = |bend: &dyn Fn(&mut Vec<trellis_chain_storage::PlacedAccount>)| {
                let mut other = accounts.clone();
                bend(&mut other);
                PlaceContent::Accounts(other)
            };
            let slotted = accounts.iter().position(|account| account.slots.len() > 1).unwrap();
            vec![
                bent(&|all| drop(all.pop())),
                bent(&|all| all.push(all[0].clone())),
                bent(&|all| all.swap(0, 1)),
                bent(&|all| all[0].account.balance += U256::from(1)),
                bent(&|all| all[0].account.code_hash = B256::repeat_byte(1)),
                bent(&|all| all[0].address = Address::ZERO),
                bent(&|all| all[0].storage_root = B256::repeat_byte(1)),
                bent(&|all| all[slotted].slots.truncate(1)),
                bent(&|all| all[slotted].slots[0].1 += U256::from(1)),
            ]
        }
        PlaceContent::Slots(slots) => {
            let mut other = slots.clone();
            other[0].1 += U256::from(1);
            let twice = [slots.clone(), slots[..1].to_vec()].concat();
            let empty = [slots.clone(), vec![(U256::MAX, U256::ZERO)]].concat();
            [other, twice, empty, slots[1..].to_vec()].map(PlaceContent::Slots).to_vec()
        }
        PlaceContent::Nodes(nodes) => {
            let mut other = nodes.clone();
            let mut bytes = other[0].to_vec();
            bytes[9] ^= 1;
            other[0] = bytes.into();
            let more = [nodes.clone(), vec![Bytes::from_static(&[0xc0])]].concat();
            [other, more, nodes[1..].to_vec()].map(PlaceContent::Nodes).to_vec()
        }
    }
}

// row: CHN-31
#[test]
fn whatever_is_told_differently_is_noticed_at_once() {
    let store = Store::in_memory(&genesis()).unwrap();
    let fetched = fetch(&store.serve_state(0).unwrap(), store.head().state_root());
    for (target, content) in &fetched.answers {
        for lie in lies(content) {
            assert_ne!(lie, *content);
            assert!(lie.prove(target).is_err(), "a lie about {:?} is believed", target.place);
        }
        // What stands at another place is no answer either.
        let (other, _) = fetched.answers.iter().find(|(other, _)| other.reference != target.reference).unwrap();
        assert!(content.clone().prove(other).is_err());
    }
}

// row: NET-60
#[test]
fn an_answer_that_is_empty_or_of_two_kinds_or_too_large_is_refused() {
    let rlp = |content: PlaceContent| PlaceContent::from_rlp(&content.to_rlp());
    for empty in [PlaceContent::Accounts(vec![]), PlaceContent::Slots(vec![]), PlaceContent::Nodes(vec![])] {
        assert_eq!(rlp(empty), Err(PlaceError::Kind));
    }
    let slots = |count: usize| PlaceContent::Slots((0..count).map(|n| (U256::from(n), U256::from(1))).collect());
    assert!(rlp(slots(PART_ENTRIES_MAX)).is_ok());
    assert!(matches!(rlp(slots(PART_ENTRIES_MAX + 1)), Err(PlaceError::TooMany { .. })));
    let nodes = |count| PlaceContent::Nodes(vec![Bytes::from_static(&[1]); count]);
    assert!(rlp(nodes(PART_NODES_MAX)).is_ok());
    assert!(matches!(rlp(nodes(PART_NODES_MAX + 1)), Err(PlaceError::TooMany { .. })));
    let path = |path: Vec<u8>| StatePlace { owner: None, path }.is_valid();
    assert!(path(vec![15; 63]) && !path(vec![15; 64]) && !path(vec![16]));
}
