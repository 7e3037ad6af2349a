//! The states of a peer and the transitions between them (NET-24). Pure: events and a time in, a state out.
//!
//! ```text
//!   discovered ──dial──▶ connecting ──transport up──▶ handshaking ──both accept──▶ connected ──lost, goodbye──▶ disconnected
//!        │                   │ ▲                        │      ▲                                                   │   │
//!        │                   │ └──────────dial───────────┼──────┼───────────────────────────────────────────────────┘   │
//!        └──inbound──────────┼──────────────────────────┼──────┤◀──────────────────inbound────────────────────────────┘
//!                            └──no answer──▶ failed ◀───┘      │
//!                                            │ │ refused, lost │
//!                            connecting ◀─dial┘ └───inbound────┘
//! ```
//! Banned is a flag beside the state: a banned peer keeps the history of what it did.

use std::collections::VecDeque;

use serde::Serialize;
use thiserror::Error;
use trellis_primitives::UnixMs;

use crate::reason::{DisconnectReason, RefusalReason};

/// How many past states are kept per peer.
pub const STATE_HISTORY_MAX: usize = 16;

/// Where a peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Known by address only.
    Discovered,
    /// Being dialled.
    Connecting,
    /// The encrypted connection stands; the handshake runs.
    Handshaking,
    /// Both sides accepted.
    Connected,
    /// Was connected.
    Disconnected,
    /// Never got so far: no answer, refused, or lost while handshaking.
    Failed,
}

impl PeerState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Discovered, Self::Connecting, Self::Handshaking, Self::Connected, Self::Disconnected, Self::Failed];

    /// The name that output and metrics show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discovered => "discovered",
            Self::Connecting => "connecting",
            Self::Handshaking => "handshaking",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for PeerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerInput {
    /// This node starts to dial it.
    Dial,
    /// An encrypted connection from or to it stands.
    TransportUp,
    /// Both sides accepted the handshake.
    HandshakeAccepted,
    /// One side refused.
    Refused(RefusalReason),
    /// It did not answer, or the connection broke before the handshake was over.
    NoAnswer,
    /// The last connection ended.
    Closed(DisconnectReason),
}

/// Why a state began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StateReason {
    /// Progress: nothing went wrong.
    Progress,
    /// A refusal.
    Refused(RefusalReason),
    /// No answer.
    NoAnswer,
    /// An ended connection.
    Closed(DisconnectReason),
}

/// An input that the drawing does not allow in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a {from} peer cannot take {input:?}")]
pub struct IllegalTransition {
    /// The state that stays.
    pub from: PeerState,
    /// The input that was ignored.
    pub input: PeerInput,
}

/// One past or present state of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct StateChange {
    /// The state.
    pub state: PeerState,
    /// When it began.
    pub since: UnixMs,
    /// Why it began.
    pub reason: StateReason,
}

/// A peer's state with its history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerTrack {
    current: StateChange,
    history: VecDeque<StateChange>,
    banned: bool,
}

impl PeerTrack {
    /// A peer that was just heard of.
    #[must_use]
    pub fn discovered(now: UnixMs) -> Self {
        let current = StateChange { state: PeerState::Discovered, since: now, reason: StateReason::Progress };
        Self { current, history: VecDeque::new(), banned: false }
    }

    /// Where the peer stands, since when and why.
    #[must_use]
    pub const fn current(&self) -> StateChange {
        self.current
    }

    /// Earlier states, oldest first, at most [`STATE_HISTORY_MAX`].
    pub fn history(&self) -> impl Iterator<Item = &StateChange> {
        self.history.iter()
    }

    /// Whether the identity is banned.
    #[must_use]
    pub const fn banned(&self) -> bool {
        self.banned
    }

    /// Sets or clears the ban flag; the state is untouched.
    pub const fn set_banned(&mut self, banned: bool) {
        self.banned = banned;
    }

    /// Applies an input.
    ///
    /// # Errors
    /// [`IllegalTransition`] if the drawing has no such arrow; the state is untouched then.
    pub fn apply(&mut self, input: PeerInput, now: UnixMs) -> Result<PeerState, IllegalTransition> {
        let from = self.current.state;
        let Some((state, reason)) = next(from, input) else {
            return Err(IllegalTransition { from, input });
        };
        if self.history.len() == STATE_HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(self.current);
        self.current = StateChange { state, since: now, reason };
        Ok(state)
    }
}

/// The drawing, as a table.
fn next(from: PeerState, input: PeerInput) -> Option<(PeerState, StateReason)> {
    use PeerState::{Connected, Connecting, Disconnected, Discovered, Failed, Handshaking};
    let progress = StateReason::Progress;
    match (from, input) {
        (Discovered | Disconnected | Failed, PeerInput::Dial) => Some((Connecting, progress)),
        (Discovered | Connecting | Disconnected | Failed, PeerInput::TransportUp) => Some((Handshaking, progress)),
        (Handshaking, PeerInput::HandshakeAccepted) => Some((Connected, progress)),
        (Connecting | Handshaking, PeerInput::Refused(reason)) => Some((Failed, StateReason::Refused(reason))),
        (Connecting | Handshaking, PeerInput::NoAnswer) => Some((Failed, StateReason::NoAnswer)),
        (Connected, PeerInput::Closed(reason)) => Some((Disconnected, StateReason::Closed(reason))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inputs() -> impl Strategy<Value = PeerInput> {
        prop_oneof![
            Just(PeerInput::Dial),
            Just(PeerInput::TransportUp),
            Just(PeerInput::HandshakeAccepted),
            Just(PeerInput::Refused(RefusalReason::Full)),
            Just(PeerInput::NoAnswer),
            Just(PeerInput::Closed(DisconnectReason::Shutdown)),
        ]
    }

    // row: NET-24
    #[test]
    fn a_peer_walks_the_drawn_path() {
        let mut peer = PeerTrack::discovered(UnixMs(1));
        for (at, input, state) in [
            (2, PeerInput::Dial, PeerState::Connecting),
            (3, PeerInput::TransportUp, PeerState::Handshaking),
            (4, PeerInput::HandshakeAccepted, PeerState::Connected),
            (5, PeerInput::Closed(DisconnectReason::Inactivity), PeerState::Disconnected),
            (6, PeerInput::TransportUp, PeerState::Handshaking),
            (7, PeerInput::Refused(RefusalReason::Banned), PeerState::Failed),
        ] {
            assert_eq!(peer.apply(input, UnixMs(at)), Ok(state));
            assert_eq!(peer.current().since, UnixMs(at));
        }
        assert_eq!(peer.current().reason, StateReason::Refused(RefusalReason::Banned));
        assert_eq!(peer.history().count(), 6);
    }

    // row: NET-24
    #[test]
    fn a_ban_is_a_flag_beside_the_state() {
        let mut peer = PeerTrack::discovered(UnixMs(1));
        peer.set_banned(true);
        assert_eq!(peer.current().state, PeerState::Discovered);
        assert!(peer.banned());
    }

    proptest! {
        // row: NET-24
        #[test]
        fn connected_is_only_reached_through_a_handshake(sequence in prop::collection::vec(inputs(), 0..60)) {
            let mut peer = PeerTrack::discovered(UnixMs(0));
            for (at, input) in sequence.into_iter().enumerate() {
                let before = peer.current();
                match peer.apply(input, UnixMs(at as u64)) {
                    Ok(PeerState::Connected) => prop_assert_eq!(before.state, PeerState::Handshaking),
                    Ok(PeerState::Disconnected) => prop_assert_eq!(before.state, PeerState::Connected),
                    Ok(PeerState::Discovered) => prop_assert!(false, "nothing leads back to discovered"),
                    Ok(_) => prop_assert_ne!(before.state, PeerState::Connected),
                    Err(_) => prop_assert_eq!(peer.current(), before),
                }
                prop_assert!(peer.history().count() <= STATE_HISTORY_MAX);
            }
        }
    }
}
