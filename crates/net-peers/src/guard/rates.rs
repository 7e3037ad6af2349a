//! Rate limits by class of message and peer (NET-51): token buckets in whole numbers, no clock of their own.

use serde::{Deserialize, Serialize};
use trellis_primitives::UnixMs;

use crate::network::Protocol;

/// Control messages that one peer may send in a minute.
pub const CONTROL_MESSAGES_PER_MINUTE: u64 = 100;
/// Bytes of gossip nobody asked for that one peer may send in a minute.
pub const GOSSIP_BYTES_PER_MINUTE: u64 = 1024 * 1024;
/// Streams that one peer may open in a minute, whatever they are for.
pub const STREAMS_PER_MINUTE: u64 = 120_000;
/// Streams that one peer may open at once.
pub const STREAMS_AT_ONCE: u64 = 4_000;
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
    /// Votes and proposals: before everything else, and never held back.
    Consensus,
    /// Blocks and state for those who catch up: left to the bandwidth budget, so that it is never starved here.
    Sync,
    /// Jobs and receipts: left to the bandwidth budget, so that real work is never starved here.
    Work,
}

impl MessageClass {
    /// Every class, the first in line first.
    pub const ALL: [Self; 5] = [Self::Control, Self::Consensus, Self::Sync, Self::Work, Self::Gossip];

    /// The class of a protocol, by its name; what is not known is work.
    #[must_use]
    pub fn of(protocol: Protocol) -> Self {
        match protocol.0.strip_prefix("/trellis/").and_then(|rest| rest.split('/').next()) {
            Some("handshake" | "goodbye" | "ping" | "pex" | "record") => Self::Control,
            Some("consensus" | "proposal") => Self::Consensus,
            Some("sync" | "value-sync" | "snapshot" | "checkpoint-proof") => Self::Sync,
            // Who misses a checkpoint's signature is told it again, and keeps its connection for the votes.
            Some("gossip" | "advert" | "transactions" | "checkpoint") => Self::Gossip,
            _ => Self::Work,
        }
    }

    /// The name that metrics and `status` show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Consensus => "consensus",
            Self::Sync => "sync",
            Self::Work => "work",
            Self::Gossip => "gossip",
        }
    }

    /// Its place in tables that hold one thing for each class.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
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
    streams: TokenBucket,
}

impl PeerRates {
    /// Full buckets.
    #[must_use]
    pub const fn new(now: UnixMs) -> Self {
        Self {
            control: TokenBucket::full(CONTROL_MESSAGES_PER_MINUTE, CONTROL_MESSAGES_PER_MINUTE, now),
            gossip: TokenBucket::full(GOSSIP_BYTES_PER_MINUTE, GOSSIP_BYTES_PER_MINUTE, now),
            streams: TokenBucket::full(STREAMS_PER_MINUTE, STREAMS_AT_ONCE, now),
        }
    }

    /// Whether one more stream is within the peer's rate.
    pub fn allow_stream(&mut self, cost: u64, now: UnixMs) -> bool {
        self.streams.take(cost, now)
    }

    /// Whether so many messages with so many bytes are within the peer's rate; `cost` multiplies what they take.
    pub fn allow(&mut self, class: MessageClass, messages: u64, bytes: u64, cost: u64, now: UnixMs) -> bool {
        match class {
            MessageClass::Control => self.control.take(messages.saturating_mul(cost), now),
            MessageClass::Gossip => self.gossip.take(bytes.saturating_mul(cost), now),
            MessageClass::Consensus | MessageClass::Sync | MessageClass::Work => true,
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
            (0..500).filter(|_| rates.allow(MessageClass::Control, 1, 10, 1, now)).count() as u64
        };
        assert_eq!(passed(&mut rates, UnixMs(0)), CONTROL_MESSAGES_PER_MINUTE);
        assert_eq!(passed(&mut rates, UnixMs(0)), 0);
        assert_eq!(passed(&mut rates, UnixMs(30_000)), CONTROL_MESSAGES_PER_MINUTE / 2);
    }

    // row: NET-51
    #[test]
    fn sync_and_work_are_never_starved_by_an_empty_bucket() {
        let mut rates = PeerRates::new(UnixMs(0));
        while rates.allow(MessageClass::Control, 1, 1, 1, UnixMs(0)) {}
        while rates.allow(MessageClass::Gossip, 1, 1_000_000, 1, UnixMs(0)) {}
        for class in [MessageClass::Consensus, MessageClass::Sync, MessageClass::Work] {
            assert!((0..10_000).all(|_| rates.allow(class, 1, u64::MAX, THROTTLED_COST, UnixMs(0))));
        }
    }

    // row: NET-18, NET-51
    #[test]
    fn every_protocol_has_a_class_and_every_class_a_place() {
        let of = |name| MessageClass::of(Protocol(name));
        assert_eq!(of("/trellis/checkpoint/1"), MessageClass::Gossip);
        assert_eq!(of("/trellis/checkpoint-proof/1"), MessageClass::Sync);
        assert_eq!(of("/trellis/ping/1"), MessageClass::Control);
        assert_eq!(of("/trellis/consensus/1"), MessageClass::Consensus);
        assert_eq!(of("/trellis/value-sync/1"), MessageClass::Sync);
        assert_eq!(of("/trellis/gossip/1"), MessageClass::Gossip);
        assert_eq!(of("/trellis/job/1"), MessageClass::Work);
        let mut places = MessageClass::ALL.map(MessageClass::index);
        places.sort_unstable();
        assert_eq!(places, [0, 1, 2, 3, 4]);
    }

    // row: NET-51, NET-55
    #[test]
    fn streams_faster_than_anybody_needs_them_do_not_pass() {
        let mut rates = PeerRates::new(UnixMs(0));
        let passed = |rates: &mut PeerRates, now| (0..10_000).filter(|_| rates.allow_stream(1, now)).count() as u64;
        assert_eq!(passed(&mut rates, UnixMs(0)), STREAMS_AT_ONCE);
        assert_eq!(passed(&mut rates, UnixMs(1_000)), STREAMS_PER_MINUTE / 60);
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
