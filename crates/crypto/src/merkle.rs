//! A plain binary Merkle tree over 32-byte words, for the root of a peer pair's receipts (MKT-20).
//!
//! Leaves and inner nodes hash with different first bytes, and the number of leaves is hashed into the root, so
//! that no two lists share a root. An odd node at the end of a level moves up unchanged.

use crate::sha3_256;
use trellis_primitives::B256;

/// Levels of a proof at most: 2^32 leaves.
pub const PROOF_LEVELS_MAX: usize = 32;

/// The root of a list; the empty list has a root of its own.
#[must_use]
pub fn root(leaves: &[B256]) -> B256 {
    let mut level: Vec<B256> = leaves.iter().map(leaf).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(parent).collect();
    }
    seal(leaves.len(), level.first().copied().unwrap_or_default())
}

/// The siblings from a leaf up to the root; `None` where there is no such leaf.
#[must_use]
pub fn prove(leaves: &[B256], index: usize) -> Option<Vec<B256>> {
    if index >= leaves.len() {
        return None;
    }
    let mut level: Vec<B256> = leaves.iter().map(leaf).collect();
    let mut position = index;
    let mut siblings = Vec::new();
    while level.len() > 1 {
        if let Some(sibling) = level.get(position ^ 1) {
            siblings.push(*sibling);
        }
        level = level.chunks(2).map(parent).collect();
        position /= 2;
    }
    Some(siblings)
}

/// True where `value` stands at `index` in a list of `count` words with this root.
#[must_use]
pub fn verify(root: B256, count: usize, index: usize, value: &B256, siblings: &[B256]) -> bool {
    if index >= count || siblings.len() > PROOF_LEVELS_MAX {
        return false;
    }
    let (mut node, mut position, mut width) = (leaf(value), index, count);
    let mut left_over = siblings.iter();
    while width > 1 {
        if position ^ 1 < width {
            let Some(sibling) = left_over.next() else { return false };
            node = if position % 2 == 0 { parent(&[node, *sibling]) } else { parent(&[*sibling, node]) };
        }
        position /= 2;
        width = width.div_ceil(2);
    }
    left_over.next().is_none() && seal(count, node) == root
}

fn leaf(value: &B256) -> B256 {
    B256::from(sha3_256(&[&[0], value.as_slice()]))
}

fn parent(pair: &[B256]) -> B256 {
    match pair {
        [left, right] => B256::from(sha3_256(&[&[1], left.as_slice(), right.as_slice()])),
        [single] => *single,
        _ => B256::ZERO,
    }
}

fn seal(count: usize, top: B256) -> B256 {
    B256::from(sha3_256(&[&[2], &(count as u64).to_be_bytes(), top.as_slice()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_leaf_proves_and_no_other_value_does(count in 1usize..40, pick in any::<prop::sample::Index>()) {
            let leaves: Vec<B256> = (0..count).map(|i| B256::repeat_byte(i as u8)).collect();
            let index = pick.index(count);
            let siblings = prove(&leaves, index).unwrap();
            let top = root(&leaves);
            prop_assert!(verify(top, count, index, &leaves[index], &siblings));
            prop_assert!(!verify(top, count, index, &B256::repeat_byte(0xee), &siblings));
            prop_assert!(!verify(top, count + 1, index, &leaves[index], &siblings));
        }
    }

    #[test]
    fn a_repeated_last_leaf_changes_the_root() {
        let three = [B256::repeat_byte(1), B256::repeat_byte(2), B256::repeat_byte(3)];
        let four = [three[0], three[1], three[2], three[2]];
        assert_ne!(root(&three), root(&four));
        assert_ne!(root(&[]), root(&three[..1]));
    }
}
