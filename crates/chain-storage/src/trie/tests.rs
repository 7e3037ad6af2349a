use super::*;
use alloy_primitives::U256;
use alloy_trie::HashBuilder;
use alloy_trie::proof::verify_proof;
use nybbles::Nibbles;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn rlp(value: &U256) -> Vec<u8> {
    alloy_rlp::encode(value)
}

/// The root that Ethereum's reference builder gives.
fn reference_root(entries: &BTreeMap<B256, U256>) -> B256 {
    let mut builder = HashBuilder::default();
    for (key, value) in entries {
        builder.add_leaf(Nibbles::unpack(key), &rlp(value));
    }
    builder.root()
}

/// Keys that share long prefixes, so that extensions split and merge at every depth and nodes short enough to stand
/// inside their parents occur.
fn key() -> impl Strategy<Value = B256> {
    let byte = prop_oneof![Just(0x00_u8), Just(0x01), Just(0x10), Just(0x11), Just(0xff)];
    (byte.clone(), byte.clone(), byte.clone(), byte, 0..32_usize).prop_map(|(a, b, c, d, fill)| {
        let mut key = B256::ZERO;
        key.0[0] = a;
        key.0[fill] = b;
        key.0[30] = c;
        key.0[31] = d;
        key
    })
}

fn batch() -> impl Strategy<Value = BTreeMap<B256, Option<U256>>> {
    let value = prop_oneof![
        2 => Just(None),
        2 => (1_u64..100).prop_map(|v| Some(U256::from(v))),
        2 => any::<[u8; 32]>().prop_map(|v| Some(U256::from_be_bytes(v).max(U256::from(1)))),
    ];
    proptest::collection::btree_map(key(), value, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    // row: CHN-22
    #[test]
    fn after_every_batch_the_root_is_the_one_of_ethereums_builder_and_every_proof_verifies(
        batches in proptest::collection::vec(batch(), 1..8),
        absent in key(),
    ) {
        let mut trie = Trie::<U256>::default();
        let mut entries = BTreeMap::new();
        for batch in batches {
            let before = trie.clone();
            let before_root = before.root();
            let changes: Vec<_> = batch.iter().map(|(k, v)| (*k, *v)).collect();
            trie = trie.update(&changes);
            for (key, value) in batch {
                match value {
                    Some(value) => entries.insert(key, value),
                    None => entries.remove(&key),
                };
            }
            prop_assert_eq!(trie.root(), reference_root(&entries));
            prop_assert_eq!(before.root(), before_root);
            for key in entries.keys().copied().chain([absent]) {
                let expected = entries.get(&key).copied();
                prop_assert_eq!(trie.get(&key).copied(), expected);
                verify_proof(trie.root(), Nibbles::unpack(key), expected.map(|v| rlp(&v)), &trie.proof(&key))
                    .map_err(|error| TestCaseError::fail(format!("{key}: {error}")))?;
            }
            let mut listed = Vec::new();
            trie.for_each(&mut |key, value| listed.push((*key, *value)));
            prop_assert_eq!(listed, entries.clone().into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_batch_large_enough_for_all_cores_gives_the_same_root_as_many_small_ones() {
    let entries: BTreeMap<B256, U256> =
        (0_u64..5_000).map(|i| (keccak256(i.to_be_bytes()), U256::from(i + 1))).collect();
    let all: Vec<_> = entries.iter().map(|(k, v)| (*k, Some(*v))).collect();
    let at_once = Trie::default().update(&all);
    let one_by_one = all.chunks(7).fold(Trie::default(), |trie, chunk| trie.update(chunk));
    assert_eq!(at_once.root(), reference_root(&entries));
    assert_eq!(one_by_one.root(), at_once.root());
    let none: Vec<_> = entries.keys().map(|k| (*k, None)).collect();
    assert_eq!(at_once.update(&none).root(), EMPTY_ROOT_HASH);
}

#[test]
fn a_proof_with_a_changed_byte_does_not_verify() {
    let entries: Vec<_> = (0_u64..100).map(|i| (keccak256(i.to_be_bytes()), Some(U256::from(i + 1)))).collect();
    let mut sorted = entries.clone();
    sorted.sort();
    let trie = Trie::default().update(&sorted);
    let key = entries[0].0;
    let mut proof = trie.proof(&key);
    let mut bytes = proof[1].to_vec();
    bytes[5] ^= 1;
    proof[1] = bytes.into();
    assert!(verify_proof(trie.root(), Nibbles::unpack(key), Some(rlp(&U256::from(1))), &proof).is_err());
}
