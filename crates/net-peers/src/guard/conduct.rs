//! What a peer did, and what this node does about it. Names only; the rules are in [`super::state`].

use serde::{Deserialize, Serialize};
use trellis_primitives::UnixMs;

macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $text:literal; )+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $( $(#[$vmeta])* $variant, )+ }

        impl $name {
            /// Every variant.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )+];

            /// The name that logs, metrics and command output show.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $text, )+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// A pattern of attack that is recognised, counted and acted on (NET-55).
    Pattern {
        /// Connections faster than anybody needs them.
        ConnectionFlood = "connection_flood";
        /// Handshakes that are begun and not finished.
        HalfOpenFlood = "half_open_flood";
        /// Streams or control messages above the peer's rate.
        StreamFlood = "stream_flood";
        /// Unsolicited gossip above the peer's rate.
        GossipFlood = "gossip_flood";
        /// Reads or writes so slowly that queues fill.
        SlowPeer = "slow_peer";
        /// A frame above its bound.
        Oversized = "oversized";
        /// A frame that does not decode.
        Malformed = "malformed";
        /// A message that decodes and does not verify.
        Unverified = "unverified";
        /// Many failed handshakes in a row.
        HandshakeFailures = "handshake_failures";
        /// More addresses than anybody has.
        AddressSpam = "address_spam";
        /// A message that was seen before.
        Replay = "replay";
        /// One network tries to fill the peer table.
        EclipsePressure = "eclipse_pressure";
        /// Many nodes that one party made.
        SybilCluster = "sybil_cluster";
    }
}

/// One thing a peer did, as a protocol reports it (NET-52).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduct {
    /// So many messages that decoded and verified.
    Valid {
        /// How many.
        messages: u32,
    },
    /// A message that did not: too large, undecodable, wrong signature of something unimportant, out of order.
    Invalid {
        /// What was wrong with it.
        pattern: Pattern,
    },
    /// A signature that is proven to be forged (NET-59).
    Forged,
    /// Two contradicting signed statements (NET-59).
    Equivocated,
    /// A ping came back.
    RoundTrip {
        /// After so many microseconds.
        us: u32,
    },
    /// Stayed connected.
    Online {
        /// For so many more milliseconds.
        ms: u64,
    },
    /// The connection broke without a goodbye.
    Dropped,
    /// Did not answer a dial.
    Unreachable,
    /// Took part in consensus as it should.
    Participated,
    /// Broke a rule of consensus that is short of equivocation.
    Violated,
    /// Carried somebody's traffic.
    Relayed,
    /// Was asked to and failed.
    RelayFailed,
}

impl Conduct {
    /// Whether it can lead to a response.
    #[must_use]
    pub const fn is_offence(self) -> bool {
        matches!(self, Self::Invalid { .. } | Self::Forged | Self::Equivocated | Self::Violated)
    }
}

/// The step of the ladder that an offence led to (NET-54).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Response {
    /// Counted and said so.
    Warned,
    /// Its rates are cut for a while.
    Throttled {
        /// Until then.
        until: UnixMs,
    },
    /// Disconnected, and kept out for a short while that grows.
    Disconnected {
        /// Until then.
        until: UnixMs,
    },
    /// Disconnected and banned.
    Banned {
        /// Until then; for ever if `None`.
        until: Option<UnixMs>,
    },
}

impl Response {
    /// The name that logs and metrics show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warned => "warn",
            Self::Throttled { .. } => "throttle",
            Self::Disconnected { .. } => "disconnect",
            Self::Banned { until: Some(_) } => "temporary_ban",
            Self::Banned { until: None } => "permanent_ban",
        }
    }

    /// Whether the peer has to go now.
    #[must_use]
    pub const fn ends_connection(self) -> bool {
        matches!(self, Self::Disconnected { .. } | Self::Banned { .. })
    }
}

named! {
    /// Why an identity is kept out.
    BanCause {
        /// Somebody typed it.
        Operator = "operator";
        /// Its score fell below a threshold.
        Reputation = "reputation";
        /// It forged a signature.
        Forgery = "forgery";
        /// It signed two contradicting statements.
        Equivocation = "equivocation";
    }
}

named! {
    /// Where an address of a peer came from (NET-74).
    AddressSource {
        /// This node dialled it there.
        Dialled = "dialled";
        /// A connection came from there.
        Inbound = "inbound";
        /// The peer's own signed record.
        Record = "record";
        /// A person named it.
        Operator = "operator";
        /// It came with an imported file.
        Imported = "imported";
    }
}
