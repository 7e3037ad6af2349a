//! The provider records that this node keeps for others: bounded, and on disk over a restart (NET-35).
//!
//! Layout of the file: magic `TRLK`, a 16-bit version, SHA3-256 of the rest, then a prost `RecordsFile`. Times on disk are
//! milliseconds since 1970; the library's own clock begins anew with every run.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::kad::store::{Error, RecordStore};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use parking_lot::Mutex;
use prost::Message;
use thiserror::Error as ThisError;
use trellis_net_transport::socket_of;
use trellis_primitives::UnixMs;

use super::{KEY_BYTES, PROVIDER_ADDRESSES_MAX, PROVIDER_TTL_MS, read_key};
use crate::discovery::address::AddressGroup;

/// What the file begins with.
pub const RECORDS_FILE_MAGIC: [u8; 4] = *b"TRLK";
/// The version of the layout.
pub const RECORDS_FILE_VERSION: u16 = 1;
/// Bytes of the file at most: every key full.
pub const RECORDS_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Keys with providers.
pub const KEYS_MAX: usize = 1_024;
/// Providers of one key.
pub const PROVIDERS_PER_KEY_MAX: usize = 20;
/// Providers of one key whose first address is in one group of neighbours, so that one party cannot fill a key.
pub const PROVIDERS_PER_GROUP_MAX: usize = 4;
/// Bytes of one address.
pub const ADDRESS_BYTES_MAX: usize = 128;
/// Bytes before the body.
const HEAD_BYTES: usize = 4 + 2 + 32;

/// Why a file of records could not be read.
#[derive(Debug, ThisError)]
pub enum RecordsFileError {
    /// The file system refused.
    #[error("cannot read the provider records: {0}")]
    Read(#[from] std::io::Error),
    /// The content is not such a file, or not whole.
    #[error("the provider records are damaged: {0}")]
    Damaged(String),
    /// The records of another network.
    #[error("the provider records are of network {actual:#010x}, expected {expected:#010x}")]
    OtherNetwork {
        /// This node's network.
        expected: u32,
        /// The file's.
        actual: u32,
    },
}

#[derive(Clone, PartialEq, Message)]
struct SavedProvider {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    provider: Vec<u8>,
    #[prost(uint64, tag = "3")]
    expires_ms: u64,
    #[prost(bytes = "vec", repeated, tag = "4")]
    addresses: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct RecordsFile {
    #[prost(fixed32, tag = "1")]
    network_magic: u32,
    #[prost(message, repeated, tag = "2")]
    providers: Vec<SavedProvider>,
}

/// One provider of one key.
#[derive(Clone, Debug)]
struct Kept {
    provider: PeerId,
    expires: Instant,
    addresses: Vec<Multiaddr>,
}

impl Kept {
    fn group(&self) -> Option<AddressGroup> {
        // Over a relay it is the relay's.
        let (socket, _) = socket_of(self.addresses.first()?)?;
        Some(AddressGroup::of(socket))
    }
}

#[derive(Debug, Default)]
struct Inner {
    keys: BTreeMap<[u8; KEY_BYTES], Vec<Kept>>,
    /// What this node itself announces.
    own: BTreeMap<[u8; KEY_BYTES], ProviderRecord>,
}

impl Inner {
    /// Forgets one key of the provider that has most of them, if that is not the newcomer, so that a few with a great many
    /// keys shut nobody out. `false` where there is none to be forgotten.
    fn make_room(&mut self, newcomer: &PeerId) -> bool {
        let mut counts: BTreeMap<PeerId, usize> = BTreeMap::new();
        for one in self.keys.values().flatten() {
            *counts.entry(one.provider).or_default() += 1;
        }
        let own = counts.get(newcomer).copied().unwrap_or_default();
        let Some((most, count)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return false };
        if count <= own + 1 {
            return false;
        }
        let alone = self.keys.iter().filter(|(_, list)| list.iter().all(|one| one.provider == most));
        let first = alone.min_by_key(|(_, list)| list.first().map(|one| one.expires)).map(|(key, _)| *key);
        first.is_some_and(|key| self.keys.remove(&key).is_some())
    }
}

/// The store, shared between the library that asks it and the task that saves it.
#[derive(Clone, Debug)]
pub struct ProviderStore {
    local: PeerId,
    inner: Arc<Mutex<Inner>>,
    changed: Arc<AtomicBool>,
}

impl ProviderStore {
    /// An empty store of a node.
    #[must_use]
    pub fn new(local: PeerId) -> Self {
        Self { local, inner: Arc::default(), changed: Arc::default() }
    }

    /// Records of other nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.lock().keys.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether something changed since this was last asked.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    /// Keeps a provider of a key, if the bounds allow.
    fn keep(&self, key: [u8; KEY_BYTES], kept: Kept) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        if inner.keys.len() >= KEYS_MAX && !inner.keys.contains_key(&key) {
            inner.keys.values_mut().for_each(|list| list.retain(|one| one.expires > now));
            inner.keys.retain(|_, list| !list.is_empty());
            if inner.keys.len() >= KEYS_MAX && !inner.make_room(&kept.provider) {
                return Err(Error::MaxProvidedKeys);
            }
        }
        let list = inner.keys.entry(key).or_default();
        list.retain(|one| one.expires > now && one.provider != kept.provider);
        let group = kept.group();
        let neighbours = |one: &Kept| group.is_some() && one.group() == group;
        // Whoever was told longest ago gives way: among his neighbours where they are too many, among all otherwise.
        if list.iter().filter(|one| neighbours(one)).count() >= PROVIDERS_PER_GROUP_MAX {
            remove_oldest(list, neighbours);
        } else if list.len() >= PROVIDERS_PER_KEY_MAX {
            remove_oldest(list, |_| true);
        }
        list.push(kept);
        drop(inner);
        self.changed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The bytes of the file, with times as the wall clock has them.
    pub(crate) fn encode(&self, network_magic: u32, now: UnixMs) -> Vec<u8> {
        let (inner, instant) = (self.inner.lock(), Instant::now());
        let save = |(key, one): (&[u8; KEY_BYTES], &Kept)| {
            let left_ms = u64::try_from(one.expires.saturating_duration_since(instant).as_millis()).unwrap_or(0);
            SavedProvider {
                key: key.to_vec(),
                provider: one.provider.to_bytes(),
                expires_ms: now.plus_ms(left_ms).0,
                addresses: one.addresses.iter().map(Multiaddr::to_vec).collect(),
            }
        };
        let all = inner.keys.iter().flat_map(|(key, list)| list.iter().map(move |one| (key, one)));
        let body = RecordsFile { network_magic, providers: all.map(save).collect() }.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(&RECORDS_FILE_MAGIC);
        bytes.extend_from_slice(&RECORDS_FILE_VERSION.to_be_bytes());
        bytes.extend_from_slice(&trellis_crypto::sha3_256(&[&body]));
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Takes back what [`Self::encode`] wrote; what has expired or breaks a bound is left out.
    ///
    /// # Errors
    /// [`RecordsFileError`] where it is not such a file.
    pub(crate) fn restore(&self, bytes: &[u8], network_magic: u32, now: UnixMs) -> Result<(), RecordsFileError> {
        let damaged = |detail: &str| RecordsFileError::Damaged(detail.to_owned());
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(|| damaged("too short"))?;
        let rest = head.strip_prefix(&RECORDS_FILE_MAGIC).ok_or_else(|| damaged("another magic"))?;
        let hash = rest.strip_prefix(&RECORDS_FILE_VERSION.to_be_bytes()).ok_or_else(|| damaged("another version"))?;
        if hash != trellis_crypto::sha3_256(&[body]) {
            return Err(damaged("the checksum differs"));
        }
        let file = RecordsFile::decode(body).map_err(|error| damaged(&error.to_string()))?;
        if file.network_magic != network_magic {
            return Err(RecordsFileError::OtherNetwork { expected: network_magic, actual: file.network_magic });
        }
        for saved in file.providers {
            let key = <[u8; KEY_BYTES]>::try_from(saved.key.as_slice()).ok();
            let provider = PeerId::from_bytes(&saved.provider).ok();
            let left_ms = UnixMs(saved.expires_ms).ms_since(now).min(PROVIDER_TTL_MS);
            if let (Some(key), Some(provider), 1..) = (key, provider, left_ms) {
                let addresses = saved.addresses.into_iter().filter_map(|bytes| Multiaddr::try_from(bytes).ok());
                let kept = Kept {
                    provider,
                    expires: Instant::now() + Duration::from_millis(left_ms),
                    addresses: bounded(addresses),
                };
                // What no bound leaves room for is not worth an error.
                let _ = self.keep(key, kept);
            }
        }
        self.changed.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// A store with what the file holds, if there is one.
    ///
    /// # Errors
    /// [`RecordsFileError`].
    pub(crate) fn read(&self, path: &Path, network_magic: u32, now: UnixMs) -> Result<(), RecordsFileError> {
        let size = match std::fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if size > RECORDS_FILE_BYTES_MAX {
            return Err(RecordsFileError::Damaged(format!("{size} bytes, at most {RECORDS_FILE_BYTES_MAX}")));
        }
        self.restore(&std::fs::read(path)?, network_magic, now)
    }
}

fn bounded(addresses: impl Iterator<Item = Multiaddr>) -> Vec<Multiaddr> {
    addresses.filter(|address| address.len() <= ADDRESS_BYTES_MAX).take(PROVIDER_ADDRESSES_MAX).collect()
}

fn remove_oldest(list: &mut Vec<Kept>, among: impl Fn(&Kept) -> bool) {
    let candidates = list.iter().enumerate().filter(|(_, one)| among(one));
    if let Some((oldest, _)) = candidates.min_by_key(|(_, one)| one.expires) {
        list.remove(oldest);
    }
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<(), Error> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<(), Error> {
        let key = read_key(&record.key).ok_or(Error::ValueTooLarge)?;
        if record.provider == self.local {
            let own = &mut self.inner.lock().own;
            if own.len() >= super::KEYS_PER_NODE_MAX && !own.contains_key(&key) {
                return Err(Error::MaxProvidedKeys);
            }
            own.insert(key, record);
            return Ok(());
        }
        let latest = Instant::now() + Duration::from_millis(PROVIDER_TTL_MS);
        let expires = record.expires.map_or(latest, |expires| expires.min(latest));
        let addresses = bounded(record.addresses.into_iter());
        self.keep(key, Kept { provider: record.provider, expires, addresses })
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(bytes) = read_key(key) else { return Vec::new() };
        let inner = self.inner.lock();
        let others = inner.keys.get(&bytes).into_iter().flatten().map(|one| ProviderRecord {
            key: key.clone(),
            provider: one.provider,
            expires: Some(one.expires),
            addresses: one.addresses.clone(),
        });
        inner.own.get(&bytes).cloned().into_iter().chain(others).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let own: Vec<_> = self.inner.lock().own.values().cloned().map(Cow::Owned).collect();
        own.into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(key) = read_key(key) else { return };
        let mut inner = self.inner.lock();
        if *provider == self.local {
            inner.own.remove(&key);
        } else if let Some(list) = inner.keys.get_mut(&key) {
            list.retain(|one| one.provider != *provider);
            if list.is_empty() {
                inner.keys.remove(&key);
            }
            self.changed.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
