//! Which peers this node wants to be connected to whatever else it does, and when each is dialled again (NET-57). Pure.
//!
//! Somebody above names the peers that it will need next: a gateway the providers that served it well, a validator the next
//! leaders. They are dialled ahead and again after they are lost, each with a wait of its own that doubles while it is not
//! reached or does not stay.

use std::collections::{BTreeMap, BTreeSet};

use trellis_primitives::{NodeId, UnixMs};

/// Peers that one list may name; what is beyond it is left out.
pub const PREFERRED_MAX: usize = 64;
/// Preferred peers that are dialled at once.
pub const PREFERRED_DIALS_MAX: usize = 8;
/// The wait before a preferred peer that was not reached is dialled again; it doubles with each failure.
pub const PREFERRED_RETRY_MS_MIN: u64 = 500;
/// The longest such wait.
pub const PREFERRED_RETRY_MS_MAX: u64 = 60_000;
/// A connection that ended sooner than this counts as a failure: the peer does not want it.
const STAYED_MS: u64 = 30_000;
/// A peer that a person disconnected is left alone for this long, however much it is preferred.
const DECLINED_MS: u64 = 60 * 60 * 1_000;
/// Peers that are left alone at once.
const DECLINED_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug, Default)]
struct Attempt {
    failures: u32,
    not_before: UnixMs,
    dialling: bool,
    connected_since: Option<UnixMs>,
}

impl Attempt {
    fn failed(&mut self, now: UnixMs) {
        let wait_ms = PREFERRED_RETRY_MS_MIN.saturating_mul(1 << self.failures.min(16)).min(PREFERRED_RETRY_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.plus_ms(wait_ms);
    }
}

/// The list, and what came of each peer in it.
#[derive(Debug, Default)]
pub(crate) struct Preference {
    wanted: BTreeMap<NodeId, Attempt>,
    declined: BTreeMap<NodeId, UnixMs>,
}

impl Preference {
    /// Another list takes the place of the one before. Who is in both keeps his wait.
    pub(crate) fn replace(&mut self, peers: &[NodeId], local: NodeId) {
        let named: BTreeSet<NodeId> = peers.iter().take(PREFERRED_MAX).copied().filter(|peer| *peer != local).collect();
        self.wanted.retain(|peer, _| named.contains(peer));
        for peer in named {
            self.wanted.entry(peer).or_default();
        }
    }

    /// Who is preferred.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = NodeId> {
        self.wanted.keys().copied()
    }

    /// A person disconnected a peer.
    pub(crate) fn decline(&mut self, peer: NodeId, now: UnixMs) {
        self.declined.retain(|_, until| *until > now);
        if self.declined.len() < DECLINED_MAX {
            self.declined.insert(peer, now.plus_ms(DECLINED_MS));
        }
    }

    /// Who is to be dialled now; each counts as being dialled until [`Self::dialled`] says what came of it.
    pub(crate) fn due(&mut self, is_connected: impl Fn(NodeId) -> bool, now: UnixMs) -> Vec<NodeId> {
        let mut places = PREFERRED_DIALS_MAX.saturating_sub(self.wanted.values().filter(|one| one.dialling).count());
        let mut due = Vec::new();
        for (peer, attempt) in &mut self.wanted {
            if is_connected(*peer) {
                attempt.connected_since = attempt.connected_since.or(Some(now));
                continue;
            }
            if let Some(since) = attempt.connected_since.take() {
                if now.ms_since(since) < STAYED_MS {
                    attempt.failed(now);
                } else {
                    *attempt = Attempt { dialling: attempt.dialling, ..Attempt::default() };
                }
            }
            let left_alone = self.declined.get(peer).is_some_and(|until| *until > now);
            if !attempt.dialling && !left_alone && attempt.not_before <= now && places > 0 {
                attempt.dialling = true;
                places -= 1;
                due.push(*peer);
            }
        }
        due
    }

    /// What came of a dial.
    pub(crate) fn dialled(&mut self, peer: NodeId, reached: bool, now: UnixMs) {
        let Some(attempt) = self.wanted.get_mut(&peer) else { return };
        attempt.dialling = false;
        if reached {
            attempt.connected_since = attempt.connected_since.or(Some(now));
        } else {
            attempt.failed(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: NodeId = NodeId([0; 32]);

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    // row: NET-57
    #[test]
    fn a_preferred_peer_is_dialled_at_once_and_again_after_it_is_lost_with_a_wait_that_doubles_while_it_fails() {
        let mut preference = Preference::default();
        preference.replace(&[node(1), LOCAL], LOCAL);
        let mut now = UnixMs(1_000_000);
        assert_eq!(preference.due(|_| false, now), [node(1)]);
        assert!(preference.due(|_| false, now).is_empty(), "it is being dialled");
        let mut waits = Vec::new();
        for _ in 0..10 {
            preference.dialled(node(1), false, now);
            let begun = now;
            while preference.due(|_| false, now).is_empty() {
                now = now.plus_ms(100);
            }
            waits.push(now.ms_since(begun));
        }
        assert_eq!(waits[..4], [500, 1_000, 2_000, 4_000]);
        assert_eq!(waits[9], PREFERRED_RETRY_MS_MAX);
        preference.dialled(node(1), true, now);
        assert!(preference.due(|_| true, now).is_empty());
        let later = now.plus_ms(STAYED_MS);
        assert_eq!(preference.due(|_| false, later), [node(1)], "it had stayed, so it is dialled at once");
        preference.dialled(node(1), true, later);
        let soon = later.plus_ms(1_000);
        assert!(preference.due(|_| false, soon).is_empty(), "who leaves at once is not wanted at once");
        assert_eq!(preference.due(|_| false, soon.plus_ms(PREFERRED_RETRY_MS_MIN)), [node(1)]);
    }

    // row: NET-57, NET-56
    #[test]
    fn a_list_replaces_the_one_before_and_is_bounded_and_so_are_the_dials() {
        let mut preference = Preference::default();
        let many: Vec<NodeId> = (1..=200).map(node).collect();
        preference.replace(&many, LOCAL);
        assert_eq!(preference.wanted().count(), PREFERRED_MAX);
        assert_eq!(preference.due(|_| false, UnixMs(1)).len(), PREFERRED_DIALS_MAX);
        preference.replace(&[node(150)], LOCAL);
        assert_eq!(preference.wanted().collect::<Vec<_>>(), [node(150)]);
        assert_eq!(preference.due(|_| false, UnixMs(1)), [node(150)]);
        preference.dialled(node(1), false, UnixMs(1));
    }

    // row: NET-57
    #[test]
    fn whom_a_person_disconnected_is_left_alone_for_a_while() {
        let mut preference = Preference::default();
        preference.replace(&[node(1)], LOCAL);
        preference.decline(node(1), UnixMs(0));
        assert!(preference.due(|_| false, UnixMs(DECLINED_MS - 1)).is_empty());
        assert_eq!(preference.due(|_| false, UnixMs(DECLINED_MS)), [node(1)]);
    }
}
