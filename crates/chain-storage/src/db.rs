//! The only module that knows the database engine: tables, one write per block, typed reads.

mod checkpoints;
mod parts;

use crate::codec::{decode_hashed_diff, encode_hashed_diff};
use crate::diff::HashedDiff;
use crate::lock::FolderLock;
use crate::segment::Location;
use crate::{Account, AccountDiff, CommittedBlock, OpenError, StateDiff, TxLocation};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::{Decodable, Encodable};
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    TableError, WriteTransaction,
};
use std::path::{Path, PathBuf};
use trellis_primitives::{CommitCertificate, Header};

/// The name and version of the folder's format; another text is another format.
pub(crate) const FORMAT: &str = "trellis-chain/1";

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ACCOUNTS: TableDefinition<'_, &[u8; 20], &[u8; 72]> = TableDefinition::new("accounts");
const STORAGE: TableDefinition<'_, &[u8; 52], &[u8; 32]> = TableDefinition::new("storage");
const CODES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("codes");
const HEADERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("headers");
const HEIGHTS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("heights");
const TRANSACTIONS: TableDefinition<'_, &[u8; 32], (u64, u32)> = TableDefinition::new("transactions");
const CERTIFICATES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("certificates");
const LOCATIONS: TableDefinition<'_, u64, (u32, u64, u32)> = TableDefinition::new("locations");
const EVIDENCE: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("evidence");
const UNDO: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("undo");

const FORMAT_KEY: &str = "format";
const TIP_KEY: &str = "tip";
/// The lowest height whose block is held beside block zero, where the store began with a snapshot.
const BASE_KEY: &str = "base";

type DbResult<T> = Result<T, redb::Error>;

/// Everything the database gets to know about one block.
pub(crate) struct BlockWrite<'a> {
    pub(crate) block: &'a CommittedBlock,
    pub(crate) diff: &'a StateDiff,
    /// What leads back to the state before; none where that is not known.
    pub(crate) undo: Option<&'a HashedDiff>,
    pub(crate) location: Location,
    /// The height whose reverse diff is needed no longer.
    pub(crate) forget_undo: Option<u64>,
}

/// The open database; the folder stays locked as long as it lives.
pub(crate) struct Db {
    database: Database,
    pub(crate) path: PathBuf,
    _lock: Option<FolderLock>,
}

fn damaged(what: &'static str) -> redb::Error {
    redb::Error::Corrupted(what.to_owned())
}

fn pack_account(account: &Account) -> [u8; 72] {
    let mut out = [0_u8; 72];
    let (nonce, rest) = out.split_at_mut(8);
    let (balance, code_hash) = rest.split_at_mut(32);
    nonce.copy_from_slice(&account.nonce.to_be_bytes());
    balance.copy_from_slice(&account.balance.to_be_bytes::<32>());
    code_hash.copy_from_slice(account.code_hash.as_slice());
    out
}

fn unpack_account(bytes: &[u8; 72]) -> Account {
    let (nonce, rest) = bytes.split_at(8);
    let (balance, code_hash) = rest.split_at(32);
    Account {
        nonce: nonce.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte)),
        balance: U256::from_be_slice(balance),
        code_hash: B256::from_slice(code_hash),
    }
}

fn slot_key(address: &Address, slot: U256) -> [u8; 52] {
    let mut out = [0_u8; 52];
    let (a, s) = out.split_at_mut(20);
    a.copy_from_slice(address.as_slice());
    s.copy_from_slice(&slot.to_be_bytes::<32>());
    out
}

fn rlp_of(value: &impl Encodable) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.length());
    value.encode(&mut out);
    out
}

/// A table that does not exist yet reads as empty.
fn existing<T>(table: Result<T, TableError>) -> DbResult<Option<T>> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Db {
    pub(crate) fn open(path: &Path, cache_bytes: usize, lock: FolderLock) -> Result<Self, OpenError> {
        let database = Database::builder().set_cache_size(cache_bytes).create(path).map_err(|error| match error {
            redb::DatabaseError::Storage(StorageError::Io(source)) => match source.kind() {
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData => {
                    OpenError::DatabaseDamaged { path: path.to_path_buf(), what: source.to_string() }
                }
                _ => OpenError::from_io(path, source),
            },
            redb::DatabaseError::UpgradeRequired(version) => {
                OpenError::Format { expected: FORMAT.to_owned(), found: format!("database engine format {version}") }
            }
            error => OpenError::DatabaseDamaged { path: path.to_path_buf(), what: error.to_string() },
        })?;
        Ok(Self { database, path: path.to_path_buf(), _lock: Some(lock) })
    }

    pub(crate) fn in_memory() -> Result<Self, OpenError> {
        let database = Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .map_err(|error| OpenError::DatabaseDamaged { path: PathBuf::new(), what: error.to_string() })?;
        Ok(Self { database, path: PathBuf::from("memory"), _lock: None })
    }

    /// Runs a read on one table; none where the table or what it looks for does not exist.
    fn read<K: redb::Key + 'static, V: redb::Value + 'static, T>(
        &self,
        table: TableDefinition<'_, K, V>,
        read: impl FnOnce(ReadOnlyTable<K, V>) -> DbResult<Option<T>>,
    ) -> DbResult<Option<T>> {
        let txn = self.database.begin_read()?;
        match existing(txn.open_table(table))? {
            Some(table) => read(table),
            None => Ok(None),
        }
    }

    pub(crate) fn format(&self) -> DbResult<Option<String>> {
        self.read(META, |t| Ok(t.get(FORMAT_KEY)?.map(|v| String::from_utf8_lossy(v.value()).into_owned())))
    }

    pub(crate) fn tip(&self) -> DbResult<Option<u64>> {
        self.height_in_meta(TIP_KEY)
    }

    /// The lowest height whose block is held beside block zero; none where the store has them all.
    pub(crate) fn base(&self) -> DbResult<Option<u64>> {
        self.height_in_meta(BASE_KEY)
    }

    fn height_in_meta(&self, key: &str) -> DbResult<Option<u64>> {
        self.read(META, |t| match t.get(key)? {
            None => Ok(None),
            Some(v) => {
                let bytes = v.value().try_into().map_err(|_| damaged("a height is not eight bytes"))?;
                Ok(Some(u64::from_be_bytes(bytes)))
            }
        })
    }

    pub(crate) fn header(&self, height: u64) -> DbResult<Option<Header>> {
        self.read(HEADERS, |t| match t.get(height)? {
            None => Ok(None),
            Some(v) => Header::decode(&mut v.value()).map(Some).map_err(|_| damaged("a header does not decode")),
        })
    }

    pub(crate) fn height_of(&self, hash: &B256) -> DbResult<Option<u64>> {
        self.read(HEIGHTS, |t| Ok(t.get(&hash.0)?.map(|v| v.value())))
    }

    pub(crate) fn transaction(&self, hash: &B256) -> DbResult<Option<TxLocation>> {
        self.read(TRANSACTIONS, |t| {
            Ok(t.get(&hash.0)?.map(|v| {
                let (block, index) = v.value();
                TxLocation { block, index }
            }))
        })
    }

    pub(crate) fn certificate(&self, height: u64) -> DbResult<Option<CommitCertificate>> {
        self.read(CERTIFICATES, |t| match t.get(height)? {
            None => Ok(None),
            Some(v) => CommitCertificate::decode(&mut v.value())
                .map(Some)
                .map_err(|_| damaged("a certificate does not decode")),
        })
    }

    pub(crate) fn location(&self, height: u64) -> DbResult<Option<Location>> {
        self.read(LOCATIONS, |t| {
            Ok(t.get(height)?.map(|v| {
                let (segment, offset, bytes) = v.value();
                Location { segment, offset, bytes }
            }))
        })
    }

    pub(crate) fn code(&self, hash: &B256) -> DbResult<Option<Bytes>> {
        self.read(CODES, |t| Ok(t.get(&hash.0)?.map(|v| Bytes::copy_from_slice(v.value()))))
    }

    pub(crate) fn undo(&self, height: u64) -> DbResult<Option<HashedDiff>> {
        self.read(UNDO, |t| match t.get(height)? {
            None => Ok(None),
            Some(v) => decode_hashed_diff(v.value()).map(Some).map_err(|_| damaged("a reverse diff does not decode")),
        })
    }

    /// The whole flat state as one diff from nothing, without the codes.
    pub(crate) fn flat_state(&self) -> DbResult<StateDiff> {
        let txn = self.database.begin_read()?;
        let mut accounts = Vec::new();
        let (Some(account_table), Some(storage_table)) =
            (existing(txn.open_table(ACCOUNTS))?, existing(txn.open_table(STORAGE))?)
        else {
            return Ok(StateDiff::default());
        };
        let mut slots = storage_table.iter()?.peekable();
        for entry in account_table.iter()? {
            let (key, value) = entry?;
            let address = Address::from(*key.value());
            // Both tables are sorted by address, so one walk through both is enough.
            let mut storage = Vec::new();
            while let Some(slot) = slots.peek() {
                let Ok((key, value)) = slot else { break };
                let key = key.value();
                let (owner, slot) = key.split_at(20);
                if owner > address.as_slice() {
                    break;
                }
                if owner == address.as_slice() {
                    storage.push((U256::from_be_slice(slot), U256::from_be_slice(value.value())));
                }
                slots.next();
            }
            if let Some(Err(error)) = slots.next_if(Result::is_err) {
                return Err(error.into());
            }
            accounts.push(AccountDiff { address, account: Some(unpack_account(value.value())), wiped: false, storage });
        }
        Ok(StateDiff { accounts, codes: Vec::new() })
    }

    /// Writes what was learnt about a block after its commit: a fuller certificate, durable with the next durable write; evidence
    /// by its keccak, durable at once. Gives the evidence that was not there before.
    pub(crate) fn amend(&self, certificate: &CommitCertificate, evidence: &[Bytes]) -> DbResult<Vec<Bytes>> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(if evidence.is_empty() { Durability::None } else { Durability::Immediate })?;
        txn.open_table(CERTIFICATES)?.insert(certificate.height, rlp_of(certificate).as_slice())?;
        let mut fresh = Vec::new();
        {
            let mut table = txn.open_table(EVIDENCE)?;
            for item in evidence {
                if table.insert(&keccak256(item).0, item.as_ref())?.is_none() {
                    fresh.push(item.clone());
                }
            }
        }
        txn.commit()?;
        Ok(fresh)
    }

    /// Makes durable what was written without being so.
    pub(crate) fn sync(&self) -> DbResult<()> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.commit()?;
        Ok(())
    }

    /// All evidence kept.
    pub(crate) fn evidence(&self) -> DbResult<Vec<Bytes>> {
        let list = self.read(EVIDENCE, |t| {
            let all: Result<Vec<Bytes>, redb::StorageError> =
                t.iter()?.map(|entry| entry.map(|(_, v)| Bytes::copy_from_slice(v.value()))).collect();
            Ok(Some(all?))
        })?;
        Ok(list.unwrap_or_default())
    }

    /// Writes a block and makes it the tip in one transaction, durably where that is wanted.
    pub(crate) fn write(&self, write: &BlockWrite<'_>, sync: bool) -> DbResult<()> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(if sync { Durability::Immediate } else { Durability::None })?;
        write_state(&txn, write.diff)?;
        write_indices(&txn, write)?;
        {
            let mut meta = txn.open_table(META)?;
            meta.insert(FORMAT_KEY, FORMAT.as_bytes())?;
            meta.insert(TIP_KEY, write.block.height().to_be_bytes().as_slice())?;
        }
        txn.commit()?;
        Ok(())
    }
}

fn write_state(txn: &WriteTransaction, diff: &StateDiff) -> DbResult<()> {
    let mut accounts = txn.open_table(ACCOUNTS)?;
    let mut storage = txn.open_table(STORAGE)?;
    for change in &diff.accounts {
        match &change.account {
            Some(account) => accounts.insert(&change.address.0.0, &pack_account(account))?,
            None => accounts.remove(&change.address.0.0)?,
        };
        if change.wiped || change.account.is_none() {
            wipe(&mut storage, &change.address)?;
        }
        for (slot, value) in &change.storage {
            let key = slot_key(&change.address, *slot);
            if value.is_zero() {
                storage.remove(&key)?;
            } else {
                storage.insert(&key, &value.to_be_bytes::<32>())?;
            }
        }
    }
    let mut codes = txn.open_table(CODES)?;
    for (hash, code) in &diff.codes {
        codes.insert(&hash.0, code.as_ref())?;
    }
    Ok(())
}

fn wipe(storage: &mut Table<'_, &[u8; 52], &[u8; 32]>, address: &Address) -> DbResult<()> {
    let (first, last) = (slot_key(address, U256::ZERO), slot_key(address, U256::MAX));
    storage.retain_in::<&[u8; 52], _>(&first..=&last, |_, _| false)?;
    Ok(())
}

fn write_indices(txn: &WriteTransaction, write: &BlockWrite<'_>) -> DbResult<()> {
    let block = write.block;
    let height = block.height();
    txn.open_table(HEADERS)?.insert(height, rlp_of(&block.block.header).as_slice())?;
    txn.open_table(HEIGHTS)?.insert(&block.hash.0, height)?;
    let Location { segment, offset, bytes } = write.location;
    txn.open_table(LOCATIONS)?.insert(height, (segment, offset, bytes))?;
    if let Some(certificate) = &block.certificate {
        txn.open_table(CERTIFICATES)?.insert(height, rlp_of(certificate).as_slice())?;
    }
    let mut transactions = txn.open_table(TRANSACTIONS)?;
    for (index, tx) in block.block.transactions.iter().enumerate() {
        let index = u32::try_from(index).map_err(|_| damaged("a block with over 2^32 transactions"))?;
        transactions.insert(&tx.tx_hash().0, (height, index))?;
    }
    let mut undo = txn.open_table(UNDO)?;
    if let Some(back) = write.undo {
        undo.insert(height, encode_hashed_diff(back).as_slice())?;
    }
    if let Some(old) = write.forget_undo {
        undo.remove(old)?;
    }
    Ok(())
}
