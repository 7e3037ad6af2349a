//! Who may start a handshake, decided from the source address alone and before any cryptography (NET-13).
//!
//! The decision is made for every QUIC Initial packet: accept, ask for proof of the address (Retry), refuse or ignore.
//! [`Admission`] is the default decision: bounds per IP and per subnet, with loopback and private ranges exempt, and a
//! global bound on half-open handshakes above which every address must be proven first.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Connections from one public IP address (NET-50).
pub const CONNECTIONS_PER_IP_MAX: u32 = 3;
/// Connections from one public subnet, /24 or /48 (NET-50).
pub const CONNECTIONS_PER_SUBNET_MAX: u32 = 10;
/// Half-open handshakes above which an address must be proven by a Retry.
pub const HALF_OPEN_RETRY_ABOVE: u32 = 64;
/// Half-open handshakes at which new ones are refused.
pub const HALF_OPEN_MAX: u32 = 1_024;

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
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    half_open: u32,
    per_ip: HashMap<IpAddr, u32>,
    per_subnet: HashMap<IpAddr, u32>,
}

/// A place that an accepted connection holds; dropping it frees the place.
#[derive(Debug)]
pub struct Permit {
    counts: Arc<Mutex<Counts>>,
    ip: Option<IpAddr>,
    half_open: bool,
}

impl Admission {
    /// Nobody connected yet.
    #[must_use]
    pub fn new(limits: AdmissionLimits) -> Self {
        Self { limits, counts: Arc::default() }
    }

    /// The decision for a first packet from `remote`; `validated` says whether the address is proven.
    #[must_use]
    pub fn decide(&self, remote: SocketAddr, validated: bool) -> Admit {
        let counts = self.counts.lock();
        if counts.half_open >= self.limits.half_open_max {
            return Admit::Refuse;
        }
        let ip = remote.ip().to_canonical();
        if !self.exempt(ip) {
            let at_ip = counts.per_ip.get(&ip).copied().unwrap_or_default();
            let at_subnet = counts.per_subnet.get(&subnet(ip)).copied().unwrap_or_default();
            if at_ip >= self.limits.per_ip_max || at_subnet >= self.limits.per_subnet_max {
                return Admit::Refuse;
            }
        }
        if counts.half_open > self.limits.half_open_retry_above && !validated { Admit::Retry } else { Admit::Accept }
    }

    /// Takes a place for a connection that was accepted.
    #[must_use]
    pub fn enter(&self, remote: SocketAddr) -> Permit {
        let ip = remote.ip().to_canonical();
        let counted = (!self.exempt(ip)).then_some(ip);
        let mut counts = self.counts.lock();
        counts.half_open = counts.half_open.saturating_add(1);
        if let Some(ip) = counted {
            *counts.per_ip.entry(ip).or_default() += 1;
            *counts.per_subnet.entry(subnet(ip)).or_default() += 1;
        }
        Permit { counts: Arc::clone(&self.counts), ip: counted, half_open: true }
    }

    /// Handshakes that run now.
    #[must_use]
    pub fn half_open(&self) -> u32 {
        self.counts.lock().half_open
    }

    fn exempt(&self, ip: IpAddr) -> bool {
        self.limits.private_exempt && is_local(ip)
    }
}

impl Permit {
    /// The handshake is over; the place per IP and subnet stays taken until the permit is dropped.
    pub fn established(&mut self) {
        if std::mem::take(&mut self.half_open) {
            let mut counts = self.counts.lock();
            counts.half_open = counts.half_open.saturating_sub(1);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.established();
        let Some(ip) = self.ip else { return };
        let mut counts = self.counts.lock();
        release(&mut counts.per_ip, ip);
        release(&mut counts.per_subnet, subnet(ip));
    }
}

fn release(counts: &mut HashMap<IpAddr, u32>, key: IpAddr) {
    if let Some(count) = counts.get_mut(&key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&key);
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
}
