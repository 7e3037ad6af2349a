//! What is wrong with a batch, and the one-step proof of it. Pure: leaves, keys, promises and paths in, charges out.

use std::collections::HashMap;

use trellis_contracts::settlement::Settlement::{IncludeBy as SolIncludeBy, LeafProof, NodeProof, PathStep};
use trellis_market_receipt::IncludeBy;
use trellis_primitives::{B256, Bytes, ChannelId, Wei};

use crate::leaf::{ChannelKeys, LeafData, Rules};
use crate::state::Key;
use crate::tree::{Node, PADDING, StatedTree, inner_hash, root_of};
use crate::wire::LeafPath;

/// A proof that topples a batch, ready for the contract.
#[derive(Debug, Clone)]
pub enum Charge {
    /// A receipt is not what its signatures say, or its sum is not its cost.
    BadReceipt(Box<LeafProof>),
    /// Two neighbours do not rise.
    Disorder(Box<LeafProof>, Box<LeafProof>),
    /// A receipt was in an earlier batch.
    Duplicate {
        /// In this batch.
        leaf: Box<LeafProof>,
        /// The earlier batch.
        earlier_id: u64,
        /// In that batch.
        earlier_leaf: Box<LeafProof>,
    },
    /// An inner node's sum is not that of its children.
    WrongSum(Box<NodeProof>),
    /// A leaf is empty among the receipts, or not empty after them.
    WrongPadding {
        /// Its place.
        index: u32,
        /// Its hash.
        leaf: B256,
        /// Its sum.
        sum: Wei,
        /// Its path.
        path: Vec<PathStep>,
    },
    /// A promised receipt is absent.
    Omission {
        /// The promise.
        promise: SolIncludeBy,
        /// The aggregator's signature.
        signature: Bytes,
        /// The leaf before its place, or the one that excludes it.
        left: Box<LeafProof>,
        /// The leaf after its place.
        right: Box<LeafProof>,
    },
}

impl Charge {
    /// A constant name, for logs and reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::BadReceipt(_) => "bad receipt",
            Self::Disorder(..) => "disorder",
            Self::Duplicate { .. } => "duplicate",
            Self::WrongSum(_) => "wrong sum",
            Self::WrongPadding { .. } => "wrong padding",
            Self::Omission { .. } => "omission",
        }
    }
}

/// A batch whose leaves were fetched and lead to its root.
pub(crate) struct Fetched {
    /// The contract's number.
    pub(crate) id: u64,
    /// The aggregator's number.
    pub(crate) number: u64,
    pub(crate) leaves: Vec<LeafData>,
    pub(crate) tree: StatedTree,
}

impl Fetched {
    pub(crate) fn proof(&self, index: usize) -> Option<Box<LeafProof>> {
        let path = self.tree.path(0, index)?;
        Some(Box::new(self.leaves.get(index)?.proof(u32::try_from(index).ok()?, path)))
    }
}

/// What a challenger knows besides the batch.
pub(crate) struct Knowledge<'a> {
    pub(crate) rules: Rules,
    /// Keys of every channel in the batch; one that is missing here is not on the chain.
    pub(crate) keys: &'a HashMap<ChannelId, ChannelKeys>,
    /// Promises for this batch's number, with signatures that were checked.
    pub(crate) promises: &'a [IncludeBy],
    /// Earlier batches of the same aggregator that have not been toppled.
    pub(crate) earlier: &'a [&'a Fetched],
}

/// Everything that can be proved against a batch whose leaves lead to its root.
pub(crate) fn examine(batch: &Fetched, knowledge: &Knowledge<'_>) -> Vec<Charge> {
    let mut charges = Vec::new();
    charges.extend(bad_receipts(batch, knowledge));
    charges.extend(disorder(batch));
    charges.extend(duplicates(batch, knowledge));
    // Whether something is absent can only be read off a tree that is in order.
    if charges.is_empty() {
        charges.extend(knowledge.promises.iter().filter_map(|promise| omission(batch, promise)));
    }
    charges
}

fn bad_receipts(batch: &Fetched, knowledge: &Knowledge<'_>) -> Vec<Charge> {
    let bad = |leaf: &LeafData| {
        let keys = knowledge.keys.get(&leaf.key().0).copied();
        !leaf.is_good(&knowledge.rules, keys)
    };
    let found = batch.leaves.iter().enumerate().filter(|(_, leaf)| bad(leaf));
    found.filter_map(|(index, _)| batch.proof(index).map(Charge::BadReceipt)).collect()
}

fn disorder(batch: &Fetched) -> Option<Charge> {
    let at = batch.leaves.windows(2).position(|pair| pair[0].key() >= pair[1].key())?;
    Some(Charge::Disorder(batch.proof(at)?, batch.proof(at + 1)?))
}

fn duplicates(batch: &Fetched, knowledge: &Knowledge<'_>) -> Option<Charge> {
    let places: HashMap<Key, usize> =
        batch.leaves.iter().enumerate().map(|(index, leaf)| (leaf.key(), index)).collect();
    for earlier in knowledge.earlier {
        for (earlier_index, leaf) in earlier.leaves.iter().enumerate() {
            if let Some(index) = places.get(&leaf.key()) {
                let (leaf, earlier_leaf) = (batch.proof(*index)?, earlier.proof(earlier_index)?);
                return Some(Charge::Duplicate { leaf, earlier_id: earlier.id, earlier_leaf });
            }
        }
    }
    None
}

/// The proof that a promise was broken; `None` where the receipt is in its place.
pub(crate) fn omission(batch: &Fetched, promise: &IncludeBy) -> Option<Charge> {
    let key = (promise.channel, promise.sequence);
    let place = batch.leaves.partition_point(|leaf| leaf.key() < key);
    let there = batch.leaves.get(place).filter(|leaf| leaf.key() == key);
    let (left, right) = match there {
        Some(leaf) if leaf.receipt_hash() == promise.receipt => return None,
        Some(_) => (place, place),
        None if place == 0 => (0, 0),
        None if place == batch.leaves.len() => (place - 1, place - 1),
        None => (place - 1, place),
    };
    Some(Charge::Omission {
        promise: SolIncludeBy {
            receipt: promise.receipt,
            channelId: promise.channel.0,
            sequence: promise.sequence,
            batch: promise.batch,
        },
        signature: promise.signature.clone(),
        left: batch.proof(left)?,
        right: batch.proof(right)?,
    })
}

/// One step of the search through a tree whose root is not that of the leaves that were served.
#[derive(Debug)]
pub(crate) enum Search {
    /// Found.
    Charge(Charge),
    /// The leaf's path is needed next; only nodes below this level are of interest.
    Ask { index: u32, below: usize },
    /// What was served for this leaf is not what is in the tree: it must be shown on the chain.
    Demand(u32),
}

/// The search: where does the stated tree part from the tree of the served leaves?
pub(crate) struct Descent<'a> {
    /// Root and stated sum, as on the chain.
    pub(crate) top: Node,
    /// Stated number of receipts.
    pub(crate) count: u32,
    pub(crate) depth: usize,
    /// The tree of the served leaves; `None` where none were served.
    pub(crate) served: Option<&'a StatedTree>,
}

impl Descent<'_> {
    /// Reads one path and says what to do next. `below` is the height of the subtree that is known to differ.
    pub(crate) fn step(&self, index: u32, below: usize, path: &LeafPath) -> Search {
        let leaf = (path.hash, path.sum);
        if path.steps.len() != self.depth || root_of(leaf, index, &path.steps) != Some(self.top) {
            return Search::Demand(index);
        }
        if let Some(charge) = wrong_sum_on(index, leaf, &path.steps) {
            return Search::Charge(charge);
        }
        if let Some(charge) = self.wrong_padding(index, leaf, &path.steps) {
            return Search::Charge(charge);
        }
        let Some(served) = self.served else { return Search::Demand(index) };
        if served.node(0, index as usize) != Some(leaf) {
            return Search::Demand(index);
        }
        let differs = |level: &usize| {
            let sibling = path.steps.get(*level).map(|step| (step.sibling, step.siblingSum));
            sibling != served.node(*level, (index as usize >> level) ^ 1)
        };
        match (0..below.min(self.depth)).rev().find(differs) {
            Some(level) => Search::Ask { index: ((index >> level) ^ 1) << level, below: level },
            // Leaf, siblings and sums agree, so the roots do: the caller's premise was wrong.
            None => Search::Demand(index),
        }
    }

    fn wrong_padding(&self, index: u32, leaf: Node, path: &[PathStep]) -> Option<Charge> {
        let fault = if index >= self.count { leaf != PADDING } else { leaf.0 == B256::ZERO };
        let (leaf, sum) = (leaf.0, Wei(leaf.1));
        fault.then(|| Charge::WrongPadding { index, leaf, sum, path: path.to_vec() })
    }
}

/// The lowest node on a path whose stated sum is not that of its children.
pub(crate) fn wrong_sum_on(index: u32, leaf: Node, path: &[PathStep]) -> Option<Charge> {
    let mut node = leaf;
    for (below, step) in path.iter().enumerate() {
        let sibling = (step.sibling, step.siblingSum);
        let is_left = (index >> below) & 1 == 0;
        let (left, right) = if is_left { (node, sibling) } else { (sibling, node) };
        if left.1.checked_add(right.1) != Some(step.parentSum) {
            let level = below + 1;
            return Some(Charge::WrongSum(Box::new(NodeProof {
                level: u8::try_from(level).ok()?,
                index: index.checked_shr(u32::try_from(level).ok()?).unwrap_or(0),
                sum: step.parentSum,
                left: left.0,
                leftSum: left.1,
                right: right.0,
                rightSum: right.1,
                path: path.get(level..)?.to_vec(),
            })));
        }
        node = (inner_hash(left, right), step.parentSum);
    }
    None
}
