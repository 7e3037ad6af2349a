//! A part of a trie, as a node that has all of it gives it to one that has nothing: its leaves, or the nodes at its top.

use super::node::{Node, Value, encode};
use super::{Trie, update};
use alloy_primitives::{B256, Bytes};
use alloy_trie::nodes::RlpNode;
use std::collections::VecDeque;
use std::sync::Arc;

/// Everything below a node.
pub(crate) struct Subtrie<'a, V> {
    node: &'a Arc<Node<V>>,
    depth: usize,
}

/// Visits leaves in order until `visit` has had enough; whether it has not.
fn walk<'a, V>(node: &'a Node<V>, visit: &mut dyn FnMut(&'a B256, &'a V) -> bool) -> bool {
    match node {
        Node::Leaf { key, value, .. } => visit(key, value),
        Node::Extension { child, .. } => walk(child, visit),
        Node::Branch { children, .. } => children.iter().flatten().all(|child| walk(child, visit)),
    }
}

impl<'a, V: Value> Subtrie<'a, V> {
    /// What stands below the end of a path; none where no node begins exactly there.
    pub(crate) fn at(trie: &'a Trie<V>, path: &[u8]) -> Option<Self> {
        let mut node = trie.root.as_ref()?;
        let mut depth = 0;
        while depth < path.len() {
            match node.as_ref() {
                Node::Leaf { .. } => return None,
                Node::Extension { path: own, child, .. } => {
                    if (0..own.len()).any(|i| path.get(depth + i).copied() != own.get(i)) {
                        return None;
                    }
                    depth += own.len();
                    node = child;
                }
                Node::Branch { children, .. } => {
                    node = children.get(usize::from(*path.get(depth)?))?.as_ref()?;
                    depth += 1;
                }
            }
        }
        Some(Self { node, depth })
    }

    /// Its leaves in order; none where they weigh more than `max` together.
    pub(crate) fn leaves(&self, max: usize, weight: &dyn Fn(&V) -> usize) -> Option<Vec<(&'a B256, &'a V)>> {
        let mut leaves = Vec::new();
        fits(self.node, max, weight, &mut |key, value| leaves.push((key, value))).then_some(leaves)
    }

    /// How many leaves it has; none where these are more than `max`.
    pub(crate) fn count(&self, max: usize) -> Option<usize> {
        let mut count = 0usize;
        fits(self.node, max, &|_| 1, &mut |_, _| count = count.saturating_add(1)).then_some(count)
    }

    /// RLP of its first node, and of those below that weigh more than `max` themselves, the higher ones first; so many at most.
    pub(crate) fn top(&self, max: usize, weight: &dyn Fn(&V) -> usize, nodes_max: usize) -> Vec<Bytes> {
        let mut nodes = Vec::new();
        let mut queue = VecDeque::from([(self.node, self.depth)]);
        while let Some((node, depth)) = queue.pop_front().filter(|_| nodes.len() < nodes_max) {
            nodes.push(encode(node.as_ref(), depth).into());
            let mut heavy = |child: &'a Arc<Node<V>>, depth: usize| {
                if !fits(child, max, weight, &mut |_, _| {}) {
                    queue.push_back((child, depth));
                }
            };
            match node.as_ref() {
                Node::Leaf { .. } => {}
                Node::Extension { path, child, .. } => heavy(child, depth + path.len()),
                Node::Branch { children, .. } => children.iter().flatten().for_each(|child| heavy(child, depth + 1)),
            }
        }
        nodes
    }
}

/// Whether the leaves below a node weigh `max` together at most; those that were seen are visited.
fn fits<'a, V>(
    node: &'a Node<V>,
    max: usize,
    weight: &dyn Fn(&V) -> usize,
    visit: &mut dyn FnMut(&'a B256, &'a V),
) -> bool {
    let mut whole = 0usize;
    walk(node, &mut |key, value| {
        whole = whole.saturating_add(weight(value));
        visit(key, value);
        whole <= max
    })
}

/// The reference that a parent has of the trie of some leaves, which stands at a depth; at depth zero that of the root's hash.
/// The leaves are sorted by key and have no key twice; none where there is none of them.
pub(crate) fn reference_of<V: Value>(depth: usize, leaves: &[(B256, Option<V>)]) -> Option<RlpNode> {
    let root = update::update(None, depth, leaves)?;
    if depth == 0 {
        return Some(RlpNode::word_rlp(&Trie { root: Some(root) }.root()));
    }
    Some(root.reference().clone())
}
