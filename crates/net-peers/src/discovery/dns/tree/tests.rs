//! A tree there and back, and everything that is not believed.

use super::*;
use proptest::prelude::*;
use rand::SeedableRng;
use std::collections::BTreeMap;

const NOW: UnixMs = UnixMs(1_000_000);
const PLACE: TreePlace<'_> = TreePlace { zone: "seed.test", network_magic: 9, chain_id: 7 };

fn keys(seed: u64) -> HybridKey {
    HybridKey::generate(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed)).unwrap()
}

fn tree(records: usize) -> (Tree, HybridKey) {
    let records: Vec<Vec<u8>> = (0..records).map(|n| n.to_be_bytes().to_vec()).collect();
    let keys = keys(1);
    (make(&records, &keys, PLACE, 5, NOW.plus_ms(1_000)).unwrap(), keys)
}

fn verified(tree: &Tree, publisher: NodeId, place: TreePlace<'_>, now: UnixMs) -> Result<Root, TreeError> {
    let label = keys_label(&tree.root)?;
    let keys = &tree.entries.iter().find(|(known, _)| *known == label).unwrap().1;
    verify_root(&tree.root, keys, publisher, place, now)
}

fn leaves(entries: &BTreeMap<String, String>, label: &str) -> usize {
    match read_entry(label, &entries[label]).unwrap() {
        Entry::Node(_) => 1,
        Entry::Branch(labels) => labels.iter().map(|label| leaves(entries, label)).sum(),
    }
}

// row: NET-31
#[test]
fn every_record_of_a_tree_is_reached_from_its_root() {
    for count in [0, 1, BRANCH_MAX, BRANCH_MAX + 1, TREE_RECORDS_MAX, TREE_RECORDS_MAX + 9] {
        let (tree, keys) = tree(count);
        let root = verified(&tree, keys.node_id(), PLACE, NOW).unwrap();
        assert_eq!(root.sequence, 5);
        let entries = tree.entries.into_iter().collect();
        assert_eq!(leaves(&entries, &root.root), count.min(TREE_RECORDS_MAX), "{count}");
    }
}

// row: NET-31
#[test]
fn a_tree_of_another_publisher_zone_network_chain_or_time_is_refused() {
    let (tree, keys) = tree(3);
    let me = keys.node_id();
    let other = self::keys(2).node_id();
    assert!(matches!(verified(&tree, other, PLACE, NOW), Err(TreeError::OtherPublisher { .. })));
    let zone = TreePlace { zone: "other.test", ..PLACE };
    assert!(matches!(verified(&tree, me, zone, NOW), Err(TreeError::Elsewhere { what: "zone", .. })));
    let network = TreePlace { network_magic: 8, ..PLACE };
    assert!(matches!(verified(&tree, me, network, NOW), Err(TreeError::Elsewhere { what: "network", .. })));
    let chain = TreePlace { chain_id: 8, ..PLACE };
    assert!(matches!(verified(&tree, me, chain, NOW), Err(TreeError::Signature { .. })));
    for late in [NOW.plus_ms(1_000), UnixMs(0)] {
        let verdict = verified(&tree, me, PLACE, late);
        assert_eq!(verdict.is_ok(), late.0 == 0, "{verdict:?}");
    }
    let far = make(&[], &keys, PLACE, 1, NOW.plus_ms(TREE_LIFETIME_MS_MAX + 1)).unwrap();
    assert!(matches!(verified(&far, me, PLACE, NOW), Err(TreeError::Elsewhere { what: "time", .. })));
}

// row: NET-31
#[test]
fn both_signatures_count_and_an_entry_that_was_altered_is_seen() {
    let (tree, keys) = tree(3);
    for (field, from) in [("Ed25519", " ed="), ("ML-DSA-65", " ml=")] {
        let mut altered = tree.clone();
        let at = altered.root.find(from).unwrap() + 10;
        let digit = if altered.root.as_bytes()[at] == b'A' { "B" } else { "A" };
        altered.root.replace_range(at..=at, digit);
        let verdict = verified(&altered, keys.node_id(), PLACE, NOW);
        assert!(matches!(verdict, Err(TreeError::Signature { key, .. }) if key == field), "{verdict:?}");
    }
    let mut altered = tree.clone();
    altered.root = altered.root.replace("seq=5", "seq=6");
    assert!(verified(&altered, keys.node_id(), PLACE, NOW).is_err());
    let (label, text) = &tree.entries[0];
    let forged = text.replace("trellis-node=A", "trellis-node=B");
    assert_ne!(&forged, text);
    assert!(matches!(read_entry(label, &forged), Err(TreeError::Altered { .. })));
    let large = make(&[vec![0; NODE_RECORD_BYTES_MAX + 1]], &keys, PLACE, 1, NOW.plus_ms(1));
    assert!(matches!(large, Err(TreeError::TooLarge { .. })));
}

proptest! {
    // row: NET-31, NET-56
    #[test]
    fn no_text_of_a_zone_makes_the_reader_panic(text in "(trellis-(tree=1 |keys=|branch=|node=))?.{0,80}", root in ".{0,80}( ed=.{0,9})?( ml=.{0,9})?") {
        let entry = read_entry(&label(&text), &text);
        if let Ok(Entry::Branch(labels)) = &entry {
            prop_assert!(labels.len() <= BRANCH_MAX);
        }
        let _ = keys_label(&root);
        let _ = verify_root(&format!("{ROOT}keys={} {root}", label(&text)), &text, NodeId([0; 32]), PLACE, NOW);
    }
}
