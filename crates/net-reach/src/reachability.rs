//! Whether others can reach this node, told from what its operator says, what peers saw and what peers tried (NET-40). Pure.
//!
//! An address counts as reachable if the operator named it, or if a peer has connected to it from outside (AutoNAT v2). But
//! a peer tries from an address that this node has written to, and a NAT that filters by address lets just those in. So the
//! node counts as public only if the address is one of its own interfaces, or STUN found a NAT that lets everybody in, or
//! somebody has come whom it never wrote to. A node that has peers and nothing of this after a short while counts as
//! unreachable, and so does one whose NAT was found to let nobody in. Times are milliseconds of any clock that does not go
//! back.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::nat::NatKind;

/// A node with peers and without a reachable address counts as unreachable after this long.
pub const UNDECIDED_MS_MAX: u64 = 2_500;
/// An address that a peer connected to counts as reachable for this long.
pub const CONFIRMED_MS: u64 = 60 * 60 * 1_000;
/// Addresses that are remembered.
pub const ADDRESSES_MAX: usize = 32;

/// The verdict.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// Nobody was there to ask yet.
    Unknown,
    /// Others can connect to an address of this node.
    Public,
    /// They cannot, without a relay's help.
    Private,
}

impl Reachability {
    /// As it is written for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// An address that a peer connected to.
#[derive(Clone, Debug)]
struct Confirmed<P> {
    at_ms: u64,
    /// No NAT stands before it, or one that was told to let everybody in: this does not grow old.
    own: bool,
    by: P,
    /// Who else tried it since and did not get through.
    doubted_by: Option<P>,
}

impl<P> Confirmed<P> {
    const fn holds(&self, now_ms: u64) -> bool {
        self.own || is_fresh(self.at_ms, now_ms)
    }
}

/// What is known of the way in, for addresses named by `A` and peers named by `P`.
#[derive(Clone, Debug)]
pub struct WayIn<A, P> {
    /// The operator named an address, which always wins.
    named: bool,
    /// Addresses that a peer connected to, and when.
    confirmed: BTreeMap<A, Confirmed<P>>,
    /// When somebody came last to whom this node had not written.
    stranger: Option<u64>,
    /// What STUN said.
    nat: Option<NatKind>,
    /// Since when there have been peers.
    peers_since_ms: Option<u64>,
    /// A peer tried an address and did not get through.
    refuted: bool,
}

impl<A: Ord + Clone, P: PartialEq> WayIn<A, P> {
    /// Nothing is known, except whether the operator named an address.
    #[must_use]
    pub const fn new(named: bool) -> Self {
        Self { named, confirmed: BTreeMap::new(), stranger: None, nat: None, peers_since_ms: None, refuted: false }
    }

    /// A peer tried to connect to an address from outside. That it got through it has proven; that it did not it only
    /// says, so an address counts as lost once its own witness or two others say so. `own`: it is one of this node's
    /// interfaces, or a port that the router maps to it.
    pub fn tried(&mut self, address: A, by: P, own: bool, reached: bool, now_ms: u64) {
        self.confirmed.retain(|_, known| known.holds(now_ms));
        if reached {
            if self.confirmed.len() < ADDRESSES_MAX || self.confirmed.contains_key(&address) {
                self.confirmed.insert(address, Confirmed { at_ms: now_ms, own, by, doubted_by: None });
            }
            return;
        }
        self.refuted = true;
        let Some(known) = self.confirmed.get_mut(&address) else { return };
        if known.by == by || known.doubted_by.as_ref().is_some_and(|other| *other != by) {
            self.confirmed.remove(&address);
        } else {
            known.doubted_by = Some(by);
        }
    }

    /// A peer sees this node at an address: if it was reached there before, it still is there. (An address is tried once
    /// only, so without this one that is good would be forgotten.)
    pub fn seen(&mut self, address: &A, now_ms: u64) {
        if let Some(known) = self.confirmed.get_mut(address).filter(|known| known.holds(now_ms)) {
            known.at_ms = known.at_ms.max(now_ms);
        }
    }

    /// Somebody connected from an address that this node has not written to: what was confirmed still holds.
    pub fn stranger_came(&mut self, now_ms: u64) {
        self.stranger = Some(now_ms);
        for confirmed in self.confirmed.values_mut().filter(|confirmed| confirmed.holds(now_ms)) {
            confirmed.at_ms = now_ms;
        }
    }

    /// STUN told the kind of NAT.
    pub const fn judged(&mut self, kind: NatKind) {
        self.nat = Some(kind);
    }

    /// What STUN said of the network as it is now.
    #[must_use]
    pub const fn nat(&self) -> Option<NatKind> {
        self.nat
    }

    /// Whether this node has peers now.
    pub fn peers(&mut self, connected: bool, now_ms: u64) {
        self.peers_since_ms = connected.then(|| self.peers_since_ms.unwrap_or(now_ms));
    }

    /// Addresses of this node's own are gone: an interface went down, a mapping ended.
    pub fn gone(&mut self, is_gone: impl Fn(&A) -> bool) {
        self.confirmed.retain(|address, _| !is_gone(address));
    }

    /// The network under this node has changed: what was found out no longer holds.
    pub fn changed(&mut self) {
        (self.nat, self.refuted, self.stranger) = (None, false, None);
        self.confirmed.clear();
    }

    /// The addresses that peers connected to lately.
    #[must_use]
    pub fn confirmed(&self, now_ms: u64) -> Vec<A> {
        let holds = self.confirmed.iter().filter(|(_, confirmed)| confirmed.holds(now_ms));
        holds.map(|(address, _)| address.clone()).collect()
    }

    /// Whether the addresses that peers connected to are open to everybody.
    fn is_open(&self, now_ms: u64) -> bool {
        let mut hold = self.confirmed.values().filter(|confirmed| confirmed.holds(now_ms)).peekable();
        let to_all = matches!(self.nat, Some(NatKind::Open | NatKind::FullCone))
            || self.stranger.is_some_and(|at_ms| is_fresh(at_ms, now_ms));
        (to_all && hold.peek().is_some()) || hold.any(|confirmed| confirmed.own)
    }

    /// The verdict now.
    #[must_use]
    pub fn verdict(&self, now_ms: u64) -> Reachability {
        if self.named || self.is_open(now_ms) {
            return Reachability::Public;
        }
        let lets_nobody_in = matches!(
            self.nat,
            Some(NatKind::AddressRestricted | NatKind::PortRestricted | NatKind::Symmetric | NatKind::UdpBlocked)
        );
        let Some(since_ms) = self.peers_since_ms else { return Reachability::Unknown };
        let waited = now_ms.saturating_sub(since_ms) >= UNDECIDED_MS_MAX;
        if self.refuted || lets_nobody_in || waited { Reachability::Private } else { Reachability::Unknown }
    }
}

const fn is_fresh(at_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(at_ms) < CONFIRMED_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // row: NET-40
    #[test]
    fn an_address_that_the_operator_named_always_wins() {
        let mut way = WayIn::new(true);
        way.tried(1, 'a', false, false, 0);
        way.judged(NatKind::Symmetric);
        way.peers(true, 0);
        assert_eq!(way.verdict(1_000_000), Reachability::Public);
    }

    // row: NET-40
    #[test]
    fn a_node_that_somebody_reached_from_outside_is_public_until_that_is_old() {
        let mut way = WayIn::new(false);
        way.peers(true, 0);
        assert_eq!(way.verdict(0), Reachability::Unknown);
        way.tried(7, 'a', false, true, 10);
        way.stranger_came(20);
        assert_eq!((way.verdict(20), way.confirmed(20)), (Reachability::Public, vec![7]));
        assert_eq!(way.verdict(19 + CONFIRMED_MS), Reachability::Public);
        assert_eq!(way.verdict(20 + CONFIRMED_MS), Reachability::Private);
        way.tried(7, 'a', false, true, 20 + CONFIRMED_MS);
        way.stranger_came(30 + CONFIRMED_MS);
        assert_eq!(way.verdict(30 + CONFIRMED_MS), Reachability::Public);
        way.tried(7, 'a', false, false, 30 + CONFIRMED_MS);
        assert_eq!(way.verdict(30 + CONFIRMED_MS), Reachability::Private);
        way.tried(8, 'a', true, true, 40 + CONFIRMED_MS);
        assert_eq!(way.verdict(40 + 9 * CONFIRMED_MS), Reachability::Public, "an interface does not grow old");
        way.gone(|address| *address == 8);
        assert_eq!(way.verdict(40 + 9 * CONFIRMED_MS), Reachability::Private);
    }

    // row: NET-40
    #[test]
    fn one_peer_alone_cannot_talk_away_an_address_that_another_has_reached() {
        let mut way = WayIn::new(false);
        way.tried(7, 'a', false, true, 0);
        way.tried(7, 'b', false, false, 1);
        way.tried(7, 'b', false, false, 2);
        assert_eq!(way.confirmed(2), vec![7], "one liar however often");
        way.tried(7, 'c', false, false, 3);
        assert_eq!(way.confirmed(3), Vec::<u8>::new(), "two who agree");
        way.tried(7, 'a', false, true, 4);
        way.tried(7, 'a', false, false, 5);
        assert_eq!(way.confirmed(5), Vec::<u8>::new(), "the witness itself");
    }

    // row: NET-40
    #[test]
    fn an_address_stays_reached_for_as_long_as_peers_see_this_node_there() {
        let mut way = WayIn::new(false);
        way.tried(7, 'a', false, true, 0);
        way.seen(&7, CONFIRMED_MS - 1);
        way.seen(&8, CONFIRMED_MS - 1);
        assert_eq!(way.confirmed(2 * CONFIRMED_MS - 2), vec![7]);
        way.seen(&7, 2 * CONFIRMED_MS);
        assert_eq!(way.confirmed(2 * CONFIRMED_MS), Vec::<u8>::new(), "too late");
    }

    // row: NET-40
    #[test]
    fn behind_a_nat_what_a_known_peer_reached_needs_a_stranger_or_stun_to_count() {
        let mut way = WayIn::new(false);
        way.peers(true, 0);
        way.tried(7, 'a', false, true, 10);
        assert_eq!((way.verdict(10), way.confirmed(10)), (Reachability::Unknown, vec![7]));
        assert_eq!(way.verdict(UNDECIDED_MS_MAX), Reachability::Private);
        for open in [NatKind::FullCone, NatKind::Open] {
            let mut told = way.clone();
            told.judged(open);
            assert_eq!(told.verdict(UNDECIDED_MS_MAX), Reachability::Public, "{open:?}");
        }
        way.stranger_came(UNDECIDED_MS_MAX);
        assert_eq!(way.verdict(UNDECIDED_MS_MAX), Reachability::Public);
        way.changed();
        assert_eq!(way.verdict(UNDECIDED_MS_MAX), Reachability::Private);
    }

    // row: NET-40, NET-42
    #[test]
    fn a_node_with_peers_that_nobody_reaches_is_private_after_a_short_while() {
        let mut way = WayIn::<u8, char>::new(false);
        assert_eq!(way.verdict(1_000_000), Reachability::Unknown);
        way.peers(true, 1_000_000);
        assert_eq!(way.verdict(1_000_000 + UNDECIDED_MS_MAX - 1), Reachability::Unknown);
        assert_eq!(way.verdict(1_000_000 + UNDECIDED_MS_MAX), Reachability::Private);
        way.peers(false, 1_000_000 + UNDECIDED_MS_MAX);
        assert_eq!(way.verdict(1_000_000 + UNDECIDED_MS_MAX), Reachability::Unknown);
    }

    // row: NET-40
    #[test]
    fn a_nat_that_lets_nobody_in_decides_at_once() {
        for (kind, verdict) in [
            (NatKind::Symmetric, Reachability::Private),
            (NatKind::PortRestricted, Reachability::Private),
            (NatKind::UdpBlocked, Reachability::Private),
            (NatKind::FullCone, Reachability::Unknown),
            (NatKind::Open, Reachability::Unknown),
        ] {
            let mut way = WayIn::<u8, char>::new(false);
            way.peers(true, 0);
            way.judged(kind);
            assert_eq!(way.verdict(0), verdict, "{kind:?}");
            way.changed();
            assert_eq!(way.verdict(0), Reachability::Unknown, "{kind:?}");
        }
    }

    proptest! {
        // row: NET-40, NET-56
        #[test]
        fn public_means_that_a_confirmed_address_is_there_to_be_told(
            story in prop::collection::vec((0u8..64, 0u8..4, any::<[bool; 3]>(), 0u64..CONFIRMED_MS), 1..200),
        ) {
            let mut way = WayIn::new(false);
            let mut now_ms = 0;
            way.peers(true, 0);
            for (address, by, [own, reached, stranger], later_ms) in story {
                now_ms += later_ms;
                way.tried(address, by, own, reached, now_ms);
                if stranger {
                    way.stranger_came(now_ms);
                }
                let public = way.verdict(now_ms) == Reachability::Public;
                prop_assert!(!public || !way.confirmed(now_ms).is_empty());
                prop_assert!(public || !(own && reached) || way.confirmed.len() == ADDRESSES_MAX);
                prop_assert!(way.confirmed.len() <= ADDRESSES_MAX);
            }
        }
    }
}
