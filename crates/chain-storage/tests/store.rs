//! The store from outside: what it keeps, what it refuses, and what survives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

use alloy_consensus::{Signed, TxLegacy};
use alloy_primitives::{Address, B256, Bytes, Signature, U256, keccak256};
use alloy_trie::TrieAccount;
use alloy_trie::proof::verify_proof;
use nybbles::Nibbles;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use trellis_chain_storage::{
    Account, AccountDiff, CommitError, ExecutedBlock, Genesis, ImportError, Importer, OpenError, ReadError, StateDiff,
    StatePart, StateView, Store, StoreConfig, StoredCheckpoint, state_root_of,
};
use trellis_primitives::{Block, CommitCertificate, ConsensusSection, Header, TxEnvelope};

fn address(n: u64) -> Address {
    Address::from_word(keccak256(n.to_be_bytes()))
}

fn account(balance: u64) -> Account {
    Account { balance: U256::from(balance), ..Account::default() }
}

fn change(n: u64, balance: u64, storage: &[(u64, u64)]) -> AccountDiff {
    AccountDiff {
        address: address(n),
        account: Some(account(balance)),
        wiped: false,
        storage: storage.iter().map(|(slot, value)| (U256::from(*slot), U256::from(*value))).collect(),
    }
}

fn diff(mut accounts: Vec<AccountDiff>) -> StateDiff {
    accounts.sort_by_key(|a| a.address);
    StateDiff { accounts, codes: Vec::new() }
}

fn genesis_of(name: &'static str) -> Genesis {
    let state = diff((0..20).map(|n| change(n, 1_000 + n, &[(1, n + 1), (2, 7)])).collect());
    let header = Header {
        state_root: state_root_of(&state),
        extra_data: Bytes::from_static(name.as_bytes()),
        ..Header::default()
    };
    Genesis { block: Block { header, transactions: vec![], section: ConsensusSection::default() }, state }
}

fn genesis() -> Genesis {
    genesis_of("a")
}

fn transaction(nonce: u64) -> TxEnvelope {
    let tx = TxLegacy { nonce, gas_limit: 21_000, ..TxLegacy::default() };
    Signed::new_unhashed(tx, Signature::test_signature()).into()
}

fn child(parent: &StateView, diff: StateDiff) -> ExecutedBlock {
    let pending = parent.apply(diff);
    let number = parent.height() + 1;
    let header = Header {
        parent_hash: parent.block_hash(),
        number,
        timestamp: number,
        state_root: pending.state_root(),
        ..Header::default()
    };
    let hash = header.hash_slow();
    let transition = pending.finish(header.clone(), hash);
    let transactions = vec![transaction(2 * number), transaction(2 * number + 1)];
    let section = ConsensusSection { time_ms: number * 1_000, ..ConsensusSection::default() };
    ExecutedBlock {
        block: Arc::new(Block { header, transactions, section }),
        hash,
        senders: vec![address(1), address(2)],
        receipts: vec![Default::default(), Default::default()],
        transition,
        ethereum: None,
    }
}

fn certificate(block: &ExecutedBlock) -> Option<CommitCertificate> {
    let height = block.block.header.number;
    Some(CommitCertificate { height, round: 0, block_hash: block.hash, signatures: Vec::new() })
}

fn grow(store: &Store, blocks: u64) {
    for _ in 0..blocks {
        let head = store.head();
        let n = head.height() + 1;
        let block = child(&head, diff(vec![change(n % 30, 5_000 + n, &[(n % 5, n), (9, 0)])]));
        let certificate = certificate(&block);
        store.commit(block, certificate).unwrap();
    }
}

fn open(folder: &Path) -> Store {
    Store::open(folder, &genesis(), StoreConfig::default()).unwrap()
}

fn refusal(folder: &Path, genesis: &Genesis) -> OpenError {
    match Store::open(folder, genesis, StoreConfig::default()) {
        Ok(_) => panic!("the folder opened"),
        Err(error) => {
            assert!(!error.hint().is_empty());
            error
        }
    }
}

/// Every block readable, linked, indexed; the state of the head has the header's root.
fn check_whole(store: &Store) {
    let head = store.head();
    assert_eq!(head.state_root(), head.header().state_root);
    let mut parent = B256::ZERO;
    for height in 0..=head.height() {
        let block = store.block(height).unwrap().unwrap();
        assert_eq!((block.height(), block.block.header.parent_hash), (height, parent));
        assert_eq!(store.height_of(block.hash).unwrap(), Some(height));
        assert_eq!(store.hash_at(height).unwrap(), Some(block.hash));
        for (index, tx) in block.block.transactions.iter().enumerate() {
            let location = store.tx_location(*tx.tx_hash()).unwrap().unwrap();
            assert_eq!((location.block, location.index as usize), (height, index));
        }
        assert_eq!(block.senders.len(), block.block.transactions.len());
        assert_eq!(store.certificate(height).unwrap().map(|c| c.block_hash), (height > 0).then_some(block.hash));
        parent = block.hash;
    }
    assert_eq!(store.block(head.height() + 1).unwrap().map(|b| b.height()), None);
}

// row: CHN-22
#[test]
fn what_was_committed_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut heads = store.subscribe();
    grow(&store, 100);
    assert_eq!(heads.try_recv().unwrap().height(), 1);
    let (root, hash) = (store.head().state_root(), store.head().block_hash());
    check_whole(&store);
    drop(store);
    let store = open(folder.path());
    assert_eq!((store.height(), store.head().state_root(), store.head().block_hash()), (100, root, hash));
    check_whole(&store);
    grow(&store, 3);
    check_whole(&store);
    drop(store);
    assert_eq!(Store::open_existing(folder.path(), StoreConfig::default()).unwrap().height(), 103);
}

// row: CHN-15
#[test]
fn a_checkpoints_parts_come_one_by_one_and_are_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert_eq!(store.checkpoint(64).unwrap(), StoredCheckpoint::default());
    assert_eq!(store.newest_checkpoint(u64::MAX).unwrap(), None);
    let short = |n: u8| StoredCheckpoint { certificate: Some(vec![n; 150].into()), post_quantum: None };
    store.put_checkpoint(64, &short(1)).unwrap();
    store.put_checkpoint(128, &short(2)).unwrap();
    let long = StoredCheckpoint { certificate: None, post_quantum: Some(vec![3; 9_000].into()) };
    store.put_checkpoint(64, &long).unwrap();
    store.add_checkpoint(64, &short(9)).unwrap();
    assert_eq!(store.checkpoint(64).unwrap().certificate, short(1).certificate, "the first one stays");
    store.sync().unwrap();
    drop(store);
    let store = open(folder.path());
    let whole = StoredCheckpoint { certificate: short(1).certificate, post_quantum: long.post_quantum };
    assert_eq!(store.checkpoint(64).unwrap(), whole);
    assert_eq!(store.checkpoint(128).unwrap(), short(2));
    let newest = [63, 64, 127, u64::MAX].map(|most| store.newest_checkpoint(most).unwrap());
    assert_eq!(newest, [None, Some(64), Some(64), Some(128)]);
}

#[test]
fn the_store_in_memory_does_the_same() {
    let store = Store::in_memory(&genesis()).unwrap();
    grow(&store, 70);
    check_whole(&store);
    assert_eq!(store.genesis_hash().unwrap(), Some(genesis().hash()));
}

#[test]
fn blocks_spread_over_many_segments_are_all_found() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { segment_bytes: 2_000, ..StoreConfig::default() };
    let store = Store::open(folder.path(), &genesis(), config.clone()).unwrap();
    grow(&store, 80);
    assert!(folder.path().join("segments/000005.seg").exists());
    drop(store);
    let store = Store::open(folder.path(), &genesis(), config).unwrap();
    check_whole(&store);
}

// row: CHN-22
#[test]
fn a_torn_record_at_the_end_is_cut_off() {
    for torn in [1_usize, 8, 16, 100] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        grow(&store, 5);
        drop(store);
        let segment = folder.path().join("segments/000000.seg");
        let length = std::fs::metadata(&segment).unwrap().len();
        let mut tail = vec![0, 0, 1, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 6];
        tail.resize(torn.max(16), 0xab);
        tail.truncate(torn);
        std::fs::OpenOptions::new().append(true).open(&segment).unwrap().write_all(&tail).unwrap();
        let store = open(folder.path());
        assert_eq!(store.height(), 5);
        assert_eq!(std::fs::metadata(&segment).unwrap().len(), length);
        grow(&store, 2);
        check_whole(&store);
    }
}

/// A folder of seven blocks whose database holds five, as a kill between two durable writes of the database leaves it.
/// Gives it with its segment and the hash of the seventh block.
fn database_behind() -> (tempfile::TempDir, std::path::PathBuf, B256) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    grow(&store, 5);
    drop(store);
    let database = folder.path().join("state.redb");
    let old = std::fs::read(&database).unwrap();
    let store = open(folder.path());
    grow(&store, 2);
    let hash = store.head().block_hash();
    drop(store);
    std::fs::write(&database, old).unwrap();
    let segment = folder.path().join("segments/000000.seg");
    (folder, segment, hash)
}

// row: CHN-22
#[test]
fn a_block_that_was_synced_but_had_not_reached_the_database_is_applied_on_start() {
    let (folder, _, hash) = database_behind();
    let store = open(folder.path());
    assert_eq!((store.height(), store.head().block_hash()), (7, hash));
    check_whole(&store);
}

// row: CHN-16, CHN-22
#[test]
fn an_acknowledged_block_that_is_damaged_is_not_taken_for_one_that_was_torn() {
    let (folder, segment, _) = database_behind();
    let whole = std::fs::read(&segment).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut earlier = whole.clone();
    let index = earlier.len() - 700;
    earlier[index] ^= 1;
    for damaged in [&flipped[..], &earlier, &whole[..whole.len() - 1], &whole[..whole.len() - 700]] {
        std::fs::write(&segment, damaged).unwrap();
        let error = refusal(folder.path(), &genesis());
        assert!(matches!(error, OpenError::AcknowledgedLost { .. }), "{error}");
        assert_eq!(std::fs::read(&segment).unwrap(), damaged, "nothing is cut off before somebody has looked");
    }
    std::fs::write(&segment, &whole).unwrap();
    assert_eq!(open(folder.path()).height(), 7);
}

// row: CHN-22
#[test]
fn a_record_that_was_not_acknowledged_may_be_torn() {
    let (folder, segment, _) = database_behind();
    let whole = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &whole[..whole.len() - 1]).unwrap();
    let mark = folder.path().join("segments/acknowledged");
    // What a power cut leaves: no mark, a piece of one, an older one.
    for damage in [None, Some(7), Some(24)] {
        match damage {
            None => std::fs::remove_file(&mark).unwrap(),
            Some(bytes) => std::fs::write(&mark, vec![0; bytes]).unwrap(),
        }
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), copy.path());
        assert_eq!(open(copy.path()).height(), 6);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

// row: CHN-23
#[test]
fn the_database_is_made_durable_now_and_then_and_blocks_are_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { database_sync_blocks: 10, ..StoreConfig::default() };
    let store = Store::open(folder.path(), &genesis(), config).unwrap();
    grow(&store, 25);
    let hash = store.head().block_hash();
    // What a kill leaves: the files as they are now.
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), copy.path());
    let after = open(copy.path());
    assert_eq!((after.height(), after.head().block_hash()), (25, hash));
    check_whole(&after);
}

#[test]
fn a_lost_database_is_rebuilt_from_the_segments() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    grow(&store, 20);
    let hash = store.head().block_hash();
    drop(store);
    std::fs::remove_file(folder.path().join("state.redb")).unwrap();
    let store = open(folder.path());
    assert_eq!((store.height(), store.head().block_hash()), (20, hash));
    check_whole(&store);
}

#[test]
fn a_folder_in_use_is_refused_with_the_process_id() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let error = refusal(folder.path(), &genesis());
    assert!(matches!(error, OpenError::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
    // A snapshot that outlives the store keeps the folder, because it still reads from it.
    let view = store.head();
    drop(store);
    assert!(matches!(refusal(folder.path(), &genesis()), OpenError::InUse { .. }));
    drop(view);
    open(folder.path());
}

#[test]
fn damaged_folders_are_refused_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    grow(&store, 20);
    drop(store);
    let segment = folder.path().join("segments/000000.seg");
    let whole_segment = std::fs::read(&segment).unwrap();

    assert!(matches!(refusal(folder.path(), &genesis_of("b")), OpenError::WrongGenesis { .. }));

    std::fs::write(&segment, &whole_segment[..whole_segment.len() - 1]).unwrap();
    assert!(matches!(refusal(folder.path(), &genesis()), OpenError::SegmentTruncated { .. }));
    let mut flipped = whole_segment.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&segment, &flipped).unwrap();
    assert!(matches!(refusal(folder.path(), &genesis()), OpenError::RecordDamaged { height: 20, .. }));
    std::fs::write(&segment, &whole_segment).unwrap();
    check_whole(&open(folder.path()));
}

/// Databases with something wrong with them.
fn damaged(whole: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> =
        [100, 4_096, whole.len() / 2, whole.len() - 4_096].iter().map(|keep| whole[..*keep].to_vec()).collect();
    all.push(b"not a database, but long enough to hold a header of one".to_vec());
    let mut zeroed = whole.to_vec();
    zeroed[4_096..].fill(0);
    all.push(zeroed);
    all
}

// row: CHN-16, CHN-22
#[test]
fn a_damaged_database_is_made_again_from_the_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    grow(&store, 20);
    let hash = store.head().block_hash();
    drop(store);
    let database = folder.path().join("state.redb");
    let whole = std::fs::read(&database).unwrap();
    for bytes in damaged(&whole) {
        std::fs::write(&database, &bytes).unwrap();
        let store = open(folder.path());
        assert_eq!((store.height(), store.head().block_hash()), (20, hash), "of {} bytes", bytes.len());
        check_whole(&store);
        drop(store);
        assert_eq!(std::fs::read(folder.path().join("state.redb.damaged")).unwrap().len(), bytes.len());
    }
}

// row: CHN-16, CHN-22
#[test]
fn a_damaged_database_stays_as_it_is_where_the_blocks_are_not_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { segment_bytes: 4_000, ..StoreConfig::default() };
    let store = Store::open(folder.path(), &genesis(), config.clone()).unwrap();
    grow(&store, 40);
    drop(store);
    let (database, segments) = (folder.path().join("state.redb"), folder.path().join("segments"));
    let bytes = b"not a database, but long enough to hold a header of one";
    std::fs::write(&database, bytes).unwrap();
    let first = segments.join("000000.seg");
    let whole = std::fs::read(&first).unwrap();
    let files = || std::fs::read_dir(&segments).unwrap().count();
    let (before, mut flipped) = (files(), whole.clone());
    assert!(before > 2);
    // In the midst of a file, at the end of one that others follow, and the whole file.
    for byte in [whole.len() / 2, whole.len() - 1] {
        flipped.clone_from(&whole);
        flipped[byte] ^= 1;
        std::fs::write(&first, &flipped).unwrap();
        let error = Store::open(folder.path(), &genesis(), config.clone()).unwrap_err();
        assert!(matches!(error, OpenError::DatabaseDamaged { .. }), "{error}");
        assert_eq!(files(), before, "no block was removed");
        assert_eq!(std::fs::read(&first).unwrap(), flipped);
        assert_eq!(std::fs::read(&database).unwrap(), bytes);
    }
    std::fs::remove_file(&first).unwrap();
    let error = Store::open(folder.path(), &genesis(), config.clone()).unwrap_err();
    assert!(matches!(error, OpenError::DatabaseDamaged { .. }), "{error}");
    std::fs::write(&first, &whole).unwrap();
    let store = Store::open(folder.path(), &genesis(), config).unwrap();
    assert_eq!(store.height(), 40);
    check_whole(&store);
}

#[test]
fn a_folder_of_another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    {
        let database = redb::Database::open(folder.path().join("state.redb")).unwrap();
        let txn = database.begin_write().unwrap();
        let table: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
        txn.open_table(table).unwrap().insert("format", b"trellis-chain/9".as_slice()).unwrap();
        txn.commit().unwrap();
    }
    assert!(
        matches!(refusal(folder.path(), &genesis()), OpenError::Format { found, .. } if found == "trellis-chain/9")
    );
}

#[test]
fn a_state_that_does_not_have_the_headers_root_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    {
        let database = redb::Database::open(folder.path().join("state.redb")).unwrap();
        let txn = database.begin_write().unwrap();
        let table: redb::TableDefinition<'_, &[u8; 20], &[u8; 72]> = redb::TableDefinition::new("accounts");
        txn.open_table(table).unwrap().insert(&address(3).0.0, &[1; 72]).unwrap();
        txn.commit().unwrap();
    }
    assert!(matches!(refusal(folder.path(), &genesis()), OpenError::StateRoot { height: 0, .. }));
}

#[test]
fn an_empty_folder_is_not_opened_without_a_genesis() {
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open_existing(folder.path(), StoreConfig::default()).unwrap_err();
    assert!(matches!(error, OpenError::Empty { .. }));
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_written_is_named_so() {
    // Permissions do not bind the superuser, but nobody makes folders in /sys.
    assert!(matches!(refusal(Path::new("/sys/trellis-chain"), &genesis()), OpenError::NotWritable { .. }));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_a_commit_and_the_same_block_is_committed_when_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("segments")).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("segments/000000.seg")).unwrap();
    assert!(matches!(refusal(folder.path(), &genesis()), OpenError::DiskFull { .. }));
    std::fs::remove_file(folder.path().join("segments/000000.seg")).unwrap();

    let config = StoreConfig { segment_bytes: 1_000, ..StoreConfig::default() };
    let store = Store::open(folder.path(), &genesis(), config.clone()).unwrap();
    let full = folder.path().join("segments/000001.seg");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let block = child(&store.head(), diff(vec![change(1, 2, &[])]));
    let error = store.commit(block.clone(), certificate(&block)).unwrap_err();
    assert!(matches!(error, CommitError::DiskFull { .. }), "{error}");
    assert_eq!(store.height(), 0);
    std::fs::remove_file(&full).unwrap();
    // The snapshots in the block keep the folder.
    drop((store, block));
    let store = Store::open(folder.path(), &genesis(), config).unwrap();
    store.commit(child(&store.head(), diff(vec![change(1, 2, &[])])), None).unwrap();
    assert_eq!(store.height(), 1);
}

#[test]
fn a_block_that_does_not_fit_the_head_is_not_committed() {
    let store = Store::in_memory(&genesis()).unwrap();
    let first = child(&store.head(), diff(vec![change(1, 2, &[])]));
    let second = child(&first.transition.post, diff(vec![change(1, 3, &[])]));
    assert!(matches!(store.commit(second.clone(), None), Err(CommitError::NotOnHead { height: 2, .. })));
    assert!(matches!(store.commit(first.clone(), certificate(&second)), Err(CommitError::Certificate { .. })));
    let mut lying = first.clone();
    let mut block = (*lying.block).clone();
    block.header.state_root = B256::repeat_byte(1);
    lying.block = Arc::new(block);
    assert!(matches!(store.commit(lying, None), Err(CommitError::StateRoot { .. })));
    assert_eq!(store.height(), 0);
    store.commit(first.clone(), certificate(&first)).unwrap();
    store.commit(second.clone(), certificate(&second)).unwrap();
    assert!(matches!(store.commit(second, None), Err(CommitError::NotOnHead { .. })));
}

#[test]
fn codes_are_found_before_and_after_the_commit_and_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let code = Bytes::from_static(&[0x60, 0, 0x60, 0, 0xf3]);
    let hash = keccak256(&code);
    let mut change = change(40, 1, &[]);
    change.account = Some(Account { code_hash: hash, nonce: 1, ..Account::default() });
    let mut diff = diff(vec![change]);
    diff.codes = vec![(hash, code.clone())];
    let block = child(&store.head(), diff);
    assert_eq!(store.head().code(hash).unwrap(), None);
    assert_eq!(block.transition.post.code(hash).unwrap(), Some(code.clone()));
    store.commit(block, None).unwrap();
    assert_eq!(store.head().code(hash).unwrap(), Some(code.clone()));
    drop(store);
    assert_eq!(open(folder.path()).head().code(hash).unwrap(), Some(code));
}

// row: CHN-22
#[test]
fn proofs_of_accounts_and_slots_verify_against_the_headers_root() {
    let store = Store::in_memory(&genesis()).unwrap();
    grow(&store, 10);
    for height in [0, 4, 10] {
        let view = store.state_at(height).unwrap();
        let root = store.header(height).unwrap().unwrap().state_root;
        for n in 0..40 {
            let slots: Vec<U256> = (0..12).map(U256::from).collect();
            let proof = view.proof(address(n), &slots);
            let leaf = proof.account.map(|a| {
                alloy_rlp::encode(TrieAccount {
                    nonce: a.nonce,
                    balance: a.balance,
                    storage_root: proof.storage_root,
                    code_hash: a.code_hash,
                })
            });
            assert_eq!(proof.account, view.account(address(n)));
            verify_proof(root, Nibbles::unpack(keccak256(address(n))), leaf, &proof.nodes).unwrap();
            for slot in &proof.storage {
                let key = Nibbles::unpack(keccak256(slot.slot.to_be_bytes::<32>()));
                let value = (!slot.value.is_zero()).then(|| alloy_rlp::encode(slot.value));
                assert_eq!(slot.value, view.storage(address(n), slot.slot));
                verify_proof(proof.storage_root, key, value, &slot.nodes).unwrap();
            }
        }
    }
}

#[test]
fn states_further_back_than_the_history_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { history_blocks: 5, ..StoreConfig::default() };
    for reopened in [false, true] {
        let store = Store::open(folder.path(), &genesis(), config.clone()).unwrap();
        if !reopened {
            grow(&store, 12);
        }
        for height in 7..=12 {
            assert_eq!(store.state_at(height).unwrap().height(), height);
        }
        for height in [0, 6, 13] {
            let error = store.state_at(height).unwrap_err();
            assert!(matches!(error, ReadError::StateNotKept { oldest: 7, newest: 12, .. }), "{error}");
        }
    }
}

/// Whose, new balance or gone, wiped, slots.
type PlainChange = (u64, Option<u64>, bool, Vec<(u64, u64)>);
type World = BTreeMap<Address, (Account, BTreeMap<U256, U256>)>;

fn random_diff() -> impl Strategy<Value = Vec<PlainChange>> {
    let slots = proptest::collection::vec((0_u64..6, 0_u64..4), 0..5);
    proptest::collection::vec((0_u64..25, proptest::option::weighted(0.8, 1_u64..99), any::<bool>(), slots), 0..8)
}

fn apply_plainly(world: &mut World, changes: &[PlainChange]) -> StateDiff {
    let mut by_address = BTreeMap::new();
    for (n, balance, wiped, slots) in changes {
        let storage: BTreeMap<U256, U256> = slots.iter().map(|(k, v)| (U256::from(*k), U256::from(*v))).collect();
        let storage = if balance.is_some() { storage } else { BTreeMap::new() };
        by_address.insert(address(*n), (balance.map(account), *wiped, storage));
    }
    let mut diff = StateDiff::default();
    for (address, (account, wiped, storage)) in by_address {
        match account {
            None => drop(world.remove(&address)),
            Some(account) => {
                let entry = world.entry(address).or_default();
                entry.0 = account;
                if wiped {
                    entry.1.clear();
                }
                entry.1.extend(storage.clone());
                entry.1.retain(|_, value| !value.is_zero());
            }
        }
        diff.accounts.push(AccountDiff { address, account, wiped, storage: storage.into_iter().collect() });
    }
    diff
}

fn check_against(view: &StateView, world: &World) -> Result<(), TestCaseError> {
    let plain = StateDiff {
        accounts: world
            .iter()
            .map(|(address, (account, storage))| AccountDiff {
                address: *address,
                account: Some(*account),
                wiped: false,
                storage: storage.clone().into_iter().collect(),
            })
            .collect(),
        codes: Vec::new(),
    };
    prop_assert_eq!(view.state_root(), state_root_of(&plain));
    for n in 0..25 {
        prop_assert_eq!(view.account(address(n)), world.get(&address(n)).map(|(account, _)| *account));
        for slot in (0..6).map(U256::from) {
            let expected = world.get(&address(n)).and_then(|(_, storage)| storage.get(&slot)).copied();
            prop_assert_eq!(view.storage(address(n), slot), expected.unwrap_or_default());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    // row: CHN-22
    #[test]
    fn every_kept_state_is_what_recomputing_it_gives_before_and_after_reopening(
        diffs in proptest::collection::vec(random_diff(), 1..10),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut world = World::new();
        let store = open(folder.path());
        for change in &genesis().state.accounts {
            world.insert(change.address, (change.account.unwrap(), change.storage.clone().into_iter().collect()));
        }
        let mut worlds = vec![world.clone()];
        for changes in &diffs {
            let block = child(&store.head(), apply_plainly(&mut world, changes));
            store.commit(block, None).unwrap();
            worlds.push(world.clone());
        }
        for (height, world) in worlds.iter().enumerate() {
            check_against(&store.state_at(height as u64).unwrap(), world)?;
        }
        drop(store);
        let store = open(folder.path());
        for (height, world) in worlds.iter().enumerate() {
            check_against(&store.state_at(height as u64).unwrap(), world)?;
        }
    }
}

const CHILD_FOLDER: &str = "TRELLIS_STORE_CHILD_FOLDER";

/// Not a test of its own: the process that the next test kills.
#[test]
fn child_process_that_commits_until_it_is_killed() {
    let Ok(folder) = std::env::var(CHILD_FOLDER) else { return };
    let store = open(Path::new(&folder));
    check_whole(&store);
    loop {
        grow(&store, 1);
        let mut out = std::io::stdout().lock();
        writeln!(out, "committed {}", store.height()).unwrap();
        out.flush().unwrap();
    }
}

// row: CHN-22
#[test]
fn a_process_killed_while_committing_loses_no_block_it_reported_and_serves_none_by_half() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    for round in 0..6_u64 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_process_that_commits_until_it_is_killed", "--nocapture", "--test-threads=1"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut reported = 0;
        let mut left = 3 + round * 2;
        for line in lines.by_ref() {
            if let Some(height) = line.unwrap().split("committed ").nth(1) {
                reported = height.trim().parse::<u64>().unwrap();
                left -= 1;
            }
            if left == 0 {
                break;
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(700 * round));
        process.kill().unwrap();
        process.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(Ok(height)) = line.split("committed ").nth(1).map(|h| h.trim().parse::<u64>()) {
                reported = height;
            }
        }
        assert!(reported > 0);
        let store = open(folder.path());
        assert!(store.height() >= reported, "{} < {reported}", store.height());
        check_whole(&store);
    }
}

/// What a kill leaves of a folder: its files as they are now, without what only the process knows.
fn as_killed(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("state.redb"), copy.path().join("state.redb")).unwrap();
    std::fs::create_dir(copy.path().join("segments")).unwrap();
    for entry in std::fs::read_dir(folder.join("segments")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join("segments").join(entry.file_name())).unwrap();
    }
    copy
}

fn grow_unsynced(store: &Store, blocks: u64) {
    for _ in 0..blocks {
        let head = store.head();
        let n = head.height() + 1;
        let block = child(&head, diff(vec![change(n % 30, 5_000 + n, &[(n % 5, n), (9, 0)])]));
        let certificate = certificate(&block);
        store.commit_unsynced(block, certificate).unwrap();
    }
}

// row: CHN-22, CHN-30
#[test]
fn blocks_that_were_not_synced_are_whole_or_not_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    // Segments of a few blocks, so that several are begun without a sync.
    let config = StoreConfig { segment_bytes: 2_000, ..StoreConfig::default() };
    let store = Store::open(folder.path(), &genesis(), config.clone()).unwrap();
    grow(&store, 5);
    grow_unsynced(&store, 30);
    let killed = as_killed(folder.path());
    store.sync().unwrap();
    let synced = as_killed(folder.path());
    let again = Store::open(killed.path(), &genesis(), config.clone()).unwrap();
    assert!((5..=35).contains(&again.height()), "{}", again.height());
    check_whole(&again);
    let missing = 35 - again.height();
    grow_unsynced(&again, missing);
    assert_eq!(again.head().block_hash(), store.head().block_hash());
    let again = Store::open(synced.path(), &genesis(), config).unwrap();
    assert_eq!(again.height(), 35);
    check_whole(&again);
}

/// Imports the state of one store, and its newest blocks, into a folder.
fn import(store: &Store, first: u64, folder: &Path) -> Result<(), ImportError> {
    let mut importer = Importer::begin(folder, &genesis(), &StoreConfig::default())?;
    store
        .state_parts::<ReadError>(&mut |part| {
            let part = StatePart::from_rlp(&part.to_rlp()).unwrap();
            importer.take(&part).unwrap();
            Ok(())
        })
        .unwrap();
    for height in first..=store.height() {
        importer.block(&store.block(height).unwrap().unwrap())?;
    }
    importer.finish()
}

// row: CHN-23
#[test]
fn a_store_begins_with_the_state_of_another_one_and_goes_on_like_it() {
    let store = Store::in_memory(&genesis()).unwrap();
    grow(&store, 300);
    let code = Bytes::from_static(b"\x60\x01");
    let mut made = diff(vec![change(99, 1, &[])]);
    made.accounts[0].account = Some(Account { code_hash: keccak256(&code), ..account(1) });
    made.codes = vec![(keccak256(&code), code.clone())];
    let block = child(&store.head(), made);
    let certified = certificate(&block);
    store.commit(block, certified).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let chain = folder.path().join("chain");
    import(&store, 290, &chain).unwrap();
    let imported = open(&chain);
    assert_eq!(imported.head().state_root(), store.head().state_root());
    assert_eq!((imported.height(), imported.first_height().unwrap()), (301, 290));
    assert_eq!(imported.head().code(keccak256(&code)).unwrap(), Some(code));
    assert!(imported.block(289).unwrap().is_none() && imported.block(0).unwrap().is_some());
    assert_eq!(imported.block(295).unwrap().unwrap().hash, store.block(295).unwrap().unwrap().hash);
    grow(&store, 10);
    grow(&imported, 10);
    assert_eq!(imported.head().block_hash(), store.head().block_hash());
    drop(imported);
    let reopened = open(&chain);
    assert_eq!(reopened.head().block_hash(), store.head().block_hash());
    // A chain that is there is not replaced.
    assert!(matches!(import(&store, 290, &chain), Err(ImportError::NotEmpty { .. })));
}

// row: CHN-23
#[test]
fn a_state_that_is_not_the_blocks_is_not_imported_and_leaves_nothing_behind() {
    let (store, other) = (Store::in_memory(&genesis()).unwrap(), Store::in_memory(&genesis()).unwrap());
    grow(&store, 3);
    grow(&other, 4);
    let folder = tempfile::tempdir().unwrap();
    let chain = folder.path().join("chain");
    let mut importer = Importer::begin(&chain, &genesis(), &StoreConfig::default()).unwrap();
    other
        .state_parts::<ReadError>(&mut |part| {
            importer.take(&part).unwrap();
            Ok(())
        })
        .unwrap();
    importer.block(&store.block(3).unwrap().unwrap()).unwrap();
    assert!(matches!(importer.finish(), Err(ImportError::StateRoot { height: 3, .. })));
    assert!(!chain.exists());
    import(&store, 3, &chain).unwrap();
    assert_eq!(open(&chain).head().state_root(), store.head().state_root());
}

// row: CHN-23
#[test]
fn a_large_state_is_imported_and_opened_again() {
    let accounts: u64 = std::env::var("TRELLIS_PROOF_ACCOUNTS").map_or(5_000, |text| text.parse().unwrap());
    let state = diff((0..accounts).map(|n| change(n, 1_000 + n, &[(1, n + 1)])).collect());
    let header = Header { state_root: state_root_of(&state), ..Header::default() };
    let large = Genesis { block: Block { header, transactions: vec![], section: ConsensusSection::default() }, state };
    let store = Store::in_memory(&large).unwrap();
    grow(&store, 1);
    let mut parts = Vec::new();
    let began = Instant::now();
    store
        .state_parts::<ReadError>(&mut |part| {
            parts.push(part.to_rlp());
            Ok(())
        })
        .unwrap();
    let exported = began.elapsed().as_secs_f64();
    let bytes: usize = parts.iter().map(Vec::len).sum();
    let folder = tempfile::tempdir().unwrap();
    let chain = folder.path().join("chain");
    let began = Instant::now();
    let mut importer = Importer::begin(&chain, &large, &StoreConfig::default()).unwrap();
    for part in &parts {
        importer.take(&StatePart::from_rlp(part).unwrap()).unwrap();
    }
    importer.block(&store.block(1).unwrap().unwrap()).unwrap();
    importer.finish().unwrap();
    let imported = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let opened = Store::open(&chain, &large, StoreConfig::default()).unwrap();
    let opening = began.elapsed().as_secs_f64();
    assert_eq!(opened.head().state_root(), store.head().state_root());
    let result = serde_json::json!({
        "accounts": accounts,
        "slots": accounts,
        "bytes": bytes,
        "export_seconds": exported,
        "import_seconds": imported,
        "open_seconds": opening,
    });
    println!("{result}");
    trellis_scenarios::proof::write("snapshot", &result);
}
