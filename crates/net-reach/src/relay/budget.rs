//! What a relay gives away: bounds that carry real traffic, by profile.

/// Reservations of an infrastructure relay at once.
pub const RESERVATIONS_INFRA_MAX: usize = 2_000;
/// Reservations of a relay of the ordinary profile at once.
pub const RESERVATIONS_STANDARD_MAX: usize = 128;
/// Reservations of a relay at home at once: its router's NAT table is small.
pub const RESERVATIONS_HOME_MAX: usize = 16;
/// Connections of one peer that may hold a reservation each.
pub const RESERVATIONS_PER_PEER_MAX: usize = 4;
/// A reservation holds this long before it has to be renewed, milliseconds.
pub const RESERVATION_MS: u64 = 60 * 60 * 1_000;
/// Circuits through one relay for each reservation that it gives.
pub const CIRCUITS_PER_RESERVATION: usize = 4;
/// Circuits at once that begin or end at one peer.
pub const CIRCUITS_PER_PEER_MAX: usize = 256;
/// A circuit is cut after this long, milliseconds: longer than any job, short enough that a forgotten one ends.
pub const CIRCUIT_MS_MAX: u64 = 12 * 60 * 60 * 1_000;
/// A circuit is cut after so many bytes in both directions together.
pub const CIRCUIT_BYTES_MAX: u64 = 16 * 1_024 * 1_024 * 1_024;

/// How large a node is (NET-50).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum RelayProfile {
    /// A host whose work is to relay.
    Infra,
    /// A host that relays beside something else.
    #[default]
    Standard,
    /// A machine at home that can be reached.
    Home,
}

/// The bounds of one relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayBudget {
    /// Reservations at once.
    pub reservations_max: usize,
    /// Connections of one peer with a reservation each.
    pub reservations_per_peer_max: usize,
    /// How long a reservation holds, milliseconds.
    pub reservation_ms: u64,
    /// Circuits at once.
    pub circuits_max: usize,
    /// Circuits at once of one peer.
    pub circuits_per_peer_max: usize,
    /// How long a circuit may stand, milliseconds.
    pub circuit_ms_max: u64,
    /// How many bytes a circuit may carry.
    pub circuit_bytes_max: u64,
}

impl RelayBudget {
    /// The bounds of a profile.
    #[must_use]
    pub const fn of(profile: RelayProfile) -> Self {
        let reservations_max = match profile {
            RelayProfile::Infra => RESERVATIONS_INFRA_MAX,
            RelayProfile::Standard => RESERVATIONS_STANDARD_MAX,
            RelayProfile::Home => RESERVATIONS_HOME_MAX,
        };
        Self {
            reservations_max,
            reservations_per_peer_max: RESERVATIONS_PER_PEER_MAX,
            reservation_ms: RESERVATION_MS,
            circuits_max: reservations_max * CIRCUITS_PER_RESERVATION,
            circuits_per_peer_max: CIRCUITS_PER_PEER_MAX,
            circuit_ms_max: CIRCUIT_MS_MAX,
            circuit_bytes_max: CIRCUIT_BYTES_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-42
    #[test]
    fn every_profile_carries_hours_and_gibibytes_of_a_circuit() {
        for profile in [RelayProfile::Infra, RelayProfile::Standard, RelayProfile::Home] {
            let budget = RelayBudget::of(profile);
            assert!(budget.circuit_ms_max >= 60 * 60 * 1_000 && budget.circuit_bytes_max >= 1 << 30, "{profile:?}");
            assert!(budget.circuits_max >= budget.reservations_max && budget.reservations_max > 0, "{profile:?}");
            // The relay protocol counts a circuit's seconds in 32 bits.
            assert!(budget.circuit_ms_max / 1_000 <= u64::from(u32::MAX));
        }
        let of = |profile| RelayBudget::of(profile).reservations_max;
        assert!(of(RelayProfile::Infra) > of(RelayProfile::Standard));
        assert!(of(RelayProfile::Standard) > of(RelayProfile::Home));
    }
}
