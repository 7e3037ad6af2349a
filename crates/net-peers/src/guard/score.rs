//! Reputation (NET-52, NET-59): five parts from recorded inputs, decay towards neutral, caps for proven misbehaviour.
//!
//! Each part is a figure from 0 to 100 that begins at [`NEUTRAL`] and that every input moves by a share of the way to 0 or
//! to 100, so no single input decides and none weighs more for being late. With time every part loses a tenth of its
//! distance to neutral a day, so the sum does too. A part that was never measured stays neutral.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use trellis_primitives::UnixMs;

use super::conduct::Conduct;

/// Where everybody starts and where everything returns to.
pub const NEUTRAL: f64 = 50.0;
/// The best score.
pub const SCORE_MAX: f64 = 100.0;
/// The share of the distance to neutral that is lost in a day.
pub const DECAY_PER_DAY: f64 = 0.1;
/// So many invalid messages within [`INVALID_WINDOW_MS`] cap the score (NET-59).
pub const INVALID_BURST: usize = 10;
/// The window of [`INVALID_BURST`], milliseconds.
pub const INVALID_WINDOW_MS: u64 = 60_000;
/// The cap after a burst of invalid messages.
pub const CAP_INVALID: f64 = 15.0;
/// The cap after a forged signature or equivocation.
pub const CAP_PROVEN: f64 = 5.0;
/// A cap above this has no effect any more and is dropped.
const CAP_GONE: f64 = 99.0;
/// Milliseconds in a day.
const DAY_MS: f64 = 86_400_000.0;

/// The weights of the parts; they add up to one.
pub const WEIGHTS: Parts = Parts { uptime: 0.2, latency: 0.2, validity: 0.3, consensus: 0.2, relay: 0.1 };

/// How far one input moves its part, as a share of the way.
mod share {
    pub(super) const VALID: f64 = 0.002;
    pub(super) const INVALID: f64 = 0.08;
    pub(super) const PROVEN: f64 = 1.0;
    pub(super) const ROUND_TRIP: f64 = 0.1;
    pub(super) const DROPPED: f64 = 0.1;
    pub(super) const UNREACHABLE: f64 = 0.05;
    pub(super) const PARTICIPATED: f64 = 0.01;
    pub(super) const VIOLATED: f64 = 0.3;
    pub(super) const RELAYED: f64 = 0.02;
    pub(super) const RELAY_FAILED: f64 = 0.1;
    /// Connected time of which one part in `e` of the distance to 100 is left, milliseconds.
    pub(super) const ONLINE_MS: f64 = 6.0 * 3_600_000.0;
}
/// A round-trip time (with twice its deviation) that is worth half of the latency part, milliseconds.
const LATENCY_HALF_MS: f64 = 100.0;

/// The five parts of a score, or their weights.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Parts {
    /// How steadily it is there.
    pub uptime: f64,
    /// How quickly and evenly it answers.
    pub latency: f64,
    /// Whether what it sends is good.
    pub validity: f64,
    /// Whether it does its duty in consensus.
    pub consensus: f64,
    /// Whether it carries others' traffic as promised.
    pub relay: f64,
}

impl Default for Parts {
    fn default() -> Self {
        Self { uptime: NEUTRAL, latency: NEUTRAL, validity: NEUTRAL, consensus: NEUTRAL, relay: NEUTRAL }
    }
}

impl Parts {
    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            uptime: f(self.uptime),
            latency: f(self.latency),
            validity: f(self.validity),
            consensus: f(self.consensus),
            relay: f(self.relay),
        }
    }

    fn weighted(self) -> f64 {
        self.uptime * WEIGHTS.uptime
            + self.latency * WEIGHTS.latency
            + self.validity * WEIGHTS.validity
            + self.consensus * WEIGHTS.consensus
            + self.relay * WEIGHTS.relay
    }
}

/// Everything that was ever fed in, as plain counts: what a person sees beside the parts.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Inputs {
    /// Time connected, milliseconds.
    pub online_ms: u64,
    /// Connections that broke without a goodbye.
    pub dropped: u64,
    /// Dials without an answer.
    pub unreachable: u64,
    /// Round trips measured.
    pub round_trips: u64,
    /// Their mean, microseconds.
    pub round_trip_us_mean: f64,
    /// Their variance, microseconds squared.
    pub round_trip_us2_variance: f64,
    /// Messages that were good.
    pub valid: u64,
    /// Messages that were not.
    pub invalid: u64,
    /// Forged signatures and equivocations.
    pub proven: u64,
    /// Duties done in consensus.
    pub participated: u64,
    /// Rules of consensus broken.
    pub violated: u64,
    /// Traffic carried for others.
    pub relayed: u64,
    /// Traffic it promised to carry and did not.
    pub relay_failed: u64,
}

impl Inputs {
    /// Welford's running mean and variance.
    fn round_trip(&mut self, us: f64) {
        let before = self.round_trips as f64;
        self.round_trips = self.round_trips.saturating_add(1);
        let count = self.round_trips as f64;
        let delta = us - self.round_trip_us_mean;
        self.round_trip_us_mean += delta / count;
        let squares = self.round_trip_us2_variance * before + delta * (us - self.round_trip_us_mean);
        self.round_trip_us2_variance = (squares / count).max(0.0);
    }

    /// What the round trips so far are worth, 0 to 100.
    fn latency_worth(&self) -> f64 {
        let ms = (self.round_trip_us_mean + 2.0 * self.round_trip_us2_variance.sqrt()) / 1_000.0;
        SCORE_MAX / (1.0 + ms / LATENCY_HALF_MS)
    }
}

/// A ceiling on the total that rises with time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
struct Cap {
    points: f64,
    since: UnixMs,
}

impl Cap {
    /// Its distance to 100 shrinks as every distance does.
    fn at(self, now: UnixMs) -> f64 {
        SCORE_MAX - (SCORE_MAX - self.points) * kept(self.since, now)
    }
}

/// The share of a distance that is left after the time between.
fn kept(since: UnixMs, now: UnixMs) -> f64 {
    (1.0 - DECAY_PER_DAY).powf(now.ms_since(since) as f64 / DAY_MS)
}

/// One peer's reputation.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub struct Reputation {
    parts: Parts,
    /// The time that `parts` are of.
    updated: UnixMs,
    cap: Option<Cap>,
    inputs: Inputs,
    /// When invalid messages came, within the window; never more than the burst. A restart forgets them.
    #[serde(skip)]
    invalid_at: VecDeque<UnixMs>,
}

impl Reputation {
    /// Of a peer nobody knows anything of.
    #[must_use]
    pub fn new(now: UnixMs) -> Self {
        Self { updated: now, ..Self::default() }
    }

    /// The parts now.
    #[must_use]
    pub fn parts(&self, now: UnixMs) -> Parts {
        let kept = kept(self.updated, now);
        self.parts.map(|part| NEUTRAL + (part - NEUTRAL) * kept)
    }

    /// The total now, 0 to 100.
    #[must_use]
    pub fn score(&self, now: UnixMs) -> f64 {
        self.parts(now).weighted().min(self.cap(now)).clamp(0.0, SCORE_MAX)
    }

    /// The cap on the total now; 100 where there is none.
    #[must_use]
    pub fn cap(&self, now: UnixMs) -> f64 {
        self.cap.map_or(SCORE_MAX, |cap| cap.at(now))
    }

    /// What the parts come from.
    #[must_use]
    pub const fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Invalid messages within the window that ends now.
    #[must_use]
    pub fn invalid_recently(&self, now: UnixMs) -> usize {
        self.invalid_at.iter().filter(|at| now.ms_since(**at) < INVALID_WINDOW_MS).count()
    }

    /// Takes one input.
    pub fn feed(&mut self, conduct: Conduct, now: UnixMs) {
        let mut parts = self.parts(now);
        let inputs = &mut self.inputs;
        match conduct {
            Conduct::Valid { messages } => {
                inputs.valid = inputs.valid.saturating_add(u64::from(messages));
                let left = (1.0 - share::VALID).powf(f64::from(messages));
                parts.validity = towards(parts.validity, SCORE_MAX, 1.0 - left);
            }
            Conduct::Invalid { .. } => {
                inputs.invalid = inputs.invalid.saturating_add(1);
                parts.validity = towards(parts.validity, 0.0, share::INVALID);
            }
            Conduct::Forged => {
                inputs.proven = inputs.proven.saturating_add(1);
                parts.validity = towards(parts.validity, 0.0, share::PROVEN);
            }
            Conduct::Equivocated => {
                inputs.proven = inputs.proven.saturating_add(1);
                parts.consensus = towards(parts.consensus, 0.0, share::PROVEN);
            }
            Conduct::RoundTrip { us } => {
                inputs.round_trip(f64::from(us));
                parts.latency = towards(parts.latency, inputs.latency_worth(), share::ROUND_TRIP);
            }
            Conduct::Online { ms } => {
                inputs.online_ms = inputs.online_ms.saturating_add(ms);
                let left = (-(ms as f64) / share::ONLINE_MS).exp();
                parts.uptime = towards(parts.uptime, SCORE_MAX, 1.0 - left);
            }
            Conduct::Dropped => {
                inputs.dropped = inputs.dropped.saturating_add(1);
                parts.uptime = towards(parts.uptime, 0.0, share::DROPPED);
            }
            Conduct::Unreachable => {
                inputs.unreachable = inputs.unreachable.saturating_add(1);
                parts.uptime = towards(parts.uptime, 0.0, share::UNREACHABLE);
            }
            Conduct::Participated => {
                inputs.participated = inputs.participated.saturating_add(1);
                parts.consensus = towards(parts.consensus, SCORE_MAX, share::PARTICIPATED);
            }
            Conduct::Violated => {
                inputs.violated = inputs.violated.saturating_add(1);
                parts.consensus = towards(parts.consensus, 0.0, share::VIOLATED);
            }
            Conduct::Relayed => {
                inputs.relayed = inputs.relayed.saturating_add(1);
                parts.relay = towards(parts.relay, SCORE_MAX, share::RELAYED);
            }
            Conduct::RelayFailed => {
                inputs.relay_failed = inputs.relay_failed.saturating_add(1);
                parts.relay = towards(parts.relay, 0.0, share::RELAY_FAILED);
            }
        }
        self.parts = parts.map(|part| part.clamp(0.0, SCORE_MAX));
        self.updated = self.updated.max(now);
        self.update_cap(conduct, now);
    }

    fn update_cap(&mut self, conduct: Conduct, now: UnixMs) {
        if self.cap(now) > CAP_GONE {
            self.cap = None;
        }
        match conduct {
            Conduct::Invalid { .. } => {
                if self.invalid_at.len() == INVALID_BURST {
                    self.invalid_at.pop_front();
                }
                self.invalid_at.push_back(now);
                if self.invalid_recently(now) >= INVALID_BURST {
                    self.lower_cap(CAP_INVALID, now);
                }
            }
            Conduct::Forged | Conduct::Equivocated => self.lower_cap(CAP_PROVEN, now),
            _ => {}
        }
    }

    fn lower_cap(&mut self, points: f64, now: UnixMs) {
        if self.cap(now) > points {
            self.cap = Some(Cap { points, since: now });
        }
    }

    /// Whether every figure is one that [`Self::feed`] could have made; what comes from a file may not be.
    pub(crate) fn is_sound(&self) -> bool {
        let Parts { uptime, latency, validity, consensus, relay } = self.parts;
        let inputs = [self.inputs.round_trip_us_mean, self.inputs.round_trip_us2_variance];
        [uptime, latency, validity, consensus, relay]
            .into_iter()
            .chain(self.cap.map(|cap| cap.points))
            .all(|part| (0.0..=SCORE_MAX).contains(&part))
            && inputs.iter().all(|figure| figure.is_finite() && *figure >= 0.0)
    }
}

fn towards(from: f64, to: f64, share: f64) -> f64 {
    from + (to - from) * share.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests;
