//! Rate limits by class of message and peer (NET-51): token buckets in whole numbers, no clock of their own.

use serde::{Deserialize, Serialize};
use trellis_primitives::UnixMs;

/// Control messages that one peer may send in a minute.
pub const CONTROL_MESSAGES_PER_MINUTE: u64 = 100;
/// Bytes of gossip nobody asked for that one peer may send in a minute.
pub const GOSSIP_BYTES_PER_MINUTE: u64 = 1024 * 1024;
/// While a peer is throttled, everything costs it so many times as much.
pub const THROTTLED_COST: u64 = 4;
/// While this node is under attack, everything costs a peer of no standing so many times as much.
pub const STRAINED_COST: u64 = 2;
const MINUTE_MS: u64 = 60_000;

/// What kind of traffic a message belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageClass {
    /// Handshakes, pings, requests for addresses: counted in messages.
    Control,
    /// What nobody asked for: counted in bytes.
    Gossip,
    /// Blocks and state for those who catch up: left to the bandwidth budget, so that it is never starved here.
    Sync,
    /// Jobs, receipts and consensus: left to the bandwidth budget, so that real work is never starved here.
    Work,
}

/// A token bucket. Its level is kept in sixty-thousandths of a token, so that a millisecond's refill is a whole number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenBucket {
    per_minute: u64,
    capacity: u64,
    level: u64,
    updated: UnixMs,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub const fn full(per_minute: u64, capacity: u64, now: UnixMs) -> Self {
        Self { per_minute, capacity, level: capacity.saturating_mul(MINUTE_MS), updated: now }
    }

    /// Takes so many tokens, or none of them.
    pub fn take(&mut self, tokens: u64, now: UnixMs) -> bool {
        let refill = self.per_minute.saturating_mul(now.ms_since(self.updated));
        self.level = self.level.saturating_add(refill).min(self.capacity.saturating_mul(MINUTE_MS));
        self.updated = self.updated.max(now);
        let cost = tokens.saturating_mul(MINUTE_MS);
        let enough = self.level >= cost;
        if enough {
            self.level = self.level.saturating_sub(cost);
        }
        enough
    }
}

/// The buckets of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerRates {
    control: TokenBucket,
    gossip: TokenBucket,
}

impl PeerRates {
    /// Full buckets.
    #[must_use]
    pub const fn new(now: UnixMs) -> Self {
        Self {
            control: TokenBucket::full(CONTROL_MESSAGES_PER_MINUTE, CONTROL_MESSAGES_PER_MINUTE, now),
            gossip: TokenBucket::full(GOSSIP_BYTES_PER_MINUTE, GOSSIP_BYTES_PER_MINUTE, now),
        }
    }

    /// Whether one message of so many bytes is within the peer's rate; `cost` multiplies what it takes.
    pub fn allow(&mut self, class: MessageClass, bytes: u64, cost: u64, now: UnixMs) -> bool {
        match class {
            MessageClass::Control => self.control.take(cost, now),
            MessageClass::Gossip => self.gossip.take(bytes.saturating_mul(cost), now),
            MessageClass::Sync | MessageClass::Work => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // row: NET-51
    #[test]
    fn a_hundred_control_messages_a_minute_pass_and_no_more() {
        let mut rates = PeerRates::new(UnixMs(0));
        let passed = |rates: &mut PeerRates, now| {
            (0..500).filter(|_| rates.allow(MessageClass::Control, 10, 1, now)).count() as u64
        };
        assert_eq!(passed(&mut rates, UnixMs(0)), CONTROL_MESSAGES_PER_MINUTE);
        assert_eq!(passed(&mut rates, UnixMs(0)), 0);
        assert_eq!(passed(&mut rates, UnixMs(30_000)), CONTROL_MESSAGES_PER_MINUTE / 2);
    }

    // row: NET-51
    #[test]
    fn sync_and_work_are_never_starved_by_an_empty_bucket() {
        let mut rates = PeerRates::new(UnixMs(0));
        while rates.allow(MessageClass::Control, 1, 1, UnixMs(0)) {}
        while rates.allow(MessageClass::Gossip, 1_000_000, 1, UnixMs(0)) {}
        for class in [MessageClass::Sync, MessageClass::Work] {
            assert!((0..10_000).all(|_| rates.allow(class, u64::MAX, THROTTLED_COST, UnixMs(0))));
        }
    }

    proptest! {
        // row: NET-51
        #[test]
        fn a_bucket_never_gives_more_than_its_capacity_and_its_refill(
            per_minute in 1u64..10_000, capacity in 1u64..10_000,
            takes in prop::collection::vec((0u64..5_000, 1u64..400), 1..200),
        ) {
            let mut bucket = TokenBucket::full(per_minute, capacity, UnixMs(0));
            let (mut now, mut given) = (0u64, 0u64);
            for (wait, tokens) in takes {
                now += wait;
                if bucket.take(tokens, UnixMs(now)) {
                    given += tokens;
                }
                prop_assert!(given * MINUTE_MS <= capacity * MINUTE_MS + per_minute * now);
            }
        }

        // row: NET-51
        #[test]
        fn a_clock_that_goes_back_gives_nothing_away(times in prop::collection::vec(0u64..100_000, 1..100)) {
            let latest = times.iter().copied().max().unwrap_or_default();
            let mut bucket = TokenBucket::full(60, 10, UnixMs(0));
            let given = times.iter().filter(|at| bucket.take(1, UnixMs(**at))).count() as u64;
            prop_assert!(given <= 10 + latest / 1_000);
        }
    }
}
