//! A persistent Merkle-Patricia trie over 32-byte keys, with the roots and proofs of Ethereum's.
//!
//! Persistent in the functional sense: an update makes new nodes along the changed paths and shares all others, so every
//! version that somebody still holds stays whole, and holding one costs only what differs. Every node carries its own
//! reference (its hash, or its RLP where that is shorter than 32 bytes), computed when the node is made.

mod node;
mod subtrie;
mod update;

use node::{Node, encode};
pub(crate) use node::{Value, nibble};
pub(crate) use subtrie::{Subtrie, reference_of};

use alloy_primitives::{B256, Bytes, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use std::sync::Arc;

/// One version of a trie. Cloning it is cheap.
#[derive(Debug)]
pub(crate) struct Trie<V> {
    root: Option<Arc<Node<V>>>,
}

impl<V> Clone for Trie<V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone() }
    }
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<V: Value> Trie<V> {
    /// The root hash; the hash of the empty string's RLP where the trie is empty.
    pub(crate) fn root(&self) -> B256 {
        self.root.as_deref().map_or(EMPTY_ROOT_HASH, |node| {
            node.reference().as_hash().unwrap_or_else(|| keccak256(node.reference().as_slice()))
        })
    }

    /// The value at a key.
    pub(crate) fn get(&self, key: &B256) -> Option<&V> {
        let mut node = self.root.as_deref()?;
        let mut depth = 0;
        loop {
            match node {
                Node::Leaf { key: found, value, .. } => return (found == key).then_some(value),
                Node::Extension { path, child, .. } => {
                    // The leaf at the end compares the whole key, so a wrong turn here cannot return a wrong value.
                    depth += path.len();
                    node = child;
                }
                Node::Branch { children, .. } => {
                    node = children.get(usize::from(nibble(key, depth)))?.as_deref()?;
                    depth += 1;
                }
            }
        }
    }

    /// The version after some changes, which are sorted by key and name no key twice; none removes a key.
    pub(crate) fn update(&self, changes: &[(B256, Option<V>)]) -> Self {
        Self { root: update::update(self.root.as_ref(), 0, changes) }
    }

    /// RLP of the nodes from the root towards a key: proof of its value, or that it has none.
    pub(crate) fn proof(&self, key: &B256) -> Vec<Bytes> {
        let mut nodes = Vec::new();
        let mut next = self.root.as_deref();
        let mut depth = 0;
        while let Some(node) = next {
            let rlp = encode(node, depth);
            // A node shorter than a hash stands inside its parent and not in the list; the root always stands for itself.
            if nodes.is_empty() || rlp.len() >= 32 {
                nodes.push(Bytes::from(rlp));
            }
            match node {
                Node::Leaf { .. } => break,
                Node::Extension { path, child, .. } => {
                    let on_path = (0..path.len()).all(|i| path.get(i) == Some(nibble(key, depth + i)));
                    next = on_path.then_some(child.as_ref());
                    depth += path.len();
                }
                Node::Branch { children, .. } => {
                    next = children.get(usize::from(nibble(key, depth))).and_then(Option::as_deref);
                    depth += 1;
                }
            }
        }
        nodes
    }

    /// Calls `visit` for every key in order.
    pub(crate) fn for_each(&self, visit: &mut impl FnMut(&B256, &V)) {
        fn walk<V>(node: &Node<V>, visit: &mut impl FnMut(&B256, &V)) {
            match node {
                Node::Leaf { key, value, .. } => visit(key, value),
                Node::Extension { child, .. } => walk(child, visit),
                Node::Branch { children, .. } => children.iter().flatten().for_each(|child| walk(child, visit)),
            }
        }
        if let Some(root) = &self.root {
            walk(root, visit);
        }
    }
}

#[cfg(test)]
mod tests;
