//! Named reasons: why a handshake was refused, why a connection ended (NET-21).

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! named_reasons {
    ($(#[$meta:meta])* $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $code:literal, $text:literal; )+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $( $(#[$vmeta])* $variant, )+
        }

        impl $name {
            /// Every reason, in the order of the wire codes.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )+];

            /// The number that stands for the reason on the wire. Never reused.
            #[must_use]
            pub const fn code(self) -> u32 {
                match self { $( Self::$variant => $code, )+ }
            }

            /// The reason of a wire code.
            #[must_use]
            pub const fn from_code(code: u32) -> Option<Self> {
                match code { $( $code => Some(Self::$variant), )+ _ => None }
            }

            /// The reason's name, as logs, metrics and command output show it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $text, )+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named_reasons! {
    /// Why a connection or its handshake was refused.
    RefusalReason {
        /// The network magic differs.
        WrongNetwork = 1, "wrong network";
        /// The genesis hash differs.
        WrongGenesis = 2, "wrong genesis";
        /// The ranges of protocol versions do not meet.
        Version = 3, "version";
        /// The clocks differ by more than `CLOCK_SKEW_MS_MAX`.
        ClockSkew = 4, "clock skew";
        /// A signature or key of the node record or of the session does not verify or does not match.
        BadSignature = 5, "bad signature";
        /// The nonce was seen before.
        Replay = 6, "replay";
        /// The identity is banned.
        Banned = 7, "banned";
        /// No room for another peer.
        Full = 8, "full";
        /// The session is not post-quantum, and the policy requires it.
        PolicyClassical = 9, "policy (classical)";
        /// The message does not decode or breaks a bound.
        Malformed = 10, "malformed";
        /// The PeerId was seen with another ML-DSA key before.
        IdentityChanged = 11, "identity changed";
        /// The peer is this node itself.
        SelfConnection = 12, "self connection";
    }
}

named_reasons! {
    /// Why a connection that had stood was ended.
    DisconnectReason {
        /// Somebody asked for it.
        UserRequest = 1, "user request";
        /// The peer broke a protocol's rules.
        ProtocolViolation = 2, "protocol violation";
        /// Nothing moved for too long.
        Inactivity = 3, "inactivity";
        /// Too many connections.
        ConnectionLimit = 4, "connection limit";
        /// The node stops.
        Shutdown = 5, "shutdown";
        /// The connection broke.
        NetworkError = 6, "network error";
        /// A message did not decode or verify.
        InvalidMessage = 7, "invalid message";
        /// The identity was banned.
        Banned = 8, "banned";
        /// Another connection to the same peer stands already.
        Duplicate = 9, "duplicate";
        /// The peer does not read what is sent to it.
        TooSlow = 10, "too slow";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-21
    #[test]
    fn every_reason_survives_its_wire_code_and_has_its_own_name() {
        let mut names = std::collections::BTreeSet::new();
        for reason in RefusalReason::ALL {
            assert_eq!(RefusalReason::from_code(reason.code()), Some(*reason));
            assert!(names.insert(reason.name()));
        }
        names.clear();
        for reason in DisconnectReason::ALL {
            assert_eq!(DisconnectReason::from_code(reason.code()), Some(*reason));
            assert!(names.insert(reason.name()));
        }
        assert_eq!(RefusalReason::from_code(0), None);
        assert_eq!(DisconnectReason::from_code(0), None);
    }
}
