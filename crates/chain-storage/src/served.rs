//! The state after one block, held for those who fetch it in places while the chain goes on.
//!
//! The tries know hashed keys only, and whoever fetches a state needs addresses and slots. These are read from the flat tables of
//! the newest state; what has been emptied since comes from the records of the blocks since. An index of them is made when it is
//! first asked for: 28 bytes for each account, and 40 for each slot of the account with many slots that was asked for last.
//! A storage that is wiped as a whole cannot be served after that, which no block of this chain does (EIP-6780).

use crate::place::{PART_ENTRIES_MAX, PART_NODES_MAX, PlaceContent, PlacedAccount, StatePlace, inline_slots, weight};
use crate::reader::Reader;
use crate::state::AccountLeaf;
use crate::trie::{Subtrie, Trie};
use crate::{ReadError, StateView, Store};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use lru::LruCache;
use parking_lot::Mutex;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Emptied slots and accounts that are remembered at most; a state with more of them is served no longer.
const EMPTIED_MAX: usize = 1_000_000;

/// Answers with nodes that are remembered, of 40 kilobytes at most each.
const TOPS_MAX: usize = 256;

/// Keys by the beginning of their hashes.
type Index<K> = Arc<Vec<([u8; 8], K)>>;

/// What blocks since have emptied.
struct Emptied {
    up_to: u64,
    accounts: BTreeSet<Address>,
    slots: BTreeMap<Address, BTreeSet<U256>>,
    count: usize,
}

/// The state after one block. It costs what differs from the newest one, and its indices.
pub struct ServedState {
    view: StateView,
    reader: Arc<Reader>,
    emptied: Mutex<Emptied>,
    accounts: Mutex<Option<Index<Address>>>,
    slots: Mutex<Option<(Address, Index<U256>)>>,
    /// Answers with nodes: to make one, thousands of leaves are counted.
    tops: Mutex<LruCache<StatePlace, Vec<Bytes>>>,
}

impl std::fmt::Debug for ServedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedState").field("height", &self.view.height()).finish_non_exhaustive()
    }
}

impl Store {
    /// Holds the state after a recent block, to hand it out in places.
    ///
    /// # Errors
    /// [`ReadError::StateNotKept`].
    pub fn serve_state(&self, height: u64) -> Result<ServedState, ReadError> {
        let view = self.state_at(height)?;
        let emptied = Emptied { up_to: height, accounts: BTreeSet::new(), slots: BTreeMap::new(), count: 0 };
        Ok(ServedState {
            view,
            reader: Arc::clone(self.reader()),
            emptied: Mutex::new(emptied),
            accounts: Mutex::default(),
            slots: Mutex::default(),
            tops: Mutex::new(LruCache::new(NonZeroUsize::new(TOPS_MAX).unwrap_or(NonZeroUsize::MIN))),
        })
    }

    /// A code by its keccak.
    ///
    /// # Errors
    /// The database failed.
    pub fn code(&self, code_hash: B256) -> Result<Option<Bytes>, ReadError> {
        self.reader().code(code_hash)
    }
}

fn begin_of(hash: &B256) -> [u8; 8] {
    let mut begin = [0; 8];
    begin.copy_from_slice(hash.0.first_chunk::<8>().unwrap_or(&[0; 8]));
    begin
}

fn hash_of_slot(slot: &U256) -> B256 {
    keccak256(slot.to_be_bytes::<32>())
}

fn indexed<K: Send + Sync + Copy + Ord>(keys: Vec<K>, hash: impl Fn(&K) -> B256 + Sync) -> Index<K> {
    let mut index: Vec<_> = keys.par_iter().map(|key| (begin_of(&hash(key)), *key)).collect();
    index.par_sort_unstable();
    index.dedup();
    Arc::new(index)
}

fn find<K: Copy>(index: &[([u8; 8], K)], hash: &B256, of: impl Fn(&K) -> B256) -> Option<K> {
    let begin = begin_of(hash);
    let from = index.partition_point(|(own, _)| *own < begin);
    let alike = index.iter().skip(from).take_while(|(own, _)| *own == begin);
    alike.map(|(_, key)| *key).find(|key| of(key) == *hash)
}

impl ServedState {
    /// The height of the block.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.view.height()
    }

    /// What stands at a place; none where nothing does.
    ///
    /// # Errors
    /// The database failed; [`ReadError::StateNotKept`] where too much was emptied since.
    pub fn read(&self, place: &StatePlace) -> Result<Option<PlaceContent>, ReadError> {
        let accounts = &self.view.world.accounts;
        if let Some(top) = self.tops.lock().get(place) {
            return Ok(Some(PlaceContent::Nodes(top.clone())));
        }
        let Some(owner) = place.owner else {
            let Some(below) = Subtrie::at(accounts, &place.path) else { return Ok(None) };
            let Some(leaves) = below.leaves(PART_ENTRIES_MAX, &weight) else {
                return Ok(Some(self.top(place, below.top(PART_ENTRIES_MAX, &weight, PART_NODES_MAX))));
            };
            return self.accounts_of(&leaves).map(PlaceContent::Accounts).map(Some);
        };
        let Some(leaf) = accounts.get(&keccak256(owner)) else { return Ok(None) };
        let Some(below) = Subtrie::at(&leaf.storage, &place.path) else { return Ok(None) };
        let Some(leaves) = below.leaves(PART_ENTRIES_MAX, &|_| 1) else {
            return Ok(Some(self.top(place, below.top(PART_ENTRIES_MAX, &|_| 1, PART_NODES_MAX))));
        };
        let index = self.slot_index(owner)?;
        let slot = |(key, value): (&B256, &U256)| {
            let slot = find(&index, key, hash_of_slot).ok_or_else(|| self.lost())?;
            Ok((slot, *value))
        };
        Ok(Some(PlaceContent::Slots(leaves.into_iter().map(slot).collect::<Result<_, ReadError>>()?)))
    }

    fn top(&self, place: &StatePlace, nodes: Vec<Bytes>) -> PlaceContent {
        self.tops.lock().put(place.clone(), nodes.clone());
        PlaceContent::Nodes(nodes)
    }

    fn lost(&self) -> ReadError {
        let newest = self.reader.db.tip().ok().flatten().unwrap_or_default();
        ReadError::StateNotKept { height: self.height(), oldest: newest, newest }
    }

    fn accounts_of(&self, leaves: &[(&B256, &AccountLeaf)]) -> Result<Vec<PlacedAccount>, ReadError> {
        let index = self.account_index()?;
        let mut placed = Vec::with_capacity(leaves.len());
        for (key, leaf) in leaves {
            let address = find(&index, key, |address| keccak256(address)).ok_or_else(|| self.lost())?;
            let slots = match inline_slots(leaf) {
                None | Some(0) => Vec::new(),
                Some(count) => {
                    let slots = self.slots_of(address, &leaf.storage)?;
                    if slots.len() != count {
                        return Err(self.lost());
                    }
                    slots
                }
            };
            let storage_root = leaf.storage.root();
            placed.push(PlacedAccount { address, account: leaf.account, storage_root, slots });
        }
        Ok(placed)
    }

    /// Every slot that the account may have had then.
    fn slots_known(&self, address: Address) -> Result<Vec<U256>, ReadError> {
        let mut slots = Vec::new();
        self.reader.db.for_each_slot(&address, &mut |slot| slots.push(slot))?;
        // After the tables: what leaves them from now on is in them here.
        let emptied = self.catch_up()?;
        slots.extend(emptied.slots.get(&address).into_iter().flatten());
        drop(emptied);
        slots.sort_unstable();
        slots.dedup();
        Ok(slots)
    }

    fn slots_of(&self, address: Address, storage: &Trie<U256>) -> Result<Vec<(U256, U256)>, ReadError> {
        let value = |slot: &U256| storage.get(&hash_of_slot(slot)).copied();
        Ok(self.slots_known(address)?.into_iter().filter_map(|slot| Some((slot, value(&slot)?))).collect())
    }

    fn slot_index(&self, owner: Address) -> Result<Index<U256>, ReadError> {
        let mut held = self.slots.lock();
        if let Some((_, index)) = held.as_ref().filter(|(of, _)| *of == owner) {
            return Ok(Arc::clone(index));
        }
        // The one before goes first, so that there are never two.
        *held = None;
        let index = indexed(self.slots_known(owner)?, hash_of_slot);
        *held = Some((owner, Arc::clone(&index)));
        Ok(index)
    }

    fn account_index(&self) -> Result<Index<Address>, ReadError> {
        let mut held = self.accounts.lock();
        if let Some(index) = held.as_ref() {
            return Ok(Arc::clone(index));
        }
        let mut addresses = Vec::new();
        self.reader.db.for_each_address(&mut |address| addresses.push(address))?;
        addresses.extend(self.catch_up()?.accounts.iter());
        let index = indexed(addresses, |address| keccak256(address));
        *held = Some(Arc::clone(&index));
        Ok(index)
    }

    /// Takes in what the blocks up to the newest have emptied.
    fn catch_up(&self) -> Result<parking_lot::MutexGuard<'_, Emptied>, ReadError> {
        let mut emptied = self.emptied.lock();
        let tip = self.reader.db.tip()?.unwrap_or_default();
        while emptied.up_to < tip {
            let height = emptied.up_to.saturating_add(1);
            let diff = self.reader.diff(height)?.ok_or_else(|| self.lost())?;
            for change in diff.accounts {
                if change.account.is_none() {
                    emptied.count = emptied.count.saturating_add(1);
                    emptied.accounts.insert(change.address);
                }
                for (slot, _) in change.storage.iter().filter(|(_, value)| value.is_zero()) {
                    emptied.count = emptied.count.saturating_add(1);
                    emptied.slots.entry(change.address).or_default().insert(*slot);
                }
            }
            if emptied.count > EMPTIED_MAX {
                return Err(self.lost());
            }
            emptied.up_to = height;
        }
        Ok(emptied)
    }
}
