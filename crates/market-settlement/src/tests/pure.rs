//! Trees, ranges, states and bytes without any chain.

use std::collections::BTreeSet;

use proptest::prelude::*;
use prost::Message;
use trellis_market_journal::Position;
use trellis_market_receipt::{LeafProof as HonestProof, ProofStep, ReceiptTree};
use trellis_primitives::{Address, B256, Bytes, ChannelId, UnixMs, Wei, keccak256};

use crate::examine::wrong_sum_on;
use crate::leaf::LeafData;
use crate::state::{Held, Phase, Ranges, Reserved, State};
use crate::tree::{StatedTree, root_of};
use crate::wire::{BatchAnswer, LatestVoucher, LeafPath, RawLeaf, RawVoucher, Submit};

fn node(n: u64) -> (B256, u128) {
    (keccak256(n.to_be_bytes()), u128::from(n) * 3 + 1)
}

const PLACE: Position = Position { segment: 1, offset: 24 };

fn key(sequence: u64) -> (ChannelId, u64) {
    (ChannelId(B256::repeat_byte(1)), sequence)
}

proptest! {
    #[test]
    fn the_tree_is_the_one_that_receipts_are_batched_in(count in 1usize..70) {
        let leaves: Vec<_> = (0..count as u64).map(node).collect();
        let stated = StatedTree::new(leaves.clone());
        let honest = ReceiptTree::from_leaves(leaves.clone()).unwrap();
        prop_assert_eq!((stated.root(), stated.sum().0, stated.depth()), (honest.root(), honest.sum(), honest.depth()));
        for (index, leaf) in leaves.iter().enumerate() {
            let path = stated.path(0, index).unwrap();
            prop_assert_eq!(root_of(*leaf, index as u32, &path), Some((stated.root().0, stated.sum().0)));
            let steps = path.iter().map(|s| ProofStep { sibling: s.sibling, sibling_sum: s.siblingSum, parent_sum: s.parentSum });
            let expected = HonestProof { index: index as u32, steps: steps.collect() };
            prop_assert_eq!(honest.prove(index as u32), Some(expected));
            prop_assert!(wrong_sum_on(index as u32, *leaf, &path).is_none());
        }
    }

    #[test]
    fn a_wrong_leaf_or_index_never_leads_to_the_root(count in 2usize..40, at in any::<prop::sample::Index>()) {
        let leaves: Vec<_> = (0..count as u64).map(node).collect();
        let tree = StatedTree::new(leaves.clone());
        let index = at.index(count);
        let path = tree.path(0, index).unwrap();
        let top = Some((tree.root().0, tree.sum().0));
        prop_assert_ne!(root_of(node(9_999), index as u32, &path), top);
        prop_assert_ne!(root_of(leaves[index], index as u32 ^ 1, &path), top);
        prop_assert_eq!(root_of(leaves[index], index as u32 + (1 << path.len()), &path), None);
    }

    #[test]
    fn ranges_are_a_set(steps in prop::collection::vec((0u64..40, any::<bool>()), 0..200)) {
        let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
        for (n, add) in steps {
            if add {
                prop_assert_eq!(ranges.insert(n), set.insert(n));
            } else {
                ranges.remove(n);
                set.remove(&n);
            }
            for probe in 0..41 {
                prop_assert_eq!(ranges.contains(probe), set.contains(&probe));
            }
        }
    }

    /// Whatever the order of receipts, failures, times and batches: each number is taken once, stored receipts are in exactly
    /// one batch, and numbers reach the chain in order without gaps.
    #[test]
    fn a_receipt_is_in_one_batch_and_batches_go_out_in_order(steps in prop::collection::vec((0u8..5, 0u64..30), 0..150)) {
        let mut state = State::new(3, 1_000, 1);
        let mut now = UnixMs(0);
        let mut writing: Vec<(u64, (ChannelId, u64))> = Vec::new();
        let mut stored = BTreeSet::new();
        let mut submitted = 0;
        for (what, n) in steps {
            now = now.plus_ms(100);
            match what {
                0 | 1 => match state.reserve(key(n), now) {
                    Reserved::Into(number) => {
                        prop_assert!(!stored.contains(&n));
                        writing.push((number, key(n)));
                    }
                    Reserved::Seen => prop_assert!(stored.contains(&n) || writing.iter().any(|(_, k)| k.1 == n)),
                    Reserved::Full => prop_assert!(false),
                },
                2 => if let Some((number, key)) = writing.pop() {
                    state.stored(number, key, PLACE);
                    stored.insert(key.1);
                },
                3 => if let Some((number, key)) = writing.pop() {
                    state.abandoned(number, key);
                },
                _ => {
                    state.seal_if_due(now);
                    for number in state.ready_to_form() {
                        if !state.reopen_if_empty(number) {
                            state.batch_mut(number).unwrap().phase = Phase::Formed;
                        }
                    }
                    while let Some(number) = state.next_to_submit() {
                        prop_assert_eq!(number, submitted + 1);
                        prop_assert!(!state.batch(number).unwrap().receipts.is_empty());
                        state.batch_mut(number).unwrap().phase = Phase::Submitted;
                        submitted = number;
                    }
                }
            }
        }
        let in_batches: Vec<u64> = state.batches().flat_map(|(_, b)| b.receipts.iter().map(|(k, _)| k.1)).collect();
        let unique: BTreeSet<u64> = in_batches.iter().copied().collect();
        prop_assert_eq!(in_batches.len(), unique.len());
        prop_assert_eq!(unique, stored);
    }

    #[test]
    fn bytes_of_a_peer_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(answer) = BatchAnswer::decode(bytes.as_slice()) {
            let _ = LeafPath::try_from(&answer);
            for leaf in &answer.leaves {
                let _ = LeafData::try_from(leaf);
            }
        }
        if let Ok(submit) = Submit::decode(bytes.as_slice()) {
            let _ = submit.check();
        }
        let _ = crate::store::read_accepted(&bytes);
        let _ = RawLeaf::decode(bytes.as_slice()).map(|leaf| LeafData::try_from(&leaf));
    }
}

#[test]
fn a_voucher_survives_the_wire() {
    let voucher = LatestVoucher {
        channel: ChannelId(B256::repeat_byte(7)),
        cumulative: Wei(u128::MAX),
        signature: Bytes::from(vec![3; 65]),
    };
    assert_eq!(LatestVoucher::try_from(&RawVoucher::from(&voucher)).unwrap(), voucher);
}

#[test]
fn a_lower_voucher_is_not_kept_and_waiting_counts_from_the_first_unpaid_one() {
    let mut state = State::new(10, 1_000, 1);
    let channel = ChannelId(B256::repeat_byte(1));
    let held = |cumulative: u128, since: u64| Held {
        cumulative: Wei(cumulative),
        signature: Bytes::new(),
        payout: Address::ZERO,
        deposit: Wei(100),
        paid: Wei(0),
        closed: false,
        since: UnixMs(since),
    };
    assert!(state.hold(channel, held(50, 0)));
    assert!(!state.hold(channel, held(40, 10)));
    assert!(state.hold(channel, held(60, 900)));
    assert!(state.vouchers_overdue(UnixMs(1_000)));
    assert!(state.hold(channel, held(500, 950)));
    assert_eq!(state.held(channel).unwrap().due(), Wei(100), "a voucher is worth what the deposit covers");
}
