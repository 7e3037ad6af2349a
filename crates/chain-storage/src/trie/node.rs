//! Nodes and their encoding.

use alloy_primitives::B256;
use alloy_trie::TrieMask;
use alloy_trie::nodes::{BranchNodeRef, ExtensionNodeRef, LeafNodeRef, RlpNode};
use nybbles::Nibbles;
use std::sync::Arc;

/// What a leaf can hold.
pub(crate) trait Value: Clone + Send + Sync {
    /// Appends the RLP that the leaf's hash covers.
    fn encode_value(&self, out: &mut Vec<u8>);
}

/// The children of a branch, by nibble.
pub(crate) type Children<V> = [Option<Arc<Node<V>>>; 16];

/// A node with its reference: its hash, or its RLP where that is shorter than 32 bytes.
#[derive(Debug)]
pub(crate) enum Node<V> {
    /// The end of a path. Holds the whole key; which part of it is encoded depends on the depth.
    Leaf { key: B256, value: V, reference: RlpNode },
    /// A path without forks.
    Extension { path: Nibbles, child: Arc<Node<V>>, reference: RlpNode },
    /// A fork. No key ends here, because all keys have the same length.
    Branch { children: Children<V>, reference: RlpNode },
}

impl<V> Node<V> {
    pub(crate) fn reference(&self) -> &RlpNode {
        match self {
            Self::Leaf { reference, .. } | Self::Extension { reference, .. } | Self::Branch { reference, .. } => {
                reference
            }
        }
    }
}

/// The nibble of a key at a depth below 64.
pub(crate) fn nibble(key: &B256, depth: usize) -> u8 {
    let byte = key.0.get(depth / 2).copied().unwrap_or(0);
    if depth.is_multiple_of(2) { byte >> 4 } else { byte & 0x0f }
}

/// How many nibbles two keys have in common from a depth on.
pub(crate) fn common_nibbles(a: &B256, b: &B256, depth: usize) -> usize {
    (depth..64).take_while(|i| nibble(a, *i) == nibble(b, *i)).count()
}

/// Nibbles `from..to` of a key.
pub(crate) fn path_of(key: &B256, from: usize, to: usize) -> Nibbles {
    Nibbles::unpack(key).slice(from..to)
}

fn encode_leaf<V: Value>(key: &B256, value: &V, depth: usize, out: &mut Vec<u8>) -> RlpNode {
    let mut rlp = Vec::with_capacity(128);
    value.encode_value(&mut rlp);
    LeafNodeRef::new(&path_of(key, depth, 64), &rlp).rlp(out)
}

fn encode_extension<V>(path: &Nibbles, child: &Node<V>, out: &mut Vec<u8>) -> RlpNode {
    ExtensionNodeRef::new(path, child.reference().as_slice()).rlp(out)
}

fn encode_branch<V>(children: &Children<V>, out: &mut Vec<u8>) -> RlpNode {
    let mut mask = 0_u16;
    let mut stack = Vec::with_capacity(16);
    for (i, child) in children.iter().enumerate() {
        if let Some(child) = child {
            mask |= 1 << i;
            stack.push(child.reference().clone());
        }
    }
    BranchNodeRef::new(&stack, TrieMask::new(mask)).rlp(out)
}

pub(crate) fn leaf<V: Value>(key: B256, value: V, depth: usize) -> Arc<Node<V>> {
    let reference = encode_leaf(&key, &value, depth, &mut Vec::with_capacity(192));
    Arc::new(Node::Leaf { key, value, reference })
}

pub(crate) fn extension<V>(path: Nibbles, child: Arc<Node<V>>) -> Arc<Node<V>> {
    let reference = encode_extension(&path, &child, &mut Vec::with_capacity(96));
    Arc::new(Node::Extension { path, child, reference })
}

pub(crate) fn branch<V>(children: Children<V>) -> Arc<Node<V>> {
    let reference = encode_branch(&children, &mut Vec::with_capacity(544));
    Arc::new(Node::Branch { children, reference })
}

/// The whole RLP of a node that stands at a depth.
pub(crate) fn encode<V: Value>(node: &Node<V>, depth: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(544);
    match node {
        Node::Leaf { key, value, .. } => encode_leaf(key, value, depth, &mut out),
        Node::Extension { path, child, .. } => encode_extension(path, child, &mut out),
        Node::Branch { children, .. } => encode_branch(children, &mut out),
    };
    out
}
