//! Whom this node has written to lately: a NAT that filters by address lets just those in (NET-40). Pure.

use std::collections::HashMap;
use std::net::IpAddr;

/// An address that was written to can get in for this long at most, where nothing keeps the NAT's entry alive.
pub const CONTACT_MS: u64 = 10 * 60 * 1_000;
/// Addresses that are remembered; while more were written to than that, nobody counts as a stranger.
pub const CONTACTS_MAX: usize = 8_192;

/// The addresses that were written to, and when last.
#[derive(Clone, Debug, Default)]
pub struct Contacted {
    at_ms: HashMap<IpAddr, u64>,
    /// More was written to than is remembered, until then.
    blind_until_ms: u64,
}

impl Contacted {
    /// This node writes to an address. Times are milliseconds of any clock that does not go back.
    pub fn written(&mut self, ip: IpAddr, now_ms: u64) {
        let ip = ip.to_canonical();
        if self.at_ms.len() >= CONTACTS_MAX && !self.at_ms.contains_key(&ip) {
            self.at_ms.retain(|_, at_ms| now_ms.saturating_sub(*at_ms) < CONTACT_MS);
        }
        if self.at_ms.len() < CONTACTS_MAX || self.at_ms.contains_key(&ip) {
            self.at_ms.insert(ip, now_ms);
        } else {
            self.blind_until_ms = now_ms.saturating_add(CONTACT_MS);
        }
    }

    /// Whether this node has not written to an address lately.
    #[must_use]
    pub fn is_stranger(&self, ip: IpAddr, now_ms: u64) -> bool {
        let written = self.at_ms.get(&ip.to_canonical());
        now_ms >= self.blind_until_ms && written.is_none_or(|at_ms| now_ms.saturating_sub(*at_ms) >= CONTACT_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from(0x0b00_0000 + n).into()
    }

    // row: NET-40
    #[test]
    fn who_was_written_to_is_no_stranger_for_a_while() {
        let mut contacted = Contacted::default();
        assert!(contacted.is_stranger(ip(1), 0));
        contacted.written(ip(1), 5);
        let mapped: IpAddr = Ipv4Addr::from(0x0b00_0001).to_ipv6_mapped().into();
        assert!(!contacted.is_stranger(mapped, 4 + CONTACT_MS) && contacted.is_stranger(ip(2), 5));
        assert!(contacted.is_stranger(ip(1), 5 + CONTACT_MS));
    }

    // row: NET-56
    #[test]
    fn beyond_the_bound_nobody_counts_as_a_stranger() {
        let mut contacted = Contacted::default();
        for n in 0..=u32::try_from(CONTACTS_MAX).unwrap() {
            contacted.written(ip(n), 0);
        }
        assert_eq!(contacted.at_ms.len(), CONTACTS_MAX);
        assert!(!contacted.is_stranger(ip(1 << 20), CONTACT_MS - 1));
        assert!(contacted.is_stranger(ip(1 << 20), CONTACT_MS));
        contacted.written(ip(1 << 21), CONTACT_MS);
        assert_eq!(contacted.at_ms.len(), 1);
    }
}
