//! One peer's row.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use libp2p::swarm::ConnectionId;
use trellis_primitives::{RoleSet, UnixMs};

use super::PeerKey;
use crate::handshake::Accepted;
use crate::meter::Counters;
use crate::peer::{Direction, Path, PeerInfo};
use crate::reason::{DisconnectReason, RefusalReason};
use crate::state::{PeerInput, PeerState, PeerTrack};
use crate::streams::ConnectionHandle;

/// Mean and variance of round-trip times, by Welford's method.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RoundTrips {
    count: u32,
    latest: f64,
    mean: f64,
    squares: f64,
}

impl RoundTrips {
    pub(super) fn add(&mut self, ms: f64) {
        self.count = self.count.saturating_add(1);
        self.latest = ms;
        let delta = ms - self.mean;
        self.mean += delta / f64::from(self.count);
        self.squares += delta * (ms - self.mean);
    }

    /// The last one, microseconds.
    pub(super) fn latest_us(&self) -> Option<u32> {
        // A float becomes the nearest integer that there is.
        (self.count > 0).then_some((self.latest * 1_000.0) as u32)
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    fn variance(&self) -> Option<f64> {
        (self.count > 0).then(|| self.squares / f64::from(self.count))
    }
}

pub(super) struct Entry {
    track: PeerTrack,
    /// Handshaken connections, the one that streams are opened on last.
    pub(super) connections: Vec<ConnectionId>,
    /// The last one of them when they were put into order.
    pub(super) in_use: Option<ConnectionId>,
    pub(super) accepted: Option<Accepted>,
    pub(super) agent: String,
    pub(super) address: String,
    pub(super) counters: Arc<Counters>,
    pub(super) round_trip: RoundTrips,
    pub(super) disconnect_reason: Option<DisconnectReason>,
    pub(super) refusal: Option<RefusalReason>,
    session: Option<SessionFacts>,
    connected_since: Option<UnixMs>,
    pub(super) direct_after_ms: Option<u64>,
}

struct SessionFacts {
    peer_id: String,
    direction: Direction,
    key_exchange: String,
    mldsa_authenticated: bool,
    path: Path,
}

impl Entry {
    pub(super) fn new(now: UnixMs) -> Self {
        Self {
            track: PeerTrack::discovered(now),
            connections: Vec::new(),
            in_use: None,
            accepted: None,
            agent: String::new(),
            address: String::new(),
            counters: Arc::default(),
            round_trip: RoundTrips::default(),
            disconnect_reason: None,
            refusal: None,
            session: None,
            connected_since: None,
            direct_after_ms: None,
        }
    }

    pub(super) fn apply(&mut self, input: PeerInput, now: UnixMs) {
        if let Err(illegal) = self.track.apply(input, now) {
            // Two connections to one peer overlap: the peer's state follows the first.
            tracing::debug!(%illegal, "peer state unchanged");
        }
    }

    pub(super) const fn state(&self) -> PeerState {
        self.track.current().state
    }

    pub(super) const fn since(&self) -> UnixMs {
        self.track.current().since
    }

    pub(super) const fn is_gone(&self) -> bool {
        matches!(self.state(), PeerState::Discovered | PeerState::Disconnected | PeerState::Failed)
    }

    /// Takes over what the newest session shows.
    pub(super) fn adopt(&mut self, handle: &Arc<ConnectionHandle>, address: String) {
        let session = &handle.session;
        self.counters = Arc::clone(&handle.counters);
        self.address = address;
        let key_exchange = if session.key_exchange().is_hybrid() {
            session.key_exchange().name().to_owned()
        } else {
            format!("{} (classical)", session.key_exchange().name())
        };
        self.session = Some(SessionFacts {
            peer_id: session.peer_id().to_string(),
            direction: session.direction(),
            key_exchange,
            mldsa_authenticated: session.node_id().is_some(),
            path: session.kind().into(),
        });
    }

    /// The connection in use is direct now, or it is not.
    pub(super) fn took_way(&mut self, relayed: bool, turned: bool, now: UnixMs) {
        let since = self.connected_since.unwrap_or(now);
        if let Some(session) = self.session.as_mut().filter(|_| turned) {
            session.path = Path::Turn;
        }
        self.direct_after_ms =
            (!relayed && !turned).then(|| self.direct_after_ms.unwrap_or_else(|| now.ms_since(since)));
    }

    /// Since when the connected peer has had no stream; `None` while it has one.
    pub(super) fn idle_since(&self) -> Option<UnixMs> {
        // What a former connection did does not make a new one old.
        self.counters.idle_since().map(|since| self.connected_since.map_or(since, |connected| connected.max(since)))
    }

    /// A handshake was accepted; `anew` if no connection of the same life of the peer stood before.
    pub(super) fn connected(&mut self, accepted: Accepted, handle: &Arc<ConnectionHandle>, anew: bool, now: UnixMs) {
        let address = std::mem::take(&mut self.address);
        self.adopt(handle, address);
        self.agent.clone_from(&accepted.user_agent);
        self.accepted = Some(accepted);
        if anew {
            (self.connected_since, self.direct_after_ms) = (Some(now), None);
        }
        self.counters.touch(now);
    }

    pub(super) fn info(&self, key: &PeerKey) -> PeerInfo {
        let current = self.track.current();
        let accepted = self.accepted.as_ref();
        let session = self.session.as_ref();
        let counters = &self.counters;
        let record = accepted.map(|accepted| accepted.record.clone());
        let mut addresses = vec![self.address.clone()];
        addresses.extend(record.iter().flat_map(|record| record.addresses.iter().cloned()));
        addresses.retain(|address| !address.is_empty());
        PeerInfo {
            id: match key {
                PeerKey::Node(id) => Some(*id),
                PeerKey::Classical(_) | PeerKey::Address(_) => None,
            },
            peer_id: session.map(|session| session.peer_id.clone()).unwrap_or_default(),
            record,
            roles: accepted.map_or(RoleSet(0), |accepted| accepted.roles),
            user_agent: self.agent.clone(),
            protocol_version: accepted.map(|accepted| accepted.protocol_version),
            best_height: accepted.map(|accepted| accepted.best_height),
            addresses,
            direction: session.map_or(Direction::Outbound, |session| session.direction),
            state: current.state,
            state_since: current.since,
            history: self.track.history().copied().chain([current]).collect(),
            banned: false,
            reputation: crate::guard::NEUTRAL,
            connected_since: self.connected_since.filter(|_| current.state == PeerState::Connected),
            last_activity: counters.last_activity(),
            latency_ms: self.round_trip.mean(),
            latency_variance: self.round_trip.variance(),
            key_exchange: session.map(|session| session.key_exchange.clone()).unwrap_or_default(),
            mldsa_authenticated: session.is_some_and(|session| session.mldsa_authenticated),
            path: session.map_or(Path::Direct, |session| session.path),
            direct_after_ms: self.direct_after_ms,
            bytes_in: counters.bytes_in.load(Ordering::Relaxed),
            bytes_out: counters.bytes_out.load(Ordering::Relaxed),
            messages_in: counters.messages_in.load(Ordering::Relaxed),
            messages_out: counters.messages_out.load(Ordering::Relaxed),
            streams: counters.streams.load(Ordering::Relaxed),
            disconnect_reason: self.disconnect_reason,
            refusal_reason: self.refusal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-16
    #[test]
    fn round_trips_have_a_mean_and_a_variance() {
        let mut stats = RoundTrips::default();
        assert_eq!(stats.mean(), None);
        for ms in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            stats.add(ms);
        }
        assert_eq!(stats.mean(), Some(5.0));
        assert!((stats.variance().unwrap() - 4.0).abs() < 1e-9);
    }
}
