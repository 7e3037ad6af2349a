//! Who may start a handshake, decided from the source address alone and before any cryptography (NET-13).
//!
//! The decision is made for every QUIC Initial packet: accept, ask for proof of the address (Retry), refuse or ignore.
//! [`Admission`] is the default decision: bounds per IP and per subnet, with loopback, private ranges and listed networks
//! exempt, and a global bound on half-open handshakes above which every address must be proven first.
//!
//! The bounds per IP and subnet are for strangers. Whoever is told by [`Admission::prove`] to be at the other end of a
//! connection gives its place back, and an address that known peers were seen at ([`Admission::vouch`]) gets room for so
//! many more handshakes, so that they can show who they are: many peers behind one carrier's NAT are not cut off.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::prefilter::Gate;

/// Connections from one public IP address (NET-50).
pub const CONNECTIONS_PER_IP_MAX: u32 = 3;
/// Connections from one public subnet, /24 or /48 (NET-50).
pub const CONNECTIONS_PER_SUBNET_MAX: u32 = 10;
/// Half-open handshakes above which an address must be proven by a Retry.
pub const HALF_OPEN_RETRY_ABOVE: u32 = 64;
/// Half-open handshakes at which new ones are refused.
pub const HALF_OPEN_MAX: u32 = 1_024;
/// Known peers behind one address that handshakes are let through for.
pub const VOUCHED_PER_IP_MAX: u32 = 64;
/// Addresses that known peers were seen at; beyond it no more are taken until some are withdrawn.
pub const VOUCHED_ADDRESSES_MAX: usize = 4_096;

/// The decision about one first packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Admit {
    /// Go on with the handshake.
    Accept,
    /// Answer with a Retry: the peer must show that it receives at its address.
    Retry,
    /// Answer with a refusal.
    Refuse,
    /// Do not answer.
    Ignore,
}

/// Decides about a first packet from its source address and whether that address is proven already.
pub type AdmitFn = Arc<dyn Fn(SocketAddr, bool) -> Admit + Send + Sync>;

/// The bounds of [`Admission`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdmissionLimits {
    /// Connections from one public IP address.
    pub per_ip_max: u32,
    /// Connections from one public subnet (/24, /48).
    pub per_subnet_max: u32,
    /// Half-open handshakes above which an address must be proven.
    pub half_open_retry_above: u32,
    /// Half-open handshakes at which new ones are refused.
    pub half_open_max: u32,
    /// Whether loopback and private ranges are exempt from the bounds per IP and subnet.
    pub private_exempt: bool,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            per_ip_max: CONNECTIONS_PER_IP_MAX,
            per_subnet_max: CONNECTIONS_PER_SUBNET_MAX,
            half_open_retry_above: HALF_OPEN_RETRY_ABOVE,
            half_open_max: HALF_OPEN_MAX,
            private_exempt: true,
        }
    }
}

/// Counts connections and half-open handshakes, and decides. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    limits: AdmissionLimits,
    listed: Arc<[IpNet]>,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    half_open: u32,
    half_open_at: HashMap<SocketAddr, u32>,
    per_ip: HashMap<IpAddr, u32>,
    per_subnet: HashMap<IpAddr, u32>,
    /// Whether the newest connection from a socket still takes a place of its address.
    places: HashMap<SocketAddr, Arc<AtomicBool>>,
    /// Known peers behind an address.
    vouched: HashMap<IpAddr, u32>,
}

/// How full an address is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Free,
    /// Only the places for known peers are left.
    ForKnown,
    Full,
}

/// A place that an accepted connection holds; dropping it frees the place.
#[derive(Debug)]
pub struct Permit {
    counts: Arc<Mutex<Counts>>,
    remote: SocketAddr,
    counted: Arc<AtomicBool>,
    half_open: bool,
}

impl Admission {
    /// Nobody connected yet.
    #[must_use]
    pub fn new(limits: AdmissionLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Nobody connected yet, and these networks are exempt from the bounds per IP and subnet.
    #[must_use]
    pub fn with_listed(limits: AdmissionLimits, listed: Vec<IpNet>) -> Self {
        Self { limits, listed: listed.into(), ..Self::default() }
    }

    /// The decision for a first packet from `remote`; `validated` says whether the address is proven.
    #[must_use]
    pub fn decide(&self, remote: SocketAddr, validated: bool) -> Admit {
        let counts = self.counts.lock();
        if counts.half_open >= self.limits.half_open_max {
            return Admit::Refuse;
        }
        match self.room(&counts, remote) {
            Room::Full => Admit::Refuse,
            Room::ForKnown if !validated => Admit::Retry,
            _ if counts.half_open > self.limits.half_open_retry_above && !validated => Admit::Retry,
            Room::ForKnown | Room::Free => Admit::Accept,
        }
    }

    /// What the bounds decide about a first packet at the socket; nothing is counted.
    pub(crate) fn gate(&self, remote: SocketAddr) -> Gate {
        let counts = self.counts.lock();
        let full = counts.half_open >= self.limits.half_open_max || self.room(&counts, remote) == Room::Full;
        if full { Gate::Refuse } else { Gate::Pass }
    }

    /// Whether a handshake from this socket runs.
    pub(crate) fn holds(&self, remote: SocketAddr) -> bool {
        self.counts.lock().half_open_at.contains_key(&remote)
    }

    fn room(&self, counts: &Counts, remote: SocketAddr) -> Room {
        let ip = remote.ip().to_canonical();
        if self.exempts(ip) {
            return Room::Free;
        }
        let at_ip = counts.per_ip.get(&ip).copied().unwrap_or_default();
        let at_subnet = counts.per_subnet.get(&subnet(ip)).copied().unwrap_or_default();
        let known = counts.vouched.get(&ip).copied().unwrap_or_default().min(VOUCHED_PER_IP_MAX);
        let fits = |more: u32| {
            at_ip < self.limits.per_ip_max.saturating_add(more)
                && at_subnet < self.limits.per_subnet_max.saturating_add(more)
        };
        match (fits(0), fits(known)) {
            (true, _) => Room::Free,
            (false, true) => Room::ForKnown,
            (false, false) => Room::Full,
        }
    }

    /// Takes a place for a connection that was accepted.
    #[must_use]
    pub fn enter(&self, remote: SocketAddr) -> Permit {
        let ip = remote.ip().to_canonical();
        let counted = Arc::new(AtomicBool::new(!self.exempts(ip)));
        let mut counts = self.counts.lock();
        counts.half_open = counts.half_open.saturating_add(1);
        *counts.half_open_at.entry(remote).or_default() += 1;
        counts.places.insert(remote, Arc::clone(&counted));
        if counted.load(Ordering::Relaxed) {
            *counts.per_ip.entry(ip).or_default() += 1;
            *counts.per_subnet.entry(subnet(ip)).or_default() += 1;
        }
        Permit { counts: Arc::clone(&self.counts), remote, counted, half_open: true }
    }

    /// At the other end of the connection from `remote` is a known peer: it takes no stranger's place any more.
    pub fn prove(&self, remote: SocketAddr) {
        let mut counts = self.counts.lock();
        if let Some(counted) = counts.places.get(&remote).cloned() {
            counts.uncount(remote.ip(), &counted);
        }
    }

    /// So many known peers were seen at an address.
    pub fn vouch(&self, ip: IpAddr, known: u32) {
        let vouched = &mut self.counts.lock().vouched;
        let ip = ip.to_canonical();
        if known == 0 {
            vouched.remove(&ip);
        } else if vouched.len() < VOUCHED_ADDRESSES_MAX || vouched.contains_key(&ip) {
            vouched.insert(ip, known);
        }
    }

    /// Whether more connections of strangers come from an address, or from its subnet, than its bound allows.
    #[must_use]
    pub fn is_crowded(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let counts = self.counts.lock();
        let above = |counts: &HashMap<IpAddr, u32>, key, max| counts.get(&key).is_some_and(|count| *count > max);
        above(&counts.per_ip, ip, self.limits.per_ip_max)
            || above(&counts.per_subnet, subnet(ip), self.limits.per_subnet_max)
    }

    /// Handshakes that run now.
    #[must_use]
    pub fn half_open(&self) -> u32 {
        self.counts.lock().half_open
    }

    /// Whether an address is exempt from the bounds per IP and subnet.
    #[must_use]
    pub fn exempts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        (self.limits.private_exempt && is_local(ip)) || self.listed.iter().any(|net| net.contains(&ip))
    }
}

impl Counts {
    fn uncount(&mut self, ip: IpAddr, counted: &AtomicBool) {
        if counted.swap(false, Ordering::Relaxed) {
            let ip = ip.to_canonical();
            release(&mut self.per_ip, &ip);
            release(&mut self.per_subnet, &subnet(ip));
        }
    }
}

impl Permit {
    /// The handshake is over; the place per IP and subnet stays taken until the permit is dropped.
    pub fn established(&mut self) {
        if std::mem::take(&mut self.half_open) {
            let mut counts = self.counts.lock();
            counts.half_open = counts.half_open.saturating_sub(1);
            release(&mut counts.half_open_at, &self.remote);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.established();
        let mut counts = self.counts.lock();
        counts.uncount(self.remote.ip(), &self.counted);
        if counts.places.get(&self.remote).is_some_and(|newest| Arc::ptr_eq(newest, &self.counted)) {
            counts.places.remove(&self.remote);
        }
    }
}

fn release<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The /24 or /48 of an address, as its first address.
fn subnet(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80)),
    }
}

/// Loopback, link-local, private (RFC 1918) and unique local (RFC 4193) addresses.
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    // row: NET-50
    #[test]
    fn a_public_ip_holds_three_places_and_frees_them() {
        let admission = Admission::new(AdmissionLimits::default());
        let permits: Vec<Permit> = (0..3).map(|n| admission.enter(at(&format!("8.8.8.8:{}", 1_000 + n)))).collect();
        assert_eq!(admission.decide(at("8.8.8.8:2000"), true), Admit::Refuse);
        assert_eq!(admission.decide(at("8.8.9.8:2000"), true), Admit::Accept);
        assert_eq!(admission.decide(at("[::ffff:8.8.8.8]:2000"), true), Admit::Refuse);
        drop(permits);
        assert_eq!(admission.decide(at("8.8.8.8:2000"), true), Admit::Accept);
        assert!(admission.counts.lock().per_ip.is_empty());
    }

    // row: NET-50
    #[test]
    fn a_public_subnet_holds_ten_places() {
        let admission = Admission::new(AdmissionLimits::default());
        let _four: Vec<Permit> = (0..10).map(|n| admission.enter(at(&format!("8.8.8.{n}:1")))).collect();
        assert_eq!(admission.decide(at("8.8.8.200:1"), true), Admit::Refuse);
        let _six: Vec<Permit> = (0..10).map(|n| admission.enter(at(&format!("[2001:db8:7:{n}::1]:1")))).collect();
        assert_eq!(admission.decide(at("[2001:db8:7:ffff::1]:1"), true), Admit::Refuse);
        assert_eq!(admission.decide(at("[2001:db8:8::1]:1"), true), Admit::Accept);
    }

    // row: NET-50
    #[test]
    fn loopback_and_private_ranges_are_exempt_by_default() {
        let admission = Admission::new(AdmissionLimits::default());
        for ip in ["127.0.0.1:1", "10.1.2.3:1", "192.168.0.9:1", "172.16.0.1:1", "[::1]:1", "[fd00::1]:1"] {
            let _held: Vec<Permit> = (0..20).map(|_| admission.enter(at(ip))).collect();
            assert_eq!(admission.decide(at(ip), true), Admit::Accept, "{ip}");
        }
    }

    // row: NET-13
    #[test]
    fn half_open_handshakes_lead_to_retry_and_then_to_refusal() {
        let limits = AdmissionLimits { half_open_retry_above: 2, half_open_max: 4, ..AdmissionLimits::default() };
        let admission = Admission::new(limits);
        let mut permits: Vec<Permit> = (0..3).map(|_| admission.enter(at("127.0.0.1:1"))).collect();
        assert_eq!(admission.decide(at("127.0.0.1:2"), false), Admit::Retry);
        assert_eq!(admission.decide(at("127.0.0.1:2"), true), Admit::Accept);
        permits.push(admission.enter(at("127.0.0.1:1")));
        assert_eq!(admission.decide(at("127.0.0.1:2"), true), Admit::Refuse);
        permits.iter_mut().for_each(Permit::established);
        assert_eq!(admission.half_open(), 0);
        assert_eq!(admission.decide(at("127.0.0.1:2"), false), Admit::Accept);
    }

    // row: NET-50
    #[test]
    fn known_peers_behind_one_address_give_their_places_back_and_strangers_do_not() {
        let admission = Admission::new(AdmissionLimits::default());
        let remote = |n: u16| SocketAddr::new("8.8.8.8".parse().unwrap(), n);
        let mut held = Vec::new();
        for n in 0..10 {
            assert_eq!(admission.decide(remote(n), true), Admit::Accept, "peer {n}");
            held.push(admission.enter(remote(n)));
            admission.prove(remote(n));
            admission.prove(remote(n));
        }
        held.extend((100..103).map(|n| admission.enter(remote(n))));
        assert_eq!(admission.decide(remote(200), true), Admit::Refuse);
        held.clear();
        let counts = admission.counts.lock();
        assert!(counts.per_ip.is_empty() && counts.per_subnet.is_empty() && counts.places.is_empty());
    }

    // row: NET-50
    #[test]
    fn where_known_peers_live_a_full_address_lets_proven_addresses_show_who_they_are() {
        let admission = Admission::new(AdmissionLimits::default());
        let _strangers: Vec<Permit> = (0..3).map(|n| admission.enter(at(&format!("8.8.8.8:{}", 1 + n)))).collect();
        assert_eq!(admission.gate(at("8.8.8.8:9")), Gate::Refuse);
        admission.vouch("8.8.8.8".parse().unwrap(), 1);
        assert_eq!(admission.gate(at("8.8.8.8:9")), Gate::Pass);
        assert_eq!(admission.decide(at("8.8.8.8:9"), false), Admit::Retry);
        assert_eq!(admission.decide(at("8.8.8.8:9"), true), Admit::Accept);
        let _known = admission.enter(at("8.8.8.8:9"));
        assert!(admission.is_crowded("8.8.8.8".parse().unwrap()), "a stranger would be one too many");
        admission.prove(at("8.8.8.8:9"));
        assert!(!admission.is_crowded("8.8.8.8".parse().unwrap()));
        admission.vouch("8.8.8.8".parse().unwrap(), 0);
        assert_eq!(admission.decide(at("8.8.8.8:10"), true), Admit::Refuse);
    }

    // row: NET-50
    #[test]
    fn listed_networks_are_exempt() {
        let listed = vec!["8.8.0.0/16".parse().unwrap()];
        let admission = Admission::with_listed(AdmissionLimits::default(), listed);
        let _many: Vec<Permit> = (0..50).map(|n| admission.enter(at(&format!("8.8.4.4:{}", 1 + n)))).collect();
        assert_eq!(admission.decide(at("8.8.4.4:99"), false), Admit::Accept);
    }

    // row: NET-13, NET-81
    #[test]
    fn the_datagrams_of_a_handshake_that_runs_are_known_until_it_is_over() {
        let admission = Admission::new(AdmissionLimits::default());
        let (mut first, second) = (admission.enter(at("8.8.8.8:7")), admission.enter(at("8.8.8.8:7")));
        first.established();
        assert!(admission.holds(at("8.8.8.8:7")));
        drop(second);
        assert!(!admission.holds(at("8.8.8.8:7")));
    }
}
