//! Applying a sorted batch of changes: one walk that rebuilds the changed paths and hashes them on the way back.

use super::node::{Children, Node, Value, branch, common_nibbles, extension, leaf, nibble, path_of};
use alloy_primitives::B256;
use nybbles::Nibbles;
use rayon::prelude::*;
use std::array;
use std::sync::Arc;

/// Changes below one branch above which its children are updated on all cores.
const PARALLEL_CHANGES_MIN: usize = 128;

type Change<V> = (B256, Option<V>);
type Link<V> = Option<Arc<Node<V>>>;

pub(super) fn update<V: Value>(node: Option<&Arc<Node<V>>>, depth: usize, changes: &[Change<V>]) -> Link<V> {
    if changes.is_empty() {
        return node.cloned();
    }
    match node.map(Arc::as_ref) {
        None => {
            let live: Vec<(B256, &V)> = changes.iter().filter_map(|(k, v)| v.as_ref().map(|v| (*k, v))).collect();
            build(depth, &live)
        }
        Some(Node::Leaf { key, value, .. }) => update_leaf(*key, value, depth, changes),
        Some(Node::Extension { path, child, .. }) => update_extension(path, child, depth, changes),
        Some(Node::Branch { children, .. }) => update_branch(children.clone(), depth, changes),
    }
}

fn update_leaf<V: Value>(key: B256, value: &V, depth: usize, changes: &[Change<V>]) -> Link<V> {
    let mut live: Vec<(B256, &V)> = Vec::with_capacity(changes.len() + 1);
    let at = changes.partition_point(|(k, _)| *k < key);
    let replaced = changes.get(at).is_some_and(|(k, _)| *k == key);
    for (i, (k, v)) in changes.iter().enumerate() {
        if i == at && !replaced {
            live.push((key, value));
        }
        if let Some(v) = v {
            live.push((*k, v));
        }
    }
    if at == changes.len() {
        live.push((key, value));
    }
    build(depth, &live)
}

fn update_extension<V: Value>(path: &Nibbles, child: &Arc<Node<V>>, depth: usize, changes: &[Change<V>]) -> Link<V> {
    // The changes are sorted, so those that leave the path earliest are the first or the last.
    let shared = [changes.first(), changes.last()]
        .into_iter()
        .flatten()
        .map(|(key, _)| (0..path.len()).take_while(|i| path.get(*i) == Some(nibble(key, depth + i))).count())
        .min()
        .unwrap_or(0);
    if shared == path.len() {
        return join(path, update(Some(child), depth + shared, changes), depth);
    }
    // A change leaves the path in its middle: there a branch begins, with the rest of the path as one child.
    let mut children: Children<V> = array::from_fn(|_| None);
    let fork = usize::from(path.get(shared).unwrap_or(0));
    let rest = path.slice(shared + 1..);
    let below = if rest.is_empty() { child.clone() } else { extension(rest, child.clone()) };
    if let Some(slot) = children.get_mut(fork) {
        *slot = Some(below);
    }
    join(&path.slice(..shared), update_branch(children, depth + shared, changes), depth)
}

fn update_branch<V: Value>(mut children: Children<V>, depth: usize, changes: &[Change<V>]) -> Link<V> {
    let parts = split(depth, changes, |(key, _)| key);
    if changes.len() >= PARALLEL_CHANGES_MIN {
        children
            .par_iter_mut()
            .zip(parts.par_iter())
            .filter(|(_, part)| !part.is_empty())
            .for_each(|(child, part)| *child = update(child.as_ref(), depth + 1, part));
    } else {
        for (child, part) in children.iter_mut().zip(parts.iter()).filter(|(_, part)| !part.is_empty()) {
            *child = update(child.as_ref(), depth + 1, part);
        }
    }
    let mut present = children.iter().enumerate().filter_map(|(i, child)| child.as_ref().map(|c| (i, c)));
    match (present.next(), present.next()) {
        (None, _) => None,
        (Some((i, only)), None) => {
            // A branch with one child is no branch: its nibble joins the path below.
            let path = Nibbles::from_nibbles([u8::try_from(i).unwrap_or(0)]);
            let only = only.clone();
            join(&path, Some(only), depth)
        }
        _ => Some(branch(children)),
    }
}

/// Puts a path in front of a node that may have become a leaf or an extension itself.
fn join<V: Value>(path: &Nibbles, node: Link<V>, depth: usize) -> Link<V> {
    let node = node?;
    if path.is_empty() {
        return Some(node);
    }
    Some(match node.as_ref() {
        Node::Leaf { key, value, .. } => leaf(*key, value.clone(), depth),
        Node::Extension { path: rest, child, .. } => extension(path.join(rest), child.clone()),
        Node::Branch { .. } => extension(*path, node),
    })
}

/// The trie of some sorted entries, from nothing.
fn build<V: Value>(depth: usize, entries: &[(B256, &V)]) -> Link<V> {
    let (Some((first, value)), Some((last, _))) = (entries.first(), entries.last()) else { return None };
    if entries.len() == 1 {
        return Some(leaf(*first, (*value).clone(), depth));
    }
    let fork = depth + common_nibbles(first, last, depth);
    let parts = split(fork, entries, |(key, _)| key);
    let mut children: Children<V> = array::from_fn(|_| None);
    if entries.len() >= PARALLEL_CHANGES_MIN {
        children.par_iter_mut().zip(parts.par_iter()).for_each(|(child, part)| *child = build(fork + 1, part));
    } else {
        children.iter_mut().zip(parts.iter()).for_each(|(child, part)| *child = build(fork + 1, part));
    }
    join(&path_of(first, depth, fork), Some(branch(children)), depth)
}

/// Cuts a sorted list into the sixteen parts that a branch at a depth sends to its children.
fn split<T>(depth: usize, list: &[T], key: impl Fn(&T) -> &B256) -> [&[T]; 16] {
    let mut rest = list;
    array::from_fn(|i| {
        let end = rest.partition_point(|item| usize::from(nibble(key(item), depth)) <= i);
        let (part, after) = rest.split_at(end);
        rest = after;
        part
    })
}
