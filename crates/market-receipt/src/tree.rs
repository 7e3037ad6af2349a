//! The receipts tree: leaves sorted by (channel, sequence), each node with the sum of the costs below it.
//!
//! ```text
//! leaf  = keccak256(0x00 ‖ struct hash ‖ keccak256(signatures) ‖ keccak256(post-quantum proof)), sum = cost
//! inner = keccak256(0x01 ‖ left ‖ left sum ‖ right ‖ right sum), sum = left sum + right sum
//! ```
//! Filled up to the next power of two with (zero hash, sum 0). Sums are 16 bytes big-endian. One receipt: the root is its leaf.

use crate::SignedReceipt;
use trellis_primitives::{B256, BatchRoot, ChannelId, keccak256};

/// The most receipts in one tree.
pub const RECEIPTS_IN_TREE_MAX: usize = 1 << 24;

/// Why receipts do not make a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A batch has at least one receipt.
    #[error("a tree needs at least one receipt")]
    Empty,
    /// Too many receipts.
    #[error("a tree holds at most {RECEIPTS_IN_TREE_MAX} receipts, got {actual}")]
    TooMany {
        /// What was given.
        actual: usize,
    },
    /// A receipt without both signatures.
    #[error("receipt {index} has not been signed by both sides")]
    HalfSigned {
        /// Its place in the list.
        index: usize,
    },
    /// Not strictly rising.
    #[error("receipt {index} ({channel}, {sequence}) does not come after its predecessor")]
    Order {
        /// Its place in the list.
        index: usize,
        /// Its channel.
        channel: ChannelId,
        /// Its sequence.
        sequence: u64,
    },
    /// The sum of the costs passes 2^128.
    #[error("the sum of the costs passes 2^128")]
    Sum,
}

type Node = (B256, u128);
const PADDING: Node = (B256::ZERO, 0);

/// One level on the way to the root, as the contract's `step` wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProofStep {
    /// The neighbour's hash.
    pub sibling: B256,
    /// The neighbour's sum in wei.
    pub sibling_sum: u128,
    /// The sum of both in wei.
    pub parent_sum: u128,
}

/// A leaf's way to the root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeafProof {
    /// The leaf's place; bit k says whether the node at level k is the right child.
    pub index: u32,
    /// One step per level, from the bottom up.
    pub steps: Vec<ProofStep>,
}

/// The hash of a receipt's leaf; `None` while a signature is missing.
#[must_use]
pub fn receipt_leaf(signed: &SignedReceipt) -> Option<B256> {
    let mut bytes = [0u8; 97];
    bytes[1..33].copy_from_slice(signed.receipt.struct_hash().as_slice());
    bytes[33..65].copy_from_slice(keccak256(signed.signatures()?).as_slice());
    bytes[65..97].copy_from_slice(keccak256(&signed.pq_proof).as_slice());
    Some(keccak256(bytes))
}

/// A whole tree in memory, bottom level first.
#[derive(Debug, Clone)]
pub struct ReceiptTree {
    count: u32,
    levels: Vec<Vec<Node>>,
}

impl ReceiptTree {
    /// Builds the tree of receipts that are already sorted by (channel, sequence), strictly rising.
    ///
    /// # Errors
    /// [`TreeError`] names the receipt that does not fit.
    pub fn new(receipts: &[SignedReceipt]) -> Result<Self, TreeError> {
        check_order(receipts)?;
        let mut leaves = Vec::with_capacity(receipts.len());
        for (index, signed) in receipts.iter().enumerate() {
            let leaf = receipt_leaf(signed).ok_or(TreeError::HalfSigned { index })?;
            leaves.push((leaf, signed.receipt.cost.0));
        }
        Self::from_leaves(leaves)
    }

    /// Builds the tree of leaves that somebody else hashed, without any check of order; a challenger rebuilds a bad batch so.
    ///
    /// # Errors
    /// [`TreeError`] for none, too many, or a sum that overflows.
    pub fn from_leaves(mut leaves: Vec<(B256, u128)>) -> Result<Self, TreeError> {
        if leaves.is_empty() {
            return Err(TreeError::Empty);
        }
        let count = match u32::try_from(leaves.len()) {
            Ok(count) if leaves.len() <= RECEIPTS_IN_TREE_MAX => count,
            _ => return Err(TreeError::TooMany { actual: leaves.len() }),
        };
        leaves.resize(leaves.len().next_power_of_two(), PADDING);
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let mut level = Vec::with_capacity(below.len().div_ceil(2));
            for pair in below.chunks_exact(2) {
                level.push(inner(pair)?);
            }
            levels.push(level);
        }
        Ok(Self { count, levels })
    }

    /// The root's hash.
    #[must_use]
    pub fn root(&self) -> BatchRoot {
        BatchRoot(self.top().0)
    }

    /// The sum of all costs in wei.
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.top().1
    }

    /// How many receipts, padding not counted.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Levels above the leaves.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.levels.len().saturating_sub(1)
    }

    /// The way from a leaf to the root; `None` where there is no such receipt.
    #[must_use]
    pub fn prove(&self, index: u32) -> Option<LeafProof> {
        if index >= self.count {
            return None;
        }
        let mut position = usize::try_from(index).ok()?;
        let mut steps = Vec::with_capacity(self.depth());
        for pair in self.levels.windows(2) {
            let (below, above) = (pair.first()?, pair.get(1)?);
            let (sibling, sibling_sum) = *below.get(position ^ 1)?;
            position >>= 1;
            let (_, parent_sum) = *above.get(position)?;
            steps.push(ProofStep { sibling, sibling_sum, parent_sum });
        }
        Some(LeafProof { index, steps })
    }

    fn top(&self) -> Node {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or(PADDING)
    }
}

impl LeafProof {
    /// The root and total that this way leads to; `None` where a level's sum is not the sum of its two nodes.
    #[must_use]
    pub fn root_of(&self, leaf: B256, sum: u128) -> Option<(BatchRoot, u128)> {
        let mut node = (leaf, sum);
        let mut position = self.index;
        for step in &self.steps {
            let other = (step.sibling, step.sibling_sum);
            let pair = if position & 1 == 0 { [node, other] } else { [other, node] };
            node = inner(&pair).ok()?;
            if node.1 != step.parent_sum {
                return None;
            }
            position >>= 1;
        }
        (position == 0).then_some((BatchRoot(node.0), node.1))
    }
}

fn check_order(receipts: &[SignedReceipt]) -> Result<(), TreeError> {
    let key = |signed: &SignedReceipt| (signed.receipt.channel, signed.receipt.sequence);
    for (index, pair) in receipts.windows(2).enumerate() {
        if let [left, right] = pair
            && key(left) >= key(right)
        {
            return Err(TreeError::Order {
                index: index.saturating_add(1),
                channel: right.receipt.channel,
                sequence: right.receipt.sequence,
            });
        }
    }
    Ok(())
}

fn inner(pair: &[Node]) -> Result<Node, TreeError> {
    let [(left, left_sum), (right, right_sum)] = pair else { return Ok(PADDING) };
    let sum = left_sum.checked_add(*right_sum).ok_or(TreeError::Sum)?;
    let mut bytes = [0u8; 97];
    bytes[0] = 1;
    bytes[1..33].copy_from_slice(left.as_slice());
    bytes[33..49].copy_from_slice(&left_sum.to_be_bytes());
    bytes[49..81].copy_from_slice(right.as_slice());
    bytes[81..97].copy_from_slice(&right_sum.to_be_bytes());
    Ok((keccak256(bytes), sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(costs: &[u64]) -> Vec<Node> {
        costs.iter().enumerate().map(|(i, cost)| (keccak256(i.to_be_bytes()), u128::from(*cost))).collect()
    }

    proptest! {
        // row: MKT-41
        #[test]
        fn every_leaf_leads_to_the_root_and_a_changed_sum_does_not(
            costs in proptest::collection::vec(any::<u64>(), 1..70), pick in any::<prop::sample::Index>(),
        ) {
            let nodes = leaves(&costs);
            let tree = ReceiptTree::from_leaves(nodes.clone()).unwrap();
            let index = pick.index(costs.len());
            let proof = tree.prove(index as u32).unwrap();
            prop_assert_eq!(proof.steps.len(), costs.len().next_power_of_two().trailing_zeros() as usize);
            prop_assert_eq!(tree.sum(), costs.iter().map(|c| u128::from(*c)).sum::<u128>());
            prop_assert_eq!(proof.root_of(nodes[index].0, nodes[index].1), Some((tree.root(), tree.sum())));
            prop_assert_ne!(proof.root_of(nodes[index].0, nodes[index].1 + 1), Some((tree.root(), tree.sum())));
        }
    }

    #[test]
    fn one_receipt_is_its_own_root_and_none_is_no_tree() {
        let only = leaves(&[7]);
        let tree = ReceiptTree::from_leaves(only.clone()).unwrap();
        assert_eq!((tree.root().0, tree.sum(), tree.depth()), (only[0].0, 7, 0));
        assert_eq!(ReceiptTree::from_leaves(vec![]).unwrap_err(), TreeError::Empty);
        assert!(tree.prove(1).is_none());
    }

    #[test]
    fn a_sum_beyond_128_bits_is_refused() {
        let nodes = vec![(B256::ZERO, u128::MAX), (B256::ZERO, 1)];
        assert_eq!(ReceiptTree::from_leaves(nodes).unwrap_err(), TreeError::Sum);
    }
}
