//! The state in places that prove themselves: whoever knows the state's root can tell of each answer whether it is true.
//!
//! A place is a path into the trie of accounts, or into one account's trie of slots. What stands there is known before it is
//! asked for: its parent has the hash of it, and the root's hash is in the header of a final block. Where little stands below a
//! place, an answer has all of it, by address and slot; else it has the nodes at its top, whose children are the next places.
//! An account with many slots comes without them; its root of storage is the hash of one more place.

use crate::codec::SlotRlp;
use crate::state::AccountLeaf;
use crate::trie::{Trie, nibble, reference_of};
use crate::{Account, AccountDiff, StateDiff, StatePart};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use alloy_rlp::{Encodable, RlpDecodable, RlpEncodable};
use alloy_trie::nodes::{RlpNode, TrieNode};
use alloy_trie::{EMPTY_ROOT_HASH, TrieAccount};
use std::collections::HashMap;

/// Accounts and slots of one answer at most, together.
pub const PART_ENTRIES_MAX: usize = 4_096;
/// Slots that come with their account at most.
pub const SLOTS_INLINE_MAX: usize = 256;
/// Nodes of one answer at most.
pub const PART_NODES_MAX: usize = 64;
/// Nibbles of a path at most: a key's.
const PATH_MAX: usize = 64;

/// What a parent has of a node: RLP of its hash, or the node itself where that is shorter.
pub type NodeReference = Bytes;

/// Where a node of the state stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatePlace {
    /// Whose slots; none for the accounts.
    pub owner: Option<Address>,
    /// Nibbles of the hashed key up to there.
    pub path: Vec<u8>,
}

impl StatePlace {
    /// The root of the accounts.
    #[must_use]
    pub const fn root() -> Self {
        Self { owner: None, path: Vec::new() }
    }

    /// Whether the path is one.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.path.len() < PATH_MAX && self.path.iter().all(|nibble| *nibble < 16)
    }

    fn has(&self, key: &B256) -> bool {
        self.path.iter().enumerate().all(|(depth, own)| nibble(key, depth) == *own)
    }
}

/// A place, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateTarget {
    /// Where.
    pub place: StatePlace,
    /// What its parent has of it.
    pub reference: NodeReference,
    /// The account whose slots they are.
    pub account: Option<Account>,
}

impl StateTarget {
    /// All of a state with a root.
    #[must_use]
    pub fn root(state_root: B256) -> Self {
        Self { place: StatePlace::root(), reference: word(&state_root), account: None }
    }
}

fn word(hash: &B256) -> NodeReference {
    Bytes::copy_from_slice(RlpNode::word_rlp(hash).as_slice())
}

/// An account with its slots, where these are few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedAccount {
    /// Whose.
    pub address: Address,
    /// The account.
    pub account: Account,
    /// The root of its slots.
    pub storage_root: B256,
    /// All of its slots, sorted; none where there are more than [`SLOTS_INLINE_MAX`].
    pub slots: Vec<(U256, U256)>,
}

/// What stands at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceContent {
    /// All accounts below it, by the hashes of their addresses.
    Accounts(Vec<PlacedAccount>),
    /// All slots below it, by their hashes.
    Slots(Vec<(U256, U256)>),
    /// RLP of the node there and of some below it.
    Nodes(Vec<Bytes>),
}

/// Why an answer is not what stands at a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It is not RLP of an answer.
    #[error("it does not decode: {0}")]
    Rlp(#[from] alloy_rlp::Error),
    /// It is of another kind, or more than one.
    #[error("an answer has accounts, or slots, or nodes, of the kind that was asked for")]
    Kind,
    /// It is larger than any may be.
    #[error("{actual} entries, at most {max} are allowed")]
    TooMany {
        /// The bound.
        max: usize,
        /// What came.
        actual: usize,
    },
    /// Keys are out of order, twice there, or of another place.
    #[error("its keys are not those of the place in their order")]
    Keys,
    /// It makes another hash.
    #[error("it has the reference {actual}, the state has {expected}")]
    Reference {
        /// What the state has.
        expected: NodeReference,
        /// What came.
        actual: NodeReference,
    },
}

/// What an answer has taught.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProvedPlace {
    /// A part of the state, complete below the place but for what is in `more`.
    pub part: Option<StatePart>,
    /// Accounts of the part; none where there is no part.
    pub accounts: Option<usize>,
    /// What is to be asked for next.
    pub more: Vec<StateTarget>,
    /// Codes of the accounts in it.
    pub codes: Vec<B256>,
}

impl ProvedPlace {
    /// The same without the entries, which are large.
    #[must_use]
    pub fn without_part(self) -> Self {
        Self { part: None, ..self }
    }
}

#[derive(RlpEncodable, RlpDecodable)]
struct AccountRlp {
    address: Address,
    nonce: u64,
    balance: U256,
    /// Empty for an account without code.
    code_hash: Bytes,
    /// Empty for an account without slots.
    storage_root: Bytes,
    slots: Vec<SlotRlp>,
}

#[derive(RlpEncodable, RlpDecodable)]
struct ContentRlp {
    accounts: Vec<AccountRlp>,
    slots: Vec<SlotRlp>,
    nodes: Vec<Bytes>,
}

fn short(hash: B256, empty: B256) -> Bytes {
    if hash == empty { Bytes::new() } else { Bytes::copy_from_slice(hash.as_slice()) }
}

fn long(bytes: &Bytes, empty: B256) -> Result<B256, PlaceError> {
    if bytes.is_empty() {
        return Ok(empty);
    }
    let hash = B256::try_from(bytes.as_ref()).map_err(|_| alloy_rlp::Error::UnexpectedLength)?;
    // One encoding for each answer.
    if hash == empty { Err(PlaceError::Kind) } else { Ok(hash) }
}

fn slots_rlp(slots: &[(U256, U256)]) -> Vec<SlotRlp> {
    slots.iter().map(|(slot, value)| SlotRlp { slot: *slot, value: *value }).collect()
}

fn slots_of(slots: Vec<SlotRlp>) -> Vec<(U256, U256)> {
    slots.into_iter().map(|SlotRlp { slot, value }| (slot, value)).collect()
}

impl AccountRlp {
    fn of(placed: &PlacedAccount) -> Self {
        let PlacedAccount { address, account, storage_root, slots } = placed;
        Self {
            address: *address,
            nonce: account.nonce,
            balance: account.balance,
            code_hash: short(account.code_hash, KECCAK256_EMPTY),
            storage_root: short(*storage_root, EMPTY_ROOT_HASH),
            slots: slots_rlp(slots),
        }
    }

    fn placed(self) -> Result<PlacedAccount, PlaceError> {
        let code_hash = long(&self.code_hash, KECCAK256_EMPTY)?;
        let storage_root = long(&self.storage_root, EMPTY_ROOT_HASH)?;
        let account = Account { nonce: self.nonce, balance: self.balance, code_hash };
        Ok(PlacedAccount { address: self.address, account, storage_root, slots: slots_of(self.slots) })
    }
}

impl PlaceContent {
    /// Its RLP.
    #[must_use]
    pub fn to_rlp(&self) -> Vec<u8> {
        let mut rlp = ContentRlp { accounts: Vec::new(), slots: Vec::new(), nodes: Vec::new() };
        match self {
            Self::Accounts(accounts) => rlp.accounts = accounts.iter().map(AccountRlp::of).collect(),
            Self::Slots(slots) => rlp.slots = slots_rlp(slots),
            Self::Nodes(nodes) => rlp.nodes.clone_from(nodes),
        }
        alloy_rlp::encode(rlp)
    }

    /// Reads its RLP.
    ///
    /// # Errors
    /// [`PlaceError`]: what is not RLP of it, is empty, or larger than any answer may be.
    pub fn from_rlp(bytes: &[u8]) -> Result<Self, PlaceError> {
        let ContentRlp { accounts, slots, nodes } = alloy_rlp::decode_exact(bytes)?;
        let bound = |actual: usize, max: usize| {
            if actual > max { Err(PlaceError::TooMany { max, actual }) } else { Ok(()) }
        };
        match (accounts.is_empty(), slots.is_empty(), nodes.is_empty()) {
            (false, true, true) => {
                let entries = accounts.iter().map(|account| account.slots.len().saturating_add(1));
                bound(entries.sum(), PART_ENTRIES_MAX)?;
                Ok(Self::Accounts(accounts.into_iter().map(AccountRlp::placed).collect::<Result<_, _>>()?))
            }
            (true, false, true) => {
                bound(slots.len(), PART_ENTRIES_MAX)?;
                Ok(Self::Slots(slots_of(slots)))
            }
            (true, true, false) => {
                bound(nodes.len(), PART_NODES_MAX)?;
                Ok(Self::Nodes(nodes))
            }
            _ => Err(PlaceError::Kind),
        }
    }

    /// Compares it with what is known of a place.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn prove(self, target: &StateTarget) -> Result<ProvedPlace, PlaceError> {
        match (self, target.place.owner, target.account) {
            (Self::Accounts(accounts), None, _) => prove_accounts(accounts, target),
            (Self::Slots(slots), Some(owner), Some(account)) => {
                prove_leaves(target, slot_leaves(&slots)?)?;
                let mut storage = slots;
                storage.sort_unstable();
                let change = AccountDiff { address: owner, account: Some(account), wiped: false, storage };
                let part = StatePart(StateDiff { accounts: vec![change], codes: Vec::new() });
                Ok(ProvedPlace { part: Some(part), accounts: Some(1), ..ProvedPlace::default() })
            }
            (Self::Nodes(nodes), _, _) => prove_nodes(&nodes, target),
            _ => Err(PlaceError::Kind),
        }
    }
}

/// An account whose root of storage is told.
#[derive(Clone)]
struct RootedAccount {
    account: Account,
    storage_root: B256,
}

impl crate::trie::Value for RootedAccount {
    fn encode_value(&self, out: &mut Vec<u8>) {
        let Account { nonce, balance, code_hash } = self.account;
        TrieAccount { nonce, balance, storage_root: self.storage_root, code_hash }.encode(out);
    }
}

fn slot_leaves(slots: &[(U256, U256)]) -> Result<Vec<(B256, Option<U256>)>, PlaceError> {
    if slots.iter().any(|(_, value)| value.is_zero()) {
        return Err(PlaceError::Keys);
    }
    Ok(slots.iter().map(|(slot, value)| (keccak256(slot.to_be_bytes::<32>()), Some(*value))).collect())
}

/// Compares the trie of some leaves with what is known of their place.
fn prove_leaves<V: crate::trie::Value>(target: &StateTarget, leaves: Vec<(B256, Option<V>)>) -> Result<(), PlaceError> {
    let ascend = leaves.windows(2).all(|pair| matches!(pair, [(before, _), (after, _)] if before < after));
    if !ascend || !leaves.iter().all(|(key, _)| target.place.has(key)) {
        return Err(PlaceError::Keys);
    }
    let reference = reference_of(target.place.path.len(), &leaves).ok_or(PlaceError::Keys)?;
    compare(&target.reference, reference.as_slice())
}

fn compare(expected: &NodeReference, actual: &[u8]) -> Result<(), PlaceError> {
    if *expected == *actual {
        return Ok(());
    }
    Err(PlaceError::Reference { expected: expected.clone(), actual: Bytes::copy_from_slice(actual) })
}

fn prove_accounts(accounts: Vec<PlacedAccount>, target: &StateTarget) -> Result<ProvedPlace, PlaceError> {
    let mut leaves = Vec::with_capacity(accounts.len());
    let mut proved = ProvedPlace::default();
    let mut part = Vec::with_capacity(accounts.len());
    for PlacedAccount { address, account, storage_root, slots } in accounts {
        if !slots.is_empty() {
            if !slots.windows(2).all(|pair| matches!(pair, [(before, _), (after, _)] if before < after)) {
                return Err(PlaceError::Keys);
            }
            let mut hashed = slot_leaves(&slots)?;
            hashed.sort_unstable_by_key(|(key, _)| *key);
            compare(&word(&storage_root), &word(&Trie::default().update(&hashed).root()))?;
        } else if storage_root != EMPTY_ROOT_HASH {
            let place = StatePlace { owner: Some(address), path: Vec::new() };
            proved.more.push(StateTarget { place, reference: word(&storage_root), account: Some(account) });
        }
        if account.code_hash != KECCAK256_EMPTY {
            proved.codes.push(account.code_hash);
        }
        leaves.push((keccak256(address), Some(RootedAccount { account, storage_root })));
        part.push(AccountDiff { address, account: Some(account), wiped: false, storage: slots });
    }
    prove_leaves(target, leaves)?;
    part.sort_unstable_by_key(|change| change.address);
    proved.accounts = Some(part.len());
    proved.part = Some(StatePart(StateDiff { accounts: part, codes: Vec::new() }));
    Ok(proved)
}

fn hash_of(reference: &NodeReference) -> Option<B256> {
    RlpNode::from_raw_rlp(reference).ok()?.as_hash()
}

fn prove_nodes(nodes: &[Bytes], target: &StateTarget) -> Result<ProvedPlace, PlaceError> {
    let mut known: HashMap<B256, &Bytes> = nodes.iter().map(|node| (keccak256(node), node)).collect();
    let mut proved = ProvedPlace::default();
    let mut queue = vec![(target.place.path.clone(), target.reference.clone())];
    let mut is_first = true;
    while let Some((path, reference)) = queue.pop() {
        let node = hash_of(&reference).and_then(|hash| known.remove(&hash));
        let Some(node) = node else {
            if is_first {
                let actual = nodes.first().map(keccak256).unwrap_or_default();
                return Err(PlaceError::Reference { expected: reference, actual: word(&actual) });
            }
            let place = StatePlace { owner: target.place.owner, path };
            proved.more.push(StateTarget { place, reference, account: target.account });
            continue;
        };
        is_first = false;
        let below = |more: &[u8]| [path.as_slice(), more].concat();
        let raw = |child: &RlpNode| Bytes::copy_from_slice(child.as_slice());
        match alloy_rlp::decode_exact::<TrieNode>(node)? {
            TrieNode::Branch(branch) => {
                let children = branch.as_ref();
                queue.extend(children.children().filter_map(|(i, child)| Some((below(&[i]), raw(child?)))));
            }
            TrieNode::Extension(extension) => queue.push((below(&extension.key.to_vec()), raw(&extension.child))),
            TrieNode::Leaf(_) | TrieNode::EmptyRoot => return Err(PlaceError::Kind),
        }
    }
    if !known.is_empty() || proved.more.iter().any(|more| !more.place.is_valid()) {
        return Err(PlaceError::Keys);
    }
    Ok(proved)
}

/// What an account weighs in an answer.
pub(crate) fn weight(leaf: &AccountLeaf) -> usize {
    inline_slots(leaf).map_or(1, |slots| slots.saturating_add(1))
}

/// The slots of an account, where these are so few that they come with it.
pub(crate) fn inline_slots(leaf: &AccountLeaf) -> Option<usize> {
    let Some(all) = crate::trie::Subtrie::at(&leaf.storage, &[]) else { return Some(0) };
    all.count(SLOTS_INLINE_MAX)
}
