//! The peer manager's core: events and a time in, decisions out. No clock, no socket, no file.
//!
//! Every identity that came near has a record, bounded in number and size. An offence moves its score and may lead one
//! step up the ladder: warned, throttled, disconnected for a short while that grows, banned for a while that grows, banned
//! for good. Who may come in is decided by bans alone, which are by identity; an address only ever makes a stranger wait.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use trellis_primitives::{NodeId, UnixMs};

use super::conduct::{AddressSource, BanCause, Conduct, Response};
use super::nets::{Door, Nets, Threat};
use super::rates::{MessageClass, PeerRates, STRAINED_COST, THROTTLED_COST};
use super::score::{INVALID_BURST, NEUTRAL, Parts, Reputation};

/// Identities that are remembered; beyond it the one seen longest ago goes, banned and connected ones last.
pub const RECORDS_MAX: usize = 4_096;
/// Addresses that are remembered of one identity; the newest stay.
pub const ADDRESSES_MAX: usize = 8;
/// Bytes of an address.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Bytes of a user agent.
pub const AGENT_BYTES_MAX: usize = 128;
/// Addresses that a person asked to be connected to.
pub const ADDED_MAX: usize = 256;
/// Invalid messages within the window from which a peer is throttled.
pub const THROTTLE_AT: usize = INVALID_BURST / 2;
/// How long a throttle lasts, milliseconds.
pub const THROTTLE_MS: u64 = 60_000;
/// How long a peer that fell below the threshold of disconnection stays out the first time; doubles.
pub const EXCLUSION_MS_FIRST: u64 = 60_000;
/// The longest such exclusion.
pub const EXCLUSION_MS_MAX: u64 = 3_600_000;
/// The first ban; each later one is four times as long.
pub const BAN_MS_FIRST: u64 = 3_600_000;
/// After so many bans the next one is for good.
pub const BANS_BEFORE_PERMANENT: u32 = 4;
/// One step of the ladder is forgiven for each such time without an offence.
pub const FORGIVEN_MS: u64 = 7 * 24 * 3_600_000;

/// A peer that was connected for this long altogether and never banned is known, unless configured otherwise (NET-50).
pub const PROVEN_ONLINE_MS: u64 = 600_000;
/// So many offences and threats within [`ALARM_WINDOW_MS`] mean that this node is under attack (NET-51).
pub const ALARM_AT: u32 = 64;
/// The window of [`ALARM_AT`], and how long the alarm lasts after the last time it was reached, milliseconds.
pub const ALARM_WINDOW_MS: u64 = 10_000;

/// Scores below which a peer is trusted with less (NET-53).
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Below: nothing is relayed for it or through it.
    pub relay: f64,
    /// Below: no duties in consensus, where the chain lets us choose.
    pub consensus: f64,
    /// Below: disconnected.
    pub disconnect: f64,
    /// Below: banned.
    pub ban: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { relay: 30.0, consensus: 50.0, disconnect: 20.0, ban: 10.0 }
    }
}

/// Why an identity is kept out, and until when.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ban {
    /// Since then.
    pub since: UnixMs,
    /// Until then; for good if `None`.
    pub until: Option<UnixMs>,
    /// Why.
    pub cause: BanCause,
}

impl Ban {
    /// Whether it holds.
    #[must_use]
    pub fn holds(&self, now: UnixMs) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// The end, with for-good last.
    fn end(&self) -> UnixMs {
        self.until.unwrap_or(UnixMs(u64::MAX))
    }
}

/// One address of a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownAddress {
    /// Multiaddr text.
    pub address: String,
    /// Where it came from.
    pub source: AddressSource,
    /// When it was last heard of.
    pub seen: UnixMs,
}

/// How much a person wants a peer that was added by address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Kept connected, and dialled again at every start.
    High,
    /// Dialled now and at every start.
    Normal,
    /// Dialled once.
    Low,
}

/// An address that a person added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Added {
    /// As it is dialled.
    pub address: String,
    /// How much it is wanted.
    pub priority: Priority,
}

/// What is remembered of one identity.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    pub(crate) reputation: Reputation,
    pub(crate) exclusions: u32,
    pub(crate) bans: u32,
    pub(crate) ban: Option<Ban>,
    pub(crate) offended: Option<UnixMs>,
    pub(crate) addresses: Vec<KnownAddress>,
    pub(crate) agent: String,
    pub(crate) seen: UnixMs,
    #[serde(skip)]
    pub(crate) live: Live,
}

/// What a restart forgets.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Live {
    connected: bool,
    /// Up to when connected time is counted.
    counted: UnixMs,
    /// A member of the committee: counted and warned, never throttled or closed.
    exempt: bool,
    throttled_until: UnixMs,
    rates: Option<PeerRates>,
    ip: Option<IpAddr>,
}

impl Record {
    fn new(now: UnixMs) -> Self {
        Self { reputation: Reputation::new(now), seen: now, ..Self::default() }
    }

    fn banned(&self, now: UnixMs) -> Option<Ban> {
        self.ban.filter(|ban| ban.holds(now))
    }

    fn forgive(&mut self, now: UnixMs) {
        let Some(offended) = self.offended else { return };
        let steps = u32::try_from(now.ms_since(offended) / FORGIVEN_MS).unwrap_or(u32::MAX);
        if steps > 0 {
            self.exclusions = self.exclusions.saturating_sub(steps);
            self.bans = self.bans.saturating_sub(steps);
            self.offended = Some(now);
        }
    }

    fn count_online(&mut self, now: UnixMs) {
        if self.live.connected {
            let ms = now.ms_since(self.live.counted);
            self.live.counted = self.live.counted.max(now);
            self.reputation.feed(Conduct::Online { ms }, now);
        }
    }

    pub(crate) fn note_address(&mut self, address: &str, source: AddressSource, now: UnixMs) {
        if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
            return;
        }
        if let Some(known) = self.addresses.iter_mut().find(|known| known.address == address) {
            known.seen = known.seen.max(now);
            return;
        }
        if self.addresses.len() >= ADDRESSES_MAX {
            let oldest = self.addresses.iter().enumerate().min_by_key(|(_, known)| known.seen).map(|(at, _)| at);
            self.addresses.remove(oldest.unwrap_or_default());
        }
        self.addresses.push(KnownAddress { address: address.to_owned(), source, seen: now });
    }
}

/// What may be seen of a record from outside.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Standing {
    /// Who.
    pub id: NodeId,
    /// The score now, 0 to 100.
    pub score: f64,
    /// The cap on it now; 100 where there is none.
    pub cap: f64,
    /// Its parts now.
    pub parts: Parts,
    /// What they come from.
    pub inputs: super::score::Inputs,
    /// The ban that holds now.
    pub ban: Option<Ban>,
    /// Times it was excluded or banned and not yet forgiven.
    pub exclusions: u32,
    /// Of these, bans.
    pub bans: u32,
    /// Whether its rates are cut now.
    pub throttled: bool,
    /// Its addresses, newest last.
    pub addresses: Vec<KnownAddress>,
    /// What it last called its software.
    pub user_agent: String,
    /// When it was last heard of.
    pub seen: UnixMs,
}

/// Whether an identity may come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// It may.
    Welcome,
    /// It is banned.
    Banned(Ban),
    /// A stranger from a network with banned keys: not now.
    Wait,
}

/// What is known of a peer that has just been accepted.
#[derive(Clone, Debug, Default)]
pub struct Arrival<'a> {
    /// Its address, and whether this node dialled it.
    pub address: &'a str,
    /// Whether this node dialled.
    pub outbound: bool,
    /// The addresses of its signed record.
    pub record_addresses: &'a [String],
    /// What it calls its software.
    pub agent: &'a str,
    /// The address as the network sees it.
    pub ip: Option<IpAddr>,
    /// Whether it belongs to the committee.
    pub exempt: bool,
}

/// The core.
#[derive(Debug, Default)]
pub struct GuardState {
    pub(crate) thresholds: Thresholds,
    pub(crate) records: HashMap<NodeId, Record>,
    pub(crate) added: Vec<Added>,
    /// How long a peer was connected before it is known; [`PROVEN_ONLINE_MS`] unless told otherwise.
    pub(crate) proven_online_ms: Option<u64>,
    nets: Nets,
    alarm: Alarm,
}

/// Notices that much is going wrong at once.
#[derive(Clone, Copy, Debug, Default)]
struct Alarm {
    window: u64,
    events: u32,
    until: UnixMs,
}

impl Alarm {
    fn count(&mut self, now: UnixMs) {
        let window = now.0 / ALARM_WINDOW_MS;
        if window != self.window {
            (self.window, self.events) = (window, 0);
        }
        self.events = self.events.saturating_add(1);
        if self.events >= ALARM_AT {
            self.until = now.plus_ms(ALARM_WINDOW_MS);
        }
    }
}

impl GuardState {
    /// Nobody known.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, ..Self::default() }
    }

    /// The scores below which a peer is trusted with less.
    #[must_use]
    pub const fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    pub(crate) fn record(&mut self, peer: NodeId, now: UnixMs) -> &mut Record {
        if self.records.len() >= RECORDS_MAX && !self.records.contains_key(&peer) {
            // First those that are neither banned nor here, oldest first, strangers before those that were here for long,
            // so that made-up names push no good one out; then the bans that end soonest.
            let long = self.proven_online_ms.unwrap_or(PROVEN_ONLINE_MS);
            let order = |record: &Record| {
                let banned = record.banned(now).map(|ban| ban.end());
                let known = record.reputation.inputs().online_ms >= long;
                (record.live.connected, banned.is_some(), known, banned.unwrap_or(record.seen))
            };
            let last = self.records.iter().min_by_key(|(id, record)| (order(record), **id)).map(|(id, _)| *id);
            if let Some(last) = last {
                self.records.remove(&last);
            }
        }
        self.records.entry(peer).or_insert_with(|| Record::new(now))
    }

    /// The ban that holds against an identity.
    #[must_use]
    pub fn ban_of(&self, peer: NodeId, now: UnixMs) -> Option<Ban> {
        self.records.get(&peer)?.banned(now)
    }

    /// Whether an identity may come in from there.
    pub fn enter(&mut self, peer: NodeId, ip: Option<IpAddr>, now: UnixMs) -> Entry {
        let record = self.records.get(&peer);
        if let Some(ban) = record.and_then(|record| record.banned(now)) {
            return Entry::Banned(ban);
        }
        let known = record.is_some_and(|record| record.reputation.score(now) >= self.thresholds.relay);
        match ip {
            Some(ip) if !known && !self.nets.admit_newcomer(ip, now) => Entry::Wait,
            _ => Entry::Welcome,
        }
    }

    /// A peer was accepted.
    pub fn arrived(&mut self, peer: NodeId, arrival: &Arrival<'_>, now: UnixMs) {
        let record = self.record(peer, now);
        record.seen = record.seen.max(now);
        record.forgive(now);
        if !record.live.connected {
            record.live.counted = now;
        }
        record.live =
            Live { connected: true, exempt: arrival.exempt, ip: arrival.ip, ..std::mem::take(&mut record.live) };
        let source = if arrival.outbound { AddressSource::Dialled } else { AddressSource::Inbound };
        record.note_address(arrival.address, source, now);
        for address in arrival.record_addresses.iter().take(ADDRESSES_MAX / 2) {
            record.note_address(address, AddressSource::Record, now);
        }
        let mut agent = arrival.agent.to_owned();
        agent.truncate(agent.floor_char_boundary(AGENT_BYTES_MAX));
        record.agent = agent;
    }

    /// A peer is gone; `dropped` if it did not say goodbye.
    pub fn left(&mut self, peer: NodeId, dropped: bool, now: UnixMs) {
        let Some(record) = self.records.get_mut(&peer) else { return };
        record.count_online(now);
        if dropped {
            record.reputation.feed(Conduct::Dropped, now);
        }
        record.live.connected = false;
        record.seen = record.seen.max(now);
    }

    /// Counts connected time up to now.
    pub fn tick(&mut self, now: UnixMs) {
        self.records.values_mut().for_each(|record| record.count_online(now));
    }

    /// Counts the connected time of one identity up to now.
    pub fn tick_one(&mut self, peer: NodeId, now: UnixMs) {
        if let Some(record) = self.records.get_mut(&peer) {
            record.count_online(now);
        }
    }

    /// A peer did something. The response, if it leads to one.
    pub fn report(&mut self, peer: NodeId, conduct: Conduct, now: UnixMs) -> Option<Response> {
        let thresholds = self.thresholds;
        let record = self.record(peer, now);
        record.seen = record.seen.max(now);
        record.reputation.feed(conduct, now);
        if !conduct.is_offence() {
            return None;
        }
        self.alarm.count(now);
        let record = self.record(peer, now);
        record.forgive(now);
        record.offended = Some(now);
        let score = record.reputation.score(now);
        // Beside the cap: an offender with a long good record does not get away with proven misbehaviour, nor one
        // that is out already with a longer sentence for what was still on its way.
        if record.live.exempt || record.banned(now).is_some() {
            return Some(Response::Warned);
        }
        let response = if score < thresholds.ban {
            let cause = match conduct {
                Conduct::Forged => BanCause::Forgery,
                Conduct::Equivocated => BanCause::Equivocation,
                _ => BanCause::Reputation,
            };
            let until = record.next_ban(now);
            record.ban = Some(Ban { since: now, until, cause });
            Response::Banned { until }
        } else if score < thresholds.disconnect {
            let until = record.next_exclusion(now);
            record.ban = Some(Ban { since: now, until: Some(until), cause: BanCause::Reputation });
            Response::Disconnected { until }
        } else if record.reputation.invalid_recently(now) >= THROTTLE_AT {
            record.live.throttled_until = now.plus_ms(THROTTLE_MS);
            Response::Throttled { until: record.live.throttled_until }
        } else {
            Response::Warned
        };
        if matches!(response, Response::Banned { .. })
            && let Some(ip) = record.live.ip
        {
            self.nets.key_banned(ip, now);
        }
        Some(response)
    }

    /// Whether so many more messages of this class are within a peer's rate.
    pub fn allow(&mut self, peer: NodeId, class: MessageClass, messages: u64, bytes: u64, now: UnixMs) -> bool {
        if !matches!(class, MessageClass::Control | MessageClass::Gossip) {
            return true;
        }
        let (rates, cost) = self.rates(peer, now);
        rates.allow(class, messages, bytes, cost, now)
    }

    /// Whether one more stream is within a peer's rate.
    pub fn allow_stream(&mut self, peer: NodeId, now: UnixMs) -> bool {
        let (rates, cost) = self.rates(peer, now);
        rates.allow_stream(cost, now)
    }

    /// The buckets of a peer, and how much everything costs it: more while it is throttled; and, where it has no standing,
    /// while its network is strained or this node is under attack.
    fn rates(&mut self, peer: NodeId, now: UnixMs) -> (&mut PeerRates, u64) {
        let ip = self.record(peer, now).live.ip;
        let strained = self.under_attack(now) || ip.is_some_and(|ip| self.nets.is_strained(ip, now));
        let record = self.record(peer, now);
        let throttled = record.live.throttled_until > now;
        let cost = match (throttled, strained && !record.live.exempt && record.reputation.score(now) < NEUTRAL) {
            (true, _) => THROTTLED_COST,
            (false, true) => STRAINED_COST,
            (false, false) => 1,
        };
        (record.live.rates.get_or_insert_with(|| PeerRates::new(now)), cost)
    }

    /// Whether much went wrong within the last seconds.
    #[must_use]
    pub fn under_attack(&self, now: UnixMs) -> bool {
        self.alarm.until > now
    }

    /// Whether a peer is trusted enough that traffic is relayed for it or through it (NET-53).
    #[must_use]
    pub fn may_relay(&self, peer: NodeId, now: UnixMs) -> bool {
        self.ban_of(peer, now).is_none() && self.score(peer, now) >= self.thresholds.relay
    }

    /// Whether a peer is known from before: a member of the committee, or one that was connected for long without a ban.
    /// Call [`Self::tick`] first where the time of those connected now is to count.
    #[must_use]
    pub fn is_proven(&self, peer: NodeId, now: UnixMs) -> bool {
        let long = self.proven_online_ms.unwrap_or(PROVEN_ONLINE_MS);
        self.records.get(&peer).is_some_and(|record| {
            let steady = record.reputation.inputs().online_ms >= long && record.bans == 0 && record.exclusions == 0;
            let trusted = record.banned(now).is_none() && record.reputation.score(now) >= self.thresholds.relay;
            record.live.exempt || (steady && trusted)
        })
    }

    /// Whether a peer that is here belongs to the committee.
    #[must_use]
    pub fn is_exempt(&self, peer: NodeId) -> bool {
        self.records.get(&peer).is_some_and(|record| record.live.exempt)
    }

    /// Known peers behind each address that one was last seen at, counted anew.
    pub fn count_known(&mut self, now: UnixMs) -> HashMap<IpAddr, u32> {
        let mut known: HashMap<IpAddr, u32> = HashMap::new();
        for (id, record) in &self.records {
            if let Some(ip) = record.live.ip.filter(|_| self.is_proven(*id, now)) {
                let count = known.entry(ip.to_canonical()).or_default();
                *count = count.saturating_add(1);
            }
        }
        self.nets.replace_known(&known);
        known
    }

    /// Bans an identity by hand, replacing what held before.
    pub fn ban(&mut self, peer: NodeId, until: Option<UnixMs>, now: UnixMs) -> Ban {
        let ban = Ban { since: now, until, cause: BanCause::Operator };
        let record = self.record(peer, now);
        let new = record.banned(now).is_none();
        record.ban = Some(ban);
        if let Some(ip) = record.live.ip.filter(|_| new) {
            self.nets.key_banned(ip, now);
        }
        ban
    }

    /// Lifts a ban; `false` where none held. The score stays what it is, but its cap no longer keeps the peer out.
    pub fn unban(&mut self, peer: NodeId, now: UnixMs) -> bool {
        let Some(record) = self.records.get_mut(&peer) else { return false };
        record.ban.take().is_some_and(|ban| ban.holds(now))
    }

    /// Something happened at an address that nobody shows an identity for. Says whether it has become a pattern.
    pub fn threat(&mut self, ip: IpAddr, threat: Threat, now: UnixMs) -> bool {
        self.alarm.count(now);
        self.nets.threat(ip, threat, now)
    }

    /// What a first packet from an address meets; `validated` says whether the address is proven.
    pub fn door(&mut self, ip: IpAddr, validated: bool, now: UnixMs) -> Door {
        self.nets.door(ip, validated, now)
    }

    /// What first packets from an address have to put up with; nothing is counted.
    #[must_use]
    pub fn level(&self, ip: IpAddr, now: UnixMs) -> Door {
        self.nets.level(ip, now)
    }

    /// The score of an identity; neutral where nothing is known.
    #[must_use]
    pub fn score(&self, peer: NodeId, now: UnixMs) -> f64 {
        self.records.get(&peer).map_or(NEUTRAL, |record| record.reputation.score(now))
    }

    /// Everything about one identity.
    #[must_use]
    pub fn standing(&self, peer: NodeId, now: UnixMs) -> Option<Standing> {
        let record = self.records.get(&peer)?;
        Some(Standing {
            id: peer,
            score: record.reputation.score(now),
            cap: record.reputation.cap(now),
            parts: record.reputation.parts(now),
            inputs: *record.reputation.inputs(),
            ban: record.banned(now),
            exclusions: record.exclusions,
            bans: record.bans,
            throttled: record.live.throttled_until > now,
            addresses: record.addresses.clone(),
            user_agent: record.agent.clone(),
            seen: record.seen,
        })
    }

    /// Everything about everybody, in the order of their ids.
    #[must_use]
    pub fn standings(&self, now: UnixMs) -> Vec<Standing> {
        let mut all: Vec<Standing> = self.records.keys().filter_map(|id| self.standing(*id, now)).collect();
        all.sort_by_key(|standing| standing.id);
        all
    }
}

impl Record {
    fn next_exclusion(&mut self, now: UnixMs) -> UnixMs {
        let length = EXCLUSION_MS_FIRST.saturating_mul(1u64 << self.exclusions.min(16)).min(EXCLUSION_MS_MAX);
        self.exclusions = self.exclusions.saturating_add(1);
        now.plus_ms(length)
    }

    fn next_ban(&mut self, now: UnixMs) -> Option<UnixMs> {
        let earlier = self.bans;
        self.bans = self.bans.saturating_add(1);
        let length = BAN_MS_FIRST.saturating_mul(1u64 << (2 * earlier.min(16)));
        (earlier < BANS_BEFORE_PERMANENT).then(|| now.plus_ms(length))
    }
}

#[cfg(test)]
mod tests;
