//! Whether the network under this machine is another one than before (NET-40, NET-45), told from the addresses from which it
//! would write to the Internet. Pure.
//!
//! Interfaces come and go without any meaning for the way in: a container starts, a temporary IPv6 address is replaced. What
//! has a meaning is the address that packets to the Internet leave with. That of IPv4 decides where there is one, because the
//! NAT that is judged stands before it; IPv6's decides where there is no other.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The addresses from which this machine would write to the Internet; none without a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    /// Over IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Over IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// What was seen at the last look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    last: Option<Sources>,
}

impl Surroundings {
    /// `true` if the network is another one than at the last look. The first look finds nothing to compare with.
    pub fn look(&mut self, now: Sources) -> bool {
        let Some(before) = self.last.replace(now) else { return false };
        if before.v4.is_some() || now.v4.is_some() { before.v4 != now.v4 } else { before.v6 != now.v6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(v4: Option<&str>, v6: Option<&str>) -> Sources {
        Sources { v4: v4.map(|text| text.parse().unwrap()), v6: v6.map(|text| text.parse().unwrap()) }
    }

    // row: NET-40, NET-45
    #[test]
    fn another_address_towards_the_internet_is_another_network_and_so_is_the_same_one_after_a_gap() {
        let mut seen = Surroundings::default();
        let home = of(Some("192.168.1.10"), None);
        assert!(!seen.look(home), "nothing to compare with");
        assert!(!seen.look(home));
        assert!(seen.look(of(Some("10.0.0.5"), None)));
        assert!(seen.look(of(None, None)), "gone");
        assert!(seen.look(of(Some("10.0.0.5"), None)), "back, and who knows where");
        assert!(!seen.look(of(Some("10.0.0.5"), None)));
    }

    // row: NET-40
    #[test]
    fn a_temporary_ipv6_address_that_is_replaced_means_nothing_beside_ipv4_and_everything_without() {
        let mut seen = Surroundings::default();
        seen.look(of(Some("192.168.1.10"), Some("2600::1")));
        assert!(!seen.look(of(Some("192.168.1.10"), Some("2600::2"))));
        assert!(seen.look(of(None, Some("2600::2"))), "IPv4 is gone");
        assert!(seen.look(of(None, Some("2600::3"))));
        assert!(!seen.look(of(None, Some("2600::3"))));
    }
}
