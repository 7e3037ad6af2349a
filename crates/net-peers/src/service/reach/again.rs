//! When holes are punched anew (NET-43). Pure.
//!
//! libp2p's DCUtR takes the addresses that a node knows of itself when a relayed connection begins, and keeps to them in all
//! its attempts. A node that has just started knows too little then: the place at which its NAT shows its TCP is told by the
//! first peer that it reaches over TCP. So the side that dialled connects over the relay once more, soon after it was told
//! of another address of its own, and now and then without, because the other side may have been told of one.

use std::collections::{BTreeMap, BTreeSet};

use trellis_primitives::{NodeId, UnixMs};

/// The least time between two attempts at a peer, in milliseconds: DCUtR's own attempts are over by then.
const AGAIN_MS_MIN: u64 = 5_000;
/// The longest wait for a next one, in milliseconds; each wait is twice the one before.
const AGAIN_MS_MAX: u64 = 15 * 60 * 1_000;
/// Peers that are tried at once; the others follow at the next looks.
const AT_ONCE_MAX: usize = 4;

/// What was tried with a peer.
#[derive(Clone, Copy, Debug)]
struct Tried {
    last: UnixMs,
    wait_ms: u64,
    /// Addresses of its own that this node knew then.
    known: usize,
}

/// Decides about every peer that is reached over relays alone.
#[derive(Debug, Default)]
pub(super) struct PunchPlan {
    peers: BTreeMap<NodeId, Tried>,
}

impl PunchPlan {
    /// Those of the peers over relays that are to be tried now, when this node knows so many addresses of its own.
    pub(super) fn due(&mut self, relayed: &BTreeSet<NodeId>, known: usize, now: UnixMs) -> BTreeSet<NodeId> {
        self.peers.retain(|peer, _| relayed.contains(peer));
        let mut due = BTreeSet::new();
        for peer in relayed {
            let tried = self.peers.entry(*peer).or_insert(Tried { last: now, wait_ms: AGAIN_MS_MIN, known });
            let since_ms = now.ms_since(tried.last);
            let news = tried.known != known && since_ms >= AGAIN_MS_MIN;
            if (news || since_ms >= tried.wait_ms) && due.len() < AT_ONCE_MAX {
                let wait_ms = if news { AGAIN_MS_MIN } else { tried.wait_ms.saturating_mul(2).min(AGAIN_MS_MAX) };
                *tried = Tried { last: now, wait_ms, known };
                due.insert(*peer);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(numbers: std::ops::Range<u8>) -> BTreeSet<NodeId> {
        numbers.map(|number| NodeId([number; 32])).collect()
    }

    fn times(plan: &mut PunchPlan, known: impl Fn(u64) -> usize, until_s: u64) -> Vec<u64> {
        (0..until_s).filter(|s| !plan.due(&peers(0..1), known(*s), UnixMs(s * 1_000)).is_empty()).collect()
    }

    // row: NET-43
    #[test]
    fn without_news_the_waits_double_up_to_a_bound() {
        let mut plan = PunchPlan::default();
        assert_eq!(times(&mut plan, |_| 3, 100), [5, 15, 35, 75]);
        let late = times(&mut plan, |_| 3, 20_000);
        let gaps: Vec<u64> = late.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps.last(), Some(&(AGAIN_MS_MAX / 1_000)), "{gaps:?}");
    }

    // row: NET-43
    #[test]
    fn a_new_address_of_ones_own_is_tried_soon_and_the_waits_begin_anew() {
        let known = |s: u64| if s < 50 { 3 } else { 4 };
        assert_eq!(times(&mut PunchPlan::default(), known, 70), [5, 15, 35, 50, 55, 65]);
    }

    // row: NET-43, NET-56
    #[test]
    fn many_peers_take_turns_and_who_is_reached_directly_is_forgotten() {
        let mut plan = PunchPlan::default();
        assert!(plan.due(&peers(0..10), 1, UnixMs(0)).is_empty());
        let first = plan.due(&peers(0..10), 1, UnixMs(5_000));
        let second = plan.due(&peers(0..10), 1, UnixMs(5_500));
        assert_eq!((first.len(), second.len(), first.intersection(&second).count()), (4, 4, 0));
        plan.due(&peers(0..2), 1, UnixMs(6_000));
        assert_eq!(plan.peers.len(), 2);
    }
}
