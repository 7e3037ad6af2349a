//! The receipts tree with every node's *stated* sum, as a proof on chain wants it; layout in `contracts/README.md`.
//!
//! `market-receipt` builds an honest tree. Here a tree may be one that an aggregator lied about: hashes follow from the
//! stated sums, and a lie is a sum that is not that of the two nodes below it.

use trellis_contracts::settlement::Settlement::PathStep;
use trellis_primitives::{B256, BatchRoot, Wei, keccak256};

/// A node: its hash and its stated sum in wei.
pub(crate) type Node = (B256, u128);

/// A leaf after the last receipt.
pub(crate) const PADDING: Node = (B256::ZERO, 0);

/// All levels, leaves first.
#[derive(Debug, Clone)]
pub(crate) struct StatedTree {
    count: u32,
    levels: Vec<Vec<Node>>,
}

/// The hash of an inner node.
pub(crate) fn inner_hash(left: Node, right: Node) -> B256 {
    let mut bytes = [0u8; 97];
    bytes[0] = 1;
    bytes[1..33].copy_from_slice(left.0.as_slice());
    bytes[33..49].copy_from_slice(&left.1.to_be_bytes());
    bytes[49..81].copy_from_slice(right.0.as_slice());
    bytes[81..97].copy_from_slice(&right.1.to_be_bytes());
    keccak256(bytes)
}

impl StatedTree {
    /// Builds a tree whose sums add up; sums beyond 128 bits saturate, which the contract then refuses.
    pub(crate) fn new(leaves: Vec<Node>) -> Self {
        Self::with_lies(leaves, &[])
    }

    /// Builds a tree in which the sums of some inner nodes (level, index) are stated as given.
    pub(crate) fn with_lies(mut leaves: Vec<Node>, lies: &[((usize, usize), u128)]) -> Self {
        let count = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
        leaves.resize(leaves.len().next_power_of_two(), PADDING);
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let at = levels.len();
            let pairs = below.chunks_exact(2).enumerate();
            let level = pairs.map(|(index, pair)| {
                let honest = pair[0].1.saturating_add(pair[1].1);
                let lie = lies.iter().find(|(place, _)| *place == (at, index));
                (inner_hash(pair[0], pair[1]), lie.map_or(honest, |(_, sum)| *sum))
            });
            let level = level.collect();
            levels.push(level);
        }
        Self { count, levels }
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Levels above the leaves.
    pub(crate) fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    pub(crate) fn root(&self) -> BatchRoot {
        BatchRoot(self.top().0)
    }

    pub(crate) fn sum(&self) -> Wei {
        Wei(self.top().1)
    }

    fn top(&self) -> Node {
        self.node(self.depth(), 0).unwrap_or(PADDING)
    }

    /// The node at an index of a level.
    pub(crate) fn node(&self, level: usize, index: usize) -> Option<Node> {
        self.levels.get(level)?.get(index).copied()
    }

    /// The way from a node to the root; empty for the root.
    pub(crate) fn path(&self, level: usize, index: usize) -> Option<Vec<PathStep>> {
        self.node(level, index)?;
        let mut steps = Vec::new();
        for above in level + 1..self.levels.len() {
            let at = index >> (above - level - 1);
            let (sibling, sibling_sum) = self.node(above - 1, at ^ 1)?;
            let (_, parent_sum) = self.node(above, at >> 1)?;
            steps.push(PathStep { sibling, siblingSum: sibling_sum, parentSum: parent_sum });
        }
        Some(steps)
    }
}

/// Where a path leads, with the stated sums taken at their word: the contract's `isMember`.
pub(crate) fn root_of(leaf: Node, index: u32, path: &[PathStep]) -> Option<Node> {
    if u64::from(index) >> path.len().min(63) != 0 {
        return None;
    }
    let mut node = leaf;
    for (level, step) in path.iter().enumerate() {
        let sibling = (step.sibling, step.siblingSum);
        let is_left = (index >> level) & 1 == 0;
        let hash = if is_left { inner_hash(node, sibling) } else { inner_hash(sibling, node) };
        node = (hash, step.parentSum);
    }
    Some(node)
}
