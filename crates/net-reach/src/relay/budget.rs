//! What a relay gives away: bounds that carry real traffic, by profile and stake.

use super::places::kept_of;

/// Peers with a reservation at an infrastructure relay at once.
pub const RESERVATIONS_INFRA_MAX: usize = 2_000;
/// Peers with a reservation at a relay of the ordinary profile at once.
pub const RESERVATIONS_STANDARD_MAX: usize = 128;
/// Peers with a reservation at a relay at home at once: its router's NAT table is small.
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

/// A circuit of a peer with stake may stand so many times as long and carry so many times as much.
pub const STAKED_TIMES: u64 = 4;
/// Peers of one account that get a reservation on its stake; further ones are asked for as without stake.
pub const STAKED_RESERVATIONS_PER_ACCOUNT_MAX: usize = 4;

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

/// The bounds of one circuit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CircuitBudget {
    /// How long it may stand, milliseconds.
    pub ms_max: u64,
    /// How many bytes it may carry, in both directions together.
    pub bytes_max: u64,
}

/// The bounds of one relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayBudget {
    /// Peers with a reservation at once; a quarter of them is kept for peers with stake.
    pub reservations_max: usize,
    /// Connections of one peer with a reservation each.
    pub reservations_per_peer_max: usize,
    /// How long a reservation holds, milliseconds.
    pub reservation_ms: u64,
    /// Circuits at once; a quarter of them is kept for peers with stake.
    pub circuits_max: usize,
    /// Circuits at once of one peer.
    pub circuits_per_peer_max: usize,
    /// Circuits at once on the stake of one account.
    pub circuits_per_account_max: usize,
    /// A circuit between peers without stake.
    pub circuit: CircuitBudget,
    /// A circuit that begins or ends at a peer with stake.
    pub staked_circuit: CircuitBudget,
}

impl RelayBudget {
    /// The bounds of a profile.
    #[must_use]
    pub const fn of(profile: RelayProfile) -> Self {
        Self::sized(match profile {
            RelayProfile::Infra => RESERVATIONS_INFRA_MAX,
            RelayProfile::Standard => RESERVATIONS_STANDARD_MAX,
            RelayProfile::Home => RESERVATIONS_HOME_MAX,
        })
    }

    /// The bounds of a relay for so many peers.
    #[must_use]
    pub const fn sized(reservations_max: usize) -> Self {
        let circuits_max = reservations_max * CIRCUITS_PER_RESERVATION;
        let part = kept_of(circuits_max) / CIRCUITS_PER_RESERVATION;
        Self {
            reservations_max,
            reservations_per_peer_max: RESERVATIONS_PER_PEER_MAX,
            reservation_ms: RESERVATION_MS,
            circuits_max,
            circuits_per_peer_max: CIRCUITS_PER_PEER_MAX,
            circuits_per_account_max: if part == 0 { 1 } else { part },
            circuit: CircuitBudget { ms_max: CIRCUIT_MS_MAX, bytes_max: CIRCUIT_BYTES_MAX },
            staked_circuit: CircuitBudget {
                ms_max: CIRCUIT_MS_MAX * STAKED_TIMES,
                bytes_max: CIRCUIT_BYTES_MAX * STAKED_TIMES,
            },
        }
    }

    /// The bounds of a circuit, by whether a peer with stake is at one of its ends.
    #[must_use]
    pub const fn circuit_of(&self, staked: bool) -> CircuitBudget {
        if staked { self.staked_circuit } else { self.circuit }
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
            let (plain, staked) = (budget.circuit_of(false), budget.circuit_of(true));
            assert!(plain.ms_max >= 60 * 60 * 1_000 && plain.bytes_max >= 1 << 30, "{profile:?}");
            assert!(staked.ms_max > plain.ms_max && staked.bytes_max > plain.bytes_max, "{profile:?}");
            assert!((1..kept_of(budget.circuits_max)).contains(&budget.circuits_per_account_max), "{profile:?}");
            assert!(budget.circuits_max >= budget.reservations_max && budget.reservations_max > 0, "{profile:?}");
            // The relay protocol counts a circuit's seconds in 32 bits.
            assert!(staked.ms_max / 1_000 <= u64::from(u32::MAX));
        }
        let of = |profile| RelayBudget::of(profile).reservations_max;
        assert!(of(RelayProfile::Infra) > of(RelayProfile::Standard));
        assert!(of(RelayProfile::Standard) > of(RelayProfile::Home));
    }
}
