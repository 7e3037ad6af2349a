//! The whole state out of a store in parts, and into a new store whose blocks begin where the snapshot was taken (CHN-23).

use crate::codec::{decode_state_diff, encode_record, encode_state_diff};
use crate::config::StoreConfig;
use crate::db::Db;
use crate::lock::FolderLock;
use crate::segment::{Cursor, Segments};
use crate::service::Store;
use crate::state::WorldState;
use crate::{CommittedBlock, Genesis, OpenError, ReadError, StateDiff};
use alloy_primitives::{B256, Bytes, KECCAK256_EMPTY, keccak256};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A part of the state is closed when it has so many accounts and slots.
pub const STATE_PART_ENTRIES: usize = 10_000;
/// Codes of a part at most, in bytes, beyond the first.
pub const STATE_PART_CODE_BYTES: usize = 1024 * 1024;

/// A part of the flat state: accounts with slots and codes. An account with many slots goes through several parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePart(pub(crate) StateDiff);

impl StatePart {
    /// Its RLP.
    #[must_use]
    pub fn to_rlp(&self) -> Vec<u8> {
        encode_state_diff(&self.0)
    }

    /// Reads its RLP.
    ///
    /// # Errors
    /// What is not RLP of a part, an account that is gone, a slot that is empty.
    pub fn from_rlp(bytes: &[u8]) -> Result<Self, alloy_rlp::Error> {
        let diff = decode_state_diff(bytes)?;
        for account in &diff.accounts {
            if account.account.is_none() || account.wiped {
                return Err(alloy_rlp::Error::Custom("a part of a state removes an account"));
            }
            if account.storage.iter().any(|(_, value)| value.is_zero()) {
                return Err(alloy_rlp::Error::Custom("a part of a state has an empty slot"));
            }
        }
        Ok(Self(diff))
    }

    /// A part that has codes only.
    #[must_use]
    pub fn of_codes(codes: Vec<Bytes>) -> Self {
        let codes = codes.into_iter().map(|code| (keccak256(&code), code)).collect();
        Self(StateDiff { accounts: Vec::new(), codes })
    }

    /// Accounts in it.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.0.accounts.len()
    }
}

/// Why a state is not the one that a block commits to, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There is a chain already.
    #[error("{folder} holds a chain already")]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// The parts make another state.
    #[error("the parts have the state root {found}, block {height} says {expected}")]
    StateRoot {
        /// The block.
        height: u64,
        /// In its header.
        expected: B256,
        /// Of the parts.
        found: B256,
    },
    /// An account's code is in no part.
    #[error("the code {hash} of an account is missing")]
    MissingCode {
        /// Its keccak.
        hash: B256,
    },
    /// There is no block to stand on.
    #[error("a snapshot has one block at least")]
    NoBlock,
    /// The folder or its database failed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database failed.
    #[error("database: {0}")]
    Database(String),
    /// A file could not be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's account.
        source: std::io::Error,
    },
}

impl From<redb::Error> for ImportError {
    fn from(error: redb::Error) -> Self {
        Self::Database(error.to_string())
    }
}

/// Puts parts together in memory and compares them with what a block commits to.
#[derive(Default)]
pub struct StateCheck {
    world: WorldState,
    needed: HashSet<B256>,
    codes: HashSet<B256>,
    accounts: u64,
}

impl std::fmt::Debug for StateCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateCheck").field("accounts", &self.accounts).finish_non_exhaustive()
    }
}

impl StateCheck {
    /// Takes one more part.
    pub fn take(&mut self, part: &StatePart) {
        self.world = self.world.apply(&part.0.hashed());
        self.accounts = self.accounts.saturating_add(part.0.accounts.len() as u64);
        let hashes = part.0.accounts.iter().filter_map(|account| account.account.map(|found| found.code_hash));
        self.needed.extend(hashes.filter(|hash| *hash != KECCAK256_EMPTY));
        self.codes.extend(part.0.codes.iter().map(|(hash, _)| *hash));
    }

    /// Compares everything so far with the state after a block.
    ///
    /// # Errors
    /// [`ImportError::StateRoot`], [`ImportError::MissingCode`].
    pub fn check(&self, height: u64, expected: B256) -> Result<(), ImportError> {
        let found = self.world.root();
        if found != expected {
            return Err(ImportError::StateRoot { height, expected, found });
        }
        match self.needed.difference(&self.codes).next() {
            Some(hash) => Err(ImportError::MissingCode { hash: *hash }),
            None => Ok(()),
        }
    }
}

impl Store {
    /// Hands out the whole state after the newest block, part by part. Nothing may be committed meanwhile; what is, is an
    /// error.
    ///
    /// # Errors
    /// The database's, and the receiver's own.
    pub fn state_parts<E: From<ReadError>>(
        &self,
        receive: &mut dyn FnMut(StatePart) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut failed = None;
        let mut given = HashSet::new();
        let reader = self.reader();
        let outcome = reader.db.for_each_part(self.height(), STATE_PART_ENTRIES, &mut |accounts| {
            let mut part = StateDiff { accounts, codes: Vec::new() };
            let mut code_bytes = 0usize;
            let mut more = Vec::new();
            for hash in part.accounts.iter().filter_map(|account| account.account.map(|found| found.code_hash)) {
                if hash == KECCAK256_EMPTY || !given.insert(hash) {
                    continue;
                }
                let code = reader.db.code(&hash)?.unwrap_or_default();
                code_bytes = code_bytes.saturating_add(code.len());
                if code_bytes > STATE_PART_CODE_BYTES && !part.codes.is_empty() {
                    more.push(StateDiff { accounts: Vec::new(), codes: vec![(hash, code)] });
                } else {
                    part.codes.push((hash, code));
                }
            }
            for part in std::iter::once(part).chain(more) {
                if let Err(error) = receive(StatePart(part)) {
                    failed = Some(error);
                    return Ok(false);
                }
            }
            Ok(true)
        });
        match (failed, outcome) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => Err(ReadError::from(error).into()),
            (None, Ok(())) => Ok(()),
        }
    }
}

/// Makes a store from a snapshot: in a folder beside the one that is wanted, which takes its name when all is there.
pub struct Importer {
    folder: PathBuf,
    building: PathBuf,
    db: Db,
    segments: Segments,
    cursor: Cursor,
    state: StateCheck,
    first: Option<u64>,
    /// Height and state root of the last block.
    last: Option<(u64, B256)>,
}

impl std::fmt::Debug for Importer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Importer").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Importer {
    /// Begins. What an import that was interrupted left behind is removed.
    ///
    /// # Errors
    /// [`ImportError::NotEmpty`] where there is a chain already; files.
    pub fn begin(folder: &Path, genesis: &Genesis, config: &StoreConfig) -> Result<Self, ImportError> {
        if folder.join("state.redb").exists() {
            return Err(ImportError::NotEmpty { folder: folder.to_path_buf() });
        }
        let mut name = folder.file_name().unwrap_or_default().to_os_string();
        name.push(".importing");
        let building = folder.with_file_name(name);
        let file = |path: &Path| {
            let path = path.to_path_buf();
            move |source| ImportError::File { path, source }
        };
        if building.exists() {
            std::fs::remove_dir_all(&building).map_err(file(&building))?;
        }
        std::fs::create_dir_all(&building).map_err(file(&building))?;
        let lock = FolderLock::acquire(&building)?;
        let db = Db::open(&building.join("state.redb"), config.cache_bytes, lock)?;
        let segments = Segments::open(&building.join("segments"), config.segment_bytes)?;
        let mut importer = Self {
            folder: folder.to_path_buf(),
            building,
            db,
            segments,
            cursor: Cursor::START,
            state: StateCheck::default(),
            first: None,
            last: None,
        };
        importer.place(&CommittedBlock {
            block: std::sync::Arc::new(genesis.block.clone()),
            hash: genesis.hash(),
            senders: Vec::new(),
            receipts: Vec::new(),
            certificate: None,
            ethereum: None,
        })?;
        Ok(importer)
    }

    /// Takes one more part.
    ///
    /// # Errors
    /// The database failed.
    pub fn take(&mut self, part: &StatePart) -> Result<(), ImportError> {
        self.state.take(part);
        Ok(self.db.import_state(&part.0)?)
    }

    /// Takes one more block; they come in their order, and the last is the one whose state it is. Hash, body and receipts
    /// must have been compared with each other, and the senders recovered.
    ///
    /// # Errors
    /// Files, the database.
    pub fn block(&mut self, block: &CommittedBlock) -> Result<(), ImportError> {
        self.place(block)?;
        self.first = self.first.or(Some(block.height()));
        self.last = Some((block.height(), block.block.header.state_root));
        Ok(())
    }

    fn place(&mut self, block: &CommittedBlock) -> Result<(), ImportError> {
        let payload = encode_record(block, &StateDiff::default());
        let path = self.segments.path(self.cursor.segment);
        let appended = self.segments.append(self.cursor, block.height(), &payload, false);
        let location = appended.map_err(|source| ImportError::File { path, source })?;
        self.cursor = location.end();
        Ok(self.db.import_block(block, location)?)
    }

    /// Compares the state with the last block, makes everything durable, and gives the folder its name.
    ///
    /// # Errors
    /// [`ImportError`]; the wanted folder then is as it was.
    pub fn finish(self) -> Result<(), ImportError> {
        let Self { folder, building, db, segments, cursor, state, first, last } = self;
        let (height, state_root) = last.ok_or(ImportError::NoBlock)?;
        state.check(height, state_root)?;
        segments.sync().map_err(|source| ImportError::File { path: segments.path(cursor.segment), source })?;
        db.import_end(first.unwrap_or(height), height)?;
        drop(db);
        let file = |path: &Path| {
            let path = path.to_path_buf();
            move |source| ImportError::File { path, source }
        };
        if folder.exists() {
            // It holds no chain, so it holds nothing but a lock at most; anything else is not ours to remove.
            let lock = folder.join("LOCK");
            if lock.exists() {
                std::fs::remove_file(&lock).map_err(file(&lock))?;
            }
            std::fs::remove_dir(&folder).map_err(file(&folder))?;
        }
        std::fs::rename(&building, &folder).map_err(file(&folder))
    }
}
